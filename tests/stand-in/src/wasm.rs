//! The rules of Envoy's wasm contexts: the maps and buffers of a callback, the meaning of its result, and the actions
//! on the stream that run when it has returned.

#![expect(unsafe_code, reason = "the callbacks are the SDK's exports")]

use crate::manager::{self, DataStatus, HeadersStatus};
use crate::state::{After, Connection, Context, Data, Iteration, Side, Stage, stream, with};
use std::collections::HashMap;

const CONTINUE: u32 = 0;

/// The most actions that a callback may leave. Envoy runs each inside the one before, and its stack has an end. The
/// filters' own limit is `envoy_host::MAX_EFFECTS`; the other one is a gRPC message that is forgotten.
const MAX_ACTIONS: usize = 64 + 1;

unsafe extern "C" {
    fn proxy_on_context_create(context: u32, root: u32);
    fn proxy_on_vm_start(context: u32, size: usize) -> bool;
    fn proxy_on_configure(context: u32, size: usize) -> bool;
    fn proxy_on_tick(context: u32);
    fn proxy_on_done(context: u32) -> bool;
    fn proxy_on_log(context: u32);
    fn proxy_on_delete(context: u32);
    fn proxy_on_request_headers(context: u32, count: usize, end: bool) -> u32;
    fn proxy_on_request_body(context: u32, size: usize, end: bool) -> u32;
    fn proxy_on_request_trailers(context: u32, count: usize) -> u32;
    fn proxy_on_response_headers(context: u32, count: usize, end: bool) -> u32;
    fn proxy_on_response_body(context: u32, size: usize, end: bool) -> u32;
    fn proxy_on_response_trailers(context: u32, count: usize) -> u32;
    fn proxy_on_new_connection(context: u32) -> u32;
    fn proxy_on_downstream_connection_close(context: u32, peer: u32);
    fn proxy_on_grpc_receive(context: u32, token: u32, size: usize);
    fn proxy_on_grpc_close(context: u32, token: u32, status: u32);
}

/// Runs a callback of the context `id`. Returns its value, and whether a local response stops the headers or the data of
/// the callback.
fn call<T>(id: u32, name: &'static str, callback: impl FnOnce() -> T) -> (T, bool) {
    let (before, waiting) = with(|state| {
        let before = (state.current, state.effective, state.callback);
        (state.current, state.effective, state.callback) = (id, 0, name);
        (before, state.after.len())
    });
    let value = callback();
    let stopped = with(|state| {
        let actions = state.after.len().saturating_sub(waiting);
        assert!(actions <= MAX_ACTIONS, "{name} leaves {actions} actions on streams");
        (state.current, state.effective, state.callback) = before;
        for context in state.contexts.values_mut() {
            context.void = false;
        }
        state.stop_next
    });
    (value, stopped)
}

/// Runs the actions that wait until the VM has returned.
pub(crate) fn after() {
    with(|state| state.stop_next = false);
    while let Some(action) = with(|state| state.after.pop_front()) {
        match action {
            After::Continue(stream, side, filter) => manager::go_on(stream, side, filter),
            After::Reset(stream) => manager::reset(stream),
            After::Close(connection) => close(connection),
            After::Reply(stream, reply) => manager::local_reply(stream, reply),
            After::ForgetMessage(context) => with(|state| {
                if let Some(context) = state.contexts.get_mut(&context) {
                    context.message = None;
                }
            }),
            After::Failed(token) => {
                const UNAVAILABLE: u32 = 14;
                grpc_ends(token, UNAVAILABLE);
            }
        }
    }
}

/// Creates the root context of `stage`, and configures it. Returns whether the filter accepts its configuration. As in
/// Envoy, a configuration that comes back has the root context that it had, and is not configured again.
pub(crate) fn start(stage: Stage, configuration: &[u8]) -> bool {
    let known = with(|state| {
        if let Some(before) = state.roots.get(&stage).copied() {
            state.earlier.insert(stage, before);
        }
        let known = state.configured.get(&(stage, configuration.to_vec())).copied();
        known.inspect(|id| _ = state.roots.insert(stage, *id)).is_some()
    });
    if known {
        return true;
    }
    let id = create(Context { stage: Some(stage), ..Context::default() });
    with(|state| {
        state.roots.insert(stage, id);
        state.configured.insert((stage, configuration.to_vec()), id);
    });
    configure(id, configuration)
}

/// The same for the filter of connections.
pub(crate) fn start_connections(configuration: &[u8]) -> bool {
    let id = create(Context::default());
    with(|state| state.acceptor = Some(id));
    configure(id, configuration)
}

