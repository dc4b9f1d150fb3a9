//! The one [`Budget`] of a gateway, which the credential stage and the gateway's own client of GitHub share, with the
//! clock and the counters.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base::quota::{Quoted, Resource};
use base::telemetry::{self, GithubCall};
use jiff::Timestamp;
use policy::Container;
use secrecy::{ExposeSecret, SecretString};

use super::budget::{Account, Budget, Call, HOURLY, Limit, Limited, Standing};
use super::entry::Injection;
use super::source::Subject;

/// The shared budget.
#[derive(Debug)]
pub struct Calls {
    budget: Mutex<Budget>,
    /// The key of [`Account::Token`].
    key: RandomState,
}

impl Default for Calls {
    fn default() -> Self {
        Self::new(HOURLY)
    }
}

impl Calls {
    /// A budget that allows `hourly` calls of the gateway for each container in an hour.
    pub fn new(hourly: u32) -> Self {
        Self { budget: Mutex::new(Budget::new(hourly)), key: RandomState::new() }
    }

    /// Counts a call to `target` at api.github.com for `container`, or refuses it.
    ///
    /// # Errors
    /// If a limit of the container refuses the call.
    pub fn admit(
        &self,
        container: &Container,
        account: &Account,
        target: &str,
        kind: GithubCall,
    ) -> Result<(), Limited> {
        let Some(resource) = Resource::of(target) else { return Ok(()) };
        let (address, id) = (container.container_ip, container.container_id.as_str());
        let call = Call { container: address, id, account, resource, own: kind != GithubCall::Sandbox };
        let admitted = self.budget().admit(call, now());
        match &admitted {
            Ok(()) => telemetry::github_call(kind),
            Err(limited) => {
                let why = match limited.limit {
                    Limit::Hour { .. } => "hour",
                    Limit::Share { .. } => "share",
                    Limit::Pause => "pause",
                };
                telemetry::github_refused(why);
                tracing::info!(%address, id, why, "a call to GitHub is refused");
            }
        }
        admitted
    }

    /// Takes the statements of GitHub's answer to a call with the credential of `account`, for the container at
    /// `container` if for any. Returns the limit by which GitHub has refused the call.
    pub fn heard(&self, account: &Account, container: Option<IpAddr>, quoted: Quoted) -> Option<Limited> {
        if quoted.is_empty() {
            return None;
        }
        self.budget().heard(account, container, quoted, now())
    }

    /// All known quotas.
    pub fn standings(&self) -> Vec<Standing> {
        self.budget().standings(now())
    }

    /// The account at GitHub that pays for a call for `subject` with `value`.
    pub(super) fn account(&self, injection: &Injection, value: &SecretString, subject: Option<Subject<'_>>) -> Account {
        let owner = subject.and_then(|Subject { container, repo }| repo.or(container.repos.first()));
        match (injection.source.as_app(), owner) {
            (Some(_), Some(repo)) => Account::Installation(repo.owner().to_ascii_lowercase()),
            _ => Account::Token(self.key.hash_one(value.expose_secret())),
        }
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or_default()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::entry::Location;
    use crate::format::Format;
    use crate::source::Source;

    #[test]
    fn the_account_of_a_token_is_that_token_and_tells_nothing_of_it() {
        let format = Format::parse("Bearer {}").unwrap();
        let source = Source::variables_of(vec!["OWN".into()], &format, &|_| None);
        let location = Location::Header("authorization".into());
        let injection = Injection { source, location, format, variables: Vec::new() };
        let calls = Calls::default();
        let of = |calls: &Calls, value: &str| calls.account(&injection, &value.into(), None);
        assert_eq!(of(&calls, "one"), of(&calls, "one"));
        assert_ne!(of(&calls, "one"), of(&calls, "two"));
        assert_ne!(of(&calls, "one"), of(&Calls::default(), "one"), "the hash is keyed");
    }

    #[test]
    fn a_quota_that_is_used_up_stops_the_next_call_but_not_the_one_that_reads_it() {
        let container: Container = serde_json::from_value(serde_json::json!({
            "container_ip": "10.0.0.1", "container_id": "a", "repos": [], "expires_at": "2100-01-01T00:00:00Z",
        }))
        .unwrap();
        let (calls, account) = (Calls::default(), Account::Token(7));
        let admit = |target: &str| calls.admit(&container, &account, target, GithubCall::Sandbox);
        admit("/repos/acme/app").unwrap();
        let reset = now() + 600;
        let reading = Some(base::quota::Reading { resource: Resource::Core, limit: 5_000, remaining: 0, reset });
        assert_eq!(calls.heard(&account, None, Quoted { reading, ..Quoted::default() }), None);
        let limited = admit("/repos/acme/app?page=2").unwrap_err();
        let denial = limited.denial(policy::Stage::Credentials);
        assert_eq!(
            (denial.rule.name(), denial.status, denial.stage),
            ("limit.github", 429, policy::Stage::Credentials)
        );
        assert!(denial.retry_after.is_some_and(|seconds| (590..=600).contains(&seconds)), "{denial:?}");
        admit("/rate_limit").unwrap();
        admit("/graphql").unwrap();
        assert_eq!(calls.standings().len(), 2, "core and graphql");
    }
}
