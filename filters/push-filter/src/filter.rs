//! Envoy's callbacks: the root context holds the rules, which come as the filter's configuration; the HTTP contexts
//! bring each push to its verdict and carry that out. No decision is made here.
//!
//! **Invariant:** of a push nothing goes upstream before its refs' names are judged, and its pack's trailer only when
//! the inspection says that it is allowed. The server's answer waits as long.

use crate::load::{Full, Load, Ticket};
use envoy_host::{self as host, AUDIT, Action, CONTAINER, Level, Method, RootCallbacks, StreamCallbacks};
use policy::github::{Git, Kind, Rules, Service};
use policy::push::{MAX_REFS, PushRefusal};
use policy::{Container, Denial, Form, HostName, Note, Refusal, Rule, Stage};
use prost::Message;
use push::{Inspection, Oid, Question, RefAt, Standing};
use registry_proto::push as wire;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

const READ_REFS: Method<'_> = Method { cluster: "control-plane", service: "sallyport.push.v1.Push", name: "ReadRefs" };
const DESCENDS: Method<'_> = Method { cluster: "control-plane", service: "sallyport.push.v1.Push", name: "Descends" };
/// How long a push waits for an answer of GitHub's. The control plane gives each call to it ten seconds.
const PATIENCE: Duration = Duration::from_secs(15);
/// How much of a ref's name the audit holds, in characters; GitHub takes 255 bytes.
const MAX_NAME: usize = 255;
/// Who has made an answer: of the server's own, Envoy says [`OF_UPSTREAM`] (its router.cc, `onUpstreamHeaders`).
const CODE_DETAILS: [&str; 2] = ["response", "code_details"];
const OF_UPSTREAM: &[u8] = b"via_upstream";
const REPORT_TYPE: &str = "application/x-git-receive-pack-result";
const ADVERTISEMENT_TYPE: &[u8] = b"application/x-git-receive-pack-advertisement";

/// The root context.
#[derive(Default)]
pub struct Root {
    /// `None` until there are rules that can be read: every push is refused.
    rules: Option<Rc<Rules>>,
    load: Rc<RefCell<Load>>,
}

impl RootCallbacks for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let rules = host::configuration(size)
            .map_err(|error| error.to_string())
            .and_then(|json| serde_json::from_slice::<Rules>(&json).map_err(|error| error.to_string()));
        match rules {
            Ok(rules) => self.rules = Some(Rc::new(rules)),
            Err(error) => host::log(Level::Error, &format!("push: the rules can't be read: {error}")),
        }
        true
    }

    fn create_stream(&self, _id: u32) -> Box<dyn StreamCallbacks> {
        Box::new(Stream { rules: self.rules.clone(), load: Rc::clone(&self.load), ..Stream::default() })
    }
}

/// The context of one request.
#[derive(Default)]
struct Stream {
    rules: Option<Rc<Rules>>,
    load: Rc<RefCell<Load>>,
    kind: Request,
    path: Vec<u8>,
    note: Note,
    /// The server's answer waits.
    answered: bool,
}

/// What a request is.
#[derive(Default)]
enum Request {
    /// No push, and none of this stage's concern.
    #[default]
    Other,
    /// The list of refs before a push; its answer is changed.
    Advertisement(Advertisement),
    /// A push.
    Push(Box<Push>),
    /// It was refused, and what still comes of its body is dropped before it is answered. `flowing`: its headers have
    /// gone upstream already.
    Dropping { answer: Refusal, flowing: bool },
    /// It was refused and answered.
    Refused,
}

/// An advertisement, on its way back.
#[derive(Default)]
struct Advertisement {
    rewriter: git_wire::advertisement::Rewriter,
    /// Its headers wait for the part that is changed.
    waiting: Option<usize>,
}

/// A push that is not refused.
struct Push {
    inspection: Inspection,
    ticket: Ticket,
    container: Container,
    repo: String,
    refusal: PushRefusal,
    /// Bytes of the body that wait in Envoy and were inspected already.
    seen: usize,
    /// Its headers have gone upstream.
    flowing: bool,
    /// All of its body has come.
    ended: bool,
    /// It is allowed, and the audit knows.
    allowed: bool,
    refs: Option<u32>,
    descents: Option<(u32, Vec<push::Descent>)>,
}

/// Why a push could not be inspected or sent on; never the client's fault.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Host(#[from] host::Error),
    #[error("{0}")]
    Missing(&'static str),
}

