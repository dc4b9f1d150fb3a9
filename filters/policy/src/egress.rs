//! The egress allow list: exact host names and suffixes, each with the methods that pass.

use crate::{By, Denial, HostName, InvalidHost, Rule, Verdict};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The egress allow list. If it is empty, no host may be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// Hosts by their exact name.
    exact: BTreeMap<HostName, Access>,
    /// Suffixes. Each covers every name with at least one more label in front of it, and never the suffix itself.
    below: BTreeMap<HostName, Access>,
}

/// How a host may be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// The methods that pass. `None` means every method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<BTreeSet<String>>,
    /// A cleartext request is forwarded in cleartext, for a mirror that has no TLS.
    #[serde(default)]
    pub cleartext: bool,
}

impl Access {
    /// Every method, over TLS.
    pub const FULL: Access = Access { methods: None, cleartext: false };

    /// The union of both.
    fn join(self, other: Access) -> Access {
        let methods = match (self.methods, other.methods) {
            (Some(one), Some(two)) => Some(one.into_iter().chain(two).collect()),
            _ => None,
        };
        Access { methods, cleartext: self.cleartext || other.cleartext }
    }

    /// Whether a request with `method` passes. Methods are compared byte for byte.
    pub fn allows(&self, method: &[u8]) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.iter().any(|allowed| allowed.as_bytes() == method))
    }
}

/// A host pattern as an operator writes it: a host name, or a suffix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostPattern {
    /// `api.example.com`.
    Exact(HostName),
    /// `*.example.com`: every name with at least one label in front of the suffix.
    Below(HostName),
}

impl HostPattern {
    /// Parses a host name, or `*.` followed by a host name.
    ///
    /// # Errors
    /// If the text is anything else, a lone `*` or a `*` in another place included.
    pub fn parse(text: &str) -> Result<Self, InvalidHost> {
        if text.contains('/') {
            return Err(InvalidHost::Url);
        }
        let is_port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if text.split_once(':').is_some_and(|(_, port)| is_port(port)) {
            return Err(InvalidHost::WithPort);
        }
        match text.strip_prefix("*.") {
            Some(suffix) => HostName::parse(suffix.as_bytes()).map(Self::Below),
            None => HostName::parse(text.as_bytes()).map(Self::Exact),
        }
    }

    /// The host name, or the suffix without its `*.`.
    pub fn name(&self) -> &HostName {
        match self {
            Self::Exact(name) | Self::Below(name) => name,
        }
    }

    /// Whether the pattern covers `host`.
    pub fn covers(&self, host: &HostName) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Below(suffix) => host.parents().any(|parent| parent == suffix.as_str()),
        }
    }
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Below(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = InvalidHost;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}

impl Egress {
    /// Adds an entry. Several entries with the same pattern are joined: together they allow what any of them allows.
    pub fn add(&mut self, pattern: HostPattern, access: Access) {
        let (entries, name) = match pattern {
            HostPattern::Exact(name) => (&mut self.exact, name),
            HostPattern::Below(suffix) => (&mut self.below, suffix),
        };
        let joined = match entries.remove(&name) {
            Some(before) => before.join(access),
            None => access,
        };
        entries.insert(name, joined);
    }

    /// The access for `host`: from the entry with its exact name, otherwise from the longest suffix that covers it.
    pub fn access(&self, host: &HostName) -> Option<&Access> {
        self.exact.get(host).or_else(|| host.parents().find_map(|parent| self.below.get(parent)))
    }

    /// The pattern of the entry that [`Egress::access`] uses for `host`.
    pub fn by(&self, host: &HostName) -> Option<HostPattern> {
        let below =
            |parent: &str| self.below.get_key_value(parent).map(|(suffix, _)| HostPattern::Below(suffix.clone()));
        let exact = self.exact.get_key_value(host).map(|(name, _)| HostPattern::Exact(name.clone()));
        exact.or_else(|| host.parents().find_map(below))
    }

