//! The requests that are held until it is known who sent them. Pure; decides nothing. `filter` puts them in, takes
//! them out again when the memory has settled them or their time is up, and forgets those whose stream has ended.

use crate::limits::too_many;
use crate::memory::{Answer, Asked, Memory, Who};
use crate::request::Facts;
use crate::verdict::unavailable;
use policy::{Container, Denial, Policy, Rule};
use proxy_wasm::types::Action;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// How many requests a worker holds. Each waits for two seconds or so and keeps its path and the names of some of
/// its headers, 60 KiB at most (Envoy's limit for all headers together): 60 MiB of the VM's memory at the worst.
const MAX_HELD: usize = 1024;

/// How many of them may be of one address.
pub const MAX_LOOKUPS: usize = 64;

/// Where a request stands. Its body may follow its headers to the next filter only once it has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its headers haven't come.
    New,
    /// It waits.
    Held,
    /// It was allowed.
    Passed,
    /// It was refused, and its body is dropped until it may be answered.
    Dropping,
    /// It was refused.
    Refused,
}

/// Where a request stands, shared between its own context and the others that bring it on.
#[derive(Debug)]
pub struct Progress {
    /// Its phase.
    pub phase: Cell<Phase>,
    /// Whether all of it has come.
    pub ended: Cell<bool>,
    /// Whether part of its body was dropped while it was held: it can only be refused.
    pub cut: Cell<bool>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { phase: Cell::new(Phase::New), ended: Cell::new(false), cut: Cell::new(false) }
    }
}

impl Phase {
    /// What Envoy is told, whichever part of the request it shows.
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
    /// What it says.
    pub facts: Facts,
    /// The name in its TLS handshake.
    pub sni: Option<Vec<u8>>,
    /// Who sent it.
    pub source: IpAddr,
    /// What has been asked about that address.
    pub asked: Asked,
    /// The uptime at which it has waited long enough.
    pub until: Duration,
    /// Shared with its stream's context, which knows about its body.
    pub progress: Rc<Progress>,
}

/// Who sent a held request, and the policy it is to be judged by.
#[derive(Debug)]
pub struct Settled {
    /// Whoever is registered at its source.
    pub container: Option<Rc<Container>>,
    /// The policy in force.
    pub policy: Rc<Policy>,
}

/// All requests that this worker holds, by the id of their context.
#[derive(Debug, Default)]
pub struct Waiting(BTreeMap<u32, Held>);

impl Waiting {
    /// Holds a request.
    ///
    /// # Errors
    /// The refusal, when too many are held already, of all addresses or of this one.
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

    /// The address that the request `id` came from, if it is held.
    pub fn source(&self, id: u32) -> Option<IpAddr> {
        self.0.get(&id).map(|held| held.source)
    }

    /// Notes the registry's answer for the request `id`.
    pub fn answered(&mut self, id: u32, answer: Answer) {
        if let Some(held) = self.0.get_mut(&id) {
            held.asked = Asked::Answered(answer);
        }
    }

    /// Takes the request `id` out, if it is held.
    pub fn take(&mut self, id: u32) -> Option<Held> {
        self.0.remove(&id)
    }

    /// Takes out every request that can be judged now.
    pub fn take_settled(&mut self, memory: &Memory) -> Vec<(u32, Held, Settled)> {
        let settled = |(id, held): (&u32, &Held)| match memory.who(held.source, &held.asked) {
            Who::Settled(container, policy) => Some((*id, Settled { container, policy })),
            Who::Ask | Who::Wait => None,
        };
        let settled: Vec<_> = self.0.iter().filter_map(settled).collect();
        settled.into_iter().filter_map(|(id, settled)| Some((id, self.0.remove(&id)?, settled))).collect()
    }

    /// Takes out every request that has waited long enough.
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
            asked: Asked::Waiting,
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
        waiting.answered(1, Answer::read(source, &LookupResponse { version: 1, record: None }).unwrap());
        assert!(waiting.take_settled(&memory).is_empty());
        let policy =
            Some(br#"{"version":"p1","egress":{"exact":{},"below":{}},"strip_foreign_credentials":true}"#.to_vec());
        memory.apply(WatchResponse { version: 1, snapshot: true, policy, ..WatchResponse::default() }).unwrap();
        // The third is still waiting for its answer.
        assert_eq!(ids(&waiting.take_settled(&memory), |taken| taken.0), [1]);
        assert_eq!(ids(&waiting.take_overdue(Duration::from_secs(1)), |taken| taken.0), [0_u32; 0]);
        assert_eq!(ids(&waiting.take_overdue(Duration::from_secs(2)), |taken| taken.0), [3]);
    }
}
