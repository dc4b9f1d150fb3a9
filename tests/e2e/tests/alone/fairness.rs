//! A flooding sandbox takes nothing from the others: the latency of another sandbox's requests during the flood,
//! measured against their latency just before.
//!
//! The flood runs at the lowest priority: a real sandbox has its own CPU, and the flood's CPU time here must not count
//! as the gateway's. Even so a program that only keeps the cores busy doubles the slowest 1 % on two cores. So [`Busy`]
//! does that during both measurements. Both latencies are measured twice, within seconds of each other. `factors`
//! compares them.

use flate2::Compression;
use flate2::write::ZlibEncoder;
use sha1::{Digest, Sha1};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use test_support::client::{Tls, tls, tunnel};
use test_support::process::lowest_priority;
use test_support::push::{Upload, Work, list};
use test_support::raw::greet;
use test_support::raw::h2::{Connection, Field};
use test_support::upstream::Visibility;
use test_support::{Client, Gateway, Http, Rig, Sandbox, Upstream, eventually_async};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Notify};

/// A host without a credential.
const PLAIN: &str = "api.anthropic.com";
/// A host with a credential.
const API: &str = "api.github.com";
const REPO: &str = "acme/app";
/// The timeout of a step of the flood.
const PATIENCE: Duration = Duration::from_secs(20);

/// The timeout for a flood's height on a slow machine, which takes seconds to use up a burst of thousands of requests.
const HEIGHT: Duration = Duration::from_secs(90);

/// The measurements of each kind in an attempt.
const ROUNDS: usize = 2;
/// The number of attempts if other programs use the machine. All their measurements count.
const ATTEMPTS: usize = 5;
/// The requests in each measurement. The slowest one in a hundred is left out.
const SAMPLES: usize = 240;
/// The limit for the slowdown of the others.
const FACTOR: f64 = 2.0;
/// The same in CI, whose machines are shared: on half the speed the limits of an address are twice the load.
const FACTOR_IN_CI: f64 = 3.0;

/// Keeps every core busy at the lowest priority until it is dropped.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..std::thread::available_parallelism().unwrap().get() {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                lowest_priority();
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(stop)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The state that a flood shares with its test.
#[derive(Default)]
struct Done {
    stop: AtomicBool,
    ended: Notify,
    count: AtomicU64,
}

impl Done {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.ended.notify_one();
    }

    /// Counts a step of the flood.
    fn step(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }
}

/// One kind of flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flood {
    /// Tunnels that are opened and dropped. Most refusals come after a delay of three seconds.
    Tunnels,
    /// Requests of an unregistered address. Each needs a lookup at the registry.
    Lookups,
    /// Handshakes with names that no other handshake has used.
    Names,
    /// Connections without a request, as many as the gateway leaves open.
    Idle,
    /// Streams of HTTP/2 that are reset at once.
    Resets,
    /// Requests whose large response is not read.
    SlowReaders,
    /// Requests one after the other, on many connections.
    Requests,
    /// Pushes that inflate to a thousand times their size.
    Bombs,
    /// Pushes of 20 refs with commits of which GitHub has to be asked.
    Refs,
}

impl Flood {
    /// The number of tasks that flood, and the steps that they take before the measurement, until they have used up the
    /// burst of their address: in the first attempt, and in later ones, after a pause of some seconds.
    fn size(self) -> (usize, u64, u64) {
        match self {
            Self::Tunnels | Self::Names => (64, 320, 80),
            Self::Lookups => (16, 50, 12),
            Self::Idle => (4, 1_300, 325),
            // 16 times the requests in a second, in two workers.
            Self::Resets => (8, 9_000, 5_000),
            Self::Requests => (64, 9_000, 5_000),
            Self::SlowReaders => (4, 9_000, 5_000),
            Self::Bombs => (6, 5, 5),
            Self::Refs => (4, 600, 450),
        }
    }

