//! The admin API: clients that abort or collide, web pages, and sandboxes.

use super::{REPO, rig};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use test_support::process::Signal;
use test_support::{Finished, Gateway, Rig, Sandbox, Upstream, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Whether `address` is registered.
fn is_registered(gateway: &Gateway, address: Ipv4Addr) -> bool {
    match gateway.call("GET", &format!("/internal/containers/{address}"), None) {
        (200, _) => true,
        (404, _) => false,
        other => panic!("{address}: {other:?}"),
    }
}

/// Which of `addresses` are registered, after half a second without a change.
fn settled(gateway: &Gateway, addresses: &[Ipv4Addr]) -> Vec<bool> {
    // The registry's writer serves the calls in order, so after these two the aborted ones are done.
    let last = Ipv4Addr::new(10, 50, 1, 1);
    gateway.register(last, &[]);
    gateway.remove(last);
    let look = || addresses.iter().map(|address| is_registered(gateway, *address)).collect::<Vec<_>>();
    let (mut since, mut last) = (Instant::now(), look());
    eventually("registrations have settled", Duration::from_secs(20), || {
        let now = look();
        if now != last {
            (since, last) = (Instant::now(), now);
        }
        (since.elapsed() > Duration::from_millis(500)).then(|| last.clone())
    })
}

fn restart(gateway: &Gateway) {
    gateway.signal(Signal::TERM);
    gateway.ended(Duration::from_secs(10));
    gateway.up();
}

#[test]
fn a_registration_or_removal_whose_client_left_is_whole_or_not_at_all() {
    let rig = Rig::start();
    let gateway = &rig.gateway;
    let addresses: Vec<Ipv4Addr> = (1..=100).map(|number| Ipv4Addr::new(10, 50, 0, number)).collect();
    let delay = |number: usize| Duration::from_micros([200, 500, 1000, 2000][number / 25]);
    for (number, address) in addresses.iter().enumerate() {
        let record = json!({"container_ip": address, "container_id": "left", "repos": [REPO]});
        gateway.abort_call("POST", "/internal/containers", Some(&record), delay(number));
    }
    let before = settled(gateway, &addresses);
    restart(gateway);
    let there = settled(gateway, &addresses);
    let differ = before.iter().zip(&there).filter(|(before, there)| before != there).count();
    assert_eq!(differ, 0, "{differ} of 100 registrations differ between memory and disk");
    println!("{} of 100 aborted registrations are in force", there.iter().filter(|there| **there).count());

    for address in &addresses {
        gateway.register(*address, &[REPO]);
    }
    for (number, address) in addresses.iter().enumerate() {
        gateway.abort_call("DELETE", &format!("/internal/containers/{address}"), None, delay(number));
    }
    let before = settled(gateway, &addresses);
    restart(gateway);
    let there = settled(gateway, &addresses);
    let differ = before.iter().zip(&there).filter(|(before, there)| before != there).count();
    assert_eq!(differ, 0, "{differ} of 100 removals differ between memory and disk");
    println!("{} of 100 aborted removals are not in force", there.iter().filter(|there| **there).count());

    for (address, there) in addresses.iter().zip(there) {
        let (status, body) = gateway.call("DELETE", &format!("/internal/containers/{address}"), None);
        assert_eq!(status, if there { 204 } else { 404 }, "{address}: {body}");
    }
    restart(gateway);
    assert!(!settled(gateway, &addresses).contains(&true), "a removed address is back");
}

#[test]
fn a_removal_beside_a_change_of_the_same_record_holds() {
    let rig = rig();
    let gateway = &rig.gateway;
    let address = Ipv4Addr::new(10, 80, 0, 1);
    let path = format!("/internal/containers/{address}");
    for round in 0..150 {
        gateway.register(address, &[REPO]);
        let (changed, removed) = thread::scope(|scope| {
            let change = scope.spawn(|| gateway.call("PATCH", &path, Some(&json!({"labels": {"a": "b"}}))));
            let remove = scope.spawn(|| gateway.call("DELETE", &path, None));
            (change.join().unwrap(), remove.join().unwrap())
        });
        assert!(matches!(changed.0, 200 | 404), "round {round}: {changed:?}");
        assert_eq!(removed.0, 204, "round {round}: {removed:?}");
        assert!(!is_registered(gateway, address), "round {round}: a removed record is back");
    }
}

#[test]
fn two_changes_of_the_same_record_at_once_are_both_in_force() {
    let rig = rig();
    let gateway = &rig.gateway;
    let address = Ipv4Addr::new(10, 80, 0, 2);
    let path = format!("/internal/containers/{address}");
    for round in 0..60 {
        gateway.register(address, &[REPO, "acme/secret"]);
        let answers = thread::scope(|scope| {
            let narrow = scope.spawn(|| gateway.call("PATCH", &path, Some(&json!({"repos": []}))));
            let label = scope.spawn(|| gateway.call("PATCH", &path, Some(&json!({"labels": {"a": "b"}}))));
            [narrow.join().unwrap(), label.join().unwrap()]
        });
        assert!(answers.iter().all(|(status, _)| *status == 200), "round {round}: {answers:?}");
        let record: Value = serde_json::from_str(&gateway.call("GET", &path, None).1).unwrap();
        assert_eq!(record["repos"], json!([]), "round {round}: {record}");
        assert_eq!(record["labels"], json!({"a": "b"}), "round {round}: {record}");
    }
}

#[test]
fn a_web_page_cannot_speak_to_the_admin_api() {
    // Without a token, a page's request could be an operator's.
    let gateway = &Gateway::before(&rig().upstream).settings("admin_token: none\n").up();
    let port = gateway.admin().port();
    let address = Ipv4Addr::new(10, 81, 0, 1);
    let record = json!({"container_ip": address, "container_id": "page", "repos": []});
    let bad_ports = [format!("localhost:{port}.evil.test"), format!("127.0.0.1:{port}@evil.test")];
    let mut pages = vec![
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
        ("Origin", "https://evil.test"),
        ("Origin", "null"),
        ("Host", "localhost:evil.test"),
        ("Host", "evil.test"),
        ("Host", "localhost.evil.test"),
        ("Host", "[[[::1]]]"),
        ("Host", ""),
    ];
    pages.extend(bad_ports.iter().map(|host| ("Host", host.as_str())));
    for header in pages {
        for path in ["/internal/containers", "/ca.pem", "/readyz"] {
            let (status, body) = gateway.call_as("GET", path, &[header], None);
            assert!(matches!(status, 400 | 403), "{header:?} {path}: {status} {body}");
            assert!(header == ("Host", "") || status == 403, "{header:?} {path}: {status} {body}");
        }
        let (status, body) = gateway.call_as("POST", "/internal/containers", &[header], Some(&record));
        assert!(matches!(status, 400 | 403), "{header:?}: {status} {body}");
    }
    assert!(!is_registered(gateway, address));
    for host in [format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        assert_eq!(gateway.call_as("GET", "/internal/containers", &[("Host", &host)], None).0, 200, "{host}");
    }
}

#[test]
fn a_local_program_needs_the_token_by_default() {
    let gateway = &rig().gateway;
    let address = Ipv4Addr::new(10, 82, 0, 1);
    let record = json!({"container_ip": address, "container_id": "local", "repos": [REPO]}).to_string();
    let curl = |arguments: &[&str]| {
        let url = format!("http://{}", gateway.admin());
        let mut command = Command::new("curl");
        command.args(["-sS", "--noproxy", "*", "-w", " %{http_code}"]).args(arguments);
        let path = if arguments.contains(&"-d") { "/internal/containers" } else { "/readyz" };
        Finished::of(command.arg(format!("{url}{path}"))).success().stdout
    };
    for arguments in [&[][..], &["-d", &record], &["-H", "authorization: Bearer 0123456789abcdef0123456789abcdef"]] {
        let told = curl(arguments);
        assert!(told.ends_with(" 401") && told.contains("admin-token"), "{told}");
    }
    assert!(!is_registered(gateway, address));
    // The command line finds the token in the state directory.
    let listed = Finished::of(&mut gateway.operator(&["container", "ls", "--json"])).success();
    assert!(listed.stdout.starts_with('['), "{listed:?}");
    let token = std::fs::read_to_string(gateway.state.join("admin-token")).unwrap();
    assert!(!gateway.said().contains(token.trim_end()), "the start prints the token");
}

/// The response to a request from the sandbox to `port` of the gateway's loopback address.
async fn loopback(sandbox: &Sandbox, port: u16) -> String {
    let mut answer = Vec::new();
    let work = async {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = sandbox.socket(sandbox.address).connect(target).await?;
        stream.write_all(format!("GET /internal/containers HTTP/1.0\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
        stream.read_to_end(&mut answer).await
    };
    // The result does not matter: the test checks the bytes that came.
    let _ = timeout(Duration::from_secs(5), work).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn the_admin_api_answers_no_sandbox_even_where_loopback_is_routed() {
    let upstream = Upstream::start();
    let gateway = Gateway::before(&upstream).settings("admin_token: none\n").up();
    let rig = Rig { upstream, gateway };
    let sandbox = rig.registered(&[REPO]);
    let open = "for file in /proc/sys/net/ipv4/conf/*/route_localnet; do echo 1 >$file; done";
    Finished::of(Command::new("sh").args(["-c", open])).success();
    Finished::of(sandbox.command("sh").args(["-c", open])).success();
    let gateway = sandbox.gateway_address.to_string();
    for args in [
        &["route", "add", "127.0.0.1/32", "via", &gateway, "dev", "eth0", "table", "77"][..],
        &["rule", "add", "pref", "1", "lookup", "77"],
        &["rule", "add", "pref", "2", "lookup", "local"],
        &["rule", "del", "pref", "0"],
    ] {
        Finished::of(sandbox.command("ip").args(args)).success();
    }
    // The route works: the sandbox reaches the loopback port of another program.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let other = thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        let mut head = BufReader::new(&stream).lines();
        while head.next().is_some_and(|line| !line.unwrap().is_empty()) {}
        stream.write_all(b"reached").unwrap();
        peer.ip()
    });
    assert_eq!(loopback(&sandbox, port).await, "reached");
    assert_eq!(other.join().unwrap(), sandbox.address);
    let told = loopback(&sandbox, rig.gateway.admin().port()).await;
    assert!(!told.contains(" 200 ") && !told.contains("container_ip"), "{told}");
    // The operator still reaches the admin API.
    assert_eq!(rig.gateway.call("GET", "/internal/containers", None).0, 200);
}
