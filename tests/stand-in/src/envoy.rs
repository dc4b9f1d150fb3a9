//! The interface for tests: an Envoy of one worker, its clients, its upstream and its control plane.

use crate::manager;
use crate::shared::SharedData;
use crate::state::{Arrived, Headers, Side, Stage, State, stream, with};
use crate::wasm;
use jiff::Timestamp;
use policy::{ConnectionLimits, Container, Policy};
use prost::Message;
use registry_proto::{Container as Upsert, LookupRequest, LookupResponse, WatchResponse, github, push};
use std::cell::{Cell, RefCell};
use std::time::Duration;

/// How long identity's ticks are apart.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// The initial configuration of an [`Envoy`].
pub struct Config {
    /// The policy. Its GitHub rules are the github and the push filter's configuration.
    pub policy: Policy,
    /// The registered containers, in the snapshot of the registry's stream.
    pub containers: Vec<Container>,
    /// The initial time of the clock.
    pub now: Timestamp,
    /// Whether the registry sends its snapshot. Otherwise the test does, by [`Envoy::registry`].
    pub snapshot: bool,
}

/// A request's beginning.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its headers, with the pseudo-headers.
    pub headers: Headers,
    /// Whether the request ends with its headers.
    pub end: bool,
    /// The client's `address:port`.
    pub source: String,
    /// The server name of its TLS handshake. `None`: cleartext.
    pub sni: Option<String>,
    /// Whether the request arrives at the proxy's listener. Otherwise it arrives inside a tunnel.
    pub at_proxy: bool,
    /// The stages that its virtual host turns off.
    pub disabled: Vec<Stage>,
    /// The stages, of [`Stage::Credentials`] and [`Stage::ForwardProxy`], that wait until [`Envoy::goes_on`].
    pub waiting: Vec<Stage>,
    /// Whether the request arrives at a listener that has not taken the last configuration yet.
    pub behind: bool,
}

impl Request {
    /// A request within a tunnel to `host`.
    pub fn new(method: &str, host: &str, path: &str) -> Self {
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        Self {
            headers: vec![
                header(":method", method),
                header(":scheme", "https"),
                header(":authority", host),
                header(":path", path),
                header("x-request-id", "6d0d9c0e-0000-4000-8000-000000000001"),
            ],
            end: false,
            source: "172.18.0.5:40000".into(),
            sni: Some(host.into()),
            at_proxy: false,
            disabled: Vec::new(),
            waiting: Vec::new(),
            behind: false,
        }
    }

    /// With a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.as_bytes().to_vec()));
        self
    }

    /// Without a body.
    #[must_use]
    pub fn whole(self) -> Self {
        Self { end: true, ..self }
    }

    /// With stages that wait.
    #[must_use]
    pub fn waiting(self, stages: &[Stage]) -> Self {
        Self { waiting: stages.to_vec(), ..self }
    }
}

/// A stream of one [`Envoy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(usize);

/// A TCP connection to one [`Envoy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId(usize);

/// The decision of the credential stage on a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Nothing.
    None,
    /// It puts a header, and says in metadata where in it the credential stands and what the body may ask. As the gateway's
    /// own stage, it refuses a request without the marks of the earlier stages, and seals a credential for github.com.
    Put {
        /// The header's name.
        name: String,
        /// Its value.
        value: Vec<u8>,
        /// For example `header authorization 7 0`.
        place: String,
        /// `off`, or the guard as JSON.
        guard: Option<String>,
    },
    /// It refuses, with a status.
    Refused(u32),
}

/// A unary call of a filter.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Of the identity filter.
    Lookup(LookupRequest),
    /// Of the github filter.
    Confirm(github::ConfirmRequest),
    /// Of the push filter.
    ReadRefs(push::ReadRefsRequest),
    /// Of the push filter.
    Descends(push::DescendsRequest),
}

/// The control plane's response to a [`Call`].
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// This message.
    Lookup(LookupResponse),
    /// This message.
    Confirm(github::ConfirmResponse),
    /// This message.
    ReadRefs(push::ReadRefsResponse),
    /// This message.
    Descends(push::DescendsResponse),
    /// A message as its bytes.
    Bytes(Vec<u8>),
    /// An error's gRPC status.
    Status(u32),
    /// No response yet: the test sends it by [`Envoy::answer`].
    Later,
}

type Answer = Box<dyn FnMut(&Call) -> Reply>;
type Credentials = Box<dyn FnMut(&Headers) -> Credential>;

thread_local! {
    static RUNNING: Cell<bool> = const { Cell::new(false) };
    static STARTED: Cell<bool> = const { Cell::new(false) };
    static CREDENTIALS: RefCell<Option<Credentials>> = const { RefCell::new(None) };
}

