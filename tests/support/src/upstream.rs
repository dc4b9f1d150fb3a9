//! The upstream, which plays the internet: one TLS server that is github.com (real git behind it), api.github.com,
//! api.anthropic.com and files.example.net. It records every request that arrives.
//!
//! It runs on threads of its own, so tests may block. Its certificates come from a CA that only the gateway trusts.

pub mod app;
mod files;
mod git;
mod git_api;
pub mod graphql;
pub mod odd;
pub mod pranks;
mod quotas;
mod sites;
pub(crate) mod tls;
pub mod tokens;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sites::Body;
pub use sites::{WEB_SOCKET_ACCEPT, WEB_SOCKET_KEY, number};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// The upstream's address. No sandbox has a route to it.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// The names that it serves.
pub const HOSTS: [&str; 4] = ["github.com", "api.github.com", "api.anthropic.com", "files.example.net"];

/// Further names that it serves. The rig's usual policy does not allow them.
pub const OTHER_HOSTS: [&str; 20] = [
    "large.example.net",
    "aliased.example.net",
    "uploads.github.com",
    "codeload.github.com",
    "raw.githubusercontent.com",
    "github-cloud.githubusercontent.com",
    "github-cloud.s3.amazonaws.com",
    "release-assets.githubusercontent.com",
    "productionresultssa7.blob.core.windows.net",
    "api.openai.com",
    "generativelanguage.googleapis.com",
    "keyed.example.com",
    "chatgpt.com",
    "cloudcode-pa.googleapis.com",
    "auth.openai.com",
    "oauth2.googleapis.com",
    "console.anthropic.com",
    "platform.claude.com",
    "second.example.com",
    IDN,
];

/// bücher.example, as in DNS (RFC 5891 section 4.4).
pub const IDN: &str = "xn--bcher-kva.example";

/// A request, unchanged, as it arrived.
#[derive(Clone)]
pub struct Recorded {
    /// The requested host.
    pub host: String,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The headers in the order of their first occurrence; names are lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The number of bytes of body that have arrived.
    pub body_bytes: u64,
    /// The name in the TLS handshake.
    pub sni: String,
    /// The protocol that the TLS handshake agreed on.
    pub alpn: String,
}

impl Recorded {
    /// Whether the request is the gateway's own and not a sandbox's.
    pub fn is_own(&self) -> bool {
        self.header("user-agent").iter().any(|agent| agent.starts_with(b"sallyport"))
    }

    /// All values of the header `name` (lower case).
    pub fn header(&self, name: &str) -> Vec<&[u8]> {
        self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_slice()).collect()
    }
}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "\n{} {}{} ({} bytes, {}, {})",
            self.method, self.host, self.path, self.body_bytes, self.sni, self.alpn
        )?;
        self.headers.iter().try_for_each(|(name, value)| write!(f, "\n  {name}: {}", value.escape_ascii()))
    }
}

/// The clients that may read a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// All clients.
    Public,
    /// Only clients with the token.
    Private,
}

/// The state that connections share.
struct Shared {
    basic: String,
    bearer: String,
    directory: PathBuf,
    repositories: Mutex<HashMap<String, Visibility>>,
    requests: Mutex<Vec<Recorded>>,
    connections: AtomicU64,
    pranks: pranks::Pranks,
    tokens: tokens::Tokens,
    app: app::App,
    quotas: quotas::Quotas,
    /// The queries for the refs of a push, by repository.
    refs_read: Mutex<HashMap<String, usize>>,
}

impl Shared {
    fn visibility(&self, repo: &str) -> Option<Visibility> {
        self.repositories.lock().unwrap().get(repo).copied()
    }

    fn count_body(&self, request: usize, bytes: usize) {
        self.requests.lock().unwrap()[request].body_bytes += bytes as u64;
    }
}

