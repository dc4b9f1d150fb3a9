//! Tests of the policy file.

use super::*;
use credentials;
use policy::HostName;
use std::collections::BTreeMap;

fn policy(text: &str) -> Result<Policy, Error> {
    let set = |name: &str| (name == "OPENAI_API_KEY").then(|| "K".into());
    let credentials = credentials::read(&BTreeMap::new(), Path::new(""), &set).unwrap();
    read(text, Path::new("policy.yaml"), &credentials)
}

fn access(policy: &Policy, host: &str) -> Option<Access> {
    policy.egress.access(&HostName::parse(host.as_bytes()).unwrap()).cloned()
}

#[test]
fn an_empty_list_is_none_and_an_absent_one_github_and_the_configured_credentials() {
    assert_eq!(policy("egress: []").unwrap().egress, Egress::default());
    assert_eq!(access(&policy("").unwrap(), "github.com"), Some(Access::full()));
    assert_eq!(access(&policy("").unwrap(), "api.openai.com"), Some(Access::full()));
    assert_eq!(access(&policy("").unwrap(), "api.anthropic.com"), None, "it has no value");
    assert_eq!(access(&policy("egress: [github]").unwrap(), "api.openai.com"), None);
    let nothing = Credentials::default();
    assert_ne!(policy("").unwrap().version, read("", Path::new(""), &nothing).unwrap().version);
    assert_eq!(load(Path::new("/nonexistent/policy.yaml"), &nothing).unwrap(), Policy::deny_all());
}

#[test]
fn an_empty_file_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.yaml");
    for text in ["", " \n"] {
        std::fs::write(&file, text).unwrap();
        let error = load(&file, &Credentials::default()).unwrap_err().to_string();
        assert!(error.contains("policy.yaml: the file is empty; write `egress: []`"), "{error}");
    }
    std::fs::write(&file, "# All defaults.\n").unwrap();
    assert!(load(&file, &Credentials::default()).is_ok());
}

#[test]
fn each_kind_of_entry_means_what_the_example_says() {
    let policy = policy(
        "egress:\n  - api.example.com\n  - '*.example.org'\n  - pypi\n  - {preset: npm, methods: [GET, HEAD, POST]}\n  - {host: mirror.example.net, cleartext: true, methods: [GET]}\n",
    )
    .unwrap();
    assert_eq!(access(&policy, "api.example.com"), Some(Access::full()));
    assert_eq!(access(&policy, "a.example.org"), Some(Access::full()));
    assert_eq!(access(&policy, "example.org"), None);
    assert!(!access(&policy, "pypi.org").unwrap().allows(b"POST", b"/"));
    assert!(access(&policy, "registry.npmjs.org").unwrap().allows(b"POST", b"/"));
    assert!(access(&policy, "mirror.example.net").unwrap().cleartext);
}

#[test]
fn an_entry_with_rules_allows_its_requests_and_refuses_others_for_good() {
    let policy = policy(
        "egress:\n  - npm\n  - {host: registry.npmjs.org, deny: ['/-/user/**']}\n  - {host: '*.example.com', allow: ['GET /a/*', POST /b], deny: [/a/x]}\n  - {host: mirror.example.net, allow: [/a], cleartext: true}\n  - {host: api.github.com, methods: [GET]}\n",
    )
    .unwrap();
    let decide = |host: &str, method: &str, path: &str| {
        let host = HostName::parse(host.as_bytes()).unwrap();
        match policy.egress.decide(&[], &host, method.as_bytes(), path.as_bytes()) {
            policy::Verdict::Allow(by) => by.rule.name(),
            policy::Verdict::Deny(denial) => denial.rule.name(),
        }
    };
    assert_eq!(decide("registry.npmjs.org", "GET", "/left-pad"), "egress.host");
    assert_eq!(decide("registry.npmjs.org", "GET", "/-/user/x"), "egress.path");
    assert_eq!(decide("registry.npmjs.org", "PUT", "/left-pad"), "egress.method", "deny alone allows nothing");
    assert_eq!(decide("a.example.com", "GET", "/a/y"), "egress.host");
    assert_eq!(decide("a.example.com", "POST", "/b"), "egress.host");
    assert_eq!(decide("a.example.com", "GET", "/a/x"), "egress.path");
    assert_eq!(decide("a.example.com", "POST", "/a/y"), "egress.path");
    assert!(access(&policy, "mirror.example.net").unwrap().cleartext);
    assert_eq!(decide("api.github.com", "POST", "/graphql"), "egress.method");
}

