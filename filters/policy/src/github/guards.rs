//! Guards on the content of a REST write: on the members of its body, by their names, and on the refs that it moves.

use super::json::Json;
use super::{Class, Operation, Question, Refused, Scope, question};
use crate::{Existing, Rule, branch_of};

/// Judges the parameters and the body of a REST operation that the rules allow. Returns the question to GitHub that is
/// left, if there is one. With `by_name` the policy allows the operation by its name. This lifts the guards that are a
/// matter of taste, and no guard that protects refs or repositories.
///
/// # Errors
/// If the request is refused.
pub fn rest(
    scope: &Scope<'_>,
    operation: &Operation,
    parameters: &[(&'static str, String)],
    body: &Json,
    by_name: bool,
) -> Result<Option<Question>, Refused> {
    let refuse = |rule, reason: &str| Err(Refused::of(operation, rule, reason));
    let parameter = |name: &str| parameters.iter().find(|(have, _)| *have == name).map(|(_, value)| value.as_str());
    let repo = parameter("owner").zip(parameter("repo")).and_then(|(owner, name)| scope.repo(owner, name));
    let branches = &scope.rules.branches;
    match operation.name.as_str() {
        "git/create-ref" => scope.reference(operation, repo, text(operation, body, "ref")?, Existing::No)?,
        "git/update-ref" => {
            let name = format!("refs/{}", parameter("ref").unwrap_or_default());
            scope.reference(operation, repo, &name, Existing::Yes)?;
            let may_force = || branch_of(&name).is_some_and(|branch| branches.may_force(scope.container, branch));
            match body.get("force") {
                None | Some(Json::Bool(false)) => {}
                Some(Json::Bool(true)) if may_force() => {}
                _ => return refuse(Rule::GithubForce, "a branch may not be moved by force"),
            }
        }
        "git/delete-ref" => {
            let name = format!("refs/{}", parameter("ref").unwrap_or_default());
            scope.reference(operation, repo, &name, Existing::Yes)?;
            if !branches.allow_deletion {
                return refuse(Rule::GithubDeleteBranch, "a branch may not be deleted");
            }
        }
        "repos/create-or-update-file-contents" | "repos/delete-file" => {
            // Without `branch` GitHub would write to the default branch. In an empty repository it creates the branch.
            scope.branch(operation, repo, text(operation, body, "branch")?, Existing::Unknown)?;
            scope.path(operation, parameter("path").unwrap_or_default())?;
        }
        "repos/merge" => {
            scope.branch(operation, repo, text(operation, body, "base")?, Existing::Yes)?;
            // `owner:branch` is a branch of another repository.
            if body.get("head").and_then(Json::as_str).is_some_and(|head| head.contains(':')) {
                let reason = "head has to be a branch or a commit of the same repository";
                return refuse(Class::ReadCross.rule(), reason);
            }
        }
        "repos/merge-upstream" => scope.branch(operation, repo, text(operation, body, "branch")?, Existing::Yes)?,
        "code-scanning/commit-autofix" => {
            scope.reference(operation, repo, text(operation, body, "target_ref")?, Existing::Yes)?;
        }
        "repos/rename-branch" => return refuse(Rule::GithubDeleteBranch, "renaming a branch deletes its old name"),
        "git/create-tree" => tree(scope, operation, body)?,
        "pulls/create" => head(scope, operation, body)?,
        "pulls/update" if body.get("base").is_some() && !by_name => {
            return refuse(Rule::GithubBase, "the base of a pull request may not be changed");
        }
        "issues/remove-label" | "issues/update-label" | "issues/delete-label" => {
            scope.drop_label(operation, parameter("name").unwrap_or_default())?;
        }
        "issues/remove-all-labels" | "issues/set-labels" => scope.all_labels(operation)?,
        "issues/update" if body.get("labels").is_some() => scope.all_labels(operation)?,
        "markdown/render" => {
            // GitHub looks up each reference `owner/name#1`, and a link in the answer says that the issue exists.
            let plain = matches!(body.get("mode"), None | Some(Json::Null))
                || body.get("mode").and_then(Json::as_str) == Some("markdown");
            if !plain && !by_name {
                let reason = "only the mode markdown is allowed, because gfm looks up issues of other repositories";
                return refuse(Class::ReadCross.rule(), reason);
            }
            if let Some(context) = body.get("context") {
                let listed = context.as_str().and_then(|name| name.split_once('/'));
                if listed.is_none_or(|(owner, name)| scope.repo(owner, name).is_none()) {
                    return refuse(Rule::GithubRepo, "the context is not one of this container's repositories");
                }
            }
        }
        _ => {}
    }
    if operation.class == Class::WriteCollab {
        for (name, value) in body.members() {
            member(scope, operation, name, value)?;
        }
    }
    let has_text = ["title", "body"].iter().any(|name| body.get(name).is_some_and(|text| *text != Json::Null));
    if has_text && !by_name { question::rewrite(scope, operation, parameters) } else { Ok(None) }
}

/// The text of the required member `name`.
fn text<'a>(operation: &Operation, body: &'a Json, name: &str) -> Result<&'a str, Refused> {
    body.get(name).and_then(Json::as_str).filter(|text| !text.is_empty()).ok_or_else(|| {
        let reason =
            format!("{name} is required and has to be a string, because GitHub would use a default in its place");
        Refused::of(operation, Rule::GithubBranchMissing, reason)
    })
}

