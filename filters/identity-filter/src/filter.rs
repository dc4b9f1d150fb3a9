//! Envoy's callbacks. The root context feeds the worker's memory from the registry's stream. The HTTP contexts collect
//! the facts of each request and carry out its verdict. No decision is made here.
//!
//! **Invariant:** a request leaves this filter only through [`Shared::carry_out`] with an outcome that allows it;
//! every error before that becomes a refusal.
//!
//! No borrow of shared state is held across a hostcall.

use crate::limits::{Counted, Limits, RATE};
use crate::link::Link;
use crate::live::Live;
use crate::memory::{Identity, Lookup, LookupResult, Memory, Unusable, address_bytes};
use crate::refused::{Bodies, Refused};
use crate::request::Facts;
use crate::verdict::{self, Judgement, Outcome, Place, unavailable};
use crate::waiting::{Held, Phase, Progress, Settled, Waiting};
use envoy_host::{self as host, AUDIT, Action, CONTAINER, Direction, Level, Method, RootCallbacks, StreamCallbacks};
use jiff::Timestamp;
use policy::{Authority, Denial, Form, HostName};
use prost::Message;
use registry_proto::{LookupRequest, LookupResponse, WatchRequest, WatchResponse};
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

const WATCH: Method<'_> = Method { cluster: "control-plane", service: "sallyport.registry.v1.Registry", name: "Watch" };
const LOOKUP: Method<'_> = Method { name: "Lookup", ..WATCH };
/// The period in which the root context checks the stream, the requests that have waited too long, and the requests
/// whose record has ended. After a record expires, its container's connections must end within a second; Envoy takes
/// half of that second to close a connection.
const TICK: Duration = Duration::from_millis(100);
/// How long a request waits for the registry's response, or for the first snapshot.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most bytes of a held request's body that Envoy keeps. The next read of the connection must still fit below
/// Envoy's own limit (4 MiB, `body_buffer` in the control plane's `route.rs`): Envoy's 413 would not state the reason.
const MAX_HELD_BODY: usize = 2 << 20;
/// The property with the request's id, for the responses of Envoy's own. The router removes the header before them.
const REQUEST_ID: [&str; 1] = ["sallyport.request-id"];

/// The state that the root context and the HTTP contexts of one worker share.
struct Shared {
    root: u32,
    memory: RefCell<Memory>,
    waiting: RefCell<Waiting>,
    live: RefCell<Live>,
    bodies: RefCell<Bodies>,
    limits: RefCell<Limits>,
    /// The time that the ticks have counted: up to one [`TICK`] behind the clock.
    uptime: Cell<Duration>,
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
        let shared = Shared {
            root: id,
            memory: RefCell::default(),
            waiting: RefCell::default(),
            live: RefCell::default(),
            bodies: RefCell::default(),
            limits: RefCell::default(),
            uptime: Cell::new(Duration::ZERO),
        };
        Self { shared: Rc::new(shared), link: Link::new() }
    }
}

impl RootCallbacks for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        // The stream is opened from `on_tick`: this callback also runs in a VM that Envoy only tries out.
        match host::set_tick_period(TICK) {
            Ok(()) => true,
            Err(error) => {
                host::log(Level::Error, &format!("identity: {error}"));
                false
            }
        }
    }

    fn on_tick(&mut self) {
        self.shared.uptime.set(self.shared.uptime.get().saturating_add(TICK));
        if self.link.tick(TICK) {
            self.open();
        }
        self.shared.give_up_overdue();
        self.shared.end_without_right();
        self.shared.end_tunnels_without_right();
    }

    fn create_stream(&self, id: u32) -> Box<dyn StreamCallbacks> {
        Box::new(Stream { id, shared: self.shared.clone(), progress: Rc::default(), counted: Cell::new(None) })
    }

    fn on_grpc_stream_message(&mut self, token: u32, size: usize) {
        // Later messages of an older stream describe an older state.
        if !self.link.is(token) {
            return;
        }
        match self.receive(token, size) {
            Ok(()) => self.link.fed(),
            Err(error) => {
                host::log(Level::Error, &format!("identity: the registry's stream is reopened: {error}"));
                // The stream may have ended already.
                let _gone = host::cancel_stream(token);
                self.link.closed();
            }
        }
        self.shared.settle();
        self.shared.end_without_right();
    }

    fn on_grpc_stream_close(&mut self, token: u32, status: u32) {
        if !self.link.is(token) {
            return;
        }
        host::log(Level::Info, &format!("identity: the registry's stream has ended with gRPC status {status}"));
        self.link.closed();
    }
}

