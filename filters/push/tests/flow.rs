//! The flow of a push through a stream: however its body is cut, whenever the server and GitHub answer, and whatever
//! fails. `support/stream.rs` asserts the properties that always hold.
//!
//! The file is longer than 600 lines because all of its tests drive the same stream.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use policy::flow::{Broken, Effect, Paused, RequestHead, Step, Then};
use policy::push::PushRefusal;
use proptest::prelude::*;
use proptest::sample::Index;
use push::worker::{MAX_MEMORY, MAX_PUSHES, MAX_SHARE, Ticket};
use push::{Flow, Question, ResponseHead};
use std::rc::Rc;
use std::sync::LazyLock;
use support::body::{Body, Case, Runs, Verdict, corpus};
use support::stream::{Over, Stream, Told, head, push_head, worker};

/// The cases that are short enough to be run often, with their bodies.
static CASES: LazyLock<Vec<(Case, Body)>> = LazyLock::new(|| {
    let cases = corpus().into_iter().filter(|case| case.runs == Runs::Always && !case.container.repos.is_empty());
    let cases = cases.map(|case| {
        let body = case.body();
        (case, body)
    });
    cases.filter(|(_, body)| (1..=4096).contains(&body.bytes.len())).collect()
});

fn case(name: &str) -> (&'static Case, &'static Body) {
    CASES.iter().find(|(case, _)| case.name == name).map(|(case, body)| (case, body)).unwrap()
}

/// How a push comes, and what happens meanwhile.
#[derive(Clone, Debug)]
struct Plan {
    case: Index,
    cuts: Vec<Index>,
    ends: Ends,
    /// Events after which the answers to questions come; in the order of their questions or the other way.
    delays: [usize; 2],
    backwards: bool,
    /// A question that fails.
    unanswered: Option<usize>,
    response: Option<Early>,
    /// The effect that fails.
    fail: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    WithTheLastBytes,
    ByItself,
    WithTrailers,
}

/// A response before the end of the request.
#[derive(Clone, Debug)]
struct Early {
    /// Pieces of the body before it.
    after: usize,
    status: u16,
    /// Pieces of the body between its headers and its end, if it ends before the request does.
    ends_after: Option<usize>,
    trailers: bool,
}

fn plans(fails: bool) -> impl Strategy<Value = Plan> {
    let early =
        (0..8_usize, prop_oneof![3 => Just(200_u16), 1 => Just(500)], prop::option::of(0..4_usize), any::<bool>());
    let early = early.prop_map(|(after, status, ends_after, trailers)| Early { after, status, ends_after, trailers });
    let ends = prop_oneof![4 => Just(Ends::WithTheLastBytes), 4 => Just(Ends::ByItself), 1 => Just(Ends::WithTrailers)];
    let fail = if fails { (0..12_usize).prop_map(Some).boxed() } else { Just(None).boxed() };
    (
        any::<Index>(),
        prop::collection::vec(any::<Index>(), 0..6),
        ends,
        [0..10_usize, 0..10_usize],
        any::<bool>(),
        prop_oneof![6 => Just(None), 1 => Just(Some(0_usize)), 1 => Just(Some(1_usize))],
        prop::option::of(early),
        fail,
    )
        .prop_map(|(case, cuts, ends, delays, backwards, unanswered, response, fail)| Plan {
            case,
            cuts,
            ends,
            delays,
            backwards,
            unanswered,
            response,
            fail,
        })
}

