//! Counts the panics of filters by the address of the container. Pure: `audit` reads the panics from Envoy's access
//! log, and blocks a container with too many.
//!
//! All requests of a worker share one VM. A panic ends the VM and all of these requests. So a container is blocked
//! after [`MOST`] panics within a minute.

use std::collections::HashMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

/// The number of panics within [`WITHIN`] that blocks a container.
pub const MOST: usize = 3;

/// The period in which panics are counted.
const WITHIN: SignedDuration = SignedDuration::from_mins(1);

/// The times of the last minute's panics, by the address of the request.
#[derive(Debug, Default)]
pub struct Panics(HashMap<IpAddr, Vec<Timestamp>>);

impl Panics {
    /// Counts a panic over a request of `address`. Returns whether the address has reached [`MOST`]. If so, its count
    /// starts again at zero.
    pub fn note(&mut self, address: IpAddr, now: Timestamp) -> bool {
        for times in self.0.values_mut() {
            times.retain(|then| now.duration_since(*then) < WITHIN);
        }
        self.0.retain(|_, times| !times.is_empty());
        let times = self.0.entry(address).or_default();
        times.push(now);
        let blocked = times.len() >= MOST;
        if blocked {
            self.0.remove(&address);
        }
        blocked
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn the_third_within_a_minute_is_one_too_many_for_its_own_address_alone() {
        let [one, two]: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let mut panics = Panics::default();
        assert!(!panics.note(one, at(0)));
        assert!(!panics.note(two, at(1)));
        assert!(!panics.note(one, at(2)));
        assert!(!panics.note(two, at(3)));
        assert!(!panics.note(one, at(60)), "the first was a minute ago");
        assert!(panics.note(one, at(61)));
        assert!(!panics.note(one, at(61)), "counted anew");
        assert!(!panics.note(two, at(90)));
        assert_eq!(panics.0.len(), 2);
    }
}
