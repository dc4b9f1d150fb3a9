//! The leaf certificates that one Envoy holds: when each was issued, which to renew, and which to evict.
//!
//! Pure. Every client that can open a tunnel can make Envoy request the leaf of a name, so the table is bounded. The
//! least recently requested name is evicted first. Hosts that the policy lists by their exact names are never evicted.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

/// The most leaves that one Envoy holds, without protected names. Each takes about 30 KiB of Envoy's memory.
pub const MAX_LEAVES: usize = 4_096;

/// The age at which a leaf is renewed: half of its validity, so that a sandbox never sees one that is about to expire.
pub const RENEW_AFTER: Duration = Duration::from_secs(3 * 24 * 3600 + 12 * 3600);

/// The burst of leaves that are issued for names that no container may reach. The leaf is only used to send a
/// refusal inside TLS. After the burst, one leaf is issued each [`STRANGE_EVERY`].
///
/// The limits for each address count its tunnels. But a handshake in a tunnel to an allowed host may name any other
/// host, and only Envoy knows which sandbox it belongs to. So this limit is for all sandboxes together. Beyond it the
/// handshake fails, and the sandbox does not learn the reason.
pub const STRANGE_AT_ONCE: u32 = 4_096;
/// The interval between further leaves, see [`STRANGE_AT_ONCE`].
pub const STRANGE_EVERY: Duration = Duration::from_millis(100);

/// The names for which one Envoy holds leaves.
#[derive(Debug, Default)]
pub struct Leaves {
    /// The time at which the full burst of [`STRANGE_AT_ONCE`] is available again.
    rested: Option<Instant>,
    by_name: HashMap<String, Held>,
    /// The names that may be evicted, the least recently requested first.
    order: BTreeMap<u64, String>,
    last: u64,
}

#[derive(Debug)]
struct Held {
    issued: Instant,
    /// The key in `order`. `None` for a protected name.
    place: Option<u64>,
}

impl Leaves {
    /// Records that a leaf for `name` was issued at `now`. Returns the names whose leaves have to be evicted.
    pub fn issued(&mut self, name: &str, protected: bool, now: Instant) -> Vec<String> {
        self.forget(name);
        self.last += 1;
        let place = (!protected).then_some(self.last);
        if let Some(place) = place {
            self.order.insert(place, name.to_owned());
        }
        self.by_name.insert(name.to_owned(), Held { issued: now, place });
        let mut gone = Vec::new();
        while self.order.len() > MAX_LEAVES {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.by_name.remove(&oldest);
            gone.push(oldest);
        }
        gone
    }

    /// Counts a leaf for a name that no container may reach. Returns false if the limit is reached at `now`.
    pub fn take_strange(&mut self, now: Instant) -> bool {
        let rested = self.rested.map_or(now, |rested| rested.max(now)) + STRANGE_EVERY;
        let granted = rested <= now + STRANGE_EVERY * STRANGE_AT_ONCE;
        if granted {
            self.rested = Some(rested);
        }
        granted
    }

    /// The number of leaves.
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Records that Envoy has dropped the leaf for `name`.
    pub fn forget(&mut self, name: &str) {
        if let Some(place) = self.by_name.remove(name).and_then(|held| held.place) {
            self.order.remove(&place);
        }
    }

    /// The names whose leaves have to be renewed at `now`.
    pub fn due(&self, now: Instant) -> Vec<String> {
        let old = |held: &Held| now.duration_since(held.issued) >= RENEW_AFTER;
        self.by_name.iter().filter(|(_, held)| old(held)).map(|(name, _)| name.clone()).collect()
    }

    /// All names for which Envoy holds leaves.
    pub fn names(&self) -> Vec<String> {
        self.by_name.keys().cloned().collect()
    }

    /// Records that the leaf for `name` was renewed at `now`.
    pub fn renewed(&mut self, name: &str, now: Instant) {
        if let Some(held) = self.by_name.get_mut(name) {
            held.issued = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_asked_for_least_recently_goes_first_and_a_protected_one_never() {
        let (mut leaves, now) = (Leaves::default(), Instant::now());
        assert!(leaves.issued("github.com", true, now).is_empty());
        for n in 0..MAX_LEAVES {
            assert!(leaves.issued(&format!("n{n}.example"), false, now).is_empty(), "{n}");
        }
        assert!(leaves.issued("n0.example", false, now).is_empty(), "asked for again");
        assert_eq!(leaves.issued("one-more.example", false, now), ["n1.example"]);
        assert!(leaves.by_name.contains_key("github.com"));
        leaves.forget("n2.example");
        assert!(leaves.issued("room.example", false, now).is_empty());
        assert_eq!(leaves.order.len(), MAX_LEAVES);
    }

    #[test]
    fn names_that_nobody_may_reach_have_a_number_at_once_and_then_a_rate() {
        let (mut leaves, now) = (Leaves::default(), Instant::now());
        assert!((0..STRANGE_AT_ONCE).all(|_| leaves.take_strange(now)));
        assert!(!leaves.take_strange(now));
        assert!(!leaves.take_strange(now + STRANGE_EVERY - Duration::from_millis(1)));
        assert!(leaves.take_strange(now + STRANGE_EVERY));
        assert!(!leaves.take_strange(now + STRANGE_EVERY));
        let later = now + STRANGE_EVERY * STRANGE_AT_ONCE * 3;
        assert!((0..STRANGE_AT_ONCE).all(|_| leaves.take_strange(later)));
        assert!(!leaves.take_strange(later), "what was not used is not kept");
    }

    #[test]
    fn a_leaf_is_issued_anew_at_half_its_life() {
        let (mut leaves, now) = (Leaves::default(), Instant::now());
        leaves.issued("a.example", false, now);
        assert!(leaves.due(now + RENEW_AFTER - Duration::from_secs(1)).is_empty());
        assert_eq!(leaves.due(now + RENEW_AFTER), ["a.example"]);
        leaves.renewed("a.example", now + RENEW_AFTER);
        assert!(leaves.due(now + RENEW_AFTER).is_empty());
    }
}
