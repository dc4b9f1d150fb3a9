//! The vocabulary of a flow: the pure half of a filter that follows one request and its response.
//!
//! A flow takes events (headers, body bytes, trailers, the answers to its questions) and returns a [`Step`] for each.
//! The shell around it carries the step out and decides nothing. [`github::Flow`] is one flow, `push::Flow` the other.
//!
//! **Invariant:** a release, a refusal and a reset are the last part of a step. [`Step`] has one field for them, beside
//! the effects: no step can touch headers or a body after a paused stream was released.

pub mod github;

use crate::mark::Mark;
use crate::{Container, HostName, Note, Refusal};

/// The gateway's own failure: a fact that is missing, or an effect that could not be carried out. Never the client's
/// fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub String);

impl Broken {
    /// A failure with this text.
    pub fn new(text: impl ToString) -> Self {
        Self(text.to_string())
    }
}

/// The request's headers, and the facts that the stages before have left beside them.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// All headers, pseudo-headers included.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The note for the audit, as JSON; `None` if no stage has left one.
    pub note: Option<Vec<u8>>,
    /// The container's record, as JSON; `None` if no stage has left one.
    pub container: Option<Vec<u8>>,
}

impl RequestHead {
    /// The first value of the header `name`. Empty if the request has no such header.
    pub fn value(&self, name: &str) -> &[u8] {
        self.headers.iter().find(|(have, _)| have == name).map_or(&[], |(_, value)| value)
    }

    /// The note of the stages before.
    ///
    /// # Errors
    /// If there is no note, or the note can't be read.
    pub fn note(&self) -> Result<Note, Broken> {
        Note::read(self.note.as_deref().unwrap_or_default()).map_err(Broken::new)
    }

    /// The request's host, which the identity filter has made canonical.
    ///
    /// # Errors
    /// If `:authority` is no plain host name.
    pub fn host(&self) -> Result<HostName, Broken> {
        HostName::parse(self.value(":authority")).map_err(|_| Broken::new("the request has no plain host"))
    }

    /// The record of the container that sends the request.
    ///
    /// # Errors
    /// If there is no record, or the record can't be parsed.
    pub fn container(&self) -> Result<Container, Broken> {
        let record = self.container.as_deref().ok_or_else(|| Broken::new("no stage before has said who this is"))?;
        serde_json::from_slice(record).map_err(|_| Broken::new("the record can't be read"))
    }
}

/// The shell's work for one event: the effects in their order, then the end of the callback. `Q` is the flow's question
/// to the control plane.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Step<Q> {
    /// Carried out first, in this order. The first one that fails ends the step: the shell then calls the flow's
    /// `failed`, whose step replaces the rest.
    pub effects: Vec<Effect<Q>>,
    /// Carried out last.
    pub then: Then,
}

/// One effect on the request, its response, or the audit.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect<Q> {
    /// Write a line about the gateway's own failure to the log.
    Log(String),
    /// Put this note in place of the request's note for the audit.
    Note(Note),
    /// The same for a refusal. If the note can't be written, the shell logs that and goes on: the refusal stands.
    NoteRefusal(Note),
    /// Leave this mark beside the request.
    Mark(Mark),
    /// Put the credential under [`crate::mark::SEALED`] into force: its header becomes [`crate::mark::UNSEALED`]. A
    /// request without such a credential stays as it is.
    Unseal,
    /// Send this question to the control plane. Its answer is an event of its own.
    Ask(Q),
    /// Replace every request header of this name by one with this value.
    SetRequestHeader(&'static str, Vec<u8>),
    /// Remove every request header of this name.
    RemoveRequestHeader(String),
    /// Remove every response header of this name.
    RemoveResponseHeader(&'static str),
    /// Replace all `size` bytes that the event's callback holds of the request's body. For the answer to a question, and
    /// for a tick, these are the bytes that wait in Envoy.
    ReplaceRequestBody {
        /// All bytes that the callback holds: the new ones, and those that wait before them.
        size: usize,
        /// The new bytes.
        body: Vec<u8>,
    },
    /// Drop all `size` bytes that the event's callback holds of the request's body.
    DropRequestBody {
        /// The same as of a replacement.
        size: usize,
    },
    /// Replace all `size` bytes that the event's callback holds of the response's body.
    ReplaceResponseBody {
        /// The same as of a replacement in the request.
        size: usize,
        /// The new bytes.
        body: Vec<u8>,
    },
}

/// How a callback ends.
#[derive(Debug, PartialEq, Eq)]
pub enum Then {
    /// The bytes at hand go on. Without meaning for the answer to a question, which has no bytes.
    Continue,
    /// The bytes at hand wait.
    Pause,
    /// The bytes at hand go on, and so does what was paused.
    Resume(Paused),
    /// The request waits for good, and this response is sent.
    Refuse(Refusal),
    /// The stream ends without a response.
    Reset,
}

/// The parts that an earlier callback paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paused {
    /// The request.
    Request,
    /// The response.
    Response,
    /// Both. The response is resumed first.
    Both,
}

impl<Q> Step<Q> {
    /// No effects.
    pub fn only(then: Then) -> Self {
        Self { effects: Vec::new(), then }
    }

    /// One effect before.
    pub fn with(effect: Effect<Q>, then: Then) -> Self {
        Self { effects: vec![effect], then }
    }
}
