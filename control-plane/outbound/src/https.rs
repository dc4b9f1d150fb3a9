//! The only HTTPS client, for the gateway's own requests. The caller supplies the credential.
//!
//! A client speaks HTTP/1.1 to one host, over a few kept connections. A pinned host is at the location that
//! `upstreams:` gives, and is verified only against its own CA. Any other host is reached by a tunnel of the operator's
//! proxy, if there is one, or is resolved by the resolver, to public addresses only. Redirects are not followed.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use policy::HostName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use crate::dns::{Resolver, nameservers};

#[cfg(any(test, feature = "testing"))]
pub mod testing;

const PORT: u16 = 443;

/// The longest head of a proxy's answer, in bytes.
const MAX_PROXY_HEAD: usize = 8 << 10;

/// The most idle connections that are kept.
const KEPT: usize = 8;

/// A client for one host.
#[derive(Debug)]
pub struct Client {
    host: HostName,
    place: Place,
    tls: Tls,
    limits: Limits,
    headers: HeaderMap,
    turns: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

/// The limits of a client's requests.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most requests at a time. Further requests wait.
    pub at_a_time: usize,
    /// The timeout for connecting. Each address gets a third of it.
    pub connect: Duration,
    /// The timeout of a request, from the wait for its turn to the last byte of the response.
    pub deadline: Duration,
    /// The longest body of a response, in bytes.
    pub max_answer: usize,
}

/// The location of a host.
#[derive(Clone, Debug)]
pub enum Place {
    /// The configured address or name, and port.
    Pinned(String, u16),
    /// The addresses from DNS.
    Public(Arc<Resolver>),
    /// A tunnel of the proxy at this address or name, and port.
    Proxied(String, u16),
    /// Addresses that were resolved before: the host's, or the proxy's.
    Known {
        /// The addresses.
        addresses: Vec<SocketAddr>,
        /// They are the proxy's.
        proxied: bool,
    },
}

impl Place {
    /// The location of `host` according to this machine's own resolver.
    pub fn of_the_machine(host: &HostName) -> Self {
        Self::Pinned(host.as_str().to_owned(), PORT)
    }

    /// Whether a proxy is at the addresses.
    pub fn is_proxied(&self) -> bool {
        matches!(self, Self::Proxied(..) | Self::Known { proxied: true, .. })
    }

    /// The addresses to connect to for `host`: its own, or the proxy's.
    ///
    /// # Errors
    /// If `host` cannot be resolved.
    pub async fn addresses(&self, host: &HostName) -> Result<Vec<SocketAddr>, Unresolved> {
        Ok(match self {
            Self::Pinned(address, port) | Self::Proxied(address, port) => {
                tokio::net::lookup_host((address.as_str(), *port)).await?.collect()
            }
            Self::Public(resolver) => {
                let found = resolver.own_request(host).await?;
                found.into_iter().map(|address| SocketAddr::new(address, PORT)).collect()
            }
            Self::Known { addresses, .. } => addresses.clone(),
        })
    }
}

#[derive(Clone)]
struct Tls(TlsConnector);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

type Connection = SendRequest<Full<Bytes>>;

