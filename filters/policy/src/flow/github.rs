//! One request to a host of GitHub's, event by event: [`Judge`] decides, this file says when, and what becomes of the
//! request. Called by the github filter and by the tests.
//!
//! **Invariant:** a request to GitHub leaves this stage only by `pass`, in the form that was understood. Every error
//! before becomes a refusal.

use super::{Broken, Effect, Paused, RequestHead, Step as AnyStep, Then};
use crate::github::{self, Allowed, Call, Class, Head, Judge, MAX_BODY, Pending, Question, RECEIVE_PACK, Refused};
use crate::mark::Judged;
use crate::{CREDENTIAL_HEADERS, Container, Denial, Form, HostName, InForce, Note, Rule, render};
use std::cell::RefCell;
use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;

type Step = AnyStep<Confirm>;

/// The questions to the control plane about one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// The container's address.
    pub container: IpAddr,
    /// 1 to [`github::MAX_ASK`] questions.
    pub questions: Vec<Question>,
}

/// The answer to [`Confirm`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// Every object is what the request needs it to be.
    pub confirmed: bool,
    /// Why not; empty if `confirmed`.
    pub reason: String,
}

/// One request.
#[derive(Debug, Default)]
pub struct Flow {
    /// Without rules every request to GitHub is refused.
    in_force: Rc<RefCell<InForce<Judge>>>,
    authority: Vec<u8>,
    path: Vec<u8>,
    note: Note,
    subject: Option<Subject>,
    state: State,
}

/// The facts of the request that no judgement changes, for its mark.
#[derive(Debug)]
struct Subject {
    generation: u64,
    host: HostName,
    method: Vec<u8>,
    /// The names of the request's headers that carry a credential of the sandbox's own.
    secrets: Vec<&'static str>,
}

/// The request's progress. Each state holds the data that its events need, and no other.
#[derive(Debug, Default)]
enum State {
    /// The headers haven't come.
    #[default]
    New,
    /// The body comes, and waits unread.
    Reading(Box<Reading>),
    /// All of the request has come, and waits until its questions are answered.
    Asking(Box<Asking>),
    /// Allowed. Trailers are refused.
    Passed,
    /// Not for GitHub; or a push, whose trailers the push stage judges.
    Elsewhere,
    /// Refused. The rest of the body is dropped before the request is answered.
    Dropping(Denial),
    /// Refused and answered, or reset.
    Over,
}

#[derive(Debug)]
struct Reading {
    /// The revision of the rules that judged the headers.
    revision: u64,
    container: Container,
    pending: Pending,
    /// Names of the headers that are removed.
    strays: Vec<String>,
}

#[derive(Debug)]
struct Asking {
    allowed: Allowed,
    strays: Vec<String>,
    /// Bytes of the body that wait.
    size: usize,
}

/// Why a request ends here.
enum Stop {
    Refused(Refused),
    Broken(Broken),
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl Allowed {
    /// Judges the answer to [`Confirm`]; `None` if the question failed.
    ///
    /// # Errors
    /// If an object is not confirmed.
    pub fn confirmed(&self, answer: Option<Confirmed>) -> Result<(), Refused> {
        match answer {
            Some(Confirmed { confirmed: true, .. }) => Ok(()),
            Some(Confirmed { reason, .. }) => Err(Refused::of(&self.operation, Rule::GithubNode, reason)),
            None => {
                let reason = "it could not be confirmed with GitHub what the ids stand for; try again";
                Err(Refused::of(&self.operation, Rule::GithubUnconfirmed, reason))
            }
        }
    }
}

impl Flow {
    /// A request whose headers haven't come, in a worker with these rules.
    pub fn new(in_force: Rc<RefCell<InForce<Judge>>>) -> Self {
        Self { in_force, ..Self::default() }
    }

    /// The headers; `end`: nothing follows them.
    pub fn request_headers(&mut self, head: Result<RequestHead, Broken>, end: bool) -> Step {
        let step = head.map_err(Stop::from).and_then(|head| self.head(&head, end));
        step.unwrap_or_else(|stop| self.stop(stop, end))
    }

    /// The part of the body that the next [`Flow::request_body`] needs, of the `size` bytes that its callback holds.
    pub fn unread(&self, size: usize, end: bool) -> Range<usize> {
        match self.state {
            State::Reading(_) if end && size <= MAX_BODY => 0..size,
            _ => 0..0,
        }
    }

