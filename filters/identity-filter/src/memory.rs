//! This worker's copy of the registry. A pure state machine, which `filter` feeds with the control plane's messages.
//!
//! The memory tells which container is registered at an address and which policy is in force, or that this is not known
//! yet. A record that can't be parsed counts as absent, and a policy that can't be parsed allows nothing. The memory
//! keeps its content if the control plane is unreachable.

use policy::{Container, HostName, Policy};
pub use registry_proto::address_bytes;
use registry_proto::{LookupResponse, WatchResponse, address_of};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

/// A worker's copy of the registry.
#[derive(Debug, Default)]
pub struct Memory {
    containers: HashMap<IpAddr, Rc<Container>>,
    /// `None` until the first snapshot.
    policy: Option<Rc<Policy>>,
    applied: u64,
    /// The stream is new, so its next message has to be a snapshot.
    expects_snapshot: bool,
}

/// The state of the registry lookup for one request's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// No lookup was made.
    NotMade,
    /// The lookup is under way.
    Pending,
    /// The lookup has returned.
    Done(LookupResult),
}

/// The registry's response to a lookup. It is used for the request that made the lookup, and is never stored in the
/// memory: only the stream, whose messages are ordered, changes the memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupResult {
    version: u64,
    container: Option<Rc<Container>>,
}

/// The container at an address, if it can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The container (`None` if no container is registered) and the policy in force.
    Settled(Option<Rc<Container>>, Rc<Policy>),
    /// A registry lookup is needed.
    NeedsLookup,
    /// The lookup or the first snapshot has to arrive first.
    Waits,
}

/// A part of a message that couldn't be parsed. The part was treated as absent.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A record. The address has no record now.
    #[error("invalid record of {address} in the registry, which counts as not registered: {reason}")]
    Record {
        /// The address.
        address: IpAddr,
        /// The problem with the record.
        reason: String,
    },
    /// An address in a snapshot.
    #[error("a record in the registry's snapshot has an address of {0} bytes, not 4 or 16; the record is ignored")]
    Address(usize),
    /// The policy. Nothing is allowed from now on.
    #[error("invalid policy, so every request is refused: {0}")]
    Policy(String),
}

/// A message that can't be applied, and that changed nothing. A new stream with a new snapshot repairs this.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The first message is not a snapshot.
    #[error("the registry's stream does not begin with a snapshot")]
    NotASnapshot,
    /// The version went down within one stream.
    #[error("the registry's version went from {applied} back to {version}")]
    Backwards {
        /// The last applied version.
        applied: u64,
        /// The version of this message.
        version: u64,
    },
    /// The address of a change can't be parsed, so it is unknown which record has changed.
    #[error("a change in the registry has an address of {0} bytes, not 4 or 16")]
    Address(usize),
}

impl Memory {
    /// A stream was opened. The memory keeps its content until the stream's snapshot replaces it.
    pub fn stream_opened(&mut self) {
        self.expects_snapshot = true;
    }

    /// Applies a message of the stream. Returns the parts that couldn't be parsed.
    ///
    /// # Errors
    /// If the message as a whole can't be applied. The memory is then unchanged.
    pub fn apply(&mut self, message: WatchResponse) -> Result<Vec<Unreadable>, Unusable> {
        if self.expects_snapshot && !message.snapshot {
            return Err(Unusable::NotASnapshot);
        }
        if !message.snapshot && message.version < self.applied {
            return Err(Unusable::Backwards { applied: self.applied, version: message.version });
        }
        let mut unreadable = Vec::new();
        let mut changes = Vec::new();
        for address in &message.removals {
            changes.push((address_of(address).ok_or(Unusable::Address(address.len()))?, None));
        }
        for upsert in &message.upserts {
            match address_of(&upsert.address) {
                Some(address) => changes.push((address, Some(&upsert.record))),
                // A snapshot replaces everything, so a record that is left out is unknown now.
                None if message.snapshot => unreadable.push(Unreadable::Address(upsert.address.len())),
                None => return Err(Unusable::Address(upsert.address.len())),
            }
        }
        if message.snapshot {
            self.containers.clear();
            self.expects_snapshot = false;
        }
        for (address, record) in changes {
            self.containers.remove(&address);
            match record.map(|record| read_record(address, record)) {
                Some(Ok(container)) => drop(self.containers.insert(address, container)),
                Some(Err(reason)) => unreadable.push(Unreadable::Record { address, reason }),
                None => {}
            }
        }
        match message.policy.map(|json| read_policy(&json)) {
            Some(Ok(policy)) => self.policy = Some(Rc::new(policy)),
            Some(Err(reason)) => {
                self.policy = Some(Rc::new(Policy::deny_all()));
                unreadable.push(Unreadable::Policy(reason));
            }
            None if message.snapshot => {
                self.policy = Some(Rc::new(Policy::deny_all()));
                unreadable.push(Unreadable::Policy("the registry's snapshot has no policy".into()));
            }
            None => {}
        }
        self.applied = message.version;
        Ok(unreadable)
    }