/// Runs a push by its plan, to its end.
fn run(plan: &Plan) -> (&'static Case, Stream<'static>) {
    let (case, body) = &CASES[plan.case.index(CASES.len())];
    let bytes = &body.bytes;
    let mut cuts: Vec<_> = plan.cuts.iter().map(|cut| cut.index(bytes.len())).collect();
    // The trailer is where it matters.
    cuts.extend(plan.cuts.first().map(|cut| bytes.len().saturating_sub(cut.index(25))));
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.dedup();
    let mut pieces: Vec<_> = cuts.windows(2).map(|cut| (&bytes[cut[0]..cut[1]], false)).collect();
    match plan.ends {
        Ends::WithTheLastBytes => pieces.last_mut().unwrap().1 = true,
        Ends::ByItself => pieces.push((&[], true)),
        Ends::WithTrailers => {}
    }
    let mut stream = Stream::of_push(case, bytes, body.trailer, plan.fail);
    let (mut asked, mut number): (Vec<(usize, bool, Question)>, usize) = (Vec::new(), 0);
    let most = pieces.len() + 25;
    for event in 0..most {
        if stream.is_over() {
            break;
        }
        match pieces.get(event) {
            Some((piece, end)) => stream.body(piece, *end),
            None if event == pieces.len() && plan.ends == Ends::WithTrailers => stream.trailers(),
            None => {}
        }
        while let Some(question) = stream.questions.pop_front() {
            asked.push((event + plan.delays[number.min(1)], plan.unanswered == Some(number), question));
            number += 1;
        }
        if plan.backwards {
            asked.reverse();
        }
        while let Some(at) = asked.iter().position(|(due, ..)| *due <= event)
            && !stream.is_over()
        {
            let (_, failed, question) = asked.remove(at);
            stream.answer(&question, failed);
            while let Some(question) = stream.questions.pop_front() {
                asked.push((event + plan.delays[number.min(1)], plan.unanswered == Some(number), question));
                number += 1;
            }
        }
        if let Some(Early { after, status, ends_after, trailers }) = plan.response
            && stream.sent.is_some()
            && !stream.is_over()
        {
            if stream.told == Told::Nothing && event >= after {
                stream.response(status, false);
            } else if stream.told != Told::Nothing && ends_after.is_some_and(|later| event > after + later) {
                stream.response_ends(trailers);
            }
        }
    }
    // The server answers what has come whole, or ends what it has begun.
    if !stream.is_over() && stream.sent_end {
        if stream.told == Told::Nothing {
            stream.response(200, false);
        }
        stream.response_ends(false);
    }
    (case, stream)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The verdict is the case's; a push passes whole or is refused, and never both.
    #[test]
    fn a_push_ends_in_one_way_whatever_comes_when(plan in plans(false)) {
        let (case, stream) = run(&plan);
        let passed = stream.sent_end && matches!(stream.told, Told::All { whole: true, .. });
        // A server may complete its response before it has the whole body only for a failure.
        let told = matches!(stream.told, Told::All { whole: true, .. });
        let refused = matches!(stream.over, Some(Over::Answered(_)));
        prop_assert!(refused != (passed || told), "it has no end: {:?}, {:?}", stream.told, stream.rule());
        let interrupted = plan.response.as_ref().is_some_and(|early| early.ends_after.is_some())
            || plan.ends == Ends::WithTrailers
            || plan.unanswered.is_some();
        if !interrupted {
            prop_assert_eq!(passed, case.expect.verdict == Verdict::Allow);
            let rule = case.expect.rule.as_deref().unwrap_or("push.allowed");
            // A push that is stale as well as forced is refused by what is found out first.
            let first = rule == "push.stale" && stream.rule() == Some("push.force");
            prop_assert!(first || stream.rule() == Some(rule), "{:?} for {rule}", stream.rule());
        }
        if case.expect.verdict == Verdict::Deny {
            let denied = stream.notes.iter().all(|note| note["verdict"] == "deny");
            prop_assert!(!passed && denied);
        }
        prop_assert_eq!(&stream.notes[0]["rule"], "push.unfinished");
    }

    /// Nothing more passes than otherwise, and the stream ends.
    #[test]
    fn a_push_ends_though_an_effect_fails(plan in plans(true)) {
        let (case, stream) = run(&plan);
        let passed = stream.sent_end;
        prop_assert!(!passed || case.expect.verdict == Verdict::Allow);
        let told = matches!(stream.told, Told::All { whole: true, .. });
        prop_assert!(passed || told || stream.over.is_some());
    }
}

