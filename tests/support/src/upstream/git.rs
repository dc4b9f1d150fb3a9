//! github.com: real `git http-backend` over bare repositories, streamed both ways with bounded memory.

use super::sites::{Body, text};
use super::{Shared, Visibility, pranks};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The number of bytes that are read from http-backend at a time.
const CHUNK: usize = 64 * 1024;
/// The largest head that http-backend writes.
const MAX_HEAD: usize = 16 * 1024;

/// A file of a bare repository that names the git which serves it. By default the first one of the PATH does.
pub const SERVED_BY: &str = "served-by";
/// A file of a bare repository to which the bodies of its requests are added, if it exists.
pub const RECEIVED: &str = "received";

/// Responds as github.com does: 401 if the request needs a credential, otherwise git's response.
///
/// # Errors
/// If a prank breaks the stream.
pub async fn serve(request: Request<Incoming>, shared: Arc<Shared>, index: usize) -> io::Result<Response<Body>> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let Some((name, service)) = split(&path) else { return Ok(text(404, "not found")) };
    let push = service == "/git-receive-pack" || query.contains("service=git-receive-pack");
    let visibility = shared.repositories.lock().unwrap().get(name).copied();
    let shown = request.headers().get("authorization").map(|value| value.as_bytes()).unwrap_or_default();
    let authorized = shown == shared.basic.as_bytes() || shared.app.admits(shown, Some(name));
    // As GitHub: without access, a private repository looks like a missing one.
    if !authorized && (push || visibility != Some(Visibility::Public)) {
        let mut response = text(401, "who are you?");
        response.headers_mut().insert("www-authenticate", "Basic realm=\"GitHub\"".parse().unwrap());
        return Ok(response);
    }
    if visibility.is_none() {
        return Ok(text(404, "Repository not found."));
    }
    let target = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    if let Some(prank) = pranks::git(&shared, &target) {
        return pranks::play(prank, request, shared, index).await;
    }

    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let bare = shared.directory.join(format!("{name}.git"));
    let program = std::fs::read_to_string(bare.join(SERVED_BY)).unwrap_or_else(|_| "git".into());
    let mut command = Command::new(program);
    // No CONTENT_LENGTH: with it, http-backend (2.39 to 2.47) spins for ever when its input ends early.
    command
        .arg("http-backend")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_PROJECT_ROOT", &shared.directory)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", head.method.as_str())
        .env("PATH_INFO", format!("/{name}.git{service}"))
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", header("content-type"))
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    if authorized {
        command.env("REMOTE_USER", "x-access-token");
    }
    let mut child = command.spawn().unwrap();
    tokio::spawn(feed(body, child.stdin.take().unwrap(), shared, index, bare.join(RECEIVED)));
    let mut stdout = child.stdout.take().unwrap();
    Ok(match read_head(&mut stdout).await {
        Ok((builder, first)) => {
            builder.body(Output { first: Some(first), stdout, _child: child }.boxed_unsync()).unwrap()
        }
        Err(error) => text(500, format!("git http-backend: {error}")),
    })
}

/// `/owner/name[.git]/service` as `owner/name` and `/service`.
fn split(path: &str) -> Option<(&str, &str)> {
    let slash = path.match_indices('/').nth(2)?.0;
    let (name, service) = path.split_at(slash);
    let name = name.strip_prefix('/')?;
    Some((name.strip_suffix(".git").unwrap_or(name), service))
}

async fn feed(mut body: Incoming, mut stdin: ChildStdin, shared: Arc<Shared>, index: usize, received: PathBuf) {
    let mut received = std::fs::OpenOptions::new().append(true).open(received).ok();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        if let Some(received) = &mut received {
            std::io::Write::write_all(received, &data).unwrap();
        }
        shared.count_body(index, data.len());
        // git may stop reading early. The rest is still read, as by a server that keeps its connection.
        let _ = stdin.write_all(&data).await;
    }
}

/// The CGI head (RFC 3875 section 6.3) as a response without a body, and the bytes after the head.
async fn read_head(stdout: &mut ChildStdout) -> io::Result<(hyper::http::response::Builder, Bytes)> {
    let mut read = Vec::new();
    let end = loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if read.len() > MAX_HEAD || stdout.read_buf(&mut read).await? == 0 {
            return Err(io::Error::other("no complete head"));
        }
    };
    let rest = Bytes::copy_from_slice(&read[end + 4..]);
    let mut builder = Response::builder();
    for line in String::from_utf8_lossy(&read[..end]).lines() {
        let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other("odd head"))?;
        let value = value.trim();
        builder = match name {
            "Status" => builder.status(value.split(' ').next().unwrap_or_default()),
            _ => builder.header(name, value),
        };
    }
    Ok((builder, rest))
}

/// The output of git, piece by piece.
struct Output {
    first: Option<Bytes>,
    stdout: ChildStdout,
    _child: Child,
}

impl hyper::body::Body for Output {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(first) = self.first.take().filter(|first| !first.is_empty()) {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let mut storage = vec![0; CHUNK];
        let mut buffer = ReadBuf::new(&mut storage);
        std::task::ready!(Pin::new(&mut self.stdout).poll_read(cx, &mut buffer))?;
        let filled = buffer.filled().len();
        if filled == 0 {
            return Poll::Ready(None);
        }
        storage.truncate(filled);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(storage)))))
    }
}
