//! The work of one event is bounded by what came in, whatever it decompresses to. The rest is done in slices.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use git_wire::pack::{BLOCK, HASHING};
use policy::flow::{Step, Then};
use policy::github::Rules;
use policy::push::{MAX_UNSENT, PushRefusal};
use push::worker::{Full, MAX_MADE, MAX_SHARE, PER_BYTE, SLICE, Ticket};
use push::{Inspection, Passing, Standing};
use std::rc::Rc;
use support::body::{Body, Case, corpus};
use support::pack::{BLOB, COMMIT, Pack, commit, name, zeros};
use support::stream::{Over, Stream, worker};

/// The most work of one step of the scanner, without that of reading: 32 KiB of output and a block, or a whole commit.
const STEP: u64 = (32 << 10) + BLOCK;

fn case() -> (Case, Body) {
    let case = corpus().into_iter().find(|case| case.name == "ff-by-a-question").unwrap();
    let body = case.body();
    (case, body)
}

/// The push of a case with a blob of zeros before its commit. Only GitHub can allow it, so all of it is parsed.
fn bomb(case: &Case, body: &Body, mebibytes: u64) -> (Vec<u8>, usize) {
    let list = body.bytes.windows(4).position(|part| part == b"PACK").unwrap();
    let trailer = body.trailer.unwrap();
    let mut pack = Pack::new(2, 2);
    pack.head(BLOB, mebibytes << 20, 1);
    pack.0.extend(zeros(mebibytes << 20));
    pack.0.extend(&body.bytes[list + 12..trailer]);
    let bytes = [&body.bytes[..list], &pack.finish()].concat();
    assert!(case.expect.rule.is_none());
    let trailer = bytes.len() - 20;
    (bytes, trailer)
}

#[test]
fn what_comes_out_of_one_event_is_bounded() {
    let (case, body) = case();
    let (bytes, _) = bomb(&case, &body, 200);
    let mut push = Inspection::new(Rc::new(Rules::default()), case.container.clone());
    // Over 200 KB bring 200 MiB.
    assert_eq!(push.feed(&bytes, SLICE), Passing::Kept);
    assert!(push.made() <= SLICE + STEP && push.is_behind(), "{}", push.made());
    let mut before = push.made();
    let mut slices = 0;
    while push.is_behind() {
        push.go_on(SLICE);
        assert!(push.made() - before <= SLICE + STEP);
        (before, slices) = (push.made(), slices + 1);
    }
    assert!(slices >= 23, "{slices}");
    push.finish();
    assert_eq!(push.standing(), Standing::Pending);
}

#[test]
fn a_bomb_is_parsed_in_slices_and_others_have_their_turn_between() {
    let (case, body) = case();
    let (bytes, trailer) = bomb(&case, &body, 100);
    for (cut, early) in [(bytes.len(), false), (bytes.len() - 40, false), (bytes.len() - 40, true)] {
        let mut stream = Stream::of_push(&case, &bytes, Some(trailer), None);
        let (first, rest) = bytes.split_at(cut);
        stream.body(first, rest.is_empty());
        let mut slices = 0;
        if early {
            // The rest comes while bytes wait.
            stream.work();
            stream.body(rest, true);
        }
        while stream.flow.is_behind() {
            stream.work();
            slices += 1;
        }
        assert!(slices >= 8, "{slices}");
        if !early && !rest.is_empty() {
            stream.body(rest, true);
        }
        assert!(!stream.sent_end);
        stream.answer_all();
        assert_eq!((stream.sent_end, stream.rule()), (true, Some("push.allowed")));
        assert_eq!(stream.sent, Some(stream.written));
    }
}

#[test]
fn parts_of_one_byte_bring_no_slice_of_their_own() {
    let (case, body) = case();
    let (bytes, trailer) = bomb(&case, &body, 200);
    let mut stream = Stream::of_push(&case, &bytes, Some(trailer), None);
    let mut parts = bytes.chunks(1).peekable();
    while let Some(part) = parts.next() {
        stream.body(part, parts.peek().is_none());
    }
    // No time has passed. All 200,000 of them have one slice, and the work that their bytes bring: 9 MiB.
    assert_eq!(stream.worker.borrow().left(), 0);
    let mut slices = 0;
    while stream.flow.is_behind() {
        // Without time there is no work.
        let step = stream.flow.work();
        assert_eq!(step, Step::only(Then::Continue));
        stream.work();
        slices += 1;
    }
    assert!((380..480).contains(&slices), "{slices}");
    stream.answer_all();
    assert_eq!((stream.sent_end, stream.rule()), (true, Some("push.allowed")));
}

