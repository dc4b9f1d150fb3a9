//! Shared code of the policy's tests: the corpus of bypass attempts, the policy and the container that its cases are
//! judged with, and a path for each template of GitHub's operations.

#![allow(dead_code, reason = "each test takes its part of it")]

pub mod graphql;

use policy::github::{Allowed, Call, Head, Judge, Refused, Rules};
use policy::{Access, Container, Egress, Explained, HostName, HostPattern, Policy, Whole, explain};
use serde_json::Value;

const NOW: &str = "2026-12-01T00:00:00Z";

/// One request of one container, and the expected verdict.
#[derive(Clone, PartialEq)]
pub struct Case {
    pub id: String,
    pub container: Container,
    pub method: String,
    pub authority: String,
    pub target: String,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: String,
    /// `allow`, `deny`, or `resolve`.
    pub expect: String,
    /// The rule for which the table of rules names this case.
    pub rule: Option<String>,
}

impl Case {
    fn read(line: &str) -> Self {
        let mut case: Value = serde_json::from_str(line).unwrap();
        case["container"]["expires_at"] = "2027-01-15T00:00:00Z".into();
        let text = |name: &str| case[name].as_str().unwrap_or_default().to_owned();
        let url = text("url");
        let rest = url.strip_prefix("https://").unwrap_or(&url);
        let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let header = |(name, value): (&String, &Value)| (name.clone(), value.as_str().unwrap().into());
        Self {
            id: text("id"),
            container: serde_json::from_value(case["container"].clone()).unwrap(),
            method: text("method"),
            authority: authority.to_owned(),
            target: if target.is_empty() { "/" } else { target }.to_owned(),
            headers: case["headers"].as_object().unwrap().iter().map(header).collect(),
            body: text("body"),
            expect: text("expect"),
            rule: case["rule"].as_str().map(str::to_owned),
        }
    }

    /// This case with another target.
    pub fn at(&self, target: String) -> Self {
        Self { target, ..self.clone() }
    }

    /// This case with another body.
    pub fn with(&self, body: String) -> Self {
        Self { body, ..self.clone() }
    }

    /// The request, for the message of a failed test.
    pub fn printed(&self) -> String {
        let Self { method, authority, target, headers, body, .. } = self;
        let headers: Vec<_> = headers.iter().map(|(k, v)| format!("{k}: {}", String::from_utf8_lossy(v))).collect();
        format!("{method} https://{authority}{target} {headers:?} {}", body.chars().take(600).collect::<String>())
    }
}

/// The cases of the corpus.
pub fn corpus() -> Vec<Case> {
    let text = std::fs::read_to_string("../../tests/corpus/github/bypass-cases.jsonl").unwrap();
    text.lines().map(Case::read).collect()
}

/// The policy and the container that the corpus is judged with.
pub struct World {
    policy: Policy,
    judge: Judge,
}

impl World {
    pub fn new() -> Self {
        let mut egress = Egress::default();
        for host in [
            "github.com",
            "api.github.com",
            "raw.githubusercontent.com",
            "codeload.github.com",
            "objects.githubusercontent.com",
            "release-assets.githubusercontent.com",
            "media.githubusercontent.com",
        ] {
            egress.add(HostPattern::parse(host).unwrap(), Access::full());
        }
        let policy = Policy { version: "t".into(), egress, strip_foreign_credentials: true, github: Rules::default() };
        let judge = Judge::new(&policy.github).unwrap();
        Self { policy, judge }
    }

    /// Judges a case by the stages identity and github.
    pub fn explain(&self, case: &Case) -> Explained {
        self.answered(case, None)
    }

    /// The same with an answer to the questions for GitHub.
    pub fn answered(&self, case: &Case, answer: Option<bool>) -> Explained {
        let whole = Whole {
            method: case.method.as_bytes(),
            authority: case.authority.as_bytes(),
            target: case.target.as_bytes(),
            headers: &case.headers,
            body: case.body.as_bytes(),
        };
        explain(whole, &case.container, &self.policy, &self.judge, answer, NOW.parse().unwrap())
    }

    /// The request that is sent, if the case is allowed.
    pub fn allowed(&self, case: &Case) -> Option<Allowed> {
        let call = (case.authority.as_str(), case.method.as_str(), case.target.as_str());
        judged(&self.judge, &case.container, call, &case.headers, &case.body).ok()
    }
}

