//! The only place that makes proxy-wasm hostcalls: Envoy's side of a filter as plain functions over bytes.
//!
//! It decides nothing and keeps no state; the filters' callbacks call it. Names and values are bytes wherever the
//! peer writes them, because the SDK's string getters panic on a byte above 0x7F.
//!
//! Every function returns what Envoy answered as a [`Result`], and a filter turns an [`Error`] into a refusal. For a
//! status that the proxy-wasm specification doesn't allow for a call, the SDK itself panics: that traps the VM, and
//! Envoy refuses the stream and starts the VM anew (`failure_policy: FAIL_RELOAD`). Both ways the request ends.

mod address;

use jiff::Timestamp;
use policy::{RULE_HEADER, Refusal};
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, LogLevel, MapType, Status};
use std::net::IpAddr;
use std::time::Duration;

/// A hostcall that Envoy didn't carry out. Never the client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Envoy answered with a status other than OK.
    #[error("Envoy answered {call} with {status:?}")]
    Refused {
        /// The hostcall.
        call: &'static str,
        /// Envoy's status.
        status: Status,
    },
    /// Envoy's answer can't be what it should be, for example a time out of range.
    #[error("BUG: Envoy's answer to {call} can't be read")]
    Unreadable {
        /// The hostcall.
        call: &'static str,
    },
}

fn refused(call: &'static str) -> impl Fn(Status) -> Error {
    move |status| Error::Refused { call, status }
}

/// How much a log line matters; see the house style for what `Warn` and `Error` mean to an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Of interest to whoever follows what happens.
    Info,
    /// An operator should look.
    Warn,
    /// We are broken.
    Error,
}

/// Writes `message` to Envoy's log. A line that can't be written is lost: there is nowhere else to tell it.
pub fn log(level: Level, message: &str) {
    let level = match level {
        Level::Info => LogLevel::Info,
        Level::Warn => LogLevel::Warn,
        Level::Error => LogLevel::Error,
    };
    let _lost = hostcalls::log(level, message);
}

/// The wall clock of Envoy's machine.
///
/// # Errors
/// [`Error::Unreadable`] for a time past the year 9999.
pub fn now() -> Result<Timestamp, Error> {
    let call = "get_current_time";
    let time = hostcalls::get_current_time().map_err(refused(call))?;
    Timestamp::try_from(time).map_err(|_| Error::Unreadable { call })
}

/// The filter's configuration, of `size` bytes.
///
/// # Errors
/// When there are other than `size` bytes.
pub fn configuration(size: usize) -> Result<Vec<u8>, Error> {
    let call = "get_buffer_bytes";
    let bytes = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size).map_err(refused(call))?;
    bytes.filter(|bytes| bytes.len() == size).ok_or(Error::Unreadable { call })
}

/// Which of a module's filters is to be the root context at hand, as the plugin's configuration names it.
///
/// # Errors
/// As Envoy answers, and when there is none.
pub fn root_id() -> Result<Vec<u8>, Error> {
    property(&["plugin_root_id"])?.ok_or(Error::Unreadable { call: "get_property" })
}

/// Calls `on_tick` of the current root context every `period`, first after one `period`.
///
/// # Errors
/// As Envoy answers.
pub fn set_tick_period(period: Duration) -> Result<(), Error> {
    hostcalls::set_tick_period(period).map_err(refused("set_tick_period"))
}

/// Lets the hostcalls that follow act for the context `id`, until this is called again or the callback returns.
///
/// # Errors
/// When that context is gone.
pub fn act_for(id: u32) -> Result<(), Error> {
    hostcalls::set_effective_context(id).map_err(refused("set_effective_context"))
}

// The request.

/// All headers of the request in order, pseudo-headers included; names as Envoy keeps them, in lower case.
///
/// # Errors
/// As Envoy answers.
pub fn request_headers() -> Result<Vec<(String, Vec<u8>)>, Error> {
    hostcalls::get_map_bytes(MapType::HttpRequestHeaders).map_err(refused("get_header_map_pairs"))
}

