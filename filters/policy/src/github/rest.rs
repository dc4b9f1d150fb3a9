//! REST: finds the operation of a method and a target in GitHub's OpenAPI description, and judges that operation with
//! the request's body.
//!
//! `data/rest.tsv` lists every known operation. A request that matches none of its templates is refused.

use super::json::Json;
use super::target::{self, Target};
use super::{Allowed, Class, Operation, Question, Refused, Scope, guards, search};
use crate::Rule;
use std::borrow::Cow;

include!(concat!(env!("OUT_DIR"), "/rest.rs"));

/// One REST operation.
#[derive(Debug)]
pub(super) struct Row {
    method: &'static str,
    template: &'static str,
    name: &'static str,
    class: Class,
    /// The operation belongs to uploads.github.com.
    uploads: bool,
    /// The parameter that may span several segments, or `-`.
    multi: &'static str,
    /// The members that the body may have.
    body: &'static [&'static str],
    /// The parameters that the query may have.
    query: &'static [&'static str],
    /// The operation is refused unless the policy allows it by name.
    off: bool,
}

/// A request whose operation is known and whose body is not judged yet.
#[derive(Clone, Debug)]
pub struct Matched {
    row: &'static Row,
    parameters: Vec<(&'static str, String)>,
    target: Vec<u8>,
    operation: Operation,
    /// The policy allows the operation by name.
    by_name: bool,
}

/// The endings of the names of numeric parameters, and the names with such an ending that are not numeric.
const NUMBERS: [&str; 2] = ["_id", "_number"];
const NOT_NUMBERS: [&str; 12] = [
    "workflow_id",
    "gist_id",
    "ghsa_id",
    "suggestion_id",
    "delivery_id",
    "cost_center_id",
    "codespace_id",
    "pages_deployment_id",
    "sarif_id",
    "advisory_id",
    "budget_id",
    "report_id",
];

/// The parameters of reads, in paths and queries, that are a revision: the name of a branch or a tag, a full ref, a
/// hash, or two of them.
const REVISIONS: [&str; 11] =
    ["base", "basehead", "branch", "commit_sha", "file_sha", "head_sha", "ref", "sha", "tag", "tag_sha", "tree_sha"];

/// `target` without the slash at the end of its path, for reads of files, directories and refs: clients write
/// directories with a slash, and GitHub takes both. Any other target is unchanged.
pub fn without_slash<'a>(method: &str, target: &'a [u8]) -> Cow<'a, [u8]> {
    let end = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at_checked(end).unwrap_or((target, b""));
    let Some(path) = path.strip_suffix(b"/").filter(|_| matches!(method, "GET" | "HEAD")) else {
        return Cow::Borrowed(target);
    };
    let segments: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    match &segments[..] {
        [b"", b"repos", _, _, b"contents" | b"readme", ..] | [b"", b"repos", _, _, b"git", b"matching-refs", ..] => {
            Cow::Owned([path, query].concat())
        }
        _ => Cow::Borrowed(target),
    }
}