/// Judges a request to one of GitHub's hosts: its host, method and target, its headers and its body.
pub fn judged(
    judge: &Judge,
    who: &Container,
    (host, method, target): (&str, &str, &str),
    headers: &[(String, Vec<u8>)],
    body: &str,
) -> Result<Allowed, Refused> {
    let host = HostName::parse(host.as_bytes()).unwrap();
    let call = Call { method: method.as_bytes(), host: &host, target: target.as_bytes(), headers };
    match judge.head(call, who)? {
        Head::Body(pending) => judge.body(pending, body.as_bytes(), who),
        Head::Allowed(allowed) => Ok(allowed),
        Head::Elsewhere => panic!("{host} is none of GitHub's"),
    }
}

/// A container with the repository `o/r`, number 7.
pub fn container(mode: &str) -> Container {
    serde_json::from_str(&format!(
        r#"{{"container_ip":"172.18.0.5","container_id":"a","repos":[{{"name":"o/r","id":7,"default_branch":"main"}}],"auth_mode":"{mode}","allowed_branches":["sandbox/*"],"expires_at":"2027-01-15T00:00:00Z"}}"#
    ))
    .unwrap()
}

/// One operation of `data/rest.tsv`.
#[derive(Clone, Debug)]
pub struct Row {
    pub method: String,
    pub template: String,
    pub operation: String,
    pub class: String,
    pub host: String,
    /// The parameter that may span several segments.
    pub multi: String,
    /// The parameters that the query may have.
    pub query: Vec<String>,
    /// The operation is off by default.
    pub off: bool,
}

/// The rows of `data/rest.tsv`.
pub fn rows() -> Vec<Row> {
    let text = std::fs::read_to_string("data/rest.tsv").unwrap();
    let row = |line: &str| {
        let fields: Vec<String> = line.split('\t').map(str::to_owned).collect();
        let [method, template, operation, class, _, host, multi, _, query, _, default] =
            <[String; 11]>::try_from(fields).unwrap();
        let query = query.split(',').filter(|name| *name != "-").map(str::to_owned).collect();
        Row { method, template, operation, class, host, multi, query, off: default == "off" }
    };
    text.lines().skip(1).map(row).collect()
}

impl Row {
    /// A target that matches the template. A search has a query that limits it to the container's repository.
    pub fn target(&self) -> String {
        match self.operation.as_str() {
            "search/labels" => format!("{}?repository_id=7&q=x", self.template),
            "search/code" | "search/commits" | "search/issues-and-pull-requests" => {
                format!("{}?q=repo:o/r", self.template)
            }
            _ => fill(&self.template),
        }
    }

    /// A body for the operations that require one to name the target of the write.
    pub fn body(&self) -> &'static str {
        match self.operation.as_str() {
            "git/create-ref" => r#"{"ref":"refs/heads/sandbox/x","sha":"a"}"#,
            "repos/create-or-update-file-contents" => r#"{"branch":"sandbox/x","message":"m","content":""}"#,
            "repos/delete-file" => r#"{"branch":"sandbox/x","message":"m","sha":"a"}"#,
            "repos/merge" => r#"{"base":"sandbox/x","head":"main"}"#,
            "git/create-tree" => r#"{"tree":[{"path":"a","mode":"100644","type":"blob","content":"x"}]}"#,
            "pulls/create" => r#"{"title":"t","head":"sandbox/x","base":"main"}"#,
            _ => "",
        }
    }
}

/// A path that matches a template.
fn fill(template: &str) -> String {
    let mut path = template.replace("{base}...{head}", "main...sandbox").replace("{rest}", "issues");
    for (name, value) in [("{owner}", "o"), ("{repo}", "r"), ("{repository_id}", "7"), ("{path}", "src/a%20b.rs")] {
        path = path.replace(name, value);
    }
    path = path.replace("git/refs/{ref}", "git/refs/heads/sandbox/x").replace("{basehead}", "main...next");
    while let Some(start) = path.find('{') {
        let end = start + path[start..].find('}').unwrap();
        path.replace_range(start..=end, "42");
    }
    path
}

/// The path of a target as a lenient server reads it. The query is removed first, as by every server. The path is then
/// decoded until no escape is left. Path parameters, empty segments, dot segments, and white space and slashes at the
/// ends are removed. The owner and the name of a repository are in lower case.
pub fn lenient(target: &str) -> String {
    let mut path = target.split(['?', '#']).next().unwrap().to_owned();
    loop {
        let decoded = decoded(&path);
        if decoded == path {
            break;
        }
        path = decoded;
    }
    let mut segments: Vec<String> = Vec::new();
    for segment in path.replace('\\', "/").split('/') {
        match segment.split(';').next().unwrap().trim() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment.to_owned()),
        }
    }
    if segments.first().is_some_and(|first| first == "repos") {
        segments.iter_mut().skip(1).take(2).for_each(|name| *name = name.to_lowercase());
    }
    format!("/{}", segments.join("/"))
}

/// Percent-decodes `text`, and keeps malformed escapes.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
