//! Inspects one push, from its first byte to the verdict. The bytes that may be sent upstream come out of it: the head
//! written anew from its parsed form, and the pack as it came.
//!
//! The file is longer than 600 lines because the phases of an inspection share one state, whose fields are private.

use crate::question::{Confirmation, Descent, Question, RefAt, change};
use crate::refusal::{Refusal, RefusedRef, malformed, of_head, of_pack, with_reasons};
use crate::standing::{Passing, Standing};
use crate::waiting::Waiting;
use git_wire::Oid;
use git_wire::graph;
use git_wire::pack::{Fed, Scanner};
use git_wire::receive_pack::{self, Parser, RefUpdate, Request};
use policy::github::{Class, Operation, Rules, Scope};
use policy::push::{MAX_REFS, MAX_UNSENT, Need, advice, judge};
use policy::{Container, Denial, Rule};
use std::collections::{HashSet, VecDeque};
use std::rc::Rc;

/// The most commits at which the walk may leave the pack for one ref. Each may cost one request to GitHub.
pub const MAX_BOUNDARY: usize = 16;
/// How much of a push option that is not allowed a refusal quotes, in characters.
const MAX_QUOTED: usize = 64;

/// The inspection of one push.
#[derive(Debug)]
pub struct Inspection {
    rules: Rc<Rules>,
    container: Container,
    phase: Phase,
    request: Request,
    /// The length of the head as it came, and as it was written anew. `None` until the head is complete.
    head: Option<(usize, usize)>,
    /// The updates that have to be fast-forwards: their indices in the request, and the numbers of their questions in
    /// the graph.
    proofs: Vec<(usize, usize)>,
    refs: Confirmation,
    descents: Confirmation,
    /// The refs that GitHub says are no fast-forwards, until it has answered where the refs are.
    diverged: HashSet<String>,
    questions: VecDeque<Question>,
    /// The bytes that have arrived and are not parsed.
    waiting: Waiting,
    /// The bytes that may be sent, up to the pack's trailer.
    ready: Waiting,
    /// The part of the pack's trailer that has arrived.
    held: Vec<u8>,
    /// The whole body has arrived.
    ended: bool,
    came: usize,
    commits: usize,
    pack_bytes: u64,
    work: u64,
    made: u64,
    /// Bytes have passed unparsed.
    unread: bool,
}

#[derive(Debug)]
enum Phase {
    /// The list of ref updates is being parsed.
    Head(Parser),
    /// The list of ref updates is complete, and no byte may follow, because the push has no pack.
    Whole,
    /// The pack is being parsed.
    Pack(Box<Scanner>),
    /// The whole body has arrived and is parsed. The pack's trailer, if there is a pack, is held.
    Ended,
    /// The push is allowed, and the rest of its body passes unparsed.
    Free,
    Refused(Box<Refusal>),
}

impl Inspection {
    /// The inspection of a push under these rules by `container`, whose record has only the repository that is pushed to
    /// ([`Container::only`]).
    pub fn new(rules: Rc<Rules>, container: Container) -> Self {
        Self {
            rules,
            container,
            phase: Phase::Head(Parser::default()),
            request: Request::default(),
            head: None,
            proofs: Vec::new(),
            refs: Confirmation::NotRequested,
            descents: Confirmation::NotRequested,
            diverged: HashSet::new(),
            questions: VecDeque::new(),
            waiting: Waiting::default(),
            ready: Waiting::default(),
            held: Vec::new(),
            ended: false,
            came: 0,
            commits: 0,
            pack_bytes: 0,
            work: 0,
            made: 0,
            unread: false,
        }
    }

    /// Takes the next bytes of the body, and parses them until the work is at `most` ([`Scanner::feed`]). The rest waits
    /// for [`Self::go_on`]. Bytes that may be sent upstream are sent as soon as [`Self::standing`] permits it.
    pub fn feed(&mut self, chunk: &[u8], most: u64) -> Passing {
        match &mut self.phase {
            Phase::Head(parser) => match parser.feed(chunk) {
                Ok(None) => self.came = self.came.saturating_add(chunk.len()),
                Ok(Some((request, used))) => {
                    let written = request.write();
                    self.head = Some((self.came.saturating_add(used), written.len()));
                    self.ready.push(&written);
                    self.head(request);
                    let rest = chunk.get(used..).unwrap_or_default();
                    if !rest.is_empty() {
                        self.feed(rest, most);
                    }
                }
                Err(error) => self.refuse(of_head(&error)),
            },
            Phase::Pack(_) => {
                self.count(chunk.len());
                if self.reads_at_once() {
                    return self.scan_at_once(chunk, most);
                }
                self.waiting.push(chunk);
                self.go_on(most);
            }
            Phase::Whole | Phase::Ended if chunk.is_empty() => {}
            Phase::Whole | Phase::Ended => self.refuse(malformed("there are bytes after the end of the push")),
            Phase::Free => {
                if self.ready.is_empty() {
                    self.passed(chunk.len());
                    return Passing::AsTheyCame;
                }
                self.count(chunk.len());
                self.ready.push(chunk);
            }
            Phase::Refused(_) => {}
        }
        Passing::Kept
    }

