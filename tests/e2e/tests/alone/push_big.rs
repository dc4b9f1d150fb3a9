//! Pushes of hundreds of megabytes: all bytes but their end are forwarded while they wait, and memory holds none of
//! them.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use test_support::process::{cpu_time, peak_memory};
use test_support::push::{Upload, Work, ZERO, at, list, pkt};
use test_support::upstream::Visibility;
use test_support::upstream::pranks::{Api, End, Prank};
use test_support::{Answer, Rig, Sandbox, eventually_async};

const X: &str = "refs/heads/sandbox/x";
/// The trailer of a pack. No server accepts a pack without it.
const TRAILER: u64 = 20;
/// The limit of growth in a second push of equal size.
const SECOND: u64 = 32 << 20;
/// The limit of growth of all pushes over a small one.
const ALL: u64 = 96 << 20;
/// The timeout of a push of this size.
const WHILE: Duration = Duration::from_secs(60);

/// One test at a time: they measure.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A repository in which a push to [`X`] needs a comparison by GitHub: the pushed commit descends from the ref through
/// a commit that is not in the pack.
struct Place<'a> {
    rig: &'a Rig,
    repo: String,
    bare: PathBuf,
    sandbox: Sandbox,
    seed: String,
    new: String,
    pack: PathBuf,
}

impl<'a> Place<'a> {
    fn new(rig: &'a Rig, size: u64) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let repo = format!("acme/big-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let bare = rig.upstream.create_repo(&repo, Visibility::Private);
        let work = Work::of(&bare);
        let seed = work.seed();
        let between = work.commit(&[&seed], "between");
        let new = work.commit_random(&[&between], size);
        work.deliver(&between, "refs/heads/other");
        work.deliver(&seed, X);
        let pack = work.pack_file(&[&new], &[&between]);
        let sandbox = rig.registered(&[&repo]);
        Self { rig, repo, bare, sandbox, seed, new, pack }
    }

    fn arrived(&self) -> u64 {
        let pushes = self.rig.upstream.requests_with(&format!("{}.git/git-receive-pack", self.repo));
        pushes.iter().map(|push| push.body_bytes).sum()
    }

    fn length(&self, head: &[u8]) -> u64 {
        head.len() as u64 + fs::metadata(&self.pack).unwrap().len()
    }

    /// Pushes `head` and then `pack`, and prints the cost.
    async fn push(&self, what: &str, head: &[u8], pack: &Path) -> Answer {
        let envoy = self.rig.gateway.envoy_pid().unwrap();
        let (begun, before) = (Instant::now(), cpu_time(envoy));
        let mut upload = Upload::begin(&self.sandbox, &self.repo).await.unwrap();
        upload.send(head).await.unwrap();
        upload.send_file(pack).await.unwrap();
        upload.end().await.unwrap();
        let answer = upload.hear().await.unwrap();
        let megabytes = fs::metadata(pack).unwrap().len() as f64 / 1e6;
        let (wall, cpu) = (begun.elapsed().as_secs_f64(), (cpu_time(envoy) - before).as_secs_f64());
        println!(
            "{what}: {megabytes:.0} MB in {wall:.1} s, {:.0} MB/s; Envoy took {:.2} s of CPU for 100 MB",
            megabytes / wall,
            cpu * 100.0 / megabytes
        );
        answer
    }

    /// From now on github.com only counts the bytes, so that git's own work is not measured.
    fn sink(&self) {
        let report = [pkt(b"unpack ok\n"), pkt(format!("ok {X}\n").as_bytes()), b"0000".to_vec()].concat();
        let body = [pkt(&[&[1], &report[..]].concat()), b"0000".to_vec()].concat();
        let headers = vec![("content-type", "application/x-git-receive-pack-result".to_owned())];
        let prank = Prank { after: u64::MAX, status: 200, headers, body, end: End::Whole };
        self.rig.upstream.set_git(&format!("/{}.git/git-receive-pack", self.repo), Some(prank));
    }
}

#[track_caller]
fn assert_done(answer: &Answer) {
    assert_eq!((answer.status, answer.rule.as_deref()), (200, None), "{answer:?}");
    assert!(answer.body.contains(&format!("ok {X}")), "{answer:?}");
}

#[tokio::test]
async fn of_200_mb_all_but_the_end_goes_on_while_the_push_waits() {
    let _alone = ALONE.lock().await;
    let rig = Rig::start();
    let place = Place::new(&rig, 200 << 20);
    let head = list(&[(&place.seed, &place.new, X)]);
    let length = place.length(&head);
    let compare = format!("{}/compare/", place.repo);
    rig.upstream.set_api(&compare, Some(Api::Held));
    let mut upload = Upload::begin(&place.sandbox, &place.repo).await.unwrap();
    upload.send(&head).await.unwrap();
    upload.send_file(&place.pack).await.unwrap();
    upload.end().await.unwrap();
    eventually_async("the comparison is requested", WHILE, async || match rig.upstream.requests_with(&compare).len() {
        0 => Err(place.arrived()),
        _ => Ok(()),
    })
    .await;
    let came = eventually_async("all forwardable bytes were forwarded", Duration::from_secs(5), async || {
        let came = place.arrived();
        if came >= length / 100 * 99 { Ok(came) } else { Err(came) }
    })
    .await;
    println!("{came} of {length} bytes have gone on");
    assert!(came + TRAILER <= length, "{came} of {length} bytes");
    assert_eq!(at(&place.bare, X).as_ref(), Some(&place.seed));
    rig.upstream.set_api(&compare, None);
    assert_done(&upload.hear().await.unwrap());
    assert_eq!((at(&place.bare, X).as_ref(), place.arrived()), (Some(&place.new), length));
}