/// The decision of the credential stage on a stream's request.
pub(crate) fn credential(id: usize) -> Credential {
    let headers = stream(id, |stream| stream.half(Side::Request).headers.clone().unwrap_or_default());
    CREDENTIALS.with_borrow_mut(|decide| decide.as_mut().map_or(Credential::None, |decide| decide(&headers)))
}

/// An Envoy of one worker, with all filters. One for each thread at a time.
pub struct Envoy {
    answers: Answer,
    config: Config,
    /// Rises with each policy.
    revision: u64,
    watch: Option<u32>,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let streams = with(|state| state.streams.len());
            (0..streams).for_each(manager::reset);
            let connections = with(|state| state.connections.len());
            (0..connections).for_each(wasm::close);
            // With the root contexts of earlier configurations.
            let roots: Vec<u32> = with(|state| state.contexts.keys().copied().collect());
            roots.into_iter().for_each(wasm::delete);
        }
        CREDENTIALS.set(None);
        RUNNING.set(false);
    }
}

impl Envoy {
    /// Starts an Envoy, and lets the registry's stream deliver its snapshot. `answers` is the control plane.
    ///
    /// # Panics
    /// If this thread has another Envoy, or a filter rejects its configuration.
    pub fn start(config: Config, answers: impl FnMut(&Call) -> Reply + 'static) -> Self {
        Self::start_beside(&SharedData::default(), config, answers)
    }

    /// Starts another worker of the Envoy that has this shared data. It belongs to another thread.
    ///
    /// # Panics
    /// As [`Envoy::start`].
    pub fn start_beside(shared: &SharedData, config: Config, answers: impl FnMut(&Call) -> Reply + 'static) -> Self {
        assert!(!RUNNING.replace(true), "one Envoy for each thread");
        let now = Duration::try_from(config.now.duration_since(Timestamp::UNIX_EPOCH)).expect("after 1970");
        // Ids are never used again: the SDK keeps its state for each id as long as the thread lives.
        with(|state| {
            let (next_context, next_token) = (state.next_context, state.next_token);
            let generations = config.containers.iter().map(|of| (of.container_ip, of.generation)).collect();
            let shared = shared.clone();
            *state = State { now, next_context, next_token, generations, shared, ..State::default() };
        });
        if !STARTED.replace(true) {
            filter_chain::start();
        }
        configure(1, &config.policy, |_| true);
        let mut envoy = Self { answers: Box::new(answers), config, revision: 1, watch: None };
        envoy.tick();
        envoy
    }

    /// Ends the root context of the push filter's last configuration, as Envoy does with a configuration without streams
    /// that another one has replaced. No effect on the streams of others.
    pub fn ends_push_root(&mut self) {
        let root = with(|state| state.roots.get(&Stage::Push).copied());
        if let Some(root) = root {
            wasm::delete(root);
        }
    }

    /// Puts another policy in force, as the filters' configuration and on the registry's stream. Streams that are open keep
    /// their root contexts.
    pub fn put_policy(&mut self, policy: Policy) {
        self.revision += 1;
        configure(self.revision, &policy, |stage| matches!(stage, Stage::Github | Stage::Push));
        self.config.policy = policy;
        let snapshot = WatchResponse { version: 2, ..self.snapshot() };
        self.registry(&snapshot);
    }

    /// Lets the credential stage decide by a request's headers.
    pub fn credentials(&mut self, decide: impl FnMut(&Headers) -> Credential + 'static) {
        CREDENTIALS.set(Some(Box::new(decide)));
    }

    /// Starts the filter of connections.
    ///
    /// # Panics
    /// If the filter rejects its configuration.
    pub fn accept(&mut self, limits: ConnectionLimits) {
        let limits = serde_json::to_vec(&limits).expect("limits serialise");
        assert!(wasm::start_connections(&limits), "connections does not take its configuration");
    }

    /// A TCP connection from `source`, `address:port`.
    pub fn connect(&mut self, source: &str) -> ConnectionId {
        ConnectionId(wasm::connect(source.to_owned()))
    }

    /// Whether the connection is open.
    pub fn connected(&self, id: ConnectionId) -> bool {
        with(|state| state.connections[id.0].open)
    }

    /// Ends a connection from the client's side.
    pub fn disconnect(&mut self, id: ConnectionId) {
        wasm::close(id.0);
    }

    /// Delivers a request's headers.
    pub fn open(&mut self, request: Request) -> StreamId {
        let id = with(|state| {
            let mut new = crate::state::Stream {
                source: request.source,
                tls: request.sni.is_some(),
                sni: request.sni,
                // INBOUND, or a tunnel's listener: OUTBOUND.
                direction: if request.at_proxy { 1 } else { 2 },
                disabled: request.disabled,
                waiting: request.waiting,
                behind: request.behind,
                ..Default::default()
            };
            // As Envoy's codecs keep names.
            let lower = request.headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
            new.half(Side::Request).headers = Some(lower.collect());
            state.streams.push(new);
            state.streams.len() - 1
        });
        manager::request(id, request.end);
        self.settle();
        StreamId(id)
    }

