//! One host has many spellings. Those of an allowed host with a credential pass every stage that its plain one passes,
//! or none; those of a host that is not allowed reach nobody.

use serde_json::Value;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;
use test_support::gateway::policy;
use test_support::raw::greet;
use test_support::upstream::{IDN, Visibility};
use test_support::ways::{Asked, Outcome, REQUESTS, Way};
use test_support::{Gateway, Rig, Sandbox, TOKEN, eventually};
use tokio::task::JoinSet;

/// Allowed, with a credential.
const ALLOWED: &str = "api.github.com";
/// The upstream answers to it, and the policy does not name it.
const REFUSED: &str = "uploads.github.com";
/// The longest that a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many are asked for at a time.
const AT_A_TIME: usize = 32;

/// What a spelling is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// For the host.
    Host,
    /// For another one: it is not listed, and not the handshake's.
    Other,
    /// For nothing, by the gateway's own check.
    Nothing,
    /// For nothing, by Envoy's parser of HTTP/1.1.
    Malformed,
    /// For nothing: HTTP/2 ends without an answer.
    Cut,
}

use Taken::{Cut, Host, Malformed, Nothing, Other};

/// What a spelling is, in the order of [`REQUESTS`]: absolute form, in TLS, in cleartext in a tunnel, each over
/// HTTP/1.1 and 2.
type Row = (&'static str, [Taken; 6]);

/// `HOST` stands for the plain spelling, `Host` for one with capitals.
const SPELLINGS: [Row; 32] = [
    ("HOST", [Host; 6]),
    ("Host", [Host; 6]),
    ("HOST.", [Host; 6]),
    ("Host.", [Host; 6]),
    // Envoy takes one dot away, the gateway's own check the other.
    ("HOST..", [Host; 6]),
    ("HOST...", [Nothing; 6]),
    ("HOST:443", [Host; 6]),
    ("Host:443", [Host; 6]),
    ("HOST.:443", [Host; 6]),
    ("HOST:80", [Host; 6]),
    ("HOST:0443", [Nothing; 6]),
    ("HOST:", [Malformed, Nothing, Nothing, Nothing, Nothing, Nothing]),
    ("HOST:443:443", [Malformed, Nothing, Nothing, Nothing, Nothing, Nothing]),
    (".HOST", [Nothing; 6]),
    ("..HOST", [Nothing; 6]),
    ("-HOST", [Nothing; 6]),
    ("www.HOST", [Other; 6]),
    ("HOST.evil.test", [Other; 6]),
    ("evilHOST", [Other; 6]),
    ("xn--HOST", [Other; 6]),
    // In absolute form Envoy cuts the user off before anybody sees it.
    ("user@HOST", [Host, Cut, Nothing, Cut, Nothing, Cut]),
    ("user:password@HOST", [Host, Cut, Nothing, Cut, Nothing, Cut]),
    ("evil.test@HOST:443", [Host, Cut, Nothing, Cut, Nothing, Cut]),
    ("HOST%2e", [Malformed, Nothing, Nothing, Nothing, Nothing, Nothing]),
    ("%48OST", [Malformed, Nothing, Nothing, Nothing, Nothing, Nothing]),
    // White space around a field's value is none of it (RFC 9112 section 5.1).
    (" HOST", [Malformed, Cut, Host, Cut, Host, Cut]),
    ("HOST\t", [Malformed, Cut, Host, Cut, Host, Cut]),
    ("HOST\0", [Malformed, Cut, Malformed, Cut, Malformed, Cut]),
    // What Unicode maps to the same letters, and to the same dot (UTS 46).
    ("\u{ff48}HOST", [Malformed, Cut, Malformed, Cut, Malformed, Cut]),
    ("HOST\u{3002}", [Malformed, Cut, Malformed, Cut, Malformed, Cut]),
    ("\u{ad}HOST", [Malformed, Cut, Malformed, Cut, Malformed, Cut]),
    ("HO\u{17f}T", [Malformed, Cut, Malformed, Cut, Malformed, Cut]),
];

/// What one spelling came to in one form.
struct Seen {
    what: String,
    way: Way,
    taken: Taken,
    path: String,
    outcome: Outcome,
    line: Value,
}

/// Asks for `path`, in which `N` is a number of its own, by each spelling of `host` in each form.
async fn spell(
    rig: &'static Rig,
    sandbox: &'static Sandbox,
    host: &'static str,
    method: &'static str,
    path: &str,
    from: u32,
) -> Vec<Seen> {
    let mut capitals = host.to_ascii_uppercase();
    capitals.replace_range(1..2, &host[1..2]);
    let first = sandbox.address;
    let mut number = 0;
    let mut asks = Vec::new();
    for (spelling, taken) in SPELLINGS {
        let authority = spelling.replace("HOST", host).replace("Host", &capitals);
        for (way, taken) in REQUESTS.into_iter().zip(taken) {
            number += 1;
            let source = Ipv4Addr::from_bits(wide(first).to_bits() + from + number);
            // The gateway itself asks for the numbers of repositories.
            rig.gateway.register(source, if host == ALLOWED { &["acme/app"] } else { &[] });
            let path = path.replace('N', &(from + number).to_string());
            asks.push((
                format!("{way:?} {method} {}{path}", authority.escape_debug()),
                way,
                taken,
                path,
                authority.clone(),
                source,
            ));
        }
    }
    let mut told = Vec::new();
    let mut asks = asks.into_iter();
    loop {
        let mut asking = JoinSet::new();
        for (what, way, taken, path, authority, source) in asks.by_ref().take(AT_A_TIME) {
            asking.spawn(async move {
                let asked = Asked { method, authority: authority.as_bytes(), path: &path, tunnel: host };
                let outcome = way.ask(sandbox, source, asked).await.unwrap_or_else(|error| panic!("{what}: {error}"));
                (what, way, taken, path, source, outcome)
            });
        }
        if asking.is_empty() {
            break;
        }
        told.extend(asking.join_all().await);
    }
    told.sort_by_key(|(.., source, _)| *source);
    let mut lines = audited(&rig.gateway, told.iter().map(|(.., source, _)| *source).collect());
    let seen = |(what, way, taken, path, source, outcome)| Seen {
        line: lines.remove(&source).unwrap(),
        what,
        way,
        taken,
        path,
        outcome,
    };
    told.into_iter().map(seen).collect()
}

/// The addresses beside a sandbox's own, see [`Sandbox::widen`].
fn wide(address: Ipv4Addr) -> Ipv4Addr {
    let [_, _, number, _] = address.octets();
    Ipv4Addr::new(10, 100 + number, 0, 0)
}

/// The one line about each address.
fn audited(gateway: &Gateway, sources: Vec<Ipv4Addr>) -> HashMap<Ipv4Addr, Value> {
    eventually("a line about each", Duration::from_secs(10), || {
        let lines = gateway.audit().into_iter();
        let by: HashMap<Ipv4Addr, Value> =
            lines.map(|line| (line["container_ip"].as_str().unwrap().parse().unwrap(), line)).collect();
        sources.iter().all(|source| by.contains_key(source)).then_some(by)
    })
}

/// Whether it was refused as what is taken for something else than the host.
fn refused_as(seen: &Seen) -> Taken {
    match &seen.outcome {
        Outcome::Cut(_) => Cut,
        Outcome::Answered(answer) => match (answer.status, answer.rule.as_deref()) {
            (400, Some("request.malformed")) => Malformed,
            (403, Some("request.authority")) => Nothing,
            (421, Some("request.sni")) if matches!(seen.way, Way::Tls | Way::TlsTwo) => Other,
            (403, Some("egress.host")) if !matches!(seen.way, Way::Tls | Way::TlsTwo) => Other,
            _ => Host,
        },
        Outcome::Opened => panic!("{}: opened", seen.what),
    }
}

fn start() -> (&'static Rig, &'static Sandbox) {
    let rig: &'static Rig = Box::leak(Box::new(Rig::start()));
    rig.upstream.create_repo("acme/app", Visibility::Private);
    let sandbox: &'static Sandbox = Box::leak(Box::new(rig.sandbox()));
    sandbox.widen();
    (rig, sandbox)
}

#[tokio::test]
async fn a_spelling_of_an_allowed_host_passes_every_stage_or_none() {
    let (rig, sandbox) = start();
    let bearer = format!("Bearer {TOKEN}");
    let asked = spell(rig, sandbox, ALLOWED, "GET", "/repos/acme/app/issues/N", 0).await;
    let plain = asked[0].line.clone();
    assert_eq!((&plain["stage"], &plain["verdict"]), (&"credentials".into(), &"allow".into()), "{plain}");
    let mut wrong = Vec::new();
    for seen in asked {
        let arrived: Vec<_> =
            rig.upstream.requests_with(&seen.path).into_iter().filter(|request| request.path == seen.path).collect();
        let what = format!("{}: {:?} {}", seen.what, seen.outcome, seen.line);
        if refused_as(&seen) != seen.taken {
            wrong.push(format!("{what}\nnot {:?}", seen.taken));
        } else if seen.taken == Host {
            let Outcome::Answered(answer) = &seen.outcome else { unreachable!() };
            assert_eq!((answer.status, answer.rule.as_deref()), (200, None), "{what}");
            let [arrived] = &arrived[..] else { panic!("{what}: {arrived:?}") };
            assert_eq!((arrived.host.as_str(), arrived.sni.as_str()), (ALLOWED, ALLOWED), "{what}: {arrived:?}");
            assert_eq!(arrived.header("authorization"), [bearer.as_bytes()], "{what}: {arrived:?}");
            for key in ["stage", "rule", "verdict", "host", "operation", "class"] {
                assert_eq!(seen.line[key], plain[key], "{what}: {key}");
            }
        } else {
            assert!(arrived.is_empty(), "{what}: {arrived:?}");
            assert_eq!(seen.line["verdict"], "deny", "{what}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What a stage refuses it refuses by every spelling that passes the ones before.
    for (method, path, from) in
        [("PUT", "/repos/acme/app/pulls/N/merge", 1000), ("GET", "/repos/other/app/issues/N", 2000)]
    {
        let asked = spell(rig, sandbox, ALLOWED, method, path, from).await;
        let plain = asked[0].line.clone();
        assert_eq!((&plain["verdict"], &plain["status"]), (&"deny".into(), &403.into()), "{plain}");
        for seen in asked.into_iter().filter(|seen| seen.taken == Host) {
            let Outcome::Answered(answer) = &seen.outcome else { panic!("{}: {:?}", seen.what, seen.outcome) };
            assert_eq!(Some(&*answer.rule.clone().unwrap_or_default()), plain["rule"].as_str(), "{}", seen.what);
            assert!(rig.upstream.requests_with(&seen.path).is_empty(), "{}", seen.what);
        }
    }
}

#[tokio::test]
async fn no_spelling_of_a_refused_host_reaches_anybody() {
    let (rig, sandbox) = start();
    for seen in spell(rig, sandbox, REFUSED, "GET", "/repos/acme/app/releases/N/assets", 0).await {
        let what = format!("{}: {:?} {}", seen.what, seen.outcome, seen.line);
        let expected = match seen.taken {
            // It is listed no more than another one; its handshake is the right one.
            Host => "egress.host",
            Other if matches!(seen.way, Way::Tls | Way::TlsTwo) => "request.sni",
            Other => "egress.host",
            Nothing => "request.authority",
            Malformed => "request.malformed",
            Cut => "listener.closed",
        };
        assert_eq!((&seen.line["verdict"], &seen.line["rule"]), (&"deny".into(), &expected.into()), "{what}");
        if let Outcome::Answered(answer) = &seen.outcome {
            assert_eq!(answer.rule.as_deref(), Some(expected), "{what}");
        }
    }
    assert_eq!(rig.upstream.connections(), 0, "{:?}", rig.upstream.requests());
}

#[tokio::test]
async fn an_internationalised_name_is_its_a_label_in_whatever_case() {
    let rig = Rig::start_with(&policy(&[IDN]), &[]);
    let sandbox = rig.registered(&[]);
    for (number, name) in [IDN.to_owned(), IDN.to_ascii_uppercase(), format!("{IDN}.")].into_iter().enumerate() {
        let greeting = greet(&sandbox, sandbox.address, &name, name.as_bytes(), HANDSHAKE).await.unwrap();
        assert!(greeting.names(IDN), "{name}: {greeting:?}");
        for way in REQUESTS {
            let what = format!("{way:?} {name}");
            let path = format!("/idn/{number}/{way:?}/end");
            let asked = Asked { method: "GET", authority: name.as_bytes(), path: &path, tunnel: &name };
            let outcome = way.ask(&sandbox, sandbox.address, asked).await.unwrap();
            assert!(matches!(&outcome, Outcome::Answered(answer) if answer.status == 200), "{what}: {outcome:?}");
            let [arrived] = &rig.upstream.requests_with(&path)[..] else { panic!("{what}: not exactly one") };
            assert_eq!((arrived.host.as_str(), arrived.sni.as_str()), (IDN, IDN), "{what}: {arrived:?}");
        }
    }
    // What the name says to people is no host name, and one label is not the other.
    for (name, rule) in [("b\u{fc}cher.example", None), ("bcher-kva.example", Some("egress.host"))] {
        let asked = Asked { method: "GET", authority: name.as_bytes(), path: "/idn/other", tunnel: IDN };
        match Way::AbsoluteTwo.ask(&sandbox, sandbox.address, asked).await.unwrap() {
            Outcome::Answered(answer) => assert_eq!(answer.rule.as_deref(), rule, "{name}: {answer:?}"),
            outcome => assert!(rule.is_none() && matches!(outcome, Outcome::Cut(_)), "{name}: {outcome:?}"),
        }
    }
    assert!(rig.upstream.requests_with("/idn/other").is_empty());
}
