//! What a container may do.
//!
//! Pure: facts in, a [`Verdict`] out. No IO, no clock, no hostcall; it builds natively and for wasm32-wasip1, and
//! the filters, the CLI, the tests and the fuzzers all run this one code. It knows nothing of git's bytes and
//! nothing of Envoy.

mod branch;
mod container;
mod egress;
mod explain;
pub mod flow;
pub mod github;
pub mod glob;
mod host;
mod identity;
mod note;
pub mod push;
mod refname;
mod refusal;
mod rule;

pub use branch::{BranchDenial, BranchRules};
pub use container::{AuthMode, Container, InvalidRepo, Repo};
pub use egress::{Access, Egress, HostPattern};
pub use explain::{Ask, Explained, Onward, Whole, explain};
pub use host::{Authority, HostName, InvalidHost};
pub use identity::{CONNECT_PORTS, Request, decide_connect, decide_request};
pub use note::{Decided, Decision, Note, PushNote, Unreadable, UpdateNote};
pub use refname::{BranchGlob, InvalidGlob, branch_of, is_branch, is_refname};
pub use refusal::{Form, RULE_HEADER, Refusal, render};
pub use rule::{Effect, Reached, Rule};

use serde::{Deserialize, Serialize};

/// The rules in force, as the control plane has checked them and as every Envoy worker holds them.
///
/// There is no `Default`: without a policy everything is denied, see [`Policy::deny_all`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Names this policy in the audit: the first 12 hex digits of the hash of what it was made from.
    pub version: String,
    /// The hosts that may be reached, and how. Empty means none.
    pub egress: Egress,
    /// Credentials of the sandbox's own are removed on hosts for which the gateway has none: with somebody else's
    /// account a container could carry data out.
    pub strip_foreign_credentials: bool,
    /// What may be done on GitHub. Absent is nothing.
    #[serde(default = "github::Rules::deny_all")]
    pub github: github::Rules,
}

impl Policy {
    /// The policy in force when there is none: nothing may be reached.
    pub fn deny_all() -> Self {
        Self {
            version: "none".into(),
            egress: Egress::default(),
            strip_foreign_credentials: true,
            github: github::Rules::deny_all(),
        }
    }
}

/// The stage that decided, in the order of the chain; the audit's `stage` field.
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
    /// Who is speaking, and which hosts that container may reach.
    Identity,
    /// What a call of GitHub's API, or a request to another of GitHub's hosts, does.
    Github,
    /// Whether a credential may be added, and that no response tells it.
    Credentials,
    /// Which refs a push moves, and how.
    Push,
    /// Resolving and reaching the host.
    Upstream,
}

impl Stage {
    /// All stages, in the order of the chain.
    pub const ALL: [Self; 7] =
        [Self::Listener, Self::Request, Self::Identity, Self::Github, Self::Credentials, Self::Push, Self::Upstream];

    /// The stage's name as it stands in the audit.
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

/// A decision. Both sides carry the name of the rule that decided, so that no refusal is without a reason and no
/// permission without a rule that gave it.
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
    /// Where in the chain.
    pub stage: Stage,
    /// The rule; its name stands in the body, in `x-sallyport-rule` and in the audit.
    pub rule: Rule,
    /// The HTTP status of the answer.
    pub status: u16,
    /// One sentence for whoever reads the refusal, without a full stop.
    pub reason: String,
}

impl Denial {
    /// A refusal by `rule`, with the rule's own stage and status.
    pub fn new(rule: Rule, reason: impl Into<String>) -> Self {
        Self { stage: rule.stage(), rule, status: rule.status(), reason: reason.into() }
    }
}
