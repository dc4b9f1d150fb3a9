//! Ids and default branches of repositories are looked up after a registration, without an effect on the container's
//! open streams.

use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::time::Duration;
use test_support::client::drain;
use test_support::gateway::{NO_CREDENTIAL_BUT_GITHUB, pins, policy};
use test_support::internet::{NameServer, Record};
use test_support::upstream::{HOSTS, Visibility, number};
use test_support::{Client, Gateway, Http, Rig, Sandbox, TOKEN, Upstream, eventually, scratch};

const API: &str = "api.github.com";
/// A host without a credential, with an endless stream.
const STREAMS: &str = "api.anthropic.com";
const REPO: &str = "acme/app";
/// Longer than a lookup with a few failures.
const SOON: Duration = Duration::from_secs(20);

fn register(gateway: &Gateway, address: Ipv4Addr, repos: &Value) {
    let record = json!({"container_ip": address, "container_id": "box", "repos": repos});
    let (status, body) = gateway.call("POST", "/internal/containers", Some(&record));
    assert_eq!(status, 201, "{body}");
}

fn record(gateway: &Gateway, address: Ipv4Addr) -> Value {
    let (status, body) = gateway.call("GET", &format!("/internal/containers/{address}"), None);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// The record at `address` once its first repository has its id.
fn looked_up(gateway: &Gateway, address: Ipv4Addr) -> Value {
    eventually("the number is looked up", SOON, || {
        let record = record(gateway, address);
        record["repos"][0]["id"].is_u64().then_some(record)
    })
}

#[test]
fn a_registration_by_name_gets_number_and_default_branch() {
    let rig = Rig::start();
    rig.upstream.create_repo(REPO, Visibility::Private);
    let sandbox = rig.sandbox();
    let address = sandbox.address;
    register(&rig.gateway, address, &json!(["Acme/App", {"name": "acme/own", "id": 5, "default_branch": "trunk"}]));
    // GitHub ignores the case of a name. This stand-in knows one spelling only.
    let warned = eventually("the missing repository is a warning", SOON, || rig.gateway.warnings().into_iter().next());
    assert!(warned.contains("Acme/App: there is none of that name"), "{warned}");

    register_again(&rig.gateway, address, &json!([REPO, {"name": "acme/own", "id": 5, "default_branch": "trunk"}]));
    let generation = record(&rig.gateway, address)["generation"].clone();
    let found = looked_up(&rig.gateway, address);
    assert_eq!(found["repos"][0], json!({"name": REPO, "id": number(REPO), "default_branch": "main"}));
    assert_eq!(found["repos"][1], json!({"name": "acme/own", "id": 5, "default_branch": "trunk"}));
    assert_eq!(found["generation"], generation, "it is the same registration");
    eventually("the warning is gone", SOON, || rig.gateway.warnings().is_empty().then_some(()));

    let asked = rig.upstream.requests_with("api.github.com/repos/acme/app");
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked[0].is_own());
    assert_eq!(asked[0].header("authorization"), [format!("Bearer {TOKEN}").as_bytes()]);
    // A restart keeps it without a new lookup.
    rig.gateway.signal(test_support::process::Signal::TERM);
    rig.gateway.ended(SOON);
    rig.gateway.up();
    assert_eq!(record(&rig.gateway, address), found);
    assert_eq!(rig.upstream.requests_with("api.github.com/repos/acme/app").len(), 1);
}

