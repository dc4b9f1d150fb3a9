//! Envoy's callbacks. The root context feeds the worker's memory from the registry's stream. The contexts of requests
//! pass each event to the [`Worker`] and carry out the steps that it returns. No decision is made here.
//!
//! **Invariant:** no borrow of the worker is held across a hostcall.

use crate::life::{Request, Step};
use crate::link::Link;
use crate::request::Facts;
use crate::verdict::Place;
use crate::worker::{Arrival, Broken, Identified, TICK, Worker, respond};
use crate::{calls, effects};
use envoy_host::{self as host, Action, Direction, Level, RootCallbacks, StreamCallbacks};
use jiff::Timestamp;
use std::cell::RefCell;
use std::rc::Rc;

/// The state that the root context and the contexts of requests share.
struct Shared {
    root: u32,
    worker: RefCell<Worker>,
}

/// The root context: one in each worker, and one on Envoy's main thread. The main thread's context follows the registry
/// like the others, and handles no requests.
pub struct Root {
    shared: Rc<Shared>,
    link: Link,
}

impl Root {
    /// The root context `id`.
    pub fn new(id: u32) -> Self {
        Self { shared: Rc::new(Shared { root: id, worker: RefCell::default() }), link: Link::new() }
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
        self.shared.worker.borrow_mut().tick();
        if self.link.tick(TICK) {
            self.open();
        }
        let overdue = self.shared.worker.borrow_mut().take_overdue();
        for held in overdue {
            self.shared.conclude(&held.request, |worker| worker.give_up(&held));
        }
        let due = self.shared.worker.borrow_mut().take_due();
        for refused in due {
            self.shared.conclude(&refused.request, |_| respond(&refused));
        }
        self.shared.reset(Worker::without_right);
        self.shared.reset(Worker::tunnels_without_right);
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
        self.shared.settle();
        self.shared.reset(Worker::without_right);
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
        self.on_request_body(0, true)
    }

    fn on_grpc_call_response(&mut self, _token: u32, status: u32, size: usize) {
        // The stream may have settled the held request already, or the request has timed out.
        let awaited = self.shared.worker.borrow().awaited(&self.request);
        let Some(source) = awaited else { return };
        match calls::response(self.shared.root, self.request.id, source, status, size) {
            Ok(result) => {
                self.shared.worker.borrow_mut().answered(&self.request, result);
                self.shared.settle();
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
    /// Reads the facts that the worker needs, until the worker returns a step.
    fn begin(&mut self) -> Result<Step, host::Error> {
        self.request.facts = Rc::new(Facts::read(host::request_headers()?));
        let (request, worker) = (&self.request, &self.shared.worker);
        #[cfg(feature = "test-panic")]
        assert!(request.facts.path != b"/panic", "made to panic");
        let source = host::source_ip()?;
        let arrival = worker.borrow_mut().arrive(request, source);
        let from = match arrival {
            Arrival::Judged(step) => return Ok(step),
            Arrival::Tunnel => {
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
    /// Forwards or refuses every held request that can be judged now.
    fn settle(&self) {
        let ready = self.worker.borrow_mut().take_ready();
        for ready in ready {
            let now = host::now().map_err(logged);
            self.conclude(&ready.request, |worker| worker.judge(&ready, now));
        }
    }

    /// Carries out a step of `request`, from any context's callback.
    fn conclude(&self, request: &Request, step: impl FnOnce(&mut Worker) -> Step) {
        // A context that is gone has taken its request with it.
        if host::act_for(request.id).is_ok() {
            let step = step(&mut self.worker.borrow_mut());
            let _no_bytes_are_at_hand = self.carry_out(request, step);
        }
    }

    /// Resets the streams that `chosen` returns.
    fn reset(&self, chosen: impl FnOnce(&mut Worker, Timestamp) -> Vec<u32>) {
        let Ok(now) = host::now().map_err(logged) else { return };
        let chosen = chosen(&mut self.worker.borrow_mut(), now);
        for id in chosen {
            // A context that is gone has taken its request with it.
            if host::act_for(id).is_ok() {
                host::reset_request();
            }
        }
    }

    /// Carries out a step of `request`, for which the hostcalls act.
    fn carry_out(&self, request: &Request, mut step: Step) -> Action {
        loop {
            match effects::carry_out(self.root, request, step).map_err(logged) {
                Ok(action) => return action,
                Err(Broken) => step = self.worker.borrow_mut().failed(request),
            }
        }
    }
}

fn logged(error: host::Error) -> Broken {
    host::log(Level::Error, &format!("identity: {error}"));
    Broken
}
