//! A minimal HTTP client for the admin API and for Envoy's: one call for each connection, blocking.

use crate::kept;
use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The timeout of a call.
const CALL: Duration = Duration::from_secs(30);

/// Makes one call and returns status and body. `headers` come before the usual ones or replace them.
///
/// # Errors
/// If the port refuses the connection, or the response can't be parsed.
pub fn call(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> io::Result<(u16, String)> {
    let mut stream = begin(address, method, path, headers, body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    kept::note(path, &answer);
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no complete answer"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or_else(|| io::Error::other("no status"))?, body.to_owned()))
}

/// One GET to Envoy's own admin interface: the body.
///
/// # Errors
/// As [`call`].
pub fn envoy(socket: &Path, path: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(CALL))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: envoy\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no complete answer"))?;
    match head.to_ascii_lowercase().contains("\r\ntransfer-encoding: chunked") {
        true => unchunked(body).ok_or_else(|| io::Error::other("no complete chunk")),
        false => Ok(body.to_owned()),
    }
}

/// RFC 9112 section 7.1, without extensions.
fn unchunked(mut body: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole += rest.get(..size)?;
        body = rest.get(size..)?.strip_prefix("\r\n")?;
    }
}

/// Begins one call, then closes the connection after `after` without reading.
///
/// # Errors
/// If the port refuses the connection.
pub fn abort(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
    after: Duration,
) -> io::Result<()> {
    let stream = begin(address, method, path, headers, body)?;
    // The only sleep in the rig whose length is itself under test.
    std::thread::sleep(after);
    drop(stream);
    Ok(())
}

fn begin(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> io::Result<TcpStream> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut stream = TcpStream::connect_timeout(&address, CALL)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(CALL))?;
    let mut head: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head += &format!("host: {address}\r\n");
    }
    head += &format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    // HTTP/1.0, so that the response is never chunked and ends with the connection.
    stream.write_all(format!("{method} {path} HTTP/1.0\r\n{head}{body}").as_bytes())?;
    Ok(stream)
}
