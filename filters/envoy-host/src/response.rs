//! The upstream's response, and the one that the gateway gives itself.

use crate::abi::{self, Buffer, Map, Side};
use crate::callbacks::{Effect, answered, defer};
use crate::{Error, body, refused};
use policy::{RULE_HEADER, Refusal};

/// The response's status.
///
/// # Errors
/// When it can't be read.
pub fn response_status() -> Result<u16, Error> {
    let status = response_header(":status")?.unwrap_or_default();
    let status = std::str::from_utf8(&status).ok().and_then(|status| status.parse().ok());
    status.ok_or(Error::Unreadable { call: "get_header_map_value" })
}

/// All headers of the response in order, `:status` included.
///
/// # Errors
/// As Envoy answers.
pub fn response_headers() -> Result<Vec<(String, Vec<u8>)>, Error> {
    crate::pairs(Map::ResponseHeaders)
}

/// All trailers of the response in order.
///
/// # Errors
/// As Envoy answers.
pub fn response_trailers() -> Result<Vec<(String, Vec<u8>)>, Error> {
    crate::pairs(Map::ResponseTrailers)
}

/// Removes every trailer of the response called `name`.
///
/// # Errors
/// As Envoy answers.
pub fn remove_response_trailer(name: &str) -> Result<(), Error> {
    abi::remove(Map::ResponseTrailers, name).map_err(refused("remove_header_map_value"))
}

/// The value of the response's header `name`.
///
/// # Errors
/// As Envoy answers.
pub fn response_header(name: &str) -> Result<Option<Vec<u8>>, Error> {
    abi::value(Map::ResponseHeaders, name).map_err(refused("get_header_map_value"))
}

/// Removes every header of the response called `name`.
///
/// # Errors
/// As Envoy answers.
pub fn remove_response_header(name: &str) -> Result<(), Error> {
    abi::remove(Map::ResponseHeaders, name).map_err(refused("remove_header_map_value"))
}

/// `size` bytes of the response's body from `start` on, of those that the callback at hand was given and those that wait
/// before them.
///
/// # Errors
/// When there are fewer.
pub fn response_body_part(start: usize, size: usize) -> Result<Vec<u8>, Error> {
    body(Buffer::ResponseBody, start, size)
}

/// Puts `body` in place of the `size` bytes of the response's body that have come.
///
/// # Errors
/// As Envoy answers.
pub fn set_response_body(size: usize, body: &[u8]) -> Result<(), Error> {
    abi::set_buffer(Buffer::ResponseBody, size, body).map_err(refused("set_buffer_bytes"))
}

/// Lets a paused response go on when the callback has returned. The response of a request that is answered or reset in
/// the same callback stays. Where Envoy refuses to resume, the request is reset.
pub fn resume_response() {
    defer(Effect::Resume(Side::Response));
}

/// Answers the request with `refusal` when the callback has returned, and sends nothing of it upstream. At most once for
/// each request; the callback has to return [`crate::Action::Pause`]. Where Envoy does not take the answer, the request is
/// reset.
pub fn refuse(refusal: &Refusal) {
    let headers = [("content-type", refusal.content_type), (RULE_HEADER, refusal.rule.name())];
    match abi::send_local_response(refusal.status, &headers, &refusal.body) {
        Ok(()) => answered(),
        Err(status) => {
            let error = refused("send_local_response")(status);
            crate::log(crate::Level::Error, &format!("{}: a refusal without its answer: {error}", refusal.rule));
            // Without a reset the request stays paused for good.
            crate::reset_request();
        }
    }
}
