//! One request with a model provider's key, event by event. Called by the model filter and by tests.
//!
//! A request of up to 256 KiB ([`HELD`]) waits until all of it is judged, so that nothing of a refused one leaves the
//! gateway. A longer one goes on while it is read, except for the byte that closes its JSON and what follows it.
//!
//! **Invariant:** the end of a guarded request goes on only by `pass`, which needs the whole body to be judged. Every
//! error before becomes a refusal, whose request never ends at the provider.

use crate::guard::{Guard, OFF, unreadable};
use crate::head::{self, Coding, Onward, Reader};
use crate::load::{Load, Ticket};
use policy::flow::{Broken, Effect, RequestHead, Step as AnyStep, Then};
use policy::{Denial, Form, Note, Rule, render};
use std::cell::RefCell;
use std::convert::Infallible;
use std::ops::Range;
use std::rc::Rc;

/// The most bytes of a body that wait until all of it is judged. With one more read of a connection they stay below
/// Envoy's own limit (`body_buffer` in the control plane's `route.rs`).
pub const HELD: usize = 256 << 10;

/// The flow asks the control plane nothing.
pub type Step = AnyStep<Infallible>;

/// The words of the credential stage in the request's metadata.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    /// The place of the credential; `None` if no credential was added.
    pub place: Option<Vec<u8>>,
    /// The guard as JSON, or [`OFF`].
    pub guard: Option<Vec<u8>>,
}

/// One request.
#[derive(Debug, Default)]
pub struct Flow {
    load: Rc<RefCell<Load>>,
    authority: Vec<u8>,
    path: Vec<u8>,
    note: Note,
    state: State,
}

/// The request's progress.
#[derive(Debug, Default)]
enum State {
    /// The headers haven't come.
    #[default]
    New,
    /// The body comes.
    Reading(Box<Reading>),
    /// Judged, or not guarded.
    Passed,
    /// Refused. The rest of the body is dropped before the request is answered: few clients show a response that arrives
    /// during an upload. `released`: the provider has got the headers.
    Dropping { denial: Denial, released: bool },
    /// Refused and answered, or reset.
    Over,
}

#[derive(Debug)]
struct Reading {
    reader: Reader,
    coding: Coding,
    ticket: Ticket,
    /// The provider has got the headers.
    released: bool,
    /// Bytes that wait in Envoy and have been read.
    seen: usize,
    /// Bytes that wait here: an inflated body that is not released, or the end of a released one.
    held: Vec<u8>,
}

/// Why a request ends here.
enum Stop {
    Refused(Denial),
    Broken(Broken),
}

