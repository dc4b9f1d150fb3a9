//! A name is reachable only if it resolves to a public address, by whatever way the address comes. Names that are not
//! allowed are not resolved.

use serde_json::json;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;
use std::time::Duration;
use test_support::gateway::{container_id, policy};
use test_support::internet::{NameServer, Record, Trap, hosts_file, own_address, public_host};
use test_support::raw::web_socket;
use test_support::{Curled, Gateway, Sandbox, Upstream, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// A host with a certificate and without a credential. Only DNS has its address.
const HOST: &str = "files.example.net";
/// The host after a truncated response.
const LARGE: &str = "large.example.net";
/// The host through CNAMEs, with a public address next to others.
const ALIASED: &str = "aliased.example.net";
/// A public address, which plays the internet's.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 114, 7);
/// A public address of the gateway's own machine.
const OWN: Ipv4Addr = Ipv4Addr::new(203, 0, 114, 200);

struct Internet {
    upstream: Upstream,
    nameserver: NameServer,
    trap: Trap,
    gateway: Gateway,
}

fn address(text: &str) -> Record {
    Record::Address(text.parse().unwrap())
}

/// Names that must be unreachable.
fn inward() -> Vec<(&'static str, Vec<Record>)> {
    vec![
        ("loopback.example.com", vec![address("127.0.0.1")]),
        ("loopback-other.example.com", vec![address("127.8.8.8")]),
        ("proxy.example.com", vec![address("10.99.1.1")]),
        ("private.example.com", vec![address("10.99.0.1")]),
        ("metadata.example.com", vec![address("169.254.169.254")]),
        ("azure.example.com", vec![address("168.63.129.16")]),
        ("carrier.example.com", vec![address("100.64.0.1")]),
        ("unspecified.example.com", vec![address("0.0.0.0")]),
        ("v6-loopback.example.com", vec![address("::1")]),
        ("v6-unspecified.example.com", vec![address("::")]),
        ("v6-mapped.example.com", vec![address("::ffff:127.0.0.1")]),
        ("v6-nat64.example.com", vec![address("64:ff9b::7f00:1")]),
        ("v6-local.example.com", vec![address("fd00::1")]),
        ("both.example.com", vec![address("127.0.0.1"), address("::1")]),
        ("own.example.com", vec![Record::Address(IpAddr::V4(OWN))]),
        ("alias.example.com", vec![Record::Alias("target.elsewhere.example")]),
        ("chain.example.com", vec![Record::Chain("target.elsewhere.example")]),
        ("to-localhost.example.com", vec![Record::Alias("localhost")]),
        ("loop.example.com", vec![Record::Alias("loop.example.com")]),
        ("nothing.example.com", vec![]),
    ]
}

fn internet() -> &'static Internet {
    static INTERNET: OnceLock<Internet> = OnceLock::new();
    INTERNET.get_or_init(|| {
        let upstream = Upstream::start();
        public_host(PUBLIC, upstream.address);
        for own in ["169.254.169.254", "168.63.129.16", "100.64.0.1"] {
            own_address(own.parse().unwrap());
        }
        own_address(OWN.into());
        hosts_file(
            "127.0.0.1 localhost hosts.example.com\n::1 hosts.example.com\n10.99.0.1 hosts-private.example.com\n",
        );
        let mut names = inward();
        let mixed = vec![address("10.99.0.1"), Record::Address(PUBLIC.into()), address("127.0.0.1"), address("::1")];
        names.extend([
            (HOST, mixed),
            (LARGE, vec![Record::Address(PUBLIC.into()), Record::OnlyTcp]),
            (ALIASED, vec![Record::Alias("one.elsewhere.example")]),
            ("one.elsewhere.example", vec![Record::Chain("two.elsewhere.example")]),
            ("two.elsewhere.example", vec![Record::Address(PUBLIC.into())]),
            ("target.elsewhere.example", vec![address("127.0.0.1"), address("::1")]),
            ("extra.example.net", vec![address("127.0.0.1")]),
        ]);
        let names: Vec<(&str, &[Record])> = names.iter().map(|(name, records)| (*name, records.as_slice())).collect();
        let nameserver = NameServer::start(&names);
        let policy = policy(&[HOST, LARGE, ALIASED, "\"*.example.com\""]);
        let settings = format!("nameservers: ['{}']\nupstream_roots: {}\n", nameserver.address, upstream.ca.display());
        let gateway = Gateway::with(&policy).settings(&settings).up();
        Internet { upstream, nameserver, trap: Trap::set(), gateway }
    })
}

