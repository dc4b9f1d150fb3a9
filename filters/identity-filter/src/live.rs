//! The requests under way and the open tunnels, each with the record that permits it. Pure: `worker` inserts them, ends
//! those that have lost their record, and removes those that have ended.

use crate::memory::Memory;
use jiff::Timestamp;
use policy::Container;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// The record that permits a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// The container's address.
    pub source: IpAddr,
    /// The record's generation.
    pub generation: u64,
    /// The record's expiry.
    pub expires_at: Timestamp,
}

impl Right {
    /// The right from the record `container`.
    pub fn of(container: &Container) -> Self {
        Self {
            source: container.container_ip.to_canonical(),
            generation: container.generation,
            expires_at: container.expires_at,
        }
    }
}

/// The requests under way and the open tunnels.
#[derive(Debug, Default)]
pub struct Live {
    requests: HashMap<u32, Right>,
    tunnels: HashMap<u32, Tunnel>,
    /// The addresses whose tunnels end with the next tick.
    flooding: HashSet<IpAddr>,
}

#[derive(Debug)]
struct Tunnel {
    source: IpAddr,
    /// The right from the first record that was in force at the source. `None` as long as there was no such record.
    right: Option<Right>,
    /// The tunnel had lost its right at the last tick.
    lost: bool,
}

impl Live {
    /// Inserts the request `id`, which was allowed.
    pub fn insert(&mut self, id: u32, right: Right) {
        self.requests.insert(id, right);
    }

    /// Inserts the tunnel `id` from `source`. The source needs no record: each request in the tunnel is judged
    /// separately.
    pub fn open(&mut self, id: u32, source: IpAddr, memory: &Memory, now: Timestamp) {
        self.tunnels.insert(id, Tunnel { source, right: in_force(source, memory, now), lost: false });
    }

    /// Removes the request `id`, which did not pass after all. A tunnel stays until it ends.
    pub fn withdraw(&mut self, id: u32) {
        self.requests.remove(&id);
    }

    /// Removes the request or tunnel `id`, which has ended. Does nothing if it was never inserted.
    pub fn remove(&mut self, id: u32) {
        self.requests.remove(&id);
        self.tunnels.remove(&id);
    }

    /// The requests whose record was removed, was replaced, or has expired at `now`. A record that is newer than the
    /// memory still counts: its request passed because of a lookup, and the stream has not delivered the record yet.
    pub fn without_right(&self, memory: &Memory, now: Timestamp) -> Vec<u32> {
        self.requests.iter().filter(|(_, right)| lost(right, memory, now)).map(|(id, _)| *id).collect()
    }

    /// Ends the tunnels of `source` with the next tick. Their bytes that have passed end with them.
    pub fn floods(&mut self, source: IpAddr) {
        self.flooding.insert(source);
    }

    /// Handles a tick at `now`. Returns the tunnels of addresses that flood, and those that had lost their record at the
    /// previous tick already. Until then, requests in the tunnel still receive their refusals.
    pub fn tunnels_without_right(&mut self, memory: &Memory, now: Timestamp) -> Vec<u32> {
        let mut ended = Vec::new();
        for (id, tunnel) in &mut self.tunnels {
            tunnel.right = tunnel.right.or_else(|| in_force(tunnel.source, memory, now));
            let lost = tunnel.right.is_some_and(|right| lost(&right, memory, now));
            if (lost && tunnel.lost) || self.flooding.contains(&tunnel.source) {
                ended.push(*id);
            }
            tunnel.lost = lost;
        }
        self.flooding.clear();
        ended
    }
}

/// The right from the record at `source`. Returns `None` if there is no record, or if it has expired.
fn in_force(source: IpAddr, memory: &Memory, now: Timestamp) -> Option<Right> {
    memory.record(source).map(Right::of).filter(|right| now < right.expires_at)
}

