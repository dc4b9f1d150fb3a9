//! This worker's copy of the registry: a pure state machine that `filter` feeds with what the control plane sends.
//!
//! It says who is registered at an address and which policy is in force, or that this can't be said yet. What it
//! can't read, it forgets: a record that can't be parsed is no record, a policy that can't be parsed allows nothing.
//! It never gives up what it knows because the control plane is silent.

use policy::{Container, HostName, Policy};
pub use registry_proto::address_bytes;
use registry_proto::{LookupResponse, WatchResponse, address_of};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

/// What the worker knows.
#[derive(Debug, Default)]
pub struct Memory {
    containers: HashMap<IpAddr, Rc<Container>>,
    /// `None` until the first snapshot.
    policy: Option<Rc<Policy>>,
    applied: u64,
    /// The stream is new: only a snapshot can follow.
    expects_snapshot: bool,
}

/// What has been asked about one address for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nothing.
    No,
    /// The registry, which hasn't answered yet.
    Waiting,
    /// The registry, which has answered.
    Answered(Answer),
}

/// The registry's answer about one address. It serves the request it was asked for and is never kept: only the
/// stream, which has an order, writes to the memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    version: u64,
    container: Option<Rc<Container>>,
}

/// Who is behind an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// This, under this policy.
    Settled(Option<Rc<Container>>, Rc<Policy>),
    /// The registry has to be asked.
    Ask,
    /// An answer or the first snapshot has to come first.
    Wait,
}

/// Part of a message that couldn't be read. It has been applied as its absence.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A record; whoever was known at that address isn't any more.
    #[error("the registry's record of {address} can't be read, so nobody is registered there: {reason}")]
    Record {
        /// The address.
        address: IpAddr,
        /// What is wrong with it.
        reason: String,
    },
    /// An address in a snapshot.
    #[error("a record in the registry's snapshot has an address of {0} bytes; it is left out")]
    Address(usize),
    /// The policy; nothing is allowed from now on.
    #[error("the policy can't be read, so nothing is allowed: {0}")]
    Policy(String),
}

/// A message that can't be applied. Nothing of it has been; a new stream, with its snapshot, settles it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Changes before the snapshot.
    #[error("the registry's stream began with something other than a snapshot")]
    NotASnapshot,
    /// The version has gone down within one stream.
    #[error("the registry's version went from {applied} back to {version}")]
    Backwards {
        /// The last one.
        applied: u64,
        /// This one.
        version: u64,
    },
    /// It is unknown whose record has changed.
    #[error("a change in the registry has an address of {0} bytes")]
    Address(usize),
}

impl Memory {
    /// A stream was opened. What is known stays, until its snapshot replaces it.
    pub fn stream_opened(&mut self) {
        self.expects_snapshot = true;
    }

    /// Applies a message of the stream, and returns what of it couldn't be read.
    ///
    /// # Errors
    /// When the message as a whole makes no sense here. The memory is as before.
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
                // A snapshot has replaced everything, so whoever it was is unknown now.
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
                unreadable.push(Unreadable::Policy("the registry's snapshot has none".into()));
            }
            None => {}
        }
        self.applied = message.version;
        Ok(unreadable)
    }

    /// Who is behind `address`, given what has been asked about it.
    ///
    /// An answer that is no newer than the memory adds nothing to it: whatever the answer saw, the stream has brought
    /// since, and perhaps taken back. A newer one is right for this request, whatever the stream is about to bring.
    pub fn who(&self, address: IpAddr, asked: &Asked) -> Who {
        let known = self.containers.get(&address);
        let container = match (asked, known) {
            (Asked::Answered(answer), _) if answer.version > self.applied => answer.container.clone(),
            (Asked::Answered(_), known) => known.cloned(),
            (Asked::No | Asked::Waiting, Some(known)) => Some(known.clone()),
            (Asked::No, None) => return Who::Ask,
            (Asked::Waiting, None) => return Who::Wait,
        };
        match &self.policy {
            Some(policy) => Who::Settled(container, policy.clone()),
            None => Who::Wait,
        }
    }

    /// Whether a request that passed by the record of `generation` at `address` may still go on: the record is as it
    /// was, or too new for the stream to have brought it.
    pub fn confirms(&self, address: IpAddr, generation: u64) -> bool {
        generation > self.applied
            || self.containers.get(&address).is_some_and(|container| container.generation == generation)
    }

    /// The record that the stream has told of at `address`. No request may be judged by it: see [`Memory::who`].
    pub fn record(&self, address: IpAddr) -> Option<&Container> {
        self.containers.get(&address).map(Rc::as_ref)
    }

    /// Its id; for the audit only.
    pub fn container_id(&self, address: IpAddr) -> Option<&str> {
        self.record(address).map(|container| container.container_id.as_str())
    }

    /// Whether the policy, or the record of whoever is at `source`, names `host`. Before the first snapshot none does.
    pub fn names_host(&self, source: IpAddr, host: &HostName) -> bool {
        let by_record = |container: &Rc<Container>| container.egress_allow.iter().any(|pattern| pattern.covers(host));
        self.policy.as_ref().is_some_and(|policy| policy.egress.access(host).is_some())
            || self.containers.get(&source).is_some_and(by_record)
    }

    /// The version of the policy in force, `none` before the first snapshot; for the audit only.
    pub fn policy_version(&self) -> &str {
        self.policy.as_ref().map_or("none", |policy| &policy.version)
    }

    /// How many containers are known.
    pub fn len(&self) -> usize {
        self.containers.len()
    }
}

