//! Clients get the whole refusal, also for large bodies, and while the control plane or the upstream is unavailable.

use super::{
    ALONE, HANDSHAKE, PLAIN, REPO, assert_nothing_arrived, assert_refused, connect, get, nothing, refusal, rig,
};
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use test_support::bytewise::{Bytewise, Conduct};
use test_support::gateway::{NO_CREDENTIAL_BUT_GITHUB, pin, pins, policy};
use test_support::process::{Signal, stopped};
use test_support::raw::{Greeting, greet};
use test_support::upstream;
use test_support::{Client, Finished, Gateway, Http, Rig, Sandbox, Upstream, eventually, eventually_async, skip};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

/// Sends requests with `body` (arguments of curl) that the rules refuse, and asserts the refusal's rule. `3MB` and
/// `100MB` in `body` stand for files of this size.
fn refused_bodies(http: &str, body: &[&str], rounds: usize) {
    let _alone = ALONE.blocking_lock();
    let rig = rig();
    let (known, stranger) = (rig.registered(&[REPO]), rig.sandbox());
    for (sandbox, host, rule) in [
        (&stranger, PLAIN, "identity.unknown"),
        (&known, "example.com", "egress.host"),
        (&stranger, "github.com", "identity.unknown"),
    ] {
        let files = [nothing(sandbox, 3), nothing(sandbox, 100)].map(|path| path.display().to_string());
        let body: Vec<String> =
            body.iter().map(|arg| arg.replace("3MB", &files[0]).replace("100MB", &files[1])).collect();
        for round in 0..rounds {
            let url = format!("https://{host}/refused-body");
            let mut args: Vec<&str> = body.iter().map(String::as_str).collect();
            args.extend([http, &url]);
            let curled = sandbox.curl(&args);
            let told = format!("{http} {body:?} to {host}, round {round}");
            assert_eq!((curled.status, curled.stderr.as_str()), (403, ""), "{told}: {curled:?}");
            assert_eq!(refusal(&curled.body)["rule"], rule, "{told}");
        }
    }
    assert_nothing_arrived(rig, "/refused-body");
}

#[test]
fn a_refused_request_with_a_small_body_is_told_why() {
    for http in ["--http1.1", "--http2"] {
        refused_bodies(http, &["-d", "{}"], 20);
    }
}

#[test]
fn a_refused_request_with_a_body_of_megabytes_is_told_why() {
    for http in ["--http1.1", "--http2"] {
        refused_bodies(http, &["--data-binary", "@3MB"], 3);
        refused_bodies(http, &["-T", "3MB"], 3);
    }
}

#[test]
fn a_refused_upload_of_100_megabytes_is_told_why() {
    for http in ["--http1.1", "--http2"] {
        refused_bodies(http, &["-T", "100MB"], 1);
        refused_bodies(http, &["-H", "Transfer-Encoding: chunked", "-T", "100MB"], 1);
    }
}

#[tokio::test]
async fn while_the_control_plane_is_stopped_what_needs_it_is_refused_with_a_reason_and_soon() {
    let _alone = ALONE.lock().await;
    let rig = Rig::start();
    let (sandbox, stranger) = (rig.registered(&[REPO]), rig.sandbox());
    let path = "/repos/acme/app/commits/stopped";
    let mut clients = Vec::new();
    // Enough connections for both workers of Envoy, so that both have the certificate and the record.
    for number in 0..20 {
        let http = if number % 2 == 0 { Http::One } else { Http::Two };
        let mut client = connect(&sandbox, "api.github.com", http).await;
        client.get("/repos/acme/app/commits/before").await.unwrap();
        clients.push(client);
    }
    rig.gateway.signal(Signal::STOP);
    eventually("the control plane is stopped", Duration::from_secs(5), || stopped(rig.gateway.pid()).then_some(()));
    for (number, client) in clients.iter_mut().take(4).enumerate() {
        let answer = client.get(path).await.unwrap();
        assert_refused(&format!("client {number}"), &answer, 503, "credentials.unavailable");
    }
    let begun = Instant::now();
    let greeting = greet(&sandbox, sandbox.address, PLAIN, PLAIN.as_bytes(), HANDSHAKE).await;
    println!("the handshake for a new name ended after {:?}", begun.elapsed());
    let greeting = greeting.expect("the handshake for a new name ends");
    assert_eq!(greeting, Greeting::Failed);
    // The gateway cannot identify this sandbox now, whatever the size of the body.
    let file = nothing(&stranger, 100).display().to_string();
    for http in ["--http1.1", "--http2"] {
        let curled = stranger.curl(&[http, "-T", &file, &format!("https://api.github.com{path}")]);
        assert_eq!(curled.status, 503, "{http}: {curled:?}");
        assert_eq!(refusal(&curled.body)["rule"], "identity.unavailable", "{http}");
    }
    assert_nothing_arrived(&rig, path);
    rig.gateway.signal(Signal::CONT);
    for (host, path) in [("api.github.com", "/user"), (PLAIN, "/continued"), ("api.anthropic.com", "/continued")] {
        eventually_async("requests pass again", Duration::from_secs(10), async || {
            Client::connect(&sandbox, sandbox.address, host, Http::Two).await?.get(path).await?.ok()
        })
        .await;
    }
    for client in &mut clients {
        assert_eq!(client.get("/user").await.unwrap().status, 200);
    }
    let line = rig.gateway.audit_line(path, |line| line["path"] == path);
    assert_eq!((&line["verdict"], &line["rule"]), (&json!("deny"), &json!("credentials.unavailable")), "{line}");
}

