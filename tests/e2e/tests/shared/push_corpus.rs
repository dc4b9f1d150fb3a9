//! The corpus of pushes (tests/corpus/push) through the command line, and through Envoy with real git behind it.

// The native tests' module reads the corpus and makes the bodies.
#[path = "../../../../filters/push/tests/support/mod.rs"]
mod support;

use policy::github::Rules;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use support::body::{Case, Verdict, corpus};
use test_support::client::tls;
use test_support::gateway::policy;
use test_support::push::CONTENT_TYPE;
use test_support::raw::{self, h2};
use test_support::upstream::{HOSTS, Visibility, git, number};
use test_support::{Answer, Http, Rig, Sandbox, scratch};

/// Rules that decide before any byte goes upstream.
const BY_THE_LIST: [&str; 11] = [
    "push.branch",
    "push.default-unknown",
    "push.delete",
    "push.duplicate",
    "push.format",
    "push.new-name",
    "push.option",
    "push.protected",
    "push.ref",
    "push.signed",
    "push.tag",
];

/// Cases that take 40 s of a worker's slices. `every_long_case_has_the_verdict_that_is_expected` reads them natively.
const NATIVELY: [&str; 2] = ["64-mib-of-commits", "64-mib-of-commits-and-1"];

/// Cases that the gateway allows and git's server refuses: a damaged pack, and commits with missing parents. The client
/// gets the server's own refusal.
const NOT_TAKEN: [&str; 3] = ["trailer-is-wrong", "second-parent", "16-ways-out"];

/// The cases by their rules, each in the form of a policy file.
fn by_rules() -> BTreeMap<String, Vec<Case>> {
    let mut groups = BTreeMap::<String, Vec<Case>>::new();
    for case in corpus() {
        let protected: Vec<_> = case.rules.protected.iter().map(ToString::to_string).collect();
        let rules = json!({
            "protected_branches": protected,
            "protect_default_branch": case.rules.protect_default,
            "branch_characters": case.rules.characters.to_string(),
            "allow_force_push": case.rules.allow_force_push,
            "allow_branch_deletion": case.rules.allow_deletion,
        });
        let github = json!({"push_options": case.push_options});
        groups.entry(format!("{}\npolicy: {rules}\ngithub: {github}\n", policy(&HOSTS))).or_default().push(case);
    }
    groups
}

fn record(case: &Case, address: &str, repo: &str) -> Value {
    let globs: Vec<_> = case.container.allowed_branches.iter().map(ToString::to_string).collect();
    // With another number than GitHub's, the gateway takes no default branch from GitHub.
    let repo = match case.container.repos[0].default_branch() {
        Some(branch) => json!({"name": repo, "id": number(repo), "default_branch": branch}),
        None => json!({"name": repo, "id": 1}),
    };
    json!({
        "container_ip": address, "container_id": case.name, "repos": [repo], "allowed_branches": globs,
        "auth_mode": case.container.auth_mode, "force_own_branches": case.container.force_own_branches,
    })
}

#[test]
fn push_explain_says_of_each_what_the_filter_would() {
    let mut wrong = Vec::new();
    let mut ran = 0;
    for (number, (text, cases)) in by_rules().iter().enumerate() {
        let file = scratch("policy").join(format!("{number}.yaml"));
        std::fs::write(&file, text).unwrap();
        for case in cases {
            let said = explained(case, &file);
            let same = said["verdict"] == "deny" && said["rule"] == json!(case.expect.rule);
            let fits = match (case.expect.verdict, case.expect.rule.as_deref()) {
                (Verdict::Allow, _) => said["verdict"] != "deny",
                // The server's history or its refs decide these, and a command can't read them.
                (Verdict::Deny, Some("push.force")) => said["verdict"] == "ask" || same,
                (Verdict::Deny, Some("push.stale")) => said["verdict"] != "deny" || same,
                (Verdict::Deny, _) => same,
            };
            if !fits {
                wrong.push(format!("{}: expected {:?}, got {said}", case.name, case.expect));
            }
            ran += 1;
        }
    }
    assert!(wrong.is_empty() && ran > 100, "{} wrong of {ran}:\n{}", wrong.len(), wrong.join("\n"));
}

fn explained(case: &Case, policy: &Path) -> Value {
    let body = scratch("body").join("body");
    std::fs::write(&body, case.body().bytes).unwrap();
    let container = record(case, "172.18.0.5", "acme/app").to_string();
    let mut command = Command::new(std::env::var_os("SALLYPORT_BIN").unwrap());
    command.args(["push", "explain", "--container", &container, "--repo", "acme/app", "--policy"]).arg(policy);
    let output = command.stdin(std::fs::File::open(&body).unwrap()).stderr(Stdio::piped()).output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let code = if said["verdict"] == "deny" { 10 } else { 0 };
    assert_eq!(output.status.code(), Some(code), "{}: {said}", case.name);
    std::fs::remove_file(body).unwrap();
    said
}