#[test]
fn the_preset_credentials_is_the_hosts_whose_credentials_have_a_value() {
    for text in ["egress: [credentials]", "egress: [{preset: credentials, methods: [POST]}]"] {
        let found = policy(text).unwrap();
        let openai = access(&found, "api.openai.com").unwrap();
        assert!(openai.allows(b"POST", b"/") && openai.allows(b"GET", b"/") != text.contains("methods"), "{text}");
        for host in ["api.anthropic.com", "github.com", "api.github.com"] {
            assert_eq!(access(&found, host), None, "{text}: {host} has no value");
        }
        assert_ne!(found.version, read(text, Path::new(""), &Credentials::default()).unwrap().version);
    }
    let shipped = policy(include_str!("../../../../config/policy.yaml")).unwrap();
    assert_eq!(shipped.egress, policy("{}").unwrap().egress, "the shipped list is the default");
    let refused = policy("egress: [{preset: credentials, cleartext: true}]").unwrap_err().to_string();
    assert!(refused.contains("egress[0].cleartext: api.openai.com gets a credential"), "{refused}");
}

/// The policy file of the project's original design.
const SEED: &str = include_str!("../../../../tests/corpus/seeds/policy.yaml");

#[test]
fn the_policy_of_the_original_design_is_understood() {
    let seed = policy(SEED).unwrap();
    assert_eq!(seed.github.blocked_api_patterns["PUT"], [r"^/repos/[^/]+/[^/]+/pulls/\d+/merge$"]);
    assert_eq!(seed.github.blocked_api_patterns.len(), 3);
    let protected: Vec<String> = seed.github.branches.protected.iter().map(ToString::to_string).collect();
    assert_eq!(protected, ["main", "master"]);
    assert!(!seed.github.branches.allow_force_push && !seed.github.branches.allow_deletion);
    assert_eq!(access(&seed, "github.com"), Some(Access::full()));
    assert_eq!(policy("").unwrap().github, Rules::default());
    // Given keys apply, and absent keys have their defaults.
    let other = policy("policy: {protected_branches: [], allow_force_push: true, allow_branch_deletion: true}");
    let branches = other.unwrap().github.branches;
    assert!(branches.protected.is_empty() && branches.allow_force_push && branches.allow_deletion);
    assert!(branches.protect_default);
    let other = policy("policy: {protect_default_branch: false, branch_characters: '#,'}").unwrap().github.branches;
    assert!(!other.protect_default);
    assert_eq!((other.protected.len(), other.characters.to_string().as_str()), (2, "#,"));
    assert_eq!(policy("policy: {protected_branches: ['release/*']}").unwrap().github.branches.protected.len(), 1);
}

#[test]
fn a_wrong_value_in_the_rules_is_named() {
    for (text, hint) in [
        ("policy: {blocked_api_paterns: {}}", "policy.yaml:1:10: policy: unknown field `blocked_api_paterns`"),
        ("policy: {allow_force_push: maybe}", "policy.yaml:1:28: policy.allow_force_push: "),
        ("policy: {protected_branches: main}", "policy.yaml:1:30: policy.protected_branches: "),
        ("policy: {protected_branches: ['a..b']}", "is not a branch glob"),
        ("policy: {protect_default_branch: main}", "policy.protect_default_branch: "),
        ("policy: {branch_characters: '# '}", "branch_characters has ' ', which is in no name of git's"),
        (
            "policy:\n  blocked_api_patterns:\n    GET: []\n    put: []\n",
            "policy.yaml:3:5: policy.blocked_api_patterns: \"put\" is no method",
        ),
        (
            "policy:\n  blocked_api_patterns:\n    GET: ['/', '(']\n",
            "policy.yaml:3:10: policy.blocked_api_patterns.GET: regex parse error",
        ),
        ("policy: {blocked_api_patterns: {GET: ['(']}}", "expected regular expressions on the path"),
        ("policy: {blocked_api_patterns: {GET: ['(?:[a-z]{1000}){1000}']}}", "size limit"),
        ("policy: {blocked_api_patterns: {GET: '/'}}", "a sequence"),
        ("policy: {blocked_api_patterns: {TRACE: ['/']}}", "no method"),
    ] {
        let message = policy(text).unwrap_err().to_string();
        assert!(message.contains(hint), "{text}\n{message}");
    }
}