/// A server that accepts no more connections: its queue is full. Dropping the value closes it.
async fn full() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((upstream::ADDRESS, 0))).unwrap();
    let listener = socket.listen(0).unwrap();
    let mut waiting = Vec::new();
    while let Ok(connected) =
        timeout(Duration::from_millis(500), TcpStream::connect(listener.local_addr().unwrap())).await
    {
        waiting.push(connected.unwrap());
    }
    (listener, waiting)
}

/// A server without TLS, which says `text` on each connection, or resets it after its first bytes.
async fn without_tls(text: Option<&'static [u8]>) -> SocketAddr {
    let listener = TcpListener::bind((upstream::ADDRESS, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // The gateway may leave at any time.
            if let Some(text) = text {
                let _sent = stream.write_all(text).await;
            } else {
                let _hello = stream.read(&mut [0; 64]).await;
                stream.set_zero_linger().unwrap();
            }
        }
    });
    address
}

#[tokio::test]
async fn each_fault_of_an_upstream_has_its_own_rule_and_request_ids_lead_to_the_audit() {
    let upstream = Upstream::start();
    let (full, _waiting) = full().await;
    // An address without a listener.
    let closed = SocketAddr::from((upstream::ADDRESS, 1));
    let mut pinned = pins(&upstream, &[(PLAIN, closed), ("api.github.com", closed)]);
    pinned += &pin("full.example.net", full.local_addr().unwrap(), &upstream.ca);
    pinned += &pin("cleartext.example.net", without_tls(Some(b"220 mail.example.net ESMTP\r\n")).await, &upstream.ca);
    pinned += &pin("resets.example.net", without_tls(None).await, &upstream.ca);
    let spoiled: [(&str, &[u8]); 3] = [
        ("broken.example.net", b""),
        ("garbage.example.net", b"220 mail.example.net ESMTP\r\n"),
        ("unverified.example.net", b""),
    ];
    let servers = spoiled.map(|(host, answer)| {
        let server = Bytewise::start_with(host, Conduct::Says(answer));
        // Another CA than the one that has signed its certificate.
        let ca = if host == "unverified.example.net" { &upstream.ca } else { &server.ca };
        pinned += &pin(host, server.address, ca);
        server
    });
    let settings = format!("{NO_CREDENTIAL_BUT_GITHUB}{pinned}");
    let gateway = Gateway::with(&policy(&["'*.example.net'", "api.github.com", "api.anthropic.com"]));
    let rig = Rig { upstream, gateway: gateway.settings(&settings).up() };
    let sandbox = rig.registered(&[REPO]);
    for (host, status, rule) in [
        (PLAIN, 503, "upstream.refused"),
        ("api.github.com", 503, "upstream.refused"),
        ("full.example.net", 503, "upstream.timeout"),
        ("cleartext.example.net", 503, "upstream.protocol"),
        ("resets.example.net", 503, "upstream.unreachable"),
        ("unverified.example.net", 503, "upstream.certificate"),
        ("broken.example.net", 503, "upstream.broken-off"),
        ("garbage.example.net", 502, "upstream.protocol"),
    ] {
        let protocols: &[Http] = if rule == "upstream.timeout" { &[Http::Two] } else { &[Http::One, Http::Two] };
        for &http in protocols {
            let path = format!("/repos/acme/app/commits/fault/{http:?}");
            let mut client = connect(&sandbox, host, http).await;
            let answer = if rule == "upstream.timeout" {
                // Not sent again, and so told after ten seconds.
                client.post(&path, "text/plain", "".into()).await.unwrap()
            } else {
                client.get(&path).await.unwrap()
            };
            let line = rig.gateway.audit_line(&path, |line| line["path"] == path.as_str() && line["host"] == host);
            assert_refused(&format!("{http:?} {host}"), &answer, status, rule);
            let id = refusal(&answer.body)["request_id"].as_str().unwrap_or_default().to_owned();
            assert!(!id.is_empty(), "{answer:?}");
            assert_eq!((&line["verdict"], &line["rule"]), (&json!("deny"), &json!(rule)), "{line}");
            assert_eq!(line["request_id"], id.as_str(), "{line}");
            assert_eq!(line["container_ip"], sandbox.address.to_string(), "{line}");
        }
    }
    assert_nothing_arrived(&rig, "/fault/");
    drop(servers);
    let mut ids = Vec::new();
    for number in 0..3 {
        let path = format!("/allowed/{number}");
        assert_eq!(get(&sandbox, "api.anthropic.com", &path).await.status, 200);
        let line = rig.gateway.audit_line(&path, |line| line["path"] == path.as_str());
        assert_eq!(line["verdict"], "allow", "{line}");
        ids.push(line["request_id"].as_str().unwrap().to_owned());
    }
    ids.sort();
    ids.dedup();
    assert!(ids.len() == 3 && ids.iter().all(|id| !id.is_empty()), "{ids:?}");
}

