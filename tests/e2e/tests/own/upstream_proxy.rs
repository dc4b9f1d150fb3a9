//! A company's proxy between the gateway and its upstreams: the only way out of the gateway's network.

use serde_json::json;
use std::path::{Path, PathBuf};
use test_support::company::CompanyProxy;
use test_support::gateway::{NO_CREDENTIAL_BUT_GITHUB, pin, policy};
use test_support::scripted::{Play, Scripted};
use test_support::upstream::{ADDRESS, Visibility, git};
use test_support::{Curled, Finished, Gateway, Sandbox, TOKEN, Upstream, scratch};

const REPO: &str = "acme/proxied";
/// A host at which the proxy leads to a server with another host's certificate, of a trusted CA.
const IMPOSTOR: &str = "impostor.example.org";
/// A host that the proxy does not know.
const UNKNOWN: &str = "unknown.example.org";
/// A host that the gateway reaches without the proxy.
const EXCEPTED: &str = "in.example.org";
/// A host with an address of its own.
const PINNED: &str = "second.example.com";

struct World {
    upstream: Upstream,
    bare: PathBuf,
    impostor: Scripted,
    proxy: CompanyProxy,
    gateway: Gateway,
    sandbox: Sandbox,
}

impl World {
    fn start() -> Self {
        let upstream = Upstream::start();
        let bare = upstream.create_repo(REPO, Visibility::Private);
        let impostor = Scripted::impostor("files.example.net", |_| Play::json(200, &json!({})));
        let names = ["github.com", "api.github.com", "files.example.net", EXCEPTED, PINNED];
        let names = names.map(|name| (name, upstream.address));
        let proxy = CompanyProxy::start(ADDRESS, &[&names[..], &[(IMPOSTOR, impostor.address)]].concat());
        let roots = scratch("roots").join("roots.pem");
        let trusted = [&upstream.ca, &impostor.ca].map(|ca| std::fs::read_to_string(ca).unwrap());
        std::fs::write(&roots, trusted.concat()).unwrap();
        let allowed = ["github.com", "api.github.com", "files.example.net", "'*.example.org'", PINNED];
        let settings = format!(
            "{NO_CREDENTIAL_BUT_GITHUB}upstream_proxy: {{url: 'http://{}', except: ['*.in.example.org', {EXCEPTED}]}}\n\
             upstream_roots: {}\nupstreams:\n{}",
            proxy.address,
            roots.display(),
            pin(PINNED, upstream.address, &upstream.ca),
        );
        let gateway = Gateway::with(&policy(&allowed)).settings(&settings).up();
        let sandbox = Sandbox::start().behind(&gateway);
        gateway.register(sandbox.address, &[REPO]);
        Self { upstream, bare, impostor, proxy, gateway, sandbox }
    }

    fn asked(&self, host: &str) -> usize {
        self.proxy.asked().iter().filter(|asked| **asked == format!("{host}:443")).count()
    }
}

