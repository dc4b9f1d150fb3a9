//! The two calls to the control plane's registry: the stream that feeds the worker's memory, and the lookup of one
//! address. Hostcalls only. No decision is made here.

use crate::memory::{LookupResult, Unusable, address_bytes};
use crate::worker::{PATIENCE, Worker};
use envoy_host::{self as host, Level, Method};
use prost::Message;
use registry_proto::{LookupRequest, LookupResponse, WatchRequest, WatchResponse};
use std::cell::RefCell;
use std::net::IpAddr;

const WATCH: Method<'_> = Method { cluster: "control-plane", service: "sallyport.registry.v1.Registry", name: "Watch" };
const LOOKUP: Method<'_> = Method { name: "Lookup", ..WATCH };

/// Why a message of the stream wasn't applied, or wasn't acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// A hostcall has failed.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// The message is not of the expected type.
    #[error("a message can't be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
    /// The memory doesn't accept the message.
    #[error(transparent)]
    Unusable(#[from] Unusable),
}

/// Opens the stream, and returns its token.
///
/// # Errors
/// If Envoy can't open the stream now.
pub fn open() -> Result<u32, host::Error> {
    let token = host::open_stream(WATCH)?;
    host::send_message(token, &WatchRequest { applied: 0 }.encode_to_vec())?;
    Ok(token)
}

/// Applies a message of `size` bytes of the stream `token`, and acknowledges the message.
///
/// # Errors
/// If a hostcall fails, or the message can't be applied.
pub fn receive(worker: &RefCell<Worker>, token: u32, size: usize) -> Result<(), ReceiveError> {
    let message = WatchResponse::decode(host::grpc_message(size)?.as_slice())?;
    let (version, snapshot) = (message.version, message.snapshot);
    let unreadable = worker.borrow_mut().memory.apply(message)?;
    for problem in unreadable {
        host::log(Level::Error, &format!("identity: {problem}"));
    }
    if snapshot {
        let containers = worker.borrow().memory.len();
        host::log(Level::Info, &format!("identity: {containers} containers, at version {version}"));
    }
    host::send_message(token, &WatchRequest { applied: version }.encode_to_vec())?;
    Ok(())
}

/// Looks up `source` in the registry, for the request whose callback is running.
///
/// # Errors
/// If Envoy can't make the call.
pub fn look_up(source: IpAddr) -> Result<(), host::Error> {
    let request = LookupRequest { address: address_bytes(source) }.encode_to_vec();
    host::call(LOOKUP, &request, PATIENCE).map(|_token| ())
}

/// The registry's response to the lookup of `source`.
///
/// # Errors
/// If the call or a hostcall has failed, or the response is invalid.
pub fn response(source: IpAddr, status: u32, size: usize) -> Result<LookupResult, String> {
    if status != 0 {
        return Err(format!("gRPC status {status}"));
    }
    let message = host::grpc_message(size).map_err(|error| error.to_string())?;
    let response = LookupResponse::decode(message.as_slice()).map_err(|error| error.to_string())?;
    LookupResult::read(source, &response)
}
