//! A record is in force from the response to its registration until the response to its removal, and through a restart.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use test_support::client::{drain, tls};
use test_support::process::Signal;
use test_support::raw::web_socket;
use test_support::upstream::Visibility;
use test_support::{Answer, Client, Http, Rig, Sandbox, eventually_async};
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Every container here has this repository. api.github.com, where the control plane adds a credential, serves the
/// paths below `/repos/acme/app`.
const REPO: &str = "acme/app";
/// A host without a credential, so that the control plane has no part in its requests.
const PLAIN: &str = "files.example.net";

fn rig() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(Rig::start)
}

fn nth(first: Ipv4Addr, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(first.to_bits() + number)
}

#[track_caller]
fn assert_refused(answer: &Answer, rule: &str) {
    assert_eq!((answer.status, answer.rule.as_deref()), (403, Some(rule)), "{answer:?}");
}

/// Sends a request on a connection whose record has just gone or changed. Returns whether a refusal by `rule` came. The
/// connection may have ended before, which takes a tenth of a second.
async fn told(client: &mut Client, path: &str, rule: &str) -> bool {
    match client.get(path).await {
        Ok(answer) => {
            assert_refused(&answer, rule);
            true
        }
        Err(_ended) => false,
    }
}

#[tokio::test]
async fn an_address_is_served_in_the_millisecond_after_it_is_registered_a_thousand_times() {
    let rig = rig();
    let sandbox = rig.sandbox();
    let first = sandbox.widen();
    for number in 1..=1000 {
        let source = nth(first, number);
        let http = if number % 2 == 0 { Http::One } else { Http::Two };
        let host = if number % 4 < 2 { PLAIN } else { "api.github.com" };
        let path = format!("/repos/acme/app/commits/fresh/{number}");
        let mut client;
        match number % 3 {
            // The connection is new, too.
            0 => {
                rig.gateway.register(source, &[REPO]);
                client = Client::connect(&sandbox, source, host, http).await.unwrap();
            }
            // The connection is open, so that the request follows the registration's response at once.
            1 => {
                client = Client::connect(&sandbox, source, host, http).await.unwrap();
                rig.gateway.register(source, &[REPO]);
            }
            // The address was refused a moment ago, and the refusal must not be cached.
            _ => {
                client = Client::connect(&sandbox, source, host, http).await.unwrap();
                assert_refused(&client.get("/repos/acme/app/commits/early").await.unwrap(), "identity.unknown");
                rig.gateway.register(source, &[REPO]);
            }
        }
        let answer = client.get(&path).await.unwrap();
        assert_eq!(answer.status, 200, "request {number}: {answer:?}");
    }
    assert!(rig.upstream.requests_with("/repos/acme/app/commits/early").is_empty());
}

#[tokio::test]
async fn an_address_is_refused_on_its_kept_connections_once_its_removal_is_answered() {
    let rig = rig();
    let sandbox = rig.sandbox();
    for host in [PLAIN, "api.github.com"] {
        for http in [Http::One, Http::Two] {
            let mut refusals = 0;
            for round in 0..50 {
                rig.gateway.register(sandbox.address, &[REPO]);
                let mut client = Client::connect(&sandbox, sandbox.address, host, http).await.unwrap();
                let served = client.get(&format!("/repos/acme/app/commits/kept/{round}")).await.unwrap();
                assert_eq!(served.status, 200, "{host} {http:?} {round}: {served:?}");
                rig.gateway.remove(sandbox.address);
                let path = "/repos/acme/app/commits/removed";
                refusals += u32::from(told(&mut client, path, "identity.unknown").await);
            }
            assert!(refusals > 0, "{host} {http:?}: no refusal named its rule");
        }
    }
    assert!(rig.upstream.requests_with("/repos/acme/app/commits/removed").is_empty());
}

/// Every kind of stream that a container can have, and the moment of each one's end.
async fn open(sandbox: &Sandbox) -> Vec<(&'static str, JoinHandle<Instant>)> {
    // No stream ends by this time: the test is over before that.
    const LONG: Duration = Duration::from_secs(600);
    let mut open = Vec::new();
    for (what, http) in [("a stream over HTTP/1.1", Http::One), ("a stream over HTTP/2", Http::Two)] {
        let mut client = Client::connect(sandbox, sandbox.address, "api.anthropic.com", http).await.unwrap();
        let response = client.open("/v1/stream").await.unwrap();
        assert_eq!(response.status(), 200);
        let ended = async move {
            drop(drain(response.into_body(), LONG).await);
            // An HTTP/2 connection ends with its last handle.
            drop(client);
            Instant::now()
        };
        open.push((what, tokio::spawn(ended)));
    }
    let socket = web_socket(sandbox, "api.anthropic.com", "/v1/echo").await.unwrap();
    let tunnel = tls(sandbox, sandbox.address, PLAIN, Http::One).await.unwrap();
    for (what, mut stream) in [("a WebSocket", socket), ("a tunnel that nothing is sent in", tunnel)] {
        let ended = async move {
            let _ended = stream.read(&mut [0; 1]).await;
            Instant::now()
        };
        open.push((what, tokio::spawn(ended)));
    }
    open
}

