//! A container's identity is its peer address: no header of a client changes it.

use std::net::Ipv4Addr;
use std::sync::OnceLock;
use test_support::gateway::container_id;
use test_support::upstream::Visibility;
use test_support::{Curled, Rig, Sandbox};

/// Headers by which proxies report the origin of a request.
const HEADERS: [&str; 6] =
    ["X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Envoy-External-Address", "X-Client-IP", "True-Client-IP"];

/// Headers that Envoy itself sets or trusts, for the test with all headers together.
const ENVOY: [&str; 7] = [
    "X-Request-Id: forged-request-id",
    "X-Forwarded-Host: api.anthropic.com",
    "X-Forwarded-Proto: http",
    "X-Forwarded-Port: 22",
    "X-Envoy-Original-Path: /forged",
    "X-Envoy-Internal: true",
    "X-Envoy-Upstream-Alt-Stat-Name: forged",
];

/// The place of the headers.
#[derive(Clone, Copy, Debug)]
enum Way {
    OnConnect,
    InTunnelOverHttp1,
    InTunnelOverHttp2,
    InAbsoluteForm,
}

/// The containers of this file: `a` has acme/alpha, `b` has acme/bravo, the stranger is unregistered.
struct Actors {
    rig: Rig,
    a: Sandbox,
    b: Sandbox,
    stranger: Sandbox,
}

fn actors() -> &'static Actors {
    static ACTORS: OnceLock<Actors> = OnceLock::new();
    ACTORS.get_or_init(|| {
        let rig = Rig::start();
        rig.upstream.create_repo("acme/alpha", Visibility::Private);
        rig.upstream.create_repo("acme/bravo", Visibility::Private);
        let (a, b, stranger) = (rig.registered(&["acme/alpha"]), rig.registered(&["acme/bravo"]), rig.sandbox());
        Actors { rig, a, b, stranger }
    })
}

/// Each header alone, a list in X-Forwarded-For, all of them together.
fn forgeries(victim: Ipv4Addr) -> Vec<Vec<String>> {
    let header = |name: &&str| match *name {
        "Forwarded" => format!("Forwarded: for={victim};proto=https"),
        name => format!("{name}: {victim}"),
    };
    let mut sets: Vec<Vec<String>> = HEADERS.iter().map(|name| vec![header(name)]).collect();
    sets.push(vec![format!("X-Forwarded-For: {victim}, 127.0.0.1, {victim}")]);
    sets.push(vec![format!("X-Forwarded-For: {victim}"), format!("X-Forwarded-For: {victim}")]);
    sets.push(HEADERS.iter().map(header).chain(ENVOY.map(ToOwned::to_owned)).collect());
    sets
}

/// Requests `host/path` from `sandbox`, with `headers` in the place of `way`.
fn ask(sandbox: &Sandbox, way: Way, headers: &[String], host_and_path: &str) -> Curled {
    let flag = if matches!(way, Way::OnConnect) { "--proxy-header" } else { "-H" };
    let mut args: Vec<&str> = headers.iter().flat_map(|header| [flag, header.as_str()]).collect();
    args.extend(match way {
        Way::OnConnect | Way::InTunnelOverHttp1 => ["--http1.1"],
        Way::InTunnelOverHttp2 => ["--http2"],
        Way::InAbsoluteForm => ["--http1.1"],
    });
    let scheme = if matches!(way, Way::InAbsoluteForm) { "http" } else { "https" };
    let url = format!("{scheme}://{host_and_path}");
    args.push(&url);
    // No caller reads the bodies of git.
    sandbox.curl(&args)
}

fn headers_change_nothing(way: Way) {
    let Actors { rig, a, b, stranger } = actors();
    for (number, headers) in forgeries(a.address).iter().enumerate() {
        let told = format!("{way:?} {headers:?}");

        let refused = ask(stranger, way, headers, &format!("files.example.net/stranger/{way:?}/{number}"));
        assert_eq!((refused.status, refused.rule().as_deref()), (403, Some("identity.unknown")), "{told}: {refused:?}");

        let theirs = ask(b, way, headers, "github.com/acme/alpha.git/info/refs?service=git-upload-pack");
        assert_eq!((theirs.status, theirs.rule().as_deref()), (403, Some("github.repo")), "{told}: {theirs:?}");

        let own = ask(b, way, headers, "github.com/acme/bravo.git/info/refs?service=git-upload-pack");
        assert_eq!(own.status, 200, "{told}: {own:?}");

        let path = format!("/own/{way:?}/{number}");
        let plain = ask(b, way, headers, &format!("files.example.net{path}"));
        assert_eq!(plain.status, 200, "{told}: {plain:?}");
        let line = rig.gateway.audit_line(&told, |line| line["path"] == path.as_str());
        assert_eq!(line["container_ip"], b.address.to_string(), "{told}: {line}");
        assert_eq!(line["container_id"], container_id(b.address), "{told}: {line}");
        assert_ne!(line["request_id"], "forged-request-id", "{told}: {line}");
        let path = format!("/stranger/{way:?}/{number}");
        let line = rig.gateway.audit_line(&told, |line| line["path"] == path.as_str());
        assert_eq!(line["container_ip"], stranger.address.to_string(), "{told}: {line}");
    }
    assert!(rig.upstream.requests_with(&format!("/stranger/{way:?}/")).is_empty());
    assert!(rig.upstream.requests_with("acme/alpha").is_empty());
    let arrived = rig.upstream.requests_with(&format!("/own/{way:?}/"));
    assert!(!arrived.is_empty());
    for request in arrived.into_iter().chain(rig.upstream.requests_with("acme/bravo")) {
        for (name, value) in &request.headers {
            let forbidden = HEADERS.iter().any(|header| header.eq_ignore_ascii_case(name))
                || name.starts_with("x-forwarded")
                || name.starts_with("x-envoy")
                || name == "x-request-id";
            assert!(!forbidden, "{name} arrived upstream: {request:?}");
            let value = String::from_utf8_lossy(value);
            for address in [a.address, b.address] {
                assert!(!value.contains(&address.to_string()), "an address arrived upstream: {request:?}");
            }
        }
    }
}

#[test]
fn headers_on_the_connect_change_nothing() {
    headers_change_nothing(Way::OnConnect);
}

#[test]
fn headers_in_the_tunnel_over_http1_change_nothing() {
    headers_change_nothing(Way::InTunnelOverHttp1);
}

#[test]
fn headers_in_the_tunnel_over_http2_change_nothing() {
    headers_change_nothing(Way::InTunnelOverHttp2);
}

#[test]
fn headers_in_absolute_form_change_nothing() {
    headers_change_nothing(Way::InAbsoluteForm);
}