fn lost(right: &Right, memory: &Memory, now: Timestamp) -> bool {
    right.expires_at <= now || !memory.confirms(right.source, right.generation)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use registry_proto::{Container as Upsert, WatchResponse};

    fn upsert(address: &str, generation: u64) -> Upsert {
        let address: IpAddr = address.parse().unwrap();
        let record = serde_json::json!({
            "container_ip": address, "container_id": "a", "repos": [], "generation": generation,
            "expires_at": "2027-01-15T00:00:00Z"
        });
        Upsert { address: crate::memory::address_bytes(address), record: record.to_string().into_bytes() }
    }

    fn message(version: u64, upserts: Vec<Upsert>, removals: &[&str]) -> WatchResponse {
        let removals = removals.iter().map(|ip| crate::memory::address_bytes(ip.parse().unwrap())).collect();
        WatchResponse { version, snapshot: version == 1, upserts, removals, ..WatchResponse::default() }
    }

    fn right(source: &str, generation: u64) -> Right {
        let expires_at = "2027-01-15T00:00:00Z".parse().unwrap();
        Right { source: source.parse().unwrap(), generation, expires_at }
    }

    #[test]
    fn the_tunnels_of_an_address_that_floods_end_with_the_next_tick_and_no_others() {
        let now = "2026-12-01T00:00:00Z".parse().unwrap();
        let mut memory = Memory::default();
        memory.apply(message(1, vec![upsert("10.0.0.1", 1)], &[])).unwrap();
        let mut live = Live::default();
        for (id, source) in [(1, "10.0.0.1"), (2, "10.0.0.1"), (3, "10.0.0.2")] {
            live.open(id, source.parse().unwrap(), &memory, now);
        }
        live.floods("10.0.0.1".parse().unwrap());
        let mut ended = live.tunnels_without_right(&memory, now);
        ended.sort_unstable();
        assert_eq!(ended, [1, 2]);
        assert!(live.tunnels_without_right(&memory, now).is_empty(), "once");
    }

    #[test]
    fn a_request_ends_with_the_record_that_let_it_pass_and_no_other_does() {
        let now = "2026-12-01T00:00:00Z".parse().unwrap();
        let mut memory = Memory::default();
        memory.apply(message(1, vec![upsert("10.0.0.1", 1), upsert("10.0.0.2", 1)], &[])).unwrap();
        let mut live = Live::default();
        live.insert(7, right("10.0.0.1", 1));
        live.insert(8, right("10.0.0.2", 1));
        // Allowed by a lookup, before the stream delivered the record.
        live.insert(9, right("10.0.0.3", 3));
        assert!(live.without_right(&memory, now).is_empty());
        memory.apply(message(2, vec![], &["10.0.0.1"])).unwrap();
        assert_eq!(live.without_right(&memory, now), [7]);
        live.remove(7);
        memory.apply(message(4, vec![upsert("10.0.0.3", 3), upsert("10.0.0.2", 4)], &[])).unwrap();
        assert_eq!(live.without_right(&memory, now), [8], "replaced");
        assert_eq!(live.without_right(&memory, "2027-01-15T00:00:00Z".parse().unwrap()).len(), 2, "expired");
    }

    #[test]
    fn a_tunnel_ends_a_tick_after_its_record_and_no_other_does() {
        let now = "2026-12-01T00:00:00Z".parse().unwrap();
        let mut memory = Memory::default();
        memory.apply(message(1, vec![upsert("10.0.0.1", 1), upsert("10.0.0.2", 1)], &[])).unwrap();
        let mut live = Live::default();
        for (id, source) in [(7, "10.0.0.1"), (8, "10.0.0.2"), (9, "10.0.0.3")] {
            live.open(id, source.parse().unwrap(), &memory, now);
        }
        let tick = |live: &mut Live, memory: &Memory| {
            let mut ended = live.tunnels_without_right(memory, now);
            ended.sort_unstable();
            ended
        };
        assert!(tick(&mut live, &memory).is_empty());
        memory.apply(message(2, vec![upsert("10.0.0.3", 2)], &["10.0.0.1"])).unwrap();
        assert!(tick(&mut live, &memory).is_empty(), "a request that is sent now still receives its refusal");
        assert_eq!(tick(&mut live, &memory), [7]);
        live.remove(7);
        // A tunnel that was opened before its record arrived is bound to that record from then on.
        memory.apply(message(3, vec![], &["10.0.0.3"])).unwrap();
        assert!(tick(&mut live, &memory).is_empty());
        assert_eq!(tick(&mut live, &memory), [9]);
        live.remove(9);
        let expired = "2027-01-15T00:00:00Z".parse().unwrap();
        // A tunnel that is opened after the expiry has no record.
        live.open(10, "10.0.0.2".parse().unwrap(), &memory, expired);
        assert!(live.tunnels_without_right(&memory, expired).is_empty());
        assert_eq!(live.tunnels_without_right(&memory, expired), [8]);
    }
}
