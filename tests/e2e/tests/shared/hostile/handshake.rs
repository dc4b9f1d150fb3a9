//! Names in the TLS handshake: malformed names, a flood of names, and a name that differs from the request's.

use super::{ALONE, HANDSHAKE, PLAIN, REPO, assert_nothing_arrived, assert_ready, assert_refused, connect, get, rig};
use serde_json::json;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use test_support::client::drain;
use test_support::process::peak_memory;
use test_support::raw::{Greeting, greet};
use test_support::upstream::HOSTS;
use test_support::{Gateway, Http, Rig, Sandbox, Upstream};
use tokio::time::timeout;

#[tokio::test]
async fn a_name_that_no_leaf_may_carry_ends_its_own_handshake_and_nobody_else_s() {
    let rig = Rig::start();
    let (known, stranger) = (rig.registered(&[REPO]), rig.sandbox());
    let names: [&[u8]; 4] = [b"\xff\xfeqqqqqq.example.com", b"qqq qqqq.example.com", b"q\0qq.example.com", b"q*q.b.cc"];
    // For each bad name, a host that has no leaf yet.
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

/// The number of names in the flood: more than the leaves that one Envoy keeps (4,096).
const FLOOD: u32 = 6_000;
/// The limit for Envoy's peak memory during the flood, in bytes.
const FLOOD_MEMORY: u64 = 400 << 20;

/// Makes handshakes with `size` new names, eight at a time, each in a tunnel to `host`. `source` gives the address of
/// each client. Returns the number of handshakes that got a certificate for their name.
async fn flood(sandbox: &Sandbox, host: &str, size: u32, source: impl Fn(u32) -> Ipv4Addr) -> u32 {
    let (next, certificates) = (AtomicU32::new(0), AtomicU32::new(0));
    let work = async || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= size {
                break;
            }
            let name = format!("n{number}.{}.{}.flood.{host}", "x".repeat(60), "y".repeat(60));
            // The rate limit may refuse the tunnel.
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
    let upstream = Upstream::start();
    // More connections than the flood has open at once.
    let gateway = Gateway::before(&upstream).settings("limits: {stranger_connections: 512}\n").up();
    let rig = Rig { upstream, gateway };
    let (known, stranger) = (rig.registered(&[REPO]), rig.sandbox());
    let mut kept = connect(&known, PLAIN, Http::Two).await;
    assert_eq!(kept.get("/flood/before").await.unwrap().status, 200);
    // From a hundred addresses, so that the rate limit of one address does not stop the flood.
    let first = stranger.widen();
    let many = |number: u32| Ipv4Addr::from_bits(first.to_bits() + 1 + number % 100);
    assert!(flood(&stranger, "a.bb", FLOOD, many).await > 4_000, "the flood got too few certificates");
    let fresh = [("api.github.com", "/repos/acme/app/commits/flooded"), ("api.anthropic.com", "/flooded")];
    assert_reached_at_once(&rig, &known, fresh[0]).await;
    // From one address, through a tunnel to a host that the policy names.
    flood(&stranger, PLAIN, FLOOD / 6, |_| stranger.address).await;
    assert_reached_at_once(&rig, &known, fresh[1]).await;
    // The leaf of this host may have been the oldest, so Envoy may have evicted the leaf.
    assert_eq!(get(&known, PLAIN, "/flood/again").await.status, 200);
    assert_eq!(kept.get("/flood/kept").await.unwrap().status, 200);
    let peak = peak_memory(rig.gateway.envoy_pid().unwrap());
    println!("the peak of Envoy is {} KiB", peak / 1024);
    assert!(peak < FLOOD_MEMORY, "the peak of Envoy is {peak} bytes");
    assert_ready(&rig, "the flood");
}

/// Asserts that `known` reaches a host without a leaf within five seconds.
async fn assert_reached_at_once(rig: &Rig, known: &Sandbox, (host, path): (&str, &str)) {
    let reached = timeout(Duration::from_secs(5), get(known, host, path)).await;
    let answer = reached.unwrap_or_else(|_| panic!("{host} is not reached within 5 s of the flood"));
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
        // The stream stays open during the other requests. Over HTTP/2 they share its connection.
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
