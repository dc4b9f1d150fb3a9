//! The leaves that one Envoy holds: when each was issued, which has to be issued anew, and which has to go.
//!
//! Pure. Anyone who can open a tunnel can make Envoy ask for a name, so the table is bounded: the name that was asked
//! for least recently goes first, and the hosts that the policy names never go for the sake of others.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

/// How many leaves one Envoy holds. Each costs it about 30 KiB.
pub const MAX_LEAVES: usize = 4_096;

/// The age at which a leaf is issued anew: half of its life, so that a sandbox never meets one that is about to end.
pub const RENEW_AFTER: Duration = Duration::from_secs(3 * 24 * 3600 + 12 * 3600);

/// How many leaves are issued at once for names that nobody may reach, whose only use is to say so inside TLS; and how
/// often one more.
///
/// The limit of each address counts its tunnels. In a tunnel to a host that is allowed the handshake may name any
/// other, and only Envoy knows whose it is. So this is what all sandboxes together can make us issue, beside the names
/// that they may reach. Beyond it such a handshake fails, and its sandbox is not told why.
pub const STRANGE_AT_ONCE: u32 = 4_096;
/// See [`STRANGE_AT_ONCE`].
pub const STRANGE_EVERY: Duration = Duration::from_millis(100);

/// The names that one Envoy holds leaves for.
#[derive(Debug, Default)]
pub struct Leaves {
    /// When as many strange names can be issued again as at the beginning.
    rested: Option<Instant>,
    by_name: HashMap<String, Held>,
    /// Names that may go, the one that was asked for least recently first.
    order: BTreeMap<u64, String>,
    last: u64,
}

#[derive(Debug)]
struct Held {
    issued: Instant,
    /// Its place in `order`; a protected name has none.
    place: Option<u64>,
}

impl Leaves {
    /// A leaf for `name` was issued at `now`. The names whose leaves have to go for it.
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

    /// Takes one of the leaves that may be issued for names that nobody may reach; false where there is none at `now`.
    pub fn take_strange(&mut self, now: Instant) -> bool {
        let rested = self.rested.map_or(now, |rested| rested.max(now)) + STRANGE_EVERY;
        let granted = rested <= now + STRANGE_EVERY * STRANGE_AT_ONCE;
        if granted {
            self.rested = Some(rested);
        }
        granted
    }

    /// How many leaves there are.
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Envoy holds no leaf for `name` any more.
    pub fn forget(&mut self, name: &str) {
        if let Some(place) = self.by_name.remove(name).and_then(|held| held.place) {
            self.order.remove(&place);
        }
    }

    /// The names whose leaves are to be issued anew at `now`.
    pub fn due(&self, now: Instant) -> Vec<String> {
        let old = |held: &Held| now.duration_since(held.issued) >= RENEW_AFTER;
        self.by_name.iter().filter(|(_, held)| old(held)).map(|(name, _)| name.clone()).collect()
    }

    /// All names that Envoy holds leaves for.
    pub fn names(&self) -> Vec<String> {
        self.by_name.keys().cloned().collect()
    }

    /// A leaf for `name`, which is held, was issued anew at `now`.
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