#[test]
fn a_success_comes_early_and_the_trailer_in_pieces() {
    // The response is held when the verdict comes, and a part of the trailer with it.
    let (case, body) = case("ff-by-the-pack");
    let bytes = &body.bytes;
    for last in 0..=21 {
        for end_alone in [false, true] {
            let (first, rest) = bytes.split_at(bytes.len() - last);
            let mut stream = Stream::of_push(case, bytes, body.trailer, None);
            stream.body(first, false);
            stream.answer_all();
            stream.response(200, false);
            if end_alone || rest.is_empty() {
                if !rest.is_empty() {
                    stream.body(rest, false);
                }
                stream.body(&[], true);
            } else {
                stream.body(rest, true);
            }
            stream.answer_all();
            assert_eq!(stream.sent.as_ref(), Some(bytes), "{last} {end_alone}");
            assert_eq!(stream.told, Told::All { status: 200, whole: false }, "{last} {end_alone}");
            assert_eq!(stream.rule(), Some("push.allowed"));
        }
    }
}

#[test]
fn what_was_held_is_released_after_the_body_is_written() {
    let (case, body) = case("ff-by-the-pack");
    let (first, rest) = body.bytes.split_at(body.bytes.len() - 5);
    let mut flow = Flow::new(worker(case, PushRefusal::Report));
    let _ = flow.request_headers(Ok(push_head(case)), false);
    let _ = flow.request_body(first.len(), Ok(first.to_vec()), false);
    let _ = flow.refs_answered(Some(&[]));
    let _ = flow.response_headers(Ok(ResponseHead { status: 200, ..ResponseHead::default() }), false);
    let step = flow.request_body(rest.len(), Ok(rest.to_vec()), true);
    let tail = &body.bytes[body.bytes.len() - 20..];
    assert!(matches!(step.effects.first(), Some(Effect::Note(_))));
    let write = Effect::ReplaceRequestBody { size: rest.len(), body: tail.to_vec() };
    assert_eq!((step.effects.get(1), step.effects.len()), (Some(&write), 2));
    assert_eq!(step.then, Then::Resume(Paused::Response));
}

#[test]
fn both_directions_are_resumed_by_the_last_answer() {
    let (case, body) = case("ff-by-a-question");
    let mut stream = Stream::of_push(case, &body.bytes, body.trailer, None);
    stream.body(&body.bytes, true);
    stream.response(200, false);
    assert!(matches!(stream.told, Told::Held { .. }) && !stream.sent_end);
    stream.answer_all();
    assert!(stream.sent_end && stream.over.is_none());
    stream.response_ends(true);
    assert_eq!((stream.told, stream.sent_end), (Told::All { status: 200, whole: true }, true));
}

#[test]
fn a_complete_response_before_the_end_has_gone_on_is_no_success() {
    let (case, body) = case("ff-by-a-question");
    for trailers in [false, true] {
        let mut stream = Stream::of_push(case, &body.bytes, body.trailer, None);
        stream.body(&body.bytes, true);
        stream.response(200, false);
        // Envoy's router sends nothing more of a request whose response is complete.
        stream.response_ends(trailers);
        assert_eq!((stream.rule(), stream.sent_end), (Some("push.unfinished"), false));
        assert!(matches!(stream.over, Some(Over::Answered(answer)) if answer.rule.name() == "push.unfinished"));
    }
}

#[test]
fn a_server_that_says_all_before_it_has_the_push_is_not_heard() {
    let (case, body) = case("ff-by-the-pack");
    for trailers in [false, true] {
        let mut stream = Stream::of_push(case, &body.bytes, body.trailer, None);
        stream.body(&body.bytes[..body.bytes.len() - 10], false);
        stream.response(200, false);
        stream.response_ends(trailers);
        assert_eq!(stream.rule(), Some("push.unfinished"));
        let Some(Over::Answered(answer)) = stream.over else { panic!("it goes on") };
        assert_eq!((answer.status, answer.rule.name()), (200, "push.unfinished"), "git's own report");
    }
    let mut stream = Stream::of_push(case, &body.bytes, body.trailer, None);
    stream.body(&body.bytes[..body.bytes.len() - 10], false);
    stream.response(200, true);
    assert_eq!(stream.rule(), Some("push.unfinished"));
}

