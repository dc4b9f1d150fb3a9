//! The request: its headers, its body, its resume and its reset.

use crate::abi::{self, Buffer, Map, Side};
use crate::callbacks::{Effect, defer};
use crate::{Error, body, refused};

/// All headers of the request in order, pseudo-headers included; names as Envoy keeps them, in lower case.
///
/// # Errors
/// If Envoy refuses.
pub fn request_headers() -> Result<Vec<(String, Vec<u8>)>, Error> {
    crate::pairs(Map::RequestHeaders)
}

/// The value of the header `name`, as the earlier filters and stages have left it.
///
/// # Errors
/// If Envoy refuses.
pub fn request_header(name: &str) -> Result<Option<Vec<u8>>, Error> {
    abi::value(Map::RequestHeaders, name).map_err(refused("get_header_map_value"))
}

/// Removes every header called `name`.
///
/// # Errors
/// If Envoy refuses. A missing header is no error.
pub fn remove_request_header(name: &str) -> Result<(), Error> {
    abi::remove(Map::RequestHeaders, name).map_err(refused("remove_header_map_value"))
}

/// Replaces every header called `name` by one with `value`.
///
/// # Errors
/// If Envoy refuses.
pub fn set_request_header(name: &str, value: &[u8]) -> Result<(), Error> {
    abi::replace(Map::RequestHeaders, name, value).map_err(refused("replace_header_map_value"))
}

/// All trailers of the request in order.
///
/// # Errors
/// If Envoy refuses.
pub fn request_trailers() -> Result<Vec<(String, Vec<u8>)>, Error> {
    crate::pairs(Map::RequestTrailers)
}

/// Removes every trailer of the request called `name`.
///
/// # Errors
/// If Envoy refuses. A missing trailer is no error.
pub fn remove_request_trailer(name: &str) -> Result<(), Error> {
    abi::remove(Map::RequestTrailers, name).map_err(refused("remove_header_map_value"))
}

/// The `size` bytes of the request's body that the current callback received, including the bytes that wait before
/// them.
///
/// # Errors
/// If the body doesn't have exactly `size` bytes.
pub fn request_body(size: usize) -> Result<Vec<u8>, Error> {
    request_body_part(0, size)
}

/// `size` bytes of the request's body from `start` on, out of the bytes that the current callback received and the
/// bytes that wait before them.
///
/// # Errors
/// If there are fewer than `size` bytes.
pub fn request_body_part(start: usize, size: usize) -> Result<Vec<u8>, Error> {
    body(Buffer::RequestBody, start, size)
}

/// Replaces the `size` bytes of the request's body that have arrived by `body`.
///
/// # Errors
/// If Envoy refuses.
pub fn set_request_body(size: usize, body: &[u8]) -> Result<(), Error> {
    abi::set_buffer(Buffer::RequestBody, size, body).map_err(refused("set_buffer_bytes"))
}

/// Drops the `size` bytes of the request's body that the current callback received, including the bytes that wait.
///
/// # Errors
/// If Envoy refuses.
pub fn drop_request_body(size: usize) -> Result<(), Error> {
    set_request_body(size, &[])
}

/// Resumes a paused request when the callback has returned. A request that is refused or reset in the same callback is
/// not resumed. If Envoy refuses to resume the request, the request is reset.
pub fn resume_request() {
    defer(Effect::Resume(Side::Request));
}

/// Resets the request, without a response, when the callback has returned.
pub fn reset_request() {
    defer(Effect::Reset);
}
