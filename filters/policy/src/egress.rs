//! The egress allow list: exact host names and suffixes, each with the requests that pass, and the requests that are
//! refused whatever allows them.

use crate::endpoint::Endpoint;
use crate::{By, Denial, HostName, HostPattern, HostRules, Rule, Verdict, spelling};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The most bytes of a path in the reason of a refusal.
const SHOWN: usize = 256;

/// The egress allow list. If it is empty, no host may be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// How each host may be reached. The closest pattern decides.
    allow: ByHost<Access>,
    /// The requests that are refused. Each pattern that covers the host counts.
    #[serde(default)]
    deny: ByHost<Vec<Endpoint>>,
}

/// Values by host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ByHost<T> {
    /// Hosts by their exact name.
    exact: BTreeMap<HostName, T>,
    /// Suffixes. Each covers every name with at least one more label in front of it, and never the suffix itself.
    below: BTreeMap<HostName, T>,
}

impl<T> Default for ByHost<T> {
    fn default() -> Self {
        Self { exact: BTreeMap::new(), below: BTreeMap::new() }
    }
}

impl<T> ByHost<T> {
    /// The map with `pattern`, and its key there.
    fn of(&mut self, pattern: HostPattern) -> (&mut BTreeMap<HostName, T>, HostName) {
        match pattern {
            HostPattern::Exact(name) => (&mut self.exact, name),
            HostPattern::Below(suffix) => (&mut self.below, suffix),
        }
    }

    /// The values whose patterns cover `host`, the closest first.
    fn covering<'a>(&'a self, host: &HostName) -> impl Iterator<Item = &'a T> {
        self.exact.get(host).into_iter().chain(host.parents().filter_map(|parent| self.below.get(parent)))
    }
}

/// How a host may be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// The requests that pass. Empty means none.
    pub allow: Vec<Endpoint>,
    /// A cleartext request is forwarded in cleartext, for a mirror that has no TLS.
    #[serde(default)]
    pub cleartext: bool,
}

impl Access {
    /// Every request, over TLS.
    pub fn full() -> Self {
        Self { allow: vec![Endpoint::everything(None)], cleartext: false }
    }

    /// The union of both.
    fn join(mut self, other: Access) -> Access {
        for rule in other.allow {
            if !self.allow.contains(&rule) {
                self.allow.push(rule);
            }
        }
        Access { cleartext: self.cleartext || other.cleartext, ..self }
    }

    /// Whether a request with `method` to `path`, without a query, passes.
    pub fn allows(&self, method: &[u8], path: &[u8]) -> bool {
        self.allow.iter().any(|rule| rule.allows(method, path))
    }
}

impl Egress {
    /// Adds an entry. Several entries with the same pattern are joined: together they allow what any of them allows.
    pub fn add(&mut self, pattern: HostPattern, access: Access) {
        let (entries, name) = self.allow.of(pattern);
        let joined = match entries.remove(&name) {
            Some(before) => before.join(access),
            None => access,
        };
        entries.insert(name, joined);
    }

    /// Adds requests that are refused on every host that `pattern` covers, whatever allows them.
    pub fn refuse(&mut self, pattern: HostPattern, rules: Vec<Endpoint>) {
        if !rules.is_empty() {
            let (entries, name) = self.deny.of(pattern);
            entries.entry(name).or_default().extend(rules);
        }
    }

    /// The access for `host`: from the entry with its exact name, otherwise from the longest suffix that covers it.
    pub fn access(&self, host: &HostName) -> Option<&Access> {
        self.allow.covering(host).next()
    }

    /// The pattern of the entry that [`Egress::access`] uses for `host`.
    pub fn by(&self, host: &HostName) -> Option<HostPattern> {
        let below =
            |parent: &str| self.allow.below.get_key_value(parent).map(|(suffix, _)| HostPattern::Below(suffix.clone()));
        let exact = self.allow.exact.get_key_value(host).map(|(name, _)| HostPattern::Exact(name.clone()));
        exact.or_else(|| host.parents().find_map(below))
    }

