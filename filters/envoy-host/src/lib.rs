//! The only place that makes proxy-wasm hostcalls: Envoy's side of a filter as plain functions over bytes.
//!
//! The crate makes no access decision. Names and values that a peer writes are bytes.
//!
//! - [`callbacks`]: what a filter implements ([`RootCallbacks`], [`StreamCallbacks`]), and how a resume is applied.
//! - [`request`], [`response`], [`property`], [`grpc`], [`shared`]: what a filter calls.
//! - [`flow`]: how a step of a [`policy::flow`] is carried out.
//! - [`abi`]: the ABI's functions.
//!
//! Every function returns Envoy's status as a [`Result`], and a filter turns an [`Error`] into a refusal. No status of
//! Envoy's causes a panic.

mod abi;
mod address;
mod callbacks;
mod flow;
mod grpc;
mod property;
mod request;
mod response;
mod shared;

pub use abi::Status;
pub use callbacks::{
    Action, ConnectionCallbacks, Kind, MAX_EFFECTS, NewRoot, RootCallbacks, StreamCallbacks, shared_by_roots, start,
};
pub use flow::{carry_out, request_head};
pub use grpc::{Method, call, cancel_stream, grpc_message, open_stream, send_message};
pub use property::{
    AUDIT, CONTAINER, Direction, connection_id, listener_direction, property, requested_server_name, root_id,
    set_property, source_ip,
};
pub use request::{
    drop_request_body, remove_request_header, remove_request_trailer, request_body, request_body_part, request_header,
    request_headers, request_trailers, reset_request, resume_request, set_request_body, set_request_header,
};
pub use response::{
    refuse, remove_response_header, remove_response_trailer, response_body_part, response_header, response_headers,
    response_status, response_trailers, resume_response, set_response_body, set_response_header,
};
pub use shared::{Shared, close_connection, create_shared_data, replace_shared_data, resume_connection, shared_data};

use abi::{Buffer, Map};
use jiff::Timestamp;
use std::sync::Once;
use std::time::Duration;

/// A hostcall that Envoy didn't carry out. Never the client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Envoy returned a status other than OK.
    #[error("Envoy returned {status:?} from {call}")]
    Refused {
        /// The hostcall.
        call: &'static str,
        /// Envoy's status.
        status: Status,
    },
    /// Envoy returned an invalid value, for example a time out of range.
    #[error("BUG: Envoy returned an invalid value from {call}")]
    Unreadable {
        /// The hostcall.
        call: &'static str,
    },
}

fn refused(call: &'static str) -> impl Fn(Status) -> Error {
    move |status| Error::Refused { call, status }
}

fn body(buffer: Buffer, start: usize, size: usize) -> Result<Vec<u8>, Error> {
    let call = "get_buffer_bytes";
    // A message whose fields all have their default is empty, and Envoy has no buffer for it.
    if size == 0 {
        return Ok(Vec::new());
    }
    let bytes = abi::buffer(buffer, start, size).map_err(refused(call))?;
    if bytes.len() == size { Ok(bytes) } else { Err(Error::Unreadable { call }) }
}

fn pairs(map: Map) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let call = "get_header_map_pairs";
    abi::pairs(map).map_err(refused(call))?.ok_or(Error::Unreadable { call })
}

/// The level of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// An event in normal operation.
    Info,
    /// An operator should investigate.
    Warn,
    /// The gateway itself fails.
    Error,
}

/// Writes `message` to Envoy's log. A line that can't be written is lost, because there is no other log.
pub fn log(level: Level, message: &str) {
    let level = match level {
        Level::Info => 2,
        Level::Warn => 3,
        Level::Error => 4,
    };
    let _lost = abi::log(level, message);
}

/// Makes every panic write its message to Envoy's log and a note to the request that caused it: filter state
/// `wasm.sallyport.panic`, with the filter and its callback. Other requests, which end together with the VM, have no such note. The control plane blocks
/// a container whose requests make a filter panic again and again.
fn note_panics() {
    const CRITICAL: u32 = 5;
    static NOTED: Once = Once::new();
    NOTED.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let filter = abi::property(&["plugin_root_id"]).ok().flatten().unwrap_or_default();
            let place = format!("{} {}", String::from_utf8_lossy(&filter), callbacks::running());
            let _lost = abi::log(CRITICAL, &format!("{place}: {info}"));
            let _no_request = abi::set_property(&["sallyport.panic"], place.as_bytes());
        }));
    });
}

/// The wall clock of Envoy's machine.
///
/// # Errors
/// [`Error::Unreadable`] if the time is past the year 9999.
pub fn now() -> Result<Timestamp, Error> {
    let call = "get_current_time";
    let time = abi::current_time().map_err(refused(call))?;
    Timestamp::from_nanosecond(time.into()).map_err(|_| Error::Unreadable { call })
}

/// The filter's configuration, of `size` bytes.
///
/// # Errors
/// If the configuration doesn't have exactly `size` bytes.
pub fn configuration(size: usize) -> Result<Vec<u8>, Error> {
    body(Buffer::PluginConfiguration, 0, size)
}

/// Calls `on_tick` of the current root context every `period`, first after one `period`. A period has whole
/// milliseconds.
///
/// # Errors
/// If Envoy refuses, or `period` is longer than 49 days.
pub fn set_tick_period(period: Duration) -> Result<(), Error> {
    let call = "set_tick_period";
    let milliseconds = u32::try_from(period.as_millis()).map_err(|_| Error::Unreadable { call })?;
    abi::set_tick_period(milliseconds).map_err(refused(call))
}

/// Makes the later hostcalls act for the context `id`, until the next call of this function or the end of the callback.
///
/// # Errors
/// If that context has ended.
pub fn act_for(id: u32) -> Result<(), Error> {
    abi::set_effective_context(id).map_err(refused("set_effective_context"))?;
    callbacks::acting(id);
    Ok(())
}
