//! One stream of Envoy's around a flow: the buffer of the request's body, what the server gets, what the client is
//! told. It asserts with each step what has to hold of every push.

use super::body::{Case, Verdict};
use super::{Server, written};
use policy::flow::{Broken, Effect, Paused, RequestHead, Step, Then};
use policy::github::Rules;
use policy::push::PushRefusal;
use push::worker::{TICK, Worker};
use push::{Flow, Query, Question, RefAt, ResponseHead};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// Whose callback a step ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Callback {
    RequestHeaders,
    RequestBody { end: bool },
    RequestTrailers,
    Response { end: bool },
    Call,
    Tick,
}

/// How the stream ended, if the gateway ended it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Over {
    Answered(policy::Refusal),
    Reset,
}

/// The response as far as the client has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing has come of it.
    Nothing,
    /// It waits.
    Held { status: u16, whole: bool },
    /// The client has it.
    All { status: u16, whole: bool },
}

/// A push on its way.
pub struct Stream<'a> {
    pub flow: Flow,
    case: &'a Case,
    pub worker: Rc<RefCell<Worker>>,
    /// The body as a server gets it.
    pub written: Vec<u8>,
    /// Where in it the pack's trailer begins.
    trailer: usize,
    /// The `content-length` that goes upstream, if it was changed.
    pub length: Option<String>,
    /// The part of the body that waits in Envoy.
    waiting: Vec<u8>,
    /// The part of the body that the server has. `None` before it has the headers.
    pub sent: Option<Vec<u8>>,
    /// The server has the end of the request.
    pub sent_end: bool,
    /// The end has come, and waits.
    held_end: bool,
    /// The credential is in force.
    unsealed: bool,
    pub notes: Vec<Value>,
    pub questions: VecDeque<Question>,
    pub told: Told,
    pub over: Option<Over>,
    /// The effect that fails, counted from 0: each release is one as well.
    pub fail: Option<usize>,
    effects: usize,
}

pub fn rules(case: &Case, refusal: PushRefusal) -> Rc<Rules> {
    let push_options = case.push_options.clone();
    Rc::new(Rules { branches: case.rules.clone(), push_refusal: refusal, push_options, ..Rules::default() })
}

/// A worker with the case's rules.
pub fn worker(case: &Case, refusal: PushRefusal) -> Rc<RefCell<Worker>> {
    let mut worker = Worker::default();
    worker.set_rules(1, rules(case, refusal));
    Rc::new(RefCell::new(worker))
}

