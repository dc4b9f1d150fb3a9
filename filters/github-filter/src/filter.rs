//! Envoy's callbacks: the root context holds the rules, which come as the filter's configuration; the HTTP contexts
//! bring each request to the verdict and carry it out. No decision is made here.
//!
//! **Invariant:** a request leaves this filter only through [`Stream::pass`], with what was understood of it; every
//! error on the way there becomes a refusal.

use envoy_host::{self as host, AUDIT, Action, CONTAINER, Level, Method, RootCallbacks, StreamCallbacks};
use policy::github::{Allowed, Call, Head, Judge, MAX_BODY, Pending, Refused, Rules};
use policy::{Container, Denial, Form, HostName, Note, Rule, Unreadable};
use prost::Message;
use registry_proto::github::{ConfirmRequest, ConfirmResponse};
use std::rc::Rc;
use std::time::Duration;

const CONFIRM: Method<'_> = Method { cluster: "control-plane", service: "sallyport.github.v1.GitHub", name: "Confirm" };
/// How long a request waits for what has to be confirmed with GitHub.
const PATIENCE: Duration = Duration::from_secs(15);

/// The root context.
#[derive(Default)]
pub struct Root {
    /// `None` until there are rules that can be read: everything is refused.
    judge: Option<Rc<Judge>>,
}

impl RootCallbacks for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let judge = host::configuration(size)
            .map_err(|error| error.to_string())
            .and_then(|json| serde_json::from_slice::<Rules>(&json).map_err(|error| error.to_string()))
            .and_then(|rules| Judge::new(&rules).map_err(|error| error.to_string()));
        match judge {
            Ok(judge) => self.judge = Some(Rc::new(judge)),
            Err(error) => host::log(Level::Error, &format!("github: the rules can't be read: {error}")),
        }
        true
    }

    fn create_stream(&self, _id: u32) -> Box<dyn StreamCallbacks> {
        Box::new(Stream { judge: self.judge.clone(), ..Stream::default() })
    }
}

/// Where a request stands.
#[derive(Default)]
enum State {
    /// Its headers haven't come.
    #[default]
    New,
    /// Its body is read.
    Reading(Pending),
    /// What its node ids say is being confirmed.
    Asking(Allowed, usize),
    /// It was allowed.
    Passed,
    /// It was refused, and what still comes of its body is dropped before it is answered.
    Dropping(Denial),
    /// It was refused and answered.
    Refused,
}

/// The context of one request.
#[derive(Default)]
struct Stream {
    judge: Option<Rc<Judge>>,
    state: State,
    container: Option<Container>,
    note: Note,
    path: Vec<u8>,
    /// What of its headers is left behind.
    strays: Vec<String>,
    headers: Vec<(String, Vec<u8>)>,
}

