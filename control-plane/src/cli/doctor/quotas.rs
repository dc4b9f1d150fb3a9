//! The rest of GitHub's quotas, as the running gateway knows it.

use super::{Context, Finding};
use crate::quotas::{Most, Quota};

/// One finding for each quota. Returns no finding if no gateway runs.
pub fn quotas(context: &Context) -> Vec<Finding> {
    match &context.quotas {
        None => Vec::new(),
        Some(quotas) if quotas.iter().all(|quota| quota.remaining.is_none()) => {
            vec![Finding::ok("quota", "no answer of GitHub's has told a quota yet")]
        }
        Some(quotas) => quotas.iter().filter_map(judge).collect(),
    }
}

/// The finding about one quota. `None` if its state is unknown.
fn judge(quota: &Quota) -> Option<Finding> {
    let Quota { account, resource, limit, remaining, reset, shared, calls, most } = quota;
    let (limit, remaining, reset) = (limit.as_ref()?, remaining.as_ref()?, reset.as_ref()?);
    let most = most.as_ref().map(|Most { container_id, calls }| format!(", most of them ({calls}) for {container_id}"));
    let found = format!(
        "{account}, {resource}: {remaining} of {limit} left until {reset}; {calls} calls since the window began{}",
        most.unwrap_or_default()
    );
    Some(if *shared {
        let todo = "each container has only its share until then; a GitHub App has a quota for each owner (not for `public`, reads without a credential)";
        Finding::warn("quota", found, todo)
    } else {
        Finding::ok("quota", found)
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_quota_is_told_with_its_reset_and_its_user() {
        let quota = Quota {
            account: "token".into(),
            resource: "core".into(),
            limit: Some(5_000),
            remaining: Some(4_212),
            reset: Some("2026-12-01T12:31:00Z".parse().unwrap()),
            shared: false,
            calls: 788,
            most: Some(Most { container_id: "agent-7".into(), calls: 610 }),
        };
        let finding = judge(&quota).unwrap();
        assert_eq!(finding.state, State::Ok);
        assert_eq!(
            finding.found,
            "token, core: 4212 of 5000 left until 2026-12-01T12:31:00Z; 788 calls since the window began, most of them \
             (610) for agent-7"
        );
        assert_eq!(judge(&Quota { shared: true, ..quota.clone() }).unwrap().state, State::Warn);
        assert!(judge(&Quota { remaining: None, ..quota }).is_none());
    }
}
