//! Pushes that take time: work in slices between which other streams are served, a policy that changes meanwhile, an end.
//! And the head that the upstream gets, which is written anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../../../filters/push/tests/support/pack.rs"]
#[allow(dead_code, reason = "the tests of pushes need all of it")]
mod pack;

#[path = "support/mod.rs"]
mod support;

use envoy_stand_in::{Call, Config, Envoy, Reply, Request, StreamId};
use pack::{BLOB, COMMIT, Pack};
use policy::BranchGlob;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use support::{body_of_a_push, config, container, policy, push_request, push_to, report};

/// A push of a commit behind a blob of zeros. The pack does not prove the fast-forward, so all of it is parsed.
fn bomb(mebibytes: u64) -> Vec<u8> {
    let [old, between] = ["old", "between"].map(|text| pack::name("commit", &pack::commit(&[], text)));
    let new = pack::commit(&[between], "new");
    let mut objects = Pack::new(2, 2);
    objects.head(BLOB, mebibytes << 20, 1);
    objects.0.extend(pack::zeros(mebibytes << 20));
    objects.object(COMMIT, &new);
    let (old, new) = (pack::hex(&old), pack::hex(&pack::name("commit", &new)));
    let line = format!("{old} {new} refs/heads/sandbox/work\0 report-status side-band-64k");
    [format!("{:04x}{line}0000", line.len() + 4).as_bytes(), &objects.finish()].concat()
}

/// Three containers.
fn containers() -> Config {
    let of = |last: u8| {
        let mut record = container();
        record.container_ip = [172, 18, 0, last].into();
        record
    };
    Config { containers: [5, 6, 7].map(of).into(), ..config() }
}

fn of(last: u8, request: Request) -> Request {
    Request { source: format!("172.18.0.{last}:40000"), ..request }
}

/// Whether a push that is sent in one piece has arrived at once.
fn passes_at_once(envoy: &mut Envoy, last: u8) -> bool {
    let id = send(envoy, last, &body_of_a_push());
    let passed = envoy.upstream(id).ended;
    answered(envoy, id);
    passed
}

/// The server answers a push that has arrived.
fn answered(envoy: &mut Envoy, id: StreamId) {
    envoy.upstream_headers(id, 200, &[], false);
    envoy.upstream_sends(id, &report(), true);
}

fn send(envoy: &mut Envoy, last: u8, body: &[u8]) -> StreamId {
    let id = envoy.open(of(last, push_request()));
    envoy.client_sends(id, body, true);
    id
}

#[test]
fn a_bomb_is_parsed_in_slices_between_which_others_are_served() {
    let asked = Rc::new(RefCell::new(0));
    let descents = asked.clone();
    let mut envoy = Envoy::start(containers(), move |call| {
        *descents.borrow_mut() += u32::from(matches!(call, Call::Descends(_)));
        support::github(call)
    });
    let body = bomb(40);
    let id = send(&mut envoy, 5, &body);
    let mut ticks = 0;
    while !envoy.upstream(id).ended {
        assert!(passes_at_once(&mut envoy, 6), "after {ticks} ticks");
        envoy.tick();
        ticks += 1;
        assert!(ticks < 100, "it hangs: {:?}", envoy.rule(id));
    }
    // 40 MiB in slices of at most a half.
    assert!(ticks >= 70, "{ticks}");
    assert_eq!(*asked.borrow(), 1, "the question of a tick is asked and answered");
    assert_eq!((envoy.upstream(id).body, envoy.rule(id)), (body, "push.allowed".into()));
    answered(&mut envoy, id);
    assert_eq!(envoy.client(id).body, report());
    assert!(envoy.lines(3).is_empty(), "{:?}", envoy.lines(3));
}

