//! What a sandbox, or a web page at the operator's, would try: each test is one attack, and looks at both ends of it,
//! at what the attacker got and at what arrived upstream.

use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use test_support::client::{drain, tls, tunnel_to};
use test_support::gateway::policy;
use test_support::process::{Signal, peak_memory, stopped};
use test_support::raw::{Greeting, ask, greet};
use test_support::upstream::{self, HOSTS, Visibility};
use test_support::{
    Answer, Client, Finished, Gateway, Http, Rig, Sandbox, TOKEN, eventually, eventually_async, secrets,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// What every registered container here has.
const REPO: &str = "acme/app";
/// A host for which there is no credential.
const PLAIN: &str = "files.example.net";
/// The longest that a handshake may take which fails.
const HANDSHAKE: Duration = Duration::from_secs(20);

/// Held by tests that take all of the machine, and by tests about time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// For the attacks that disturb nobody.
fn rig() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(|| {
        let rig = Rig::start();
        rig.upstream.create_repo(REPO, Visibility::Private);
        rig
    })
}

async fn connect(sandbox: &Sandbox, host: &str, http: Http) -> Client {
    Client::connect(sandbox, sandbox.address, host, http).await.unwrap()
}

/// Asks for `https://host/path` on a connection of its own.
async fn get(sandbox: &Sandbox, host: &str, path: &str) -> Answer {
    connect(sandbox, host, Http::Two).await.get(path).await.unwrap()
}

/// The JSON of a refusal.
fn refusal(body: &str) -> Value {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("no refusal: {error}: {body}"))
}

/// The answer is `status` with this rule, in the header and in the body.
#[track_caller]
fn assert_refused(what: &str, answer: &Answer, status: u16, rule: &str) {
    assert_eq!((answer.status, answer.rule.as_deref()), (status, Some(rule)), "{what}: {answer:?}");
    assert_eq!(refusal(&answer.body)["rule"], rule, "{what}: {answer:?}");
}

#[track_caller]
fn assert_nothing_arrived(rig: &Rig, text: &str) {
    let arrived = rig.upstream.requests_with(text);
    assert!(arrived.is_empty(), "{arrived:?}");
}

#[track_caller]
fn assert_ready(rig: &Rig, after: &str) {
    let (status, body) = rig.gateway.call("GET", "/readyz", None);
    assert_eq!(status, 200, "after {after}: {body}");
}

// Names in the TLS handshake.

#[tokio::test]
async fn a_name_that_no_leaf_may_carry_ends_its_own_handshake_and_nobody_else_s() {
    let rig = Rig::start();
    let (known, stranger) = (rig.registered(&[REPO]), rig.sandbox());
    let names: [&[u8]; 4] = [b"\xff\xfeqqqqqq.example.com", b"qqq qqqq.example.com", b"q\0qq.example.com", b"q*q.b.cc"];
    // One that has had no leaf yet for each.
    for (name, fresh) in names.into_iter().zip(HOSTS) {
        let told = name.escape_ascii();
        let greeting = greet(&stranger, stranger.address, "a.bb", name, HANDSHAKE).await;
        assert_eq!(greeting.unwrap(), Greeting::Failed, "{told}");
        let answer =
            timeout(Duration::from_secs(5), get(&known, fresh, "/repos/acme/app/commits/after-a-bad-name")).await;
        let answer = answer.unwrap_or_else(|_| panic!("{fresh} is not reached after {told}"));
        assert!(matches!(answer.status, 200 | 403 | 404), "{fresh} after {told}: {answer:?}");
        assert_ready(&rig, &told.to_string());
    }
    assert!(!rig.upstream.requests_with("api.github.com/repos/acme/app/commits/after-a-bad-name").is_empty());
    assert_eq!(get(&known, PLAIN, "/after-all").await.status, 200);
}

#[tokio::test]
async fn other_spellings_of_a_name_are_that_name() {
    let rig = Rig::start();
    let (known, stranger) = (rig.registered(&[REPO]), rig.sandbox());
    for name in ["FILES.Example.NET", "files.example.net.", "Files.Example.Net."] {
        let greeting = greet(&stranger, stranger.address, "a.bb", name.as_bytes(), HANDSHAKE).await.unwrap();
        assert!(greeting.names(PLAIN), "{name}: {greeting:?}");
        let told = get(&stranger, name, "/spelling-of-a-stranger").await;
        assert_refused(name, &told, 403, "identity.unknown");
        let path = format!("/spelling/{name}");
        assert_eq!(get(&known, name, &path).await.status, 200, "{name}");
        let [arrived] = &rig.upstream.requests_with(&path)[..] else { panic!("{name}: not exactly one") };
        assert_eq!((arrived.host.as_str(), arrived.sni.as_str()), (PLAIN, PLAIN), "{arrived:?}");
    }
    assert_ready(&rig, "other spellings");
    assert_eq!(get(&known, "api.anthropic.com", "/a-fresh-name").await.status, 200);
    assert_nothing_arrived(&rig, "/spelling-of-a-stranger");
}

