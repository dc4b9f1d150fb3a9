//! The sockets of the control plane, and the ports that Envoy's listeners get.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::time::Instant;

use config::Config;
use xds::resources::cluster::DNS_SOCKET;

/// The socket of all gRPC services, below the state directory.
pub const GRPC_SOCKET: &str = "run/xds.sock";

/// How long an Envoy of an earlier run may take to release its port, and how often the port is tried.
const LEFT_BEHIND: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);

/// Every socket that the control plane listens on. No connection is accepted yet.
#[derive(Debug)]
pub struct Listeners {
    /// DNS, for Envoy.
    pub dns: UnixListener,
    /// All gRPC services, for Envoy.
    pub grpc: UnixListener,
    /// The admin API.
    pub admin: TcpListener,
    /// Reserves Envoy's ports. These sockets don't listen, so no connection reaches them.
    _reserved: [Option<TcpSocket>; 2],
}

impl Listeners {
    /// Binds every socket. A port 0 in `config` is replaced by the port that the kernel has chosen. `with_envoy` says
    /// that Envoy will run as a child.
    ///
    /// # Errors
    /// If an address cannot be bound. If a port of Envoy's is 0 and Envoy is not a child.
    pub async fn bind(config: &mut Config, state_dir: &Path, with_envoy: bool) -> anyhow::Result<Self> {
        let dns = unix(&state_dir.join(DNS_SOCKET))?;
        let grpc = unix(&state_dir.join(GRPC_SOCKET))?;
        let admin = TcpListener::bind(config.admin)
            .await
            .with_context(|| format!("the admin API cannot listen on {}", config.admin))?;
        config.admin = admin.local_addr().context("the admin API has no address")?;
        let proxy = claim("listen.proxy", &mut config.proxy, with_envoy)?;
        let resolver = claim("listen.resolver", &mut config.resolver, with_envoy)?;
        if with_envoy && resolver.is_none() {
            wait_until_free(config.resolver).await.with_context(|| {
                format!("Envoy's resolver cannot listen on {}: set listen.resolver", config.resolver)
            })?;
        }
        Ok(Self { dns, grpc, admin, _reserved: [proxy, resolver] })
    }
}

/// Listens on a Unix socket. Replaces the socket that an earlier run has left.
fn unix(path: &Path) -> anyhow::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {} for a new socket", path.display()));
        }
        _ => {}
    }
    UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))
}

/// Reserves a port for Envoy if the port of `address` is 0, and writes it to `address`. Returns `None` for other ports.
fn claim(key: &str, address: &mut SocketAddr, with_envoy: bool) -> anyhow::Result<Option<TcpSocket>> {
    if address.port() != 0 {
        return Ok(None);
    }
    if !with_envoy {
        bail!("{key}: port 0 is for `sallyport up`, where Envoy runs as a child; name the port that Envoy is to use");
    }
    let socket = reserve(*address).with_context(|| format!("{key}: cannot reserve a port of {}", address.ip()))?;
    *address = socket.local_addr().with_context(|| format!("{key}: the reserved port has no address"))?;
    Ok(Some(socket))
}

/// Binds a free port of `address` and doesn't listen on it. Envoy can listen on the port as long as the socket lives:
/// both set SO_REUSEPORT and have one user. Programs of other users, and programs that don't set it, cannot.
fn reserve(address: SocketAddr) -> Result<TcpSocket, Error> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Waits until no process listens on `address`: the Envoy of an earlier run may still be ending. Envoy would share the
/// port with the Envoy of another gateway and not report that.
async fn wait_until_free(address: SocketAddr) -> Result<(), Error> {
    let until = Instant::now() + LEFT_BEHIND;
    loop {
        match TcpListener::bind(address).await {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() != ErrorKind::AddrInUse || Instant::now() >= until => return Err(error),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_reserved_port_is_for_who_shares_it_and_reaches_only_them() {
        let reserved = reserve("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = reserved.local_addr().unwrap();
        assert_ne!(address.port(), 0);
        assert_eq!(TcpListener::bind(address).await.unwrap_err().kind(), ErrorKind::AddrInUse);
        let envoy = reserve(address).unwrap().listen(16).unwrap();
        // Every connection reaches the socket that listens.
        for _ in 0..16 {
            let (connected, accepted) = tokio::join!(TcpStream::connect(address), envoy.accept());
            assert!(connected.is_ok() && accepted.is_ok());
        }
    }
}