#[test]
fn blocks_of_which_nothing_comes_out_use_up_the_budget() {
    let (case, body) = case();
    let list = body.bytes.windows(4).position(|part| part == b"PACK").unwrap();
    // A block that is stored, and four blocks with tables (see `benches/scan.rs`).
    for block in [&[0, 0, 0, 0xff, 0xff][..], &TABLES] {
        let mut pack = Pack::new(2, 1);
        pack.head(BLOB, 1, 1);
        pack.0.extend([0x78, 0x01]);
        pack.0.extend(block.repeat((10 << 20) / block.len()));
        let bytes = [&body.bytes[..list], &pack.0].concat();
        let mut stream = Stream::of_push(&case, &bytes, None, None);
        let mut used = Ticket::take(&stream.worker, case.container.container_ip).unwrap();
        used.has_made(MAX_MADE / 2).unwrap();
        drop(used);
        stream.body(&bytes, false);
        stream.answer_all();
        let mut slices = 0;
        while stream.flow.is_behind() {
            stream.work();
            slices += 1;
        }
        assert!(slices > 200, "{slices}");
        assert_eq!(stream.rule(), Some("limit.pushes"));
    }
}

/// Four DEFLATE blocks with the shortest tables and nothing else, which are 45 bytes together.
const TABLES: [u8; 45] = [
    0x04, 0xc0, 0x81, 0x00, 0x00, 0x00, 0x00, 0x00, 0x90, 0xff, 0x6b, 0x10, 0x00, 0x07, 0x02, 0x00, 0x00, 0x00, 0x00,
    0x40, 0xfe, 0xaf, 0x41, 0x00, 0x1c, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0xf9, 0xbf, 0x06, 0x01, 0x70, 0x20, 0x00,
    0x00, 0x00, 0x00, 0x00, 0xe4, 0xff, 0x1a,
];

#[test]
fn an_honest_push_is_parsed_as_it_comes() {
    // The most bytes that a callback brings, four times as many inflated: a usual ratio.
    let (case, body) = case();
    let list = body.bytes.windows(4).position(|part| part == b"PACK").unwrap();
    let mut pack = Pack::new(2, 2);
    let mut noise = 7_u64;
    let text: Vec<u8> = std::iter::repeat_with(|| {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let line = noise.to_be_bytes();
        [&line[..4], b"a text that is there again and again, as in sources"].concat()
    })
    .take(100_000)
    .flatten()
    .collect();
    pack.object(BLOB, &text);
    let size = pack.0.len();
    assert!(text.len() > 4 * size && size > 400_000, "{} of {size}", text.len());
    let mut push = Inspection::new(Rc::new(Rules::default()), case.container.clone());
    push.feed(&body.bytes[..list], SLICE);
    push.take();
    assert_eq!(push.feed(&pack.0, PER_BYTE * u64::try_from(size).unwrap()), Passing::AsTheyCame);
}

#[test]
fn what_waits_is_limited() {
    let (case, body) = case();
    let list = body.bytes.windows(4).position(|part| part == b"PACK").unwrap();
    let head = &body.bytes[..list];
    let mut pack = Pack::new(2, 1);
    pack.head(BLOB, 200 << 20, 1);
    pack.0.extend(zeros(200 << 20));
    let fed = |size: usize| {
        let mut push = Inspection::new(Rc::new(Rules::default()), case.container.clone());
        push.feed(head, 1);
        push.take();
        // With the least work almost all waits.
        let mut bytes = pack.0.clone();
        bytes.resize(size, 0);
        push.feed(&bytes, 1);
        push
    };
    assert_eq!(fed(MAX_UNSENT).standing(), Standing::Pending);
    // They take their own memory, whether they wait to be parsed or to be sent.
    let mut most = fed(MAX_UNSENT);
    for _ in 0..8 {
        assert!(most.memory() < MAX_UNSENT + (1 << 20), "{}", most.memory());
        most.go_on(SLICE);
    }
    let over = fed(MAX_UNSENT + 1);
    assert!(matches!(over.standing(), Standing::Refused(refusal) if refusal.denial.rule.name() == "push.limit"));
    assert!(over.memory() < MAX_UNSENT);
}

