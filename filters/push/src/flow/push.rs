//! A push that is not refused: the inspection's standing, put into effect.

use super::{Query, Response, Step, Stop, Upstream};
use crate::worker::{Full, MAX_MEMORY, MAX_PUSHES, MAX_SHARE, PER_BYTE, PER_PUSH, Ticket, Worker};
use crate::{Descent, Inspection, Passing, Question, RefAt, Refusal, Standing, change};
use git_wire::Oid;
use policy::flow::{Broken, Effect, Paused, Then};
use policy::github::{Git, Rules};
use policy::push::{MAX_REFS, PushRefusal};
use policy::{Container, Denial, Note, PushNote, Rule, UpdateNote};
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// How long GitHub's answer about the refs is good for.
const CONFIRMED: Duration = Duration::from_secs(30);
/// How long an answer is waited for. The filter's own timeout for a call is shorter. A call that a root context has made
/// has no answer once the context is gone.
const ANSWERED: Duration = Duration::from_secs(20);
/// How much of a ref's name the audit holds, in characters; GitHub takes 255 bytes.
const MAX_NAME: usize = 255;
/// A push that is not refused.
#[derive(Debug)]
pub(super) struct Push {
    inspection: Inspection,
    worker: Rc<RefCell<Worker>>,
    ticket: Ticket,
    container: IpAddr,
    repo: String,
    /// The rules that the push was judged by last.
    rules: Rc<Rules>,
    phase: Phase,
    /// The credential is not in force.
    sealed: bool,
    /// The last [`Question::Descents`]; empty if there was none.
    descents: Vec<Descent>,
    /// When GitHub said where the refs are. `None` while it has not, and where it has to be asked again.
    confirmed: Option<Duration>,
    /// Since when an answer is waited for. `None` once all have come.
    asked: Option<Duration>,
    /// The questions without an answer.
    unanswered: u32,
    /// The part of [`PER_PUSH`] that is left.
    own: u64,
    /// Work that was done beyond what was there for it.
    debt: u64,
    /// The audit has the note that bytes pass unread.
    noted: bool,
    /// The value of `content-length`.
    length: Option<u64>,
}

/// The push's progress. A response is held while the server has got a part of the push and not its end. The audit has the
/// note `push.allowed` in `Sent`, and before that once bytes have passed unread, because the trailer may be one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The names of its refs are not judged. The headers wait in Envoy.
    Judging,
    /// The names are judged; headers and body flow, up to the pack's trailer.
    Flowing(Response),
    /// All of it has come. Its end waits: for the answers to questions, or for bytes to be parsed. A push that comes in one
    /// piece goes from `Judging` to here. Its headers then wait in Envoy still, but nothing depends on that: the server has
    /// no headers, so no response comes, and a refusal of a push that has come whole is answered at once.
    Complete(Response),
    /// Allowed, and all of it has gone on.
    Sent,
}

impl Phase {
    /// All of the push has come.
    pub(super) fn is_whole(self) -> bool {
        matches!(self, Self::Complete(_) | Self::Sent)
    }

    pub(super) fn upstream(self) -> Upstream {
        match self {
            Self::Judging => Upstream::Untouched,
            Self::Flowing(response) | Self::Complete(response) => Upstream::Reached(response),
            Self::Sent => Upstream::Reached(Response::Passing),
        }
    }

    fn response(self) -> Response {
        match self.upstream() {
            Upstream::Reached(response) => response,
            Upstream::Untouched => Response::Passing,
        }
    }
}

