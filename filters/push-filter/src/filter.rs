//! Envoy's callbacks. The root contexts of a worker share its [`Worker`], which has the rules in force and the clock. The
//! HTTP contexts pass each event to their [`Flow`] and carry out the steps that it returns. No decision is made here.
//!
//! A tick comes 50 times per second, to the root context of the newest configuration. It lets each open push look at the
//! clock and the rules, and one push go on with bytes that wait to be parsed, in turn.
//!
//! Envoy has a root context for each configuration, and keeps the earlier ones as long as they have streams. The listeners
//! take a new configuration one after the other, so a stream may begin under an earlier one. Its push has the rules of the
//! newest one all the same.

use envoy_host::{self as host, Action, Level, MAX_EFFECTS, Method, RootCallbacks, StreamCallbacks};
use policy::flow::{Broken, Step};
use policy::{Denial, RulesInForce, Stage};
use prost::Message;
use push::worker::{TICK, Worker};
use push::{Descent, Flow, Oid, Query, Question, RefAt, ResponseHead};
use registry_proto::push as wire;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::Duration;

const READ_REFS: Method<'_> = Method { cluster: "control-plane", service: "sallyport.push.v1.Push", name: "ReadRefs" };
const DESCENDS: Method<'_> = Method { cluster: "control-plane", service: "sallyport.push.v1.Push", name: "Descends" };
/// How long a push waits for a response from GitHub. The control plane's own timeout for a call to GitHub is ten
/// seconds.
const PATIENCE: Duration = Duration::from_secs(15);
/// The property with the origin of a response. For a response of the upstream, the value is [`OF_UPSTREAM`] (Envoy's
/// router.cc, `onUpstreamHeaders`).
const CODE_DETAILS: [&str; 2] = ["response", "code_details"];
const OF_UPSTREAM: &[u8] = b"via_upstream";

thread_local! {
    /// The state that the root contexts of this worker share.
    static SHARED: RefCell<Weak<Shared>> = const { RefCell::new(Weak::new()) };
}

/// The state of one Envoy worker.
#[derive(Default)]
struct Shared {
    worker: Rc<RefCell<Worker>>,
    /// The open requests with their contexts. The next to work is the first that has work.
    open: RefCell<VecDeque<(u32, Weak<RefCell<Stream>>)>>,
    /// The root context that ticks, by its [`Root::turn`].
    ticking: RefCell<Weak<()>>,
}

/// The root context.
pub struct Root {
    shared: Rc<Shared>,
    turn: Rc<()>,
}

impl Default for Root {
    fn default() -> Self {
        Self { shared: host::shared_by_roots(&SHARED), turn: Rc::default() }
    }
}

impl RootCallbacks for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let configuration = host::configuration(size)
            .map_err(|error| error.to_string())
            .and_then(|json| serde_json::from_slice::<RulesInForce>(&json).map_err(|error| error.to_string()));
        match configuration {
            Ok(RulesInForce { revision, rules }) => {
                if self.shared.worker.borrow_mut().set_rules(revision, Rc::new(rules)) {
                    self.ticks();
                }
            }
            Err(error) => {
                host::log(Level::Error, &format!("push: the rules can't be parsed: {error}"));
                self.shared.worker.borrow_mut().drop_rules();
            }
        }
        match host::set_tick_period(TICK) {
            Ok(()) => true,
            Err(error) => {
                host::log(Level::Error, &format!("push: {error}"));
                false
            }
        }
    }

    fn on_tick(&mut self) {
        let ticking = self.shared.ticking.borrow().upgrade();
        match ticking {
            Some(turn) if !Rc::ptr_eq(&turn, &self.turn) => return,
            Some(_) => {}
            // The newest one is gone. The streams of the others go on.
            None => self.ticks(),
        }
        self.shared.set_time();
        let open: Vec<_> = self.shared.open.borrow().iter().cloned().collect();
        let mut effects = 0;
        for (id, stream) in &open {
            let Some(stream) = stream.upgrade() else { continue };
            let step = stream.borrow_mut().flow.tick();
            if let Some(step) = step {
                carry_out_in(*id, &stream, step);
                effects += 1;
            }
            // A push whose step is carried out has none in the next tick, so the others get their turn.
            if effects == MAX_EFFECTS {
                break;
            }
        }
        self.shared.open.borrow_mut().retain(|(_, stream)| stream.strong_count() > 0);
        if let Some((id, stream)) = self.shared.next_behind() {
            let step = stream.borrow_mut().flow.work();
            carry_out_in(id, &stream, step);
        }
    }

    fn on_grpc_call_response(&mut self, token: u32, status: u32, size: usize) {
        let open: Vec<_> = self.shared.open.borrow().iter().cloned().collect();
        for (id, stream) in open {
            let Some(stream) = stream.upgrade() else { continue };
            // The call is this root context's. Its stream is the one that has asked, in a tick or in an event of its own.
            if stream.borrow().asked(token) && host::act_for(id).is_ok() {
                stream.borrow_mut().answered(token, status, size);
            }
        }
    }

    fn create_stream(&self, id: u32) -> Box<dyn StreamCallbacks> {
        self.shared.set_time();
        let flow = Flow::new(Rc::clone(&self.shared.worker));
        let stream = Rc::new(RefCell::new(Stream { flow, calls: Vec::new() }));
        self.shared.open.borrow_mut().push_back((id, Rc::downgrade(&stream)));
        Box::new(Open(stream))
    }
}

