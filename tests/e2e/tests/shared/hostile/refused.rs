//! Clients get the whole refusal, also for large bodies, and while the control plane or the upstream is unavailable.

use super::{
    ALONE, HANDSHAKE, PLAIN, REPO, assert_nothing_arrived, assert_refused, connect, get, nothing, refusal, rig,
};
use serde_json::json;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use test_support::gateway::policy;
use test_support::process::{Signal, stopped};
use test_support::raw::{Greeting, greet};
use test_support::upstream::{self, HOSTS};
use test_support::{Client, Http, Rig, eventually, eventually_async};

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

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_is_named_as_the_reason_and_request_ids_lead_to_the_audit() {
    // An address without a listener.
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
