//! An HTTP client for unit tests.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Connects, and sends one request with exactly these headers.
pub async fn send(address: SocketAddr, start: &str, headers: &[(&str, &str)], body: &str) -> TcpStream {
    let mut head = format!("{start} HTTP/1.1\r\ncontent-length: {}\r\nconnection: close\r\n", body.len());
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).await.unwrap();
    stream
}

/// Reads the response's status and body.
pub async fn answer(mut stream: TcpStream) -> (u16, String) {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Makes one call as the CLI does.
pub async fn call(address: SocketAddr, start: &str, body: &str) -> (u16, String) {
    answer(send(address, start, &[("host", &address.to_string())], body).await).await
}
