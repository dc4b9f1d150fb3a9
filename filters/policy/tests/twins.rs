//! Holds the two tables of operations against each other: what one half of GitHub's API refuses, the other refuses too.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use policy::Container;
use policy::github::{Class, Judge, Purpose, Rules};
use std::collections::{BTreeMap, BTreeSet};
use support::{Row, container, judged, rows};

const GITHUB: &str = "api.github.com";

/// A judge that allows every class.
fn everything() -> Judge {
    let classes = BTreeSet::from(Class::ALL);
    Judge::new(&Rules { bot: classes.clone(), user: classes, ..Rules::default() }).unwrap()
}

fn rule(judge: &Judge, who: &Container, method: &str, target: &str, body: &str) -> Result<&'static str, &'static str> {
    match judged(judge, who, (GITHUB, method, target), &[], body) {
        Ok(allowed) => Ok(if allowed.ask.is_empty() { "allow" } else { "ask" }),
        Err(refused) => Err(refused.denial.rule.name()),
    }
}

/// The names of a row's parameters, in its path and its query.
fn parameters(row: &Row) -> impl Iterator<Item = &str> {
    let in_path = row.template.split('{').skip(1).map(|part| part.split('}').next().unwrap());
    in_path.chain(row.query.iter().map(String::as_str))
}

/// Parts of the names of parameters that may be revisions.
const LIKE_A_REVISION: [&str; 9] = ["ref", "sha", "base", "head", "branch", "tag", "commit", "tree", "revision"];

/// Parameters with such a name that are something else: filters, and numbers.
const NO_REVISION: [(&str, &str); 6] = [
    ("ahead_of_job", "actions/get-concurrency-group-for-repository"),
    ("ahead_of_run", "actions/get-concurrency-group-for-repository"),
    ("branch_policy_id", "repos/get-deployment-branch-policy"),
    ("committer", "repos/list-commits"),
    ("epss_percentage", "dependabot/list-alerts-for-repo"),
    ("head", "pulls/list"),
];

/// Every read with a parameter that is a revision refuses `OWNER:BRANCH` in it, whatever its class.
#[test]
fn no_read_takes_a_revision_of_another_repository() {
    let (judge, who) = (everything(), container("bot"));
    let mut ran = BTreeMap::new();
    for row in rows().iter().filter(|row| row.method == "GET" && row.template.starts_with("/repos/")) {
        let may = |name: &&str| LIKE_A_REVISION.iter().any(|part| name.contains(part));
        for name in parameters(row).filter(may) {
            // No request matches the old spelling of `compare`; the new one covers it.
            if NO_REVISION.contains(&(name, row.operation.as_str())) || row.template.contains("{base}...{head}") {
                continue;
            }
            let named = format!("{{{name}}}");
            let in_path = row.template.contains(&named);
            let fill = |value: &str| {
                let row = Row { template: row.template.replace(&named, value), ..row.clone() };
                if in_path { row.target() } else { format!("{}?{name}={value}", row.target()) }
            };
            assert!(rule(&judge, &who, "GET", &fill("main"), "").is_ok(), "{}", fill("main"));
            for value in ["other:main", "main...other:main", "main..other:x:main", ":main", "a:", "x:refs/heads/main"] {
                if in_path && value.contains('/') && row.multi != name {
                    continue;
                }
                let target = fill(value);
                for (method, target) in [
                    ("GET", target.clone()),
                    ("HEAD", target.clone()),
                    ("GET", target.replacen("/repos/o/r", "/repositories/7", 1)),
                ] {
                    assert_eq!(rule(&judge, &who, method, &target, ""), Err("github.read-cross"), "{method} {target}");
                }
                // A slash or a colon in another spelling is refused one way or the other.
                for spelling in ["%3A", "%3a", "%253A"] {
                    let target = fill(&value.replace(':', spelling));
                    assert!(rule(&judge, &who, "GET", &target, "").is_err(), "{target}");
                }
            }
            *ran.entry(name.to_owned()).or_insert(0) += 1;
        }
    }
    assert!(ran.len() >= 10 && ran.values().sum::<i32>() > 40, "{ran:?}");
}

