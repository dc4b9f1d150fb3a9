//! The functions of the ABI, as the filters call them: Envoy's side of each, with Envoy's statuses.

#![expect(unsafe_code, reason = "the ABI passes pointers")]

use crate::state::{After, Data, GrpcCall, Headers, LocalReply, Side, Stage, State, try_with, with};
use std::time::Duration;

const OK: u32 = 0;
const NOT_FOUND: u32 = 1;
const BAD_ARGUMENT: u32 = 2;
const CAS_MISMATCH: u32 = 8;
const INTERNAL_FAILURE: u32 = 10;

unsafe extern "C" {
    // The SDK's allocator: the filter owns the returned memory.
    fn proxy_on_memory_allocate(size: usize) -> *mut u8;
}

/// The bytes that a filter passes.
///
/// # Safety
/// Pointer and size are of one slice, or the size is 0.
unsafe fn bytes(data: *const u8, size: usize) -> Vec<u8> {
    if size == 0 {
        return Vec::new();
    }
    // SAFETY: as the function's own.
    unsafe { std::slice::from_raw_parts(data, size) }.to_vec()
}

/// # Safety
/// As [`bytes`].
unsafe fn text(data: *const u8, size: usize) -> String {
    // SAFETY: as the function's own.
    String::from_utf8_lossy(&unsafe { bytes(data, size) }).into_owned()
}

/// Gives `bytes` to the filter.
///
/// # Safety
/// Both places can be written to.
unsafe fn give(bytes: &[u8], data: *mut *mut u8, size: *mut usize) -> u32 {
    // SAFETY: the allocator returns room for so many bytes; both places can be written to.
    unsafe {
        if bytes.is_empty() {
            (*data, *size) = (std::ptr::null_mut(), 0);
        } else {
            let room = proxy_on_memory_allocate(bytes.len());
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), room, bytes.len());
            (*data, *size) = (room, bytes.len());
        }
    }
    OK
}

#[unsafe(no_mangle)]
extern "C" fn proxy_log(level: u32, message: *const u8, size: usize) -> u32 {
    // SAFETY: the filter's slice.
    let message = unsafe { text(message, size) };
    const CRITICAL: u32 = 5;
    if level == CRITICAL {
        let place = try_with(|state| {
            let stage = state.contexts.get(&state.current).and_then(|context| context.stage);
            format!("{} of {stage:?}", state.callback)
        });
        eprintln!("stand-in: panic in {}: {message}", place.unwrap_or_else(|| "the stand-in itself".into()));
    }
    let _in_a_panic = try_with(|state| state.lines.push((level, message)));
    OK
}

#[unsafe(no_mangle)]
extern "C" fn proxy_get_log_level(level: *mut u32) -> u32 {
    // SAFETY: the filter's place.
    unsafe { *level = 2 };
    OK
}

#[unsafe(no_mangle)]
extern "C" fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32 {
    let now = with(|state| state.now);
    // SAFETY: the filter's place.
    unsafe { *time = u64::try_from(now.as_nanos()).expect("before 2554") };
    OK
}

#[unsafe(no_mangle)]
extern "C" fn proxy_set_tick_period_milliseconds(period: u32) -> u32 {
    with(|state| {
        let (now, period) = (state.now, Duration::from_millis(period.into()));
        state.acting().map_or(BAD_ARGUMENT, |context| {
            context.tick = Some((period, now + period));
            OK
        })
    })
}

