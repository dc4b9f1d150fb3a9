//! HTTPS to api.github.com, for the gateway's own calls. Who makes them brings their credential.
//!
//! HTTP/1.1 over a few kept connections. A pinned host is where `upstreams:` says, and its CA alone vouches for it; any
//! other is found by the resolver, at public addresses only. Redirects are answers, and are not followed.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use policy::HostName;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use crate::config::Config;
use crate::dns::{Resolver, nameservers};

/// The one host that is asked.
pub const HOST: &str = "api.github.com";

/// How long a call may take, from the wait for its turn to the last byte.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// The longest answer. A repository has 10 KB, a hundred nodes have 20.
pub const MAX_ANSWER: usize = 1 << 20;

/// The version of the API that is spoken.
const VERSION: &str = "2022-11-28";

const PORT: u16 = 443;

/// Connections that are kept.
const KEPT: usize = 8;

/// The way there.
#[derive(Debug)]
pub struct Transport {
    host: HostName,
    place: Place,
    tls: Tls,
    turns: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

/// Where the host is.
#[derive(Clone, Debug)]
pub enum Place {
    /// Where the operator says: an address or a name, and a port.
    Pinned(String, u16),
    /// Where DNS says.
    Public(Arc<Resolver>),
}

impl Place {
    /// Where every program on this machine finds the host.
    pub fn of_the_machine() -> Self {
        Self::Pinned(HOST.into(), PORT)
    }

    /// Where `config` has `host`, or else `otherwise`, and the roots that vouch for it there.
    pub fn of<'a>(host: &HostName, config: &'a Config, roots_pem: &'a str, otherwise: Self) -> (Self, &'a str) {
        match config.upstreams.get(host) {
            Some(pinned) => (Self::Pinned(pinned.address.clone(), pinned.port), pinned.ca_pem.as_str()),
            None => (otherwise, roots_pem),
        }
    }