    /// More of the body: `size` bytes with those that wait, of which `unread` are the ones of [`Flow::unread`].
    pub fn request_body(&mut self, size: usize, unread: Result<Vec<u8>, Broken>, end: bool) -> Step {
        match std::mem::take(&mut self.state) {
            State::Reading(_) if size > MAX_BODY => {
                let refused = Refused::unknown(Rule::GithubBody, "the body is longer than 1 MiB");
                let mut step = self.stop(refused.into(), end);
                step.effects.push(Effect::DropRequestBody { size });
                step
            }
            State::Reading(reading) if end => {
                let step = unread.map_err(Stop::from).and_then(|body| self.judge_body(*reading, &body));
                step.unwrap_or_else(|stop| self.stop(stop, true))
            }
            State::Dropping(denial) => {
                let then = if end {
                    self.answer(&denial)
                } else {
                    self.state = State::Dropping(denial);
                    Then::Pause
                };
                Step::with(Effect::DropRequestBody { size }, then)
            }
            passed @ (State::Passed | State::Elsewhere) => {
                self.state = passed;
                Step::only(Then::Continue)
            }
            other @ (State::New | State::Reading(_) | State::Asking(_) | State::Over) => {
                self.state = other;
                Step::only(Then::Pause)
            }
        }
    }

    /// Trailers; with them the request is at its end. Clients of git, Git LFS and GitHub's API send no trailers. A server
    /// that merges trailers into the headers would read headers that no stage has judged. The end of a body that passes
    /// unread comes with the trailers, so the server has not got the end of the refused request.
    pub fn request_trailers(&mut self) -> Step {
        match std::mem::take(&mut self.state) {
            State::Elsewhere => {
                self.state = State::Elsewhere;
                Step::only(Then::Continue)
            }
            State::Dropping(denial) => Step::only(self.answer(&denial)),
            State::Over => {
                self.state = State::Over;
                Step::only(Then::Pause)
            }
            State::New | State::Reading(_) | State::Asking(_) | State::Passed => {
                let refused = Refused::unknown(Rule::GithubHeader, "a request to GitHub has no trailers");
                self.stop(refused.into(), true)
            }
        }
    }

    /// The answer to [`Confirm`]; `None` if the question failed.
    pub fn confirmed(&mut self, answer: Option<Confirmed>) -> Step {
        let asking = match std::mem::take(&mut self.state) {
            State::Asking(asking) => asking,
            // No answer is waited for.
            other => {
                self.state = other;
                return Step::only(Then::Continue);
            }
        };
        match asking.allowed.confirmed(answer) {
            Ok(()) => self.pass(&asking.allowed, &asking.strays, asking.size, Then::Resume(Paused::Request)),
            Err(refused) => self.stop(refused.into(), true),
        }
    }

    /// The control plane refuses the question [`Confirm`], for this reason.
    pub fn question_refused(&mut self, denial: Denial) -> Step {
        match std::mem::take(&mut self.state) {
            State::Asking(asking) => {
                let operation = Some(asking.allowed.operation);
                self.stop(Refused { operation, denial }.into(), true)
            }
            // No answer is waited for.
            other => {
                self.state = other;
                Step::only(Then::Continue)
            }
        }
    }

    /// An effect of the last step failed. A request that was not refused is refused now, and answered at once: nothing of
    /// it has gone on. If the refusal itself failed, the stream is reset.
    pub fn failed(&mut self, broken: Broken) -> Step {
        match self.state {
            State::Dropping(_) | State::Over => {
                self.state = State::Over;
                let line = format!("github: what is refused can't be dropped: {broken}");
                Step::with(Effect::Log(line), Then::Reset)
            }
            State::New | State::Reading(_) | State::Asking(_) | State::Passed | State::Elsewhere => {
                self.stop(broken.into(), true)
            }
        }
    }

    fn head(&mut self, head: &RequestHead, end: bool) -> Result<Step, Stop> {
        self.authority = head.value(":authority").to_vec();
        self.path = head.value(":path").to_vec();
        // The identity stage judges a CONNECT by its form. The requests inside the tunnel come through this stage one by
        // one.
        if head.value(":method") == b"CONNECT" {
            return Ok(self.elsewhere());
        }
        let host = head.host()?;
        if github::kind(&host).is_none() {
            return Ok(self.elsewhere());
        }
        self.note = head.note()?;
        if self.note.decided.rule == Rule::EgressSigned {
            // A URL that GitHub has given this container, without a credential. It has no body that a class could judge.
            self.state = State::Passed;
            return Ok(Step::only(Then::Continue));
        }
        let container = head.container()?;
        let (generation, method) = (container.generation, head.value(":method").to_vec());
        let has = |name: &&str| head.headers.iter().any(|(have, _)| have.eq_ignore_ascii_case(name));
        let secrets = CREDENTIAL_HEADERS.into_iter().filter(has).collect();
        self.subject = Some(Subject { generation, host: host.clone(), method, secrets });
        let (revision, judge) = self.rules()?;
        let call = Call { method: head.value(":method"), host: &host, target: &self.path, headers: &head.headers };
        match judge.head(call, &container)? {
            Head::Elsewhere => Ok(self.elsewhere()),
            Head::Allowed(allowed) => {
                allowed.takes_body(call.method, !end)?;
                let strays = github::stray_headers(call, false)?;
                Ok(self.pass(&allowed, &strays, 0, Then::Continue))
            }
            Head::Body(pending) => {
                // `Judge::head` has just screened the same headers.
                let strays = github::stray_headers(call, true).unwrap_or_default();
                let reading = Reading { revision, container, pending, strays };
                if end {
                    return self.judge_body(reading, &[]);
                }
                self.state = State::Reading(Box::new(reading));
                Ok(Step::only(Then::Pause))
            }
        }
    }