    /// Whether [`Self::feed`] looks at the bytes, or needs to keep them. If not, they pass as they come, and
    /// [`Self::passed`] takes their number.
    pub fn reads(&self) -> bool {
        !matches!(self.phase, Phase::Free if self.ready.is_empty())
    }

    /// Counts `size` bytes that pass unread, see [`Self::reads`].
    pub fn passed(&mut self, size: usize) {
        self.count(size);
        self.unread |= size > 0;
    }

    /// Parses bytes that wait, until the work is at `most`.
    pub fn go_on(&mut self, most: u64) {
        let until = self.work.saturating_add(most);
        while self.work < until && self.is_behind() {
            let mut waiting = std::mem::take(&mut self.waiting);
            let bytes = waiting.first();
            let Some(fed) = self.scan(bytes, until.saturating_sub(self.work)) else { break };
            let all = fed.parsed == bytes.len();
            self.keep(bytes, fed);
            waiting.drop_first(fed.parsed);
            self.waiting = waiting;
            if !all {
                break;
            }
        }
        self.within();
        self.advance();
    }

    /// Whether bytes wait to be parsed.
    pub fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The bytes that may be sent now, after all that were taken or passed before: with the pack's trailer if the whole
    /// push is allowed and has arrived.
    pub fn take(&mut self) -> Vec<u8> {
        let mut bytes = self.ready.take();
        self.unread |= matches!(self.phase, Phase::Free) && !bytes.is_empty();
        if self.standing() == Standing::Allowed && matches!(self.phase, Phase::Ended) {
            bytes.append(&mut self.held);
        }
        bytes
    }

    /// The body has ended.
    pub fn finish(&mut self) {
        self.ended = true;
        self.advance();
    }

    /// Whether the whole body has arrived.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// The length of the head as it came, and of the head that is sent in its place. `None` until it is complete.
    pub fn head_lengths(&self) -> Option<(usize, usize)> {
        self.head
    }

    /// Takes the next question to ask. There may be two at a time, and each is returned once.
    pub fn take_question(&mut self) -> Option<Question> {
        self.questions.pop_front()
    }

    /// Whether a question waits to be taken.
    pub fn asks(&self) -> bool {
        !self.questions.is_empty()
    }

    /// Takes the answer to [`Question::Refs`]: the refs that point elsewhere, with their objects.
    pub fn refs_are(&mut self, others: &[RefAt]) {
        if self.refs != Confirmation::Requested || matches!(self.phase, Phase::Refused(_)) {
            return;
        }
        // The trailer may have passed unread. GitHub has then moved the refs, perhaps before it was asked again.
        let landed = |other: &RefAt| {
            self.unread
                && self.request.updates.iter().any(|update| update.name == other.name && update.new == other.object)
        };
        let others: Vec<_> = others.iter().filter(|other| !landed(other)).collect();
        if others.is_empty() {
            self.refs = Confirmation::Received;
            let diverged = std::mem::take(&mut self.diverged);
            if diverged.is_empty() {
                self.advance();
            } else {
                self.not_fast_forward(|name| diverged.contains(name));
            }
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
        let no = asked.iter().zip(answers).filter(|(_, yes)| !**yes);
        let no: HashSet<String> = no.map(|(descent, _)| descent.name.clone()).collect();
        if no.is_empty() {
            self.descents = Confirmation::Received;
            self.advance();
        } else if self.refs == Confirmation::Requested {
            // The reason is the same whichever answer comes first: a ref that is elsewhere is stale.
            self.diverged = no;
        } else {
            self.not_fast_forward(|name| no.contains(name));
        }
    }

    /// Refuses the push because a question could not be answered.
    pub fn unanswered(&mut self) {
        let reason = "GitHub could not be reached to check the refs; fetch, and push again";
        self.refuse(Denial::new(Rule::PushUnconfirmed, reason));
    }

    /// The answer to [`Question::Refs`] is old. The question is asked again before the push passes.
    pub fn refs_are_old(&mut self) {
        if self.refs == Confirmation::Received && !self.refs_to_ask().is_empty() {
            self.refs = Confirmation::Old;
            self.advance();
        }
    }

    /// The rules have changed. The push is judged under them from now on, the names of its refs included if they were
    /// judged already.
    pub fn rules_are(&mut self, rules: Rc<Rules>) {
        self.rules = rules;
        if matches!(self.phase, Phase::Head(_) | Phase::Refused(_)) || self.request.updates.is_empty() {
            return;
        }
        let operation = Operation { name: "git/receive-pack".into(), class: Class::WriteRef };
        let scope = Scope { container: &self.container, rules: &self.rules };
        if let Err(refused) = scope.operation(&operation) {
            self.refuse(refused.denial);
            return;
        }
        let Some(needs) = self.judge_names() else { return };
        let unproved = |at: usize| !self.proofs.iter().any(|(proved, _)| *proved == at);
        if (0..).zip(&needs).any(|(at, need)| *need == Need::FastForward && unproved(at)) {
            let reason = "the policy has changed during the push, and asks for more than was looked at; push again";
            self.refuse(Denial::new(Rule::PushUnfinished, reason));
        }
    }

    /// Refuses the push for a reason of the caller.
    pub fn refuse(&mut self, denial: Denial) {
        let named =
            |update: &RefUpdate| RefusedRef { name: update.name.clone(), reason: denial.reason.clone(), guilty: false };
        let refs = self.request.updates.iter().take(MAX_REFS).map(named).collect();
        self.end(denial, refs);
    }

    /// The state of the push.
    pub fn standing(&self) -> Standing<'_> {
        match &self.phase {
            Phase::Head(_) | Phase::Whole => Standing::Unjudged,
            Phase::Pack(_) => Standing::Pending,
            Phase::Ended if self.settled() => Standing::Allowed,
            Phase::Ended => Standing::Pending,
            // Also while the refs are asked for again: the trailer may have passed before, so holding back the bytes that
            // come meanwhile would keep nothing from the server. The push's end waits for the answer.
            Phase::Free => Standing::Allowed,
            Phase::Refused(refusal) => Standing::Refused(refusal),
        }
    }

