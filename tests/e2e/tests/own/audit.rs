//! The audit has one line for each decision, with the deciding rule, whether a filter or Envoy responded.

use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use test_support::raw::{self, Greeting};
use test_support::{Client, Http, Rig, client, gateway};

/// The timeout of a response to a ClientHello.
const GREETING: Duration = Duration::from_secs(10);

/// The lines with `text` in their path.
fn about<'a>(lines: &'a [Value], text: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["path"].as_str().is_some_and(|path| path.contains(text))).collect()
}

#[tokio::test]
async fn a_request_has_one_line_with_the_method_that_was_sent() {
    let rig = Rig::start();
    let sandbox = rig.registered(&["acme/app"]);
    for (version, method) in [("--http1.1", "GET"), ("--http1.1", "PURGE"), ("--http2", "GET"), ("--http2", "FROB")] {
        let path = format!("/{}/{method}", &version[2..]);
        sandbox.curl(&[version, "-X", method, &format!("https://api.anthropic.com{path}")]);
        let line = rig.gateway.audit_line(&path, |line| line["path"] == path.as_str());
        assert_eq!(line["method"], method, "{line}");
        assert_eq!(line["event"], "end", "{line}");
        assert_eq!(line["container_id"], gateway::container_id(sandbox.address), "{line}");
        assert_eq!(line["host"], "api.anthropic.com", "{line}");
    }
    // A last request, whose line comes after all others.
    sandbox.curl(&["https://api.anthropic.com/last"]);
    rig.gateway.audit_line("/last", |line| line["path"] == "/last");
    let lines = rig.gateway.audit();
    assert_eq!(about(&lines, "/http").len(), 4);
    assert!(lines.iter().all(|line| line["method"] != "CONNECT"), "an opened CONNECT has no line");
}

#[tokio::test]
async fn whoever_refuses_the_line_has_stage_and_rule() {
    let rig = Rig::start();
    let sandbox = rig.registered(&["acme/app"]);
    let id = gateway::container_id(sandbox.address);
    let refusals = [
        ("https://10.0.0.1/connect", "request", "request.authority"),
        ("https://api.github.com/repos/other/repo", "github", "github.repo"),
        ("https://unlisted.example.com/host", "identity", "egress.host"),
    ];
    for (url, ..) in refusals {
        sandbox.curl(&[url]);
    }
    // Envoy refuses this one itself, and no filter sees it.
    let mut tls = client::tls(&sandbox, sandbox.address, "api.anthropic.com", Http::One).await.unwrap();
    let answer = raw::ask(&mut tls, b"G@T / HTTP/1.1\r\nhost: api.anthropic.com\r\n\r\n").await.unwrap();
    assert_eq!(answer.rule.as_deref(), Some("request.malformed"), "{answer:?}");
    let envoys = [("", "request", "request.malformed")];
    for (url, stage, rule) in refusals.into_iter().chain(envoys) {
        let line = rig.gateway.audit_line(url, |line| line["rule"] == rule);
        assert_eq!((&line["verdict"], &line["stage"]), (&"deny".into(), &stage.into()), "{line}");
        assert_eq!(line["container_id"], id.as_str(), "{line}");
    }
}

