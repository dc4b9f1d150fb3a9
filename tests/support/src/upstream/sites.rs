//! The hosts that are not git: GitHub's API, raw files, an API that streams.

use super::{Shared, Visibility};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use serde_json::json;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Interval;

/// The body of any answer.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Time between two server-sent events.
const EVENT_EVERY: Duration = Duration::from_millis(20);

/// A short answer.
pub fn text(status: u16, body: impl Into<String>) -> Response<Body> {
    let body = Full::new(Bytes::from(body.into())).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(status).body(body).unwrap()
}

fn json(status: u16, body: &serde_json::Value) -> Response<Body> {
    let mut response = text(status, body.to_string());
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

/// Reads the body to its end, then answers.
pub async fn serve(host: &str, request: Request<Incoming>, shared: Arc<Shared>, index: usize) -> Response<Body> {
    let (head, mut body) = request.into_parts();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return text(400, "the body broke off") };
        if let Some(data) = frame.data_ref() {
            shared.count_body(index, data.len());
        }
    }
    let path = head.uri.path();
    match host {
        "api.github.com" => {
            if head.headers.get("authorization").is_none_or(|value| value.as_bytes() != shared.bearer.as_bytes()) {
                return json(401, &json!({"message": "Bad credentials"}));
            }
            match path.strip_prefix("/repos/") {
                Some(name) if name.matches('/').count() == 1 => repository(name, &shared),
                _ => json(200, &json!({"path": path})),
            }
        }
        "api.anthropic.com" if path == "/v1/stream" => {
            let events = Events { interval: tokio::time::interval(EVENT_EVERY), sent: 0 };
            let response = Response::builder().header("content-type", "text/event-stream");
            response.body(events.boxed_unsync()).unwrap()
        }
        "api.anthropic.com" => json(200, &json!({"type": "message", "path": path})),
        "raw.githubusercontent.com" => text(200, format!("raw {path}")),
        _ => text(421, "no such host here"),
    }
}

fn repository(name: &str, shared: &Shared) -> Response<Body> {
    let visibility = shared.repositories.lock().unwrap().get(name).copied();
    let Some(visibility) = visibility else { return json(404, &json!({"message": "Not Found"})) };
    // Any number will do, so long as it is the repository's own and always the same.
    let id = name.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    json(
        200,
        &json!({
            "id": id, "full_name": name, "default_branch": "main", "private": visibility == Visibility::Private,
        }),
    )
}

/// An endless stream of events.
struct Events {
    interval: Interval,
    sent: u64,
}

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        std::task::ready!(self.interval.poll_tick(cx));
        self.sent += 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(format!("data: {}\n\n", self.sent))))))
    }
}
