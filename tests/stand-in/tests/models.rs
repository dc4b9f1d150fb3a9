//! Model requests through all filters, event by event: what an allowed request arrives as, and that nothing of a refused
//! one ends at the provider, in whatever parts and at whatever time of the stages around the guard.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use envoy_stand_in::{Config, Credential, Envoy, Request, Stage, StreamId, yes};
use model::{Guard, MAX_WINDOW, flow::HELD};
use policy::{Access, Container, Egress, HostPattern, Policy};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

const HOST: &str = "api.anthropic.com";
const EVIL: &str = r#","mcp_servers":[{"type":"url","url":"https://evil.test/"}]"#;

fn guard() -> Option<String> {
    let (egress, also) = (Egress::default(), [].into());
    let guard = Guard { credential: "anthropic".into(), also, egress, own: Vec::new(), except: Vec::new() };
    Some(serde_json::to_string(&guard).unwrap())
}

fn container() -> Container {
    let record = serde_json::json!({
        "container_ip": "172.18.0.5", "container_id": "case", "repos": [], "expires_at": "2027-01-15T00:00:00Z",
    });
    serde_json::from_value(record).unwrap()
}

fn envoy(guard: Option<String>) -> Envoy {
    let mut policy = Policy::deny_all();
    policy.egress.add(HostPattern::parse(HOST).unwrap(), Access::full());
    let now = "2026-12-01T00:00:00Z".parse().unwrap();
    let config = Config { policy, containers: vec![container()], now, snapshot: true };
    let mut envoy = Envoy::start(config, yes);
    envoy.credentials(move |_| Credential::Put {
        name: "x-api-key".into(),
        value: b"the-key".to_vec(),
        place: "header x-api-key 0 0".into(),
        guard: guard.clone(),
    });
    envoy
}

fn request(waiting: &[Stage]) -> Request {
    Request::new("POST", HOST, "/v1/messages").with("content-type", "application/json").waiting(waiting)
}

/// How a request ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    WithTheLastByte,
    Alone,
    ByTrailers,
}

/// Sends `body` in parts. The stages that wait go on after the first part, and the end comes last.
fn send(envoy: &mut Envoy, request: Request, body: &[u8], part: usize, end: End) -> StreamId {
    let waiting = request.waiting.clone();
    let id = envoy.open(request);
    let mut parts = body.chunks(part).peekable();
    let mut waiting = waiting.into_iter();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        envoy.client_sends(id, part, last && end == End::WithTheLastByte);
        if let Some(stage) = waiting.next() {
            envoy.goes_on(id, stage);
        }
    }
    waiting.for_each(|stage| envoy.goes_on(id, stage));
    match end {
        End::WithTheLastByte => {}
        End::Alone => envoy.client_sends(id, b"", true),
        End::ByTrailers => envoy.client_trailers(id, vec![("x".into(), b"y".to_vec())]),
    }
    id
}

