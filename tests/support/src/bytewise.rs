//! A TLS server that speaks HTTP/1.1 only and reads it by the byte, for tests of framing (RFC 9112 section 6). It accepts
//! one framing for a message, and answers each request with its path.

use crate::gateway::pin;
use crate::upstream::{ADDRESS, tls};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// A message as the server reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The request line.
    pub line: String,
    /// The header lines.
    pub headers: Vec<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Message {
    /// The request's target.
    pub fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

/// The messages of all connections, and the bytes that are no message.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// In the order of arrival.
    pub messages: Vec<Message>,
    /// Why a connection could not be read further.
    pub faults: Vec<String>,
}

/// The behaviour of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// It answers each request.
    Serves,
    /// It sends this to the first bytes of each connection, and closes it.
    Says(&'static [u8]),
    /// It answers the first request of each connection, and closes the connection at the second one, as a server does
    /// that has just given the connection up.
    EndsAtSecond,
    /// It answers with so many more header fields.
    Fields(usize),
    /// It speaks HTTP/2, answers the first stream of each connection, and at the second one it sends GOAWAY with the
    /// first one's number: it has not looked at the second one (RFC 9113, section 6.8).
    GoesAway,
}

/// The running server.
pub struct Bytewise {
    /// Its address.
    pub address: SocketAddr,
    /// Its CA, a PEM file.
    pub ca: PathBuf,
    host: String,
    read: Arc<Mutex<Read>>,
    runtime: Option<Runtime>,
}

impl Bytewise {
    /// Starts the server of `host` on a free port of [`ADDRESS`].
    pub fn start(host: &str) -> Self {
        Self::start_with(host, Conduct::Serves)
    }

    /// The same with another conduct.
    pub fn start_with(host: &str, conduct: Conduct) -> Self {
        crate::sandbox::ip(&["address", "replace", &format!("{ADDRESS}/32"), "dev", "lo"]);
        let protocol: &[u8] = if conduct == Conduct::GoesAway { b"h2" } else { b"http/1.1" };
        let (acceptor, ca_pem) = tls::acceptor_for(&[host], &[protocol]);
        let ca = crate::scratch("bytewise").join("ca.pem");
        std::fs::write(&ca, ca_pem).unwrap();
        let listener = std::net::TcpListener::bind((ADDRESS, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let read: Arc<Mutex<Read>> = Arc::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let all = Arc::clone(&read);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, all) = (acceptor.clone(), Arc::clone(&all));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    match conduct {
                        Conduct::Says(answer) => spoil(stream, answer).await,
                        Conduct::GoesAway => go_away(stream, &all).await,
                        Conduct::Serves | Conduct::EndsAtSecond | Conduct::Fields(_) => {
                            serve(stream, &all, conduct).await;
                        }
                    }
                });
            }
        });
        Self { address, ca, host: host.to_owned(), read, runtime: Some(runtime) }
    }

    /// The line below `upstreams:` that pins its name to it.
    pub fn pin(&self) -> String {
        pin(&self.host, self.address, &self.ca)
    }

    /// Everything so far.
    pub fn read(&self) -> Read {
        self.read.lock().unwrap().clone()
    }
}

