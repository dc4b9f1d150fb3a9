//! The part of a push that may be sent upstream, by [`crate::Inspection`].

use crate::refusal::Refusal;

/// The state of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing<'a> {
    /// Nothing may be sent upstream yet, not even the headers.
    Unjudged,
    /// The bytes that [`crate::Inspection::feed`] lets pass may be sent upstream. The rest waits for the verdict.
    Pending,
    /// The whole push may be sent upstream.
    Allowed,
    /// Nothing more may be sent upstream.
    Refused(&'a Refusal),
}

/// The way of the bytes of one [`crate::Inspection::feed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    /// All of them may be sent as they came, and nothing waits before them.
    AsTheyCame,
    /// The inspection keeps them. [`crate::Inspection::take`] returns those that may be sent.
    Kept,
}
