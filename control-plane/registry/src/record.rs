//! The shape of a registration and of a change: parsed from JSON, checked, and turned into a record.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use jiff::{SignedDuration, Timestamp};
use policy::{AuthMode, BranchGlob, Container, HostName, HostRules, Repo};
use serde::Deserialize;
use serde_path_to_error::Segment;

use super::own;

/// The lifetime of a record if neither `ttl` nor `expires_at` is given.
const DEFAULT_TTL: SignedDuration = SignedDuration::from_hours(24);
/// The most globs in `allowed_branches`.
const MAX_BRANCHES: usize = 100;
/// The most entries in `egress_allow`.
const MAX_HOSTS: usize = 1_000;
/// The most characters of a container's id, and of a label's key or value.
const MAX_TEXT: usize = 256;

/// Limits on registrations that depend on the gateway's configuration.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Whether a loopback address can be registered, for trying the gateway on one machine.
    pub allow_loopback: bool,
    /// The pinned hosts. They may have private addresses, so a single container can't get access to them.
    pub pinned: Vec<HostName>,
}

/// Why a registration or a change is not carried out.
#[derive(Debug)]
pub enum Invalid {
    /// The body is no JSON: the error.
    Json(String),
    /// A field is missing or has a wrong value.
    Field {
        /// The field's name. Empty if the body is no object.
        field: String,
        /// The problem.
        error: String,
    },
}

/// The field `field` is missing or has a wrong value.
pub fn invalid(field: &str, error: impl Into<String>) -> Invalid {
    Invalid::Field { field: field.into(), error: error.into() }
}

/// The body of a registration. For PATCH every field is optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// The address. A change has none.
    pub container_ip: Option<String>,
    container_id: Option<String>,
    repos: Option<Vec<Repo>>,
    auth_mode: Option<AuthMode>,
    allowed_branches: Option<Vec<String>>,
    force_own_branches: Option<bool>,
    expires_at: Option<String>,
    ttl: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    egress_allow: Option<Vec<HostRules>>,
    credentials: Option<Vec<String>>,
}

/// The record that a registration of `json` would make at `now`, for `explain`. This machine's own addresses are not
/// checked.
///
/// # Errors
/// If the registration is invalid; the error says why.
pub fn record(json: &serde_json::Value, now: Timestamp) -> Result<Container, String> {
    let limits = Limits { allow_loopback: true, pinned: Vec::new() };
    let raw = Raw::parse(json.to_string().as_bytes());
    raw.and_then(|raw| raw.register(now, &limits)).map_err(|invalid| match invalid {
        Invalid::Json(error) => error,
        Invalid::Field { field, error } => format!("{field}: {error}"),
    })
}

impl Raw {
    /// Parses a body.
    ///
    /// # Errors
    /// If the body is invalid.
    pub fn parse(body: &[u8]) -> Result<Self, Invalid> {
        let value: serde_json::Value =
            serde_json::from_slice(body).map_err(|error| Invalid::Json(format!("not JSON: {error}")))?;
        serde_path_to_error::deserialize(value).map_err(|error| {
            let field = match error.path().iter().next() {
                Some(Segment::Map { key }) => Some(key.clone()),
                _ => None,
            };
            let message = error.into_inner().to_string();
            // For an unknown field, serde gives the name in the message, not in the path.
            let unknown = || message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
            let field = field.or_else(|| unknown().map(str::to_owned)).unwrap_or_default();
            Invalid::Field { field, error: message }
        })
    }

    /// Makes a new record.
    ///
    /// # Errors
    /// If a field is missing or invalid.
    pub fn register(self, now: Timestamp, api: &Limits) -> Result<Container, Invalid> {
        let text = self.container_ip.as_deref().ok_or_else(|| invalid("container_ip", "is required"))?;
        let address = container_address(text, api.allow_loopback)?;
        if self.repos.is_none() {
            return Err(invalid("repos", "is required; [] gives the container no repository"));
        }
        let blank = Container {
            blocked: None,
            container_ip: address,
            container_id: address.to_string(),
            repos: Vec::new(),
            auth_mode: AuthMode::default(),
            allowed_branches: Vec::new(),
            force_own_branches: false,
            expires_at: now.saturating_add(DEFAULT_TTL).unwrap_or(now),
            labels: BTreeMap::new(),
            egress_allow: Vec::new(),
            credentials: None,
            generation: 0,
        };
        let branches_given = self.allowed_branches.is_some();
        let mut record = self.apply(blank, now, &api.pinned)?;
        if !branches_given && record.auth_mode == AuthMode::Bot {
            let own = own::branches(&record.container_id);
            record.allowed_branches = vec![own.map_err(|error| invalid("container_id", error.to_string()))?];
        }
        Ok(record)
    }