/// Which bytes a buffer is. `Err` is the status of a context that has resumed.
fn buffer(state: &mut State, kind: u32) -> Result<Option<&mut Vec<u8>>, u32> {
    let id = state.acting_id();
    let Some(context) = state.contexts.get_mut(&id) else { return Err(BAD_ARGUMENT) };
    let side = match kind {
        0 => Side::Request,
        1 => Side::Response,
        5 => return Ok(state.contexts.get_mut(&id).and_then(|context| context.message.as_mut())),
        7 => return Ok(state.contexts.get_mut(&id).and_then(|context| context.configuration.as_mut())),
        _ => return Err(BAD_ARGUMENT),
    };
    if context.void {
        return Err(BAD_ARGUMENT);
    }
    let data = if context.buffering[side as usize] { Some(Data::Buffered) } else { context.body[side as usize] };
    let (Some(stream), Some(data)) = (context.stream, data) else { return Ok(None) };
    Ok(Some(state.streams[stream].data(side, data)))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_get_buffer_bytes(
    kind: u32,
    start: usize,
    most: usize,
    data: *mut *mut u8,
    size: *mut usize,
) -> u32 {
    let part = with(|state| {
        let Some(all) = buffer(state, kind)? else { return if kind < 2 { Ok(Vec::new()) } else { Err(NOT_FOUND) } };
        let end = start.checked_add(most).ok_or(BAD_ARGUMENT)?.min(all.len());
        Ok(all.get(start..end).unwrap_or_default().to_vec())
    });
    match part {
        // SAFETY: the filter's places.
        Ok(part) => unsafe { give(&part, data, size) },
        Err(status) => status,
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_set_buffer_bytes(kind: u32, start: usize, replaced: usize, data: *const u8, size: usize) -> u32 {
    // SAFETY: the filter's slice.
    let new = unsafe { bytes(data, size) };
    with(|state| {
        let all = match buffer(state, kind) {
            Ok(Some(all)) if kind < 2 => all,
            Ok(_) => return BAD_ARGUMENT,
            Err(status) => return status,
        };
        // In front, in place of all, or behind: Envoy replaces no part.
        if start == 0 && replaced == 0 {
            all.splice(..0, new);
        } else if start == 0 && replaced >= all.len() {
            *all = new;
        } else if start > 0 && start >= all.len() {
            all.extend(new);
        } else {
            return BAD_ARGUMENT;
        }
        OK
    })
}

/// Which headers or trailers a map is.
fn map(state: &mut State, kind: u32) -> Result<Option<&mut Headers>, u32> {
    let Some(context) = state.acting() else { return Err(BAD_ARGUMENT) };
    if context.void {
        return Err(BAD_ARGUMENT);
    }
    let (side, has) = match kind {
        0 => (Side::Request, context.headers[0]),
        1 => (Side::Request, context.trailers[0]),
        2 => (Side::Response, context.headers[1]),
        3 => (Side::Response, context.trailers[1]),
        _ => return Err(BAD_ARGUMENT),
    };
    let Some(stream) = context.stream.filter(|_| has) else { return Ok(None) };
    let half = state.streams[stream].half(side);
    Ok(if matches!(kind, 0 | 2) { half.headers.as_mut() } else { half.trailers.as_mut() })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_get_header_map_pairs(kind: u32, data: *mut *mut u8, size: *mut usize) -> u32 {
    let pairs = match with(|state| map(state, kind).map(|map| map.cloned().unwrap_or_default())) {
        Ok(pairs) => pairs,
        Err(status) => return status,
    };
    let number = |number: usize| u32::try_from(number).expect("32 bits").to_le_bytes();
    let mut serialized = number(pairs.len()).to_vec();
    for (name, value) in &pairs {
        serialized.extend([number(name.len()), number(value.len())].concat());
    }
    for (name, value) in &pairs {
        serialized.extend([name.as_bytes(), b"\0", value, b"\0"].concat());
    }
    // SAFETY: the filter's places.
    unsafe { give(if pairs.is_empty() { &[] } else { &serialized }, data, size) }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_set_header_map_pairs(_kind: u32, _data: *const u8, _size: usize) -> u32 {
    BAD_ARGUMENT
}

#[unsafe(no_mangle)]
extern "C" fn proxy_get_header_map_value(
    kind: u32,
    name: *const u8,
    name_size: usize,
    data: *mut *mut u8,
    size: *mut usize,
) -> u32 {
    // SAFETY: the filter's slice.
    let name = unsafe { text(name, name_size) };
    let value = with(|state| {
        let map = map(state, kind)?.ok_or(BAD_ARGUMENT)?;
        map.iter().find(|(have, _)| *have == name).map(|(_, value)| value.clone()).ok_or(NOT_FOUND)
    });
    match value {
        // SAFETY: the filter's places.
        Ok(value) => unsafe { give(&value, data, size) },
        Err(status) => status,
    }
}

fn change(kind: u32, change: impl FnOnce(&mut Headers)) -> u32 {
    with(|state| match map(state, kind) {
        Ok(Some(map)) => {
            change(map);
            OK
        }
        Ok(None) => BAD_ARGUMENT,
        Err(status) => status,
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_remove_header_map_value(kind: u32, name: *const u8, name_size: usize) -> u32 {
    // SAFETY: the filter's slice.
    let name = unsafe { text(name, name_size) };
    change(kind, |map| map.retain(|(have, _)| *have != name))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_replace_header_map_value(
    kind: u32,
    name: *const u8,
    name_size: usize,
    value: *const u8,
    value_size: usize,
) -> u32 {
    // SAFETY: the filter's slices.
    let (name, value) = unsafe { (text(name, name_size), bytes(value, value_size)) };
    change(kind, |map| match map.iter_mut().position(|(have, _)| *have == name) {
        Some(at) => {
            map[at].1 = value;
            let mut seen = 0;
            map.retain(|(have, _)| *have != name || std::mem::replace(&mut seen, 1) == 0);
        }
        None => map.push((name, value)),
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_add_header_map_value(
    kind: u32,
    name: *const u8,
    name_size: usize,
    value: *const u8,
    value_size: usize,
) -> u32 {
    // SAFETY: the filter's slices.
    let (name, value) = unsafe { (text(name, name_size), bytes(value, value_size)) };
    change(kind, |map| map.push((name, value)))
}

/// A property of the current stream: a fact that Envoy knows, or a filter's note.
fn known(state: &mut State, path: &[u8]) -> Option<Vec<u8>> {
    let context = state.acting()?;
    let (stage, stream, connection) = (context.stage, context.stream, context.connection);
    if path == b"plugin_root_id" {
        return stage.map_or(Some("connections"), Stage::root_id).map(|id| id.as_bytes().to_vec());
    }
    if let Some(connection) = connection {
        let connection = &state.connections[connection];
        return match path {
            b"source\0address" => Some(connection.source.clone().into_bytes()),
            b"connection\0id" => Some(u64::from(connection.context).to_le_bytes().to_vec()),
            _ => connection.properties.get(path).cloned(),
        };
    }
    let stream = &state.streams[stream?];
    match path {
        b"source\0address" => Some(stream.source.clone().into_bytes()),
        b"connection\0requested_server_name" => stream.sni.clone().map(String::into_bytes),
        b"connection\0tls_version" => stream.tls.then(|| b"TLSv1.3".to_vec()),
        b"xds\0listener_direction" => Some(stream.direction.to_le_bytes().to_vec()),
        b"response\0code_details" => Some(stream.details.clone().into_bytes()).filter(|details| !details.is_empty()),
        b"metadata\0filter_metadata\0envoy.filters.http.ext_authz\0place" => {
            stream.place.clone().map(String::into_bytes)
        }
        b"metadata\0filter_metadata\0envoy.filters.http.ext_authz\0guard" => {
            stream.guard.clone().map(String::into_bytes)
        }
        _ => stream.properties.get(path).cloned(),
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_get_property(path: *const u8, path_size: usize, data: *mut *mut u8, size: *mut usize) -> u32 {
    // SAFETY: the filter's slice.
    let path = unsafe { bytes(path, path_size) };
    match with(|state| known(state, &path)) {
        // SAFETY: the filter's places.
        Some(value) => unsafe { give(&value, data, size) },
        None => NOT_FOUND,
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_set_property(path: *const u8, path_size: usize, value: *const u8, value_size: usize) -> u32 {
    // SAFETY: the filter's slices.
    let (path, value) = unsafe { (bytes(path, path_size), bytes(value, value_size)) };
    let set = try_with(|state| {
        let context = state.acting()?;
        match (context.stream, context.connection) {
            (Some(stream), _) => state.streams[stream].properties.insert(path, value),
            (None, Some(connection)) => state.connections[connection].properties.insert(path, value),
            (None, None) => return None,
        };
        Some(())
    });
    if set.flatten().is_some() { OK } else { NOT_FOUND }
}

/// Which stream and filter the hostcall is about.
fn target(state: &mut State) -> Option<(usize, usize)> {
    let context = state.acting()?;
    let stage = context.stage?;
    Some((context.stream?, Stage::ALL.iter().position(|other| *other == stage)?))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_continue_stream(side: u32) -> u32 {
    let side = match side {
        0 => Side::Request,
        1 => Side::Response,
        _ => return BAD_ARGUMENT,
    };
    with(|state| {
        if let Some((stream, filter)) = target(state) {
            state.after.push_back(After::Continue(stream, side, filter));
        }
        if let Some(context) = state.acting() {
            // A resume of either side voids the request's maps and buffer.
            (context.headers[0], context.trailers[0], context.body[0]) = (false, false, None);
            context.void = true;
        }
        OK
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_close_stream(side: u32) -> u32 {
    const DOWNSTREAM: u32 = 2;
    if side > DOWNSTREAM {
        return BAD_ARGUMENT;
    }
    with(|state| {
        if side == DOWNSTREAM {
            if let Some(connection) = state.acting().and_then(|context| context.connection) {
                state.after.push_back(After::Close(connection));
            }
        } else if let Some((stream, _)) = target(state) {
            state.after.push_back(After::Reset(stream));
        }
        OK
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_send_local_response(
    status: u32,
    _details: *const u8,
    _details_size: usize,
    body: *const u8,
    body_size: usize,
    headers: *const u8,
    headers_size: usize,
    _grpc_status: i32,
) -> u32 {
    // SAFETY: the filter's slices.
    let (body, headers) = unsafe { (bytes(body, body_size), bytes(headers, headers_size)) };
    let Some(headers) = deserialized(&headers) else { return BAD_ARGUMENT };
    with(|state| {
        if let Some((stream, _)) = target(state) {
            let reply = LocalReply { status, headers, body, details: String::new() };
            state.after.push_back(After::Reply(stream, reply));
        }
        state.stop_next = true;
        OK
    })
}

fn deserialized(bytes: &[u8]) -> Option<Headers> {
    let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    let count = number(0)?;
    let mut at = 4 + count * 8;
    let mut part = |size: usize| {
        let part = bytes.get(at..at + size)?.to_vec();
        at += size + 1;
        Some(part)
    };
    (0..count)
        .map(|n| {
            let name = String::from_utf8(part(number(4 + n * 8)?)?).ok()?;
            Some((name, part(number(8 + n * 8)?)?))
        })
        .collect()
}

#[unsafe(no_mangle)]
extern "C" fn proxy_set_effective_context(id: u32) -> u32 {
    with(|state| {
        if !state.contexts.contains_key(&id) {
            return BAD_ARGUMENT;
        }
        state.effective = id;
        OK
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_get_shared_data(
    key: *const u8,
    key_size: usize,
    data: *mut *mut u8,
    size: *mut usize,
    version: *mut u32,
) -> u32 {
    // SAFETY: the filter's slice.
    let key = unsafe { text(key, key_size) };
    let shared = with(|state| state.shared.clone());
    match shared.get(&key) {
        // SAFETY: the filter's places.
        Some((value, of)) => unsafe {
            *version = of;
            give(&value, data, size)
        },
        None => NOT_FOUND,
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_set_shared_data(
    key: *const u8,
    key_size: usize,
    value: *const u8,
    value_size: usize,
    version: u32,
) -> u32 {
    // SAFETY: the filter's slices.
    let (key, value) = unsafe { (text(key, key_size), bytes(value, value_size)) };
    let shared = with(|state| state.shared.clone());
    if shared.set(&key, value, version) { OK } else { CAS_MISMATCH }
}

/// Begins a call or a stream, and writes its token. Envoy makes both for the root context, whichever context is acting
/// (proxy-wasm-cpp-host, exports.cc).
fn begin(method: String, message: Vec<u8>, unary: bool, token: *mut u32) -> u32 {
    with(|state| {
        let fails = state.unreachable.contains(&method);
        if fails && !unary {
            return INTERNAL_FAILURE;
        }
        state.next_token += 1;
        let acting = state.acting_id();
        let root = state.contexts.get(&acting).map_or(0, |context| context.root);
        let (id, owner) = (state.next_token, if root == 0 { acting } else { root });
        state.calls.insert(id, GrpcCall { owner, method, message, unary, shown: false });
        if fails {
            state.after.push_back(After::Failed(id));
        }
        // SAFETY: the filter's place.
        unsafe { *token = id };
        OK
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_grpc_call(
    _cluster: *const u8,
    _cluster_size: usize,
    _service: *const u8,
    _service_size: usize,
    method: *const u8,
    method_size: usize,
    _metadata: *const u8,
    _metadata_size: usize,
    message: *const u8,
    message_size: usize,
    _timeout: u32,
    token: *mut u32,
) -> u32 {
    // SAFETY: the filter's slices.
    let (method, message) = unsafe { (text(method, method_size), bytes(message, message_size)) };
    begin(method, message, true, token)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_grpc_stream(
    _cluster: *const u8,
    _cluster_size: usize,
    _service: *const u8,
    _service_size: usize,
    method: *const u8,
    method_size: usize,
    _metadata: *const u8,
    _metadata_size: usize,
    token: *mut u32,
) -> u32 {
    // SAFETY: the filter's slice.
    begin(unsafe { text(method, method_size) }, Vec::new(), false, token)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_grpc_send(token: u32, message: *const u8, size: usize, _end: bool) -> u32 {
    // SAFETY: the filter's slice.
    let message = unsafe { bytes(message, size) };
    with(|state| match state.calls.get(&token) {
        None => NOT_FOUND,
        Some(call) if call.unary => BAD_ARGUMENT,
        Some(_) => {
            state.sent.push((token, message));
            OK
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_grpc_cancel(token: u32) -> u32 {
    with(|state| if state.calls.remove(&token).is_some() { OK } else { NOT_FOUND })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_grpc_close(token: u32) -> u32 {
    proxy_grpc_cancel(token)
}

/// Hostcalls that the SDK can make and no filter makes. Envoy's status for what it does not implement.
macro_rules! unused {
    ($($name:ident)*) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name() -> u32 {
                const UNIMPLEMENTED: u32 = 12;
                UNIMPLEMENTED
            }
        )*
    };
}

unused! {
    proxy_call_foreign_function
    proxy_define_metric
    proxy_dequeue_shared_queue
    proxy_done
    proxy_enqueue_shared_queue
    proxy_get_metric
    proxy_get_status
    proxy_http_call
    proxy_increment_metric
    proxy_record_metric
    proxy_register_shared_queue
    proxy_resolve_shared_queue
}
