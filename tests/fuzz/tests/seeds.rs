//! Runs each fuzz target over its seeds, and over inputs derived from the seeds. The inputs are the same in every run.
//! `make fuzz` continues with libFuzzer.

use fuzz::targets::ALL;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The number of inputs derived from the seeds of one target.
const MADE: usize = 3_000;
/// The number for `chain`, which runs every filter for each input.
const MADE_OF_CHAIN: usize = 300;
/// The timeout of a target for one input, as in run.sh.
const ONE_INPUT: Duration = Duration::from_secs(10);
/// Bytes with a meaning for one of the parsers.
const WORDS: [&[u8]; 20] = [
    b"\0", b"\n", b"\r\n", b"\xff", b"\x80", b"0", b"0000", b"ffff", b"/", b"..", b"%2e", b"%00", b"\"", b"\\", b"{",
    b"}", b"*", b"#", b".lock", b"PACK",
];

fn seeds() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/fuzz")
}

/// Xorshift (Marsaglia 2003): the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % limit.max(1)
    }

    /// `seed` with one to four changes. Some changes insert a part of `other`.
    fn changed(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
        let mut input = seed.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(input.len() + 1);
            let end = at + self.below(input.len() - at + 1).min(64);
            match self.below(7) {
                0 if at < input.len() => input[at] ^= 1 << self.below(8),
                1 => input.insert(at, self.below(256).to_le_bytes()[0]),
                2 => drop(input.drain(at..end)),
                3 => input.truncate(at),
                4 => drop(input.splice(at..at, WORDS[self.below(WORDS.len())].iter().copied())),
                5 => {
                    let twice = input[at..end].to_vec();
                    input.splice(at..at, twice);
                }
                _ => drop(input.splice(at.., other[self.below(other.len() + 1)..].iter().copied())),
            }
        }
        input
    }
}

/// Prints the input that made a target panic.
struct Shown<'a>(&'a str, &'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input, of {}: {}", self.0, self.1.escape_ascii());
        }
    }
}

fn run(name: &str, target: fn(&[u8])) {
    let mut files: Vec<PathBuf> = fs::read_dir(seeds().join(name))
        .unwrap_or_else(|error| panic!("{name} has no seeds in tests/corpus/fuzz: {error}"))
        .map(|entry| entry.expect("the directory can be read").path())
        .collect();
    files.sort();
    let seeds: Vec<(String, Vec<u8>)> = files
        .into_iter()
        .map(|path| (path.display().to_string(), fs::read(&path).expect("the seed can be read")))
        .collect();
    let one = |of: &str, input: &[u8]| {
        let shown = Shown(of, input);
        let begun = Instant::now();
        target(input);
        assert!(begun.elapsed() < ONE_INPUT, "{:?} for one input", begun.elapsed());
        drop(shown);
    };
    seeds.iter().for_each(|(of, input)| one(of, input));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for number in 0..if name == "chain" { MADE_OF_CHAIN } else { MADE } {
        let (of, seed) = &seeds[number % seeds.len()];
        let (_, other) = &seeds[random.below(seeds.len())];
        one(of, &random.changed(seed, other));
    }
}

macro_rules! seeds {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            run(stringify!($name), fuzz::targets::$name::run);
        })*

        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

seeds!(advertisement, chain, graphql, host, json, model, pack, pktline, push, receive_pack, refname, target);

#[test]
fn every_target_has_seeds_and_a_test() {
    let targets: BTreeSet<String> = ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    let tested: BTreeSet<String> = TESTED.iter().map(|name| (*name).to_owned()).collect();
    let names = |directory: &Path| -> BTreeSet<String> {
        let entries = fs::read_dir(directory).expect("the directory can be read");
        let names = entries.map(|entry| entry.expect("the directory can be read").path());
        names.map(|path| path.file_stem().expect("it has a name").to_string_lossy().into_owned()).collect()
    };
    assert_eq!(targets, tested);
    assert_eq!(targets, names(&seeds()));
    assert_eq!(targets, names(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/targets")));
}