#[test]
fn what_stays_allowed_beside_a_revision() {
    let (judge, who) = (Judge::new(&Rules::default()).unwrap(), container("bot"));
    for target in [
        "/repos/o/r/compare/main...sandbox/x",
        "/repos/o/r/compare/v1.0...main",
        "/repos/o/r/pulls?head=o:sandbox/x&state=open",
        "/repos/o/r/contents/a:b.txt?ref=main",
        "/repos/o/r/commits?sha=sandbox/x&path=a:b&since=2026-11-01T00:00:00Z",
        "/repos/o/r/attestations/sha256:abc",
    ] {
        assert_eq!(rule(&judge, &who, "GET", target, ""), Ok("allow"), "{target}");
    }
}

/// Views of objects that may belong to another repository. Views of repositories have only the data that REST shows
/// beside each fork.
const FOREIGN: [&str; 9] = [
    "Closer~",
    "Commit~",
    "Discussion~",
    "Issue~",
    "IssueConnection~",
    "IssueOrPullRequest~",
    "PullRequest~",
    "PullRequestConnection~",
    "ReferencedSubject~",
];

/// The fields of GraphQL that lead to such a view, and the REST operation that answers the same objects. The fields of
/// events have the one twin [`TIMELINE`].
const READS: [(&str, Option<&str>); 12] = [
    ("CheckSuite.matchingPullRequests", None),
    ("Commit.associatedPullRequests", Some("repos/list-pull-requests-associated-with-commit")),
    ("Issue.blockedBy", Some("issues/list-dependencies-blocked-by")),
    ("Issue.blocking", Some("issues/list-dependencies-blocking")),
    ("Issue.closedByPullRequestsReferences", None),
    ("Issue.duplicateOf", None),
    ("Issue.parent", Some("issues/get-parent")),
    ("Issue.subIssues", Some("issues/list-sub-issues")),
    ("Issue.trackedInIssues", None),
    ("Issue.trackedIssues", None),
    ("PullRequest.closingIssuesReferences", None),
    ("Ref.associatedPullRequests", None),
];
const TIMELINE: &str = "issues/list-events-for-timeline";

/// REST operations that answer objects of other repositories, and have no field in GraphQL's tables.
const REST_ALONE: [&str; 2] = ["issues/list-relates-to", "repos/list-forks"];

/// A field of GraphQL that has a view, because its object may belong to another repository, has no REST operation that
/// answers the object as a whole.
#[test]
fn what_graphql_narrows_rest_refuses() {
    let text = std::fs::read_to_string("data/graphql-types.tsv").unwrap();
    let mut fields = BTreeSet::new();
    for line in text.lines().skip(2) {
        let [of, field, to, _] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        if FOREIGN.contains(&to) && !of.ends_with(['~']) && !of.ends_with("Event") {
            fields.insert(format!("{of}.{field}"));
        }
    }
    let known: BTreeSet<String> = READS.iter().map(|(field, _)| (*field).to_owned()).collect();
    assert_eq!(fields, known, "each field has its twin in READS");
    let (judge, who) = (Judge::new(&Rules::default()).unwrap(), container("user"));
    let classes: BTreeMap<String, Row> = rows().into_iter().map(|row| (row.operation.clone(), row)).collect();
    let twins = READS.iter().filter_map(|(_, rest)| *rest).chain([TIMELINE]).chain(REST_ALONE);
    for operation in twins {
        let row = &classes[operation];
        assert_eq!(row.class, "read-cross", "{operation}");
        assert_eq!(rule(&judge, &who, "GET", &row.target(), ""), Err("github.read-cross"), "{operation}");
    }
}