impl Root {
    /// From now on the ticks of the other root contexts do nothing.
    fn ticks(&self) {
        *self.shared.ticking.borrow_mut() = Rc::downgrade(&self.turn);
    }
}

impl Shared {
    fn set_time(&self) {
        match host::now() {
            Ok(now) => {
                let milliseconds = u64::try_from(now.as_millisecond()).unwrap_or(0);
                self.worker.borrow_mut().set_time(Duration::from_millis(milliseconds));
            }
            Err(error) => host::log(Level::Error, &format!("push: {error}")),
        }
    }

    /// The first open stream that has work, which becomes the last. `None` also if the worker has no work left to give.
    fn next_behind(&self) -> Option<(u32, Rc<RefCell<Stream>>)> {
        if self.worker.borrow().left() == 0 {
            return None;
        }
        let mut open = self.open.borrow_mut();
        let behind = |(_, stream): &(u32, Weak<RefCell<Stream>>)| {
            stream.upgrade().is_some_and(|stream| stream.borrow().flow.is_behind())
        };
        let at = open.iter().position(behind)?;
        let (id, stream) = open.remove(at)?;
        open.push_back((id, stream.clone()));
        Some((id, stream.upgrade()?))
    }
}

/// Carries out a step of a stream from another context's callback. A context that is gone has taken its request with it.
fn carry_out_in(id: u32, stream: &RefCell<Stream>, step: Step<Query>) {
    if host::act_for(id).is_ok() {
        let _no_bytes_are_at_hand = stream.borrow_mut().carry_out(step);
    }
}

/// The context of one request, which the root context reaches too.
struct Open(Rc<RefCell<Stream>>);

/// One request.
struct Stream {
    flow: Flow,
    /// The calls under way, by their tokens.
    calls: Vec<(u32, Asked)>,
}

/// The kind of a question.
#[derive(Clone, Copy)]
enum Asked {
    Refs,
    Descents,
}

impl StreamCallbacks for Open {
    fn on_request_headers(&mut self, end: bool) -> Action {
        #[cfg(feature = "test-panic")]
        assert!(
            !host::request_header("user-agent").is_ok_and(|agent| agent.as_deref() == Some(b"panic")),
            "made to panic"
        );
        let head = host::request_head().map_err(Broken::new);
        self.0.borrow_mut().event(|flow| flow.request_headers(head, end))
    }

    fn on_request_body(&mut self, size: usize, end: bool) -> Action {
        let unread = self.0.borrow().flow.unread_request(size);
        let unread = host::request_body_part(unread.start, unread.len()).map_err(Broken::new);
        self.0.borrow_mut().event(|flow| flow.request_body(size, unread, end))
    }

    fn on_request_trailers(&mut self) -> Action {
        self.0.borrow_mut().event(Flow::request_trailers)
    }

    fn on_response_headers(&mut self, end: bool) -> Action {
        let reads = self.0.borrow().flow.reads_response();
        let head = if reads { response_head() } else { Ok(ResponseHead::default()) };
        self.0.borrow_mut().event(|flow| flow.response_headers(head.map_err(Broken::new), end))
    }

    fn on_response_body(&mut self, size: usize, end: bool) -> Action {
        let unread = self.0.borrow().flow.unread_response(size);
        let unread = host::response_body_part(unread.start, unread.len()).map_err(Broken::new);
        self.0.borrow_mut().event(|flow| flow.response_body(size, unread, end))
    }

