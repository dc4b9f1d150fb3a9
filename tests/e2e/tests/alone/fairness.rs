//! A flooding sandbox takes nothing from the others: the latency of another sandbox's requests during the flood,
//! measured against their latency just before.
//!
//! The flood runs at the lowest priority: a real sandbox has its own CPU, and the flood's CPU time here must not count
//! as the gateway's. Each round measures both latencies within seconds, and at least three rounds count. `factors`
//! compares them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use test_support::client::tunnel;
use test_support::process::lowest_priority;
use test_support::raw::greet;
use test_support::{Client, Http, Rig, Sandbox, eventually_async};

/// A host without a credential.
const PLAIN: &str = "api.anthropic.com";
/// A host with a credential.
const API: &str = "api.github.com";
const REPO: &str = "acme/app";
/// The timeout of a step of the flood.
const PATIENCE: Duration = Duration::from_secs(20);

const ROUNDS: usize = 3;
/// The number of rounds if other programs use the machine.
const MOST_ROUNDS: usize = 9;
/// The requests in each measurement. The slowest one in a hundred is left out.
const SAMPLES: usize = 400;
/// Connections that one address may open at once, on two workers.
const AT_ONCE: u64 = 2 * 256;
/// The limit for the slowdown of the others.
const FACTOR: f64 = 2.0;

/// The progress of the flood.
#[derive(Default)]
struct Done {
    stop: AtomicBool,
    tunnels: AtomicU64,
    lookups: AtomicU64,
    names: AtomicU64,
}

impl Done {
    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::SeqCst);
    }

    fn all(&self) -> [u64; 3] {
        [&self.tunnels, &self.lookups, &self.names].map(|counter| counter.load(Ordering::SeqCst))
    }
}

/// Opens tunnels and drops them, in a loop.
async fn flood_of_tunnels(sandbox: &Sandbox, done: &Done) {
    let mut open = Vec::new();
    while !done.stop.load(Ordering::SeqCst) {
        // A refusal counts as a response, too.
        open.push(tunnel(sandbox, sandbox.address, PLAIN).await);
        Done::count(&done.tunnels);
        if open.len() == 6 {
            open.clear();
        }
    }
}

/// Requests of an unregistered address. Each needs a lookup at the registry.
async fn flood_of_lookups(sandbox: &Sandbox, done: &Done) -> io::Result<()> {
    let client = Client::connect(sandbox, sandbox.address, PLAIN, Http::Two).await?;
    let streams = (0..STREAMS).map(|_| async {
        let mut client = client.again();
        while !done.stop.load(Ordering::SeqCst) {
            client.get("/flood").await?;
            Done::count(&done.lookups);
        }
        Ok(())
    });
    futures::future::try_join_all(streams).await.map(drop)
}

/// The number of requests at a time on each connection of the flood.
const STREAMS: usize = 8;

/// Handshakes with names that no other handshake has used.
async fn flood_of_names(sandbox: &Sandbox, done: &Done) {
    while !done.stop.load(Ordering::SeqCst) {
        let name = format!("n{}.flood.example", done.names.load(Ordering::SeqCst));
        // The gateway refuses the tunnel if too many are open.
        let _refused = greet(sandbox, sandbox.address, PLAIN, name.as_bytes(), PATIENCE).await;
        Done::count(&done.names);
    }
}

/// All floods at once, on their own threads, until `stop` is set.
fn flood(sandbox: &Arc<Sandbox>, done: &Arc<Done>) -> std::thread::JoinHandle<()> {
    let (sandbox, done) = (Arc::clone(sandbox), Arc::clone(done));
    std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).on_thread_start(lowest_priority).enable_all().build().unwrap();
        let mut tasks = Vec::new();
        for _ in 0..16 {
            let (s, d) = (Arc::clone(&sandbox), Arc::clone(&done));
            tasks.push(runtime.spawn(async move {
                while !d.stop.load(Ordering::SeqCst) {
                    // Start again after a refusal.
                    let _refused = flood_of_lookups(&s, &d).await;
                }
            }));
        }
        // Most refusals come after a delay of three seconds.
        for _ in 0..64 {
            let (s, d) = (Arc::clone(&sandbox), Arc::clone(&done));
            tasks.push(runtime.spawn(async move { flood_of_tunnels(&s, &d).await }));
            let (s, d) = (Arc::clone(&sandbox), Arc::clone(&done));
            tasks.push(runtime.spawn(async move { flood_of_names(&s, &d).await }));
        }
        runtime.block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
    })
}

