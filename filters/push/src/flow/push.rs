//! A push that is not refused: the inspection's standing, put into effect.

use super::{Query, Response, Step, Stop, Upstream};
use crate::load::{Full, Load, Ticket};
use crate::{Descent, Inspection, Question, RefAt, Standing, change};
use git_wire::Oid;
use policy::flow::{Broken, Effect, Paused, Then};
use policy::github::{Git, Rules};
use policy::push::{MAX_REFS, PushRefusal};
use policy::{Container, Denial, Note, PushNote, Refusal, Rule, UpdateNote};
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

/// How much of a ref's name the audit holds, in characters; GitHub takes 255 bytes.
const MAX_NAME: usize = 255;
const REPORT_TYPE: &str = "application/x-git-receive-pack-result";

/// A push that is not refused.
#[derive(Debug)]
pub(super) struct Push {
    inspection: Inspection,
    ticket: Ticket,
    container: IpAddr,
    repo: String,
    refusal: PushRefusal,
    phase: Phase,
    /// The last [`Question::Descents`]; empty if there was none.
    descents: Vec<Descent>,
}

/// The push's progress. A response is held only while the server has got a part of the push and there is no verdict. The
/// audit has the note `push.allowed` in `Allowed` and `Sent`, and in no other phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The names of its refs are not judged. Headers and body wait in Envoy; the first `seen` bytes of the body were
    /// inspected.
    Judging { seen: usize },
    /// The names are judged; headers and body flow, up to the pack's trailer.
    Flowing(Response),
    /// All of it has come. The trailer waits in Envoy, for the answers to questions.
    Complete(Response),
    /// Allowed. The rest comes, and flows unread.
    Allowed,
    /// Allowed, and all of it has come.
    Sent,
}

impl Phase {
    /// Bytes of the body that wait in Envoy and were inspected.
    pub(super) fn seen(self) -> usize {
        match self {
            Self::Judging { seen } => seen,
            Self::Flowing(_) | Self::Complete(_) | Self::Allowed | Self::Sent => 0,
        }
    }

    /// All of the push may go upstream.
    pub(super) fn is_allowed(self) -> bool {
        matches!(self, Self::Allowed | Self::Sent)
    }

    /// All of the push has come.
    pub(super) fn is_whole(self) -> bool {
        matches!(self, Self::Complete(_) | Self::Sent)
    }