    fn on_response_trailers(&mut self) -> Action {
        self.0.borrow_mut().event(Flow::response_trailers)
    }

    fn on_grpc_call_response(&mut self, token: u32, status: u32, size: usize) {
        self.0.borrow_mut().answered(token, status, size);
    }
}

impl Stream {
    fn event(&mut self, event: impl FnOnce(&mut Flow) -> Step<Query>) -> Action {
        let step = event(&mut self.flow);
        self.carry_out(step)
    }

    /// Whether the call `token` is one of this stream's.
    fn asked(&self, token: u32) -> bool {
        self.calls.iter().any(|(call, _)| *call == token)
    }

    /// Takes the response to the call `token`. The hostcalls act for this stream.
    fn answered(&mut self, token: u32, status: u32, size: usize) {
        let Some(at) = self.calls.iter().position(|(call, _)| *call == token) else { return };
        let message = (status == 0).then(|| host::grpc_message(size).ok()).flatten();
        let step = match self.calls.swap_remove(at).1 {
            Asked::Refs => match message.and_then(|bytes| wire::ReadRefsResponse::decode(bytes.as_slice()).ok()) {
                Some(wire::ReadRefsResponse { limited: Some(limited), .. }) => self.limited(limited),
                response => {
                    let others = response.map(|response| response.others.into_iter().map(ref_at).collect::<Vec<_>>());
                    self.flow.refs_answered(others.as_deref())
                }
            },
            Asked::Descents => match message.and_then(|bytes| wire::DescendsResponse::decode(bytes.as_slice()).ok()) {
                Some(wire::DescendsResponse { limited: Some(limited), .. }) => self.limited(limited),
                Some(wire::DescendsResponse { exhausted: true, .. }) => self.flow.question_refused(push::exhausted()),
                response => self.flow.descents_answered(response.map(|response| response.descends).as_deref()),
            },
        };
        let _no_bytes_are_at_hand = self.carry_out(step);
    }

    fn carry_out(&mut self, mut step: Step<Query>) -> Action {
        loop {
            match host::carry_out(step, |query| self.ask(query)) {
                Ok(action) => return action,
                Err(error) => step = self.flow.failed(Broken::new(error)),
            }
        }
    }

    fn limited(&mut self, limited: wire::Limited) -> Step<Query> {
        let wire::Limited { reason, retry_after } = limited;
        self.flow.question_refused(Denial::limited(Stage::Push, reason, retry_after))
    }

    fn ask(&mut self, query: Query) -> Result<(), host::Error> {
        let Query { container, repo, question } = query;
        let address = registry_proto::address_bytes(container);
        let call = match question {
            Question::Refs(refs) => {
                let refs = refs.into_iter().map(wire_ref).collect();
                let request = wire::ReadRefsRequest { address, repo, refs };
                (host::call(READ_REFS, &request.encode_to_vec(), PATIENCE)?, Asked::Refs)
            }
            Question::Descents(descents) => {
                let descents = descents.iter().map(wire_descent).collect();
                let request = wire::DescendsRequest { address, repo, descents };
                (host::call(DESCENDS, &request.encode_to_vec(), PATIENCE)?, Asked::Descents)
            }
        };
        self.calls.push(call);
        Ok(())
    }
}

fn response_head() -> Result<ResponseHead, host::Error> {
    Ok(ResponseHead {
        status: host::response_status()?,
        of_upstream: host::property(&CODE_DETAILS)?.as_deref() == Some(OF_UPSTREAM),
        encoded: host::response_header("content-encoding")?.is_some(),
        content_type: host::response_header("content-type")?,
    })
}

fn bytes(oid: &Oid) -> Vec<u8> {
    oid.as_bytes().to_vec()
}

fn wire_ref(at: RefAt) -> wire::Ref {
    wire::Ref { name: at.name, object: at.object.as_ref().map_or_else(Vec::new, bytes) }
}

fn ref_at(at: wire::Ref) -> RefAt {
    let object = <[u8; 20]>::try_from(at.object).ok().map(Oid::from);
    RefAt { name: at.name, object }
}

fn wire_descent(descent: &Descent) -> wire::Descent {
    wire::Descent { ancestor: bytes(&descent.ancestor), commits: descent.commits.iter().map(bytes).collect() }
}
