//! Refusals that a file of tests/corpus/chain cannot express: bytes that are no request, handshakes, a record that
//! expires, a registry. The response and the audit line have the same rule, and no traffic leaves the gateway.

use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use test_support::client::tunnel_to;
use test_support::gateway::{Builder, NO_CREDENTIAL_BUT_GITHUB, policy};
use test_support::internet::{NameServer, Trap, hosts_file};
use test_support::process::{Signal, stopped};
use test_support::raw::{self, Greeting, greet};
use test_support::scripted::{Play, Scripted};
use test_support::upstream::HOSTS;
use test_support::ways::{Asked, Outcome, REQUESTS, Way};
use test_support::{Answer, Gateway, Sandbox, Upstream, eventually};
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinSet;

/// An allowed host with a pinned upstream.
const PLAIN: &str = "files.example.net";
/// The beginning of the names that test the watch itself.
const SEEN: &str = "seen";

/// The timeout for audit lines.
const AUDIT: Duration = Duration::from_secs(10);

/// A gateway and the watch over all traffic that leaves it: to the upstream, to every port 443 and 80 of its own
/// machine, and to DNS.
struct Watched {
    upstream: Upstream,
    nameserver: NameServer,
    trap: Trap,
    gateway: Gateway,
    sandbox: Sandbox,
    first: Ipv4Addr,
    next: AtomicU32,
    turn: Mutex<()>,
}

fn watched() -> &'static Watched {
    static WATCHED: OnceLock<Watched> = OnceLock::new();
    WATCHED.get_or_init(|| {
        let upstream = Upstream::start();
        hosts_file("127.0.0.1 localhost intranet\n127.0.0.1 hosts.example.org\n::1 localhost hosts.example.org\n");
        let nameserver = NameServer::start(&[]);
        let gateway = asking(&upstream, &nameserver).build();
        gateway.up();
        let sandbox = Sandbox::start().behind(&gateway);
        let first = sandbox.widen();
        let trap = Trap::set();
        Watched { upstream, nameserver, trap, gateway, sandbox, first, next: AtomicU32::new(1), turn: Mutex::new(()) }
    })
}

/// A gateway that allows all hosts below example.com, and resolves them with `nameserver`.
fn asking(upstream: &Upstream, nameserver: &NameServer) -> Builder {
    let allowed: Vec<&str> = HOSTS.into_iter().chain(["\"*.example.com\""]).collect();
    let names = format!("nameservers: ['{}']\n", nameserver.address);
    Gateway::with(&policy(&allowed)).settings(NO_CREDENTIAL_BUT_GITHUB).settings(&names).upstream(upstream)
}

/// A new name of an allowed host that only DNS resolves. No cache has the name. So if the gateway resolved the name
/// before it refused the request, the watch would see the DNS query.
fn fresh(begin: &str) -> &'static str {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{begin}{}.example.com", NEXT.fetch_add(1, Ordering::Relaxed)).leak()
}

/// The traffic that has left the gateway: connections to the upstream and to its own machine, DNS queries.
type Left = (u64, u64, usize);

impl Watched {
    fn left(&self) -> Left {
        // Envoy itself repeats the query for a name that it has resolved once, so names of the watch don't count.
        let questions = self.nameserver.asked().into_iter().filter(|asked| !asked.name.starts_with(SEEN)).count();
        (self.upstream.connections(), self.trap.caught(), questions)
    }

