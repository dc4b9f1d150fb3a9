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
use registry_proto::github::{self as github_wire, ConfirmResponse};
use registry_proto::push::{self as push_wire, DescendsResponse, ReadRefsResponse, Ref};

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
        egress.add(HostPattern::parse(host).unwrap(), Access::full());
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
                    Call::Confirm(_) => Reply::Confirm(ConfirmResponse {
                        confirmed,
                        reason: "no such node".into(),
                        ..Default::default()
                    }),
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
                ..Default::default()
            })
        }
        Call::Descends(asked) => {
            let has = |descent: &registry_proto::push::Descent| {
                descent.commits.iter().any(|commit| case.descends(&oid(commit), &oid(&descent.ancestor)))
            };
            Reply::Descends(DescendsResponse {
                descends: asked.descents.iter().map(has).collect(),
                ..Default::default()
            })
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
        policy.github.push_options = case.push_options.clone();
        let written = pushes::written(&body.bytes);
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
                Verdict::Allow => outcome.passed() && arrived == written && outcome.rule.is_none(),
                Verdict::Deny => {
                    let short = |trailer| arrived.len() + body.bytes.len() <= trailer + written.len();
                    let short = body.trailer.is_none_or(short);
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

/// A limit of the control plane's.
const REASON: &str = "nothing is left until noon";

#[test]
fn a_question_beyond_a_limit_refuses_its_push_with_the_reason() {
    let case = pushes::body::corpus().into_iter().find(|case| case.name == "ff-by-a-question").unwrap();
    let limited = || Some(push_wire::Limited { reason: REASON.into(), retry_after: 60 });
    let no_refs = move || Reply::ReadRefs(ReadRefsResponse { limited: limited(), ..Default::default() });
    let no_descents = move || Reply::Descends(DescendsResponse { limited: limited(), ..Default::default() });
    let exhausted = || Reply::Descends(DescendsResponse { exhausted: true, ..Default::default() });
    type Answer = Option<Box<dyn Fn() -> Reply>>;
    let answers: [(&str, &str, [Answer; 2]); 3] = [
        ("limit.github", REASON, [Some(Box::new(no_refs)), None]),
        ("limit.github", REASON, [None, Some(Box::new(no_descents))]),
        ("push.limit", "GitHub has said of 16 commits", [None, Some(Box::new(exhausted))]),
    ];
    let (body, container, mut policy) = (case.body(), case.container.clone(), policy());
    policy.github.branches = case.rules.clone();
    let case = std::rc::Rc::new(case);
    for (rule, reason, [refs, descents]) in answers {
        let server = case.clone();
        let request = Request::new("POST", "github.com", "/acme/app.git/git-receive-pack")
            .with("content-type", "application/x-git-receive-pack-request");
        let outcome =
            Chain::run(Case::new(policy.clone(), vec![container.clone()], request).body(body.bytes.clone()).answered(
                move |call| match (call, &refs, &descents) {
                    (Call::ReadRefs(_), Some(refs), _) => refs(),
                    (Call::Descends(_), _, Some(descents)) => descents(),
                    _ => github(&server, call),
                },
            ));
        let decided = &outcome.note["decided"];
        assert_eq!((outcome.rule.as_deref(), decided["rule"].as_str()), (Some(rule), Some(rule)), "{outcome:?}");
        assert_eq!(decided["stage"], "push");
        let report = String::from_utf8_lossy(&outcome.client.body);
        assert!(report.contains(reason) && report.contains(&format!("(rule {rule})")), "{report}");
        let arrived = outcome.arrived.as_ref().map_or(0, |arrived| arrived.body.len());
        assert!(!outcome.passed() && arrived <= body.trailer.unwrap(), "{outcome:?}");
    }
}

#[test]
fn a_write_beyond_a_limit_is_refused_with_the_reason_and_the_time() {
    let comment = r#"{"query":"mutation($i:AddCommentInput!){addComment(input:$i){clientMutationId}}","variables":{"i":{"subjectId":"PR_kwDOAWBuf84Bh4UQ","body":"hello"}}}"#;
    let container: policy::Container = serde_json::from_value(serde_json::json!({
        "container_ip": "172.18.0.5", "container_id": "a", "repos": [{"name": "acme/app", "id": 23_096_959}],
        "expires_at": "2027-01-15T00:00:00Z", "generation": 1,
    }))
    .unwrap();
    let request = Request::new("POST", "api.github.com", "/graphql").with("content-type", "application/json");
    let outcome = Chain::run(Case::new(policy(), vec![container], request).body(comment).answered(|call| match call {
        Call::Confirm(_) => {
            let limited = Some(github_wire::Limited { reason: REASON.into(), retry_after: 60 });
            Reply::Confirm(ConfirmResponse { limited, ..Default::default() })
        }
        call => yes(call),
    }));
    assert_eq!((outcome.status, outcome.rule.as_deref()), (429, Some("limit.github")), "{outcome:?}");
    assert_eq!(outcome.client.header("retry-after").as_deref(), Some("60"));
    assert!(String::from_utf8_lossy(&outcome.client.body).contains(REASON) && outcome.arrived.is_none());
}