/// Judges one member of the body of any write to issues or pull requests.
fn member(scope: &Scope<'_>, operation: &Operation, name: &str, value: &Json) -> Result<(), Refused> {
    match name {
        "title" | "body" | "description" | "message" => match value {
            Json::String(text) => scope.text(operation, text),
            Json::Null | Json::Number(_) | Json::Bool(_) => Ok(()),
            _ => Err(odd(operation, name)),
        },
        "assignee" => match value {
            Json::String(login) => scope.login(operation, login),
            Json::Null => Ok(()),
            _ => Err(odd(operation, name)),
        },
        "assignees" => match value {
            Json::Array(items) => items.iter().try_for_each(|item| {
                let login = chosen(scope, operation, name, item, "login")?;
                scope.login(operation, login)
            }),
            _ => Err(odd(operation, name)),
        },
        "reviewers" => each(operation, name, value, |login| scope.login(operation, login)),
        "team_reviewers" => each(operation, name, value, |_| Ok(())),
        "labels" => match value {
            Json::Array(items) => items.iter().try_for_each(|item| {
                let label = chosen(scope, operation, name, item, "name")?;
                scope.label(operation, label)
            }),
            _ => Err(odd(operation, name)),
        },
        // The type of an issue and the values of its fields, each with a text that gives the reason.
        "type" | "issue_field_values" => {
            let mut text = String::new();
            strings(value, &mut text);
            scope.text(operation, &text)
        }
        "name" | "new_name" => match value {
            Json::String(label) => scope.label(operation, label),
            _ => Err(odd(operation, name)),
        },
        "event" => match value {
            Json::String(event) => scope.review_event(operation, event),
            _ => Err(odd(operation, name)),
        },
        // The comments of a review, each with its own body.
        "comments" => match value {
            Json::Array(items) => items.iter().try_for_each(|item| {
                item.members().iter().try_for_each(|(name, value)| match name.as_str() {
                    "body" | "path" | "position" | "line" | "side" | "start_line" | "start_side" => {
                        member(scope, operation, name, value)
                    }
                    _ => Err(odd(operation, name)),
                })
            }),
            _ => Err(odd(operation, name)),
        },
        // GitHub's internal issue numbers, which may belong to any repository.
        "issue_id" | "parent_issue_id" | "sub_issue_id" | "after_id" | "before_id" | "duplicate_issue_id" => {
            let reason = format!("{name} may name an issue of another repository");
            Err(Refused::of(operation, Rule::GithubForeignIssue, reason))
        }
        "head_repo" => Err(Refused::of(
            operation,
            Rule::GithubHead,
            "head_repo may not be set; the head has to be in the same repository",
        )),
        _ => Ok(()),
    }
}

