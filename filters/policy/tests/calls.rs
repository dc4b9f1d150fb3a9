//! Judges the calls that programs make to GitHub, in `tests/corpus/github/calls.jsonl`, by the shipped policy. The
//! verdicts are the tables of docs/github-calls.md.
//!
//! `SALLYPORT_WRITE_DOCS=1 cargo test -p policy --test calls` writes the page.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use policy::Rule;
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;
use support::{Case, World};

/// The registration that sends each call.
const CONTAINER: &str = r#"{"container_ip":"172.18.0.5","container_id":"case","auth_mode":"bot",
    "repos":[{"name":"acme/app","id":23096959,"default_branch":"main"}],"allowed_branches":["sandbox/*","bot/*"]}"#;

const HEAD: &str = "\
# Calls of GitHub's clients

<!-- Generated from tests/corpus/github/calls.jsonl by filters/policy/tests/calls.rs. Do not edit. -->

This page lists the calls that agents and bots make to GitHub, with the verdict of the shipped policy for a container in
`auth_mode: bot`. The calls were taken from the public source of the clients, and were judged without GitHub: no client of
this page ran for it. The calls of `gh` that are GraphQL were recorded. [clients.md](clients.md) lists the clients that
ran.

| client | source |
| --- | --- |
| github-mcp-server | all tools of `pkg/github`, as of 2026-08-20 |
| gh | the commands that a bot uses: GraphQL of 2.102.0, REST as of 2024-10-24 |
| claude-code-action | `src/`, as of 2026-08-22; the agent inside calls `gh`, git and github-mcp-server |
| Codex | codex-action, as of 2026-05-14; the calls at the start of the program Codex, from [clients.md](clients.md#refused-requests-of-working-clients), and its check for a new version. Codex in the cloud has no public source |
| Renovate | `lib/modules/platform/github` and `lib/util/github`, as of 2026-08-22 |
| Dependabot | dependabot-core, as of 2026-08-22 |

*Pass* includes the calls about which the gateway first asks GitHub, such as the author of a text: they pass if GitHub
confirms. Some refusals depend on the policy: [allowing an operation or a
class](github.md#allowing-an-operation-or-a-class), and `force_own_branches`, `allowed_branches` and `auth_mode` of the
registration. The refusals are by design, except those marked as a shortcoming
([shortcomings.md](shortcomings.md#missing-features)): issues that REST names by a number that counts across GitHub. The
files behind a redirect of GitHub's come by the signed address in it ([github.md](github.md)).
";

/// One call of a program, and the expected verdict.
struct Call {
    client: String,
    /// The client's own group of the tool.
    set: String,
    /// The tools that make the call.
    tools: Vec<String>,
    /// The part of the tool. Empty if the tool makes one call only.
    step: String,
    case: Case,
    /// Why the call is refused. Empty if the call passes.
    why: String,
    /// The refusal is not by design: docs/shortcomings.md has it.
    shortcoming: bool,
}

impl Call {
    fn read(line: &str) -> Self {
        let mut row: Value = serde_json::from_str(line).unwrap();
        row["container"] = serde_json::from_str(CONTAINER).unwrap();
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let tools = text("tool").split(", ").map(str::to_owned).collect();
        let [client, set, step, why] = ["client", "set", "step", "why"].map(text);
        let shortcoming = row["shortcoming"].as_bool().unwrap_or_default();
        Self { client, set, tools, step, why, shortcoming, case: Case::of(row) }
    }

    fn passes(&self) -> bool {
        self.case.expect == "allow"
    }

    /// The rule of a refusal, and its reason.
    fn reason(&self) -> String {
        let shortcoming = if self.shortcoming { " (shortcoming)" } else { "" };
        format!("`{}`: {}{shortcoming}", self.case.rule.as_deref().unwrap(), self.why)
    }
}

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn calls() -> Vec<Call> {
    let text = std::fs::read_to_string(root().join("tests/corpus/github/calls.jsonl")).unwrap();
    text.lines().map(Call::read).collect()
}

#[test]
fn every_call_has_its_verdict_and_rule() {
    let world = World::shipped();
    let mut wrong = Vec::new();
    for call in calls() {
        // A call with questions passes if GitHub confirms the objects.
        let got = world.answered(&call.case, Some(true));
        let fits = got.verdict == call.case.expect && Some(got.rule.name()) == call.case.rule.as_deref();
        if !fits || call.passes() != call.why.is_empty() {
            let Call { client, tools, step, .. } = &call;
            wrong.push(format!("{client}, {tools:?}, {step}: {}: {got:?}", call.case.printed()));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_page_of_calls_is_the_corpus() {
    let path = root().join("docs/github-calls.md");
    let page = page();
    if std::env::var_os("SALLYPORT_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page, "docs/github-calls.md is stale: SALLYPORT_WRITE_DOCS=1 cargo test -p policy --test calls");
}

fn page() -> String {
    let (mut page, calls) = (HEAD.to_owned(), calls());
    let clients = groups(&calls.iter().collect::<Vec<_>>(), |call| std::slice::from_ref(&call.client));
    page.push_str("\n| client | calls | pass | refused by design | shortcomings |\n| --- | --- | --- | --- | --- |\n");
    for (client, calls) in &clients {
        let count = |of: fn(&Call) -> bool| calls.iter().filter(|call| of(call)).count();
        let (pass, shortcomings) = (count(Call::passes), count(|call| call.shortcoming));
        let refused = calls.len() - pass - shortcomings;
        writeln!(page, "| {client} | {} | {pass} | {refused} | {shortcomings} |", calls.len()).unwrap();
    }
    for (client, calls) in &clients {
        write!(page, "\n## {client}\n\n| group | tools | pass | refused | rule: reason |\n").unwrap();
        page.push_str("| --- | --- | --- | --- | --- |\n");
        for (set, calls) in groups(calls, |call| std::slice::from_ref(&call.set)) {
            let mut set = set;
            for line in lines(&groups(&calls, |call| &call.tools)) {
                writeln!(page, "| {set} | {line} |").unwrap();
                set = "";
            }
        }
    }
    page
}

/// The lines of one group: first all tools that pass, then each tool of which a part is refused, then all tools that are
/// refused for one reason.
fn lines(tools: &[(&str, Vec<&Call>)]) -> Vec<String> {
    let mut passing: Vec<&str> = Vec::new();
    let mut parts: Vec<String> = Vec::new();
    let mut refused: Vec<(String, Vec<&str>)> = Vec::new();
    for (tool, calls) in tools {
        let mut reasons: Vec<String> = Vec::new();
        for reason in calls.iter().filter(|call| !call.passes()).map(|call| call.reason()) {
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        let passes = steps(calls, Call::passes);
        match &reasons[..] {
            [] => passing.push(tool),
            [reason] if passes.is_empty() => match refused.iter_mut().find(|(have, _)| have == reason) {
                Some((_, tools)) => tools.push(tool),
                None => refused.push((reason.clone(), vec![tool])),
            },
            _ => {
                let mut shown = if passes.is_empty() { (*tool, "no") } else { (*tool, passes.as_str()) };
                for reason in reasons {
                    let which = steps(calls, |call| !call.passes() && call.reason() == reason);
                    parts.push(format!("{} | {} | {which} | {reason}", shown.0, shown.1));
                    shown = ("", "");
                }
            }
        }
    }
    let all = refused.into_iter().map(|(reason, tools)| format!("{} | no | all | {reason}", tools.join(", ")));
    let passing = (!passing.is_empty()).then(|| format!("{} | yes | | ", passing.join(", ")));
    passing.into_iter().chain(parts).chain(all).collect()
}

/// The names of those parts of a tool that `are`.
fn steps(calls: &[&Call], are: impl Fn(&Call) -> bool) -> String {
    let mut names: Vec<&str> = Vec::new();
    for call in calls.iter().filter(|call| are(call)) {
        let name = if call.step.is_empty() { "the rest" } else { &call.step };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

/// The calls by the names that `of` gives them, in the order of the first calls.
fn groups<'a>(calls: &[&'a Call], of: impl Fn(&'a Call) -> &'a [String]) -> Vec<(&'a str, Vec<&'a Call>)> {
    let mut groups: Vec<(&str, Vec<&Call>)> = Vec::new();
    for call in calls {
        for name in of(call) {
            match groups.iter_mut().find(|(have, _)| have == name) {
                Some((_, calls)) => calls.push(call),
                None => groups.push((name, vec![call])),
            }
        }
    }
    groups
}

#[test]
fn a_refusal_of_a_known_rule_has_one_short_reason() {
    for call in calls().iter().filter(|call| !call.passes()) {
        let rule = call.case.rule.as_deref().unwrap();
        assert!(Rule::named(rule).is_some(), "{rule}");
        assert!(call.why.len() < 120 && !call.why.contains(['\n', '|']), "{:?}: {}", call.tools, call.why);
    }
}