/// Mutations and the REST operations that do the same.
const WRITES: [(&str, &str); 56] = [
    ("addAssigneesToAssignable", "issues/add-assignees"),
    ("addBlockedBy", "issues/add-blocked-by-dependency"),
    ("addComment", "issues/create-comment"),
    ("addLabelsToLabelable", "issues/add-labels"),
    ("addPullRequestReview", "pulls/create-review"),
    ("addPullRequestReviewComment", "pulls/create-review-comment"),
    ("addPullRequestReviewThread", "pulls/create-review-comment"),
    ("addPullRequestReviewThreadReply", "pulls/create-reply-for-review-comment"),
    ("addReaction", "reactions/create-for-issue"),
    ("addRelatesTo", "issues/add-relates-to"),
    ("addSubIssue", "issues/add-sub-issue"),
    ("applyPendingIssueSuggestions", "issues/approve-suggestion"),
    ("clearLabelsFromLabelable", "issues/remove-all-labels"),
    ("closeIssue", "issues/update"),
    ("closePullRequest", "pulls/update"),
    ("createCommitOnBranch", "repos/create-or-update-file-contents"),
    ("createIssue", "issues/create"),
    ("createIssueFieldValue", "issues/add-issue-field-values"),
    ("createLabel", "issues/create-label"),
    ("createPullRequest", "pulls/create"),
    ("createRef", "git/create-ref"),
    ("deleteIssueComment", "issues/delete-comment"),
    ("deleteIssueFieldValue", "issues/delete-issue-field-value"),
    ("deleteLabel", "issues/delete-label"),
    ("deletePullRequestReview", "pulls/delete-pending-review"),
    ("deletePullRequestReviewComment", "pulls/delete-review-comment"),
    ("deleteRef", "git/delete-ref"),
    ("lockLockable", "issues/lock"),
    ("mergeBranch", "repos/merge"),
    ("pinIssueComment", "issues/pin-comment"),
    ("rejectPendingIssueSuggestions", "issues/dismiss-suggestion"),
    ("removeAssigneesFromAssignable", "issues/remove-assignees"),
    ("removeBlockedBy", "issues/remove-dependency-blocked-by"),
    ("removeLabelsFromLabelable", "issues/remove-label"),
    ("removeReaction", "reactions/delete-for-issue"),
    ("removeRelatesTo", "issues/remove-relates-to"),
    ("removeSubIssue", "issues/remove-sub-issue"),
    ("reopenIssue", "issues/update"),
    ("reopenPullRequest", "pulls/update"),
    ("replaceActorsForAssignable", "issues/add-assignees"),
    ("reprioritizeSubIssue", "issues/reprioritize-sub-issue"),
    ("requestReviews", "pulls/request-reviewers"),
    ("requestReviewsByLogin", "pulls/request-reviewers"),
    ("rerequestReviews", "pulls/rerequest-reviewers"),
    ("setIssueFieldValue", "issues/set-issue-field-values"),
    ("submitPullRequestReview", "pulls/submit-review"),
    ("unlockLockable", "issues/unlock"),
    ("unpinIssueComment", "issues/unpin-comment"),
    ("updateIssue", "issues/update"),
    ("updateIssueComment", "issues/update-comment"),
    ("updateIssueIssueType", "issues/update"),
    ("updateLabel", "issues/update-label"),
    ("updatePullRequest", "pulls/update"),
    ("updatePullRequestBranch", "pulls/update-branch"),
    ("updatePullRequestReview", "pulls/update-review"),
    ("updatePullRequestReviewComment", "pulls/update-review-comment"),
];

/// Mutations of the same classes that REST has no operation for.
const WITHOUT: [&str; 32] = [
    "addCloseIssueReferences",
    "addDiscussionComment",
    "addDiscussionPollVote",
    "addUpvote",
    "closeDiscussion",
    "convertPullRequestToDraft",
    "createDiscussion",
    "createLinkedBranch",
    "deleteDiscussion",
    "deleteDiscussionComment",
    "deleteLinkedBranch",
    "markDiscussionCommentAsAnswer",
    "markFileAsViewed",
    "markPullRequestReadyForReview",
    "minimizeComment",
    "pinIssue",
    "removeCloseIssueReferences",
    "removeUpvote",
    "reopenDiscussion",
    "resolveReviewThread",
    "revertPullRequest",
    "unmarkDiscussionCommentAsAnswer",
    "unmarkFileAsViewed",
    "unmarkIssueAsDuplicate",
    "unminimizeComment",
    "unpinIssue",
    "unresolveReviewThread",
    "updateDiscussion",
    "updateDiscussionComment",
    "updateIssueFieldValue",
    "updateRef",
    "updateRefs",
];