/// More leaves than one Envoy keeps (4,096).
const FLOOD: u32 = 6_000;
/// What the flood may take of Envoy's memory altogether.
const FLOOD_MEMORY: u64 = 400 << 20;

/// Shows `size` names that nobody has shown before, eight at a time, each in a tunnel to `host` from the address that
/// `source` gives for it, and returns how many were answered with a certificate.
async fn flood(sandbox: &Sandbox, host: &str, size: u32, source: impl Fn(u32) -> Ipv4Addr) -> u32 {
    let (next, certificates) = (AtomicU32::new(0), AtomicU32::new(0));
    let work = async || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= size {
                break;
            }
            let name = format!("n{number}.{}.{}.flood.{host}", "x".repeat(60), "y".repeat(60));
            // A tunnel that is refused is an answer, too.
            match greet(sandbox, source(number), host, name.as_bytes(), HANDSHAKE).await {
                Ok(greeting) if greeting.names(&name) => drop(certificates.fetch_add(1, Ordering::Relaxed)),
                Ok(_) => {}
                Err(error) => assert!(error.to_string().contains(" 429 "), "{error}"),
            }
        }
    };
    let four = async || tokio::join!(work(), work(), work(), work());
    let begun = Instant::now();
    tokio::join!(four(), four());
    println!("through {host}: {certificates:?} of {size} certificates in {:?}", begun.elapsed());
    certificates.into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_names_from_a_stranger_takes_no_name_from_anybody() {
    let _alone = ALONE.lock().await;
    let rig = Rig::start();
    let (known, stranger) = (rig.registered(&[REPO]), rig.sandbox());
    let mut kept = connect(&known, PLAIN, Http::Two).await;
    assert_eq!(kept.get("/flood/before").await.unwrap().status, 200);
    // From a hundred addresses, so that no limit of one address holds it back.
    let first = stranger.widen();
    let many = |number: u32| Ipv4Addr::from_bits(first.to_bits() + 1 + number % 100);
    assert!(flood(&stranger, "a.bb", FLOOD, many).await > 4_000, "this is no flood");
    let fresh = [("api.github.com", "/repos/acme/app/commits/flooded"), ("api.anthropic.com", "/flooded")];
    assert_reached_at_once(&rig, &known, fresh[0]).await;
    // From one address, through a tunnel to a host that the policy names.
    flood(&stranger, PLAIN, FLOOD / 6, |_| stranger.address).await;
    assert_reached_at_once(&rig, &known, fresh[1]).await;
    // Its leaf may have been the oldest of all.
    assert_eq!(get(&known, PLAIN, "/flood/again").await.status, 200);
    assert_eq!(kept.get("/flood/kept").await.unwrap().status, 200);
    let peak = peak_memory(rig.gateway.envoy_pid().unwrap());
    println!("the peak of Envoy is {} KiB", peak / 1024);
    assert!(peak < FLOOD_MEMORY, "the peak of Envoy is {peak} bytes");
    assert_ready(&rig, "the flood");
}

/// A host that has had no leaf is reached within two seconds.
async fn assert_reached_at_once(rig: &Rig, known: &Sandbox, (host, path): (&str, &str)) {
    let reached = timeout(Duration::from_secs(2), get(known, host, path)).await;
    let answer = reached.unwrap_or_else(|_| panic!("{host} is not reached within 2 s of the flood"));
    assert!(matches!(answer.status, 200 | 404), "{host}: {answer:?}");
    assert_eq!(rig.upstream.requests_with(&format!("{host}{path}")).len(), 1);
}