impl Answer {
    /// Reads the registry's answer about `address`.
    ///
    /// # Errors
    /// What is wrong with the record in it.
    pub fn read(address: IpAddr, response: &LookupResponse) -> Result<Self, String> {
        let container = response.record.as_ref().map(|record| read_record(address, record)).transpose()?;
        Ok(Self { version: response.version, container })
    }
}

fn read_record(address: IpAddr, json: &[u8]) -> Result<Rc<Container>, String> {
    let container: Container = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    if container.container_ip.to_canonical() != address {
        return Err(format!("it is the record of {}", container.container_ip));
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
    const POLICY: &str =
        r#"{"version":"p1","egress":{"exact":{"github.com":{}},"below":{}},"strip_foreign_credentials":true}"#;

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

    /// A memory with A in it, at version 5.
    fn filled() -> Memory {
        let mut memory = Memory::default();
        memory.stream_opened();
        assert!(memory.apply(snapshot(5, vec![upsert(A, "a")])).unwrap().is_empty());
        memory
    }

    fn answer(version: u64, id: Option<&str>) -> Asked {
        let response = LookupResponse { version, record: id.map(|id| record(B, id)) };
        Asked::Answered(Answer::read(ip(B), &response).unwrap())
    }

    fn id(who: &Who) -> Option<&str> {
        match who {
            Who::Settled(container, _) => Some(container.as_ref().map_or("nobody", |c| c.container_id.as_str())),
            Who::Ask | Who::Wait => None,
        }
    }

    #[test]
    fn a_known_address_is_settled_without_asking_and_an_unknown_one_is_asked_for_once() {
        let memory = filled();
        assert_eq!(id(&memory.who(ip(A), &Asked::No)), Some("a"));
        assert_eq!(memory.who(ip(B), &Asked::No), Who::Ask);
        assert_eq!(memory.who(ip(B), &Asked::Waiting), Who::Wait);
    }

    #[test]
    fn before_the_first_snapshot_nothing_is_settled() {
        let memory = Memory::default();
        assert_eq!(memory.who(ip(B), &Asked::No), Who::Ask);
        assert_eq!(memory.who(ip(B), &answer(3, Some("b"))), Who::Wait);
        assert_eq!(memory.policy_version(), "none");
    }

    #[test]
    fn an_answer_newer_than_the_memory_counts() {
        let memory = filled();
        assert_eq!(id(&memory.who(ip(B), &answer(6, Some("b")))), Some("b"));
        assert_eq!(id(&memory.who(ip(B), &answer(6, None))), Some("nobody"));
    }

    #[test]
    fn an_answer_no_newer_than_the_memory_does_not_bring_back_what_the_stream_has_removed() {
        let mut memory = filled();
        assert!(memory.apply(WatchResponse { upserts: vec![upsert(B, "b")], ..change(6) }).unwrap().is_empty());
        assert!(memory.apply(WatchResponse { removals: vec![address_bytes(ip(B))], ..change(7) }).unwrap().is_empty());
        for version in [5, 6, 7] {
            assert_eq!(id(&memory.who(ip(B), &answer(version, Some("b")))), Some("nobody"), "{version}");
        }
    }

    #[test]
    fn what_the_stream_brings_while_an_answer_is_awaited_settles_it() {
        let mut memory = filled();
        memory.apply(WatchResponse { upserts: vec![upsert(B, "b")], ..change(6) }).unwrap();
        assert_eq!(id(&memory.who(ip(B), &Asked::Waiting)), Some("b"));
        assert_eq!(id(&memory.who(ip(B), &answer(5, None))), Some("b"));
    }

    #[test]
    fn a_new_streams_snapshot_replaces_everything_and_until_then_everything_stays() {
        let mut memory = filled();
        memory.stream_opened();
        assert_eq!(id(&memory.who(ip(A), &Asked::No)), Some("a"));
        assert_eq!(memory.apply(change(9)).unwrap_err(), Unusable::NotASnapshot);
        assert_eq!(id(&memory.who(ip(A), &Asked::No)), Some("a"));
        memory.apply(snapshot(2, vec![upsert(B, "b")])).unwrap();
        assert_eq!(memory.who(ip(A), &Asked::No), Who::Ask);
        assert_eq!(id(&memory.who(ip(B), &Asked::No)), Some("b"));
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
            assert_eq!(memory.who(ip(A), &Asked::No), Who::Ask);
            assert_eq!(id(&memory.who(ip(B), &Asked::No)), Some("b"));
        }
    }

    #[test]
    fn a_policy_that_cannot_be_read_allows_nothing() {
        let mut memory = filled();
        let unreadable = memory.apply(WatchResponse { policy: Some(b"{}".to_vec()), ..change(6) }).unwrap();
        assert!(matches!(unreadable.as_slice(), [Unreadable::Policy(_)]));
        let Who::Settled(_, policy) = memory.who(ip(A), &Asked::No) else { unreachable!() };
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
        assert_eq!(id(&memory.who(ip(B), &answer(7, None))), Some("nobody"));
    }

    #[test]
    fn a_change_of_an_address_that_cannot_be_read_is_not_applied_at_all() {
        let mut memory = filled();
        let removals = vec![address_bytes(ip(A)), vec![1, 2, 3]];
        assert_eq!(memory.apply(WatchResponse { removals, ..change(6) }).unwrap_err(), Unusable::Address(3));
        let upserts = vec![upsert(B, "b"), Upsert { address: vec![], record: record(A, "a") }];
        assert_eq!(memory.apply(WatchResponse { upserts, ..change(6) }).unwrap_err(), Unusable::Address(0));
        assert_eq!(id(&memory.who(ip(A), &Asked::No)), Some("a"));
        assert_eq!(memory.who(ip(B), &Asked::No), Who::Ask);
    }

    #[test]
    fn in_a_snapshot_it_is_left_out() {
        let mut memory = filled();
        memory.stream_opened();
        let upserts = vec![Upsert { address: vec![0; 5], record: record(A, "a") }, upsert(B, "b")];
        let unreadable = memory.apply(snapshot(6, upserts)).unwrap();
        assert!(matches!(unreadable.as_slice(), [Unreadable::Address(5)]));
        assert_eq!(memory.who(ip(A), &Asked::No), Who::Ask);
        assert_eq!(id(&memory.who(ip(B), &Asked::No)), Some("b"));
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        let mut memory = filled();
        let mapped =
            Upsert { address: vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 172, 18, 0, 6], record: record(B, "b") };
        memory.apply(WatchResponse { upserts: vec![mapped], ..change(6) }).unwrap();
        assert_eq!(id(&memory.who(ip(B), &Asked::No)), Some("b"));
        assert_eq!(address_of(&address_bytes(ip("fd00::5"))), Some(ip("fd00::5")));
    }

    #[test]
    fn an_answer_about_someone_else_is_no_answer() {
        let response = LookupResponse { version: 6, record: Some(record(A, "a")) };
        assert!(Answer::read(ip(B), &response).is_err());
    }
}
