//! The limits of one address, exactly: the last granted one and the first refused one. Envoy has one worker here, since
//! limits count in each worker.

use futures::future::try_join_all;
use serde_json::{Value, json};
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use test_support::client::{Followed, tunnel};
use test_support::process::{Signal, stopped};
use test_support::raw::greet;
use test_support::{Client, Gateway, Http, Rig, Sandbox, Upstream, eventually, eventually_async};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A host without a credential.
const PLAIN: &str = "files.example.net";
/// A host with a stream.
const STREAMS: &str = "api.anthropic.com";
/// The timeout of a wait whose length is not tested.
const SOON: Duration = Duration::from_secs(10);

/// The limit of open tunnels.
const TUNNELS: usize = 256;
/// The rates after the burst, each second: for a registered and for an unregistered address.
const PER_SECOND: [usize; 2] = [32, 8];
/// The number of tunnels that the test opens at a time. One after the other, they might come too slowly.
const AT_A_TIME: usize = 32;
/// The burst of registry lookups for an unregistered address.
const QUESTIONS: usize = 128;
/// The limit of requests under way.
const REQUESTS: usize = 256;
/// The limit of tunnels in an hour to hosts that the policy does not name.
const NAMES: usize = 200;
/// The limit of requests that wait for the registry.
const LOOKUPS: usize = 64;

fn rig() -> Rig {
    let upstream = Upstream::start();
    // Each tunnel of an HTTP/1.1 client has a TCP connection, of which a stranger has few by default.
    let settings = "limits: {stranger_connections: 1024, container_connections: 1024}\n";
    let gateway = Gateway::before(&upstream).workers(1).settings(settings).build();
    gateway.up();
    Rig { upstream, gateway }
}

/// Sends a CONNECT, expects a 429, and returns the rule of the refusal.
async fn refused(sandbox: &Sandbox, host: &str) -> String {
    rule_of(&tunnel(sandbox, sandbox.address, host).await.expect_err("a tunnel beyond the limit is refused"))
}

/// The rule of a CONNECT's refusal with 429.
fn rule_of(error: &io::Error) -> String {
    let error = error.to_string();
    let header =
        |name: &str| error.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
    assert!(error.contains(" 429 "), "{error}");
    header("x-sallyport-rule:").unwrap_or_else(|| panic!("no rule: {error}"))
}

async fn opened(sandbox: &Sandbox, host: &str) -> io::Result<TcpStream> {
    tunnel(sandbox, sandbox.address, host).await
}

fn assert_refusal(audit: &Value, rule: &str) {
    assert_eq!((&audit["verdict"], &audit["rule"], &audit["status"]), (&json!("deny"), &json!(rule), &json!(429)));
}

#[tokio::test]
async fn an_address_has_256_tunnels_and_not_one_more() {
    let rig = rig();
    // The limit is the same for an unregistered address.
    let (known, stranger, other) = (rig.registered(&[]), rig.sandbox(), rig.registered(&[]));
    for sandbox in [&known, &stranger] {
        // Some at once: each tunnel has 15 seconds for its first bytes.
        let mut tunnels = Vec::new();
        while tunnels.len() < TUNNELS {
            let some = try_join_all((0..AT_A_TIME).map(|_| opened(sandbox, PLAIN))).await;
            tunnels.extend(some.unwrap_or_else(|error| panic!("after {} tunnels: {error}", tunnels.len())));
        }
        for _ in 0..3 {
            assert_eq!(refused(sandbox, PLAIN).await, "limit.connections");
        }
        let line = rig.gateway.audit_line("the refusal", |line| line["container_ip"] == json!(sandbox.address));
        assert_refusal(&line, "limit.connections");
        // Another address is unaffected.
        let mut client = Client::connect(&other, other.address, PLAIN, Http::Two).await.unwrap();
        client.get("/beside").await.unwrap().ok().unwrap();
        // One tunnel closes, one more opens, and the next is refused again.
        drop(tunnels.pop());
        tunnels.push(
            eventually_async("the limit admits a tunnel again", SOON, async || opened(sandbox, PLAIN).await).await,
        );
        assert_eq!(refused(sandbox, PLAIN).await, "limit.connections");
    }
}

/// Checks `done` grants since `begun` against a burst of `at_once` and a rate of `per_second`. No grant was refused
/// before.
fn assert_rate(done: usize, at_once: usize, per_second: usize, begun: Instant) {
    assert!(begun.elapsed() < Duration::from_secs(60), "too slow to reach the limit: {done}");
    // The first and the last second may both be incomplete.
    let most = at_once + per_second * (usize::try_from(begun.elapsed().as_secs()).unwrap() + 2);
    assert!(done <= most, "{done} granted, the limit is {most}");
}

