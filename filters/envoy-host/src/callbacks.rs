//! Envoy's callbacks, as the filters implement them, and the adaptor that the SDK calls.
//!
//! **Invariant:** a filter's resume or reset is carried out after the filter's callback has returned. On a
//! resume, Envoy takes all maps and buffers from the context at once. Later access in the same callback would fail.

use crate::abi::{self, Side, Status};
use crate::{Level, log};
use proxy_wasm::traits::{Context, HttpContext, RootContext, StreamContext};
use proxy_wasm::types::{Action as SdkAction, ContextType, PeerType};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::{Rc, Weak};
use std::thread::LocalKey;

/// The most streams or connections that one callback may end, answer or resume. Envoy carries out these effects one
/// inside the other, so their number adds to the depth of its stack and of V8's, which has 1 MiB. A filter leaves the
/// rest for its next callback.
pub const MAX_EFFECTS: usize = 64;

/// The effect of a callback on its part of the request or response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The part continues to the next filter, with all waiting parts before it.
    Continue,
    /// The part waits until a resume or a later callback that continues. A body is buffered.
    Pause,
}

/// The parts of the traffic for which a filter gets contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests: [`RootCallbacks::create_stream`].
    Requests,
    /// Connections: [`RootCallbacks::create_connection`].
    Connections,
}

/// A filter's root context: one in each worker, and one on Envoy's main thread.
pub trait RootCallbacks {
    /// The parts of the traffic for which the filter gets contexts.
    fn kind(&self) -> Kind {
        Kind::Requests
    }

    /// The filter's configuration has arrived, `size` bytes ([`crate::configuration`]). Returns whether the filter can
    /// run. If not, Envoy refuses every request to the filter.
    fn on_configure(&mut self, _size: usize) -> bool {
        true
    }

    /// The period of [`crate::set_tick_period`] has passed.
    fn on_tick(&mut self) {}

    /// A message of `size` bytes ([`crate::grpc_message`]) has arrived on the stream `token`.
    fn on_grpc_stream_message(&mut self, _token: u32, _size: usize) {}

    /// The stream `token` has ended.
    fn on_grpc_stream_close(&mut self, _token: u32, _status: u32) {}

    /// The unary call `token` has ended, which the root context's own callback has made ([`Self::on_tick`]), with a
    /// message of `size` bytes if `status` is 0.
    fn on_grpc_call_response(&mut self, _token: u32, _status: u32, _size: usize) {}

    /// The context of a new request, whose id is `id`.
    fn create_stream(&self, id: u32) -> Box<dyn StreamCallbacks>;

    /// The context of a new connection, whose id is `id`. `None` for a filter of requests.
    fn create_connection(&self, _id: u32) -> Option<Box<dyn ConnectionCallbacks>> {
        None
    }
}

/// A filter's context of one connection, before any byte is parsed.
pub trait ConnectionCallbacks {
    /// Envoy has accepted the connection. [`Action::Pause`] hides the connection from the later filters.
    fn on_new_connection(&mut self) -> Action;

    /// Bytes have arrived: `size`, including those that wait before them. [`Action::Pause`] hides them from the later filters until [`crate::resume_connection`], or
    /// until a later call continues. Envoy reads no more than its limit for a connection's buffer.
    fn on_data(&mut self, _size: usize) -> Action {
        Action::Continue
    }

    /// The connection has ended. May be called more than once.
    fn on_close(&mut self);
}

/// A filter's context of one request. `end` says that the part is the last of its side: no trailers follow.
pub trait StreamCallbacks {
    /// The request's headers.
    fn on_request_headers(&mut self, _end: bool) -> Action {
        Action::Continue
    }

    /// A part of the request's body: `size` bytes, including the bytes that wait before it.
    fn on_request_body(&mut self, _size: usize, _end: bool) -> Action {
        Action::Continue
    }

    /// The request's trailers, which end it.
    fn on_request_trailers(&mut self) -> Action {
        Action::Continue
    }

    /// The response's headers.
    fn on_response_headers(&mut self, _end: bool) -> Action {
        Action::Continue
    }

    /// A part of the response's body: `size` bytes, including the bytes that wait before it.
    fn on_response_body(&mut self, _size: usize, _end: bool) -> Action {
        Action::Continue
    }

    /// The response's trailers, which end it.
    fn on_response_trailers(&mut self) -> Action {
        Action::Continue
    }

    /// The unary call `token` has ended, with a message of `size` bytes if `status` is 0.
    fn on_grpc_call_response(&mut self, _token: u32, _status: u32, _size: usize) {}
}

/// The state that the root contexts of a filter share in a worker. Envoy creates a new root context for each new
/// configuration, and streams of the old ones go on. `known` finds the state as long as one of them has it.
pub fn shared_by_roots<T: Default>(known: &'static LocalKey<RefCell<Weak<T>>>) -> Rc<T> {
    known.with_borrow_mut(|known| {
        known.upgrade().unwrap_or_else(|| {
            let shared = Rc::default();
            *known = Rc::downgrade(&shared);
            shared
        })
    })
}

/// Creates the root context of a filter.
pub type NewRoot = fn() -> Box<dyn RootCallbacks>;

