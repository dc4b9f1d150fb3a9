//! TCP connections before their first request: the limit of one address over two workers, the time until the first
//! request, and a flood under a low limit of open files.

use futures::future::join_all;
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use test_support::client::{tls, tunnel};
use test_support::{Client, Gateway, Http, Rig, Sandbox, Upstream, eventually, eventually_async};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A host without a credential.
const PLAIN: &str = "files.example.net";
/// The timeout of a wait whose length is not tested.
const SOON: Duration = Duration::from_secs(10);
/// The limits of an address with a container and of another one.
const CONTAINER: usize = 512;
const STRANGER: usize = 16;
/// The time until the first request.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

async fn connect(sandbox: &Sandbox, source: Ipv4Addr) -> TcpStream {
    sandbox.socket(source).connect(sandbox.proxy.unwrap()).await.unwrap()
}

/// Whether the gateway has closed the connection by now.
fn is_closed(stream: &TcpStream) -> bool {
    // No byte is ever sent to a connection without a request.
    !matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Waits until the gateway closes the connection.
async fn closes(stream: &mut TcpStream) {
    let read = timeout(SOON, stream.read(&mut [0])).await.expect("the gateway closes the connection");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

/// Opens a tunnel on the connection, which the gateway does if it has granted the connection.
async fn asks(stream: &mut TcpStream) -> std::io::Result<()> {
    let request = format!("CONNECT {PLAIN}:443 HTTP/1.1\r\nHost: {PLAIN}:443\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 64];
    let length = timeout(SOON, stream.read(&mut head)).await??;
    let head = String::from_utf8_lossy(&head[..length]);
    if head.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(std::io::Error::other(head.into_owned())) }
}

/// Waits until Envoy has `count` open connections at the proxy.
fn until_open(gateway: &Gateway, count: usize) {
    eventually("all connections are accepted", SOON, || {
        let open = gateway.envoy_stat("listener.proxy.downstream_cx_active");
        (open == u64::try_from(count).unwrap()).then_some(())
    });
}

/// A request of another sandbox.
async fn is_served(sandbox: &Sandbox) {
    let mut client = Client::connect(sandbox, sandbox.address, PLAIN, Http::Two).await.unwrap();
    client.get("/beside").await.unwrap().ok().unwrap();
}

#[tokio::test]
async fn a_container_has_512_connections_and_a_stranger_16_and_not_one_more() {
    let rig = Rig::start();
    let (known, stranger, other) = (rig.registered(&[]), rig.sandbox(), rig.registered(&[]));
    for (sandbox, limit) in [(&known, CONTAINER), (&stranger, STRANGER)] {
        until_open(&rig.gateway, 0);
        // All at once: after ten seconds of silence the first ones end.
        let mut open = join_all((0..limit).map(|_| connect(sandbox, sandbox.address))).await;
        until_open(&rig.gateway, limit);
        for _ in 0..8 {
            closes(&mut connect(sandbox, sandbox.address).await).await;
        }
        assert!(!open.iter().any(is_closed), "the granted connections stay");
        let line = rig.gateway.audit_line("the refusal", |line| line["container_ip"] == json!(sandbox.address));
        assert_eq!((&line["verdict"], &line["rule"]), (&json!("deny"), &json!("limit.tcp")), "{line}");
        assert!(line["reason"].as_str().unwrap().contains(&format!("{limit} open connections")), "{line}");
        is_served(&other).await;
        // A granted connection is a good one.
        asks(open.last_mut().unwrap()).await.unwrap();
        // One connection closes, one more is granted, and the next is refused again.
        drop(open.pop());
        let again = eventually_async("the limit admits a connection again", SOON, async || {
            let mut stream = connect(sandbox, sandbox.address).await;
            asks(&mut stream).await.map(|()| stream)
        })
        .await;
        closes(&mut connect(sandbox, sandbox.address).await).await;
        assert!(!is_closed(&again));
    }
    let refused = rig.gateway.audit().into_iter().filter(|line| line["rule"] == "limit.tcp");
    assert!(refused.count() <= 4, "one line for an address in each worker");
}

#[tokio::test]
async fn strangers_together_leave_room_for_containers() {
    let upstream = Upstream::start();
    let gateway = Gateway::before(&upstream).settings("limits: {connections: 64, stranger_connections: 4}\n").up();
    let rig = Rig { upstream, gateway };
    let (known, stranger) = (rig.registered(&[]), rig.sandbox());
    let first = stranger.widen();
    let mut open = Vec::new();
    for number in 0..8 {
        for _ in 0..4 {
            open.push(connect(&stranger, Ipv4Addr::from_bits(first.to_bits() + number)).await);
        }
    }
    until_open(&rig.gateway, 32);
    for number in 8..16 {
        closes(&mut connect(&stranger, Ipv4Addr::from_bits(first.to_bits() + number)).await).await;
    }
    assert!(!open.iter().any(is_closed));
    is_served(&known).await;
}

#[tokio::test]
async fn a_connection_without_a_request_ends_after_ten_seconds() {
    let rig = Rig::start();
    let (known, stranger) = (rig.registered(&[]), rig.sandbox());
    let begun = Instant::now();
    let mut silent = Vec::new();
    for sandbox in [&known, &stranger] {
        silent.push(connect(sandbox, sandbox.address).await);
        // A request that doesn't end, and one that never begins after the preface of HTTP/2.
        for bytes in [
            &b"GET http://files.example.net/ HTTP/1.1\r\nx:"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        ] {
            let mut stream = connect(sandbox, sandbox.address).await;
            stream.write_all(bytes).await.unwrap();
            silent.push(stream);
        }
    }
    let mut tunnels = Vec::new();
    for sandbox in [&known, &stranger] {
        tunnels.push(tunnel(sandbox, sandbox.address, PLAIN).await.unwrap());
    }
    for stream in &mut silent {
        let mut rest = Vec::new();
        let read = timeout(FIRST_REQUEST * 2, stream.read_to_end(&mut rest)).await.expect("it ends");
        let lasted = begun.elapsed();
        assert!(lasted < FIRST_REQUEST + Duration::from_secs(5), "{lasted:?}: {read:?}");
        assert!(lasted > FIRST_REQUEST - Duration::from_secs(1), "{lasted:?}: {read:?}");
    }
    assert!(!tunnels.iter().any(is_closed), "a tunnel may be silent");
}

#[tokio::test]
async fn requests_beyond_the_rate_wait_and_are_answered() {
    let upstream = Upstream::start();
    let gateway = Gateway::before(&upstream).settings("limits: {requests_per_second: 5}\n").up();
    let rig = Rig { upstream, gateway };
    let (busy, other) = (rig.registered(&[]), rig.registered(&[]));
    let mut client = Client::connect(&busy, busy.address, PLAIN, Http::Two).await.unwrap();
    // The burst: what 16 seconds bring, with the CONNECT.
    let begun = Instant::now();
    join_all((0..79).map(|_| {
        let mut client = client.again();
        async move { client.get("/burst").await.unwrap().ok().unwrap() }
    }))
    .await;
    let (burst, begun) = (begun.elapsed(), Instant::now());
    let waiting = async {
        for _ in 0..20 {
            client.get("/waits").await.unwrap().ok().unwrap();
        }
        // A new connection waits with its first bytes.
        Client::connect(&busy, busy.address, PLAIN, Http::One).await.unwrap().get("/new").await.unwrap().ok().unwrap();
    };
    let beside = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let begun = Instant::now();
            is_served(&other).await;
            slowest = slowest.max(begun.elapsed());
        }
        slowest
    };
    let ((), slowest) = tokio::join!(waiting, beside);
    // The burst had given back up to its own time's worth.
    let (waited, least) = (begun.elapsed(), Duration::from_secs(3).saturating_sub(burst));
    assert!(waited + Duration::from_millis(500) > least, "{burst:?}, {waited:?}");
    assert!(slowest < Duration::from_secs(2), "another address: {slowest:?}");
    let named = format!("{} has sent more requests than it may send", busy.address);
    assert!(rig.gateway.said().contains(&named), "the log names the address");
}

