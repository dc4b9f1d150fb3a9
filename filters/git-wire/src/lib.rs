//! What git sends in a push over smart HTTP, read as it streams.
//!
//! Pure: bytes in, facts out, in bounded memory; no IO, and no opinion on what may be pushed. Whatever git's server and
//! this reader could take differently is an error here. Any chunking of the same bytes gives the same facts.
//!
//! - [`pktline`]: the framing (gitprotocol-common(5)).
//! - [`receive_pack`]: shallow lines, ref updates, capabilities, push options (gitprotocol-pack(5)).
//! - [`pack`]: a pack (gitformat-pack(5)), of which only the commits are kept.
//! - [`graph`]: those commits, and what descends from what.
//! - [`advertisement`]: what the server says before a push, with two capabilities changed.
//! - [`report`]: the answer to a push, when the gateway gives it.
//!
//! Called by the crate `push`, which brings the policy to it.

pub mod advertisement;
pub mod graph;
mod oid;
pub mod pack;
pub mod pktline;
pub mod receive_pack;
pub mod report;

pub use oid::Oid;
