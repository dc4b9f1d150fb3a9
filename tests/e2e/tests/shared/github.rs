//! Stage 3 in the real Envoy: the corpus of ways around a filter for GitHub, each request byte by byte, with the
//! sandbox's response and the requests that arrived upstream.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;
use test_support::gateway::policy;
use test_support::process::Signal;
use test_support::upstream::{HOSTS, graphql};
use test_support::{Answer, Finished, Gateway, Http, Rig, Sandbox, Upstream, client, raw, scratch};
use tokio::io::{AsyncRead, AsyncWrite};

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../corpus/github/bypass-cases.jsonl");

/// The timeout of a step of the rig.
const SOON: Duration = Duration::from_secs(10);

/// The bytes of a case's request.
fn request(case: &Value, authority: &str, target: &str) -> Vec<u8> {
    let headers: Vec<(&String, &str)> =
        case["headers"].as_object().unwrap().iter().map(|(name, value)| (name, value.as_str().unwrap())).collect();
    let has = |name: &str| headers.iter().any(|(have, _)| have.eq_ignore_ascii_case(name));
    let body = match (case["body"].as_str(), case["body_base64"].as_str()) {
        (Some(body), _) => body.as_bytes().to_vec(),
        (None, Some(body)) => BASE64_STANDARD.decode(body).unwrap(),
        (None, None) => Vec::new(),
    };
    let mut head = format!("{} {target} HTTP/1.1\r\n", case["method"].as_str().unwrap());
    if !has("host") {
        head += &format!("Host: {authority}\r\n");
    }
    for (name, value) in &headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !has("content-length") && !has("transfer-encoding") && (!body.is_empty() || case["method"] != "GET") {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    [head.as_bytes(), b"\r\n", &body].concat()
}

/// The response to a case. `None` if the tunnel was refused.
async fn send(rig: &Rig, sandbox: &Sandbox, case: &Value) -> Option<Answer> {
    let mut record = case["container"].clone();
    record["container_ip"] = sandbox.address.to_string().into();
    let (status, answer) = rig.gateway.call("POST", "/internal/containers", Some(&record));
    assert!(matches!(status, 200 | 201), "{answer}");
    let url = case["url"].as_str().unwrap();
    let rest = url.strip_prefix("https://").unwrap_or(url);
    let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = authority.split(':').next().unwrap();
    let mut stream = client::tls(sandbox, sandbox.address, host, Http::One).await.ok()?;
    let bytes = match case["method"].as_str() {
        // The tunnel opens by the form of its request; the gateway refuses the request inside.
        Some("CONNECT") => format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes(),
        _ => request(case, authority, if target.is_empty() { "/" } else { target }),
    };
    Some(raw::ask(&mut stream, &bytes).await.unwrap_or_else(|error| panic!("{}: {error}", case["id"])))
}

#[test]
fn explain_says_of_every_way_round_what_is_expected_and_ten_thousand_lines_take_seconds() {
    let explain = |file: &str| {
        // With its processor time, which does not depend on other work.
        let mut command = Command::new("bash");
        command
            .args(["-c", r#"TIMEFORMAT="%U %S"; time "$@""#, "bash"])
            .arg(std::env::var_os("SALLYPORT_BIN").unwrap());
        // Without a policy file, the built-in policy applies.
        command.current_dir(scratch("explain")).args(["policy", "explain", "--batch", file]);
        let finished = Finished::of(&mut command).success();
        let said: Vec<Value> = finished.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let times = finished.stderr.lines().last().unwrap_or_default().split(' ');
        (said, times.map(|time| time.parse::<f64>().unwrap()).sum::<f64>())
    };
    let text = std::fs::read_to_string(CASES).unwrap();
    let (said, _) = explain(CASES);
    assert_eq!(said.len(), text.lines().count());
    for (line, said) in text.lines().zip(said) {
        let case: Value = serde_json::from_str(line).unwrap();
        assert_eq!(case["id"], said["id"]);
        let fits = match case["expect"].as_str().unwrap() {
            // GitHub may have to answer a question first.
            "allow" => said["verdict"] == "allow" || said["verdict"] == "ask",
            "resolve" => said["verdict"] == "ask",
            _ => said["verdict"] == "deny",
        };
        assert!(fits, "{case} {said}");
    }
    let many = scratch("many").join("many.jsonl");
    let lines: Vec<&str> = text.lines().cycle().take(10_000).collect();
    std::fs::write(&many, lines.join("\n")).unwrap();
    let (said, took) = explain(many.to_str().unwrap());
    assert_eq!(said.len(), 10_000);
    assert!(took < 2.0, "{took} s");
}

#[tokio::test]
async fn every_way_round_has_the_verdict_that_is_expected_and_what_is_refused_never_arrives() {
    let hosts = [&HOSTS[..], &["codeload.github.com", "raw.githubusercontent.com"]].concat();
    let rig = Rig::start_with(&policy(&hosts), &[]);
    let sandbox = rig.sandbox();
    let text = std::fs::read_to_string(CASES).unwrap();
    let mut wrong = Vec::new();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let before = rig.upstream.requests().len();
        let answer = send(&rig, &sandbox, &case).await;
        let arrived = rig.upstream.requests().split_off(before);
        // The gateway's own requests are not the sandbox's.
        let arrived: Vec<_> = arrived.iter().filter(|request| !request.is_own()).collect();
        let refused = answer.as_ref().is_none_or(|answer| answer.rule.is_some());
        let fits = match case["expect"].as_str().unwrap() {
            "allow" => !refused && arrived.len() == 1,
            // The stand-in knows no such node. A case with a rule is the one that docs/refusals.md names for that rule.
            _ => {
                let rule = answer.as_ref().and_then(|answer| answer.rule.as_deref());
                let named = case["rule"].as_str();
                refused && arrived.is_empty() && (named.is_none() || named == rule)
            }
        };
        if !fits {
            wrong.push(format!("{} expected {}: {answer:?} {arrived:?}", case["id"], case["expect"]));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// A request with a GraphQL document.
fn document(query: &str, variables: &Value) -> Vec<u8> {
    let body = json!({"query": query, "variables": variables}).to_string();
    let case = json!({"method": "POST", "headers": {"content-type": "application/json"}, "body": body});
    request(&case, "api.github.com", "/graphql")
}

/// A comment on the node `id`.
fn comment(id: &str) -> Vec<u8> {
    let query = "mutation($i:AddCommentInput!){addComment(input:$i){clientMutationId}}";
    document(query, &json!({"i": {"subjectId": id, "body": "a comment"}}))
}

/// A rig with a sandbox that has acme/app, and the sandbox's connection to the API.
async fn with_app() -> (Rig, Sandbox, impl AsyncRead + AsyncWrite + Unpin) {
    let rig = Rig::start();
    let sandbox = rig.sandbox();
    let record = json!({
        "container_ip": sandbox.address, "container_id": "box",
        "repos": [{"name": "acme/app", "id": graphql::REPO_ID, "default_branch": "main"}],
    });
    assert_eq!(rig.gateway.call("POST", "/internal/containers", Some(&record)).0, 201);
    let stream = client::tls(&sandbox, sandbox.address, "api.github.com", Http::One).await.unwrap();
    (rig, sandbox, stream)
}

/// The number of the gateway's own requests with GraphQL, or of the others.
fn asked(rig: &Rig, own: bool) -> usize {
    let requests = rig.upstream.requests_with("api.github.com/graphql");
    requests.iter().filter(|request| request.is_own() == own).count()
}

#[tokio::test]
async fn a_write_that_cannot_be_confirmed_is_refused_to_try_again() {
    let upstream = Upstream::start();
    let gateway = Gateway::before(&upstream).build();
    gateway.up_apart();
    let rig = Rig { upstream, gateway };
    let sandbox = rig.sandbox();
    let record = json!({
        "container_ip": sandbox.address, "container_id": "box",
        "repos": [{"name": "acme/app", "id": graphql::REPO_ID, "default_branch": "main"}],
    });
    assert_eq!(rig.gateway.call("POST", "/internal/containers", Some(&record)).0, 201);
    let mut stream = client::tls(&sandbox, sandbox.address, "api.github.com", Http::One).await.unwrap();
    // The worker knows the record, and nothing was confirmed yet.
    let read = request(&json!({"method": "GET", "headers": {}}), "api.github.com", "/repos/acme/app");
    assert_eq!(raw::ask(&mut stream, &read).await.unwrap().rule, None);
    rig.gateway.signal(Signal::KILL);
    rig.gateway.ended(SOON);
    let answer = raw::ask(&mut stream, &comment(graphql::PULL_REQUEST)).await.unwrap();
    assert_eq!((answer.status, answer.rule.as_deref()), (503, Some("github.unconfirmed")), "{answer:?}");
    assert!(rig.upstream.requests_with("api.github.com/graphql").is_empty());
}

#[tokio::test]
async fn what_a_write_names_is_confirmed_once_and_a_forged_name_is_refused() {
    let (rig, _sandbox, mut stream) = with_app().await;
    for passed in 1..=2 {
        let answer = raw::ask(&mut stream, &comment(graphql::PULL_REQUEST)).await.unwrap();
        assert_eq!((answer.status, answer.rule.as_deref()), (200, None), "{answer:?}");
        assert_eq!((asked(&rig, true), asked(&rig, false)), (1, passed), "GitHub gets one request");
    }
    let answer = raw::ask(&mut stream, &comment(graphql::FORGED)).await.unwrap();
    assert_eq!((answer.status, answer.rule.as_deref()), (403, Some("github.node")), "{answer:?}");
    assert_eq!((asked(&rig, true), asked(&rig, false)), (2, 2));
}

#[tokio::test]
async fn what_a_read_names_is_confirmed_once() {
    let (rig, _sandbox, mut stream) = with_app().await;
    let read = |id: &str| with_id("query($id:ID!){node(id:$id){...on PullRequest{title}}}", id);
    for passed in 1..=3 {
        let answer = raw::ask(&mut stream, &read(graphql::PULL_REQUEST)).await.unwrap();
        assert_eq!((answer.status, answer.rule.as_deref()), (200, None), "{answer:?}");
        assert_eq!((asked(&rig, true), asked(&rig, false)), (1, passed), "GitHub gets one request");
    }
    let answer = raw::ask(&mut stream, &read(graphql::FORGED)).await.unwrap();
    assert_eq!((answer.status, answer.rule.as_deref()), (403, Some("github.node")), "{answer:?}");
    assert_eq!((asked(&rig, true), asked(&rig, false)), (2, 3), "the read does not arrive");
}

fn with_id(query: &str, id: &str) -> Vec<u8> {
    document(query, &json!({ "id": id }))
}

#[tokio::test]
async fn a_label_by_its_id_is_judged_by_its_name() {
    let (rig, _sandbox, mut stream) = with_app().await;
    let label = |mutation: &str| {
        let query = format!(
            "mutation($id:ID!){{{mutation}(input:{{labelableId:\"{}\" labelIds:[$id]}}){{clientMutationId}}}}",
            graphql::ISSUE
        );
        with_id(&query, graphql::AUTOMERGE)
    };
    let answer = raw::ask(&mut stream, &label("addLabelsToLabelable")).await.unwrap();
    assert_eq!((answer.status, answer.rule.as_deref()), (403, Some("github.node")), "{answer:?}");
    assert!(answer.body.contains("triggers an automation"), "{answer:?}");
    assert_eq!(asked(&rig, false), 0);
    let answer = raw::ask(&mut stream, &label("removeLabelsFromLabelable")).await.unwrap();
    assert_eq!((answer.status, answer.rule.as_deref()), (200, None), "{answer:?}");
}

#[tokio::test]
async fn a_text_of_another_account_is_not_changed() {
    let (rig, _sandbox, mut stream) = with_app().await;
    let edit = |path: &str, body: Value| {
        let case = json!({
            "method": "PATCH", "headers": {"content-type": "application/json"}, "body": body.to_string(),
        });
        request(&case, "api.github.com", &format!("/repos/acme/app/{path}"))
    };
    let text = json!({"body": "."});
    for (path, body, rule) in [
        (format!("issues/comments/{}", graphql::COMMENT_NUMBER), &text, None),
        ("issues/comments/7".into(), &text, Some("github.node")),
        ("pulls/7".into(), &text, None),
        ("issues/5".into(), &text, Some("github.node")),
        ("issues/5".into(), &json!({"state": "closed"}), None),
    ] {
        let before = rig.upstream.requests_with(&path).len();
        let answer = raw::ask(&mut stream, &edit(&path, body.clone())).await.unwrap();
        assert_eq!(answer.rule.as_deref(), rule, "{path} {answer:?}");
        assert_eq!(rig.upstream.requests_with(&path).len() - before, usize::from(rule.is_none()), "{path}");
    }
}
