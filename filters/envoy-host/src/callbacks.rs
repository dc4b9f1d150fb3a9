//! Envoy's callbacks, as the filters implement them, and the adaptor that the SDK calls.
//!
//! **Invariant:** a filter's resume or reset is carried out after the filter's callback has returned. On a
//! resume, Envoy takes all maps and buffers from the context at once. Later access in the same callback would fail.

use crate::abi::{self, Side, Status};
use crate::{Level, log};
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action as SdkAction, ContextType};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;

/// The effect of a callback on its part of the request or response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The part continues to the next filter, with all waiting parts before it.
    Continue,
    /// The part waits until a resume or a later callback that continues. A body is buffered.
    Pause,
}

/// A filter's root context: one in each worker, and one on Envoy's main thread.
pub trait RootCallbacks {
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

/// Creates the root context of a filter, from the id of the context.
pub type NewRoot = fn(u32) -> Box<dyn RootCallbacks>;

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
        Some(root) => Box::new(Root { id, filter: root(id) }),
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
}

/// The state of one callback, from its begin to its end.
#[derive(Debug)]
struct Turn {
    /// The context that hostcalls act for.
    acting: u32,
    effects: Vec<(u32, Effect)>,
    /// The contexts whose requests were refused. Their streams end and are never resumed.
    answered: Vec<u32>,
}

impl Turn {
    const fn none() -> Self {
        Self { acting: 0, effects: Vec::new(), answered: Vec::new() }
    }

    fn record(&mut self, effect: Effect) {
        self.effects.push((self.acting, effect));
    }

    /// The effects in their order, each once. A stream that was refused or is reset is not resumed.
    fn outcome(&self) -> Vec<(u32, Effect)> {
        let reset = self.effects.iter().filter(|(_, effect)| *effect == Effect::Reset).map(|(id, _)| *id);
        let ended: HashSet<u32> = self.answered.iter().copied().chain(reset).collect();
        let mut seen = HashSet::new();
        let mut outcome = self.effects.clone();
        outcome.retain(|(id, effect)| (*effect == Effect::Reset || !ended.contains(id)) && seen.insert((*id, *effect)));
        outcome
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

/// Runs a callback of the context `id`, and then the effects that the filter has recorded.
fn turn<T>(id: u32, callback: impl FnOnce() -> T) -> T {
    TURN.set(Turn { acting: id, ..Turn::none() });
    let returned = callback();
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
            if effect != Effect::Reset {
                // Without a reset the stream would stay paused forever.
                let _ended = carry_out(Effect::Reset);
            }
        }
    }
    returned
}

fn carry_out(effect: Effect) -> Result<(), Status> {
    match effect {
        Effect::Resume(side) => abi::continue_stream(side),
        Effect::Reset => abi::close_stream(Side::Request),
    }
}

/// A root context, as the SDK sees it.
struct Root {
    id: u32,
    filter: Box<dyn RootCallbacks>,
}

impl Context for Root {
    fn on_grpc_call_response(&mut self, token: u32, status: u32, size: usize) {
        turn(self.id, || self.filter.on_grpc_call_response(token, status, size));
    }

    fn on_grpc_stream_message(&mut self, token: u32, size: usize) {
        turn(self.id, || self.filter.on_grpc_stream_message(token, size));
    }

    fn on_grpc_stream_close(&mut self, token: u32, status: u32) {
        turn(self.id, || self.filter.on_grpc_stream_close(token, status));
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        turn(self.id, || self.filter.on_configure(size))
    }

    fn on_tick(&mut self) {
        turn(self.id, || self.filter.on_tick());
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream { id, filter: self.filter.create_stream(id) }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

/// The context of a request, as the SDK sees it.
struct Stream {
    id: u32,
    filter: Box<dyn StreamCallbacks>,
}

impl Stream {
    fn turn(&mut self, callback: impl FnOnce(&mut dyn StreamCallbacks) -> Action) -> SdkAction {
        match turn(self.id, || callback(self.filter.as_mut())) {
            Action::Continue => SdkAction::Continue,
            Action::Pause => SdkAction::Pause,
        }
    }
}

impl Context for Stream {
    fn on_grpc_call_response(&mut self, token: u32, status: u32, size: usize) {
        turn(self.id, || self.filter.on_grpc_call_response(token, status, size));
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, end: bool) -> SdkAction {
        self.turn(|filter| filter.on_request_headers(end))
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> SdkAction {
        self.turn(|filter| filter.on_request_body(size, end))
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> SdkAction {
        self.turn(|filter| filter.on_request_trailers())
    }

    fn on_http_response_headers(&mut self, _count: usize, end: bool) -> SdkAction {
        self.turn(|filter| filter.on_response_headers(end))
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> SdkAction {
        self.turn(|filter| filter.on_response_body(size, end))
    }

    fn on_http_response_trailers(&mut self, _count: usize) -> SdkAction {
        self.turn(|filter| filter.on_response_trailers())
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
