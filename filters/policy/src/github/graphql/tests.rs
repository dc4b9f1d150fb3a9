//! Judges whole request bodies.
//!
//! The file is longer than 600 lines because it is one table of bodies and verdicts.

use super::*;
use crate::Container;
use crate::github::{Exception, Purpose, Rules};
use base64::Engine;
use document::Value;
use proptest::prelude::*;

const PR: &str = "PR_kwDOAWBuf84Bh4UQ";
const ISSUE: &str = "I_kwDOAWBuf84DDmhc";
const REPO: &str = "R_kgDOAWBufw";
const SANDBOX: &str = "REF_kwDOAWBuf7RyZWZzL2hlYWRzL3NhbmRib3gveA";
const MAIN: &str = "REF_kwDOAWBuf69yZWZzL2hlYWRzL21haW4";
const OID: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn container(mode: &str) -> Container {
    serde_json::from_str(&format!(
        r#"{{"container_ip":"172.18.0.5","container_id":"a","repos":[{{"name":"acme/app","id":23096959,"default_branch":"main"}}],"auth_mode":"{mode}","allowed_branches":["sandbox/*"],"expires_at":"2027-01-15T00:00:00Z"}}"#
    ))
    .unwrap()
}

/// The default rules, with some operations allowed by name.
fn rules(by_name: &[&str]) -> Rules {
    let allow = by_name.iter().map(|name| (*name).to_owned()).collect();
    let exception = Exception { labels: Default::default(), allow, deny: Default::default() };
    Rules { operations: vec![exception], ..Rules::default() }
}

fn judge_by(rules: &Rules, mode: &str, body: &Json) -> Result<Judged, Refused> {
    judge(body, &Scope { container: &container(mode), rules })
}

fn body(query: &str, variables: &str) -> Json {
    let query = serde_json::to_string(query).unwrap();
    Json::parse(format!(r#"{{"query":{query},"variables":{variables}}}"#).as_bytes()).unwrap()
}

/// `allow`, `ask`, or the rule of the refusal.
fn verdict(judged: &Result<Judged, Refused>) -> &'static str {
    match judged {
        Ok(judged) if judged.ask.is_empty() => "allow",
        Ok(_) => "ask",
        Err(refused) => refused.denial.rule.name(),
    }
}

fn bot(query: &str, variables: &str) -> &'static str {
    verdict(&judge_by(&Rules::default(), "bot", &body(query, variables)))
}

/// The body that is sent for a document.
fn sent(query: &str, variables: &str) -> String {
    let judged = judge_by(&Rules::default(), "bot", &body(query, variables)).unwrap();
    String::from_utf8(judged.body.to_bytes()).unwrap()
}

/// A mutation with its input written in the document.
fn write(name: &str, input: &str) -> String {
    format!("mutation{{{name}(input:{input}){{clientMutationId}}}}")
}

fn gh_documents() -> Vec<(String, String, Json, String)> {
    let text = include_str!("../../../../../tests/corpus/github/gh-documents.jsonl");
    let row = |line: &str| {
        let row = Json::parse(line.as_bytes()).unwrap();
        let text = |name: &str| row.get(name).and_then(Json::as_str).unwrap().to_owned();
        (text("command"), text("query"), row.get("variables").unwrap().clone(), text("expect"))
    };
    text.lines().map(row).collect()
}

fn whole(query: &str, variables: &Json) -> Json {
    Json::Object(vec![("query".into(), Json::String(query.into())), ("variables".into(), variables.clone())])
}