/// Why a message of the stream wasn't applied, or wasn't acknowledged.
#[derive(Debug, thiserror::Error)]
enum ReceiveError {
    #[error(transparent)]
    Host(#[from] host::Error),
    #[error("a message can't be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error(transparent)]
    Unusable(#[from] Unusable),
}

impl Root {
    fn open(&mut self) {
        match self.try_open() {
            Ok(token) => {
                self.link.opened(token);
                self.shared.memory.borrow_mut().stream_opened();
            }
            Err(error) => {
                host::log(Level::Info, &format!("identity: the registry's stream can't be opened: {error}"));
                self.link.closed();
            }
        }
    }

    fn try_open(&self) -> Result<u32, host::Error> {
        let token = host::open_stream(WATCH)?;
        host::send_message(token, &WatchRequest { applied: 0 }.encode_to_vec())?;
        Ok(token)
    }

    fn receive(&self, token: u32, size: usize) -> Result<(), ReceiveError> {
        let message = WatchResponse::decode(host::grpc_message(size)?.as_slice())?;
        let (version, snapshot) = (message.version, message.snapshot);
        let unreadable = self.shared.memory.borrow_mut().apply(message)?;
        for problem in unreadable {
            host::log(Level::Error, &format!("identity: {problem}"));
        }
        if snapshot {
            let containers = self.shared.memory.borrow().len();
            host::log(Level::Info, &format!("identity: {containers} containers, at version {version}"));
        }
        host::send_message(token, &WatchRequest { applied: version }.encode_to_vec())?;
        Ok(())
    }
}

/// The context of one request.
struct Stream {
    id: u32,
    shared: Rc<Shared>,
    progress: Rc<Progress>,
    /// The source address and the kind under which the request was counted.
    counted: Cell<Option<(IpAddr, Counted)>>,
}

impl StreamCallbacks for Stream {
    fn on_request_headers(&mut self, end: bool) -> Action {
        self.progress.ended.set(end);
        match host::request_headers() {
            Ok(headers) => self.begin(Facts::read(headers)),
            Err(error) => self.carry_out(&Facts::read(vec![]), &self.shared.broken(&error)),
        }
        self.progress.phase.get().action()
    }

    // A body or trailer callback that returns Continue while the headers are held makes Envoy forward the headers.
    fn on_request_body(&mut self, size: usize, end: bool) -> Action {
        self.more(size, end)
    }

    fn on_request_trailers(&mut self) -> Action {
        self.more(0, true)
    }

    fn on_grpc_call_response(&mut self, _token: u32, status: u32, size: usize) {
        // The stream may have settled the held request already, or the request has timed out.
        let Some(source) = self.shared.waiting.borrow().source(self.id) else { return };
        match self.read_answer(source, status, size) {
            Ok(answer) => {
                self.shared.waiting.borrow_mut().answered(self.id, answer);
                self.shared.settle();
            }
            Err(reason) => {
                host::log(Level::Warn, &format!("identity: the lookup of {source} in the registry failed: {reason}"));
                self.shared.end(self.id, self.shared.not_known(source));
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        drop(self.shared.waiting.borrow_mut().take(self.id));
        drop(self.shared.bodies.borrow_mut().take(self.id));
        self.shared.live.borrow_mut().remove(self.id);
        if let Some((source, kind)) = self.counted.take() {
            self.shared.limits.borrow_mut().leave(source, kind);
        }
    }
}

enum Step {
    Done(Judgement),
    Hold { source: IpAddr, sni: Option<Vec<u8>> },
}

impl Stream {
    fn begin(&self, facts: Facts) {
        #[cfg(feature = "test-panic")]
        assert!(facts.path != b"/panic", "made to panic");
        match self.first_step(&facts).unwrap_or_else(|error| Step::Done(self.shared.broken(&error))) {
            Step::Done(judgement) => self.carry_out(&facts, &judgement),
            Step::Hold { source, sni } => self.hold(facts, source, sni),
        }
    }

    fn carry_out(&self, facts: &Facts, judgement: &Judgement) {
        self.shared.carry_out(self.id, &self.progress, facts, judgement);
    }

    /// A part of the body or the trailers has arrived.
    fn more(&self, size: usize, end: bool) -> Action {
        self.progress.ended.set(end);
        match self.progress.phase.get() {
            Phase::Dropping => self.shared.drop_body(self.id, size, end),
            Phase::Held => self.hold_body(size),
            Phase::New | Phase::Passed | Phase::Refused => {}
        }
        self.progress.phase.get().action()
    }

    fn first_step(&self, facts: &Facts) -> Result<Step, host::Error> {
        let source = host::source_ip()?;
        if facts.method == b"CONNECT" {
            let place = match host::listener_direction()? {
                Direction::Inbound => Place::Proxy,
                Direction::Outbound | Direction::Unspecified => Place::Elsewhere,
            };
            let outcome = match self.admit_tunnel(facts, source, host::now()?) {
                Ok(()) => verdict::on_connect(facts, place),
                Err(denial) => Outcome::Refuse(denial),
            };
            return Ok(Step::Done(self.shared.unsettled(outcome, source)));
        }
        let Some(source) = source else {
            return Ok(Step::Done(self.shared.unsettled(Outcome::Refuse(verdict::no_source()), None)));
        };
        if let Err(denial) = self.enter(source, Counted::Stream) {
            return Ok(Step::Done(self.shared.unsettled(Outcome::Refuse(denial), Some(source))));
        }
        let sni = host::requested_server_name()?;
        let who = self.shared.memory.borrow().identify(source, &Lookup::NotMade);
        if let Identity::Settled(container, policy) = who {
            let judgement = verdict::on_request(facts, sni.as_deref(), container.as_deref(), &policy, host::now()?);
            return Ok(Step::Done(judgement));
        }
        if let Err(denial) = self.shared.limits.borrow_mut().count_lookup(source, self.shared.uptime.get()) {
            return Ok(Step::Done(self.shared.unsettled(Outcome::Refuse(denial), Some(source))));
        }
        Ok(Step::Hold { source, sni })
    }

    fn enter(&self, source: IpAddr, kind: Counted) -> Result<(), Denial> {
        let known = self.shared.memory.borrow().container_id(source).is_some();
        self.shared.limits.borrow_mut().enter(source, kind, known, self.shared.uptime.get())?;
        self.counted.set(Some((source, kind)));
        Ok(())
    }

    /// Counts a CONNECT. A CONNECT to a host that the policy doesn't list counts against a second limit: it may need a
    /// new leaf certificate.
    fn admit_tunnel(&self, facts: &Facts, source: Option<IpAddr>, now: Timestamp) -> Result<(), Denial> {
        let Some(source) = source else { return Err(verdict::no_source()) };
        self.enter(source, Counted::Tunnel)?;
        self.shared.live.borrow_mut().open(self.id, source, &self.shared.memory.borrow(), now);
        let authority = facts.authority.as_deref().and_then(|authority| Authority::parse(authority).ok());
        match authority {
            Some(to) if !self.shared.memory.borrow().names_host(source, &to.host) => {
                self.shared.limits.borrow_mut().strange_host(source, self.shared.uptime.get())
            }
            // An invalid name is refused because of its form.
            _ => Ok(()),
        }
    }

    /// Looks up `source` in the registry. The call belongs to the root context, so it ends regularly even if this
    /// request ends first, and the SDK then drops the call's token.
    fn ask(&self, source: IpAddr) -> Result<(), host::Error> {
        let request = LookupRequest { address: address_bytes(source) }.encode_to_vec();
        host::act_for(self.shared.root)?;
        let asked = host::call(LOOKUP, &request, PATIENCE);
        host::act_for(self.id)?;
        asked.map(|_token| ())
    }

    fn hold(&self, facts: Facts, source: IpAddr, sni: Option<Vec<u8>>) {
        self.progress.phase.set(Phase::Held);
        // The uptime is up to one tick behind.
        let until = self.shared.uptime.get().saturating_add(PATIENCE).saturating_add(TICK);
        let held = Held { facts, sni, source, lookup: Lookup::Pending, until, progress: self.progress.clone() };
        let facts = held.facts.clone();
        let refused = self.shared.waiting.borrow_mut().hold(self.id, held).err();
        if let Some(denial) = refused {
            return self.carry_out(&facts, &self.shared.unsettled(Outcome::Refuse(denial), Some(source)));
        }
        if let Err(error) = self.ask(source) {
            self.shared.end(self.id, self.shared.broken(&error));
        }
    }

    /// `size` bytes of a held request's body wait in Envoy. Beyond the limit, these and all later bytes are dropped.
    /// The request can't pass any more, and its refusal still states the reason.
    fn hold_body(&self, size: usize) {
        if size > MAX_HELD_BODY {
            self.progress.cut.set(true);
        }
        if self.progress.cut.get()
            && let Err(error) = host::drop_request_body(size)
        {
            self.shared.end(self.id, self.shared.broken(&error));
        }
    }

    fn read_answer(&self, source: IpAddr, status: u32, size: usize) -> Result<LookupResult, String> {
        if status != 0 {
            return Err(format!("gRPC status {status}"));
        }
        host::act_for(self.shared.root).map_err(|error| error.to_string())?;
        let message = host::grpc_message(size);
        host::act_for(self.id).map_err(|error| error.to_string())?;
        let message = message.map_err(|error| error.to_string())?;
        let response = LookupResponse::decode(message.as_slice()).map_err(|error| error.to_string())?;
        LookupResult::read(source, &response)
    }
}

impl Shared {
    /// Forwards or refuses every held request that can be judged now.
    fn settle(&self) {
        let settled = self.waiting.borrow_mut().take_settled(&self.memory.borrow());
        for (id, held, Settled { container, policy }) in settled {
            if container.is_some() {
                self.limits.borrow_mut().known(held.source);
            }
            let judgement = match host::now() {
                Ok(now) => verdict::on_request(&held.facts, held.sni.as_deref(), container.as_deref(), &policy, now),
                Err(error) => self.broken(&error),
            };
            self.conclude(id, &held, judgement);
        }
    }

    fn give_up_overdue(&self) {
        let overdue = self.waiting.borrow_mut().take_overdue(self.uptime.get());
        for (id, held) in overdue {
            self.conclude(id, &held, self.not_known(held.source));
        }
        let overdue = self.bodies.borrow_mut().take_overdue(self.uptime.get());
        for (id, refused) in overdue {
            // A context that is gone has taken its request with it.
            if host::act_for(id).is_ok() {
                answer(&refused);
            }
        }
    }

    /// Drops `size` bytes of a refused request's body, and sends the refusal if it is due.
    fn drop_body(&self, id: u32, size: usize, end: bool) {
        let due = match host::drop_request_body(size) {
            Ok(()) => self.bodies.borrow_mut().dropped(id, size, end, self.uptime.get()),
            Err(error) => {
                host::log(Level::Error, &format!("identity: {error}"));
                self.bodies.borrow_mut().take(id)
            }
        };
        if let Some(refused) = due {
            answer(&refused);
        }
    }

    /// Ends the held request `id`, if it is still held.
    fn end(&self, id: u32, judgement: Judgement) {
        let held = self.waiting.borrow_mut().take(id);
        if let Some(held) = held {
            self.conclude(id, &held, judgement);
        }
    }

    fn not_known(&self, source: IpAddr) -> Judgement {
        let outcome =
            Outcome::Refuse(unavailable("the registry doesn't answer, so you can't be identified; try again"));
        self.unsettled(outcome, Some(source))
    }

    fn broken(&self, error: &host::Error) -> Judgement {
        host::log(Level::Error, &format!("identity: {error}"));
        self.unsettled(Outcome::Refuse(unavailable("the gateway can't judge this request; try again")), None)
    }

    fn unsettled(&self, outcome: Outcome, source: Option<IpAddr>) -> Judgement {
        Judgement::unsettled(outcome, source, &self.memory.borrow())
    }

    /// Carries out the judgement of a held request, from another context's callback.
    fn conclude(&self, id: u32, held: &Held, judgement: Judgement) {
        // A context that is gone has taken its request with it.
        if host::act_for(id).is_err() {
            return;
        }
        let judgement = if held.progress.cut.get() { judgement.of_a_part() } else { judgement };
        self.carry_out(id, &held.progress, &held.facts, &judgement);
        if held.progress.phase.get() == Phase::Passed {
            host::resume_request();
        }
    }

    /// Ends the requests under way whose record has gone, was replaced, or has expired.
    fn end_without_right(&self) {
        self.reset(|now| self.live.borrow().without_right(&self.memory.borrow(), now));
    }

    /// Ends the tunnels whose record has gone, was replaced, or has expired: one tick later than the requests.
    fn end_tunnels_without_right(&self) {
        self.reset(|now| self.live.borrow_mut().tunnels_without_right(&self.memory.borrow(), now));
    }

    /// Resets the streams that `chosen` returns.
    fn reset(&self, chosen: impl FnOnce(Timestamp) -> Vec<u32>) {
        let chosen = match host::now() {
            Ok(now) => chosen(now),
            Err(error) => return host::log(Level::Error, &format!("identity: {error}")),
        };
        for id in chosen {
            // A context that is gone has taken its request with it.
            if host::act_for(id).is_ok() {
                host::reset_request();
            }
        }
    }

    /// Carries out a judgement on the request `id`, for which the hostcalls act. Every judgement ends here.
    fn carry_out(&self, id: u32, progress: &Rc<Progress>, facts: &Facts, judgement: &Judgement) {
        let noted = host::set_property(&AUDIT, &judgement.note(&facts.request_id).to_bytes());
        let passed = match &judgement.outcome {
            Outcome::Open(_) => noted,
            Outcome::Forward(to, _) => noted
                .and_then(|()| host::set_property(&REQUEST_ID, facts.request_id.as_bytes()))
                .and_then(|()| judgement.record.iter().try_for_each(|record| host::set_property(&CONTAINER, record)))
                .and_then(|()| rewrite(facts, to)),
            Outcome::Refuse(denial) => {
                if let Err(error) = noted {
                    host::log(Level::Error, &format!("identity: the refusal is sent without its audit note: {error}"));
                }
                return self.refuse(id, Refused::new(facts, denial, progress, self.uptime.get()));
            }
        };
        match passed {
            Ok(()) => {
                progress.phase.set(Phase::Passed);
                if let Some(right) = judgement.right {
                    self.live.borrow_mut().insert(id, right);
                }
            }
            // The recursion ends: `broken` is a refusal.
            Err(error) => self.carry_out(id, progress, facts, &self.broken(&error)),
        }
    }

    /// Refuses the request `id`: now, or when its body has arrived.
    fn refuse(&self, id: u32, refused: Refused) {
        let Refused { facts, denial, progress, .. } = &refused;
        let endless = facts.upgrade || facts.method == b"CONNECT";
        let late = denial.rule == RATE;
        if (!progress.ended.get() && !endless) || late {
            progress.phase.set(Phase::Dropping);
            // Beyond the limit of awaited bodies the refusal is sent now.
            if self.bodies.borrow_mut().await_body(id, refused.clone()) {
                return;
            }
        }
        answer(&refused);
    }
}

/// Sets the authority to the host that was judged, and removes the headers that name another host or peer.
fn rewrite(facts: &Facts, to: &HostName) -> Result<(), host::Error> {
    if facts.authority.as_deref() != Some(to.as_str().as_bytes()) {
        host::set_request_header(":authority", to.as_str().as_bytes())?;
    }
    // These headers stay: the github filter refuses the request because of them, and its refusal names the reason.
    let told = |name: &&String| policy::github::refuses_header(to, name);
    facts.stripped.iter().filter(|name| !told(name)).try_for_each(|name| host::remove_request_header(name))
}

fn answer(refused: &Refused) {
    let Refused { facts, denial, progress, .. } = refused;
    progress.phase.set(Phase::Refused);
    host::refuse(&policy::render(denial, Form::of_path(&facts.path), &facts.request_id));
}
