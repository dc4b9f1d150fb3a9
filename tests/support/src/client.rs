//! One persistent connection out of a sandbox: CONNECT, TLS that trusts only the gateway's CA, HTTP/1.1 or HTTP/2.
//! [`tunnel`] and [`tls`] are its first steps, for tests that continue with bytes of their own (raw.rs).

use crate::{Sandbox, kept};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::http::request::Builder;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A TLS connection through a tunnel.
pub type Tls = TlsStream<TcpStream>;

/// The timeout of one step: connect, handshake or response.
pub(crate) const STEP: Duration = Duration::from_secs(40);

/// Which HTTP is spoken inside the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http {
    /// HTTP/1.1
    One,
    /// HTTP/2
    Two,
}

/// A connection to one host through the gateway.
pub struct Client {
    host: String,
    requests: Requests,
}

enum Requests {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

/// A response, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The value of `x-sallyport-rule`, if the gateway refused the request.
    pub rule: Option<String>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// Returns the response if its status is 200.
    ///
    /// # Errors
    /// If the status is not 200: the response.
    pub fn ok(self) -> io::Result<Self> {
        if self.status == 200 { Ok(self) } else { Err(io::Error::other(format!("{self:?}"))) }
    }
}

impl Client {
    /// Connects from `sandbox`, with the source address `source`, to `host` port 443.
    ///
    /// # Errors
    /// If a step fails: its error. If the gateway refuses the CONNECT: the status.
    pub async fn connect(sandbox: &Sandbox, source: Ipv4Addr, host: &str, http: Http) -> io::Result<Self> {
        let work = async {
            let io = TokioIo::new(tls(sandbox, source, host, http).await?);
            let requests = match http {
                Http::One => {
                    let (requests, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
                    tokio::spawn(connection);
                    Requests::One(requests)
                }
                Http::Two => {
                    let (requests, connection) =
                        http2::handshake(TokioExecutor::new(), io).await.map_err(io::Error::other)?;
                    tokio::spawn(connection);
                    Requests::Two(requests)
                }
            };
            Ok(Self { host: host.to_owned(), requests })
        };
        timeout(STEP, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Returns a handle to the same connection, for concurrent requests.
    ///
    /// # Panics
    /// If the connection speaks HTTP/1.1.
    #[must_use]
    pub fn again(&self) -> Self {
        let Requests::Two(requests) = &self.requests else { panic!("HTTP/1.1 carries one request at a time") };
        Self { host: self.host.clone(), requests: Requests::Two(requests.clone()) }
    }

    /// Sends a GET and returns the response when its head has arrived.
    ///
    /// # Errors
    /// If the connection is closed or broken, or the step times out.
    pub async fn open(&mut self, path: &str) -> io::Result<Response<Incoming>> {
        let host = self.host.clone();
        self.send(Method::GET, &host, path).await
    }

    /// Sends a POST with `body` and reads the response.
    ///
    /// # Errors
    /// As [`Client::open`].
    pub async fn post(&mut self, path: &str, content_type: &str, body: Bytes) -> io::Result<Answer> {
        let host = self.host.clone();
        let request = Request::builder().header("content-type", content_type);
        Answer::read(self.send_with(request, Method::POST, &host, path, body).await?).await
    }

    /// Sends a POST without a body, and returns the status, headers and trailers of the response.
    ///
    /// # Errors
    /// As [`Client::open`].
    pub async fn fields(&mut self, path: &str) -> io::Result<(StatusCode, HeaderMap, HeaderMap)> {
        let host = self.host.clone();
        // Without this header the server sends no trailers over HTTP/1.1 (RFC 9110, section 6.5.1).
        let request = Request::builder().header("te", "trailers");
        let answer = self.send_with(request, Method::POST, &host, path, Bytes::new()).await?;
        let (head, body) = answer.into_parts();
        let body = timeout(STEP, body.collect()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        let trailers = body.map_err(io::Error::other)?.trailers().cloned().unwrap_or_default();
        kept::note("trailers", format!("{trailers:?}").as_bytes());
        Ok((head.status, head.headers, trailers))
    }

    /// Sends a request without a body. `path` is empty for CONNECT: `authority` is the whole target.
    async fn send(&mut self, method: Method, authority: &str, path: &str) -> io::Result<Response<Incoming>> {
        self.send_with(Request::builder(), method, authority, path, Bytes::new()).await
    }

    async fn send_with(
        &mut self,
        request: Builder,
        method: Method,
        authority: &str,
        path: &str,
        body: Bytes,
    ) -> io::Result<Response<Incoming>> {
        let request = request.header("user-agent", "rig");
        let request = match (&self.requests, &method) {
            (Requests::One(_), &Method::CONNECT) => request.uri(authority).header("host", authority),
            (Requests::One(_), _) => request.uri(path).header("host", authority),
            (Requests::Two(_), &Method::CONNECT) => request.uri(authority),
            (Requests::Two(_), _) => request.uri(format!("https://{authority}{path}")),
        };
        let request = request.method(method).body(Full::new(body)).unwrap();
        let work = async {
            match &mut self.requests {
                Requests::One(requests) => {
                    requests.ready().await?;
                    requests.send_request(request).await
                }
                Requests::Two(requests) => {
                    requests.ready().await?;
                    requests.send_request(request).await
                }
            }
        };
        let answered = timeout(STEP, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        let answer = answered.map_err(io::Error::other)?;
        kept::note(authority, format!("{} {:?}", answer.status(), answer.headers()).as_bytes());
        Ok(answer)
    }

    /// Sends a GET and reads the response.
    ///
    /// # Errors
    /// As [`Client::open`].
    pub async fn get(&mut self, path: &str) -> io::Result<Answer> {
        Answer::read(self.open(path).await?).await
    }

    /// Sends a GET for `host`, which may differ from the host of the connection.
    ///
    /// # Errors
    /// As [`Client::open`].
    pub async fn get_from(&mut self, host: &str, path: &str) -> io::Result<Answer> {
        Answer::read(self.send(Method::GET, host, path).await?).await
    }

    /// Sends a CONNECT to `target` inside the connection.
    ///
    /// # Errors
    /// As [`Client::open`].
    pub async fn connect_inside(&mut self, target: &str) -> io::Result<Answer> {
        Answer::read(self.send(Method::CONNECT, target, "").await?).await
    }
}

impl Answer {
    async fn read(response: Response<Incoming>) -> io::Result<Self> {
        let status = response.status().as_u16();
        let rule = response.headers().get("x-sallyport-rule").map(|rule| rule.to_str().unwrap().to_owned());
        let body = timeout(STEP, response.into_body().collect()).await;
        let body = body.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?.map_err(io::Error::other)?;
        if let Some(trailers) = body.trailers() {
            kept::note("trailers", format!("{trailers:?}").as_bytes());
        }
        let body = body.to_bytes();
        kept::note("body", &body);
        Ok(Answer { status, rule, body: String::from_utf8_lossy(&body).into_owned() })
    }
}

/// Reads a body until it ends or fails, at most until `deadline`. Returns the number of bytes.
///
/// # Errors
/// If the body is still open at the deadline.
pub async fn drain(mut body: Incoming, deadline: Duration) -> io::Result<usize> {
    let mut bytes = 0;
    let work = async {
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    timeout(deadline, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
    Ok(bytes)
}

/// Reads a body to its end and passes each piece to the callback as it arrives.
///
/// # Errors
/// If the body breaks, or pauses for longer than `patience`.
pub async fn follow(mut body: Incoming, patience: Duration, mut show: impl FnMut(&[u8])) -> io::Result<()> {
    while let Some(frame) = timeout(patience, body.frame()).await? {
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            show(&data);
        }
    }
    Ok(())
}

/// A body that a background task reads as it arrives. Dropping the value stops the task.
pub struct Followed {
    bytes: Arc<AtomicU64>,
    reader: JoinHandle<()>,
}

impl Followed {
    /// Reads `body` until it ends or breaks.
    pub fn new(mut body: Incoming) -> Self {
        let bytes = Arc::new(AtomicU64::new(0));
        let read = Arc::clone(&bytes);
        let reader = tokio::spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                read.fetch_add(frame.data_ref().map_or(0, Bytes::len) as u64, Ordering::SeqCst);
            }
        });
        Self { bytes, reader }
    }

    /// The number of bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Whether the body has ended or failed.
    pub fn ended(&self) -> bool {
        self.reader.is_finished()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Opens a CONNECT to `host` port 443.
///
/// # Errors
/// If the gateway refuses it: the response. If the connection breaks.
pub async fn tunnel(sandbox: &Sandbox, source: Ipv4Addr, host: &str) -> io::Result<TcpStream> {
    tunnel_to(sandbox, source, &format!("{host}:443")).await
}

/// Opens a CONNECT to any target.
///
/// # Errors
/// As [`tunnel`].
pub async fn tunnel_to(sandbox: &Sandbox, source: Ipv4Addr, target: &str) -> io::Result<TcpStream> {
    let proxy = sandbox.proxy.expect("the sandbox is behind a gateway");
    let mut stream = sandbox.socket(source).connect(proxy).await?;
    stream.set_nodelay(true)?;
    stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
    let mut head = Vec::new();
    // The peer sends nothing after the head until the client speaks, so reading single bytes is cheap and loses
    // nothing.
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    if head.split(' ').nth(1) != Some("200") {
        return Err(io::Error::other(format!("CONNECT was answered by: {head}")));
    }
    Ok(stream)
}

/// TLS through a tunnel to `host`, with its name and the ALPN of `http`.
///
/// # Errors
/// As [`tunnel`], or if the handshake fails.
pub async fn tls(sandbox: &Sandbox, source: Ipv4Addr, host: &str, http: Http) -> io::Result<TlsStream<TcpStream>> {
    let stream = tunnel(sandbox, source, host).await?;
    let alpn: &[u8] = if http == Http::Two { b"h2" } else { b"http/1.1" };
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let tls = TlsConnector::from(config(&sandbox.ca_pem, alpn)).connect(name, stream).await?;
    match tls.get_ref().1.alpn_protocol() == Some(alpn) {
        true => Ok(tls),
        false => Err(io::Error::other("the gateway did not agree to the protocol")),
    }
}

fn config(ca_pem: &str, alpn: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}