#[test]
fn what_gh_sends_has_the_verdict_that_is_expected() {
    let mut wrong = Vec::new();
    for (command, query, variables, expected) in gh_documents() {
        let got = judge_by(&Rules::default(), "bot", &whole(&query, &variables));
        let fits = match expected.as_str() {
            "deny" => got.is_err(),
            expected => verdict(&got) == expected,
        };
        if !fits {
            wrong.push(format!("{command}: expected {expected}, got {got:?}\n{query}"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Judging the body that is sent gives the same verdict and the same body.
#[test]
fn what_is_sent_is_what_was_judged() {
    for (command, query, variables, expected) in gh_documents() {
        let Ok(judged) = judge_by(&Rules::default(), "bot", &whole(&query, &variables)) else { continue };
        assert_ne!(expected, "deny", "{command}");
        let again = judge_by(&Rules::default(), "bot", &judged.body).unwrap();
        assert_eq!(again, judged, "{command}");
    }
}

#[test]
fn the_body_is_one_object_of_known_members() {
    for (text, good) in [
        (r#"{"query":"{viewer{login}}"}"#, true),
        (r#"{"query":"{viewer{login}}","variables":null,"operationName":null,"extensions":{}}"#, true),
        (r#"{"query":"query A{viewer{login}}","operationName":"A"}"#, true),
        (r#"{"query":"query A{viewer{login}}","operationName":"B"}"#, false),
        (r#"{"query":"{viewer{login}}","operationName":"A"}"#, false),
        (r#"{"query":"{viewer{login}}","extensions":{"persistedQuery":{}}}"#, false),
        (r#"{"query":"{viewer{login}}","variables":"{}"}"#, false),
        (r#"{"query":"{viewer{login}}","variables":[]}"#, false),
        (r#"{"query":"{viewer{login}}","id":"x"}"#, false),
        (r#"{"query":["{viewer{login}}"]}"#, false),
        (r#"{"variables":{}}"#, false),
        (r#"{}"#, false),
        (r#"[{"query":"{viewer{login}}"}]"#, false),
        (r#""{viewer{login}}""#, false),
    ] {
        let got = judge_by(&Rules::default(), "bot", &Json::parse(text.as_bytes()).unwrap());
        assert_eq!(got.is_ok(), good, "{text}: {got:?}");
    }
}

#[test]
fn what_isnt_used_is_not_sent() {
    let query = "query A($a:Int $b:Int=1){viewer{login}rateLimit{limit}} fragment f on User{login}";
    let sent = sent(query, r#"{"a":1,"b":2,"c":3}"#);
    assert_eq!(sent, r#"{"query":"query A{viewer{login} rateLimit{limit}}","operationName":"A"}"#);
}

#[test]
fn a_query_reads_the_containers_repositories() {
    let repo = |inner: &str| format!("{{repository(owner:\"acme\" name:\"app\"){{{inner}}}}}");
    for (query, expected) in [
        (repo("id"), "allow"),
        (repo("issue(number:1){title comments(first:5){nodes{body author{login}}}}"), "allow"),
        (repo("object(expression:\"main:README.md\"){...on Blob{text}}"), "allow"),
        (
            repo("ref(qualifiedName:\"refs/heads/main\"){target{oid ...on Commit{history(first:1){nodes{message}}}}}"),
            "allow",
        ),
        (
            repo(
                "pullRequest(number:1){reviewThreads(first:9){nodes{id isResolved comments(first:9){nodes{body path}}}}}",
            ),
            "allow",
        ),
        (repo("discussions(first:1){nodes{title}}"), "allow"),
        (repo("discussions(first:1 categoryId:\"DIC_kwDOAWBuf84CZUT4\"){nodes{title}}"), "ask"),
        (repo("discussions(first:1 categoryId:\"x\"){nodes{title}}"), "github.node-id"),
        (repo("issues(first:1 categoryId:\"DIC_kwDOAWBuf84CZUT4\"){nodes{title}}"), "github.field"),
        (repo("nothing"), "github.field"),
        (repo("id(x:1)"), "github.field"),
        (repo("id{x}"), "github.graphql"),
        (repo("owner"), "github.graphql"),
        (repo("tempCloneToken"), "github.field"),
        (repo("viewerPossibleCommitEmails"), "github.field"),
        (repo("deployKeys(first:1){nodes{key}}"), "github.field"),
        (repo("vulnerabilityAlerts(first:1){nodes{id}}"), "github.field"),
        (repo("environments(first:1){nodes{id}}"), "github.field"),
        (repo("collaborators(first:1){nodes{login}}"), "github.field"),
        (repo("branchProtectionRules(first:1){nodes{id}}"), "github.field"),
        (repo("forks(first:1){nodes{id}}"), "github.field"),
        (repo("packages(first:1){nodes{id}}"), "github.field"),
        (repo("projectsV2(first:1){nodes{id}}"), "github.field"),
        (repo("parent{id name owner{login}}"), "allow"),
        (repo("parent{issues(first:1){nodes{title}}}"), "github.field"),
        (repo("parent{...on Repository{issues(first:1){nodes{title}}}}"), "github.field"),
        (repo("parent{...on Node{...on Repository{issues(first:1){nodes{title}}}}}"), "github.field"),
        (repo("parent{defaultBranchRef{target{oid}}}"), "github.field"),
        (repo("templateRepository{object(expression:\"main:x\"){...on Blob{text}}}"), "github.field"),
        (repo("owner{...on Organization{repositories(first:1){nodes{name}}}}"), "github.field"),
        (repo("owner{...on User{gists(first:1){nodes{name}}}}"), "github.field"),
        (repo("pullRequest(number:1){headRepository{id name nameWithOwner}}"), "allow"),
        (repo("pullRequest(number:1){headRepository{issue(number:1){title}}}"), "github.field"),
        (repo("pullRequest(number:1){repository{issue(number:1){title}}}"), "github.field"),
        (repo("issue(number:1){parent{number repository{nameWithOwner}}}"), "allow"),
        (repo("issue(number:1){parent{title}}"), "github.field"),
        (repo("issue(number:1){subIssues(first:9){nodes{body}}}"), "github.field"),
        (
            repo(
                "issue(number:1){timelineItems(first:9){nodes{...on CrossReferencedEvent{source{__typename ...on Issue{url}}}}}}",
            ),
            "allow",
        ),
        (
            repo(
                "issue(number:1){timelineItems(first:9){nodes{...on CrossReferencedEvent{source{...on Issue{title}}}}}}",
            ),
            "github.field",
        ),
        (repo("issue(number:1){author{...on User{repositories(first:9){nodes{id}}}}}"), "github.field"),
        (
            repo("issue(number:1){projectItems(first:9){nodes{project{title items(first:9){nodes{id}}}}}}"),
            "github.field",
        ),
        (repo("repositoryTopics(first:9){nodes{topic{name repositories(first:9){nodes{id}}}}}"), "github.field"),
        (repo("ref(qualifiedName:\"x\"){compare(headRef:\"y\"){aheadBy}}"), "allow"),
        (repo("ref(qualifiedName:\"x\"){compare(headRef:\"other:y\"){aheadBy}}"), "github.read-cross"),
        ("{repository(owner:\"ACME\" name:\"App\"){id}}".into(), "allow"),
        ("{repository(owner:\"acme\" name:\"secret\"){id}}".into(), "github.repo"),
        ("{repository(owner:\"acme\"){id}}".into(), "github.repo"),
        ("{repository(owner:acme name:app){id}}".into(), "github.repo"),
        ("{repository(owner:[\"acme\"] name:\"app\"){id}}".into(), "github.repo"),
        ("{viewer{login id name databaseId}}".into(), "allow"),
        ("{viewer{email}}".into(), "github.field"),
        ("{viewer{repositories(first:1){nodes{name}}}}".into(), "github.field"),
        ("{viewer{login}repository(owner:\"acme\" name:\"secret\"){id}}".into(), "github.repo"),
        ("{user(login:\"x\"){id login name databaseId}}".into(), "allow"),
        ("{organization(login:\"x\"){id login team(slug:\"y\"){id slug}}}".into(), "allow"),
        ("{organization(login:\"x\"){team(slug:\"y\"){members{nodes{login}}}}}".into(), "github.field"),
        ("{organization(login:\"x\"){repositories(first:1){nodes{name}}}}".into(), "github.field"),
        ("{relay{viewer{login}}}".into(), "github.read-cross"),
        ("{resource(url:\"https://github.com/acme/app\"){url}}".into(), "github.read-cross"),
        ("{enterprise(slug:\"x\"){id}}".into(), "github.read-cross"),
        ("{repositoryOwner(login:\"x\"){login}}".into(), "github.read-cross"),
        ("{topic(name:\"x\"){name}}".into(), "github.read-cross"),
        ("{rateLimit{remaining}meta{databaseId:gitHubServicesSha}}".into(), "github.field"),
        ("{rateLimit{remaining}licenses{key}__typename}".into(), "allow"),
        (format!("{{node(id:\"{PR}\"){{...on PullRequest{{title}}}}}}"), "ask"),
        (format!("{{node(id:\"{REPO}\"){{...on Repository{{issues(first:1){{nodes{{title}}}}}}}}}}"), "allow"),
        (format!("{{nodes(ids:[\"{PR}\" \"{REPO}\"]){{id}}}}"), "ask"),
        (format!("{{nodes(ids:\"{PR}\"){{id}}}}"), "ask"),
        (format!("{{nodes(ids:\"{MAIN}\"){{id}}}}"), "ask"),
        ("{node(id:\"PRR_kwDOAToIks4ACauz\"){id}}".into(), "github.repo"),
        (format!("{{nodes(ids:[\"{REPO}\",\"R_kgDOAToIkg\"]){{id}}}}"), "github.repo"),
        ("{node(id:\"U_kgDOADP9xw\"){id}}".into(), "github.node-id"),
        ("{node(id:23096959){id}}".into(), "github.node-id"),
        ("{node(id:\"MDExOlB1bGxSZXF1ZXN0MjU2NTg2NDA=\"){id}}".into(), "ask"),
        ("{node(id:\"PVT_kwDOAToIks4ACauz\"){id}}".into(), "github.node-id"),
        ("{search(query:\"repo:acme/app is:pr\" type:ISSUE first:9){nodes{...on PullRequest{title}}}}".into(), "allow"),
        (
            "{search(query:\"repo:acme/app\" type:REPOSITORY first:9){nodes{...on Repository{name}}}}".into(),
            "github.read-cross",
        ),
        (
            "{search(query:\"repo:acme/app is:issue\" type:ISSUE_ADVANCED first:9){nodes{...on Issue{title}}}}".into(),
            "allow",
        ),
        (
            "{search(query:\"repo:acme/app (is:issue OR org:evil)\" type:ISSUE_ADVANCED first:9){nodes{__typename}}}"
                .into(),
            "github.read-cross",
        ),
        ("{search(query:\"repo:acme/app\" first:9){nodes{__typename}}}".into(), "github.read-cross"),
        ("{search(query:\"is:pr\" type:ISSUE first:9){nodes{__typename}}}".into(), "github.read-cross"),
        (
            "{search(query:\"repo:acme/app OR repo:acme/secret\" type:ISSUE){nodes{__typename}}}".into(),
            "github.read-cross",
        ),
        ("query{...on Query{viewer{login}}}".into(), "allow"),
        ("query{...f} fragment f on Query{viewer{login}}".into(), "allow"),
        ("query{...f} fragment f on Query{repository(owner:\"acme\" name:\"secret\"){id}}".into(), "github.repo"),
        ("query{...f} fragment f on Mutation{viewer{login}}".into(), "github.graphql"),
        ("query{...f}".into(), "github.graphql"),
        ("query{...f} fragment f on Query{...f}".into(), "github.graphql"),
        ("{viewer{...f}} fragment f on User{login ...f}".into(), "github.graphql"),
        ("{viewer{...f}} fragment f on User{...g} fragment g on User{...f}".into(), "github.graphql"),
        ("{viewer{login @include(if:$x)}}".into(), "github.graphql"),
        ("{viewer{login @include(if:true) @skip(if:false)}}".into(), "allow"),
        ("{viewer{login @include(if:\"x\")}}".into(), "github.graphql"),
        ("{viewer{login @deprecated}}".into(), "github.graphql"),
        ("query @x{viewer{login}}".into(), "github.graphql"),
        ("subscription{viewer{login}}".into(), "github.graphql"),
        ("{viewer{login}}{viewer{login}}".into(), "github.graphql"),
        ("query A{viewer{login}} query B{viewer{login}}".into(), "github.graphql"),
        ("\"d\" query{viewer{login}}".into(), "github.graphql"),
    ] {
        assert_eq!(bot(&query, "{}"), expected, "{query}");
    }
}

#[test]
fn variables_come_to_what_github_sees() {
    let by_name = "query($n:String!){repository(owner:\"acme\" name:$n){id}}";
    let by_default = "query($n:String=\"app\"){repository(owner:\"acme\" name:$n){id}}";
    let ids = "query($i:[ID!]!){nodes(ids:$i){id}}";
    let comment = "mutation($i:AddCommentInput!){addComment(input:$i){clientMutationId}}";
    let inner = "mutation($s:ID! $b:String=\"/merge\"){addComment(input:{subjectId:$s body:$b}){clientMutationId}}";
    let review = "mutation($e:PullRequestReviewEvent){addPullRequestReview(input:{pullRequestId:\"PR_kwDOAWBuf84Bh4UQ\" event:$e}){clientMutationId}}";
    for (query, variables, expected) in [
        (by_name, r#"{"n":"app"}"#, "allow"),
        (by_name, r#"{"n":"secret"}"#, "github.repo"),
        (by_name, r#"{}"#, "github.graphql"),
        (by_name, r#"{"n":null}"#, "github.graphql"),
        (by_name, r#"{"n":["app"]}"#, "github.repo"),
        (by_default, r#"{}"#, "allow"),
        (by_default, r#"{"n":"secret"}"#, "github.repo"),
        (by_default, r#"{"n":null}"#, "github.repo"),
        (ids, r#"{"i":["R_kgDOAWBufw"]}"#, "allow"),
        (ids, r#"{"i":"R_kgDOAToIkg"}"#, "github.repo"),
        (ids, r#"{"i":[["R_kgDOAToIkg"]]}"#, "github.repo"),
        (ids, r#"{"i":[null]}"#, "github.node-id"),
        (comment, r#"{"i":{"subjectId":"PR_kwDOAWBuf84Bh4UQ","body":"x"},"extra":"y"}"#, "ask"),
        (comment, r#"{"i":{"subjectId":"PRR_kwDOAToIks4ACauz","body":"x"}}"#, "github.node-id"),
        (comment, r#"{"i":{"subjectId":"PR_kwDOAToIks4ACauz","body":"x"}}"#, "github.repo"),
        (comment, r#"{"i":{"subjectId":"PR_kwDOAWBuf84Bh4UQ","body":"x","more":1}}"#, "github.input"),
        (comment, r#"{"i":null}"#, "github.graphql"),
        (comment, r#"{"i":[{"subjectId":"PR_kwDOAWBuf84Bh4UQ"}]}"#, "github.input"),
        (comment, r#"{"i":{"subjectId":7,"body":"x"}}"#, "github.input"),
        (comment, r#"{"i":{"subjectId":"PR_kwDOAWBuf84Bh4UQ","body":"see PR_kwDOAToIks4ACauz"}}"#, "ask"),
        (inner, r#"{"s":"PR_kwDOAWBuf84Bh4UQ"}"#, "github.command"),
        (inner, r#"{"s":"PR_kwDOAWBuf84Bh4UQ","b":"fine"}"#, "ask"),
        (review, r#"{"e":"APPROVE"}"#, "github.gate"),
        (review, r#"{"e":"COMMENT"}"#, "ask"),
        (review, r#"{}"#, "ask"),
    ] {
        assert_eq!(bot(query, variables), expected, "{query} {variables}");
    }
}

#[test]
fn guards_on_what_is_written() {
    let commit = |branch: &str, changes: &str| {
        format!("{{branch:{branch} message:{{headline:\"x\"}} fileChanges:{changes} expectedHeadOid:\"{OID}\"}}")
    };
    let named = "{repositoryNameWithOwner:\"acme/app\" branchName:\"sandbox/x\"}";
    let zero = "0".repeat(40);
    for (name, input, expected) in [
        ("updateRef", format!("{{refId:\"{SANDBOX}\" oid:\"{OID}\"}}"), "ask"),
        ("updateRef", format!("{{refId:\"{SANDBOX}\" oid:\"{OID}\" force:false}}"), "ask"),
        ("updateRef", format!("{{refId:\"{SANDBOX}\" oid:\"{OID}\" force:true}}"), "github.force"),
        ("updateRef", format!("{{refId:\"{SANDBOX}\" oid:\"{zero}\"}}"), "github.delete-branch"),
        ("updateRef", format!("{{refId:\"{MAIN}\" oid:\"{OID}\"}}"), "github.protected-branch"),
        ("updateRef", format!("{{refId:\"{PR}\" oid:\"{OID}\"}}"), "github.node-id"),
        ("deleteRef", format!("{{refId:\"{SANDBOX}\"}}"), "github.off-by-default"),
        ("createRef", format!("{{repositoryId:\"{REPO}\" name:\"refs/heads/sandbox/x\" oid:\"{OID}\"}}"), "allow"),
        (
            "createRef",
            format!("{{repositoryId:\"{REPO}\" name:\"refs/heads/main\" oid:\"{OID}\"}}"),
            "github.protected-branch",
        ),
        ("createRef", format!("{{repositoryId:\"{REPO}\" name:\"refs/tags/v1\" oid:\"{OID}\"}}"), "github.ref"),
        ("createRef", format!("{{repositoryId:\"{REPO}\" oid:\"{OID}\"}}"), "github.branch-missing"),
        (
            "createRef",
            format!("{{repositoryId:\"R_kgDOAToIkg\" name:\"refs/heads/sandbox/x\" oid:\"{OID}\"}}"),
            "github.repo",
        ),
        (
            "updateRefs",
            format!("{{repositoryId:\"{REPO}\" refUpdates:[{{name:\"refs/heads/sandbox/x\" afterOid:\"{OID}\"}}]}}"),
            "allow",
        ),
        (
            "updateRefs",
            format!(
                "{{repositoryId:\"{REPO}\" refUpdates:[{{name:\"refs/heads/sandbox/x\" afterOid:\"{OID}\"}},{{name:\"refs/heads/main\" afterOid:\"{OID}\"}}]}}"
            ),
            "github.protected-branch",
        ),
        (
            "updateRefs",
            format!("{{repositoryId:\"{REPO}\" refUpdates:{{name:\"refs/heads/main\" afterOid:\"{OID}\"}}}}"),
            "github.protected-branch",
        ),
        (
            "updateRefs",
            format!("{{repositoryId:\"{REPO}\" refUpdates:[{{name:\"refs/heads/sandbox/x\" afterOid:\"{zero}\"}}]}}"),
            "github.delete-branch",
        ),
        (
            "updateRefs",
            format!(
                "{{repositoryId:\"{REPO}\" refUpdates:[{{name:\"refs/heads/sandbox/x\" afterOid:\"{OID}\" force:true}}]}}"
            ),
            "github.force",
        ),
        ("createCommitOnBranch", commit(named, "{additions:[{path:\"a.rs\" contents:\"eA==\"}]}"), "allow"),
        (
            "createCommitOnBranch",
            commit(named, "{additions:{path:\".github/workflows/x.yml\" contents:\"\"}}"),
            "github.restricted-path",
        ),
        (
            "createCommitOnBranch",
            commit(named, "{deletions:[{path:\".github/workflows/x.yml\"}]}"),
            "github.restricted-path",
        ),
        ("createCommitOnBranch", commit(named, "{additions:[{path:\"../x\" contents:\"\"}]}"), "github.path"),
        ("createCommitOnBranch", commit(&format!("{{id:\"{SANDBOX}\"}}"), "{}"), "ask"),
        ("createCommitOnBranch", commit(&format!("{{id:\"{MAIN}\"}}"), "{}"), "github.protected-branch"),
        (
            "createCommitOnBranch",
            commit("{repositoryNameWithOwner:\"acme/app\" branchName:\"main\"}", "{}"),
            "github.protected-branch",
        ),
        (
            "createCommitOnBranch",
            commit("{repositoryNameWithOwner:\"acme/secret\" branchName:\"sandbox/x\"}", "{}"),
            "github.repo",
        ),
        ("createCommitOnBranch", commit("{repositoryNameWithOwner:\"acme/app\"}", "{}"), "github.branch-missing"),
        ("createCommitOnBranch", commit("{branchName:\"sandbox/x\"}", "{}"), "github.branch-missing"),
        ("createCommitOnBranch", commit("{}", "{}"), "github.branch-missing"),
        ("createCommitOnBranch", commit("null", "{}"), "github.branch-missing"),
        ("createCommitOnBranch", format!("{{expectedHeadOid:\"{OID}\"}}"), "github.branch-missing"),
        ("mergeBranch", format!("{{repositoryId:\"{REPO}\" base:\"sandbox/x\" head:\"main\"}}"), "allow"),
        (
            "mergeBranch",
            format!("{{repositoryId:\"{REPO}\" base:\"main\" head:\"sandbox/x\"}}"),
            "github.protected-branch",
        ),
        ("createLabel", format!("{{repositoryId:\"{REPO}\" name:\"AutoMerge\" color:\"fff\"}}"), "github.label"),
        ("createLabel", format!("{{repositoryId:\"{REPO}\" name:\"bug\" color:\"fff\"}}"), "allow"),
        ("addSubIssue", format!("{{issueId:\"{ISSUE}\" subIssueUrl:\"https://github.com/acme/app/issues/7\"}}"), "ask"),
        (
            "addSubIssue",
            format!("{{issueId:\"{ISSUE}\" subIssueUrl:\"https://github.com/acme/secret/issues/7\"}}"),
            "github.foreign-issue",
        ),
        (
            "addSubIssue",
            format!("{{issueId:\"{ISSUE}\" subIssueUrl:\"https://github.com/acme/app/issues/7/../8\"}}"),
            "github.foreign-issue",
        ),
        ("addSubIssue", format!("{{issueId:\"{ISSUE}\" subIssueId:\"I_kwDOAToIks4DDmhc\"}}"), "github.repo"),
        (
            "addAssigneesToAssignable",
            format!("{{assignableId:\"{ISSUE}\" assigneeIds:[\"BOT_kgDOAvZaBQ\"]}}"),
            "github.agent",
        ),
        ("addAssigneesToAssignable", format!("{{assignableId:\"{ISSUE}\" assigneeIds:[\"U_kgDOADP9xw\"]}}"), "ask"),
        ("requestReviews", format!("{{pullRequestId:\"{PR}\" botIds:[\"BOT_kgDOAvZaBQ\"]}}"), "github.agent"),
        ("submitPullRequestReview", format!("{{pullRequestId:\"{PR}\" event:APPROVE}}"), "github.gate"),
        ("submitPullRequestReview", format!("{{pullRequestId:\"{PR}\" event:DISMISS}}"), "github.gate"),
        (
            "addPullRequestReview",
            format!("{{pullRequestId:\"{PR}\" comments:[{{path:\"a\" position:1 body:\"/merge\"}}]}}"),
            "github.command",
        ),
        (
            "addPullRequestReviewThreadReply",
            "{pullRequestReviewThreadId:\"PRRT_kwDOAWBuf84CZUT4\" body:\"done 🎉\"}".into(),
            "ask",
        ),
        ("resolveReviewThread", "{threadId:\"PRRT_kwDOAWBuf84CZUT4\"}".into(), "ask"),
        ("updateIssue", format!("{{id:\"{ISSUE}\" issueTypeId:\"IT_kwDOAWBuf84AHiB8\"}}"), "ask"),
        ("updateIssue", format!("{{id:\"{ISSUE}\" projectIds:[\"PRO_kwLOAWBuf84ANtZO\"]}}"), "github.project"),
        ("addComment", format!("{{subjectId:\"{ISSUE}\" body:\"\"\"fine\n  /merge\"\"\"}}"), "github.command"),
        ("addComment", "{subjectId:\"MDExOlB1bGxSZXF1ZXN0MjU2NTg2NDA=\" body:\"x\"}".into(), "ask"),
        // Places whose types GitHub doesn't document.
        ("setIssueFieldValue", format!("{{issueId:\"{ISSUE}\" issueFields:[{{fieldId:\"{PR}\"}}]}}"), "github.node-id"),
        ("updateIssueIssueType", format!("{{issueId:\"{ISSUE}\" issueTypeId:\"IT_kwDNAd3NAZo\"}}"), "ask"),
        ("updateIssueIssueType", format!("{{issueId:\"{ISSUE}\" issueTypeId:\"{REPO}\"}}"), "github.node-id"),
        ("mergePullRequestsInStack", "{}".into(), "github.unknown-operation"),
        ("minimizeComment", "{subjectId:\"IC_kwDOAWBuf84D78lV\" classifier:SPAM}".into(), "github.off-by-default"),
        ("createLinkedBranch", format!("{{issueId:\"{ISSUE}\" oid:\"{OID}\"}}"), "github.off-by-default"),
    ] {
        let query = write(name, &input);
        assert_eq!(bot(&query, "{}"), expected, "{query}");
    }
}

#[test]
fn what_is_allowed_by_name_keeps_its_guards() {
    let rules =
        rules(&["createLinkedBranch", "deleteRef", "minimizeComment", "updatePullRequestBranch", "updatePullRequest"]);
    for (name, input, expected) in [
        ("createLinkedBranch", format!("{{issueId:\"{ISSUE}\" oid:\"{OID}\" name:\"sandbox/x\"}}"), "ask"),
        (
            "createLinkedBranch",
            format!("{{issueId:\"{ISSUE}\" oid:\"{OID}\" name:\"main\"}}"),
            "github.protected-branch",
        ),
        ("createLinkedBranch", format!("{{issueId:\"{ISSUE}\" oid:\"{OID}\"}}"), "github.branch-missing"),
        ("createLinkedBranch", format!("{{issueId:\"{ISSUE}\" oid:\"{OID}\" name:null}}"), "github.branch-missing"),
        ("deleteRef", format!("{{refId:\"{SANDBOX}\"}}"), "github.delete-branch"),
        ("minimizeComment", "{subjectId:\"IC_kwDOAWBuf84D78lV\" classifier:SPAM}".into(), "ask"),
        ("minimizeComment", "{subjectId:\"IC_kwDOAToIks4D78lV\" classifier:SPAM}".into(), "github.repo"),
        ("updatePullRequestBranch", format!("{{pullRequestId:\"{PR}\" updateMethod:REBASE}}"), "github.force"),
        ("updatePullRequestBranch", format!("{{pullRequestId:\"{PR}\"}}"), "ask"),
        ("updatePullRequest", format!("{{pullRequestId:\"{PR}\" baseRefName:\"next\"}}"), "ask"),
        ("updatePullRequest", format!("{{pullRequestId:\"{PR}\" body:\"/merge\"}}"), "github.command"),
        // A text of others may be changed.
        ("updatePullRequest", format!("{{pullRequestId:\"{PR}\" body:\"x\"}}"), "ask"),
    ] {
        let query = write(name, &input);
        assert_eq!(verdict(&judge_by(&rules, "bot", &body(&query, "{}"))), expected, "{query}");
    }
    let mut rules = rules;
    rules.branches.allow_deletion = true;
    rules.branches.allow_force_push = true;
    for (name, input, expected) in [
        ("deleteRef", format!("{{refId:\"{SANDBOX}\"}}"), "ask"),
        ("deleteRef", format!("{{refId:\"{MAIN}\"}}"), "github.protected-branch"),
        ("updateRef", format!("{{refId:\"{SANDBOX}\" oid:\"{OID}\" force:true}}"), "ask"),
    ] {
        let query = write(name, &input);
        assert_eq!(verdict(&judge_by(&rules, "bot", &body(&query, "{}"))), expected, "{query}");
    }
}

#[test]
fn every_field_at_the_root_of_a_mutation_is_judged() {
    let comment = format!("addComment(input:{{subjectId:\"{ISSUE}\" body:\"x\"}}){{clientMutationId}}");
    let merge = format!("mergePullRequest(input:{{pullRequestId:\"{PR}\"}}){{clientMutationId}}");
    for (query, expected) in [
        (format!("mutation{{a:{comment} b:{comment}}}"), "ask"),
        (format!("mutation{{a:{comment} b:{merge}}}"), "github.merge"),
        (format!("mutation{{addComment:{merge}}}"), "github.merge"),
        (format!("mutation{{...on Mutation{{{merge}}}}}"), "github.merge"),
        (format!("mutation{{...@include(if:false){{{merge}}}}}"), "github.merge"),
        (format!("mutation{{{comment} ...f}} fragment f on Mutation{{{merge}}}"), "github.merge"),
        (
            format!("mutation{{{comment} ...f}} fragment f on Mutation{{...g}} fragment g on Mutation{{{merge}}}"),
            "github.merge",
        ),
        (format!(",,,mutation,,{{,{merge},}}"), "github.merge"),
        (format!("query{{{merge}}}"), "github.read-cross"),
        ("mutation{viewer{login}}".into(), "github.unknown-operation"),
        ("mutation{__typename}".into(), "github.graphql"),
        ("mutation{addComment{clientMutationId}}".into(), "github.input"),
        (
            comment.replace("addComment", "mutation{addComment").replace(
                "clientMutationId}",
                "subject{...on Issue{author{...on User{gists(first:1){nodes{name}}}}}}}}",
            ),
            "github.field",
        ),
    ] {
        assert_eq!(bot(&query, "{}"), expected, "{query}");
    }
    let query = format!("mutation{{a:{comment} b:{comment}}}");
    let judged = judge_by(&Rules::default(), "bot", &body(&query, "{}")).unwrap();
    assert_eq!((judged.operation.name.as_str(), judged.rule.name()), ("addComment", "github.write-collab"));
    assert_eq!(judged.ask, [Question::node(ISSUE, Purpose::Write)]);
}

/// A value that the table accepts in a place of this kind.
fn example(mutation: &str, name: &str, types: &str) -> Option<String> {
    let one = types.split('|').find_map(|kind| {
        Some(match kind {
            "Repository" => REPO,
            "Issue" => ISSUE,
            "PullRequest" => PR,
            "Label" => "LA_kwDOAWBuf84I_j_R",
            "IssueComment" => "IC_kwDOAWBuf84D78lV",
            "Ref" => SANDBOX,
            "Discussion" => "D_kwDOAWBuf84AB78l",
            "DiscussionComment" => "DC_kwDOAWBuf84AB78l",
            "DiscussionCategory" => "DIC_kwDOAWBuf84AB78l",
            "LinkedBranch" => "LB_kwDOAWBuf84AB78l",
            "Milestone" => "MI_kwDOAWBuf84AB78l",
            "PullRequestReview" => "PRR_kwDOAWBuf84ACauz",
            "PullRequestReviewComment" => "PRRC_kwDOAWBuf84Dmt1A",
            "PullRequestReviewThread" => "PRRT_kwDOAWBuf84CZUT4",
            "User" => "U_kgDOADP9xw",
            "Team" => "T_kwDOA3oJoM4ANjtt",
            _ => return None,
        })
    })?;
    // Members that are refused with any value.
    let barred = matches!(name, "botIds" | "projectIds" | "projectV2Ids") || mutation == "-";
    (!barred).then(|| format!("{name}:\"{one}\""))
}

/// For every mutation, and for a bot and a user, the class gives the verdict.
#[test]
fn the_verdict_on_every_mutation_is_what_its_class_says() {
    let text = include_str!("../../../../../tests/corpus/github/graphql-mutations.tsv");
    let (mut allowed, mut refused) = (Vec::new(), 0);
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, class, _, ids, ..] = fields[..] else { panic!("{line}") };
        let class = Class::named(class).unwrap();
        let mut input: Vec<String> = ids
            .split(", ")
            .filter(|field| !field.contains('.'))
            .filter_map(|field| {
                let (place, types) = field.split_once(':')?;
                example(name, place.trim_end_matches("[]"), types)
            })
            .collect();
        input.extend(match name {
            "createRef" => Some("name:\"refs/heads/sandbox/x\"".to_owned()),
            "updateRefs" => Some(format!("refUpdates:[{{name:\"refs/heads/sandbox/x\" afterOid:\"{OID}\"}}]")),
            "createCommitOnBranch" => Some(format!("branch:{{id:\"{SANDBOX}\"}}")),
            "mergeBranch" => Some("base:\"sandbox/x\" head:\"main\"".to_owned()),
            "createPullRequest" => Some("headRefName:\"sandbox/x\" baseRefName:\"main\"".to_owned()),
            _ => None,
        });
        let query = write(name, &format!("{{{}}}", input.join(" ")));
        for mode in ["bot", "user"] {
            let got = judge_by(&Rules::default(), mode, &body(&query, "{}"));
            let known = schema::Mutation::named(name);
            let off = known.is_none_or(|known| known.off);
            let expected = Rules::default().allows(&container(mode), class) && !off;
            assert_eq!(got.is_ok(), expected, "{mode}: {query}: {got:?}");
            if known.is_some() && !Rules::default().allows(&container(mode), class) {
                assert_eq!(verdict(&got), class.rule().name(), "{mode}: {query}");
            }
            match got {
                Ok(_) => allowed.push(name),
                Err(_) => refused += 1,
            }
        }
    }
    allowed.dedup();
    assert_eq!((allowed.len(), refused), (66, 448), "{allowed:?}");
}

#[test]
fn hostile_documents_are_refused_in_good_time() {
    let start = std::time::Instant::now();
    let doubling: String = (0..60).map(|n| format!("fragment f{n} on User{{...f{0} ...f{0}}}", n + 1)).collect();
    let roots: String = (0..60).map(|n| format!("fragment f{n} on Query{{...f{0} ...f{0}}}", n + 1)).collect();
    let deep = |n: usize| format!("{{repository(owner:\"acme\" name:\"app\"){}{}", "{parent".repeat(n), "}".repeat(n));
    for query in [
        "{".repeat(1 << 20),
        "{".repeat(1 << 17),
        format!("{{a(b:{}", "[".repeat(1 << 17)),
        format!("{{a(b:{}", "{c:".repeat(1 << 16)),
        format!("{{a(b:[{}])}}", "1,".repeat(1 << 16)),
        format!("query($a:{}Int{}){{a}}", "[".repeat(1 << 16), "]".repeat(1 << 16)),
        "{a}".repeat(1 << 16),
        format!("{{{}}}", "viewer{login}".repeat(1 << 14)),
        format!("{{viewer{{{}}}}}", "login ".repeat(5_001)),
        format!("{{viewer{{{}}}}}", (0..600).map(|n| format!("a{n}:login ")).collect::<String>()),
        format!("query({}){{viewer{{login}}}}", (0..65).map(|n| format!("$a{n}:Int ")).collect::<String>()),
        format!("{{viewer{{...f0}}}} {doubling} fragment f60 on User{{login}}"),
        format!("{{...f0}} {roots} fragment f60 on Query{{viewer{{login}}}}"),
        format!(
            "{{viewer{{...f0}}}} {}",
            (0..65).map(|n| format!("fragment f{n} on User{{login}}")).collect::<String>()
        ),
        deep(100),
        format!("{{nodes(ids:[{}]){{id}}}}", format!("\"{PR}\" ").repeat(501)),
        format!("{{viewer(b:99999999999999999999999 c:{}", "9".repeat(1 << 12)),
        "\"".repeat(1 << 17),
        "#".repeat(1 << 17),
        "{a(b:\"\"\"\u{1}\"\"\")}".into(),
        "\u{feff}{viewer{login}}".into(),
        "{viewer{login}\u{feff}}".into(),
        "{viewer{login}}\0".into(),
        String::new(),
        "   ".into(),
    ] {
        assert_eq!(bot(&query, "{}"), "github.graphql", "{}", &query[..query.len().min(80)]);
    }
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

/// A document at a limit is allowed, and a document one past the limit is refused.
#[test]
fn limits_are_where_they_are_said_to_be() {
    let fields = |n: usize| format!("{{viewer{{{}}}}}", "login ".repeat(n));
    assert_eq!(bot(&fields(5_000), "{}"), "allow");
    assert_eq!(bot(&fields(5_001), "{}"), "github.graphql");
    let aliases = |n: usize| format!("{{viewer{{{}}}}}", (0..n).map(|n| format!("a{n}:login ")).collect::<String>());
    assert_eq!(bot(&aliases(document::MAX_ALIASES), "{}"), "allow");
    assert_eq!(bot(&aliases(document::MAX_ALIASES + 1), "{}"), "github.graphql");
    let variables =
        |n: usize| format!("query({}){{viewer{{login}}}}", (0..n).map(|n| format!("$a{n}:Int ")).collect::<String>());
    assert_eq!(bot(&variables(document::MAX_VARIABLES), "{}"), "allow");
    assert_eq!(bot(&variables(document::MAX_VARIABLES + 1), "{}"), "github.graphql");
    let long = |n: usize| format!("{{viewer{{login}}}}{}", " ".repeat(n - 15));
    assert_eq!(bot(&long(document::MAX_DOCUMENT), "{}"), "allow");
    assert_eq!(bot(&long(document::MAX_DOCUMENT + 1), "{}"), "github.graphql");
    let nested = |n: usize| format!("{{viewer{}{{login{}", "{...on User".repeat(n), "}".repeat(n + 2));
    assert_eq!(bot(&nested(document::MAX_DEPTH - 2), "{}"), "allow");
    assert_eq!(bot(&nested(document::MAX_DEPTH - 1), "{}"), "github.graphql");
    let ids = |n: usize| format!("{{nodes(ids:[{}]){{id}}}}", format!("\"{PR}\" ").repeat(n));
    assert_eq!(bot(&ids(500), "{}"), "ask");
    assert_eq!(bot(&ids(501), "{}"), "github.graphql");
    // GitHub has to confirm each label, and the issue too.
    let label = |n: u8| {
        let array = [&[0x93, 0, 0xce], &23_096_959_u32.to_be_bytes()[..], &[0xce, 0, 1, 0, n]].concat();
        format!("\"LA_{}\"", base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(array))
    };
    let labels = |n: u8| {
        let ids: Vec<_> = (0..n).map(label).collect();
        write("addLabelsToLabelable", &format!("{{labelableId:\"{ISSUE}\" labelIds:[{}]}}", ids.join(" ")))
    };
    let mut reads: Vec<_> = (0..101).map(label).collect();
    let read = |labels: &[String]| format!("{{nodes(ids:[{}]){{id}}}}", labels.join(" "));
    assert_eq!(bot(&read(&reads), "{}"), "github.graphql");
    reads.pop();
    assert_eq!(bot(&read(&reads), "{}"), "ask");
    assert_eq!(bot(&labels(99), "{}"), "ask");
    assert_eq!(bot(&labels(100), "{}"), "github.graphql");
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "on2", "query", "fragment", "viewer", "type", "_x", "nullable"])
}

fn value() -> impl Strategy<Value = Value<'static>> {
    let leaf = prop_oneof![
        name().prop_map(Value::Variable),
        prop::sample::select(vec!["0", "-1", "12", "1.5", "1e9", "-0.5E-3"]).prop_map(Value::Number),
        any::<String>().prop_map(Value::String),
        any::<bool>().prop_map(Value::Boolean),
        Just(Value::Null),
        name().prop_map(Value::Enum),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
            prop::collection::btree_map(name(), inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn conditions() -> impl Strategy<Value = Vec<document::Condition<'static>>> {
    let value = prop_oneof![any::<bool>().prop_map(Value::Boolean), name().prop_map(Value::Variable)];
    prop::collection::btree_map(any::<bool>(), value, 0..2)
        .prop_map(|map| map.into_iter().map(|(skip, value)| document::Condition { skip, value }).collect())
}

fn selections() -> impl Strategy<Value = Vec<document::Selection<'static>>> {
    use document::Selection;
    let field = |inner: BoxedStrategy<Vec<Selection<'static>>>| {
        let arguments = prop::collection::btree_map(name(), value(), 0..3);
        (prop::option::of(name()), name(), arguments, conditions(), inner).prop_map(
            |(alias, name, arguments, conditions, selections)| {
                let arguments = arguments.into_iter().collect();
                Selection::Field(document::Field { alias, name, arguments, conditions, selections })
            },
        )
    };
    let leaf = prop::collection::vec(field(Just(Vec::new()).boxed()), 1..4);
    leaf.prop_recursive(3, 16, 4, move |inner| {
        let spread = (name(), conditions()).prop_map(|(name, conditions)| Selection::Spread { name, conditions });
        let inline = (prop::option::of(name()), conditions(), inner.clone())
            .prop_map(|(on, conditions, selections)| Selection::Inline { on, conditions, selections });
        prop::collection::vec(prop_oneof![field(inner.boxed()), spread, inline], 1..4)
    })
}

/// Spellings of one comment on the pull request `id`, all equal to GitHub.
fn spellings(id: &str, field: &str) -> Vec<(String, String)> {
    let input = format!("subjectId:\"{id}\" {field}:\"x\"");
    let swapped = format!("{field}:\"x\",,subjectId:\"\"\"\n  {id}\n\"\"\"");
    let escaped: String = id.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    let call = |input: &str| format!("addComment(input:{{{input}}}){{clientMutationId}}");
    let json = format!(r#"{{"i":{{"subjectId":"{id}","{field}":"x"}},"s":"{id}"}}"#);
    vec![
        (format!("mutation{{{}}}", call(&input)), "{}".into()),
        (format!("mutation{{alias:{}}}", call(&swapped)), "{}".into()),
        (
            format!("mutation M{{,{} # comment\n}}", call(&format!("subjectId:\"{escaped}\" {field}:\"x\""))),
            "{}".into(),
        ),
        (format!("mutation{{...on Mutation{{...{{{}}}}}}}", call(&input)), "{}".into()),
        (format!("fragment f on Mutation{{{}}}mutation{{...f}}", call(&input)), "{}".into()),
        ("mutation($i:AddCommentInput!){addComment(input:$i){clientMutationId}}".into(), json.clone()),
        (format!("mutation($s:ID!){{{}}}", call(&format!("subjectId:$s {field}:\"x\""))), json),
        (format!("mutation($s:ID=\"{id}\"){{{}}}", call(&format!("subjectId:$s {field}:\"x\""))), "{}".into()),
        (format!("mutation($i:AddCommentInput={{{input}}}){{addComment(input:$i){{clientMutationId}}}}"), "{}".into()),
        (
            format!(
                "mutation($b:Boolean=true){{{}@include(if:$b){{clientMutationId}}}}",
                call(&input).replace("{clientMutationId}", "")
            ),
            "{}".into(),
        ),
    ]
}

#[test]
fn every_spelling_has_the_same_verdict() {
    for (id, field, expected) in [
        (PR, "body", "ask"),
        ("PR_kwDOAToIks4ACauz", "body", "github.repo"),
        ("U_kgDOADP9xw", "body", "github.node-id"),
        ("PR_kwDPAAAAAAFgbn_PAAAAAAGHhRA", "body", "github.node-id"),
        (PR, "text", "github.input"),
    ] {
        for (query, variables) in spellings(id, field) {
            assert_eq!(bot(&query, &variables), expected, "{query} {variables}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_as_it_was(
        mutation in any::<bool>(),
        name in prop::option::of(name()),
        default in prop::option::of(prop_oneof![Just(Value::Null), any::<String>().prop_map(Value::String)]),
        selections in selections(),
        others in selections(),
    ) {
        let variable = document::Variable { name: "v", of: "[[Int!]!]".into(), default };
        let fragment = document::Fragment { name: "f", on: "on", selections: others };
        let document = Document { mutation, name, variables: vec![variable], selections, fragments: vec![fragment] };
        let text = document.write();
        prop_assert_eq!(Document::parse(&text), Ok(document.clone()), "{}", text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Documents of gh with some bytes changed, removed or doubled. Nothing panics. If a document is allowed, the
    /// body that is sent is allowed too, and is sent unchanged.
    #[test]
    fn changed_bytes_do_no_harm(at in any::<prop::sample::Index>(), from in any::<usize>(), length in 0usize..12, bytes in prop::collection::vec(any::<u8>(), 0..6)) {
        thread_local! {
            static TEXTS: Vec<Vec<u8>> = gh_documents().iter().map(|(_, query, variables, _)| whole(query, variables).to_bytes()).collect();
            static WHO: (Container, Rules) = (container("bot"), Rules::default());
        }
        let mut text = TEXTS.with(|texts| texts[at.index(texts.len())].clone());
        let from = from % text.len();
        text.splice(from..(from + length).min(text.len()), bytes);
        if let Ok(body) = Json::parse(&text) {
            WHO.with(|(container, rules)| {
                let scope = Scope { container, rules };
                if let Ok(judged) = judge(&body, &scope) {
                    let again = judge(&judged.body, &scope);
                    assert_eq!(again.as_ref(), Ok(&judged));
                }
            });
        }
    }
}
