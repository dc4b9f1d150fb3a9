//! The upstream's response, and the gateway's own refusal.

use crate::abi::{self, Buffer, Map, Side};
use crate::callbacks::{Effect, answered, defer};
use crate::{Error, body, refused};
use policy::{RULE_HEADER, Refusal};

/// The response's status.
///
/// # Errors
/// If there is no status, or the status can't be parsed.
pub fn response_status() -> Result<u16, Error> {
    let status = response_header(":status")?.unwrap_or_default();
    let status = std::str::from_utf8(&status).ok().and_then(|status| status.parse().ok());
    status.ok_or(Error::Unreadable { call: "get_header_map_value" })
}

/// All headers of the response in order, `:status` included.
///
/// # Errors
/// If Envoy refuses.
pub fn response_headers() -> Result<Vec<(String, Vec<u8>)>, Error> {
    crate::pairs(Map::ResponseHeaders)
}

/// All trailers of the response in order.
///
/// # Errors
/// If Envoy refuses.
pub fn response_trailers() -> Result<Vec<(String, Vec<u8>)>, Error> {
    crate::pairs(Map::ResponseTrailers)
}

/// Removes every trailer of the response called `name`.
///
/// # Errors
/// If Envoy refuses.
pub fn remove_response_trailer(name: &str) -> Result<(), Error> {
    abi::remove(Map::ResponseTrailers, name).map_err(refused("remove_header_map_value"))
}

/// The value of the response's header `name`.
///
/// # Errors
/// If Envoy refuses.
pub fn response_header(name: &str) -> Result<Option<Vec<u8>>, Error> {
    abi::value(Map::ResponseHeaders, name).map_err(refused("get_header_map_value"))
}

/// Replaces every header of the response called `name` by one with `value`.
///
/// # Errors
/// If Envoy refuses.
pub fn set_response_header(name: &str, value: &[u8]) -> Result<(), Error> {
    abi::replace(Map::ResponseHeaders, name, value).map_err(refused("replace_header_map_value"))
}

/// Removes every header of the response called `name`.
///
/// # Errors
/// If Envoy refuses.
pub fn remove_response_header(name: &str) -> Result<(), Error> {
    abi::remove(Map::ResponseHeaders, name).map_err(refused("remove_header_map_value"))
}

/// `size` bytes of the response's body from `start` on, out of the bytes that the current callback received and the
/// bytes that wait before them.
///
/// # Errors
/// If there are fewer than `size` bytes.
pub fn response_body_part(start: usize, size: usize) -> Result<Vec<u8>, Error> {
    body(Buffer::ResponseBody, start, size)
}

/// Replaces the `size` bytes of the response's body that have arrived by `body`.
///
/// # Errors
/// If Envoy refuses.
pub fn set_response_body(size: usize, body: &[u8]) -> Result<(), Error> {
    abi::set_buffer(Buffer::ResponseBody, size, body).map_err(refused("set_buffer_bytes"))
}

/// Resumes a paused response when the callback has returned. The response of a request that is refused or reset in the
/// same callback is not resumed. If Envoy refuses to resume the response, the request is reset.
pub fn resume_response() {
    defer(Effect::Resume(Side::Response));
}

/// Sends `refusal` as the response when the callback has returned. The request is not sent upstream. May be called once
/// for each request; the callback has to return [`crate::Action::Pause`]. If Envoy refuses the response, the request is
/// reset.
pub fn refuse(refusal: &Refusal) {
    let wait = refusal.retry_after.map(|seconds| seconds.to_string());
    let mut headers = vec![("content-type", refusal.content_type), (RULE_HEADER, refusal.rule.name())];
    headers.extend(wait.as_deref().map(|seconds| ("retry-after", seconds)));
    match abi::send_local_response(refusal.status, &headers, &refusal.body) {
        Ok(()) => answered(),
        Err(status) => {
            let error = refused("send_local_response")(status);
            crate::log(
                crate::Level::Error,
                &format!("{}: the refusal can't be sent, so the request is reset: {error}", refusal.rule),
            );
            // Without a reset the request would stay paused forever.
            crate::reset_request();
        }
    }
}
