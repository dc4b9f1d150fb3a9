//! Envoy's callbacks for connections: counts each TCP connection for its address, before its first byte. The limits are
//! in [`crate::connections`]; this module reads and writes the shared values, and closes the refused connections.
//!
//! A failed hostcall closes the connection: an address that can't be counted could be any address.
//!
//! The filter shares the VM with the identity filter, whose copy of the registry tells containers from strangers.

use crate::connections::{
    self, Admission, Alive, Arrived, Connections, Counted, Line, RENEW, TABLES, Table, Unreadable,
};
use crate::known;
use crate::limits::too_many;
use envoy_host::{
    self as host, AUDIT, Action, ConnectionCallbacks, Kind, Level, MAX_EFFECTS, RootCallbacks, StreamCallbacks,
};
use policy::{ConnectionLimits, Denial, Rule};
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// How often a shared value is read again because another worker has changed it. Each time, that worker has succeeded.
const ATTEMPTS: u32 = 64;
/// The period of the next tick while work is left over: the next turn of Envoy's loop.
const SOON: Duration = Duration::from_millis(5);
/// The period of the next tick while connections wait.
const PACE: Duration = Duration::from_millis(100);

thread_local! {
    /// The connections of this worker. The requests of the identity filter are requests of these connections.
    static HERE: RefCell<Connections> = RefCell::default();
}

/// Why a connection can't be counted.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Host(#[from] host::Error),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("the connection has no source address")]
    NoSource,
    #[error("BUG: a shared value is missing")]
    Missing,
    #[error("the other workers change a shared value all the time")]
    Contended,
}

/// The root context: one in each worker, and one on Envoy's main thread, which accepts no connections.
pub struct Root {
    limits: Rc<ConnectionLimits>,
    /// The period of the ticks: [`RENEW`], [`PACE`] while connections wait, or [`SOON`] while work is left over.
    period: Duration,
}

impl Root {
    /// A root context without its configuration. It admits no connection.
    pub fn new() -> Self {
        Self {
            limits: Rc::new(ConnectionLimits { container: 0, stranger: 0, strangers: 0, requests_per_second: 0 }),
            period: RENEW,
        }
    }

    fn configure(&mut self, size: usize) -> Result<(), String> {
        let limits = host::configuration(size).map_err(|error| error.to_string())?;
        self.limits = Rc::new(serde_json::from_slice(&limits).map_err(|error| error.to_string())?);
        HERE.with_borrow_mut(|here| here.set_rate(self.limits.requests_per_second));
        // The first VM starts on Envoy's main thread, before any worker.
        let mut keys = (0..TABLES).map(connections::key).chain([Alive::KEY.to_owned()]);
        keys.try_for_each(|key| host::create_shared_data(&key)).map_err(|error| error.to_string())?;
        host::set_tick_period(RENEW).map_err(|error| error.to_string())
    }
}

impl RootCallbacks for Root {
    fn kind(&self) -> Kind {
        Kind::Connections
    }

    fn on_configure(&mut self, size: usize) -> bool {
        self.configure(size).map_err(|error| host::log(Level::Error, &format!("connections: {error}"))).is_ok()
    }

    fn on_tick(&mut self) {
        match now() {
            Ok(now) => HERE.with_borrow_mut(|here| here.tick(now)),
            Err(error) => logged(Err(error)),
        }
        if HERE.with_borrow(|here| here.vm.is_some()) {
            logged(show_alive());
            let unpublished = HERE.with_borrow_mut(|here| std::mem::take(&mut here.unpublished));
            unpublished.into_iter().for_each(publish);
        }
        let silent = HERE.with_borrow_mut(|here| here.take_silent(MAX_EFFECTS));
        let ready = HERE.with_borrow_mut(|here| here.take_ready(MAX_EFFECTS - silent.len()));
        let period = if silent.len() + ready.len() == MAX_EFFECTS {
            SOON
        } else if HERE.with_borrow(Connections::any_waits) {
            PACE
        } else {
            RENEW
        };
        if self.period != period {
            self.period = period;
            logged(host::set_tick_period(period).map_err(Failed::from));
        }
        for id in silent {
            // A context that is gone has taken its connection with it.
            if host::act_for(id).is_ok() {
                host::close_connection();
            }
        }
        for id in ready {
            if host::act_for(id).is_ok() {
                host::resume_connection();
            }
        }
    }