    fn elsewhere(&mut self) -> Step {
        self.state = State::Elsewhere;
        Step::only(Then::Continue)
    }

    /// The rules in force, and their revision.
    fn rules(&self) -> Result<(u64, Rc<Judge>), Broken> {
        let in_force = self.in_force.borrow();
        let judge = in_force.get().cloned().ok_or_else(|| Broken::new("there are no rules"))?;
        Ok((in_force.revision(), judge))
    }

    /// Judges the whole body, under the rules that have judged the headers. A client decides how long its body takes, so
    /// rules that were in force at its beginning may be long gone at its end.
    fn judge_body(&mut self, reading: Reading, body: &[u8]) -> Result<Step, Stop> {
        let Reading { revision, container, pending, strays } = reading;
        let (now, judge) = self.rules()?;
        if now != revision {
            let reason = "the policy has changed while the body of this request came; try again";
            return Err(Refused::unknown(Rule::GithubUnavailable, reason).into());
        }
        let allowed = judge.body(pending, body, &container)?;
        if allowed.ask.is_empty() {
            return Ok(self.pass(&allowed, &strays, body.len(), Then::Continue));
        }
        let confirm = Confirm { container: container.container_ip, questions: allowed.ask.clone() };
        self.state = State::Asking(Box::new(Asking { allowed, strays, size: body.len() }));
        Ok(Step::with(Effect::Ask(confirm), Then::Pause))
    }

    /// Sends the request on in the form that was understood, in place of the `size` bytes of its body; the one exit.
    fn pass(&mut self, allowed: &Allowed, strays: &[String], size: usize, then: Then) -> Step {
        self.state = if allowed.operation.name == RECEIVE_PACK { State::Elsewhere } else { State::Passed };
        let note = self.note.allowed(allowed.rule).about(Some(&allowed.operation));
        let mut effects = vec![Effect::Note(note)];
        if let Some(Subject { generation, host, method, secrets }) = &self.subject {
            let judged = Judged { generation: *generation, host, method, path: &allowed.target };
            if allowed.is_public() {
                effects.push(Effect::Mark(judged.public()));
                let others = secrets.iter().filter(|name| !strays.iter().any(|stray| stray == *name));
                effects.extend(others.map(|name| Effect::RemoveRequestHeader((*name).to_owned())));
            } else {
                effects.push(Effect::Mark(judged.github()));
            }
        }
        if allowed.target != self.path {
            effects.push(Effect::SetRequestHeader(":path", allowed.target.clone()));
        }
        effects.extend(strays.iter().cloned().map(Effect::RemoveRequestHeader));
        let Some(body) = &allowed.body else { return Step { effects, then } };
        if size > 0 {
            effects.push(Effect::ReplaceRequestBody { size, body: body.clone() });
            effects.push(Effect::SetRequestHeader("content-length", body.len().to_string().into_bytes()));
            effects.push(Effect::RemoveRequestHeader("transfer-encoding".into()));
            if let Some(content_type) = allowed.content_type() {
                effects.push(Effect::SetRequestHeader("content-type", content_type.to_vec()));
            }
        }
        if allowed.operation.class == Class::Graphql || self.path == b"/graphql" {
            // GitHub then answers with node ids of the new form. An id of the old form names no repository.
            effects.push(Effect::SetRequestHeader("x-github-next-global-id", b"1".to_vec()));
        }
        Step { effects, then }
    }

    /// Refuses the request: now if all of it has come, otherwise when the rest has.
    fn stop(&mut self, stop: Stop, end: bool) -> Step {
        let mut effects = Vec::new();
        let Refused { operation, denial } = match stop {
            Stop::Refused(refused) => refused,
            Stop::Broken(broken) => {
                effects.push(Effect::Log(format!("github: {broken}")));
                Refused::unknown(Rule::GithubUnavailable, "the gateway can't judge this request; try again")
            }
        };
        effects.push(Effect::NoteRefusal(self.note.refused(&denial).about(operation.as_ref())));
        let then = if end {
            self.answer(&denial)
        } else {
            self.state = State::Dropping(denial);
            Then::Pause
        };
        Step { effects, then }
    }

    fn answer(&mut self, denial: &Denial) -> Then {
        self.state = State::Over;
        Then::Refuse(render(denial, Form::of(&self.authority, &self.path), self.note.request_id()))
    }
}
