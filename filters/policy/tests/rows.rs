//! Every operation that GitHub describes, one row each: for a bot and for a user its verdict is what its class says.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use policy::github::{Call, Class, Head, Judge, Rules};
use policy::{Container, HostName};
use std::collections::BTreeMap;

fn container(mode: &str) -> Container {
    serde_json::from_str(&format!(
        r#"{{"container_ip":"172.18.0.5","container_id":"a","repos":[{{"name":"o/r","id":7,"default_branch":"main"}}],"auth_mode":"{mode}","allowed_branches":["sandbox/*"],"expires_at":"2027-01-15T00:00:00Z"}}"#
    ))
    .unwrap()
}

/// A path that fits a template.
fn fill(template: &str) -> String {
    let mut path = template.replace("{base}...{head}", "main...sandbox").replace("{rest}", "issues");
    for (name, value) in [("{owner}", "o"), ("{repo}", "r"), ("{repository_id}", "7"), ("{path}", "src/a b.rs")] {
        path = path.replace(name, &value.replace(' ', "%20"));
    }
    path = path.replace("git/refs/{ref}", "git/refs/heads/sandbox/x").replace("{basehead}", "main...next");
    while let Some(start) = path.find('{') {
        let end = start + path[start..].find('}').unwrap();
        path.replace_range(start..=end, "42");
    }
    path
}

/// Bodies of the operations that have to say where they write.
fn body(operation: &str) -> &'static str {
    match operation {
        "git/create-ref" => r#"{"ref":"refs/heads/sandbox/x","sha":"a"}"#,
        "repos/create-or-update-file-contents" => r#"{"branch":"sandbox/x","message":"m","content":""}"#,
        "repos/delete-file" => r#"{"branch":"sandbox/x","message":"m","sha":"a"}"#,
        "repos/merge" => r#"{"base":"sandbox/x","head":"main"}"#,
        "git/create-tree" => r#"{"tree":[{"path":"a","mode":"100644","type":"blob","content":"x"}]}"#,
        "pulls/create" => r#"{"title":"t","head":"sandbox/x","base":"main"}"#,
        _ => "",
    }
}

fn verdict(
    judge: &Judge,
    who: &Container,
    host: &str,
    method: &str,
    target: &str,
    body: &str,
) -> Result<String, String> {
    let host = HostName::parse(host.as_bytes()).unwrap();
    let call = Call { method: method.as_bytes(), host: &host, target: target.as_bytes(), headers: &[] };
    let allowed = match judge.head(call, who) {
        Ok(Head::Body(pending)) => judge.body(pending, body.as_bytes(), who),
        Ok(Head::Allowed(allowed)) => Ok(allowed),
        Ok(Head::Elsewhere) => panic!("{target}"),
        Err(refused) => Err(refused),
    };
    allowed.map(|allowed| allowed.operation.name).map_err(|refused| refused.denial.rule.to_owned())
}

#[test]
fn the_verdict_on_every_operation_is_what_its_class_says() {
    let judge = Judge::new(&Rules::default()).unwrap();
    let text = std::fs::read_to_string("data/rest.tsv").unwrap();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [method, template, operation, class, _, host, _, _, query, _, default] = fields[..] else {
            panic!("{line}")
        };
        let target = match operation {
            "search/labels" => format!("{template}?repository_id=7&q=x"),
            "search/code" | "search/commits" | "search/issues-and-pull-requests" => format!("{template}?q=repo:o/r"),
            _ => fill(template),
        };
        for mode in ["bot", "user"] {
            let who = container(mode);
            let got = verdict(&judge, &who, host, method, &target, body(operation));
            let class = Class::named(class).unwrap();
            let narrowed = target.contains('?');
            let issue_of_another = template.ends_with("/{issue_id}");
            let allowed = (Rules::default().allows(&who, class) && default != "off") || narrowed;
            // GraphQL has its own judgement; a write by a repository's number has none.
            let allowed = allowed && class != Class::Graphql;
            let writes_by_number = template.starts_with("/repositories") && method != "GET";
            assert_eq!(
                got.is_ok(),
                allowed && !writes_by_number,
                "{mode}: {method} {target} ({operation}, {class:?}, {query}): {got:?}, {issue_of_another}"
            );
            *counts.entry(if got.is_ok() { "allowed" } else { "refused" }).or_default() += 1;
        }
    }
    assert!(counts["allowed"] > 400 && counts["refused"] > 2_000, "{counts:?}");
}

