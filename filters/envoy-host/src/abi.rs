//! The functions of the proxy-wasm ABI 0.2.1 that Envoy implements, as safe functions over bytes. Every status other
//! than OK is a value. The SDK's own wrappers panic on each status that they don't expect.
//!
//! The only `unsafe` code of the filters. The rest of the crate calls these functions.

#![expect(unsafe_code, reason = "the ABI passes pointers")]

use std::fmt;
use std::ptr::{null, null_mut};

/// A status other than OK that a hostcall returns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Status(u32);

impl Status {
    const OK: u32 = 0;
    /// The key, property, buffer or call doesn't exist.
    pub const NOT_FOUND: Self = Self(1);
    /// An argument is out of range, or the context has no such map or buffer now.
    pub const BAD_ARGUMENT: Self = Self(2);
    /// The shared value has another version by now.
    pub const CAS_MISMATCH: Self = Self(8);

    /// The name in the specification of the ABI.
    fn name(self) -> &'static str {
        match self.0 {
            1 => "NotFound",
            2 => "BadArgument",
            3 => "SerializationFailure",
            4 => "ParseFailure",
            5 => "BadExpression",
            6 => "InvalidMemoryAccess",
            7 => "Empty",
            8 => "CasMismatch",
            9 => "ResultMismatch",
            10 => "InternalFailure",
            11 => "BrokenConnection",
            12 => "Unimplemented",
            _ => "an unknown status",
        }
    }

    fn check(status: u32) -> Result<(), Self> {
        if status == Self::OK { Ok(()) } else { Err(Self(status)) }
    }
}

impl From<proxy_wasm::types::Status> for Status {
    fn from(status: proxy_wasm::types::Status) -> Self {
        Self(status as u32)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.name(), self.0)
    }
}

/// Headers or trailers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Map {
    RequestHeaders = 0,
    RequestTrailers = 1,
    ResponseHeaders = 2,
    ResponseTrailers = 3,
}

/// A body, or other bytes that Envoy holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Buffer {
    RequestBody = 0,
    ResponseBody = 1,
    GrpcMessage = 5,
    PluginConfiguration = 7,
}

/// A direction of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub(crate) enum Side {
    Request = 0,
    Response = 1,
}

/// Names and values, in order.
pub(crate) type Pairs = Vec<(String, Vec<u8>)>;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, message: *const u8, size: usize) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_get_buffer_bytes(buffer: u32, start: usize, most: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_set_buffer_bytes(buffer: u32, start: usize, replaced: usize, data: *const u8, size: usize) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, name: *const u8, name_size: usize) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_get_property(path: *const u8, path_size: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_set_property(path: *const u8, path_size: usize, value: *const u8, value_size: usize) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
        version: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(key: *const u8, key_size: usize, value: *const u8, value_size: usize, version: u32)
    -> u32;
    fn proxy_continue_stream(side: u32) -> u32;
    fn proxy_close_stream(side: u32) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_grpc_send(token: u32, message: *const u8, size: usize, end: bool) -> u32;
    fn proxy_grpc_cancel(token: u32) -> u32;
    fn proxy_set_effective_context(context: u32) -> u32;
}

/// Writes to Envoy's log; `level` is 2 for info, 3 for warn, 4 for error, 5 for critical.
pub(crate) fn log(level: u32, message: &str) -> Result<(), Status> {
    // SAFETY: the pointer and the length are of one slice, which lives through the call.
    Status::check(unsafe { proxy_log(level, message.as_ptr(), message.len()) })
}

/// Nanoseconds since 1970.
pub(crate) fn current_time() -> Result<u64, Status> {
    let mut time = 0;
    // SAFETY: Envoy writes one u64 to a valid place.
    Status::check(unsafe { proxy_get_current_time_nanoseconds(&raw mut time) })?;
    Ok(time)
}

pub(crate) fn set_tick_period(milliseconds: u32) -> Result<(), Status> {
    // SAFETY: no pointer is passed.
    Status::check(unsafe { proxy_set_tick_period_milliseconds(milliseconds) })
}

/// At most `most` bytes of `buffer` from `start` on. Empty if the context doesn't have the buffer.
pub(crate) fn buffer(buffer: Buffer, start: usize, most: usize) -> Result<Vec<u8>, Status> {
    // SAFETY: Envoy writes to both places, or to none.
    let bytes = unsafe { taken(|data, size| proxy_get_buffer_bytes(buffer as u32, start, most, data, size)) };
    match bytes {
        Err(Status::NOT_FOUND) => Ok(Vec::new()),
        bytes => Ok(bytes?.unwrap_or_default()),
    }
}

