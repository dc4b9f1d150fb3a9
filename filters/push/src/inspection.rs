//! Inspects one push, from its first byte to the verdict.

use crate::refusal::{Refusal, RefusedRef};
use git_wire::Oid;
use git_wire::graph;
use git_wire::pack::Scanner;
use git_wire::receive_pack::{self, Parser, RefUpdate, Request};
use policy::push::{Change, MAX_REFS, Need, advice, judge};
use policy::{BranchRules, Container, Denial, Rule};
use std::collections::{HashSet, VecDeque};

/// The most commits at which the walk may leave the pack for one ref. Each may cost one request to GitHub.
pub const MAX_BOUNDARY: usize = 16;

/// The state of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing<'a> {
    /// Nothing may be sent upstream yet, not even the headers.
    Unjudged,
    /// The bytes that [`Inspection::feed`] lets pass may be sent upstream. The rest waits for the verdict.
    Pending,
    /// The whole push may be sent upstream.
    Allowed,
    /// Nothing more may be sent upstream.
    Refused(&'a Refusal),
}

/// A question that only GitHub can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Are the refs at these objects? The answer goes to [`Inspection::refs_are`].
    Refs(Vec<RefAt>),
    /// For each descent: does one of the commits descend from the ancestor? The answer goes to
    /// [`Inspection::descents_are`].
    Descents(Vec<Descent>),
}

/// A ref, and the object that it points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefAt {
    /// The ref's full name.
    pub name: String,
    /// `None` if the ref does not exist.
    pub object: Option<Oid>,
}

/// A question about ancestry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descent {
    /// The name of the ref to update.
    pub name: String,
    /// The ref's old commit.
    pub ancestor: Oid,
    /// 1 to [`MAX_BOUNDARY`] commits from which the ref's new commit descends.
    pub commits: Vec<Oid>,
}

/// The inspection of one push.
#[derive(Debug)]
pub struct Inspection {
    rules: BranchRules,
    container: Container,
    phase: Phase,
    request: Request,
    /// The updates that have to be fast-forwards: their indices in the request, and the numbers of their questions in
    /// the graph.
    proofs: Vec<(usize, usize)>,
    refs: Confirmation,
    descents: Confirmation,
    questions: VecDeque<Question>,
    /// The part of the pack's trailer that has arrived.
    held: Vec<u8>,
    commits: usize,
    pack_bytes: u64,
}

#[derive(Debug)]
enum Phase {
    /// The list of ref updates is being parsed.
    Head(Parser),
    /// The list of ref updates is complete, and no byte may follow, because the push has no pack.
    Whole,
    /// The pack is being parsed.
    Pack(Box<Scanner>),
    /// The whole body has arrived. The pack's trailer, if there is a pack, is held.
    Ended,
    /// The push is allowed, and the rest of its body passes unparsed.
    Free,
    Refused(Box<Refusal>),
}

/// Whether GitHub has confirmed what a question asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Confirmation {
    NotRequested,
    Requested,
    Received,
}

impl Inspection {
    /// The inspection of a push by `container` under these rules.
    pub fn new(rules: BranchRules, container: Container) -> Self {
        Self {
            rules,
            container,
            phase: Phase::Head(Parser::default()),
            request: Request::default(),
            proofs: Vec::new(),
            refs: Confirmation::NotRequested,
            descents: Confirmation::NotRequested,
            questions: VecDeque::new(),
            held: Vec::new(),
            commits: 0,
            pack_bytes: 0,
        }
    }

