//! The table of rules, held against the tree: docs/refusals.md says what the table says, and the tests and cases that
//! the table names are there and give these rules.
//!
//! `SALLYPORT_WRITE_DOCS=1 cargo test -p policy --test refusals` writes docs/refusals.md.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use policy::{Effect, Reached, Rule, Stage};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

const HEAD: &str = "\
# Refusals

<!-- Generated from filters/policy/src/rule.rs by filters/policy/tests/refusals.rs. Do not edit. -->

A *rule* on this page is the name of a decision, for example `push.protected`. The *rules* of a policy are the operator's
settings in `config/policy.yaml` ([configuration.md](configuration.md)).

A refusal has a status, the header `x-sallyport-rule`, and a body. The body is JSON with the members `rule`, `stage` and
`request_id`, and with those that the clients of the host read:

| host | further members | printed by |
| --- | --- | --- |
| GitHub's | `error`, the reason; `message`, the reason with the rule | gh, Octokit, git-lfs |
| api.anthropic.com | `type`, `error: {type, message}`, `message` | anthropic, Claude Code |
| api.openai.com, chatgpt.com, openrouter.ai, api.groq.com, api.mistral.ai, api.x.ai, api.deepseek.com, api.perplexity.ai | `error: {message, type, param, code}`, where `code` is the rule; `message` | openai, Codex |
| generativelanguage.googleapis.com, cloudcode-pa.googleapis.com | `error: {code, message, status}`, `message` | google-genai |
| every other, and Envoy's own answers | `error`, the reason | npm; curl and others that print bodies |

For a path that ends in `/info/refs` or `/git-upload-pack` the body is plain text, except in Envoy's own answers. git
prints the text for `/info/refs` only, after `remote:`. The audit line of the request has the same rule, stage and request
id. A CONNECT is refused only for its form; most clients hide that body.

A refused push has git's own report with status 200, if the client reads reports
([push.md](push.md#the-form-of-a-refused-push)). The statuses below are those without a report.

The body is written by `render` in `filters/policy/src/refusal.rs`, git's report by `Refusal::report` in
`filters/push/src/refusal.rs`. The reason in either is worded where the `Denial` is made. Search for the rule's variant:
`push.protected` is `Rule::PushProtected`, both parts of the name in camel case. The reasons of Envoy's own answers are in
`control-plane/xds/src/resources/local_reply.rs`.

The chain decides in this order: listener, identity, github, credentials, scrub, push, upstream. The stage `request` is the
identity filter's look at the form of a request. The scrub filter is a part of the stage `credentials`.
";

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for stage in Stage::ALL {
        writeln!(page, "\n## {}\n\n| rule | status | means | what to do | tested by |", stage.name()).unwrap();
        writeln!(page, "| --- | --- | --- | --- | --- |").unwrap();
        for rule in Rule::ALL.iter().filter(|rule| rule.stage() == stage) {
            let status = match rule.effect() {
                Effect::Refuses(status) => status.to_string(),
                Effect::Either(status) => format!("passes, or {status}"),
                Effect::Allows => "passes".into(),
                Effect::Audited => "audit only".into(),
            };
            let tested = match rule.reached() {
                Reached::Test(name) => format!("`{name}`"),
                Reached::GitHub(id) => format!("case {id} of `tests/corpus/github`"),
                Reached::Push(name) => format!("case {name} of `tests/corpus/push`"),
                Reached::Chain(file, name) => format!("case \"{name}\" of `tests/corpus/chain/{file}`"),
                Reached::Native(name) => format!("`{name}`, natively"),
                Reached::Cannot(why) => format!("no request: {why}"),
            };
            let (name, meaning, advice) = (rule.name(), rule.meaning(), rule.advice());
            writeln!(page, "| `{name}` | {status} | {meaning} | {advice} | {tested} |").unwrap();
        }
    }
    page
}

#[test]
fn the_page_of_refusals_is_the_table() {
    let path = root().join("docs/refusals.md");
    let page = page();
    if std::env::var_os("SALLYPORT_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page, "docs/refusals.md is stale: SALLYPORT_WRITE_DOCS=1 cargo test -p policy --test refusals");
}

/// The tests below `directory`.
fn tests_below(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            tests_below(&path, found);
        } else if name.ends_with(".rs") {
            let mut test = false;
            for line in std::fs::read_to_string(&path).unwrap().lines().map(str::trim) {
                test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                let words = line.trim_start_matches("async ").strip_prefix("fn ").and_then(|rest| rest.split_once('('));
                if let Some((name, _)) = words
                    && std::mem::take(&mut test)
                {
                    found.insert(name.to_owned());
                }
            }
        }
    }
}

#[test]
fn every_rule_is_tested_by_what_the_table_names() {
    let (mut end_to_end, mut native) = (BTreeSet::new(), BTreeSet::new());
    tests_below(&root().join("tests/e2e"), &mut end_to_end);
    for directory in ["filters", "control-plane", "tests/support"] {
        tests_below(&root().join(directory), &mut native);
    }
    let pushes = std::fs::read_to_string(root().join("tests/corpus/push/cases.jsonl")).unwrap();
    let pushes: BTreeMap<String, Option<String>> = pushes
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|case| (case["name"].as_str().unwrap().into(), case["expect"]["rule"].as_str().map(Into::into)))
        .collect();
    let (world, corpus) = (support::World::new(), support::corpus());
    let mut wrong = Vec::new();
    for rule in Rule::ALL {
        let good = match rule.reached() {
            Reached::Test(name) => end_to_end.contains(name),
            Reached::Native(name) => native.contains(name),
            Reached::GitHub(id) => corpus.iter().any(|case| {
                case.id == id && world.explain(case).rule == *rule && case.rule.as_deref() == Some(rule.name())
            }),
            // `chain` of the stand-in reads the files, and checks that this case has this rule.
            Reached::Chain(file, name) => {
                let text = std::fs::read_to_string(root().join("tests/corpus/chain").join(file)).unwrap_or_default();
                text.contains(name) && text.contains(rule.name())
            }
            Reached::Push(name) => pushes.get(name).is_some_and(|named| named.as_deref() == Some(rule.name())),
            // The test that such a reason names is there, as every other that is in code font.
            Reached::Cannot(why) => {
                let named = why.split('`').skip(1).step_by(2).filter(|word| word.matches('_').count() > 2);
                !why.is_empty() && named.into_iter().all(|name| native.contains(name))
            }
        };
        if !good {
            wrong.push(format!("{rule}: {:?}", rule.reached()));
        }
    }
    assert!(wrong.is_empty(), "there is no such test or case, or it gives another rule: {wrong:#?}");
}
