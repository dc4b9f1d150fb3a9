//! A server's early response: git's server sends its 200 as soon as its receive-pack runs, before it has the whole pack.
//! The response waits for the push filter's verdict, and continues beside the last part of the request.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../../../filters/push/tests/support/pack.rs"]
#[allow(dead_code, reason = "the tests of pushes need all of it")]
mod pack;

#[path = "support/mod.rs"]
mod support;

use envoy_stand_in::{Call, Envoy, Reply, StreamId};
use support::{PUSH_TYPE, body_of_a_push, config, push_request, report};

/// The bytes at the end of a pack: its hash.
const TRAILER: usize = 20;

/// How a request ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// With the last bytes of the body.
    WithBytes,
    /// By an empty part after them, like the last chunk of HTTP/1.1.
    Alone,
    /// By trailers, as HTTP/2 has them.
    Trailers,
}

fn server(envoy: &mut Envoy, id: StreamId) {
    envoy.upstream_headers(id, 200, &[("content-type", "application/x-git-receive-pack-result")], false);
}

/// All but the last `rest` bytes of a push, the server's 200, and then the rest.
fn early_answer(rest: usize, end: End, length: bool) {
    let body = body_of_a_push();
    let mut envoy = Envoy::start(config(), support::github);
    let request = push_request();
    let request = if length {
        request.with("content-length", &body.len().to_string())
    } else {
        request.with("transfer-encoding", "chunked")
    };
    let case = format!("{rest} bytes late, end {end:?}, content-length {length}");
    let id = envoy.open(request);
    let (first, last) = body.split_at(body.len() - rest);
    let all_at_once = rest == 0 && matches!(end, End::WithBytes);
    envoy.client_sends(id, first, all_at_once);
    server(&mut envoy, id);
    match end {
        End::WithBytes if rest > 0 => envoy.client_sends(id, last, true),
        End::WithBytes => {}
        End::Alone => {
            if rest > 0 {
                envoy.client_sends(id, last, false);
            }
            envoy.client_sends(id, &[], true);
        }
        End::Trailers => {
            if rest > 0 {
                envoy.client_sends(id, last, false);
            }
            envoy.client_trailers(id, vec![("x-end".into(), b"1".to_vec())]);
        }
    }
    let upstream = envoy.upstream(id);
    if matches!(end, End::Trailers) {
        // A push has no trailers. The pack's own may have gone on unread before, and the refusal says so then.
        assert_eq!(envoy.rule(id), "push.malformed", "{case}");
        assert!(!upstream.ended && upstream.trailers.is_none() && upstream.reset, "{case}");
        let told = String::from_utf8_lossy(&envoy.client(id).body).into_owned();
        let landed = upstream.body.len() > body.len() - TRAILER;
        assert_eq!(told.contains("GitHub may have moved the refs"), landed, "{case}: {told}");
        return;
    }
    assert!(upstream.body == body && upstream.ended, "{case}: {} of {} bytes", upstream.body.len(), body.len());
    envoy.upstream_sends(id, &report(), true);
    let client = envoy.client(id);
    assert_eq!((client.status(), client.ended, client.reset), (200, true, false), "{case}: {client:?}");
    assert_eq!(client.body, report(), "{case}");
    assert_eq!(envoy.rule(id), "push.allowed", "{case}");
    assert!(envoy.lines(4).is_empty(), "{case}: {:?}", envoy.lines(4));
    assert_eq!(client.header("content-type").as_deref(), Some(PUSH_TYPE));
}

#[test]
fn an_answer_before_the_last_bytes_ends_no_worker() {
    for rest in 0..=TRAILER + 1 {
        for end in [End::WithBytes, End::Alone] {
            for length in [false, true] {
                early_answer(rest, end, length);
            }
        }
        early_answer(rest, End::Trailers, false);
    }
}

#[test]
fn an_answer_that_is_over_before_the_push_is_no_success() {
    let body = body_of_a_push();
    // A push that is not proved yet. The end of a proved one may be with the server already.
    let unanswered = |call: &Call| match call {
        Call::ReadRefs(_) => Reply::Later,
        call => support::github(call),
    };
    // Without a rest all of it has come, and its end waits for the answer.
    for rest in 0..=TRAILER + 1 {
        let mut envoy = Envoy::start(config(), unanswered);
        let id = envoy.open(push_request());
        envoy.client_sends(id, &body[..body.len() - rest.max(1)], false);
        if rest == 0 {
            envoy.client_sends(id, &body[body.len() - 1..], true);
        }
        server(&mut envoy, id);
        envoy.upstream_sends(id, &report(), true);
        let (client, upstream) = (envoy.client(id), envoy.upstream(id));
        assert_eq!(envoy.rule(id), "push.unfinished", "{rest}: {client:?}");
        let told = String::from_utf8_lossy(&client.body).into_owned();
        assert!(!told.contains("ok refs/") && told.contains("push.unfinished"), "{rest}: {told}");
        assert!(!upstream.ended && upstream.reset && envoy.over(id), "{rest} bytes late: {client:?}");
    }
}
