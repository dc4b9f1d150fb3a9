//! Shared code of the chain's tests: a policy, a container, a push, and a GitHub that confirms.

#![allow(dead_code, reason = "no test needs all of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

// The root of each test's crate has the module.
use crate::pack::{self, COMMIT, Pack};
use envoy_stand_in::{Call, Config, Reply, Request};
use policy::{Access, Container, Egress, HostPattern, Policy};
use registry_proto::{LookupResponse, github::ConfirmResponse, push::DescendsResponse, push::ReadRefsResponse};

/// The type of git's report on a push.
pub const PUSH_TYPE: &str = "application/x-git-receive-pack-result";

/// A host of model requests.
pub const MODEL: &str = "model.example";

pub fn container() -> Container {
    serde_json::from_value(serde_json::json!({
        "container_ip": "172.18.0.5", "container_id": "case", "repos": [{"name": "acme/app", "default_branch": "main"}], "auth_mode": "bot",
        "allowed_branches": ["sandbox/*"], "expires_at": "2027-01-15T00:00:00Z", "generation": 1,
    }))
    .unwrap()
}

pub fn policy() -> Policy {
    let mut egress = Egress::default();
    for host in ["github.com", "api.github.com", "files.example", MODEL] {
        egress.add(HostPattern::parse(host).unwrap(), Access::full());
    }
    Policy {
        version: "stand-in".into(),
        egress,
        strip_foreign_credentials: true,
        github: policy::github::Rules::default(),
    }
}

pub fn config() -> Config {
    Config {
        policy: policy(),
        containers: vec![container()],
        now: "2026-12-01T00:00:00Z".parse().unwrap(),
        snapshot: true,
    }
}

/// Confirms every question.
pub fn github(call: &Call) -> Reply {
    match call {
        Call::Lookup(_) => Reply::Lookup(LookupResponse { version: 1, record: None }),
        Call::Confirm(_) => Reply::Confirm(ConfirmResponse { confirmed: true, ..Default::default() }),
        Call::ReadRefs(_) => Reply::ReadRefs(ReadRefsResponse::default()),
        Call::Descends(asked) => {
            Reply::Descends(DescendsResponse { descends: vec![true; asked.descents.len()], ..Default::default() })
        }
    }
}

pub fn push_request() -> Request {
    Request::new("POST", "github.com", "/acme/app.git/git-receive-pack")
        .with("content-type", "application/x-git-receive-pack-request")
        .with("accept", "application/x-git-receive-pack-result")
}

fn line(text: &str) -> Vec<u8> {
    format!("{:04x}{text}", text.len() + 4).into_bytes()
}

/// A push of one commit to `name`, whose parent is where the branch is.
pub fn push_to(name: &str) -> Vec<u8> {
    let old = pack::name("commit", &pack::commit(&[], "old"));
    let new = pack::commit(&[old], "new");
    let mut pack = Pack::new(2, 1);
    pack.object(COMMIT, &new);
    let (old, new) = (pack::hex(&old), pack::hex(&pack::name("commit", &new)));
    let list = line(&format!("{old} {new} {name}\0 report-status side-band-64k object-format=sha1 agent=git/2.47.3"));
    [list, b"0000".to_vec(), pack.finish()].concat()
}

/// A fast-forward of the container's own branch.
pub fn body_of_a_push() -> Vec<u8> {
    push_to("refs/heads/sandbox/work")
}

/// The report of git's server on that push.
pub fn report() -> Vec<u8> {
    [line("unpack ok\n"), line("ok refs/heads/sandbox/work\n"), b"0000".to_vec()].concat()
}
