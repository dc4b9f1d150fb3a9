//! A TLS server whose responses a test scripts: their content, and the point where a response stops until the test
//! opens a gate. The server records each request with its body.

use crate::upstream::{ADDRESS, Recorded, tls};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

/// A request with its body.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The request without its body.
    pub head: Recorded,
    /// The body.
    pub body: Bytes,
}

impl Asked {
    /// The path without the query.
    pub fn path(&self) -> &str {
        self.head.path.split('?').next().unwrap_or_default()
    }

    /// The body as JSON. Null if it is not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A point at which responses wait until a test opens it.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    /// A closed gate.
    pub fn closed() -> Self {
        Self(Arc::new(watch::channel(false).0))
    }

    /// Opens the gate, for current and later responses.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        *self.0.borrow()
    }
}

/// A part of a response.
#[derive(Clone, Debug)]
pub enum Part {
    /// These bytes.
    Bytes(Bytes),
    /// A wait until the gate is open.
    Gate(Gate),
}

/// A response.
#[derive(Clone, Debug)]
pub struct Play {
    /// Its status.
    pub status: u16,
    /// Its `content-type`.
    pub content_type: &'static str,
    /// Its body.
    pub parts: Vec<Part>,
}

impl Play {
    /// A complete JSON response.
    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::whole(status, "application/json", body.to_string())
    }

    /// A response whose body comes at once.
    pub fn whole(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, parts: vec![Part::Bytes(body.into())] }
    }

    /// Server-sent events, `before` and `after` the gate.
    pub fn events(before: String, gate: &Gate, after: String) -> Self {
        let parts = vec![Part::Bytes(before.into()), Part::Gate(gate.clone()), Part::Bytes(after.into())];
        Self { status: 200, content_type: "text/event-stream", parts }
    }
}

type Script = dyn Fn(&Asked) -> Play + Send + Sync;

/// The running server.
pub struct Scripted {
    /// Its address.
    pub address: SocketAddr,
    /// Its CA, a PEM file.
    pub ca: PathBuf,
    hosts: Vec<String>,
    asked: Arc<Mutex<Vec<Asked>>>,
    runtime: Option<Runtime>,
}

impl Scripted {
    /// Starts it on a free port of [`ADDRESS`], with a certificate for each of `hosts`.
    pub fn start(hosts: &[&str], script: impl Fn(&Asked) -> Play + Send + Sync + 'static) -> Self {
        Self::with(tls::acceptor(hosts), hosts, script)
    }

    /// The same with one certificate, for `host`, which it presents whatever a handshake names.
    pub fn impostor(host: &str, script: impl Fn(&Asked) -> Play + Send + Sync + 'static) -> Self {
        Self::with(tls::impostor(host), &[host], script)
    }

    fn with(
        (acceptor, ca_pem): (TlsAcceptor, String),
        hosts: &[&str],
        script: impl Fn(&Asked) -> Play + Send + Sync + 'static,
    ) -> Self {
        crate::sandbox::ip(&["address", "replace", &format!("{ADDRESS}/32"), "dev", "lo"]);
        let ca = crate::scratch("scripted").join("ca.pem");
        std::fs::write(&ca, ca_pem).unwrap();
        let listener = std::net::TcpListener::bind((ADDRESS, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Script> = Arc::new(script);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn({
            let asked = Arc::clone(&asked);
            async move {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (acceptor, asked, script) = (acceptor.clone(), Arc::clone(&asked), Arc::clone(&script));
                    tokio::spawn(async move {
                        stream.set_nodelay(true).unwrap();
                        let Ok(stream) = acceptor.accept(stream).await else { return };
                        serve(stream, asked, script).await;
                    });
                }
            }
        });
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        Self { address, ca, hosts, asked, runtime: Some(runtime) }
    }

    /// The lines below `upstreams:` that pin its names to it.
    pub fn pins(&self) -> String {
        let (address, port, ca) = (self.address.ip(), self.address.port(), self.ca.display());
        self.hosts.iter().map(|host| format!("  {host}: {{address: {address}, port: {port}, ca: {ca}}}\n")).collect()
    }

    /// Every request so far, in the order of arrival.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

async fn serve(stream: tokio_rustls::server::TlsStream<TcpStream>, asked: Arc<Mutex<Vec<Asked>>>, script: Arc<Script>) {
    let session = stream.get_ref().1;
    let sni = session.server_name().unwrap_or_default().to_owned();
    let alpn = String::from_utf8_lossy(session.alpn_protocol().unwrap_or(b"http/1.1")).into_owned();
    let h2 = alpn == "h2";
    let service = hyper::service::service_fn(move |request| {
        let (asked, script, sni, alpn) = (Arc::clone(&asked), Arc::clone(&script), sni.clone(), alpn.clone());
        async move { Ok::<_, Infallible>(answer(request, &asked, script.as_ref(), sni, alpn).await) }
    });
    let io = TokioIo::new(stream);
    // A client may leave at any time, which is an error here.
    if h2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
    }
}

async fn answer(
    request: Request<Incoming>,
    all: &Mutex<Vec<Asked>>,
    script: &Script,
    sni: String,
    alpn: String,
) -> Response<Parts> {
    let (head, body) = request.into_parts();
    let host = match head.uri.authority() {
        Some(authority) => authority.host().to_owned(),
        None => String::from_utf8_lossy(head.headers.get("host").map_or(&b""[..], |host| host.as_bytes())).into_owned(),
    };
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let headers = head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    let asked = Asked {
        head: Recorded {
            host,
            method: head.method.to_string(),
            path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            headers: headers.collect(),
            body_bytes: body.len() as u64,
            sni,
            alpn,
        },
        body,
    };
    let play = script(&asked);
    all.lock().unwrap().push(asked);
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        for part in play.parts {
            let went = match part {
                Part::Bytes(bytes) => sender.send(bytes).await.is_ok(),
                Part::Gate(gate) => gate.0.subscribe().wait_for(|open| *open).await.is_ok(),
            };
            if !went {
                return;
            }
        }
    });
    Response::builder().status(play.status).header("content-type", play.content_type).body(Parts(receiver)).unwrap()
}

struct Parts(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