fn registered() -> Sandbox {
    let internet = internet();
    let sandbox = Sandbox::start().behind(&internet.gateway);
    internet.gateway.register(sandbox.address, &[]);
    sandbox
}

#[track_caller]
fn assert_unresolved(host: &str, answer: &Curled) {
    assert_eq!((answer.status, answer.rule().as_deref()), (503, Some("upstream.dns")), "{host}: {answer:?}");
}

#[test]
fn a_name_that_resolves_inward_is_not_reached() {
    let (internet, sandbox) = (internet(), registered());
    for (host, _) in inward() {
        assert_unresolved(host, &sandbox.curl(&[format!("https://{host}/inward")]));
        assert!(!internet.nameserver.asked_for(host).is_empty(), "{host} was not resolved");
        // Once more: Envoy's DNS cache is no way around.
        assert_unresolved(host, &sandbox.curl(&[format!("https://{host}/inward")]));
    }
    assert_eq!(internet.trap.caught(), 0);
    assert!(internet.upstream.requests_with("/inward").is_empty());
}

#[test]
fn a_name_of_the_hosts_file_is_not_reached() {
    let (internet, sandbox) = (internet(), registered());
    for host in ["hosts.example.com", "hosts-private.example.com", "HOSTS.example.com."] {
        assert_unresolved(host, &sandbox.curl(&[format!("https://{host}/hosts")]));
        assert_unresolved(host, &sandbox.curl(&[format!("http://{host}/hosts")]));
    }
    assert_eq!(internet.trap.caught(), 0);
}

#[test]
fn a_public_address_is_reached_and_the_others_beside_it_are_not() {
    let (internet, sandbox) = (internet(), registered());
    for host in [HOST, LARGE, ALIASED] {
        for http in ["--http1.1", "--http2"] {
            let answer = sandbox.curl(&[http, &format!("https://{host}/public")]);
            assert_eq!((answer.status, answer.body.trim()), (200, "raw /public"), "{host}: {answer:?}");
        }
        let arrived = internet.upstream.requests_with(&format!("{host}/public"));
        assert_eq!(arrived.len(), 2, "{arrived:?}");
        assert!(arrived.iter().all(|request| request.sni == host), "{arrived:?}");
    }
    let asked = internet.nameserver.asked_for(LARGE);
    assert!(asked.iter().any(|asked| !asked.tcp) && asked.iter().any(|asked| asked.tcp), "{asked:?}");
    assert_eq!(internet.trap.caught(), 0);
}

#[tokio::test]
async fn a_web_socket_reaches_a_host_that_only_dns_knows() {
    let (internet, sandbox) = (internet(), registered());
    let mut stream = web_socket(&sandbox, HOST, "/v1/echo/by-dns").await.unwrap();
    let mut echoed = [0; 5];
    for message in [b"first", b"other"] {
        let both = async {
            stream.write_all(message).await?;
            stream.flush().await?;
            stream.read_exact(&mut echoed).await
        };
        timeout(Duration::from_secs(10), both).await.expect("the upstream echoes the message").unwrap();
        assert_eq!(&echoed, message);
    }
    let [arrived] = &internet.upstream.requests_with("/v1/echo/by-dns")[..] else { panic!("not exactly one") };
    // curl prefers HTTP/2, over which this would be no WebSocket.
    assert_eq!((arrived.alpn.as_str(), arrived.sni.as_str()), ("http/1.1", HOST), "{arrived:?}");
    assert!(!internet.nameserver.asked_for(HOST).is_empty(), "the host is pinned");
    let refused = web_socket(&sandbox, "private.example.com", "/v1/echo/inward").await.unwrap_err().to_string();
    assert!(refused.contains("upstream.dns"), "{refused}");
    assert_eq!(internet.trap.caught(), 0);
}

