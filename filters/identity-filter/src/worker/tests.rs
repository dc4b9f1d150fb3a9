//! A request in each of its phases, by the events of its life.

#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::limits::{LOOKUP_BURST, MAX_STREAMS};
use crate::refused::{MAX_BODY, MAX_TIME, RATE_PAUSE};
use crate::request::Facts;
use policy::Refusal;
use registry_proto::{Container, LookupResponse, WatchResponse};
use serde_json::json;
use std::rc::Rc;

/// The address that the memory of [`filled`] knows.
const KNOWN: &str = "172.18.0.5";
const STRANGE: &str = "172.18.0.6";
const NOW: &str = "2026-12-01T00:00:00Z";
const EXPIRED: &str = "2027-01-15T00:00:00Z";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn record(address: &str) -> Vec<u8> {
    let id = "a";
    json!({"container_ip": address, "container_id": id, "repos": [], "generation": 1, "expires_at": EXPIRED})
        .to_string()
        .into_bytes()
}

fn snapshot() -> WatchResponse {
    let policy = json!({
        "version": "p1",
        "egress": {"allow": {"exact": {"github.com": {"allow": ["/**"]}, "a.test": {"allow": ["/**"]}}, "below": {}}},
        "strip_foreign_credentials": true
    });
    let upserts = vec![Container { address: registry_proto::address_bytes(ip(KNOWN)), record: record(KNOWN) }];
    WatchResponse { version: 1, snapshot: true, upserts, removals: vec![], policy: Some(policy.to_string().into()) }
}

fn filled() -> Worker {
    let mut worker = Worker::default();
    assert!(worker.memory.apply(snapshot()).unwrap().is_empty());
    worker
}

/// A request whose body is still to come.
fn request(id: u32, headers: &[(&str, &str)]) -> Request {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
    Request { facts: Rc::new(Facts::read(headers)), ..Request::new(id) }
}

fn post(id: u32, authority: &str) -> Request {
    request(id, &[(":method", "POST"), (":authority", authority), (":path", "/"), ("x-request-id", "7")])
}

fn connect(id: u32, authority: &str) -> Request {
    request(id, &[(":method", "CONNECT"), (":authority", authority)])
}

fn source_of(arrival: Arrival) -> IpAddr {
    let Arrival::Request(source) = arrival else { unreachable!("{arrival:?}") };
    source
}

/// The step of a request from `source`, up to the lookup.
fn arrive(worker: &mut Worker, request: &Request, source: &str) -> Step {
    let from = match worker.arrive(request, Some(ip(source))) {
        Arrival::Judged(step) => return step,
        arrival => source_of(arrival),
    };
    match worker.identify(request, from, None) {
        Identified::Step(step) => step,
        Identified::Ready(ready) => worker.judge(&ready, Ok(at(NOW))),
    }
}

/// A part of the body, which Envoy drops if the worker says so.
fn body(worker: &mut Worker, request: &Request, size: usize, end: bool) -> (bool, Step) {
    let drops = worker.drops_body(request, size, end);
    (drops, worker.after_body(request, size, Ok(())))
}

/// The registry's response to the lookup of a held request.
fn answer(worker: &mut Worker, request: &Request, known: bool) -> Step {
    let response = LookupResponse { version: 2, record: known.then(|| record(STRANGE)) };
    worker.answered(request, LookupResult::read(ip(STRANGE), &response).unwrap());
    let ready = worker.take_ready(64);
    let [ready] = ready.as_slice() else { unreachable!("{ready:?}") };
    assert_eq!(ready.request.id, request.id);
    worker.judge(ready, Ok(at(NOW)))
}

/// The rule of a refusal, and whether its response is sent now.
fn refused(step: &Step) -> (&'static str, bool) {
    let Step::Refuse(note, refusal) = step else { unreachable!("{step:?}") };
    (note.decided.rule.name(), refusal.is_some())
}

fn passed(step: Step) -> Pass {
    let Step::Pass(pass) = step else { unreachable!("{step:?}") };
    pass
}

fn responds(step: &Step, rule: &str) {
    let Step::Respond(Refusal { rule: sent, .. }) = step else { unreachable!("{step:?}") };
    assert_eq!(sent.name(), rule);
}

