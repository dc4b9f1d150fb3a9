//! The registered containers: whose branches meet, and whether GitHub protects the default branch of each repository.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::percent;
use base::telemetry::GithubCall;
use credentials::Subject;
use github::client::{ApiResponse, Client, Error};
use jiff::Timestamp;
use policy::{Container, Repo};
use registry::own;
use serde::Deserialize;

use super::{Context, Finding};

/// The most meetings that are named.
const NAMED: usize = 5;
/// The most repositories that are looked up at GitHub, with three calls each.
const LOOKED_UP: usize = 20;
/// The types of rules that keep a direct push from a branch (GitHub's REST API, "Get rules for a branch").
const LOCKS: [&str; 3] = ["pull_request", "update", "merge_queue"];

/// Whether two records of a repository have branches in common. No finding without records.
pub fn branches(context: &Context) -> Vec<Finding> {
    met(&context.records, Timestamp::now())
}

fn met(records: &[Container], now: Timestamp) -> Vec<Finding> {
    if records.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (at, record) in records.iter().enumerate().filter(|(_, record)| !record.expired(now)) {
        let behind = records.get(at.saturating_add(1)..).unwrap_or_default();
        let meetings = own::meetings(record, behind, now);
        found.extend(meetings.iter().map(|met| format!("{}: {met}", record.container_id)));
    }
    if found.is_empty() {
        return vec![Finding::ok("branches", "no two containers share a branch")];
    }
    let more = found.len().saturating_sub(NAMED);
    let mut named = found.into_iter().take(NAMED).collect::<Vec<_>>().join("; ");
    if more > 0 {
        named += &format!("; and {more} more");
    }
    let todo = "each of the two can move the other's branches; register them with branches of their own";
    vec![Finding::warn("branches", named, todo)]
}

/// A repository, in GitHub's words.
#[derive(Debug, Deserialize)]
struct Raw {
    default_branch: String,
    #[serde(default)]
    fork: bool,
    source: Option<Source>,
}

/// The root of a network of forks.
#[derive(Debug, Deserialize)]
struct Source {
    full_name: String,
}

#[derive(Debug, Deserialize)]
struct RawRule {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Deserialize)]
struct RawBranch {
    protected: bool,
}

/// GitHub's answers about a repository and its default branch.
#[derive(Debug)]
struct Found {
    repository: Raw,
    /// The types of the rules that apply to the default branch.
    rules: Vec<String>,
    /// Whether the default branch has a branch protection, or rules.
    protected: bool,
}

/// Whether GitHub protects the default branch of each registered repository. No finding without a token.
pub fn locks(context: &Context) -> Vec<Finding> {
    let now = Timestamp::now();
    let mut repos: BTreeMap<String, (&Container, &Repo)> = BTreeMap::new();
    for record in context.records.iter().filter(|record| !record.expired(now)) {
        repos.extend(record.repos.iter().map(|repo| (repo.to_string().to_ascii_lowercase(), (record, repo))));
    }
    if repos.is_empty() {
        return Vec::new();
    }
    let config = &context.config;
    let upstreams = config.upstreams_of_a_command();
    let client = Client::of_command(&upstreams, Arc::clone(&config.credentials));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (client, runtime) = match (client, runtime) {
        (Ok(client), Ok(runtime)) => (client, runtime),
        (Err(error), _) => return vec![unchecked(&error)],
        (_, Err(error)) => return vec![unchecked(&error)],
    };
    let mut findings = Vec::new();
    for (record, repo) in repos.values().take(LOOKED_UP) {
        match runtime.block_on(look_up(&client, record, repo)) {
            Ok(Some(found)) => findings.extend(judge(record, repo, &found)),
            Ok(None) => findings.push(Finding::warn(
                "locks",
                format!("{repo}: GitHub does not tell whether its default branch is protected"),
                "check the name, and that the token may read the repository",
            )),
            // `github::credentials` reports a missing token.
            Err(Error::NoCredential(_)) => break,
            // Further calls would wait as long.
            Err(error) => {
                findings.push(unchecked(&error));
                break;
            }
        }
    }
    // A shutdown in the background doesn't wait for a DNS lookup under way.
    runtime.shutdown_background();
    if repos.len() > LOOKED_UP {
        let found = format!("{} more repositories were not looked up", repos.len().saturating_sub(LOOKED_UP));
        findings.push(Finding::warn("locks", found, "check their default branches at GitHub"));
    }
    findings
}

fn unchecked(error: &dyn std::error::Error) -> Finding {
    Finding::warn("locks", format!("GitHub's rules cannot be looked up: {error}"), "check the network")
}

