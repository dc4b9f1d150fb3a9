//! The hosts without git: GitHub's API, raw files, uploads, archives, an API that streams and has a WebSocket.

use super::tokens::Tokens;
use super::{Shared, Visibility, app, files, git_api, graphql, odd, pranks};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Interval;

/// The body of every response.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The time between two server-sent events.
const EVENT_EVERY: Duration = Duration::from_millis(20);

/// The example of RFC 6455 section 1.3: a client's key and the server's response. Other keys get a 400.
pub const WEB_SOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// See [`WEB_SOCKET_KEY`].
pub const WEB_SOCKET_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A short response.
pub fn text(status: u16, body: impl Into<String>) -> Response<Body> {
    let body = Full::new(Bytes::from(body.into())).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(status).body(body).unwrap()
}

/// A short response in JSON.
pub fn json(status: u16, body: &serde_json::Value) -> Response<Body> {
    let mut response = text(status, body.to_string());
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

/// A response of 16 MiB.
fn large() -> Response<Body> {
    static LARGE: LazyLock<Bytes> = LazyLock::new(|| vec![b'-'; 16 << 20].into());
    Response::new(Full::new(LARGE.clone()).map_err(|never| match never {}).boxed_unsync())
}

/// Reads the body to its end, then responds.
pub async fn serve(host: &str, request: Request<Incoming>, shared: Arc<Shared>, index: usize) -> Response<Body> {
    if matches!(host, "api.anthropic.com" | "files.example.net") && request.uri().path().starts_with("/v1/echo") {
        return echo(request, shared, index);
    }
    let (head, mut body) = request.into_parts();
    let path = head.uri.path();
    let keep = path == "/graphql" || path.ends_with("/access_tokens") || Tokens::are(host, path);
    let mut read = Vec::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return text(400, "the body broke off") };
        if let Some(data) = frame.data_ref() {
            shared.count_body(index, data.len());
            if keep {
                read.extend_from_slice(data);
            }
        }
        trailers = frame.into_trailers().ok();
    }
    if Tokens::are(host, path) {
        return shared.tokens.answer(host, &read).await;
    }
    match host {
        "api.github.com" => {
            let shown = head.headers.get("authorization").map(|value| value.as_bytes()).unwrap_or_default();
            if let Some(answer) = app::answer(&shared, path, shown, &read) {
                return answer;
            }
            let repo =
                path.strip_prefix("/repos/").map(|rest| rest.splitn(3, '/').take(2).collect::<Vec<_>>().join("/"));
            let visibility = repo.as_ref().and_then(|repo| shared.visibility(repo));
            if shown.is_empty() && path.starts_with("/repos/") {
                // As GitHub: without access, a private repository looks like a missing one.
                if visibility != Some(Visibility::Public) || head.method != "GET" {
                    return json(404, &json!({"message": "Not Found"}));
                }
            } else if shown != shared.bearer.as_bytes() && !shared.app.admits(shown, repo.as_deref()) {
                return json(401, &json!({"message": "Bad credentials"}));
            }
            if let Some(refused) = shared.quotas.spend(path) {
                return refused;
            }
            let answer = api(path, head.uri.query().unwrap_or_default(), &read, &shared).await;
            shared.quotas.tell(path, answer)
        }
        "api.anthropic.com" if path == "/v1/stream" => {
            let events = Events { interval: tokio::time::interval(EVENT_EVERY), sent: 0 };
            let response = Response::builder().header("content-type", "text/event-stream");
            response.body(events.boxed_unsync()).unwrap()
        }
        "api.anthropic.com" => json(200, &json!({"type": "message", "path": path})),
        "files.example.net" if path == "/large" => large(),
        "files.example.net" if path.starts_with("/odd/") => odd::serve(&path["/odd/".len()..], trailers).await,
        "codeload.github.com" | "raw.githubusercontent.com" => {
            let (host, path) = (host.to_owned(), path.to_owned());
            tokio::task::spawn_blocking(move || files::serve(&host, &path, &shared)).await.unwrap()
        }
        "files.example.net"
        | "large.example.net"
        | "aliased.example.net"
        | "uploads.github.com"
        | super::IDN
        | "github-cloud.githubusercontent.com"
        | "github-cloud.s3.amazonaws.com"
        | "release-assets.githubusercontent.com"
        | "productionresultssa7.blob.core.windows.net" => text(200, format!("raw {path}")),
        "chatgpt.com" if path == "/backend-api/wham/usage" => json(401, &json!({"detail": "Unauthorized"})),
        "chatgpt.com" | "cloudcode-pa.googleapis.com" => json(200, &json!({"path": path})),
        // `?to=URL`: a redirect to the URL.
        "keyed.example.com" if path == "/v1/redirect" => {
            let pairs = head.uri.query().unwrap_or_default().split('&');
            let to = pairs.filter_map(|pair| pair.strip_prefix("to=")).next().unwrap_or_default();
            let mut response = text(302, "elsewhere");
            response.headers_mut().insert("location", to.parse().unwrap());
            response
        }
        "api.openai.com" | "generativelanguage.googleapis.com" | "keyed.example.com" | "second.example.com" => {
            json(200, &json!({"path": path}))
        }
        _ => text(421, "no such host here"),
    }
}