/// Registers `root` with the SDK. Each VM calls this once, before Envoy creates contexts. From here on a panic writes
/// its message to Envoy's log, and a note to its request.
pub fn start(root: NewRoot) {
    crate::note_panics();
    NEW_ROOT.set(Some(root));
    proxy_wasm::set_root_context(new_root);
}

thread_local! {
    static NEW_ROOT: Cell<Option<NewRoot>> = const { Cell::new(None) };
    static TURN: RefCell<Turn> = const { RefCell::new(Turn::none()) };
}

fn new_root(id: u32) -> Box<dyn RootContext> {
    match NEW_ROOT.get() {
        Some(root) => Box::new(Root { id, filter: root() }),
        None => Box::new(Missing),
    }
}

/// Stands for a missing filter. Its configuration fails.
struct Missing;

impl Context for Missing {}

impl RootContext for Missing {
    fn on_configure(&mut self, _size: usize) -> bool {
        false
    }
}

/// An effect on a stream, applied when the callback has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Effect {
    Resume(Side),
    Reset,
    /// Closes the connection of a [`Kind::Connections`] context.
    Close,
    /// Hands on the waiting bytes of the connection of a [`Kind::Connections`] context.
    Read,
}

/// The state of one callback, from its begin to its end.
#[derive(Debug)]
struct Turn {
    /// The root context of the filter.
    root: u32,
    /// The context that hostcalls act for.
    acting: u32,
    /// The callback's name, for the note of a panic.
    callback: &'static str,
    effects: Vec<(u32, Effect)>,
    /// The contexts whose requests were refused. Their streams end and are never resumed.
    answered: Vec<u32>,
}

impl Turn {
    const fn none() -> Self {
        Self { root: 0, acting: 0, callback: "no callback", effects: Vec::new(), answered: Vec::new() }
    }

    fn record(&mut self, effect: Effect) {
        self.effects.push((self.acting, effect));
    }

    /// The effects in their order, each once. A stream that was refused or is reset is not resumed.
    fn outcome(self) -> Vec<(u32, Effect)> {
        let Self { mut effects, answered, .. } = self;
        let resumes = |effect: &Effect| matches!(effect, Effect::Resume(_) | Effect::Read);
        let reset = effects.iter().filter(|(_, effect)| !resumes(effect)).map(|(id, _)| *id);
        let ended: HashSet<u32> = answered.into_iter().chain(reset).collect();
        let mut seen = HashSet::new();
        effects.retain(|(id, effect)| (!resumes(effect) || !ended.contains(id)) && seen.insert((*id, *effect)));
        effects
    }
}

/// Records `effect` for the context that hostcalls act for.
pub(crate) fn defer(effect: Effect) {
    TURN.with_borrow_mut(|turn| turn.record(effect));
}

/// Records that the request of the context that hostcalls act for was refused.
pub(crate) fn answered() {
    TURN.with_borrow_mut(|turn| turn.answered.push(turn.acting));
}

/// Makes hostcalls act for `id` from now on.
pub(crate) fn acting(id: u32) {
    TURN.with_borrow_mut(|turn| turn.acting = id);
}

/// Runs `work` with hostcalls that act for the filter's root context.
///
/// # Errors
/// If Envoy doesn't know one of the two contexts. If it doesn't know the root's, `work` has not run.
pub(crate) fn for_root<T>(work: impl FnOnce() -> T) -> Result<T, Status> {
    let (root, acting) = TURN.with_borrow(|turn| (turn.root, turn.acting));
    if root == acting {
        return Ok(work());
    }
    abi::set_effective_context(root)?;
    let done = work();
    abi::set_effective_context(acting)?;
    Ok(done)
}

/// The name of the callback that is running. Called by the panic hook, during which the state may be borrowed.
pub(crate) fn running() -> &'static str {
    TURN.with(|turn| turn.try_borrow().map_or("a hostcall", |turn| turn.callback))
}

/// Runs `work`, which is the callback `name` of the context `id` below `root`, and then the effects that the filter has
/// recorded.
fn turn<T>(root: u32, id: u32, name: &'static str, work: impl FnOnce() -> T) -> T {
    TURN.set(Turn { root, acting: id, callback: name, ..Turn::none() });
    let returned = work();
    let turn = TURN.replace(Turn::none());
    let mut acting = turn.acting;
    for (id, effect) in turn.outcome() {
        if acting != id {
            // If the context has ended, so has its stream.
            if abi::set_effective_context(id).is_err() {
                continue;
            }
            acting = id;
        }
        if let Err(status) = carry_out(effect) {
            log(Level::Error, &format!("Envoy returned {status:?} from {effect:?} of a stream"));
            // Without an end the stream or connection would stay paused forever.
            let _ended = match effect {
                Effect::Resume(_) => carry_out(Effect::Reset),
                Effect::Read => carry_out(Effect::Close),
                Effect::Reset | Effect::Close => Ok(()),
            };
        }
    }
    returned
}