#[tokio::test]
async fn an_address_opens_256_tunnels_at_once_and_then_so_many_in_a_second() {
    let rig = rig();
    let (known, stranger, other) = (rig.registered(&[]), rig.sandbox(), rig.registered(&[]));
    let mut beside = Client::connect(&other, other.address, PLAIN, Http::Two).await.unwrap();
    for (sandbox, per_second) in [&known, &stranger].into_iter().zip(PER_SECOND) {
        let begun = Instant::now();
        let mut opened_so_far = 0;
        let mut refused = Vec::new();
        while refused.is_empty() {
            // All are closed before the next ones are opened, so few are open at a time.
            let some = futures::future::join_all((0..AT_A_TIME).map(|_| opened(sandbox, PLAIN))).await;
            opened_so_far += some.iter().filter(|tunnel| tunnel.is_ok()).count();
            refused.extend(some.into_iter().filter_map(Result::err));
            assert_rate(opened_so_far, TUNNELS, per_second, begun);
        }
        assert!(opened_so_far >= TUNNELS, "only {opened_so_far}");
        assert!(refused.iter().all(|error| rule_of(error) == "limit.rate"), "{refused:?}");
        let line = rig.gateway.audit_line("the refusal", |line| line["container_ip"] == json!(sandbox.address));
        assert_refusal(&line, "limit.rate");
        // Another address is unaffected.
        beside.get("/beside-a-flood").await.unwrap().ok().unwrap();
        opened(&other, PLAIN).await.unwrap();
        // The limit recovers with time.
        eventually_async("the limit admits a tunnel again", 3 * SOON, async || opened(sandbox, PLAIN).await).await;
    }
}

#[tokio::test]
async fn where_nobody_is_known_128_requests_are_looked_up_at_once_and_then_8_in_a_second() {
    let rig = rig();
    let (stranger, other) = (rig.sandbox(), rig.registered(&[]));
    let mut client = Client::connect(&stranger, stranger.address, PLAIN, Http::Two).await.unwrap();
    let begun = Instant::now();
    let mut asked = 0;
    let refused = loop {
        let answer = client.get("/flood").await.unwrap();
        match answer.rule.as_deref() {
            Some("identity.unknown") => asked += 1,
            _ => break answer,
        }
        assert_rate(asked, QUESTIONS, PER_SECOND[1], begun);
    };
    assert!(asked >= QUESTIONS, "only {asked}");
    assert_eq!((refused.status, refused.rule.as_deref()), (429, Some("limit.rate")), "{refused:?}");
    let line = rig.gateway.audit_line("the refusal", |line| line["status"] == 429);
    assert_refusal(&line, "limit.rate");
    Client::connect(&other, other.address, PLAIN, Http::Two).await.unwrap().get("/beside").await.unwrap().ok().unwrap();
    // A registration takes effect at once, whatever the address requested before.
    rig.gateway.register(stranger.address, &[]);
    client.get("/known").await.unwrap().ok().unwrap();
    assert!(rig.upstream.requests_with("/flood").is_empty());
}

#[tokio::test]
async fn an_address_has_256_requests_under_way_and_not_one_more() {
    let rig = rig();
    let (sandbox, other) = (rig.registered(&[]), rig.registered(&[]));
    // One connection over HTTP/2 may have fewer streams than the address.
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::connect(&sandbox, sandbox.address, STREAMS, Http::Two).await.unwrap());
    }
    let mut streams = Vec::new();
    for number in 0..REQUESTS {
        let response = clients[number % 3].open("/v1/stream").await.unwrap();
        assert_eq!(response.status(), 200, "request {number}");
        streams.push(Followed::new(response.into_body()));
    }
    for client in &mut clients {
        let answer = client.get("/too-many").await.unwrap();
        assert_eq!((answer.status, answer.rule.as_deref()), (429, Some("limit.streams")), "{answer:?}");
    }
    let mut one = Client::connect(&sandbox, sandbox.address, PLAIN, Http::One).await.unwrap();
    assert_eq!(one.get("/too-many").await.unwrap().rule.as_deref(), Some("limit.streams"));
    assert!(rig.upstream.requests_with("/too-many").is_empty());
    assert_refusal(&rig.gateway.audit_line("the refusal", |line| line["path"] == "/too-many"), "limit.streams");
    assert!(streams.iter().all(|stream| !stream.ended()), "the granted streams continue");
    Client::connect(&other, other.address, PLAIN, Http::Two).await.unwrap().get("/beside").await.unwrap().ok().unwrap();
    // One request ends, one more is granted, and the next is refused again.
    drop(streams.pop());
    let again = eventually_async("the limit admits a request again", SOON, async || {
        let response = clients[0].open("/v1/stream").await.unwrap();
        if response.status() == 200 { Ok(Followed::new(response.into_body())) } else { Err(response.status()) }
    })
    .await;
    assert_eq!(one.get("/too-many").await.unwrap().rule.as_deref(), Some("limit.streams"));
    assert!(!again.ended());
}

