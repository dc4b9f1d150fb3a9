//! GraphQL as far as `gh` uses it: one repository with one pull request and one issue. It is not a GraphQL server: it
//! chooses each response by the words in the document, and never fails.

use serde_json::{Value, json};

/// Ids in GitHub's form, of repository number [`REPO_ID`].
pub const REPO: &str = "R_kgDOAWBufw";
/// The repository's number in all of the ids.
pub const REPO_ID: u64 = 23_096_959;
/// The pull request's id.
pub const PULL_REQUEST: &str = "PR_kwDOAWBuf84Bh4UQ";
/// An id that names the same repository, but belongs to another repository's pull request.
pub const FORGED: &str = "PR_kwDOAWBuf84Bh4UR";
/// The issue's id.
pub const ISSUE: &str = "I_kwDOAWBuf84DDmhc";
/// The id of a comment of the gateway's own account, number [`COMMENT_NUMBER`].
pub const COMMENT: &str = "IC_kwDOAWBuf84D78lV";
/// The comment's number.
pub const COMMENT_NUMBER: u64 = 66_046_293;
/// The id of the label `automerge`.
pub const AUTOMERGE: &str = "LA_kwDOAWBuf84I_j_R";

/// The repository and the names in the gateway's query for the refs of a push. `None` for another document.
pub fn refs(body: &[u8]) -> Option<(String, Vec<String>)> {
    let request: Value = serde_json::from_slice(body).ok()?;
    request["query"].as_str().filter(|query| query.contains("r0:ref(qualifiedName:$r0)"))?;
    let variables = &request["variables"];
    let names = (0..).map_while(|at| variables[format!("r{at}")].as_str().map(str::to_owned)).collect();
    Some((format!("{}/{}", variables["owner"].as_str()?, variables["name"].as_str()?), names))
}

/// GitHub's response to `body`, the JSON of a POST to /graphql.
pub fn answer(body: &[u8]) -> Value {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let query = request["query"].as_str().unwrap_or_default();
    let mutation = query.trim_start().starts_with("mutation");
    if query.contains("nodes(ids:") || query.contains("nodes(ids :") {
        return json!({"data": {"nodes": nodes(&request)}});
    }
    // The gateway's question who wrote an issue or a pull request. The account has written the pull request.
    if query.contains("node:issueOrPullRequest(") {
        let number = request["variables"]["number"].as_u64();
        let node = json!({
            "__typename": "Issue", "repository": {"databaseId": REPO_ID}, "viewerDidAuthor": number == Some(7),
        });
        return json!({"data": {"repository": {"node": node}}});
    }
    let data = if mutation { mutated(query) } else { read(query) };
    json!({ "data": data })
}

/// The existing nodes of the requested ids, each with its repository.
fn nodes(request: &Value) -> Vec<Value> {
    let ids = request["variables"]["ids"].as_array().cloned().unwrap_or_default();
    ids.iter()
        .map(|id| match id.as_str().unwrap_or_default() {
            REPO => json!({"__typename": "Repository", "id": id, "databaseId": REPO_ID}),
            PULL_REQUEST => json!({
                "__typename": "PullRequest", "id": id, "repository": {"databaseId": REPO_ID}, "viewerDidAuthor": true,
            }),
            COMMENT => json!({
                "__typename": "IssueComment", "id": id, "repository": {"databaseId": REPO_ID}, "viewerDidAuthor": true,
            }),
            AUTOMERGE => json!({
                "__typename": "Label", "id": id, "name": "AutoMerge", "repository": {"databaseId": REPO_ID},
            }),
            user if user.starts_with("U_") => json!({"__typename": "User", "id": id, "login": "octocat"}),
            FORGED => json!({"__typename": "PullRequest", "id": id, "repository": {"databaseId": 5}}),
            ISSUE => json!({
                "__typename": "Issue", "id": id, "repository": {"databaseId": REPO_ID}, "viewerDidAuthor": false,
            }),
            reference if reference.starts_with("REF_") => json!({
                "__typename": "Ref", "id": id, "name": "sandbox/x", "prefix": "refs/heads/",
                "repository": {"databaseId": REPO_ID},
            }),
            _ => Value::Null,
        })
        .collect()
}

fn mutated(query: &str) -> Value {
    let pull_request = json!({"id": PULL_REQUEST, "url": "https://github.com/acme/app/pull/7", "number": 7});
    let issue = json!({"id": ISSUE, "url": "https://github.com/acme/app/issues/5", "number": 5});
    let comment = json!({"commentEdge": {"node": {"url": "https://github.com/acme/app/pull/7#issuecomment-1"}}});
    if query.contains("createPullRequest") {
        json!({"createPullRequest": {"pullRequest": pull_request}})
    } else if query.contains("createIssue") {
        json!({"createIssue": {"issue": issue}})
    } else {
        json!({"addComment": comment})
    }
}