    /// Replaces the fields of `record` that are given.
    ///
    /// # Errors
    /// If a field is invalid.
    pub fn apply(self, mut record: Container, now: Timestamp, pinned: &[HostName]) -> Result<Container, Invalid> {
        if let Some(id) = self.container_id {
            record.container_id = plain_text("container_id", id)?;
        }
        record.repos = self.repos.unwrap_or(record.repos);
        record.auth_mode = self.auth_mode.unwrap_or(record.auth_mode);
        if let Some(branches) = self.allowed_branches {
            if branches.len() > MAX_BRANCHES {
                return Err(invalid("allowed_branches", format!("has more than {MAX_BRANCHES} globs")));
            }
            record.allowed_branches = branches.iter().map(|glob| branch_glob(glob)).collect::<Result<_, _>>()?;
        }
        record.force_own_branches = self.force_own_branches.unwrap_or(record.force_own_branches);
        if let Some(labels) = self.labels {
            record.labels = labels
                .into_iter()
                .map(|(key, value)| Ok((plain_text("labels", key)?, plain_text("labels", value)?)))
                .collect::<Result<_, Invalid>>()?;
        }
        if let Some(entries) = self.egress_allow {
            extra_hosts(&entries, pinned)?;
            record.egress_allow = entries;
        }
        if self.credentials.is_some() {
            record.credentials = self.credentials;
        }
        if let Some(expires_at) = expiry(self.expires_at, self.ttl, now)? {
            record.expires_at = expires_at;
        }
        Ok(record)
    }
}

fn branch_glob(text: &str) -> Result<BranchGlob, Invalid> {
    BranchGlob::parse(text).map_err(|error| invalid("allowed_branches", error.to_string()))
}

fn expiry(at: Option<String>, ttl: Option<String>, now: Timestamp) -> Result<Option<Timestamp>, Invalid> {
    match (at, ttl) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(invalid("ttl", "give either ttl or expires_at")),
        (Some(at), None) => match at.parse::<Timestamp>() {
            Ok(at) if at > now => Ok(Some(at)),
            Ok(_) => Err(invalid("expires_at", "is in the past")),
            Err(error) => Err(invalid("expires_at", format!("expected a time such as 2027-01-15T00:00:00Z: {error}"))),
        },
        (None, Some(ttl)) => match ttl.parse::<SignedDuration>() {
            Ok(duration) if duration.is_positive() => {
                now.checked_add(duration).map(Some).map_err(|error| invalid("ttl", error.to_string()))
            }
            Ok(_) => Err(invalid("ttl", "must be longer than nothing")),
            Err(error) => Err(invalid("ttl", format!("expected a duration such as 8h or 90m: {error}"))),
        },
    }
}

fn container_address(text: &str, allow_loopback: bool) -> Result<IpAddr, Invalid> {
    let field = "container_ip";
    let address = text
        .parse::<IpAddr>()
        .map_err(|_| invalid(field, format!("{text:?} is not an IP address such as 172.18.0.5")))?
        .to_canonical();
    if !can_be_a_source(address) {
        return Err(invalid(field, format!("{address} is not the address of a container")));
    }
    if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return Err(invalid(field, format!("{address} means another machine on every link; register another address")));
    }
    if address.is_loopback() && !allow_loopback {
        return Err(invalid(
            field,
            "every process of a machine has its loopback addresses; register the container's own",
        ));
    }
    Ok(address)
}

/// Whether packets can have this source (RFC 6890 section 2.2). "This network", multicast groups, reserved addresses,
/// the broadcast address and the unspecified address can't be a source.
fn can_be_a_source(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] != 0 && v4 < Ipv4Addr::new(224, 0, 0, 0),
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast(),
    }
}