    /// Whether an entry names `host` itself.
    pub fn names_exactly(&self, host: &HostName) -> bool {
        self.allow.exact.contains_key(host)
    }

    /// All entries. The control plane makes Envoy's routes from these.
    pub fn entries(&self) -> impl Iterator<Item = (HostPattern, &Access)> {
        let exact = self.allow.exact.iter().map(|(name, access)| (HostPattern::Exact(name.clone()), access));
        let below = self.allow.below.iter().map(|(suffix, access)| (HostPattern::Below(suffix.clone()), access));
        exact.chain(below)
    }

    /// Checks that a request to `host` may pass at all. `own` are the entries of the container's record.
    ///
    /// # Errors
    /// If neither the policy nor the record lists the host.
    pub fn listed(&self, own: &[HostRules], host: &HostName) -> Result<(), Denial> {
        if self.access(host).is_some() || own.iter().any(|rules| rules.lists(host)) {
            return Ok(());
        }
        let mut reason = format!("{host} is not one of the allowed hosts");
        if self.denials(own, host).next().is_some() {
            reason.push_str("; an entry with deny alone allows nothing");
        }
        Err(Denial::new(Rule::EgressHost, reason))
    }

    /// Judges a request with `method` to `path` of `host`, without a query. `own` are the entries of the container's record.
    /// They add to those of the policy. A rule that refuses comes before every rule that allows.
    pub fn decide(&self, own: &[HostRules], host: &HostName, method: &[u8], path: &[u8]) -> Verdict {
        if let Err(denial) = self.listed(own, host) {
            return Verdict::Deny(denial);
        }
        let by_record = || own.iter().filter(|rules| rules.host.covers(host)).flat_map(|rules| &rules.allow);
        let by_policy = || self.access(host).into_iter().flat_map(|access| &access.allow);
        let looks = |rule: &Endpoint| !rule.is_everywhere();
        let paths_allowed = by_record().chain(by_policy()).any(looks);
        if (paths_allowed || self.denials(own, host).any(looks))
            && let Err(ambiguous) = spelling::check(path)
        {
            let reason = format!("{ambiguous} ({host} has rules on paths)");
            return Verdict::Deny(Denial::new(Rule::EgressPath, reason));
        }
        if let Some(rule) = self.denials(own, host).find(|rule| rule.denies(method, path)) {
            let reason = format!("{} is refused at {host} by the rule \"{rule}\" under deny", shown(method, path));
            return Verdict::Deny(Denial::new(Rule::EgressPath, reason));
        }
        let allows = |rule: &Endpoint| rule.allows(method, path);
        if by_record().any(allows) {
            Verdict::Allow(By { rule: Rule::EgressContainer })
        } else if by_policy().any(allows) {
            Verdict::Allow(By { rule: Rule::EgressHost })
        } else if paths_allowed {
            let offered = offered(method, path);
            let reason = format!("{} is not one of the requests that are allowed at {host}", shown(method, path));
            Verdict::Deny(Denial::new(Rule::EgressPath, reason + &offered))
        } else {
            let methods: BTreeSet<&String> =
                by_record().chain(by_policy()).filter_map(Endpoint::methods).flatten().collect();
            let methods: Vec<&str> = methods.into_iter().map(String::as_str).collect();
            let reason = format!("only {} requests may be sent to {host}", methods.join(" and "));
            Verdict::Deny(Denial::new(Rule::EgressMethod, reason))
        }
    }

    /// Whether a GET of every path of `host` passes.
    pub fn reads_all(&self, own: &[HostRules], host: &HostName) -> bool {
        let by_record = own.iter().filter(|rules| rules.host.covers(host)).flat_map(|rules| &rules.allow);
        let by_policy = self.access(host).into_iter().flat_map(|access| &access.allow);
        by_record.chain(by_policy).any(|rule| rule.is_everywhere() && rule.allows(b"GET", b"/"))
            && !self.denials(own, host).any(|rule| rule.names(b"GET"))
    }