    /// Takes the next bytes of the body. Returns how many of them may be sent upstream, after all bytes before them, as
    /// soon as [`Self::standing`] permits it. The other bytes are kept here, see [`Self::held`].
    pub fn feed(&mut self, chunk: &[u8]) -> usize {
        match &mut self.phase {
            Phase::Head(parser) => match parser.feed(chunk) {
                Ok(None) => 0,
                Ok(Some((request, used))) => {
                    self.head(request);
                    let rest = chunk.get(used..).unwrap_or_default();
                    if rest.is_empty() { used } else { used.saturating_add(self.feed(rest)) }
                }
                Err(error) => {
                    self.refuse(of_head(&error));
                    0
                }
            },
            Phase::Pack(scanner) => {
                let before = chunk.len();
                self.pack_bytes = self.pack_bytes.saturating_add(u64::try_from(before).unwrap_or(u64::MAX));
                match scanner.feed(chunk) {
                    Ok(pass) => {
                        self.commits = scanner.graph().commits();
                        self.held.extend_from_slice(chunk.get(pass..).unwrap_or_default());
                        self.settle();
                        pass
                    }
                    Err(error) => {
                        self.refuse(of_pack(&error));
                        0
                    }
                }
            }
            Phase::Whole | Phase::Ended if chunk.is_empty() => 0,
            Phase::Whole | Phase::Ended => {
                self.refuse(malformed("there are bytes after the end of the push"));
                0
            }
            Phase::Free => {
                self.pack_bytes = self.pack_bytes.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
                chunk.len()
            }
            Phase::Refused(_) => 0,
        }
    }

    /// The body has ended.
    pub fn finish(&mut self) {
        match &mut self.phase {
            Phase::Head(_) => self.refuse(of_head(&receive_pack::Error::Truncated)),
            Phase::Pack(scanner) if !scanner.is_complete() => {
                self.refuse(malformed("the push ends within its pack"));
            }
            Phase::Pack(_) => self.end_of_pack(),
            Phase::Whole => self.phase = Phase::Ended,
            Phase::Ended | Phase::Free | Phase::Refused(_) => {}
        }
    }

    /// Takes the next question to ask. There may be two at a time, and each is returned once.
    pub fn take_question(&mut self) -> Option<Question> {
        self.questions.pop_front()
    }

    /// Takes the answer to [`Question::Refs`]: the refs that point elsewhere, with their objects.
    pub fn refs_are(&mut self, others: &[RefAt]) {
        if self.refs != Confirmation::Requested || matches!(self.phase, Phase::Refused(_)) {
            return;
        }
        if others.is_empty() {
            self.refs = Confirmation::Received;
            self.settle();
            return;
        }
        let reason = |name: &str| {
            let other = others.iter().find(|other| other.name == name)?;
            Some(match other.object {
                Some(object) => format!("it is at {object} now; fetch, and push again"),
                None => "it does not exist any more; fetch, and push again".into(),
            })
        };
        self.refuse_refs(Rule::PushStale, reason);
    }

    /// Takes the answer to [`Question::Descents`], in the same order.
    pub fn descents_are(&mut self, asked: &[Descent], answers: &[bool]) {
        if self.descents != Confirmation::Requested || matches!(self.phase, Phase::Refused(_)) {
            return;
        }
        if asked.len() != answers.len() {
            self.unanswered();
            return;
        }
        let no: HashSet<&str> =
            asked.iter().zip(answers).filter(|(_, yes)| !**yes).map(|(descent, _)| descent.name.as_str()).collect();
        if no.is_empty() {
            self.descents = Confirmation::Received;
            self.settle();
        } else {
            self.not_fast_forward(|name| no.contains(name));
        }
    }

    /// Refuses the push because a question could not be answered.
    pub fn unanswered(&mut self) {
        let reason = "GitHub could not be reached to check the refs; fetch, and push again";
        self.refuse(Denial::new(Rule::PushUnconfirmed, reason));
    }

    /// Refuses the push for a reason of the caller.
    pub fn refuse(&mut self, denial: Denial) {
        let named =
            |update: &RefUpdate| RefusedRef { name: update.name.clone(), reason: denial.reason.clone(), guilty: false };
        let refs = self.request.updates.iter().map(named).collect();
        self.end(denial, refs);
    }