    fn takes_request(id: StreamId) -> bool {
        stream(id.0, |stream| !stream.over && !stream.half(Side::Request).complete)
    }

    fn takes_response(id: StreamId) -> bool {
        stream(id.0, |stream| {
            let started = !stream.upstream.headers.is_empty() && !stream.over;
            started && !stream.half(Side::Response).complete
        })
    }

    /// Delivers a part of the request's body. No effect if the request is complete.
    pub fn client_sends(&mut self, id: StreamId, bytes: &[u8], end: bool) {
        if Self::takes_request(id) {
            manager::body(id.0, Side::Request, bytes, end);
            self.settle();
        }
    }

    /// Delivers the request's trailers.
    pub fn client_trailers(&mut self, id: StreamId, trailers: Headers) {
        if Self::takes_request(id) {
            manager::trailers(id.0, Side::Request, trailers);
            self.settle();
        }
    }

    /// Resets the stream from the client's side.
    pub fn client_resets(&mut self, id: StreamId) {
        manager::reset(id.0);
        self.settle();
    }

    /// Delivers the upstream's headers. No effect if no request has arrived there.
    pub fn upstream_headers(&mut self, id: StreamId, status: u16, headers: &[(&str, &str)], end: bool) {
        let started = stream(id.0, |stream| stream.half(Side::Response).headers.is_some());
        if Self::takes_response(id) && !started {
            let status = [(":status".to_owned(), status.to_string().into_bytes())];
            let others = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
            manager::response(id.0, status.into_iter().chain(others).collect(), end);
            self.settle();
        }
    }

    /// Delivers a part of the response's body.
    pub fn upstream_sends(&mut self, id: StreamId, bytes: &[u8], end: bool) {
        if Self::takes_response(id) && stream(id.0, |stream| stream.half(Side::Response).headers.is_some()) {
            manager::body(id.0, Side::Response, bytes, end);
            self.settle();
        }
    }

    /// Delivers the response's trailers.
    pub fn upstream_trailers(&mut self, id: StreamId, trailers: Headers) {
        if Self::takes_response(id) && stream(id.0, |stream| stream.half(Side::Response).headers.is_some()) {
            manager::trailers(id.0, Side::Response, trailers);
            self.settle();
        }
    }

    /// Resets the stream from the upstream's side.
    pub fn upstream_resets(&mut self, id: StreamId) {
        if !Self::takes_response(id) {
            return;
        }
        let started = stream(id.0, |stream| {
            stream.upstream.reset = true;
            stream.half(Side::Response).headers.is_some()
        });
        if started {
            manager::reset(id.0);
        } else {
            let reply = crate::state::LocalReply {
                status: 503,
                headers: Headers::new(),
                body: b"upstream connect error or disconnect/reset before headers".to_vec(),
                details: "upstream_reset_before_response_started{connection_termination}".into(),
            };
            manager::local_reply(id.0, reply);
        }
        self.settle();
    }

    /// Lets a waiting stage continue.
    pub fn goes_on(&mut self, id: StreamId, stage: Stage) {
        manager::own_stage_goes_on(id.0, stage);
        self.settle();
    }

    /// Advances the clock by a tenth of a second, and runs the events that are due.
    pub fn tick(&mut self) {
        self.tick_after(TICK);
    }

    /// Advances the clock by `time`, and runs the events that are due.
    pub fn tick_after(&mut self, time: Duration) {
        with(|state| state.now += time);
        wasm::tick();
        self.settle();
    }