    /// The rules that refuse requests to `host`, of every entry that covers it.
    fn denials<'a>(&'a self, own: &'a [HostRules], host: &'a HostName) -> impl Iterator<Item = &'a Endpoint> {
        let by_record = own.iter().filter(|rules| rules.host.covers(host)).flat_map(|rules| &rules.deny);
        by_record.chain(self.deny.covering(host).flatten())
    }
}

/// A request, for a reason.
fn shown(method: &[u8], path: &[u8]) -> String {
    let cut = if path.len() > SHOWN { "…" } else { "" };
    let path = path.get(..SHOWN).unwrap_or(path);
    format!("{} {}{cut}", String::from_utf8_lossy(method), String::from_utf8_lossy(path))
}

/// The rule that would allow a request, for its refusal. Empty if a rule can't allow this request alone.
fn offered(method: &[u8], path: &[u8]) -> String {
    let rule = format!("{} {}", String::from_utf8_lossy(method), String::from_utf8_lossy(path));
    match Endpoint::parse(&rule, None) {
        Ok(_) if !path.contains(&b'*') => format!("; {rule:?} under allow would allow it"),
        _ => String::new(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::Given;

    fn host(name: &str) -> HostName {
        HostName::parse(name.as_bytes()).unwrap()
    }

    fn rules(texts: &[&str]) -> Vec<Endpoint> {
        texts.iter().map(|text| Endpoint::parse(text, None).unwrap()).collect()
    }

    /// Entries with the rules that allow and those that refuse.
    fn egress(entries: &[(&str, &[&str], &[&str])]) -> Egress {
        let mut egress = Egress::default();
        for (pattern, allow, deny) in entries {
            let pattern = HostPattern::parse(pattern).unwrap();
            if !allow.is_empty() {
                egress.add(pattern.clone(), Access { allow: rules(allow), cleartext: false });
            }
            egress.refuse(pattern, rules(deny));
        }
        egress
    }

    fn own(host: &str, allow: &[&str], deny: &[&str]) -> HostRules {
        let texts = |texts: &[&str]| (!texts.is_empty()).then(|| texts.iter().map(|text| (*text).to_owned()).collect());
        let given = Given { allow: texts(allow), deny: texts(deny), methods: None };
        HostRules::new(HostPattern::parse(host).unwrap(), &given).unwrap()
    }

    /// The rule and the reason for `request`, a method and a URL without its scheme.
    fn decide(egress: &Egress, own: &[HostRules], request: &str) -> (&'static str, String) {
        let (method, url) = request.split_once(' ').unwrap();
        let (name, path) = url.split_at(url.find('/').unwrap());
        match egress.decide(own, &host(name), method.as_bytes(), path.as_bytes()) {
            Verdict::Allow(by) => (by.rule.name(), String::new()),
            Verdict::Deny(denial) => (denial.rule.name(), denial.reason),
        }
    }

    fn rule(egress: &Egress, own: &[HostRules], request: &str) -> &'static str {
        decide(egress, own, request).0
    }

    #[test]
    fn a_suffix_covers_what_is_below_it_and_nothing_else() {
        let egress = egress(&[("*.example.com", &["/**"], &[])]);
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
            ("*.example.com", &["/**"], &[]),
            ("*.a.example.com", &["GET /**"], &[]),
            ("x.a.example.com", &["PUT /**"], &[]),
        ]);
        assert_eq!(rule(&egress, &[], "GET y.a.example.com/"), "egress.host");
        assert_eq!(rule(&egress, &[], "POST y.a.example.com/"), "egress.method");
        assert_eq!(rule(&egress, &[], "GET x.a.example.com/"), "egress.method");
        assert_eq!(rule(&egress, &[], "POST b.example.com/"), "egress.host");
    }

    #[test]
    fn entries_for_one_host_add_up_and_methods_are_compared_exactly() {
        let egress = egress(&[("a.test.example", &["GET|HEAD /**"], &[]), ("a.test.example", &["POST /**"], &[])]);
        for method in ["GET", "HEAD", "POST"] {
            // No rule looks at the path, so that every path passes.
            for path in ["/", "//a/../%2e%2e;x"] {
                assert_eq!(rule(&egress, &[], &format!("{method} a.test.example{path}")), "egress.host");
            }
        }
        for method in ["get", "PUT"] {
            let (rule, reason) = decide(&egress, &[], &format!("{method} a.test.example/"));
            let expected = "only GET and HEAD and POST requests may be sent to a.test.example";
            assert_eq!((rule, reason.as_str()), ("egress.method", expected));
        }
        assert_eq!(rule(&egress, &[], "GET b.test.example/"), "egress.host");
    }

    #[test]
    fn a_host_with_rules_on_paths_takes_the_requests_of_its_rules() {
        let egress =
            egress(&[("slack.com", &["POST /api/chat.postMessage", "GET /api/users.*"], &["/api/users.admin*"])]);
        for request in ["POST slack.com/api/chat.postMessage", "GET slack.com/api/users.list"] {
            assert_eq!(rule(&egress, &[], request), "egress.host", "{request}");
        }
        for (request, reason) in [
            (
                "POST slack.com/api/chat.delete",
                "POST /api/chat.delete is not one of the requests that are allowed at slack.com; \"POST /api/chat.delete\" under allow would allow it",
            ),
            (
                "GET slack.com/api/users.adminList",
                "GET /api/users.adminList is refused at slack.com by the rule \"/api/users.admin*\" under deny",
            ),
            (
                "GET slack.com/api/users.Admin",
                "GET /api/users.Admin is refused at slack.com by the rule \"/api/users.admin*\" under deny",
            ),
            (
                "GET slack.com/api/users%2elist",
                "the path has %2E, which is another spelling of '.'; write '.' (slack.com has rules on paths)",
            ),
            ("PURGE slack.com/x", "PURGE /x is not one of the requests that are allowed at slack.com"),
            ("GET slack.com/api/*", "GET /api/* is not one of the requests that are allowed at slack.com"),
        ] {
            assert_eq!(decide(&egress, &[], request), ("egress.path", reason.to_owned()), "{request}");
        }
        let long = format!("POST slack.com/{}", "a".repeat(300));
        let (rule, reason) = decide(&egress, &[], &long);
        assert_eq!(rule, "egress.path");
        assert!(reason.contains("aaa… is not") && !reason.contains("would"), "{reason}");
    }

    #[test]
    fn one_rule_on_a_path_makes_every_path_of_its_host_count() {
        let odd = "GET a.test.example//x";
        let everything: &[&str] = &["/**"];
        assert_eq!(rule(&egress(&[("a.test.example", everything, &[])]), &[], odd), "egress.host");
        assert_eq!(rule(&egress(&[("a.test.example", everything, &["DELETE /**"])]), &[], odd), "egress.host");
        for entries in [
            &[("a.test.example", &["/**", "POST /b"][..], &[][..])][..],
            &[("a.test.example", everything, &["/b"])],
            &[("a.test.example", everything, &[]), ("*.test.example", &[], &["/b"])],
        ] {
            assert_eq!(rule(&egress(entries), &[], odd), "egress.path", "{entries:?}");
        }
        let listed = egress(&[("a.test.example", everything, &[])]);
        for own in [own("a.test.example", &["/b"], &[]), own("*.test.example", &[], &["/b"])] {
            assert_eq!(rule(&listed, &[own], odd), "egress.path");
        }
    }

    #[test]
    fn a_denial_holds_over_every_allow() {
        let denied = "DELETE a.test.example/x";
        for entries in [
            &[("a.test.example", &["/**"][..], &["DELETE /**"][..])][..],
            &[("a.test.example", &["/**"], &[]), ("a.test.example", &[], &["DELETE /x"])],
            &[("a.test.example", &["DELETE /x"], &[]), ("*.test.example", &["GET /**"], &["DELETE /**"])],
            &[("*.test.example", &["/**"], &[]), ("a.test.example", &[], &["/x"])],
        ] {
            let egress = egress(entries);
            let all = [own("a.test.example", &["/**"], &[])];
            assert_eq!(rule(&egress, &[], denied), "egress.path", "{entries:?}");
            assert_eq!(rule(&egress, &all, denied), "egress.path", "a record can't lift it: {entries:?}");
            let by_record = rule(&egress, &all, "POST a.test.example/y");
            assert_eq!(by_record, "egress.container", "{entries:?}");
        }
        let open = egress(&[("*.test.example", &["/**"], &[])]);
        let narrowed = [own("a.test.example", &[], &["DELETE /**"])];
        assert_eq!(rule(&open, &narrowed, denied), "egress.path");
        assert_eq!(rule(&open, &narrowed, "GET a.test.example/x"), "egress.host");
        assert_eq!(rule(&open, &narrowed, "DELETE b.test.example/x"), "egress.host");
    }

    #[test]
    fn an_entry_with_deny_alone_allows_nothing() {
        let (none, request) = (Egress::default(), "GET a.test.example/y");
        let expected = "a.test.example is not one of the allowed hosts; an entry with deny alone allows nothing";
        for (egress, own) in
            [(&egress(&[("a.test.example", &[], &["/x"])]), &[][..]), (&none, &[own("a.test.example", &[], &["/x"])])]
        {
            assert_eq!(decide(egress, own, request), ("egress.host", expected.to_owned()));
        }
    }

    #[test]
    fn the_rules_of_a_record_add_to_those_of_the_policy() {
        let egress = egress(&[("a.test.example", &["GET /x"], &[])]);
        let own = [own("*.test.example", &["POST /x"], &[]), own("a.test.example", &["PUT /x"], &[])];
        for (request, expected) in [
            ("GET a.test.example/x", "egress.host"),
            ("POST a.test.example/x", "egress.container"),
            ("PUT a.test.example/x", "egress.container"),
            ("PATCH a.test.example/x", "egress.path"),
            ("POST b.test.example/x", "egress.container"),
            ("GET b.test.example/x", "egress.path"),
        ] {
            assert_eq!(rule(&egress, &own, request), expected, "{request}");
        }
    }

    #[test]
    fn all_paths_are_read_where_no_rule_looks_at_one() {
        let reads = |egress: &Egress, own: &[HostRules]| egress.reads_all(own, &host("a.test.example"));
        let open = egress(&[("a.test.example", &["GET /**"], &[])]);
        assert!(reads(&open, &[]));
        assert!(reads(&egress(&[("a.test.example", &["/x", "/**"], &["PUT /x"])]), &[]));
        assert!(!reads(&open, &[own("*.test.example", &[], &["/x"])]));
        for (allow, deny) in [(&["GET /x/**"][..], &[][..]), (&["POST /**"], &[]), (&["/**"], &["GET /x"]), (&[], &[])]
        {
            assert!(!reads(&egress(&[("a.test.example", allow, deny)]), &[]), "{allow:?} {deny:?}");
        }
        assert!(reads(&Egress::default(), &[own("a.test.example", &["/**"], &[])]));
    }

    #[test]
    fn a_list_is_written_and_read_as_it_was() {
        let egress = egress(&[("slack.com", &["POST /api/x"], &[]), ("*.example.com", &["/**"], &["PUT /@*%2f*"])]);
        let json = serde_json::to_string(&egress).unwrap();
        assert_eq!(serde_json::from_str::<Egress>(&json).unwrap(), egress);
    }
}