#[test]
fn methods_templates_and_members_that_are_not_known_are_refused() {
    let judge = Judge::new(&Rules::default()).unwrap();
    let who = container("user");
    for (method, target, body, rule) in [
        ("PROPFIND", "/repos/o/r/pulls", "", "github.unknown-operation"),
        ("get", "/repos/o/r/pulls", "", "github.unknown-operation"),
        ("GET", "/repos/o/r/nowhere", "", "github.unknown-operation"),
        ("GET", "/repos/o/other/pulls", "", "github.repo"),
        ("GET", "/repos/o/r/pulls?unknown=1", "", "github.query"),
        ("GET", "/repos/o/r/pulls", "{}", "github.body"),
        ("POST", "/repos/o/r/issues", r#"{"title":"t","agent_assignment":{}}"#, "github.body"),
        ("POST", "/repos/o/r/issues", r#"{"title":"t","title":"u"}"#, "github.body"),
        ("POST", "/repos/o/r/issues", r#"["title"]"#, "github.body"),
        ("POST", "/repos/o/r/issues?x=1", r#"{"title":"t"}"#, "github.query"),
    ] {
        let got = verdict(&judge, &who, "api.github.com", method, target, body);
        assert_eq!(got, Err(rule.to_owned()), "{method} {target} {body}");
    }
}

/// One rule, whichever operation moves the ref.
#[test]
fn no_operation_moves_a_protected_branch() {
    let judge = Judge::new(&Rules::default()).unwrap();
    for branch in ["main", "Main", "master", "refs/heads/main"] {
        for (method, target, body) in [
            ("POST", "/repos/o/r/git/refs".to_owned(), format!(r#"{{"ref":"refs/heads/{branch}","sha":"a"}}"#)),
            ("PATCH", format!("/repos/o/r/git/refs/heads/{branch}"), r#"{"sha":"a"}"#.to_owned()),
            ("DELETE", format!("/repos/o/r/git/refs/heads/{branch}"), String::new()),
            (
                "PUT",
                "/repos/o/r/contents/a".to_owned(),
                format!(r#"{{"branch":"{branch}","message":"m","content":""}}"#),
            ),
            ("PUT", "/repos/o/r/contents/a".to_owned(), r#"{"message":"m","content":""}"#.to_owned()),
            (
                "DELETE",
                "/repos/o/r/contents/a".to_owned(),
                format!(r#"{{"branch":"{branch}","message":"m","sha":"a"}}"#),
            ),
            ("POST", "/repos/o/r/merges".to_owned(), format!(r#"{{"base":"{branch}","head":"x"}}"#)),
            ("POST", "/repos/o/r/merge-upstream".to_owned(), format!(r#"{{"branch":"{branch}"}}"#)),
            ("POST", format!("/repos/o/r/branches/{branch}/rename"), r#"{"new_name":"x"}"#.to_owned()),
            ("PUT", "/repos/o/r/pulls/7/update-branch".to_owned(), "{}".to_owned()),
            ("PUT", "/repos/o/r/pulls/7/merge".to_owned(), "{}".to_owned()),
            ("PUT", "/repos/o/r/pulls/7/merge-async".to_owned(), "{}".to_owned()),
        ] {
            for mode in ["bot", "user"] {
                let got = verdict(&judge, &container(mode), "api.github.com", method, &target, &body);
                assert!(got.is_err(), "{mode}: {method} {target} {body}: {got:?}");
            }
        }
    }
}
