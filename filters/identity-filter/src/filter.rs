//! Envoy's callbacks. The root context feeds the worker's memory from the registry's stream. The contexts of requests
//! pass each event to the [`Worker`] and carry out the steps that it returns. No decision is made here.
//!
//! **Invariant:** no borrow of the worker is held across a hostcall.
//!
//! **Invariant:** a callback ends, answers and resumes at most [`MAX_EFFECTS`] streams. The rest waits for the next tick,
//! which then comes [`SOON`].

use crate::life::{Request, Step};
use crate::link::Link;
use crate::request::{Facts, is_stripped_trailer};
use crate::verdict::Place;
use crate::worker::{Arrival, Broken, Identified, TICK, Worker, respond};
use crate::{accept, calls, effects, known};
use envoy_host::{self as host, Action, Direction, Level, MAX_EFFECTS, RootCallbacks, StreamCallbacks};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// The period of the next tick while work is left over from a callback: the next turn of Envoy's loop.
const SOON: Duration = Duration::from_millis(5);

/// The state that the root context and the contexts of requests share.
struct Shared {
    worker: Rc<RefCell<Worker>>,
    /// Whether a callback has left work for the next one.
    busy: Cell<bool>,
    /// The tunnels that have lost their record and are still open.
    leaving: RefCell<Vec<u32>>,
}

/// The root context: one in each worker, and one on Envoy's main thread. The main thread's context follows the registry
/// like the others, and handles no requests.
pub struct Root {
    shared: Rc<Shared>,
    link: Link,
    /// The period of the ticks: [`TICK`], or [`SOON`] while work is left over.
    period: Cell<Duration>,
}

impl Root {
    /// A root context that knows nothing of the registry.
    pub fn new() -> Self {
        let worker = Rc::default();
        known::share(&worker);
        let shared = Rc::new(Shared { worker, busy: Cell::new(false), leaving: RefCell::default() });
        Self { shared, link: Link::new(), period: Cell::new(TICK) }
    }

    /// Makes the next tick come soon if work is left over, and else in a [`TICK`].
    fn pace(&self) {
        let period = if self.shared.busy.replace(false) { SOON } else { TICK };
        if self.period.replace(period) != period {
            let _logged = host::set_tick_period(period).map_err(logged);
        }
    }

    fn open(&mut self) {
        match calls::open() {
            Ok(token) => {
                self.link.opened(token);
                self.shared.worker.borrow_mut().memory.stream_opened();
            }
            Err(error) => {
                host::log(Level::Info, &format!("identity: the registry's stream can't be opened: {error}"));
                self.link.closed();
            }
        }
    }
}

impl RootCallbacks for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        // The stream is opened from `on_tick`: this callback also runs in a VM that Envoy only tries out.
        host::set_tick_period(TICK).map_err(logged).is_ok()
    }

    fn on_tick(&mut self) {
        let passed = self.period.get();
        self.shared.worker.borrow_mut().tick(passed);
        if self.link.tick(passed) {
            self.open();
        }
        let mut budget = MAX_EFFECTS;
        self.shared.give_up(&mut budget);
        self.shared.respond(&mut budget);
        self.shared.settle(&mut budget);
        self.shared.reset_requests(&mut budget);
        if passed == TICK {
            self.shared.find_tunnels();
        }
        self.shared.reset_tunnels(&mut budget);
        self.pace();
    }

    fn create_stream(&self, id: u32) -> Box<dyn StreamCallbacks> {
        Box::new(Stream { request: Request::new(id), shared: self.shared.clone() })
    }

    fn on_grpc_stream_message(&mut self, token: u32, size: usize) {
        // Later messages of an older stream describe an older state.
        if !self.link.is(token) {
            return;
        }
        match calls::receive(&self.shared.worker, token, size) {
            Ok(()) => self.link.fed(),
            Err(error) => {
                host::log(Level::Error, &format!("identity: the registry's stream is reopened: {error}"));
                // The stream may have ended already.
                let _gone = host::cancel_stream(token);
                self.link.closed();
            }
        }
        let mut budget = MAX_EFFECTS;
        self.shared.settle(&mut budget);
        self.shared.reset_requests(&mut budget);
        self.pace();
    }

    fn on_grpc_stream_close(&mut self, token: u32, status: u32) {
        if !self.link.is(token) {
            return;
        }
        host::log(Level::Info, &format!("identity: the registry's stream has ended with gRPC status {status}"));
        self.link.closed();
    }
}