    /// The state of the push.
    pub fn standing(&self) -> Standing<'_> {
        match &self.phase {
            Phase::Head(_) | Phase::Whole => Standing::Unjudged,
            Phase::Pack(_) => Standing::Pending,
            Phase::Ended if self.settled() => Standing::Allowed,
            Phase::Ended => Standing::Pending,
            Phase::Free => Standing::Allowed,
            Phase::Refused(refusal) => Standing::Refused(refusal),
        }
    }

    /// The bytes that [`Self::feed`] did not let pass. They are sent last, when the push is allowed.
    pub fn held(&self) -> &[u8] {
        &self.held
    }

    /// The push's ref updates. Empty until the list of ref updates is complete.
    pub fn updates(&self) -> &[RefUpdate] {
        &self.request.updates
    }

    /// The number of commits that were parsed. The pack may have more if these were enough to allow the push.
    pub fn commits(&self) -> usize {
        self.commits
    }

    /// The number of bytes of the pack so far.
    pub fn pack_bytes(&self) -> u64 {
        self.pack_bytes
    }

    /// The approximate memory use in bytes.
    pub fn memory(&self) -> usize {
        match &self.phase {
            Phase::Pack(scanner) => scanner.memory(),
            _ => 0,
        }
    }

    /// Judges the refs' names.
    fn head(&mut self, request: Request) {
        let has_pack = request.has_pack();
        self.request = request;
        self.phase = Phase::Whole;
        let updates = &self.request.updates;
        if updates.is_empty() {
            // A client sends an empty list to find out whether it may push.
            self.refs = Confirmation::Received;
            self.descents = Confirmation::Received;
            return;
        }
        if updates.len() > MAX_REFS {
            let reason = format!("a push may have {MAX_REFS} refs; push fewer at a time");
            self.refuse(Denial::new(Rule::PushLimit, reason));
            return;
        }
        let mut names = HashSet::new();
        if let Some(twice) = updates.iter().find(|update| !names.insert(update.name.as_str())) {
            let reason = format!("{} is named twice", twice.name);
            self.refuse(Denial::new(Rule::PushDuplicate, reason));
            return;
        }
        let judged: Vec<_> =
            updates.iter().map(|update| judge(&self.rules, &self.container, &update.name, change(update))).collect();
        if let Some(Err(first)) = judged.iter().find(|verdict| verdict.is_err()) {
            let first = first.clone();
            let reasons = updates.iter().zip(&judged);
            let guilty = reasons.map(|(update, verdict)| (update, verdict.as_ref().err().map(|d| d.reason.clone())));
            let refs = with_reasons(guilty);
            self.end(first, refs);
            return;
        }
        let mut scanner = Scanner::default();
        for (at, (update, need)) in updates.iter().zip(&judged).enumerate() {
            if let (Ok(Need::FastForward), Some(old), Some(new)) = (need, update.old, update.new) {
                self.proofs.push((at, scanner.graph_mut().ask(old, new)));
            }
        }
        let asked: Vec<_> = updates
            .iter()
            .filter(|update| update.new.is_some())
            .map(|update| RefAt { name: update.name.clone(), object: update.old })
            .collect();
        if asked.is_empty() {
            self.refs = Confirmation::Received;
        } else {
            self.refs = Confirmation::Requested;
            self.questions.push_back(Question::Refs(asked));
        }
        if has_pack {
            self.phase = Phase::Pack(Box::new(scanner));
        } else {
            self.descents = Confirmation::Received;
        }
    }

    /// Handles the end of the pack: GitHub is asked about the updates that the pack does not prove.
    fn end_of_pack(&mut self) {
        let Phase::Pack(scanner) = std::mem::replace(&mut self.phase, Phase::Ended) else { return };
        let mut open = Vec::new();
        let mut never = HashSet::new();
        for (at, question) in &self.proofs {
            let Some(update) = self.request.updates.get(*at) else { continue };
            let (Some(ancestor), name) = (update.old, update.name.clone()) else { continue };
            match scanner.graph().descent(*question) {
                Some(graph::Descent::Proved) => {}
                Some(graph::Descent::Open(commits)) if (1..=MAX_BOUNDARY).contains(&commits.len()) => {
                    open.push(Descent { name, ancestor, commits });
                }
                Some(graph::Descent::Open(commits)) if commits.len() > MAX_BOUNDARY => {
                    let reason = format!(
                        "the new commits of {name} have {} parents outside the push, more than can be checked; fetch, and push in smaller steps",
                        commits.len()
                    );
                    self.refuse(Denial::new(Rule::PushLimit, reason));
                    return;
                }
                Some(graph::Descent::Open(_)) | None => _ = never.insert(name),
            }
        }
        if !never.is_empty() {
            self.not_fast_forward(|name| never.contains(name));
            return;
        }
        self.descents = if open.is_empty() {
            Confirmation::Received
        } else {
            self.questions.push_back(Question::Descents(open));
            Confirmation::Requested
        };
    }

    /// Stops parsing the pack if the push is certain to be allowed.
    fn settle(&mut self) {
        if let Phase::Pack(scanner) = &self.phase
            && self.refs == Confirmation::Received
            && scanner.graph().all_proved()
            && self.held.is_empty()
        {
            self.phase = Phase::Free;
        }
    }

    fn settled(&self) -> bool {
        self.refs == Confirmation::Received && self.descents == Confirmation::Received
    }

    fn not_fast_forward(&mut self, is: impl Fn(&str) -> bool) {
        let advice = advice(&self.container);
        let moves: Vec<_> = self.request.updates.iter().filter(|update| is(&update.name)).cloned().collect();
        self.refuse_refs(Rule::PushForce, |name| {
            let update = moves.iter().find(|update| update.name == name)?;
            let short = |oid: Option<Oid>| oid.map(|oid| oid.to_string().chars().take(12).collect::<String>());
            let (old, new) = (short(update.old)?, short(update.new)?);
            Some(format!("{old}..{new} is not a fast-forward; fetch and merge, or else: {advice}"))
        });
    }

    /// Refuses the push because of the refs for which `reason` returns one.
    fn refuse_refs(&mut self, rule: Rule, reason: impl Fn(&str) -> Option<String>) {
        let updates = &self.request.updates;
        let refs = with_reasons(updates.iter().map(|update| (update, reason(&update.name))));
        let first = refs.iter().find(|refused| refused.guilty);
        let why = first.map_or_else(String::new, |refused| format!("{}: {}", refused.name, refused.reason));
        self.end(Denial::new(rule, why), refs);
    }

    fn end(&mut self, denial: Denial, refs: Vec<RefusedRef>) {
        if matches!(self.phase, Phase::Refused(_)) {
            return;
        }
        let capabilities = self.request.capabilities.clone();
        self.questions.clear();
        self.held.clear();
        self.phase = Phase::Refused(Box::new(Refusal { denial, refs, capabilities }));
    }
}

