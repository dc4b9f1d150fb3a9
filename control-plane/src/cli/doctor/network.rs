//! The network that a gateway needs: its ports, the gateway itself, trusted roots, nameservers, upstreams.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::sync::mpsc;
use std::time::Instant;

use serde_json::Value;

use super::{Context, Finding, Readyz, TIMEOUT};
use crate::app::Addresses;

/// Whether each port is free, or in use by the running gateway.
pub fn ports(context: &Context) -> Vec<Finding> {
    let running = context.gateway.is_some();
    let Addresses { proxy, admin } = Addresses::find(&context.config, context.state_dir.as_deref().ok());
    [("proxy", proxy), ("admin", admin)]
        .map(|(key, address)| match TcpListener::bind(address) {
            // A running gateway listens on its ports.
            Ok(_) if running => Finding::fail(
                "ports",
                format!("{key} {address} is free, although a gateway runs"),
                "read its log for the cause",
            ),
            Ok(_) => Finding::ok("ports", format!("{key} {address} is free")),
            Err(error) if error.kind() == ErrorKind::AddrInUse && running => {
                Finding::ok("ports", format!("{key} {address} is in use by the running gateway"))
            }
            Err(error) => {
                let todo = format!("free it, or set listen.{key}");
                Finding::fail("ports", format!("{key} {address} cannot be used: {error}"), todo)
            }
        })
        .into()
}

/// Whether a gateway runs, and is ready.
pub fn gateway(context: &Context) -> Vec<Finding> {
    let Some(Readyz { status, body }) = &context.gateway else {
        return vec![Finding::warn("gateway", "not running", "start it with `sallyport up`")];
    };
    let list = |key: &str| -> String {
        let entries = body[key].as_array().into_iter().flatten().filter_map(Value::as_str);
        entries.collect::<Vec<_>>().join("; ")
    };
    vec![match (*status, list("warnings")) {
        (200, warnings) if warnings.is_empty() => Finding::ok("gateway", "running and ready"),
        (200, warnings) => {
            Finding::warn("gateway", format!("running and ready, with warnings: {warnings}"), "its log says more")
        }
        (503, _) => Finding::fail("gateway", format!("running, not ready: {}", list("missing")), "its log says more"),
        (401, _) => Finding::warn(
            "gateway",
            "running, but it does not accept this user's token, so doctor can't ask it",
            "run doctor as the user who runs the gateway, on its state directory",
        ),
        (status, _) => {
            let found = format!("another program responds at the admin address, with status {status}");
            Finding::fail("gateway", found, "free the port, or set listen.admin")
        }
    }]
}

/// Whether there are trusted roots for upstreams.
pub fn roots(context: &Context) -> Vec<Finding> {
    vec![match context.config.roots_pem() {
        Ok(_) => Finding::ok("roots", "there are trusted roots for upstreams"),
        Err(error) => Finding::fail("roots", error, "install ca-certificates"),
    }]
}

/// Whether a nameserver of /etc/resolv.conf responds.
pub fn nameservers(context: &Context) -> Vec<Finding> {
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers: Vec<IpAddr> = resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.split_whitespace().next()?.parse().ok())
        .collect();
    let answering = servers.iter().find(|server| query(SocketAddr::from((**server, 53))).is_ok());
    let list: Vec<String> = servers.iter().map(ToString::to_string).collect();
    let (found, todo) = (
        format!("no nameserver responds: [{}]", list.join(", ")),
        "set a nameserver that responds in /etc/resolv.conf",
    );
    vec![match answering {
        Some(server) => Finding::ok("dns", format!("{server} answers")),
        // Pinned hosts need no nameserver, and neither do hosts behind the operator's proxy.
        None if !context.config.pins.is_empty() || context.config.upstream_proxy.is_some() => {
            Finding::warn("dns", found, todo)
        }
        None => Finding::fail("dns", found, todo),
    }]
}

/// Queries `server` for the addresses of github.com. Any response is a success.
fn query(server: SocketAddr) -> std::io::Result<()> {
    // RFC 1035 section 4.1: an id, recursion desired, one question: github.com, type A, class IN.
    const QUERY: &[u8] = b"\x5a\x11\x01\0\0\x01\0\0\0\0\0\0\x06github\x03com\0\0\x01\0\x01";
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.send(QUERY)?;
    let mut response = [0; 512];
    let length = socket.recv(&mut response)?;
    let ours = response.get(..length).is_some_and(|response| response.starts_with(b"\x5a\x11"));
    if ours { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

/// Whether each pinned upstream accepts a connection, and the operator's proxy, or else github.com if it is not pinned.
pub fn upstreams(context: &Context) -> Vec<Finding> {
    let pinned = context.config.pins.iter().map(|(host, at)| (host.to_string(), at.address.clone(), at.port));
    let mut all: Vec<_> = pinned.collect();
    if let Some(proxy) = &context.config.upstream_proxy {
        all.push(("upstream_proxy".into(), proxy.address.clone(), proxy.port));
    } else if !all.iter().any(|(host, ..)| host == "github.com") {
        all.push(("github.com".into(), "github.com".into(), 443));
    }
    let (sender, results) = mpsc::channel();
    for (place, (_, address, port)) in all.iter().enumerate() {
        let (sender, address, port) = (sender.clone(), address.clone(), *port);
        // The system resolver may take minutes. A late thread is abandoned.
        std::thread::spawn(move || {
            let connected = (address.as_str(), port).to_socket_addrs().and_then(|addresses| {
                let mut last = Err(ErrorKind::NotFound.into());
                for address in addresses {
                    last = TcpStream::connect_timeout(&address, TIMEOUT).map(drop);
                    if last.is_ok() {
                        break;
                    }
                }
                last
            });
            drop(sender.send((place, connected)));
        });
    }
    drop(sender);
    let mut found: Vec<Option<std::io::Result<()>>> = all.iter().map(|_| None).collect();
    let until = Instant::now() + TIMEOUT * 2;
    while let Ok((place, connected)) = results.recv_timeout(until.saturating_duration_since(Instant::now())) {
        if let Some(slot) = found.get_mut(place) {
            *slot = Some(connected);
        }
    }
    let unreachable: Vec<String> = all
        .iter()
        .zip(found)
        .filter_map(|((host, address, port), result)| match result {
            Some(Ok(())) => None,
            Some(Err(error)) => Some(format!("{host} ({address}:{port}: {error})")),
            None => Some(format!("{host} ({address}:{port}: timeout)")),
        })
        .collect();
    vec![if unreachable.is_empty() {
        Finding::ok("upstream", format!("{} upstreams can be reached", all.len()))
    } else {
        let found = format!("cannot be reached from here: {}", unreachable.join(", "));
        Finding::warn("upstream", found, "check the network and `upstreams:`")
    }]
}
