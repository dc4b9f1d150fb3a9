//! The branches of one container: the default for a bot's registration, and where the globs of two records meet.
//!
//! The API, `container add` and `doctor` use this module.

use std::collections::HashSet;
use std::fmt;

use base::hash::hash;
use jiff::Timestamp;
use policy::{BranchGlob, Container, InvalidGlob, Repo};

/// The longest form of an id in a branch's name, in bytes. A longer form is cut, and a hash of the id follows.
const MAX_FORM: usize = 100;
/// The hexadecimal digits of that hash.
const HASH: usize = 32;

/// The branches of a bot whose registration names none: `sandbox/ID/*`. Two ids never share a branch.
///
/// Letters, digits, `_`, `-` and `.` stand for themselves. Any other byte is `=` and its two hexadecimal digits; so is a
/// dash or a dot where a branch's name can't have one. Only a form that is cut has `=-`.
///
/// # Errors
/// If the id is empty.
pub fn branches(container_id: &str) -> Result<BranchGlob, InvalidGlob> {
    BranchGlob::parse(&format!("sandbox/{}/*", form(container_id)))
}

fn form(id: &str) -> String {
    let bytes = id.as_bytes();
    let mut form = String::with_capacity(bytes.len());
    for (at, byte) in bytes.iter().enumerate() {
        let (before, behind) = bytes.split_at(at);
        // A component of a branch's name begins with neither, and `..` and `.lock` are not allowed.
        let dot = !before.is_empty() && !before.ends_with(b".") && behind != b"." && behind != b".lock";
        let dash = !before.is_empty();
        match byte {
            b'-' if dash => form.push('-'),
            b'.' if dot => form.push('.'),
            b'_' => form.push('_'),
            byte if byte.is_ascii_alphanumeric() => form.push(char::from(*byte)),
            byte => form.push_str(&format!("={byte:02X}")),
        }
    }
    if form.len() > MAX_FORM {
        let hash: String = hash(bytes).chars().take(HASH).collect();
        form.truncate(MAX_FORM);
        form.push_str("=-");
        form.push_str(&hash);
    }
    form
}

/// A repository in which the globs of two records meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meeting {
    /// The repository.
    pub repo: String,
    /// The first record's glob, and the other's.
    pub globs: (BranchGlob, BranchGlob),
    /// The other record's id.
    pub other: String,
}

impl fmt::Display for Meeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (own, others) = &self.globs;
        write!(f, "{own} meets {others} of {} in {}", self.other, self.repo)
    }
}

/// The first repository of both records in which a glob of the one meets a glob of the other.
fn meeting(record: &Container, repos: &Repos, other: &Container) -> Option<Meeting> {
    let pairs = record.allowed_branches.iter().flat_map(|own| other.allowed_branches.iter().map(move |o| (own, o)));
    let (own, others) = pairs.into_iter().find(|(own, others)| own.meets(others))?;
    let repo = other.repos.iter().find(|repo| repos.has(repo))?;
    let globs = (own.clone(), others.clone());
    Some(Meeting { repo: repo.to_string(), globs, other: other.container_id.clone() })
}

/// The repositories of a record, by name and by number.
struct Repos {
    names: HashSet<String>,
    ids: HashSet<u64>,
}

impl Repos {
    fn of(record: &Container) -> Self {
        let names = record.repos.iter().map(|repo| repo.to_string().to_ascii_lowercase()).collect();
        Self { names, ids: record.repos.iter().filter_map(Repo::id).collect() }
    }

    fn has(&self, repo: &Repo) -> bool {
        self.names.contains(&repo.to_string().to_ascii_lowercase())
            || repo.id().is_some_and(|id| self.ids.contains(&id))
    }
}

