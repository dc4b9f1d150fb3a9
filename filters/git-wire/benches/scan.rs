//! Measures parsing a push: `cargo bench -p git-wire --bench scan [-- REPOSITORY]`. The default is this repository.
//!
//! The packs hold the newest commits, from ten to all. For each: the scanner's speed and memory, and the share of the
//! pack after which the fast-forward is proved, the ratio of the pack, and its work for each byte. Then the time for what
//! [`Scanner::work`] counts: for each inflated byte, each byte of the pack, each block, each byte of a commit's text, and
//! each parent that is followed.

#![expect(clippy::unwrap_used, reason = "a benchmark")]

use flate2::Compression;
use flate2::write::ZlibEncoder;
use git_wire::Oid;
use git_wire::pack::{BLOCK, HASHING, READING, Scanner};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The size in which bytes arrive at the filter.
const CHUNK: usize = 16 << 10;
/// The work of one visit of the graph, as in the scanner.
const FOLLOWING: u64 = 16;
/// Each pack is parsed repeatedly for at least this long.
const AT_LEAST: Duration = Duration::from_secs(2);

fn main() {
    let repository = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_else(|| ".".into());
    let git = |args: &[&str], input: &str| git(Path::new(&repository), args, input);
    let all = git(&["rev-list", "--first-parent", "HEAD"], "");
    let all: Vec<&str> = std::str::from_utf8(&all).unwrap().lines().collect();
    println!(
        "{:>8} {:>9} {:>8} {:>9} {:>8} {:>15} {:>9}",
        "commits", "pack", "MB/s", "memory", "reads", "proved after", "work/byte"
    );
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
        cost(what, &made(kind, &objects));
    }
    for (what, block) in
        [("empty stored", stored()), ("empty fixed", fixed()), ("small tables", small()), ("large tables", large())]
    {
        cost(what, &blocks(&block, 8 << 20));
    }
    followed();
    println!("reading a byte counts as {READING}, hashing one as {HASHING}, a block as {BLOCK}");
}

fn cost(what: &str, pack: &[u8]) {
    let start = Instant::now();
    let mut scanner = Scanner::default();
    pack.chunks(1 << 20).for_each(|chunk| _ = scanner.feed(chunk, u64::MAX).unwrap());
    row(what, pack.len(), scanner.work(), start.elapsed());
}

fn row(what: &str, pack: usize, work: u64, time: Duration) {
    let per = time.as_secs_f64() * 1e9 / f64::from(u32::try_from(work >> 10).unwrap()) / 1024.0;
    let (work, time) = (work >> 20, time.as_secs_f64() * 1e3);
    println!("{what:>16} {:>9} {work:>8} Mi {time:>7.1} ms {per:>9.3} ns", megabytes(pack));
}

/// Commits in an order that leaves all of them to be followed at once, for 20 questions.
fn followed() {
    let oid = |n: u32| {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b1).to_be_bytes());
        Oid::from(bytes)
    };
    let mut graph = git_wire::graph::Graph::default();
    (0..20).for_each(|n| _ = graph.ask(oid(1_000_000 + n), oid(49_999)));
    for n in 1..50_000 {
        graph.add(oid(n), &[oid(n - 1), oid(n / 2), oid(n / 3)]).unwrap();
    }
    let start = Instant::now();
    let work = graph.follow(u64::MAX) * FOLLOWING;
    row("parents", 0, work, start.elapsed());
    let start = Instant::now();
    assert_eq!(graph.descents(16).len(), 20);
    println!("{:>16} {:>32.1} ms", "open commits", start.elapsed().as_secs_f64() * 1e3);
}

/// A pack whose one object has `block` again and again, up to `size` bytes.
fn blocks(block: &[u8], size: usize) -> Vec<u8> {
    let mut pack = [&b"PACK"[..], &2_u32.to_be_bytes(), &1_u32.to_be_bytes(), &[3 << 4 | 1, 0x78, 0x01]].concat();
    while pack.len() < size {
        pack.extend_from_slice(block);
    }
    pack
}

/// Appends `bits` of `value`, lowest first, as DEFLATE has numbers (RFC 1951, 3.1.1).
fn put(out: &mut Vec<bool>, value: u32, bits: u32) {
    out.extend((0..bits).map(|at| value >> at & 1 == 1));
}

/// Eight times the same bits are whole bytes.
fn whole(bits: &[bool]) -> Vec<u8> {
    let bits = bits.repeat(8);
    bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |all, bit| all << 1 | u8::from(*bit))).collect()
}

fn stored() -> Vec<u8> {
    vec![0, 0, 0, 0xff, 0xff]
}

/// An end alone, in the fixed code.
fn fixed() -> Vec<u8> {
    let mut bits = Vec::new();
    put(&mut bits, 0b010, 3);
    put(&mut bits, 0, 7);
    whole(&bits)
}

/// The order in which a block has the lengths of the code for code lengths (RFC 1951, 3.2.7).
const ORDER: [u32; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// An end alone, in a code of its own with nothing else: the shortest block with tables.
fn small() -> Vec<u8> {
    let mut bits = Vec::new();
    // 257 and 1 codes, and 18 lengths of the code for code lengths: 1 for the lengths 1 (0) and 18 (1).
    put(&mut bits, 0b100, 3);
    put(&mut bits, 0, 5);
    put(&mut bits, 0, 5);
    put(&mut bits, 14, 4);
    ORDER.iter().take(18).for_each(|length| put(&mut bits, u32::from([1, 18].contains(length)), 3));
    for zeros in [138, 118] {
        put(&mut bits, 1, 1);
        put(&mut bits, zeros - 11, 7);
    }
    put(&mut bits, 0, 2);
    put(&mut bits, 0, 1);
    whole(&bits)
}

/// An end alone, in codes of up to 15 bits, whose tables are the largest for their length.
fn large() -> Vec<u8> {
    let mut bits = Vec::new();
    put(&mut bits, 0b100, 3);
    // 257 + 15 and 16 codes: the lengths 1 to 15 and 15.
    put(&mut bits, 15, 5);
    put(&mut bits, 15, 5);
    put(&mut bits, 15, 4);
    // The lengths 1 to 15 have four bits but the last, which has five as 18 has.
    let length = |symbol: u32| match symbol {
        1..=14 => 4,
        15 | 18 => 5,
        17 => 4,
        _ => 0,
    };
    ORDER.iter().for_each(|symbol| put(&mut bits, length(*symbol), 3));
    // Canonical codes (RFC 1951, 3.2.2), highest bit first.
    let code = |bits: &mut Vec<bool>, symbol: u32| {
        let all: Vec<u32> = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 17, 15, 18].into();
        let at = u32::try_from(all.iter().position(|have| *have == symbol).unwrap()).unwrap();
        let (value, size) = if at < 15 { (at, 4) } else { (30 + at - 15, 5) };
        (0..size).rev().for_each(|bit| bits.push(value >> bit & 1 == 1));
    };
    for zeros in [138, 118] {
        code(&mut bits, 18);
        put(&mut bits, zeros - 11, 7);
    }
    for _ in 0..2 {
        (1..=15).for_each(|length| code(&mut bits, length));
        code(&mut bits, 15);
    }
    put(&mut bits, 0, 1);
    whole(&bits)
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
    let work = bytes(usize::try_from(scanner.work()).unwrap()) / bytes(pack.len());
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
    println!(
        "{commits:>8} {:>9} {speed:>8.1} {:>9} {reads:>8} {share:>15} {work:>9.1}",
        megabytes(pack.len()),
        megabytes(memory)
    );
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
