//! The state of one worker: the VM's contexts, the streams, and the actions that run after a callback.
//! The other modules change it; nothing is borrowed while a filter runs.

use crate::shared::SharedData;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;

/// Headers or trailers, in order.
pub type Headers = Vec<(String, Vec<u8>)>;

/// A filter of the chain, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// The identity filter.
    Identity,
    /// The github filter.
    Github,
    /// ext_authz, played by the stand-in.
    Credentials,
    /// The model filter.
    Model,
    /// The dynamic forward proxy, played by the stand-in.
    ForwardProxy,
    /// The scrub filter.
    Scrub,
    /// The push filter.
    Push,
}

impl Stage {
    /// All, as a request passes them.
    pub const ALL: [Self; 7] =
        [Self::Identity, Self::Github, Self::Credentials, Self::Model, Self::ForwardProxy, Self::Scrub, Self::Push];

    /// The root id of a wasm filter.
    pub(crate) fn root_id(self) -> Option<&'static str> {
        match self {
            Self::Identity => Some("identity"),
            Self::Github => Some("github"),
            Self::Model => Some("model"),
            Self::Scrub => Some("scrub"),
            Self::Push => Some("push"),
            Self::Credentials | Self::ForwardProxy => None,
        }
    }
}

/// A direction: `decode` and `encode` in Envoy's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Request = 0,
    Response = 1,
}

/// Where a filter has stopped one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Iteration {
    #[default]
    Continue,
    /// Headers or a part of the body wait; the filter sees what follows.
    StopOne,
    /// Everything waits, and the filter sees nothing of it until it goes on.
    StopAll,
}

/// The state of one filter for one side.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub iteration: Iteration,
    pub headers_continued: bool,
    pub end: bool,
    pub from_current: bool,
}

/// The bytes that a body callback is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    /// The stream's buffer of that side, which all filters share.
    Buffered,
    /// A part that has just come.
    Chunk(u64),
}

/// One side of a stream.
#[derive(Debug, Default)]
pub(crate) struct Half {
    pub headers: Option<Headers>,
    pub trailers: Option<Headers>,
    /// The waiting bytes. The buffer stays, empty, after the bytes continue.
    pub buffer: Option<Vec<u8>>,
    /// All of it has come.
    pub complete: bool,
    pub chunks: BTreeMap<u64, Vec<u8>>,
}

/// The headers, body and trailers that have arrived at one end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Its headers; empty where none has arrived.
    pub headers: Headers,
    /// Its body so far.
    pub body: Vec<u8>,
    /// Its trailers.
    pub trailers: Option<Headers>,
    /// All has arrived.
    pub ended: bool,
    /// It was broken off.
    pub reset: bool,
}

impl Arrived {
    /// The first value of `name`, as text.
    pub fn header(&self, name: &str) -> Option<String> {
        let value = self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value);
        value.map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// The status of a response; 0 where none has arrived.
    pub fn status(&self) -> u16 {
        self.header(":status").and_then(|status| status.parse().ok()).unwrap_or(0)
    }
}

/// A response that Envoy makes itself.
#[derive(Clone, Debug)]
pub(crate) struct LocalReply {
    pub status: u32,
    pub headers: Headers,
    pub body: Vec<u8>,
    pub details: String,
}

/// One request and its response.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    pub source: String,
    pub sni: Option<String>,
    pub tls: bool,
    pub direction: i64,
    pub properties: HashMap<Vec<u8>, Vec<u8>>,
    /// Where the credential stage has put a credential.
    pub place: Option<String>,
    /// The permissions of the credential stage for the body.
    pub guard: Option<String>,
    /// The stages that are off for its host.
    pub disabled: Vec<Stage>,
    pub contexts: [Option<u32>; Stage::ALL.len()],
    pub progress: [[Progress; 2]; Stage::ALL.len()],
    pub halves: [Half; 2],
    /// All of the upstream's response has come.
    pub answered: bool,
    /// Envoy's code details: the origin of the response.
    pub details: String,
    /// Callbacks of a filter under way, for each side.
    pub depth: [u32; 2],
    /// A local reply has ended the iteration of this side.
    pub aborted: [bool; 2],
    /// A local reply, to be sent when the filter's callback has returned.
    pub prepared: Option<LocalReply>,
    /// At the upstream.
    pub upstream: Arrived,
    /// At the client.
    pub client: Arrived,
    /// Its filters are gone.
    pub over: bool,
    /// The stages that wait for the test.
    pub waiting: Vec<Stage>,
    /// It came by a listener that has the earlier configurations still.
    pub behind: bool,
}

