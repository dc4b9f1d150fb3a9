//! Every refusal by what a request says or by who sends it, in each form that carries it: the answer with its rule, the
//! audit's line with the same, and nothing beyond the gateway, neither a connection nor a question for a name.

use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use test_support::client::{tls, tunnel_to};
use test_support::gateway::{Builder, NO_CREDENTIAL_BUT_GITHUB, policy};
use test_support::internet::{NameServer, Trap, hosts_file};
use test_support::process::{Signal, stopped};
use test_support::raw::{self, Greeting, greet};
use test_support::scripted::{Play, Scripted};
use test_support::upstream::HOSTS;
use test_support::ways::{ALL, Asked, Outcome, REQUESTS, Way};
use test_support::{Answer, Gateway, Http, Sandbox, Upstream, eventually};
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinSet;

/// An allowed host with a pinned upstream.
const PLAIN: &str = "files.example.net";
/// How the names begin by which a test sees that its watch works.
const SEEN: &str = "seen";

/// The longest that audit lines may take.
const AUDIT: Duration = Duration::from_secs(10);

/// A gateway of which all ways out are watched: the upstream, every port 443 and 80 of its own machine, DNS.
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

/// A gateway that allows all below example.com, for which it asks `nameserver`.
fn asking(upstream: &Upstream, nameserver: &NameServer) -> Builder {
    let allowed: Vec<&str> = HOSTS.into_iter().chain(["\"*.example.com\""]).collect();
    let names = format!("nameservers: ['{}']\n", nameserver.address);
    Gateway::with(&policy(&allowed)).settings(NO_CREDENTIAL_BUT_GITHUB).settings(&names).upstream(upstream)
}

/// A host that is allowed, and found by DNS alone; nobody has named it before, so whatever is refused of it would be
/// seen if it were looked up first.
fn fresh(begin: &str) -> &'static str {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{begin}{}.example.com", NEXT.fetch_add(1, Ordering::Relaxed)).leak()
}

/// What has left the gateway: connections to the upstream and to its own machine, questions for names.
type Left = (u64, u64, usize);

impl Watched {
    fn left(&self) -> Left {
        // What Envoy has once asked for it asks for again by itself.
        let questions = self.nameserver.asked().into_iter().filter(|asked| !asked.name.starts_with(SEEN)).count();
        (self.upstream.connections(), self.trap.caught(), questions)
    }

