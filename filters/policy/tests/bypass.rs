//! Runs the corpus of bypass attempts against the GitHub stage natively.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use policy::Rule;
use support::{World, corpus};

#[test]
fn every_case_has_the_verdict_that_is_expected() {
    let world = World::new();
    let mut wrong = Vec::new();
    for case in corpus() {
        let got = world.explain(&case);
        let fits = match case.expect.as_str() {
            // GitHub may have to answer a question first.
            "allow" => matches!(got.verdict, "allow" | "ask"),
            "resolve" => got.verdict == "ask",
            _ => got.verdict == "deny",
        };
        if !fits {
            wrong.push(format!("{} {}: expected {}, got {got:?}", case.id, case.printed(), case.expect));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn an_answer_to_the_questions_gives_the_final_verdict() {
    let world = World::new();
    let mut ran = 0;
    for case in corpus() {
        let open = world.explain(&case);
        for answer in [true, false] {
            let got = world.answered(&case, Some(answer));
            if open.verdict == "ask" {
                let expected = if answer { ("allow", open.rule) } else { ("deny", Rule::GithubNode) };
                assert_eq!((got.verdict, got.rule), expected, "{} {answer}", case.id);
                assert_eq!((&got.operation, got.class), (&open.operation, open.class), "{} {answer}", case.id);
                assert_eq!((got.onward.is_some(), got.ask.is_empty()), (answer, true), "{} {answer}", case.id);
                ran += 1;
            } else {
                assert_eq!(got, open, "{} {answer}", case.id);
            }
        }
    }
    assert!(ran > 2, "{ran}");
}
