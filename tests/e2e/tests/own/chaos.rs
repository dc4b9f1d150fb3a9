//! A gateway under kills, a full disk, a second gateway or an exchange of filters while it runs: promises hold, and no
//! other container is affected.

mod kills;

use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use test_support::client::Followed;
use test_support::filters::Filters;
use test_support::process::{self, Signal};
use test_support::raw::web_socket;
use test_support::{Client, Gateway, Http, Rig, Sandbox, Upstream, disk, eventually, eventually_async, scratch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// The repository of every registered container here.
const REPO: &str = "acme/app";
/// A host without a credential, so that the control plane has no part in its requests.
const PLAIN: &str = "files.example.net";
/// A host with a credential.
const API: &str = "api.github.com";
/// The timeout of a wait whose length is not tested.
const SOON: Duration = Duration::from_secs(10);

/// One test at a time: some use all of the machine, and some measure time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Sends a GET for `https://host/path` on its own connection, and expects a 200.
async fn served(sandbox: &Sandbox, host: &str, path: &str) -> std::io::Result<()> {
    Client::connect(sandbox, sandbox.address, host, Http::Two).await?.get(path).await?.ok().map(drop)
}

/// A record whose fields all follow from its number, so that a partial record shows.
fn record(number: u32) -> Value {
    let repos: Vec<String> = (0..20).map(|repo| format!("acme/r{number}-{repo}")).collect();
    json!({"container_id": format!("n-{number}"), "repos": repos, "labels": {"number": number.to_string()},
           "allowed_branches": [format!("n{number}/*")]})
}

/// The existing records, by address. Each must be complete.
fn records(gateway: &Gateway) -> std::io::Result<HashMap<IpAddr, u32>> {
    let (status, body) = gateway.try_call("GET", "/internal/containers", None)?;
    let list: Vec<Value> = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{status} {error}: {body}"));
    let numbered = list.iter().filter_map(|found| {
        let number = found["container_id"].as_str()?.strip_prefix("n-")?.parse().unwrap();
        for (field, value) in record(number).as_object().unwrap() {
            assert_eq!(&found[field], value, "an incomplete record: {found}");
        }
        Some((found["container_ip"].as_str()?.parse().unwrap(), number))
    });
    Ok(numbered.collect())
}

// A full disk.

/// A large record. Few of them fit on the disk.
fn large(address: Ipv4Addr) -> Value {
    // With their ids, so that the gateway does not look them up.
    let repo = |id: u32| json!({"name": format!("acme/{}-{id}", "r".repeat(60)), "id": id, "default_branch": "main"});
    json!({"container_ip": address, "repos": (0..100).map(repo).collect::<Vec<_>>()})
}

/// The number of audit lines that were lost because the disk was full.
fn lost(gateway: &Gateway) -> u64 {
    let metrics = gateway.call("GET", "/metrics", None).1;
    let line = metrics.lines().find_map(|line| line.strip_prefix("sallyport_audit_lost_total{why=\"disk\"} "));
    line.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

#[tokio::test]
async fn a_full_disk_refuses_changes_as_a_whole_and_holds_up_nothing_else() {
    let _alone = ALONE.lock().await;
    let upstream = Upstream::start();
    let gateway = Gateway::before(&upstream).build();
    disk::small(&gateway.state, "8m");
    gateway.up();
    let rig = Rig { upstream, gateway };
    let sandbox = rig.registered(&[REPO]);
    served(&sandbox, API, "/repos/acme/app/commits/before").await.unwrap();
    rig.gateway.audit_line("the request before", |line| line["path"] == "/repos/acme/app/commits/before");
    let filler = rig.gateway.state.join("filler");
    disk::fill(&filler);

    // The file may still have free space inside.
    let mut registered = Vec::new();
    let (refused, status, body) = (1..=250)
        .find_map(|number| {
            let address = Ipv4Addr::new(10, 223, 0, number);
            let (status, body) = rig.gateway.call("POST", "/internal/containers", Some(&large(address)));
            if status == 201 {
                registered.push(address);
                return None;
            }
            Some((address, status, body))
        })
        .expect("the full disk refuses a record");
    println!("{} records went in, the next was refused: {status} {body}", registered.len());
    assert_eq!(status, 507, "{body}");
    let told: Value = serde_json::from_str(&body).unwrap();
    assert!(told["error"].as_str().is_some_and(|error| error.contains("No space left")), "{body}");
    let path = |address: Ipv4Addr| format!("/internal/containers/{address}");
    let there = |address: Ipv4Addr| rig.gateway.call("GET", &path(address), None).0;
    assert_eq!(there(refused), 404);
    // A failed change leaves the old record in force.
    let (status, body) =
        rig.gateway.call("PATCH", &path(sandbox.address), Some(&json!({"repos": large(refused)["repos"]})));
    assert_eq!(status, 507, "{body}");
    // The refused write may have freed some space.
    let more = rig.gateway.state.join("more");
    disk::fill(&more);
    let before = lost(&rig.gateway);
    const REQUESTS: u64 = 40;
    for number in 0..REQUESTS {
        let host = if number % 2 == 0 { API } else { PLAIN };
        served(&sandbox, host, &format!("/repos/acme/app/commits/full/{number}")).await.unwrap();
    }
    let ours = |line: &Value| line["path"].as_str().is_some_and(|path| path.contains("/full/"));
    let written = || rig.gateway.audit().into_iter().filter(ours).count() as u64;
    let lost_now = eventually("every line is written or counted as lost", SOON, || {
        let lost = lost(&rig.gateway) - before;
        (lost + written() == REQUESTS).then_some(lost)
    });
    assert!(lost_now > 0, "the disk was not full for the audit");
    println!("{lost_now} of {REQUESTS} audit lines were lost");
    eventually("the loss is a warning", SOON, || {
        rig.gateway.warnings().iter().any(|warning| warning.contains("audit")).then_some(())
    });

    // A gateway that starts on the full disk serves, too.
    rig.gateway.signal(Signal::KILL);
    rig.gateway.ended(SOON);
    rig.gateway.up();
    served(&sandbox, API, "/repos/acme/app/commits/started").await.unwrap();
    assert_eq!(there(refused), 404);
    assert_eq!(rig.gateway.call("POST", "/internal/containers", Some(&large(refused))).0, 507);

    // With free space again, everything works without a restart.
    fs::remove_file(&filler).unwrap();
    fs::remove_file(&more).unwrap();
    let (status, body) = rig.gateway.call("POST", "/internal/containers", Some(&large(refused)));
    assert_eq!(status, 201, "{body}");
    served(&sandbox, API, "/repos/acme/app/commits/room").await.unwrap();
    rig.gateway.audit_line("a request with room again", |line| line["path"] == "/repos/acme/app/commits/room");
    eventually("no warning is left", SOON, || rig.gateway.warnings().is_empty().then_some(()));
    assert_eq!(written() + lost_now, REQUESTS);

    // The records on disk are the same.
    let before = rig.gateway.call("GET", "/internal/containers", None).1;
    rig.gateway.signal(Signal::KILL);
    rig.gateway.ended(SOON);
    rig.gateway.up();
    assert!(rig.gateway.call("GET", "/internal/containers", None).1 == before, "the records differ after a restart");
    for address in registered.into_iter().chain([refused]) {
        assert_eq!(there(address), 200, "{address}");
    }
    served(&sandbox, API, "/repos/acme/app/commits/restarted").await.unwrap();
}

// Two gateways.

/// Every file below `directory`, with the metadata that a change alters.
fn touched(directory: &Path) -> Vec<(std::path::PathBuf, u64, u64, i64, i64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let (path, meta) = {
            let entry = entry.unwrap();
            (entry.path(), entry.metadata().unwrap())
        };
        if meta.is_dir() {
            found.extend(touched(&path));
        }
        found.push((path, meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec()));
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_second_gateway_on_a_state_directory_says_so_and_touches_nothing() {
    let _alone = ALONE.lock().await;
    let upstream = Upstream::start();
    for first in ["up", "serve"] {
        let gateway = Gateway::before(&upstream).build();
        let state = gateway.state.clone();
        match first {
            "up" => gateway.up(),
            _ => {
                gateway.serve();
                gateway.listens();
            }
        }
        let before = touched(&state);
        for second in ["up", "serve"] {
            let refused = gateway.second(second);
            assert_eq!(refused.code, Some(1), "{second} beside {first}: {refused:?}");
            // One error, behind the lines of the log.
            let errors = refused.stderr.lines().filter(|line| line.starts_with("sallyport: "));
            assert_eq!(errors.count(), 1, "{second} beside {first}: {refused:?}");
            let state = state.display().to_string();
            assert!(
                refused.stderr.contains("another gateway is running") && refused.stderr.contains(&state),
                "{refused:?}"
            );
        }
        assert_eq!(touched(&state), before, "beside {first}");
        assert_eq!(gateway.call("GET", "/healthz", None).0, 200);
        // The lock ends with the process, however the process ends.
        gateway.signal(Signal::KILL);
        gateway.ended(SOON);
        gateway.up();
    }
}

// No leftovers.

#[tokio::test]
async fn nothing_is_left_running_or_taken_after_sigterm_and_kill_9() {
    let _alone = ALONE.lock().await;
    let rig = Rig::start();
    let sandbox = rig.registered(&[REPO]);
    let directory = rig.gateway.state.parent().unwrap();
    let ports = [
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, rig.gateway.proxy_port)),
        rig.gateway.admin(),
        SocketAddr::from((Ipv4Addr::LOCALHOST, rig.gateway.admin().port() + 1)),
    ];
    let names = || {
        let mut names: Vec<_> = touched(&rig.gateway.state).into_iter().map(|file| file.0).collect();
        names.retain(|name| !name.ends_with("envoy-admin.sock"));
        names
    };
    let before = names();
    for signal in [Signal::TERM, Signal::KILL, Signal::TERM, Signal::KILL] {
        // A stream is under way.
        let mut client = Client::connect(&sandbox, sandbox.address, "api.anthropic.com", Http::Two).await.unwrap();
        let stream = Followed::new(client.open("/v1/stream").await.unwrap().into_body());
        eventually_async("the stream flows", SOON, async || if stream.bytes() > 0 { Ok(()) } else { Err("silent") })
            .await;
        assert_eq!(process::working_in(directory).len(), 2, "the control plane and Envoy");
        assert!(ports.iter().all(|port| TcpListener::bind(port).is_err()), "the ports are taken");
        rig.gateway.signal(signal);
        // A stop waits for the stream, for the drain, and for Envoy's end, five seconds each.
        rig.gateway.ended(SOON * 3);
        if signal == Signal::TERM {
            assert_eq!(process::working_in(directory), [0; 0], "after SIGTERM");
        }
        eventually("no process is left", SOON, || process::working_in(directory).is_empty().then_some(()));
        // The kernel closes a killed process's sockets a moment after it has released the working directory.
        for port in ports {
            eventually(&format!("{port} is free after {signal:?}"), SOON, || TcpListener::bind(port).ok());
        }
        assert_eq!(names(), before, "after {signal:?}");
        rig.gateway.up();
        served(&sandbox, API, "/repos/acme/app/commits/again").await.unwrap();
    }
}

// A new filter.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_filter_is_in_force_and_drops_none_of_50_open_streams() {
    let _alone = ALONE.lock().await;
    let filters = Filters::copied(scratch("filters"));
    let upstream = Upstream::start();
    let gateway = Gateway::before(&upstream).env("SALLYPORT_FILTERS", filters.directory()).build();
    gateway.up();
    let rig = Rig { upstream, gateway };
    let sandboxes = [rig.registered(&[REPO]), rig.registered(&[REPO])];
    let mut clients = Vec::new();
    let mut streams: [Vec<Followed>; 2] = Default::default();
    for (sandbox, streams) in sandboxes.iter().zip(&mut streams) {
        // Five connections over HTTP/1.1 and two with ten streams each.
        for (http, count) in [(Http::One, 1); 5].into_iter().chain([(Http::Two, 10); 2]) {
            let mut client = Client::connect(sandbox, sandbox.address, "api.anthropic.com", http).await.unwrap();
            for _ in 0..count {
                let response = client.open("/v1/stream").await.unwrap();
                assert_eq!(response.status(), 200);
                streams.push(Followed::new(response.into_body()));
            }
            clients.push((http, client));
        }
    }
    let flow = async |streams: &[&Followed]| {
        let before: Vec<u64> = streams.iter().map(|stream| stream.bytes()).collect();
        eventually_async("every stream carries more data", SOON, async || {
            assert!(streams.iter().all(|stream| !stream.ended()), "a stream has ended");
            let silent = streams.iter().zip(&before).filter(|(stream, before)| stream.bytes() <= **before).count();
            if silent == 0 { Ok(()) } else { Err(format!("{silent} streams are silent")) }
        })
        .await;
    };
    let all: Vec<&Followed> = streams.iter().flatten().collect();
    assert_eq!(all.len(), 50);
    flow(&all).await;
    let in_force = || rig.gateway.envoy_stat("extension_config_discovery.http_filter.identity.config_reload");
    let version = || rig.gateway.envoy_admin("/config_dump?resource=ecds_filters&mask=version_info");
    let mut versions = vec![version()];
    for number in 0..3 {
        let reloads = in_force();
        filters.exchange(number);
        let now =
            eventually("Envoy has the new code", SOON, || Some(version()).filter(|now| versions.last() != Some(now)));
        assert!(!versions.contains(&now), "{versions:?} {now}");
        versions.push(now);
        eventually("Envoy runs the new code", SOON, || (in_force() > reloads).then_some(()));
        flow(&all).await;
        // On the existing connections, and on new ones.
        for (_, client) in clients.iter_mut().filter(|(http, _)| *http == Http::Two) {
            // The new code refuses until it has the records.
            eventually_async("a request on a connection from before", SOON, async || {
                client.get("/after").await?.ok().map(drop)
            })
            .await;
        }
        for sandbox in &sandboxes {
            served(sandbox, API, "/repos/acme/app/commits/after").await.unwrap();
        }
    }
    println!("versions of the filter: {versions:?}");
    assert_eq!(rig.gateway.envoy_stat("extension_config_discovery.http_filter.identity.config_fail"), 0);
    assert_eq!(rig.gateway.warnings(), [""; 0]);
    // The old code still guards the streams that it has admitted.
    rig.gateway.remove(sandboxes[0].address);
    eventually_async("the streams of the removed container end", SOON, async || {
        let open = streams[0].iter().filter(|stream| !stream.ended()).count();
        if open == 0 { Ok(()) } else { Err(format!("{open} are open")) }
    })
    .await;
    let others: Vec<&Followed> = streams[1].iter().collect();
    flow(&others).await;
}

