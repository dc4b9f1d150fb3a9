//! The rules of Envoy's filter manager, by which a stream's headers, body and trailers go from filter to filter: the parts
//! that wait at a stopped filter, and the parts that a resumed filter passes to the next ones.

use crate::envoy::Credential;
use crate::state::{Arrived, Data, Headers, Iteration, LocalReply, Side, Stage, stream, with};
use crate::wasm;

/// The status that a filter returns for headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadersStatus {
    Continue,
    StopOne,
    StopAll,
}

/// The status that a filter returns for a part of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataStatus {
    Continue,
    StopAndBuffer,
    StopNoBuffer,
}

/// The limit of a request's bytes that wait for a filter: `body_buffer` of the control plane's routes.
const MOST_BUFFERED: usize = 4 << 20;

/// Envoy's code details for a response of the upstream.
const VIA_UPSTREAM: &str = "via_upstream";

/// The route and the router remove these of a request.
const NOT_SENT: [&str; 5] =
    ["x-envoy-external-address", "x-forwarded-proto", "x-request-id", policy::github::RETRY_ON, policy::mark::SEALED];

/// The filter after `at`. `None` at the end of the chain.
fn next(side: Side, at: Option<usize>) -> Option<usize> {
    match (side, at) {
        (Side::Request, None) => Some(0),
        (Side::Request, Some(at)) => Some(at + 1).filter(|next| *next < Stage::ALL.len()),
        (Side::Response, None) => Some(Stage::ALL.len() - 1),
        (Side::Response, Some(at)) => at.checked_sub(1),
    }
}

fn over(id: usize) -> bool {
    stream(id, |stream| stream.over)
}

fn disabled(id: usize, at: usize) -> bool {
    stream(id, |stream| stream.disabled.contains(&Stage::ALL[at]))
}

/// Runs a filter's callback, and then the local reply that it may have led to. `None`: the iteration is at its end.
fn shown<T>(id: usize, side: Side, show: impl FnOnce() -> T) -> Option<T> {
    stream(id, |stream| stream.depth[side as usize] += 1);
    let status = show();
    let aborted = stream(id, |stream| {
        stream.depth[side as usize] -= 1;
        stream.aborted[side as usize]
    });
    if aborted && let Some(reply) = stream(id, |stream| stream.prepared.take()) {
        through_chain(id, reply);
    }
    (!aborted && !over(id)).then_some(status)
}

/// Headers go on, to the filter after `from`.
fn pass_headers(id: usize, side: Side, from: Option<usize>, end: bool) {
    let mut at = next(side, from);
    while let Some(filter) = at {
        at = next(side, at);
        if disabled(id, filter) {
            continue;
        }
        stream(id, |stream| stream.progress(side, filter).end = end);
        let Some(status) = shown(id, side, || show_headers(id, side, filter, end)) else { return };
        let goes_on = stream(id, |stream| {
            let progress = stream.progress(side, filter);
            match status {
                HeadersStatus::Continue => progress.headers_continued = true,
                HeadersStatus::StopOne => progress.iteration = Iteration::StopOne,
                HeadersStatus::StopAll => progress.iteration = Iteration::StopAll,
            }
            status == HeadersStatus::Continue
        });
        if !goes_on {
            return;
        }
    }
    arrive(id, side, end, |arrived, headers| {
        arrived.headers = headers.clone();
        if side == Side::Request {
            arrived.headers.retain(|(name, _)| !NOT_SENT.contains(&name.as_str()));
        }
    });
}

fn show_headers(id: usize, side: Side, at: usize, end: bool) -> HeadersStatus {
    match (Stage::ALL[at], side) {
        (stage @ (Stage::Credentials | Stage::ForwardProxy), Side::Request) => {
            if stream(id, |stream| stream.waiting.contains(&stage)) {
                return HeadersStatus::StopAll;
            }
            own_stage(id, stage)
        }
        (Stage::Credentials | Stage::ForwardProxy, Side::Response) => HeadersStatus::Continue,
        _ => wasm::headers(id, side, at, end),
    }
}