#[test]
fn the_rules_for_github_are_those_of_the_default_and_what_is_said() {
    let text = "github:\n  bot: {allow: [ci], deny: [write-object]}\n  user: {allow: [merge]}\n  operations:\n    - {labels: {team: infra}, allow: [actions/re-run-workflow, closeIssue], deny: [pulls/update]}\n    - {deny: [git/receive-pack]}\n  restricted_paths: [deploy/**]\n  commands: []\n  denied_labels: [ship it]\n  held_labels: [hold*]\n  agents: [robot]\npolicy: {protected_branches: [trunk]}\n";
    let rules = policy(text).unwrap().github;
    let default = Rules::default();
    let classes = |classes: &BTreeSet<Class>| classes.iter().map(|class| class.name()).collect::<Vec<_>>();
    assert_eq!(classes(&rules.bot), ["read-repo", "read-global", "write-collab", "write-ref", "ci"]);
    assert_eq!(rules.user.len(), default.user.len() + 1);
    assert_eq!(rules.operations.len(), 2);
    assert_eq!(rules.operations[0].labels["team"], "infra");
    assert!(rules.operations[0].allow.contains("closeIssue") && rules.operations[0].deny.contains("pulls/update"));
    assert_eq!(rules.restricted_paths, ["deploy/**"]);
    assert!(rules.commands.is_empty());
    assert_eq!((rules.denied_labels, rules.held_labels), (vec!["ship it".to_owned()], vec!["hold*".to_owned()]));
    assert_eq!((rules.allowed_labels, rules.agents), (None, vec!["robot".to_owned()]));
    let allowed = policy("github: {allowed_labels: [bug, 'area/*']}").unwrap().github.allowed_labels;
    assert_eq!(allowed, Some(vec!["bug".to_owned(), "area/*".to_owned()]));
    assert_eq!(rules.branches.protected.len(), 1);
    for nothing in ["", "github: {}"] {
        assert_eq!(policy(nothing).unwrap().github, default, "{nothing}");
    }
    assert_ne!(policy(text).unwrap().version, policy("").unwrap().version);
}

/// The defaults in the example's comments are the actual defaults.
#[test]
fn the_example_gives_the_defaults_for_github() {
    for example in
        [include_str!("../../../../config/policy.yaml"), include_str!("../../../../config/policy.yaml.example")]
    {
        let github = example.split_once("\n#github:\n").unwrap().1;
        let text: String = github.lines().map(|line| format!("{}\n", line.trim_start_matches('#'))).collect();
        let rules = policy(&format!("github:\n{text}")).unwrap().github;
        assert_eq!(Rules { operations: Vec::new(), ..rules }, Rules::default());
    }
}

#[test]
fn a_wrong_word_about_github_is_named_with_its_place() {
    for (text, hint) in [
        ("github:\n  bots: {}", "policy.yaml:2:3: github: unknown field `bots`"),
        ("github:\n  bot: [ci]", "policy.yaml:2:8: github.bot: "),
        (
            "github:\n  bot: {allow: [deploy]}",
            "policy.yaml:2:16: github.bot.allow: \"deploy\" is no class; the classes are read-repo, ",
        ),
        ("github:\n  bot: {allow: [graphql]}", "is no class"),
        ("github:\n  bot: {allow: ci}", "a sequence"),
        ("github:\n  bot: {allow: [ci], deny: [ci]}", "policy.yaml: github.bot: ci stands under allow and deny"),
        ("github:\n  user: {allows: [ci]}", "unknown field `allows`"),
        (
            "github:\n  operations: [{allow: [pulls/marge]}]",
            "github.operations[0].allow: \"pulls/marge\" is no operation",
        ),
        ("github:\n  operations: [{deny: [closeIssues]}]", "such as mergePullRequest"),
        ("github:\n  operations: [{labels: {team: a}}]", "policy.yaml: github.operations[0]: says nothing"),
        ("github:\n  operations: [{label: {team: a}, allow: [pulls/merge]}]", "unknown field `label`"),
        ("github:\n  operations: [{labels: {team: [a]}, allow: [pulls/merge]}]", "a string"),
        ("github:\n  restricted_paths: [/x]", "policy.yaml:2:21: github.restricted_paths: "),
        ("github:\n  restricted_paths: ['a\\b']", "such as .github/workflows/**"),
        ("github:\n  commands: ['']", "policy.yaml:2:13: github.commands: "),
        ("github:\n  denied_labels: [' x']", "without white space around it"),
        ("github:\n  agents: copilot", "a sequence"),
        ("github: {denied_labels: [a], allowed_labels: [b]}", "policy.yaml: github.allowed_labels: stands beside"),
        ("github:\n  push_options: ['x;y']", "policy.yaml:2:17: github.push_options: "),
        ("github:\n  push_options: ['']", "such as ci.skip"),
        ("github:\n  push_time: 0s", "is no time from 1s to 24h, such as 15m"),
        ("github:\n  push_time: 25h", "is no time from 1s to 24h"),
        ("github:\n  push_time: -1m", "is no time from 1s to 24h"),
    ] {
        let message = policy(text).unwrap_err().to_string();
        assert!(message.contains(hint), "{text}\n{message}");
    }
}