    /// The container at `address`, given the state of its lookup.
    ///
    /// A response that is not newer than the memory is ignored: the stream has delivered the same record already, and
    /// may have removed it since. A newer response is valid for this request, whatever the stream delivers next.
    pub fn identify(&self, address: IpAddr, lookup: &Lookup) -> Identity {
        let known = self.containers.get(&address);
        let container = match (lookup, known) {
            (Lookup::Done(result), _) if result.version > self.applied => result.container.clone(),
            (Lookup::Done(_), known) => known.cloned(),
            (Lookup::NotMade | Lookup::Pending, Some(known)) => Some(known.clone()),
            (Lookup::NotMade, None) => return Identity::NeedsLookup,
            (Lookup::Pending, None) => return Identity::Waits,
        };
        match &self.policy {
            Some(policy) => Identity::Settled(container, policy.clone()),
            None => Identity::Waits,
        }
    }

    /// Whether a request that was allowed by the record of `generation` at `address` may continue: the record is
    /// unchanged, or too new for the stream to have delivered it.
    pub fn confirms(&self, address: IpAddr, generation: u64) -> bool {
        generation > self.applied
            || self.containers.get(&address).is_some_and(|container| container.generation == generation)
    }

    /// Whether the first snapshot has arrived.
    pub fn is_filled(&self) -> bool {
        self.policy.is_some()
    }

    /// The record that the stream has delivered for `address`. Requests must be judged by [`Memory::identify`] instead.
    pub fn record(&self, address: IpAddr) -> Option<&Container> {
        self.containers.get(&address).map(Rc::as_ref)
    }

    /// The id of the container at `address`. For the audit only.
    pub fn container_id(&self, address: IpAddr) -> Option<&str> {
        self.record(address).map(|container| container.container_id.as_str())
    }

    /// Whether the policy, or the record at `source`, lists `host`. Returns false before the first snapshot.
    pub fn names_host(&self, source: IpAddr, host: &HostName) -> bool {
        let by_record = |container: &Rc<Container>| container.egress_allow.iter().any(|rules| rules.lists(host));
        self.policy.as_ref().is_some_and(|policy| policy.egress.access(host).is_some())
            || self.containers.get(&source).is_some_and(by_record)
    }

    /// The version of the policy in force, or `none` before the first snapshot. For the audit only.
    pub fn policy_version(&self) -> &str {
        self.policy.as_ref().map_or("none", |policy| &policy.version)
    }

    /// The number of known containers.
    pub fn len(&self) -> usize {
        self.containers.len()
    }
}

impl LookupResult {
    /// Parses the registry's response to a lookup of `address`.
    ///
    /// # Errors
    /// If the record in it is invalid; the error says why.
    pub fn read(address: IpAddr, response: &LookupResponse) -> Result<Self, String> {
        let container = response.record.as_ref().map(|record| read_record(address, record)).transpose()?;
        Ok(Self { version: response.version, container })
    }
}

fn read_record(address: IpAddr, json: &[u8]) -> Result<Rc<Container>, String> {
    let container: Container = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    if container.container_ip.to_canonical() != address {
        return Err(format!("the record belongs to {}", container.container_ip));
    }
    Ok(Rc::new(container))
}