/// A response with any status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// A host has no address.
#[derive(Debug, thiserror::Error)]
pub enum Unresolved {
    /// According to the gateway's own resolver.
    #[error(transparent)]
    Name(#[from] nameservers::Failure),
    /// According to the machine's resolver.
    #[error(transparent)]
    Machine(#[from] std::io::Error),
}

/// A request without a response.
#[derive(Debug, thiserror::Error)]
#[error("{host} {failure}")]
pub struct Error {
    /// The request's host.
    pub host: HostName,
    /// The reason.
    pub failure: Failure,
}

/// Why a request has no response. Each text continues a sentence that begins with the host.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No root certificate is usable.
    #[error("cannot be verified: {0}")]
    Roots(String),
    /// The host has no permitted address.
    #[error("has no public address")]
    NoAddress,
    /// The host's name cannot be resolved.
    #[error("cannot be resolved: {0}")]
    Name(#[from] nameservers::Failure),
    /// No address accepts a connection.
    #[error("cannot be reached: {0}")]
    Connect(#[from] std::io::Error),
    /// The proxy opens no tunnel. The status of its answer, or `None` if it is no answer.
    #[error("is not reached by upstream_proxy: {}", told(*.0))]
    Proxy(Option<u16>),
    /// The connection broke off.
    #[error("does not answer: {0}")]
    Http(#[from] hyper::Error),
    /// The request can't be sent.
    #[error("cannot be asked; BUG: {0}")]
    Request(#[from] hyper::http::Error),
    /// The response is too long, or ends too early.
    #[error("answers more than {0} bytes, or not to the end")]
    Answer(usize),
    /// No response before the timeout.
    #[error("does not answer within {} s", .0.as_secs())]
    Late(Duration),
}

/// The answer of a proxy, for [`Failure::Proxy`].
fn told(status: Option<u16>) -> String {
    match status {
        Some(407) => "it requires a credential, which the gateway does not send (status 407)".to_owned(),
        Some(status) => format!("it answers with status {status}"),
        None => "it does not answer as an HTTP proxy".to_owned(),
    }
}

impl From<Unresolved> for Failure {
    fn from(unresolved: Unresolved) -> Self {
        match unresolved {
            Unresolved::Name(failure) => Self::Name(failure),
            Unresolved::Machine(error) => Self::Connect(error),
        }
    }
}

impl Client {
    /// A client for `host`, which is at `place` and is verified against `roots_pem`.
    ///
    /// # Errors
    /// If no root is usable.
    pub fn new(host: HostName, place: Place, roots_pem: &str, limits: Limits) -> Result<Self, Error> {
        let tls = match connector(roots_pem) {
            Ok(tls) => Tls(tls),
            Err(failure) => return Err(Error { host, failure }),
        };
        let (headers, turns) = (HeaderMap::new(), Semaphore::new(limits.at_a_time));
        Ok(Self { host, place, tls, limits, headers, turns, idle: Mutex::default() })
    }

    /// Sends `headers` with every request.
    #[must_use]
    pub fn with_headers(self, headers: HeaderMap) -> Self {
        Self { headers, ..self }
    }

    /// Another client for the same host, with its own connections and its own limit on requests at a time.
    #[must_use]
    pub fn beside(&self, at_a_time: usize) -> Self {
        Self {
            host: self.host.clone(),
            place: self.place.clone(),
            tls: self.tls.clone(),
            limits: Limits { at_a_time, ..self.limits },
            headers: self.headers.clone(),
            turns: Semaphore::new(at_a_time),
            idle: Mutex::default(),
        }
    }

    /// The host.
    pub fn host(&self) -> &HostName {
        &self.host
    }

    /// Sends a request, over a kept connection if there is one. If that connection fails, the request is sent again, so
    /// this is only for requests that change nothing.
    ///
    /// # Errors
    /// If there is no response, see [`Failure`].
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
        body: Bytes,
    ) -> Result<Answer, Error> {
        let request = self.request(method, path, headers, body)?;
        self.in_time(async {
            if let Some(mut kept) = self.kept() {
                match self.exchange(&mut kept, request.clone()).await {
                    // The server may have closed the idle connection.
                    Err(Failure::Http(_)) => {}
                    Err(failure) => return Err(failure),
                    Ok(answer) => {
                        self.keep(kept);
                        return Ok(answer);
                    }
                }
            }
            let mut connection = self.connect().await?;
            let answer = self.exchange(&mut connection, request).await?;
            self.keep(connection);
            Ok(answer)
        })
        .await
    }

    /// Sends a request over a new connection. It is never sent twice.
    ///
    /// # Errors
    /// If there is no response, see [`Failure`].
    pub async fn call_once(
        &self,
        method: Method,
        path: &str,
        headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
        body: Bytes,
    ) -> Result<Answer, Error> {
        let request = self.request(method, path, headers, body)?;
        self.in_time(async { self.exchange(&mut self.connect().await?, request).await }).await
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.host.as_str())
            .header(header::USER_AGENT, concat!("sallyport/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body));
        let mut request = request.map_err(|error| self.error(error.into()))?;
        request.headers_mut().extend(self.headers.clone());
        request.headers_mut().extend(headers);
        Ok(request)
    }

    async fn in_time(&self, exchange: impl Future<Output = Result<Answer, Failure>>) -> Result<Answer, Error> {
        let late = || Failure::Late(self.limits.deadline);
        let in_turn = async {
            let _turn = self.turns.acquire().await.map_err(|_| late())?;
            exchange.await
        };
        let answer = tokio::time::timeout(self.limits.deadline, in_turn).await.unwrap_or_else(|_| Err(late()));
        answer.map_err(|failure| self.error(failure))
    }

    fn error(&self, failure: Failure) -> Error {
        Error { host: self.host.clone(), failure }
    }

    fn kept(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| !connection.is_closed());
        idle.pop()
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT && !connection.is_closed() {
            idle.push(connection);
        }
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let connected = async {
            let addresses = self.place.addresses(&self.host).await?;
            let mut stream = dial(&addresses, self.limits.connect / 3).await?;
            if self.place.is_proxied() {
                tunnel(&mut stream, &self.host).await?;
            }
            let name = ServerName::try_from(self.host.as_str().to_owned())
                .map_err(|error| Failure::Roots(error.to_string()))?;
            let stream = self.tls.0.connect(name, stream).await?;
            Ok(handshake(TokioIo::new(stream)).await?)
        };
        let (sender, connection) = tokio::time::timeout(self.limits.connect, connected)
            .await
            .unwrap_or_else(|_| Err(Failure::Connect(std::io::ErrorKind::TimedOut.into())))?;
        let host = self.host.clone();
        // The connection ends when its sender is dropped, or when the server closes it.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%host, %error, "a connection of our own broke off");
            }
        });
        Ok(sender)
    }

    /// Sends one request on a connection without another request under way.
    async fn exchange(&self, connection: &mut Connection, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        connection.ready().await?;
        let (head, body) = connection.send_request(request).await?.into_parts();
        let body = Limited::new(body, self.limits.max_answer).collect().await.map_err(|error| {
            tracing::debug!(host = %self.host, too_long = error.is::<LengthLimitError>(), %error, "an answer cannot be read");
            Failure::Answer(self.limits.max_answer)
        })?;
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() })
    }
}

