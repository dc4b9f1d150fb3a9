//! Pushes that git abandons, hash functions, slow and broken transfers, and other clients than git.

use super::{X, assert_push, rig, worktree};
use serde_json::json;
use std::process::Stdio;
use std::time::{Duration, Instant};
use test_support::process::{self, Signal};
use test_support::{Finished, Git, Sandbox, eventually, skip};

/// Pushes that git itself abandons after the first response: the script before, the push, git's output.
const GIVEN_UP: &[(&str, &str, &str)] = &[
    (
        "first; server config receive.certNonceSeed seed",
        "git push --signed=true origin sandbox/x",
        "the receiving end does not support --signed push",
    ),
    (
        "first; server config receive.advertisePushOptions true",
        "git push -o ci.skip origin sandbox/x",
        "the receiving end does not support push options",
    ),
    ("pushed; grow refs/heads/sandbox/x", "git push --force-with-lease origin sandbox/x", "(stale info)"),
    ("pushed; grow refs/heads/sandbox/x; change two", "git push origin sandbox/x", "! [rejected]"),
    ("first", "git push https://github.com/acme/theirs.git sandbox/x", "(rule github.repo)"),
];

#[test]
fn what_git_gives_up_is_clear_and_sends_nothing() {
    let sandbox = rig().sandbox();
    rig().upstream.create_repo("acme/theirs", test_support::upstream::Visibility::Private);
    for client in Git::all() {
        for (before, push, says) in GIVEN_UP {
            let place = worktree(&sandbox, &client, json!({}));
            place.sh(before).success();
            let (refs, requests) = (place.refs(), place.arrived(&rig().upstream).len());
            let pushed = place.sh(push);
            assert!(matches!(pushed.code, Some(1 | 128)), "{client:?}: {push}: {pushed:?}");
            assert!(pushed.stderr.contains(says), "{client:?}: {push}: {pushed:?}");
            assert_eq!(place.refs(), refs, "{client:?}: {push}");
            assert_eq!(place.arrived(&rig().upstream).len(), requests, "{client:?}: {push}");
        }
    }
    assert!(rig().upstream.requests_with("acme/theirs").is_empty());
}

#[test]
fn a_repository_of_sha256_is_refused_clearly() {
    let sandbox = rig().sandbox();
    for client in Git::all() {
        let place = worktree(&sandbox, &client, json!({}));
        let made = "rm -rf \"$BARE\" .git; command git init -q --bare --object-format=sha256 \"$BARE\"
            server config http.receivepack true; git init -q --object-format=sha256; git remote add origin \"$URL\"; first";
        place.sh(made).success();
        let pushed = place.sh("git push origin sandbox/x");
        assert_eq!(pushed.code, Some(128), "{client:?}: {pushed:?}");
        for text in ["(rule push.format)", "only sha1 can be pushed"] {
            assert!(pushed.stderr.contains(text), "{client:?}: {pushed:?}");
        }
        assert!(place.refs().is_empty(), "{client:?}");
        assert!(place.arrived(&rig().upstream).is_empty(), "{client:?}");
    }
}

/// Limits the rate of `sandbox`. Returns whether this machine supports it.
fn slow(sandbox: &Sandbox, rate: &str) -> bool {
    let filter = ["qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "32k", "latency", "1s"];
    let done = Finished::of(sandbox.command("tc").args(filter));
    if done.code != Some(0) {
        skip("slow and broken pushes", &format!("tc: {}", done.stderr.trim()));
    }
    done.code == Some(0)
}

#[test]
fn a_push_that_ends_in_the_middle_moves_nothing_and_the_next_one_passes() {
    let sandbox = rig().sandbox();
    let client = &Git::all()[0];
    // The second is decided only at its end; of the first all is known when it breaks, so that it may have landed.
    let [unread, undecided] = [("allow", "push.allowed"), ("deny", "push.unfinished")];
    for (before, rule) in [("first; huge", unread), ("pushed; git reset -q --hard main; huge", undecided)] {
        let place = worktree(&sandbox, client, json!({}));
        place.sh(before).success();
        let refs = place.refs();
        if !slow(&sandbox, "100mbit") {
            return;
        }
        let push = "exec \"$GIT\" push -qf origin sandbox/x";
        let mut child = place.command().arg(push).stderr(Stdio::null()).spawn().unwrap();
        let some = || place.arrived(&rig().upstream).iter().any(|post| post.body_bytes > 16 << 20).then_some(());
        // More than a second of it, in which GitHub has said where the ref is.
        eventually("a part of the push has arrived", Duration::from_secs(30), some);
        // `timeout` forwards the signal to all processes that it has started.
        process::signal(child.id(), Signal::TERM);
        assert!(!child.wait().unwrap().success());
        let line = place.audit_line(&rig().gateway, |line| line["bytes_up"].as_u64().unwrap() > 1 << 20);
        assert_eq!((&line["verdict"], &line["rule"]), (&rule.0.into(), &rule.1.into()), "{line}");
        place.settled();
        let new = place.revision("HEAD");
        assert!(place.refs() == refs && !place.objects().contains(&new), "{before}");
        assert_push(&place, "git checkout -qb sandbox/y main; change two; git push origin sandbox/y", 0, &[]);
        assert_eq!(place.refs()["refs/heads/sandbox/y"], place.revision("HEAD"));
    }
}

#[test]
fn a_slow_upload_passes() {
    let sandbox = rig().sandbox();
    for client in Git::all() {
        let place = worktree(&sandbox, &client, json!({}));
        place.sh("first; random 400000").success();
        if !slow(&sandbox, "1mbit") {
            return;
        }
        let start = Instant::now();
        assert_push(&place, "git push origin sandbox/x", 0, &[]);
        assert!(start.elapsed() > Duration::from_secs(2), "the push was not slow");
        assert_eq!(place.refs()[X], place.revision("HEAD"));
    }
}

const DULWICH: &str = "
import sys
from dulwich import porcelain
porcelain.push('.', sys.argv[1], 'refs/heads/sandbox/x', force=True)
";
const LIBGIT2: &str = "
import sys, pygit2
class Shown(pygit2.RemoteCallbacks):
    def sideband_progress(self, text):
        print(text)
    def push_update_reference(self, name, message):
        print(name, message)
remote = pygit2.Repository('.').remotes.create_anonymous(sys.argv[1])
remote.push(['+refs/heads/sandbox/x'], callbacks=Shown(), proxy=True)
";

#[test]
fn other_clients_than_git_push_and_are_told_why_not() {
    let python = std::env::var("GIT_CLIENTS").unwrap_or_default();
    if python.is_empty() {
        skip("pushes by dulwich and libgit2", "python3 with venv, or PyPI, can't be had");
        return;
    }
    let sandbox = rig().sandbox();
    for program in [DULWICH, LIBGIT2] {
        let place = worktree(&sandbox, &Git::all()[0], json!({}));
        let push = || {
            let mut command = sandbox.command(&python);
            let pushed = Finished::of(command.current_dir(&place.directory).args(["-c", program, &place.url()]));
            format!("{}{}", pushed.stdout, pushed.stderr)
        };
        for before in ["first", "change two"] {
            place.sh(before).success();
            let said = push();
            assert_eq!(place.refs().get(X), Some(&place.revision("HEAD")), "{said}");
        }
        place.sh("git commit -q --amend -m other").success();
        let (refs, objects) = (place.refs(), place.objects());
        let said = push();
        place.settled();
        assert_eq!((place.refs(), place.objects()), (refs, objects), "{said}");
        for text in ["push refused (rule push.force)", "is not a fast-forward"] {
            assert!(said.contains(text), "{said}");
        }
    }
}
