//! Counts the panics of filters by container. Pure: `audit` reads the panics from Envoy's access log, and blocks a
//! container with too many.
//!
//! Requests of a worker share a VM. A panic ends the VM and all of these requests. So a container is blocked
//! after so many panics within one of the [`PERIODS`]. The second period is for a container that waits long enough each
//! time.
//!
//! A container is an address and an id: another container may get the address on the same day.

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

/// The most containers whose panics are remembered. Beyond this number, the one whose last panic is the oldest is
/// forgotten.
const MAX_CONTAINERS: usize = 10_000;

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Culprit {
    /// The container's address.
    pub address: IpAddr,
    /// The container's id.
    pub id: String,
}

/// The times of the last day's panics, by container. A container has fewer than the day allows.
#[derive(Debug, Default)]
pub struct Panics(HashMap<Culprit, Vec<Timestamp>>);

impl Panics {
    /// Counts a panic over a request of `culprit`. Returns the period in which the container has reached its number. If
    /// so, its count starts again at zero.
    pub fn note(&mut self, culprit: &Culprit, now: Timestamp) -> Option<&'static Period> {
        let [.., longest] = &PERIODS;
        for times in self.0.values_mut() {
            times.retain(|then| now.duration_since(*then) < longest.within);
        }
        self.0.retain(|_, times| !times.is_empty());
        if self.0.len() >= MAX_CONTAINERS && !self.0.contains_key(culprit) {
            let oldest = self.0.iter().min_by_key(|(_, times)| times.last().copied());
            let oldest = oldest.map(|(culprit, _)| culprit.clone());
            oldest.and_then(|culprit| self.0.remove(&culprit));
        }
        let times = self.0.entry(culprit.clone()).or_default();
        times.push(now);
        let within = |period: &Period| times.iter().filter(|then| now.duration_since(**then) < period.within).count();
        let reached = PERIODS.iter().find(|period| within(period) >= period.most);
        if reached.is_some() {
            self.0.remove(culprit);
        }
        reached
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn culprit(address: u32, id: &str) -> Culprit {
        Culprit { address: Ipv4Addr::from(address).into(), id: id.into() }
    }

    #[test]
    fn the_third_within_a_minute_is_one_too_many_for_its_own_address_alone() {
        let [one, two] = &[culprit(1, "a"), culprit(2, "b")];
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
        let one = &culprit(1, "a");
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

    #[test]
    fn the_next_container_at_an_address_begins_at_zero() {
        let [before, next] = &[culprit(1, "a"), culprit(1, "b")];
        let mut panics = Panics::default();
        for time in 0..9 {
            assert_eq!(panics.note(before, at(31 * time)), None, "{time}");
        }
        for time in 9..18 {
            assert_eq!(panics.note(next, at(31 * time)), None, "{time}");
        }
        assert_eq!(panics.note(next, at(31 * 18)).unwrap().name, "a day");
    }

    #[test]
    fn no_more_containers_are_remembered_than_the_limit() {
        let mut panics = Panics::default();
        let most = u32::try_from(MAX_CONTAINERS).unwrap();
        for address in 0..most {
            assert_eq!(panics.note(&culprit(address, "a"), at(address.into())), None);
        }
        let last = culprit(most - 1, "a");
        assert_eq!(panics.note(&last, at(most.into())), None, "a known one makes nobody forgotten");
        assert!(panics.0.contains_key(&culprit(0, "a")));
        assert_eq!(panics.note(&culprit(most, "a"), at(most.into())), None);
        assert_eq!((panics.0.len(), panics.0.contains_key(&culprit(0, "a"))), (MAX_CONTAINERS, false));
        assert_eq!(panics.note(&last, at(most.into())).unwrap().name, "a minute");
    }
}
