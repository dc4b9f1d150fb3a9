//! The cases of tests/corpus/chain, through all filters natively; and which rules of the table the corpora reach.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/cases.rs"]
mod cases;

use cases::{Judged, Run, Runner, Way, header, shown};
use envoy_stand_in::{Call, Case, Chain, Credential, Headers, Outcome, Reply, Request, Stage, yes};
use policy::{Container, HostName, Policy, Reached, Rule, Stage as PolicyStage};
use registry_proto::github::ConfirmResponse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The reason for which the stand-in cannot run `run`. The stand-in has no HTTP codec.
fn without(run: &Run) -> Option<&'static str> {
    if run.without.contains_key(&Runner::Native) {
        Some("the file says why")
    } else if run.is_refused_by_the_codec() {
        Some("Envoy's codec refuses it before any filter")
    } else if run.loses_a_user() {
        Some("Envoy's codec removes the user")
    } else {
        None
    }
}

fn container(run: &Run) -> Option<Container> {
    let mut record = run.registration("172.18.0.5")?;
    let expires_at = record.as_object_mut().unwrap().remove("expires_at");
    let now = "2026-12-01T00:00:00Z".parse().unwrap();
    let mut container = registry::record::record(&record, now).unwrap();
    if let Some(at) = expires_at {
        container.expires_at = at.as_str().unwrap().parse().unwrap();
    }
    Some(container)
}

fn request(run: &Run) -> Request {
    let mut request = Request::new(&run.method, "", "");
    let connect = run.form.way == Way::Connect || run.method == "CONNECT";
    for (name, value) in &mut request.headers {
        match name.as_str() {
            ":authority" => *value = shown(&run.authority),
            ":path" => value.clone_from(&run.path),
            ":method" if connect => *value = b"CONNECT".to_vec(),
            _ => {}
        }
    }
    request.headers.retain(|(name, _)| !connect || !matches!(name.as_str(), ":path" | ":scheme"));
    request.headers.extend(run.headers.iter().map(|(name, value)| (name.clone(), value.as_bytes().to_vec())));
    request.sni = (run.form.way == Way::Tls)
        .then(|| HostName::parse(run.tunnel.as_bytes()).map_or_else(|_| run.tunnel.clone(), |host| host.to_string()));
    request.at_proxy = matches!(run.form.way, Way::Connect | Way::Absolute);
    if run.form.way == Way::Connect {
        // The route of a CONNECT turns the others off.
        request.disabled = Stage::ALL.into_iter().filter(|stage| *stage != Stage::Identity).collect();
    }
    Request { end: run.body.is_empty(), ..request }
}

/// The credential stage with a key for api.anthropic.com: it adds the key and says what the body may ask.
fn keyed(policy: &Policy, container: &Container) -> impl FnMut(&Headers) -> Credential + use<> {
    let get = |name: &str| (name == "ANTHROPIC_API_KEY").then(|| "the-key".into());
    let credentials = credentials::read(&BTreeMap::new(), Path::new(""), &get).unwrap();
    let (egress, container) = (policy.egress.clone(), container.clone());
    move |headers| {
        let header = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).unwrap().1.clone();
        let (host, method) = (header(":authority"), String::from_utf8(header(":method")).unwrap());
        let entry = HostName::parse(&host).ok().and_then(|host| credentials.entry(&host));
        let Some(entry) = entry.filter(|entry| entry.name == "anthropic") else { return Credential::None };
        let guard = credentials.guard(entry, &container, &egress, (&method, &header(":path")));
        let guard = guard.map_or("off".into(), |guard| serde_json::to_string(&guard).unwrap());
        let (name, place) = ("x-api-key".into(), "header x-api-key 0 0".into());
        Credential::Put { name, value: b"the-key".to_vec(), place, guard: Some(guard) }
    }
}

fn outcome(run: &Run) -> Outcome {
    let policy = config::policy_file::read(&run.policy, Path::new("policy.yaml"), &credentials::Credentials::default());
    let policy = policy.unwrap_or_else(|error| panic!("{run}: {error}"));
    let containers = container(run).into_iter().collect();
    let confirmed = run.answers.is_some_and(|answers| answers.confirm);
    let keyed = container(run).filter(|_| run.key).map(|container| keyed(&policy, &container));
    let mut case = Case::new(policy, containers, request(run)).body(run.body.clone()).in_parts(7);
    if let Some(keyed) = keyed {
        case.credential = Box::new(keyed);
    }
    Chain::run(case.answered(move |call| match call {
        Call::Confirm(_) => {
            Reply::Confirm(ConfirmResponse { confirmed, reason: "no such node".into(), ..Default::default() })
        }
        call => yes(call),
    }))
}

fn judged(outcome: &Outcome) -> Judged {
    let decided = &outcome.note["decided"];
    let text = |name: &str| decided[name].as_str().unwrap_or_default().to_owned();
    let refused = outcome.rule.is_some();
    // A client and the audit are told the same.
    assert!(!refused || outcome.rule.as_deref() == decided["rule"].as_str(), "{outcome:?}");
    Judged { allowed: outcome.passed() && !refused, rule: text("rule"), status: outcome.status, stage: text("stage") }
}