/// The effect of the stand-in's own stages on a request.
fn own_stage(id: usize, stage: Stage) -> HeadersStatus {
    if stage == Stage::ForwardProxy {
        return HeadersStatus::Continue;
    }
    match crate::envoy::credential(id) {
        Credential::None => {}
        Credential::Put { name, value, place, guard } => match crate::credential::place(id, &name) {
            Ok(None) => {}
            Ok(Some(at)) => stream(id, |stream| {
                (stream.place, stream.guard) = (Some(place.replace(&name, &at)), guard);
                let headers = stream.half(Side::Request).headers.get_or_insert_default();
                headers.retain(|(have, _)| *have != name && *have != at);
                headers.push((at, value));
            }),
            Err(refusal) => {
                let policy::Refusal { status, content_type, rule, body, .. } = refusal;
                let text = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
                let headers = vec![text("content-type", content_type), text(policy::RULE_HEADER, rule.name())];
                let details = "ext_authz_denied".to_owned();
                local_reply(id, LocalReply { status: status.into(), headers, body, details });
                return HeadersStatus::StopAll;
            }
        },
        Credential::Refused(status) => {
            let details = "ext_authz_denied".to_owned();
            local_reply(id, LocalReply { status, headers: Headers::new(), body: b"refused".to_vec(), details });
            return HeadersStatus::StopAll;
        }
    }
    HeadersStatus::Continue
}

/// A stage of the stand-in's own that waited goes on.
pub(crate) fn own_stage_goes_on(id: usize, stage: Stage) {
    let stops = stream(id, |stream| {
        let waits = stream.waiting.contains(&stage);
        stream.waiting.retain(|other| *other != stage);
        let at = Stage::ALL.iter().position(|other| *other == stage);
        at.filter(|at| waits && stream.progress(Side::Request, *at).iteration == Iteration::StopAll)
    });
    if let Some(at) = stops
        && own_stage(id, stage) == HeadersStatus::Continue
    {
        go_on(id, Side::Request, at);
    }
}

/// A part of a body goes on: to the filter after `from`, or to `from` itself where it has seen nothing yet.
fn pass_data(id: usize, side: Side, from: Option<usize>, data: Data, end: bool) {
    // A request whose response is complete takes no more data.
    if over(id) || side == Side::Request && stream(id, |stream| stream.half(Side::Response).complete) {
        return;
    }
    let mut at = first(id, side, from);
    while let Some(filter) = at {
        at = next(side, at);
        if disabled(id, filter) {
            continue;
        }
        let (stops, ended) = stream(id, |stream| {
            let progress = stream.progress(side, filter);
            (progress.iteration == Iteration::StopAll, progress.end)
        });
        if stops {
            return buffer(id, side, filter, data);
        }
        if ended {
            return;
        }
        let end = end && stream(id, |stream| stream.half(side).trailers.is_none());
        stream(id, |stream| stream.progress(side, filter).end = end);
        let own = matches!(Stage::ALL[filter], Stage::Credentials | Stage::ForwardProxy);
        let show = || if own { DataStatus::Continue } else { wasm::data(id, side, filter, data, end) };
        let Some(status) = shown(id, side, show) else { return };
        if !after_data(id, side, filter, status, data) {
            return;
        }
    }
    let bytes = stream(id, |stream| std::mem::take(stream.data(side, data)));
    let end = end && stream(id, |stream| stream.half(side).trailers.is_none());
    arrive(id, side, end, |arrived, _| arrived.body.extend(bytes));
}

/// Whether the part goes on to the next filter.
fn after_data(id: usize, side: Side, at: usize, status: DataStatus, data: Data) -> bool {
    let iteration = stream(id, |stream| stream.progress(side, at).iteration);
    if status == DataStatus::Continue {
        if iteration == Iteration::StopOne {
            buffer(id, side, at, data);
            go_on(id, side, at);
            return false;
        }
        return true;
    }
    stream(id, |stream| stream.progress(side, at).iteration = Iteration::StopOne);
    if status == DataStatus::StopAndBuffer {
        buffer(id, side, at, data);
    } else {
        stream(id, |stream| {
            let half = stream.half(side);
            if half.complete && half.trailers.is_none() && half.buffer.is_none() {
                half.buffer = Some(Vec::new());
            }
        });
    }
    false
}

