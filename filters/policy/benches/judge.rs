//! Measures a decision about a request to GitHub's API, headers and body: `cargo bench -p policy --bench judge`.
//!
//! The goal is less than 20 µs for a REST call without a body, and less than 200 µs for a GraphQL document of 4 KB.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a benchmark")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use policy::github::{Allowed, Call, Head, Judge, Refused, Rules};
use policy::{Container, HostName};
use serde_json::{Value, json};
use std::hint::black_box;

/// A request to api.github.com, with the headers of gh.
struct Request {
    method: &'static str,
    target: &'static str,
    headers: Vec<(String, Vec<u8>)>,
    body: String,
}

impl Request {
    fn new(method: &'static str, target: &'static str, body: String) -> Self {
        let headers = [
            ("accept", "application/vnd.github+json"),
            ("accept-encoding", "gzip"),
            ("authorization", "token placeholder"),
            ("content-type", "application/json; charset=utf-8"),
            ("time-zone", "Europe/Berlin"),
            ("user-agent", "GitHub CLI 2.83.0"),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.into())).to_vec();
        Self { method, target, headers, body }
    }

    fn judge(&self, judge: &Judge, host: &HostName, who: &Container) -> Result<Allowed, Refused> {
        let call =
            Call { method: self.method.as_bytes(), host, target: self.target.as_bytes(), headers: &self.headers };
        match judge.head(call, who)? {
            Head::Body(pending) => judge.body(pending, self.body.as_bytes(), who),
            Head::Allowed(allowed) => Ok(allowed),
            Head::Elsewhere => panic!("{host} is one of GitHub's"),
        }
    }
}

/// The document and the variables that gh sends for `command`.
fn document(command: &str) -> (String, Value) {
    let corpus = include_str!("../../../tests/corpus/github/gh-documents.jsonl");
    let mut lines = corpus.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut found = lines.find(|line| line["command"] == command).unwrap();
    (found["query"].as_str().unwrap().to_owned(), found["variables"].take())
}

fn graphql((query, variables): (String, Value)) -> Request {
    Request::new("POST", "/graphql", json!({"query": query, "variables": variables}).to_string())
}

/// Two documents of gh merged into one, as large as the largest that gh sends.
fn both() -> (String, Value) {
    let (pull_request, variables) = document("gh pr view, of a branch");
    let (repository, _) = document("gh repo view --json");
    let (_, selection) = repository.split_once('{').unwrap();
    let (open, _) = pull_request.rsplit_once('}').unwrap();
    (format!("{open} view: {}", selection.trim_start().replace("$name", "$repo")), variables)
}

fn decisions(criterion: &mut Criterion) {
    let judge = Judge::new(&Rules::default()).unwrap();
    let host = HostName::parse(b"api.github.com").unwrap();
    let who: Container = serde_json::from_value(json!({
        "container_ip": "172.18.0.5",
        "container_id": "bench",
        "repos": [{"name": "acme/app", "id": 23_096_959, "default_branch": "main"}],
        "auth_mode": "bot",
        "allowed_branches": ["sandbox/*"],
        "expires_at": "2027-01-15T00:00:00Z",
    }))
    .unwrap();
    let pull = r#"{"title":"A title","body":"Some words.","head":"sandbox/x","base":"main"}"#;
    let cases = [
        ("rest read", Request::new("GET", "/repos/acme/app/pulls?state=open&per_page=30", String::new()), true),
        ("rest refused", Request::new("PUT", "/repos/acme/app/pulls/7/merge", String::new()), false),
        ("rest write", Request::new("POST", "/repos/acme/app/pulls", pull.to_owned()), true),
        ("graphql 0.5 KB", graphql(document("gh pr checks")), true),
        ("graphql 2.5 KB", graphql(document("gh pr view, of a branch")), true),
        ("graphql 4 KB", graphql(both()), true),
    ];
    let mut group = criterion.benchmark_group("judge");
    for (name, request, allowed) in cases {
        // An unexpected early refusal would be fast for the wrong reason.
        let verdict = request.judge(&judge, &host, &who);
        assert_eq!(verdict.is_ok(), allowed, "{name}: {verdict:?}");
        if !request.body.is_empty() {
            group.throughput(Throughput::Bytes(request.body.len() as u64));
        }
        group.bench_function(name, |bencher| bencher.iter(|| black_box(&request).judge(&judge, &host, &who)));
    }
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);