    /// Whether an entry names `host` itself.
    pub fn names_exactly(&self, host: &HostName) -> bool {
        self.exact.contains_key(host)
    }

    /// All entries. The control plane makes Envoy's routes from these.
    pub fn entries(&self) -> impl Iterator<Item = (HostPattern, &Access)> {
        let exact = self.exact.iter().map(|(name, access)| (HostPattern::Exact(name.clone()), access));
        let below = self.below.iter().map(|(suffix, access)| (HostPattern::Below(suffix.clone()), access));
        exact.chain(below)
    }

    /// Judges a request by its host and method.
    pub fn decide(&self, host: &HostName, method: &[u8]) -> Verdict {
        let Some(access) = self.access(host) else {
            let reason = format!("{host} is not one of the allowed hosts");
            return Verdict::Deny(Denial::new(Rule::EgressHost, reason));
        };
        if !access.allows(method) {
            let allowed: Vec<&str> = access.methods.iter().flatten().map(String::as_str).collect();
            let reason = format!("only {} requests may be sent to {host}", allowed.join(" and "));
            return Verdict::Deny(Denial::new(Rule::EgressMethod, reason));
        }
        Verdict::Allow(By { rule: Rule::EgressHost })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn host(name: &str) -> HostName {
        HostName::parse(name.as_bytes()).unwrap()
    }

    fn egress(entries: &[(&str, Option<&[&str]>)]) -> Egress {
        let mut egress = Egress::default();
        for (pattern, methods) in entries {
            let methods = methods.map(|methods| methods.iter().map(|m| (*m).to_owned()).collect());
            egress.add(HostPattern::parse(pattern).unwrap(), Access { methods, cleartext: false });
        }
        egress
    }

    #[test]
    fn a_suffix_covers_what_is_below_it_and_nothing_else() {
        let egress = egress(&[("*.example.com", None)]);
        for name in ["a.example.com", "b.a.example.com", "A.EXAMPLE.com."] {
            assert!(egress.access(&host(name)).is_some(), "{name}");
        }
        for name in ["example.com", "evilexample.com", "example.com.evil.test", "a.example.org"] {
            assert!(egress.access(&host(name)).is_none(), "{name}");
        }
    }

    #[test]
    fn the_exact_name_counts_before_a_suffix_and_the_longer_suffix_before_the_shorter() {
        let egress = egress(&[
            ("*.example.com", None),
            ("*.a.example.com", Some(&["GET"])),
            ("x.a.example.com", Some(&["PUT"])),
        ]);
        assert!(egress.access(&host("y.a.example.com")).unwrap().allows(b"GET"));
        assert!(!egress.access(&host("y.a.example.com")).unwrap().allows(b"POST"));
        assert!(!egress.access(&host("x.a.example.com")).unwrap().allows(b"GET"));
        assert!(egress.access(&host("b.example.com")).unwrap().allows(b"POST"));
    }

    #[test]
    fn entries_for_one_host_add_up_and_methods_are_compared_exactly() {
        let egress = egress(&[("a.test.example", Some(&["GET", "HEAD"])), ("a.test.example", Some(&["POST"]))]);
        let access = egress.access(&host("a.test.example")).unwrap();
        assert!(access.allows(b"GET") && access.allows(b"POST"));
        assert!(!access.allows(b"get") && !access.allows(b"PUT"));
        assert!(
            matches!(egress.decide(&host("a.test.example"), b"PUT"), Verdict::Deny(denial) if denial.rule == "egress.method")
        );
        assert!(
            matches!(egress.decide(&host("b.test.example"), b"GET"), Verdict::Deny(denial) if denial.rule == "egress.host")
        );
    }

    #[test]
    fn a_star_stands_in_front_or_nowhere() {
        for text in ["*", "*.", "a.*.com", "*a.com", "*.com", "**.a.com", "*.*.com", "*.localhost", "*.0.0.1"] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
        assert_eq!(HostPattern::parse("*.Example.COM").unwrap().to_string(), "*.example.com");
    }
}