    /// An unused address.
    fn stranger(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.to_bits() + self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// An unused address, registered without repositories. For a repository, the gateway itself would call GitHub.
    fn known(&self) -> Ipv4Addr {
        let address = self.stranger();
        self.gateway.register(address, &[]);
        address
    }

    /// Asserts that nothing has left since `before`. Then asserts that the watch sees allowed traffic: a request to the
    /// upstream and a DNS query.
    async fn assert_watches(&self, before: Left, _turn: MutexGuard<'_, ()>) {
        assert_eq!(self.left(), before, "something has left the gateway");
        let (known, seen) = (self.known(), fresh(SEEN));
        for (host, status) in [(PLAIN, 200), (seen, 503)] {
            let asked = Asked { method: "GET", authority: host.as_bytes(), path: "/watched", tunnel: host };
            let Outcome::Answered(answer) = Way::TlsTwo.ask(&self.sandbox, known, asked).await.unwrap() else {
                panic!("{host} does not answer");
            };
            assert_eq!(answer.status, status, "{host}: {answer:?}");
        }
        assert!(!self.upstream.requests_with("/watched").is_empty() && !self.nameserver.asked_for(seen).is_empty());
    }
}

/// Asserts that `answer` is a refusal with its rule in header and body, and that `line` is its audit line.
#[track_caller]
fn assert_told(what: &str, answer: &Answer, line: &Value) {
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{what} is no refusal: {answer:?}"));
    let rule = answer.rule.as_deref().unwrap_or_else(|| panic!("{what} names no rule: {answer:?}"));
    assert_eq!(body["rule"], rule, "{what}: {answer:?}");
    assert!(body["error"].as_str().is_some_and(|error| !error.is_empty()), "{what}: {answer:?}");
    let said = (&line["verdict"], &line["rule"], &line["stage"], &line["status"]);
    assert_eq!(said, (&json!("deny"), &json!(rule), &body["stage"], &json!(answer.status)), "{what}: {line}");
    // A request that Envoy's codec refuses has no id yet.
    if body["request_id"] != "-" {
        assert_eq!(line["request_id"], body["request_id"], "{what}: {line}");
    }
}

/// A registry is read-only: a request that could publish something, or carry data out in its body, does not arrive.
#[tokio::test]
async fn a_registry_is_read_and_nothing_is_sent_to_it() {
    let registry = Scripted::start(&["pypi.org"], |_| Play::whole(200, "text/plain", "read"));
    let settings = format!("{NO_CREDENTIAL_BUT_GITHUB}upstreams:\n{}", registry.pins());
    let gateway = Gateway::with(&policy(&["pypi"])).settings(&settings).up();
    let sandbox = Sandbox::start().behind(&gateway);
    gateway.register(sandbox.address, &[]);
    let mut read = Vec::new();
    for way in REQUESTS {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let what = format!("{way:?} {method}");
            let path = format!("/simple/{way:?}/{method}");
            let asked = Asked { method, authority: b"pypi.org", path: &path, tunnel: "pypi.org" };
            let outcome = way.ask(&sandbox, sandbox.address, asked).await.unwrap();
            let Outcome::Answered(answer) = outcome else { panic!("{what}: {outcome:?}") };
            if matches!(method, "GET" | "HEAD") {
                assert_eq!((answer.status, answer.rule.as_deref()), (200, None), "{what}: {answer:?}");
                read.push((method.to_owned(), path));
            } else {
                assert_eq!((answer.status, answer.rule.as_deref()), (403, Some("egress.method")), "{what}");
                assert_told(&what, &answer, &gateway.audit_line(&what, |line| line["path"] == path.as_str()));
            }
        }
    }
    let arrived: Vec<_> = registry.asked().into_iter().map(|asked| (asked.head.method, asked.head.path)).collect();
    assert_eq!(arrived, read);
}

#[track_caller]
fn assert_told_by(source: Ipv4Addr, rule: &str, answer: &Answer) {
    let from = source.to_string();
    let line = watched().gateway.audit_line(rule, |line| line["container_ip"] == from.as_str());
    assert_told(rule, answer, &line);
    assert_eq!(answer.rule.as_deref(), Some(rule), "{answer:?}");
}

/// The first bytes of protocols that the gateway does not support.
const OTHER_PROTOCOLS: [&[u8]; 6] = [
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"EHLO mail.example.com\r\n",
    b"USER anonymous\r\n\r\n",
    b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
    b"*1\r\n$4\r\nPING\r\n",
    b"GET files.example.net\n\n",
];

#[tokio::test]
async fn bytes_that_are_neither_tls_nor_http_reach_nobody() {
    let watched = watched();
    let turn = watched.turn.lock().await;
    let before = watched.left();
    for opening in OTHER_PROTOCOLS {
        for port in [443, 80] {
            let known = watched.known();
            let what = format!("{} to port {port}", opening.escape_ascii());
            let target = format!("{}:{port}", fresh("opening"));
            let mut tunnel = tunnel_to(&watched.sandbox, known, &target).await.unwrap();
            let answer = raw::ask(&mut tunnel, opening).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_told_by(known, "request.malformed", &answer);
            assert_eq!(answer.status, 400, "{what}: {answer:?}");
        }
    }
    watched.assert_watches(before, turn).await;
}

