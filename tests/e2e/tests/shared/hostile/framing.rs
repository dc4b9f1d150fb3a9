//! Attacks on framing: a PROXY protocol header of one's own, and messages whose end two parsers see at different places.

use std::time::Duration;
use test_support::bytewise::Bytewise;
use test_support::client::{tls, tunnel_to};
use test_support::gateway::{NO_CREDENTIAL_BUT_GITHUB, container_id, policy};
use test_support::raw::{ask, h2};
use test_support::upstream::Upstream;
use test_support::{Answer, Client, Gateway, Http, Rig, Sandbox, eventually};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::{PLAIN, rig};

/// The name of the server that reads bytes.
const FRAMED: &str = "framed.example.net";
/// A gateway that waits for the rest of a message is not asked for longer.
const WAIT: Duration = Duration::from_secs(1);

/// The timeout for an audit line.
const AUDITED: Duration = Duration::from_secs(10);

/// The headers that a proxy sends before a connection (PROXY protocol, versions 1 and 2), with the address of `victim`.
fn preambles(victim: std::net::Ipv4Addr) -> Vec<(&'static str, Vec<u8>)> {
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    let addresses = [&victim.octets()[..], &[10, 99, 1, 1], &4000_u16.to_be_bytes(), &8080_u16.to_be_bytes()].concat();
    let second = |command: u8, tlv: &[u8]| {
        let length = u16::try_from(addresses.len() + tlv.len()).unwrap().to_be_bytes();
        [&signature[..], &[command, 0x11], &length, &addresses, tlv].concat()
    };
    vec![
        ("version 1", format!("PROXY TCP4 {victim} 10.99.1.1 4000 8080\r\n").into_bytes()),
        ("version 1 of an unknown peer", b"PROXY UNKNOWN\r\n".to_vec()),
        ("version 2", second(0x21, b"")),
        ("version 2 with a TLV of its authority", second(0x21, b"\x02\x00\x0agithub.com")),
        ("version 2 of the proxy itself", second(0x20, b"")),
    ]
}

/// Sends bytes, and reads one response if there is one soon.
async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) -> Option<Answer> {
    timeout(WAIT, ask(stream, bytes)).await.ok()?.ok()
}

#[tokio::test]
async fn a_proxy_header_of_the_sandbox_s_own_changes_nobody_s_address() {
    let rig = rig();
    let (victim, stranger) = (rig.registered(&[]), rig.sandbox());
    for (number, (what, preamble)) in preambles(victim.address).into_iter().enumerate() {
        let path = format!("/proxy-header/{number}");
        let request = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: {PLAIN}\r\n\r\n").into_bytes();
        let absolute = [&preamble[..], &request(&format!("http://{PLAIN}{path}"))].concat();
        let connect = format!("CONNECT {PLAIN}:443 HTTP/1.1\r\nHost: {PLAIN}:443\r\n\r\n");
        for bytes in [absolute, [&preamble[..], connect.as_bytes()].concat()] {
            let mut stream = stranger.socket(stranger.address).connect(stranger.proxy.unwrap()).await.unwrap();
            let told = answer(&mut stream, &bytes).await;
            assert!(told.as_ref().is_none_or(|answer| answer.status == 400), "{what}: {told:?}");
        }
        // A second header, behind the one that Envoy itself sends into the tunnel.
        for port in [443, 80] {
            let mut stream = tunnel_to(&stranger, stranger.address, &format!("{PLAIN}:{port}")).await.unwrap();
            let told = answer(&mut stream, &[&preamble[..], &request(&path)].concat()).await;
            assert!(told.as_ref().is_none_or(|answer| answer.status == 400), "{what}, port {port}: {told:?}");
            let mut stream = tunnel_to(&stranger, stranger.address, &format!("{PLAIN}:{port}")).await.unwrap();
            let hello = test_support::raw::client_hello(PLAIN.as_bytes());
            let told = answer(&mut stream, &[&preamble[..], &hello].concat()).await;
            assert!(told.as_ref().is_none_or(|answer| answer.status == 400), "{what}, TLS: {told:?}");
        }
    }
    assert!(rig.upstream.requests_with("/proxy-header/").is_empty());
    let own = stranger.address.to_string();
    rig.gateway.audit_line("the stranger's bytes", |line| {
        line["rule"] == "request.malformed" && line["container_ip"] == own.as_str()
    });
    let of_victim = |line: &serde_json::Value| {
        line["container_ip"] == victim.address.to_string() || line["container_id"] == container_id(victim.address)
    };
    let lines: Vec<_> = rig.gateway.audit().into_iter().filter(of_victim).collect();
    assert!(lines.is_empty(), "the victim has sent nothing: {lines:?}");
}

