//! A push over time: it has an end, it is judged under the rules in force when its end is let go, and GitHub's answer
//! about its refs is not old then.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use policy::BranchGlob;
use policy::flow::{Step, Then};
use policy::github::{Class, Rules};
use policy::push::PushRefusal;
use push::{Flow, Question};
use std::rc::Rc;
use std::time::Duration;
use support::body::{Body, Case, corpus};
use support::stream::{Over, Stream, push_head, rules};

const SECOND: Duration = Duration::from_secs(1);
/// The default of `push_time`.
const MOST: Duration = Duration::from_secs(15 * 60);

fn case(name: &str) -> (Case, Body) {
    let case = corpus().into_iter().find(|case| case.name == name).unwrap();
    let body = case.body();
    (case, body)
}

fn rule(stream: &Stream<'_>) -> (Option<String>, Option<String>) {
    let answered = match &stream.over {
        Some(Over::Answered(answer)) => Some(answer.rule.name().to_owned()),
        _ => None,
    };
    (stream.rule().map(str::to_owned), answered)
}

fn refused(name: &str) -> (Option<String>, Option<String>) {
    (Some(name.to_owned()), Some(name.to_owned()))
}

#[test]
fn a_push_has_an_end() {
    // In each phase: its head, undecided, all known and the rest unread.
    for (name, left) in [("ff-by-the-pack", None), ("ff-by-a-question", Some(30)), ("ff-by-the-pack", Some(20))] {
        let (case, body) = case(name);
        let bytes = &body.bytes;
        let fed = left.map_or(20, |left| bytes.len() - left);
        let mut stream = Stream::of_push(&case, bytes, body.trailer, None);
        stream.body(&bytes[..fed], false);
        stream.answer_all();
        stream.tick(MOST);
        assert_eq!(stream.over, None, "{fed}");
        stream.tick(MOST + SECOND);
        assert_eq!(rule(&stream), refused("push.time"), "{fed}");
        let sent = stream.sent.clone().unwrap_or_default();
        assert!(sent.len() <= body.trailer.unwrap() && !stream.sent_end, "{fed}");
    }
    // A push that went on whole waits for its server.
    let (case, body) = case("ff-by-the-pack");
    let bytes = &body.bytes;
    let mut stream = Stream::of_push(&case, bytes, body.trailer, None);
    stream.body(bytes, true);
    stream.answer_all();
    stream.tick(MOST + SECOND);
    assert_eq!((stream.sent_end, stream.over), (true, None));
}

#[test]
fn an_answer_that_does_not_come_ends_the_push() {
    let (case, body) = case("ff-by-a-question");
    let bytes = &body.bytes;
    // The answer about the refs, or the one about the ancestry of a push that has come whole.
    for (fed, refs, end) in [(bytes.len() - 30, false, false), (bytes.len(), false, true), (bytes.len(), true, true)] {
        let mut stream = Stream::of_push(&case, bytes, body.trailer, None);
        stream.body(&bytes[..fed], end);
        if refs {
            let question = stream.questions.pop_front().unwrap();
            stream.answer(&question, false);
        }
        stream.tick(20 * SECOND);
        assert_eq!(stream.over, None, "{fed}");
        stream.tick(21 * SECOND);
        assert_eq!(stream.rule(), Some("push.unconfirmed"), "{fed}");
        if !end {
            stream.body(&bytes[fed..], true);
        }
        assert_eq!(rule(&stream), refused("push.unconfirmed"));
        assert!(!stream.sent_end);
    }
}

