//! Parses the body of a git push over smart HTTP as it streams.
//!
//! Pure: bytes in, facts out, in bounded memory. This crate does no IO, and does not decide what may be pushed. Input
//! that git's server and this parser could read differently is an error. The result does not depend on how the bytes
//! are split into chunks.
//!
//! - [`pktline`]: the framing (gitprotocol-common(5)).
//! - [`receive_pack`]: shallow lines, ref updates, push options, read and written anew (gitprotocol-pack(5)).
//! - [`capabilities`]: the client's capabilities, of which only a list is passed on.
//! - [`pack`]: a pack (gitformat-pack(5)). Only its commits are kept.
//! - [`graph`]: the commits, and which of them descend from which.
//! - [`advertisement`]: the server's list of refs before a push, with some capabilities changed.
//! - [`report`]: the gateway's own response to a refused push.
//!
//! The crate `push` calls this one and applies the policy.

pub mod advertisement;
pub mod graph;
mod oid;
pub mod pack;
pub mod pktline;
pub mod receive_pack;
pub mod report;

pub use oid::Oid;
