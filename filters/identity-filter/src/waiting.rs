//! The requests that are held until their container is known. Pure, and decides nothing. `worker` inserts requests, and
//! takes them out when the memory can settle them, when their time is up, or when their stream has ended.

use crate::life::Request;
use crate::limits::too_many;
use crate::memory::{Identity, Lookup, LookupResult, Memory};
use crate::verdict::unavailable;
use policy::{Container, Denial, Policy, Rule};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// The most requests that a worker holds. Each waits for about two seconds, and keeps its path and the names of some
/// headers: at most 60 KiB (Envoy's limit for all headers together). Together they take at most 60 MiB of the VM's
/// memory.
const MAX_HELD: usize = 1024;

/// The most held requests of one address.
pub const MAX_LOOKUPS: usize = 64;

/// A held request.
#[derive(Debug)]
pub struct Held {
    /// The request.
    pub request: Request,
    /// The server name from the TLS handshake.
    pub sni: Option<Vec<u8>>,
    /// The source address.
    pub source: IpAddr,
    /// The state of the lookup for that address.
    pub lookup: Lookup,
    /// The uptime at which the request is refused.
    pub until: Duration,
}

/// The container that sent a held request, and the policy to judge the request by.
#[derive(Debug)]
pub struct Settled {
    /// The container at the source address. `None` if no container is registered there.
    pub container: Option<Rc<Container>>,
    /// The policy in force.
    pub policy: Rc<Policy>,
}

/// The requests that this worker holds, by the id of their context.
#[derive(Debug, Default)]
pub struct Waiting(BTreeMap<u32, Held>);

impl Waiting {
    /// Holds a request.
    ///
    /// # Errors
    /// If too many requests are held already, in total or of this address.
    pub fn hold(&mut self, held: Held) -> Result<(), Denial> {
        if self.0.len() >= MAX_HELD {
            return Err(unavailable("too many requests wait to be identified; try again"));
        }
        if self.0.values().filter(|other| other.source == held.source).count() >= MAX_LOOKUPS {
            let reason = format!("{MAX_LOOKUPS} requests of your address wait to be identified, which is the limit");
            return Err(too_many(Rule::LimitLookups, reason));
        }
        self.0.insert(held.request.id, held);
        Ok(())
    }

    /// The source address of the request `id`, if it is held.
    pub fn source(&self, id: u32) -> Option<IpAddr> {
        self.0.get(&id).map(|held| held.source)
    }

    /// Stores the registry's response for the request `id`.
    pub fn answered(&mut self, id: u32, result: LookupResult) {
        if let Some(held) = self.0.get_mut(&id) {
            held.lookup = Lookup::Done(result);
        }
    }

    /// Takes the request `id` out, if it is held.
    pub fn take(&mut self, id: u32) -> Option<Held> {
        self.0.remove(&id)
    }

    /// Takes out the requests that can be judged now, at most `most`.
    pub fn take_settled(&mut self, memory: &Memory, most: usize) -> Vec<(Held, Settled)> {
        let settled = |(id, held): (&u32, &Held)| match memory.identify(held.source, &held.lookup) {
            Identity::Settled(container, policy) => Some((*id, Settled { container, policy })),
            Identity::NeedsLookup | Identity::Waits => None,
        };
        let settled: Vec<_> = self.0.iter().filter_map(settled).take(most).collect();
        settled.into_iter().filter_map(|(id, settled)| Some((self.0.remove(&id)?, settled))).collect()
    }

    /// Takes out the requests whose time is up, at most `most`.
    pub fn take_overdue(&mut self, uptime: Duration, most: usize) -> Vec<Held> {
        self.0.extract_if(.., |_, held| held.until <= uptime).map(|(_, held)| held).take(most).collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use registry_proto::{LookupResponse, WatchResponse};

    fn held(id: u32, until: u64) -> Held {
        Held {
            request: Request::new(id),
            sni: None,
            source: "172.18.0.5".parse().unwrap(),
            lookup: Lookup::Pending,
            until: Duration::from_secs(until),
        }
    }

    fn ids<T>(taken: &[T], id: impl Fn(&T) -> u32) -> Vec<u32> {
        taken.iter().map(id).collect()
    }

    #[test]
    fn no_more_are_held_than_the_limit() {
        let mut waiting = Waiting::default();
        let of = |n: u32| Held { source: IpAddr::from(n.to_be_bytes()), ..held(n, 2) };
        for id in 0..u32::try_from(MAX_HELD).unwrap() {
            assert!(waiting.hold(of(id)).is_ok());
        }
        assert_eq!(waiting.hold(of(u32::MAX)).unwrap_err().rule, "identity.unavailable");
        waiting.take(0).unwrap();
        assert!(waiting.hold(of(u32::MAX)).is_ok());
    }

    #[test]
    fn no_more_are_held_of_one_address_than_its_limit() {
        let mut waiting = Waiting::default();
        for id in 0..MAX_LOOKUPS {
            assert!(waiting.hold(held(id.try_into().unwrap(), 2)).is_ok());
        }
        assert_eq!(waiting.hold(held(u32::MAX, 2)).unwrap_err().rule, "limit.lookups");
        let other = Held { source: "172.18.0.6".parse().unwrap(), ..held(u32::MAX, 2) };
        assert!(waiting.hold(other).is_ok());
    }

    #[test]
    fn what_is_settled_leaves_and_what_has_ended_is_not_there() {
        let mut memory = Memory::default();
        let mut waiting = Waiting::default();
        for id in 1..=3 {
            waiting.hold(held(id, 2)).unwrap();
        }
        drop(waiting.take(2));
        let source = waiting.source(1).unwrap();
        waiting.answered(1, LookupResult::read(source, &LookupResponse { version: 1, record: None }).unwrap());
        assert!(waiting.take_settled(&memory, 64).is_empty());
        let policy = Some(
            br#"{"version":"p1","egress":{"allow":{"exact":{},"below":{}}},"strip_foreign_credentials":true}"#.to_vec(),
        );
        memory.apply(WatchResponse { version: 1, snapshot: true, policy, ..WatchResponse::default() }).unwrap();
        // The third request still waits for its lookup.
        assert_eq!(ids(&waiting.take_settled(&memory, 64), |(held, _)| held.request.id), [1]);
        assert_eq!(ids(&waiting.take_overdue(Duration::from_secs(1), 64), |held| held.request.id), [0_u32; 0]);
        assert_eq!(ids(&waiting.take_overdue(Duration::from_secs(2), 64), |held| held.request.id), [3]);
    }
}