#[test]
fn a_mutation_and_its_twin_have_one_class_and_one_default() {
    let text = std::fs::read_to_string("data/graphql-mutations.tsv").unwrap();
    let rest: BTreeMap<String, Row> = rows().into_iter().map(|row| (row.operation.clone(), row)).collect();
    let mut open: BTreeSet<&str> = BTreeSet::new();
    for line in text.lines().skip(2) {
        let [name, class, _, _, default, _] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        if !matches!(class, "write-collab" | "write-ref" | "write-object") {
            continue;
        }
        match WRITES.iter().find(|(mutation, _)| *mutation == name) {
            Some((_, twin)) => {
                let twin = &rest[*twin];
                assert_eq!((class, default == "off"), (twin.class.as_str(), twin.off), "{name}, {}", twin.operation);
            }
            None => _ = open.insert(name),
        }
    }
    assert_eq!(open, BTreeSet::from(WITHOUT), "each mutation has its twin in WRITES, or no twin");
}

const PR: &str = "PR_kwAHzgGHhRA";

/// A container whose repository has the number that the ids here name.
fn numbered(force: bool) -> Container {
    Container { force_own_branches: force, ..container("bot") }
}

fn mutation(name: &str, input: &str) -> String {
    let query = format!("mutation{{{name}(input:{input}){{clientMutationId}}}}");
    serde_json::json!({ "query": query }).to_string()
}

