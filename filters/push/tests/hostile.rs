//! Runs the corpus of pushes natively. Each has its verdict, in any chunks and whenever the server answers.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use policy::push::PushRefusal;
use push::{Inspection, Passing, Question, Standing};
use std::collections::BTreeMap;
use support::body::{Case, Runs, Verdict, corpus};
use support::{AT_THE_END, Pace, inspect, stream};

/// The most memory that the inspection of any push may take, in bytes.
const MEMORY: usize = 32 << 20;

#[test]
fn every_case_has_the_verdict_that_is_expected() {
    all_fit(&[Runs::Always, Runs::Once]);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "a minute and more, but seconds with --release")]
fn every_long_case_has_the_verdict_that_is_expected() {
    all_fit(&[Runs::Optimized]);
}

fn inspection(case: &Case) -> Inspection {
    Inspection::new(stream::rules(case, PushRefusal::Report), case.container.clone())
}

fn all_fit(runs: &[Runs]) {
    let cases: Vec<_> = corpus().into_iter().filter(|case| runs.contains(&case.runs)).collect();
    let wrong: Vec<_> = cases.iter().flat_map(wrongs).collect();
    assert!(wrong.is_empty() && !cases.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn names_are_used_once() {
    let cases = corpus();
    let names: BTreeMap<_, _> = cases.iter().map(|case| (&case.name, &case.why)).collect();
    assert_eq!(names.len(), cases.len());
}

/// The differences between a case's expected and actual outcome.
fn wrongs(case: &Case) -> Vec<String> {
    let body = case.body();
    let length = body.bytes.len().max(1);
    let chunks = match (case.runs, length) {
        (Runs::Once | Runs::Optimized, _) => vec![65_536],
        (Runs::Always, ..=4096) => vec![1, 2, 3, 20, 100, length],
        (Runs::Always, _) => vec![61, 4096, length],
    };
    let mut wrong = Vec::new();
    for chunk in chunks {
        for answers_after in [0, 1, 50, AT_THE_END] {
            if case.runs != Runs::Always && answers_after != 1 {
                continue;
            }
            let pace = Pace { chunk, answers_after };
            let push = inspection(case);
            let got = inspect(push, &body.bytes, pace, case);
            let (verdict, rule, refs) = match &got.refusal {
                None => (Verdict::Allow, None, BTreeMap::new()),
                Some(refusal) => {
                    let refs = refusal.refs.iter().map(|refused| (refused.name.clone(), refused.guilty));
                    (Verdict::Deny, Some(refusal.denial.rule.name().to_owned()), refs.collect())
                }
            };
            let expect = &case.expect;
            let refs_fit = expect.refs.as_ref().is_none_or(|expected| *expected == refs);
            // The server never gets the whole pack of a refused push.
            let kept_back = verdict == Verdict::Allow || body.trailer.is_none_or(|trailer| got.passed <= trailer);
            if (verdict, &rule) != (expect.verdict, &expect.rule) || !refs_fit || !kept_back || got.memory > MEMORY {
                let refusal = got.refusal.map(|refusal| (refusal.denial.rule, refusal.denial.reason));
                wrong.push(format!("{}, {pace:?}: expected {expect:?}, got {refusal:?}, {refs:?}", case.name));
                wrong.push(format!("{} bytes passed of {length}, memory {}", got.passed, got.memory));
                return wrong;
            }
        }
    }
    wrong
}

#[test]
fn a_question_that_is_not_taken_at_once_is_not_lost() {
    let cases = corpus();
    let case = cases.iter().find(|case| case.name == "ff-by-a-question").unwrap();
    let mut push = inspection(case);
    push.feed(&case.body().bytes, u64::MAX);
    push.finish();
    assert!(matches!(push.take_question(), Some(Question::Refs(_))));
    let Some(Question::Descents(descents)) = push.take_question() else { unreachable!("ancestry is asked") };
    assert_eq!(push.take_question(), None);
    push.descents_are(&descents, &[true]);
    assert_eq!(push.standing(), Standing::Pending);
    push.refs_are(&[]);
    assert_eq!(push.standing(), Standing::Allowed);
}

#[test]
fn what_is_no_fast_forward_is_told_with_branches_that_would_work() {
    let cases = corpus();
    let case = cases.iter().find(|case| case.expect.rule.as_deref() == Some("push.force")).unwrap();
    let pace = Pace { chunk: 4096, answers_after: 0 };
    let push = inspection(case);
    let refusal = inspect(push, &case.body().bytes, pace, case).refusal.unwrap();
    let guilty = refusal.refs.iter().find(|refused| refused.guilty).unwrap();
    assert!(guilty.reason.contains("branches that would work: sandbox/*"), "{}", guilty.reason);
}

#[test]
fn an_answer_that_does_not_come_is_a_refusal() {
    let cases = corpus();
    let case = cases.iter().find(|case| case.name == "ff-by-a-question").unwrap();
    let fed = || {
        let mut push = inspection(case);
        push.feed(&case.body().bytes, u64::MAX);
        push.finish();
        push.take_question();
        push
    };
    let refused_by = |push: &Inspection| match push.standing() {
        Standing::Refused(refusal) => Some((refusal.denial.rule.name(), refusal.denial.status)),
        _ => None,
    };
    let mut push = fed();
    push.unanswered();
    assert_eq!(refused_by(&push), Some(("push.unconfirmed", 503)));
    // An answer of the wrong length is no answer.
    let mut push = fed();
    let Some(Question::Descents(descents)) = push.take_question() else { unreachable!("ancestry is asked") };
    push.descents_are(&descents, &[]);
    assert_eq!(refused_by(&push), Some(("push.unconfirmed", 503)));
    // Events after a refusal change nothing.
    push.refs_are(&[]);
    push.descents_are(&descents, &[true]);
    assert_eq!((push.feed(b"x", u64::MAX), push.take()), (Passing::Kept, vec![]));
    push.finish();
    assert_eq!(refused_by(&push), Some(("push.unconfirmed", 503)));
}