/// Replaces the first `replaced` bytes of `buffer` by `bytes`.
pub(crate) fn set_buffer(buffer: Buffer, replaced: usize, bytes: &[u8]) -> Result<(), Status> {
    // SAFETY: the pointer and the length are of one slice, which lives through the call.
    Status::check(unsafe { proxy_set_buffer_bytes(buffer as u32, 0, replaced, bytes.as_ptr(), bytes.len()) })
}

/// All of `map`. Returns `Ok(None)` if Envoy's bytes can't be parsed.
pub(crate) fn pairs(map: Map) -> Result<Option<Pairs>, Status> {
    // SAFETY: Envoy writes to both places, or to none.
    let bytes = unsafe { taken(|data, size| proxy_get_header_map_pairs(map as u32, data, size)) }?;
    Ok(deserialized(&bytes.unwrap_or_default()))
}

/// The first value of `name` in `map`.
pub(crate) fn value(map: Map, name: &str) -> Result<Option<Vec<u8>>, Status> {
    // SAFETY: the name is one slice, which lives through the call; Envoy writes to both places, or to none.
    let bytes =
        unsafe { taken(|data, size| proxy_get_header_map_value(map as u32, name.as_ptr(), name.len(), data, size)) };
    match bytes {
        Err(Status::NOT_FOUND) => Ok(None),
        bytes => Ok(Some(bytes?.unwrap_or_default())),
    }
}

/// Removes every `name` from `map`.
pub(crate) fn remove(map: Map, name: &str) -> Result<(), Status> {
    // SAFETY: the pointer and the length are of one slice, which lives through the call.
    Status::check(unsafe { proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len()) })
}

/// Makes `value` the only one of `name` in `map`.
pub(crate) fn replace(map: Map, name: &str, value: &[u8]) -> Result<(), Status> {
    let (name, value) = (name.as_bytes(), value);
    // SAFETY: each pointer and its length are of one slice, which lives through the call.
    Status::check(unsafe {
        proxy_replace_header_map_value(map as u32, name.as_ptr(), name.len(), value.as_ptr(), value.len())
    })
}

/// The property at `path`. Returns `None` if the property doesn't exist or is empty.
pub(crate) fn property(path: &[&str]) -> Result<Option<Vec<u8>>, Status> {
    let path = path.join("\0");
    // SAFETY: the path is one slice, which lives through the call; Envoy writes to both places, or to none.
    let bytes = unsafe { taken(|data, size| proxy_get_property(path.as_ptr(), path.len(), data, size)) };
    match bytes {
        Err(Status::NOT_FOUND) => Ok(None),
        bytes => bytes,
    }
}

pub(crate) fn set_property(path: &[&str], value: &[u8]) -> Result<(), Status> {
    let path = path.join("\0");
    // SAFETY: each pointer and its length are of one slice, which lives through the call.
    Status::check(unsafe { proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) })
}

/// The value under `key` and its version. Returns `None` if there is no value.
pub(crate) fn shared_data(key: &str) -> Result<Option<(Vec<u8>, u32)>, Status> {
    let mut version = 0;
    // SAFETY: the key is one slice, which lives through the call; Envoy writes to all three places, or to none.
    let bytes =
        unsafe { taken(|data, size| proxy_get_shared_data(key.as_ptr(), key.len(), data, size, &raw mut version)) };
    match bytes {
        Err(Status::NOT_FOUND) => Ok(None),
        bytes => Ok(Some((bytes?.unwrap_or_default(), version))),
    }
}

/// Stores `value` under `key`, if the value there still has `version`. Version 0 stores it in any case.
pub(crate) fn set_shared_data(key: &str, value: &[u8], version: u32) -> Result<(), Status> {
    // SAFETY: each pointer and its length are of one slice, which lives through the call.
    Status::check(unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), version) })
}

/// Resumes a paused side. From here to the end of the callback the context has neither maps nor buffers.
pub(crate) fn continue_stream(side: Side) -> Result<(), Status> {
    // SAFETY: no pointer is passed.
    Status::check(unsafe { proxy_continue_stream(side as u32) })
}

/// Resets the stream.
pub(crate) fn close_stream(side: Side) -> Result<(), Status> {
    // SAFETY: no pointer is passed.
    Status::check(unsafe { proxy_close_stream(side as u32) })
}

/// The stream type of a connection's downstream side, beside the two of [`Side`].
const DOWNSTREAM: u32 = 2;

/// Closes the context's connection.
pub(crate) fn close_connection() -> Result<(), Status> {
    // SAFETY: no pointer is passed.
    Status::check(unsafe { proxy_close_stream(DOWNSTREAM) })
}

/// Hands the waiting bytes of the context's connection to the later filters.
pub(crate) fn continue_connection() -> Result<(), Status> {
    // SAFETY: no pointer is passed.
    Status::check(unsafe { proxy_continue_stream(DOWNSTREAM) })
}