    /// The bytes of the pack's trailer that have arrived. They are sent last, when the push is allowed.
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

    /// Whether bytes have passed unparsed. The pack's trailer may be one of them.
    pub fn is_unread(&self) -> bool {
        self.unread
    }

    /// The work of parsing the pack so far ([`Scanner::work`]). It grows no more once the push is refused.
    pub fn work(&self) -> u64 {
        self.work
    }

    /// The work without that of reading ([`Scanner::made`]). It grows no more once the push is refused.
    pub fn made(&self) -> u64 {
        self.made
    }

    /// The approximate memory use in bytes.
    pub fn memory(&self) -> usize {
        let scanner = match &self.phase {
            Phase::Pack(scanner) => scanner.memory(),
            _ => 0,
        };
        scanner.saturating_add(self.waiting.memory()).saturating_add(self.ready.memory())
    }

    fn count(&mut self, bytes: usize) {
        self.pack_bytes = self.pack_bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    fn reads_at_once(&self) -> bool {
        self.waiting.is_empty() && self.ready.is_empty()
    }

    /// Parses bytes before which none wait.
    fn scan_at_once(&mut self, chunk: &[u8], most: u64) -> Passing {
        let Some(fed) = self.scan(chunk, most) else { return Passing::Kept };
        // A part of the trailer that came before waits for the end, also where the end comes without bytes.
        let passing = if fed.pass == chunk.len() && self.held.is_empty() {
            Passing::AsTheyCame
        } else {
            self.keep(chunk, fed);
            self.waiting.push(chunk.get(fed.parsed..).unwrap_or_default());
            self.within();
            Passing::Kept
        };
        self.settle();
        passing
    }

    /// Parses bytes of the pack. Returns `None` if there is no pack to parse, or the push is refused.
    fn scan(&mut self, bytes: &[u8], most: u64) -> Option<Fed> {
        let Phase::Pack(scanner) = &mut self.phase else { return None };
        let fed = scanner.feed(bytes, most);
        (self.work, self.made) = (scanner.work(), scanner.made());
        self.commits = scanner.graph().commits();
        fed.map_err(|error| self.refuse(of_pack(&error))).ok()
    }

    /// Keeps the parsed ones of `bytes`.
    fn keep(&mut self, bytes: &[u8], Fed { parsed, pass }: Fed) {
        self.ready.push(bytes.get(..pass).unwrap_or_default());
        self.held.extend_from_slice(bytes.get(pass..parsed).unwrap_or_default());
    }

    /// Refuses a push of which too much waits.
    fn within(&mut self) {
        if self.ready.len().saturating_add(self.waiting.len()) > MAX_UNSENT {
            let limit = MAX_UNSENT >> 20;
            let reason = format!(
                "more than {limit} MiB of the push wait in the gateway, because they decompress to far more; push in smaller steps"
            );
            self.refuse(Denial::new(Rule::PushLimit, reason));
        }
    }

    /// Goes on with what has become possible.
    fn advance(&mut self) {
        self.settle();
        if !self.ended || self.is_behind() {
            return;
        }
        match &mut self.phase {
            Phase::Head(_) => self.refuse(of_head(&receive_pack::Error::Truncated)),
            Phase::Pack(scanner) if !scanner.is_complete() => self.refuse(malformed("the push ends within its pack")),
            Phase::Pack(_) => self.end_of_pack(),
            Phase::Free => {
                self.phase = Phase::Ended;
                self.descents = Confirmation::Received;
            }
            Phase::Whole => self.phase = Phase::Ended,
            Phase::Ended | Phase::Refused(_) => {}
        }
        self.settle();
    }

    /// Judges the names of the refs under the rules in force. Returns the condition of each update. Returns `None` if
    /// the push is refused.
    fn judge_names(&mut self) -> Option<Vec<Need>> {
        let updates = &self.request.updates;
        let judge = |update: &RefUpdate| judge(&self.rules.branches, &self.container, &update.name, change(update));
        let judged: Vec<_> = updates.iter().map(judge).collect();
        if let Some(Err(first)) = judged.iter().find(|verdict| verdict.is_err()) {
            let first = first.clone();
            let reasons = updates.iter().zip(&judged);
            let guilty = reasons.map(|(update, verdict)| (update, verdict.as_ref().err().map(|d| d.reason.clone())));
            let refs = with_reasons(guilty);
            self.end(first, refs);
            return None;
        }
        if let Some(option) = self.request.options.iter().find(|option| !self.rules.push_options.contains(*option)) {
            let option: String = option.chars().take(MAX_QUOTED).collect();
            let reason = format!("the push option {option:?} is not in the policy's list; push without it");
            self.refuse(Denial::new(Rule::PushOption, reason));
            return None;
        }
        Some(judged.into_iter().flatten().collect())
    }

    /// The refs whose places GitHub has to confirm.
    fn refs_to_ask(&self) -> Vec<RefAt> {
        let moved = self.request.updates.iter().filter(|update| update.new.is_some());
        moved.map(|update| RefAt { name: update.name.clone(), object: update.old }).collect()
    }

    /// Judges the head: the number and the names of its refs, and its options.
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
        let Some(needs) = self.judge_names() else { return };
        let mut scanner = Scanner::default();
        for (at, (update, need)) in self.request.updates.iter().zip(&needs).enumerate() {
            if let (Need::FastForward, Some(old), Some(new)) = (need, update.old, update.new) {
                self.proofs.push((at, scanner.graph_mut().ask(old, new)));
            }
        }
        let asked = self.refs_to_ask();
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
        let descents = scanner.graph().descents(MAX_BOUNDARY);
        for (at, question) in &self.proofs {
            let Some(update) = self.request.updates.get(*at) else { continue };
            let (Some(ancestor), name) = (update.old, update.name.clone()) else { continue };
            match descents.get(*question).cloned() {
                Some(graph::Descent::Proved) => {}
                Some(graph::Descent::Open(commits)) if !commits.is_empty() => {
                    open.push(Descent { name, ancestor, commits });
                }
                Some(graph::Descent::TooMany(commits)) => {
                    let reason = format!(
                        "the new commits of {name} have {commits} parents outside the push, more than can be checked; fetch, and push in smaller steps"
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

    /// Stops parsing the pack if the push is certain to be allowed. Where it would pass by an old answer, the question is
    /// asked again first.
    fn settle(&mut self) {
        let passes = match &self.phase {
            Phase::Pack(scanner) => scanner.graph().all_proved() && self.held.is_empty(),
            Phase::Ended => self.descents == Confirmation::Received,
            Phase::Free => true,
            Phase::Head(_) | Phase::Whole | Phase::Refused(_) => false,
        };
        if !passes {
            return;
        }
        match self.refs {
            Confirmation::Old => {
                self.questions.push_back(Question::Refs(self.refs_to_ask()));
                self.refs = Confirmation::Requested;
            }
            Confirmation::Received if matches!(self.phase, Phase::Pack(_)) => {
                self.ready.append(std::mem::take(&mut self.waiting));
                self.phase = Phase::Free;
            }
            Confirmation::NotRequested | Confirmation::Requested | Confirmation::Received => {}
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
        (self.waiting, self.ready, self.held) = (Waiting::default(), Waiting::default(), Vec::new());
        self.phase = Phase::Refused(Box::new(Refusal::new(denial, refs, capabilities, self.unread)));
    }
}
