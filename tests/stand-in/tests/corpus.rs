//! The corpora of requests to GitHub and of pushes, through all filters natively.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../../../filters/policy/tests/support/mod.rs"]
mod requests;

#[path = "../../../filters/push/tests/support/mod.rs"]
mod pushes;

use envoy_stand_in::{Call, Case, Chain, Reply, Request, yes};
use policy::{Access, Egress, HostPattern, Policy};
use pushes::Server;
use pushes::body::{Runs, Verdict};
use registry_proto::github::ConfirmResponse;
use registry_proto::push::{DescendsResponse, ReadRefsResponse, Ref};

const HOSTS: [&str; 7] = [
    "github.com",
    "api.github.com",
    "raw.githubusercontent.com",
    "codeload.github.com",
    "objects.githubusercontent.com",
    "release-assets.githubusercontent.com",
    "media.githubusercontent.com",
];

fn policy() -> Policy {
    let mut egress = Egress::default();
    for host in HOSTS {
        egress.add(HostPattern::parse(host).unwrap(), Access::FULL);
    }
    let github = policy::github::Rules::default();
    Policy { version: "corpus".into(), egress, strip_foreign_credentials: true, github }
}

#[test]
fn every_way_round_has_its_verdict_and_refused_ones_do_not_arrive() {
    let cases = requests::corpus();
    let mut wrong = Vec::new();
    for case in &cases {
        let mut request = Request::new(&case.method, &case.authority, &case.target);
        request.headers.extend(case.headers.clone());
        // The name of the TLS handshake.
        request.sni = policy::HostName::parse(case.authority.as_bytes()).ok().map(|host| host.to_string());
        let confirmed = case.expect == "allow";
        let outcome = Chain::run(
            Case::new(policy(), vec![case.container.clone()], request).body(case.body.clone()).in_parts(7).answered(
                move |call| match call {
                    Call::Confirm(_) => Reply::Confirm(ConfirmResponse { confirmed, reason: "no such node".into() }),
                    call => yes(call),
                },
            ),
        );
        let asked = outcome.calls.iter().any(|call| matches!(call, Call::Confirm(_)));
        let fits = match case.expect.as_str() {
            "allow" => outcome.passed() && outcome.rule.is_none(),
            "resolve" => asked && outcome.arrived.is_none() && outcome.rule.is_some(),
            _ => outcome.arrived.is_none() && outcome.rule.is_some(),
        };
        if !fits {
            wrong.push(format!("{} {}: expected {}, got {outcome:?}", case.id, case.printed(), case.expect));
        }
    }
    assert!(wrong.is_empty() && cases.len() > 150, "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// A GitHub with a case's refs and history.
fn github(case: &pushes::body::Case, call: &Call) -> Reply {
    let oid = |bytes: &[u8]| <[u8; 20]>::try_from(bytes).map(push::Oid::from).unwrap();
    match call {
        Call::ReadRefs(asked) => {
            let now = |at: &Ref| {
                let object = case.at(&at.name).map_or_else(Vec::new, |oid| oid.as_bytes().to_vec());
                Ref { name: at.name.clone(), object }
            };
            Reply::ReadRefs(ReadRefsResponse {
                others: asked.refs.iter().map(now).filter(|at| !asked.refs.contains(at)).collect(),
            })
        }
        Call::Descends(asked) => {
            let has = |descent: &registry_proto::push::Descent| {
                descent.commits.iter().any(|commit| case.descends(&oid(commit), &oid(&descent.ancestor)))
            };
            Reply::Descends(DescendsResponse { descends: asked.descents.iter().map(has).collect() })
        }
        call => yes(call),
    }
}

#[test]
fn every_push_has_its_verdict_and_refused_ones_end_short() {
    let mut wrong = Vec::new();
    let mut ran = 0;
    for case in pushes::body::corpus().into_iter().filter(|case| case.runs == Runs::Always) {
        let body = case.body();
        let mut policy = policy();
        policy.github.branches = case.rules.clone();
        let (expect, name) = (case.expect.clone(), case.name.clone());
        let container = case.container.clone();
        let case = std::rc::Rc::new(case);
        for part in [0, 61] {
            let request = Request::new("POST", "github.com", "/acme/app.git/git-receive-pack")
                .with("content-type", "application/x-git-receive-pack-request");
            let server = case.clone();
            let outcome = Chain::run(
                Case::new(policy.clone(), vec![container.clone()], request)
                    .body(body.bytes.clone())
                    .in_parts(part)
                    .answered(move |call| github(&server, call)),
            );
            let arrived = outcome.arrived.as_ref().map_or(&[][..], |arrived| &arrived.body);
            let fits = match expect.verdict {
                Verdict::Allow => outcome.passed() && arrived == body.bytes && outcome.rule.is_none(),
                Verdict::Deny => {
                    let short = body.trailer.is_none_or(|trailer| arrived.len() <= trailer);
                    outcome.note["decided"]["rule"].as_str() == expect.rule.as_deref() && !outcome.passed() && short
                }
            };
            if !fits {
                let (got, length) = (outcome.note["decided"]["rule"].clone(), arrived.len());
                wrong
                    .push(format!("{name} in parts of {part}: expected {expect:?}, got {got}, {length} bytes arrived"));
            }
            ran += 1;
        }
    }
    assert!(wrong.is_empty() && ran > 200, "{} wrong of {ran}:\n{}", wrong.len(), wrong.join("\n"));
}
