//! One request to github.com and its response, event by event: a push from its headers to its verdict and on its way,
//! and the list of refs before it. Called by the push filter and by the tests.
//!
//! [`crate::Inspection`] decides, this file says when, and what becomes of the stream:
//! - `flow/push.rs`: a push that is not refused;
//! - `flow/advertisement.rs`: the list of refs, on its way back.
//!
//! **Invariant:** of a push nothing goes upstream before its refs' names are judged, and its pack's trailer only when
//! the inspection says that it is allowed. The server's success waits until the push's end has gone on.
//!
//! **Invariant:** the work of one event is bounded by the bytes that it brings, and the work of all events and ticks by the
//! time that passes ([`Worker::left`]). The rest is done in slices, by [`Flow::work`].
//!
//! **Invariant:** the credential of a request comes into force ([`Effect::Unseal`]) when its headers go upstream, and not
//! before.

mod advertisement;
mod push;

use crate::worker::Worker;
use crate::{Question, RefAt, judge_headers};
use advertisement::{Advertisement, Fed};
use policy::flow::{Broken, Effect, RequestHead, Step as AnyStep, Then};
use policy::github::{Kind, Service};
use policy::{Denial, Form, Note, Refusal, Rule};
use push::{Phase, Push};
use std::cell::RefCell;
use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

type Step = AnyStep<Query>;

const REPORT_TYPE: &str = "application/x-git-receive-pack-result";

/// A question to the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The container's address.
    pub container: IpAddr,
    /// The repository, `owner/name`.
    pub repo: String,
    /// The question for GitHub.
    pub question: Question,
}

/// The parts of a response's headers that the flow reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseHead {
    /// The HTTP status.
    pub status: u16,
    /// The server itself has made the response, not the gateway in its place.
    pub of_upstream: bool,
    /// The response has a `content-encoding`.
    pub encoded: bool,
    /// The value of `content-type`.
    pub content_type: Option<Vec<u8>>,
}

/// One request, and its response.
#[derive(Debug, Default)]
pub struct Flow {
    worker: Rc<RefCell<Worker>>,
    /// When the headers came.
    begun: Duration,
    authority: Vec<u8>,
    path: Vec<u8>,
    note: Note,
    state: State,
    event: Event,
}

/// The request's kind and progress. Each state holds the data that its events need, and no other.
#[derive(Debug, Default)]
enum State {
    /// Another request: this stage does nothing with it.
    #[default]
    Other,
    /// The list of refs before a push; its response is changed.
    Advertisement(Advertisement),
    /// A push that is not refused.
    Push(Box<Push>),
    /// A refused push. The rest of its body is dropped before it is answered: git over HTTP/2 prints an error of the
    /// framing layer for a response in the middle of an upload, and not the refusal.
    Dropping {
        denial: Denial,
        /// The source of git's own report, if the client reads one. The report is written when the push is answered.
        report: Option<Box<crate::Refusal>>,
        upstream: Upstream,
    },
    /// Refused and answered, or reset.
    Over,
}

/// The part of a push that the server has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Upstream {
    /// Nothing: headers and body wait, and so there is no response.
    #[default]
    Untouched,
    /// The headers, and some of the body.
    Reached(Response),
}

/// The response to an undecided or refused push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Response {
    /// No response has arrived, or a failure, which passes.
    Passing,
    /// A success, which waits; of a refused push also a failure.
    Held,
}

/// The event at hand, for the refusal that may come of it.
#[derive(Clone, Copy, Debug, Default)]
struct Event {
    /// Bytes of the request's body that its callback holds; `None` for an event without them.
    body: Option<usize>,
    /// Nothing more comes of the request.
    end: bool,
    /// The part of the push that the server had before the event.
    upstream: Upstream,
}