/// One line for each kind of invalid value: text, line, column, and a word of the hint.
#[test]
fn an_error_has_its_place_and_a_hint() {
    let cases = [
        ("egres: []", 1, 1, "`egress`"),
        ("strip_foreign_credentials: maybe", 1, 28, "a boolean"),
        ("egress: github", 1, 9, "a sequence"),
        ("egress:\n  - 127.0.0.1\n", 2, 5, "use the host's name"),
        ("egress:\n  - github\n  - localhost\n", 3, 5, "presets are"),
        ("egress:\n  - '*'\n", 2, 5, "api.example.com"),
        ("egress:\n  - https://api.example.com\n", 2, 5, "a URL; write its host name alone"),
        ("egress:\n  - api.example.com/v1\n", 2, 5, "a URL"),
        ("egress:\n  - {host: 'api.example.com:8443'}\n", 2, 5, "a host name with a port"),
        ("egress:\n  - evil.*.com\n", 2, 5, "api.example.com"),
        ("egress:\n  - gihub\n", 2, 5, "presets are"),
        ("egress:\n  - 7\n", 2, 5, "a host"),
        ("egress:\n  - {methods: [GET]}\n", 2, 5, "missing field `host`"),
        ("egress:\n  - {host: a.example.com, preset: npm}\n", 2, 5, "one host or one preset"),
        ("egress:\n  - {host: a.example.com, method: [GET]}\n", 2, 5, "`methods`"),
        ("egress:\n  - {host: a.example.com, methods: [get]}\n", 2, 5, "GET"),
        ("egress:\n  - {host: a.example.com, methods: GET}\n", 2, 36, "a sequence"),
        ("egress:\n  - {host: a.example.com, cleartext: perhaps}\n", 2, 38, "a boolean"),
        ("egress:\n  - {host: a.example.com, allow: []}\n", 2, 5, "egress[0]: allow is empty; remove the entry, or"),
        ("egress:\n  - {host: a.example.com, deny: []}\n", 2, 5, "deny is empty"),
        ("egress:\n  - {host: a.example.com, methods: []}\n", 2, 5, "methods is empty"),
        ("egress:\n  - {host: a.example.com, allow: /a}\n", 2, 34, "a sequence"),
        ("egress:\n  - {host: a.example.com, allow: ['LINK /a']}\n", 2, 5, "invalid method \"LINK\": expected one of"),
        ("egress:\n  - {host: a.example.com, allow: ['GET a']}\n", 2, 5, "no / at its beginning"),
        ("egress:\n  - {host: a.example.com, deny: ['/a/**/b']}\n", 2, 5, "deny: invalid path \"/a/**/b\": expected"),
        ("egress:\n  - {host: a.example.com, deny: ['/a?b']}\n", 2, 5, "without a query"),
        ("egress:\n  - {host: a.example.com, deny: ['/%61']}\n", 2, 5, "another spelling of 'a'; write 'a'"),
        ("egress:\n  - {host: a.example.com, allow: [/a, /a]}\n", 2, 5, "allow has the rule /a twice"),
        ("egress:\n  - {host: a.example.com, allow: [/a], deny: [/a]}\n", 2, 5, "stands under allow and deny"),
        ("egress:\n  - {host: a.example.com, allow: [/a], methods: [GET]}\n", 2, 5, "methods stands beside allow"),
        (
            "egress:\n  - {host: api.github.com, deny: [/user]}\n",
            2,
            5,
            "api.github.com: a host of GitHub's takes no rules",
        ),
        ("egress:\n  - {preset: npm, deny: [/a]}\n", 2, 5, "allow and deny are for one host or suffix"),
        ("egress:\n  - {host: a.example.com, deny: [/a], cleartext: true}\n", 2, 5, "deny alone, which allows nothing"),
        ("egress:\n  - github\n egress: []\n", 3, 2, "did not find"),
        ("strip_foreign_credentials: true\negress:\n  # - github\n", 2, 8, "egress: no value; write [] or {}"),
        ("egress: ~", 1, 9, "egress: no value"),
        ("egress: [~]", 1, 10, "a host"),
        ("policy:\n", 1, 8, "policy: no value"),
        ("policy:\n  protected_branches:\n  # - main\n", 2, 22, "policy.protected_branches: no value"),
        ("github:\n  bot: {allow: }\n", 2, 16, "github.bot.allow: no value"),
        ("github:\n  push_time:\n", 2, 13, "github.push_time: no value"),
    ];
    for (text, line, column, hint) in cases {
        let message = policy(text).unwrap_err().to_string();
        assert!(message.starts_with(&format!("policy.yaml:{line}:{column}: ")), "{text}\n{message}");
        assert!(message.contains(hint), "{text}\n{message}");
    }
    for preset in ["host: github.com", "host: api.openai.com", "preset: anthropic"] {
        let text = format!("egress: [github, {{{preset}, cleartext: true}}]");
        let message = policy(&text).unwrap_err().to_string();
        assert!(message.starts_with("policy.yaml: egress[1].cleartext: "), "{message}");
    }
}