impl Push {
    /// A push of `container`'s, whose headers were good. `length` is its `content-length`, if it has one.
    ///
    /// # Errors
    /// If there are no rules, the container pushes too much at a time, or the repository is not the container's.
    pub(super) fn new(
        worker: &Rc<RefCell<Worker>>,
        container: Container,
        git: Git<'_>,
        length: Option<u64>,
    ) -> Result<Self, Stop> {
        let rules = worker.borrow().rules().cloned().ok_or_else(no_rules)?;
        let repo = container.repos.iter().find(|repo| repo.is(git.owner.as_bytes(), git.name.as_bytes()));
        let repo = repo.ok_or_else(|| Broken::new("the stage before has let a strange repository pass"))?.to_string();
        let ticket = Ticket::take(worker, container.container_ip).map_err(full)?;
        Ok(Self {
            container: container.container_ip,
            inspection: Inspection::new(Rc::clone(&rules), container.only(git.owner.as_bytes(), git.name.as_bytes())),
            worker: Rc::clone(worker),
            ticket,
            repo,
            rules,
            phase: Phase::Judging,
            sealed: true,
            descents: Vec::new(),
            confirmed: None,
            asked: None,
            unanswered: 0,
            own: PER_PUSH,
            debt: 0,
            noted: false,
            length,
        })
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Where the response stands, while the server has not got the end.
    pub(super) fn response_mut(&mut self) -> Option<&mut Response> {
        match &mut self.phase {
            Phase::Flowing(response) | Phase::Complete(response) => Some(response),
            Phase::Judging | Phase::Sent => None,
        }
    }

    /// Whether [`Self::body`] looks at the bytes.
    pub(super) fn reads(&self) -> bool {
        self.inspection.reads()
    }

    /// Whether the push is allowed before its end, so that its bytes go on as they come.
    pub(super) fn passes_unread(&self) -> bool {
        matches!(self.phase, Phase::Flowing(_)) && self.inspection.standing() == Standing::Allowed && !self.is_behind()
    }

    /// Whether a question waits to be asked.
    pub(super) fn asks(&self) -> bool {
        self.inspection.asks()
    }

    /// Whether bytes wait to be parsed by [`Self::work`].
    pub(super) fn is_behind(&self) -> bool {
        self.inspection.is_behind()
    }

    /// Holds the push against the rules and the time at hand. Every event begins with it, and so the push is judged
    /// under the rules in force when its end is let go.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn renew(&mut self) -> Result<(), Stop> {
        let (now, rules) = {
            let worker = self.worker.borrow();
            (worker.now(), worker.rules().cloned().ok_or_else(no_rules)?)
        };
        if !Rc::ptr_eq(&rules, &self.rules) {
            self.rules = Rc::clone(&rules);
            self.inspection.rules_are(rules);
        }
        if self.confirmed.is_some_and(|at| now.saturating_sub(at) > CONFIRMED) {
            self.confirmed = None;
            self.inspection.refs_are_old();
        }
        if self.asked.is_some_and(|at| now.saturating_sub(at) > ANSWERED) {
            self.inspection.unanswered();
        }
        match self.inspection.standing() {
            Standing::Refused(refusal) => Err(refusal.denial.clone().into()),
            Standing::Unjudged | Standing::Pending | Standing::Allowed => Ok(()),
        }
    }