impl From<Denial> for Stop {
    fn from(denial: Denial) -> Self {
        Self::Refused(denial)
    }
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl Flow {
    /// A request whose headers haven't come, in a worker with this load.
    pub fn new(load: Rc<RefCell<Load>>) -> Self {
        Self { load, ..Self::default() }
    }

    /// The headers; `end`: nothing follows them.
    pub fn request_headers(
        &mut self,
        head: Result<RequestHead, Broken>,
        metadata: Result<Metadata, Broken>,
        end: bool,
    ) -> Step {
        let step = head.map_err(Stop::from).and_then(|head| self.head(&head, metadata?, end));
        step.unwrap_or_else(|stop| self.stop(stop, None, end, false))
    }

    /// The part of the body that the next [`Flow::request_body`] needs, of the `size` bytes that its callback holds.
    pub fn unread(&self, size: usize) -> Range<usize> {
        match &self.state {
            State::Reading(reading) => reading.seen.min(size)..size,
            _ => 0..0,
        }
    }

    /// More of the body: `size` bytes with those that wait, of which `unread` are the ones of [`Flow::unread`].
    pub fn request_body(&mut self, size: usize, unread: Result<Vec<u8>, Broken>, end: bool) -> Step {
        match std::mem::take(&mut self.state) {
            State::Reading(mut reading) => {
                let step = unread.map_err(Stop::from).and_then(|unread| Ok(reading.body(size, unread, end)?));
                match step {
                    Ok(step) => {
                        self.state = if end { State::Passed } else { State::Reading(reading) };
                        step
                    }
                    Err(stop) => self.stop(stop, Some(size), end, reading.released),
                }
            }
            State::Dropping { denial, released } => {
                let then = if end {
                    self.answer(&denial)
                } else {
                    self.state = State::Dropping { denial, released };
                    dropping(released)
                };
                Step::with(Effect::DropRequestBody { size }, then)
            }
            State::Passed => {
                self.state = State::Passed;
                Step::only(Then::Continue)
            }
            other @ (State::New | State::Over) => {
                self.state = other;
                Step::only(Then::Pause)
            }
        }
    }

    /// Trailers; with them the request is at its end.
    pub fn request_trailers(&mut self) -> Step {
        match std::mem::take(&mut self.state) {
            State::Passed => {
                self.state = State::Passed;
                Step::only(Then::Continue)
            }
            State::Dropping { denial, .. } => Step::only(self.answer(&denial)),
            State::Over => {
                self.state = State::Over;
                Step::only(Then::Pause)
            }
            State::New => self.stop(Broken::new("trailers came before headers").into(), None, true, false),
            State::Reading(reading) => {
                let denial = unreadable("a request to a model has no trailers");
                self.stop(denial.into(), None, true, reading.released)
            }
        }
    }

    /// An effect of the last step failed. A request that was not refused is refused now, and answered at once. If the
    /// refusal itself failed, the stream is reset.
    pub fn failed(&mut self, broken: Broken) -> Step {
        match self.state {
            State::Dropping { .. } | State::Over => {
                self.state = State::Over;
                let line = format!("model: what is refused can't be dropped: {broken}");
                Step::with(Effect::Log(line), Then::Reset)
            }
            State::New | State::Reading(_) | State::Passed => self.stop(broken.into(), None, true, false),
        }
    }

    fn head(&mut self, head: &RequestHead, metadata: Metadata, end: bool) -> Result<Step, Stop> {
        self.authority = head.value(":authority").to_vec();
        self.path = head.value(":path").to_vec();
        let Metadata { place, guard } = metadata;
        // Without a credential the provider does nothing for the request.
        if place.is_none() || guard.as_deref() == Some(OFF.as_bytes()) {
            self.state = State::Passed;
            return Ok(Step::only(Then::Continue));
        }
        self.note = head.note()?;
        let guard = guard.ok_or_else(|| Broken::new("BUG: the credential stage has not said what it permits"))?;
        let guard: Guard = serde_json::from_slice(&guard).map_err(|_| Broken::new("BUG: the guard can't be parsed"))?;
        let coding = head::judge(&head.headers, &self.path, end)?;
        if end {
            self.state = State::Passed;
            return Ok(Step::only(Then::Continue));
        }
        let mut effects = Vec::new();
        if coding == Coding::Zstd {
            effects.extend(["content-encoding", "content-length"].map(|name| Effect::RemoveRequestHeader(name.into())));
        }
        let ticket = Ticket::new(&self.load, self.note.container_id.clone().unwrap_or_default());
        let reader = Reader::new(guard, coding);
        let reading = Reading { reader, coding, ticket, released: false, seen: 0, held: Vec::new() };
        self.state = State::Reading(Box::new(reading));
        Ok(Step { effects, then: Then::Pause })
    }

    /// Refuses the request: now if all of it has come, otherwise when the rest has.
    fn stop(&mut self, stop: Stop, body: Option<usize>, end: bool, released: bool) -> Step {
        let mut effects = Vec::new();
        let denial = match stop {
            Stop::Refused(denial) => denial,
            Stop::Broken(broken) => {
                effects.push(Effect::Log(format!("model: {broken}")));
                Denial::new(
                    Rule::CredentialsGuard,
                    "the gateway can't read what this request asks of the provider; try again",
                )
            }
        };
        effects.push(Effect::NoteRefusal(self.note.refused(&denial)));
        effects.extend(body.map(|size| Effect::DropRequestBody { size }));
        let then = if end {
            self.answer(&denial)
        } else {
            self.state = State::Dropping { denial, released };
            dropping(released)
        };
        Step { effects, then }
    }

    fn answer(&mut self, denial: &Denial) -> Then {
        self.state = State::Over;
        Then::Refuse(render(denial, Form::of(&self.authority, &self.path), self.note.request_id()))
    }
}

/// A body that is paused stays in Envoy's buffer, and a request that was released may not pause again.
fn dropping(released: bool) -> Then {
    if released { Then::Continue } else { Then::Pause }
}

impl Reading {
    /// Reads the new bytes of the body.
    fn body(&mut self, size: usize, unread: Vec<u8>, end: bool) -> Result<Step, Denial> {
        let onward = self.reader.feed(&unread)?;
        self.ticket.holds(self.reader.memory())?;
        if end {
            self.reader.finish()?;
        }
        let (bytes, pass, inflated) = match onward {
            Onward::Plain(pass) => (unread, pass, false),
            Onward::Inflated(bytes, pass) => (bytes, pass, true),
        };
        if end {
            return Ok(self.pass(size, bytes));
        }
        if !self.released {
            let waiting = if inflated { self.held.len() + bytes.len() } else { size };
            if self.reader.closed() || waiting <= HELD {
                if inflated {
                    self.held.extend(bytes);
                    return Ok(Step::with(Effect::DropRequestBody { size }, Then::Pause));
                }
                self.seen = size;
                return Ok(Step::only(Then::Pause));
            }
            self.released = true;
            let mut step = Step::only(Then::Continue);
            if inflated {
                let then = [std::mem::take(&mut self.held), bytes].concat();
                step.effects.push(Effect::ReplaceRequestBody { size, body: then });
            }
            self.seen = 0;
            return Ok(step);
        }
        let (now, later) = bytes.split_at_checked(pass).unwrap_or((&[], &bytes));
        let mut step = Step::only(Then::Continue);
        if inflated || !later.is_empty() {
            step.effects.push(Effect::ReplaceRequestBody { size, body: now.to_vec() });
        }
        self.held.extend(later);
        Ok(step)
    }