/// What a callback comes to.
type Outcome = Result<Action, Stop>;

/// Why a request ends here.
enum Stop {
    Refused(Denial),
    Broken(Broken),
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl From<host::Error> for Stop {
    fn from(error: host::Error) -> Self {
        Self::Broken(error.into())
    }
}

impl From<Denial> for Stop {
    fn from(denial: Denial) -> Self {
        Self::Refused(denial)
    }
}

fn refused(rule: Rule, reason: &str) -> Stop {
    Denial::new(rule, reason).into()
}

fn full(_: Full) -> Stop {
    let reason = "too much is pushed through the gateway at this moment; try again when your other pushes are done";
    Denial::new(Rule::LimitPushes, reason).into()
}

/// Ends a stream of which something can't be kept from the server.
fn not_dropped(error: host::Error) -> Action {
    host::log(Level::Error, &format!("push: what is refused can't be dropped: {error}"));
    host::reset_request();
    Action::Pause
}

impl StreamCallbacks for Stream {
    fn on_request_headers(&mut self, end: bool) -> Action {
        let outcome = self.head(end);
        self.done(outcome, end)
    }

    fn on_request_body(&mut self, size: usize, end: bool) -> Action {
        match &mut self.kind {
            Request::Dropping { flowing, .. } => {
                let flowing = *flowing;
                if let Err(error) = host::drop_request_body(size) {
                    return not_dropped(error);
                }
                match (end, flowing) {
                    (true, _) => self.answer(),
                    // Paused, Envoy would keep the stream's buffer, and end what outgrows it.
                    (false, true) => return Action::Continue,
                    (false, false) => {}
                }
                Action::Pause
            }
            Request::Push(_) => {
                let outcome = self.body(size, end);
                if outcome.is_err()
                    && let Err(error) = host::drop_request_body(size)
                {
                    return not_dropped(error);
                }
                self.done(outcome, end)
            }
            Request::Other | Request::Advertisement(_) => Action::Continue,
            Request::Refused => Action::Pause,
        }
    }

    fn on_request_trailers(&mut self) -> Action {
        match &self.kind {
            Request::Other => Action::Continue,
            Request::Push(push) if push.flowing && push.inspection.standing() == Standing::Allowed => Action::Continue,
            Request::Push(_) | Request::Advertisement(_) => {
                self.done(Err(refused(Rule::PushMalformed, "a push has no trailers")), true)
            }
            Request::Dropping { .. } => {
                self.answer();
                Action::Pause
            }
            Request::Refused => Action::Pause,
        }
    }

    fn on_response_headers(&mut self, end: bool) -> Action {
        match &self.kind {
            Request::Other | Request::Refused => Action::Continue,
            Request::Push(push) if push.inspection.standing() == Standing::Allowed => Action::Continue,
            Request::Push(_) | Request::Dropping { .. } => {
                // What is no success is no acceptance, and the client may know; unless it is to hear why we refuse.
                // Envoy's own answer when the upstream is lost comes this way as well, and nothing of the request's body
                // after it. It is told: in ours, Envoy would put its own reason.
                let dropping = matches!(self.kind, Request::Dropping { .. });
                self.answered = host::response_status().is_ok_and(|status| (200..300).contains(&status))
                    || dropping && host::property(&CODE_DETAILS).is_ok_and(|said| said.as_deref() == Some(OF_UPSTREAM));
                match (self.answered, end) {
                    (true, true) => self.answered_all(),
                    (true, false) => Action::Pause,
                    (false, _) => Action::Continue,
                }
            }
            Request::Advertisement(_) => {
                let outcome = self.advertisement(end);
                self.done(outcome, true)
            }
        }
    }

    fn on_response_body(&mut self, size: usize, end: bool) -> Action {
        match &mut self.kind {
            // To go on here would let its headers go on as well.
            _ if self.answered && end => self.answered_all(),
            _ if self.answered => Action::Pause,
            Request::Advertisement(_) => {
                let outcome = self.advertised(size, end);
                self.done(outcome, true)
            }
            Request::Push(_) | Request::Dropping { .. } | Request::Other | Request::Refused => Action::Continue,
        }
    }

    fn on_response_trailers(&mut self) -> Action {
        match &self.kind {
            _ if self.answered => self.answered_all(),
            Request::Advertisement(Advertisement { waiting: Some(_), .. }) => self.done(Err(odd_advertisement()), true),
            _ => Action::Continue,
        }
    }

