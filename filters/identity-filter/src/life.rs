//! The vocabulary of a request's life: its phases, the parts of it that contexts share, and the steps that the shell
//! carries out. Pure: `worker` decides each step, `filter` carries it out.

use crate::limits::Counted;
use crate::request::Facts;
use policy::mark::Mark;
use policy::{Note, Refusal};
use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;

/// The phase of a request. Its body goes to the next filter only in [`Phase::Passed`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// The request is not judged yet.
    #[default]
    New,
    /// The request is held.
    Held,
    /// The request was allowed.
    Passed,
    /// The request was refused. Its body is dropped until the response may be sent.
    Dropping,
    /// The request was refused, and the response sent.
    Refused,
}

/// The progress of a request. Its own context and the worker share it.
#[derive(Debug, Default)]
pub struct Progress {
    /// The request's phase.
    pub phase: Cell<Phase>,
    /// Whether the whole request has arrived.
    pub ended: Cell<bool>,
    /// Whether the request ended with its headers.
    pub bare: Cell<bool>,
    /// Whether a part of the body was dropped while the request was held. The request can then only be refused.
    pub cut: Cell<bool>,
    /// The generation of the record for which redirects in the answer are signed. `None` if the answer stays as it is.
    pub redirects: Cell<Option<u64>>,
    /// The source address and the kind under which the request was counted.
    pub counted: Cell<Option<(IpAddr, Counted)>>,
}

/// One request. A clone is the same request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The id of the request's context.
    pub id: u32,
    /// The request's facts. Empty until the headers arrive.
    pub facts: Rc<Facts>,
    /// The request's progress.
    pub progress: Rc<Progress>,
}

impl Request {
    /// The request of the context `id`, before its headers arrive.
    pub fn new(id: u32) -> Self {
        Self { id, facts: Rc::new(Facts::read(vec![])), progress: Rc::default() }
    }

    /// The request's phase.
    pub fn phase(&self) -> Phase {
        self.progress.phase.get()
    }
}

/// The shell's work for one event of a request. If a hostcall fails, the shell calls `Worker::failed`, whose step
/// replaces the rest of this one.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// The bytes at hand continue.
    Continue,
    /// The bytes at hand wait.
    Wait,
    /// Look up this address in the registry. The bytes at hand wait.
    Lookup(IpAddr),
    /// Let the request pass.
    Pass(Pass),
    /// Refuse the request: write the note, then send the response. Without a response the request waits for its body's
    /// end. The refusal stands if the note can't be written.
    Refuse(Note, Option<Refusal>),
    /// Send the response of a request that was refused before.
    Respond(Refusal),
}

/// The effects of an allowed request, in the order of the fields.
#[derive(Debug, PartialEq, Eq)]
pub struct Pass {
    /// The note for the audit.
    pub note: Note,
    /// The changes of a forwarded request. `None` for a CONNECT, which Envoy ends itself.
    pub forward: Option<Forward>,
    /// Whether the request is resumed, because an earlier callback has paused it.
    pub resume: bool,
}

/// The changes of a forwarded request, in the order of the fields.
#[derive(Debug, PartialEq, Eq)]
pub struct Forward {
    /// The container's record as JSON, for the stages that judge requests to GitHub.
    pub record: Option<Vec<u8>>,
    /// The mark of this stage on the request. `None` if no credential may be added.
    pub mark: Option<Mark>,
    /// The new `:path`. `None` if the header has this value already.
    pub path: Option<Vec<u8>>,
    /// The new `:authority`. `None` if the header has this value already.
    pub authority: Option<String>,
    /// The names of the headers to remove.
    pub removed: Vec<String>,
    /// Whether Envoy sends the request once more if the upstream ends the connection before it answers.
    pub again: bool,
}
