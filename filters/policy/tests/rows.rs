//! Judges every operation that GitHub describes, for a bot and for a user. Its class gives the verdict.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use policy::Container;
use policy::github::{Class, Judge, Rules};
use std::collections::BTreeMap;
use support::{container, judged, rows};

fn verdict(
    judge: &Judge,
    who: &Container,
    host: &str,
    method: &str,
    target: &str,
    body: &str,
) -> Result<String, String> {
    judged(judge, who, (host, method, target), &[], body)
        .map(|allowed| allowed.operation.name)
        .map_err(|refused| refused.denial.rule.name().to_owned())
}

#[test]
fn the_verdict_on_every_operation_is_what_its_class_says() {
    let judge = Judge::new(&Rules::default()).unwrap();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows() {
        let (method, target, operation) = (row.method.as_str(), row.target(), row.operation.as_str());
        for mode in ["bot", "user"] {
            let who = container(mode);
            let got = verdict(&judge, &who, &row.host, method, &target, row.body());
            let class = Class::named(&row.class).unwrap();
            let narrowed = target.contains('?');
            let allowed = (Rules::default().allows(&who, class) && !row.off) || narrowed;
            // GraphQL is judged elsewhere. Every write by a repository's number is refused.
            let allowed = allowed && class != Class::Graphql;
            let writes_by_number = row.template.starts_with("/repositories") && method != "GET";
            assert_eq!(
                got.is_ok(),
                allowed && !writes_by_number,
                "{mode}: {method} {target} ({operation}, {class:?}): {got:?}"
            );
            *counts.entry(if got.is_ok() { "allowed" } else { "refused" }).or_default() += 1;
        }
    }
    assert!(counts["allowed"] > 400 && counts["refused"] > 2_000, "{counts:?}");
}

/// GitHub's description says of these "You must use a JWT to access this endpoint", or requires the App's id and secret.
/// The gateway's token gets a 401.
const OF_THE_APP_ITSELF: [&str; 28] = [
    "apps/get-authenticated",
    "apps/get-webhook-config-for-app",
    "apps/update-webhook-config-for-app",
    "apps/list-webhook-deliveries",
    "apps/get-webhook-delivery",
    "apps/redeliver-webhook-delivery",
    "apps/list-installation-requests-for-authenticated-app",
    "apps/list-installations",
    "apps/get-installation",
    "apps/delete-installation",
    "apps/create-installation-access-token",
    "apps/suspend-installation",
    "apps/unsuspend-installation",
    "apps/get-enterprise-installation",
    "apps/get-org-installation",
    "apps/get-repo-installation",
    "apps/get-user-installation",
    "apps/get-subscription-plan-for-account",
    "apps/get-subscription-plan-for-account-stubbed",
    "apps/list-accounts-for-plan",
    "apps/list-accounts-for-plan-stubbed",
    "apps/list-plans",
    "apps/list-plans-stubbed",
    "apps/check-token",
    "apps/delete-authorization",
    "apps/delete-token",
    "apps/reset-token",
    "apps/scope-token",
];

#[test]
fn an_operation_that_only_an_app_itself_can_use_is_refused() {
    let judge = Judge::new(&Rules::default()).unwrap();
    let rows = rows();
    for name in OF_THE_APP_ITSELF {
        let row = rows.iter().find(|row| row.operation == name).unwrap_or_else(|| panic!("{name}"));
        for mode in ["bot", "user"] {
            let got = verdict(&judge, &container(mode), &row.host, &row.method, &row.target(), row.body());
            let rule = Class::named(&row.class).unwrap().rule().name();
            assert_eq!(got, Err(rule.to_owned()), "{mode}: {name}");
        }
    }
    let by_number = "/repositories/7/installation";
    let got = verdict(&judge, &container("user"), "api.github.com", "GET", by_number, "");
    assert_eq!(got, Err("github.read-account".to_owned()));
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

/// The same rule applies to every operation that moves a ref.
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