/// The context of one request.
struct Stream {
    request: Request,
    shared: Rc<Shared>,
}

impl StreamCallbacks for Stream {
    fn on_request_headers(&mut self, end: bool) -> Action {
        self.request.progress.ended.set(end);
        self.request.progress.bare.set(end);
        let step = self.begin().map_err(logged);
        let step = step.unwrap_or_else(|Broken| self.shared.worker.borrow_mut().failed(&self.request));
        self.shared.carry_out(&self.request, step)
    }

    // A body or trailer callback that returns Continue while the headers are held makes Envoy forward the headers.
    fn on_request_body(&mut self, size: usize, end: bool) -> Action {
        let drops = self.shared.worker.borrow_mut().drops_body(&self.request, size, end);
        let dropped = if drops { host::drop_request_body(size).map_err(logged) } else { Ok(()) };
        let step = self.shared.worker.borrow_mut().after_body(&self.request, size, dropped);
        self.shared.carry_out(&self.request, step)
    }

    fn on_request_trailers(&mut self) -> Action {
        match strip_trailers().map_err(logged) {
            Ok(()) => self.on_request_body(0, true),
            Err(Broken) => {
                self.request.progress.ended.set(true);
                let step = self.shared.worker.borrow_mut().failed(&self.request);
                self.shared.carry_out(&self.request, step)
            }
        }
    }

    fn on_response_headers(&mut self, _end: bool) -> Action {
        // An answer that stays as it is gives the container nothing, so a failure is no danger.
        let _logged = self.redirect().map_err(logged);
        Action::Continue
    }