fn read(query: &str) -> Value {
    let owner = json!({"id": "O_kgDOAEHT7A", "login": "acme", "name": "Acme"});
    let page = json!({"hasNextPage": false, "endCursor": null});
    let pull_request = json!({
        "id": PULL_REQUEST, "number": 7, "title": "a pull request", "state": "OPEN", "body": "its body",
        "url": "https://github.com/acme/app/pull/7", "headRefName": "sandbox/x", "baseRefName": "main",
        "isDraft": false, "isCrossRepository": false, "maintainerCanModify": true, "mergeable": "MERGEABLE",
        "headRepositoryOwner": owner, "headRepository": {"id": REPO, "name": "app"},
        "author": {"login": "bot"}, "createdAt": "2026-11-01T00:00:00Z", "updatedAt": "2026-11-01T00:00:00Z",
        "additions": 1, "deletions": 1, "reviewDecision": "", "mergeStateStatus": "CLEAN",
        "commits": {"totalCount": 1, "nodes": [{"commit": {"oid": "a", "statusCheckRollup": {"contexts": {
            "nodes": [{"__typename": "CheckRun", "name": "ci", "status": "COMPLETED", "conclusion": "SUCCESS",
                "startedAt": "2026-11-01T00:00:00Z", "completedAt": "2026-11-01T00:01:00Z",
                "detailsUrl": "https://example.com/"}],
            "pageInfo": page,
        }}}}]},
        "assignees": {"nodes": [], "totalCount": 0}, "labels": {"nodes": [], "totalCount": 0},
        "projectCards": {"nodes": [], "totalCount": 0}, "reviews": {"nodes": [], "pageInfo": page, "totalCount": 0},
        "reviewRequests": {"nodes": [], "totalCount": 0}, "milestone": null,
        "comments": {"nodes": [], "totalCount": 0, "pageInfo": page}, "reactionGroups": [],
    });
    let mut pull_request = pull_request;
    pull_request["statusCheckRollup"] = pull_request["commits"].clone();
    let issue = json!({
        "__typename": "Issue", "id": ISSUE, "number": 5, "title": "an issue", "state": "OPEN", "body": "its body",
        "url": "https://github.com/acme/app/issues/5", "author": {"login": "bot"},
        "createdAt": "2026-11-01T00:00:00Z", "updatedAt": "2026-11-01T00:00:00Z",
        "labels": {"nodes": [], "totalCount": 0}, "comments": {"nodes": [], "totalCount": 0, "pageInfo": page},
        "assignees": {"nodes": [], "totalCount": 0}, "projectCards": {"nodes": [], "totalCount": 0},
        "reactionGroups": [], "milestone": null,
    });
    let mut repository = json!({
        "id": REPO, "name": "app", "nameWithOwner": "acme/app", "owner": owner, "description": "an app",
        "hasIssuesEnabled": true, "hasWikiEnabled": true, "viewerPermission": "WRITE", "isPrivate": true, "parent": null,
        "defaultBranchRef": {"name": "main"}, "mergeCommitAllowed": true, "rebaseMergeAllowed": true,
        "squashMergeAllowed": true, "url": "https://github.com/acme/app", "issueOrPullRequest": issue, "issue": issue,
        "issues": {"totalCount": 1, "nodes": [issue], "pageInfo": page}, "pullRequest": pull_request,
        "object": null, "assignableUsers": {"nodes": [], "pageInfo": page}, "labels": {"nodes": [], "pageInfo": page},
        "milestones": {"nodes": [], "pageInfo": page}, "projects": {"nodes": [], "pageInfo": page},
        "issueTemplates": [], "pullRequestTemplates": [], "branches": {"nodes": []}, "refs": {"nodes": []},
    });
    let none_yet = query.contains("headRefName") && query.contains("$headRefName");
    repository["pullRequests"] = match none_yet {
        // gh sends this query before it creates one.
        true => json!({"totalCount": 0, "nodes": [], "pageInfo": page}),
        false => json!({"totalCount": 1, "nodes": [pull_request], "pageInfo": page}),
    };
    // gh parses some responses strictly: they must contain only the requested fields.
    let viewer = match query.contains("viewer{login}") || query.contains("viewer { login }") {
        true => json!({"login": "bot"}),
        false => json!({"login": "bot", "id": "U_kgDOADP9xw"}),
    };
    let mut data = json!({
        "viewer": viewer, "repository": repository, "repo_000": repository,
        "node": pull_request, "organization": null,
        "Issue": {"fields": []}, "PullRequest": {"fields": []}, "Repository": {"fields": []},
        "search": {"issueCount": 1, "nodes": [pull_request], "pageInfo": page},
    });
    let compact: String = query.split_whitespace().collect();
    let asked = |name: &str| {
        let ends: &[&str] = if name.starts_with(char::is_uppercase) { &[":__type"] } else { &["{", "(", ":"] };
        ends.iter().any(|end| compact.contains(&format!("{name}{end}")))
    };
    if let Some(data) = data.as_object_mut() {
        data.retain(|name, _| asked(name));
    }
    data
}