#[tokio::test]
async fn a_request_for_another_host_than_the_handshake_s_is_misdirected_and_the_right_one_beside_it_is_served() {
    let rig = rig();
    let sandbox = rig.registered(&[REPO]);
    for http in [Http::One, Http::Two] {
        let mut client = connect(&sandbox, "api.anthropic.com", http).await;
        let mut beside = connect(&sandbox, "api.anthropic.com", Http::Two).await;
        // Over HTTP/2 it stays open while the others come and go beside it.
        let stream = match http {
            Http::One => beside.open("/v1/stream").await.unwrap(),
            Http::Two => client.open("/v1/stream").await.unwrap(),
        };
        for other in [PLAIN, "github.com", "api.github.com", "example.com", "api.anthropic.com.evil.test"] {
            let wrong = client.get_from(other, "/sni/wrong").await.unwrap();
            assert_refused(&format!("{http:?} {other}"), &wrong, 421, "request.sni");
            let right = client.get(&format!("/sni/right/{http:?}/{other}")).await.unwrap();
            assert_eq!(right.status, 200, "{http:?} beside {other}: {right:?}");
            assert_eq!(rig.upstream.requests_with(&format!("anthropic.com/sni/right/{http:?}/{other}")).len(), 1);
        }
        drain(stream.into_body(), Duration::from_millis(300)).await.expect_err("the stream beside them goes on");
    }
    assert_nothing_arrived(rig, "/sni/wrong");
    let line = rig.gateway.audit_line("421", |line| line["path"] == "/sni/wrong");
    assert_eq!(
        (&line["verdict"], &line["rule"], &line["status"]),
        (&json!("deny"), &json!("request.sni"), &json!(421))
    );
}

// Ways out of the request that was judged.

#[tokio::test]
async fn a_connect_inside_a_tunnel_is_refused() {
    let rig = Rig::start();
    let sandbox = rig.registered(&[REPO]);
    for target in ["files.example.net:443", "github.com:443", "github.com:80", "127.0.0.1:8081", "example.com:22"] {
        for http in [Http::One, Http::Two] {
            let mut client = connect(&sandbox, PLAIN, http).await;
            // Whoever resets it has refused it, too.
            if let Ok(answer) = client.connect_inside(target).await {
                assert!(matches!(answer.status, 400..=499), "{http:?} {target}: {answer:?}");
            }
        }
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        let mut cleartext = tunnel_to(&sandbox, sandbox.address, &format!("{PLAIN}:80")).await.unwrap();
        let answer = ask(&mut cleartext, request.as_bytes()).await.unwrap();
        assert!(matches!(answer.status, 400..=499), "in cleartext {target}: {answer:?}");
    }
    assert_eq!(rig.upstream.connections(), 0);
    assert_eq!(get(&sandbox, PLAIN, "/after").await.status, 200);
}

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
    // What came behind was a request of its own, or nothing at all.
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
    // RFC 6455 section 5.7: a masked "Hello"; the upstream sends back whatever it gets.
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
        assert!(echoed == message, "{} bytes came back otherwise", message.len());
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

/// As raw bytes behind a request that its upstream takes for a plain one, they would be a request of their own, judged
/// by nobody.
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
        // What comes still comes before the end, or before this.
        let _end = timeout(Duration::from_secs(1), stream.read(&mut [0; 1])).await;
    }
    assert_nothing_arrived(rig, "/behind-an-upgrade");
}

#[test]
fn headers_that_cgi_reads_as_others_never_arrive() {
    let rig = rig();
    let sandbox = rig.registered(&[REPO]);
    // RFC 3875 section 4.1.18: each of these is HTTP_X_FORWARDED_FOR and so on, like the one that the gateway removes.
    let names =
        ["X_Forwarded_For", "X_HTTP_Method_Override", "X_Real_IP", "X-Forwarded_Host", "Authorization_", "Coo_kie"];
    for http in ["--http1.1", "--http2"] {
        for host in [PLAIN, "api.anthropic.com", "api.github.com"] {
            for name in names {
                let path = format!("/repos/acme/app/commits/underscored/{http}/{name}");
                let forged = format!("{name}: 1.2.3.4");
                let curled =
                    sandbox.curl(&[http, "-H", &forged, "-H", "X-Dashed: a_b", &format!("https://{host}{path}")]);
                let told = format!("{http} {host} {name}: {curled:?}");
                let arrived = rig.upstream.requests_with(&format!("{host}{path}"));
                if curled.status == 400 {
                    assert!(curled.rule().is_some() && arrived.is_empty(), "{told} {arrived:?}");
                    continue;
                }
                assert!(matches!(curled.status, 200 | 404) && arrived.len() == 1, "{told} {arrived:?}");
                // GitHub's API gets the headers that are known there, and no other.
                let dashed: &[&[u8]] = if host == "api.github.com" { &[] } else { &[b"a_b"] };
                assert_eq!(arrived[0].header("x-dashed"), dashed, "{told}");
                let forged = |name: &str, value: &[u8]| name.contains('_') || value == b"1.2.3.4";
                assert!(!arrived[0].headers.iter().any(|(name, value)| forged(name, value)), "{told} {arrived:?}");
            }
        }
    }
}