    fn create_stream(&self, _id: u32) -> Box<dyn StreamCallbacks> {
        Box::new(NoRequest)
    }

    fn create_connection(&self, id: u32) -> Option<Box<dyn ConnectionCallbacks>> {
        Some(Box::new(Connection { id, limits: self.limits.clone(), counted: Vec::new(), of: None, number: None }))
    }
}

/// Stands for a request, of which this filter gets none.
struct NoRequest;

impl StreamCallbacks for NoRequest {
    fn on_request_headers(&mut self, _end: bool) -> Action {
        Action::Pause
    }
}

/// The context of one connection.
struct Connection {
    id: u32,
    limits: Rc<ConnectionLimits>,
    /// The subjects for which it is counted.
    counted: Vec<Counted>,
    /// The address for which it is counted, from its admission on.
    of: Option<(IpAddr, Counted)>,
    /// Envoy's number of the connection.
    number: Option<u64>,
}

impl ConnectionCallbacks for Connection {
    fn on_new_connection(&mut self) -> Action {
        match self.admit() {
            Ok(true) => return Action::Continue,
            Ok(false) => {}
            Err(error) => host::log(Level::Error, &format!("connections: a connection is closed: {error}")),
        }
        self.on_close();
        host::close_connection();
        Action::Pause
    }

    fn on_data(&mut self, size: usize) -> Action {
        let Some((source, admitted)) = self.of else { return Action::Pause };
        // The registry may have learned the address since: another subject, in IPv6.
        let counted = subject(source);
        if counted != admitted {
            HERE.with_borrow_mut(|here| here.waits_no_longer(self.id, admitted));
            self.of = Some((source, counted));
        }
        match HERE.with_borrow_mut(|here| here.arrived(self.id, counted, size)) {
            Arrived::Passes => return Action::Continue,
            Arrived::Waits => {}
            Arrived::TooMuch => host::close_connection(),
        }
        if HERE.with_borrow_mut(|here| here.notes(counted, Line::Waits)) {
            let limit = self.limits.requests_per_second;
            let sent = "has sent more requests than it may send, and its connections wait";
            host::log(Level::Warn, &format!("connections: {source} {sent}; the limit is {limit} in a second"));
        }
        Action::Pause
    }

    fn on_close(&mut self) {
        if let Some((_, counted)) = self.of.take() {
            HERE.with_borrow_mut(|here| here.waits_no_longer(self.id, counted));
        }
        if let Some(number) = self.number.take() {
            HERE.with_borrow_mut(|here| here.spoke(number));
        }
        for counted in self.counted.drain(..) {
            HERE.with_borrow_mut(|here| here.closed(counted));
            publish(counted);
        }
    }
}

impl Connection {
    /// Counts the connection. Returns whether its address may have one more.
    fn admit(&mut self) -> Result<bool, Failed> {
        #[cfg(feature = "test-panic")]
        assert!(!PANIC_PORTS.contains(&source_port()), "made to panic");
        let source = host::source_ip()?.ok_or(Failed::NoSource)?;
        let number = host::connection_id()?.ok_or(Failed::Missing)?;
        let known = known::knows(source);
        let address = Counted::of(source, known == Some(true));
        let limit = connections::limit(&self.limits, known);
        if !self.count(address, limit)? {
            let reason = format!("your address has {limit} open connections, which is the limit");
            note(source, address, reason);
            return Ok(false);
        }
        // An address of which nothing is known yet may be a stranger's.
        if known != Some(true) && !self.count(Counted::STRANGERS, self.limits.strangers)? {
            let reason = "the addresses without a container have all connections that they may have together";
            note(source, Counted::STRANGERS, reason.into());
            return Ok(false);
        }
        (self.of, self.number) = (Some((source, address)), Some(number));
        HERE.with_borrow_mut(|here| here.accepted(self.id, number));
        Ok(true)
    }

