//! The filter of connections in two VMs, which share their counts like two workers of one Envoy.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../../../filters/push/tests/support/pack.rs"]
#[allow(dead_code, reason = "the tests of pushes need all of it")]
mod pack;

#[path = "support/mod.rs"]
mod support;

use envoy_stand_in::{Envoy, SharedData};
use policy::ConnectionLimits;
use std::collections::BTreeSet;

/// The key of the value with the numbers of the VMs (`Alive` in the identity filter's `connections.rs`).
const ALIVE: &str = "connections/1/alive";
const LIMITS: ConnectionLimits = ConnectionLimits { container: 2, stranger: 1, strangers: 1, requests_per_second: 250 };

/// Runs `work` in a new worker, whose VM belongs to a new thread.
fn in_a_worker<T: Send + 'static>(shared: &SharedData, work: impl FnOnce(&mut Envoy) -> T + Send + 'static) -> T {
    let shared = shared.clone();
    let worker = std::thread::spawn(move || {
        let mut envoy = Envoy::start_beside(&shared, support::config(), support::github);
        envoy.accept(LIMITS);
        work(&mut envoy)
    });
    worker.join().unwrap()
}

/// The number of the last VM, and the numbers of the VMs that have shown that they are alive.
fn numbers(shared: &SharedData) -> (u64, BTreeSet<u64>) {
    let (value, _) = shared.get(ALIVE).unwrap();
    let words: Vec<u64> = value.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    (words[0], words[1..].iter().step_by(2).copied().collect())
}

#[test]
fn two_workers_that_begin_at_one_moment_have_two_numbers() {
    let shared = SharedData::default();
    let same = shared.clone();
    let (mine, theirs) = in_a_worker(&shared, move |envoy| {
        let (of_other, result) = std::sync::mpsc::channel();
        let beside = same.clone();
        // The other worker takes a number between this one's read and its write.
        same.before_change(ALIVE, move || {
            let open = in_a_worker(&beside, |other| {
                let first = other.connect("172.18.0.5:40001");
                other.connected(first)
            });
            of_other.send(open).unwrap();
        });
        let first = envoy.connect("172.18.0.5:40000");
        (envoy.connected(first), result.recv().unwrap())
    });
    assert!(mine && theirs, "both connections are counted");
    assert_eq!(numbers(&shared), (2, [1, 2].into()));
}

#[test]
fn connections_count_in_all_workers_together() {
    let shared = SharedData::default();
    let same = shared.clone();
    in_a_worker(&shared, move |envoy| {
        let [one, two, three] = ["172.18.0.5:1", "172.18.0.5:2", "172.18.0.5:3"].map(|source| envoy.connect(source));
        assert_eq!([one, two, three].map(|id| envoy.connected(id)), [true, true, false]);
        let beside = same.clone();
        let connects = move || {
            in_a_worker(&beside, |other| {
                let [known, stranger] = ["172.18.0.5:4", "172.18.0.6:1"].map(|source| other.connect(source));
                [known, stranger].map(|id| other.connected(id))
            })
        };
        assert_eq!(connects(), [false, true]);
        envoy.disconnect(one);
        assert_eq!(connects(), [true, true], "the other worker's have ended");
        let stranger = envoy.connect("172.18.0.6:2");
        assert_eq!((envoy.connected(stranger), connects()), (true, [true, false]));
    });
}
