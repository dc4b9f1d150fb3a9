//! One whole request through the chain, for tests of decisions that need no single events.

use crate::envoy::{Call, Config, Credential, Envoy, Reply, Request, TICK};
use crate::state::{Arrived, Headers, Stage};
use jiff::Timestamp;
use policy::{Container, Policy};
use serde_json::Value;
use std::time::Duration;

/// The clock of a case.
const NOW: &str = "2026-12-01T00:00:00Z";
/// The limit of a case's time, by its own clock: longer than any filter waits.
const PATIENCE: Duration = Duration::from_secs(40);

/// A request, and everything around it.
pub struct Case {
    /// The policy in force.
    pub policy: Policy,
    /// The registered containers.
    pub containers: Vec<Container>,
    /// The request's headers and its sender.
    pub request: Request,
    /// The request's body.
    pub body: Vec<u8>,
    /// In parts of so many bytes. 0: in one.
    pub part: usize,
    /// The control plane. By default it confirms every call, and only `containers` are registered.
    pub answers: Box<dyn FnMut(&Call) -> Reply>,
    /// The credential stage. By default it adds nothing.
    pub credential: Box<dyn FnMut(&Headers) -> Credential>,
    /// The upstream's status, headers and body, which come when the request has ended there.
    pub response: (u16, Vec<(String, String)>, Vec<u8>),
}

/// The outcome of a [`Case`].
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The status that the client got; 0 where it got none.
    pub status: u16,
    /// The rule that refused, from the response's header; `None` where the upstream's own response came.
    pub rule: Option<String>,
    /// The audit's note as the filters left it. Null without a note.
    pub note: Value,
    /// The part of the request that arrived at the upstream. `None`: not even headers.
    pub arrived: Option<Arrived>,
    /// The part of the response that arrived at the client.
    pub client: Arrived,
    /// The calls that the filters have made.
    pub calls: Vec<Call>,
    /// The log's lines of warnings and errors.
    pub log: Vec<String>,
}

impl Outcome {
    /// Whether the whole request has arrived at the upstream.
    pub fn passed(&self) -> bool {
        self.arrived.as_ref().is_some_and(|arrived| arrived.ended && !arrived.reset)
    }
}

impl Case {
    /// A request under a policy, from one of the containers or from an unregistered address.
    pub fn new(policy: Policy, containers: Vec<Container>, request: Request) -> Self {
        Self {
            policy,
            containers,
            request,
            body: Vec::new(),
            part: 0,
            answers: Box::new(yes),
            credential: Box::new(|_| Credential::None),
            response: (200, vec![("content-type".into(), "text/plain".into())], b"from the upstream".to_vec()),
        }
    }

    /// With a body.
    #[must_use]
    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// With the body in parts of so many bytes.
    #[must_use]
    pub fn in_parts(self, part: usize) -> Self {
        Self { part, ..self }
    }

    /// With a control plane that answers.
    #[must_use]
    pub fn answered(self, answers: impl FnMut(&Call) -> Reply + 'static) -> Self {
        Self { answers: Box::new(answers), ..self }
    }
}

/// Confirms every call, and knows no further containers.
pub fn yes(call: &Call) -> Reply {
    use registry_proto::{LookupResponse, github, push};
    match call {
        Call::Lookup(_) => Reply::Lookup(LookupResponse { version: 1, record: None }),
        Call::Confirm(_) => Reply::Confirm(github::ConfirmResponse { confirmed: true, ..Default::default() }),
        Call::ReadRefs(_) => Reply::ReadRefs(push::ReadRefsResponse::default()),
        Call::Descends(asked) => {
            Reply::Descends(push::DescendsResponse { descends: vec![true; asked.descents.len()], ..Default::default() })
        }
    }
}

/// The chain of filters.
pub struct Chain;

impl Chain {
    /// Runs a case in a new Envoy, to its end.
    ///
    /// # Panics
    /// If the stream does not end.
    pub fn run(case: Case) -> Outcome {
        let Case { policy, containers, request, body, part, mut answers, credential, response } = case;
        let now: Timestamp = NOW.parse().expect("a time");
        let calls = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let asked = calls.clone();
        let answers = move |call: &Call| {
            asked.borrow_mut().push(call.clone());
            answers(call)
        };
        let mut envoy = Envoy::start(Config { policy, containers, now, snapshot: true }, answers);
        envoy.credentials(credential);
        let whole = request.end || body.is_empty();
        let id = envoy.open(Request { end: whole, ..request });
        if !whole {
            let mut parts = body.chunks(if part == 0 { body.len() } else { part }).peekable();
            while let Some(part) = parts.next() {
                envoy.client_sends(id, part, parts.peek().is_none());
            }
        }
        envoy.goes_on(id, Stage::Credentials);
        envoy.goes_on(id, Stage::ForwardProxy);
        let mut left = PATIENCE;
        while !envoy.over(id) && !envoy.upstream(id).ended && !left.is_zero() {
            envoy.tick();
            left = left.saturating_sub(TICK);
        }
        if envoy.upstream(id).ended {
            let (status, headers, body) = &response;
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            envoy.upstream_headers(id, *status, &headers, body.is_empty());
            envoy.upstream_sends(id, body, true);
        }
        let (upstream, client) = (envoy.upstream(id), envoy.client(id));
        assert!(envoy.over(id), "the stream does not end: {upstream:?} {client:?}");
        let note = envoy.property(id, "sallyport.audit").unwrap_or_default();
        Outcome {
            status: client.status(),
            rule: client.header("x-sallyport-rule"),
            note: serde_json::from_slice(&note).unwrap_or_default(),
            arrived: Some(upstream).filter(|upstream| !upstream.headers.is_empty()),
            client,
            calls: calls.take(),
            log: envoy.lines(3),
        }
    }
}
