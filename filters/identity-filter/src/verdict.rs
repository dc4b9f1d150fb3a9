//! From a request's facts to an outcome and its audit note. The policy crate makes every decision, except refusals
//! because the gateway itself is not able to decide. Called by `worker`.

use crate::live::Right;
use crate::memory::Memory;
use crate::request::Facts;
use policy::{By, Container, Decided, Denial, HostName, Note, Policy, Request, Rule, Verdict};
use std::net::IpAddr;

/// The outcome for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The CONNECT tunnel is opened.
    Open(By),
    /// The request is forwarded to this host.
    Forward(HostName, By),
    /// The request is refused.
    Refuse(Denial),
}

/// An outcome, with the facts for its audit note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The outcome.
    pub outcome: Outcome,
    /// The id of the container at the source address, for the audit.
    container_id: Option<String>,
    /// The version of the policy that was applied, for the audit.
    policy_version: String,
    /// The record that permits the request, if it is forwarded.
    pub right: Option<Right>,
    /// The container's record as JSON, for the stages that judge requests to GitHub.
    pub record: Option<Vec<u8>>,
}

/// Judges a request of `container`, the container at the source address. `None` means that no container is registered
/// there.
pub fn on_request(
    facts: &Facts,
    sni: Option<&[u8]>,
    container: Option<&Container>,
    policy: &Policy,
    now: jiff::Timestamp,
) -> Judgement {
    let outcome = match &facts.authority {
        Some(authority) => {
            match policy::decide_request(
                container,
                Request { method: &facts.method, path: &facts.path, authority, sni },
                policy,
                now,
            ) {
                Ok((host, by)) => Outcome::Forward(host, by),
                Err(denial) => Outcome::Refuse(denial),
            }
        }
        None => Outcome::Refuse(no_authority()),
    };
    let right = container.filter(|_| matches!(outcome, Outcome::Forward(..))).map(Right::of);
    let id = container.map(|container| container.container_id.as_str());
    let to_github = matches!(&outcome, Outcome::Forward(host, _) if policy::github::kind(host).is_some());
    // Serializing a record cannot fail. If it did, the next stage would refuse the request, because it has no record.
    let record = container.filter(|_| to_github).map(|container| serde_json::to_vec(container).unwrap_or_default());
    Judgement { right, record, ..Judgement::new(outcome, id, &policy.version) }
}

/// Judges a CONNECT, by the place where it arrived and by its form.
pub fn on_connect(facts: &Facts, place: Place) -> Outcome {
    let verdict = match (place, &facts.authority) {
        (Place::Proxy, Some(authority)) => policy::decide_connect(authority),
        (Place::Proxy, None) => Verdict::Deny(no_authority()),
        (Place::Elsewhere, _) => Verdict::Deny(Denial::new(
            Rule::RequestNestedConnect,
            "CONNECT belongs on a connection to the proxy itself, not inside a tunnel",
        )),
    };
    match verdict {
        Verdict::Allow(by) => Outcome::Open(by),
        Verdict::Deny(denial) => Outcome::Refuse(denial),
    }
}

/// The place where a CONNECT arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The listener that sandboxes use as their proxy.
    Proxy,
    /// Inside a tunnel, or at a listener for other traffic.
    Elsewhere,
}

fn no_authority() -> Denial {
    Denial::new(Rule::RequestAuthority, "the request has to name its host exactly once")
}

/// The refusal of a request whose source address is unknown to Envoy.
pub fn no_source() -> Denial {
    Denial::new(Rule::IdentityUnknown, "the source address of the request is unknown")
}

/// A refusal because the gateway is not able to decide. The client may retry.
pub fn unavailable(reason: &str) -> Denial {
    Denial::new(Rule::IdentityUnavailable, reason)
}

impl Judgement {
    /// A judgement that was made without a lookup of the container at `source`.
    pub fn unsettled(outcome: Outcome, source: Option<IpAddr>, memory: &Memory) -> Self {
        Self::new(outcome, source.and_then(|source| memory.container_id(source)), memory.policy_version())
    }

    fn new(outcome: Outcome, container_id: Option<&str>, policy_version: &str) -> Self {
        let (container_id, policy_version) = (container_id.map(str::to_owned), policy_version.to_owned());
        Self { outcome, container_id, policy_version, right: None, record: None }
    }