fn ticks(worker: &mut Worker, time: Duration) {
    (0..time.as_millis() / TICK.as_millis()).for_each(|_| worker.tick(TICK));
}

#[test]
fn a_known_container_passes_with_the_canonical_host() {
    let mut worker = filled();
    let headers = [(":method", "GET"), (":authority", "GitHub.com:443"), (":path", "/"), ("via", "x")];
    let request = request(1, &headers);
    let pass = passed(arrive(&mut worker, &request, KNOWN));
    assert!(!pass.resume);
    let forward = pass.forward.unwrap();
    assert_eq!(
        (forward.authority.as_deref(), forward.removed.as_slice()),
        (Some("github.com"), &["via".to_owned()][..])
    );
    assert!(forward.record.is_some());
    assert_eq!(forward.mark.unwrap().value, b"1 github.com", "the mark has the canonical host");
    assert_eq!(body(&mut worker, &request, 9, false), (false, Step::Continue));
    assert_eq!(worker.without_right(at(NOW)), [0_u32; 0]);
    assert_eq!(worker.without_right(at(EXPIRED)), [1]);
    worker.ended(&request);
    assert_eq!(worker.without_right(at(EXPIRED)), [0_u32; 0]);
}

#[test]
fn a_canonical_host_stays_and_other_hosts_get_no_record() {
    let pass = passed(arrive(&mut filled(), &post(1, "a.test"), KNOWN));
    let mark = Some(policy::mark::Mark { property: policy::mark::IDENTITY, value: b"1 a.test".to_vec() });
    assert_eq!(pass.forward, Some(Forward { record: None, mark, authority: None, removed: vec![], again: false }));
}

#[test]
fn only_a_request_that_changes_nothing_and_has_no_body_is_sent_again() {
    for (method, bare, again) in [
        ("GET", true, true),
        ("HEAD", true, true),
        ("OPTIONS", true, true),
        ("GET", false, false),
        ("POST", true, false),
        ("DELETE", true, false),
        ("get", true, false),
    ] {
        let request = request(1, &[(":method", method), (":authority", "a.test"), (":path", "/")]);
        request.progress.bare.set(bare);
        let pass = passed(arrive(&mut filled(), &request, KNOWN));
        assert_eq!(pass.forward.unwrap().again, again, "{method} {bare}");
    }
}

#[test]
fn a_held_request_is_resumed_by_the_lookup() {
    let (mut worker, request) = (filled(), post(1, "a.test"));
    assert_eq!(arrive(&mut worker, &request, STRANGE), Step::Lookup(ip(STRANGE)));
    assert_eq!(worker.awaited(&request), Some(ip(STRANGE)));
    assert_eq!(body(&mut worker, &request, MAX_HELD_BODY, true), (false, Step::Wait));
    assert!(passed(answer(&mut worker, &request, true)).resume);
    assert_eq!((request.phase(), worker.awaited(&request)), (Phase::Passed, None));
}

#[test]
fn a_held_request_of_no_container_is_refused_at_its_bodys_end() {
    for ended in [false, true] {
        let (mut worker, request) = (filled(), post(1, "a.test"));
        let _lookup = arrive(&mut worker, &request, STRANGE);
        let _waits = body(&mut worker, &request, 5, ended);
        assert_eq!(refused(&answer(&mut worker, &request, false)), ("identity.unknown", ended));
        if !ended {
            assert_eq!(body(&mut worker, &request, 5, false), (true, Step::Wait));
            let (drops, step) = body(&mut worker, &request, 0, true);
            assert!(drops);
            responds(&step, "identity.unknown");
        }
        assert_eq!(request.phase(), Phase::Refused);
        assert_eq!(body(&mut worker, &request, 5, true), (false, Step::Wait));
        assert!(worker.take_due(64).is_empty());
    }
}

#[test]
fn a_cut_body_never_passes() {
    let (mut worker, request) = (filled(), post(1, "a.test"));
    let _lookup = arrive(&mut worker, &request, STRANGE);
    assert_eq!(body(&mut worker, &request, MAX_HELD_BODY + 1, false), (true, Step::Wait));
    assert_eq!(body(&mut worker, &request, 1, true), (true, Step::Wait), "all later bytes are dropped too");
    assert_eq!(refused(&answer(&mut worker, &request, true)), ("identity.unavailable", true));
    assert!(worker.without_right(at(EXPIRED)).is_empty());
}