/// The running server.
pub struct Upstream {
    /// Its address.
    pub address: SocketAddr,
    /// Its CA, a PEM file.
    pub ca: PathBuf,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl Upstream {
    /// Starts the server on a free port of [`ADDRESS`]. It accepts [`crate::TOKEN`] and no other credential.
    pub fn start() -> Self {
        let directory = crate::scratch("upstream");
        crate::sandbox::ip(&["address", "replace", &format!("{ADDRESS}/32"), "dev", "lo"]);
        let (acceptor, ca_pem) = tls::acceptor(&[&HOSTS[..], &OTHER_HOSTS[..]].concat());
        let ca = directory.join("ca.pem");
        std::fs::write(&ca, ca_pem).unwrap();
        let shared = Arc::new(Shared {
            basic: format!("Basic {}", BASE64_STANDARD.encode(format!("x-access-token:{}", crate::TOKEN))),
            bearer: format!("Bearer {}", crate::TOKEN),
            directory,
            repositories: Mutex::default(),
            requests: Mutex::default(),
            connections: AtomicU64::new(0),
            pranks: pranks::Pranks::default(),
            tokens: tokens::Tokens::default(),
            app: app::App::default(),
            quotas: quotas::Quotas::default(),
            refs_read: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind((ADDRESS, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(accept(listener, acceptor, Arc::clone(&shared)));
        Self { address, ca, shared, runtime: Some(runtime) }
    }

    /// Every request so far, in the order of arrival.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The requests so far whose `host/path` contains `text`. Tests use unique paths to find their requests.
    pub fn requests_with(&self, text: &str) -> Vec<Recorded> {
        let requests = self.shared.requests.lock().unwrap();
        requests.iter().filter(|request| format!("{}{}", request.host, request.path).contains(text)).cloned().collect()
    }

    /// How often the gateway has read the refs of `owner/name` for a push.
    pub fn refs_read(&self, name: &str) -> usize {
        self.shared.refs_read.lock().unwrap().get(name).copied().unwrap_or_default()
    }

    /// Gives api.github.com a quota for `resource`, of which `remaining` calls of `limit` are left for an hour. Without
    /// one its answers tell none.
    pub fn set_quota(&self, resource: &'static str, limit: u64, remaining: u64) {
        self.shared.quotas.set(resource, limit, remaining);
    }

    /// The token endpoints.
    pub fn tokens(&self) -> &tokens::Tokens {
        &self.shared.tokens
    }

    /// The number of connections that were ever accepted.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Makes the repository `owner/name` with one commit on `main` and returns the directory of the bare repository.
    pub fn create_repo(&self, name: &str, visibility: Visibility) -> PathBuf {
        let bare = self.shared.directory.join(format!("{name}.git"));
        let work = crate::scratch("seed");
        git(&work, &["init", "--quiet", "--initial-branch=main", "."]);
        std::fs::write(work.join("README"), name).unwrap();
        git(&work, &["add", "."]);
        git(&work, &["commit", "--quiet", "-m", "seed"]);
        git(&work, &["clone", "--quiet", "--bare", ".", bare.to_str().unwrap()]);
        // git neither compresses random blobs of hundreds of megabytes nor searches them for deltas.
        for (key, value) in [("core.compression", "0"), ("core.bigFileThreshold", "1m"), ("http.receivepack", "true")] {
            git(&bare, &["config", key, value]);
        }
        self.shared.repositories.lock().unwrap().insert(name.to_owned(), visibility);
        bare
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // In the background: a drop in place would block until the runtime ends, which an async test must not do.
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// Runs the host's git in `directory`, outside every sandbox, and returns its output.
pub fn git(directory: &Path, args: &[&str]) -> String {
    let output = host_git(directory).args(args).output().unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// git without the configuration of this machine or its user.
pub(crate) fn host_git(directory: &Path) -> Command {
    let mut command = Command::new("git");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).current_dir(directory);
    command.env("HOME", "/nonexistent").env("GIT_CONFIG_NOSYSTEM", "1").env("LC_ALL", "C");
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "Rig").env(format!("GIT_{role}_EMAIL"), "rig@example.com");
    }
    command
}

async fn accept(listener: std::net::TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        shared.connections.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(serve(stream, acceptor.clone(), Arc::clone(&shared)));
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    // Small responses on persistent connections would otherwise wait for delayed acknowledgements.
    stream.set_nodelay(true).unwrap();
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let session = stream.get_ref().1;
    let sni = session.server_name().unwrap_or_default().to_owned();
    let alpn = String::from_utf8_lossy(session.alpn_protocol().unwrap_or(b"http/1.1")).into_owned();
    let h2 = alpn == "h2";
    let service = hyper::service::service_fn(move |request| {
        let (shared, sni, alpn) = (Arc::clone(&shared), sni.clone(), alpn.clone());
        async move { answer(request, shared, sni, alpn).await }
    });
    let io = TokioIo::new(stream);
    // A client may leave at any time, which is an error here.
    if h2 {
        let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        // The gateway's own limit applies first.
        let _ = server.max_header_list_size(1 << 20).serve_connection(io, service).await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades().await;
    }
}

/// A request whose target contains this text gets its own headers and target back, in the headers and in the trailers
/// of the response, as `seen-…`, beside a cookie.
pub const REPEAT: &str = "please-repeat";

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
    sni: String,
    alpn: String,
) -> std::io::Result<Response<Body>> {
    let authority = match request.uri().authority() {
        Some(authority) => authority.as_str().to_owned(),
        None => header(&request, "host"),
    };
    let host = authority.split(':').next().unwrap_or_default().to_owned();
    let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let headers: Vec<_> =
        request.headers().iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    let repeated = path.contains(REPEAT).then(|| sites::repeated(request.headers(), &path));
    let method = request.method().to_string();
    let index = {
        let mut requests = shared.requests.lock().unwrap();
        let (host, path, sni) = (host.clone(), path, sni.clone());
        requests.push(Recorded { host, method, path, headers, body_bytes: 0, sni, alpn });
        requests.len() - 1
    };
    if host != sni {
        return Ok(sites::text(421, "the name in the handshake is not the host"));
    }
    let answer = match host.as_str() {
        "github.com" => git::serve(request, shared, index).await?,
        _ => sites::serve(&host, request, shared, index).await,
    };
    Ok(match repeated {
        Some(repeated) => sites::with(answer, repeated),
        None => answer,
    })
}

fn header(request: &Request<Incoming>, name: &str) -> String {
    let value = request.headers().get(name).map(|value| value.as_bytes()).unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
}