/// Lets `data` wait for the filter at `at`, in the one buffer of this side.
pub(crate) fn buffer(id: usize, side: Side, at: usize, data: Data) {
    let Data::Chunk(_) = data else { return };
    let large = stream(id, |stream| {
        let bytes = std::mem::take(stream.data(side, data));
        let watermark = stream.progress(side, at).iteration == Iteration::StopAll;
        let buffer = stream.data(side, Data::Buffered);
        buffer.extend(bytes);
        !watermark && side == Side::Request && buffer.len() > MOST_BUFFERED
    });
    if large {
        let (body, details) = (b"Payload Too Large".to_vec(), "request_payload_too_large".to_owned());
        local_reply(id, LocalReply { status: 413, headers: Headers::new(), body, details });
    }
}

/// Where iteration begins: behind `from`, or at it.
fn first(id: usize, side: Side, from: Option<usize>) -> Option<usize> {
    match from {
        Some(at) if stream(id, |stream| stream.progress(side, at).from_current) => Some(at),
        from => next(side, from),
    }
}

fn pass_trailers(id: usize, side: Side, from: Option<usize>) {
    if over(id) || side == Side::Request && stream(id, |stream| stream.half(Side::Response).complete) {
        return;
    }
    let mut at = first(id, side, from);
    while let Some(filter) = at {
        at = next(side, at);
        if disabled(id, filter) {
            continue;
        }
        if stream(id, |stream| stream.progress(side, filter).iteration == Iteration::StopAll) {
            return;
        }
        let own = matches!(Stage::ALL[filter], Stage::Credentials | Stage::ForwardProxy);
        let Some(goes_on) = shown(id, side, || own || wasm::trailers(id, side, filter)) else { return };
        let iteration = stream(id, |stream| {
            let progress = stream.progress(side, filter);
            progress.end = true;
            progress.iteration
        });
        match (goes_on, iteration) {
            (true, Iteration::StopOne) => return go_on(id, side, filter),
            (true, _) => {}
            (false, _) => {
                return stream(id, |stream| {
                    let progress = stream.progress(side, filter);
                    if progress.iteration == Iteration::Continue {
                        progress.iteration = Iteration::StopOne;
                    }
                });
            }
        }
    }
    let trailers = stream(id, |stream| stream.half(side).trailers.clone());
    arrive(id, side, true, |arrived, _| arrived.trailers = trailers);
}

/// The filter at `at` lets its side go on.
pub(crate) fn go_on(id: usize, side: Side, at: usize) {
    let can = stream(id, |stream| match side {
        Side::Request => !stream.over && !stream.half(Side::Response).complete,
        Side::Response => !stream.over && !stream.client.ended,
    });
    if !can {
        return;
    }
    let (headers, end) = stream(id, |stream| {
        let half = stream.half(side);
        let end = half.complete && half.buffer.is_none() && half.trailers.is_none();
        let progress = stream.progress(side, at);
        progress.from_current = progress.iteration == Iteration::StopAll;
        progress.iteration = Iteration::Continue;
        (!std::mem::replace(&mut progress.headers_continued, true), end)
    });
    if headers {
        pass_headers(id, side, Some(at), end);
    }
    let (buffered, complete, trailers) = stream(id, |stream| {
        let half = stream.half(side);
        (half.buffer.is_some(), half.complete, half.trailers.is_some())
    });
    if buffered {
        pass_data(id, side, Some(at), Data::Buffered, complete && !trailers);
    }
    if trailers {
        pass_trailers(id, side, Some(at));
    }
    stream(id, |stream| stream.progress(side, at).from_current = false);
}

/// Something of one side has reached its end of the chain.
fn arrive(id: usize, side: Side, end: bool, add: impl FnOnce(&mut Arrived, &Headers)) {
    if over(id) {
        return;
    }
    let ended = stream(id, |stream| {
        let headers = stream.half(side).headers.clone().unwrap_or_default();
        let arrived = if side == Side::Request { &mut stream.upstream } else { &mut stream.client };
        if arrived.ended || arrived.reset {
            return false;
        }
        add(arrived, &headers);
        arrived.ended = end;
        end && side == Side::Response
    });
    if ended {
        finish(id);
    }
}