pub fn head(case: &Case, method: &str, path: &str, headers: &[(&str, &str)]) -> RequestHead {
    let pseudo = [(":method", method), (":path", path), (":authority", "github.com")];
    let headers = pseudo.iter().chain(headers).map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
    RequestHead {
        headers: headers.collect(),
        note: Some(br#"{"request_id":"7","container_id":"a","decided":{"stage":"identity","verdict":"allow","rule":"egress.host","reason":""},"policy_version":"p"}"#.to_vec()),
        container: Some(serde_json::to_vec(&case.container).unwrap()),
    }
}

/// The headers of a push of the case's.
pub fn push_head(case: &Case) -> RequestHead {
    let path = format!("/{}.git/git-receive-pack", case.container.repos[0]);
    head(case, "POST", &path, &[("content-type", "application/x-git-receive-pack-request")])
}

impl<'a> Stream<'a> {
    /// Its headers have come.
    pub fn of_push(case: &'a Case, body: &[u8], trailer: Option<usize>, fail: Option<usize>) -> Self {
        let mut stream = Self::new(worker(case, PushRefusal::Report), case, body, trailer, fail);
        stream.headers(push_head(case), false);
        stream
    }

    pub fn new(
        worker: Rc<RefCell<Worker>>,
        case: &'a Case,
        body: &[u8],
        trailer: Option<usize>,
        fail: Option<usize>,
    ) -> Self {
        let written = written(body);
        Self {
            flow: Flow::new(Rc::clone(&worker)),
            case,
            worker,
            trailer: trailer.map_or(written.len(), |trailer| trailer + written.len() - body.len()),
            written,
            length: None,
            waiting: Vec::new(),
            sent: None,
            sent_end: false,
            held_end: false,
            unsealed: false,
            notes: Vec::new(),
            questions: VecDeque::new(),
            told: Told::Nothing,
            over: None,
            fail,
            effects: 0,
        }
    }

    pub fn headers(&mut self, head: RequestHead, end: bool) {
        let step = self.flow.request_headers(Ok(head), end);
        self.carry_out(Callback::RequestHeaders, step);
    }

    /// More of the body.
    pub fn body(&mut self, chunk: &[u8], end: bool) {
        self.waiting.extend(chunk);
        let size = self.waiting.len();
        let unread = self.waiting[self.flow.unread_request(size)].to_vec();
        let step = self.flow.request_body(size, Ok(unread), end);
        self.held_end = end;
        self.carry_out(Callback::RequestBody { end }, step);
    }

    pub fn trailers(&mut self) {
        let step = self.flow.request_trailers();
        self.held_end = true;
        self.carry_out(Callback::RequestTrailers, step);
    }

    /// The server's response begins; `end`: that is all.
    pub fn response(&mut self, status: u16, end: bool) {
        self.told = Told::Held { status, whole: end };
        let head = ResponseHead { status, of_upstream: true, ..ResponseHead::default() };
        let step = self.flow.response_headers(Ok(head), end);
        self.carry_out(Callback::Response { end }, step);
    }

    /// The server's response ends: with a body, or with trailers.
    pub fn response_ends(&mut self, trailers: bool) {
        if let Told::Held { whole, .. } | Told::All { whole, .. } = &mut self.told {
            *whole = true;
        }
        let step = match trailers {
            true => self.flow.response_trailers(),
            false => self.flow.response_body(1, Ok(Vec::new()), true),
        };
        self.carry_out(Callback::Response { end: true }, step);
    }

    /// Brings the answer to a question, or its failure.
    pub fn answer(&mut self, question: &Question, failed: bool) {
        let step = match question {
            Question::Refs(refs) => {
                let others = refs.iter().map(|at| RefAt { name: at.name.clone(), object: self.case.at(&at.name) });
                let others: Vec<_> = others.filter(|other| !refs.contains(other)).collect();
                self.flow.refs_answered((!failed).then_some(&others))
            }
            Question::Descents(asked) => {
                let yes = asked
                    .iter()
                    .map(|asked| asked.commits.iter().any(|commit| self.case.descends(commit, &asked.ancestor)));
                let yes: Vec<_> = yes.collect();
                self.flow.descents_answered((!failed).then_some(&yes))
            }
        };
        self.carry_out(Callback::Call, step);
    }

    /// Lets time pass, up to a tick.
    pub fn tick(&mut self, now: Duration) {
        self.worker.borrow_mut().set_time(now);
        if let Some(step) = self.flow.tick() {
            self.carry_out(Callback::Tick, step);
        }
    }

    /// Lets the time between two ticks pass, and the flow parse what waits, if anything does.
    pub fn work(&mut self) {
        let now = self.worker.borrow().now() + TICK;
        self.worker.borrow_mut().set_time(now);
        if self.flow.is_behind() {
            let step = self.flow.work();
            self.carry_out(Callback::Tick, step);
        }
    }

    /// Answers every question, one after the other.
    pub fn answer_all(&mut self) {
        while let Some(question) = self.questions.pop_front() {
            self.answer(&question, false);
        }
    }

    /// The rule of the last note.
    pub fn rule(&self) -> Option<&str> {
        self.notes.last()?["rule"].as_str()
    }

    /// Its end is known to both sides.
    pub fn is_over(&self) -> bool {
        self.over.is_some() || matches!(self.told, Told::All { whole: true, .. })
    }

    /// It is allowed for good. A push that passes unread is noted as allowed before, with a reason.
    fn allowed(&self) -> bool {
        self.notes.iter().any(|note| note["rule"] == "push.allowed" && note["reason"] == "")
    }

    /// The reason of the last note.
    pub fn reason(&self) -> &str {
        self.notes.last().and_then(|note| note["reason"].as_str()).unwrap_or_default()
    }

    fn fails(&mut self) -> bool {
        self.effects += 1;
        self.fail == Some(self.effects - 1)
    }

    fn carry_out(&mut self, callback: Callback, mut step: Step<Query>) {
        while self.try_step(callback, step).is_err() {
            step = self.flow.failed(Broken::new("it is to fail"));
        }
        self.check();
    }

    fn try_step(&mut self, callback: Callback, step: Step<Query>) -> Result<(), ()> {
        assert!(
            self.over.is_none() || step == Step::only(Then::Pause) || step == Step::only(Then::Continue),
            "it is over: {step:?}"
        );
        let mut replaced = false;
        for effect in step.effects {
            let bearable = matches!(effect, Effect::Log(_) | Effect::NoteRefusal(_));
            if !bearable && self.fails() {
                return Err(());
            }
            assert!(!replaced, "a replacement comes last: what fails after it finds another buffer than it knows");
            match effect {
                Effect::Log(_) => {}
                Effect::Note(note) | Effect::NoteRefusal(note) => {
                    let note: Value = serde_json::from_slice(&note.to_bytes()).unwrap();
                    self.notes.push(note["decided"].clone());
                }
                Effect::Ask(query) => {
                    assert_eq!(query.container, self.case.container.container_ip);
                    assert_eq!(query.repo, self.case.container.repos[0].to_string());
                    self.questions.push_back(query.question);
                }
                Effect::ReplaceRequestBody { size, body } => {
                    let paused = matches!(callback, Callback::Call | Callback::Tick) && self.held_end;
                    let at_hand = matches!(callback, Callback::RequestBody { .. });
                    assert!(paused || at_hand, "there is no body at hand");
                    assert_eq!(size, self.waiting.len());
                    self.waiting = body;
                    replaced = true;
                }
                Effect::SetRequestHeader("content-length", value) => {
                    assert!(self.sent.is_none(), "the headers are gone");
                    self.length = Some(String::from_utf8(value).unwrap());
                }
                Effect::DropRequestBody { size } => {
                    assert!(matches!(callback, Callback::RequestBody { .. }), "there is no body at hand");
                    // Envoy takes no part of a buffer to be replaced.
                    if size < self.waiting.len() {
                        return Err(());
                    }
                    self.waiting.clear();
                }
                Effect::Unseal => {
                    let carries = matches!(callback, Callback::RequestBody { .. } | Callback::Call);
                    assert!(carries && self.sent.is_none(), "it is not due");
                    self.unsealed = true;
                }
                Effect::Mark(_)
                | Effect::SetRequestHeader(..)
                | Effect::RemoveRequestHeader(_)
                | Effect::RemoveResponseHeader(_)
                | Effect::ReplaceResponseBody { .. } => panic!("not of a push: {effect:?}"),
            }
        }
        match step.then {
            Then::Pause => {}
            Then::Continue => self.go_on(callback),
            Then::Resume(paused) => {
                if self.fails() {
                    return Err(());
                }
                self.go_on(callback);
                if matches!(paused, Paused::Response | Paused::Both) {
                    let Told::Held { status, whole } = self.told else { panic!("no response is held") };
                    self.told = Told::All { status, whole };
                }
                if matches!(paused, Paused::Request | Paused::Both) {
                    assert!(
                        matches!(callback, Callback::Call | Callback::Tick) && self.held_end,
                        "no request is paused"
                    );
                    self.send(true);
                }
            }
            Then::Refuse(answer) => self.over = Some(Over::Answered(answer)),
            Then::Reset => self.over = Some(Over::Reset),
        }
        Ok(())
    }

    fn go_on(&mut self, callback: Callback) {
        match callback {
            Callback::RequestHeaders => _ = self.sent.get_or_insert_default(),
            Callback::RequestBody { end } => self.send(end),
            Callback::RequestTrailers => self.send(true),
            Callback::Response { .. } if self.over.is_some() => {}
            Callback::Response { .. } => {
                if let Told::Held { status, whole } = self.told {
                    self.told = Told::All { status, whole };
                }
            }
            Callback::Call | Callback::Tick => {}
        }
    }

    fn send(&mut self, end: bool) {
        assert!(self.over.is_none() && !self.sent_end, "something is sent after the end");
        self.sent.get_or_insert_default().append(&mut self.waiting);
        self.sent_end = end;
    }

    /// Asserts the properties that always hold for every push.
    fn check(&self) {
        let sent = self.sent.as_deref().unwrap_or_default();
        assert!(self.written.starts_with(sent), "what is sent is not the push");
        if self.case.expect.verdict == Verdict::Deny {
            assert!(sent.len() <= self.trailer, "a part of the trailer of a refused push is sent");
        }
        if !self.allowed() {
            assert!(!self.sent_end, "the end is sent before the push is allowed");
            if let Told::All { status, .. } = self.told {
                assert!(!(200..300).contains(&status), "a success is told before the push is allowed");
            }
        }
        assert!(self.sent.is_none() || self.unsealed, "it is sent without a credential");
        if self.fail.is_none() {
            assert_eq!(self.sent.is_some(), self.unsealed, "the credential is in force before anything is sent");
            if self.sent_end {
                assert_eq!((sent, self.rule()), (&self.written[..], Some("push.allowed")), "what is sent is a part");
            }
            if let Some(Over::Answered(answer)) = &self.over {
                assert_eq!(self.rule(), Some(answer.rule.name()), "the audit names another rule");
                assert!(!self.allowed(), "what was let go is refused");
            }
            assert_ne!(self.over, Some(Over::Reset), "nothing has failed");
        }
    }
}
