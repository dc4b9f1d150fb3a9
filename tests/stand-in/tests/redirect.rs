//! Redirects of GitHub's through the whole chain, natively: the URL of an answer passes for the container that got it, and
//! no other URL of these hosts does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../../../filters/push/tests/support/pack.rs"]
#[allow(dead_code, reason = "the tests of pushes need all of it")]
mod pack;

#[path = "support/mod.rs"]
mod support;

use envoy_stand_in::{Call, Config, Credential, Envoy, Reply, Request};
use policy::{Access, Container, HostPattern};
use registry_proto::{Container as Upsert, LookupResponse, WatchResponse};
use std::time::Duration;

const STORE: &str = "productionresultssa7.blob.core.windows.net";
const ASSETS: &str = "release-assets.githubusercontent.com";
const LOGS: &str = "/repos/acme/app/actions/runs/1/logs";
const SIGNED: &str = "/logs/1.zip?se=2026-12-01T03%3A41%3A00Z&sig=a%2Bb%3D";
const OTHER: &str = "172.18.0.6";

fn config() -> Config {
    let other = Container { container_ip: OTHER.parse().unwrap(), generation: 2, ..support::container() };
    let mut config = support::config();
    config.containers.push(other);
    // A list that has the host opens it no further.
    config.policy.egress.add(HostPattern::parse(ASSETS).unwrap(), Access::FULL);
    config
}

fn start() -> Envoy {
    Envoy::start(config(), |call: &Call| match call {
        Call::Lookup(_) => Reply::Lookup(LookupResponse { version: 1, record: None }),
        other => support::github(other),
    })
}

/// The location that the client gets, if the API answers `status` with `headers`.
fn located(envoy: &mut Envoy, status: u16, headers: &[(&str, &str)]) -> Option<String> {
    let id = envoy.open(Request::new("GET", "api.github.com", LOGS).whole());
    envoy.upstream_headers(id, status, headers, true);
    envoy.client(id).header("location")
}

/// The path of the redirect to `host`, as the client gets it.
fn given(envoy: &mut Envoy, host: &str) -> String {
    let location = located(envoy, 302, &[("location", &format!("https://{host}{SIGNED}"))]).unwrap();
    location.strip_prefix(&format!("https://{host}")).unwrap().to_owned()
}

/// The rule of the request, and the path that has arrived.
fn sent(envoy: &mut Envoy, request: Request) -> (String, Option<String>) {
    let id = envoy.open(request);
    (envoy.rule(id), envoy.upstream(id).header(":path"))
}

fn get(host: &str, path: &str) -> Request {
    Request::new("GET", host, path).whole()
}

#[test]
fn the_url_of_an_answer_passes_for_the_container_that_got_it() {
    for host in [STORE, ASSETS] {
        let mut envoy = start();
        let path = given(&mut envoy, host);
        let passed = ("egress.signed".to_owned(), Some(SIGNED.to_owned()));
        // As often as the client likes, also for a part.
        assert_eq!(sent(&mut envoy, get(host, &path)), passed);
        assert_eq!(sent(&mut envoy, get(host, &path).with("range", "bytes=1-")), passed);
        let refused = ("egress.signed".to_owned(), None);
        let elsewhere = Request { source: format!("{OTHER}:40000"), ..get(host, &path) };
        assert_eq!(sent(&mut envoy, elsewhere), refused, "another container");
        assert_eq!(sent(&mut envoy, Request::new("PUT", host, &path).whole()), refused);
        assert_eq!(sent(&mut envoy, get(host, &path.replace("1.zip", "2.zip"))), refused);
        assert_eq!(sent(&mut envoy, get(host, &path).with("upgrade", "websocket")), refused);
        let bare = if host == STORE { "egress.host" } else { "github.host" };
        assert_eq!(sent(&mut envoy, get(host, SIGNED)), (bare.to_owned(), None));
        envoy.tick_after(Duration::from_secs(3600));
        assert_eq!(sent(&mut envoy, get(host, &path)), refused, "expired");
    }
}

#[test]
fn a_new_record_of_the_address_makes_the_url_invalid() {
    let mut envoy = start();
    let path = given(&mut envoy, STORE);
    let record = Container { generation: 3, ..support::container() };
    let upsert = Upsert {
        address: registry_proto::address_bytes(record.container_ip),
        record: serde_json::to_vec(&record).unwrap(),
    };
    envoy.registry(&WatchResponse { version: 3, upserts: vec![upsert], ..WatchResponse::default() });
    assert_eq!(sent(&mut envoy, get(STORE, &path)), ("egress.signed".to_owned(), None));
    let again = given(&mut envoy, STORE);
    assert_eq!(sent(&mut envoy, get(STORE, &again)).1.as_deref(), Some(SIGNED));
}

#[test]
fn no_credential_goes_with_it() {
    let mut envoy = start();
    let path = given(&mut envoy, STORE);
    let id = envoy.open(get(STORE, &path).with("authorization", "Bearer mine").with("cookie", "a=b"));
    for name in ["authorization", "cookie"] {
        assert_eq!(envoy.upstream(id).header(name), None, "{name}");
    }
    // Of the gateway's own neither: the request has no mark.
    envoy.credentials(|_| {
        let (name, place) = ("authorization".into(), "header authorization 7 0".into());
        Credential::Put { name, value: b"Bearer s3cret".to_vec(), place, guard: Some("off".into()) }
    });
    let id = envoy.open(get(STORE, &path));
    assert_eq!(envoy.client(id).header("x-sallyport-rule").as_deref(), Some("credentials.stage"));
    assert_eq!(envoy.upstream(id).header("authorization"), None);
}

#[test]
fn other_answers_stay_as_they_are() {
    let mut envoy = start();
    let to = format!("https://{STORE}{SIGNED}");
    for (status, headers) in [
        (200, vec![("location", to.as_str())]),
        (302, vec![("location", "https://example.com/")]),
        (302, vec![("location", "https://productionresultssa7.blob.core.windows.net:8443/")]),
        (302, vec![("location", "http://productionresultssa7.blob.core.windows.net/")]),
    ] {
        assert_eq!(located(&mut envoy, status, &headers).as_deref(), Some(headers[0].1));
    }
    let location = ("location", to.as_str());
    assert_eq!(located(&mut envoy, 302, &[location, location]).as_deref(), Some(to.as_str()), "two locations");
    // The store itself sends nobody on.
    let path = given(&mut envoy, STORE);
    let id = envoy.open(get(STORE, &path));
    envoy.upstream_headers(id, 302, &[location], true);
    assert_eq!(envoy.client(id).header("location").as_deref(), Some(to.as_str()));
    // Nor does a host of the policy that is not GitHub's.
    let id = envoy.open(get("files.example", "/"));
    envoy.upstream_headers(id, 302, &[location], true);
    assert_eq!(envoy.client(id).header("location").as_deref(), Some(to.as_str()));
}