#[test]
fn a_push_that_may_have_landed_is_noted_as_allowed() {
    let (case, body) = case("ff-by-the-pack");
    let bytes = &body.bytes;
    let free = || {
        let mut stream = Stream::of_push(&case, bytes, body.trailer, None);
        stream.body(&bytes[..bytes.len() - 20], false);
        stream.answer_all();
        assert_eq!(stream.rule(), Some("push.unfinished"), "nothing unread has gone on");
        // The trailer, and not the end: the client may reset the stream.
        stream.body(&bytes[bytes.len() - 20..], false);
        assert_eq!(stream.sent.as_ref(), Some(&stream.written));
        assert_eq!((stream.rule(), stream.reason()), (Some("push.allowed"), UNREAD));
        stream
    };
    // GitHub says in the repeat that the refs are where the push has put them.
    let mut stream = free();
    stream.tick(31 * SECOND);
    let Some(Question::Refs(refs)) = stream.questions.pop_front() else { panic!("the refs are asked for again") };
    let landed = |push: &push::RefUpdate| push::RefAt { name: push.name.clone(), object: push.new };
    let updates = body_updates(bytes);
    let others: Vec<_> = updates.iter().map(landed).collect();
    assert_eq!(
        others.iter().map(|at| &at.name).collect::<Vec<_>>(),
        refs.iter().map(|at| &at.name).collect::<Vec<_>>()
    );
    let step = stream.flow.refs_answered(Some(&others));
    assert_eq!(step, Step::only(Then::Continue));
    stream.body(&[], true);
    assert_eq!((stream.rule(), stream.reason(), stream.sent_end), (Some("push.allowed"), "", true));
    // A refusal that comes after the trailer says that it may come too late.
    let mut stream = free();
    change(&stream, &case, protect_all);
    stream.tick(SECOND);
    assert_eq!(stream.rule(), Some("push.protected"));
    assert!(stream.reason().contains("GitHub may have moved the refs"), "{}", stream.reason());
    stream.body(&[], true);
    let Some(Over::Answered(answer)) = &stream.over else { panic!("it goes on") };
    let told = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(told.contains("GitHub may have moved the refs"), "{told}");
    // No byte of this one has passed unread, so the refs are where somebody else has put them.
    let mut inspection = push::Inspection::new(rules(&case, PushRefusal::Report), case.container.clone());
    inspection.feed(&bytes[..bytes.len() - 30], u64::MAX);
    inspection.refs_are(&others);
    assert!(
        matches!(inspection.standing(), push::Standing::Refused(refusal) if refusal.denial.rule.name() == "push.stale")
    );
}

const UNREAD: &str = "the rest of the push passes unread, and its end has not come";

fn body_updates(bytes: &[u8]) -> Vec<push::RefUpdate> {
    let (request, _) = git_wire::receive_pack::Parser::default().feed(bytes).unwrap().unwrap();
    request.updates
}

#[test]
fn what_is_refused_has_an_end_too() {
    let (case, body) = case("protected");
    let mut stream = Stream::of_push(&case, &body.bytes, body.trailer, None);
    stream.body(&body.bytes[..body.bytes.len() - 1], false);
    stream.tick(MOST);
    assert_eq!(stream.over, None, "the rest of its body is read first");
    stream.tick(MOST + SECOND);
    assert_eq!(rule(&stream), refused("push.protected"));
}

/// Changes the rules of a stream's worker.
fn change(stream: &Stream<'_>, case: &Case, change: impl FnOnce(&mut Rules)) {
    let mut rules = Rules::clone(&rules(case, PushRefusal::Report));
    change(&mut rules);
    assert!(stream.worker.borrow_mut().set_rules(2, Rc::new(rules)));
}

fn protect_all(rules: &mut Rules) {
    rules.branches.protected = vec![BranchGlob::parse("sandbox/*").unwrap()];
}