/// Connects to the first of `addresses` that accepts within `each`.
async fn dial(addresses: &[SocketAddr], each: Duration) -> Result<TcpStream, Failure> {
    let mut last = Failure::NoAddress;
    for address in addresses {
        // An address that does not respond leaves time for the next one.
        match tokio::time::timeout(each, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error.into(),
            Err(_) => last = std::io::Error::from(std::io::ErrorKind::TimedOut).into(),
        }
    }
    Err(last)
}

/// Opens a tunnel to `host` by the proxy at the other end of `stream`.
///
/// The proxy sends nothing behind the head of its answer, because in TLS the client speaks first.
async fn tunnel(stream: &mut TcpStream, host: &HostName) -> Result<(), Failure> {
    stream.write_all(format!("CONNECT {host}:{PORT} HTTP/1.1\r\nHost: {host}:{PORT}\r\n\r\n").as_bytes()).await?;
    let (mut head, mut chunk) = (Vec::new(), [0; 1024]);
    while !head.ends_with(b"\r\n\r\n") {
        let length = stream.read(&mut chunk).await?;
        head.extend_from_slice(chunk.get(..length).unwrap_or_default());
        // A refusal may have a body.
        let refused = status(&head).filter(|status| !(200..300).contains(status));
        if refused.is_some() || length == 0 || head.len() > MAX_PROXY_HEAD {
            return Err(Failure::Proxy(refused));
        }
    }
    status(&head).map(drop).ok_or(Failure::Proxy(None))
}

/// The status of an answer over HTTP/1 whose first line is here.
fn status(head: &[u8]) -> Option<u16> {
    let (line, _) = str::from_utf8(head).ok()?.split_once("\r\n")?;
    let (version, rest) = line.split_once(' ')?;
    let digits = rest.get(..3).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    version.starts_with("HTTP/1.").then(|| digits.parse().ok()).flatten()
}