/// Requests over HTTP/1.1: their headers, and the bytes behind the head. `#` stands for the number of these bytes.
fn messages(smuggled: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut add = |headers: &str, body: String| {
        let length = body.len().to_string();
        all.push((headers.replace('#', &length), body));
    };
    let ends = format!("0\r\n\r\n{smuggled}");
    for lengths in [
        "Content-Length: 0\r\nContent-Length: #",
        "Content-Length: #\r\nContent-Length: 0",
        "Content-Length: #\r\nContent-Length: #",
        "Content-Length: 0, #",
        "Content-Length: #, #",
        "Content-Length: +#",
        "Content-Length: -#",
        "Content-Length: 0x#",
        "Content-Length: # 0",
        "Content-Length: #;",
        "Content-Length: 0\r\n#",
        "Content-Length : #",
        "Content-Length:\r\n #",
        "Content-Length: 18446744073709551616",
        "Content_Length: #",
        "Content-Length: #",
        "X: 1\rContent-Length: #",
        "X: 1\nContent-Length: #",
    ] {
        add(lengths, smuggled.to_owned());
    }
    for coding in [
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: CHUNKED",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: chunked\x0b",
        "Transfer_Encoding: chunked",
        "X: 1\rTransfer-Encoding: chunked",
        "X: 1\nTransfer-Encoding: chunked",
        "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
        "Connection: Content-Length\r\nTransfer-Encoding: chunked",
        "TE: chunked\r\nTransfer-Encoding: chunked",
    ] {
        add(coding, ends.clone());
        add(&format!("Content-Length: #\r\n{coding}"), ends.clone());
        add(&format!("{coding}\r\nContent-Length: #"), ends.clone());
    }
    for chunk in [
        "0x0\r\n\r\n",
        "+0\r\n\r\n",
        "-0\r\n\r\n",
        " 0\r\n\r\n",
        "0 \r\n\r\n",
        "0\n\n",
        "0\r\r",
        "\r\n0\r\n\r\n",
        "00000000000000000\r\n\r\n",
        "0;a=\"\r\n\r\n",
        "0;\n\r\n\r\n",
        "1\r\na0\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "2\r\na\r\n0\r\n\r\n",
        "g\r\n\r\n",
        "10000000000000000\r\n\r\n",
        "FFFFFFFFFFFFFFFF\r\n\r\n",
        "0\r\nContent-Length: 5\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nX\r\n\r\n",
    ] {
        add("Transfer-Encoding: chunked", format!("{chunk}{smuggled}"));
    }
    all
}

/// A rig whose one host speaks HTTP/1.1, so that containers share connections on which requests follow each other.
fn framed() -> (Rig, Bytewise) {
    let server = Bytewise::start(FRAMED);
    let gateway = Gateway::with(&policy(&[FRAMED]))
        .settings(NO_CREDENTIAL_BUT_GITHUB)
        .settings(&format!("upstreams:\n{}", server.pin()));
    // With one worker, all containers share the connections to the server.
    let gateway = gateway.workers(1).up();
    (Rig { upstream: Upstream::start(), gateway }, server)
}

/// Asserts that `neighbour` gets the response to its own request.
async fn neighbour_is_served(neighbour: &Sandbox, number: usize, what: &str) {
    let path = format!("/neighbour/{number}");
    let mut client = Client::connect(neighbour, neighbour.address, FRAMED, Http::One).await.unwrap();
    let answer = client.get(&path).await.unwrap();
    assert_eq!((answer.status, answer.body), (200, path), "after {what}");
}

/// Asserts that each request at the server was judged as one: its audit line has its path, and allows it.
fn each_was_judged(rig: &Rig, server: &Bytewise) {
    let read = server.read();
    assert!(read.faults.is_empty(), "{:#?}", read.faults);
    let count = |path: &str| read.messages.iter().filter(|message| message.path() == path).count();
    for message in &read.messages {
        let path = message.path();
        let allowed = |line: &&serde_json::Value| line["path"] == path && line["verdict"] == "allow";
        eventually(&format!("a line for each {path}"), AUDITED, || {
            (rig.gateway.audit().iter().filter(allowed).count() >= count(path)).then_some(())
        });
        let framings = ["content-length:", "transfer-encoding:"];
        let lower: Vec<String> = message.headers.iter().map(|line| line.to_ascii_lowercase()).collect();
        let framed = lower.iter().filter(|line| framings.iter().any(|name| line.starts_with(name))).count();
        assert!(framed <= 1, "{message:?}");
    }
}

