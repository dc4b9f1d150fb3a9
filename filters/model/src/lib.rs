//! The guard of model requests: what a request with the gateway's key makes its provider do, beside answering.
//!
//! A provider fetches URLs, calls MCP servers and reads stored state in the name of its account. So a request body could
//! reach hosts that the egress list does not allow, and state of other containers. [`Guard`] says what one credential
//! permits; [`scan`] reads a body in parts; [`words`] are the members that count, as data; [`flow`] is the state machine
//! of one request. Pure: bytes and facts in, values out.

pub mod flow;
mod frame;
mod guard;
mod head;
mod inflate;
mod load;
mod scan;
mod url;
pub mod words;

pub use guard::{Guard, OFF, REMOTE, STORED};
pub use inflate::{MAX_WINDOW, RATIO, SLACK};
pub use load::{Load, MAX_MEMORY, SHARE};
pub use scan::{MAX_DEPTH, Scan};

use policy::Denial;

/// Judges a whole request, whose body is in `parts`: for `policy explain` and for tests. `path` has the query.
///
/// # Errors
/// If the guard refuses the request.
pub fn judge(guard: &Guard, headers: &[(String, Vec<u8>)], path: &[u8], parts: &[&[u8]]) -> Result<(), Denial> {
    let coding = head::judge(headers, path, parts.iter().all(|part| part.is_empty()))?;
    let mut reader = head::Reader::new(guard.clone(), coding);
    for part in parts {
        reader.feed(part)?;
    }
    reader.finish()
}