/// The value of the header `name`, as the filters and stages before have left it.
///
/// # Errors
/// As Envoy answers.
pub fn request_header(name: &str) -> Result<Option<Vec<u8>>, Error> {
    hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name).map_err(refused("get_header_map_value"))
}

/// Removes every header called `name`.
///
/// # Errors
/// As Envoy answers; not when there is no such header.
pub fn remove_request_header(name: &str) -> Result<(), Error> {
    hostcalls::remove_map_value(MapType::HttpRequestHeaders, name).map_err(refused("remove_header_map_value"))
}

/// Replaces every header called `name` by one with `value`.
///
/// # Errors
/// As Envoy answers.
pub fn set_request_header(name: &str, value: &[u8]) -> Result<(), Error> {
    hostcalls::set_map_value_bytes(MapType::HttpRequestHeaders, name, Some(value))
        .map_err(refused("replace_header_map_value"))
}

/// The `size` bytes of the request's body that the callback at hand was given, with those that wait before them.
///
/// # Errors
/// When there are other than `size` bytes.
pub fn request_body(size: usize) -> Result<Vec<u8>, Error> {
    request_body_part(0, size)
}

/// `size` bytes of the request's body from `start` on, of those that the callback at hand was given and those that wait
/// before them.
///
/// # Errors
/// When there are fewer.
pub fn request_body_part(start: usize, size: usize) -> Result<Vec<u8>, Error> {
    part(BufferType::HttpRequestBody, start, size)
}

/// The same of the answer's.
///
/// # Errors
/// When there are fewer.
pub fn response_body_part(start: usize, size: usize) -> Result<Vec<u8>, Error> {
    part(BufferType::HttpResponseBody, start, size)
}

fn part(buffer: BufferType, start: usize, size: usize) -> Result<Vec<u8>, Error> {
    let call = "get_buffer_bytes";
    if size == 0 {
        return Ok(Vec::new());
    }
    let bytes = hostcalls::get_buffer(buffer, start, size).map_err(refused(call))?.unwrap_or_default();
    if bytes.len() == size { Ok(bytes) } else { Err(Error::Unreadable { call }) }
}

/// Puts `body` in place of the `size` bytes of the request's body that have come.
///
/// # Errors
/// As Envoy answers.
pub fn set_request_body(size: usize, body: &[u8]) -> Result<(), Error> {
    hostcalls::set_buffer(BufferType::HttpRequestBody, 0, size, body).map_err(refused("set_buffer_bytes"))
}

/// Drops the `size` bytes of the request's body that the callback at hand was given, or that wait with them.
///
/// # Errors
/// As Envoy answers.
pub fn drop_request_body(size: usize) -> Result<(), Error> {
    hostcalls::set_buffer(BufferType::HttpRequestBody, 0, size, &[]).map_err(refused("set_buffer_bytes"))
}

/// Lets a paused request go on to the next filter, once the callback has returned.
///
/// # Errors
/// As Envoy answers.
pub fn resume_request() -> Result<(), Error> {
    hostcalls::resume_http_request().map_err(refused("continue_stream"))
}

/// Ends the request without an answer, once the callback has returned.
///
/// # Errors
/// As Envoy answers.
pub fn reset_request() -> Result<(), Error> {
    hostcalls::reset_http_request().map_err(refused("close_stream"))
}

// The upstream's answer.

/// Its status.
///
/// # Errors
/// When it can't be read.
pub fn response_status() -> Result<u16, Error> {
    let status = response_header(":status")?.unwrap_or_default();
    let status = std::str::from_utf8(&status).ok().and_then(|status| status.parse().ok());
    status.ok_or(Error::Unreadable { call: "get_header_map_value" })
}

/// All of its headers in order, `:status` included.
///
/// # Errors
/// As Envoy answers.
pub fn response_headers() -> Result<Vec<(String, Vec<u8>)>, Error> {
    hostcalls::get_map_bytes(MapType::HttpResponseHeaders).map_err(refused("get_header_map_pairs"))
}

/// All of its trailers in order.
///
/// # Errors
/// As Envoy answers.
pub fn response_trailers() -> Result<Vec<(String, Vec<u8>)>, Error> {
    hostcalls::get_map_bytes(MapType::HttpResponseTrailers).map_err(refused("get_header_map_pairs"))
}

