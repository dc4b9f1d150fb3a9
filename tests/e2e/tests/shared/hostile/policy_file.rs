//! The policy file: changed, deleted and broken while the gateway runs.

use super::{ALONE, PLAIN, REPO, assert_nothing_arrived, assert_ready, assert_refused, connect, get};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};
use test_support::client::{drain, tls};
use test_support::gateway::policy;
use test_support::upstream::HOSTS;
use test_support::{Answer, Client, Http, Rig, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The timeout for a change of the policy on a loaded machine.
const RELOAD: Duration = Duration::from_secs(5);
/// Longer than the gateway takes for a change of the policy on an idle machine. For changes that must not come into force.
const UNCHANGED: Duration = Duration::from_millis(500);
/// The timeout for new rules of GitHub, which reach a worker by another way than the allowed hosts.
const RULES: Duration = Duration::from_secs(5);
/// The limit for the median time of a change, over all open connections, beside the tests of other modules.
const USUAL_RELOAD: Duration = Duration::from_millis(500);

/// Sends requests on `client` until the response has `status`. Panics if the connection breaks, or
/// [`RELOAD`] has passed since `since`.
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
        // By turns: a rename, as editors do, and a write in place, as the shell's `>` does.
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

/// A changed listener drains the connections of all sandboxes (GOAWAY, `connection: close`). Envoy ignores an equal
/// listener, but the gateway is not ready until Envoy has acknowledged the listener. So the gateway must send none.
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
        // A tunnel ends with its record, and a change of the record makes a new record. So connect after the change.
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
    drain(stream.into_body(), Duration::from_millis(100)).await.expect_err("an open stream continues");
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

#[tokio::test]
async fn a_policy_that_is_still_being_written_changes_nothing() {
    let _alone = ALONE.lock().await;
    let rig = Rig::start_with(&policy(&[PLAIN]), &[]);
    let sandbox = rig.registered(&[REPO]);
    let mut client = connect(&sandbox, PLAIN, Http::Two).await;
    let mut other = connect(&sandbox, "api.github.com", Http::Two).await;
    // Empty, and then a policy of comments only, would have the default `egress`, which allows GitHub.
    let mut file = fs::File::create(rig.gateway.policy_file()).unwrap();
    for part in ["", "# The policy.\n", "egress:\n"] {
        file.write_all(part.as_bytes()).unwrap();
        let since = Instant::now();
        while since.elapsed() < UNCHANGED {
            assert_eq!(client.get("/listed").await.unwrap().status, 200, "after {part:?}");
            assert_refused(part, &other.get("/user").await.unwrap(), 403, "egress.host");
        }
    }
    file.write_all(b"  - api.github.com\n").unwrap();
    drop(file);
    in_force(&mut other, "/user", 200, Instant::now()).await;
    assert_refused("whole", &client.get("/listed").await.unwrap(), 403, "egress.host");
    // An empty file, such as a full disk leaves, is an error.
    fs::write(rig.gateway.policy_file(), "").unwrap();
    eventually("the warning", RELOAD, || {
        rig.gateway.warnings().into_iter().find(|warning| warning.contains("policy.yaml: the file is empty"))
    });
    assert_eq!(other.get("/user").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_write_that_ends_under_another_policy_is_refused() {
    let _alone = ALONE.lock().await;
    let hosts = policy(&["api.github.com"]);
    let rig = Rig::start_with(&hosts, &[]);
    let sandbox = rig.registered(&[REPO]);
    let mut other = connect(&sandbox, "api.github.com", Http::Two).await;
    let body = r#"{"title":"late","body":"b"}"#;
    let head = format!(
        "POST /repos/{REPO}/issues HTTP/1.1\r\nHost: api.github.com\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    for (changes, status) in [(false, "HTTP/1.1 200"), (true, "HTTP/1.1 503")] {
        let open = || rig.gateway.envoy_stat("http.tunnel.downstream_rq_active");
        eventually("no request is open", RULES, || (open() == 0).then_some(()));
        let mut stream = tls(&sandbox, sandbox.address, "api.github.com", Http::One).await.unwrap();
        let (first, last) = body.split_at(7);
        stream.write_all([head.as_bytes(), first.as_bytes()].concat().as_slice()).await.unwrap();
        eventually("its headers have arrived", RULES, || (open() > 0).then_some(()));
        if changes {
            // The new rules refuse the operation. Another request shows that they are in force.
            fs::write(rig.gateway.policy_file(), format!("{hosts}github: {{bot: {{deny: [write-collab]}}}}\n"))
                .unwrap();
            let since = Instant::now();
            while other.post(&format!("/repos/{REPO}/issues"), "application/json", body.into()).await.unwrap().status
                != 403
            {
                assert!(since.elapsed() < RULES);
            }
        }
        stream.write_all(last.as_bytes()).await.unwrap();
        let mut answer = vec![0; status.len()];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), status, "{changes}");
    }
    let line = rig.gateway.audit_line("the refusal", |line| line["rule"] == "github.unavailable");
    assert!(line["reason"].as_str().unwrap().contains("the policy has changed"), "{line}");
}