// One of two containers.

#[tokio::test]
async fn a_web_socket_stays_open_through_the_removal_of_another_container() {
    let _alone = ALONE.lock().await;
    let rig = Rig::start();
    let (first, second) = (rig.registered(&[]), rig.registered(&[]));
    let mut sockets = Vec::new();
    for sandbox in [&first, &second] {
        sockets.push(web_socket(sandbox, "api.anthropic.com", "/v1/echo").await.unwrap());
    }
    let [one, two] = &mut sockets[..] else { unreachable!() };
    for round in 0..3_u8 {
        rig.gateway.remove(first.address);
        let ended = timeout(SOON, one.read(&mut [0; 1])).await.expect("the removed container's WebSocket ends");
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        // RFC 6455 section 5.7: the upstream echoes every message.
        let message = [0x82, 0x84, 0, 0, 0, 0, b'o', b'p', b'e', b'0' + round];
        two.write_all(&message).await.unwrap();
        two.flush().await.unwrap();
        let mut echoed = [0; 10];
        timeout(SOON, two.read_exact(&mut echoed)).await.expect("the other WebSocket stays open").unwrap();
        assert_eq!(echoed, message);
        rig.gateway.register(first.address, &[]);
        *one = web_socket(&first, "api.anthropic.com", "/v1/echo").await.unwrap();
    }
}
