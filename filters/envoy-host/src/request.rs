//! The request: its headers, its body, and whether it goes on.

use crate::abi::{self, Buffer, Map, Side};
use crate::callbacks::{Effect, defer};
use crate::{Error, body, refused};

/// All headers of the request in order, pseudo-headers included; names as Envoy keeps them, in lower case.
///
/// # Errors
/// As Envoy answers.
pub fn request_headers() -> Result<Vec<(String, Vec<u8>)>, Error> {
    crate::pairs(Map::RequestHeaders)
}

/// The value of the header `name`, as the filters and stages before have left it.
///
/// # Errors
/// As Envoy answers.
pub fn request_header(name: &str) -> Result<Option<Vec<u8>>, Error> {
    abi::value(Map::RequestHeaders, name).map_err(refused("get_header_map_value"))
}

/// Removes every header called `name`.
///
/// # Errors
/// As Envoy answers; not when there is no such header.
pub fn remove_request_header(name: &str) -> Result<(), Error> {
    abi::remove(Map::RequestHeaders, name).map_err(refused("remove_header_map_value"))
}

/// Replaces every header called `name` by one with `value`.
///
/// # Errors
/// As Envoy answers.
pub fn set_request_header(name: &str, value: &[u8]) -> Result<(), Error> {
    abi::replace(Map::RequestHeaders, name, value).map_err(refused("replace_header_map_value"))
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
    body(Buffer::RequestBody, start, size)
}

/// Puts `body` in place of the `size` bytes of the request's body that have come.
///
/// # Errors
/// As Envoy answers.
pub fn set_request_body(size: usize, body: &[u8]) -> Result<(), Error> {
    abi::set_buffer(Buffer::RequestBody, size, body).map_err(refused("set_buffer_bytes"))
}

/// Drops the `size` bytes of the request's body that the callback at hand was given, or that wait with them.
///
/// # Errors
/// As Envoy answers.
pub fn drop_request_body(size: usize) -> Result<(), Error> {
    set_request_body(size, &[])
}

/// Lets a paused request go on to the next filter when the callback has returned. A request that is answered or reset
/// in the same callback stays. Where Envoy refuses to resume, the request is reset.
pub fn resume_request() {
    defer(Effect::Resume(Side::Request));
}

/// Ends the request without an answer when the callback has returned.
pub fn reset_request() {
    defer(Effect::Reset);
}