#[test]
fn a_held_request_is_refused_when_its_time_is_up() {
    let (mut worker, request) = (filled(), post(1, "a.test"));
    request.progress.ended.set(true);
    let _lookup = arrive(&mut worker, &request, STRANGE);
    ticks(&mut worker, PATIENCE);
    assert!(worker.take_overdue(64).is_empty());
    worker.tick(TICK);
    let overdue = worker.take_overdue(64);
    assert_eq!(refused(&worker.give_up(&overdue[0])), ("identity.unavailable", true));
    assert_eq!(worker.awaited(&request), None);
}

#[test]
fn a_held_request_is_refused_when_its_lookup_fails() {
    let (mut worker, request) = (filled(), post(1, "a.test"));
    let _lookup = arrive(&mut worker, &request, STRANGE);
    assert_eq!(refused(&worker.unanswered(&request)), ("identity.unavailable", false));
    assert_eq!(worker.unanswered(&request), Step::Wait, "only once");
}

#[test]
fn the_first_snapshot_settles_a_held_request() {
    let (mut worker, request) = (Worker::default(), post(1, "a.test"));
    assert_eq!(arrive(&mut worker, &request, KNOWN), Step::Lookup(ip(KNOWN)));
    assert!(worker.take_ready(64).is_empty());
    worker.memory.apply(snapshot()).unwrap();
    let ready = worker.take_ready(64);
    assert!(passed(worker.judge(&ready[0], Ok(at(NOW)))).resume);
}

#[test]
fn without_the_time_or_a_fact_a_request_is_refused() {
    let (mut worker, request) = (Worker::default(), post(1, "a.test"));
    request.progress.ended.set(true);
    let _lookup = arrive(&mut worker, &request, KNOWN);
    worker.memory.apply(snapshot()).unwrap();
    let ready = worker.take_ready(64);
    assert_eq!(refused(&worker.judge(&ready[0], Err(Broken))), ("identity.unavailable", true));
    assert_eq!(refused(&worker.failed(&Request::new(2))), ("identity.unavailable", false));
}

#[test]
fn a_failed_effect_of_a_pass_becomes_a_refusal() {
    let (mut worker, request) = (filled(), post(1, "a.test"));
    let _pass = passed(arrive(&mut worker, &request, KNOWN));
    assert_eq!(refused(&worker.failed(&request)), ("identity.unavailable", false));
    assert_eq!(request.phase(), Phase::Dropping);
    assert!(worker.without_right(at(EXPIRED)).is_empty(), "the request has no right");
}

#[test]
fn a_failed_lookup_call_or_drop_ends_a_held_request() {
    let mut worker = filled();
    let (call, drop) = (post(1, "a.test"), post(2, "a.test"));
    let _lookups = [&call, &drop].map(|request| arrive(&mut worker, request, STRANGE));
    assert_eq!(refused(&worker.failed(&call)).0, "identity.unavailable");
    assert!(worker.drops_body(&drop, MAX_HELD_BODY + 1, false));
    assert_eq!(refused(&worker.after_body(&drop, MAX_HELD_BODY + 1, Err(Broken))).0, "identity.unavailable");
    assert!(worker.awaited(&call).or(worker.awaited(&drop)).is_none());
}

#[test]
fn a_refusal_is_sent_at_once_if_its_body_is_not_dropped() {
    let (mut worker, request) = (filled(), post(1, "b.test"));
    assert_eq!(refused(&arrive(&mut worker, &request, KNOWN)), ("egress.host", false));
    assert!(worker.drops_body(&request, 5, false));
    responds(&worker.after_body(&request, 5, Err(Broken)), "egress.host");
    assert!(worker.take_due(64).is_empty());
}