    fn on_grpc_call_response(&mut self, token: u32, status: u32, size: usize) {
        let Request::Push(push) = &mut self.kind else { return };
        let message = (status == 0).then(|| host::grpc_message(size).ok()).flatten();
        if push.refs == Some(token) {
            push.refs = None;
            match message.and_then(|bytes| wire::ReadRefsResponse::decode(bytes.as_slice()).ok()) {
                Some(response) => {
                    push.inspection.refs_are(&response.others.into_iter().map(ref_at).collect::<Vec<_>>())
                }
                None => push.inspection.unanswered(),
            }
        } else if let Some((_, asked)) = push.descents.take_if(|(asked, _)| *asked == token) {
            match message.and_then(|bytes| wire::DescendsResponse::decode(bytes.as_slice()).ok()) {
                Some(response) => push.inspection.descents_are(&asked, &response.descends),
                None => push.inspection.unanswered(),
            }
        }
        let ended = push.ended;
        let outcome = self.proceed().map(|allowed| {
            if allowed && ended {
                host::resume_request();
            }
            Action::Continue
        });
        let _nothing_is_paused_by_it = self.done(outcome, ended);
    }
}

impl Stream {
    fn head(&mut self, end: bool) -> Outcome {
        let headers = host::request_headers()?;
        let pseudo =
            |name: &str| headers.iter().find(|(have, _)| have == name).map_or(&[][..], |(_, value)| value.as_slice());
        let method = std::str::from_utf8(pseudo(":method")).unwrap_or_default();
        if method == "CONNECT" {
            return Ok(Action::Continue);
        }
        self.path = pseudo(":path").to_vec();
        // The identity filter has made it canonical.
        let name =
            HostName::parse(pseudo(":authority")).map_err(|_| Broken::Missing("the request has no plain host"))?;
        if policy::github::kind(&name) != Some(Kind::Web) {
            return Ok(Action::Continue);
        }
        // What is no request of git's has been refused by the stage before.
        let Some(git) = policy::github::git(method, &self.path) else { return Ok(Action::Continue) };
        match git.service {
            Service::Upload | Service::Lfs(_) => Ok(Action::Continue),
            Service::Advertisement => {
                // Its answer is read, so it may not be compressed.
                host::remove_request_header("accept-encoding")?;
                self.kind = Request::Advertisement(Advertisement::default());
                Ok(Action::Continue)
            }
            Service::Push => {
                self.note = Note::read(&host::property(&AUDIT)?.unwrap_or_default());
                push::judge_headers(&headers)?;
                if end {
                    return Err(refused(Rule::PushMalformed, "the push is empty"));
                }
                self.kind = Request::Push(self.push(git)?);
                self.audit()?;
                Ok(Action::Pause)
            }
        }
    }

    fn push(&self, git: Git<'_>) -> Result<Box<Push>, Stop> {
        let record = host::property(&CONTAINER)?.ok_or(Broken::Missing("no stage before has said who this is"))?;
        let container: Container =
            serde_json::from_slice(&record).map_err(|_| Broken::Missing("the record can't be read"))?;
        let rules = self.rules.as_ref().ok_or(Broken::Missing("there are no rules"))?;
        let repo = container.repos.iter().find(|repo| repo.is(git.owner.as_bytes(), git.name.as_bytes()));
        let repo = repo.ok_or(Broken::Missing("the stage before has let a strange repository pass"))?.to_string();
        let ticket = Ticket::take(&self.load, container.container_ip).map_err(full)?;
        Ok(Box::new(Push {
            inspection: Inspection::new(rules.branches.clone(), container.clone()),
            ticket,
            container,
            repo,
            refusal: rules.push_refusal,
            seen: 0,
            flowing: false,
            ended: false,
            allowed: false,
            refs: None,
            descents: None,
        }))
    }