/// Why a request ends here.
#[derive(Debug)]
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
    /// A request of this worker whose headers haven't come.
    pub fn new(worker: Rc<RefCell<Worker>>) -> Self {
        Self { worker, ..Self::default() }
    }

    /// The request's headers; `end`: nothing follows them.
    pub fn request_headers(&mut self, head: Result<RequestHead, Broken>, end: bool) -> Step {
        self.begin(None, end);
        let head = match head {
            Ok(head) => head,
            Err(broken) => return self.stop(broken),
        };
        self.authority = head.value(":authority").to_vec();
        self.path = head.value(":path").to_vec();
        self.begun = self.worker.borrow().now();
        self.head(&head, end).unwrap_or_else(|stop| {
            self.note = head.note().unwrap_or_default();
            self.stop(stop)
        })
    }

    /// The part of the request's body that the next [`Flow::request_body`] needs, of the `size` bytes that its callback
    /// holds.
    pub fn unread_request(&self, size: usize) -> Range<usize> {
        match &self.state {
            State::Push(push) if push.reads() => 0..size,
            _ => 0..0,
        }
    }

    /// More of the request's body: `size` bytes with those that wait, of which `unread` are the ones of
    /// [`Flow::unread_request`].
    pub fn request_body(&mut self, size: usize, unread: Result<Vec<u8>, Broken>, end: bool) -> Step {
        self.begin(Some(size), end);
        match &mut self.state {
            State::Other | State::Advertisement(_) => Step::only(Then::Continue),
            State::Push(push) => {
                let step = push.renew().and_then(|()| Ok(push.body(size, &unread?, end, &self.note)?));
                step.unwrap_or_else(|stop| self.stop(stop))
            }
            State::Dropping { upstream, .. } => {
                let then = match (end, upstream) {
                    (true, _) => self.answer(),
                    // A paused body stays in Envoy's buffer, and Envoy ends a stream that outgrows its buffer.
                    (false, Upstream::Reached(_)) => Then::Continue,
                    (false, Upstream::Untouched) => Then::Pause,
                };
                Step::with(Effect::DropRequestBody { size }, then)
            }
            State::Over => Step::only(Then::Pause),
        }
    }

    /// Trailers; with them the request is at its end.
    pub fn request_trailers(&mut self) -> Step {
        self.begin(None, true);
        match &mut self.state {
            State::Other => Step::only(Then::Continue),
            // Trailers are read by no stage, and Envoy can't hold them back.
            State::Push(_) | State::Advertisement(_) => {
                self.stop(Denial::new(Rule::PushMalformed, "a push has no trailers"))
            }
            State::Dropping { .. } => Step::only(self.answer()),
            State::Over => Step::only(Then::Pause),
        }
    }

    /// Whether [`Flow::response_headers`] looks at what it is given.
    pub fn reads_response(&self) -> bool {
        !matches!(self.state, State::Other | State::Over)
    }

    /// The response's headers; `end`: nothing follows them. A response whose headers can't be read is held like a
    /// success.
    pub fn response_headers(&mut self, head: Result<ResponseHead, Broken>, end: bool) -> Step {
        self.begin(None, true);
        let success = head.as_ref().is_ok_and(|head| (200..300).contains(&head.status)) || head.is_err();
        // A failure accepts nothing, so it passes at once. While a refused push is dropped, a failure of the server's
        // waits as well: the client gets the refusal in its place. Envoy's own response for a lost upstream passes:
        // nothing of the request's body comes after it, and Envoy would put its own reason into the refusal.
        let response = match &mut self.state {
            State::Other | State::Over => return Step::only(Then::Continue),
            State::Advertisement(advertisement) => {
                return match head.map_err(Stop::from).and_then(|head| Ok(advertisement.head(&head, end)?)) {
                    Ok(Some(changed)) => changed,
                    Ok(None) => {
                        self.state = State::Other;
                        Step::only(Then::Continue)
                    }
                    Err(stop) => self.stop(stop),
                };
            }
            // The server has not got the push, so this success is not the push's.
            State::Push(push) if success && push.phase().upstream() == Upstream::Untouched => {
                return self.stop(unfinished());
            }
            State::Push(push) => match push.response_mut() {
                Some(response) if success => response,
                _ => return Step::only(Then::Continue),
            },
            State::Dropping { upstream: Upstream::Reached(response), .. }
                if success || head.is_ok_and(|head| head.of_upstream) =>
            {
                response
            }
            State::Dropping { .. } => return Step::only(Then::Continue),
        };
        *response = Response::Held;
        if end { self.answered_all() } else { Step::only(Then::Pause) }
    }

    /// The part of the response's body that the next [`Flow::response_body`] needs, of the `size` bytes that its callback
    /// holds.
    pub fn unread_response(&self, size: usize) -> Range<usize> {
        match &self.state {
            State::Advertisement(advertisement) => advertisement.seen().min(size)..size,
            _ => 0..0,
        }
    }

    /// More of the response's body: `size` bytes with those that wait, of which `unread` are the ones of
    /// [`Flow::unread_response`].
    pub fn response_body(&mut self, size: usize, unread: Result<Vec<u8>, Broken>, end: bool) -> Step {
        self.begin(None, true);
        if self.holds_response() {
            // A body that goes on takes the paused headers with it.
            return if end { self.answered_all() } else { Step::only(Then::Pause) };
        }
        let State::Advertisement(advertisement) = &mut self.state else { return Step::only(Then::Continue) };
        match unread.map_err(Stop::from).and_then(|unread| Ok(advertisement.body(size, &unread, end)?)) {
            Ok(Fed::More) => Step::only(Then::Pause),
            Ok(Fed::Changed(body)) => {
                self.state = State::Other;
                Step::with(Effect::ReplaceResponseBody { size, body }, Then::Continue)
            }
            Err(stop) => self.stop(stop),
        }
    }

    /// The response's trailers; with them it is at its end.
    pub fn response_trailers(&mut self) -> Step {
        self.begin(None, true);
        match &self.state {
            _ if self.holds_response() => self.answered_all(),
            State::Advertisement(advertisement) if advertisement.is_read() => self.stop(advertisement::odd()),
            _ => Step::only(Then::Continue),
        }
    }

    /// The answer to [`Question::Refs`]: the refs that are elsewhere, and where they are. `None` if the question failed.
    pub fn refs_answered(&mut self, others: Option<&[RefAt]>) -> Step {
        self.answered(|push| push.refs_answered(others))
    }

    /// The answer to [`Question::Descents`], in its order; `None` if the question failed.
    pub fn descents_answered(&mut self, answers: Option<&[bool]>) -> Step {
        self.answered(|push| push.descents_answered(answers))
    }

    /// The control plane refuses a question, for this reason.
    pub fn question_refused(&mut self, denial: Denial) -> Step {
        self.answered(|push| push.question_refused(denial))
    }

    /// Some time has passed. Returns `None` if nothing has to be done.
    pub fn tick(&mut self) -> Option<Step> {
        let whole = match &self.state {
            State::Push(push) if push.phase() != Phase::Sent => push.phase().is_whole(),
            State::Dropping { .. } => true,
            _ => return None,
        };
        self.begin(None, whole);
        let late = self.is_late();
        match &mut self.state {
            State::Push(_) if late => {
                // The client may send for ever, so its refusal waits for nothing.
                self.event.end = true;
                Some(self.stop(too_long()))
            }
            State::Push(push) => {
                if let Err(stop) = push.renew() {
                    return Some(self.stop(stop));
                }
                push.asks().then(|| push.settle(&self.note)).map(|step| step.unwrap_or_else(|denial| self.stop(denial)))
            }
            State::Dropping { .. } if late => Some(Step::only(self.answer())),
            _ => None,
        }
    }

    /// Whether [`Flow::work`] has something to do.
    pub fn is_behind(&self) -> bool {
        matches!(&self.state, State::Push(push) if push.is_behind())
    }

    /// Goes on with the bytes that wait to be parsed, within what is left of the worker's slice.
    pub fn work(&mut self) -> Step {
        let State::Push(push) = &self.state else { return Step::only(Then::Continue) };
        let whole = push.phase().is_whole();
        self.begin(None, whole);
        let State::Push(push) = &mut self.state else { return Step::only(Then::Continue) };
        let step = push.renew().and_then(|()| Ok(push.work(&self.note)?));
        step.unwrap_or_else(|stop| self.stop(stop))
    }

    /// An effect of the last step failed. A request that was not refused is refused now. If the refusal itself failed, the
    /// stream is reset: its bytes can't be kept from the server.
    pub fn failed(&mut self, broken: Broken) -> Step {
        match self.state {
            State::Dropping { .. } | State::Over => {
                self.state = State::Over;
                let line = format!("push: what is refused can't be dropped: {broken}");
                Step::with(Effect::Log(line), Then::Reset)
            }
            State::Other | State::Advertisement(_) | State::Push(_) => self.stop(broken),
        }
    }

    fn head(&mut self, head: &RequestHead, end: bool) -> Result<Step, Stop> {
        let method = std::str::from_utf8(head.value(":method")).unwrap_or_default();
        if method == "CONNECT" || policy::github::kind(&head.host()?) != Some(Kind::Web) {
            return Ok(Step::only(Then::Continue));
        }
        // The github stage has refused every request that is not git's.
        let Some(git) = policy::github::git(method, head.value(":path")) else {
            return Ok(Step::only(Then::Continue));
        };
        match git.service {
            Service::Upload | Service::Lfs(_) => Ok(Step::with(Effect::Unseal, Then::Continue)),
            Service::Advertisement => {
                self.note = head.note()?;
                let options = self.worker.borrow().rules().is_some_and(|rules| !rules.push_options.is_empty());
                self.state = State::Advertisement(Advertisement::new(options));
                // The flow reads the response, so the server may not compress it.
                let uncompressed = Effect::RemoveRequestHeader("accept-encoding".into());
                Ok(Step { effects: vec![uncompressed, Effect::Unseal], then: Then::Continue })
            }
            Service::Push => {
                self.note = head.note()?;
                judge_headers(&head.headers)?;
                if end {
                    return Err(Denial::new(Rule::PushMalformed, "the push is empty").into());
                }
                let container = head.container()?;
                let push = Push::new(&self.worker, container, git, length(head)?)?;
                let note = push.note(&self.note);
                self.state = State::Push(Box::new(push));
                Ok(Step::with(Effect::Note(note), Then::Pause))
            }
        }
    }

    /// Brings an answer to the push that waits for it. Does nothing if no push waits.
    fn answered(&mut self, bring: impl FnOnce(&mut Push)) -> Step {
        let State::Push(push) = &mut self.state else { return Step::only(Then::Continue) };
        let renewed = push.renew();
        bring(push);
        let end = push.phase().is_whole();
        self.begin(None, end);
        let State::Push(push) = &mut self.state else { return Step::only(Then::Continue) };
        let step = renewed.and_then(|()| Ok(push.settle(&self.note)?));
        step.unwrap_or_else(|stop| self.stop(stop))
    }

    /// The held response is complete. Envoy sends no more of a request whose response is complete, so the rest of an
    /// undecided push never arrives, also where all of it has come. Of an allowed push that passes unread the server has all
    /// that has come, and its trailer may have come before its end.
    fn answered_all(&mut self) -> Step {
        match &mut self.state {
            State::Push(push) if push.passes_unread() => Step::with(push.sent(&self.note), Then::Continue),
            State::Push(_) => self.stop(unfinished()),
            State::Dropping { .. } => Step::only(self.answer()),
            _ => Step::only(Then::Pause),
        }
    }

    /// Whether the push takes longer than the rules allow.
    fn is_late(&self) -> bool {
        let worker = self.worker.borrow();
        let most = worker.rules().map(|rules| Duration::from_secs(rules.push_time));
        most.is_some_and(|most| worker.now().saturating_sub(self.begun) > most)
    }

    fn holds_response(&self) -> bool {
        self.upstream() == Upstream::Reached(Response::Held)
    }

    /// The part of the push that the server has got by now.
    fn upstream(&self) -> Upstream {
        match &self.state {
            State::Push(push) => push.phase().upstream(),
            State::Dropping { upstream, .. } => *upstream,
            State::Other | State::Advertisement(_) | State::Over => Upstream::Untouched,
        }
    }

    fn begin(&mut self, body: Option<usize>, end: bool) {
        self.event = Event { body, end, upstream: self.upstream() };
    }

    /// Refuses the request: now if nothing more comes of it, otherwise when the rest has come.
    fn stop(&mut self, stop: impl Into<Stop>) -> Step {
        let mut effects = Vec::new();
        let denial = match stop.into() {
            Stop::Refused(denial) => denial,
            Stop::Broken(broken) => {
                effects.push(Effect::Log(format!("push: {broken}")));
                let reason = "the gateway can't inspect this push; try again";
                Denial::new(Rule::PushUnavailable, reason)
            }
        };
        let Event { body, end, upstream } = self.event;
        let (denial, note, report) = match &mut self.state {
            State::Push(push) => push.refuse(denial, &self.note),
            _ => {
                let note = self.note.refused(&denial);
                (denial, note, None)
            }
        };
        // The note comes first: it stands even if the body can't be dropped.
        effects.push(Effect::NoteRefusal(note));
        effects.extend(body.map(|size| Effect::DropRequestBody { size }));
        self.state = State::Dropping { denial, report, upstream };
        let then = match (end, upstream) {
            (true, _) => self.answer(),
            (false, Upstream::Reached(_)) => Then::Continue,
            (false, Upstream::Untouched) => Then::Pause,
        };
        Step { effects, then }
    }

    /// Answers a refused request of which nothing more comes.
    fn answer(&mut self) -> Then {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Dropping { denial, report, .. } => Then::Refuse(self.rendered(&denial, report)),
            // Answered already.
            _ => Then::Pause,
        }
    }

    fn rendered(&self, denial: &Denial, report: Option<Box<crate::Refusal>>) -> Refusal {
        let request_id = self.note.request_id();
        match report.and_then(|report| report.report(request_id)) {
            Some(body) => {
                Refusal { status: 200, content_type: REPORT_TYPE, rule: denial.rule, retry_after: None, body }
            }
            None => policy::render(denial, Form::of(&self.authority, &self.path), request_id),
        }
    }
}

fn unfinished() -> Denial {
    let reason = "GitHub has answered before it had the whole push; fetch, and push again";
    Denial::new(Rule::PushUnfinished, reason)
}

fn too_long() -> Denial {
    Denial::new(Rule::PushTime, "the push takes too long; push in smaller steps")
}

/// The value of `content-length`. `None` without one.
fn length(head: &RequestHead) -> Result<Option<u64>, Denial> {
    let value = head.headers.iter().find(|(name, _)| name == "content-length").map(|(_, value)| value);
    let number = |value: &Vec<u8>| std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    let odd = || Denial::new(Rule::PushMalformed, "the content-length of the push is not a number");
    value.map(|value| number(value).ok_or_else(odd)).transpose()
}
