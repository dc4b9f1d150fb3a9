//! GitHub's rate limits, as its answers tell them. `xds` configures Envoy to log the headers; `audit` reads them in the
//! log of the sandboxes' calls, `github` in the answers to the gateway's own calls.

/// The headers, see docs.github.com, "Rate limits for the REST API".
pub const HEADERS: [&str; 5] = [LIMIT, REMAINING, RESET, RESOURCE, RETRY_AFTER];

const LIMIT: &str = "x-ratelimit-limit";
const REMAINING: &str = "x-ratelimit-remaining";
const RESET: &str = "x-ratelimit-reset";
const RESOURCE: &str = "x-ratelimit-resource";
const RETRY_AFTER: &str = "retry-after";

/// The status of an answer that rejects the credential. GitHub handles the call like one without a credential.
const REJECTED: u32 = 401;

/// The longest pause of [`Quoted::wait`], in seconds. GitHub's pauses last minutes.
pub const MAX_WAIT: u64 = 3_600;

/// A part of the API with a quota of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// REST, except for the other resources.
    Core,
    /// GraphQL. The unit of its quota is a point; most queries cost one point.
    Graphql,
    /// Searches, except for code.
    Search,
    /// Searches for code.
    CodeSearch,
}

impl Resource {
    /// All resources.
    pub const ALL: [Self; 4] = [Self::Core, Self::Graphql, Self::Search, Self::CodeSearch];

    /// GitHub's name of the resource.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Graphql => "graphql",
            Self::Search => "search",
            Self::CodeSearch => "code_search",
        }
    }

    /// The length of a window, in seconds.
    pub const fn window(self) -> u64 {
        match self {
            Self::Core | Self::Graphql => 3_600,
            Self::Search | Self::CodeSearch => 60,
        }
    }

    /// The resource of a call to `target`, a path with or without a query. `None` for the call that reads the quotas,
    /// which costs nothing. A few paths have a resource of their own at GitHub, and count here as [`Resource::Core`].
    pub fn of(target: &str) -> Option<Self> {
        match target.split('?').next().unwrap_or_default() {
            "/rate_limit" => None,
            "/graphql" => Some(Self::Graphql),
            "/search/code" => Some(Self::CodeSearch),
            path if path.starts_with("/search/") => Some(Self::Search),
            _ => Some(Self::Core),
        }
    }
}

/// The state of one quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The part of the API.
    pub resource: Resource,
    /// Calls or points in a window.
    pub limit: u64,
    /// Calls or points that are left in this window.
    pub remaining: u64,
    /// The end of the window, in seconds since 1970.
    pub reset: u64,
}

/// The statements of one answer about rate limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quoted {
    /// The quota of the call. `None` if the answer has no complete headers, or is about another resource. Also `None` if
    /// the answer rejects the credential: GitHub then tells the quota of the gateway's IP address.
    pub reading: Option<Reading>,
    /// The answer refuses the call for a secondary limit: GitHub's pause in seconds, [`MAX_WAIT`] at most.
    pub wait: Option<u64>,
    /// The answer refuses the call because the quota is used up.
    pub refused: bool,
}

