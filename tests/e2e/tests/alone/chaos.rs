//! What is killed, filled up, taken twice or exchanged while it runs: what was promised holds, and nobody else notices.

use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use test_support::client::Followed;
use test_support::filters::Filters;
use test_support::process::{self, Signal};
use test_support::raw::web_socket;
use test_support::{Client, Gateway, Http, Rig, Sandbox, Upstream, disk, eventually, eventually_async, scratch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// What every registered container here has.
const REPO: &str = "acme/app";
/// A host for which there is no credential, so that the control plane has no part in its requests.
const PLAIN: &str = "files.example.net";
/// A host with a credential.
const API: &str = "api.github.com";
/// The longest that what is only awaited may take.
const SOON: Duration = Duration::from_secs(10);

/// One of these at a time: some take all of the machine, and some are about time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Asks for `https://host/path` on a connection of its own, and wants a 200.
async fn served(sandbox: &Sandbox, host: &str, path: &str) -> std::io::Result<()> {
    Client::connect(sandbox, sandbox.address, host, Http::Two).await?.get(path).await?.ok().map(drop)
}

// kill -9 of the control plane, 200 times.

/// How often it is killed.
const KILLS: u32 = 200;
/// Of these, how often while it starts.
const IN_STARTS: u32 = 40;
/// And how often only when workers of before are no longer waited for, so that changes and removals are answered.
const LATE: u32 = 12;
/// How many change the registry at a time, each its own addresses.
const CLIENTS: u8 = 3;
/// How many addresses each of them has.
const ADDRESSES: u8 = 15;

/// Random numbers that come again with the same seed (SplitMix64).
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let given = std::env::var("SALLYPORT_SEED").ok().map(|seed| seed.parse().expect("SALLYPORT_SEED is a number"));
        let seed = given.unwrap_or(now.as_nanos() as u64);
        println!("SALLYPORT_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn micros(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(from + self.below(to - from))
    }
}

/// What is at an address: nothing, or the record of this number.
type At = Option<u32>;

/// What may be at one address: what is surely there, or one of the changes since that nobody has answered.
struct Possible(Vec<At>);

/// All of them. A record of another number than one of these has been refused, or was never whole.
#[derive(Default)]
struct Known {
    by_address: Mutex<HashMap<IpAddr, Possible>>,
    next: AtomicU32,
    registered: AtomicU32,
    changed: AtomicU32,
    removed: AtomicU32,
    refused: AtomicU32,
    unanswered: AtomicU32,
}

impl Known {
    /// What is at `address` if all that was asked for has been done.
    fn last(&self, address: IpAddr) -> At {
        *self.by_address.lock().unwrap().get(&address).and_then(|possible| possible.0.last()).unwrap_or(&None)
    }

    fn asked(&self, address: IpAddr, at: At) {
        self.by_address.lock().unwrap().entry(address).or_insert_with(|| Possible(vec![None])).0.push(at);
    }

    fn answered(&self, address: IpAddr) {
        let mut by_address = self.by_address.lock().unwrap();
        let possible = &mut by_address.get_mut(&address).unwrap().0;
        possible.drain(..possible.len() - 1);
    }

    /// What is there has to be possible, and from now on it is what is surely there. Nothing is being asked for.
    fn settle(&self, there: &HashMap<IpAddr, u32>, after: &str) {
        let mut by_address = self.by_address.lock().unwrap();
        for address in there.keys() {
            assert!(by_address.contains_key(address), "after {after}: {address} was never registered");
        }
        for (address, possible) in by_address.iter_mut() {
            let at = there.get(address).copied();
            assert!(possible.0.contains(&at), "after {after}: {at:?} at {address}, not one of {:?}", possible.0);
            possible.0 = vec![at];
        }
    }

    /// What was shown stays, too: it is on disk before it is shown.
    fn seen(&self, gateway: &Gateway) {
        let before: HashMap<IpAddr, Vec<At>> = {
            let by_address = self.by_address.lock().unwrap();
            by_address.iter().map(|(address, possible)| (*address, possible.0.clone())).collect()
        };
        let Ok(there) = records(gateway) else { return };
        let mut by_address = self.by_address.lock().unwrap();
        for (address, possible) in by_address.iter_mut() {
            // A record's number is there once; nothing may have been there before.
            let Some(number) = there.get(address) else { continue };
            if !before.get(address).is_some_and(|before| before.contains(&Some(*number))) {
                continue;
            }
            if let Some(place) = possible.0.iter().position(|at| *at == Some(*number)) {
                possible.0.drain(..place);
            }
        }
    }
}