#[test]
fn two_that_wait_have_their_turns() {
    let mut envoy = Envoy::start(containers(), support::github);
    let [large, small] = [bomb(40), bomb(4)];
    let first = send(&mut envoy, 5, &large);
    let second = send(&mut envoy, 6, &small);
    let mut ticks = 0;
    while !envoy.upstream(second).ended {
        envoy.tick();
        ticks += 1;
        assert!(ticks < 20, "the second waits for the first");
    }
    assert!(!envoy.upstream(first).ended);
    envoy.pass(Duration::from_secs(10));
    assert!(envoy.upstream(first).ended);
}

#[test]
fn bombs_use_up_a_budget_and_another_container_s_push_passes() {
    let mut envoy = Envoy::start(containers(), support::github);
    let body = bomb(250);
    let mut refused = 0;
    for _ in 0..30 {
        let id = send(&mut envoy, 5, &body);
        while !envoy.upstream(id).ended && !envoy.over(id) {
            envoy.tick_after(push::worker::TICK);
        }
        refused += u32::from(envoy.rule(id) == "limit.pushes");
        answered(&mut envoy, id);
    }
    // 2 GiB at once have eight times 250 MiB. A bomb takes 10 s, in which 160 MiB come back.
    assert!((4..=16).contains(&refused), "{refused}");
    assert!(passes_at_once(&mut envoy, 6));
    envoy.pass(Duration::from_secs(20));
    assert!(passes_at_once(&mut envoy, 5));
}

#[test]
fn a_parked_push_is_judged_under_the_policy_in_force() {
    let body = body_of_a_push();
    // Undecided, and allowed with its trailer missing.
    for (ticks, cut) in [(0, 30), (1, 30), (0, 20), (1, 20)] {
        let (first, last) = body.split_at(body.len() - cut);
        let mut envoy = Envoy::start(config(), support::github);
        let id = envoy.open(push_request());
        envoy.client_sends(id, first, false);
        assert!(!envoy.upstream(id).headers.is_empty());
        let mut narrow = policy();
        narrow.github.branches.protected = vec![BranchGlob::parse("sandbox/work").unwrap()];
        envoy.put_policy(narrow);
        (0..ticks).for_each(|_| envoy.tick());
        envoy.client_sends(id, last, true);
        assert_eq!(envoy.rule(id), "push.protected", "{ticks}");
        assert!(!envoy.upstream(id).ended && envoy.over(id), "{ticks}");
        assert_eq!(envoy.client(id).header("x-sallyport-rule").as_deref(), Some("push.protected"));
        envoy.put_policy(policy());
        assert!(passes_at_once(&mut envoy, 5));
    }
}

/// A policy that protects the branch of the push.
fn narrow() -> policy::Policy {
    let mut narrow = policy();
    narrow.github.branches.protected = vec![BranchGlob::parse("sandbox/work").unwrap()];
    narrow
}

#[test]
fn a_policy_that_comes_back_is_in_force_without_a_request() {
    let body = body_of_a_push();
    let (first, last) = body.split_at(body.len() - 30);
    let mut envoy = Envoy::start(Config { policy: narrow(), ..config() }, support::github);
    envoy.put_policy(policy());
    let id = envoy.open(push_request());
    envoy.client_sends(id, first, false);
    assert!(!envoy.upstream(id).headers.is_empty());
    // The earlier policy again. No stream begins by its configuration.
    envoy.put_policy(narrow());
    envoy.tick();
    envoy.client_sends(id, last, true);
    assert_eq!((envoy.rule(id).as_str(), envoy.upstream(id).ended), ("push.protected", false));
}

#[test]
fn a_stream_of_an_earlier_configuration_has_the_rules_in_force() {
    let body = body_of_a_push();
    let mut envoy = Envoy::start(config(), support::github);
    envoy.put_policy(narrow());
    // The request comes by a listener that has the earlier configuration still. Its own stages before this one have, too.
    let id = envoy.open(Request { behind: true, ..push_request() });
    envoy.client_sends(id, &body, true);
    assert_eq!((envoy.rule(id).as_str(), envoy.upstream(id).ended), ("push.protected", false));
    let id = send(&mut envoy, 5, &body);
    assert_eq!((envoy.rule(id).as_str(), envoy.upstream(id).ended), ("push.protected", false));
}