#[test]
fn a_server_that_says_all_of_a_push_that_passes_unread_is_heard() {
    let (case, body) = case("ff-by-the-pack");
    for left in [20, 1, 0] {
        let mut stream = Stream::of_push(case, &body.bytes, body.trailer, None);
        let (first, rest) = body.bytes.split_at(body.bytes.len() - 20);
        stream.body(first, false);
        stream.answer_all();
        stream.body(&rest[..20 - left], false);
        stream.response(200, false);
        let rule = if left == 20 { "push.unfinished" } else { "push.allowed" };
        assert_eq!((stream.told, stream.rule()), (Told::Held { status: 200, whole: false }, Some(rule)));
        stream.response_ends(false);
        assert_eq!((stream.over.is_none(), stream.rule()), (true, Some("push.allowed")), "{left}");
        assert!(matches!(stream.told, Told::All { status: 200, .. }), "{left}");
    }
}

#[test]
fn a_server_failure_is_told_unless_the_push_is_refused() {
    let (case, body) = case("ff-by-the-pack");
    let mut stream = Stream::of_push(case, &body.bytes, body.trailer, None);
    stream.body(&body.bytes[..body.bytes.len() - 10], false);
    stream.response(500, false);
    assert_eq!(stream.told, Told::All { status: 500, whole: false });

    let (case, body) = refused_while_it_flows();
    let mut stream = Stream::of_push(case, &body.bytes, body.trailer, None);
    let (first, rest) = body.bytes.split_at(body.bytes.len() - 10);
    stream.body(first, false);
    stream.answer_all();
    stream.response(500, false);
    assert!(stream.over.is_none() && stream.sent.is_some(), "it is answered at its end");
    assert_eq!(stream.told, Told::Held { status: 500, whole: false });
    stream.body(rest, true);
    assert!(
        matches!(&stream.over, Some(Over::Answered(answer)) if answer.rule.name() == "push.stale"),
        "{:?}",
        stream.over
    );

    // The gateway's own answer for a lost upstream is told.
    let mut stream = Stream::of_push(case, &body.bytes, body.trailer, None);
    stream.body(first, false);
    stream.answer_all();
    let lost = ResponseHead { status: 503, of_upstream: false, ..ResponseHead::default() };
    assert_eq!(stream.flow.response_headers(Ok(lost), true), Step::only(Then::Continue));
}

/// A push whose refs are elsewhere, and whose names are good.
fn refused_while_it_flows() -> (&'static Case, &'static Body) {
    let (case, body) = CASES.iter().find(|(case, _)| case.expect.rule.as_deref() == Some("push.stale")).unwrap();
    (case, body)
}

#[test]
fn a_refused_push_is_dropped_and_then_answered() {
    // By its names: nothing goes upstream, its headers included.
    let (refused, body) = CASES.iter().find(|(case, _)| case.expect.rule.as_deref() == Some("push.protected")).unwrap();
    let (first, rest) = body.bytes.split_at(body.bytes.len() - 10);
    let mut stream = Stream::of_push(refused, &body.bytes, body.trailer, None);
    stream.body(first, false);
    assert_eq!((&stream.sent, &stream.over), (&None, &None));
    let more = stream.flow.request_body(3, Ok(Vec::new()), false);
    assert_eq!(more, Step::with(Effect::DropRequestBody { size: 3 }, Then::Pause));
    stream.body(rest, true);
    assert!(matches!(&stream.over, Some(Over::Answered(answer)) if answer.rule.name() == "push.protected"));
    assert_eq!(stream.sent, None);

    // While it flows: it goes on without bytes, so that nothing of it gathers.
    let (stale, body) = refused_while_it_flows();
    let mut stream = Stream::of_push(stale, &body.bytes, body.trailer, None);
    stream.body(&body.bytes[..body.bytes.len() - 10], false);
    stream.answer_all();
    let sent = stream.sent.clone().unwrap();
    let more = stream.flow.request_body(3, Ok(Vec::new()), false);
    assert_eq!(more, Step::with(Effect::DropRequestBody { size: 3 }, Then::Continue));
    stream.body(&body.bytes[body.bytes.len() - 10..], false);
    stream.trailers();
    assert!(matches!(&stream.over, Some(Over::Answered(answer)) if answer.rule.name() == "push.stale"));
    assert_eq!(stream.sent, Some(sent));
}