#[test]
fn upstreams_are_reached_by_the_proxy_and_verified_within_its_tunnels() {
    let world = World::start();
    let sandbox = &world.sandbox;
    for http in ["--http1.1", "--http2"] {
        let url = format!("https://files.example.net/{http}");
        let answer = sandbox.curl(&[http, &url]);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let arrived = world.upstream.requests_with("files.example.net");
    assert_eq!(arrived.len(), 2);
    assert!(arrived.iter().all(|request| request.alpn == "h2" && request.sni == "files.example.net"), "{arrived:?}");
    // WebSockets have clusters of their own, which speak HTTP/1.1.
    let upgrade = ["-H", "Upgrade: websocket", "-H", "Connection: Upgrade", "--http1.1"];
    sandbox.curl(&[&upgrade[..], &["--max-time", "2", "https://files.example.net/upgrade"]].concat());
    let arrived = world.upstream.requests_with("files.example.net/upgrade");
    assert!(arrived.len() == 1 && arrived[0].alpn == "http/1.1", "{arrived:?}");
    assert!(world.asked("files.example.net") >= 2);

    let work = sandbox.home.join("work");
    sandbox.git(&sandbox.home, &["clone", &format!("https://github.com/{REPO}"), "work"]).success();
    std::fs::write(work.join("file"), "changed").unwrap();
    sandbox.git(&work, &["add", "."]).success();
    sandbox.git(&work, &["commit", "-m", "change"]).success();
    sandbox.git(&work, &["push", "origin", "HEAD:refs/heads/sandbox/change"]).success();
    let head = |directory: &Path, name: &str| git(directory, &["rev-parse", name]);
    assert_eq!(head(&world.bare, "sandbox/change"), head(&work, "HEAD"));
    assert!(world.asked("github.com") >= 1);
    // The gateway's own query for the push's refs, with its credential.
    let own = world.upstream.requests_with("api.github.com/graphql");
    let bearer = format!("Bearer {TOKEN}");
    assert!(own.iter().all(|request| request.header("authorization") == [bearer.as_bytes()]) && !own.is_empty());
    assert!(world.asked("api.github.com") >= 1);

    // The proxy leads to a server that is not this host.
    let impostor = sandbox.curl(&[&format!("https://{IMPOSTOR}/")]);
    assert_eq!((impostor.status, impostor.rule().as_deref()), (503, Some("upstream.certificate")), "{impostor:?}");
    assert!(world.impostor.asked().is_empty());
    assert!(world.asked(IMPOSTOR) >= 1);
}

#[test]
fn pinned_and_excepted_hosts_pass_the_proxy_by_and_refused_ones_never_reach_it() {
    let world = World::start();
    let pinned = world.sandbox.curl(&[&format!("https://{PINNED}/x")]);
    assert_eq!(pinned.status, 200, "{pinned:?}");
    // Nothing resolves names here, and only a name that the gateway itself must resolve fails for that.
    for host in [EXCEPTED.to_owned(), format!("deep.{EXCEPTED}")] {
        let excepted = world.sandbox.curl(&[&format!("https://{host}/x")]);
        assert_eq!((excepted.status, excepted.rule().as_deref()), (503, Some("upstream.dns")), "{host} {excepted:?}");
    }
    let refused = world.sandbox.curl(&["https://unlisted.example.com/x"]);
    assert_eq!(refused.rule().as_deref(), Some("egress.host"), "{refused:?}");
    assert_eq!(world.proxy.asked(), Vec::<String>::new());
}

/// Checks that the answer names the proxy.
#[track_caller]
fn assert_opens_no_way(answer: &Curled) {
    assert_eq!((answer.status, answer.rule().as_deref()), (503, Some("upstream.unreachable")), "{answer:?}");
    assert!(answer.body.contains("the operator's proxy opens no way to the upstream"), "{answer:?}");
}

#[test]
fn a_proxy_that_refuses_or_is_gone_is_told() {
    let world = World::start();
    let unknown = world.sandbox.curl(&[&format!("https://{UNKNOWN}/")]);
    assert_opens_no_way(&unknown);
    assert!(world.asked(UNKNOWN) >= 1);
    world.gateway.audit_line("the refused tunnel", |line| line["host"] == UNKNOWN && line["verdict"] == "deny");

    let gone = format!("upstream_proxy: {{url: 'http://{ADDRESS}:1'}}\n");
    let gateway = Gateway::with(&policy(&["files.example.net"])).settings(&gone).up();
    let sandbox = Sandbox::start().behind(&gateway);
    gateway.register(sandbox.address, &[]);
    let answer = sandbox.curl(&["https://files.example.net/"]);
    assert_opens_no_way(&answer);
    let doctor = Finished::of(&mut gateway.operator(&["doctor"]));
    assert!(
        doctor.stdout.contains(&format!("cannot be reached from here: upstream_proxy ({ADDRESS}:1:")),
        "{doctor:?}"
    );
}
