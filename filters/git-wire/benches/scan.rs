//! Measures parsing a push: `cargo bench -p git-wire --bench scan [-- REPOSITORY]`. The default is this repository.
//!
//! The packs hold the newest commits, from ten to all. For each: the scanner's speed and memory, and the share of the
//! pack after which the fast-forward is proved. Then the time for what [`Scanner::work`] counts: for each inflated byte,
//! each byte of the pack, and each byte of a commit's text.

#![expect(clippy::unwrap_used, reason = "a benchmark")]

use flate2::Compression;
use flate2::write::ZlibEncoder;
use git_wire::Oid;
use git_wire::pack::{HASHING, READING, Scanner};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The size in which bytes arrive at the filter.
const CHUNK: usize = 16 << 10;
/// Each pack is parsed repeatedly for at least this long.
const AT_LEAST: Duration = Duration::from_secs(2);

fn main() {
    let repository = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_else(|| ".".into());
    let git = |args: &[&str], input: &str| git(Path::new(&repository), args, input);
    let all = git(&["rev-list", "--first-parent", "HEAD"], "");
    let all: Vec<&str> = std::str::from_utf8(&all).unwrap().lines().collect();
    println!("{:>8} {:>9} {:>8} {:>9} {:>8} {:>15}", "commits", "pack", "MB/s", "memory", "reads", "proved after");
    for behind in [10, 100, 1_000, 5_000, usize::MAX] {
        let (Some(tip), old) = (all.first(), all.get(behind)) else { continue };
        if old.is_none() && behind != usize::MAX {
            continue;
        }
        let range = old.map_or(format!("{tip}\n"), |old| format!("{tip}\n^{old}\n"));
        let pack = git(&["pack-objects", "-q", "--revs", "--stdout", "--thin", "--delta-base-offset"], &range);
        report(&pack, tip, old.or(all.last()).copied().unwrap());
    }
    costs();
}

/// Prints the time of each unit of work.
fn costs() {
    const SIZE: usize = 64 << 20;
    let mut noise = 1_u64;
    let random: Vec<u8> = std::iter::repeat_with(|| {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        noise.to_be_bytes()[0]
    })
    .take(SIZE)
    .collect();
    // Half random, half repeated: about as compressible as sources.
    let mixed: Vec<u8> = random.chunks(16).flat_map(|part| [&part[..8], b"the same"].concat()).collect();
    let zeros = vec![0; SIZE];
    let text =
        [format!("tree {}\nauthor x\n\n", "a".repeat(40)).as_bytes(), &mixed[..1 << 20][..(1 << 20) - 64]].concat();
    println!("{:>16} {:>9} {:>10} {:>10} {:>12}", "objects", "pack", "work", "time", "per work");
    for (what, kind, objects) in [
        ("zeros", 3, vec![&zeros[..]]),
        ("random", 3, vec![&random]),
        ("mixed", 3, vec![&mixed]),
        ("empty", 3, vec![&[][..]; 1 << 20]),
        ("commits", 1, vec![&text; 60]),
    ] {
        let pack = made(kind, &objects);
        let start = Instant::now();
        let mut scanner = Scanner::default();
        pack.chunks(1 << 20).for_each(|chunk| _ = scanner.feed(chunk, u64::MAX).unwrap());
        let (time, work) = (start.elapsed(), scanner.work());
        let per = time.as_secs_f64() * 1e9 / f64::from(u32::try_from(work >> 10).unwrap()) / 1024.0;
        println!(
            "{what:>16} {:>9} {:>8} Mi {:>7.1} ms {per:>9.3} ns",
            megabytes(pack.len()),
            work >> 20,
            time.as_secs_f64() * 1e3
        );
    }
    println!("reading a byte counts as {READING}, hashing one as {HASHING}");
}

/// A pack without a trailer.
fn made(kind: u8, objects: &[&[u8]]) -> Vec<u8> {
    let mut pack = [&b"PACK"[..], &2_u32.to_be_bytes(), &u32::try_from(objects.len()).unwrap().to_be_bytes()].concat();
    for object in objects {
        let (mut byte, mut rest) = (kind << 4 | u8::try_from(object.len() & 15).unwrap(), object.len() >> 4);
        while rest > 0 {
            pack.push(byte | 0x80);
            (byte, rest) = (u8::try_from(rest & 0x7f).unwrap(), rest >> 7);
        }
        pack.push(byte);
        let mut encoder = ZlibEncoder::new(&mut pack, Compression::default());
        encoder.write_all(object).unwrap();
        encoder.finish().unwrap();
    }
    pack
}

fn report(pack: &[u8], tip: &str, old: &str) {
    let oid = |hex: &str| Oid::from_hex(hex.as_bytes()).unwrap();
    let (start, mut reads, mut scanner) = (Instant::now(), 0_u32, Scanner::default());
    while reads == 0 || start.elapsed() < AT_LEAST {
        scanner = Scanner::default();
        for chunk in pack.chunks(CHUNK) {
            if let Err(error) = scanner.feed(chunk, u64::MAX) {
                println!("{:>17} {error}", megabytes(pack.len()));
                return;
            }
        }
        reads += 1;
    }
    let speed = f64::from(reads) * bytes(pack.len()) / start.elapsed().as_secs_f64() / 1e6;
    let (commits, memory) = (scanner.graph().commits(), scanner.memory());
    let mut scanner = Scanner::default();
    scanner.graph_mut().ask(oid(old), oid(tip));
    for chunk in pack.chunks(CHUNK) {
        scanner.feed(chunk, u64::MAX).unwrap();
        if scanner.graph().all_proved() {
            break;
        }
    }
    let share = if scanner.graph().all_proved() {
        format!("{:.1} %", 100.0 * bytes(usize::try_from(scanner.bytes()).unwrap()) / bytes(pack.len()))
    } else {
        "never".into()
    };
    println!("{commits:>8} {:>9} {speed:>8.1} {:>9} {reads:>8} {share:>15}", megabytes(pack.len()), megabytes(memory),);
}

fn bytes(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

fn megabytes(count: usize) -> String {
    format!("{:.2} MB", bytes(count) / 1e6)
}

fn git(repository: &Path, args: &[&str], input: &str) -> Vec<u8> {
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "-C"]).arg(repository).args(args);
    let mut child = git.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "git {args:?}");
    output.stdout
}