/// Finds the operation of a request to api.github.com, or with `uploads` to uploads.github.com, and judges all but the
/// body.
///
/// # Errors
/// If the request is refused.
pub fn head(method: &str, target: &Target<'_>, uploads: bool, scope: &Scope<'_>) -> Result<Matched, Refused> {
    // HEAD is GET without the body (RFC 9110 section 9.3.2).
    let as_method = if method == "HEAD" { "GET" } else { method };
    let (row, parameters) = find(as_method, &target.segments, uploads)?;
    let mut operation = Operation { name: row.name.to_owned(), class: row.class };
    let mut found = (row, parameters);
    let mut written: Vec<String> = write_segments(row, &found.1, &target.segments);
    let mut foreign = None;
    if let Some(id) = found.1.iter().find(|(name, _)| *name == "repository_id").map(|(_, id)| id.clone()) {
        // GitHub's own `Link` headers use `/repositories/{id}`. The request is judged as `/repos/{owner}/{repo}`.
        if row.template.starts_with("/repositories/") {
            let number =
                id.parse().map_err(|_| Refused::of(&operation, Rule::GithubRepo, "invalid repository number"))?;
            let repo = match scope.repo_by_id(&operation, number) {
                Ok(repo) => repo.to_string(),
                Err(refused) if refused.denial.rule == Rule::GithubRepo && scope.reads_public() => {
                    foreign = Some(format!("repository number {number}"));
                    // Any name finds the operation.
                    "owner/name".to_owned()
                }
                Err(refused) => return Err(refused),
            };
            if as_method != "GET" {
                return Err(Refused::of(
                    &operation,
                    Rule::GithubAlias,
                    "a write has to use the repository's name, /repos/OWNER/REPO",
                ));
            }
            let (owner, name) = repo.split_once('/').unwrap_or_default();
            let mut twin = vec!["repos", owner, name];
            twin.extend(target.segments.iter().skip(2));
            found = find(as_method, &twin, uploads)?;
            operation = Operation { name: found.0.name.to_owned(), class: found.0.class };
            let rest = write_segments(found.0, &found.1, &twin);
            written = [vec!["repositories".to_owned(), id], rest.into_iter().skip(3).collect()].concat();
        }
    }
    let (row, parameters) = found;
    if let [("owner", owner), ("repo", name), ..] = &parameters[..]
        && row.template.starts_with("/repos/")
        && scope.repo(owner, name).is_none()
    {
        foreign = foreign.or_else(|| Some(format!("{owner}/{name}")));
    }
    let read = as_method == "GET" && row.class == Class::ReadRepo;
    if foreign.is_some() && read && scope.reads_public() {
        operation.class = Class::ReadPublic;
    }
    let by_name = match search::is_search(row.name) {
        // A search reads across repositories unless its query limits it to some.
        true => {
            search::rest(scope, &operation, target)?;
            false
        }
        false => scope.operation(&operation)?,
    };
    if row.off && !by_name {
        let reason = format!("{} is off unless the policy allows it by name", row.name);
        return Err(Refused::of(&operation, Rule::GithubOffByDefault, reason));
    }
    if let Some(repo) = foreign.filter(|_| operation.class != Class::ReadPublic) {
        return Err(scope.foreign(&operation, &repo, read));
    }
    if as_method != "GET" && !target.query.is_empty() && !row.uploads {
        return Err(Refused::of(&operation, Rule::GithubQuery, "a write takes no query string"));
    }
    let unknown = target.query.iter().find(|(name, _)| !row.query.contains(&name.as_str()));
    if let Some((name, _)) = unknown
        && !row.uploads
    {
        let reason = format!("{} has no query parameter {name}", row.name);
        return Err(Refused::of(&operation, Rule::GithubQuery, reason));
    }
    if as_method == "GET" {
        let named = parameters.iter().map(|(name, value)| (*name, value));
        let asked = target.query.iter().map(|(name, value)| (name.as_str(), value));
        named.chain(asked).try_for_each(|(name, value)| revision(&operation, name, value))?;
    }
    Ok(Matched { row, parameters, target: target.write(&written), operation, by_name })
}

/// Judges a parameter of a read, if it is a revision. `OWNER:BRANCH` and `OWNER:NAME:BRANCH` are branches of other
/// repositories of the same network, forks included (documented for `compare`). No ref's name contains a colon
/// (git-check-ref-format(1)). A `%` is refused too, because a second decoding could turn it into a colon.
fn revision(operation: &Operation, name: &str, value: &str) -> Result<(), Refused> {
    if !REVISIONS.contains(&name) || !value.contains([':', '%']) {
        return Ok(());
    }
    let reason = format!("{name} may have no colon and no %, because OWNER:BRANCH is a branch of another repository");
    Err(Refused::of(operation, Class::ReadCross.rule(), reason))
}

impl Matched {
    /// Whether the body is a file to upload, which is not parsed.
    pub fn is_opaque(&self) -> bool {
        self.row.uploads
    }

    /// Whether the operation takes a body.
    pub fn takes_body(&self) -> bool {
        self.row.method != "GET"
    }

