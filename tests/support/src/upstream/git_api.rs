//! GitHub's API for the repositories that github.com serves here: the objects of refs, and the relation of two commits.
//! The facts are git's own; the form and the statuses are GitHub's.

use super::host_git;
use super::sites::{Body, json};
use hyper::Response;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;

/// The response to `question`, a path below `/repos/owner/name/`, from the bare repository in `bare`. `None` for other
/// paths.
pub fn answer(bare: &Path, question: &str, query: &str) -> Option<Response<Body>> {
    let (base, head) = question.strip_prefix("compare/")?.split_once("...")?;
    Some(compare(bare, base, head, query))
}

/// The response to a GraphQL query for the refs `names` of `repo`, from the bare repository. Without a repository it is
/// the response to a client that may not see it.
pub fn refs(bare: Option<&Path>, repo: &str, names: &[String]) -> Response<Body> {
    let Some(bare) = bare else {
        let message = format!("Could not resolve to a Repository with the name '{repo}'.");
        let errors = json!([{"type": "NOT_FOUND", "path": ["repository"], "message": message}]);
        return json(200, &json!({"data": {"repository": null}, "errors": errors}));
    };
    let listed = git(bare, &["for-each-ref", "--format=%(refname) %(objectname)"]).unwrap();
    let at: HashMap<&str, &str> = listed.lines().filter_map(|line| line.split_once(' ')).collect();
    let mut shown = json!({ "nameWithOwner": repo });
    for (number, asked) in names.iter().enumerate() {
        // GitHub falls back to names that end like the requested one.
        let found = ["", "refs/heads/", "refs/tags/"].map(|prefix| format!("{prefix}{asked}"));
        let found = found.iter().find_map(|name| at.get_key_value(name.as_str()));
        shown[format!("r{number}")] = found.map_or(Value::Null, |(name, oid)| {
            let (prefix, name) = name.split_at(name.match_indices('/').nth(1).map_or(0, |(slash, _)| slash + 1));
            json!({"name": name, "prefix": prefix, "target": {"oid": oid}})
        });
    }
    json(200, &json!({"data": {"repository": shown}}))
}

fn compare(bare: &Path, base: &str, head: &str, query: &str) -> Response<Body> {
    let commit = |name: &str| git(bare, &["rev-parse", "--verify", "--quiet", &format!("{name}^{{commit}}")]);
    let (Some(base), Some(head)) = (commit(&decoded(base)), commit(&decoded(head))) else {
        return problem(404, "Not Found");
    };
    let Some(merge_base) = git(bare, &["merge-base", &base, &head]) else {
        return problem(404, &format!("No common ancestor between {base} and {head}."));
    };
    let count = |range: String| git(bare, &["rev-list", "--count", &range]).unwrap().parse::<u64>().unwrap();
    let (ahead, behind) = (count(format!("{base}..{head}")), count(format!("{head}..{base}")));
    let status = match (ahead, behind) {
        (0, 0) => "identical",
        (_, 0) => "ahead",
        (0, _) => "behind",
        _ => "diverged",
    };
    let number = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.parse::<usize>().ok());
    let (page, per_page) = (number("page=").unwrap_or(1), number("per_page=").unwrap_or(250));
    let listed = git(bare, &["rev-list", "--reverse", &format!("{base}..{head}")]).unwrap();
    let commits: Vec<Value> =
        listed.lines().skip((page - 1) * per_page).take(per_page).map(|sha| json!({"sha": sha})).collect();
    let mut body = json!({
        "status": status, "ahead_by": ahead, "behind_by": behind, "total_commits": ahead,
        "base_commit": {"sha": base}, "merge_base_commit": {"sha": merge_base}, "commits": commits,
    });
    if page == 1 {
        let changed = git(bare, &["diff", "--name-only", &merge_base, &head]).unwrap();
        body["files"] = changed.lines().map(|file| json!({"filename": file})).collect();
    }
    json(200, &body)
}

fn problem(status: u16, message: &str) -> Response<Body> {
    json(status, &json!({"message": message, "status": status.to_string()}))
}

/// The output of git; `None` if git fails.
fn git(bare: &Path, args: &[&str]) -> Option<String> {
    let output = host_git(bare).args(args).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
}

/// Percent-decodes a path.
fn decoded(path: &str) -> String {
    let mut parts = path.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match digits {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => bytes.extend(format!("%{part}").bytes()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