/// Why a request could not be judged or sent on; never the client's fault.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Host(#[from] host::Error),
    #[error(transparent)]
    Note(#[from] Unreadable),
    #[error("{0}")]
    Missing(&'static str),
}

impl StreamCallbacks for Stream {
    fn on_request_headers(&mut self, end: bool) -> Action {
        let judged = self.head();
        match judged {
            Ok(Ok(Head::Elsewhere)) => {
                self.state = State::Passed;
                Action::Continue
            }
            Ok(Ok(Head::Allowed(allowed))) => self.pass(&allowed, 0),
            Ok(Ok(Head::Body(pending))) if end => self.judge_body(pending, 0),
            Ok(Ok(Head::Body(pending))) => {
                self.state = State::Reading(pending);
                Action::Pause
            }
            Ok(Err(refused)) => self.refuse(refused, end),
            Err(broken) => self.broken(&broken, end),
        }
    }

    fn on_request_body(&mut self, size: usize, end: bool) -> Action {
        match std::mem::take(&mut self.state) {
            State::Reading(_) if size > MAX_BODY => {
                let _dropped = host::drop_request_body(size);
                self.refuse(Refused::unknown(Rule::GithubBody, "the body is longer than 1 MiB"), end)
            }
            State::Reading(pending) if end => self.judge_body(pending, size),
            State::Dropping(denial) => {
                // What was dropped is not sent, whatever comes of this.
                let _dropped = host::drop_request_body(size);
                match end {
                    true => self.answer(&denial),
                    false => self.state = State::Dropping(denial),
                }
                Action::Pause
            }
            State::Passed => {
                self.state = State::Passed;
                Action::Continue
            }
            other => {
                self.state = other;
                Action::Pause
            }
        }
    }

    fn on_request_trailers(&mut self) -> Action {
        match std::mem::take(&mut self.state) {
            State::Passed => {
                self.state = State::Passed;
                return Action::Continue;
            }
            State::Dropping(denial) => self.answer(&denial),
            State::Refused => self.state = State::Refused,
            State::New | State::Reading(_) | State::Asking(..) => {
                let refused = Refused::unknown(Rule::GithubHeader, "a request to GitHub's API has no trailers");
                return self.refuse(refused, true);
            }
        }
        Action::Pause
    }

    fn on_grpc_call_response(&mut self, _token: u32, status: u32, size: usize) {
        let State::Asking(allowed, body) = std::mem::take(&mut self.state) else { return };
        let answer = match status {
            0 => host::grpc_message(size).ok().and_then(|bytes| ConfirmResponse::decode(bytes.as_slice()).ok()),
            _ => None,
        };
        let action = match answer {
            Some(ConfirmResponse { confirmed: true, .. }) => self.pass(&allowed, body),
            Some(ConfirmResponse { reason, .. }) => {
                self.refuse(Refused::of(&allowed.operation, Rule::GithubNode, reason), true)
            }
            None => {
                let reason = "it could not be confirmed with GitHub what the node ids stand for; try again";
                self.refuse(Refused::of(&allowed.operation, Rule::GithubUnconfirmed, reason), true)
            }
        };
        if action == Action::Continue {
            host::resume_request();
        }
    }
}

impl Stream {
    fn head(&mut self) -> Result<Result<Head, Refused>, Broken> {
        self.headers = host::request_headers()?;
        let pseudo = |name: &str| self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.clone());
        self.path = pseudo(":path").unwrap_or_default();
        let method = pseudo(":method").unwrap_or_default();
        // A tunnel is opened by its form. What comes inside is a request of its own; there is no other way for a CONNECT.
        if method == b"CONNECT" {
            return Ok(Ok(Head::Elsewhere));
        }
        let authority = pseudo(":authority").unwrap_or_default();
        // The identity filter has made it canonical.
        let name = HostName::parse(&authority).map_err(|_| Broken::Missing("the request has no plain host"))?;
        if policy::github::kind(&name).is_none() {
            return Ok(Ok(Head::Elsewhere));
        }
        self.note = Note::read(&host::property(&AUDIT)?.unwrap_or_default())?;
        let record = host::property(&CONTAINER)?.ok_or(Broken::Missing("no stage before has said who this is"))?;
        let container = serde_json::from_slice(&record).map_err(|_| Broken::Missing("the record can't be read"))?;
        let judge = self.judge.clone().ok_or(Broken::Missing("there are no rules"))?;
        let call = Call { method: &method, host: &name, target: &self.path, headers: &self.headers };
        let judged = judge.head(call, &container);
        if matches!(judged, Ok(Head::Body(_))) {
            // They were good a moment ago.
            self.strays = policy::github::stray_headers(&name, &self.headers).unwrap_or_default();
        }
        self.container = Some(container);
        Ok(judged)
    }

    /// Judges the whole body, `size` bytes of it.
    fn judge_body(&mut self, pending: Pending, size: usize) -> Action {
        let body = match host::request_body(size) {
            Ok(body) => body,
            Err(error) => return self.broken(&error.into(), true),
        };
        let (Some(judge), Some(container)) = (&self.judge, &self.container) else {
            return self.broken(&Broken::Missing("no stage before has said who this is"), true);
        };
        match judge.body(pending, &body, container) {
            Ok(allowed) if allowed.ask.is_empty() => self.pass(&allowed, size),
            Ok(allowed) => self.ask(allowed, size),
            Err(refused) => self.refuse(refused, true),
        }
    }

    fn ask(&mut self, allowed: Allowed, size: usize) -> Action {
        let Some(container) = &self.container else {
            return self.broken(&Broken::Missing("no stage before has said who this is"), true);
        };
        let request = ConfirmRequest {
            address: registry_proto::address_bytes(container.container_ip),
            node_ids: allowed.ask.clone(),
        };
        match host::call(CONFIRM, &request.encode_to_vec(), PATIENCE) {
            Ok(_token) => {
                self.state = State::Asking(allowed, size);
                Action::Pause
            }
            Err(error) => self.broken(&error.into(), true),
        }
    }

    /// Sends on what was understood of the request, whose body so far has `size` bytes; the one exit.
    fn pass(&mut self, allowed: &Allowed, size: usize) -> Action {
        match self.rewrite(allowed, size) {
            Ok(()) => {
                self.state = State::Passed;
                Action::Continue
            }
            Err(error) => self.broken(&error.into(), true),
        }
    }

    fn rewrite(&self, allowed: &Allowed, size: usize) -> Result<(), host::Error> {
        let note = self.note.allowed(allowed.rule).about(Some(&allowed.operation));
        host::set_property(&AUDIT, &note.to_bytes())?;
        if allowed.target != self.path {
            host::set_request_header(":path", &allowed.target)?;
        }
        self.strays.iter().try_for_each(|name| host::remove_request_header(name))?;
        let Some(body) = &allowed.body else { return Ok(()) };
        if size > 0 {
            host::set_request_body(size, body)?;
            host::set_request_header("content-length", body.len().to_string().as_bytes())?;
            host::remove_request_header("transfer-encoding")?;
            if let Some(content_type) = allowed.content_type() {
                host::set_request_header("content-type", content_type)?;
            }
        }
        if allowed.operation.class == policy::github::Class::Graphql || self.path == b"/graphql" {
            // So that no answer holds an id of the old form, which names no repository.
            host::set_request_header("x-github-next-global-id", b"1")?;
        }
        Ok(())
    }

    fn broken(&mut self, broken: &Broken, end: bool) -> Action {
        host::log(Level::Error, &format!("github: {broken}"));
        let reason = "the gateway can't judge this request; try again";
        self.refuse(Refused::unknown(Rule::GithubUnavailable, reason), end)
    }

    /// Refuses the request: now if all of it has come, otherwise when the rest has.
    fn refuse(&mut self, refused: Refused, end: bool) -> Action {
        let note = self.note.refused(&refused.denial).about(refused.operation.as_ref());
        if let Err(error) = host::set_property(&AUDIT, &note.to_bytes()) {
            host::log(Level::Error, &format!("github: a refusal without its audit: {error}"));
        }
        match end {
            true => self.answer(&refused.denial),
            false => self.state = State::Dropping(refused.denial),
        }
        Action::Pause
    }

    fn answer(&mut self, denial: &Denial) {
        self.state = State::Refused;
        host::refuse(&policy::render(denial, Form::of_path(&self.path), self.note.request_id()));
    }
}