/// A record in which everything follows from its number, so that half of one shows.
fn record(number: u32) -> Value {
    let repos: Vec<String> = (0..20).map(|repo| format!("acme/r{number}-{repo}")).collect();
    json!({"container_id": format!("n-{number}"), "repos": repos, "labels": {"number": number.to_string()},
           "allowed_branches": [format!("n{number}/*")]})
}

/// The records that are there, by address; each has to be whole.
fn records(gateway: &Gateway) -> std::io::Result<HashMap<IpAddr, u32>> {
    let (status, body) = gateway.try_call("GET", "/internal/containers", None)?;
    let list: Vec<Value> = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{status} {error}: {body}"));
    let numbered = list.iter().filter_map(|found| {
        let number = found["container_id"].as_str()?.strip_prefix("n-")?.parse().unwrap();
        for (field, value) in record(number).as_object().unwrap() {
            assert_eq!(&found[field], value, "half of a record: {found}");
        }
        Some((found["container_ip"].as_str()?.parse().unwrap(), number))
    });
    Ok(numbered.collect())
}

/// Asks for changes until one is not answered.
fn change_until_it_is_gone(gateway: &Gateway, known: &Known, client: u8, random: &mut Random) {
    loop {
        let address = IpAddr::from(Ipv4Addr::new(10, 222, client, 1 + random.below(ADDRESSES.into()) as u8));
        let number = known.next.fetch_add(1, Ordering::SeqCst);
        let mut body = record(number);
        let path = format!("/internal/containers/{address}");
        let there = known.last(address);
        let dice = random.below(10);
        // What is refused comes with a number that must never be seen.
        let (method, path, wanted, counter) = match (there, dice) {
            (None, 0) => ("DELETE", path.as_str(), 404, &known.refused),
            (None, 1) => ("PATCH", path.as_str(), 404, &known.refused),
            (Some(_), 0) => {
                body["ttl"] = json!("-1h");
                ("PATCH", path.as_str(), 422, &known.refused)
            }
            (None, 2) | (Some(_), 1) => {
                body["container_ip"] = json!(address);
                body["expires_at"] = json!("2020-01-01T00:00:00Z");
                ("POST", "/internal/containers", 422, &known.refused)
            }
            (None, _) => {
                body["container_ip"] = json!(address);
                ("POST", "/internal/containers", 201, &known.registered)
            }
            (Some(_), 2) => {
                body["container_ip"] = json!(address);
                ("POST", "/internal/containers", 200, &known.changed)
            }
            (Some(_), 3..=6) => ("PATCH", path.as_str(), 200, &known.changed),
            (Some(_), _) => ("DELETE", path.as_str(), 204, &known.removed),
        };
        let refused = wanted >= 400;
        if !refused {
            known.asked(address, (wanted != 204).then_some(number));
        }
        let Ok((status, answer)) = gateway.try_call(method, path, (method != "DELETE").then_some(&body)) else {
            known.unanswered.fetch_add(1, Ordering::SeqCst);
            return;
        };
        assert_eq!(status, wanted, "{method} {path} on {there:?}: {answer}");
        counter.fetch_add(1, Ordering::SeqCst);
        if !refused {
            known.answered(address);
        }
    }
}

/// Waits until the control plane answers, and checks what it holds.
fn check(gateway: &Gateway, known: &Known, after: &str) {
    let asked = Instant::now();
    let there = loop {
        match records(gateway) {
            Ok(there) => break there,
            Err(error) => assert!(asked.elapsed() < SOON, "after {after}: {error}"),
        }
        thread::sleep(Duration::from_millis(1));
    };
    known.settle(&there, after);
}