    /// Inspects the new bytes of the body, of which `size` bytes lie in Envoy.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn body(&mut self, size: usize, fresh: &[u8], end: bool, note: &Note) -> Result<Step, Denial> {
        let before = self.phase;
        let passing = if self.inspection.reads() {
            self.does(fresh.len(), |inspection, most| inspection.feed(fresh, most))
        } else {
            self.inspection.passed(size);
            Passing::AsTheyCame
        };
        if end {
            self.inspection.finish();
        }
        let mut effects = self.inspected()?;
        let response = before.response();
        let then = match (self.inspection.standing(), end) {
            (Standing::Refused(refusal), _) => return Err(refusal.denial.clone()),
            (Standing::Unjudged, _) => {
                effects.push(Effect::DropRequestBody { size });
                return Ok(Step { effects, then: Then::Pause });
            }
            (Standing::Pending | Standing::Allowed, false) => {
                self.phase = Phase::Flowing(response);
                Then::Continue
            }
            (Standing::Pending, true) => {
                self.phase = Phase::Complete(response);
                Then::Pause
            }
            (Standing::Allowed, true) => {
                effects.push(self.sent(note));
                match response {
                    Response::Held => Then::Resume(Paused::Response),
                    Response::Passing => Then::Continue,
                }
            }
        };
        if then != Then::Pause {
            effects.extend(self.unseal());
        }
        if before == Phase::Judging {
            effects.extend(self.new_length()?);
        }
        let replaced = match passing {
            Passing::AsTheyCame => None,
            Passing::Kept if then == Then::Pause => Some(Effect::DropRequestBody { size }),
            Passing::Kept => Some(Effect::ReplaceRequestBody { size, body: self.take()? }),
        };
        if self.inspection.is_unread() && self.phase != Phase::Sent && !self.noted {
            self.noted = true;
            effects.push(Effect::Note(self.note(note)));
        }
        effects.extend(replaced);
        Ok(Step { effects, then })
    }

    /// Works within what is left of the worker's slice, what `bytes` new bytes bring, and what the push has brought itself.
    /// The last step may take more: a debt, which the push pays before it works again.
    fn does<T>(&mut self, bytes: usize, work: impl FnOnce(&mut Inspection, u64) -> T) -> T {
        let own = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(PER_BYTE).saturating_add(self.own);
        let left = self.worker.borrow().left();
        let before = self.inspection.work();
        let result = work(&mut self.inspection, left.saturating_add(own).saturating_sub(self.debt));
        let done = self.inspection.work().saturating_sub(before).saturating_add(self.debt);
        self.own = own.saturating_sub(done).min(self.own);
        let beyond = done.saturating_sub(own);
        self.worker.borrow_mut().spend(beyond.min(left));
        self.debt = beyond.saturating_sub(left);
        result
    }

    /// The bytes that may be sent, whose memory is given back.
    fn take(&mut self) -> Result<Vec<u8>, Denial> {
        let bytes = self.inspection.take();
        self.ticket.holds(self.inspection.memory()).map_err(full)?;
        Ok(bytes)
    }

    /// Parses a slice of the bytes that wait.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn work(&mut self, note: &Note) -> Result<Step, Denial> {
        self.does(0, Inspection::go_on);
        self.settle(note)
    }

    /// Accounts for the inspection's memory and work, and returns its questions.
    fn inspected(&mut self) -> Result<Vec<Effect<Query>>, Denial> {
        self.ticket.holds(self.inspection.memory()).map_err(full)?;
        self.ticket.has_made(self.inspection.made()).map_err(full)?;
        Ok(self.question().into_iter().collect())
    }

    /// The whole push goes on.
    pub(super) fn sent(&mut self, note: &Note) -> Effect<Query> {
        self.phase = Phase::Sent;
        Effect::Note(self.note(note))
    }

    /// The `content-length` of the body with the head that was written anew. `None` if the body has no given length.
    fn new_length(&self) -> Result<Option<Effect<Query>>, Denial> {
        let (Some(length), Some((came, written))) = (self.length, self.inspection.head_lengths()) else {
            return Ok(None);
        };
        let number = |size: usize| u64::try_from(size).ok();
        let new = number(came).and_then(|came| length.checked_sub(came)).zip(number(written));
        let new = new.and_then(|(rest, written)| rest.checked_add(written));
        let new = new.ok_or_else(|| Denial::new(Rule::PushMalformed, "the push is longer than its content-length"))?;
        Ok(Some(Effect::SetRequestHeader("content-length", new.to_string().into_bytes())))
    }

    /// The answer to [`Question::Refs`].
    pub(super) fn refs_answered(&mut self, others: Option<&[RefAt]>) {
        self.answered();
        self.confirmed = Some(self.worker.borrow().now());
        match others {
            Some(others) => self.inspection.refs_are(others),
            None => self.inspection.unanswered(),
        }
    }

    /// The answer to [`Question::Descents`].
    pub(super) fn descents_answered(&mut self, answers: Option<&[bool]>) {
        self.answered();
        let asked = std::mem::take(&mut self.descents);
        match answers {
            Some(answers) => self.inspection.descents_are(&asked, answers),
            None => self.inspection.unanswered(),
        }
    }

    fn answered(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
        self.asked = (self.unanswered > 0).then(|| self.worker.borrow().now());
    }

    /// The control plane refuses a question.
    pub(super) fn question_refused(&mut self, denial: Denial) {
        self.inspection.refuse(denial);
    }

    /// Puts the standing into effect after an answer or a slice of work.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn settle(&mut self, note: &Note) -> Result<Step, Denial> {
        let mut effects = self.inspected()?;
        let allowed = match self.inspection.standing() {
            Standing::Refused(refusal) => return Err(refusal.denial.clone()),
            Standing::Allowed => true,
            Standing::Unjudged | Standing::Pending => false,
        };
        let Phase::Complete(response) = self.phase else { return Ok(Step { effects, then: Then::Continue }) };
        if !allowed {
            return Ok(Step { effects, then: Then::Continue });
        }
        effects.push(self.sent(note));
        effects.extend(self.unseal());
        let body = self.take()?;
        if !body.is_empty() {
            // Bytes that the inspection kept were dropped from Envoy's buffer, so nothing waits there.
            effects.push(Effect::ReplaceRequestBody { size: 0, body });
        }
        let paused = match response {
            Response::Held => Paused::Both,
            Response::Passing => Paused::Request,
        };
        Ok(Step { effects, then: Then::Resume(paused) })
    }

    /// Refuses it. Returns the denial, the note for the audit, and the source of git's own report if the client reads
    /// one.
    pub(super) fn refuse(&mut self, denial: Denial, note: &Note) -> (Denial, Note, Option<Box<Refusal>>) {
        self.inspection.refuse(denial.clone());
        let refusal = match self.inspection.standing() {
            Standing::Refused(refusal) => Some(refusal.clone()),
            Standing::Unjudged | Standing::Pending | Standing::Allowed => None,
        };
        let denial = refusal.as_ref().map_or(denial, |refusal| refusal.denial.clone());
        let reports = self.rules.push_refusal == PushRefusal::Report;
        let note = self.about(note.refused(&denial));
        (denial, note, refusal.filter(|_| reports).map(Box::new))
    }

    /// `note` with the push's updates and progress. A push whose end has not gone on is noted as refused, because it ended
    /// before that: the note is only read if no later one replaces it. A push of which bytes have passed unread is noted as
    /// allowed, because it may have landed.
    pub(super) fn note(&self, note: &Note) -> Note {
        let mut allowed = note.allowed(Rule::PushAllowed);
        self.about(if self.phase == Phase::Sent {
            allowed
        } else if self.inspection.is_unread() {
            allowed.decided.reason = "the rest of the push passes unread, and its end has not come".into();
            allowed
        } else {
            note.refused(&Denial::new(Rule::PushUnfinished, "it ended before all of it had come"))
        })
    }

    /// Puts the credential into force, once: when the push's headers go upstream.
    fn unseal(&mut self) -> Option<Effect<Query>> {
        std::mem::take(&mut self.sealed).then_some(Effect::Unseal)
    }

    /// The next question, one per event. The refs come first: where a ref is elsewhere, its ancestry says nothing.
    fn question(&mut self) -> Option<Effect<Query>> {
        let question = self.inspection.take_question()?;
        if let Question::Descents(asked) = &question {
            self.descents.clone_from(asked);
        }
        let now = self.worker.borrow().now();
        self.asked.get_or_insert(now);
        self.unanswered = self.unanswered.saturating_add(1);
        Some(Effect::Ask(Query { container: self.container, repo: self.repo.clone(), question }))
    }

    /// `note` with the push's updates and counts.
    fn about(&self, note: Note) -> Note {
        let hex = |oid: Option<Oid>| oid.map(|oid| oid.to_string());
        // A push of too many refs is refused for that. Its note names only the first.
        let updates = self.inspection.updates().iter().take(MAX_REFS).map(|update| UpdateNote {
            name: update.name.chars().take(MAX_NAME).collect(),
            old: hex(update.old),
            new: hex(update.new),
            kind: change(update),
        });
        note.of_push(PushNote {
            repo: self.repo.clone(),
            updates: updates.collect(),
            commits: self.inspection.commits().try_into().unwrap_or(u64::MAX),
            pack_bytes: self.inspection.pack_bytes(),
        })
    }
}

fn full(full: Full) -> Denial {
    let reason = match full {
        Full::Pushes => {
            format!("{MAX_PUSHES} pushes of this container are under way; try again when one of them is done")
        }
        Full::Share => format!(
            "the pushes of this container take more than {} MiB of the gateway's memory; push in smaller steps, one at a time",
            MAX_SHARE >> 20
        ),
        Full::Memory => format!(
            "the pushes of all containers take more than {} MiB of the gateway's memory; try again later",
            MAX_MEMORY >> 20
        ),
        Full::Made => "the pushes of this container have taken too much work; try again in a minute".into(),
    };
    Denial::new(Rule::LimitPushes, reason)
}

fn no_rules() -> Stop {
    Broken::new("there are no rules").into()
}