/// Checks that the entries have a number within its limit and allow nothing at a pinned host.
fn extra_hosts(entries: &[HostRules], pinned: &[HostName]) -> Result<(), Invalid> {
    if entries.len() > MAX_HOSTS {
        return Err(invalid("egress_allow", format!("has more than {MAX_HOSTS} entries")));
    }
    match pinned.iter().find(|host| entries.iter().any(|rules| rules.lists(host))) {
        Some(host) => {
            Err(invalid("egress_allow", format!("{host} is one of upstreams:, which only the policy can allow")))
        }
        None => Ok(()),
    }
}

fn plain_text(field: &str, text: String) -> Result<String, Invalid> {
    if text.is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        return Err(invalid(field, format!("expected 1 to {MAX_TEXT} characters without control characters")));
    }
    Ok(text)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn register(body: &str) -> Result<Container, (u16, Option<String>)> {
        let now: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
        let limits = Limits { allow_loopback: false, pinned: vec![HostName::parse(b"git.example.com").unwrap()] };
        Raw::parse(body.as_bytes()).and_then(|raw| raw.register(now, &limits)).map_err(|failure| match failure {
            Invalid::Json(_) => (400, None),
            Invalid::Field { field, .. } => (422, Some(field)),
        })
    }

    #[test]
    fn the_body_of_the_documentation_is_taken() {
        let record = register(
            r#"{"container_ip":"172.18.0.5","container_id":"abc123def456","repos":["owner/repo1","owner/repo2"],
                "auth_mode":"bot","allowed_branches":["sandbox/*","bot/*"],"expires_at":"2027-01-15T00:00:00Z"}"#,
        )
        .unwrap();
        assert_eq!(record.repos.len(), 2);
        assert_eq!(record.expires_at.to_string(), "2027-01-15T00:00:00Z");
    }

    #[test]
    fn what_is_absent_has_the_documented_default() {
        let record = register(r#"{"container_ip":"::ffff:172.18.0.5","repos":[]}"#).unwrap();
        assert_eq!(record.container_ip.to_string(), "172.18.0.5");
        assert_eq!(record.container_id, "172.18.0.5");
        let branches: Vec<_> = record.allowed_branches.iter().map(ToString::to_string).collect();
        assert_eq!(branches, ["sandbox/172.18.0.5/*"]);
        let named = register(r#"{"container_ip":"172.18.0.5","container_id":"agent 7","repos":[]}"#).unwrap();
        assert_eq!(named.allowed_branches[0].to_string(), "sandbox/agent=207/*");
        let user = register(r#"{"container_ip":"172.18.0.5","auth_mode":"user","repos":[]}"#).unwrap();
        assert!(user.allowed_branches.is_empty());
        assert_eq!(record.expires_at.to_string(), "2026-12-02T00:00:00Z");
        let ttl = register(r#"{"container_ip":"172.18.0.5","repos":[],"ttl":"8h"}"#).unwrap();
        assert_eq!(ttl.expires_at.to_string(), "2026-12-01T08:00:00Z");
    }

    #[test]
    fn a_repository_may_be_an_object() {
        let record = register(
            r#"{"container_ip":"172.18.0.5","repos":["o/r",{"name":"owner/repo1","id":23096959,"default_branch":"main"}]}"#,
        )
        .unwrap();
        assert_eq!((record.repos[0].id(), record.repos[0].default_branch()), (None, None));
        assert_eq!((record.repos[1].id(), record.repos[1].default_branch()), (Some(23_096_959), Some("main")));
        assert!(record.has_repo(b"Owner", b"repo1"));
    }

    #[test]
    fn the_addresses_beside_the_refused_ones_are_taken() {
        for address in ["1.0.0.1", "223.255.255.254", "fd00::5", "fec0::1", "169.254.1.1"] {
            assert!(register(&format!(r#"{{"container_ip":"{address}","repos":[]}}"#)).is_ok(), "{address}");
        }
    }

    #[test]
    fn a_record_has_100_globs_and_not_one_more() {
        for (count, fits) in [(MAX_BRANCHES, true), (MAX_BRANCHES + 1, false)] {
            let globs = vec!["sandbox/*"; count];
            let body = serde_json::json!({"container_ip": "172.18.0.5", "repos": [], "allowed_branches": globs});
            assert_eq!(register(&body.to_string()).is_ok(), fits, "{count}");
        }
    }

    #[test]
    fn an_entry_of_a_host_may_have_rules_and_comes_back_with_them() {
        let entries = r#"["a.example.net",{"host":"slack.com","allow":["POST /api/chat.postMessage"],"deny":["/api/admin.*"]},{"host":"git.example.com","deny":["DELETE /**"]}]"#;
        let body = format!(r#"{{"container_ip":"172.18.0.5","repos":[],"egress_allow":{entries}}}"#);
        let record = register(&body).unwrap();
        assert_eq!(serde_json::to_string(&record.egress_allow).unwrap(), entries);
        let methods =
            r#"{"container_ip":"172.18.0.5","repos":[],"egress_allow":[{"host":"a.example.net","methods":["GET"]}]}"#;
        let allow = &register(methods).unwrap().egress_allow[0].allow;
        assert_eq!(serde_json::to_string(allow).unwrap(), r#"["GET /**"]"#);
    }

    #[test]
    fn a_record_has_1000_entries_and_not_one_more() {
        for (count, fits) in [(MAX_HOSTS, true), (MAX_HOSTS + 1, false)] {
            let entries: Vec<String> = (0..count).map(|number| format!("h{number}.example.net")).collect();
            let body = serde_json::json!({"container_ip": "172.18.0.5", "repos": [], "egress_allow": entries});
            assert_eq!(register(&body.to_string()).is_ok(), fits, "{count}");
        }
    }

    #[test]
    fn each_wrong_value_names_its_field() {
        let cases = [
            (r#"{"repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"172.18.0.5"}"#, "repos"),
            (r#"{"container_ip":"172.18.0","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"127.0.0.1","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"0.0.0.0","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"0.1.2.3","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"224.0.0.1","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"240.0.0.1","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"255.255.255.255","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"::","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"::ffff:0.1.2.3","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"ff02::1","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"fe80::1","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"febf::1","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"fe80::1%eth0","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"172.18.0.5","repos":["x"]}"#, "repos"),
            (r#"{"container_ip":"172.18.0.5","repos":"o/r"}"#, "repos"),
            (r#"{"container_ip":"172.18.0.5","repos":["o/r",1]}"#, "repos"),
            (r#"{"container_ip":"172.18.0.5","repos":[{"id":1}]}"#, "repos"),
            (r#"{"container_ip":"172.18.0.5","repos":[{"name":"o"}]}"#, "repos"),
            (r#"{"container_ip":"172.18.0.5","repos":[{"name":"o/r","branch":"main"}]}"#, "repos"),
            (r#"{"container_ip":"172.18.0.5","repos":[{"name":"o/r","default_branch":"a..b"}]}"#, "repos"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"auth_mode":"root"}"#, "auth_mode"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"expires_at":"2026-11-30T00:00:00Z"}"#, "expires_at"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"expires_at":"soon"}"#, "expires_at"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"force_own_branches":"yes"}"#, "force_own_branches"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"ttl":"-1h"}"#, "ttl"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"ttl":"1h","expires_at":"2027-01-15T00:00:00Z"}"#, "ttl"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"repo":["o/r"]}"#, "repo"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"labels":{"a":1}}"#, "labels"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"container_id":"a\nb"}"#, "container_id"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"egress_allow":["*"]}"#, "egress_allow"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"egress_allow":["git.example.com"]}"#, "egress_allow"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"egress_allow":["*.example.com"]}"#, "egress_allow"),
            (
                r#"{"container_ip":"172.18.0.5","repos":[],"egress_allow":[{"host":"git.example.com","allow":["/a"]}]}"#,
                "egress_allow",
            ),
            (
                r#"{"container_ip":"172.18.0.5","repos":[],"egress_allow":[{"host":"a.example.com","allow":["a"]}]}"#,
                "egress_allow",
            ),
            (
                r#"{"container_ip":"172.18.0.5","repos":[],"egress_allow":[{"host":"github.com","deny":["/a"]}]}"#,
                "egress_allow",
            ),
        ];
        for (body, field) in cases {
            assert_eq!(register(body).unwrap_err(), (422, Some(field.to_owned())), "{body}");
        }
        assert_eq!(register("{").unwrap_err(), (400, None));
    }
}