fn create(context: Context) -> u32 {
    with(|state| {
        state.next_context += 1;
        state.contexts.insert(state.next_context, context);
        state.next_context
    })
}

fn configure(id: u32, configuration: &[u8]) -> bool {
    // SAFETY: the SDK's exports; no pointer is passed.
    call(id, "on_context_create", || unsafe { proxy_on_context_create(id, 0) });
    after();
    // SAFETY: as above.
    call(id, "on_vm_start", || unsafe { proxy_on_vm_start(id, 0) });
    after();
    with(|state| state.contexts.entry(id).or_default().configuration = Some(configuration.to_vec()));
    // SAFETY: as above.
    let (taken, _) = call(id, "on_configure", || unsafe { proxy_on_configure(id, configuration.len()) });
    after();
    with(|state| state.contexts.entry(id).or_default().configuration = None);
    taken
}

/// Calls the ticks that are due.
pub(crate) fn tick() {
    let due = with(|state| {
        let now = state.now;
        let mut due = Vec::new();
        for (id, context) in &mut state.contexts {
            if let Some((period, at)) = &mut context.tick
                && *at <= now
            {
                *at = now + *period;
                due.push(*id);
            }
        }
        due
    });
    for id in due {
        // SAFETY: the SDK's export; no pointer is passed.
        call(id, "on_tick", || unsafe { proxy_on_tick(id) });
        after();
    }
}

fn context_of(id: usize, at: usize) -> Option<u32> {
    stream(id, |stream| stream.contexts[at])
}

fn change(context: u32, change: impl FnOnce(&mut Context)) {
    with(|state| {
        if let Some(context) = state.contexts.get_mut(&context) {
            change(context);
        }
    });
}

fn count(id: usize, side: Side, trailers: bool) -> usize {
    stream(id, |stream| {
        let half = stream.half(side);
        if trailers { half.trailers.as_ref() } else { half.headers.as_ref() }.map_or(0, Vec::len)
    })
}

/// Shows headers to the filter at `at`.
pub(crate) fn headers(id: usize, side: Side, at: usize, end: bool) -> HeadersStatus {
    if side == Side::Request {
        let stage = Stage::ALL[at];
        let root = with(|state| {
            let earlier = state.earlier.get(&stage).copied().filter(|_| state.streams[id].behind);
            earlier.unwrap_or(state.roots[&stage])
        });
        let context = create(Context { stage: Some(stage), root, stream: Some(id), ..Context::default() });
        stream(id, |stream| stream.contexts[at] = Some(context));
        // SAFETY: the SDK's export; no pointer is passed.
        call(context, "on_context_create", || unsafe { proxy_on_context_create(context, root) });
        after();
    }
    // A filter that has not seen the request's headers sees nothing of the response.
    let Some(context) = context_of(id, at) else { return HeadersStatus::Continue };
    change(context, |context| context.headers[side as usize] = true);
    let count = count(id, side, false);
    // SAFETY: the SDK's exports; no pointer is passed.
    let (action, stopped) = match side {
        Side::Request => {
            call(context, "on_request_headers", || unsafe { proxy_on_request_headers(context, count, end) })
        }
        Side::Response => {
            call(context, "on_response_headers", || unsafe { proxy_on_response_headers(context, count, end) })
        }
    };
    let status = if stopped {
        HeadersStatus::StopAll
    } else if action == CONTINUE {
        HeadersStatus::Continue
    } else {
        HeadersStatus::StopOne
    };
    after();
    if status == HeadersStatus::Continue {
        change(context, |context| context.headers[side as usize] = false);
    }
    status
}

/// Shows a part of a body to the filter at `at`, with what it has let wait.
pub(crate) fn data(id: usize, side: Side, at: usize, data: Data, end: bool) -> DataStatus {
    let Some(context) = context_of(id, at) else { return DataStatus::Continue };
    let buffering = with(|state| state.contexts.get(&context).is_some_and(|context| context.buffering[side as usize]));
    if buffering {
        manager::buffer(id, side, at, data);
        if stream(id, |stream| stream.over) {
            return DataStatus::StopAndBuffer;
        }
    }
    change(context, |context| context.body[side as usize] = Some(data));
    let seen = if buffering { Data::Buffered } else { data };
    let size = stream(id, |stream| stream.data(side, seen).len());
    // SAFETY: the SDK's exports; no pointer is passed.
    let (action, stopped) = match side {
        Side::Request => call(context, "on_request_body", || unsafe { proxy_on_request_body(context, size, end) }),
        Side::Response => call(context, "on_response_body", || unsafe { proxy_on_response_body(context, size, end) }),
    };
    let status = if stopped {
        DataStatus::StopNoBuffer
    } else if action == CONTINUE {
        DataStatus::Continue
    } else {
        DataStatus::StopAndBuffer
    };
    after();
    change(context, |context| {
        context.buffering[side as usize] = status == DataStatus::StopAndBuffer;
        if status == DataStatus::Continue {
            context.body[side as usize] = None;
        }
    });
    status
}