/// The client has sent headers.
pub(crate) fn request(id: usize, end: bool) {
    stream(id, |stream| stream.half(Side::Request).complete = end);
    pass_headers(id, Side::Request, None, end);
}

/// A part of a body has come.
pub(crate) fn body(id: usize, side: Side, bytes: &[u8], end: bool) {
    let chunk = with(|state| {
        state.next_chunk += 1;
        state.next_chunk
    });
    stream(id, |stream| {
        let half = stream.half(side);
        half.complete |= end;
        half.chunks.insert(chunk, bytes.to_vec());
    });
    completed(id, side);
    pass_data(id, side, None, Data::Chunk(chunk), end);
    stream(id, |stream| stream.half(side).chunks.remove(&chunk));
}

/// The trailers of a side have come.
pub(crate) fn trailers(id: usize, side: Side, trailers: Headers) {
    stream(id, |stream| {
        let half = stream.half(side);
        half.complete = true;
        half.trailers = Some(trailers);
    });
    completed(id, side);
    pass_trailers(id, side, None);
}

/// The upstream has sent headers.
pub(crate) fn response(id: usize, headers: Headers, end: bool) {
    stream(id, |stream| {
        stream.details = VIA_UPSTREAM.into();
        let half = stream.half(Side::Response);
        (half.headers, half.complete) = (Some(headers), end);
    });
    completed(id, Side::Response);
    pass_headers(id, Side::Response, None, end);
}

/// A response that is complete before its request is, resets that at the upstream.
fn completed(id: usize, side: Side) {
    stream(id, |stream| {
        let complete = side == Side::Response && stream.half(side).complete;
        stream.answered |= complete && stream.details == VIA_UPSTREAM;
        stream.upstream.reset |= complete && !stream.upstream.headers.is_empty() && !stream.upstream.ended;
    });
}

/// The gateway sends a local reply.
pub(crate) fn local_reply(id: usize, reply: LocalReply) {
    if over(id) {
        return;
    }
    let (decoding, started, sent) = stream(id, |stream| {
        for side in [0, 1] {
            stream.aborted[side] |= stream.depth[side] > 0;
        }
        stream.details.clone_from(&reply.details);
        let started = stream.half(Side::Response).headers.is_some();
        (stream.depth[0] > 0, started, !stream.client.headers.is_empty())
    });
    if !started && decoding {
        stream(id, |stream| stream.prepared = Some(reply));
    } else if !started {
        through_chain(id, reply);
    } else if !sent {
        // Its filters have seen another response.
        let headers = headers_of(&reply);
        stream(id, |stream| {
            stream.half(Side::Response).complete = true;
            stream.client = Arrived { headers, body: reply.body, ended: true, ..Arrived::default() };
        });
        finish(id);
    } else {
        reset(id);
    }
}

fn headers_of(reply: &LocalReply) -> Headers {
    let length = [("content-length".to_owned(), reply.body.len().to_string().into_bytes())];
    let length = length.into_iter().filter(|_| !reply.body.is_empty());
    let status = [(":status".to_owned(), reply.status.to_string().into_bytes())];
    status.into_iter().chain(reply.headers.clone()).chain(length).collect()
}

/// Sends a local reply as a response, through the filters.
fn through_chain(id: usize, reply: LocalReply) {
    let (headers, body) = (headers_of(&reply), reply.body);
    stream(id, |stream| {
        let half = stream.half(Side::Response);
        (half.headers, half.complete) = (Some(headers), body.is_empty());
    });
    pass_headers(id, Side::Response, None, body.is_empty());
    if !body.is_empty() {
        self::body(id, Side::Response, &body, true);
    }
}

/// Breaks the stream off.
pub(crate) fn reset(id: usize) {
    if !over(id) {
        stream(id, |stream| stream.client.reset = true);
        finish(id);
    }
}

/// The stream ends: its filters go, and the upstream gets no more of its waiting bytes.
fn finish(id: usize) {
    stream(id, |stream| {
        stream.over = true;
        let whole = stream.upstream.ended && stream.answered;
        stream.upstream.reset |= !stream.upstream.headers.is_empty() && !whole;
    });
    wasm::end(id);
}
