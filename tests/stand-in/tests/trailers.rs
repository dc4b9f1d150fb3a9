//! Trailers of requests: to GitHub none arrive, and to other hosts none that would mislead as headers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../../../filters/push/tests/support/pack.rs"]
#[allow(dead_code, reason = "the tests of pushes need all of it")]
mod pack;

#[path = "support/mod.rs"]
mod support;

use envoy_stand_in::{Call, Config, Credential, Envoy, Headers, Reply, Request};

fn trailers(names: &[&str]) -> Headers {
    names.iter().map(|name| ((*name).to_owned(), b"1".to_vec())).collect()
}

fn credential() -> Credential {
    let (name, place) = ("authorization".into(), "header authorization 7 0".into());
    Credential::Put { name, value: b"Bearer s3cret".to_vec(), place, guard: Some("off".into()) }
}

#[test]
fn a_request_to_github_with_trailers_never_ends_there() {
    let fetch = Request::new("POST", "github.com", "/acme/app.git/git-upload-pack");
    let refs = Request::new("GET", "github.com", "/acme/app.git/info/refs?service=git-upload-pack");
    let locks = Request::new("GET", "github.com", "/acme/app.git/info/lfs/locks");
    let issue = Request::new("POST", "api.github.com", "/repos/acme/app/issues");
    for (request, body) in [(fetch, &b"0000"[..]), (refs, b""), (locks, b""), (issue, b"{\"title\":\"a\"}")] {
        for answered in [false, true] {
            let mut envoy = Envoy::start(support::config(), support::github);
            envoy.credentials(|_| credential());
            let id = envoy.open(request.clone());
            envoy.client_sends(id, body, false);
            let begun = !envoy.upstream(id).headers.is_empty();
            if answered && begun {
                envoy.upstream_headers(id, 200, &[], false);
            }
            envoy.client_trailers(id, trailers(&["authorization", "x-checksum"]));
            let (arrived, client) = (envoy.upstream(id), envoy.client(id));
            let case = format!("{:?} answered: {answered}: {arrived:?} {client:?}", request.headers);
            assert!(!arrived.ended && arrived.trailers.is_none() && arrived.reset == begun, "{case}");
            assert_eq!(envoy.rule(id), "github.header", "{case}");
            if answered && begun {
                assert!(client.reset, "{case}");
            } else {
                let refused = (client.status(), client.header("x-sallyport-rule"));
                assert_eq!(refused, (403, Some("github.header".to_owned())), "{case}");
            }
        }
    }
}

#[test]
fn the_push_stage_refuses_the_trailers_of_a_push() {
    let mut envoy = Envoy::start(support::config(), support::github);
    let id = envoy.open(support::push_request());
    let body = support::body_of_a_push();
    envoy.client_sends(id, &body[..body.len() - 1], false);
    envoy.client_trailers(id, trailers(&["x-checksum"]));
    assert_eq!((envoy.rule(id).as_str(), envoy.upstream(id).ended), ("push.malformed", false));
}

#[test]
fn a_trailer_that_would_mislead_as_a_header_never_arrives() {
    let sent = ["x-checksum", "x-forwarded-for", "x-request-id", "grpc-status", "authorization", "x-sallyport-sealed"];
    // The trailers of a request that waits for the registry come before the request is judged.
    for held in [false, true] {
        let config = Config { snapshot: !held, ..support::config() };
        let mut envoy = Envoy::start(config, |call| match call {
            Call::Lookup(_) => Reply::Later,
            call => support::github(call),
        });
        let id = envoy.open(Request::new("POST", "files.example", "/upload"));
        envoy.client_sends(id, b"a body", false);
        assert_eq!(envoy.upstream(id).body.is_empty(), held);
        envoy.client_trailers(id, trailers(&sent));
        if held {
            assert!(envoy.upstream(id).headers.is_empty());
            let snapshot = envoy.snapshot();
            envoy.registry(&snapshot);
        }
        let arrived = envoy.upstream(id);
        assert!(arrived.ended && arrived.body == b"a body", "held: {held}: {arrived:?}");
        assert_eq!(arrived.trailers, Some(trailers(&["x-checksum", "grpc-status"])), "held: {held}");
    }
}