/// Kills `sallyport serve`, which runs, at random points and starts it again each time.
fn kill_again_and_again(gateway: &Gateway, known: &Known, random: &mut Random) {
    for kill in 1..=KILLS {
        thread::scope(|scope| {
            let life = if kill % (KILLS / IN_STARTS) == 0 {
                random.micros(0, 40_000)
            } else {
                check(gateway, known, &format!("kill {}", kill - 1));
                for client in 0..CLIENTS {
                    let mut random = Random(random.next());
                    scope.spawn(move || change_until_it_is_gone(gateway, known, client, &mut random));
                }
                // Workers of before are waited for until 2.1 s after the start.
                let late = kill % (KILLS / LATE) == 1;
                if late { random.micros(2_150_000, 2_500_000) } else { random.micros(5_000, 60_000) }
            };
            // The one thing here that is about time itself.
            thread::sleep(life);
            if kill % 2 == 0 {
                known.seen(gateway);
            }
            gateway.signal(Signal::KILL);
        });
        gateway.ended(SOON);
        gateway.serve();
    }
    check(gateway, known, "the last kill");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_there_after_each_of_200_kills_and_envoy_serves_all_the_while() {
    let _alone = ALONE.lock().await;
    let upstream = Upstream::start();
    let gateway = Gateway::before(&upstream).build();
    gateway.serve();
    eventually("the control plane listens", SOON, || gateway.try_call("GET", "/healthz", None).ok());
    gateway.start_envoy();
    let rig = Arc::new(Rig { upstream, gateway });
    let sandbox = Arc::new(rig.registered(&[REPO]));
    // Both workers know the record and have the certificates.
    for host in [PLAIN, API] {
        for _ in 0..20 {
            served(&sandbox, host, "/repos/acme/app/commits/before").await.unwrap();
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let traffic = tokio::spawn({
        let (stop, sandbox) = (Arc::clone(&stop), Arc::clone(&sandbox));
        async move {
            let mut kept = Client::connect(&sandbox, sandbox.address, PLAIN, Http::Two).await.unwrap();
            let mut count = 0_u32;
            while !stop.load(Ordering::SeqCst) {
                for _ in 0..5 {
                    kept.get("/kept").await.unwrap().ok().unwrap();
                    count += 1;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                served(&sandbox, PLAIN, "/new").await.unwrap();
                count += 1;
            }
            count
        }
    });
    let known = Arc::new(Known::default());
    let begun = Instant::now();
    let killing = tokio::task::spawn_blocking({
        let (rig, known, mut random) = (Arc::clone(&rig), Arc::clone(&known), Random::seeded());
        move || kill_again_and_again(&rig.gateway, &known, &mut random)
    });
    killing.await.unwrap();
    let alive = Instant::now();
    let count = |counter: &AtomicU32| counter.load(Ordering::SeqCst);
    println!(
        "{KILLS} kills in {:?}: {} registered, {} changed, {} removed, {} refused, {} not answered",
        begun.elapsed(),
        count(&known.registered),
        count(&known.changed),
        count(&known.removed),
        count(&known.refused),
        count(&known.unanswered)
    );
    for (what, counter) in [("registered", &known.registered), ("changed", &known.changed), ("removed", &known.removed)]
    {
        assert!(count(counter) >= 20, "{} {what}: this has tried nothing", count(counter));
    }
    assert!(count(&known.refused) >= 100 && count(&known.unanswered) >= 100);
    eventually_async("a credential is added again", SOON, async || {
        served(&sandbox, API, "/repos/acme/app/commits/after").await
    })
    .await;
    println!("a credential is added again {:?} after the last start", alive.elapsed());
    eventually_async("a host that had no certificate is reached", SOON, async || {
        served(&sandbox, "api.anthropic.com", "/after").await
    })
    .await;
    eventually("ready again", SOON, || rig.gateway.ready().then_some(()));
    println!("ready again {:?} after the last start", alive.elapsed());
    stop.store(true, Ordering::SeqCst);
    let requests = traffic.await.expect("a request to a plain host failed");
    println!("{requests} requests to a plain host meanwhile, all served");
    assert!(requests > 1_000, "{requests} requests are no traffic");
    // What the workers hold is what is there.
    rig.gateway.remove(sandbox.address);
    let mut client = Client::connect(&sandbox, sandbox.address, PLAIN, Http::Two).await.unwrap();
    assert_eq!(client.get("/removed").await.unwrap().rule.as_deref(), Some("identity.unknown"));
}

// kill -9 of Envoy.

#[tokio::test]
async fn envoy_is_back_and_serves_within_two_seconds_of_kill_9() {
    let _alone = ALONE.lock().await;
    let upstream = Upstream::start();
    let gateway = Gateway::before(&upstream).build();
    let begun = Instant::now();
    gateway.up();
    // On a machine that is busy a start takes longer, and so does this: it is hardly more than a start.
    let within = Duration::from_secs(2).max(begun.elapsed() + Duration::from_millis(500));
    let rig = Rig { upstream, gateway };
    let sandbox = rig.registered(&[REPO]);
    served(&sandbox, API, "/repos/acme/app/commits/before").await.unwrap();
    // Whatever else this machine does only makes it later, so the best of three is what the gateway needs.
    let mut took = Vec::new();
    for _ in 0..3 {
        let envoy = rig.gateway.envoy_pid().expect("Envoy runs");
        process::signal(envoy, Signal::KILL);
        let killed = Instant::now();
        eventually_async("a request is served", SOON, async || {
            served(&sandbox, API, "/repos/acme/app/commits/killed").await
        })
        .await;
        took.push(killed.elapsed());
        assert_ne!(rig.gateway.envoy_pid(), Some(envoy));
        eventually("ready", SOON, || rig.gateway.ready().then_some(()));
    }
    println!("served again {took:?} after kill -9 of Envoy, {within:?} were allowed");
    assert!(took.iter().any(|took| *took < within), "{took:?}, {within:?} were allowed");
}

// A full disk.

/// A large record, of which not many have room.
fn large(address: Ipv4Addr) -> Value {
    // With their numbers, so that they are not looked up.
    let repo = |id: u32| json!({"name": format!("acme/{}-{id}", "r".repeat(60)), "id": id, "default_branch": "main"});
    json!({"container_ip": address, "repos": (0..100).map(repo).collect::<Vec<_>>()})
}

/// How many audit lines did not come to disk because it refused them.
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

    // The file may have room inside.
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
        .expect("a full disk refuses a record at last");
    println!("{} records went in, the next was refused: {status} {body}", registered.len());
    assert_eq!(status, 507, "{body}");
    let told: Value = serde_json::from_str(&body).unwrap();
    assert!(told["error"].as_str().is_some_and(|error| error.contains("No space left")), "{body}");
    let path = |address: Ipv4Addr| format!("/internal/containers/{address}");
    let there = |address: Ipv4Addr| rig.gateway.call("GET", &path(address), None).0;
    assert_eq!(there(refused), 404);
    // A change, and a removal that cannot be kept, change nothing either; the old record is in force.
    let (status, body) =
        rig.gateway.call("PATCH", &path(sandbox.address), Some(&json!({"repos": large(refused)["repos"]})));
    assert_eq!(status, 507, "{body}");
    // What was refused may have let go of room.
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
    assert!(rig.gateway.warnings().iter().any(|warning| warning.contains("audit")), "{:?}", rig.gateway.warnings());

    // A gateway that starts now serves, too.
    rig.gateway.signal(Signal::KILL);
    rig.gateway.ended(SOON);
    rig.gateway.up();
    served(&sandbox, API, "/repos/acme/app/commits/started").await.unwrap();
    assert_eq!(there(refused), 404);
    assert_eq!(rig.gateway.call("POST", "/internal/containers", Some(&large(refused))).0, 507);

    // Room again: everything works, without a restart.
    fs::remove_file(&filler).unwrap();
    fs::remove_file(&more).unwrap();
    let (status, body) = rig.gateway.call("POST", "/internal/containers", Some(&large(refused)));
    assert_eq!(status, 201, "{body}");
    served(&sandbox, API, "/repos/acme/app/commits/room").await.unwrap();
    rig.gateway.audit_line("a request with room again", |line| line["path"] == "/repos/acme/app/commits/room");
    assert_eq!(rig.gateway.warnings(), [""; 0]);
    assert_eq!(written() + lost_now, REQUESTS);

    // And it is what is on disk.
    let before = rig.gateway.call("GET", "/internal/containers", None).1;
    rig.gateway.signal(Signal::KILL);
    rig.gateway.ended(SOON);
    rig.gateway.up();
    assert!(
        rig.gateway.call("GET", "/internal/containers", None).1 == before,
        "the records are others after a restart"
    );
    for address in registered.into_iter().chain([refused]) {
        assert_eq!(there(address), 200, "{address}");
    }
    served(&sandbox, API, "/repos/acme/app/commits/restarted").await.unwrap();
}

// Two gateways.

/// Every file below `directory`, and what tells whether somebody has touched it.
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
                eventually("it listens", SOON, || gateway.try_call("GET", "/healthz", None).ok());
            }
        }
        let before = touched(&state);
        for second in ["up", "serve"] {
            let refused = gateway.second(second);
            assert_eq!(refused.code, Some(1), "{second} beside {first}: {refused:?}");
            assert_eq!(refused.stderr.lines().count(), 1, "{second} beside {first}: {refused:?}");
            let state = state.display().to_string();
            assert!(
                refused.stderr.contains("another gateway is running") && refused.stderr.contains(&state),
                "{refused:?}"
            );
        }
        assert_eq!(touched(&state), before, "beside {first}");
        assert_eq!(gateway.call("GET", "/healthz", None).0, 200);
        // The lock ends with the process, however that ends.
        gateway.signal(Signal::KILL);
        gateway.ended(SOON);
        gateway.up();
    }
}