/// The peak memory of sallyport and of Envoy.
fn peaks(rig: &Rig) -> [u64; 2] {
    [peak_memory(rig.gateway.pid()), peak_memory(rig.gateway.envoy_pid().expect("Envoy runs"))]
}

#[track_caller]
fn assert_growth(what: &str, before: [u64; 2], after: [u64; 2], limit: u64) {
    for (name, before, after) in [("sallyport", before[0], after[0]), ("Envoy", before[1], after[1])] {
        println!("{what}: the peak of {name} went from {} to {} KiB", before / 1024, after / 1024);
        assert!(after.saturating_sub(before) < limit, "{what}: the peak of {name} grew from {before} to {after} bytes");
    }
}

async fn memory_does_not_grow(size: u64) {
    let _alone = ALONE.lock().await;
    let rig = Rig::start();
    let small = Place::new(&rig, 1 << 10);
    assert_done(&small.push("small", &list(&[(&small.seed, &small.new, X)]), &small.pack).await);
    let idle = peaks(&rig);

    // Twice through git. The gateway reads each pack to its end, since no part of it proves the descent.
    let mut first = idle;
    for round in ["the first", "the second"] {
        let place = Place::new(&rig, size);
        let head = list(&[(&place.seed, &place.new, X)]);
        assert_done(&place.push(round, &head, &place.pack).await);
        assert_eq!((at(&place.bare, X).as_ref(), place.arrived()), (Some(&place.new), place.length(&head)));
        let now = peaks(&rig);
        assert_growth(round, first, now, if round == "the first" { ALL } else { SECOND });
        first = now;
    }

    // Pushes refused by their names, by their pack, and by GitHub's response. All of each is read and dropped.
    let place = Place::new(&rig, size);
    let head = list(&[(&place.seed, &place.new, "refs/heads/main")]);
    let answer = place.push("refused by its name", &head, &place.pack).await;
    assert_eq!((answer.status, answer.rule.as_deref()), (200, Some("push.protected")), "{answer:?}");
    assert_eq!(place.arrived(), 0);
    let answer = place.push("refused by where it is", &list(&[(ZERO, &place.new, X)]), &place.pack).await;
    assert_eq!((answer.status, answer.rule.as_deref()), (200, Some("push.stale")), "{answer:?}");
    let twice = [list(&[(&place.seed, &place.new, X)]), b"PACK\0\0\0\x02\0\0\0\0".to_vec()].concat();
    let answer = place.push("refused by its pack", &twice, &place.pack).await;
    assert_eq!((answer.status, answer.rule.as_deref()), (200, Some("push.malformed")), "{answer:?}");
    assert_eq!(at(&place.bare, X).as_ref(), Some(&place.seed));
    let now = peaks(&rig);
    assert_growth("three refused ones", first, now, SECOND);
    assert_growth("all of them", idle, now, ALL);
}

#[tokio::test]
async fn pushes_of_200_mb_that_pass_or_are_refused_do_not_grow_memory() {
    memory_does_not_grow(200 << 20).await;
}

#[tokio::test]
#[ignore = "takes a minute and 10 GB of disk"]
async fn pushes_of_1_gb_that_pass_or_are_refused_do_not_grow_memory() {
    memory_does_not_grow(1 << 30).await;
}

/// The cost of reading a pack: the same pack without a need of proof, so that nearly all of it goes unread; read as a
/// whole; and dropped.
#[tokio::test]
#[ignore = "it proves nothing: it prints what reading a push costs"]
async fn what_reading_costs() {
    let _alone = ALONE.lock().await;
    let rig = Rig::start();
    let place = Place::new(&rig, 200 << 20);
    place.sink();
    // Text that deflates to three quarters.
    let work = Work::of(&place.bare);
    let between = String::from_utf8(work.git(&["rev-parse", "origin/other"], b"")).unwrap().trim().to_owned();
    let mut random = vec![0; 100 << 20];
    File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
    let text = work.commit(&[&between], &BASE64_STANDARD.encode(random));
    let deflated = place.pack.with_extension("deflated");
    File::create(&deflated).unwrap().write_all(&work.pack(&[&text], &[&between])).unwrap();
    for (kind, new, pack) in [("stored", &place.new, &place.pack), ("deflated", &text, &deflated)] {
        for round in 0..3 {
            let created = format!("refs/heads/sandbox/{kind}-{round}");
            let free = place.push(&format!("{kind}, unread"), &list(&[(ZERO, new, &created)]), pack).await;
            assert_eq!((free.status, free.rule.as_deref()), (200, None), "{free:?}");
            assert_done(&place.push(&format!("{kind}, read"), &list(&[(&place.seed, new, X)]), pack).await);
            let head = list(&[(&place.seed, new, "refs/heads/main")]);
            let dropped = place.push(&format!("{kind}, dropped"), &head, pack).await;
            assert_eq!(dropped.rule.as_deref(), Some("push.protected"), "{dropped:?}");
        }
    }
}