#[test]
fn no_trailers_pass() {
    let (case, body) = case("ff-by-the-pack");
    let bytes = &body.bytes;
    // All is found out before the pack's end, so the rest flows unread.
    let mut stream = Stream::of_push(case, bytes, body.trailer, None);
    stream.body(&bytes[..bytes.len() - 20], false);
    stream.answer_all();
    stream.body(&bytes[bytes.len() - 20..], false);
    stream.trailers();
    assert_eq!((stream.sent.as_ref(), stream.sent_end, stream.rule()), (Some(bytes), false, Some("push.malformed")));
    assert!(stream.reason().contains("GitHub may have moved the refs"), "{}", stream.reason());
    let Some(Over::Answered(answer)) = stream.over.clone() else { panic!("it goes on") };
    assert_eq!(answer.rule.name(), "push.malformed");
    let mut stream = Stream::of_push(case, bytes, body.trailer, None);
    stream.body(bytes, false);
    stream.trailers();
    let Some(Over::Answered(answer)) = stream.over.clone() else { panic!("it goes on") };
    assert_eq!((answer.rule.name(), stream.rule()), ("push.malformed", Some("push.malformed")));
}

#[test]
fn a_refusal_is_a_report_or_a_status() {
    let (case, body) = CASES.iter().find(|(case, _)| case.expect.rule.as_deref() == Some("push.protected")).unwrap();
    let report = (200, "application/x-git-receive-pack-result");
    let http = (403, "application/json");
    for (refusal, expected) in [(PushRefusal::Report, report), (PushRefusal::Http, http)] {
        let mut stream = Stream::new(worker(case, refusal), case, &body.bytes, body.trailer, None);
        stream.headers(push_head(case), false);
        stream.body(&body.bytes, true);
        let Some(Over::Answered(answer)) = stream.over else { panic!("it goes on") };
        assert_eq!((answer.status, answer.content_type), expected);
    }
}

/// The rule and the status of the refusal at the first step of a request, whether or not it waits for the rest.
fn refusal(flow: &mut Flow, head: RequestHead, end: bool) -> Option<(String, u16)> {
    let step = flow.request_headers(Ok(head), end);
    let answer = match step.then {
        Then::Refuse(answer) => answer,
        Then::Pause if !end => match flow.request_body(0, Ok(Vec::new()), true).then {
            Then::Refuse(answer) => answer,
            _ => return None,
        },
        _ => return None,
    };
    assert!(step.effects.iter().any(|effect| matches!(effect, Effect::NoteRefusal(_))));
    Some((answer.rule.name().to_owned(), answer.status))
}

#[test]
fn a_push_needs_good_headers_a_body_and_known_facts() {
    let (case, _) = case("ff-by-the-pack");
    let with = || Flow::new(worker(case, PushRefusal::Report));
    let good = push_head(case);
    let path = String::from_utf8(good.value(":path").to_vec()).unwrap();
    let kind = ("content-type", "application/x-git-receive-pack-request");
    let refused = |rule: &str, status| Some((rule.to_owned(), status));
    for (headers, expected) in [
        (vec![], "push.content-type"),
        (vec![kind, kind], "push.content-type"),
        (vec![("content-type", "text/plain")], "push.content-type"),
        (vec![kind, ("content-encoding", "gzip")], "push.encoding"),
    ] {
        let head = head(case, "POST", &path, &headers);
        assert_eq!(refusal(&mut with(), head.clone(), false), refused(expected, 403));
        assert_eq!(refusal(&mut with(), head, true), refused(expected, 403));
    }
    assert_eq!(refusal(&mut with(), good.clone(), true), refused("push.malformed", 403));
    let unavailable = refused("push.unavailable", 503);
    assert_eq!(refusal(&mut Flow::new(Rc::default()), good.clone(), false), unavailable);
    for container in [None, Some(b"{".to_vec())] {
        let head = RequestHead { container, ..good.clone() };
        assert_eq!(refusal(&mut with(), head, false), unavailable);
    }
    let strange = head(case, "POST", "/an/other.git/git-receive-pack", &[kind]);
    assert_eq!(refusal(&mut with(), strange, false), unavailable);
    let mut flow = with();
    let step = flow.request_headers(Err(Broken::new("Envoy")), true);
    assert_eq!(step.effects.first(), Some(&Effect::Log("push: Envoy".into())));
    assert!(matches!(step.then, Then::Refuse(answer) if answer.rule.name() == "push.unavailable"));
}