#[tokio::test]
async fn a_message_with_two_ends_has_one_or_is_refused() {
    let (rig, server) = framed();
    let (sandbox, neighbour) = (rig.registered(&[]), rig.registered(&[]));
    let smuggled = |number: usize| format!("GET /smuggled/{number} HTTP/1.1\r\nHost: {FRAMED}\r\n\r\n");
    let mut passed = 0;
    for number in 0..messages("").len() {
        let (headers, body) = messages(&smuggled(number)).remove(number);
        for (way, version) in [("tunnel", "1.1"), ("absolute", "1.1"), ("tunnel", "1.0")] {
            let target = format!("/{way}/{version}/{number}");
            let what = format!("{way} HTTP/{version} {headers:?} {body:?}");
            let told = if way == "tunnel" {
                let head = format!("POST {target} HTTP/{version}\r\nHost: {FRAMED}\r\n{headers}\r\n\r\n{body}");
                let mut stream = tls(&sandbox, sandbox.address, FRAMED, Http::One).await.unwrap();
                answer(&mut stream, head.as_bytes()).await
            } else {
                let head =
                    format!("POST http://{FRAMED}{target} HTTP/1.1\r\nHost: {FRAMED}\r\n{headers}\r\n\r\n{body}");
                let mut stream = sandbox.socket(sandbox.address).connect(sandbox.proxy.unwrap()).await.unwrap();
                answer(&mut stream, head.as_bytes()).await
            };
            passed += usize::from(told.as_ref().is_some_and(|answer| answer.status == 200));
            if let Some(answer) = told {
                let own = answer.status == 200 && answer.body == target;
                assert!(own || (400..600).contains(&answer.status), "{what}: {answer:?}");
            }
            let lines = headers.to_ascii_lowercase();
            let both = lines.contains("content-length: ") && lines.contains("\r\ntransfer-encoding: chunked");
            let arrived = server.read().messages.iter().any(|message| message.path() == target);
            assert!(!(both && lines.starts_with("content-length") && arrived), "two framings pass: {what}");
        }
        neighbour_is_served(&neighbour, number, &headers).await;
    }
    assert!(passed > 5, "good messages pass: {passed}");
    each_was_judged(&rig, &server);
}

#[tokio::test]
async fn a_message_over_http2_brings_no_second_one_along() {
    let (rig, server) = framed();
    let (sandbox, neighbour) = (rig.registered(&[]), rig.registered(&[]));
    let smuggled = format!("GET /smuggled/h2 HTTP/1.1\r\nHost: {FRAMED}\r\n\r\n");
    let injected = format!("1\r\n\r\n{smuggled}");
    let path = format!("/h2/path HTTP/1.1\r\nHost: {FRAMED}\r\n\r\n{smuggled}");
    let method = format!("GET /h2/method HTTP/1.1\r\nHost: {FRAMED}\r\n\r\nGET");
    let authority = format!("{FRAMED}\r\nX: 1");
    let ends = format!("0\r\n\r\n{smuggled}");
    let usual: [(&[u8], &[u8]); 4] =
        [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", FRAMED.as_bytes()), (b":path", b"/h2")];
    // A pseudo-header replaces the usual one of its name.
    let cases: [(&[h2::Field<'_>], &str); 14] = [
        (&[(b"content-length", b"0")], &smuggled),
        (&[(b"content-length", b"10")], &smuggled),
        (&[(b"content-length", b"4000")], &smuggled),
        (&[(b"content-length", b"0"), (b"content-length", b"4000")], &smuggled),
        (&[(b"content-length", b"+10")], &smuggled),
        (&[(b"transfer-encoding", b"chunked")], &ends),
        (&[(b"Transfer-Encoding", b"chunked")], &ends),
        (&[(b"transfer-encoding ", b"chunked")], &ends),
        (&[(b"x", injected.as_bytes())], ""),
        (&[(b"x: 1\r\ntransfer-encoding", b"chunked")], &ends),
        (&[(b":path", path.as_bytes())], ""),
        (&[(b":method", method.as_bytes())], ""),
        (&[(b":authority", authority.as_bytes())], ""),
        (&[(b"connection", b"transfer-encoding"), (b"transfer-encoding", b"chunked")], &ends),
    ];
    for (number, (more, body)) in cases.into_iter().enumerate() {
        let replaced = |name: &[u8]| more.iter().any(|(other, _)| *other == name);
        let fields: Vec<h2::Field<'_>> =
            usual.into_iter().filter(|(name, _)| !replaced(name)).chain(more.iter().copied()).collect();
        let mut stream = tls(&sandbox, sandbox.address, FRAMED, Http::Two).await.unwrap();
        let request = h2::Request { fields: &fields, body: body.as_bytes(), trailers: &[] };
        let heard = timeout(WAIT, h2::ask(&mut stream, request)).await;
        println!("{number}: {heard:?}");
        neighbour_is_served(&neighbour, number, &format!("HTTP/2 {number}")).await;
    }
    let read = server.read();
    assert!(read.messages.iter().all(|message| !message.path().contains("smuggled")), "{read:?}");
    each_was_judged(&rig, &server);
}
