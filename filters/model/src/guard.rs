//! The permissions of one credential for the bodies of its requests.

use crate::url;
use policy::{Denial, Egress, HostName, HostPattern, HostRules, Rule};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The name in `also` that permits every URL, every MCP server and every tool.
pub const REMOTE: &str = "remote-tools";
/// The name in `also` that permits every member that names stored state.
pub const STORED: &str = "stored";
/// The credential stage's word for a request that is not read.
pub const OFF: &str = "off";

/// The permissions of a credential. The credential stage writes it into the request's metadata as JSON, or [`OFF`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// The credential's name, for the reason of a refusal.
    pub credential: String,
    /// The names that the operator has switched on.
    pub also: BTreeSet<String>,
    /// The hosts that every container may reach.
    pub egress: Egress,
    /// The entries of the container's record.
    pub own: Vec<HostRules>,
    /// Hosts that no URL may name: with a credential.
    pub except: Vec<HostPattern>,
}

impl Guard {
    /// Whether nothing is left to read for.
    pub fn permits_all(&self) -> bool {
        self.remote() && self.also.contains(STORED)
    }

    /// Whether remote tools are permitted.
    pub(crate) fn remote(&self) -> bool {
        self.also.contains(REMOTE)
    }

    /// Whether stored state is permitted that also one of `names` permits.
    pub(crate) fn stored(&self, names: &[&str]) -> bool {
        self.also.contains(STORED) || names.iter().any(|name| self.also.contains(*name))
    }

    /// Judges the URL at the member `name`, of which `head` is the beginning and, if `whole`, all.
    ///
    /// # Errors
    /// If the container may not reach the host of the URL.
    pub(crate) fn url(&self, name: &str, head: &[u8], whole: bool) -> Result<(), Denial> {
        if self.remote() || head.starts_with(b"data:") {
            return Ok(());
        }
        let Some(host) = url::host(head, whole).and_then(|host| HostName::parse(host).ok()) else {
            let problem = format!("the member {name:?} has neither a data: URL nor a plain https:// URL with a path");
            return Err(self.remote_denial(&problem));
        };
        if self.reaches(&host) {
            return Ok(());
        }
        let problem = format!(
            "the member {name:?} lets the provider fetch from {host}, which is no host that the container may read everywhere without a credential"
        );
        Err(self.remote_denial(&problem))
    }

    /// Whether the container could GET each path of `host` itself, with no check of the path: at GitHub and on a host with a
    /// credential a later stage would check the path, too.
    fn reaches(&self, host: &HostName) -> bool {
        let listed = self.egress.reads_all(&self.own, host);
        listed && policy::github::kind(host).is_none() && !self.except.iter().any(|pattern| pattern.covers(host))
    }

    /// The refusal of a remote tool or a URL.
    pub(crate) fn remote_denial(&self, problem: &str) -> Denial {
        let Self { credential, .. } = self;
        let reason =
            format!("{problem}; the operator can permit it by `also: [{REMOTE}]` of the credential {credential}");
        Denial::new(Rule::CredentialsRemoteTool, reason)
    }

    /// The refusal of a member that names stored state, which each of `names` permits.
    pub(crate) fn stored_denial(&self, name: &str, names: &[&str]) -> Denial {
        let Self { credential, .. } = self;
        let names = [&[STORED], names].concat().join("] or [");
        let reason = format!(
            "{name:?} names state that is stored at the provider, where all containers share one account; the operator can \
             permit it by `also: [{names}]` of the credential {credential}"
        );
        Denial::new(Rule::CredentialsStored, reason)
    }
}

/// The refusal of a body that can't be read for certain.
pub(crate) fn unreadable(problem: impl Into<String>) -> Denial {
    Denial::new(Rule::CredentialsBody, problem)
}