    /// Judges the body.
    ///
    /// # Errors
    /// If the request is refused.
    pub fn body(self, body: &[u8], scope: &Scope<'_>) -> Result<Allowed, Refused> {
        let operation = &self.operation;
        if !self.takes_body() && !body.is_empty() {
            return Err(Refused::of(operation, Rule::GithubBody, "a read takes no body"));
        }
        // One operation takes plain text instead of JSON.
        if self.row.body.first().is_some_and(|first| first.starts_with('<')) {
            return Ok(self.allowed(Some(body.to_vec()), None));
        }
        if body.is_empty() {
            let none = Json::Object(Vec::new());
            let question = guards::rest(scope, operation, &self.parameters, &none, self.by_name)?;
            let body = self.takes_body().then(Vec::new);
            return Ok(self.allowed(body, question));
        }
        let json = Json::parse(body)
            .map_err(|error| Refused::of(operation, Rule::GithubBody, format!("invalid JSON body: {error}")))?;
        // These two take a list of labels without the object around it too, as Octokit and Renovate send it.
        let json = match json {
            Json::Array(_) if ["issues/add-labels", "issues/set-labels"].contains(&self.row.name) => {
                Json::Object(vec![("labels".to_owned(), json)])
            }
            json => json,
        };
        let Json::Object(members) = &json else {
            return Err(Refused::of(operation, Rule::GithubBody, "the body has to be a JSON object"));
        };
        if let Some((name, _)) = members.iter().find(|(name, _)| !self.row.body.contains(&name.as_str())) {
            let reason = format!("the body of {} has no member {name:?}", self.row.name);
            return Err(Refused::of(operation, Rule::GithubBody, reason));
        }
        let question = guards::rest(scope, operation, &self.parameters, &json, self.by_name)?;
        Ok(self.allowed(Some(json.to_bytes()), question))
    }

    /// Allows the request with its body unread.
    pub fn unread(self) -> Allowed {
        self.allowed(None, None)
    }

    fn allowed(self, body: Option<Vec<u8>>, question: Option<Question>) -> Allowed {
        let rule = if self.by_name { Rule::GithubOperation } else { self.operation.class.rule() };
        Allowed { operation: self.operation, rule, target: self.target, body, ask: Vec::from_iter(question) }
    }
}

/// Whether `name` is a REST operation.
pub fn is_operation(name: &str) -> bool {
    ROWS.iter().any(|row| row.name == name)
}