/// The name of a label or the login of an assignee, which is a string, or an object with the name in `key` and the reason
/// for the choice. Any other member of the object, such as `id`, could name another label.
fn chosen<'a>(
    scope: &Scope<'_>,
    operation: &Operation,
    member: &str,
    item: &'a Json,
    key: &str,
) -> Result<&'a str, Refused> {
    for (name, value) in item.members() {
        match (name.as_str(), value) {
            ("rationale", Json::String(text)) => scope.text(operation, text)?,
            ("suggest", Json::Bool(_)) | ("confidence", Json::String(_)) => {}
            (name, Json::String(_)) if name == key => {}
            _ => return Err(odd(operation, member)),
        }
    }
    item.as_str().or_else(|| item.get(key).and_then(Json::as_str)).ok_or_else(|| odd(operation, member))
}

/// Appends each string in `value` to `text`, as a line of its own. Names of members are left out.
fn strings(value: &Json, text: &mut String) {
    match value {
        Json::String(part) => {
            text.push_str(part);
            text.push('\n');
        }
        Json::Array(items) => items.iter().for_each(|item| strings(item, text)),
        Json::Object(members) => members.iter().for_each(|(_, value)| strings(value, text)),
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

fn odd(operation: &Operation, name: &str) -> Refused {
    Refused::of(operation, Rule::GithubBody, format!("{name} has the wrong type"))
}

fn each(
    operation: &Operation,
    name: &str,
    value: &Json,
    check: impl Fn(&str) -> Result<(), Refused>,
) -> Result<(), Refused> {
    let Json::Array(items) = value else { return Err(odd(operation, name)) };
    items.iter().try_for_each(|item| item.as_str().map_or_else(|| Err(odd(operation, name)), &check))
}

/// Judges the head of a new pull request, which has to be one of the container's branches. A prefix `owner:` has to
/// name the owner of one of the container's repositories.
fn head(scope: &Scope<'_>, operation: &Operation, body: &Json) -> Result<(), Refused> {
    let head = text(operation, body, "head")?;
    let branch = match head.split_once(':') {
        None => head,
        Some((owner, branch)) if scope.container.repos.iter().any(|repo| repo.owner().eq_ignore_ascii_case(owner)) => {
            branch
        }
        Some(_) => {
            let reason = format!("{head} is not in one of this container's repositories");
            return Err(Refused::of(operation, Rule::GithubHead, reason));
        }
    };
    scope.head(operation, branch)
}

/// Judges a new tree: it may hold only files that the container may write to. An entry for another tree, a commit or a
/// symbolic link would add content that is not visible here.
fn tree(scope: &Scope<'_>, operation: &Operation, body: &Json) -> Result<(), Refused> {
    let refuse = |reason: String| Err(Refused::of(operation, Rule::GithubTree, reason));
    let Some(Json::Array(entries)) = body.get("tree") else { return refuse("tree has to be a list".into()) };
    for entry in entries {
        for (name, value) in entry.members() {
            match (name.as_str(), value) {
                ("path" | "mode" | "type" | "content", Json::String(_)) | ("sha", Json::String(_) | Json::Null) => {}
                _ => {
                    return refuse(format!(
                        "an entry of tree has an unknown member {name:?}, or one of the wrong type"
                    ));
                }
            }
        }
        let member = |name: &str| entry.get(name).and_then(Json::as_str);
        let Some(path) = member("path") else { return refuse("an entry of tree has no path".into()) };
        scope.path(operation, path)?;
        let mode = member("mode").unwrap_or_default();
        let kind = member("type").unwrap_or("blob");
        let by_sha = entry.get("sha").is_some_and(|sha| *sha != Json::Null);
        let bot = scope.container.auth_mode == crate::AuthMode::Bot;
        if !bot {
            continue;
        }
        if !matches!(mode, "100644" | "100755") || kind != "blob" {
            return refuse(format!("{path} has mode {mode:?}; a bot may write only regular files (100644, 100755)"));
        }
        let named = |part: &str| ["workflows", ".github"].iter().any(|name| part.eq_ignore_ascii_case(name));
        if by_sha && path.rsplit('/').next().is_some_and(named) {
            return refuse(format!("{path} is given by a sha, so its content can't be checked"));
        }
    }
    Ok(())
}