/// Takes the record from `sandbox` by `way`, and returns its streams that stayed open for at least a second after that.
async fn late(rig: &Rig, sandbox: &Sandbox, way: &str) -> Vec<(&'static str, Duration)> {
    let path = format!("/internal/containers/{}", sandbox.address);
    let patch = |change: Value| {
        let (status, body) = rig.gateway.call("PATCH", &path, Some(&change));
        assert_eq!(status, 200, "{body}");
    };
    rig.gateway.register(sandbox.address, &[REPO]);
    // Time for a slow machine to open all of them.
    let expires_at = Timestamp::now() + SignedDuration::from_secs(6);
    if way == "expired" {
        patch(json!({"expires_at": expires_at}));
    }
    let mine = open(sandbox).await;
    assert!(mine.iter().all(|(_, ended)| !ended.is_finished()), "{way}");
    match way {
        "removed" => rig.gateway.remove(sandbox.address),
        "replaced" => rig.gateway.register(sandbox.address, &[REPO]),
        "narrowed" => patch(json!({"repos": []})),
        _ => tokio::time::sleep((expires_at - Timestamp::now()).try_into().unwrap_or_default()).await,
    }
    let since = Instant::now();
    let mut late = Vec::new();
    for (what, ended) in mine {
        let ended = timeout(Duration::from_secs(10), ended).await.unwrap_or_else(|_| panic!("{way}: {what}: open"));
        late.push((what, ended.unwrap().duration_since(since)));
    }
    late.retain(|(_, after)| *after >= Duration::from_secs(1));
    late
}

#[tokio::test]
async fn what_is_open_ends_within_a_second_of_its_record_and_nobody_else_s_does() {
    let rig = rig();
    let (sandbox, kept) = (rig.registered(&[REPO]), rig.registered(&[REPO]));
    let others = open(&kept).await;
    for way in ["removed", "replaced", "narrowed", "expired"] {
        // Other work on the machine only adds delay, so one of five tries has to be in time.
        let mut times = Vec::new();
        while times.last().is_none_or(|late: &Vec<_>| !late.is_empty()) {
            assert!(times.len() < 5, "{way}: {times:?}");
            times.push(late(rig, &sandbox, way).await);
        }
    }
    for (what, ended) in others {
        assert!(!ended.is_finished(), "another container's: {what}");
        ended.abort();
    }
}

#[tokio::test]
async fn a_record_is_worth_nothing_from_the_moment_it_expires() {
    let rig = rig();
    let sandbox = rig.sandbox();
    // Time for a slow machine to be served once.
    let expires_at = Timestamp::now() + SignedDuration::from_secs(5);
    let record =
        json!({"container_ip": sandbox.address, "container_id": "brief", "repos": [], "expires_at": expires_at});
    let (status, body) = rig.gateway.call("POST", "/internal/containers", Some(&record));
    assert_eq!(status, 201, "{body}");
    let mut client = Client::connect(&sandbox, sandbox.address, PLAIN, Http::One).await.unwrap();
    assert_eq!(client.get("/brief").await.unwrap().status, 200);
    let refused = eventually_async("the record has expired", Duration::from_secs(15), async || {
        let asked = Timestamp::now();
        // The connection ends a tenth of a second after the record does. On a new one the refusal is told.
        let answer = match client.get("/brief").await {
            Ok(answer) => answer,
            Err(ended) => {
                assert!(Timestamp::now() >= expires_at, "ended before its record: {ended}");
                client = Client::connect(&sandbox, sandbox.address, PLAIN, Http::One).await.unwrap();
                return Err("ended");
            }
        };
        assert!(answer.status != 200 || asked < expires_at, "served at {asked}, expired at {expires_at}");
        if answer.status == 200 { Err("served") } else { Ok(answer) }
    })
    .await;
    assert_eq!(refused.status, 403);
    // After the control plane's cleanup, the address is unregistered.
    let rule = refused.rule.unwrap();
    assert!(rule == "identity.expired" || rule == "identity.unknown", "{rule}");
}