/// Removes every trailer of it called `name`.
///
/// # Errors
/// As Envoy answers.
pub fn remove_response_trailer(name: &str) -> Result<(), Error> {
    hostcalls::remove_map_value(MapType::HttpResponseTrailers, name).map_err(refused("remove_header_map_value"))
}

/// The value of its header `name`.
///
/// # Errors
/// As Envoy answers.
pub fn response_header(name: &str) -> Result<Option<Vec<u8>>, Error> {
    hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, name).map_err(refused("get_header_map_value"))
}

/// Removes every header of it called `name`.
///
/// # Errors
/// As Envoy answers.
pub fn remove_response_header(name: &str) -> Result<(), Error> {
    hostcalls::remove_map_value(MapType::HttpResponseHeaders, name).map_err(refused("remove_header_map_value"))
}

/// Puts `body` in place of the `size` bytes of it that have come.
///
/// # Errors
/// As Envoy answers.
pub fn set_response_body(size: usize, body: &[u8]) -> Result<(), Error> {
    hostcalls::set_buffer(BufferType::HttpResponseBody, 0, size, body).map_err(refused("set_buffer_bytes"))
}

/// Lets a paused answer go on, once the callback has returned.
///
/// # Errors
/// As Envoy answers.
pub fn resume_response() -> Result<(), Error> {
    hostcalls::resume_http_response().map_err(refused("continue_stream"))
}

/// Answers the request with `refusal` once the callback has returned, and sends nothing of it upstream. At most once for
/// each request; the callback has to return `Action::Pause`. If Envoy does not take the answer, the request is reset.
pub fn refuse(refusal: &Refusal) {
    let headers = vec![("content-type", refusal.content_type), (RULE_HEADER, refusal.rule.name())];
    let answered = hostcalls::send_http_response(u32::from(refusal.status), headers, Some(&refusal.body))
        .map_err(refused("send_local_response"));
    if let Err(error) = answered {
        log(Level::Error, &format!("{}: a refusal without its answer: {error}", refusal.rule));
        // Without a reset the request stays paused for good.
        let _ended = reset_request();
    }
}

// Properties: what Envoy knows of a request, and what an earlier filter noted about it.

/// Where what the audit says of a request lies, for the stages and for the access log: filter state
/// `wasm.sallyport.audit`.
pub const AUDIT: [&str; 1] = ["sallyport.audit"];

/// Where the identity filter leaves the record by which a request to one of GitHub's hosts has passed.
pub const CONTAINER: [&str; 1] = ["sallyport.container"];

/// The property at `path`, as Envoy serialises it: text as its bytes, numbers as 8 bytes little-endian. `None` when
/// there is none.
///
/// # Errors
/// As Envoy answers.
pub fn property(path: &[&str]) -> Result<Option<Vec<u8>>, Error> {
    hostcalls::get_property(path.to_vec()).map_err(refused("get_property"))
}

/// Notes `value` under `path` for later filters and for the access log (filter state `wasm.<path joined by dots>`).
/// A client can't reach it.
///
/// # Errors
/// As Envoy answers.
pub fn set_property(path: &[&str], value: &[u8]) -> Result<(), Error> {
    hostcalls::set_property(path.to_vec(), Some(value)).map_err(refused("set_property"))
}

/// Notes on the request at hand that the filter has panicked over it, under `sallyport.panic`: filter state
/// `wasm.sallyport.panic`. Other requests that the VM takes down with it have no such note.
///
/// # Errors
/// As Envoy answers, for example when the panic came over no request.
fn note_panic() -> Result<(), Error> {
    set_property(&["sallyport.panic"], b"1")
}

/// Makes every panic note itself on the request over which it happens, beside its message in Envoy's log. The control
/// plane blocks whoever makes a filter panic again and again.
pub fn note_panics() {
    let message = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        message(info);
        let _no_request = note_panic();
    }));
}

