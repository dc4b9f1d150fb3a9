//! GitHub's quota: containers share what is left of it, are told when it comes back, and the operator sees it.

use serde_json::{Value, json};
use std::time::Duration;
use test_support::upstream::{Visibility, graphql};
use test_support::{Curled, Finished, Rig, Sandbox, eventually};

const WITHIN: Duration = Duration::from_secs(10);
const REPO: &str = "acme/app";

fn read(sandbox: &Sandbox) -> Curled {
    sandbox.curl(&["https://api.github.com/repos/acme/app"])
}

/// How many of at most `most` reads pass, one after the other. A read that is refused has the rule of the quota.
fn passed(sandbox: &Sandbox, most: usize) -> usize {
    let refused = |curled: &Curled| (curled.status, curled.rule()) == (429, Some("limit.github".into()));
    let reads = (0..most).map(|_| read(sandbox));
    reads.filter(|curled| !refused(curled)).inspect(|curled| assert_eq!(curled.status, 200, "{curled:?}")).count()
}

fn quotas(rig: &Rig) -> Vec<Value> {
    let (status, body) = rig.gateway.call("GET", "/internal/github", None);
    assert_eq!(status, 200);
    serde_json::from_str(&body).unwrap()
}

#[test]
fn a_flooder_of_the_api_leaves_its_neighbour_a_share_of_the_quota() {
    let rig = Rig::start();
    rig.upstream.create_repo(REPO, Visibility::Private);
    let (flooder, neighbour) = (rig.registered(&[REPO]), rig.registered(&[REPO]));
    // Without headers of GitHub's there is no limit.
    assert_eq!((passed(&flooder, 3), passed(&neighbour, 1)), (3, 1));
    assert_eq!(quotas(&rig).iter().map(|quota| &quota["remaining"]).collect::<Vec<_>>(), [&Value::Null]);
    rig.upstream.set_quota("core", 100, 20);
    assert_eq!(passed(&neighbour, 1), 1);
    // Envoy's log tells the gateway what GitHub has told the sandbox.
    eventually("the shares begin", WITHIN, || quotas(&rig).iter().any(|quota| quota["shared"] == true).then_some(()));
    let before = rig.upstream.requests_with("api.github.com").len();
    let flooded = passed(&flooder, 30);
    // 19 calls are left for the flooder, its neighbour, and a container that has not asked yet.
    assert!((6..=7).contains(&flooded), "{flooded}");
    assert_eq!(rig.upstream.requests_with("api.github.com").len() - before, flooded, "a refused call goes nowhere");
    let own = passed(&neighbour, 30);
    assert!((6..=7).contains(&own), "{own}");
    let newcomer = rig.registered(&[REPO]);
    assert!(passed(&newcomer, 1) == 1);

    let refused = flooder.curl(&["-i", "https://api.github.com/repos/acme/app"]).body;
    for told in
        ["retry-after: 3", "x-sallyport-rule: limit.github", "of 100 calls", "has used its share", "\"message\""]
    {
        assert!(refused.contains(told), "{told}: {refused}");
    }
    let line = rig.gateway.audit_line("the refusal", |line| line["rule"] == "limit.github");
    assert_eq!((&line["stage"], &line["status"]), (&json!("credentials"), &json!(429)), "{line}");
    // The quota itself can always be read.
    assert_eq!(flooder.curl(&["https://api.github.com/rate_limit"]).status, 200);

    let metrics = rig.gateway.call("GET", "/metrics", None).1;
    let value = |name: &str| {
        let found = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        found.unwrap_or_else(|| panic!("{name}\n{metrics}"))
    };
    assert_eq!(value(r#"sallyport_github_quota_limit{account="token",resource="core"}"#), 100.0);
    assert!(value(r#"sallyport_github_quota_remaining{account="token",resource="core"}"#) < 20.0);
    assert!(value(r#"sallyport_github_calls_refused_total{why="share"}"#) >= 40.0);
    assert!(value(r#"sallyport_github_calls_total{kind="sandbox"}"#) >= 18.0);
    let doctor = Finished::of(&mut rig.gateway.operator(&["doctor"])).stdout;
    let told = doctor.lines().find(|line| line.contains("token, core: ")).unwrap_or_else(|| panic!("{doctor}"));
    assert!(told.starts_with("warn  quota") && told.contains(" of 100 left until 20"), "{told}");
    let most = test_support::gateway::container_id(flooder.address);
    assert!(told.contains(&format!("for {most}")), "{told}");
}

#[test]
fn a_push_and_a_write_without_quota_are_told_so_and_when_to_try_again() {
    let rig = Rig::start();
    let sandbox = rig.sandbox();
    rig.upstream.create_repo(REPO, Visibility::Private);
    let record = json!({
        "container_ip": sandbox.address, "container_id": "box", "allowed_branches": ["sandbox/*"],
        "repos": [{"name": REPO, "id": graphql::REPO_ID, "default_branch": "main"}],
    });
    assert_eq!(rig.gateway.call("POST", "/internal/containers", Some(&record)).0, 201);
    let directory = &sandbox.home;
    sandbox.git(directory, &["clone", "--quiet", "https://github.com/acme/app", "app"]).success();
    let work = directory.join("app");
    let push = |branch: &str| sandbox.git(&work, &["push", "origin", &format!("HEAD:refs/heads/sandbox/{branch}")]);
    rig.upstream.set_quota("graphql", 100, 1);
    push("one").success();
    assert_eq!(rig.upstream.refs_read(REPO), 1, "the last call");
    let refused = push("two");
    assert_ne!(refused.code, Some(0));
    for told in ["rule limit.github", "0 of 100 calls", "(graphql)", "try again then"] {
        assert!(refused.stderr.contains(told), "{told}: {refused:?}");
    }
    let query = "mutation($i:AddCommentInput!){addComment(input:$i){clientMutationId}}";
    let input = json!({"subjectId": graphql::PULL_REQUEST, "body": "a comment"});
    let body = json!({"query": query, "variables": {"i": input}}).to_string();
    let json = "content-type: application/json";
    let written = sandbox.curl(&["-i", "-H", json, "-d", &body, "https://api.github.com/graphql"]).body;
    for told in [" 429", "retry-after: 3", "x-sallyport-rule: limit.github", "\"stage\":\"github\""] {
        assert!(written.contains(told), "{told}: {written}");
    }
    assert_eq!(rig.upstream.refs_read(REPO), 1);
    let graphql = rig.upstream.requests_with("api.github.com/graphql");
    assert_eq!(graphql.len(), 1, "no call goes to GitHub without quota: {graphql:?}");
    // Another quota is not concerned.
    assert_eq!(read(&sandbox).status, 200);
}
