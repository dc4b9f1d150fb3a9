//! The GitHub part of the policy. The control plane checks it, and every Envoy worker holds a copy.

use super::{Class, words};
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
    /// The push options (`git push -o`) that pass. The gateway offers push options to clients only if there are some.
    pub push_options: BTreeSet<String>,
    /// How long a push may take, from its headers to the end of its body, in seconds.
    pub push_time: u64,
    /// Globs of paths that a bot may not write to.
    pub restricted_paths: Vec<String>,
    /// Commands to bots and agents, which no comment, issue or pull request may contain: `@name` anywhere, any other
    /// text at the beginning of a line. Here and in the next four, `*` stands for any text, and letter case is ignored.
    pub commands: Vec<String>,
    /// Labels that no container may set, because they trigger automations. Unused if `allowed_labels` is given.
    pub denied_labels: Vec<String>,
    /// The only labels that a container may set. With `None` a container may set each label that is not denied.
    pub allowed_labels: Option<Vec<String>>,
    /// Labels that no container may remove, rename, change or delete, because they hold automations back.
    pub held_labels: Vec<String>,
    /// Logins that no container may assign or request as a reviewer, in addition to every `…[bot]`.
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
            push_options: BTreeSet::new(),
            push_time: 15 * 60,
            restricted_paths: texts(&[".github/workflows/**", ".github/actions/**"]),
            commands: texts(&[
                "@copilot",
                "@dependabot",
                "@mergifyio",
                "@claude",
                "@codex",
                "@cursor",
                "@cursoragent",
                "@gemini-cli",
                "@jules",
                "@openhands",
                "/merge",
                "/approve",
                "/lgtm",
                "/deploy",
                "/ok-to-test",
                "/oc",
                "/opencode",
                ".deploy",
                "bors r+",
                "bors merge",
                "[x] <!-- *",
            ]),
            denied_labels: texts(&[
                "auto*merge*",
                "merge",
                "merge-queue",
                "merge-when-*",
                "ready*to*merge",
                "deploy",
                "deploy-*",
                "deploy:*",
                "lgtm",
                "approved",
                "safe*to*test",
                "ok*to*test",
                "claude",
                "codex",
                "copilot",
            ]),
            allowed_labels: None,
            held_labels: Vec::new(),
            agents: texts(&["copilot", "copilot-*", "claude", "codex", "*-code-agent", "cursoragent", "jules"]),
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

    /// Checks whether the label `name` may be set.
    ///
    /// # Errors
    /// If it may not; the error is the reason.
    pub fn label(&self, name: &str) -> Result<(), String> {
        match &self.allowed_labels {
            Some(allowed) if words::label(allowed, name).is_none() => {
                Err(format!("the label {name:?} is not one of the labels that the policy allows"))
            }
            None if words::label(&self.denied_labels, name).is_some() => {
                Err(format!("the label {name:?} triggers an automation"))
            }
            _ => Ok(()),
        }
    }

    /// Checks whether the label `name` may be removed, renamed, changed or deleted.
    ///
    /// # Errors
    /// If it may not; the error is the reason.
    pub fn drop_label(&self, name: &str) -> Result<(), String> {
        match words::label(&self.held_labels, name) {
            None => Ok(()),
            Some(_) => Err(format!("the label {name:?} holds automations back, so it may not be removed or changed")),
        }
    }

    /// Checks whether all labels of an object may be removed or replaced at once.
    ///
    /// # Errors
    /// If it may not; the error is the reason.
    pub fn all_labels(&self) -> Result<(), String> {
        if self.held_labels.is_empty() {
            return Ok(());
        }
        Err("all labels at once may not be replaced, because the policy has held labels; add or remove single labels"
            .into())
    }

    /// Checks whether `login` may be assigned or requested as a reviewer. Agents and bots start work when they are.
    ///
    /// # Errors
    /// If it may not; the error is the reason.
    pub fn login(&self, login: &str) -> Result<(), String> {
        if words::is_agent(&self.agents, login) {
            return Err(format!("{login} is an agent or a bot, and would start to work"));
        }
        Ok(())
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