/// api.github.com's response to a client with the token.
async fn api(path: &str, query: &str, body: &[u8], shared: &Shared) -> Response<Body> {
    match path.strip_prefix("/repos/") {
        Some(name) if name.matches('/').count() == 1 => match pranks::api(shared, name).await {
            Some(answer) => answer,
            None => repository(name, shared),
        },
        Some(rest) => within_repository(rest, query, shared).await,
        None if path == "/graphql" => match graphql::refs(body) {
            Some((repo, names)) => refs(repo, names, shared).await,
            None => json(200, &graphql::answer(body)),
        },
        None if path == "/" => {
            let mut response = json(200, &json!({}));
            response.headers_mut().insert("x-oauth-scopes", "repo, read:org".parse().unwrap());
            response
        }
        None => json(200, &json!({"path": path})),
    }
}

/// The response to the gateway's query for the refs of a push. A prank for the query has the path
/// `owner/name/refs/` and the names of the refs, with commas between them.
async fn refs(repo: String, names: Vec<String>, shared: &Shared) -> Response<Body> {
    *shared.refs_read.lock().unwrap().entry(repo.clone()).or_default() += 1;
    if let Some(answer) = pranks::api(shared, &format!("{repo}/refs/{}", names.join(","))).await {
        return answer;
    }
    let known = shared.repositories.lock().unwrap().contains_key(&repo);
    let bare = known.then(|| shared.directory.join(format!("{repo}.git")));
    tokio::task::spawn_blocking(move || git_api::refs(bare.as_deref(), &repo, &names)).await.unwrap()
}

/// The parts of a request that a response repeats.
pub fn repeated(headers: &HeaderMap, path: &str) -> HeaderMap {
    let seen = headers.iter().map(|(name, value)| (format!("seen-{name}").parse().unwrap(), value.clone()));
    seen.chain([("seen-path".parse().unwrap(), path.parse().unwrap())]).collect()
}

/// A response with these headers and trailers, and a cookie.
pub fn with(answer: Response<Body>, repeated: HeaderMap) -> Response<Body> {
    let (mut head, body) = answer.into_parts();
    head.headers.extend(repeated.clone());
    // Over HTTP/1.1 only announced trailers are sent.
    let names: Vec<_> = repeated.keys().map(|name| name.as_str()).collect();
    head.headers.insert("trailer", names.join(", ").parse().unwrap());
    head.headers.remove("content-length");
    head.headers.insert("set-cookie", "session=1".parse().unwrap());
    Response::from_parts(head, body.with_trailers(std::future::ready(Some(Ok(repeated)))).boxed_unsync())
}

/// A WebSocket, over HTTP/1.1 only, that returns its bytes unchanged.
fn echo(request: Request<Incoming>, shared: Arc<Shared>, index: usize) -> Response<Body> {
    let is =
        |name: &str, value: &str| request.headers().get(name).is_some_and(|have| have.as_bytes() == value.as_bytes());
    if !(is("upgrade", "websocket") && is("sec-websocket-version", "13") && is("sec-websocket-key", WEB_SOCKET_KEY)) {
        return text(400, "this is a WebSocket");
    }
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = reader.read(&mut bytes).await {
            shared.count_body(index, length);
            if writer.write_all(&bytes[..length]).await.is_err() {
                return;
            }
        }
    });
    let mut response = text(101, "");
    for (name, value) in
        [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", WEB_SOCKET_ACCEPT)]
    {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

/// The number of the repository `name`: unique and always the same.
pub fn number(name: &str) -> u32 {
    name.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)))
}

fn repository(name: &str, shared: &Shared) -> Response<Body> {
    let visibility = shared.repositories.lock().unwrap().get(name).copied();
    let Some(visibility) = visibility else { return json(404, &json!({"message": "Not Found"})) };
    json(
        200,
        &json!({
            "id": number(name), "full_name": name, "default_branch": "main", "private": visibility == Visibility::Private,
        }),
    )
}

/// The response to a request for a repository's content: git's, if the repository exists here and git has a response.
async fn within_repository(rest: &str, query: &str, shared: &Shared) -> Response<Body> {
    if let Some(answer) = pranks::api(shared, rest).await {
        return answer;
    }
    let answered = rest.match_indices('/').nth(1).and_then(|(slash, _)| {
        let (name, question) = (&rest[..slash], &rest[slash + 1..]);
        shared.repositories.lock().unwrap().contains_key(name).then(|| {
            let bare = shared.directory.join(format!("{name}.git"));
            let (question, query) = (question.to_owned(), query.to_owned());
            tokio::task::spawn_blocking(move || git_api::answer(&bare, &question, &query))
        })
    });
    let answer = match answered {
        Some(asked) => asked.await.unwrap(),
        None => None,
    };
    answer.unwrap_or_else(|| json(200, &json!({"path": format!("/repos/{rest}")})))
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
