//! The GitHub part of the policy. The control plane checks it, and every Envoy worker holds a copy.

use super::Class;
use crate::branch::BranchRules;
use crate::push::PushRefusal;
use crate::{AuthMode, Container};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The rules for requests to GitHub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// The classes that a container in bot mode may use.
    pub bot: BTreeSet<Class>,
    /// The classes that a container in user mode may use.
    pub user: BTreeSet<Class>,
    /// Exceptions for single operations, for some or all containers. The first entry that lists an operation decides.
    pub operations: Vec<Exception>,
    /// Which branches may be moved, and how.
    pub branches: BranchRules,
    /// How a refused push is reported to the client.
    pub push_refusal: PushRefusal,
    /// Globs of paths that a bot may not write to.
    pub restricted_paths: Vec<String>,
    /// Commands to bots and agents. No line of a comment, an issue or a pull request may begin with one. Letter case is
    /// ignored.
    pub commands: Vec<String>,
    /// Labels that no container may set, because they trigger automations. Letter case is ignored.
    pub labels: Vec<String>,
    /// Logins that no container may assign or request as a reviewer, in addition to every `…[bot]`. Letter case is
    /// ignored.
    pub agents: Vec<String>,
    /// Regular expressions on the path, by method. A request that matches one is refused.
    pub blocked_api_patterns: BTreeMap<String, Vec<String>>,
}

/// Operations that are allowed or refused regardless of their class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    /// The exception applies only to containers with all of these labels. If this is empty, it applies to every
    /// container.
    pub labels: BTreeMap<String, String>,
    /// Allowed operations: REST operations by id (`pulls/merge`), mutations by name (`mergePullRequest`).
    pub allow: BTreeSet<String>,
    /// Refused operations. In one entry `deny` takes precedence over `allow`.
    pub deny: BTreeSet<String>,
}

/// How the policy lists an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// The operation is allowed by name, even if it is off by default.
    Allowed,
    /// The operation is refused by name.
    Denied,
    /// The operation is not listed: its class decides.
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

    /// How the exceptions for `container` list `operation`.
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
