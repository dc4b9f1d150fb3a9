//! Attacks that need more than one request: upgrades and credentials. Attacks by one request, such as odd paths and
//! methods, are files of tests/corpus/chain.

use super::{PLAIN, REPO, assert_nothing_arrived, assert_refused, rig};
use std::time::Duration;
use test_support::client::tls;
use test_support::raw::ask;
use test_support::upstream;
use test_support::{Http, Rig, TOKEN, secrets};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

#[tokio::test]
async fn an_upgrade_to_connect_opens_no_way_for_raw_bytes() {
    let rig = rig();
    let sandbox = rig.registered(&[REPO]);
    let smuggled = "GET /repos/acme/app/commits/smuggled HTTP/1.1\r\nHost: api.github.com\r\nCookie: own=1\r\n\r\n";
    let upgrades = ["CONNECT", "connect", "CONNECT, websocket", "websocket, CONNECT", "connect-udp", "h2c", "TLS/1.2"];
    for host in ["api.github.com", PLAIN] {
        for (number, upgrade) in upgrades.into_iter().enumerate() {
            let told = format!("Upgrade: {upgrade} to {host}");
            let path = format!("/repos/acme/app/commits/upgraded/{number}");
            let headers = format!("Connection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n{smuggled}");
            let absolute = format!("GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n{headers}");
            let mut stream = sandbox.socket(sandbox.address).connect(sandbox.proxy.unwrap()).await.unwrap();
            let at_proxy = ask(&mut stream, absolute.as_bytes()).await.unwrap();
            let inside = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}");
            let mut stream = tls(&sandbox, sandbox.address, host, Http::One).await.unwrap();
            let in_tunnel = ask(&mut stream, inside.as_bytes()).await.unwrap();
            for answer in [at_proxy, in_tunnel] {
                if upgrade.eq_ignore_ascii_case("CONNECT") {
                    assert!(answer.status == 403 && answer.rule.is_some(), "{told}: {answer:?}");
                }
                // A server may leave the protocol as it is (RFC 9110 section 7.8).
                assert!(matches!(answer.status, 200 | 400..=499), "{told}: {answer:?}");
            }
            for request in rig.upstream.requests_with(&path) {
                assert!(!upgrade.to_ascii_lowercase().contains("connect"), "{told}: {request:?}");
                assert!(request.header("upgrade").is_empty() && request.header("connection").is_empty(), "{request:?}");
            }
        }
    }
    // The bytes behind the upgrade arrived as a separate request, or not at all.
    for request in rig.upstream.requests_with("/smuggled") {
        assert!(request.header("cookie").is_empty(), "{request:?}");
    }
}

#[tokio::test]
async fn a_web_socket_is_carried_to_an_upstream_that_prefers_http2_and_ends_with_the_record() {
    let rig = rig();
    let (sandbox, stranger) = (rig.registered(&[]), rig.sandbox());
    let host = "api.anthropic.com";
    let request = |path: &str| {
        let key = upstream::WEB_SOCKET_KEY;
        format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        )
    };
    let mut stream = tls(&sandbox, sandbox.address, host, Http::One).await.unwrap();
    let answer = ask(&mut stream, request("/v1/echo/known").as_bytes()).await.unwrap();
    assert_eq!(answer.status, 101, "{answer:?}");
    // RFC 6455 section 5.7: a masked "Hello"; the upstream echoes all bytes.
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    let large: Vec<u8> = (0..1_000_000_u32).map(|number| number.to_le_bytes()[0] ^ 0x5a).collect();
    for message in [&hello[..], &large, &hello] {
        let (mut reader, mut writer) = tokio::io::split(&mut stream);
        let mut echoed = vec![0; message.len()];
        let write = async {
            writer.write_all(message).await?;
            writer.flush().await
        };
        let both = async { tokio::join!(write, reader.read_exact(&mut echoed)) };
        let (sent, received) = timeout(Duration::from_secs(10), both).await.unwrap();
        sent.unwrap();
        received.unwrap();
        assert!(echoed == message, "the echo of {} bytes differs", message.len());
    }
    let [arrived] = &rig.upstream.requests_with("/v1/echo/known")[..] else { panic!("not exactly one") };
    assert_eq!((arrived.alpn.as_str(), arrived.sni.as_str()), ("http/1.1", host), "{arrived:?}");
    assert_eq!(arrived.header("connection").len(), 1);

    let mut refused = tls(&stranger, stranger.address, host, Http::One).await.unwrap();
    let answer = ask(&mut refused, request("/v1/echo/stranger").as_bytes()).await.unwrap();
    assert_refused("a stranger's WebSocket", &answer, 403, "identity.unknown");
    assert_nothing_arrived(rig, "/v1/echo/stranger");

    rig.gateway.remove(sandbox.address);
    let ended = timeout(Duration::from_secs(5), stream.read(&mut [0; 1])).await.expect("the WebSocket ends");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