#[test]
fn a_name_that_is_not_allowed_is_never_asked_for() {
    let (internet, sandbox) = (internet(), registered());
    let stranger = Sandbox::start().behind(&internet.gateway);
    for host in ["secret.attacker.example", "example.com", "github.com", "localhost", "target.elsewhere.example"] {
        let answer = sandbox.curl(&["--noproxy", "", &format!("https://{host}/")]);
        assert!(answer.status == 403 || answer.connect == 403, "{host}: {answer:?}");
    }
    let answer = stranger.curl(&["https://by-a-stranger.example.com/"]);
    assert_eq!(answer.rule().as_deref(), Some("identity.unknown"), "{answer:?}");
    // An extra host is allowed only for its own container.
    let id = container_id(sandbox.address);
    let record = json!({"container_ip": sandbox.address, "container_id": id, "repos": [], "egress_allow": ["extra.example.net"]});
    let other = registered();
    let refused = other.curl(&["https://extra.example.net/"]);
    assert_eq!(refused.rule().as_deref(), Some("egress.host"), "{refused:?}");
    assert!(internet.nameserver.asked_for("extra.example.net").is_empty());
    internet.gateway.call("POST", "/internal/containers", Some(&record));
    eventually("the extra host is routed", Duration::from_secs(5), || {
        (sandbox.curl(&["https://extra.example.net/"]).rule().as_deref() == Some("upstream.dns")).then_some(())
    });
    assert!(!internet.nameserver.asked_for("extra.example.net").is_empty());
    let refused = other.curl(&["https://extra.example.net/"]);
    assert_eq!(refused.rule().as_deref(), Some("egress.host"), "{refused:?}");

    let allowed = |name: &str| {
        [HOST, LARGE, ALIASED, "extra.example.net", "localhost"].contains(&name)
            || (name.ends_with(".example.com") && name != "by-a-stranger.example.com")
            // The targets of allowed names' CNAMEs.
            || ["one", "two", "target"].iter().any(|label| name == format!("{label}.elsewhere.example"))
    };
    let asked = internet.nameserver.asked();
    assert!(asked.iter().all(|asked| allowed(&asked.name)), "{asked:?}");
    assert!(asked.iter().all(|asked| matches!(asked.kind, 1 | 28)), "{asked:?}");
}

#[test]
fn a_nameserver_that_does_not_answer_is_a_warning_until_it_does() {
    let upstream = &internet().upstream;
    let nameserver = NameServer::start(&[("a.example.com", &[address("127.0.0.1")])]);
    let settings = format!("nameservers: ['{}']\nupstream_roots: {}\n", nameserver.address, upstream.ca.display());
    let gateway = Gateway::with(&policy(&["\"*.example.com\""])).settings(&settings).up();
    let sandbox = Sandbox::start().behind(&gateway);
    gateway.register(sandbox.address, &[]);
    assert!(gateway.warnings().iter().all(|warning| !warning.starts_with("dns:")));
    nameserver.set_silent(true);
    assert_unresolved("a.example.com", &sandbox.curl(&["https://a.example.com/"]));
    // Envoy retries by itself.
    eventually("a warning about the nameserver", Duration::from_secs(30), || {
        let warnings = gateway.warnings();
        warnings.iter().any(|warning| warning.starts_with("dns: no nameserver answers")).then_some(())
    });
    eventually("the gateway is ready nevertheless", Duration::from_secs(5), || gateway.ready().then_some(()));
    nameserver.set_silent(false);
    eventually("the warning is gone", Duration::from_secs(30), || {
        gateway.warnings().iter().all(|warning| !warning.starts_with("dns:")).then_some(())
    });
}
