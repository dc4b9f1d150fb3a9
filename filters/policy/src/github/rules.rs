//! The policy's part about GitHub, as it is checked by the control plane and held by every worker.

use super::Class;
use crate::push::PushRefusal;
use crate::refname::BranchRules;
use crate::{AuthMode, Container};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What containers may do on GitHub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// The classes that a bot's container may use.
    pub bot: BTreeSet<Class>,
    /// The classes that a user's container may use.
    pub user: BTreeSet<Class>,
    /// Single operations beside the classes, for some or all containers. The first entry that names one decides.
    pub operations: Vec<Exception>,
    /// Which branches may be moved, and how.
    pub branches: BranchRules,
    /// How a refused push is told.
    pub push_refusal: PushRefusal,
    /// Globs of paths that a bot may not write to.
    pub restricted_paths: Vec<String>,
    /// What no line of a comment, an issue or a pull request may begin with, without regard to letter case: orders to
    /// bots and agents.
    pub commands: Vec<String>,
    /// Labels that nobody may set, without regard to letter case: orders to automations.
    pub labels: Vec<String>,
    /// Logins that nobody may assign or ask for a review, without regard to letter case; every `…[bot]` is one.
    pub agents: Vec<String>,
    /// More requests that are refused, as regular expressions on the path, by method.
    pub blocked_api_patterns: BTreeMap<String, Vec<String>>,
}

/// Operations that are allowed or refused whatever their class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    /// Only for containers that have all of these labels. Empty is for all.
    pub labels: BTreeMap<String, String>,
    /// REST operations by their id (`pulls/merge`), mutations by their name (`mergePullRequest`).
    pub allow: BTreeSet<String>,
    /// The same, refused. Wins over `allow` in the same entry.
    pub deny: BTreeSet<String>,
}

/// What the policy says of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// It is allowed by name, what is off by default included.
    Allowed,
    /// It is refused by name.
    Denied,
    /// Its class decides.
    No,
}

impl Default for Rules {
    fn default() -> Self {
        let classes = BTreeSet::from([
            Class::ReadRepo,
            Class::ReadGlobal,
            Class::WriteCollab,
            Class::WriteObject,
            Class::WriteRef,
        ]);
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Self {
            bot: classes.clone(),
            user: classes,
            operations: Vec::new(),
            branches: BranchRules::default(),
            push_refusal: PushRefusal::default(),
            restricted_paths: texts(&[".github/workflows/**", ".github/actions/**"]),
            commands: texts(&[
                "@copilot",
                "@dependabot",
                "@mergifyio",
                "@claude",
                "@codex",
                "/merge",
                "/approve",
                "/lgtm",
                "/deploy",
                "bors r+",
            ]),
            labels: texts(&["automerge", "auto-merge", "merge", "deploy", "ready-to-merge"]),
            agents: texts(&["copilot", "copilot-swe-agent", "claude", "codex"]),
            blocked_api_patterns: BTreeMap::new(),
        }
    }
}

impl Rules {
    /// Nothing is allowed.
    pub fn deny_all() -> Self {
        Self { bot: BTreeSet::new(), user: BTreeSet::new(), ..Self::default() }
    }

    /// Whether `container` may use `class`.
    pub fn allows(&self, container: &Container, class: Class) -> bool {
        match container.auth_mode {
            AuthMode::Bot => self.bot.contains(&class),
            AuthMode::User => self.user.contains(&class),
        }
    }

    /// What is said of `operation` by name.
    pub fn listed(&self, container: &Container, operation: &str) -> Listed {
        let concerns = |exception: &&Exception| {
            exception.labels.iter().all(|(key, value)| container.labels.get(key) == Some(value))
        };
        for exception in self.operations.iter().filter(concerns) {
            if exception.deny.contains(operation) {
                return Listed::Denied;
            }
            if exception.allow.contains(operation) {
                return Listed::Allowed;
            }
        }
        Listed::No
    }
}
