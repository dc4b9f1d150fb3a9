//! Stage 4: decides whether a request gets a credential, which credential, and how it is injected.
//!
//! A credential is one [`entry::Entry`]: its containers, its host, its injections. `built_in` has the credentials that
//! need no configuration, `raw` reads the operator's, `source` fetches values. `decide` is the one pure function that
//! decides. `server` calls `decide` for Envoy's ext_authz. Only [`entry::Injection::fill`] exposes a value for a
//! request. Logins and Apps expose their secrets only to the code that renews them.
//!
//! `budget` limits the calls to GitHub's API with the gateway's credential, and `calls` shares it.
//!
//! **Invariant:** on a host that has an entry and that the policy names, no request passes without the gateway's
//! credential, and no request passes with the sandbox's own.

pub mod budget;
mod built_in;
pub mod calls;
pub mod decide;
mod entry;
pub mod foreign;
mod format;
mod guard;
mod oauth;
mod permits;
mod raw;
mod scope;
pub mod server;
mod source;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use hyper::header::{HeaderName, HeaderValue};
use jiff::Timestamp;
use policy::{Denial, Egress, HostName, HostPattern, HostRules, Rule};
use tokio::sync::watch;
use tokio::task::JoinSet;

use budget::Account;
use calls::Calls;
pub use entry::{Entry, Location};
pub use format::PLACEHOLDER;
use oauth::Login;
use oauth::endpoint::{Endpoint, RefreshError};
use oauth::refresh::{self, Outcome};
pub use oauth::refresh::{LIFETIME as REFRESH_LIFETIME, run as refresh_login};
use outbound::dns::Resolver;
use outbound::https;
use outbound::upstreams::Upstreams;
pub use raw::{Raw, raws, read};
pub use source::Subject;

/// The credentials that the gateway can inject, by host. The entries are fixed at start. Their values can change.
#[derive(Debug, Default)]
pub struct Credentials {
    entries: BTreeMap<HostPattern, Entry>,
    configured: OnceLock<Vec<HostPattern>>,
}

/// The credential for a request of the gateway's own.
#[derive(Debug)]
pub struct Own {
    /// The header with the value.
    pub header: (HeaderName, HeaderValue),
    /// The account at GitHub that pays for the request.
    pub account: Account,
}

impl Credentials {
    fn new(entries: BTreeMap<HostPattern, Entry>) -> Self {
        Self { entries, configured: OnceLock::new() }
    }

    /// Whether requests to the allowed `hosts` need the credential stage: one entry covers all of `hosts`. An entry for
    /// one name below an allowed suffix does not cover the suffix.
    pub fn concern(&self, hosts: &HostPattern) -> bool {
        self.entries.keys().any(|entry| within(entry, hosts))
    }

    /// The hosts whose credential had a value at the first call, which is at start. A command always counts as having a
    /// value, because the operator has configured the command on purpose.
    pub fn configured(&self) -> &[HostPattern] {
        self.configured
            .get_or_init(|| self.entries.values().filter(|entry| entry.has_value()).map(|e| e.host.clone()).collect())
    }