#[test]
fn a_path_with_bytes_that_are_not_ascii_gets_no_credential() {
    let rig = rig();
    let sandbox = rig.registered(&[REPO]);
    let cases: [(&str, &[u8]); 5] = [
        ("api.github.com", b"/repos/acme/app/contents/beyond/\xff\xfe/x"),
        ("api.github.com", "/repos/acme/app/contents/beyond/é".as_bytes()),
        ("api.github.com", b"/repos/acme/app/contents/beyond?ref=\xff"),
        ("github.com", b"/acme/app.git/info/refs?service=git-upload-pack&beyond=\xff\xfe"),
        ("github.com", b"/acme/app\xff/info/refs?service=git-upload-pack&beyond"),
    ];
    for (host, path) in cases {
        let told = format!("{host}{}", path.escape_ascii());
        let url = format!("https://{host}/");
        let args = [OsStr::new("--request-target"), OsStr::from_bytes(path), OsStr::new(&url)];
        let curled = sandbox.curl(&[&[OsStr::new("--http2")], &args[..]].concat());
        assert_eq!((curled.status, curled.rule().as_deref()), (403, Some("request.path")), "{told}: {curled:?}");
        // Envoy's own parser may be the one that refuses it.
        let curled = sandbox.curl(&[&[OsStr::new("--http1.1")], &args[..]].concat());
        assert!(matches!(curled.status, 400 | 403) && curled.rule().is_some(), "HTTP/1.1 {told}: {curled:?}");
    }
    assert_nothing_arrived(rig, "beyond");
}

#[test]
fn git_paths_take_the_methods_that_git_uses_and_no_other() {
    let rig = Rig::start();
    rig.upstream.create_repo(REPO, Visibility::Private);
    let sandbox = rig.registered(&[REPO]);
    let methods = ["TRACE", "PUT", "DELETE", "OPTIONS", "PROPFIND", "PATCH", "MKCOL", "get"];
    let services = [
        ("info/refs?service=git-upload-pack", "POST"),
        ("info/refs?service=git-receive-pack", "POST"),
        ("git-upload-pack", "GET"),
        ("git-receive-pack", "GET"),
    ];
    for http in ["--http1.1", "--http2"] {
        for repo in ["acme/app", "acme/app.git"] {
            for (service, other) in services {
                for method in methods.into_iter().chain([other]) {
                    let curled = sandbox.curl(&[http, "-X", method, &format!("https://github.com/{repo}/{service}")]);
                    let told = format!("{http} {method} {repo}/{service}: {curled:?}");
                    assert!(matches!(curled.status, 400 | 403 | 405), "{told}");
                    assert!(curled.rule().is_some(), "{told}");
                }
            }
        }
    }
    assert_nothing_arrived(&rig, "");
    let refs = "https://github.com/acme/app.git/info/refs?service=git-upload-pack";
    assert_eq!(sandbox.curl(&["-o", "/dev/null", refs]).status, 200);
}

// Refusals.

/// A file of `megabytes` of nothing.
fn nothing(sandbox: &Sandbox, megabytes: u64) -> PathBuf {
    let path = sandbox.home.join(format!("{megabytes}-megabytes"));
    File::create(&path).unwrap().set_len(megabytes << 20).unwrap();
    path
}