#[test]
fn names_are_judged_again_under_the_rules_in_force() {
    let (case, body) = case("ff-by-the-pack");
    let bytes = &body.bytes;
    // The trailer alone is missing, so that all is known once the answer has come.
    let (most, last) = bytes.split_at(bytes.len() - 20);
    for answers in [false, true] {
        let open = || {
            let mut stream = Stream::of_push(&case, bytes, body.trailer, None);
            stream.body(most, false);
            if answers {
                stream.answer_all();
            }
            change(&stream, &case, protect_all);
            stream
        };
        // With its last bytes, or before them. The answer comes once all of it has come.
        let mut stream = open();
        stream.body(last, true);
        assert_eq!(rule(&stream), refused("push.protected"), "{answers}");
        let mut stream = open();
        stream.tick(SECOND);
        assert_eq!(stream.rule(), Some("push.protected"), "{answers}");
        stream.body(last, true);
        assert_eq!(rule(&stream), refused("push.protected"), "{answers}");
        assert!(stream.sent.unwrap().len() <= body.trailer.unwrap());
    }
    // All of it has come, and the answer is waited for.
    let mut stream = Stream::of_push(&case, bytes, body.trailer, None);
    stream.body(bytes, true);
    change(&stream, &case, protect_all);
    stream.answer_all();
    assert_eq!(rule(&stream), refused("push.protected"));
    // Rules that allow it still, and rules by which the class is off.
    let mut stream = Stream::of_push(&case, bytes, body.trailer, None);
    stream.body(most, false);
    change(&stream, &case, |rules| rules.branches.allow_deletion = true);
    stream.tick(SECOND);
    stream.body(last, true);
    stream.answer_all();
    assert_eq!((stream.sent_end, stream.rule()), (true, Some("push.allowed")));
    let mut stream = Stream::of_push(&case, bytes, body.trailer, None);
    stream.body(most, false);
    change(&stream, &case, |rules| _ = rules.bot.remove(&Class::WriteRef));
    stream.body(last, true);
    assert_eq!(rule(&stream), refused("github.write-ref"));
    // No rules at all.
    let mut stream = Stream::of_push(&case, bytes, body.trailer, None);
    stream.body(most, false);
    stream.worker.borrow_mut().drop_rules();
    stream.body(last, true);
    assert_eq!(rule(&stream), refused("push.unavailable"));
}

#[test]
fn a_force_push_ends_when_the_policy_stops_allowing_it() {
    let (case, body) = case("force-that-the-rules-allow");
    let bytes = &body.bytes;
    let mut stream = Stream::of_push(&case, bytes, body.trailer, None);
    stream.body(&bytes[..bytes.len() - 5], false);
    change(&stream, &case, |rules| rules.branches.allow_force_push = false);
    stream.tick(SECOND);
    stream.body(&bytes[bytes.len() - 5..], true);
    assert_eq!(rule(&stream), refused("push.unfinished"));
}

#[test]
fn refs_are_asked_for_again_when_the_answer_is_old() {
    let (case, body) = case("ff-by-a-question");
    let bytes = &body.bytes;
    let refs = |stream: &mut Stream<'_>| matches!(stream.questions.front(), Some(Question::Refs(_)));
    // Undecided: when all else is known.
    for (late, again) in [(30 * SECOND, false), (31 * SECOND, true)] {
        let mut stream = Stream::of_push(&case, bytes, body.trailer, None);
        stream.body(&bytes[..bytes.len() - 30], false);
        stream.answer_all();
        stream.tick(late);
        assert!(stream.questions.is_empty(), "not before it is needed");
        stream.body(&bytes[bytes.len() - 30..], true);
        let descents = stream.questions.pop_front().unwrap();
        assert!(matches!(descents, Question::Descents(_)));
        stream.answer(&descents, false);
        assert_eq!(stream.sent_end, !again);
        if again {
            assert!(refs(&mut stream));
            stream.answer_all();
            assert!(stream.sent_end);
        }
    }
    // All known, and the rest unread: each half minute, and its end waits for the answer.
    let (case, body) = self::case("ff-by-the-pack");
    let bytes = &body.bytes;
    let free = || {
        let mut stream = Stream::of_push(&case, bytes, body.trailer, None);
        stream.body(&bytes[..bytes.len() - 20], false);
        stream.answer_all();
        stream.tick(30 * SECOND);
        assert!(stream.questions.is_empty());
        stream.tick(31 * SECOND);
        assert!(refs(&mut stream));
        stream
    };
    let mut stream = free();
    stream.body(&bytes[bytes.len() - 20..], true);
    assert!(!stream.sent_end);
    stream.answer_all();
    assert_eq!((stream.sent_end, stream.rule()), (true, Some("push.allowed")));
    let mut stream = free();
    let question = stream.questions.pop_front().unwrap();
    stream.answer(&question, true);
    stream.body(&bytes[bytes.len() - 20..], true);
    assert_eq!(rule(&stream), refused("push.unconfirmed"));
}

#[test]
fn nothing_is_done_for_a_request_that_is_no_push() {
    let (case, _) = case("ff-by-the-pack");
    let mut flow = Flow::new(Rc::default());
    assert!(flow.tick().is_none() && !flow.is_behind());
    let mut head = push_head(&case);
    head.headers[2].1 = b"example.com".to_vec();
    let _ = flow.request_headers(Ok(head), false);
    assert!(flow.tick().is_none());
}