fn carry_out(effect: Effect) -> Result<(), Status> {
    match effect {
        Effect::Resume(side) => abi::continue_stream(side),
        Effect::Reset => abi::close_stream(Side::Request),
        Effect::Close => abi::close_connection(),
        Effect::Read => abi::continue_connection(),
    }
}

/// A root context, as the SDK sees it.
struct Root {
    id: u32,
    filter: Box<dyn RootCallbacks>,
}

impl Context for Root {
    fn on_grpc_call_response(&mut self, token: u32, status: u32, size: usize) {
        turn(self.id, self.id, "on_grpc_call_response", || self.filter.on_grpc_call_response(token, status, size));
    }

    fn on_grpc_stream_message(&mut self, token: u32, size: usize) {
        turn(self.id, self.id, "on_grpc_stream_message", || self.filter.on_grpc_stream_message(token, size));
    }

    fn on_grpc_stream_close(&mut self, token: u32, status: u32) {
        turn(self.id, self.id, "on_grpc_stream_close", || self.filter.on_grpc_stream_close(token, status));
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        turn(self.id, self.id, "on_configure", || self.filter.on_configure(size))
    }

    fn on_tick(&mut self) {
        turn(self.id, self.id, "on_tick", || self.filter.on_tick());
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream { root: self.id, id, filter: self.filter.create_stream(id) }))
    }

    fn create_stream_context(&self, id: u32) -> Option<Box<dyn StreamContext>> {
        Some(Box::new(Connection { root: self.id, id, filter: self.filter.create_connection(id)? }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(match self.filter.kind() {
            Kind::Requests => ContextType::HttpContext,
            Kind::Connections => ContextType::StreamContext,
        })
    }
}

/// The context of a request, as the SDK sees it.
struct Stream {
    root: u32,
    id: u32,
    filter: Box<dyn StreamCallbacks>,
}

impl Stream {
    fn turn(&mut self, name: &'static str, work: impl FnOnce(&mut dyn StreamCallbacks) -> Action) -> SdkAction {
        turn(self.root, self.id, name, || work(self.filter.as_mut())).into()
    }
}

impl From<Action> for SdkAction {
    fn from(action: Action) -> Self {
        match action {
            Action::Continue => Self::Continue,
            Action::Pause => Self::Pause,
        }
    }
}

/// The context of a connection, as the SDK sees it.
struct Connection {
    root: u32,
    id: u32,
    filter: Box<dyn ConnectionCallbacks>,
}

impl Context for Connection {
    fn on_done(&mut self) -> bool {
        turn(self.root, self.id, "on_close", || self.filter.on_close());
        true
    }
}

impl StreamContext for Connection {
    fn on_new_connection(&mut self) -> SdkAction {
        turn(self.root, self.id, "on_new_connection", || self.filter.on_new_connection()).into()
    }

    fn on_downstream_data(&mut self, size: usize, _end: bool) -> SdkAction {
        turn(self.root, self.id, "on_data", || self.filter.on_data(size)).into()
    }

    fn on_downstream_close(&mut self, _by: PeerType) {
        turn(self.root, self.id, "on_close", || self.filter.on_close());
    }
}

impl Context for Stream {
    fn on_grpc_call_response(&mut self, token: u32, status: u32, size: usize) {
        turn(self.root, self.id, "on_grpc_call_response", || self.filter.on_grpc_call_response(token, status, size));
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, end: bool) -> SdkAction {
        self.turn("on_request_headers", |filter| filter.on_request_headers(end))
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> SdkAction {
        self.turn("on_request_body", |filter| filter.on_request_body(size, end))
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> SdkAction {
        self.turn("on_request_trailers", |filter| filter.on_request_trailers())
    }

    fn on_http_response_headers(&mut self, _count: usize, end: bool) -> SdkAction {
        self.turn("on_response_headers", |filter| filter.on_response_headers(end))
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> SdkAction {
        self.turn("on_response_body", |filter| filter.on_response_body(size, end))
    }

    fn on_http_response_trailers(&mut self, _count: usize) -> SdkAction {
        self.turn("on_response_trailers", |filter| filter.on_response_trailers())
    }
}

#[cfg(test)]
mod tests {
    use super::{Effect, Side, Turn};

    const RESUME: Effect = Effect::Resume(Side::Request);
    const RESPONSE: Effect = Effect::Resume(Side::Response);

    fn turn(effects: &[(u32, Effect)]) -> Turn {
        let mut turn = Turn::none();
        for (id, effect) in effects {
            turn.acting = *id;
            turn.record(*effect);
        }
        turn
    }

    #[test]
    fn each_effect_is_of_the_context_at_hand_and_carried_out_once() {
        let turn = turn(&[(1, RESPONSE), (1, RESUME), (2, RESUME), (1, RESUME)]);
        assert_eq!(turn.outcome(), [(1, RESPONSE), (1, RESUME), (2, RESUME)]);
    }

    #[test]
    fn a_reset_or_an_answer_outweighs_a_resume_of_its_stream() {
        let mut turn = turn(&[(1, RESUME), (2, RESUME), (1, Effect::Reset), (3, RESUME)]);
        turn.answered.push(3);
        assert_eq!(turn.outcome(), [(2, RESUME), (1, Effect::Reset)]);
    }
}
