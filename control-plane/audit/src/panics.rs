//! Counts the panics of filters by the address of the container. Pure: `audit` reads the panics from Envoy's access
//! log, and blocks a container with too many.
//!
//! All requests of a worker share one VM. A panic ends the VM and all of these requests. So a container is blocked
//! after so many panics within one of the [`PERIODS`]. The second period is for a container that waits long enough each
//! time.

use std::collections::HashMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

/// A period in which panics are counted.
#[derive(Debug, PartialEq, Eq)]
pub struct Period {
    /// The number of panics that blocks a container.
    pub most: usize,
    within: SignedDuration,
    /// The period in words.
    pub name: &'static str,
}

/// All periods, the longest last.
pub const PERIODS: [Period; 2] = [
    Period { most: 3, within: SignedDuration::from_mins(1), name: "a minute" },
    Period { most: 10, within: SignedDuration::from_hours(24), name: "a day" },
];

/// The times of the last day's panics, by the address of the request. An address has fewer than the day allows.
#[derive(Debug, Default)]
pub struct Panics(HashMap<IpAddr, Vec<Timestamp>>);

impl Panics {
    /// Counts a panic over a request of `address`. Returns the period in which the address has reached its number. If
    /// so, its count starts again at zero.
    pub fn note(&mut self, address: IpAddr, now: Timestamp) -> Option<&'static Period> {
        let [.., longest] = &PERIODS;
        for times in self.0.values_mut() {
            times.retain(|then| now.duration_since(*then) < longest.within);
        }
        self.0.retain(|_, times| !times.is_empty());
        let times = self.0.entry(address).or_default();
        times.push(now);
        let within = |period: &Period| times.iter().filter(|then| now.duration_since(**then) < period.within).count();
        let reached = PERIODS.iter().find(|period| within(period) >= period.most);
        if reached.is_some() {
            self.0.remove(&address);
        }
        reached
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
        assert_eq!(panics.note(one, at(0)), None);
        assert_eq!(panics.note(two, at(1)), None);
        assert_eq!(panics.note(one, at(2)), None);
        assert_eq!(panics.note(two, at(3)), None);
        assert_eq!(panics.note(one, at(60)), None, "the first was a minute ago");
        assert_eq!(panics.note(one, at(61)).unwrap().name, "a minute");
        assert_eq!(panics.note(one, at(61)), None, "counted anew");
        assert_eq!(panics.note(two, at(90)), None);
        assert_eq!(panics.0.len(), 2);
    }

    #[test]
    fn one_every_31_seconds_is_one_too_many_at_the_tenth() {
        let one: IpAddr = "10.0.0.1".parse().unwrap();
        let mut panics = Panics::default();
        for time in 0..9 {
            assert_eq!(panics.note(one, at(31 * time)), None, "{time}");
        }
        assert_eq!(panics.note(one, at(31 * 9)).unwrap().name, "a day");
        let day = 24 * 60 * 60;
        for time in 0..20 {
            assert_eq!(panics.note(one, at(day + time * day / 9)), None, "nine a day");
        }
    }
}