/// The ways in which a request that should arrive does so differently.
fn differs(run: &Run, outcome: &Outcome) -> Vec<String> {
    let arrives = run.expect.arrives();
    let Some(arrived) = &outcome.arrived else { return vec!["nothing arrived".into()] };
    let mut wrong = Vec::new();
    let path = arrives.path.map_or_else(|| run.path.clone(), String::into_bytes);
    let have = |name: &str| -> Vec<String> {
        let values = arrived.headers.iter().filter(|(have, _)| have == name);
        values.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    };
    if run.form.way != Way::Connect && have(":path") != [String::from_utf8_lossy(&path)] {
        wrong.push(format!("the path {:?}", have(":path")));
    }
    if let Some(host) = &arrives.host
        && have(":authority") != [host.as_str()]
    {
        wrong.push(format!("the host {:?}", have(":authority")));
    }
    for (name, value) in arrives.headers.iter().map(|line| header(line)) {
        if have(&name) != [value] {
            wrong.push(format!("{name}: {:?}", have(&name)));
        }
    }
    wrong.extend(arrives.absent.iter().filter(|name| !have(name).is_empty()).map(|name| format!("{name} is there")));
    let body = arrives.body.map_or_else(|| run.body.clone(), String::into_bytes);
    if arrived.body != body {
        wrong.push(format!("the body {:?}", String::from_utf8_lossy(&arrived.body)));
    }
    wrong
}

#[test]
fn every_case_has_its_verdict_natively() {
    let begun = std::time::Instant::now();
    let (mut wrong, mut ran, mut skipped) = (Vec::new(), 0, BTreeMap::<_, u32>::new());
    for run in cases::corpus() {
        if let Some(why) = without(&run) {
            *skipped.entry(why).or_default() += 1;
            continue;
        }
        ran += 1;
        let outcome = outcome(&run);
        let judged = judged(&outcome);
        if !run.expect.fits(&judged, false) {
            wrong.push(format!(
                "{run}: expected {}; natively {judged}: {}",
                run.expect, outcome.note["decided"]["reason"]
            ));
        } else if run.expect.allows() {
            wrong.extend(differs(&run, &outcome).into_iter().map(|what| format!("{run} arrives differently: {what}")));
        } else if outcome.arrived.is_some() {
            wrong.push(format!("{run}: a denied request arrives: {:?}", outcome.arrived));
        }
    }
    println!("{ran} runs in {:?}, skipped: {skipped:?}", begun.elapsed());
    assert!(wrong.is_empty() && ran > 100, "{} wrong of {ran}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_rule_that_names_a_case_is_the_rule_of_that_case() {
    let runs = cases::corpus();
    for rule in Rule::ALL {
        if let Reached::Chain(file, case) = rule.reached() {
            let of_case = |run: &&Run| run.file == file && run.case == case;
            let mut of_case = runs.iter().filter(of_case);
            let found = of_case.any(|run| [run.expect.rule(), run.expect.audited()].contains(rule));
            assert!(found, "{rule}: no case {case:?} of {file} has this rule");
        }
    }
}

/// The rules that the corpus of requests to GitHub reaches, as its lines name them.
fn of_github() -> BTreeSet<String> {
    let text = std::fs::read_to_string(cases::directory().join("../github/bypass-cases.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter_map(|line| line["rule"].as_str().map(str::to_owned)).collect()
}

#[test]
fn every_rule_about_a_request_has_a_case_or_a_named_test() {
    let reached: BTreeSet<String> = cases::corpus()
        .iter()
        .flat_map(|run| [run.expect.rule(), run.expect.audited()])
        .map(|rule| rule.name().to_owned())
        .collect();
    let github = of_github();
    let about_requests = [PolicyStage::Request, PolicyStage::Identity, PolicyStage::Github];
    let (mut missing, mut by) = (Vec::new(), BTreeMap::<_, u32>::new());
    for rule in Rule::ALL.iter().filter(|rule| about_requests.contains(&rule.stage())) {
        let how = match rule.reached() {
            Reached::Cannot(_) => "no request",
            _ if reached.contains(rule.name()) => "a case of chain",
            _ if github.contains(rule.name()) => "a case of github",
            // `refusals` of the policy crate checks that the test is there.
            Reached::Test(_) => "a named test",
            how => {
                missing.push(format!("{rule}: {how:?}"));
                continue;
            }
        };
        *by.entry(how).or_default() += 1;
    }
    println!("{by:?}");
    assert!(missing.is_empty(), "no case and no end-to-end test reaches {missing:#?}");
}

#[test]
fn a_file_with_a_mistake_is_no_case() {
    let read = |cases: &str| {
        let text = format!("why: a test\npolicy: usual.yaml\ncases:\n{cases}\n");
        std::panic::catch_unwind(|| cases::read("test.yaml", &text, &mut || "fresh".into()).len()).ok()
    };
    let good = "  - {name: a, host: files.example.net, expect: {deny: identity.unknown}}";
    assert_eq!(read(good), Some(2));
    for (old, new) in [
        ("host:", "hosts:"),
        ("identity.unknown", "identity.unknwon"),
        ("{deny: identity.unknown}", "{}"),
        ("{deny: identity.unknown}", "{deny: identity.unknown, allow: egress.host}"),
        ("{deny: identity.unknown}", "{deny: identity.unknown, arrives: {}}"),
        (", expect", ", forms: [tsl], expect"),
        (", expect", ", but: {h3: request.port}, expect"),
        (", expect", ", without: {natively: x}, expect"),
        (", expect", ", headers: [no-value], expect"),
        ("name: a, ", ""),
        ("files.example.net", "localhost"),
    ] {
        assert_eq!(read(&good.replace(old, new)), None, "{new}");
    }
    assert_eq!(read(&format!("{good}\n{good}")), None, "a name that occurs twice");
}