type Parameters = Vec<(&'static str, String)>;
type Found = (&'static Row, Parameters);

/// The operation with the most specific template that matches.
fn find(method: &str, segments: &[&str], uploads: bool) -> Result<Found, Refused> {
    let key = key(method, segments);
    let group = INDEX.binary_search_by_key(&key.as_str(), |(key, _, _)| key);
    let rows =
        group.ok().and_then(|at| INDEX.get(at)).and_then(|(_, from, to)| ROWS.get(*from..*to)).unwrap_or_default();
    let mut best: Option<(Vec<u8>, Found)> = None;
    for row in rows.iter().filter(|row| row.uploads == uploads) {
        if let Some((fit, parameters)) = fits(row, segments)
            && best.as_ref().is_none_or(|(so_far, _)| fit > *so_far)
        {
            best = Some((fit, (row, parameters)));
        }
    }
    let Some((_, found)) = best else {
        let path: String = segments.iter().flat_map(|segment| ["/", *segment]).collect();
        let reason = format!("{method} {path} is not an operation that the gateway knows");
        return Err(Refused::unknown(Rule::GithubUnknownOperation, reason));
    };
    // An encoded slash in a parameter is sent as a plain slash. With plain slashes the path has to be the same
    // operation.
    if segments.iter().any(|segment| segment.contains('%')) {
        let sent = write_segments(found.0, &found.1, segments).join("/");
        let sent: Vec<&str> = sent.split('/').collect();
        if sent.len() != segments.len() && !std::ptr::eq(find(method, &sent, uploads)?.0, found.0) {
            return Err(Refused::unknown(
                Rule::GithubTarget,
                "with its slashes decoded, the path is another operation",
            ));
        }
    }
    Ok(found)
}

/// The key of a request in `INDEX`. `build.rs` computes the same keys.
fn key(method: &str, segments: &[&str]) -> String {
    match segments {
        ["repos", ..] => format!("{method} repos/{}", segments.get(3).unwrap_or(&"")),
        _ => format!("{method} {}", segments.first().unwrap_or(&"")),
    }
}

/// Matches `segments` against the template of `row`. Returns the decoded parameters, and a score for each part of the
/// template: 2 for a word, 1 for a parameter, 0 for a parameter of several segments. The greater list of scores is the
/// more specific template.
fn fits(row: &'static Row, segments: &[&str]) -> Option<(Vec<u8>, Parameters)> {
    let template: Vec<&'static str> = row.template.split('/').skip(1).collect();
    let mut fit = Vec::with_capacity(template.len());
    let mut parameters = Vec::new();
    let mut rest = segments;
    for (index, part) in template.iter().enumerate() {
        let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) else {
            let (first, after) = rest.split_first()?;
            if first != part {
                return None;
            }
            fit.push(2);
            rest = after;
            continue;
        };
        // The old spelling of `compare` has two parameters in one segment. The new spelling covers it.
        if name.contains(['{', '}']) {
            return None;
        }
        // A parameter of several segments is the last parameter of its template, so only words may follow it. It
        // takes all segments that those words leave.
        let after = template.len().checked_sub(index)?.checked_sub(1)?;
        if name == row.multi || name == "rest" {
            let take = rest.len().checked_sub(after).filter(|take| *take > 0)?;
            let (own, others) = rest.split_at_checked(take)?;
            parameters.push((name, several(&own.join("/"))?));
            fit.push(0);
            rest = others;
            continue;
        }
        let (first, others) = rest.split_first()?;
        parameters.push((name, one(name, first)?));
        fit.push(1);
        rest = others;
    }
    rest.is_empty().then_some((fit, parameters))
}

/// Decodes a parameter of one segment. Returns `None` if it is not spelled plainly.
fn one(name: &str, raw: &str) -> Option<String> {
    let number = NUMBERS.iter().any(|end| name.ends_with(end)) && !NOT_NUMBERS.contains(&name);
    if number {
        let digits = !raw.is_empty() && raw.len() <= 19 && raw.bytes().all(|b| b.is_ascii_digit());
        return (digits && !raw.starts_with('0')).then(|| raw.to_owned());
    }
    // The names of labels and environments may contain spaces.
    let value = if matches!(name, "name" | "environment_name") { encoded(raw, "")? } else { raw.to_owned() };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~:@+=,!".contains(c);
    let good = if raw.contains('%') {
        !value.contains(['/', '\\', '%']) && !value.chars().any(char::is_control)
    } else {
        value.chars().all(plain)
    };
    (good && !value.is_empty() && value != "." && value != "..").then_some(value)
}

/// Decodes a parameter that may span several segments. Returns `None` if it is not spelled plainly.
fn several(raw: &str) -> Option<String> {
    let value = encoded(raw, "/")?;
    // Some parsers drop white space at the ends.
    let good = |part: &str| !part.is_empty() && part != "." && part != ".." && part.trim() == part;
    let odd = value.contains(['%', '\\', ';']) || value.chars().any(char::is_control);
    (!odd && value.split('/').all(good)).then_some(value)
}

/// Percent-decodes `raw`. Returns `None` if a character is encoded that needs no encoding, unless `also` contains it.
fn encoded(raw: &str, also: &str) -> Option<String> {
    let value = target::decode(raw)?;
    let mut rest = raw;
    while let Some(at) = rest.find('%') {
        let hex = rest.get(at.checked_add(1)?..at.checked_add(3)?)?;
        let byte = u8::from_str_radix(hex, 16).ok()?;
        let c = char::from(byte);
        let needless = c.is_ascii_alphanumeric() || "-._~".contains(c);
        if needless && !also.contains(c) {
            return None;
        }
        rest = rest.get(at.checked_add(3)?..)?;
    }
    Some(value)
}

/// Writes the path's segments anew, from the template and the decoded parameters.
fn write_segments(row: &Row, parameters: &[(&'static str, String)], segments: &[&str]) -> Vec<String> {
    if segments == [""] {
        return vec![String::new()];
    }
    let mut values = parameters.iter();
    let mut written = Vec::new();
    for part in row.template.split('/').skip(1) {
        if !part.starts_with('{') {
            written.push(part.to_owned());
            continue;
        }
        let Some((name, value)) = values.next() else { continue };
        let several = *name == row.multi || *name == "rest";
        let set = if several { &target::IN_SEGMENTS } else { &target::IN_SEGMENT };
        written.push(target::encode(value, set));
    }
    written
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn found(method: &str, path: &str) -> String {
        let target = Target::parse(path.as_bytes()).unwrap();
        find(method, &target.segments, false).map_or_else(|_| "-".into(), |(row, _)| row.name.to_owned())
    }

    #[test]
    fn directories_may_end_with_one_slash() {
        for (method, target, sent) in [
            ("GET", "/repos/o/r/contents/", "/repos/o/r/contents"),
            ("GET", "/repos/o/r/contents/src/?ref=main", "/repos/o/r/contents/src?ref=main"),
            ("HEAD", "/repos/o/r/readme/", "/repos/o/r/readme"),
            ("GET", "/repos/o/r/git/matching-refs/heads/", "/repos/o/r/git/matching-refs/heads"),
            ("GET", "/repos/o/r/contents//", "/repos/o/r/contents/"),
            ("GET", "/repos/o/r/contents?ref=a/", "/repos/o/r/contents?ref=a/"),
            ("PUT", "/repos/o/r/contents/src/", "/repos/o/r/contents/src/"),
            ("GET", "/repos/o/r/pulls/", "/repos/o/r/pulls/"),
            ("GET", "/repos/o/r/", "/repos/o/r/"),
            ("GET", "/", "/"),
            ("GET", "", ""),
        ] {
            assert_eq!(*without_slash(method, target.as_bytes()), *sent.as_bytes(), "{method} {target}");
        }
    }

    #[test]
    fn the_most_specific_template_is_the_operation() {
        for (method, path, name) in [
            ("GET", "/", "meta/root"),
            ("GET", "/repos/o/r", "repos/get"),
            ("PUT", "/repos/o/r/pulls/7/merge", "pulls/merge"),
            ("GET", "/repos/o/r/branches/release/1.0", "repos/get-branch"),
            ("GET", "/repos/o/r/branches/release/1.0/protection", "repos/get-branch-protection"),
            ("GET", "/repos/o/r/branches/release%2F1.0", "repos/get-branch"),
            ("POST", "/repos/o/r/branches/release/1.0/rename", "repos/rename-branch"),
            ("GET", "/repos/o/r/rulesets/rule-suites", "repos/get-repo-rule-suites"),
            ("GET", "/repos/o/r/compare/main...x/y", "repos/compare-commits"),
            ("GET", "/user/repos", "repos/list-for-authenticated-user"),
            ("GET", "/user/42", "users/get-by-id"),
            ("PUT", "/repos/o/r/pulls/07/merge", "-"),
            ("PUT", "/repos/o/r/pulls/7/Merge", "-"),
            ("put", "/repos/o/r/pulls/7/merge", "-"),
            ("GET", "/repos/o/r/branches/a%2562", "-"),
            ("GET", "/repos/o/r/branches/%61", "-"),
            ("GET", "/repos/o/r/branches/main%2Fprotection", "-"),
            ("GET", "/repos/o/r/branches/main/protection%2Frestrictions", "-"),
            ("GET", "/repos/o/r/commits/main%2Fstatus", "-"),
            ("GET", "/repos/o/r/branches/main/protection%20", "-"),
            ("GET", "/repos/o/r/contents/a%20b", "repos/get-content"),
            ("GET", "/repos/o/r/contents", "repos/get-content"),
            ("PUT", "/repos/o/r/contents", "-"),
            ("GET", "/nowhere", "-"),
        ] {
            assert_eq!(found(method, path), name, "{method} {path}");
        }
    }
}