    /// Sends the end on; the one exit.
    fn pass(&mut self, size: usize, bytes: Vec<u8>) -> Step {
        if self.coding == Coding::Identity && self.held.is_empty() {
            return Step::only(Then::Continue);
        }
        // A body in zstd was dropped as it came, and a released body does not wait in Envoy.
        let then = [std::mem::take(&mut self.held), bytes].concat();
        Step::with(Effect::ReplaceRequestBody { size, body: then }, Then::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> RequestHead {
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        let headers = vec![header(":path", "/v1/messages"), header("content-type", "application/json")];
        RequestHead { headers, note: Some(Note::default().to_bytes()), container: None }
    }

    #[test]
    fn a_credential_without_a_guard_is_refused() {
        let begin = |place: Option<&str>, guard: Option<&str>| {
            let bytes = |text: Option<&str>| text.map(|text| text.as_bytes().to_vec());
            let mut flow = Flow::default();
            let step =
                flow.request_headers(Ok(head()), Ok(Metadata { place: bytes(place), guard: bytes(guard) }), true);
            match step.then {
                Then::Refuse(refusal) => Some(refusal.rule),
                then => {
                    assert_eq!(then, Then::Continue);
                    None
                }
            }
        };
        for guard in [None, Some(""), Some("on"), Some("{}"), Some("\"off\"")] {
            assert_eq!(begin(Some("header x-api-key 0 0"), guard), Some(Rule::CredentialsGuard), "{guard:?}");
            assert_eq!(begin(None, guard), None, "nothing is done for a request without a credential");
        }
        assert_eq!(begin(Some("header x-api-key 0 0"), Some(OFF)), None);
    }
}