#[tokio::test]
async fn a_handshake_for_what_is_no_plain_name_fails() {
    let watched = watched();
    let turn = watched.turn.lock().await;
    let before = watched.left();
    let mut greetings = JoinSet::new();
    for name in ["localhost", "a.localhost", "intranet", "127.0.0.1", "2130706433", "::1", "[::1]", "a..b.example", "."]
    {
        let known = watched.known();
        greetings.spawn(async move {
            let host = fresh("greeted");
            let greeting = greet(&watched.sandbox, known, host, name.as_bytes(), Duration::from_secs(10)).await;
            (name, known, greeting)
        });
    }
    for (name, known, greeting) in greetings.join_all().await {
        assert_eq!(greeting.unwrap(), Greeting::Failed, "{name}");
        let from = known.to_string();
        let line = watched.gateway.audit_line(name, |line| line["container_ip"] == from.as_str());
        assert_eq!((&line["verdict"], &line["rule"]), (&json!("deny"), &json!("listener.handshake")), "{name}: {line}");
    }
    watched.assert_watches(before, turn).await;
}

#[tokio::test]
async fn an_expired_record_is_told_so_in_every_form() {
    let upstream = Upstream::start();
    let nameserver = NameServer::start(&[]);
    // With one worker, no other worker can lack the record or a leaf.
    let gateway = asking(&upstream, &nameserver).workers(1).build();
    gateway.up();
    let sandbox = Sandbox::start().behind(&gateway);
    gateway.register(sandbox.address, &[]);
    let ask = async |way: Way, host: &str, path: &str| {
        let asked = Asked { method: "GET", authority: host.as_bytes(), path, tunnel: host };
        match way.ask(&sandbox, sandbox.address, asked).await.unwrap() {
            Outcome::Answered(answer) => answer,
            other => panic!("{way:?}: {other:?}"),
        }
    };
    let hosts = REQUESTS.map(|_| fresh("expired"));
    for (way, host) in REQUESTS.into_iter().zip(hosts) {
        assert_eq!(ask(way, PLAIN, "/brief/before").await.status, 200, "{way:?}");
        // Issues the leaf now: a stopped control plane issues none.
        let greeting = greet(&sandbox, sandbox.address, host, host.as_bytes(), AUDIT).await.unwrap();
        assert!(greeting.names(host), "{greeting:?}");
    }
    assert_eq!(upstream.requests_with("/brief/before").len(), REQUESTS.len());
    let expires_at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2);
    let place = format!("/internal/containers/{}", sandbox.address);
    let (status, body) = gateway.call("PATCH", &place, Some(&json!({"expires_at": expires_at})));
    assert_eq!(status, 200, "{body}");
    // A stopped control plane does not remove the expired record, so Envoy judges the record by its own clock.
    gateway.signal(Signal::STOP);
    eventually("the control plane is stopped", AUDIT, || stopped(gateway.pid()).then_some(()));
    eventually("the record has expired", AUDIT, || (jiff::Timestamp::now() > expires_at).then_some(()));
    let answers: Vec<Answer> = {
        let mut answers = Vec::new();
        for (way, host) in REQUESTS.into_iter().zip(hosts) {
            answers.push(ask(way, host, &format!("/brief/after/{way:?}")).await);
        }
        answers
    };
    gateway.signal(Signal::CONT);
    for (way, answer) in REQUESTS.into_iter().zip(answers) {
        assert_eq!((answer.status, answer.rule.as_deref()), (403, Some("identity.expired")), "{way:?}: {answer:?}");
        let path = format!("/brief/after/{way:?}");
        assert_told(&path, &answer, &gateway.audit_line(&path, |line| line["path"] == path.as_str()));
    }
    assert!(upstream.requests_with("/brief/after").is_empty());
    // A DNS query that had waited for the control plane would arrive before the query for this name.
    gateway.register(sandbox.address, &[]);
    let seen = fresh(SEEN);
    assert_eq!(ask(Way::TlsTwo, seen, "/brief/seen").await.rule.as_deref(), Some("upstream.dns"));
    assert!(nameserver.asked().iter().all(|asked| asked.name == seen), "{:?}", nameserver.asked());
    assert!(!nameserver.asked_for(seen).is_empty());
}
