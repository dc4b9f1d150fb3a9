//! A stand-in for api.github.com in unit tests: TLS on a port of this machine, with responses from the test.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use policy::HostName;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto::ring};

use super::{Client, Limits, Place};

/// The host that the server stands in for.
pub const HOST: &str = "api.github.com";

/// The token that the server requires.
pub const TOKEN: &str = "fixture-token-of-the-unit-tests";

/// The longest response that a client of the server accepts, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// Maps the request line (`GET /path`) and the body to a status and a body.
type Answers = dyn Fn(&str, &str) -> (u16, String) + Send + Sync;

/// The server.
pub struct Server {
    /// The port at this machine's loopback address.
    pub port: u16,
    /// The root certificate to verify the server against.
    pub ca_pem: String,
    /// The request lines so far.
    pub asked: Arc<Mutex<Vec<String>>>,
    /// `GET /slow` gets its response when this is closed.
    pub slow: Arc<Semaphore>,
    /// Further headers of every response.
    pub headers: Arc<Mutex<Vec<(&'static str, String)>>>,
}

impl Server {
    /// Serves until the runtime ends.
    pub async fn start(answers: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![HOST.to_owned()]).unwrap().self_signed(&key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let slow = Arc::new(Semaphore::new(0));
        let headers = Arc::<Mutex<Vec<_>>>::default();
        let served = Served {
            answers: Arc::new(answers),
            asked: Arc::clone(&asked),
            slow: Arc::clone(&slow),
            headers: Arc::clone(&headers),
        };
        tokio::spawn(serve(listener, acceptor(&certificate.pem(), &key.serialize_pem()), served));
        Self { port, ca_pem: certificate.pem(), asked, slow, headers }
    }

    /// A client for the server.
    pub fn client(&self, at_a_time: usize) -> Client {
        let deadline = Duration::from_secs(10);
        let limits = Limits { at_a_time, connect: deadline, deadline, max_answer: MAX_ANSWER };
        let place = Place::Pinned("localhost".into(), self.port);
        Client::new(HostName::parse(HOST.as_bytes()).unwrap(), place, &self.ca_pem, limits).unwrap()
    }

    /// How often this request was sent.
    pub fn asked(&self, line: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == line).count()
    }
}

/// The header that the server requires.
pub fn header() -> (HeaderName, HeaderValue) {
    (AUTHORIZATION, HeaderValue::try_from(format!("Bearer {TOKEN}")).unwrap())
}

fn acceptor(certificate: &str, key: &str) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// The state that each connection shares.
#[derive(Clone)]
struct Served {
    answers: Arc<Answers>,
    asked: Arc<Mutex<Vec<String>>>,
    slow: Arc<Semaphore>,
    headers: Arc<Mutex<Vec<(&'static str, String)>>>,
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, served: Served) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(stream) = acceptor.accept(stream).await else { continue };
        let served = served.clone();
        let service = service_fn(move |request| answer(request, served.clone()));
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(
    request: Request<Incoming>,
    Served { answers, asked, slow, headers }: Served,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let line = format!("{} {}", request.method(), request.uri());
    let shown = request.headers()["authorization"].to_str().unwrap().to_owned();
    // Requests about installations are for an App, which sends a JWT.
    let of_app = line.contains("/installation") && shown.starts_with("Bearer eyJ") && shown.matches('.').count() == 2;
    let authorized = of_app || shown == format!("Bearer {TOKEN}");
    let body = String::from_utf8(request.into_body().collect().await?.to_bytes().into()).unwrap();
    let (status, body) = if authorized { answers(&line, &body) } else { (401, String::new()) };
    let waits = line == "GET /slow";
    asked.lock().unwrap().push(line);
    if waits {
        let _closed = slow.acquire().await;
    }
    // This server may close a connection at any time, as servers do.
    let mut response = Response::builder().status(status).header("x-oauth-scopes", "repo, workflow");
    for (name, value) in headers.lock().unwrap().iter() {
        response = response.header(*name, value);
    }
    Ok(response.body(Full::new(Bytes::from(body))).unwrap())
}