pub(crate) fn send_local_response(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Result<(), Status> {
    /// The response has no gRPC status.
    const NO_GRPC: i32 = -1;
    let headers = serialized(headers);
    // SAFETY: each pointer and its length are of one slice, which lives through the call, or null and 0.
    Status::check(unsafe {
        proxy_send_local_response(
            status.into(),
            null(),
            0,
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            NO_GRPC,
        )
    })
}

/// Sends `message` on a gRPC stream and leaves the stream open.
pub(crate) fn grpc_send(token: u32, message: &[u8]) -> Result<(), Status> {
    // SAFETY: the pointer and the length are of one slice, which lives through the call.
    Status::check(unsafe { proxy_grpc_send(token, message.as_ptr(), message.len(), false) })
}

/// Ends a gRPC stream.
pub(crate) fn grpc_cancel(token: u32) -> Result<(), Status> {
    // SAFETY: no pointer is passed.
    Status::check(unsafe { proxy_grpc_cancel(token) })
}

/// Makes hostcalls act for `context`.
pub(crate) fn set_effective_context(context: u32) -> Result<(), Status> {
    // SAFETY: no pointer is passed.
    Status::check(unsafe { proxy_set_effective_context(context) })
}

/// The bytes that `call` returns by its two places. Returns `None` if there are no bytes.
///
/// # Safety
/// On OK, `call` has written to both places: null, or a pointer from `proxy_on_memory_allocate`, with its size.
unsafe fn taken(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Result<Option<Vec<u8>>, Status> {
    let (mut data, mut size) = (null_mut::<u8>(), 0_usize);
    Status::check(call(&raw mut data, &raw mut size))?;
    if data.is_null() {
        return Ok(None);
    }
    // SAFETY: the SDK's allocator has made a boxed slice of exactly this size, and Envoy keeps no copy of the pointer.
    Ok(Some(unsafe { Vec::from_raw_parts(data, size, size) }))
}

/// Serialises pairs as the ABI does: their number, the two sizes of each, then each name and value, each with a NUL.
fn serialized(pairs: &[(&str, &str)]) -> Vec<u8> {
    // The pairs are the filters' own headers, far below 4 GiB.
    let size = |size: usize| u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = size(pairs.len()).to_vec();
    for (name, value) in pairs {
        bytes.extend(size(name.len()));
        bytes.extend(size(value.len()));
    }
    for (name, value) in pairs {
        bytes.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    bytes
}

/// Parses pairs. Returns `None` if the bytes are malformed, or a name is not UTF-8.
fn deserialized(bytes: &[u8]) -> Option<Pairs> {
    fn number(bytes: &mut &[u8]) -> Option<usize> {
        let (number, rest) = bytes.split_first_chunk::<4>()?;
        *bytes = rest;
        usize::try_from(u32::from_le_bytes(*number)).ok()
    }
    fn text<'a>(bytes: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
        let (text, rest) = bytes.split_at_checked(size)?;
        *bytes = rest.strip_prefix(b"\0")?;
        Some(text)
    }
    if bytes.is_empty() {
        return Some(Pairs::new());
    }
    let mut rest = bytes;
    let count = number(&mut rest)?;
    let mut sizes = Vec::new();
    for _ in 0..count {
        sizes.push((number(&mut rest)?, number(&mut rest)?));
    }
    let mut pairs = Pairs::with_capacity(sizes.len());
    for (name, value) in sizes {
        let name = String::from_utf8(text(&mut rest, name)?.to_vec()).ok()?;
        pairs.push((name, text(&mut rest, value)?.to_vec()));
    }
    Some(pairs)
}

#[cfg(test)]
mod tests {
    use super::{Status, deserialized, serialized};

    #[test]
    fn pairs_are_read_as_they_are_written() {
        let written = serialized(&[("content-type", "text/plain"), ("x-empty", "")]);
        let read = deserialized(&written);
        let pair = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        assert_eq!(read, Some(vec![pair("content-type", "text/plain"), pair("x-empty", "")]));
        assert_eq!(deserialized(b""), Some(vec![]));
    }

    #[test]
    fn pairs_cut_short_are_none_and_panic_nowhere() {
        let written = serialized(&[("a", "b"), ("name", "value")]);
        for end in 1..written.len() {
            assert_eq!(deserialized(written.get(..end).unwrap_or_default()), None, "{end} bytes");
        }
        assert_eq!(deserialized(&[0xff; 64]), None);
    }

    #[test]
    fn every_status_other_than_ok_is_a_value() {
        assert_eq!(Status::check(0), Ok(()));
        for status in 1..=u32::from(u16::MAX) {
            assert_eq!(Status::check(status), Err(Status(status)));
        }
        assert_eq!(format!("{:?}", Status::BAD_ARGUMENT), "BadArgument (2)");
    }
}