#[tokio::test]
async fn a_refused_handshake_has_a_line_and_a_good_one_has_none() {
    let rig = Rig::start();
    let sandbox = rig.registered(&["acme/app"]);
    let host = "api.anthropic.com";
    // A name that the gateway does not serve, a client that does not trust its CA, and a TLS version that it does not
    // speak.
    let greeting = raw::greet(&sandbox, sandbox.address, host, b"localhost", GREETING).await.unwrap();
    assert_eq!(greeting, Greeting::Failed);
    let line = rig.gateway.audit_line("localhost", |line| line["host"] == "localhost");
    assert_eq!(line["rule"], "listener.handshake", "{line}");
    assert_eq!(line["container_ip"], sandbox.address.to_string(), "{line}");
    assert_eq!(line["container_id"], gateway::container_id(sandbox.address), "{line}");
    let upstreams_ca = rig.upstream.ca.display().to_string();
    let curled = sandbox.curl(&["--cacert", &upstreams_ca, &format!("https://{host}/untrusted")]);
    assert_eq!(curled.status, 0, "{curled:?}");
    let line = rig.gateway.audit_line("an untrusted CA", |line| line["host"] == host);
    assert_eq!((&line["rule"], &line["status"]), (&"listener.handshake".into(), &0.into()), "{line}");
    assert!(line["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{line}");
    // Completed handshakes, with a request and without, and a tunnel without a handshake.
    drop(client::tls(&sandbox, sandbox.address, host, Http::One).await.unwrap());
    drop(client::tunnel(&sandbox, sandbox.address, host).await.unwrap());
    sandbox.curl(&[&format!("https://{host}/good")]);
    // Its line comes after those of all earlier handshakes, by the same path.
    raw::greet(&sandbox, sandbox.address, host, b"last", GREETING).await.unwrap();
    rig.gateway.audit_line("the last", |line| line["host"] == "last");
    let refused = rig.gateway.audit().into_iter().filter(|line| line["rule"] == "listener.handshake");
    assert_eq!(refused.count(), 3);
}

// The waits for lines block a thread, and the connections must continue meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_over_five_seconds_has_a_start_and_an_end() {
    let rig = Rig::start();
    let sandbox = rig.registered(&["acme/app"]);
    let mut client = Client::connect(&sandbox, sandbox.address, "api.anthropic.com", Http::Two).await.unwrap();
    let response = client.open("/v1/stream").await.unwrap();
    let start = rig.gateway.audit_event("the start", |line| line["path"] == "/v1/stream");
    assert_eq!((&start["event"], &start["verdict"]), (&"start".into(), &"allow".into()), "{start}");
    // Envoy would report again after ten seconds. The start line of a second stream shows that they have passed.
    client.get("/short").await.unwrap();
    let mut second = Client::connect(&sandbox, sandbox.address, "api.anthropic.com", Http::Two).await.unwrap();
    let other = second.open("/v1/stream?second").await.unwrap();
    rig.gateway.audit_event("the second", |line| line["path"] == "/v1/stream?second");
    drop((response, client, other, second));
    let end = rig.gateway.audit_line("the end", |line| line["path"] == "/v1/stream" && line["event"] == "end");
    assert_eq!(end["request_id"], start["request_id"]);
    assert!(end["duration_ms"].as_u64().unwrap() >= 5_000 && end["bytes_down"].as_u64().unwrap() > 0, "{end}");
    let lines = rig.gateway.audit();
    assert_eq!(lines.iter().filter(|line| line["path"] == "/v1/stream").count(), 2);
    assert_eq!(about(&lines, "/short").len(), 1);
    assert_eq!(about(&lines, "/short")[0]["event"], "end");
}

#[tokio::test]
async fn numbers_have_no_gaps_and_the_api_shows_what_the_file_has() {
    let rig = Rig::start();
    let sandbox = rig.registered(&["acme/app"]);
    for number in 0..50 {
        let host = if number % 2 == 0 { "api.anthropic.com" } else { "unlisted.example.com" };
        let mut client = Client::connect(&sandbox, sandbox.address, host, Http::One).await.unwrap();
        client.get(&format!("/numbered/{number}")).await.unwrap();
    }
    let all = |lines: &[Value]| about(lines, "/numbered/").len();
    test_support::eventually("all lines", GREETING, || (all(&rig.gateway.audit()) == 50).then_some(()));
    let mut sources: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for line in rig.gateway.audit() {
        sources.entry(line["envoy"].as_str().unwrap().into()).or_default().push(line["seq"].as_u64().unwrap());
    }
    for (source, numbers) in sources {
        assert!(source.starts_with("envoy."), "{source}");
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "{source}");
    }
    let asked = |query: &str| -> Vec<Value> {
        let (status, body) = rig.gateway.call("GET", &format!("/internal/audit?{query}"), None);
        assert_eq!(status, 200, "{query}: {body}");
        body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    // More lines may come than the awaited ones.
    let shown = test_support::eventually("the API shows what the file has", GREETING, || {
        Some(asked("last=1000")).filter(|shown| *shown == rig.gateway.audit())
    });
    assert_eq!(asked("last=3"), shown[shown.len() - 3..]);
    assert!(asked("container=nobody").is_empty());
    let denied = asked(&format!("verdict=deny&container={}", sandbox.address));
    assert!(denied.len() >= 25 && denied.iter().all(|line| line["verdict"] == "deny"), "{}", denied.len());
    for wrong in ["verdict=perhaps", "follow=2", "tail=1", "last=-1"] {
        assert_eq!(rig.gateway.call("GET", &format!("/internal/audit?{wrong}"), None).0, 422, "{wrong}");
    }
}