#[test]
fn a_container_pushes_so_many_at_a_time() {
    let (case, body) = case("ff-by-the-pack");
    let worker = worker(case, PushRefusal::Report);
    let new = || Flow::new(Rc::clone(&worker));
    let mut open: Vec<_> = (0..MAX_PUSHES)
        .map(|_| {
            let mut flow = new();
            assert_eq!(flow.request_headers(Ok(push_head(case)), false).then, Then::Pause);
            flow
        })
        .collect();
    let refused = refusal(&mut new(), push_head(case), false);
    assert_eq!(refused, Some(("limit.pushes".to_owned(), 429)));
    // A refused push makes room, and so does a finished one.
    let _ = open[0].request_body(body.bytes.len(), Err(Broken::new("Envoy")), false);
    open.push(new());
    assert_eq!(open.last_mut().unwrap().request_headers(Ok(push_head(case)), false).then, Then::Pause);
    assert_eq!(refusal(&mut new(), push_head(case), false), refused);
    open.pop();
    open.push(new());
    assert_eq!(open.last_mut().unwrap().request_headers(Ok(push_head(case)), false).then, Then::Pause);
}

#[test]
fn a_push_needs_memory_that_others_do_not_hold() {
    let (case, body) = case("ff-by-the-pack");
    let worker = worker(case, PushRefusal::Report);
    let mut others = [96, 97, 98, 99].map(|last| Ticket::take(&worker, [10, 0, 0, last].into()).unwrap());
    others.iter_mut().for_each(|other| other.holds(MAX_SHARE).unwrap());
    assert_eq!(MAX_MEMORY, 4 * MAX_SHARE);
    let mut stream = Stream::new(Rc::clone(&worker), case, &body.bytes, body.trailer, None);
    stream.headers(push_head(case), false);
    stream.body(&body.bytes[..body.bytes.len() - 30], false);
    assert_eq!(stream.rule(), Some("limit.pushes"));
}

#[test]
fn what_is_no_push_is_not_touched() {
    let (case, _) = case("ff-by-the-pack");
    let repo = case.container.repos[0].to_string();
    for (method, path, authority) in [
        ("CONNECT", String::new(), "github.com:443"),
        ("POST", format!("/{repo}.git/git-receive-pack"), "api.github.com"),
        ("POST", format!("/{repo}.git/git-receive-pack"), "example.com"),
        ("GET", format!("/{repo}.git/info/refs?service=git-upload-pack"), "github.com"),
        ("POST", format!("/{repo}.git/git-upload-pack"), "github.com"),
        ("POST", format!("/{repo}.git/info/lfs/objects/batch"), "github.com"),
        ("GET", format!("/{repo}"), "github.com"),
    ] {
        let mut flow = Flow::new(Rc::default());
        let mut head = head(case, method, &path, &[]);
        head.headers[2].1 = authority.as_bytes().to_vec();
        let go_on = Step::only(Then::Continue);
        // The credential of a fetch and of Git LFS comes into force at once.
        let git = authority == "github.com" && (path.ends_with("upload-pack") || path.ends_with("/batch"));
        let begins = if git { Step::with(Effect::Unseal, Then::Continue) } else { Step::only(Then::Continue) };
        assert_eq!(flow.request_headers(Ok(head), false), begins, "{method} {path}");
        assert!(!flow.reads_response() && flow.unread_request(7).is_empty() && flow.unread_response(7).is_empty());
        assert_eq!(flow.request_body(7, Ok(Vec::new()), true), go_on);
        assert_eq!(flow.request_trailers(), go_on);
        assert_eq!(flow.response_headers(Ok(ResponseHead::default()), false), go_on);
        assert_eq!(flow.response_body(7, Ok(Vec::new()), true), go_on);
        assert_eq!(flow.response_trailers(), go_on);
    }
}

mod advertisement {
    use super::*;

    const KIND: &str = "application/x-git-receive-pack-advertisement";