impl Drop for Bytewise {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

async fn spoil(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) {
    // The client may leave at any time.
    let _read = stream.read(&mut [0; 1024]).await;
    let _written = stream.write_all(answer).await;
    let _closed = stream.shutdown().await;
}

/// Serves an HTTP/2 connection by [`Conduct::GoesAway`]. A message has the number of its stream as its line.
async fn go_away(mut stream: impl AsyncRead + AsyncWrite + Unpin, all: &Mutex<Read>) {
    const PREFACE: usize = 24;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    let frame = |kind: u8, flags: u8, number: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &number.to_be_bytes(), payload].concat()
    };
    let work = async {
        stream.read_exact(&mut [0; PREFACE]).await?;
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
        let mut answered = None;
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await?;
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            stream.read_exact(&mut payload).await?;
            let number = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let reply = match (head[3], answered) {
                (SETTINGS, _) if head[4] == 0 => frame(SETTINGS, 1, 0, &[]),
                (HEADERS, None) => {
                    answered = Some(number);
                    // END_STREAM and END_HEADERS, and `:status: 200` as HPACK's static table has it.
                    frame(HEADERS, 5, number, &[0x88])
                }
                (HEADERS, Some(first)) => frame(GOAWAY, 0, 0, &[first.to_be_bytes(), [0; 4]].concat()),
                _ => continue,
            };
            if head[3] == HEADERS {
                let message = Message { line: number.to_string(), headers: vec![], body: vec![] };
                all.lock().unwrap().messages.push(message);
            }
            stream.write_all(&reply).await?;
            stream.flush().await?;
        }
    };
    // The client may leave at any time.
    let _left: std::io::Result<()> = work.await;
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, all: &Mutex<Read>, conduct: Conduct) {
    let mut waiting = Vec::new();
    let mut answered = false;
    loop {
        match message(&waiting) {
            Ok(Some((message, size))) => {
                waiting.drain(..size);
                let path = message.path().to_owned();
                all.lock().unwrap().messages.push(message);
                if conduct == Conduct::EndsAtSecond && answered {
                    return;
                }
                answered = true;
                let more =
                    if let Conduct::Fields(count) = conduct { "x-more: v\r\n".repeat(count) } else { String::new() };
                let answer = format!("HTTP/1.1 200 OK\r\n{more}content-length: {}\r\n\r\n{path}", path.len());
                if stream.write_all(answer.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
            Ok(None) => {
                // A client may leave at any time.
                if !matches!(stream.read_buf(&mut waiting).await, Ok(1..)) {
                    return;
                }
            }
            Err(fault) => {
                all.lock().unwrap().faults.push(format!("{fault}: {:?}", String::from_utf8_lossy(&waiting)));
                return;
            }
        }
    }
}

/// The first message in `bytes` and its size. `None`: it is not complete.
///
/// # Errors
/// If its framing can be read in two ways.
fn message(bytes: &[u8]) -> Result<Option<(Message, usize)>, &'static str> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "a head that is no text")?;
    let mut lines = head.split("\r\n").map(str::to_owned);
    let line = lines.next().unwrap_or_default();
    let headers: Vec<String> = lines.collect();
    if head.replace("\r\n", "").contains(['\r', '\n', '\0']) || headers.iter().any(|line| line.starts_with([' ', '\t']))
    {
        return Err("a head with odd line ends");
    }
    let values = |name: &str| {
        let named = headers.iter().filter_map(|line| line.split_once(':'));
        let named = named.filter(|(have, _)| have.trim().eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.trim().to_owned()).collect::<Vec<_>>()
    };
    let start = end + 4;
    let rest = &bytes[start..];
    let (body, size) = match (&values("content-length")[..], &values("transfer-encoding")[..]) {
        ([], []) => (vec![], 0),
        ([length], []) => match length.parse() {
            Ok(length) if length > rest.len() => return Ok(None),
            Ok(length) => (rest[..length].to_vec(), length),
            Err(_) => return Err("a length that is no number"),
        },
        ([], [coding]) if coding == "chunked" => match chunks(rest)? {
            Some(chunked) => chunked,
            None => return Ok(None),
        },
        _ => return Err("two framings"),
    };
    Ok(Some((Message { line, headers, body }, start + size)))
}

/// A chunked body without trailers, and its size with the framing.
fn chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(line) = bytes[at..].windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&bytes[at..at + line]).ok().and_then(|hex| usize::from_str_radix(hex, 16).ok());
        let size = size.ok_or("a chunk without a size")?;
        let from = at + line + 2;
        let Some(chunk) = bytes.get(from..from + size + 2) else { return Ok(None) };
        let (chunk, end) = chunk.split_at(size);
        if end != b"\r\n" {
            return Err("a chunk without an end");
        }
        at = from + size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
        body.extend(chunk);
    }
}