    pub(super) fn upstream(self) -> Upstream {
        match self {
            Self::Judging { .. } => Upstream::Untouched,
            Self::Flowing(response) | Self::Complete(response) => Upstream::Reached(response),
            Self::Allowed | Self::Sent => Upstream::Reached(Response::Passing),
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
    /// A push of `container`'s, whose headers were good.
    ///
    /// # Errors
    /// If the container pushes too much at a time, or the repository is not the container's.
    pub(super) fn new(
        rules: &Rules,
        container: Container,
        git: Git<'_>,
        load: &Rc<RefCell<Load>>,
    ) -> Result<Self, Stop> {
        let repo = container.repos.iter().find(|repo| repo.is(git.owner.as_bytes(), git.name.as_bytes()));
        let repo = repo.ok_or_else(|| Broken::new("the stage before has let a strange repository pass"))?.to_string();
        let ticket = Ticket::take(load, container.container_ip).map_err(full)?;
        Ok(Self {
            container: container.container_ip,
            inspection: Inspection::new(rules.branches.clone(), container),
            ticket,
            repo,
            refusal: rules.push_refusal,
            phase: Phase::Judging { seen: 0 },
            descents: Vec::new(),
        })
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Where the response stands, while there is no verdict on what the server has got.
    pub(super) fn response_mut(&mut self) -> Option<&mut Response> {
        match &mut self.phase {
            Phase::Flowing(response) | Phase::Complete(response) => Some(response),
            Phase::Judging { .. } | Phase::Allowed | Phase::Sent => None,
        }
    }

    /// Inspects the new bytes of the body, of which `size` bytes lie in Envoy.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn body(&mut self, size: usize, fresh: &[u8], end: bool, note: &Note) -> Result<Step, Denial> {
        let before = self.phase;
        let held = self.inspection.held().len();
        let pass = self.inspection.feed(fresh);
        if end {
            self.inspection.finish();
        }
        self.ticket.holds(self.inspection.memory()).map_err(full)?;
        let mut effects: Vec<_> = self.question().into_iter().collect();
        let response = before.response();
        let then = match (self.inspection.standing(), end) {
            (Standing::Refused(refusal), _) => return Err(refusal.denial.clone()),
            (Standing::Unjudged, _) => {
                self.phase = Phase::Judging { seen: size };
                return Ok(Step { effects, then: Then::Pause });
            }
            (Standing::Pending, false) => {
                self.phase = Phase::Flowing(response);
                Then::Continue
            }
            (Standing::Pending, true) => {
                self.phase = Phase::Complete(response);
                Then::Pause
            }
            (Standing::Allowed, _) => {
                // The note is written with the verdict, and again at the end with the final counts.
                if before != Phase::Allowed || end {
                    effects.push(Effect::Note(self.note(note)));
                }
                self.phase = if end { Phase::Sent } else { Phase::Allowed };
                match response {
                    Response::Held => Then::Resume(Paused::Response),
                    Response::Passing => Then::Continue,
                }
            }
        };
        // At the end the held trailer goes back into Envoy's buffer. An allowed push sends it; the buffer of an undecided
        // push is paused.
        let tail = if end { self.inspection.held() } else { &[] };
        if pass < fresh.len() && !end || held > 0 && !tail.is_empty() {
            let then = [fresh.get(..pass).unwrap_or_default(), tail].concat();
            effects.push(Effect::ReplaceRequestBody { size, keep: before.seen(), then });
        }
        Ok(Step { effects, then })
    }

    /// The answer to [`Question::Refs`].
    pub(super) fn refs_answered(&mut self, others: Option<&[RefAt]>) {
        match others {
            Some(others) => self.inspection.refs_are(others),
            None => self.inspection.unanswered(),
        }
    }

    /// The answer to [`Question::Descents`].
    pub(super) fn descents_answered(&mut self, answers: Option<&[bool]>) {
        let asked = std::mem::take(&mut self.descents);
        match answers {
            Some(answers) => self.inspection.descents_are(&asked, answers),
            None => self.inspection.unanswered(),
        }
    }

    /// Puts the standing after an answer into effect.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn settle(&mut self, note: &Note) -> Result<Step, Denial> {
        let mut effects: Vec<_> = self.question().into_iter().collect();
        let allowed = match self.inspection.standing() {
            Standing::Refused(refusal) => return Err(refusal.denial.clone()),
            Standing::Allowed => true,
            Standing::Unjudged | Standing::Pending => false,
        };
        let then = match (allowed, self.phase) {
            (true, Phase::Flowing(response)) => {
                self.phase = Phase::Allowed;
                match response {
                    Response::Held => Then::Resume(Paused::Response),
                    Response::Passing => Then::Continue,
                }
            }
            (true, Phase::Complete(response)) => {
                self.phase = Phase::Sent;
                Then::Resume(match response {
                    Response::Held => Paused::Both,
                    Response::Passing => Paused::Request,
                })
            }
            (false, _) | (true, Phase::Judging { .. } | Phase::Allowed | Phase::Sent) => {
                return Ok(Step { effects, then: Then::Continue });
            }
        };
        effects.push(Effect::Note(self.note(note)));
        Ok(Step { effects, then })
    }

    /// Refuses it. Returns the note for the audit, and git's own report if the client reads one.
    pub(super) fn refuse(&mut self, denial: &Denial, note: &Note) -> (Note, Option<Refusal>) {
        self.inspection.refuse(denial.clone());
        (self.about(note.refused(denial)), self.report(denial, note.request_id()))
    }

    /// `note` with the push's updates and standing. An undecided push is noted as refused, because it ended before it was
    /// decided: the note is only read if no later one replaces it.
    pub(super) fn note(&self, note: &Note) -> Note {
        self.about(match self.inspection.standing() {
            Standing::Allowed => note.allowed(Rule::PushAllowed),
            Standing::Unjudged | Standing::Pending | Standing::Refused(_) => {
                note.refused(&Denial::new(Rule::PushUnfinished, "it ended before it was decided"))
            }
        })
    }

    /// The next question, one per event. The refs come first: where a ref is elsewhere, its ancestry says nothing.
    fn question(&mut self) -> Option<Effect<Query>> {
        let question = self.inspection.take_question()?;
        if let Question::Descents(asked) = &question {
            self.descents.clone_from(asked);
        }
        Some(Effect::Ask(Query { container: self.container, repo: self.repo.clone(), question }))
    }

    fn report(&self, denial: &Denial, request_id: &str) -> Option<Refusal> {
        let Standing::Refused(refusal) = self.inspection.standing() else { return None };
        if self.refusal == PushRefusal::Http {
            return None;
        }
        let body = refusal.report(request_id)?;
        Some(Refusal { status: 200, content_type: REPORT_TYPE, rule: denial.rule, body })
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

fn full(_: Full) -> Denial {
    let reason = "too much is pushed through the gateway at this moment; try again when your other pushes are done";
    Denial::new(Rule::LimitPushes, reason)
}