    fn list() -> Vec<u8> {
        let first = format!("{} refs/heads/main\0report-status push-cert=1 agent=a\n", "a".repeat(40));
        let pkt = |line: &str| format!("{:04x}{line}", line.len() + 4);
        format!("{}0000{}{}0000", pkt("# service=git-receive-pack\n"), pkt(&first), pkt("b refs/heads/x\n"))
            .into_bytes()
    }

    /// A flow whose request for the list has gone on.
    fn asked() -> Flow {
        let (case, _) = case("ff-by-the-pack");
        let path = format!("/{}.git/info/refs?service=git-receive-pack", case.container.repos[0]);
        let mut flow = Flow::new(worker(case, PushRefusal::Report));
        let step = flow.request_headers(Ok(head(case, "GET", &path, &[])), true);
        let effects = vec![Effect::RemoveRequestHeader("accept-encoding".into()), Effect::Unseal];
        assert_eq!(step, Step { effects, then: Then::Continue });
        flow
    }

    fn response(status: u16, kind: Option<&str>) -> ResponseHead {
        ResponseHead { status, of_upstream: true, encoded: false, content_type: kind.map(|kind| kind.into()) }
    }

    fn odd(step: &Step<push::Query>) -> bool {
        let Then::Refuse(answer) = &step.then else { return false };
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.contains("request id 7"), "{text}");
        assert!(matches!(step.effects.last(), Some(Effect::NoteRefusal(_))));
        (answer.status, answer.rule.name(), answer.content_type)
            == (502, "push.advertisement", "text/plain; charset=utf-8")
    }

    #[test]
    fn the_list_waits_for_its_capabilities_and_goes_on_changed() {
        let list = list();
        for cut in [1, 40, 41, 90, list.len() - 4, list.len()] {
            let mut flow = asked();
            assert!(flow.reads_response());
            let step = flow.response_headers(Ok(response(200, Some(KIND))), false);
            assert_eq!(step, Step::with(Effect::RemoveResponseHeader("content-length"), Then::Pause));
            let (mut waiting, mut told) = (Vec::new(), Vec::new());
            for chunk in list.chunks(cut) {
                waiting.extend_from_slice(chunk);
                let size = waiting.len();
                let unread = waiting[flow.unread_response(size)].to_vec();
                let mut step = flow.response_body(size, Ok(unread), false);
                if let Some(Effect::ReplaceResponseBody { size: all, body }) = step.effects.pop() {
                    assert_eq!((all, step.then), (size, Then::Continue));
                    waiting = body;
                    told.append(&mut waiting);
                } else if step.then == Then::Continue {
                    told.append(&mut waiting);
                }
            }
            let text = String::from_utf8(told).unwrap();
            assert!(text.contains(" no-thin\n") && !text.contains("push-cert") && text.ends_with("0000"), "{text}");
        }
    }

    #[test]
    fn what_is_no_list_is_not_told() {
        let good = response(200, Some(KIND));
        let heads = [
            (response(200, None), false),
            (response(200, Some("text/html")), false),
            (ResponseHead { encoded: true, ..good.clone() }, false),
            (good.clone(), true),
        ];
        for (head, end) in heads {
            assert!(odd(&asked().response_headers(Ok(head.clone()), end)), "{head:?}");
        }
        for (body, end) in [(&b"<html>"[..], false), (b"0000", true), (b"", true)] {
            let mut flow = asked();
            let _ = flow.response_headers(Ok(good.clone()), false);
            assert!(odd(&flow.response_body(body.len(), Ok(body.to_vec()), end)), "{body:?}");
        }
        let mut flow = asked();
        let _ = flow.response_headers(Ok(good.clone()), false);
        assert!(odd(&flow.response_trailers()));
        let mut flow = asked();
        let _ = flow.response_headers(Ok(good), false);
        let step = flow.response_body(4, Err(Broken::new("Envoy")), false);
        assert!(matches!(step.then, Then::Refuse(answer) if answer.rule.name() == "push.unavailable"));
    }

    #[test]
    fn a_failure_is_told_as_it_is() {
        let mut flow = asked();
        assert_eq!(flow.response_headers(Ok(response(401, Some("text/plain"))), false), Step::only(Then::Continue));
        assert_eq!(flow.response_body(4, Ok(Vec::new()), true), Step::only(Then::Continue));
    }
}