#[tokio::test]
async fn envoy_refuses_what_is_to_be_refused_and_no_ref_moves() {
    let mut wrong = Vec::new();
    let mut ran = 0;
    for (text, cases) in by_rules() {
        let rig = Rig::start_with(&text, &[]);
        let sandbox = rig.sandbox();
        for case in cases.iter().filter(|case| !NATIVELY.contains(&case.name.as_str())) {
            let repo = format!("acme/{}", case.name);
            let bare = server(&rig, &repo, case);
            let body = record(case, &sandbox.address.to_string(), &repo);
            let (status, answer) = rig.gateway.call("POST", "/internal/containers", Some(&body));
            assert!(matches!(status, 200 | 201), "{answer}");
            let before = refs(&bare);
            let support::body::Body { bytes, trailer } = case.body();
            let written = support::written(&bytes).len();
            let http = if ran % 2 == 0 { Http::One } else { Http::Two };
            let answer = push(&sandbox, &repo, http, &bytes).await;
            let moved = refs(&bare) != before;
            let posts = rig.upstream.requests_with(&format!("/{repo}.git/git-receive-pack"));
            let arrived: u64 = posts.iter().map(|post| post.body_bytes).sum();
            let fits = match case.expect.verdict {
                Verdict::Allow => {
                    let taken = done(&bare, case, &bytes) != NOT_TAKEN.contains(&case.name.as_str());
                    answer.rule.is_none() && answer.status == 200 && arrived == written as u64 && taken
                }
                Verdict::Deny => {
                    let by_the_list = BY_THE_LIST.iter().any(|rule| case.expect.rule.as_deref() == Some(*rule));
                    let kept = trailer.is_none_or(|trailer| arrived as usize + bytes.len() <= trailer + written);
                    answer.rule == case.expect.rule && !moved && kept && (!by_the_list || posts.is_empty())
                }
            };
            if !fits {
                let seen = format!("{answer:?}, moved {moved}, {arrived} of {} bytes arrived", bytes.len());
                wrong.push(format!("{} {http:?}: expected {:?}, got {seen}", case.name, case.expect));
            }
            ran += 1;
        }
    }
    assert!(wrong.is_empty() && ran > 100, "{} wrong of {ran}:\n{}", wrong.len(), wrong.join("\n"));
}

/// A repository in the state of the case.
fn server(rig: &Rig, repo: &str, case: &Case) -> PathBuf {
    let bare = rig.upstream.create_repo(repo, Visibility::Private);
    git(&bare, &["update-ref", "-d", "refs/heads/main"]);
    git(&bare, &["config", "receive.advertisePushOptions", "true"]);
    let write = |kind: &str, bytes: &[u8]| {
        let file = bare.join("object");
        std::fs::write(&file, bytes).unwrap();
        git(&bare, &["hash-object", "-t", kind, "-w", "--literally", "object"]);
    };
    write("tree", b"");
    case.on_server().iter().for_each(|text| write("commit", text));
    for (name, object) in case.refs() {
        git(&bare, &["update-ref", &name, &object]);
    }
    bare
}

fn refs(bare: &Path) -> String {
    git(bare, &["for-each-ref", "--format=%(refname) %(objectname)"])
}

/// Whether each ref has the push's target.
fn done(bare: &Path, case: &Case, body: &[u8]) -> bool {
    let rules = Rules { branches: case.rules.clone(), ..Rules::default() };
    let mut push = push::Inspection::new(Rc::new(rules), case.container.clone());
    push.feed(body, u64::MAX);
    let are = refs(bare);
    push.updates().iter().all(|update| match update.new {
        Some(new) => are.lines().any(|line| line == format!("{} {new}", update.name)),
        None => !are.lines().any(|line| line.starts_with(&format!("{} ", update.name))),
    })
}

async fn push(sandbox: &Sandbox, repo: &str, http: Http, body: &[u8]) -> Answer {
    let mut stream = tls(sandbox, sandbox.address, "github.com", http).await.unwrap();
    let path = format!("/{repo}.git/git-receive-pack");
    match http {
        Http::One => {
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: github.com\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            raw::ask(&mut stream, &[head.as_bytes(), body].concat()).await.unwrap()
        }
        Http::Two => {
            let fields: [h2::Field<'_>; 5] = [
                (b":method", b"POST"),
                (b":scheme", b"https"),
                (b":authority", b"github.com"),
                (b":path", path.as_bytes()),
                (b"content-type", CONTENT_TYPE.as_bytes()),
            ];
            let request = h2::Request { fields: &fields, body, trailers: &[] };
            h2::ask(&mut stream, request).await.unwrap().answer()
        }
    }
}
