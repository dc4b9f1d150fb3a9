//! The policy: decides whether a container may send a request.
//!
//! Pure: facts in, a [`Verdict`] out. No IO, no clock, no hostcall. The crate builds natively and for wasm32-wasip1.
//! The filters, the CLI, the tests and the fuzzers all run this code. The crate parses no git data and does not depend
//! on Envoy.

mod branch;
mod connections;
mod container;
mod egress;
pub mod endpoint;
mod explain;
pub mod flow;
pub mod github;
pub mod glob;
mod host;
mod host_pattern;
mod host_rules;
mod identity;
pub mod mark;
mod new_name;
mod note;
pub mod push;
mod refname;
mod refusal;
mod rule;
mod rules_in_force;
pub mod spelling;

pub use branch::{BranchDenial, BranchRules, Existing};
pub use connections::ConnectionLimits;
pub use container::{AuthMode, Container, InvalidRepo, Repo};
pub use egress::{Access, Egress};
pub use explain::{Ask, Explained, Onward, Whole, explain};
pub use host::{Authority, HostName, InvalidHost};
pub use host_pattern::HostPattern;
pub use host_rules::{Given, HostRules, InvalidRules};
pub use identity::{CONNECT_PORTS, Request, decide_connect, decide_request};
pub use new_name::{Characters, InvalidCharacter, OddName};
pub use note::{Decided, Decision, Note, PushNote, Unreadable, UpdateNote};
pub use refname::{BranchGlob, InvalidGlob, branch_of, is_branch, is_refname};
pub use refusal::{Form, RULE_HEADER, Refusal, render};
pub use rule::{Effect, Reached, Rule};
pub use rules_in_force::{InForce, RulesInForce};

use serde::{Deserialize, Serialize};

/// The rules in force. The control plane checks them, and every Envoy worker has a copy.
///
/// There is no `Default`: without a policy everything is denied, see [`Policy::deny_all`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The policy's name in the audit: the first 12 hex digits of the hash of the policy's source.
    pub version: String,
    /// The allowed hosts, each with its access. An empty list allows no host.
    pub egress: Egress,
    /// Whether to remove the sandbox's own credentials on hosts for which the gateway has no credential. With another
    /// account, a container could carry data out.
    pub strip_foreign_credentials: bool,
    /// The rules for GitHub. If they are absent, nothing on GitHub is allowed.
    #[serde(default = "github::Rules::deny_all")]
    pub github: github::Rules,
}

/// The headers in which sandboxes may send their own credentials, for any provider. See
/// [`Policy::strip_foreign_credentials`].
pub const CREDENTIAL_HEADERS: [&str; 6] =
    ["authorization", "cookie", "x-api-key", "x-goog-api-key", "api-key", "private-token"];

impl Policy {
    /// The policy in force if no policy is configured. It allows no host.
    pub fn deny_all() -> Self {
        Self {
            version: "none".into(),
            egress: Egress::default(),
            strip_foreign_credentials: true,
            github: github::Rules::deny_all(),
        }
    }
}

/// The stage that decided, in the order of the chain. The audit's `stage` field.
///
/// The filters of the chain run in the order identity, github, credentials, scrub, push. `Credentials` is two of them:
/// ext_authz adds the credential, and the scrub filter keeps it out of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Envoy, before any stage.
    Listener,
    /// The identity filter, by the request's form alone.
    Request,
    /// The identity filter: the container that sends the request, and the hosts that it may reach.
    Identity,
    /// The github filter: the effect of a call to GitHub's API, or of a request to another of GitHub's hosts.
    Github,
    /// The credential check, which adds a credential, and the scrub filter, which keeps it out of the response.
    Credentials,
    /// The push filter: the refs that a push moves, and how.
    Push,
    /// Envoy's router: the resolution of the host, and the connection to it.
    Upstream,
}

impl Stage {
    /// All stages, in the order of the chain.
    pub const ALL: [Self; 7] =
        [Self::Listener, Self::Request, Self::Identity, Self::Github, Self::Credentials, Self::Push, Self::Upstream];

    /// The stage's name in the audit.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Listener => "listener",
            Stage::Request => "request",
            Stage::Identity => "identity",
            Stage::Github => "github",
            Stage::Credentials => "credentials",
            Stage::Push => "push",
            Stage::Upstream => "upstream",
        }
    }
}

/// A decision. Both variants name the rule that decided: every refusal has a reason, and every permission a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// The request may go on to the next stage.
    Allow(By),
    /// The request ends here.
    Deny(Denial),
}

/// The rule that allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct By {
    /// For example `egress.host`.
    pub rule: Rule,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The stage that refused.
    pub stage: Stage,
    /// The rule. Its name is in the body, in `x-sallyport-rule` and in the audit.
    pub rule: Rule,
    /// The HTTP status of the response.
    pub status: u16,
    /// One sentence for the reader of the refusal, without a full stop.
    pub reason: String,
    /// Seconds until a retry may succeed, for `retry-after`. `None` if the response has no such header.
    pub retry_after: Option<u32>,
}

impl Denial {
    /// A refusal by `rule`, with the rule's own stage and status.
    pub fn new(rule: Rule, reason: impl Into<String>) -> Self {
        Self { stage: rule.stage(), rule, status: rule.status(), reason: reason.into(), retry_after: None }
    }

    /// A refusal by `limit.github` in `stage`: a retry may succeed after `retry_after` seconds.
    pub fn limited(stage: Stage, reason: impl Into<String>, retry_after: u32) -> Self {
        Self { stage, retry_after: Some(retry_after), ..Self::new(Rule::LimitGithub, reason) }
    }
}