#[test]
fn a_refusal_is_due_when_its_body_pauses_or_is_too_long() {
    let (mut worker, pauses, long) = (filled(), post(1, "b.test"), post(2, "b.test"));
    let _refusals = [&pauses, &long].map(|request| arrive(&mut worker, request, KNOWN));
    responds(&body(&mut worker, &long, MAX_BODY, false).1, "egress.host");
    ticks(&mut worker, MAX_TIME);
    let due = worker.take_due(64);
    assert_eq!(due.len(), 1);
    responds(&respond(&due[0]), "egress.host");
    assert_eq!(pauses.phase(), Phase::Refused);
}

#[test]
fn a_refusal_for_a_rate_is_sent_late_even_without_a_body() {
    let mut worker = filled();
    for id in 0..LOOKUP_BURST {
        let request = post(id, "a.test");
        assert_eq!(arrive(&mut worker, &request, STRANGE), Step::Lookup(ip(STRANGE)));
        worker.ended(&request);
    }
    let request = post(LOOKUP_BURST, "a.test");
    request.progress.ended.set(true);
    assert_eq!(refused(&arrive(&mut worker, &request, STRANGE)), ("limit.rate", false));
    ticks(&mut worker, RATE_PAUSE - TICK);
    assert!(worker.take_due(64).is_empty());
    worker.tick(TICK);
    responds(&respond(&worker.take_due(64)[0]), "limit.rate");
}

#[test]
fn a_request_is_counted_until_its_context_ends() {
    let mut worker = filled();
    let requests: Vec<Request> = (0..MAX_STREAMS).map(|id| post(id, "b.test")).collect();
    for request in &requests {
        assert_eq!(refused(&arrive(&mut worker, request, KNOWN)), ("egress.host", false));
    }
    assert_eq!(refused(&arrive(&mut worker, &post(900, "b.test"), KNOWN)), ("limit.streams", false));
    worker.ended(&requests[0]);
    assert_eq!(refused(&arrive(&mut worker, &post(901, "b.test"), KNOWN)), ("egress.host", false));
}

#[test]
fn a_connect_opens_at_the_proxy_and_ends_with_its_record() {
    let (mut worker, request) = (filled(), connect(1, "a.test:443"));
    assert_eq!(worker.arrive(&request, Some(ip(KNOWN))), Arrival::Tunnel);
    let pass = passed(worker.tunnel(&request, Some(ip(KNOWN)), Place::Proxy, at(NOW)));
    assert_eq!((pass.forward, pass.resume), (None, false));
    assert_eq!(body(&mut worker, &request, 9, false), (false, Step::Continue));
    assert!(worker.tunnels_without_right(at(EXPIRED)).is_empty());
    assert_eq!(worker.tunnels_without_right(at(EXPIRED)), [1]);
}

#[test]
fn a_refused_connect_or_upgrade_waits_for_no_body() {
    let mut worker = filled();
    let nested = worker.tunnel(&connect(1, "a.test:443"), Some(ip(KNOWN)), Place::Elsewhere, at(NOW));
    assert_eq!(refused(&nested), ("request.nested-connect", true));
    let unknown = worker.tunnel(&connect(2, "a.test:443"), None, Place::Proxy, at(NOW));
    assert_eq!(refused(&unknown), ("identity.unknown", true));
    let upgrade = request(3, &[(":method", "GET"), (":authority", "b.test"), (":path", "/"), ("upgrade", "x")]);
    assert_eq!(refused(&arrive(&mut worker, &upgrade, KNOWN)), ("egress.host", true));
}

#[test]
fn a_request_without_a_source_is_refused() {
    let Arrival::Judged(step) = filled().arrive(&post(1, "a.test"), None) else { unreachable!() };
    assert_eq!(refused(&step), ("identity.unknown", false));
}

#[test]
fn only_what_was_allowed_lets_its_body_through() {
    let phases = [Phase::New, Phase::Held, Phase::Dropping, Phase::Refused, Phase::Passed];
    for (phase, size, end) in phases.into_iter().flat_map(|phase| [(phase, 5, false), (phase, 0, true)]) {
        let (mut worker, request) = (filled(), post(1, "a.test"));
        request.progress.phase.set(phase);
        let expected = if phase == Phase::Passed { Step::Continue } else { Step::Wait };
        assert_eq!(body(&mut worker, &request, size, end), (phase == Phase::Dropping, expected), "{phase:?}");
    }
}
