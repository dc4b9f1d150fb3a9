//! A set of limited size, which drops old entries: the cache of GitHub's responses for `confirm` and `push`.

use std::collections::HashSet;
use std::hash::Hash;

/// The size of one of the two halves. When the younger half is full, the older half is dropped, with all entries that
/// were not used since.
const HALF: usize = 5_000;

/// The set, with at most twice [`HALF`] entries.
#[derive(Debug)]
pub(super) struct Recent<K> {
    young: HashSet<K>,
    old: HashSet<K>,
}

impl<K> Default for Recent<K> {
    fn default() -> Self {
        Self { young: HashSet::new(), old: HashSet::new() }
    }
}

impl<K: Eq + Hash> Recent<K> {
    /// Whether the set contains `key`. If so, `key` moves to the younger half.
    pub(super) fn holds(&mut self, key: &K) -> bool {
        if self.young.contains(key) {
            return true;
        }
        match self.old.take(key) {
            Some(key) => {
                self.insert(key);
                true
            }
            None => false,
        }
    }

    pub(super) fn insert(&mut self, key: K) {
        if self.young.len() >= HALF {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_has_a_limit_and_what_is_used_stays() {
        let mut recent = Recent::default();
        for number in 0..HALF * 4 {
            recent.insert(number);
            assert!(recent.holds(&0), "{number}");
            assert!(recent.young.len() + recent.old.len() <= 2 * HALF);
        }
        assert!(!recent.holds(&1));
    }
}