    /// Floods until the test stops it. Errors and refusals are steps, too: a flooder goes on after them.
    async fn run(self, sandbox: &Sandbox, push: &Pushes, done: &Done) {
        match self {
            Self::Tunnels => {
                let mut open = Vec::new();
                while !done.stopped() {
                    open.push(tunnel(sandbox, sandbox.address, PLAIN).await);
                    done.step();
                    if open.len() == 6 {
                        open.clear();
                    }
                }
            }
            Self::Names => {
                while !done.stopped() {
                    let name = format!("n{}.flood.example", done.count());
                    let _refused = greet(sandbox, sandbox.address, PLAIN, name.as_bytes(), PATIENCE).await;
                    done.step();
                }
            }
            Self::Lookups | Self::Requests => {
                while !done.stopped() {
                    // Start again after a refusal.
                    let _refused = requests(sandbox, done).await;
                }
            }
            Self::Idle => {
                let mut open: VecDeque<TcpStream> = VecDeque::new();
                while !done.stopped() {
                    let connected = sandbox.socket(sandbox.address).connect(sandbox.proxy.unwrap()).await;
                    open.extend(connected.ok());
                    if open.len() > HELD {
                        drop(open.pop_front());
                    }
                    done.step();
                }
            }
            Self::Resets => {
                while !done.stopped() {
                    let _closed = resets(sandbox, done).await;
                }
            }
            Self::SlowReaders => {
                let mut open = Vec::new();
                while !done.stopped() {
                    let reading = slow_readers(sandbox, done).await;
                    open.extend(reading.ok());
                    if open.len() > 16 {
                        open.clear();
                    }
                }
            }
            Self::Bombs | Self::Refs => {
                let body = if self == Self::Bombs { &push.bomb } else { &push.refs };
                while !done.stopped() {
                    done.step();
                    let _refused = send(sandbox, body).await;
                }
            }
        }
    }

    /// Runs the flood on threads of its own, until `stop` is set.
    fn start(self, sandbox: &Arc<Sandbox>, push: &Arc<Pushes>, done: &Arc<Done>) -> std::thread::JoinHandle<()> {
        let (sandbox, push, done) = (Arc::clone(sandbox), Arc::clone(push), Arc::clone(done));
        std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(2).on_thread_start(lowest_priority).enable_all().build().unwrap();
            for _ in 0..self.size().0 {
                let (sandbox, push, done) = (Arc::clone(&sandbox), Arc::clone(&push), Arc::clone(&done));
                runtime.spawn(async move { self.run(&sandbox, &push, &done).await });
            }
            runtime.block_on(done.ended.notified());
            // Requests under way end here.
            runtime.shutdown_background();
        })
    }
}

/// The number of connections that an idle flooder keeps.
const HELD: usize = 1_300;
/// The number of requests at a time on each connection of the flood.
const STREAMS: usize = 8;

async fn requests(sandbox: &Sandbox, done: &Done) -> io::Result<()> {
    let client = Client::connect(sandbox, sandbox.address, PLAIN, Http::Two).await?;
    let streams = (0..STREAMS).map(|_| async {
        let mut client = client.again();
        while !done.stopped() {
            client.get("/flood").await?;
            done.step();
        }
        Ok(())
    });
    futures::future::try_join_all(streams).await.map(drop)
}

fn get(path: &[u8]) -> [Field<'_>; 4] {
    [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"files.example.net"), (b":path", path)]
}

/// Requests and resets on one connection, until the gateway closes it.
async fn resets(sandbox: &Sandbox, done: &Done) -> io::Result<()> {
    let stream = tls(sandbox, sandbox.address, "files.example.net", Http::Two).await?;
    let mut connection = Connection::begin(stream, 1 << 20).await?;
    let fields = get(b"/flood");
    while !done.stopped() {
        let on = connection.request(&fields, false).await?;
        connection.reset(on).await?;
        done.step();
    }
    Ok(())
}

/// Requests for a large response on one connection, which is then not read.
async fn slow_readers(sandbox: &Sandbox, done: &Done) -> io::Result<Connection<Tls>> {
    let stream = tls(sandbox, sandbox.address, "files.example.net", Http::Two).await?;
    // Windows so large that only the gateway's own limits hold the response back.
    let mut connection = Connection::begin(stream, 1 << 30).await?;
    let fields = get(b"/large");
    for _ in 0..64 {
        connection.request(&fields, false).await?;
        done.step();
    }
    Ok(connection)
}