impl Quoted {
    /// Reads the headers of an answer with this status. `header` returns a header's value.
    pub fn read<'a>(status: u32, header: impl Fn(&str) -> Option<&'a str>) -> Self {
        let number = |name: &str| header(name).and_then(|value| value.trim().parse::<u64>().ok());
        let resource = header(RESOURCE).and_then(|name| Resource::ALL.into_iter().find(|known| known.name() == name));
        let resource = resource.filter(|_| status != REJECTED);
        let reading = match (resource, number(LIMIT), number(REMAINING), number(RESET)) {
            (Some(resource), Some(limit), Some(remaining), Some(reset)) if limit > 0 && remaining <= limit => {
                Some(Reading { resource, limit, remaining, reset })
            }
            _ => None,
        };
        // Other answers than these two may have the header for other reasons.
        let limited = matches!(status, 403 | 429);
        Self {
            reading,
            wait: number(RETRY_AFTER).filter(|_| limited).map(|wait| wait.min(MAX_WAIT)),
            refused: limited && reading.is_some_and(|reading| reading.remaining == 0),
        }
    }

    /// Whether the answer says nothing about rate limits.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn quoted(status: u32, headers: &[(&str, &'static str)]) -> Quoted {
        Quoted::read(status, |name| headers.iter().find(|(have, _)| *have == name).map(|(_, value)| *value))
    }

    const GOOD: [(&str, &str); 4] = [(LIMIT, "5000"), (REMAINING, "4999"), (RESET, "1800000000"), (RESOURCE, "core")];

    #[test]
    fn a_quota_is_read_whole_or_not_at_all() {
        let reading = Reading { resource: Resource::Core, limit: 5_000, remaining: 4_999, reset: 1_800_000_000 };
        assert_eq!(quoted(200, &GOOD).reading, Some(reading));
        assert!(quoted(200, &[]).is_empty(), "as of a server without rate limits");
        for at in 0..GOOD.len() {
            let mut some = GOOD.to_vec();
            some.remove(at);
            assert_eq!(quoted(200, &some).reading, None, "without {}", GOOD[at].0);
            for odd in ["", "-1", "1e3", "99999999999999999999999", "Core"] {
                let mut some = GOOD;
                some[at].1 = odd;
                assert_eq!(quoted(200, &some).reading, None, "{} {odd}", GOOD[at].0);
            }
        }
        let mut more = GOOD;
        more[1].1 = "5001";
        assert_eq!(quoted(200, &more).reading, None, "more is left than there is");
        more[0].1 = "0";
        more[1].1 = "0";
        assert_eq!(quoted(200, &more).reading, None, "a quota of nothing");
    }

    #[test]
    fn an_answer_that_rejects_the_credential_tells_no_quota() {
        // The quota of the gateway's address, as GitHub tells it with "Bad credentials".
        let mut address = [(LIMIT, "60"), (REMAINING, "0"), (RESET, "1800000000"), (RESOURCE, "core")];
        assert!(quoted(401, &address).is_empty());
        address[0].1 = "5000";
        assert!(quoted(401, &address).is_empty(), "as for a quota of another size");
        assert!(quoted(403, &address).refused);
    }

    #[test]
    fn a_pause_is_read_only_of_an_answer_that_refuses_the_call() {
        let with = |value: &'static str| [(RETRY_AFTER, value)];
        for status in [403, 429] {
            assert_eq!(quoted(status, &with("60")).wait, Some(60));
            assert_eq!(quoted(status, &with("3600")).wait, Some(MAX_WAIT));
            assert_eq!(quoted(status, &with("3601")).wait, Some(MAX_WAIT));
            assert_eq!(quoted(status, &with("Fri, 31 Dec 1999 23:59:59 GMT")).wait, None);
        }
        for status in [200, 202, 301, 404, 500, 503] {
            assert!(quoted(status, &with("60")).is_empty(), "{status}");
        }
        let mut none = GOOD;
        none[1].1 = "0";
        assert!(quoted(403, &none).refused && quoted(429, &none).refused);
        assert!(!quoted(200, &none).refused, "the last call was still good");
        assert!(!quoted(403, &GOOD).refused, "refused for another reason");
    }

    #[test]
    fn each_path_counts_for_its_resource() {
        for (target, resource) in [
            ("/repos/o/r/compare/a...b?per_page=1", Some(Resource::Core)),
            ("/", Some(Resource::Core)),
            ("/searching", Some(Resource::Core)),
            ("/graphql", Some(Resource::Graphql)),
            ("/search/issues?q=x", Some(Resource::Search)),
            ("/search/code?q=x", Some(Resource::CodeSearch)),
            ("/rate_limit", None),
            ("/rate_limit?x", None),
            ("/rate_limit/x", Some(Resource::Core)),
        ] {
            assert_eq!(Resource::of(target), resource, "{target}");
        }
        assert_eq!(Resource::ALL.map(Resource::name).iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
        assert_eq!(Resource::ALL.first().copied().unwrap(), Resource::Core);
    }
}
