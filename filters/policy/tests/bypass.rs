//! The corpus of ways round a filter for GitHub, run natively.

#![expect(clippy::unwrap_used, reason = "tests")]

use policy::github::{Judge, Rules};
use policy::{Access, Container, Egress, HostPattern, Policy, Whole, explain};
use serde_json::Value;

const NOW: &str = "2026-12-01T00:00:00Z";

fn policy() -> Policy {
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
        egress.add(HostPattern::parse(host).unwrap(), Access::FULL);
    }
    Policy { version: "t".into(), egress, strip_foreign_credentials: true, github: Rules::default() }
}

fn headers(case: &Value) -> Vec<(String, Vec<u8>)> {
    case["headers"].as_object().unwrap().iter().map(|(k, v)| (k.clone(), v.as_str().unwrap().into())).collect()
}

#[test]
fn every_case_has_the_verdict_that_is_expected() {
    let policy = policy();
    let judge = Judge::new(&policy.github).unwrap();
    let text = std::fs::read_to_string("../../tests/corpus/github/bypass-cases.jsonl").unwrap();
    let mut wrong = Vec::new();
    for line in text.lines() {
        let mut case: Value = serde_json::from_str(line).unwrap();
        case["container"]["expires_at"] = "2027-01-15T00:00:00Z".into();
        let container: Container = serde_json::from_value(case["container"].clone()).unwrap();
        let url = case["url"].as_str().unwrap();
        let rest = url.strip_prefix("https://").unwrap_or(url);
        let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let target = if target.is_empty() { "/" } else { target };
        let body = case["body"].as_str().unwrap_or_default().as_bytes();
        let whole = Whole {
            method: case["method"].as_str().unwrap().as_bytes(),
            authority: authority.as_bytes(),
            target: target.as_bytes(),
            headers: &headers(&case),
            body,
        };
        let got = explain(whole, &container, &policy, &judge, NOW.parse().unwrap());
        let fits = match case["expect"].as_str().unwrap() {
            // A write by a node's id is confirmed first.
            "allow" => got.verdict == "allow" || (got.verdict == "ask" && url.ends_with("/graphql")),
            "resolve" => got.verdict == "ask",
            _ => got.verdict == "deny",
        };
        if !fits {
            wrong.push(format!("{} {} {}: expected {}, got {got:?}", case["id"], case["method"], url, case["expect"]));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