/// GET by the libraries of Python, and by Node where it reads the proxy's variables, four times from each upstream that
/// ends connections.
fn each_library_gets_200(sandbox: &Sandbox) {
    let python = PathBuf::from(std::env::var_os("SDK_CLIENTS").unwrap_or_default()).join("sdks/bin/python");
    let (python, node) = (python.display().to_string(), "node".to_owned());
    let programs = [
        (&python, "-c", "import requests as client, sys\nfor url in sys.argv[1:]: print(client.get(url).status_code)"),
        (&python, "-c", "import httpx as client, sys\nfor url in sys.argv[1:]: print(client.get(url).status_code)"),
        (&python, "-c", AIOHTTP),
        (&node, "-e", "for (const url of process.argv.slice(1)) console.log((await fetch(url)).status)"),
    ];
    for (program, option, code) in programs {
        let knows = "process.exit(process.allowedNodeEnvironmentFlags.has('--use-env-proxy') ? 0 : 1)";
        let missing = match program == &node {
            true => Finished::of(sandbox.command("node").args(["-e", knows])).code != Some(0),
            false => !Path::new(program).exists(),
        };
        if missing {
            skip("a request that is sent again", &format!("{program} is missing, or ignores the proxy's variables"));
            continue;
        }
        let urls = ["ends", "away"].map(|name| [0, 1, 2, 3].map(|n| format!("https://{name}.example.net/get/{n}")));
        let mut command = sandbox.command(program);
        let finished = Finished::of(command.args([option, code]).args(urls.as_flattened())).success();
        assert_eq!(finished.stdout, "200\n".repeat(8), "{program} {code}");
    }
}

/// aiohttp, whose sessions ignore the proxy's variables by default.
const AIOHTTP: &str = "
import aiohttp, asyncio, sys
async def main():
    async with aiohttp.ClientSession(trust_env=True) as client:
        for url in sys.argv[1:]:
            async with client.get(url) as answer: print(answer.status)
asyncio.run(main())
";

#[tokio::test]
async fn what_no_upstream_has_answered_is_sent_again_if_it_changes_nothing() {
    let upstream = Upstream::start();
    let [ends, away, fields] = [
        ("ends.example.net", Conduct::EndsAtSecond),
        ("away.example.net", Conduct::GoesAway),
        ("fields.example.net", Conduct::Fields(900)),
    ]
    .map(|(host, conduct)| Bytewise::start_with(host, conduct));
    let pinned = [&ends, &away, &fields].map(Bytewise::pin).concat();
    let settings = format!("{NO_CREDENTIAL_BUT_GITHUB}upstreams:\n{pinned}");
    // One worker has one pool of connections for each upstream.
    let gateway = Gateway::with(&policy(&["'*.example.net'"])).settings(&settings).workers(1).up();
    let rig = Rig { upstream, gateway };
    let sandbox = rig.registered(&[]);
    for host in ["ends.example.net", "away.example.net", "fields.example.net"] {
        for http in ["--http1.1", "--http2"] {
            for number in 0..4 {
                let curled = sandbox.curl(&[http, &format!("https://{host}/get/{number}")]);
                assert_eq!(curled.status, 200, "{http} {host} {number}: {curled:?}");
            }
        }
    }
    each_library_gets_200(&sandbox);
    for method in ["HEAD", "OPTIONS"] {
        for number in 0..4 {
            let option = if method == "HEAD" { vec!["-I"] } else { vec!["-X", method] };
            let url = format!("https://ends.example.net/{method}/{number}");
            let curled = sandbox.curl(&[option, vec![&url]].concat());
            assert_eq!(curled.status, 200, "{method} {number}: {curled:?}");
        }
    }
    // A request on which the upstream may have acted is sent once, and its client is told.
    let before = ends.read().messages.len();
    let mut statuses = Vec::new();
    for number in 0..4 {
        let url = format!("https://ends.example.net/post/{number}");
        for option in [vec!["-d", "body"], vec!["-X", "POST"], vec!["-X", "DELETE"], vec!["-X", "GET", "-d", "body"]] {
            // The sandbox has no say in it.
            let own = vec!["-H", "x-envoy-retry-on: reset", "-H", "x-envoy-max-retries: 9"];
            let curled = sandbox.curl(&[option, own, vec![&url]].concat());
            assert!(curled.status == 200 || curled.rule().as_deref() == Some("upstream.broken-off"), "{curled:?}");
            statuses.push(curled.status);
        }
    }
    assert!(statuses.contains(&503), "no connection ended: {statuses:?}");
    assert_eq!(ends.read().messages.len(), before + statuses.len(), "each of them arrives once");
    let faults: Vec<_> = [&ends, &fields].into_iter().flat_map(|server| server.read().faults).collect();
    assert!(faults.is_empty(), "{faults:?}");
}