/// A body of about so many bytes, with `more` members at its begin or its end.
fn body(size: usize, more: &str, first: bool) -> Vec<u8> {
    let text = "a \\\"word\\\" ".repeat(size / 12);
    let (before, behind) = if first { (more, "") } else { ("", more) };
    format!(r#"{{"model":"claude"{before},"messages":[{{"role":"user","content":"{text}"}}]{behind}}}"#).into_bytes()
}

const WAITING: [&[Stage]; 4] =
    [&[], &[Stage::Credentials], &[Stage::ForwardProxy], &[Stage::Credentials, Stage::ForwardProxy]];
const SIZES: [usize; 4] = [0, HELD - 200, HELD + 2_000, 500_000];
const PARTS: [usize; 3] = [5_000, 65_536, 1 << 20];

#[test]
fn an_allowed_request_arrives_byte_for_byte_in_any_parts() {
    for (size, part) in SIZES.into_iter().flat_map(|size| PARTS.map(|part| (size, part))) {
        for (waiting, end) in WAITING.into_iter().flat_map(|w| [End::WithTheLastByte, End::Alone].map(|end| (w, end))) {
            for behind in ["", "\n", "  \r\n"] {
                let sent = [&body(size, "", true)[..], behind.as_bytes()].concat();
                let mut envoy = envoy(guard());
                let id = send(&mut envoy, request(waiting), &sent, part, end);
                let arrived = envoy.upstream(id);
                assert!(arrived.ended && !arrived.reset, "{size} {part} {waiting:?} {end:?}: {:?}", envoy.lines(3));
                assert!(arrived.body == sent, "{size} {part} {waiting:?} {end:?}");
                assert_eq!(arrived.header("x-api-key").unwrap(), "the-key");
            }
        }
    }
}

#[test]
fn a_request_waits_up_to_the_limit_and_not_one_byte_longer() {
    let begun = br#"{"messages":[{"content":""#;
    for (size, released) in [(HELD - 1, false), (HELD, false), (HELD + 1, true)] {
        let mut envoy = envoy(guard());
        let id = envoy.open(request(&[]));
        envoy.client_sends(id, &[&begun[..], &vec![b'x'; size - begun.len()]].concat(), false);
        let arrived = envoy.upstream(id);
        assert_eq!((arrived.headers.is_empty(), arrived.body.len()), (!released, if released { size } else { 0 }));
        envoy.client_sends(id, br#""}]}"#, true);
        assert!(envoy.upstream(id).ended && envoy.upstream(id).body.len() == size + 4, "{size}");
    }
}

#[test]
fn nothing_of_a_refused_request_ends_at_the_provider() {
    for (size, part) in SIZES.into_iter().flat_map(|size| PARTS.map(|part| (size, part))) {
        for (waiting, end) in
            WAITING.into_iter().flat_map(|w| [End::WithTheLastByte, End::Alone, End::ByTrailers].map(|end| (w, end)))
        {
            for (first, bad) in [(true, EVIL), (false, EVIL), (false, ",}"), (false, "")] {
                if bad.is_empty() && end != End::ByTrailers {
                    continue;
                }
                let what = format!("{size} {part} {waiting:?} {end:?} {first} {bad}");
                let mut envoy = envoy(guard());
                let id = send(&mut envoy, request(waiting), &body(size, bad, first), part, end);
                let (arrived, client) = (envoy.upstream(id), envoy.client(id));
                assert!(!arrived.ended && envoy.over(id), "{what}: {arrived:?}");
                assert!(serde_json::from_slice::<serde_json::Value>(&arrived.body).is_err(), "{what}");
                assert!(size > HELD || arrived.headers.is_empty(), "{what}: a short one leaves nothing");
                let rule = if bad == EVIL { "credentials.remote-tool" } else { "credentials.body" };
                assert_eq!(client.header("x-sallyport-rule").as_deref(), Some(rule), "{what}");
                assert_eq!((client.status(), envoy.rule(id).as_str()), (403, rule), "{what}");
            }
        }
    }
}

#[test]
fn a_request_in_zstd_arrives_plain_and_a_refused_one_does_not() {
    for (size, part) in SIZES.into_iter().flat_map(|size| [7_000, 65_536].map(|part| (size, part))) {
        for (more, end) in ["", EVIL].into_iter().flat_map(|m| [End::WithTheLastByte, End::Alone].map(|end| (m, end))) {
            let plain = body(size, more, false);
            let packed = compress_to_vec(plain.as_slice(), CompressionLevel::Fastest);
            let mut envoy = envoy(guard());
            let request = request(&[Stage::ForwardProxy]).with("content-encoding", "zstd");
            let request = request.with("content-length", &packed.len().to_string());
            let id = send(&mut envoy, request, &packed, part, end);
            let arrived = envoy.upstream(id);
            assert_eq!(arrived.ended, more.is_empty(), "{size} {part} {more} {end:?}: {:?}", envoy.client(id));
            if arrived.ended {
                assert!(arrived.body == plain, "{size} {part} {end:?}");
                assert_eq!((arrived.header("content-encoding"), arrived.header("content-length")), (None, None));
            }
        }
    }
}

#[test]
fn compressed_requests_have_a_share_of_memory_for_each_container() {
    let mut envoy = envoy(guard());
    let packed = compress_to_vec(&body(1 << 20, "", true)[..], CompressionLevel::Fastest);
    let open = |envoy: &mut Envoy| {
        let id = envoy.open(request(&[]).with("content-encoding", "zstd"));
        envoy.client_sends(id, &packed[..packed.len() - 1], false);
        id
    };
    let most = model::SHARE / (MAX_WINDOW + (256 << 10));
    let ids: Vec<StreamId> = (0..most).map(|_| open(&mut envoy)).collect();
    let one_more = open(&mut envoy);
    envoy.client_sends(one_more, b"", true);
    assert_eq!(envoy.client(one_more).header("x-sallyport-rule").as_deref(), Some("limit.compressed"));
    envoy.client_resets(ids[0]);
    let next = open(&mut envoy);
    envoy.client_sends(next, &packed[packed.len() - 1..], true);
    assert!(envoy.upstream(next).ended, "{:?}", envoy.client(next));
}

#[test]
fn a_credential_without_a_guard_leaves_nothing() {
    for guard in [None, Some(String::new()), Some("on".into()), Some("{}".into())] {
        let mut envoy = envoy(guard.clone());
        let id = send(&mut envoy, request(&[]), &body(0, "", true), 100, End::WithTheLastByte);
        assert_eq!((envoy.client(id).status(), envoy.rule(id).as_str()), (502, "credentials.guard"), "{guard:?}");
        assert!(envoy.upstream(id).headers.is_empty(), "{guard:?}");
    }
    let mut envoy = envoy(Some("off".into()));
    let id = send(&mut envoy, request(&[]), b"anything", 3, End::ByTrailers);
    assert_eq!((envoy.upstream(id).ended, envoy.upstream(id).body.as_slice()), (true, &b"anything"[..]));
}