#[tokio::test]
async fn an_address_asks_for_200_strange_names_in_an_hour_and_not_one_more() {
    let rig = rig();
    let (sandbox, other) = (rig.registered(&[]), rig.registered(&[]));
    for number in 1..=NAMES {
        opened(&sandbox, &format!("n{number}.example")).await.unwrap_or_else(|error| panic!("name {number}: {error}"));
    }
    // A repeated name counts again.
    for name in ["one-more.example", "n1.example"] {
        assert_eq!(refused(&sandbox, name).await, "limit.names");
    }
    let line =
        rig.gateway.audit_line("the refusal", |line| line["host"].as_str().is_some_and(|h| h.contains("one-more")));
    assert_refusal(&line, "limit.names");
    // Hosts that the policy names do not count, and another address is unaffected.
    Client::connect(&sandbox, sandbox.address, PLAIN, Http::Two)
        .await
        .unwrap()
        .get("/named")
        .await
        .unwrap()
        .ok()
        .unwrap();
    opened(&other, "one-more.example").await.unwrap();
}

#[tokio::test]
async fn an_address_has_64_requests_wait_for_the_registry_and_not_one_more() {
    let rig = rig();
    let (stranger, other) = (rig.sandbox(), rig.registered(&[]));
    // On one connection requests arrive in the order of sending. A tunnel needs no registry.
    let stranger_client = Client::connect(&stranger, stranger.address, PLAIN, Http::Two).await.unwrap();
    let mut other = Client::connect(&other, other.address, PLAIN, Http::Two).await.unwrap();
    other.get("/before").await.unwrap().ok().unwrap();
    rig.gateway.signal(Signal::STOP);
    eventually("the control plane is stopped", SOON, || stopped(rig.gateway.pid()).then_some(()));
    let mut waiting = JoinSet::new();
    for number in 0..LOOKUPS + 2 {
        let mut client = stranger_client.again();
        waiting.spawn(async move { (number, client.get("/waits").await.unwrap()) });
    }
    let mut answers = Vec::new();
    for _ in 0..2 {
        let (_, answer) = waiting.join_next().await.unwrap().unwrap();
        assert_eq!((answer.status, answer.rule.as_deref()), (429, Some("limit.lookups")), "{answer:?}");
    }
    other.get("/meanwhile").await.unwrap().ok().unwrap();
    rig.gateway.signal(Signal::CONT);
    while let Some(answer) = waiting.join_next().await {
        let (_, answer) = answer.unwrap();
        // The registry reports no container, or its response comes too late.
        assert!(matches!(answer.rule.as_deref(), Some("identity.unknown" | "identity.unavailable")), "{answer:?}");
        answers.push(answer);
    }
    assert_eq!(answers.len(), LOOKUPS);
    assert!(rig.upstream.requests_with("/waits").is_empty());
}

/// The burst of leaves for names that no sandbox may reach, for all addresses together, and the rate in each second
/// after it.
const LEAVES: u32 = 4_096;
const MORE: u32 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_for_strange_names_in_tunnels_to_known_hosts_get_4096_certificates_and_then_10_in_a_second() {
    let rig = rig();
    let (flooder, other) = (rig.sandbox(), rig.registered(&[]));
    // Each address opens fewer tunnels than its burst.
    let sources = flooder.widen();
    let begun = Instant::now();
    let (next, issued) = (AtomicU32::new(0), AtomicU32::new(0));
    // A few more names than the limit grants in the elapsed time.
    let work = async || {
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            let elapsed = u32::try_from(begun.elapsed().as_secs()).unwrap();
            if number > LEAVES + MORE * (elapsed + 1) + 100 {
                break;
            }
            let name = format!("n{number}.strange.example");
            let source = Ipv4Addr::from_bits(sources.to_bits() + number / 100);
            let greeting = greet(&flooder, source, PLAIN, name.as_bytes(), SOON * 2).await.unwrap();
            if greeting.names(&name) {
                issued.fetch_add(1, Ordering::SeqCst);
            }
        }
    };
    let four = async || tokio::join!(work(), work(), work(), work());
    tokio::join!(four(), four());
    let elapsed = u32::try_from(begun.elapsed().as_secs()).unwrap() + 1;
    let (asked, issued) = (next.into_inner(), issued.into_inner());
    println!("{issued} certificates for {asked} names in {elapsed} s");
    assert!((LEAVES..=LEAVES + MORE * elapsed).contains(&issued) && issued < asked, "{issued} of {asked}");
    // Allowed names get leaves although they are new: names in the policy, and names in a container's own record.
    Client::connect(&other, other.address, STREAMS, Http::Two)
        .await
        .unwrap()
        .get("/named")
        .await
        .unwrap()
        .ok()
        .unwrap();
    let extra = "extra.example";
    let path = format!("/internal/containers/{}", other.address);
    let (status, body) = rig.gateway.call("PATCH", &path, Some(&json!({"egress_allow": [extra]})));
    assert_eq!(status, 200, "{body}");
    eventually_async("a host of one record alone has a certificate", SOON, async || {
        let greeting = greet(&other, other.address, PLAIN, extra.as_bytes(), SOON * 2).await.unwrap();
        if greeting.names(extra) { Ok(()) } else { Err(greeting) }
    })
    .await;
}
