//! Stage 4: may a credential be added to this request, which one, and how?
//!
//! A credential is one [`entry::Entry`]: who may use it, where it may go, how it is put in. `built_in` has the ones
//! that need no configuration, `raw` reads the operator's, `source` finds their values. `decide` is the one pure
//! function that says who, where and how; `server` is Envoy's ext_authz around it. The one place where a value is taken
//! out of its wrapper to go into a request is [`entry::Injection::fill`]; logins and Apps show theirs to whoever renews them.
//!
//! **Invariant:** on a host that has an entry and that the policy names, no request passes without a credential, and
//! none with the sandbox's own.

mod built_in;
pub mod decide;
mod endpoint;
mod entry;
pub mod foreign;
mod format;
mod oauth;
mod raw;
mod scope;
pub mod server;
mod source;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use hyper::header::{HeaderName, HeaderValue};
use jiff::Timestamp;
use policy::{Denial, Egress, HostName, HostPattern, Rule};
use tokio::sync::watch;
use tokio::task::JoinSet;

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

/// What the gateway can add, by host. Which entries there are is known at start; their values come and go.
#[derive(Debug, Default)]
pub struct Credentials {
    entries: BTreeMap<HostPattern, Entry>,
    configured: OnceLock<Vec<HostPattern>>,
}

impl Credentials {
    fn new(entries: BTreeMap<HostPattern, Entry>) -> Self {
        Self { entries, configured: OnceLock::new() }
    }

    /// Whether requests to what an operator allows as `hosts` go through the credential stage at all: one credential is
    /// for all of them. A suffix on the list is concerned by no entry for one name below it.
    pub fn concern(&self, hosts: &HostPattern) -> bool {
        self.entries.keys().any(|entry| within(entry, hosts))
    }

    /// The hosts for which there was a value when this was first called, which is at start. A command is taken to
    /// have one: whoever has written it down means it.
    pub fn configured(&self) -> &[HostPattern] {
        self.configured
            .get_or_init(|| self.entries.values().filter(|entry| entry.has_value()).map(|e| e.host.clone()).collect())
    }

    /// The variables in which programs look for these credentials; in a sandbox they hold [`PLACEHOLDER`].
    pub fn placeholders(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.entries.values().flat_map(Entry::placeholders).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// What is wrong with the sources, as far as it is known, for the operator.
    pub fn problems(&self) -> Vec<String> {
        self.entries.values().flat_map(Entry::problems).collect()
    }

    /// Whether the source of each is known to fail, by its name.
    pub fn failing(&self) -> BTreeMap<&str, bool> {
        self.entries.values().map(|entry| (entry.name.as_str(), entry.problems().next().is_some())).collect()
    }

    /// Gives GitHub Apps the client by which they ask GitHub for their tokens.
    pub fn reach_github(&self, github: &Arc<https::Client>) {
        let injections = self.entries.values().flat_map(|entry| &entry.injections);
        injections.filter_map(|injection| injection.source.as_app()).for_each(|app| app.reach(github));
    }

    /// What an operator is told of each credential that has no value now, for the hosts that are `wanted`.
    pub fn without_value(&self, wanted: impl Fn(&HostPattern) -> bool) -> Vec<String> {
        let unset = |entry: &&Entry| wanted(&entry.host) && !entry.has_value();
        self.entries.values().filter(unset).map(|entry| entry.missing().reason).collect()
    }

    /// The header by which a request of the gateway's own to `host` has its credential, made for `subject`.
    ///
    /// # Errors
    /// There is none for that host, or no value.
    pub async fn own_request(
        &self,
        host: &HostName,
        subject: Option<Subject<'_>>,
    ) -> Result<(HeaderName, HeaderValue), Denial> {
        let none = || Denial::new(Rule::CredentialsHost, format!("{host} has no credential"));
        let (injection, value) = self.entry(host).ok_or_else(none)?.value(subject).await?;
        let Location::Header(name) = &injection.location else { return Err(none()) };
        // Both are checked when they are read.
        let name = HeaderName::try_from(name).map_err(|_| none())?;
        let mut value = HeaderValue::try_from(injection.fill(&value)).map_err(|_| none())?;
        value.set_sensitive(true);
        Ok((name, value))
    }

    /// A provider has answered 401 to a request to `host` that began at `began` and had a credential of ours.
    pub fn rejected(&self, host: &str, began: Timestamp) {
        let entry = HostName::parse(host.as_bytes()).ok().and_then(|host| self.entry(&host));
        entry.into_iter().flat_map(Entry::logins).for_each(|login| login.rejected(began));
    }

    /// Keeps the logins fresh until `stopped`, in `state_dir`: one task for each.
    ///
    /// # Errors
    /// The roots cannot be read.
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
            // Two credentials may have the same.
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
                        None => Outcome::Refused(RefreshError::ForGood("nobody refreshes it".into())),
                    }
                })
            });
            tasks.spawn(Arc::clone(login).run(login.home(state_dir), refresher, stopped.clone()));
        }
        Ok(tasks)
    }

    /// What is wrong with the files of logins, for a command that does not keep them.
    pub fn logins_that_fail(&self) -> Vec<String> {
        let look = |entry: &Entry| {
            entry.logins().filter_map(|login| login.look()).map(|p| format!("{}: {p}", entry.name)).collect::<Vec<_>>()
        };
        self.entries.values().flat_map(look).collect()
    }

    /// Whether a request to `host` goes through the credential stage, when `egress` and `extra` are all lists of hosts
    /// in force. The gateway's route for a host is the one of the longest pattern on the lists.
    pub fn concern_host(&self, host: &HostName, egress: &Egress, extra: &[HostPattern]) -> bool {
        let length = |pattern: &HostPattern| (matches!(pattern, HostPattern::Exact(_)), pattern.name().as_str().len());
        let own = extra.iter().filter(|pattern| pattern.covers(host)).cloned();
        own.chain(egress.by(host)).max_by_key(length).is_some_and(|route| self.concern(&route))
    }

    /// The credential for `host`.
    pub fn entry(&self, host: &HostName) -> Option<&Entry> {
        // No two entries are for the same host.
        self.entries.values().find(|entry| entry.host.covers(host))
    }
}

/// Whether all that `inner` covers is covered by `outer`.
fn within(outer: &HostPattern, inner: &HostPattern) -> bool {
    outer == inner || (matches!(outer, HostPattern::Below(_)) && outer.covers(inner.name()))
}
