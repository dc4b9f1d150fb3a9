//! Orders of events at random: what the fuzz target `chain` looks for longer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/mod.rs"]
mod support;

use std::path::Path;

/// How many orders. Each is a stream through all filters.
const ORDERS: u64 = 400;

/// Bytes of a kind that repeats: xorshift64*.
fn bytes(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    };
    let length = 2 + next() % 80;
    (0..length).map(|_| u8::try_from(next() & 0xff).unwrap()).collect()
}

#[test]
fn whatever_the_order_the_filters_keep_their_promises() {
    let only = std::env::var("SALLYPORT_ORDER").ok().map(|seed| seed.parse().expect("a number"));
    let orders = only.map_or(0..ORDERS, |seed: u64| seed..seed + 1);
    for seed in orders {
        // Printed when it fails.
        println!("SALLYPORT_ORDER={seed}");
        support::orders::run(&bytes(seed));
    }
}

#[test]
fn the_seeds_of_the_fuzz_target_pass() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/fuzz/chain");
    for seed in std::fs::read_dir(seeds).unwrap() {
        let path = seed.unwrap().path();
        println!("{}", path.display());
        support::orders::run(&std::fs::read(path).unwrap());
    }
}