/// The TLS configuration that verifies servers against these roots.
fn connector(roots_pem: &str) -> Result<TlsConnector, Failure> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(roots_pem.as_bytes()) {
        // A bundle may contain certificates that are too old to use. If a pinned host's CA is left out here,
        // connecting fails later.
        let added = certificate
            .map_err(|error| error.to_string())
            .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()));
        if let Err(error) = added {
            tracing::debug!(error, "a root certificate is left out");
        }
    }
    if roots.is_empty() {
        return Err(Failure::Roots("no CA certificate can be used".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::Roots(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::testing::{self, Server};
    use super::*;

    #[tokio::test]
    async fn calls_share_a_connection_and_bring_what_the_server_says() {
        let server = Server::start(|line, body| (200, format!("{line} {body}"))).await;
        let client = server.client(1);
        for _ in 0..3 {
            let answer = client.call(Method::POST, "/graphql", [testing::header()], "{}".into()).await.unwrap();
            assert_eq!((answer.status, &answer.body[..]), (200, &b"POST /graphql {}"[..]));
            assert_eq!(answer.headers["x-oauth-scopes"], "repo, workflow");
        }
        assert_eq!(client.idle.lock().unwrap().len(), 1);
        client.call_once(Method::GET, "/", [testing::header()], Bytes::new()).await.unwrap();
        assert_eq!(client.idle.lock().unwrap().len(), 1, "a connection for one request is not kept");
    }

    #[tokio::test]
    async fn a_tunnel_is_opened_by_the_name_and_a_refusal_told() {
        for (answer, expected) in [
            ("HTTP/1.1 200 Connection established\r\n\r\n", "OK"),
            ("HTTP/1.0 200 OK\r\nVia: x\r\n\r\n", "OK"),
            ("HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!", "it answers with status 403"),
            ("HTTP/1.1 407 Authenticate\r\n\r\n", "requires a credential"),
            ("HTTP/1.1 200 OK\r\n\r\nbytes", "does not answer as an HTTP proxy"),
            ("HTTP/1.1 20", "does not answer as an HTTP proxy"),
            ("SSH-2.0-x\r\n\r\n", "does not answer as an HTTP proxy"),
            ("", "does not answer as an HTTP proxy"),
        ] {
            let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut peer, _) = listener.accept().await.unwrap();
            let proxy = async {
                let mut asked = [0; 1024];
                let length = peer.read(&mut asked).await.unwrap();
                peer.write_all(answer.as_bytes()).await.unwrap();
                peer.shutdown().await.unwrap();
                String::from_utf8_lossy(&asked[..length]).into_owned()
            };
            let host = HostName::parse(b"api.example.com").unwrap();
            let (opened, asked) = tokio::join!(tunnel(&mut stream, &host), proxy);
            assert_eq!(asked, "CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n");
            let told = opened.map_or_else(|failure| failure.to_string(), |()| "OK".to_owned());
            assert!(told.contains(expected), "{answer:?}: {told}");
        }
        let endless = "x".repeat(MAX_PROXY_HEAD);
        assert_eq!(status(endless.as_bytes()), None);
    }

    #[test]
    fn only_a_host_that_is_neither_pinned_nor_excepted_is_behind_the_proxy() {
        use crate::upstreams::{Proxy, Upstream, Upstreams};
        let host = |name: &str| HostName::parse(name.as_bytes()).unwrap();
        let pin = Upstream { address: "a".into(), port: 1, ca_pem: String::new() };
        let except = vec![policy::HostPattern::parse("*.corp.example").unwrap()];
        let proxy = Some(Proxy { address: "proxy".into(), port: 3128, except });
        let upstreams = Upstreams { pins: [(host("pinned.example"), pin)].into(), proxy, ..Upstreams::default() };
        let otherwise = Place::Known { addresses: Vec::new(), proxied: false };
        for (name, proxied) in [("github.com", true), ("git.corp.example", false), ("pinned.example", false)] {
            assert_eq!(upstreams.place(&host(name), otherwise.clone()).0.is_proxied(), proxied, "{name}");
        }
    }

    #[tokio::test]
    async fn a_server_with_another_ca_gets_nothing() {
        let server = Server::start(|_, _| (200, String::new())).await;
        let other = rcgen::CertificateParams::new(vec![testing::HOST.to_owned()]).unwrap();
        let pem = other.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
        let client = Client { tls: Tls(connector(&pem).unwrap()), ..server.client(1) };
        let answered = client.call(Method::GET, "/", [testing::header()], Bytes::new()).await;
        assert!(matches!(answered, Err(Error { failure: Failure::Connect(_), .. })));
        assert!(server.asked.lock().unwrap().is_empty());
        assert!(connector("").is_err());
    }
}