fn read_policy(json: &[u8]) -> Result<Policy, String> {
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use registry_proto::Container as Upsert;

    const A: &str = "172.18.0.5";
    const B: &str = "172.18.0.6";
    const POLICY: &str = r#"{"version":"p1","egress":{"allow":{"exact":{"github.com":{"allow":["/**"]}},"below":{}}},"strip_foreign_credentials":true}"#;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn record(address: &str, id: &str) -> Vec<u8> {
        format!(
            r#"{{"container_ip":"{address}","container_id":"{id}","repos":[],"expires_at":"2027-01-15T00:00:00Z"}}"#
        )
        .into_bytes()
    }

    fn upsert(address: &str, id: &str) -> Upsert {
        Upsert { address: address_bytes(ip(address)), record: record(address, id) }
    }

    fn snapshot(version: u64, upserts: Vec<Upsert>) -> WatchResponse {
        WatchResponse { version, snapshot: true, upserts, removals: vec![], policy: Some(POLICY.into()) }
    }

    fn change(version: u64) -> WatchResponse {
        WatchResponse { version, ..WatchResponse::default() }
    }

    /// A memory at version 5 that knows A.
    fn filled() -> Memory {
        let mut memory = Memory::default();
        memory.stream_opened();
        assert!(memory.apply(snapshot(5, vec![upsert(A, "a")])).unwrap().is_empty());
        memory
    }

    fn answer(version: u64, id: Option<&str>) -> Lookup {
        let response = LookupResponse { version, record: id.map(|id| record(B, id)) };
        Lookup::Done(LookupResult::read(ip(B), &response).unwrap())
    }

    fn id(who: &Identity) -> Option<&str> {
        match who {
            Identity::Settled(container, _) => Some(container.as_ref().map_or("nobody", |c| c.container_id.as_str())),
            Identity::NeedsLookup | Identity::Waits => None,
        }
    }

    #[test]
    fn a_known_address_is_settled_without_asking_and_an_unknown_one_is_asked_for_once() {
        let memory = filled();
        assert_eq!(id(&memory.identify(ip(A), &Lookup::NotMade)), Some("a"));
        assert_eq!(memory.identify(ip(B), &Lookup::NotMade), Identity::NeedsLookup);
        assert_eq!(memory.identify(ip(B), &Lookup::Pending), Identity::Waits);
    }

    #[test]
    fn before_the_first_snapshot_nothing_is_settled() {
        let memory = Memory::default();
        assert_eq!(memory.identify(ip(B), &Lookup::NotMade), Identity::NeedsLookup);
        assert_eq!(memory.identify(ip(B), &answer(3, Some("b"))), Identity::Waits);
        assert_eq!(memory.policy_version(), "none");
    }

    #[test]
    fn an_answer_newer_than_the_memory_counts() {
        let memory = filled();
        assert_eq!(id(&memory.identify(ip(B), &answer(6, Some("b")))), Some("b"));
        assert_eq!(id(&memory.identify(ip(B), &answer(6, None))), Some("nobody"));
    }

    #[test]
    fn an_answer_no_newer_than_the_memory_does_not_bring_back_what_the_stream_has_removed() {
        let mut memory = filled();
        assert!(memory.apply(WatchResponse { upserts: vec![upsert(B, "b")], ..change(6) }).unwrap().is_empty());
        assert!(memory.apply(WatchResponse { removals: vec![address_bytes(ip(B))], ..change(7) }).unwrap().is_empty());
        for version in [5, 6, 7] {
            assert_eq!(id(&memory.identify(ip(B), &answer(version, Some("b")))), Some("nobody"), "{version}");
        }
    }

    #[test]
    fn what_the_stream_brings_while_an_answer_is_awaited_settles_it() {
        let mut memory = filled();
        memory.apply(WatchResponse { upserts: vec![upsert(B, "b")], ..change(6) }).unwrap();
        assert_eq!(id(&memory.identify(ip(B), &Lookup::Pending)), Some("b"));
        assert_eq!(id(&memory.identify(ip(B), &answer(5, None))), Some("b"));
    }

    #[test]
    fn a_new_streams_snapshot_replaces_everything_and_until_then_everything_stays() {
        let mut memory = filled();
        memory.stream_opened();
        assert_eq!(id(&memory.identify(ip(A), &Lookup::NotMade)), Some("a"));
        assert_eq!(memory.apply(change(9)).unwrap_err(), Unusable::NotASnapshot);
        assert_eq!(id(&memory.identify(ip(A), &Lookup::NotMade)), Some("a"));
        memory.apply(snapshot(2, vec![upsert(B, "b")])).unwrap();
        assert_eq!(memory.identify(ip(A), &Lookup::NotMade), Identity::NeedsLookup);
        assert_eq!(id(&memory.identify(ip(B), &Lookup::NotMade)), Some("b"));
        assert_eq!(memory.len(), 1);
    }

    #[test]
    fn a_version_does_not_go_back_within_a_stream() {
        let mut memory = filled();
        assert_eq!(memory.apply(change(4)).unwrap_err(), Unusable::Backwards { applied: 5, version: 4 });
        assert!(memory.apply(change(5)).is_ok());
    }

    #[test]
    fn a_record_that_cannot_be_read_removes_its_address() {
        let bad: [&[u8]; 4] = [b"", b"{", &record(B, "b"), br#"{"container_ip":"172.18.0.5","unheard_of":1}"#];
        for record in bad {
            let mut memory = filled();
            let upserts = vec![Upsert { address: address_bytes(ip(A)), record: record.to_vec() }, upsert(B, "b")];
            let unreadable = memory.apply(WatchResponse { upserts, ..change(6) }).unwrap();
            assert!(matches!(unreadable.as_slice(), [Unreadable::Record { address, .. }] if *address == ip(A)));
            assert_eq!(memory.identify(ip(A), &Lookup::NotMade), Identity::NeedsLookup);
            assert_eq!(id(&memory.identify(ip(B), &Lookup::NotMade)), Some("b"));
        }
    }

    #[test]
    fn a_policy_that_cannot_be_read_allows_nothing() {
        let mut memory = filled();
        let unreadable = memory.apply(WatchResponse { policy: Some(b"{}".to_vec()), ..change(6) }).unwrap();
        assert!(matches!(unreadable.as_slice(), [Unreadable::Policy(_)]));
        let Identity::Settled(_, policy) = memory.identify(ip(A), &Lookup::NotMade) else { unreachable!() };
        assert_eq!(*policy, Policy::deny_all());
    }

    #[test]
    fn an_absent_policy_is_as_before_in_a_change_and_allows_nothing_in_a_snapshot() {
        let mut memory = filled();
        assert!(memory.apply(change(6)).unwrap().is_empty());
        assert_eq!(memory.policy_version(), "p1");
        memory.stream_opened();
        let unreadable = memory.apply(WatchResponse { policy: None, ..snapshot(7, vec![]) }).unwrap();
        assert!(matches!(unreadable.as_slice(), [Unreadable::Policy(_)]));
        assert_eq!(memory.policy_version(), "none");
        assert_eq!(id(&memory.identify(ip(B), &answer(7, None))), Some("nobody"));
    }

    #[test]
    fn a_change_of_an_address_that_cannot_be_read_is_not_applied_at_all() {
        let mut memory = filled();
        let removals = vec![address_bytes(ip(A)), vec![1, 2, 3]];
        assert_eq!(memory.apply(WatchResponse { removals, ..change(6) }).unwrap_err(), Unusable::Address(3));
        let upserts = vec![upsert(B, "b"), Upsert { address: vec![], record: record(A, "a") }];
        assert_eq!(memory.apply(WatchResponse { upserts, ..change(6) }).unwrap_err(), Unusable::Address(0));
        assert_eq!(id(&memory.identify(ip(A), &Lookup::NotMade)), Some("a"));
        assert_eq!(memory.identify(ip(B), &Lookup::NotMade), Identity::NeedsLookup);
    }

    #[test]
    fn in_a_snapshot_it_is_left_out() {
        let mut memory = filled();
        memory.stream_opened();
        let upserts = vec![Upsert { address: vec![0; 5], record: record(A, "a") }, upsert(B, "b")];
        let unreadable = memory.apply(snapshot(6, upserts)).unwrap();
        assert!(matches!(unreadable.as_slice(), [Unreadable::Address(5)]));
        assert_eq!(memory.identify(ip(A), &Lookup::NotMade), Identity::NeedsLookup);
        assert_eq!(id(&memory.identify(ip(B), &Lookup::NotMade)), Some("b"));
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        let mut memory = filled();
        let mapped =
            Upsert { address: vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 172, 18, 0, 6], record: record(B, "b") };
        memory.apply(WatchResponse { upserts: vec![mapped], ..change(6) }).unwrap();
        assert_eq!(id(&memory.identify(ip(B), &Lookup::NotMade)), Some("b"));
        assert_eq!(address_of(&address_bytes(ip("fd00::5"))), Some(ip("fd00::5")));
    }

    #[test]
    fn an_answer_about_someone_else_is_no_answer() {
        let response = LookupResponse { version: 6, record: Some(record(A, "a")) };
        assert!(LookupResult::read(ip(B), &response).is_err());
    }
}
