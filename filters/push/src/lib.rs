//! Stage 4: may this push pass? git's bytes ([`git_wire`]) and the policy ([`policy`]) brought together.
//!
//! The names of the refs are judged before anything goes upstream. Then the pack flows, while two things are found
//! out: whether GitHub has each ref where the push says it is, and whether each new commit descends from the old one.
//! The second is mostly seen in the pack itself; where the walk through its commits leaves it, GitHub is asked about
//! the commits at which it does. The pack's trailer, without which git's server takes nothing, goes last.
//!
//! Pure. [`Flow`] follows the stream of a push through Envoy, for the push filter; [`Inspection`] is the push alone, for
//! [`Flow`] and for `push explain`. Their callers bring the bytes and the answers.

mod flow;
mod inspection;
pub mod load;
mod refusal;

use git_wire::advertisement::Rewriter;
use policy::{Denial, Stage};

pub use flow::{Flow, Query, ResponseHead};
pub use inspection::{Descent, Inspection, MAX_BOUNDARY, Question, RefAt, Standing, change};
pub use refusal::{Refusal, RefusedRef};

/// The value of `content-type` with which git sends a push.
pub const CONTENT_TYPE: &[u8] = b"application/x-git-receive-pack-request";

/// Judges a push by its headers: git's server would inflate what is encoded, and take nothing of another type.
///
/// # Errors
/// The refusal.
pub fn judge_headers(headers: &[(String, Vec<u8>)]) -> Result<(), Denial> {
    let values = |name: &'static str| headers.iter().filter(move |(have, _)| have == name).map(|(_, value)| value);
    if !values("content-type").eq([CONTENT_TYPE]) {
        let reason = "git sends a push as application/x-git-receive-pack-request";
        return Err(Denial::forbidden(Stage::Push, "push.content-type", reason));
    }
    if values("content-encoding").next().is_some() {
        let reason = "git sends a push without a content-encoding";
        return Err(Denial::forbidden(Stage::Push, "push.encoding", reason));
    }
    Ok(())
}

/// Judges what a push to a repository would have to be by the server's list of refs, before there is one: git prints this
/// refusal, and not that of a push which it can't read a report of.
///
/// # Errors
/// The refusal.
pub fn judge_advertisement(seen: &Rewriter) -> Result<(), Denial> {
    let Some(format) = seen.other_format() else { return Ok(()) };
    let reason = format!("the repository's object format is {format}; only sha1 can be pushed through the gateway");
    Err(Denial::forbidden(Stage::Push, "push.format", reason))
}

pub use git_wire::Oid;
pub use git_wire::receive_pack::RefUpdate;