    /// The variables in which programs look for these credentials. In a sandbox, the variables hold [`PLACEHOLDER`].
    pub fn placeholders(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.entries.values().flat_map(Entry::placeholders).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The known problems of all sources, for the operator.
    pub fn problems(&self) -> Vec<String> {
        self.entries.values().flat_map(Entry::problems).collect()
    }

    /// For each credential's name, whether one of its sources has a known problem.
    pub fn failing(&self) -> BTreeMap<&str, bool> {
        self.entries.values().map(|entry| (entry.name.as_str(), entry.problems().next().is_some())).collect()
    }

    /// Gives GitHub Apps the client with which they request tokens from GitHub.
    pub fn reach_github(&self, github: &Arc<https::Client>) {
        let injections = self.entries.values().flat_map(|entry| &entry.injections);
        injections.filter_map(|injection| injection.source.as_app()).for_each(|app| app.reach(github));
    }

    /// A message for the operator about each credential without a value, on the hosts for which `wanted` returns true.
    pub fn without_value(&self, wanted: impl Fn(&HostPattern) -> bool) -> Vec<String> {
        let unset = |entry: &&Entry| wanted(&entry.host) && !entry.has_value();
        self.entries.values().filter(unset).map(|entry| entry.missing().reason).collect()
    }

    /// The credential for a request of the gateway's own to `host`. The value is for `subject`.
    ///
    /// # Errors
    /// If the host has no credential, or the credential has no value.
    pub async fn own_request(
        &self,
        host: &HostName,
        subject: Option<Subject<'_>>,
        calls: &Calls,
    ) -> Result<Own, Denial> {
        let none = || Denial::new(Rule::CredentialsHost, format!("{host} has no credential"));
        let (injection, value) = self.entry(host).ok_or_else(none)?.value(subject).await?;
        let Location::Header(name) = &injection.location else { return Err(none()) };
        let account = calls.account(injection, &value, subject);
        // Both are checked when the configuration is read, so these conversions do not fail.
        let name = HeaderName::try_from(name).map_err(|_| none())?;
        let mut value = HeaderValue::try_from(injection.fill(&value)).map_err(|_| none())?;
        value.set_sensitive(true);
        Ok(Own { header: (name, value), account })
    }

    /// Reports a provider's status 401 for a request to `host` that began at `began` with a credential of the gateway.
    pub fn rejected(&self, host: &str, began: Timestamp) {
        let entry = HostName::parse(host.as_bytes()).ok().and_then(|host| self.entry(&host));
        entry.into_iter().flat_map(Entry::logins).for_each(|login| login.rejected(began));
    }

    /// Refreshes the logins in `state_dir` until `stopped`, with one task for each login.
    ///
    /// # Errors
    /// If the CA certificates can't be read.
    pub fn keep_logins(
        &self,
        upstreams: &Upstreams,
        resolver: &Arc<Resolver>,
        state_dir: &Path,
        stopped: &watch::Receiver<bool>,
    ) -> anyhow::Result<JoinSet<()>> {
        let mut tasks = JoinSet::new();
        let mut kept: Vec<&Arc<Login>> = Vec::new();
        for login in self.entries.values().flat_map(Entry::logins) {
            // Two credentials may share a login.
            if kept.iter().any(|other| Arc::ptr_eq(other, login)) {
                continue;
            }
            kept.push(login);
            let endpoint = match login.refreshed_by() {
                Some((service, client)) => {
                    let endpoint = Endpoint::of(service, client.clone(), upstreams, Arc::clone(resolver))?;
                    Some(Arc::new(endpoint))
                }
                None => None,
            };
            let refresher: oauth::Refresher = Box::new(move |order| {
                let endpoint = endpoint.clone();
                Box::pin(async move {
                    match endpoint {
                        Some(endpoint) => refresh::apart(order, &endpoint).await,
                        None => Outcome::Refused(RefreshError::ForGood(
                            "the gateway knows no service that refreshes the login".into(),
                        )),
                    }
                })
            });
            tasks.spawn(Arc::clone(login).run(login.home(state_dir), refresher, stopped.clone()));
        }
        Ok(tasks)
    }

    /// The problems with the files of logins, for a command that does not refresh logins.
    pub fn logins_that_fail(&self) -> Vec<String> {
        let look = |entry: &Entry| {
            entry.logins().filter_map(|login| login.look()).map(|p| format!("{}: {p}", entry.name)).collect::<Vec<_>>()
        };
        self.entries.values().flat_map(look).collect()
    }

    /// Whether a request to `host` goes through the credential stage, when `egress` and `extra` are all lists of hosts
    /// in force. The gateway's route for a host is the one of the longest pattern on the lists.
    pub fn concern_host(&self, host: &HostName, egress: &Egress, extra: &[HostRules]) -> bool {
        let length = |pattern: &HostPattern| (matches!(pattern, HostPattern::Exact(_)), pattern.name().as_str().len());
        let own = extra.iter().filter(|rules| rules.lists(host)).map(|rules| rules.host.clone());
        own.chain(egress.by(host)).max_by_key(length).is_some_and(|route| self.concern(&route))
    }

    /// The credential for `host`.
    pub fn entry(&self, host: &HostName) -> Option<&Entry> {
        // No two entries are for the same host.
        self.entries.values().find(|entry| entry.host.covers(host))
    }
}

/// Whether `outer` covers every host that `inner` covers.
fn within(outer: &HostPattern, inner: &HostPattern) -> bool {
    outer == inner || (matches!(outer, HostPattern::Below(_)) && outer.covers(inner.name()))
}
