//! A set of limited size, which drops old entries: the cache of GitHub's responses for `confirm` and `push`.
//!
//! Each entry belongs to a container. A full set drops entries of the container with the most entries. So a container
//! with at most an equal part of the set loses none of its entries to the others.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

/// The most entries. An entry has about 150 bytes, and 700 at most.
const MOST: usize = 50_000;

/// The set.
#[derive(Debug)]
pub(super) struct Recent<K> {
    /// The entries of each container, by its address, each with the time of its last use.
    containers: HashMap<IpAddr, HashMap<K, u64>>,
    /// The number of uses so far.
    uses: u64,
    /// The number of entries.
    size: usize,
    /// The most entries.
    most: usize,
}

impl<K> Default for Recent<K> {
    fn default() -> Self {
        Self { containers: HashMap::new(), uses: 0, size: 0, most: MOST }
    }
}

impl<K: Eq + Hash> Recent<K> {
    /// Whether the set contains `key` of the container. If so, the container has now used `key`.
    pub(super) fn holds(&mut self, container: IpAddr, key: &K) -> bool {
        let now = self.now();
        match self.containers.get_mut(&container).and_then(|keys| keys.get_mut(key)) {
            Some(used) => {
                *used = now;
                true
            }
            None => false,
        }
    }

    pub(super) fn insert(&mut self, container: IpAddr, key: K) {
        let now = self.now();
        let before = self.containers.entry(container).or_default().insert(key, now);
        if before.is_none() {
            self.size = self.size.saturating_add(1);
        }
        if self.size > self.most {
            self.make_room();
        }
    }

    fn now(&mut self) -> u64 {
        self.uses = self.uses.saturating_add(1);
        self.uses
    }

    /// Drops the half of the entries of one container that it has not used for the longest time, of the container with
    /// the most entries.
    fn make_room(&mut self) {
        let largest = self.containers.iter().max_by_key(|(_, keys)| keys.len()).map(|(container, _)| *container);
        let Some((container, keys)) =
            largest.and_then(|container| Some((container, self.containers.get_mut(&container)?)))
        else {
            return;
        };
        let before = keys.len();
        let mut times: Vec<u64> = keys.values().copied().collect();
        times.sort_unstable();
        let middle = times.get(before.saturating_sub(1) / 2).copied().unwrap_or(u64::MAX);
        keys.retain(|_, used| *used > middle);
        self.size = self.size.saturating_sub(before.saturating_sub(keys.len()));
        if keys.is_empty() {
            self.containers.remove(&container);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const MOST: usize = 1_000;

    fn recent() -> Recent<usize> {
        Recent { most: MOST, ..Recent::default() }
    }

    fn container(number: usize) -> IpAddr {
        Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into()
    }

    fn size(recent: &Recent<usize>) -> usize {
        recent.containers.values().map(HashMap::len).sum()
    }

    #[test]
    fn what_is_remembered_has_a_limit_and_what_is_used_stays() {
        let mut recent = recent();
        for number in 0..MOST * 2 {
            recent.insert(container(1), number);
            assert!(recent.holds(container(1), &0), "{number}");
        }
        assert!(size(&recent) <= MOST && size(&recent) == recent.size);
        assert!(!recent.holds(container(1), &1));
        assert!(!recent.holds(container(2), &0), "of another container");
        // As many containers as there are entries.
        for number in 0..MOST * 2 {
            recent.insert(container(number), 0);
        }
        assert!(size(&recent) <= MOST && size(&recent) == recent.size);
        assert!(recent.containers.len() <= MOST);
    }

    #[test]
    fn a_container_that_fills_the_set_takes_no_room_from_another() {
        const OTHERS: usize = 9;
        const SHARE: usize = MOST / (OTHERS + 1);
        let mut recent = recent();
        for other in 1..=OTHERS {
            (0..SHARE).for_each(|number| recent.insert(container(other), number));
        }
        (0..MOST * 2).for_each(|number| recent.insert(container(0), number));
        for other in 1..=OTHERS {
            assert!((0..SHARE).all(|number| recent.holds(container(other), &number)), "{other}");
        }
        assert!(recent.holds(container(0), &(MOST * 2 - 1)), "the flooder has its share");
        assert!(size(&recent) <= MOST);
    }
}