/// The change that an update makes. git's server deletes a ref if the new id is all zeros, whatever the old id is.
pub fn change(update: &RefUpdate) -> Change {
    match (update.old, update.new) {
        (_, None) => Change::Delete,
        (None, Some(_)) => Change::Create,
        (Some(_), Some(_)) => Change::Update,
    }
}

/// Gives every ref a reason. A ref that would have been allowed gets the name of a refused ref as its reason.
fn with_reasons<'a>(refs: impl Iterator<Item = (&'a RefUpdate, Option<String>)>) -> Vec<RefusedRef> {
    let refs: Vec<_> = refs.collect();
    let because = refs.iter().find(|(_, reason)| reason.is_some()).map(|(update, _)| update.name.clone());
    let innocent = format!("not pushed, because {} was refused", because.unwrap_or_default());
    let with_reason = |(update, reason): (&RefUpdate, Option<String>)| RefusedRef {
        name: update.name.clone(),
        guilty: reason.is_some(),
        reason: reason.unwrap_or_else(|| innocent.clone()),
    };
    refs.into_iter().map(with_reason).collect()
}

fn malformed(reason: impl Into<String>) -> Denial {
    Denial::new(Rule::PushMalformed, reason)
}

fn of_head(error: &receive_pack::Error) -> Denial {
    let rule = match error {
        receive_pack::Error::Signed => Rule::PushSigned,
        receive_pack::Error::ObjectFormat(_) => Rule::PushFormat,
        receive_pack::Error::Limit { .. } => Rule::PushLimit,
        receive_pack::Error::Length(_) | receive_pack::Error::Line(_) | receive_pack::Error::Truncated => {
            Rule::PushMalformed
        }
    };
    Denial::new(rule, error.to_string())
}

fn of_pack(error: &git_wire::pack::Error) -> Denial {
    use git_wire::pack::Error;
    let rule = match error {
        Error::Limit { .. } | Error::Commits(graph::Error::Limit { .. }) => Rule::PushLimit,
        Error::Malformed(_) | Error::Commits(graph::Error::Malformed) => Rule::PushMalformed,
    };
    Denial::new(rule, error.to_string())
}
