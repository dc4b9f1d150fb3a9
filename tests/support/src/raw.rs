//! Bytes that no well-behaved client sends: a ClientHello with any bytes as its server name, HTTP/1.1 byte by byte.

pub mod h2;

use crate::client::{self, STEP};
use crate::{Answer, Http, Sandbox, kept, upstream};
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// A server's response to a [`client_hello`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// A certificate, DER.
    Certificate(Vec<u8>),
    /// An alert, or the end of the connection.
    Failed,
}

impl Greeting {
    /// Whether the response is a certificate for exactly `name`: a longer name that begins or ends with `name` does not
    /// count.
    pub fn names(&self, name: &str) -> bool {
        // RFC 5280 section 4.2.1.6: dNSName is [2] IA5String: tag, length and the unchanged name.
        let length = u8::try_from(name.len()).unwrap();
        let tag: &[u8] = if length < 128 { &[0x82] } else { &[0x82, 0x81] };
        let entry = [tag, &[length], name.as_bytes()].concat();
        matches!(self, Self::Certificate(der) if der.windows(entry.len()).any(|window| window == entry))
    }
}

/// A TLS 1.2 ClientHello (RFC 5246 section 7.4.1.2) with the bytes of `name` as its server name (RFC 6066 section 3).
/// In TLS 1.2 the certificate comes in cleartext, so this message is enough to see the certificate.
pub fn client_hello(name: &[u8]) -> Vec<u8> {
    let short = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let extension = |kind: u16, content: &[u8]| [&kind.to_be_bytes()[..], &short(content)].concat();
    let extensions = [
        extension(0, &short(&[&[0][..], &short(name)].concat())),
        // Groups x25519 and P-256, uncompressed points, signatures ECDSA-P256-SHA256 and RSA-PSS-SHA256.
        extension(10, &short(&[0, 0x1d, 0, 0x17])),
        extension(11, &[1, 0]),
        extension(13, &short(&[4, 3, 8, 4])),
    ]
    .concat();
    // ECDHE-ECDSA and ECDHE-RSA with AES-128-GCM, no compression.
    let suites = short(&[0xc0, 0x2b, 0xc0, 0x2f]);
    let hello = [&[3, 3][..], &[7; 32], &[0], &suites, &[1, 0], &short(&extensions)].concat();
    let length = u32::try_from(hello.len()).unwrap().to_be_bytes();
    let message = [&[1][..], &length[1..], &hello].concat();
    [&[22, 3, 1][..], &short(&message)].concat()
}

/// Opens a tunnel to `host`, sends [`client_hello`] for `name` in it, and returns the response.
///
/// # Errors
/// If the tunnel is refused, or no response comes `within`.
pub async fn greet(
    sandbox: &Sandbox,
    source: Ipv4Addr,
    host: &str,
    name: &[u8],
    within: Duration,
) -> io::Result<Greeting> {
    let mut stream = timeout(STEP, client::tunnel(sandbox, source, host)).await??;
    let work = async {
        stream.write_all(&client_hello(name)).await?;
        Ok(certificate(&mut stream).await.map_or(Greeting::Failed, Greeting::Certificate))
    };
    timeout(within, work).await?
}

/// Reads records until a Certificate message is complete.
async fn certificate(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut handshake = Vec::new();
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head).await?;
        let mut record = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        stream.read_exact(&mut record).await?;
        if head[0] != 22 {
            return Err(io::Error::other("no handshake record"));
        }
        handshake.extend(record);
        let mut rest = &handshake[..];
        while let Some((message, behind)) = split_message(rest) {
            if message[0] == 11 {
                // The message's head, the length of the list, the length of its first certificate.
                let length = length24(&message[7..]);
                return Ok(message[10..10 + length].to_vec());
            }
            rest = behind;
        }
    }
}

fn split_message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    if bytes.len() < 4 { None } else { bytes.split_at_checked(4 + length24(&bytes[1..])) }
}

fn length24(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2])
}

/// Opens a WebSocket to `https://host/path` of the upstream.
///
/// # Errors
/// If the gateway refuses it: the response. If the connection breaks.
pub async fn web_socket(sandbox: &Sandbox, host: &str, path: &str) -> io::Result<TlsStream<TcpStream>> {
    let mut stream = client::tls(sandbox, sandbox.address, host, Http::One).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n\r\n",
        upstream::WEB_SOCKET_KEY
    );
    let answer = ask(&mut stream, request.as_bytes()).await?;
    if answer.status == 101 { Ok(stream) } else { Err(io::Error::other(format!("{answer:?}"))) }
}

/// Sends `bytes` unchanged, and reads one HTTP/1.1 response: its head, and as much body as content-length says.
///
/// # Errors
/// If the connection ends first, or the step times out.
pub async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<Answer> {
    let sent = async {
        stream.write_all(bytes).await?;
        // TLS may buffer bytes that a full socket does not accept.
        stream.flush().await
    };
    timeout(STEP, sent).await??;
    // A response to HEAD has the length of the omitted body.
    let answer = hear(stream, !bytes.starts_with(b"HEAD ")).await?;
    kept::note("raw", format!("{answer:?}").as_bytes());
    Ok(answer)
}

/// Reads one HTTP/1.1 response, and its body if it has a content-length or is chunked.
///
/// # Errors
/// As [`ask`].
pub async fn hear(stream: &mut (impl AsyncRead + Unpin), has_body: bool) -> io::Result<Answer> {
    let work = async {
        let head = read_until(stream, b"\r\n\r\n").await?;
        let head = String::from_utf8_lossy(&head);
        let header = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
        };
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status: {head}")))?;
        let mut body = Vec::new();
        if has_body && header("transfer-encoding").is_some_and(|coding| coding == "chunked") {
            while let length @ 1.. = chunk(stream).await? {
                let start = body.len();
                body.resize(start + length, 0);
                stream.read_exact(&mut body[start..]).await?;
                read_until(stream, b"\r\n").await?;
            }
            // The trailers, and the empty line that ends them.
            while read_until(stream, b"\r\n").await? != b"\r\n" {}
        } else {
            let length = header("content-length").filter(|_| has_body);
            body.resize(length.and_then(|length| length.parse().ok()).unwrap_or(0), 0);
            stream.read_exact(&mut body).await?;
        }
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { status, rule: header("x-sallyport-rule"), body })
    };
    timeout(STEP, work).await?
}

/// The length of the chunk that begins here (RFC 9112 section 7.1).
async fn chunk(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
    let line = read_until(stream, b"\r\n").await?;
    let size = String::from_utf8_lossy(&line);
    let size = size.trim().split(';').next().unwrap_or_default();
    usize::from_str_radix(size, 16).map_err(|_| io::Error::other(format!("no chunk: {size}")))
}

async fn read_until(stream: &mut (impl AsyncRead + Unpin), end: &[u8]) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        read.push(stream.read_u8().await?);
    }
    Ok(read)
}