/// The bodies of hostile pushes.
struct Pushes {
    bomb: Vec<u8>,
    refs: Vec<u8>,
}

impl Pushes {
    /// Pushes to a repository whose branches are at `old`.
    fn to(old: &str) -> Self {
        // A thousand MiB of zeros. An update that the pack never proves, so the whole pack is inspected.
        let mut bomb = list(&[(old, &"1".repeat(40), "refs/heads/sandbox/r0")]);
        bomb.extend([b"PACK".as_slice(), &2_u32.to_be_bytes(), &5_u32.to_be_bytes()].concat());
        bomb.extend(object(3, 1_000 << 20));
        let mut zeros = ZlibEncoder::new(&mut bomb, Compression::best());
        io::copy(&mut io::repeat(0).take(1_000 << 20), &mut zeros).unwrap();
        zeros.finish().unwrap();
        // Each commit has 16 parents that nobody has.
        let commits: Vec<String> = (0..20).map(commit).collect();
        let names: Vec<String> =
            commits.iter().map(|commit| hex(&Sha1::digest(format!("commit {}\0{commit}", commit.len())))).collect();
        let branches: Vec<String> = (0..20).map(|number| format!("refs/heads/sandbox/r{number}")).collect();
        let updates: Vec<_> =
            names.iter().zip(&branches).map(|(new, branch)| (old, new.as_str(), branch.as_str())).collect();
        let mut pack = [b"PACK".as_slice(), &2_u32.to_be_bytes(), &20_u32.to_be_bytes()].concat();
        for commit in &commits {
            pack.extend(object(1, commit.len()));
            let mut deflated = ZlibEncoder::new(&mut pack, Compression::fast());
            deflated.write_all(commit.as_bytes()).unwrap();
            deflated.finish().unwrap();
        }
        let trailer = Sha1::digest(&pack);
        pack.extend(trailer);
        Self { bomb, refs: [list(&updates), pack].concat() }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The header of an object in a pack (gitformat-pack(5)).
fn object(kind: u8, size: usize) -> Vec<u8> {
    let mut bytes = vec![kind << 4 | u8::try_from(size & 15).unwrap()];
    let mut rest = size >> 4;
    while rest > 0 {
        *bytes.last_mut().unwrap() |= 0x80;
        bytes.push(u8::try_from(rest & 0x7f).unwrap());
        rest >>= 7;
    }
    bytes
}

/// A commit of the empty tree with 16 parents, whose names are made up of `number`.
fn commit(number: u32) -> String {
    let parents: String = (0..16).map(|parent| format!("parent {:040x}\n", 1 + number * 16 + parent)).collect();
    format!(
        "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n{parents}author a <a@b> 1 +0000\ncommitter a <a@b> 1 +0000\n\n{number}\n"
    )
}

/// Sends a push and reads the answer.
async fn send(sandbox: &Sandbox, body: &[u8]) -> io::Result<()> {
    let mut upload = Upload::begin(sandbox, REPO).await?;
    for chunk in body.chunks(64 << 10) {
        upload.send(chunk).await?;
    }
    upload.end().await?;
    upload.hear().await.map(drop)
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

/// The gateway of the floods that need no settings of their own. Each flood has sandboxes of its own.
fn rig() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(Rig::start)
}

/// One measurement at a time.
static MEASURED: Mutex<()> = Mutex::const_new(());

/// Measures another sandbox before and during `floods`, each from a sandbox of its own. The caller holds [`MEASURED`].
async fn assert_fair(rig: &Rig, floods: &[(Flood, Arc<Sandbox>)], push: &Arc<Pushes>) {
    let _busy = Busy::start();
    // A first measurement warms all caches. Each one has a sandbox of its own: an address may not open tunnels so fast.
    let measured = async || slowest(&rig.registered(&[REPO])).await;
    measured().await;
    let mut rounds = Vec::new();
    for attempt in 0..ATTEMPTS {
        let mut before = Vec::new();
        for _ in 0..ROUNDS {
            before.push(measured().await);
        }
        let running: Vec<_> = floods
            .iter()
            .map(|(flood, sandbox)| {
                let done = Arc::new(Done::default());
                (*flood, flood.start(sandbox, push, &done), done)
            })
            .collect();
        for (flood, _, done) in &running {
            eventually_async("the flood is at its height", HEIGHT, async || {
                let (_, first, later) = flood.size();
                let enough = if attempt == 0 { first } else { later };
                if done.count() > enough { Ok(()) } else { Err((flood, done.count())) }
            })
            .await;
        }
        let begun = Instant::now();
        let from: Vec<u64> = running.iter().map(|(_, _, done)| done.count()).collect();
        for before in before {
            let meanwhile = measured().await;
            println!("before {before:?}, meanwhile {meanwhile:?}");
            rounds.push((before, meanwhile));
        }
        let elapsed = begun.elapsed().as_secs_f64();
        for ((flood, _, done), from) in running.iter().zip(from) {
            println!("    {flood:?}: {:.0} in a second", (done.count() - from) as f64 / elapsed);
            done.stop();
        }
        for (_, thread, _) in running {
            thread.join().unwrap();
        }
        println!("slowdown factors: {:?}", factors(&rounds));
        let limit = if std::env::var_os("CI").is_some() { FACTOR_IN_CI } else { FACTOR };
        if factors(&rounds).iter().all(|(_, factor)| *factor <= limit) {
            return;
        }
    }
    panic!("slowdown factors: {:?}, {rounds:?}", factors(&rounds));
}

fn no_push() -> Arc<Pushes> {
    Arc::new(Pushes { bomb: Vec::new(), refs: Vec::new() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_one_sandbox_makes_no_queue_for_another_one() {
    let _alone = MEASURED.lock().await;
    let upstream = Upstream::start();
    // An address with as many connections as these floods open at once.
    let settings = "limits: {stranger_connections: 512}\n";
    let gateway = Gateway::before(&upstream).settings(settings).up();
    let rig = Rig { upstream, gateway };
    let flooder = Arc::new(rig.sandbox());
    let floods = [Flood::Lookups, Flood::Tunnels, Flood::Names].map(|flood| (flood, Arc::clone(&flooder)));
    assert_fair(&rig, &floods, &no_push()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_of_a_stranger_slow_nobody_down() {
    let _alone = MEASURED.lock().await;
    let rig = rig();
    assert_fair(rig, &[(Flood::Idle, Arc::new(rig.sandbox()))], &no_push()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rapid_reset_slows_nobody_down() {
    let _alone = MEASURED.lock().await;
    let rig = rig();
    assert_fair(rig, &[(Flood::Resets, Arc::new(rig.registered(&[])))], &no_push()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_of_large_responses_slow_nobody_down() {
    let _alone = MEASURED.lock().await;
    let rig = rig();
    assert_fair(rig, &[(Flood::SlowReaders, Arc::new(rig.registered(&[])))], &no_push()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registered_flooder_slows_nobody_down() {
    let _alone = MEASURED.lock().await;
    let rig = rig();
    let flooder = Arc::new(rig.registered(&[]));
    let floods = [Flood::Requests, Flood::Tunnels, Flood::Names].map(|flood| (flood, Arc::clone(&flooder)));
    assert_fair(rig, &floods, &no_push()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_pushes_slow_nobody_down() {
    let _alone = MEASURED.lock().await;
    let rig = rig();
    let bare = rig.upstream.create_repo(REPO, Visibility::Private);
    let work = Work::of(&bare);
    let seed = work.seed();
    (0..20).for_each(|number| work.deliver(&seed, &format!("refs/heads/sandbox/r{number}")));
    let push = Arc::new(Pushes::to(&seed));
    for flood in [Flood::Bombs, Flood::Refs] {
        assert_fair(rig, &[(flood, Arc::new(rig.registered(&[REPO])))], &push).await;
    }
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