    /// The addresses of `host` there.
    ///
    /// # Errors
    /// It cannot be resolved.
    pub async fn addresses(&self, host: &HostName) -> Result<Vec<SocketAddr>, Unresolved> {
        Ok(match self {
            Self::Pinned(address, port) => tokio::net::lookup_host((address.as_str(), *port)).await?.collect(),
            Self::Public(resolver) => {
                let found = resolver.own_request(host).await?;
                found.into_iter().map(|address| SocketAddr::new(address, PORT)).collect()
            }
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

/// An answer, whatever it says.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Bytes,
    /// The header `x-oauth-scopes`, which classic tokens have.
    pub scopes: Option<String>,
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

/// There is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The gateway has no credential for the API.
    #[error("{0}")]
    NoCredential(String),
    /// The roots cannot be used.
    #[error("the certificates that {HOST} is verified against cannot be used: {0}")]
    Roots(String),
    /// The host has no address that may be used.
    #[error("{HOST} has no public address")]
    NoAddress,
    /// Its name cannot be resolved.
    #[error("{HOST} cannot be resolved: {0}")]
    Name(#[from] nameservers::Failure),
    /// No connection.
    #[error("{HOST} cannot be reached: {0}")]
    Connect(#[from] std::io::Error),
    /// The connection broke off.
    #[error("{HOST} does not answer: {0}")]
    Http(#[from] hyper::Error),
    /// The request cannot be written.
    #[error("BUG: {0}")]
    Request(#[from] hyper::http::Error),
    /// The answer cannot be read to its end.
    #[error("{HOST} answers more than {MAX_ANSWER} bytes, or not to the end")]
    Answer,
    /// It is not in a state to answer, or wants to be asked less.
    #[error("{HOST} answers with status {0}")]
    Status(u16),
    /// Too slow.
    #[error("{HOST} does not answer within {} s", DEADLINE.as_secs())]
    Late,
}

impl Transport {
    /// To the host as `config` has it; where that is not pinned it is at `otherwise`, and `roots_pem` are who vouches for
    /// it. It makes so many calls at a time; one more waits.
    ///
    /// # Errors
    /// The roots cannot be read.
    pub fn new(config: &Config, roots_pem: &str, otherwise: Place, at_a_time: usize) -> Result<Self, Error> {
        let host = HostName::parse(HOST.as_bytes()).map_err(|error| Error::Roots(error.to_string()))?;
        let (place, roots) = Place::of(&host, config, roots_pem, otherwise);
        Ok(Self { host, place, tls: Tls(connector(roots)?), turns: Semaphore::new(at_a_time), idle: Mutex::default() })
    }

    /// Another one to the same place, with connections and turns of its own.
    pub fn beside(&self, at_a_time: usize) -> Self {
        let (host, place, tls) = (self.host.clone(), self.place.clone(), self.tls.clone());
        Self { host, place, tls, turns: Semaphore::new(at_a_time), idle: Mutex::default() }
    }

    /// The host that is asked.
    pub fn host(&self) -> &HostName {
        &self.host
    }

    /// One call, with the header that holds its credential. `body` is JSON. Sent a second time where a kept connection
    /// fails: for what changes nothing.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        (name, value): (HeaderName, HeaderValue),
        body: Bytes,
    ) -> Result<Answer, Error> {
        let exchanged = async {
            let _turn = self.turns.acquire().await.map_err(|_| Error::Late)?;
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(header::HOST, HOST)
                .header(header::USER_AGENT, concat!("sallyport/", env!("CARGO_PKG_VERSION")))
                .header(header::ACCEPT, "application/vnd.github+json")
                .header(header::CONTENT_TYPE, "application/json")
                .header("x-github-api-version", VERSION)
                .header(name, value)
                .body(Full::new(body))?;
            self.exchange(request).await
        };
        tokio::time::timeout(DEADLINE, exchanged).await.unwrap_or(Err(Error::Late))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, Error> {
        if let Some(mut kept) = self.kept() {
            match one(&mut kept, request.clone()).await {
                // The server may have ended the connection while it was not used.
                Err(Error::Http(_)) => {}
                Err(error) => return Err(error),
                Ok(answer) => {
                    self.keep(kept);
                    return Ok(answer);
                }
            }
        }
        let mut connection = self.connect().await?;
        let answer = one(&mut connection, request).await?;
        self.keep(connection);
        Ok(answer)
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

    async fn connect(&self) -> Result<Connection, Error> {
        let addresses = self.place.addresses(&self.host).await.map_err(|unresolved| match unresolved {
            Unresolved::Name(failure) => Error::Name(failure),
            Unresolved::Machine(error) => Error::Connect(error),
        })?;
        let stream = dial(&addresses).await?;
        let name = ServerName::try_from(HOST).map_err(|error| Error::Roots(error.to_string()))?;
        let stream = self.tls.0.connect(name, stream).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // It ends when its sender is dropped, or when the server ends it.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to GitHub's API broke off");
            }
        });
        Ok(sender)
    }
}

/// One request on a connection that has no other.
async fn one(connection: &mut Connection, request: Request<Full<Bytes>>) -> Result<Answer, Error> {
    connection.ready().await?;
    let (head, body) = connection.send_request(request).await?.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| {
        tracing::debug!(too_long = error.is::<LengthLimitError>(), %error, "an answer of GitHub's cannot be read");
        Error::Answer
    })?;
    let scopes = head.headers.get("x-oauth-scopes").and_then(|value| value.to_str().ok()).map(str::to_owned);
    Ok(Answer { status: head.status.as_u16(), body: body.to_bytes(), scopes })
}

/// Connects to the first of `addresses` that takes it.
///
/// # Errors
/// None does, or there is none.
pub async fn dial(addresses: &[SocketAddr]) -> Result<TcpStream, Error> {
    let mut last = Error::NoAddress;
    for address in addresses {
        // An address that is silent leaves time for the next one.
        let each = DEADLINE / 3;
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
///
/// # Errors
/// There is none among them.
pub fn connector(roots_pem: &str) -> Result<TlsConnector, Error> {
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
        return Err(Error::Roots("there is none".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Roots(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::testing::{self, Rig};
    use super::*;

    #[tokio::test]
    async fn calls_share_a_connection_and_bring_what_the_server_says() {
        let rig = Rig::start(|line, body| (200, format!("{line} {body}"))).await;
        for _ in 0..3 {
            let answer = rig.transport().call(Method::POST, "/graphql", testing::header(), "{}".into()).await.unwrap();
            assert_eq!((answer.status, &answer.body[..]), (200, &b"POST /graphql {}"[..]));
        }
        assert_eq!(rig.client.get(None, "/").await.unwrap().scopes.as_deref(), Some("repo, workflow"));
        assert_eq!(rig.transport().idle.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_server_with_another_ca_gets_nothing() {
        let rig = Rig::start(|_, _| (200, String::new())).await;
        let other = rcgen::CertificateParams::new(vec![HOST.to_owned()]).unwrap();
        let pem = other.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
        let transport = Transport { tls: Tls(connector(&pem).unwrap()), ..rig.transport().beside(1) };
        let answered = transport.call(Method::GET, "/", testing::header(), Bytes::new()).await;
        assert!(matches!(answered, Err(Error::Connect(_))));
        assert!(rig.asked.lock().unwrap().is_empty());
        assert!(connector("").is_err());
    }
}
