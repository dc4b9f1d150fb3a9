//! The one HTTPS client, for the gateway's own requests. Its callers bring the credential.
//!
//! A client speaks HTTP/1.1 to one host, over a few kept connections. A pinned host is where `upstreams:` says, and its
//! CA alone vouches for it. Any other host is found by the resolver, at public addresses only. Redirects are not
//! followed.

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

/// Connections that are kept.
const KEPT: usize = 8;

/// A client of one host.
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

/// What a client's requests may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests at a time. One more waits.
    pub at_a_time: usize,
    /// How long a connection may take. Each address has a third of it.
    pub connect: Duration,
    /// How long a request may take, from the wait for its turn to the last byte of its answer.
    pub deadline: Duration,
    /// The longest body of an answer, in bytes.
    pub max_answer: usize,
}

/// Where a host is.
#[derive(Clone, Debug)]
pub enum Place {
    /// At an address or a name, and a port, that the operator has named.
    Pinned(String, u16),
    /// Where DNS says.
    Public(Arc<Resolver>),
    /// At addresses that were found before.
    Known(Vec<SocketAddr>),
}

impl Place {
    /// Where every program on this machine finds `host`.
    pub fn of_the_machine(host: &HostName) -> Self {
        Self::Pinned(host.as_str().to_owned(), PORT)
    }

    /// The addresses of `host` there.
    ///
    /// # Errors
    /// If `host` cannot be resolved.
    pub async fn addresses(&self, host: &HostName) -> Result<Vec<SocketAddr>, Unresolved> {
        Ok(match self {
            Self::Pinned(address, port) => tokio::net::lookup_host((address.as_str(), *port)).await?.collect(),
            Self::Public(resolver) => {
                let found = resolver.own_request(host).await?;
                found.into_iter().map(|address| SocketAddr::new(address, PORT)).collect()
            }
            Self::Known(addresses) => addresses.clone(),
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

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// A host has no address.
#[derive(Debug, thiserror::Error)]
pub enum Unresolved {
    /// By our own resolver.
    #[error(transparent)]
    Name(#[from] nameservers::Failure),
    /// By the machine's.
    #[error(transparent)]
    Machine(#[from] std::io::Error),
}

/// A request has no answer.
#[derive(Debug, thiserror::Error)]
#[error("{host} {failure}")]
pub struct Error {
    /// The request's host.
    pub host: HostName,
    /// The reason.
    pub failure: Failure,
}

/// Why a request has no answer. Each text continues a sentence that begins with the host.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No root certificate can be used.
    #[error("cannot be verified: {0}")]
    Roots(String),
    /// The host has no address that may be used.
    #[error("has no public address")]
    NoAddress,
    /// The host's name cannot be resolved.
    #[error("cannot be resolved: {0}")]
    Name(#[from] nameservers::Failure),
    /// No connection.
    #[error("cannot be reached: {0}")]
    Connect(#[from] std::io::Error),
    /// The connection broke off.
    #[error("does not answer: {0}")]
    Http(#[from] hyper::Error),
    /// The request cannot be written.
    #[error("cannot be asked; BUG: {0}")]
    Request(#[from] hyper::http::Error),
    /// The answer is too long, or ends too early.
    #[error("answers more than {0} bytes, or not to the end")]
    Answer(usize),
    /// No answer within the deadline.
    #[error("does not answer within {} s", .0.as_secs())]
    Late(Duration),
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
    /// A client of `host`, which is at `place` and which `roots_pem` vouch for.
    ///
    /// # Errors
    /// If no root can be used.
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

    /// Another client of the same host, with connections and turns of its own.
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

    /// One request, over a kept connection where there is one. It is sent a second time if that connection fails: for
    /// requests that change nothing.
    ///
    /// # Errors
    /// See [`Failure`].
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
                    // The server may have ended the connection while it was not used.
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

    /// One request over a connection of its own, never sent twice.
    ///
    /// # Errors
    /// See [`Failure`].
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
            let stream = dial(&addresses, self.limits.connect / 3).await?;
            let name = ServerName::try_from(self.host.as_str().to_owned())
                .map_err(|error| Failure::Roots(error.to_string()))?;
            let stream = self.tls.0.connect(name, stream).await?;
            Ok(handshake(TokioIo::new(stream)).await?)
        };
        let (sender, connection) = tokio::time::timeout(self.limits.connect, connected)
            .await
            .unwrap_or_else(|_| Err(Failure::Connect(std::io::ErrorKind::TimedOut.into())))?;
        let host = self.host.clone();
        // It ends when its sender is dropped, or when the server ends it.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%host, %error, "a connection of our own broke off");
            }
        });
        Ok(sender)
    }

    /// One request on a connection that has no other.
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
        // An address that is silent leaves time for the next one.
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

/// TLS in which these roots vouch for a server.
fn connector(roots_pem: &str) -> Result<TlsConnector, Failure> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(roots_pem.as_bytes()) {
        // A bundle may hold what is too old to be used; a pinned host's CA that is left out fails as loudly later.
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