    fn count(&mut self, counted: Counted, limit: u32) -> Result<bool, Failed> {
        if HERE.with_borrow(|here| here.vm.is_none()) {
            show_alive()?;
        }
        let now = now()?;
        let room = change(&counted.key(), |table| {
            let table = Table::read(table)?;
            Ok(match HERE.with_borrow(|here| here.with_one_more(counted, limit, table, now)) {
                Admission::Room(table) => Some(table.to_bytes()),
                Admission::Full => None,
            })
        })?;
        if room {
            HERE.with_borrow_mut(|here| here.opened(counted));
            self.counted.push(counted);
        }
        Ok(room)
    }
}

/// A connection from one of these ports makes the filter panic.
#[cfg(feature = "test-panic")]
const PANIC_PORTS: std::ops::RangeInclusive<i64> = 6_661..=6_669;

#[cfg(feature = "test-panic")]
fn source_port() -> i64 {
    let port = host::property(&["source", "port"]).ok().flatten();
    port.and_then(|port| port.try_into().ok()).map_or(0, i64::from_le_bytes)
}

/// A request from `source` has arrived, on any connection. Returns the requests per second of an address if there were
/// too many to answer this one.
pub fn requested(source: IpAddr) -> Option<u32> {
    HERE.with_borrow_mut(|here| here.requested(subject(source)))
}

/// The subject of a connection or request from `source`.
fn subject(source: IpAddr) -> Counted {
    Counted::of(source, known::knows(source) == Some(true))
}

/// The connection with this number has sent a request.
pub fn spoke(number: u64) {
    HERE.with_borrow_mut(|here| here.spoke(number));
}

/// Writes the audit line of a refused connection, if its subject has had none lately.
fn note(source: IpAddr, counted: Counted, reason: String) {
    if HERE.with_borrow_mut(|here| here.notes(counted, Line::Refused)) {
        let denial: Denial = too_many(Rule::LimitTcp, reason);
        let note = known::note_of(source, denial);
        if let Err(error) = host::set_property(&AUDIT, &note.to_bytes()) {
            host::log(Level::Error, &format!("connections: a connection is refused without its audit note: {error}"));
        }
    }
}

/// Shows that this VM is alive, and reads which others are.
fn show_alive() -> Result<(), Failed> {
    let now = now()?;
    let (vm, shown) = (HERE.with_borrow(|here| here.vm), RefCell::new(None));
    change(Alive::KEY, |value| {
        let mut alive = Alive::read(value)?;
        let vm = alive.show(vm, now);
        let bytes = alive.to_bytes();
        shown.replace(Some((vm, alive)));
        Ok(Some(bytes))
    })?;
    // A new number is this VM's only now that the value with it has been written: another VM may have taken the one of
    // an earlier attempt.
    if let Some((vm, alive)) = shown.take() {
        HERE.with_borrow_mut(|here| (here.vm, here.alive) = (Some(vm), alive));
    }
    Ok(())
}

/// Publishes the count of this worker, now or at the next tick.
fn publish(counted: Counted) {
    let published = change(&counted.key(), |table| {
        let table = Table::read(table)?;
        Ok(Some(HERE.with_borrow(|here| here.published(counted, table)).to_bytes()))
    });
    if let Err(error) = published {
        host::log(Level::Error, &format!("connections: {error}"));
        HERE.with_borrow_mut(|here| here.unpublished.push(counted));
    }
}

/// Replaces the shared value under `key` by the result of `with`, which gets the current value. Returns false if `with`
/// leaves the value as it is.
fn change(key: &str, with: impl Fn(&[u8]) -> Result<Option<Vec<u8>>, Failed>) -> Result<bool, Failed> {
    for _ in 0..ATTEMPTS {
        let old = host::shared_data(key)?.ok_or(Failed::Missing)?;
        let Some(new) = with(&old.value)? else { return Ok(false) };
        if host::replace_shared_data(key, &old, &new)? {
            return Ok(true);
        }
    }
    Err(Failed::Contended)
}

/// Milliseconds since 1970.
fn now() -> Result<u64, Failed> {
    Ok(u64::try_from(host::now()?.as_millisecond()).unwrap_or(0))
}

fn logged(result: Result<(), Failed>) {
    if let Err(error) = result {
        host::log(Level::Error, &format!("connections: {error}"));
    }
}