#[test]
fn configurations_share_one_slice_of_work() {
    let mut envoy = Envoy::start(containers(), support::github);
    let streams: Vec<_> = [5, 6, 7]
        .map(|last| {
            let id = send(&mut envoy, last, &bomb(10));
            envoy.put_policy(policy());
            id
        })
        .into();
    let mut ticks = 0;
    while streams.iter().any(|id| !envoy.upstream(*id).ended) {
        envoy.tick();
        ticks += 1;
        assert!(
            ticks < 100,
            "they hang: {:?}",
            streams.iter().map(|id| (envoy.rule(*id), envoy.lines(2))).collect::<Vec<_>>()
        );
    }
    // 30 MiB in slices of a half.
    assert!(ticks >= 50, "{ticks}");
}

#[test]
fn a_push_goes_on_whose_newest_configuration_is_gone() {
    let mut envoy = Envoy::start(containers(), support::github);
    let id = send(&mut envoy, 5, &bomb(4));
    envoy.put_policy(policy());
    envoy.tick();
    envoy.ends_push_root();
    envoy.pass(Duration::from_secs(2));
    assert!(envoy.upstream(id).ended, "{}", envoy.rule(id));
}

#[test]
fn an_answer_to_a_configuration_that_is_gone_is_not_waited_for() {
    // The question about the ancestry is asked in a tick, by the newest root context.
    let mut envoy = Envoy::start(containers(), |call| match call {
        Call::Descends(_) => Reply::Later,
        call => support::github(call),
    });
    let id = send(&mut envoy, 5, &bomb(4));
    envoy.put_policy(policy());
    envoy.pass(Duration::from_secs(2));
    assert_eq!(envoy.calls().len(), 1);
    envoy.ends_push_root();
    envoy.pass(Duration::from_secs(25));
    assert_eq!((envoy.rule(id).as_str(), envoy.over(id)), ("push.unconfirmed", true));
}

#[test]
fn parts_of_one_byte_bring_no_slice_of_their_own() {
    let body = bomb(20);
    let mut envoy = Envoy::start(containers(), support::github);
    let id = envoy.open(of(5, push_request()));
    let mut parts = body.chunks(1).peekable();
    while let Some(part) = parts.next() {
        envoy.client_sends(id, part, parts.peek().is_none());
    }
    let mut ticks = 0;
    while !envoy.upstream(id).ended {
        envoy.tick();
        ticks += 1;
        assert!(ticks < 100, "it hangs: {:?}", envoy.rule(id));
    }
    // 20 MiB less one slice and the work of 20,000 bytes.
    assert!(ticks >= 30, "{ticks}");
}

#[test]
fn a_parked_push_ends_after_its_time() {
    let body = body_of_a_push();
    let mut envoy = Envoy::start(config(), support::github);
    let id = envoy.open(push_request());
    envoy.client_sends(id, &body[..body.len() - 30], false);
    envoy.pass(Duration::from_secs(15 * 60 - 1));
    assert!(!envoy.over(id));
    envoy.pass(Duration::from_secs(2));
    assert_eq!(envoy.client(id).header("x-sallyport-rule").as_deref(), Some("push.time"));
    assert!(envoy.over(id) && envoy.upstream(id).reset && envoy.rule(id) == "push.time");
}