    /// This judgement for a request that lost a part of its body: such a request is never forwarded.
    pub fn of_a_part(self) -> Self {
        let reason = "the body was too long to hold until your registration was known; try again";
        match self.outcome {
            Outcome::Refuse(_) => self,
            Outcome::Open(_) | Outcome::Forward(..) => {
                Self { outcome: Outcome::Refuse(unavailable(reason)), right: None, record: None, ..self }
            }
        }
    }

    /// The first note of the request, which later stages and the audit read.
    pub fn note(&self, request_id: &str) -> Note {
        let decided = match &self.outcome {
            Outcome::Open(by) | Outcome::Forward(_, by) => Decided::allowed(by.rule),
            Outcome::Refuse(denial) => denial.into(),
        };
        let (container_id, policy_version) = (self.container_id.clone(), self.policy_version.clone());
        Note { request_id: request_id.to_owned(), container_id, decided, policy_version, ..Note::default() }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use policy::{Access, Egress, HostPattern};

    const NOW: &str = "2026-12-01T00:00:00Z";

    fn facts(authority: Option<&str>) -> Facts {
        Facts {
            method: b"GET".to_vec(),
            authority: authority.map(|text| text.as_bytes().to_vec()),
            path: b"/".to_vec(),
            upgrade: false,
            request_id: "7".into(),
            stripped: vec![],
        }
    }

    fn judge(authority: Option<&str>, container: Option<&Container>) -> Judgement {
        let mut egress = Egress::default();
        egress.add(HostPattern::parse("github.com").unwrap(), Access::full());
        let policy = Policy {
            version: "p1".into(),
            egress,
            strip_foreign_credentials: true,
            github: policy::github::Rules::default(),
        };
        on_request(&facts(authority), Some(b"github.com"), container, &policy, NOW.parse().unwrap())
    }

    fn container() -> Container {
        serde_json::from_str(
            r#"{"container_ip":"172.18.0.5","container_id":"abc","repos":["o/r"],"expires_at":"2027-01-15T00:00:00Z"}"#,
        )
        .unwrap()
    }

    fn rule(outcome: Outcome) -> Rule {
        match outcome {
            Outcome::Open(by) | Outcome::Forward(_, by) => by.rule,
            Outcome::Refuse(denial) => denial.rule,
        }
    }

    #[test]
    fn an_allowed_request_goes_to_the_canonical_host() {
        let judgement = judge(Some("GitHub.com.:443"), Some(&container()));
        assert!(matches!(&judgement.outcome, Outcome::Forward(host, _) if host.as_str() == "github.com"));
        assert_eq!(
            String::from_utf8(judgement.note("7").to_bytes()).unwrap(),
            r#"{"request_id":"7","container_id":"abc","decided":{"stage":"identity","verdict":"allow","rule":"egress.host","reason":""},"policy_version":"p1"}"#
        );
    }

    #[test]
    fn a_refusal_is_audited_with_its_reason() {
        let judgement = judge(Some("github.com"), None);
        assert_eq!(
            String::from_utf8(judgement.note("7").to_bytes()).unwrap(),
            r#"{"request_id":"7","container_id":null,"decided":{"stage":"identity","verdict":"deny","rule":"identity.unknown","reason":"no container is registered at your address"},"policy_version":"p1"}"#
        );
        assert_eq!(rule(judgement.outcome), "identity.unknown");
    }

    #[test]
    fn a_request_without_one_authority_is_refused_whoever_sends_it() {
        assert_eq!(rule(judge(None, Some(&container())).outcome), "request.authority");
        assert_eq!(rule(on_connect(&facts(None), Place::Proxy)), "request.authority");
    }

    #[test]
    fn a_request_of_whose_body_a_part_was_dropped_never_passes_and_keeps_the_reason_that_it_has() {
        let cut = judge(Some("github.com"), Some(&container())).of_a_part();
        assert_eq!(
            (cut.right.is_some(), cut.record.is_some(), cut.container_id.as_deref()),
            (false, false, Some("abc"))
        );
        assert_eq!(rule(cut.outcome), "identity.unavailable");
        assert_eq!(rule(judge(Some("github.com"), None).of_a_part().outcome), "identity.unknown");
    }

    #[test]
    fn a_connect_is_opened_at_the_proxy_only() {
        assert_eq!(rule(on_connect(&facts(Some("github.com:443")), Place::Proxy)), "request.connect");
        assert_eq!(rule(on_connect(&facts(Some("github.com:22")), Place::Proxy)), "request.port");
        assert_eq!(rule(on_connect(&facts(Some("github.com:443")), Place::Elsewhere)), "request.nested-connect");
    }
}