/// Asks GitHub. `None` if an answer is no success, or is not understood.
async fn look_up(client: &Client, record: &Container, repo: &Repo) -> Result<Option<Found>, Error> {
    fn read<T: serde::de::DeserializeOwned>(answer: &ApiResponse) -> Option<T> {
        serde_json::from_slice(&answer.body).ok().filter(|_| answer.status == 200)
    }
    let get = async |path: String| {
        let subject = Subject { container: record, repo: Some(repo) };
        client.get(GithubCall::Repository, Some(subject), &path).await
    };
    let Some(repository) = read::<Raw>(&get(format!("/repos/{repo}")).await?) else { return Ok(None) };
    let branch = percent::encode(&repository.default_branch);
    let rules = read::<Vec<RawRule>>(&get(format!("/repos/{repo}/rules/branches/{branch}")).await?);
    let of_branch = read::<RawBranch>(&get(format!("/repos/{repo}/branches/{branch}")).await?);
    let (Some(rules), Some(RawBranch { protected })) = (rules, of_branch) else { return Ok(None) };
    Ok(Some(Found { repository, rules: rules.into_iter().map(|rule| rule.kind).collect(), protected }))
}

fn judge(record: &Container, repo: &Repo, found: &Found) -> Vec<Finding> {
    let Found { repository, rules, protected } = found;
    let (branch, types) = (&repository.default_branch, rules.join(", "));
    let mut findings = vec![if rules.iter().any(|rule| LOCKS.contains(&rule.as_str())) {
        Finding::ok("locks", format!("{repo}: GitHub's rules protect {branch} ({types})"))
    } else if !rules.is_empty() {
        let found = format!(
            "{repo}: GitHub's rules for {branch} allow direct pushes ({types}), so the gateway is the only lock"
        );
        Finding::warn("locks", found, "require pull requests by a ruleset")
    } else if *protected {
        Finding::ok("locks", format!("{repo}: GitHub protects {branch}"))
    } else {
        let found = format!("{repo}: GitHub has no rule for {branch}, so the gateway is the only lock");
        Finding::warn("locks", found, "add a ruleset or a branch protection at GitHub")
    }];
    if let Some(known) = repo.default_branch()
        && known != branch
    {
        let found = format!(
            "{repo}: the default branch is {branch} at GitHub, and {known} in the record of {}",
            record.container_id
        );
        findings.push(Finding::warn("locks", found, "register the container again, so that the gateway protects it"));
    }
    if repository.fork {
        let source = repository.source.as_ref().map_or("another repository", |source| source.full_name.as_str());
        let found =
            format!("{repo} is a fork of {source}: by their hashes, objects of all forks can be read and pushed");
        findings.push(Finding::warn("locks", found, "register a repository that is no fork"));
    }
    findings
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::State::{Ok as Good, Warn};
    use super::*;
    use serde_json::json;

    fn record(last: u8, globs: &[&str]) -> Container {
        serde_json::from_value(json!({
            "container_ip": format!("10.0.0.{last}"), "container_id": format!("box-{last}"), "repos": ["o/r"],
            "allowed_branches": globs, "expires_at": "2027-01-15T00:00:00Z",
        }))
        .unwrap()
    }

    #[test]
    fn records_that_share_branches_are_named() {
        let now = "2027-01-01T00:00:00Z".parse().unwrap();
        assert!(met(&[], now).is_empty());
        let apart = [record(1, &["sandbox/a/*"]), record(2, &["sandbox/b/*"])];
        assert_eq!(met(&apart, now)[0].state, Good);
        let shared: Vec<Container> = (1..=4).map(|last| record(last, &["sandbox/*"])).collect();
        let found = met(&shared, now).remove(0);
        assert_eq!(found.state, Warn);
        assert!(found.found.starts_with("box-1: sandbox/* meets sandbox/* of box-2 in o/r; "), "{found:?}");
        assert!(found.found.ends_with("; and 1 more"), "six pairs: {found:?}");
        assert_eq!(met(&shared, shared[0].expires_at)[0].state, Good, "all are expired");
    }

    #[test]
    fn a_default_branch_that_only_the_gateway_protects_is_pointed_out() {
        let repo: Repo = serde_json::from_value(json!({"name": "o/r", "default_branch": "main"})).unwrap();
        let record = record(1, &["sandbox/*"]);
        let judged = |repository: serde_json::Value, rules: &[&str], protected| {
            let repository = serde_json::from_value(repository).unwrap();
            let rules = rules.iter().map(|rule| (*rule).to_owned()).collect();
            judge(&record, &repo, &Found { repository, rules, protected })
        };
        let main = || json!({"default_branch": "main"});
        for (rules, protected, state, words) in [
            (&["deletion", "pull_request"][..], true, Good, "rules protect main (deletion, pull_request)"),
            (&["update"], false, Good, "rules protect main"),
            (&[], true, Good, "GitHub protects main"),
            (&["deletion", "non_fast_forward"], true, Warn, "allow direct pushes (deletion, non_fast_forward)"),
            (&[], false, Warn, "no rule for main, so the gateway is the only lock"),
        ] {
            let findings = judged(main(), rules, protected);
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert!(findings[0].state == state && findings[0].found.contains(words), "{findings:?}");
        }
        let renamed = judged(json!({"default_branch": "trunk"}), &["update"], true);
        assert!(renamed[1].found.contains("trunk at GitHub, and main in the record of box-1"), "{renamed:?}");
        let fork = json!({"default_branch": "main", "fork": true, "source": {"full_name": "up/stream"}});
        let fork = judged(fork, &["update"], true);
        assert!(fork[1].state == Warn && fork[1].found.contains("o/r is a fork of up/stream"), "{fork:?}");
    }
}
