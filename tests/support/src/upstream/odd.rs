//! `files.example.net/odd/…`: responses that few servers send, and the trailers of a request.

use super::sites::{Body, text};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Frame;
use hyper::header::HeaderMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// The time between two of the timed events.
const EVENT_EVERY: Duration = Duration::from_millis(150);

/// The response for the path after `/odd/`: `events/COUNT` has events with the microsecond at which each was sent;
/// `silent/SECONDS` waits before its response; `paused/SECONDS` waits after half of the body; `trailers` returns the
/// trailers of the request; `headers` has headers that the gateway removes, and bytes that are not ASCII.
pub async fn serve(what: &str, trailers: Option<HeaderMap>) -> Response<Body> {
    let (name, number) = what.split_once('/').unwrap_or((what, "0"));
    let seconds = Duration::from_secs(number.parse().unwrap_or_default());
    match name {
        "events" => events(number.parse().unwrap_or_default()),
        "silent" => {
            tokio::time::sleep(seconds).await;
            text(200, "at last")
        }
        "paused" => paused(seconds),
        "trailers" => with_trailers(trailers.unwrap_or_default()),
        "headers" => {
            let mut response = text(200, "headers");
            for (name, value) in HEADERS {
                response.headers_mut().append(*name, hyper::header::HeaderValue::from_bytes(value).unwrap());
            }
            response
        }
        _ => text(404, "nothing of that kind"),
    }
}

/// The headers of `headers`.
pub const HEADERS: &[(&str, &[u8])] = &[
    ("alt-svc", b"h3=\":443\"; ma=86400, h2=\"elsewhere.example:443\""),
    ("x-sallyport-rule", b"forged.by-the-upstream"),
    ("x-kept", b"caf\xe9 \xf0\x9f\x90\x99 \xff"),
    ("x-kept", b"second"),
    ("server", b"odd"),
];

/// The current time in microseconds.
pub fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()
}

fn events(count: u32) -> Response<Body> {
    let body = produced(|frames| async move {
        for _ in 0..count {
            let _ = frames.send(Ok(Frame::data(Bytes::from(format!("data: {}\n\n", now()))))).await;
            tokio::time::sleep(EVENT_EVERY).await;
        }
    });
    Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
}

fn paused(seconds: Duration) -> Response<Body> {
    Response::new(produced(|frames| async move {
        let _ = frames.send(Ok(Frame::data(Bytes::from_static(b"first half, ")))).await;
        tokio::time::sleep(seconds).await;
        let _ = frames.send(Ok(Frame::data(Bytes::from_static(b"second half")))).await;
    }))
}

fn with_trailers(came: HeaderMap) -> Response<Body> {
    let mut trailers: HeaderMap = came.into_iter().filter_map(|(name, value)| Some((name?, value))).collect();
    trailers.insert("x-checksum", "of-the-upstream".parse().unwrap());
    Response::new(produced(|frames| async move {
        let _ = frames.send(Ok(Frame::data(Bytes::from_static(b"and trailers")))).await;
        let _ = frames.send(Ok(Frame::trailers(trailers))).await;
    }))
}

/// A body whose frames are made as they are sent. The client may leave.
pub(super) fn produced<F>(make: impl FnOnce(mpsc::Sender<io::Result<Frame<Bytes>>>) -> F) -> Body
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, frames) = mpsc::channel(1);
    tokio::spawn(make(sender));
    Produced(frames).boxed_unsync()
}

struct Produced(mpsc::Receiver<io::Result<Frame<Bytes>>>);

impl hyper::body::Body for Produced {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx)
    }
}