#[tokio::test]
async fn a_replaced_record_counts_at_once_on_kept_connections() {
    let rig = rig();
    rig.upstream.create_repo("acme/one", Visibility::Private);
    rig.upstream.create_repo("acme/two", Visibility::Private);
    let sandbox = rig.sandbox();
    let refs = "/acme/two.git/info/refs?service=git-upload-pack";
    let path = format!("/internal/containers/{}", sandbox.address);
    for http in [Http::One, Http::Two] {
        rig.gateway.register(sandbox.address, &["acme/one", "acme/two"]);
        let mut refusals = 0;
        for round in 0..20 {
            let mut client = Client::connect(&sandbox, sandbox.address, "github.com", http).await.unwrap();
            let served = client.get(refs).await.unwrap();
            assert_eq!(served.status, 200, "{http:?} {round}: {served:?}");
            rig.gateway.register(sandbox.address, &["acme/one"]);
            refusals += u32::from(told(&mut client, refs, "github.repo").await);
            let (status, body) = rig.gateway.call("PATCH", &path, Some(&json!({"repos": ["acme/one", "acme/two"]})));
            assert_eq!(status, 200, "{body}");
        }
        assert!(refusals > 0, "{http:?}: no refusal named its rule");
    }
}

#[test]
fn the_gateway_s_own_addresses_cannot_be_registered() {
    let rig = rig();
    let sandbox = rig.sandbox();
    let record = json!({"container_ip": sandbox.gateway_address, "container_id": "x", "repos": []});
    let (status, body) = rig.gateway.call("POST", "/internal/containers", Some(&record));
    assert_eq!(status, 422, "{body}");
    assert!(body.contains("container_ip"), "{body}");
}

#[tokio::test]
async fn a_restart_keeps_the_records_and_the_ca() {
    let rig = Rig::start();
    let sandbox = rig.registered(&[REPO]);
    let removed = rig.registered(&[REPO]);
    rig.gateway.remove(removed.address);
    let ca = rig.gateway.ca_pem();
    for signal in [Signal::TERM, Signal::KILL] {
        rig.gateway.signal(signal);
        rig.gateway.ended(Duration::from_secs(10));
        rig.gateway.up();
        assert_eq!(rig.gateway.ca_pem(), ca);
        let mut client = Client::connect(&sandbox, sandbox.address, "api.github.com", Http::Two).await.unwrap();
        assert_eq!(client.get("/repos/acme/app/commits/restarted").await.unwrap().status, 200);
        let mut client = Client::connect(&removed, removed.address, "api.github.com", Http::Two).await.unwrap();
        assert_refused(&client.get("/repos/acme/app/commits/restarted").await.unwrap(), "identity.unknown");
    }
}

#[test]
fn every_registration_that_was_answered_survives_kill_9() {
    let rig = Rig::start();
    for round in 0_u8..3 {
        for number in 1..=50 {
            rig.gateway.register(Ipv4Addr::new(10, 222, round, number), &["acme/app"]);
        }
        rig.gateway.signal(Signal::KILL);
        rig.gateway.ended(Duration::from_secs(10));
        rig.gateway.up();
        for number in 1..=50 {
            let path = format!("/internal/containers/10.222.{round}.{number}");
            assert_eq!(rig.gateway.call("GET", &path, None).0, 200, "{path}");
        }
    }
}

#[tokio::test]
async fn known_containers_reach_plain_hosts_while_the_control_plane_is_stopped() {
    let rig = Rig::start();
    let sandbox = rig.registered(&[REPO]);
    let connect = async |http| Client::connect(&sandbox, sandbox.address, PLAIN, http).await.unwrap();
    // Both workers of Envoy have served it, so both have the certificate and the record.
    for _ in 0..20 {
        assert_eq!(connect(Http::One).await.get("/before").await.unwrap().status, 200);
    }
    let mut kept = [connect(Http::One).await, connect(Http::Two).await];
    rig.gateway.signal(Signal::STOP);
    for number in 0..500 {
        let http = if number % 2 == 0 { Http::One } else { Http::Two };
        let answer = kept[number % 2].get(&format!("/stopped/{number}")).await.unwrap();
        assert_eq!(answer.status, 200, "kept connection, request {number}: {answer:?}");
        let answer = connect(http).await.get(&format!("/stopped/{number}")).await.unwrap();
        assert_eq!(answer.status, 200, "new connection, request {number}: {answer:?}");
    }
    assert!(!rig.gateway.ready(), "the control plane was not stopped");
    rig.gateway.signal(Signal::CONT);
    eventually_async("a request with a credential is served again", Duration::from_secs(10), async || {
        let mut client = Client::connect(&sandbox, sandbox.address, "api.github.com", Http::Two).await?;
        client.get("/repos/acme/app/commits/after").await?.ok()
    })
    .await;
    assert_eq!(rig.upstream.requests_with("/stopped/").len(), 1000);
}
