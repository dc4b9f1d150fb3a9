//! The requests that are held until their container is known. Pure, and decides nothing. `filter` inserts requests, and
//! takes them out when the memory can settle them, when their time is up, or when their stream has ended.

use crate::limits::too_many;
use crate::memory::{Identity, Lookup, LookupResult, Memory};
use crate::request::Facts;
use crate::verdict::unavailable;
use envoy_host::Action;
use policy::{Container, Denial, Policy, Rule};
use std::cell::Cell;
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

/// The phase of a request. Its body goes to the next filter only in [`Phase::Passed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The headers haven't arrived.
    New,
    /// The request is held.
    Held,
    /// The request was allowed.
    Passed,
    /// The request was refused. Its body is dropped until the response may be sent.
    Dropping,
    /// The request was refused, and the response sent.
    Refused,
}

/// The progress of a request. Its own context and the root context share it.
#[derive(Debug)]
pub struct Progress {
    /// The request's phase.
    pub phase: Cell<Phase>,
    /// Whether the whole request has arrived.
    pub ended: Cell<bool>,
    /// Whether a part of the body was dropped while the request was held. The request can then only be refused.
    pub cut: Cell<bool>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { phase: Cell::new(Phase::New), ended: Cell::new(false), cut: Cell::new(false) }
    }
}

impl Phase {
    /// The action to return from Envoy's callbacks in this phase, for any part of the request.
    pub fn action(self) -> Action {
        match self {
            Phase::Passed => Action::Continue,
            Phase::New | Phase::Held | Phase::Dropping | Phase::Refused => Action::Pause,
        }
    }
}

/// A held request.
#[derive(Debug)]
pub struct Held {
    /// The request's facts.
    pub facts: Facts,
    /// The server name from the TLS handshake.
    pub sni: Option<Vec<u8>>,
    /// The source address.
    pub source: IpAddr,
    /// The state of the lookup for that address.
    pub lookup: Lookup,
    /// The uptime at which the request is refused.
    pub until: Duration,
    /// The progress, shared with the request's own context, which handles the body.
    pub progress: Rc<Progress>,
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
    pub fn hold(&mut self, id: u32, held: Held) -> Result<(), Denial> {
        if self.0.len() >= MAX_HELD {
            return Err(unavailable("too many requests wait to be identified; try again"));
        }
        if self.0.values().filter(|other| other.source == held.source).count() >= MAX_LOOKUPS {
            let reason = format!("{MAX_LOOKUPS} requests of your address wait to be identified, which is the limit");
            return Err(too_many(Rule::LimitLookups, reason));
        }
        self.0.insert(id, held);
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

    /// Takes out every request that can be judged now.
    pub fn take_settled(&mut self, memory: &Memory) -> Vec<(u32, Held, Settled)> {
        let settled = |(id, held): (&u32, &Held)| match memory.identify(held.source, &held.lookup) {
            Identity::Settled(container, policy) => Some((*id, Settled { container, policy })),
            Identity::NeedsLookup | Identity::Waits => None,
        };
        let settled: Vec<_> = self.0.iter().filter_map(settled).collect();
        settled.into_iter().filter_map(|(id, settled)| Some((id, self.0.remove(&id)?, settled))).collect()
    }

    /// Takes out every request whose time is up.
    pub fn take_overdue(&mut self, uptime: Duration) -> Vec<(u32, Held)> {
        self.0.extract_if(.., |_, held| held.until <= uptime).collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use registry_proto::{LookupResponse, WatchResponse};

    fn held(until: u64) -> Held {
        Held {
            facts: Facts::read(vec![]),
            sni: None,
            source: "172.18.0.5".parse().unwrap(),
            lookup: Lookup::Pending,
            until: Duration::from_secs(until),
            progress: Rc::default(),
        }
    }

    fn ids<T>(taken: &[T], id: impl Fn(&T) -> u32) -> Vec<u32> {
        taken.iter().map(id).collect()
    }

    #[test]
    fn only_what_was_allowed_lets_its_body_through() {
        assert_eq!(Phase::Passed.action(), Action::Continue);
        for phase in [Phase::New, Phase::Held, Phase::Dropping, Phase::Refused] {
            assert_eq!(phase.action(), Action::Pause);
        }
    }

    #[test]
    fn no_more_are_held_than_the_limit() {
        let mut waiting = Waiting::default();
        let of = |n: u32| Held { source: IpAddr::from(n.to_be_bytes()), ..held(2) };
        for id in 0..u32::try_from(MAX_HELD).unwrap() {
            assert!(waiting.hold(id, of(id)).is_ok());
        }
        assert_eq!(waiting.hold(u32::MAX, of(u32::MAX)).unwrap_err().rule, "identity.unavailable");
        waiting.take(0).unwrap();
        assert!(waiting.hold(u32::MAX, of(u32::MAX)).is_ok());
    }

    #[test]
    fn no_more_are_held_of_one_address_than_its_limit() {
        let mut waiting = Waiting::default();
        for id in 0..MAX_LOOKUPS {
            assert!(waiting.hold(id.try_into().unwrap(), held(2)).is_ok());
        }
        assert_eq!(waiting.hold(u32::MAX, held(2)).unwrap_err().rule, "limit.lookups");
        let other = Held { source: "172.18.0.6".parse().unwrap(), ..held(2) };
        assert!(waiting.hold(u32::MAX, other).is_ok());
    }

    #[test]
    fn what_is_settled_leaves_and_what_has_ended_is_not_there() {
        let mut memory = Memory::default();
        let mut waiting = Waiting::default();
        for id in 1..=3 {
            waiting.hold(id, held(2)).unwrap();
        }
        drop(waiting.take(2));
        let source = waiting.source(1).unwrap();
        waiting.answered(1, LookupResult::read(source, &LookupResponse { version: 1, record: None }).unwrap());
        assert!(waiting.take_settled(&memory).is_empty());
        let policy =
            Some(br#"{"version":"p1","egress":{"exact":{},"below":{}},"strip_foreign_credentials":true}"#.to_vec());
        memory.apply(WatchResponse { version: 1, snapshot: true, policy, ..WatchResponse::default() }).unwrap();
        // The third request still waits for its lookup.
        assert_eq!(ids(&waiting.take_settled(&memory), |taken| taken.0), [1]);
        assert_eq!(ids(&waiting.take_overdue(Duration::from_secs(1)), |taken| taken.0), [0_u32; 0]);
        assert_eq!(ids(&waiting.take_overdue(Duration::from_secs(2)), |taken| taken.0), [3]);
    }
}