    fn on_grpc_call_response(&mut self, _token: u32, status: u32, size: usize) {
        // The stream may have settled the held request already, or the request has timed out.
        let awaited = self.shared.worker.borrow().awaited(&self.request);
        let Some(source) = awaited else { return };
        match calls::response(source, status, size) {
            Ok(result) => {
                self.shared.worker.borrow_mut().answered(&self.request, result);
                let mut budget = MAX_EFFECTS;
                self.shared.settle(&mut budget);
            }
            Err(reason) => {
                host::log(Level::Warn, &format!("identity: the lookup of {source} in the registry failed: {reason}"));
                self.shared.conclude(&self.request, |worker| worker.unanswered(&self.request));
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.worker.borrow_mut().ended(&self.request);
    }
}

impl Stream {
    /// The request may be the first one of its TCP connection. Requests within TLS are in a tunnel.
    fn spoke(&self) -> Result<(), host::Error> {
        host::connection_id().map(|number| number.iter().copied().for_each(accept::spoke))
    }

    /// Lets the container follow a redirect of GitHub's.
    fn redirect(&self) -> Result<(), host::Error> {
        if self.request.progress.redirects.get().is_none() {
            return Ok(());
        }
        let (status, headers, now) = (host::response_status()?, host::response_headers()?, host::now()?);
        let location = self.shared.worker.borrow().redirect(&self.request, status, &headers, now);
        location.iter().try_for_each(|location| host::set_response_header("location", location))
    }

    /// Reads the facts that the worker needs, until the worker returns a step.
    fn begin(&mut self) -> Result<Step, host::Error> {
        self.request.facts = Rc::new(Facts::read(host::request_headers()?));
        let (request, worker) = (&self.request, &self.shared.worker);
        #[cfg(feature = "test-panic")]
        assert!(request.facts.path != b"/panic", "made to panic");
        let source = host::source_ip()?;
        if let Some((source, per_second)) = source.and_then(|source| Some((source, accept::requested(source)?))) {
            self.spoke()?;
            return Ok(worker.borrow_mut().floods(request, source, per_second));
        }
        let arrival = worker.borrow_mut().arrive(request, source);
        let from = match arrival {
            Arrival::Judged(step) => {
                self.spoke()?;
                return Ok(step);
            }
            Arrival::Tunnel => {
                self.spoke()?;
                let place = match host::listener_direction()? {
                    Direction::Inbound => Place::Proxy,
                    Direction::Outbound | Direction::Unspecified => Place::Elsewhere,
                };
                let now = host::now()?;
                return Ok(worker.borrow_mut().tunnel(request, source, place, now));
            }
            Arrival::Request(from) => from,
        };
        let sni = host::requested_server_name()?;
        if sni.is_none() {
            self.spoke()?;
        }
        let identified = worker.borrow_mut().identify(request, from, sni);
        match identified {
            Identified::Step(step) => Ok(step),
            Identified::Ready(ready) => {
                let now = host::now()?;
                Ok(worker.borrow_mut().judge(&ready, Ok(now)))
            }
        }
    }
}

impl Shared {
    /// Forwards or refuses the held requests that can be judged now, at most `budget`.
    fn settle(&self, budget: &mut usize) {
        let ready = self.worker.borrow_mut().take_ready(*budget);
        self.spend(budget, ready.len());
        for ready in ready {
            let now = host::now().map_err(logged);
            self.conclude(&ready.request, |worker| worker.judge(&ready, now));
        }
    }

    /// Refuses the held requests that have waited too long, at most `budget`.
    fn give_up(&self, budget: &mut usize) {
        let overdue = self.worker.borrow_mut().take_overdue(*budget);
        self.spend(budget, overdue.len());
        for held in overdue {
            self.conclude(&held.request, |worker| worker.give_up(&held));
        }
    }

    /// Sends the responses that are due, at most `budget`.
    fn respond(&self, budget: &mut usize) {
        let due = self.worker.borrow_mut().take_due(*budget);
        self.spend(budget, due.len());
        for refused in due {
            self.conclude(&refused.request, |_| respond(&refused));
        }
    }

    /// Takes `used` from `budget`. If nothing remains, more work may be left.
    fn spend(&self, budget: &mut usize, used: usize) {
        *budget = budget.saturating_sub(used);
        self.busy.set(self.busy.get() || *budget == 0);
    }

    /// Carries out a step of `request`, from any context's callback.
    fn conclude(&self, request: &Request, step: impl FnOnce(&mut Worker) -> Step) {
        // A context that is gone has taken its request with it.
        if host::act_for(request.id).is_ok() {
            let step = step(&mut self.worker.borrow_mut());
            let _no_bytes_are_at_hand = self.carry_out(request, step);
        }
    }

    /// Resets the requests that have lost their record, at most `budget`. The rest keep their place in the worker.
    fn reset_requests(&self, budget: &mut usize) {
        let Ok(now) = host::now().map_err(logged) else { return };
        let mut lost = self.worker.borrow_mut().without_right(now);
        lost.truncate(*budget);
        self.reset(budget, lost);
    }

    /// Looks for tunnels that have lost their record.
    fn find_tunnels(&self) {
        let Ok(now) = host::now().map_err(logged) else { return };
        let lost = self.worker.borrow_mut().tunnels_without_right(now);
        self.leaving.replace(lost);
    }

    /// Resets the tunnels of [`Shared::find_tunnels`], at most `budget`.
    fn reset_tunnels(&self, budget: &mut usize) {
        let mut leaving = self.leaving.borrow_mut();
        let rest = leaving.len().saturating_sub(*budget);
        let some = leaving.split_off(rest);
        drop(leaving);
        self.reset(budget, some);
    }

    fn reset(&self, budget: &mut usize, streams: Vec<u32>) {
        self.spend(budget, streams.len());
        for id in streams {
            // A context that is gone has taken its request with it.
            if host::act_for(id).is_ok() {
                host::reset_request();
            }
        }
    }

    /// Carries out a step of `request`, for which the hostcalls act.
    fn carry_out(&self, request: &Request, mut step: Step) -> Action {
        loop {
            match effects::carry_out(request, step).map_err(logged) {
                Ok(action) => return action,
                Err(Broken) => step = self.worker.borrow_mut().failed(request),
            }
        }
    }
}

/// Removes the trailers that are never sent upstream.
fn strip_trailers() -> Result<(), host::Error> {
    let trailers = host::request_trailers()?;
    let mut stripped = trailers.iter().map(|(name, _)| name.as_str()).filter(|name| is_stripped_trailer(name));
    stripped.try_for_each(host::remove_request_trailer)
}

fn logged(error: host::Error) -> Broken {
    host::log(Level::Error, &format!("identity: {error}"));
    Broken
}