#[test]
fn an_old_answer_about_the_refs_is_asked_for_again_and_may_be_another() {
    let body = body_of_a_push();
    for (moved, rule) in [(false, "push.allowed"), (true, "push.stale")] {
        let asked = Rc::new(RefCell::new(0));
        let count = asked.clone();
        let mut envoy = Envoy::start(config(), move |call| {
            if let Call::ReadRefs(refs) = call {
                *count.borrow_mut() += 1;
                if moved && *count.borrow() > 1 {
                    let mut others = refs.refs.clone();
                    others[0].object = vec![7; 20];
                    return Reply::ReadRefs(registry_proto::push::ReadRefsResponse { others, ..Default::default() });
                }
            }
            support::github(call)
        });
        let id = envoy.open(push_request());
        envoy.client_sends(id, &body[..body.len() - 30], false);
        envoy.pass(Duration::from_secs(32));
        envoy.client_sends(id, &body[body.len() - 30..], true);
        assert_eq!((envoy.rule(id).as_str(), envoy.upstream(id).ended), (rule, !moved));
        assert_eq!(*asked.borrow(), 2);
    }
}

#[test]
fn the_upstream_gets_a_head_that_was_written_anew() {
    let odd = " report-status x;rails_env=development session-id=1 agent=a;b quiet";
    let plain = " report-status side-band-64k object-format=sha1 agent=git/2.47.3";
    let body = push_to("refs/heads/sandbox/work");
    let at = body.windows(4).position(|part| part == b"PACK").unwrap();
    let old = String::from_utf8(body[4..at - 4].to_vec()).unwrap();
    let pkt = |line: &str| format!("{:04x}{line}0000", line.len() + 4).into_bytes();
    let sent = [pkt(&old.replace(plain, odd)), body[at..].to_vec()].concat();
    let arrives = [pkt(&old.replace(plain, " report-status quiet")), body[at..].to_vec()].concat();
    assert_ne!(sent.len(), arrives.len());
    for length in [true, false] {
        for part in [1, 100, sent.len()] {
            let mut envoy = Envoy::start(config(), support::github);
            let request = push_request().with("x-stat", "a=b").with("git-protocol", "version=1");
            let request = match length {
                true => request.with("content-length", &sent.len().to_string()),
                false => request.with("transfer-encoding", "chunked"),
            };
            let id = envoy.open(request);
            let mut parts = sent.chunks(part).peekable();
            while let Some(part) = parts.next() {
                envoy.client_sends(id, part, parts.peek().is_none());
            }
            let upstream = envoy.upstream(id);
            assert!(upstream.ended && upstream.body == arrives, "{length} {part}");
            let expected = length.then(|| arrives.len().to_string());
            assert_eq!(upstream.header("content-length"), expected);
            assert_eq!((upstream.header("x-stat"), upstream.header("git-protocol")), (None, Some("version=1".into())));
        }
    }
    // A length that the head alone exceeds.
    let mut envoy = Envoy::start(config(), support::github);
    let id = envoy.open(push_request().with("content-length", "40"));
    envoy.client_sends(id, &sent, true);
    assert_eq!((envoy.rule(id).as_str(), envoy.upstream(id).headers.is_empty()), ("push.malformed", true));
}

#[test]
fn a_push_option_passes_if_the_policy_lists_it() {
    let body = push_to("refs/heads/sandbox/work");
    let at = body.windows(4).position(|part| part == b"PACK").unwrap();
    let line = String::from_utf8(body[4..at - 4].to_vec()).unwrap() + " push-options";
    let pkt = |line: &str| format!("{:04x}{line}", line.len() + 4);
    let head = format!("{}0000{}0000", pkt(&line), pkt("ci.skip"));
    let body = [head.as_bytes(), &body[at..]].concat();
    for listed in [true, false] {
        let mut policy = policy();
        if listed {
            policy.github.push_options.insert("ci.skip".into());
        }
        let mut envoy = Envoy::start(Config { policy, ..config() }, support::github);
        let id = send(&mut envoy, 5, &body);
        let passed = envoy.upstream(id).ended
            && String::from_utf8_lossy(&envoy.upstream(id).body).contains("0000000bci.skip0000PACK");
        assert_eq!((passed, envoy.rule(id) == "push.option"), (listed, !listed), "{}", envoy.rule(id));
    }
}