    /// An address that nobody has used.
    fn stranger(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.to_bits() + self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// One that is registered; without repositories, after which the gateway itself would ask.
    fn known(&self) -> Ipv4Addr {
        let address = self.stranger();
        self.gateway.register(address, &[]);
        address
    }

    /// The watch is seen to work: what is allowed leaves by both ways.
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

/// What a form of a request comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// This status with this rule, in the header, in the body and in the audit.
    Rule(u16, &'static str),
    /// HTTP/2 ends without an answer; the audit has its line.
    Cut,
}

const AUTHORITY: Told = Told::Rule(403, "request.authority");
const PORT: Told = Told::Rule(403, "request.port");
const MALFORMED: Told = Told::Rule(400, "request.malformed");
const HOST: Told = Told::Rule(403, "egress.host");
const UNKNOWN: Told = Told::Rule(403, "identity.unknown");

/// In every form the gateway's own check refuses it.
const OURS: [Told; 8] = [AUTHORITY; 8];
/// Envoy's parser of URLs is the first to refuse it in HTTP/1.1.
const URL: [Told; 8] = [MALFORMED, AUTHORITY, MALFORMED, AUTHORITY, AUTHORITY, AUTHORITY, AUTHORITY, AUTHORITY];
/// No version of HTTP has such a byte there.
const BYTE: [Told; 8] = [MALFORMED, Told::Cut, MALFORMED, Told::Cut, MALFORMED, Told::Cut, MALFORMED, Told::Cut];

/// What is asked for: from where, in which form, and what is to come of it.
struct Case {
    source: Ipv4Addr,
    way: Way,
    method: &'static str,
    authority: Vec<u8>,
    path: &'static str,
    tunnel: &'static str,
    expected: Told,
}

impl Case {
    fn new(way: Way, authority: Vec<u8>, expected: Told) -> Self {
        let (method, path, tunnel) = ("GET", "/refused", fresh("tunnel"));
        Self { source: watched().known(), way, method, authority, path, tunnel, expected }
    }
}

/// How many are asked for at a time.
const AT_A_TIME: usize = 32;

/// Asks for each, and looks at what came of it. The audit has one line about each that says the same.
async fn assert_cases(cases: Vec<Case>) {
    let watched = watched();
    let mut outcomes = Vec::new();
    let mut cases = cases.into_iter();
    loop {
        let mut asking = JoinSet::new();
        for case in cases.by_ref().take(AT_A_TIME) {
            asking.spawn(async move {
                let Case { way, method, path, tunnel, .. } = case;
                let asked = Asked { method, authority: &case.authority, path, tunnel };
                (way.ask(&watched.sandbox, case.source, asked).await, case)
            });
        }
        if asking.is_empty() {
            break;
        }
        outcomes.extend(asking.join_all().await);
    }
    let audit = eventually("a line about each", AUDIT, || {
        let lines = watched.gateway.audit();
        let by: HashMap<String, Vec<Value>> = lines.into_iter().fold(HashMap::new(), |mut by, line| {
            by.entry(line["container_ip"].as_str().unwrap_or_default().to_owned()).or_default().push(line);
            by
        });
        outcomes.iter().all(|(_, case)| by.contains_key(&case.source.to_string())).then_some(by)
    });
    let mut wrong = Vec::new();
    for (outcome, case) in outcomes {
        let what = format!("{:?} {} {}", case.way, case.method, case.authority.escape_ascii());
        let [line] = &audit[&case.source.to_string()][..] else { panic!("{what}: not one line") };
        let told = match outcome.unwrap_or_else(|error| panic!("{what}: {error}")) {
            Outcome::Answered(answer) => {
                assert_told(&what, &answer, line);
                Told::Rule(answer.status, answer.rule.unwrap_or_default().leak())
            }
            Outcome::Cut(_) => {
                assert_eq!((&line["verdict"], &line["status"]), (&json!("deny"), &json!(0)), "{what}: {line}");
                Told::Cut
            }
            Outcome::Opened => panic!("{what}: opened"),
        };
        if told != case.expected {
            wrong.push(format!("{what}: {told:?}, not {:?}", case.expected));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The answer is a refusal with its rule in header and body, and this is its line.
#[track_caller]
fn assert_told(what: &str, answer: &Answer, line: &Value) {
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{what} is no refusal: {answer:?}"));
    let rule = answer.rule.as_deref().unwrap_or_else(|| panic!("{what} names no rule: {answer:?}"));
    assert_eq!(body["rule"], rule, "{what}: {answer:?}");
    assert!(body["error"].as_str().is_some_and(|error| !error.is_empty()), "{what}: {answer:?}");
    let said = (&line["verdict"], &line["rule"], &line["stage"], &line["status"]);
    assert_eq!(said, (&json!("deny"), &json!(rule), &body["stage"], &json!(answer.status)), "{what}: {line}");
    // Envoy's own parser refuses what has no id yet.
    if body["request_id"] != "-" {
        assert_eq!(line["request_id"], body["request_id"], "{what}: {line}");
    }
}

/// Asks for each row's authority in every form from an address of its own. [`PLAIN`] in it stands for a name of its own.
async fn assert_table(rows: &[(&[u8], [Told; 8])], authority: impl Fn(Way, &[u8]) -> Vec<u8>) {
    let case = |name: &[u8], (way, expected): (Way, &Told)| {
        let case = Case::new(way, authority(way, name), *expected);
        let authority = replaced(&case.authority, PLAIN.as_bytes(), case.tunnel.as_bytes());
        Case { authority, ..case }
    };
    let row =
        |(name, expected): &(&[u8], [Told; 8])| ALL.into_iter().zip(expected).map(|form| case(name, form)).collect();
    assert_cases(rows.iter().map(row).collect::<Vec<Vec<Case>>>().into_iter().flatten().collect()).await;
}

fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    match bytes.windows(old.len()).position(|window| window == old) {
        Some(at) => [&bytes[..at], new, &bytes[at + old.len()..]].concat(),
        None => bytes.to_vec(),
    }
}

#[tokio::test]
async fn what_is_no_plain_name_is_refused_in_every_form() {
    let watched = watched();
    let turn = watched.turn.lock().await;
    let before = watched.left();
    let rows: &[(&[u8], [Told; 8])] = &[
        (b"127.0.0.1", OURS),
        (b"127.0.0.1.", OURS),
        (b"127.1", OURS),
        (b"2130706433", OURS),
        (b"0x7f.1", OURS),
        (b"0x7f000001", OURS),
        (b"0X7F.0.0.1", OURS),
        (b"0177.0.0.1", OURS),
        (b"1.1.1.1", OURS),
        (b"169.254.169.254", OURS),
        (b"[::1]", OURS),
        (b"[::ffff:127.0.0.1]", OURS),
        (b"[::ffff:7f00:1]", OURS),
        (b"::1", URL),
        (b"::ffff:127.0.0.1", URL),
        (b"[fe80::1%25eth0]", URL),
        (b"localhost", OURS),
        (b"LocalHost.", OURS),
        (b"a.localhost", OURS),
        (b"localhost.localhost.", OURS),
        (b"intranet", OURS),
        (b"com", OURS),
        (b".", OURS),
        (b"..", OURS),
        (b".files.example.net", OURS),
        (b"files..example.net", OURS),
        (b"files.example.net...", OURS),
        (b"-files.example.net", OURS),
        (b"files.example.net-", OURS),
        (b"*", URL),
        (b"*.example.com", URL),
        (b"files.example.net%00", URL),
        (b"files.example.net%2eevil.test", URL),
        (b"files.example.net,evil.test", URL),
        (b"files.example.net;", URL),
        (b"files.example.net\0", BYTE),
        (b"files\x01.example.net", BYTE),
        (b"files.example.net\x1b[31m", BYTE),
        (b"files.example.net\x7f", BYTE),
        (b"files.example.net\xff", BYTE),
        ("f\u{131}les.example.net".as_bytes(), BYTE),
        ("files\u{3002}example\u{3002}net".as_bytes(), BYTE),
        (b"files .example.net", BYTE),
        (b"files\t.example.net", BYTE),
        (b"files.example.net#", BYTE),
        (b"files.example.net\\", BYTE),
    ];
    assert_table(rows, |way, name| if way.connects() { [name, b":443"].concat() } else { name.to_vec() }).await;
    watched.assert_watches(before, turn).await;
}

#[tokio::test]
async fn other_ports_are_refused_in_every_form() {
    let watched = watched();
    let turn = watched.turn.lock().await;
    let before = watched.left();
    let rows: &[(&[u8], [Told; 8])] = &[
        (b"22", [PORT; 8]),
        (b"8080", [PORT; 8]),
        (b"8443", [PORT; 8]),
        (b"65535", [PORT; 8]),
        (b"444", [PORT; 8]),
        (b"0", OURS),
        (b"0443", OURS),
        (b"65536", URL),
        (b"4430000000000", URL),
        (b"+443", URL),
        (b"https", URL),
        (b"0x1bb", URL),
        (b"", URL),
        (b"443:443", URL),
    ];
    assert_table(rows, |_, port| [PLAIN.as_bytes(), b":", port].concat()).await;
    // A CONNECT has to name one.
    let without = |(way, told)| Case::new(way, fresh("port").into(), told);
    assert_cases([(Way::Connect, MALFORMED), (Way::ConnectTwo, PORT)].map(without).into()).await;
    watched.assert_watches(before, turn).await;
}

#[tokio::test]
async fn a_user_in_front_of_the_host_is_refused_or_never_part_of_it() {
    let watched = watched();
    let turn = watched.turn.lock().await;
    let before = watched.left();
    let to_evil = [MALFORMED, Told::Cut, HOST, Told::Cut, AUTHORITY, Told::Cut, AUTHORITY, Told::Cut];
    let rows: &[(&[u8], [Told; 8])] = &[
        (b"files.example.net@evil.test", to_evil),
        (b"files.example.net:443@evil.test", to_evil),
        (b"files.example.net%40evil.test", URL),
    ];
    assert_table(rows, |way, name| if way.connects() { [name, b":443"].concat() } else { name.to_vec() }).await;
    watched.assert_watches(before, turn).await;
}

#[tokio::test]
async fn whoever_is_not_registered_and_whatever_is_not_listed_is_refused_where_it_can_be_read() {
    let watched = watched();
    let turn = watched.turn.lock().await;
    let before = watched.left();
    let mut cases = Vec::new();
    for way in REQUESTS {
        // Listed by the policy, found by DNS, in the hosts file of the gateway's machine, nowhere.
        for host in [PLAIN, "api.github.com", fresh("stranger"), "hosts.example.org", "nowhere.example"] {
            let stranger = Case::new(way, host.into(), UNKNOWN);
            cases.push(Case { source: watched.stranger(), tunnel: host, ..stranger });
        }
        for host in ["hosts.example.org", "nowhere.example", "example.com", "files.example.net.evil.test"] {
            cases.push(Case { tunnel: host, ..Case::new(way, host.into(), HOST) });
        }
        // RFC 9110 section 9.3.8: it would be answered with the credential.
        for host in [PLAIN, fresh("trace")] {
            let trace = Case::new(way, host.into(), Told::Rule(403, "request.method"));
            cases.push(Case { method: "TRACE", tunnel: host, ..trace });
        }
    }
    assert_cases(cases).await;
    watched.assert_watches(before, turn).await;
}

/// A registry is for reading: what could publish something, or carry it out in a body, does not arrive.
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

#[tokio::test]
async fn a_request_for_another_host_than_the_handshake_s_asks_for_neither() {
    let watched = watched();
    let turn = watched.turn.lock().await;
    let before = watched.left();
    let mut cases = Vec::new();
    for way in [Way::Tls, Way::TlsTwo] {
        for (host, tunnel) in [(fresh("host"), PLAIN), (PLAIN, fresh("sni")), (fresh("host"), fresh("sni"))] {
            let other = Case::new(way, host.into(), Told::Rule(421, "request.sni"));
            cases.push(Case { tunnel, ..other });
        }
    }
    assert_cases(cases).await;
    watched.assert_watches(before, turn).await;
}

#[tokio::test]
async fn a_tunnel_to_a_name_is_opened_to_the_gateway_alone() {
    let watched = watched();
    let turn = watched.turn.lock().await;
    let before = watched.left();
    for host in [PLAIN, fresh("opened"), "hosts.example.org", "nowhere.example"] {
        for source in [watched.stranger(), watched.known()] {
            for way in [Way::Connect, Way::ConnectTwo] {
                let authority = format!("{host}:443").into_bytes();
                let asked = Asked { method: "GET", authority: &authority, path: "", tunnel: host };
                let outcome = way.ask(&watched.sandbox, source, asked).await.unwrap();
                assert!(matches!(outcome, Outcome::Opened), "{way:?} {host}: {outcome:?}");
            }
        }
    }
    watched.assert_watches(before, turn).await;
}

#[tokio::test]
async fn a_connect_inside_a_tunnel_names_its_rule() {
    let watched = watched();
    let turn = watched.turn.lock().await;
    let before = watched.left();
    let mut cases = Vec::new();
    let nested = format!("{}:443", fresh("nested"));
    for target in ["files.example.net:443", &nested, "nowhere.example:22", "127.0.0.1:8081"] {
        for way in [Way::TlsTwo, Way::CleartextTwo] {
            let nested = Case::new(way, target.into(), Told::Rule(403, "request.nested-connect"));
            cases.push(Case { method: "CONNECT", ..nested });
        }
    }
    assert_cases(cases).await;
    for target in ["files.example.net:443", &nested, "nowhere.example:22"] {
        let known = watched.known();
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        let mut cleartext = tunnel_to(&watched.sandbox, known, "files.example.net:80").await.unwrap();
        let answer = raw::ask(&mut cleartext, request.as_bytes()).await.unwrap();
        assert_told_by(known, "request.nested-connect", &answer);
        let known = watched.known();
        let mut encrypted = tls(&watched.sandbox, known, PLAIN, Http::One).await.unwrap();
        let answer = raw::ask(&mut encrypted, request.as_bytes()).await.unwrap();
        assert_told_by(known, "request.nested-connect", &answer);
    }
    watched.assert_watches(before, turn).await;
}

#[track_caller]
fn assert_told_by(source: Ipv4Addr, rule: &str, answer: &Answer) {
    let from = source.to_string();
    let line = watched().gateway.audit_line(rule, |line| line["container_ip"] == from.as_str());
    assert_told(rule, answer, &line);
    assert_eq!(answer.rule.as_deref(), Some(rule), "{answer:?}");
}

/// Openings of protocols that are none of ours.
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
    // What one worker knows, all know.
    let gateway = asking(&upstream, &nameserver).workers(1).build();
    gateway.up();
    let sandbox = Sandbox::start().behind(&gateway);
    let expires_at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3);
    let record =
        json!({"container_ip": sandbox.address, "container_id": "brief", "repos": [], "expires_at": expires_at});
    let (status, body) = gateway.call("POST", "/internal/containers", Some(&record));
    assert_eq!(status, 201, "{body}");
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
        // So that there is a leaf when nobody can issue one.
        let greeting = greet(&sandbox, sandbox.address, host, host.as_bytes(), AUDIT).await.unwrap();
        assert!(greeting.names(host), "{greeting:?}");
    }
    assert_eq!(upstream.requests_with("/brief/before").len(), REQUESTS.len());
    // The control plane does not get to tidy the record away, so Envoy judges it by its own clock.
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
    // A question that had waited for the control plane would have come before this one.
    gateway.register(sandbox.address, &[]);
    let seen = fresh(SEEN);
    assert_eq!(ask(Way::TlsTwo, seen, "/brief/seen").await.rule.as_deref(), Some("upstream.dns"));
    assert!(nameserver.asked().iter().all(|asked| asked.name == seen), "{:?}", nameserver.asked());
    assert!(!nameserver.asked_for(seen).is_empty());
}