/// One write by both halves: the same rule, or the same question to GitHub.
#[test]
fn a_write_has_the_same_verdict_by_both_halves() {
    let held = Rules { held_labels: vec!["hold".into()], ..Rules::default() };
    let oid = "a".repeat(40);
    let own = format!("refUpdates:[{{name:\"refs/heads/sandbox/x\" afterOid:\"{oid}\" force:true}}]");
    let other = format!("refUpdates:[{{name:\"refs/heads/other\" afterOid:\"{oid}\" force:true}}]");
    for (rules, force, rest, graphql, expected) in [
        (
            &Rules::default(),
            false,
            ("PATCH", "git/refs/heads/sandbox/x", r#"{"sha":"a","force":true}"#),
            ("updateRefs", format!("{{repositoryId:\"R_kgAH\" {own}}}")),
            "github.force",
        ),
        (
            &Rules::default(),
            true,
            ("PATCH", "git/refs/heads/sandbox/x", r#"{"sha":"a","force":true}"#),
            ("updateRefs", format!("{{repositoryId:\"R_kgAH\" {own}}}")),
            "allow",
        ),
        (
            &Rules::default(),
            true,
            ("PATCH", "git/refs/heads/other", r#"{"sha":"a","force":true}"#),
            ("updateRefs", format!("{{repositoryId:\"R_kgAH\" {other}}}")),
            "github.branch",
        ),
        (
            &Rules::default(),
            false,
            ("POST", "merges", r#"{"base":"sandbox/x","head":"other:main"}"#),
            ("mergeBranch", "{repositoryId:\"R_kgAH\" base:\"sandbox/x\" head:\"other:main\"}".into()),
            "github.read-cross",
        ),
        (
            &Rules::default(),
            false,
            ("POST", "issues/7/comments", r#"{"body":"cc @copilot"}"#),
            ("addComment", format!("{{subjectId:\"{PR}\" body:\"cc @copilot\"}}")),
            "github.command",
        ),
        (
            &Rules::default(),
            false,
            ("PATCH", "pulls/7", r#"{"title":"t"}"#),
            ("updatePullRequest", format!("{{pullRequestId:\"{PR}\" title:\"t\"}}")),
            "ask",
        ),
        (
            &Rules::default(),
            false,
            ("PATCH", "issues/comments/7", r#"{"body":"."}"#),
            ("updateIssueComment", "{id:\"IC_kwAHzgPvyVU\" body:\".\"}".into()),
            "ask",
        ),
        (
            &held,
            false,
            ("PATCH", "issues/7", r#"{"labels":[]}"#),
            ("updateIssue", "{id:\"I_kwAHzgMOaFw\" labelIds:[]}".into()),
            "github.label",
        ),
        (
            &Rules::default(),
            false,
            ("DELETE", "issues/7/labels", ""),
            ("clearLabelsFromLabelable", format!("{{labelableId:\"{PR}\"}}")),
            "github.off-by-default",
        ),
        (
            &Rules::default(),
            false,
            ("POST", "pulls/7/requested_reviewers/rerequest", ""),
            ("rerequestReviews", format!("{{pullRequestId:\"{PR}\"}}")),
            "github.off-by-default",
        ),
        (
            &Rules::default(),
            false,
            ("POST", "pulls/7/requested_reviewers", r#"{"reviewers":["copilot-pull-request-reviewer"]}"#),
            (
                "requestReviewsByLogin",
                format!("{{pullRequestId:\"{PR}\" userLogins:[\"copilot-pull-request-reviewer\"]}}"),
            ),
            "github.agent",
        ),
    ] {
        let (judge, who) = (Judge::new(rules).unwrap(), numbered(force));
        let (method, path, body) = rest;
        let by_rest = rule(&judge, &who, method, &format!("/repos/o/r/{path}"), body);
        assert_eq!(by_rest.unwrap_or_else(|rule| rule), expected, "{method} {path} {body}");
        let (name, input) = graphql;
        let by_graphql = rule(&judge, &who, "POST", "/graphql", &mutation(name, &input));
        assert_eq!(by_graphql.unwrap_or_else(|rule| rule), expected, "{name} {input}");
    }
}

/// Labels and people by their ids are questions with a purpose, which GitHub's names answer.
#[test]
fn what_a_name_may_not_do_an_id_is_asked_about() {
    let (judge, who) = (Judge::new(&Rules::default()).unwrap(), numbered(true));
    let label = "LA_kwAHzgj-P9E";
    let user = "U_kgDOADP9xw";
    // sandbox/x of repository 7.
    let own = "REF_kwAHtHJlZnMvaGVhZHMvc2FuZGJveC94";
    let issue = "I_kwAHzgMOaFw";
    for (name, input, purpose) in [
        ("addLabelsToLabelable", format!("{{labelableId:\"{issue}\" labelIds:[\"{label}\"]}}"), Purpose::SetLabel),
        (
            "addLabelsToLabelable",
            format!("{{labelableId:\"{issue}\" labels:[{{labelId:\"{label}\"}}]}}"),
            Purpose::SetLabel,
        ),
        ("createIssue", format!("{{repositoryId:\"R_kgAH\" title:\"t\" labelIds:[\"{label}\"]}}"), Purpose::SetLabel),
        ("updatePullRequest", format!("{{pullRequestId:\"{PR}\" labelIds:\"{label}\"}}"), Purpose::SetLabel),
        (
            "removeLabelsFromLabelable",
            format!("{{labelableId:\"{issue}\" labelIds:[\"{label}\"]}}"),
            Purpose::DropLabel,
        ),
        ("updateLabel", format!("{{id:\"{label}\" name:\"bug\"}}"), Purpose::DropLabel),
        ("addAssigneesToAssignable", format!("{{assignableId:\"{issue}\" assigneeIds:[\"{user}\"]}}"), Purpose::Person),
        ("requestReviews", format!("{{pullRequestId:\"{PR}\" userIds:\"{user}\"}}"), Purpose::Person),
        ("replaceActorsForAssignable", format!("{{assignableId:\"{issue}\" actorIds:[\"{user}\"]}}"), Purpose::Person),
        ("updateRef", format!("{{refId:\"{own}\" oid:\"{}\" force:true}}", "a".repeat(40)), Purpose::Force),
        ("updateRef", format!("{{refId:\"{own}\" oid:\"{}\" force:false}}", "a".repeat(40)), Purpose::Write),
        ("updateIssue", format!("{{id:\"{issue}\" body:\"b\"}}"), Purpose::Rewrite),
        ("updateIssue", format!("{{id:\"{issue}\" state:CLOSED}}"), Purpose::Write),
        ("addComment", format!("{{subjectId:\"{issue}\" body:\"b\"}}"), Purpose::Write),
    ] {
        let allowed = judged(&judge, &who, (GITHUB, "POST", "/graphql"), &[], &mutation(name, &input))
            .unwrap_or_else(|refused| panic!("{name} {input}: {refused:?}"));
        assert!(allowed.ask.iter().any(|question| question.purpose == purpose), "{name} {input}: {:?}", allowed.ask);
        let stray = |have: Purpose| ![purpose, Purpose::Write].contains(&have);
        assert!(!allowed.ask.iter().any(|question| stray(question.purpose)), "{name} {input}: {:?}", allowed.ask);
    }
}

/// A choice may have a text with the reason for it, which both halves read for commands.
#[test]
fn a_reason_and_the_value_of_a_field_are_read_for_commands() {
    let (judge, who) = (Judge::new(&Rules::default()).unwrap(), numbered(false));
    let issue = "I_kwAHzgMOaFw";
    let (assignees, labels) = ("addAssigneesToAssignable", "addLabelsToLabelable");
    let rest = |method, path: &str, body: &str, text: &str| {
        let body = body.replace("TEXT", text);
        (rule(&judge, &who, method, &format!("/repos/o/r/{path}"), &body), format!("{method} {path} {body}"))
    };
    let graphql = |name, input: &str, text: &str| {
        let input = input.replace("ISSUE", &format!("\"{issue}\"")).replace("TEXT", text);
        (rule(&judge, &who, "POST", "/graphql", &mutation(name, &input)), format!("{name} {input}"))
    };
    for (text, by_rest, by_graphql) in [
        ("a stack trace", Ok("allow"), Ok("ask")),
        ("cc @copilot", Err("github.command"), Err("github.command")),
        ("/merge", Err("github.command"), Err("github.command")),
    ] {
        for (got, what) in [
            rest(
                "POST",
                "issues/7/labels",
                r#"{"labels":["a",{"name":"bug","rationale":"TEXT","suggest":true}]}"#,
                text,
            ),
            rest("POST", "issues/7/assignees", r#"{"assignees":[{"login":"octocat","rationale":"TEXT"}]}"#, text),
            rest(
                "PATCH",
                "issues/7",
                r#"{"assignees":[{"login":"octocat","rationale":"TEXT","confidence":"low"}]}"#,
                text,
            ),
            rest("PATCH", "issues/7", r#"{"type":{"value":"Bug","rationale":"TEXT"}}"#, text),
            rest("PATCH", "issues/7", r#"{"type":"TEXT"}"#, text),
            rest("PATCH", "issues/7", r#"{"issue_field_values":[{"field_id":1,"value":["a","TEXT"]}]}"#, text),
            rest("PATCH", "issues/7", r#"{"issue_field_values":[{"field_id":1,"value":2,"rationale":"TEXT"}]}"#, text),
        ] {
            assert_eq!(got, by_rest, "{what}");
        }
        for (got, what) in [
            graphql("closeIssue", "{issueId:ISSUE rationale:\"TEXT\" isSuggestion:true confidence:HIGH}", text),
            graphql("updateIssue", "{id:ISSUE stateInput:{value:CLOSED rationale:\"TEXT\" suggest:true}}", text),
            graphql("updateIssue", "{id:ISSUE issueType:{rationale:\"TEXT\"}}", text),
            graphql(
                "updateIssue",
                "{id:ISSUE issueFieldUpdates:[{fieldName:\"a\" operation:SET value:\"TEXT\"}]}",
                text,
            ),
            graphql("updateIssue", "{id:ISSUE issueFieldUpdates:[{fieldName:\"TEXT\" operation:SET}]}", text),
            graphql("setIssueFieldValue", "{issueId:ISSUE issueFields:[{textValue:\"TEXT\" suggest:false}]}", text),
            graphql(labels, "{labelableId:ISSUE labels:[{labelId:\"LA_kwAHzgj-P9E\" rationale:\"TEXT\"}]}", text),
            graphql(assignees, "{assignableId:ISSUE assignees:[{actorId:\"U_kgDOADP9xw\" rationale:\"TEXT\"}]}", text),
        ] {
            assert_eq!(got, by_graphql, "{what}");
        }
    }
}

/// Members of the API of September 2026 that name an object, start an agent, or have another form.
#[test]
fn new_members_have_the_guards_of_their_kind() {
    let (judge, who) = (Judge::new(&Rules::default()).unwrap(), numbered(false));
    let issue = "I_kwAHzgMOaFw";
    // The same issue and pull request of repository 8.
    let (other_issue, other_pr) = ("I_kwAIzgMOaFw", "PR_kwAIzgGHhRA");
    for name in ["addCloseIssueReferences", "removeCloseIssueReferences"] {
        for (issue, prs, expected) in [
            (issue, format!("[\"{PR}\"]"), Ok("ask")),
            (issue, format!("\"{PR}\""), Ok("ask")),
            (other_issue, format!("[\"{PR}\"]"), Err("github.repo")),
            (issue, format!("[\"{PR}\",\"{other_pr}\"]"), Err("github.repo")),
            (issue, format!("[\"{issue}\"]"), Err("github.node-id")),
            (PR, format!("[\"{PR}\"]"), Err("github.node-id")),
        ] {
            let input = format!("{{issueId:\"{issue}\" pullRequestIds:{prs}}}");
            assert_eq!(rule(&judge, &who, "POST", "/graphql", &mutation(name, &input)), expected, "{name} {input}");
            let questions = judged(&judge, &who, (GITHUB, "POST", "/graphql"), &[], &mutation(name, &input));
            assert!(questions.is_err() || questions.is_ok_and(|allowed| allowed.ask.len() == 2), "{name} {input}");
        }
    }
    for (name, input, expected) in [
        ("resolveReviewThread", "{threadId:\"PRRT_kwAHzgJlRPg\" resolutionReason:ADDRESSED}".to_owned(), Ok("ask")),
        ("closeIssue", format!("{{issueId:\"{issue}\" duplicateIssueId:\"{other_issue}\"}}"), Err("github.repo")),
        (
            "setIssueFieldValue",
            format!("{{issueId:\"{issue}\" issueFields:[{{fieldId:\"{issue}\" textValue:\"x\"}}]}}"),
            Err("github.node-id"),
        ),
        (
            "updateIssue",
            format!("{{id:\"{issue}\" agentAssignment:{{customInstructions:\"go on\"}}}}"),
            Err("github.agent"),
        ),
        ("updateRepository", "{repositoryId:\"R_kgAH\" issueCreationPolicy:ALL}".to_owned(), Err("github.admin")),
    ] {
        assert_eq!(rule(&judge, &who, "POST", "/graphql", &mutation(name, &input)), expected, "{name} {input}");
    }
    for (method, path, body, expected) in [
        ("POST", "issues", r#"{"title":"t","parent_issue_id":7}"#, Err("github.foreign-issue")),
        ("POST", "issues/7/relates_to", r#"{"issue_id":7}"#, Err("github.foreign-issue")),
        ("POST", "issues/7/labels", r#"{"labels":[{"name":"automerge","rationale":"x"}]}"#, Err("github.label")),
        ("POST", "issues/7/labels", r#"{"labels":[{"name":"bug","id":1}]}"#, Err("github.body")),
        ("POST", "issues/7/labels", r#"{"labels":[{"rationale":"x"}]}"#, Err("github.body")),
        ("POST", "issues/7/labels", r#"{"labels":[{"name":"bug","rationale":["@copilot"]}]}"#, Err("github.body")),
        ("POST", "issues/7/assignees", r#"{"assignees":[{"login":"claude","rationale":"x"}]}"#, Err("github.agent")),
        ("POST", "issues/7/assignees", r#"{"assignees":{"login":"octocat"}}"#, Err("github.body")),
        ("PATCH", "labels/bug", r#"{"archived":true}"#, Ok("allow")),
    ] {
        assert_eq!(rule(&judge, &who, method, &format!("/repos/o/r/{path}"), body), expected, "{method} {path} {body}");
    }
}