#[tokio::test]
async fn pipelined_requests_beyond_the_rate_end_with_their_tunnel() {
    let upstream = Upstream::start();
    let gateway = Gateway::before(&upstream).settings("limits: {requests_per_second: 10}\n").up();
    let rig = Rig { upstream, gateway };
    let (busy, other) = (rig.registered(&[]), rig.registered(&[]));
    let mut stream = tls(&busy, busy.address, PLAIN, Http::One).await.unwrap();
    let requests = format!("GET /pipelined HTTP/1.1\r\nHost: {PLAIN}\r\n\r\n").repeat(2_000);
    let (mut reading, mut writing) = tokio::io::split(&mut stream);
    let begun = Instant::now();
    // All of it passes before the first request counts.
    let sent = writing.write_all(requests.as_bytes());
    let (_broken, ended) = tokio::join!(
        sent,
        timeout(SOON * 4, async {
            let mut answers = Vec::new();
            let _broken = reading.read_to_end(&mut answers).await;
        })
    );
    ended.expect("the tunnel ends");
    let most = 220 + 10 * usize::try_from(begun.elapsed().as_secs() + 1).unwrap();
    let arrived = rig.upstream.requests_with("/pipelined").len();
    // 16 and 4 seconds' worth, and what time has given back.
    assert!((100..most).contains(&arrived), "{arrived} of {most}");
    let line = rig
        .gateway
        .audit_line("the refusal", |line| line["container_ip"] == json!(busy.address) && line["verdict"] == "deny");
    assert_eq!(line["rule"], "limit.rate", "{line}");
    is_served(&other).await;
    // The address goes on after its pause.
    is_served(&busy).await;
}

#[tokio::test]
async fn connections_of_one_address_take_no_files_from_another_one() {
    const FILES: u64 = 1_024;
    const FLOOD: usize = 1_300;
    let upstream = Upstream::start();
    let gateway = Gateway::before(&upstream).files(FILES).up();
    let rig = Rig { upstream, gateway };
    assert!(rig.gateway.said().contains("the hard limit of open files is 1024"), "{}", rig.gateway.said());
    let (known, stranger, other) = (rig.registered(&[]), rig.sandbox(), rig.registered(&[]));
    for flooder in [&stranger, &known] {
        let to: SocketAddr = flooder.proxy.unwrap();
        let begun = Instant::now();
        let connects = (0..FLOOD).map(|_| async { flooder.socket(flooder.address).connect(to).await.unwrap() });
        let open = join_all(connects).await;
        for number in 0..4 {
            timeout(SOON, is_served(&other)).await.unwrap_or_else(|_| panic!("request {number} timed out"));
        }
        eventually_async("one address has no more connections than its share", SOON / 2, async || {
            let held = open.iter().filter(|stream| !is_closed(stream)).count();
            if held <= 85 { Ok(()) } else { Err(held) }
        })
        .await;
        // Later they end because nothing is sent, which proves nothing.
        assert!(begun.elapsed() < FIRST_REQUEST, "the flood took {:?}", begun.elapsed());
    }
}