/// Shows trailers to the filter at `at`, and returns whether they go on.
pub(crate) fn trailers(id: usize, side: Side, at: usize) -> bool {
    let Some(context) = context_of(id, at) else { return true };
    change(context, |context| context.trailers[side as usize] = true);
    let count = count(id, side, true);
    // SAFETY: the SDK's exports; no pointer is passed.
    let (action, stopped) = match side {
        Side::Request => call(context, "on_request_trailers", || unsafe { proxy_on_request_trailers(context, count) }),
        Side::Response => {
            call(context, "on_response_trailers", || unsafe { proxy_on_response_trailers(context, count) })
        }
    };
    let goes_on = action == CONTINUE && !stopped;
    after();
    if goes_on {
        change(context, |context| context.trailers[side as usize] = false);
    }
    goes_on
}

/// Ends the contexts of a stream.
pub(crate) fn end(id: usize) {
    let contexts: Vec<u32> = stream(id, |stream| stream.contexts.iter().flatten().copied().collect());
    for context in &contexts {
        // SAFETY: the SDK's export; no pointer is passed.
        call(*context, "on_log", || unsafe { proxy_on_log(*context) });
        after();
    }
    for context in contexts {
        delete(context);
    }
}

/// Ends a context.
pub(crate) fn delete(context: u32) {
    // SAFETY: the SDK's exports; no pointer is passed.
    call(context, "on_done", || unsafe { proxy_on_done(context) });
    after();
    // SAFETY: as above.
    call(context, "on_delete", || unsafe { proxy_on_delete(context) });
    after();
    with(|state| {
        state.contexts.remove(&context);
        state.calls.retain(|_, call| call.owner != context);
        for stream in &mut state.streams {
            stream.contexts.iter_mut().filter(|have| **have == Some(context)).for_each(|have| *have = None);
        }
    });
}

/// Shows a new connection to the filter of connections. Returns its place in the state.
pub(crate) fn connect(source: String) -> usize {
    let root = with(|state| state.acceptor).expect("the filter of connections is started");
    let at = with(|state| state.connections.len());
    let context = create(Context { root, connection: Some(at), ..Context::default() });
    with(|state| {
        state.connections.push(Connection { source, context, open: true, properties: HashMap::default() });
    });
    // SAFETY: the SDK's exports; no pointer is passed.
    call(context, "on_context_create", || unsafe { proxy_on_context_create(context, root) });
    after();
    // SAFETY: as above.
    call(context, "on_new_connection", || unsafe { proxy_on_new_connection(context) });
    after();
    at
}

/// Ends a connection.
pub(crate) fn close(connection: usize) {
    const LOCAL: u32 = 1;
    let closed = with(|state| {
        let connection = &mut state.connections[connection];
        std::mem::replace(&mut connection.open, false).then_some(connection.context)
    });
    if let Some(context) = closed {
        // SAFETY: the SDK's export; no pointer is passed.
        call(context, "on_close", || unsafe { proxy_on_downstream_connection_close(context, LOCAL) });
        after();
        delete(context);
    }
}

/// Delivers a message of the call or stream `token`.
pub(crate) fn grpc_message(token: u32, message: Vec<u8>) {
    let Some(call_) = with(|state| state.calls.get(&token).cloned()) else { return };
    let (context, size) = (call_.owner, message.len());
    with(|state| {
        if call_.unary {
            state.calls.remove(&token);
        }
        state.contexts.entry(context).or_default().message = Some(message);
        state.after.push_back(After::ForgetMessage(context));
    });
    // SAFETY: the SDK's export; no pointer is passed.
    call(context, "on_grpc_receive", || unsafe { proxy_on_grpc_receive(context, token, size) });
    after();
}

/// Ends the call or stream `token` with a status.
pub(crate) fn grpc_ends(token: u32, status: u32) {
    let Some(ended) = with(|state| state.calls.remove(&token)) else { return };
    // SAFETY: the SDK's export; no pointer is passed.
    call(ended.owner, "on_grpc_close", || unsafe { proxy_on_grpc_close(ended.owner, token, status) });
    after();
}

/// Whether a filter has stopped one side of a stream.
pub(crate) fn stopped(id: usize, side: Side) -> bool {
    stream(id, |stream| (0..Stage::ALL.len()).any(|at| stream.progress(side, at).iteration != Iteration::Continue))
}