// What is left.

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
        // Something is under way.
        let mut client = Client::connect(&sandbox, sandbox.address, "api.anthropic.com", Http::Two).await.unwrap();
        let stream = Followed::new(client.open("/v1/stream").await.unwrap().into_body());
        eventually_async("the stream flows", SOON, async || if stream.bytes() > 0 { Ok(()) } else { Err("silent") })
            .await;
        assert_eq!(process::working_in(directory).len(), 2, "the control plane and Envoy");
        assert!(ports.iter().all(|port| TcpListener::bind(port).is_err()), "the ports are taken");
        rig.gateway.signal(signal);
        rig.gateway.ended(SOON);
        if signal == Signal::TERM {
            assert_eq!(process::working_in(directory), [0; 0], "after SIGTERM");
        }
        eventually("no process is left", Duration::from_secs(2), || {
            process::working_in(directory).is_empty().then_some(())
        });
        // The kernel closes a killed process's sockets a moment after it has let go of its directory.
        for port in ports {
            eventually(&format!("{port} is free after {signal:?}"), Duration::from_secs(2), || {
                TcpListener::bind(port).ok()
            });
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
        eventually_async("every stream brings more", SOON, async || {
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
        // On the connections of before, and on new ones.
        for (_, client) in clients.iter_mut().filter(|(http, _)| *http == Http::Two) {
            client.get("/after").await.unwrap().ok().unwrap();
        }
        for sandbox in &sandboxes {
            served(sandbox, API, "/repos/acme/app/commits/after").await.unwrap();
        }
    }
    println!("versions of the filter: {versions:?}");
    assert_eq!(rig.gateway.envoy_stat("extension_config_discovery.http_filter.identity.config_fail"), 0);
    assert_eq!(rig.gateway.warnings(), [""; 0]);
    // The code of before still guards the streams that it has let pass.
    rig.gateway.remove(sandboxes[0].address);
    eventually_async("the streams of the removed container end", SOON, async || {
        let open = streams[0].iter().filter(|stream| !stream.ended()).count();
        if open == 0 { Ok(()) } else { Err(format!("{open} are open")) }
    })
    .await;
    let others: Vec<&Followed> = streams[1].iter().collect();
    flow(&others).await;
}

// One of two.

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
        // RFC 6455 section 5.7: the upstream sends back whatever it gets.
        let message = [0x82, 0x84, 0, 0, 0, 0, b'o', b'p', b'e', b'0' + round];
        two.write_all(&message).await.unwrap();
        two.flush().await.unwrap();
        let mut echoed = [0; 10];
        timeout(SOON, two.read_exact(&mut echoed)).await.expect("the other's goes on").unwrap();
        assert_eq!(echoed, message);
        rig.gateway.register(first.address, &[]);
        *one = web_socket(&first, "api.anthropic.com", "/v1/echo").await.unwrap();
    }
}