/// The peer's IP address. `None` when Envoy doesn't know one, or the peer has none, as on a Unix socket.
///
/// # Errors
/// As Envoy answers.
pub fn source_ip() -> Result<Option<IpAddr>, Error> {
    Ok(property(&["source", "address"])?.and_then(|text| address::ip_of(&text)))
}

/// The name in the client's TLS handshake, empty when the handshake had none. `None` where the client speaks plain
/// HTTP.
///
/// # Errors
/// As Envoy answers.
pub fn requested_server_name() -> Result<Option<Vec<u8>>, Error> {
    let name = property(&["connection", "requested_server_name"])?.unwrap_or_default();
    // Plain HTTP may name any host, TLS only the one of its handshake: without a name they have to be told apart.
    if name.is_empty() && property(&["connection", "tls_version"])?.is_none_or(|version| version.is_empty()) {
        return Ok(None);
    }
    Ok(Some(name))
}

/// Which way the traffic of a listener flows, as its configuration says (`traffic_direction`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Not told, or not known.
    Unspecified,
    /// `INBOUND`.
    Inbound,
    /// `OUTBOUND`.
    Outbound,
}

/// The direction of the listener that this request came in on.
///
/// # Errors
/// As Envoy answers.
pub fn listener_direction() -> Result<Direction, Error> {
    // envoy.config.core.v3.TrafficDirection.
    Ok(match property(&["xds", "listener_direction"])?.as_deref() {
        Some([1, 0, 0, 0, 0, 0, 0, 0]) => Direction::Inbound,
        Some([2, 0, 0, 0, 0, 0, 0, 0]) => Direction::Outbound,
        _ => Direction::Unspecified,
    })
}

// gRPC, to a cluster of Envoy's own configuration.

/// A method of a gRPC service behind one of Envoy's clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method<'a> {
    /// The cluster's name.
    pub cluster: &'a str,
    /// The service with its package, for example `sallyport.registry.v1.Registry`.
    pub service: &'a str,
    /// The method.
    pub name: &'a str,
}

/// Opens a stream and returns its token. Its messages and its end come to the SDK context whose callback is running.
///
/// # Errors
/// When there is no such cluster, or Envoy can't open a stream to it now.
pub fn open_stream(method: Method<'_>) -> Result<u32, Error> {
    hostcalls::open_grpc_stream(method.cluster, method.service, method.name, vec![]).map_err(refused("grpc_stream"))
}

/// Sends `message` on a stream and leaves the stream open.
///
/// # Errors
/// When the stream is gone.
pub fn send_message(stream: u32, message: &[u8]) -> Result<(), Error> {
    hostcalls::send_grpc_stream_message(stream, Some(message), false).map_err(refused("grpc_send"))
}

/// Ends a stream at once. No callback tells of its end.
///
/// # Errors
/// When the stream is gone.
pub fn cancel_stream(stream: u32) -> Result<(), Error> {
    hostcalls::cancel_grpc_stream(stream).map_err(refused("grpc_cancel"))
}

/// Makes a unary call and returns its token. The answer comes to `on_grpc_call_response` of the SDK context whose
/// callback is running, if that still exists by then; the call itself belongs to the context of [`act_for`].
///
/// # Errors
/// When there is no such cluster, or Envoy can't call it now.
pub fn call(method: Method<'_>, message: &[u8], timeout: Duration) -> Result<u32, Error> {
    hostcalls::dispatch_grpc_call(method.cluster, method.service, method.name, vec![], Some(message), timeout)
        .map_err(refused("grpc_call"))
}

/// The `size` bytes of the message that a gRPC callback tells of. They lie with the context that the call or the
/// stream belongs to; see [`act_for`].
///
/// # Errors
/// When there are other than `size` bytes.
pub fn grpc_message(size: usize) -> Result<Vec<u8>, Error> {
    let call = "get_buffer_bytes";
    // A message whose fields all have their default is empty, and Envoy has no buffer for it.
    let message =
        hostcalls::get_buffer(BufferType::GrpcReceiveBuffer, 0, size).map_err(refused(call))?.unwrap_or_default();
    if message.len() == size { Ok(message) } else { Err(Error::Unreadable { call }) }
}