fn register_again(gateway: &Gateway, address: Ipv4Addr, repos: &Value) {
    let record = json!({"container_ip": address, "container_id": "box", "repos": repos});
    let (status, body) = gateway.call("POST", "/internal/containers", Some(&record));
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn what_needs_the_number_waits_for_it_and_open_streams_go_on() {
    let upstream = Upstream::start();
    upstream.create_repo(REPO, Visibility::Private);
    // A delayed token holds back the lookup for as long as the test needs.
    let token = scratch("keys").join("token");
    let github = format!("credentials: {{github: {{from: {{file: {}}}}}, ", token.display());
    let credentials = NO_CREDENTIAL_BUT_GITHUB.replace("credentials: {", &github);
    let gateway = Gateway::with(&policy(&HOSTS)).settings(&credentials).upstream(&upstream).up();
    let sandbox = Sandbox::start().behind(&gateway);
    register(&gateway, sandbox.address, &json!([REPO]));
    let before = record(&gateway, sandbox.address);

    let by_number = format!("/repositories/{}/issues", number(REPO));
    let mut api = Client::connect(&sandbox, sandbox.address, API, Http::Two).await.unwrap();
    let answer = api.get(&by_number).await.unwrap();
    assert_eq!((answer.status, answer.rule.as_deref()), (503, Some("github.ids-pending")), "{answer:?}");
    let mut streaming = Client::connect(&sandbox, sandbox.address, STREAMS, Http::Two).await.unwrap();
    let stream = streaming.open("/v1/stream").await.unwrap();
    assert_eq!(stream.status(), 200);
    assert!(upstream.requests().iter().all(|request| !request.is_own()), "no lookup without a token");

    std::fs::write(&token, TOKEN).unwrap();
    let after = looked_up(&gateway, sandbox.address);
    assert_eq!(after["generation"], before["generation"]);
    // Every worker has the record when it serves by the id.
    let until = std::time::Instant::now() + SOON;
    loop {
        let answer = api.get(&by_number).await.unwrap();
        if answer.status == 200 {
            break;
        }
        assert!(answer.status == 503 && std::time::Instant::now() < until, "{answer:?}");
    }
    drain(stream.into_body(), Duration::from_millis(500)).await.expect_err("the stream stays open");
    assert!(upstream.requests_with("/repositories/").iter().all(|request| !request.is_own()));

    // The control: a replaced record ends such a stream.
    let stream = streaming.open("/v1/stream").await.unwrap();
    register_again(&gateway, sandbox.address, &json!([REPO]));
    drain(stream.into_body(), SOON).await.expect("a replaced record ends its streams");
}

#[test]
fn no_branch_moves_before_the_default_branch_is_known_and_it_never_does() {
    let upstream = Upstream::start();
    upstream.create_repo(REPO, Visibility::Private);
    // A delayed token holds back the lookup.
    let token = scratch("keys").join("token");
    let github = format!("credentials: {{github: {{from: {{file: {}}}}}, ", token.display());
    let credentials = NO_CREDENTIAL_BUT_GITHUB.replace("credentials: {", &github);
    // main is no protected branch by its name.
    let policy = format!("{}policy: {{protected_branches: [release]}}\n", policy(&HOSTS));
    let gateway = Gateway::with(&policy).settings(&credentials).upstream(&upstream).up();
    let sandbox = Sandbox::start().behind(&gateway);
    let record = json!({"container_ip": sandbox.address, "container_id": "box", "repos": [REPO], "auth_mode": "user"});
    assert_eq!(gateway.call("POST", "/internal/containers", Some(&record)).0, 201);
    let moved = |branch: &str| {
        let url = format!("https://{API}/repos/{REPO}/git/refs/heads/{branch}");
        let body = r#"{"sha":"1111111111111111111111111111111111111111"}"#;
        let answer = sandbox.curl(&["-X", "PATCH", "-H", "content-type: application/json", "-d", body, &url]);
        (answer.status, answer.rule())
    };
    for branch in ["main", "feature"] {
        assert_eq!(moved(branch), (503, Some("github.default-unknown".into())), "{branch}");
    }
    assert_eq!(moved("release"), (403, Some("github.protected-branch".into())));
    std::fs::write(&token, TOKEN).unwrap();
    looked_up(&gateway, sandbox.address);
    let after = eventually("every worker knows the default branch", SOON, || {
        let known = (0..8).all(|_| moved("main") == (403, Some("github.protected-branch".into())));
        known.then(|| moved("feature"))
    });
    assert_ne!(after.0, 403, "{after:?}");
    assert_eq!(after.1, None, "another branch is the upstream's to judge");
}

#[test]
fn an_address_that_is_not_public_is_not_asked() {
    let upstream = Upstream::start();
    let nameserver = NameServer::start(&[(API, &[Record::Address(upstream.address.ip())])]);
    let others: String = pins(&upstream, &[])
        .lines()
        .filter(|line| !line.contains(API))
        .fold(String::new(), |lines, line| lines + line + "\n");
    let settings = format!("{NO_CREDENTIAL_BUT_GITHUB}nameservers: ['{}']\n{others}", nameserver.address);
    let gateway = Gateway::with(&policy(&HOSTS)).settings(&settings).up();
    let sandbox = Sandbox::start().behind(&gateway);
    register(&gateway, sandbox.address, &json!([REPO]));
    eventually("the lookup has failed", SOON, || {
        gateway.said().contains("api.github.com has no public address").then_some(())
    });
    assert!(!nameserver.asked_for(API).is_empty());
    assert_eq!(upstream.connections(), 0);
    assert_eq!(record(&gateway, sandbox.address)["repos"], json!([REPO]));
}