    /// Inspects what is new of the body, of which `size` bytes lie in Envoy.
    fn body(&mut self, size: usize, end: bool) -> Outcome {
        let Request::Push(push) = &mut self.kind else { return Ok(Action::Continue) };
        push.ended = end;
        let fresh = host::request_body_part(push.seen, size.saturating_sub(push.seen))?;
        let held = push.inspection.held().len();
        let pass = push.inspection.feed(&fresh);
        if end {
            push.inspection.finish();
        }
        push.ticket.holds(push.inspection.memory()).map_err(full)?;
        let allowed = self.proceed()?;
        let Request::Push(push) = &mut self.kind else { return Ok(Action::Pause) };
        if push.inspection.standing() == Standing::Unjudged {
            push.seen = size;
            return Ok(Action::Pause);
        }
        // At the end the trailer follows: sent on when it is allowed, otherwise kept by Envoy until then.
        let tail = if end { push.inspection.held() } else { &[] };
        if pass < fresh.len() && !end || held > 0 && !tail.is_empty() {
            let before = host::request_body_part(0, push.seen)?;
            let body = [&before, fresh.get(..pass).unwrap_or_default(), tail].concat();
            host::set_request_body(size, &body)?;
        }
        push.seen = 0;
        push.flowing = true;
        Ok(if end && !allowed { Action::Pause } else { Action::Continue })
    }

    /// Asks what is to be asked, and says whether the push is allowed.
    fn proceed(&mut self) -> Result<bool, Stop> {
        let Request::Push(push) = &mut self.kind else { return Ok(false) };
        // One after the other: where a ref is says more than what descends from where it is not.
        match push.inspection.take_question() {
            None => {}
            Some(Question::Refs(refs)) => push.refs = Some(push.read_refs(refs)?),
            Some(Question::Descents(asked)) => push.descents = Some((push.descends(&asked)?, asked)),
        }
        match push.inspection.standing() {
            Standing::Refused(refusal) => Err(refusal.denial.clone().into()),
            Standing::Allowed => {
                if std::mem::take(&mut self.answered) {
                    host::resume_response();
                }
                // Once, and again when all of it can be counted.
                if !std::mem::replace(&mut push.allowed, true) || push.ended {
                    self.audit()?;
                }
                Ok(true)
            }
            Standing::Unjudged | Standing::Pending => Ok(false),
        }
    }

    /// Notes what the push does and how it stands. Until it is allowed it is none.
    fn audit(&self) -> Result<(), host::Error> {
        let Request::Push(push) = &self.kind else { return Ok(()) };
        let note = match push.inspection.standing() {
            Standing::Allowed => self.note.allowed(Stage::Push.name(), Rule::PushAllowed),
            _ => self.note.refused(&Denial::new(Rule::PushUnfinished, "it ended before it was decided")),
        };
        host::set_property(&AUDIT, &push.about(note).to_bytes())
    }

    /// The server's answer to the question for refs begins.
    fn advertisement(&mut self, end: bool) -> Outcome {
        let Request::Advertisement(advertisement) = &mut self.kind else { return Ok(Action::Continue) };
        if host::response_status()? != 200 {
            self.kind = Request::Other;
            return Ok(Action::Continue);
        }
        let plain = host::response_header("content-encoding")?.is_none();
        if end || !plain || host::response_header("content-type")?.as_deref() != Some(ADVERTISEMENT_TYPE) {
            return Err(odd_advertisement());
        }
        host::remove_response_header("content-length")?;
        advertisement.waiting = Some(0);
        Ok(Action::Pause)
    }

    fn advertised(&mut self, size: usize, end: bool) -> Outcome {
        let Request::Advertisement(advertisement) = &mut self.kind else { return Ok(Action::Continue) };
        let Some(seen) = advertisement.waiting else { return Ok(Action::Continue) };
        let fresh = host::response_body_part(seen, size.saturating_sub(seen))?;
        let out = advertisement.rewriter.feed(&fresh).map_err(|_| odd_advertisement())?;
        push::judge_advertisement(&advertisement.rewriter)?;
        if out.is_empty() {
            if end {
                return Err(odd_advertisement());
            }
            advertisement.waiting = Some(size);
            return Ok(Action::Pause);
        }
        host::set_response_body(size, &out)?;
        advertisement.waiting = None;
        Ok(Action::Continue)
    }

    /// The server has said all, and that waits. Envoy takes no more of a request that is answered, so what has not come
    /// by now does not come any more: neither the end of a push, nor that of one that is refused.
    fn answered_all(&mut self) -> Action {
        match &self.kind {
            Request::Push(push) if !push.ended => {
                let reason = "GitHub has answered before it had the whole push; try again";
                let denial = Denial::new(Rule::PushUnfinished, reason);
                let _paused = self.done(Err(denial.into()), true);
            }
            Request::Dropping { .. } => self.answer(),
            _ => {}
        }
        Action::Pause
    }

