//! The least HTTP client that speaks to the admin API: one call for each connection, blocking.

use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The longest that the API may take.
const CALL: Duration = Duration::from_secs(10);

/// Makes one call and returns status and body.
///
/// # Errors
/// Nobody listens, or the answer is none.
pub fn call(address: SocketAddr, method: &str, path: &str, body: Option<&Value>) -> io::Result<(u16, String)> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut stream = TcpStream::connect_timeout(&address, CALL)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(CALL))?;
    // HTTP/1.0, so that the answer is never chunked and ends with the connection.
    let head = format!(
        "{method} {path} HTTP/1.0\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no complete answer"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or_else(|| io::Error::other("no status"))?, body.to_owned()))
}