#[test]
fn a_container_has_a_budget_over_all_its_pushes() {
    let (case, body) = case();
    let (bytes, trailer) = bomb(&case, &body, 100);
    let worker = worker(&case, PushRefusal::Report);
    let mut used = Ticket::take(&worker, case.container.container_ip).unwrap();
    used.has_made(MAX_MADE - (20 << 20)).unwrap();
    drop(used);
    let mut stream = Stream::new(Rc::clone(&worker), &case, &bytes, Some(trailer), None);
    stream.headers(support::stream::push_head(&case), false);
    stream.body(&bytes, true);
    let mut slices = 0;
    while stream.flow.is_behind() {
        stream.work();
        slices += 1;
    }
    // A slice takes 20 ms, in which a container regains a third of a MiB.
    assert!((50..200).contains(&slices), "{slices}");
    assert!(matches!(&stream.over, Some(Over::Answered(answer)) if answer.rule.name() == "limit.pushes"));
    // And the next is refused by its headers.
    let mut next = Stream::new(Rc::clone(&worker), &case, &bytes, Some(trailer), None);
    next.headers(support::stream::push_head(&case), false);
    assert_eq!(next.rule(), Some("limit.pushes"));
}

#[test]
fn memory_is_given_back_when_the_bytes_go_on() {
    let (case, body) = case();
    let (bytes, trailer) = bomb(&case, &body, 100);
    let worker = worker(&case, PushRefusal::Report);
    let mut stream = Stream::new(Rc::clone(&worker), &case, &bytes, Some(trailer), None);
    stream.headers(support::stream::push_head(&case), false);
    stream.body(&bytes, true);
    let mut other = Ticket::take(&worker, case.container.container_ip).unwrap();
    assert_eq!(other.holds(MAX_SHARE), Err(Full::Share));
    other.holds(0).unwrap();
    while stream.flow.is_behind() {
        stream.work();
    }
    stream.answer_all();
    assert!(stream.sent_end && stream.over.is_none());
    other.holds(MAX_SHARE).unwrap();
}

#[test]
fn a_refused_push_keeps_little() {
    let (case, _) = case();
    let (a, b) = ("a".repeat(40), "b".repeat(40));
    let name = "n".repeat(380);
    let line = |n: usize| {
        let capabilities = if n == 0 { "\0 report-status side-band-64k" } else { "" };
        let line = format!("{a} {b} refs/heads/{n}{name}{capabilities}");
        format!("{:04x}{line}", line.len() + 4)
    };
    // Too many refs, or some with names that are too long for GitHub.
    for (refs, rule) in [(1_000, "push.limit"), (20, "push.ref")] {
        let body = (0..refs).map(line).collect::<String>() + "0000";
        let mut stream = Stream::of_push(&case, body.as_bytes(), None, None);
        stream.body(body.as_bytes(), false);
        assert_eq!(stream.rule(), Some(rule));
        let kept = format!("{:?}", stream.flow).len();
        assert!(kept < 40_000, "{kept} for {refs} refs");
        stream.body(b"x", true);
        let Some(Over::Answered(answer)) = &stream.over else { unreachable!("it goes on") };
        assert_eq!((answer.status, answer.rule.name()), (200, rule));
    }
}

#[test]
fn a_refused_push_is_dropped_unread() {
    let (case, body) = case();
    let (bytes, trailer) = bomb(&case, &body, 100);
    let mut push = Inspection::new(Rc::new(Rules::default()), case.container.clone());
    let list = bytes.windows(4).position(|part| part == b"PACK").unwrap();
    push.feed(&bytes[..list], SLICE);
    push.refuse(policy::Denial::new(policy::Rule::PushForce, "a test"));
    push.feed(&bytes[list..], u64::MAX);
    push.go_on(u64::MAX);
    assert_eq!((push.made(), push.is_behind(), push.take()), (0, false, vec![]));
    // Nor are its bytes copied out of Envoy.
    let mut stream = Stream::of_push(&case, &bytes, Some(trailer), None);
    stream.body(&bytes[..list + 400], false);
    let refs = stream.questions.pop_front().unwrap();
    stream.answer(&refs, true);
    assert_eq!(stream.rule(), Some("push.unconfirmed"));
    assert!(stream.flow.unread_request(1000).is_empty() && !stream.flow.is_behind());
}

#[test]
fn commits_count_by_their_text() {
    let text = commit(&[name("commit", b"x")], &"m".repeat(900_000));
    let mut pack = Pack::new(2, 1);
    pack.object(COMMIT, &text);
    let (case, body) = case();
    let list = body.bytes.windows(4).position(|part| part == b"PACK").unwrap();
    let mut push = Inspection::new(Rc::new(Rules::default()), case.container.clone());
    push.feed(&body.bytes[..list], 1);
    push.feed(&pack.0, u64::MAX);
    let text = u64::try_from(text.len()).unwrap();
    // With no answered question there is nothing to follow.
    let (blocks, rest) = ((push.made() - text * (1 + HASHING)) / BLOCK, (push.made() - text * (1 + HASHING)) % BLOCK);
    assert!((1..1_000).contains(&blocks) && rest == 0, "{blocks} {rest}");
}