/// An upstream may take the upgrade for a plain request. Then raw bytes behind the upgrade would be a second request
/// that no stage has judged.
#[tokio::test]
async fn nothing_is_sent_behind_an_upgrade_before_the_upstream_agrees() {
    let rig = rig();
    let sandbox = rig.registered(&[REPO]);
    for host in [PLAIN, "api.anthropic.com"] {
        let mut stream = tls(&sandbox, sandbox.address, host, Http::One).await.unwrap();
        let request = format!(
            "GET /v1/models/upgraded HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n\r\n\
             GET /behind-an-upgrade HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer own\r\n\r\n",
            upstream::WEB_SOCKET_KEY
        );
        let answer = ask(&mut stream, request.as_bytes()).await.unwrap();
        assert_ne!(answer.status, 101, "{answer:?}");
        assert_eq!(rig.upstream.requests_with(&format!("{host}/v1/models/upgraded")).len(), 1);
        // Wait for late bytes: until the connection ends, for at most one second.
        let _end = timeout(Duration::from_secs(1), stream.read(&mut [0; 1])).await;
    }
    assert_nothing_arrived(rig, "/behind-an-upgrade");
}

#[test]
fn a_sandbox_s_own_credential_never_arrives_at_the_other_hosts_of_github() {
    let rig = Rig::start_with("egress:\n  - github\n", &[]);
    let sandbox = rig.registered(&[REPO]);
    let own = "own_secret_of_the_agent_43";
    let (authorization, cookie) = (format!("Authorization: Bearer {own}"), format!("Cookie: user_session={own}"));
    for http in ["--http1.1", "--http2"] {
        let with = [http, "-H", &authorization, "-H", &cookie];
        let curled = sandbox.curl(&[&with[..], &["https://codeload.github.com/acme/app/zip/main"]].concat());
        assert_eq!(curled.status, 200, "{http}: {curled:?}");
        let upload = "https://uploads.github.com/repos/acme/app/releases/1/assets?name=x";
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let curled = sandbox.curl(&[&with[..], &["-X", method, "-d", own, upload]].concat());
            assert_eq!(curled.status, 403, "{http} {method}: {curled:?}");
            assert!(curled.rule().is_some(), "{http} {method}: {curled:?}");
        }
        // A GET may be served: only its headers are checked, below.
        sandbox.curl(&[&with[..], &[upload]].concat());
    }
    let arrived = rig.upstream.requests();
    assert!(arrived.iter().any(|request| request.host == "codeload.github.com"));
    for request in arrived {
        assert!(request.host == "codeload.github.com" || request.method == "GET", "{request:?}");
        assert!(request.header("cookie").is_empty(), "{request:?}");
        let headers: Vec<_> = request.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        secrets::assert_absent(own, &headers);
        // The gateway's own token is not for these hosts, either.
        secrets::assert_absent(TOKEN, &headers);
    }
}
