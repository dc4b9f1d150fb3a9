//! kill -9 of the control plane, 200 times: confirmed changes survive each kill, and Envoy serves all the while.

use super::{ALONE, API, PLAIN, REPO, SOON, record, records, served};
use serde_json::json;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use test_support::process::Signal;
use test_support::{Client, Gateway, Http, Rig, Upstream, eventually, eventually_async, holds};
use tokio::time::timeout;

/// The number of kills.
const KILLS: u32 = 200;
/// The kills that come during a start.
const IN_STARTS: u32 = 40;
/// The kills that come only when the start no longer waits for earlier workers (2.1 s), so that changes and removals are
/// confirmed.
const LATE: u32 = 12;
/// The removals that are confirmed before each of these.
const EACH_LATE: u32 = 2;
/// The pause between two requests of the traffic, which leaves a core to the killed process.
const BETWEEN: Duration = Duration::from_millis(1);
/// The number of clients that change the registry at a time, each with its own addresses.
const CLIENTS: u8 = 3;
/// The number of addresses of each client.
const ADDRESSES: u8 = 15;

/// Random numbers that a seed reproduces (SplitMix64).
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

/// The state of an address: no record, or the record of this number.
type At = Option<u32>;

/// The possible states of one address: the certain one, then one for each later change without a response.
struct Possible(Vec<At>);

/// The possible states of all addresses. A record with any other number was refused, or is incomplete.
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
    /// The state of `address` if all requested changes have taken effect.
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

    /// Checks that the state is a possible one, and makes it the certain one. No change may be under way.
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

    /// A visible record is certain, too: it is on disk before the API shows it.
    fn seen(&self, gateway: &Gateway) {
        let before: HashMap<IpAddr, Vec<At>> = {
            let by_address = self.by_address.lock().unwrap();
            by_address.iter().map(|(address, possible)| (*address, possible.0.clone())).collect()
        };
        let Ok(there) = records(gateway) else { return };
        let mut by_address = self.by_address.lock().unwrap();
        for (address, possible) in by_address.iter_mut() {
            // Each number has one record, so seeing it rules out all earlier states. A missing record rules out none:
            // nothing may have been there before.
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

/// Sends changes until one gets no response.
fn change_until_it_is_gone(gateway: &Gateway, known: &Known, client: u8, random: &mut Random) {
    loop {
        let address = IpAddr::from(Ipv4Addr::new(10, 222, client, 1 + random.below(ADDRESSES.into()) as u8));
        let number = known.next.fetch_add(1, Ordering::SeqCst);
        let mut body = record(number);
        let path = format!("/internal/containers/{address}");
        let there = known.last(address);
        let dice = random.below(10);
        // A refused change has a number that must never be seen.
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

/// Waits until the control plane responds, and checks its records.
fn check(gateway: &Gateway, known: &Known, after: &str) {
    let there = eventually(&format!("the API returns the records after {after}"), SOON, || records(gateway).ok());
    known.settle(&there, after);
}

/// Kills the running `sallyport serve` at random moments, and starts it again each time.
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
                if kill % (KILLS / LATE) == 1 {
                    let before = known.removed.load(Ordering::SeqCst);
                    eventually("removals are confirmed", SOON, || {
                        (known.removed.load(Ordering::SeqCst) >= before + EACH_LATE).then_some(())
                    });
                }
                random.micros(5_000, 60_000)
            };
            // The only sleep here whose length is itself under test.
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
    gateway.up_apart();
    let rig = Arc::new(Rig { upstream, gateway });
    let sandbox = Arc::new(rig.registered(&[REPO]));
    // Afterwards both workers know the record and have the certificates.
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
                    tokio::time::sleep(BETWEEN).await;
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
        assert!(count(counter) >= 20, "{} {what}: too few to test anything", count(counter));
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
    assert!(requests > 1_000, "{requests} requests are too little traffic");
    // The workers' records are the registry's.
    rig.gateway.remove(sandbox.address);
    let mut client = Client::connect(&sandbox, sandbox.address, PLAIN, Http::Two).await.unwrap();
    assert_eq!(client.get("/removed").await.unwrap().rule.as_deref(), Some("identity.unknown"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_name_is_reached_soon_after_the_control_plane_was_away() {
    let _alone = ALONE.lock().await;
    let upstream = Upstream::start();
    let gateway = Gateway::before(&upstream).build();
    gateway.up_apart();
    let rig = Rig { upstream, gateway };
    let sandbox = rig.registered(&[]);
    served(&sandbox, PLAIN, "/before").await.unwrap();
    rig.gateway.signal(Signal::KILL);
    rig.gateway.ended(SOON);
    // Long enough for Envoy's own pauses between two tries to grow beyond what follows.
    let away = || rig.gateway.try_call("GET", "/healthz", None).is_err();
    holds("there is no control plane", Duration::from_secs(25), away);
    rig.gateway.serve();
    rig.gateway.listens();
    let back = Instant::now();
    timeout(Duration::from_secs(4), served(&sandbox, "api.anthropic.com", "/after")).await.unwrap().unwrap();
    println!("a new name is reached {:?} after the start", back.elapsed());
}