/// The 99th percentile of requests on persistent connections, and of new connections with their handshakes.
#[derive(Clone, Copy, Debug)]
struct Slowest {
    kept: Duration,
    fresh: Duration,
}

async fn slowest(sandbox: &Sandbox) -> Slowest {
    let p99 = |mut took: Vec<Duration>| {
        took.sort();
        took[took.len() * 99 / 100]
    };
    let mut kept = Vec::new();
    for host in [PLAIN, API] {
        let mut client = Client::connect(sandbox, sandbox.address, host, Http::Two).await.unwrap();
        for _ in 0..SAMPLES / 2 {
            let begun = Instant::now();
            client.get("/repos/acme/app/commits/kept").await.unwrap().ok().unwrap();
            kept.push(begun.elapsed());
        }
    }
    let mut fresh = Vec::new();
    for number in 0..SAMPLES / 2 {
        let host = if number % 2 == 0 { PLAIN } else { API };
        let begun = Instant::now();
        let mut client = Client::connect(sandbox, sandbox.address, host, Http::Two).await.unwrap();
        client.get("/repos/acme/app/commits/fresh").await.unwrap().ok().unwrap();
        fresh.push(begun.elapsed());
    }
    Slowest { kept: p99(kept), fresh: p99(fresh) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_one_sandbox_makes_no_queue_for_another_one() {
    let rig = Rig::start();
    let (known, flooder) = (rig.registered(&[REPO]), Arc::new(rig.sandbox()));
    // A first measurement warms all caches.
    slowest(&known).await;
    let mut rounds = Vec::new();
    for round in 0..MOST_ROUNDS {
        let before = slowest(&known).await;
        let done = Arc::new(Done::default());
        let thread = flood(&flooder, &done);
        eventually_async("the flood is at its height", PATIENCE, async || {
            let all = done.all();
            // The flood has used up the burst of its address.
            let at_once = if round == 0 { AT_ONCE } else { 0 };
            if all.iter().all(|count| *count > 50) && all[0] + all[2] > at_once { Ok(()) } else { Err(all) }
        })
        .await;
        let (begun, from) = (Instant::now(), done.all());
        let meanwhile = slowest(&known).await;
        let (elapsed, to) = (begun.elapsed(), done.all());
        done.stop.store(true, Ordering::SeqCst);
        thread.join().unwrap();
        let rate = |kind: usize| (to[kind] - from[kind]) as f64 / elapsed.as_secs_f64();
        println!(
            "round {round}: before {before:?}, meanwhile {meanwhile:?}; in a second {:.0} tunnels, {:.0} lookups, {:.0} names",
            rate(0),
            rate(1),
            rate(2)
        );
        // All tunnels and names may be in the three-second delay of a refusal.
        assert!(to[1] > from[1] + 20 && to.iter().all(|count| *count > 50), "the flood was too small: {from:?} {to:?}");
        rounds.push((before, meanwhile));
        if round + 1 >= ROUNDS && factors(&rounds).iter().all(|(_, factor)| *factor <= FACTOR) {
            return;
        }
    }
    panic!("slowdown factors: {:?}, {rounds:?}", factors(&rounds));
}

/// The factor by which requests are slower during the flood. Other work on the machine makes requests slower too, so
/// the smaller of two ratios counts. The ratio of the best rounds of each kind holds if the machine is mostly idle. The
/// median ratio of the rounds holds if the machine is always busy, before and during the flood. A queue makes both
/// larger.
fn factors(rounds: &[(Slowest, Slowest)]) -> [(&'static str, f64); 2] {
    let factor = |pick: fn(&Slowest) -> Duration| {
        let best =
            |of: fn(&(Slowest, Slowest)) -> &Slowest| rounds.iter().map(of).map(pick).min().unwrap().as_secs_f64();
        let mut paired: Vec<f64> = rounds
            .iter()
            .map(|(before, meanwhile)| pick(meanwhile).as_secs_f64() / pick(before).as_secs_f64())
            .collect();
        paired.sort_by(f64::total_cmp);
        (best(|(_, meanwhile)| meanwhile) / best(|(before, _)| before)).min(paired[paired.len() / 2])
    };
    [
        ("a request on a kept connection", factor(|slowest| slowest.kept)),
        ("a request on a new connection", factor(|slowest| slowest.fresh)),
    ]
}
