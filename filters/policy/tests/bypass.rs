//! Runs the corpus of bypass attempts against the GitHub stage natively.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use support::{World, corpus};

#[test]
fn every_case_has_the_verdict_that_is_expected() {
    let world = World::new();
    let mut wrong = Vec::new();
    for case in corpus() {
        let got = world.explain(&case);
        let fits = match case.expect.as_str() {
            // A write by a node id has to be confirmed with GitHub first.
            "allow" => got.verdict == "allow" || (got.verdict == "ask" && case.target == "/graphql"),
            "resolve" => got.verdict == "ask",
            _ => got.verdict == "deny",
        };
        if !fits {
            wrong.push(format!("{} {}: expected {}, got {got:?}", case.id, case.printed(), case.expect));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