impl Stream {
    pub(crate) fn half(&mut self, side: Side) -> &mut Half {
        &mut self.halves[side as usize]
    }

    pub(crate) fn progress(&mut self, side: Side, at: usize) -> &mut Progress {
        &mut self.progress[at][side as usize]
    }

    /// The bytes of `data`.
    pub(crate) fn data(&mut self, side: Side, data: Data) -> &mut Vec<u8> {
        let half = self.half(side);
        match data {
            Data::Buffered => half.buffer.get_or_insert_default(),
            Data::Chunk(id) => half.chunks.entry(id).or_default(),
        }
    }
}

/// A TCP connection, for the filter of connections.
#[derive(Debug)]
pub(crate) struct Connection {
    /// `address:port`.
    pub source: String,
    pub context: u32,
    pub open: bool,
    pub properties: HashMap<Vec<u8>, Vec<u8>>,
}

/// A wasm context: a root's, or a filter's of one stream or of one connection.
#[derive(Debug, Default)]
pub(crate) struct Context {
    /// `None` for the filter of connections.
    pub stage: Option<Stage>,
    /// The root context of its filter; 0 for a root context.
    pub root: u32,
    pub stream: Option<usize>,
    pub connection: Option<usize>,
    /// Which maps it has: headers and trailers of each side.
    pub headers: [bool; 2],
    pub trailers: [bool; 2],
    pub body: [Option<Data>; 2],
    pub buffering: [bool; 2],
    /// The message of the gRPC callback under way.
    pub message: Option<Vec<u8>>,
    /// The configuration, while it is configured.
    pub configuration: Option<Vec<u8>>,
    /// It has resumed within this callback, and has no map and no buffer until the callback returns.
    pub void: bool,
    pub tick: Option<(std::time::Duration, std::time::Duration)>,
}

/// An action that runs when the VM has returned.
#[derive(Debug)]
pub(crate) enum After {
    Continue(usize, Side, usize),
    Reset(usize),
    /// Close a connection.
    Close(usize),
    Reply(usize, LocalReply),
    ForgetMessage(u32),
    /// A gRPC call has failed as it was made.
    Failed(u32),
}

/// A unary call or a stream of gRPC.
#[derive(Clone, Debug)]
pub(crate) struct GrpcCall {
    pub owner: u32,
    pub method: String,
    pub message: Vec<u8>,
    pub unary: bool,
    /// It was given to the test's closure.
    pub shown: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Since 1970.
    pub now: std::time::Duration,
    /// The generations of the registered records, by the containers' addresses.
    pub generations: HashMap<IpAddr, u64>,
    pub contexts: BTreeMap<u32, Context>,
    pub roots: BTreeMap<Stage, u32>,
    /// The root contexts of the configurations before.
    pub earlier: BTreeMap<Stage, u32>,
    /// The root context of each configuration so far. Envoy keeps one as long as it has streams.
    pub configured: BTreeMap<(Stage, Vec<u8>), u32>,
    pub streams: Vec<Stream>,
    /// The root context of the filter of connections.
    pub acceptor: Option<u32>,
    pub connections: Vec<Connection>,
    pub shared: SharedData,
    pub next_context: u32,
    pub next_token: u32,
    pub next_chunk: u64,
    pub current: u32,
    pub effective: u32,
    pub callback: &'static str,
    pub stop_next: bool,
    pub after: VecDeque<After>,
    pub calls: BTreeMap<u32, GrpcCall>,
    /// Messages that filters have sent on gRPC streams.
    pub sent: Vec<(u32, Vec<u8>)>,
    /// Methods that fail as they are called.
    pub unreachable: Vec<String>,
    pub lines: Vec<(u32, String)>,
}

impl State {
    /// The context that hostcalls act for.
    pub(crate) fn acting(&mut self) -> Option<&mut Context> {
        let id = self.acting_id();
        self.contexts.get_mut(&id)
    }

    pub(crate) fn acting_id(&self) -> u32 {
        if self.effective != 0 && self.contexts.contains_key(&self.effective) { self.effective } else { self.current }
    }
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// Reads and changes the state. Never around a call into a filter.
pub(crate) fn with<T>(act: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(act)
}

/// The same, from a panic hook, which may run while the state is borrowed.
pub(crate) fn try_with<T>(act: impl FnOnce(&mut State) -> T) -> Option<T> {
    STATE.try_with(|state| state.try_borrow_mut().ok().map(|mut state| act(&mut state))).ok().flatten()
}

/// Reads and changes one stream.
pub(crate) fn stream<T>(id: usize, act: impl FnOnce(&mut Stream) -> T) -> T {
    with(|state| act(&mut state.streams[id]))
}