/// What each sandbox that is refused sends where, and by which rule it is refused.
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
    // Both workers of Envoy have served it, so the certificate and the record are known to both.
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
    // Nobody can say who this is, however much it sends meanwhile.
    let file = nothing(&stranger, 100).display().to_string();
    for http in ["--http1.1", "--http2"] {
        let curled = stranger.curl(&[http, "-T", &file, &format!("https://api.github.com{path}")]);
        assert_eq!(curled.status, 503, "{http}: {curled:?}");
        assert_eq!(refusal(&curled.body)["rule"], "identity.unavailable", "{http}");
    }
    assert_nothing_arrived(&rig, path);
    rig.gateway.signal(Signal::CONT);
    for (host, path) in [("api.github.com", "/user"), (PLAIN, "/continued"), ("api.anthropic.com", "/continued")] {
        eventually_async("all is as before", Duration::from_secs(10), async || {
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

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_is_named_as_the_reason_and_request_ids_lead_to_the_audit() {
    // Nobody listens there.
    let closed = SocketAddr::from((upstream::ADDRESS, 1));
    let rig = Rig::start_with(&policy(&HOSTS), &[(PLAIN, closed), ("api.github.com", closed)]);
    let sandbox = rig.registered(&[REPO]);
    for http in [Http::One, Http::Two] {
        for host in [PLAIN, "api.github.com"] {
            let path = format!("/repos/acme/app/commits/closed/{http:?}");
            let answer = connect(&sandbox, host, http).await.get(&path).await.unwrap();
            assert_refused(&format!("{http:?} {host}"), &answer, 503, "upstream.unreachable");
            let id = refusal(&answer.body)["request_id"].as_str().unwrap_or_default().to_owned();
            assert!(!id.is_empty(), "{answer:?}");
            let line = rig.gateway.audit_line(&path, |line| line["path"] == path.as_str() && line["host"] == host);
            assert_eq!((&line["verdict"], &line["rule"]), (&json!("deny"), &json!("upstream.unreachable")), "{line}");
            assert_eq!(line["request_id"], id.as_str(), "{line}");
            assert_eq!(line["container_ip"], sandbox.address.to_string(), "{line}");
        }
    }
    assert_nothing_arrived(&rig, "/closed/");
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

// Credentials.

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
        // Whether it is served is not what this is about.
        sandbox.curl(&[&with[..], &[upload]].concat());
    }
    let arrived = rig.upstream.requests();
    assert!(arrived.iter().any(|request| request.host == "codeload.github.com"));
    for request in arrived {
        assert!(request.host == "codeload.github.com" || request.method == "GET", "{request:?}");
        assert!(request.header("cookie").is_empty(), "{request:?}");
        let headers: Vec<_> = request.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        secrets::assert_absent(own, &headers);
        // Nor is ours for these hosts.
        secrets::assert_absent(TOKEN, &headers);
    }
}

// The operator's side.

/// Whether `address` is registered.
fn is_registered(gateway: &Gateway, address: Ipv4Addr) -> bool {
    match gateway.call("GET", &format!("/internal/containers/{address}"), None) {
        (200, _) => true,
        (404, _) => false,
        other => panic!("{address}: {other:?}"),
    }
}

/// Which of `addresses` are registered, once that has not changed for half a second.
fn settled(gateway: &Gateway, addresses: &[Ipv4Addr]) -> Vec<bool> {
    let look = || addresses.iter().map(|address| is_registered(gateway, *address)).collect::<Vec<_>>();
    let (mut since, mut last) = (Instant::now(), look());
    eventually("registrations have settled", Duration::from_secs(20), || {
        let now = look();
        if now != last {
            (since, last) = (Instant::now(), now);
        }
        (since.elapsed() > Duration::from_millis(500)).then(|| last.clone())
    })
}

fn restart(gateway: &Gateway) {
    gateway.signal(Signal::TERM);
    gateway.ended(Duration::from_secs(10));
    gateway.up();
}

#[test]
fn a_registration_or_removal_whose_client_left_is_whole_or_not_at_all() {
    let rig = Rig::start();
    let gateway = &rig.gateway;
    let addresses: Vec<Ipv4Addr> = (1..=100).map(|number| Ipv4Addr::new(10, 50, 0, number)).collect();
    let delay = |number: usize| Duration::from_micros([200, 500, 1000, 2000][number / 25]);
    for (number, address) in addresses.iter().enumerate() {
        let record = json!({"container_ip": address, "container_id": "left", "repos": [REPO]});
        gateway.abort_call("POST", "/internal/containers", Some(&record), delay(number));
    }
    let before = settled(gateway, &addresses);
    restart(gateway);
    let there = settled(gateway, &addresses);
    let differ = before.iter().zip(&there).filter(|(before, there)| before != there).count();
    assert_eq!(differ, 0, "{differ} of 100 registrations are in memory and not on disk, or the other way round");
    println!("{} of 100 aborted registrations are in force", there.iter().filter(|there| **there).count());

    for address in &addresses {
        gateway.register(*address, &[REPO]);
    }
    for (number, address) in addresses.iter().enumerate() {
        gateway.abort_call("DELETE", &format!("/internal/containers/{address}"), None, delay(number));
    }
    let before = settled(gateway, &addresses);
    restart(gateway);
    let there = settled(gateway, &addresses);
    let differ = before.iter().zip(&there).filter(|(before, there)| before != there).count();
    assert_eq!(differ, 0, "{differ} of 100 removals are in memory and not on disk, or the other way round");
    println!("{} of 100 aborted removals are not in force", there.iter().filter(|there| **there).count());

    for (address, there) in addresses.iter().zip(there) {
        let (status, body) = gateway.call("DELETE", &format!("/internal/containers/{address}"), None);
        assert_eq!(status, if there { 204 } else { 404 }, "{address}: {body}");
    }
    restart(gateway);
    assert!(!settled(gateway, &addresses).contains(&true), "a removed address is back");
}

#[test]
fn a_removal_beside_a_change_of_the_same_record_holds() {
    let rig = rig();
    let gateway = &rig.gateway;
    let address = Ipv4Addr::new(10, 80, 0, 1);
    let path = format!("/internal/containers/{address}");
    for round in 0..150 {
        gateway.register(address, &[REPO]);
        let (changed, removed) = thread::scope(|scope| {
            let change = scope.spawn(|| gateway.call("PATCH", &path, Some(&json!({"labels": {"a": "b"}}))));
            let remove = scope.spawn(|| gateway.call("DELETE", &path, None));
            (change.join().unwrap(), remove.join().unwrap())
        });
        assert!(matches!(changed.0, 200 | 404), "round {round}: {changed:?}");
        assert_eq!(removed.0, 204, "round {round}: {removed:?}");
        assert!(!is_registered(gateway, address), "round {round}: removed, and there again");
    }
}

#[test]
fn two_changes_of_the_same_record_at_once_are_both_in_force() {
    let rig = rig();
    let gateway = &rig.gateway;
    let address = Ipv4Addr::new(10, 80, 0, 2);
    let path = format!("/internal/containers/{address}");
    for round in 0..60 {
        gateway.register(address, &[REPO, "acme/secret"]);
        let answers = thread::scope(|scope| {
            let narrow = scope.spawn(|| gateway.call("PATCH", &path, Some(&json!({"repos": []}))));
            let label = scope.spawn(|| gateway.call("PATCH", &path, Some(&json!({"labels": {"a": "b"}}))));
            [narrow.join().unwrap(), label.join().unwrap()]
        });
        assert!(answers.iter().all(|(status, _)| *status == 200), "round {round}: {answers:?}");
        let record: Value = serde_json::from_str(&gateway.call("GET", &path, None).1).unwrap();
        assert_eq!(record["repos"], json!([]), "round {round}: {record}");
        assert_eq!(record["labels"], json!({"a": "b"}), "round {round}: {record}");
    }
}

#[test]
fn a_web_page_cannot_speak_to_the_admin_api() {
    let rig = rig();
    let gateway = &rig.gateway;
    let port = gateway.admin().port();
    let address = Ipv4Addr::new(10, 81, 0, 1);
    let record = json!({"container_ip": address, "container_id": "page", "repos": []});
    let bad_ports = [format!("localhost:{port}.evil.test"), format!("127.0.0.1:{port}@evil.test")];
    let mut pages = vec![
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
        ("Origin", "https://evil.test"),
        ("Origin", "null"),
        ("Host", "localhost:evil.test"),
        ("Host", "evil.test"),
        ("Host", "localhost.evil.test"),
        ("Host", "[[[::1]]]"),
        ("Host", ""),
    ];
    pages.extend(bad_ports.iter().map(|host| ("Host", host.as_str())));
    for header in pages {
        for path in ["/internal/containers", "/ca.pem", "/readyz"] {
            let (status, body) = gateway.call_as("GET", path, &[header], None);
            assert!(matches!(status, 400 | 403), "{header:?} {path}: {status} {body}");
            assert!(header == ("Host", "") || status == 403, "{header:?} {path}: {status} {body}");
        }
        let (status, body) = gateway.call_as("POST", "/internal/containers", &[header], Some(&record));
        assert!(matches!(status, 400 | 403), "{header:?}: {status} {body}");
    }
    assert!(!is_registered(gateway, address));
    for host in [format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        assert_eq!(gateway.call_as("GET", "/internal/containers", &[("Host", &host)], None).0, 200, "{host}");
    }
}

/// What a request from the sandbox to that port of the gateway's loopback address brings.
async fn loopback(sandbox: &Sandbox, port: u16) -> String {
    let mut answer = Vec::new();
    let work = async {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = sandbox.socket(sandbox.address).connect(target).await?;
        stream.write_all(format!("GET /internal/containers HTTP/1.0\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
        stream.read_to_end(&mut answer).await
    };
    // However it ends: what came is what counts.
    let _ = timeout(Duration::from_secs(5), work).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn the_admin_api_answers_no_sandbox_even_where_loopback_is_routed() {
    let rig = Rig::start();
    let sandbox = rig.registered(&[REPO]);
    let open = "for file in /proc/sys/net/ipv4/conf/*/route_localnet; do echo 1 >$file; done";
    Finished::of(Command::new("sh").args(["-c", open])).success();
    Finished::of(sandbox.command("sh").args(["-c", open])).success();
    let gateway = sandbox.gateway_address.to_string();
    for args in [
        &["route", "add", "127.0.0.1/32", "via", &gateway, "dev", "eth0", "table", "77"][..],
        &["rule", "add", "pref", "1", "lookup", "77"],
        &["rule", "add", "pref", "2", "lookup", "local"],
        &["rule", "del", "pref", "0"],
    ] {
        Finished::of(sandbox.command("ip").args(args)).success();
    }
    // The way is open: somebody else's loopback port is reached by it.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let other = thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        let mut head = BufReader::new(&stream).lines();
        while head.next().is_some_and(|line| !line.unwrap().is_empty()) {}
        stream.write_all(b"reached").unwrap();
        peer.ip()
    });
    assert_eq!(loopback(&sandbox, port).await, "reached");
    assert_eq!(other.join().unwrap(), sandbox.address);
    let told = loopback(&sandbox, rig.gateway.admin().port()).await;
    assert!(!told.contains(" 200 ") && !told.contains("container_ip"), "{told}");
    // The operator's own way is as it was.
    assert_eq!(rig.gateway.call("GET", "/internal/containers", None).0, 200);
}

// The policy file.

/// The longest that a change of the policy may take on a machine that has other things to do.
const RELOAD: Duration = Duration::from_secs(1);

/// What it takes mostly, for all of several open connections.
const USUAL_RELOAD: Duration = Duration::from_millis(200);

/// Asks on `client` until the status is `status`, at most [`RELOAD`] from now; the connection may not break.
async fn in_force(client: &mut Client, path: &str, status: u16, since: Instant) -> Answer {
    loop {
        let asked = since.elapsed();
        let answer = client.get(path).await.expect("the connection is kept");
        if answer.status == status {
            return answer;
        }
        assert!(asked < RELOAD, "still {} after {asked:?}: {answer:?}", answer.status);
    }
}

#[tokio::test]
async fn a_change_of_the_policy_is_in_force_on_open_connections_at_once() {
    let _alone = ALONE.lock().await;
    let rig = Rig::start();
    let sandbox = rig.registered(&[REPO]);
    let with = policy(&[PLAIN, "api.github.com", "api.anthropic.com"]);
    let without = policy(&["api.anthropic.com"]);
    let mut other = connect(&sandbox, "api.anthropic.com", Http::Two).await;
    let stream = other.open("/v1/stream").await.unwrap();
    let mut clients = Vec::new();
    for host in [PLAIN, "api.github.com"] {
        for http in [Http::Two, Http::Two, Http::One] {
            let mut client = connect(&sandbox, host, http).await;
            assert_eq!(client.get("/user").await.unwrap().status, 200);
            clients.push(client);
        }
    }
    let mut took = Vec::new();
    for round in 0..6 {
        // As an editor does it, and as `>` does it.
        let write = |text: &str| {
            if round % 2 == 0 {
                let beside = rig.gateway.policy_file().with_extension("new");
                fs::write(&beside, text).unwrap();
                fs::rename(beside, rig.gateway.policy_file()).unwrap();
            } else {
                fs::write(rig.gateway.policy_file(), text).unwrap();
            }
            Instant::now()
        };
        let removed = write(&without);
        for client in &mut clients {
            let answer = in_force(client, "/user", 403, removed).await;
            assert_refused("removed", &answer, 403, "egress.host");
        }
        took.push(removed.elapsed());
        for client in &mut clients {
            assert_eq!(client.get("/repos/acme/app/commits/removed").await.unwrap().status, 403);
        }
        let added = write(&with);
        for client in &mut clients {
            in_force(client, "/user", 200, added).await;
        }
        took.push(added.elapsed());
        for client in &mut clients {
            assert_eq!(client.get("/user").await.unwrap().status, 200);
        }
        assert_eq!(other.get("/not/concerned").await.unwrap().status, 200);
    }
    took.sort();
    println!("in force after {took:?}");
    assert!(took[took.len() / 2] < USUAL_RELOAD, "{took:?}");
    drain(stream.into_body(), Duration::from_millis(100)).await.expect_err("a stream of another host goes on");
    assert_nothing_arrived(&rig, "/removed");
    assert!(rig.gateway.warnings().is_empty(), "{:?}", rig.gateway.warnings());
}

/// A listener that changes drains its connections (GOAWAY, `connection: close`), those of all sandboxes. Envoy itself
/// leaves out what is equal; until it has said so, the gateway is not ready, so nothing may be sent at all.
#[tokio::test]
async fn neither_a_registration_nor_a_new_policy_changes_a_listener() {
    let _alone = ALONE.lock().await;
    let rig = Rig::start();
    let sandbox = rig.sandbox();
    let updates = || rig.gateway.envoy_stat("listener_manager.lds.update_success");
    let before = updates();
    assert!(before > 0, "Envoy's statistics have other names");
    for round in 0..5 {
        rig.gateway.register(sandbox.address, &[REPO]);
        assert_ready(&rig, "a registration");
        let path = format!("/internal/containers/{}", sandbox.address);
        let body = json!({"egress_allow": [format!("h{round}.example.com")]});
        let (status, body) = rig.gateway.call("PATCH", &path, Some(&body));
        assert_eq!(status, 200, "{body}");
        // A tunnel ends with its record, and a change makes another one of it.
        let mut client = connect(&sandbox, PLAIN, Http::Two).await;
        fs::write(rig.gateway.policy_file(), policy(&["api.anthropic.com"])).unwrap();
        in_force(&mut client, "/listeners", 403, Instant::now()).await;
        fs::write(rig.gateway.policy_file(), policy(&HOSTS)).unwrap();
        in_force(&mut client, "/listeners", 200, Instant::now()).await;
        rig.gateway.remove(sandbox.address);
        assert_eq!(get(&sandbox, PLAIN, "/listeners").await.status, 403);
    }
    for stat in ["listener_modified", "listener_in_place_updated", "total_filter_chains_draining"] {
        let name = format!("listener_manager.{stat}");
        assert_eq!(rig.gateway.envoy_stat(&name), 0, "{name}");
    }
    assert_eq!(updates(), before, "listeners were sent again");
}

#[tokio::test]
async fn a_policy_that_is_deleted_allows_nothing_until_it_is_there_again() {
    let _alone = ALONE.lock().await;
    let rig = Rig::start_with(&policy(&[PLAIN, "api.anthropic.com"]), &[]);
    let sandbox = rig.registered(&[REPO]);
    let mut other = connect(&sandbox, "api.anthropic.com", Http::Two).await;
    let stream = other.open("/v1/stream").await.unwrap();
    let mut clients = vec![other];
    for http in [Http::Two, Http::One] {
        clients.push(connect(&sandbox, PLAIN, http).await);
    }
    for client in &mut clients {
        client.get("/listed").await.unwrap().ok().unwrap();
    }
    let aside = rig.gateway.policy_file().with_extension("aside");
    for _ in 0..2 {
        fs::rename(rig.gateway.policy_file(), &aside).unwrap();
        let since = Instant::now();
        for client in &mut clients {
            let deleted = in_force(client, "/listed", 403, since).await;
            assert_refused("deleted", &deleted, 403, "egress.host");
            assert_refused("deleted", &client.get("/deleted").await.unwrap(), 403, "egress.host");
        }
        assert_ready(&rig, "the deletion");
        fs::rename(&aside, rig.gateway.policy_file()).unwrap();
        let since = Instant::now();
        for client in &mut clients {
            in_force(client, "/listed", 200, since).await;
        }
    }
    assert_nothing_arrived(&rig, "/deleted");
    drain(stream.into_body(), Duration::from_millis(100)).await.expect_err("what is open goes on");
}

#[tokio::test]
async fn a_policy_that_cannot_be_read_changes_nothing_and_is_told_with_its_place() {
    let _alone = ALONE.lock().await;
    let rig = Rig::start_with(&policy(&[PLAIN]), &[]);
    let sandbox = rig.registered(&[REPO]);
    let mut client = connect(&sandbox, PLAIN, Http::Two).await;
    let mut refused = connect(&sandbox, "api.anthropic.com", Http::Two).await;
    let bad = [
        (format!("egress:\n  - {PLAIN}\n  - api.anthropic.com\n  - localhost\n"), "policy.yaml:4:5: "),
        ("egres:\n  - api.anthropic.com\n".to_owned(), "policy.yaml:1:1: "),
        ("egress:\n  - {host: api.anthropic.com, methods: GET}\n".to_owned(), "policy.yaml:2:40: "),
        ("egress: [\n".to_owned(), "policy.yaml:"),
    ];
    for (text, place) in bad {
        fs::write(rig.gateway.policy_file(), &text).unwrap();
        let warning =
            eventually(place, RELOAD, || rig.gateway.warnings().into_iter().find(|warning| warning.contains(place)));
        println!("{warning}");
        assert_ready(&rig, &warning);
        for _ in 0..3 {
            assert_eq!(client.get("/bad-policy").await.unwrap().status, 200, "{warning}");
            assert_refused(&warning, &refused.get("/bad-policy").await.unwrap(), 403, "egress.host");
        }
    }
    let mended = policy(&[PLAIN, "api.anthropic.com"]);
    fs::write(rig.gateway.policy_file(), mended).unwrap();
    in_force(&mut refused, "/mended", 200, Instant::now()).await;
    eventually("the warning is gone", RELOAD, || rig.gateway.warnings().is_empty().then_some(()));
    assert_nothing_arrived(&rig, "api.anthropic.com/bad-policy");
}
