//! One request in every form in which a sandbox can send it to the gateway. Any bytes can be its host.

use crate::client::{tls, tunnel_to};
use crate::raw::{self, h2};
use crate::{Answer, Http, Sandbox};
use std::io;
use std::net::Ipv4Addr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `CONNECT authority` at the proxy.
    Connect,
    /// The same over HTTP/2 in cleartext.
    ConnectTwo,
    /// `GET http://authority/path` at the proxy.
    Absolute,
    /// The same over HTTP/2 in cleartext.
    AbsoluteTwo,
    /// `Host: authority` within TLS in a tunnel.
    Tls,
    /// A stream with that `:authority` within TLS in a tunnel.
    TlsTwo,
    /// `Host: authority` in cleartext in a tunnel to port 80.
    Cleartext,
    /// A stream with that `:authority` in cleartext in a tunnel to port 80.
    CleartextTwo,
}

/// All forms except CONNECT.
pub const REQUESTS: [Way; 6] =
    [Way::Absolute, Way::AbsoluteTwo, Way::Tls, Way::TlsTwo, Way::Cleartext, Way::CleartextTwo];

/// The request.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The method. Unused for a CONNECT.
    pub method: &'a str,
    /// The bytes of the host, with the port if the form requires one.
    pub authority: &'a [u8],
    /// The path. Unused for a CONNECT.
    pub path: &'a str,
    /// The host of the tunnel and of its handshake, in forms with a tunnel.
    pub tunnel: &'a str,
}

/// The result.
#[derive(Debug)]
pub enum Outcome {
    /// A response.
    Answered(Answer),
    /// A tunnel.
    Opened,
    /// The stream or the connection ended without a response.
    Cut(String),
}

impl Way {
    /// Whether it is a CONNECT.
    pub fn connects(self) -> bool {
        matches!(self, Self::Connect | Self::ConnectTwo)
    }

    /// Sends the request from `source` on its own connection.
    ///
    /// # Errors
    /// If the gateway refuses the tunnel around the request, or the step times out.
    pub async fn ask(self, sandbox: &Sandbox, source: Ipv4Addr, asked: Asked<'_>) -> io::Result<Outcome> {
        let proxy = async || -> io::Result<TcpStream> {
            let stream = sandbox.socket(source).connect(sandbox.proxy.unwrap()).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let tunnel = async || tunnel_to(sandbox, source, &format!("{}:80", asked.tunnel)).await;
        match self {
            Self::Connect | Self::Absolute => self.one(&mut proxy().await?, asked).await,
            Self::ConnectTwo | Self::AbsoluteTwo => self.two(&mut proxy().await?, asked).await,
            Self::Tls => self.one(&mut tls(sandbox, source, asked.tunnel, Http::One).await?, asked).await,
            Self::TlsTwo => self.two(&mut tls(sandbox, source, asked.tunnel, Http::Two).await?, asked).await,
            Self::Cleartext => self.one(&mut tunnel().await?, asked).await,
            Self::CleartextTwo => self.two(&mut tunnel().await?, asked).await,
        }
    }

    async fn one(self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin), asked: Asked<'_>) -> io::Result<Outcome> {
        let (authority, path) = (asked.authority, asked.path.as_bytes());
        let target = match self {
            Self::Connect => authority.to_vec(),
            Self::Absolute => [b"http://", authority, path].concat(),
            _ => path.to_vec(),
        };
        let method = if self.connects() { "CONNECT" } else { asked.method };
        let line = [method.as_bytes(), b" ", &target, b" HTTP/1.1\r\n"].concat();
        let request = [&line, &b"Host: "[..], authority, b"\r\nUser-Agent: rig\r\n\r\n"].concat();
        match raw::ask(stream, &request).await {
            Ok(answer) if self.connects() && answer.status == 200 => Ok(Outcome::Opened),
            Ok(answer) => Ok(Outcome::Answered(answer)),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(error),
            Err(error) => Ok(Outcome::Cut(error.to_string())),
        }
    }

    async fn two(self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin), asked: Asked<'_>) -> io::Result<Outcome> {
        let scheme: &[u8] = if matches!(self, Self::TlsTwo) { b"https" } else { b"http" };
        let (method, path) = (asked.method.as_bytes(), asked.path.as_bytes());
        let connect: [h2::Field<'_>; 2] = [(b":method", b"CONNECT"), (b":authority", asked.authority)];
        let get: [h2::Field<'_>; 5] = [
            (b":method", method),
            (b":scheme", scheme),
            (b":authority", asked.authority),
            (b":path", path),
            (b"user-agent", b"rig"),
        ];
        let fields = if self.connects() || asked.method == "CONNECT" { &connect[..] } else { &get };
        let heard = h2::ask(stream, h2::Request { fields, ..Default::default() }).await?;
        Ok(match (heard.status, heard.end) {
            (_, h2::End::Open) => Outcome::Opened,
            (0, end) => Outcome::Cut(format!("{end:?}")),
            _ => Outcome::Answered(heard.answer()),
        })
    }
}
