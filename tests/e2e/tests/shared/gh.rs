//! The real `gh` through the gateway: an agent's usual commands work, and a refusal names its reason.

use std::process::Command;
use test_support::upstream::Visibility;
use test_support::{Finished, Rig, Sandbox, skip};

const REPO: &str = "acme/app";

fn gh(sandbox: &Sandbox, program: &str, args: &[&str]) -> Finished {
    let mut command = sandbox.command(program);
    // gh caches some responses there for a day.
    command.env("TMPDIR", &sandbox.home);
    command.env("GH_NO_UPDATE_NOTIFIER", "1").env("NO_COLOR", "1").env("GH_PROMPT_DISABLED", "1").args(args);
    Finished::of(&mut command)
}

/// The machine's `gh` and a newer one. A missing one is reported as skipped.
fn programs() -> Vec<String> {
    let newer = std::env::var("NEWER_GH").unwrap_or_default();
    let there = |program: &&str| Command::new(program).arg("--version").output().is_ok();
    let (found, missing): (Vec<_>, Vec<_>) = ["gh", newer.as_str()].into_iter().partition(there);
    for program in missing {
        skip("gh", if program == "gh" { "gh is not installed" } else { "there is no newer gh than the machine's" });
    }
    found.into_iter().map(str::to_owned).collect()
}

/// A rig whose sandbox has its repository with GitHub's id, as a registration may have it.
fn rig() -> (Rig, Sandbox) {
    let rig = Rig::start();
    rig.upstream.create_repo(REPO, Visibility::Private);
    let sandbox = rig.sandbox();
    let record = serde_json::json!({
        "container_ip": sandbox.address, "container_id": "box",
        "repos": [{"name": REPO, "id": 23_096_959, "default_branch": "main"}], "allowed_branches": ["sandbox/*"],
    });
    assert_eq!(rig.gateway.call("POST", "/internal/containers", Some(&record)).0, 201);
    (rig, sandbox)
}

#[test]
fn what_an_agent_works_with_works() {
    for program in programs() {
        let (_rig, sandbox) = rig();
        works(&sandbox, &program);
    }
}

fn works(sandbox: &Sandbox, program: &str) {
    let mut wrong = Vec::new();
    for args in [
        &["auth", "status"][..],
        &["pr", "list", "-R", REPO],
        &["pr", "view", "7", "-R", REPO, "--json", "title,state,author,body,labels,reviews,comments,commits"],
        &["pr", "checks", "7", "-R", REPO],
        &["pr", "comment", "7", "-R", REPO, "--body", "a comment"],
        &["pr", "create", "-R", REPO, "--head", "sandbox/x", "--base", "main", "--title", "t", "--body", "b"],
        &["issue", "list", "-R", REPO],
        &["issue", "create", "-R", REPO, "--title", "t", "--body", "b"],
        &["issue", "comment", "5", "-R", REPO, "--body", "a comment"],
        &["repo", "view", REPO, "--json", "name,description,url"],
        &["repo", "clone", REPO, "cloned"],
        &["api", "repos/acme/app"],
        &["api", "repos/acme/app/pulls", "-X", "GET", "-f", "state=open"],
        &["api", "graphql", "-f", "query={viewer{login}}"],
    ] {
        let finished = gh(sandbox, program, args);
        if finished.code != Some(0) {
            wrong.push(format!("{program} {}: {finished:?}", args.join(" ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_refused_says_why() {
    for program in programs() {
        let (rig, sandbox) = rig();
        refused(&rig, &sandbox, &program);
    }
}

fn refused(rig: &Rig, sandbox: &Sandbox, program: &str) {
    std::fs::write(sandbox.home.join("key.pub"), "ssh-ed25519 AAAA a@b\n").unwrap();
    let mut wrong = Vec::new();
    for (args, doing) in [
        (&["pr", "merge", "7", "-R", REPO, "--merge"][..], "merging pull requests"),
        (&["pr", "merge", "7", "-R", REPO, "--squash"], "merging pull requests"),
        (&["pr", "merge", "7", "-R", REPO, "--merge", "--auto"], "merging pull requests"),
        (&["pr", "merge", "7", "-R", REPO, "--merge", "--admin"], "merging pull requests"),
        (&["release", "create", "v1", "-R", REPO, "--notes", "n"], "publishing releases"),
        (&["repo", "delete", REPO, "--yes"], "changing a repository's settings"),
        (&["repo", "edit", REPO, "--description", "d"], "changing a repository's settings"),
        (&["repo", "fork", REPO, "--clone=false"], "carrying content"),
        (&["secret", "set", "S", "-R", REPO, "--body", "x"], "reading a repository's settings"),
        (&["workflow", "run", "ci.yml", "-R", REPO], "running workflows"),
        // A newer gh first checks whether the key exists.
        (&["ssh-key", "add", "key.pub"], " organisations and accounts"),
        (&["gist", "create", "-f", "x", "/etc/hostname"], "carrying content"),
        (&["api", "-X", "PUT", "repos/acme/app/pulls/7/merge"], "merging pull requests"),
        (&["api", "repos/acme/other"], "not one of the repositories"),
    ] {
        let finished = gh(sandbox, program, args);
        let told = format!("{}{}", finished.stdout, finished.stderr);
        if finished.code == Some(0) || !told.contains(doing) {
            wrong.push(format!("{program} {}: {finished:?}", args.join(" ")));
        }
    }
    let written = rig.upstream.requests().into_iter().filter(|request| {
        !request.is_own() && !matches!(request.method.as_str(), "GET" | "HEAD") && request.path != "/graphql"
    });
    let written: Vec<_> = written.collect();
    assert!(written.is_empty(), "{written:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