    /// Carries out what a callback has come to; `end`: nothing more comes of the request.
    fn done(&mut self, outcome: Outcome, end: bool) -> Action {
        let denial = match outcome {
            Ok(action) => return action,
            Err(Stop::Refused(denial)) => denial,
            Err(Stop::Broken(broken)) => {
                host::log(Level::Error, &format!("push: {broken}"));
                let reason = "the gateway can't inspect this push; try again";
                Denial::new(Rule::PushUnavailable, reason)
            }
        };
        let (flowing, note, answer) = match &mut self.kind {
            Request::Push(push) => {
                push.inspection.refuse(denial.clone());
                (push.flowing, push.about(self.note.refused(&denial)), push.report(&denial, self.note.request_id()))
            }
            _ => (false, self.note.refused(&denial), None),
        };
        if let Err(error) = host::set_property(&AUDIT, &note.to_bytes()) {
            host::log(Level::Error, &format!("push: a refusal without its audit: {error}"));
        }
        let answer =
            answer.unwrap_or_else(|| policy::render(&denial, Form::of_path(&self.path), self.note.request_id()));
        self.kind = Request::Dropping { answer, flowing };
        if end {
            self.answer();
        }
        match flowing && !end {
            true => Action::Continue,
            false => Action::Pause,
        }
    }

    fn answer(&mut self) {
        let Request::Dropping { answer, .. } = std::mem::replace(&mut self.kind, Request::Refused) else { return };
        self.answered = false;
        host::refuse(&answer);
    }
}

impl Push {
    fn read_refs(&self, refs: Vec<RefAt>) -> Result<u32, host::Error> {
        let object = |object: Option<Oid>| object.map_or_else(Vec::new, |oid| oid.as_bytes().to_vec());
        let refs = refs.into_iter().map(|at| wire::Ref { name: at.name, object: object(at.object) }).collect();
        let request = wire::ReadRefsRequest { address: self.address(), repo: self.repo.clone(), refs };
        host::call(READ_REFS, &request.encode_to_vec(), PATIENCE)
    }

    fn descends(&self, asked: &[push::Descent]) -> Result<u32, host::Error> {
        let bytes = |oid: &Oid| oid.as_bytes().to_vec();
        let descent = |descent: &push::Descent| wire::Descent {
            ancestor: bytes(&descent.ancestor),
            commits: descent.commits.iter().map(bytes).collect(),
        };
        let descents = asked.iter().map(descent).collect();
        let request = wire::DescendsRequest { address: self.address(), repo: self.repo.clone(), descents };
        host::call(DESCENDS, &request.encode_to_vec(), PATIENCE)
    }

    fn address(&self) -> Vec<u8> {
        registry_proto::address_bytes(self.container.container_ip)
    }

    /// git's own report of a refusal, where the client reads one.
    fn report(&self, denial: &Denial, request_id: &str) -> Option<Refusal> {
        let Standing::Refused(refusal) = self.inspection.standing() else { return None };
        if self.refusal == PushRefusal::Http {
            return None;
        }
        let body = refusal.report(request_id)?;
        Some(Refusal { status: 200, content_type: REPORT_TYPE, rule: denial.rule, body })
    }

    /// `note` with what the push does.
    fn about(&self, note: Note) -> Note {
        let hex = |oid: Option<Oid>| oid.map(|oid| oid.to_string());
        // What is refused for its length is not told at length.
        let updates = self.inspection.updates().iter().take(MAX_REFS).map(|update| {
            let name: String = update.name.chars().take(MAX_NAME).collect();
            serde_json::json!({
                "ref": name, "old": hex(update.old), "new": hex(update.new), "kind": push::change(update),
            })
        });
        let updates: Vec<_> = updates.collect();
        note.with("repo", self.repo.as_str())
            .with("updates", updates)
            .with("commits", self.inspection.commits())
            .with("pack_bytes", self.inspection.pack_bytes())
    }
}

fn ref_at(at: wire::Ref) -> RefAt {
    let object = <[u8; 20]>::try_from(at.object).ok().map(Oid::from);
    RefAt { name: at.name, object }
}

fn odd_advertisement() -> Stop {
    let reason = "the server's answer is no list of refs";
    Denial::new(Rule::PushAdvertisement, reason).into()
}