    /// Advances the clock, a tick at a time.
    pub fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_millis() / TICK.as_millis() {
            self.tick();
        }
    }

    /// Delivers a message on the registry's stream. No effect without an open stream.
    pub fn registry(&mut self, message: &WatchResponse) {
        if let Some(token) = self.watch {
            wasm::grpc_message(token, message.encode_to_vec());
            self.settle();
        }
    }

    /// The registry's stream ends.
    pub fn registry_ends(&mut self) {
        if let Some(token) = self.watch.take() {
            wasm::grpc_ends(token, 14);
            self.settle();
        }
    }

    /// From now on, calls of this method (`Lookup`, `Confirm`, `ReadRefs`, `Descends`) fail at once.
    pub fn unreachable(&mut self, method: &str) {
        with(|state| state.unreachable.push(method.into()));
    }

    /// The calls that got [`Reply::Later`] and still have no response.
    pub fn calls(&self) -> Vec<(u32, Call)> {
        with(|state| state.calls.iter().filter_map(|(token, call)| Some((*token, decoded(call)?))).collect())
    }

    /// Responds to a call. No effect if no filter waits for it any more.
    pub fn answer(&mut self, token: u32, reply: Reply) {
        let message = match reply {
            Reply::Later => return,
            Reply::Status(status) => {
                wasm::grpc_ends(token, status);
                return self.settle();
            }
            Reply::Lookup(message) => message.encode_to_vec(),
            Reply::Confirm(message) => message.encode_to_vec(),
            Reply::ReadRefs(message) => message.encode_to_vec(),
            Reply::Descends(message) => message.encode_to_vec(),
            Reply::Bytes(message) => message,
        };
        wasm::grpc_message(token, message);
        self.settle();
    }

    /// The part of the request that has arrived at the upstream.
    pub fn upstream(&self, id: StreamId) -> Arrived {
        stream(id.0, |stream| stream.upstream.clone())
    }

    /// The part of the response that has arrived at the client.
    pub fn client(&self, id: StreamId) -> Arrived {
        stream(id.0, |stream| stream.client.clone())
    }

    /// Whether the stream has ended.
    pub fn over(&self, id: StreamId) -> bool {
        stream(id.0, |stream| stream.over)
    }

    /// Whether a filter has stopped the request, or the response.
    pub fn stopped(&self, id: StreamId) -> (bool, bool) {
        (wasm::stopped(id.0, Side::Request), wasm::stopped(id.0, Side::Response))
    }

    /// A property that a filter has noted on the stream, such as `sallyport.audit`.
    pub fn property(&self, id: StreamId, name: &str) -> Option<Vec<u8>> {
        stream(id.0, |stream| stream.properties.get(name.as_bytes()).cloned())
    }

    /// The rule in the audit's note on the stream. Empty without a note.
    pub fn rule(&self, id: StreamId) -> String {
        let note = self.property(id, "sallyport.audit").unwrap_or_default();
        let note: serde_json::Value = serde_json::from_slice(&note).unwrap_or_default();
        note["decided"]["rule"].as_str().unwrap_or_default().to_owned()
    }

    /// The lines of the log of this level (2 info, 3 warn, 4 error) and above.
    pub fn lines(&self, level: u32) -> Vec<String> {
        with(|state| state.lines.iter().filter(|(at, _)| *at >= level).map(|(_, line)| line.clone()).collect())
    }

    /// Shows new calls to the control plane.
    fn settle(&mut self) {
        loop {
            let sent = with(|state| std::mem::take(&mut state.sent));
            for (token, _) in sent {
                if self.watch != Some(token) && with(|state| state.calls.contains_key(&token)) {
                    self.watch = Some(token);
                    if self.config.snapshot {
                        wasm::grpc_message(token, self.snapshot().encode_to_vec());
                    }
                }
            }
            let new = with(|state| {
                let new = state.calls.iter_mut().find(|(_, call)| call.unary && !call.shown);
                new.map(|(token, call)| {
                    call.shown = true;
                    (*token, decoded(call).expect("a call of a filter's"))
                })
            });
            let Some((token, call)) = new else { break };
            let reply = (self.answers)(&call);
            self.answer(token, reply);
        }
    }

    /// The whole registry.
    pub fn snapshot(&self) -> WatchResponse {
        let upsert = |container: &Container| Upsert {
            address: registry_proto::address_bytes(container.container_ip),
            record: serde_json::to_vec(container).expect("a record serialises"),
        };
        WatchResponse {
            version: 1,
            snapshot: true,
            upserts: self.config.containers.iter().map(upsert).collect(),
            removals: Vec::new(),
            policy: Some(serde_json::to_vec(&self.config.policy).expect("a policy serialises")),
            redirect_key: vec![7; policy::redirect::KEY],
        }
    }
}

/// Creates the root contexts of the stages that `are` chosen, with the policy's rules.
fn configure(revision: u64, policy: &Policy, are: impl Fn(Stage) -> bool) {
    let rules = policy::RulesInForce { revision, rules: policy.github.clone() };
    let rules = serde_json::to_vec(&rules).expect("rules serialise");
    for stage in Stage::ALL.into_iter().filter(|stage| stage.root_id().is_some() && are(*stage)) {
        let configuration: &[u8] = match stage {
            Stage::Github | Stage::Push => &rules,
            _ => b"",
        };
        assert!(wasm::start(stage, configuration), "{stage:?} does not take its configuration");
    }
}

fn decoded(call: &crate::state::GrpcCall) -> Option<Call> {
    let bytes = call.message.as_slice();
    match call.method.as_str() {
        "Lookup" => LookupRequest::decode(bytes).ok().map(Call::Lookup),
        "Confirm" => github::ConfirmRequest::decode(bytes).ok().map(Call::Confirm),
        "ReadRefs" => push::ReadRefsRequest::decode(bytes).ok().map(Call::ReadRefs),
        "Descends" => push::DescendsRequest::decode(bytes).ok().map(Call::Descends),
        _ => None,
    }
}
