//! The operator's views: metrics, the doctor, the policy's check, the audit as it grows.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;
use test_support::process::{self, Signal};
use test_support::upstream::Visibility;
use test_support::upstream::pranks::Api;
use test_support::{Finished, Gateway, Rig, TOKEN, Upstream, eventually, gateway};

/// The timeout of every step.
const WITHIN: Duration = Duration::from_secs(10);

fn metrics(rig: &Rig) -> String {
    let (status, body) = rig.gateway.call("GET", "/metrics", None);
    assert_eq!(status, 200);
    body
}

/// The value of the metric with these labels, in the spelling of the text.
fn value(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn metrics_count_by_rule_and_name_nothing_that_a_sandbox_chose() {
    let rig = Rig::start();
    let sandbox = rig.registered(&["acme/app"]);
    for number in 0..20 {
        sandbox.curl(&[format!("https://chosen{number}.example.com/chosen-path")]);
    }
    sandbox.curl(&["-X", "CHOSEN", "https://api.anthropic.com/chosen-path"]);
    sandbox.curl(&["https://api.github.com/repos/acme/app"]);
    let denied = r#"sallyport_requests_total{verdict="deny",stage="identity",rule="egress.host"}"#;
    eventually("the refusals are counted", WITHIN, || (value(&metrics(&rig), denied) == Some(20.0)).then_some(()));
    let text = eventually("the allowed requests are counted too", WITHIN, || {
        let text = metrics(&rig);
        (value(&text, "sallyport_request_duration_seconds_count") >= Some(22.0)).then_some(text)
    });
    for (name, at_least) in [
        (r#"sallyport_requests_total{verdict="allow",stage="identity",rule="egress.host"}"#, 1.0),
        (r#"sallyport_credentials_injected_total{credential="github-api"}"#, 1.0),
        ("sallyport_containers", 1.0),
        ("sallyport_watchers", 2.0),
        ("sallyport_xds_sessions", 1.0),
        (r#"sallyport_leaves_total{what="minted"}"#, 22.0),
        ("sallyport_leaves_held", 22.0),
        (r#"sallyport_audit_lost_total{why="queue"}"#, 0.0),
        (r#"sallyport_xds_nacks_total{kind="listener"}"#, 0.0),
        ("process_resident_memory_bytes", 1e6),
    ] {
        let found = value(&text, name);
        assert!(found.is_some_and(|found| found >= at_least), "{name}: {found:?}\n{text}");
    }
    for chosen in ["chosen", "CHOSEN", "example.com", &sandbox.address.to_string(), "acme", TOKEN] {
        assert!(!text.contains(chosen), "{chosen}\n{text}");
    }
    rig.gateway.remove(sandbox.address);
    assert_eq!(value(&metrics(&rig), "sallyport_containers"), Some(0.0));
}

/// The length of a spell without requests, in which processor time is measured. Only the clock ends it.
const SPELL: Duration = Duration::from_secs(5);

/// The number of spells. One of them must be idle.
const SPELLS: usize = 4;

#[test]
fn a_gateway_without_requests_does_next_to_nothing() {
    let rig = Rig::start();
    let policy = std::fs::read(rig.gateway.policy_file()).unwrap();
    // A change for the gateway to read. Its own reading must not count as a change.
    std::fs::write(rig.gateway.policy_file(), policy).unwrap();
    let total = || value(&metrics(&rig), "process_cpu_seconds_total").unwrap();
    // In the first spell the gateway may still read the policy. Other work on the machine only adds to the time.
    let spells = (0..SPELLS).map(|_| {
        let before = total();
        std::thread::sleep(SPELL);
        total() - before
    });
    let mut spent = Vec::new();
    let idle = spells.inspect(|spell| spent.push(*spell)).any(|spell| spell < 0.1);
    println!("{spent:?} s of processor time in {SPELL:?} each");
    assert!(idle, "{spent:?} s of processor time in {SPELL:?} each");
}

/// The first line of `doctor` for `check`.
fn finding(rig: &Rig, check: &str) -> (Option<i32>, Value) {
    let finished = Finished::of(&mut rig.gateway.operator(&["doctor", "--json"]));
    let printed: Value = serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"));
    let checks = printed["checks"].as_array().unwrap();
    assert_eq!(printed["ok"] == true, finished.code == Some(0), "{printed}");
    let found = checks.iter().find(|finding| finding["check"] == check);
    (finished.code, found.unwrap_or_else(|| panic!("no {check}: {printed}")).clone())
}

#[test]
fn the_doctor_passes_a_gateway_that_is_well_and_names_what_is_not() {
    let rig = Rig::start();
    let finished = Finished::of(&mut rig.gateway.operator(&["doctor"])).success();
    for line in finished.stdout.lines() {
        assert!(line.starts_with("ok") || line.starts_with("warn"), "{line}");
    }
    for check in ["config", "policy", "state", "ca", "envoy", "filters", "gateway", "ports", "roots", "credentials"] {
        assert_eq!(finding(&rig, check).1["state"], "ok", "{check}: {}", finding(&rig, check).1);
    }
    for check in ["dns", "upstream", "spoofing", "clock"] {
        assert_ne!(finding(&rig, check).1["state"], "fail", "{check}");
    }

    let key = rig.gateway.state.join("ca.key");
    let mode = |mode| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(0o644);
    let (code, found) = finding(&rig, "state");
    assert_eq!((code, &found["state"]), (Some(1), &"fail".into()), "{found}");
    assert!(found["todo"].as_str().unwrap().contains("chmod"), "{found}");
    mode(0o600);

    let policy = rig.gateway.config().with_file_name("policy.yaml");
    std::fs::write(&policy, "egress:\n  - gihub\n").unwrap();
    let (code, found) = finding(&rig, "policy");
    assert_eq!((code, &found["state"]), (Some(1), &"fail".into()), "{found}");
    assert!(found["found"].as_str().unwrap().contains("policy.yaml:2:5"), "{found}");
    let warned = eventually("the gateway warns of the problem", WITHIN, || {
        let found = finding(&rig, "gateway").1;
        (found["state"] == "warn").then_some(found)
    });
    assert!(warned["found"].as_str().unwrap().contains("policy"), "{warned}");

    rig.gateway.signal(Signal::TERM);
    rig.gateway.ended(WITHIN);
    assert_eq!(finding(&rig, "gateway").1["state"], "warn");
    assert!(finding(&rig, "ports").1["found"].as_str().unwrap().contains("is free"));
}

#[test]
fn shared_branches_are_pointed_out_and_force_on_them_is_refused() {
    let rig = Rig::start();
    rig.upstream.create_repo("acme/app", Visibility::Private);
    let add = |last: u8, more: &[&str]| {
        let address = format!("10.70.0.{last}");
        let arguments = [&["container", "add", "--ip", &address, "--repo", "acme/app"], more].concat();
        Finished::of(&mut rig.gateway.operator(&arguments))
    };
    let (own, named) = (add(1, &["--force-own-branches"]).success(), add(2, &["--id", "agent 2"]).success());
    assert!(own.stdout.contains("[sandbox/10.70.0.1/*] by force") && own.stderr.is_empty(), "{own:?}");
    assert!(named.stdout.contains("[sandbox/agent=202/*]") && named.stderr.is_empty(), "{named:?}");
    let printed = rig.gateway.sandbox_env_with(Ipv4Addr::LOCALHOST, &["--ip", "10.70.0.2"]);
    assert_eq!(printed["SALLYPORT_BRANCHES"], "sandbox/agent=202/*");
    assert_eq!(finding(&rig, "branches").1["state"], "ok");
    let refused = add(3, &["--branch", "sandbox/*"]);
    let told = "allowed_branches: another container may move these branches by force: sandbox/* meets sandbox/10.70.0.1/* of 10.70.0.1 in acme/app";
    assert!(refused.code == Some(2) && refused.stderr.contains(told), "{refused:?}");
    let path = "/internal/containers/10.70.0.1";
    assert_eq!(rig.gateway.call("PATCH", path, Some(&json!({"force_own_branches": false}))).0, 200);
    let shared = add(3, &["--branch", "sandbox/*"]).success();
    assert_eq!(shared.stderr.matches("warning: sandbox/* meets").count(), 2, "{shared:?}");
    let (code, found) = finding(&rig, "branches");
    assert_eq!((code, &found["state"]), (Some(0), &"warn".into()), "{found}");
    assert!(found["found"].as_str().unwrap().contains("10.70.0.1: sandbox/10.70.0.1/* meets sandbox/*"), "{found}");
    // The repository does not exist at GitHub.
    assert_eq!(finding(&rig, "locks").1["state"], "warn");

    let policy = rig.gateway.policy_file();
    let text = std::fs::read_to_string(&policy).unwrap() + "policy: {protected_branches: []}\n";
    std::fs::write(&policy, text).unwrap();
    eventually("/readyz warns", WITHIN, || {
        rig.gateway.warnings().iter().any(|warning| warning.contains("protected_branches is empty")).then_some(())
    });
    let checked = Finished::of(rig.gateway.operator(&["policy", "check"]).arg(&policy)).success();
    assert!(checked.stderr.contains("only each repository's default branch is protected"), "{checked:?}");
}

#[test]
fn a_mistake_in_a_registration_is_told_and_only_a_wrong_value_refused() {
    let rig = Rig::start();
    rig.upstream.create_repo("acme/app", Visibility::Private);
    let add = |last: u8, repo: &str, more: &[&str]| {
        let address = format!("10.71.0.{last}");
        let arguments = [&["container", "add", "--ip", &address, "--repo", repo], more].concat();
        Finished::of(&mut rig.gateway.operator(&arguments))
    };
    let expiry = |last: u8| -> jiff::Timestamp {
        let (_, record) = rig.gateway.call("GET", &format!("/internal/containers/10.71.0.{last}"), None);
        serde_json::from_str::<Value>(&record).unwrap()["expires_at"].as_str().unwrap().parse().unwrap()
    };
    for (ttl, hours) in [("7d", 168), ("36h", 36), ("1w1h30m", 169)] {
        assert_eq!(add(1, "acme/app", &["--ttl", ttl]).success().stderr, "", "{ttl}");
        let left = expiry(1).duration_since(jiff::Timestamp::now()).as_hours();
        assert!((hours - 1..=hours + 1).contains(&left), "{ttl}: {left}");
    }
    for (ttl, told) in [
        ("90", "sallyport: ttl: \"90\" has no unit; write w, d, h, m or s behind the number, such as 8h"),
        ("soon", "sallyport: ttl: \"soon\" is no duration; write numbers with the units w, d, h, m and s"),
        ("9999d", "sallyport: ttl: \"9999d\" is out of range; allowed are 1s to 3650d"),
    ] {
        let refused = add(1, "acme/app", &["--ttl", ttl]);
        assert!(refused.code == Some(2) && refused.stderr.starts_with(told), "{refused:?}");
        assert!(!refused.stderr.contains("jiff"), "{refused:?}");
    }

    let named = add(1, "acme/app", &["--id", "agent"]).success();
    assert!(named.stderr.contains("warning: 10.71.0.1 was registered for 10.71.0.1 until"), "{named:?}");
    let twice = add(2, "acme/app", &["--id", "agent", "--branch", "own/*"]).success();
    assert!(twice.stderr.contains("warning: agent is registered for 10.71.0.1 too"), "{twice:?}");
    let listed = add(3, "acme/app", &["--id", "agent", "--branch", "third/*", "--json"]).success();
    let answer: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert!(answer["warnings"][0].as_str().unwrap().contains("10.71.0.1, 10.71.0.2 too"), "{answer}");

    let misspelt = add(4, "acme/ap", &[]).success();
    assert!(misspelt.stdout.starts_with("registered 10.71.0.4"), "{misspelt:?}");
    assert_eq!(
        misspelt.stderr,
        "sallyport: warning: acme/ap is not confirmed: there is none of that name, or the gateway's token may not see it\n"
    );
    rig.upstream.set_api("acme/late", Some(Api::Status(503)));
    let late = add(5, "acme/late", &[]).success();
    assert!(late.stderr.contains("acme/late is not confirmed: api.github.com answers with status 503"), "{late:?}");
    for (repo, told) in
        [("https://github.com/acme/app", "expected owner/name"), ("acme/app.git", "expected owner/name")]
    {
        let refused = add(6, repo, &[]);
        assert!(refused.code == Some(2) && refused.stderr.contains(told), "{refused:?}");
    }
}

#[test]
fn an_audit_that_is_moved_or_removed_goes_on_in_a_new_file() {
    let rig = Rig::start();
    let sandbox = rig.registered(&["acme/app"]);
    let (audit, moved) = (rig.gateway.state.join("audit.jsonl"), rig.gateway.state.join("audit.moved"));
    let ask = |path: &str| {
        sandbox.curl(&[&format!("https://unlisted.example.com{path}")]);
        rig.gateway.audit_line(path, |line| line["path"] == path);
    };
    let reopened = || value(&metrics(&rig), "sallyport_audit_reopened_total");
    ask("/first");
    assert_eq!(reopened(), Some(0.0));
    std::fs::rename(&audit, &moved).unwrap();
    ask("/second");
    std::fs::remove_file(&audit).unwrap();
    ask("/third");
    assert_eq!(reopened(), Some(2.0));
    let text = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    assert!(text(&moved).contains("/first") && !text(&moved).contains("/second"));
    assert!(text(&audit).contains("/third") && !text(&audit).contains("/second"));
    // As `copytruncate` of logrotate does it.
    std::fs::File::options().write(true).truncate(true).open(&audit).unwrap();
    ask("/fourth");
    assert!(text(&audit).starts_with('{') && !text(&audit).contains("/third"));
    assert_eq!((reopened(), rig.gateway.warnings()), (Some(2.0), Vec::<String>::new()));
    assert!(rig.gateway.said().contains("another program has moved or removed the audit's file"));
}

#[test]
fn files_that_are_gone_or_replaced_under_the_gateway_are_told() {
    let rig = Rig::start();
    let state = &rig.gateway.state;
    let aside = state.with_file_name("aside");
    assert_eq!(rig.gateway.warnings(), Vec::<String>::new());
    for name in ["registry.redb", "lock", "run/xds.sock", "ca.key", "ca.pem", "ca-bundle.pem"] {
        let path = state.join(name);
        std::fs::rename(&path, &aside).unwrap();
        let gone = rig.gateway.warnings();
        assert!(gone.len() == 1 && gone[0].starts_with("state: ") && gone[0].contains(name), "{name}: {gone:?}");
        std::fs::rename(&aside, &path).unwrap();
        assert_eq!(rig.gateway.warnings(), Vec::<String>::new(), "{name}");
    }
    for name in ["registry.redb", "ca.pem"] {
        let path = state.join(name);
        std::fs::rename(&path, &aside).unwrap();
        std::fs::write(&path, "another").unwrap();
        let replaced = rig.gateway.warnings();
        assert!(replaced.len() == 1 && replaced[0].contains("is not the"), "{name}: {replaced:?}");
        let (code, found) = finding(&rig, "gateway");
        assert_eq!(found["state"], "warn", "{code:?} {found}");
        assert!(found["found"].as_str().unwrap().contains(name), "{found}");
        std::fs::rename(&aside, &path).unwrap();
    }
    std::fs::rename(state, &aside).unwrap();
    let (code, found) = finding(&rig, "state");
    assert_eq!((code, &found["state"]), (Some(1), &"fail".into()), "{found}");
    assert!(found["found"].as_str().unwrap().contains("does not exist, although a gateway runs"), "{found}");
    assert_eq!(finding(&rig, "ca").1["state"], "fail");
    std::fs::rename(&aside, state).unwrap();
    assert_eq!(rig.gateway.warnings(), Vec::<String>::new());
}

#[test]
fn readiness_names_what_is_missing() {
    let upstream = Upstream::start();
    let gateway = Gateway::before(&upstream).build();
    let readyz = || {
        // The token is there before the first response, and perhaps after the rig has looked for it.
        let (status, body) = gateway.try_call("GET", "/readyz", None).ok().filter(|(status, _)| *status != 401)?;
        let said: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("/readyz: {error}: {body}"));
        Some((status, said["ready"].clone(), said["missing"].clone()))
    };
    let missing = json!(["envoy: none is connected", "identity: 0 of 1 Envoy threads hold the registry"]);
    let without_envoy = (503, json!(false), missing);
    gateway.serve();
    let said = eventually("the control plane answers", WITHIN, readyz);
    assert_eq!(said, without_envoy);
    gateway.start_envoy();
    assert_eq!(readyz(), Some((200, json!(true), json!([]))));
    process::signal(gateway.envoy_pid().unwrap(), Signal::KILL);
    eventually("/readyz reports that Envoy is gone", WITHIN, || {
        (readyz().as_ref() == Some(&without_envoy)).then_some(())
    });
}

#[test]
fn a_policy_is_checked_before_it_is_put_in_place() {
    let rig = Rig::start();
    let directory = rig.gateway.config().with_file_name("drafts");
    std::fs::create_dir(&directory).unwrap();
    let check = |text: &str| {
        let draft = directory.join("draft.yaml");
        std::fs::write(&draft, text).unwrap();
        Finished::of(&mut rig.gateway.operator(&["policy", "check", draft.to_str().unwrap()]))
    };
    check("egress:\n  - github\n").success();
    let wrong = check("egress:\n  - github\n  - localhost\n");
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.stderr.contains("draft.yaml:3:5: ") && wrong.stderr.contains("presets are"), "{wrong:?}");
    let configured = Finished::of(&mut rig.gateway.operator(&["policy", "check", "--json"])).success();
    assert_eq!(serde_json::from_str::<Value>(&configured.stdout).unwrap()["ok"], true);
    let missing = Finished::of(&mut rig.gateway.operator(&["policy", "check", "/nonexistent/policy.yaml"]));
    assert_eq!(missing.code, Some(2), "{missing:?}");
}

#[test]
fn the_audit_is_followed_as_it_goes() {
    let rig = Rig::start();
    let sandbox = rig.registered(&["acme/app"]);
    let id = gateway::container_id(sandbox.address);
    sandbox.curl(&["https://unlisted.example.com/before"]);
    rig.gateway.audit_line("/before", |line| line["path"] == "/before");
    let arguments = ["audit", "tail", "--verdict", "deny", "--container", &id, "-n", "1"];
    let mut tail = rig.gateway.operator(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.contains(" deny ") && first.contains("unlisted.example.com/before"), "{first}");
    sandbox.curl(&["https://api.anthropic.com/allowed"]);
    // Another worker may serve the next one, and write its line earlier.
    rig.gateway.audit_line("/allowed", |line| line["path"] == "/allowed");
    sandbox.curl(&["https://unlisted.example.com/after"]);
    let second = lines.next().unwrap().unwrap();
    assert!(second.contains("unlisted.example.com/after") && second.contains("egress.host"), "{second}");
    // It does not delay a stop, and ends with the gateway.
    rig.gateway.signal(Signal::TERM);
    let stopped = std::time::Instant::now();
    rig.gateway.ended(WITHIN);
    println!("stopped within {:?} with a follower", stopped.elapsed());
    assert!(tail.wait().unwrap().success());
    assert!(lines.next().is_none());

    rig.gateway.up();
    let shown =
        Finished::of(&mut rig.gateway.operator(&["audit", "tail", "--no-follow", "--json", "-n", "2"])).success();
    let shown: Vec<Value> = shown.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(shown.iter().map(|line| &line["path"]).collect::<Vec<_>>(), ["/allowed", "/after"]);
    assert!(process::alive(rig.gateway.pid()));
}