/// The meetings of `record` with the records of other addresses that are not expired at `now`, one for each.
pub fn meetings<'a>(
    record: &Container,
    others: impl IntoIterator<Item = &'a Container>,
    now: Timestamp,
) -> Vec<Meeting> {
    let repos = Repos::of(record);
    let beside = |other: &&Container| other.container_ip != record.container_ip && !other.expired(now);
    others.into_iter().filter(beside).filter_map(|other| meeting(record, &repos, other)).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_id_is_a_component_of_a_branch_and_of_no_other_id_s() {
        for (id, expected) in [
            ("agent-7", "sandbox/agent-7/*"),
            ("172.18.0.5", "sandbox/172.18.0.5/*"),
            ("fd00::5", "sandbox/fd00=3A=3A5/*"),
            ("a b", "sandbox/a=20b/*"),
            ("a=20b", "sandbox/a=3D20b/*"),
            ("a/b", "sandbox/a=2Fb/*"),
            ("*", "sandbox/=2A/*"),
            ("é", "sandbox/=C3=A9/*"),
            ("-x-", "sandbox/=2Dx-/*"),
            (".a", "sandbox/=2Ea/*"),
            ("a.", "sandbox/a=2E/*"),
            ("a..b", "sandbox/a.=2Eb/*"),
            ("a.lock", "sandbox/a=2Elock/*"),
            ("a.lock.b", "sandbox/a.lock.b/*"),
        ] {
            assert_eq!(branches(id).unwrap().to_string(), expected);
        }
        assert!(branches("").is_err());
    }

    /// All short ids of difficult characters, and long ones: each has a valid glob, and no two globs meet.
    #[test]
    fn no_two_ids_share_a_branch() {
        let mut ids: Vec<String> = vec![String::new()];
        for _ in 0..3 {
            let longer =
                ids.iter().flat_map(|id| ["a", ".", "-", "=", "/", "*", "2", "E", "é"].map(|c| format!("{id}{c}")));
            let longer: Vec<String> = longer.collect();
            ids.extend(longer);
        }
        let long = "x".repeat(MAX_FORM - 1);
        ids.extend(["", "y", "yz", "yy", "\u{1F980}", "="].map(|end| format!("{long}{end}")));
        ids.push(branches(&format!("{long}yz")).unwrap().to_string().replace("sandbox/", "").replace("/*", ""));
        ids.push("é".repeat(256));
        ids.retain(|id| !id.is_empty());
        ids.sort();
        ids.dedup();
        let forms: HashSet<String> = ids.iter().map(|id| form(id)).collect();
        assert_eq!(forms.len(), ids.len());
        for id in &ids {
            let glob = branches(id).unwrap();
            let name = glob.to_string().replace('*', "fix-1");
            assert!(policy::is_branch(&name) && glob.covers(&name), "{name}");
            assert!(glob.to_string().matches('*').count() == 1 && glob.to_string().matches('/').count() == 2, "{glob}");
        }
    }

    fn record(last: u8, repos: serde_json::Value, globs: &[&str]) -> Container {
        serde_json::from_value(json!({
            "container_ip": format!("10.0.0.{last}"), "container_id": format!("box-{last}"), "repos": repos,
            "allowed_branches": globs, "expires_at": "2027-01-15T00:00:00Z",
        }))
        .unwrap()
    }

    #[test]
    fn records_meet_in_a_repository_of_both_where_their_globs_do() {
        let now = "2027-01-01T00:00:00Z".parse().unwrap();
        let one = record(1, json!(["o/r", {"name": "o/old", "id": 7}]), &["sandbox/a/*", "fix-*"]);
        for (other, expected) in [
            (record(2, json!(["O/R"]), &["sandbox/*"]), Some("sandbox/a/* meets sandbox/* of box-2 in O/R")),
            (record(2, json!(["o/s", "o/r"]), &["x", "*-1"]), Some("sandbox/a/* meets *-1 of box-2 in o/r")),
            (record(2, json!([{"name": "o/new", "id": 7}]), &["fix-1"]), Some("fix-* meets fix-1 of box-2 in o/new")),
            (record(2, json!(["o/r"]), &["sandbox/b/*"]), None),
            (record(2, json!(["o/r"]), &[]), None),
            (record(2, json!(["o/s"]), &["sandbox/*"]), None),
            // Its own address: the record that it replaces.
            (record(1, json!(["o/r"]), &["sandbox/*"]), None),
        ] {
            let met = meetings(&one, [&other], now);
            assert_eq!(met.first().map(ToString::to_string).as_deref(), expected, "{other:?}");
        }
        let other = record(2, json!(["o/r"]), &["sandbox/*"]);
        assert!(meetings(&one, [&other], other.expires_at).is_empty(), "it is expired");
    }
}
