//! The push stage: judges a push by its bytes ([`git_wire`]) and the policy ([`policy`]).
//!
//! The refs' names are judged before anything is sent upstream. Then the pack streams, while two facts are checked:
//! whether each ref at GitHub is where the push claims it is, and whether each new commit descends from the old one.
//! The pack itself mostly proves the second fact. Where the walk through its commits leaves the pack, GitHub is asked
//! about the commits at which it does. The pack's trailer is sent last; git's server accepts no pack without it.
//!
//! **Invariant:** of the head a server gets only what was read: it is written anew from its parsed form.
//!
//! Pure: the callers supply the bytes and GitHub's answers. [`Flow`] follows the stream of a push through Envoy, for the
//! push filter. [`Inspection`] judges the push alone, for [`Flow`], `push explain` and the tests.

mod flow;
mod inspection;
mod question;
mod refusal;
mod standing;
mod waiting;
pub mod worker;

use git_wire::advertisement::Rewriter;
use policy::{Denial, Rule};

pub use flow::{Flow, Query, ResponseHead};
pub use inspection::{Inspection, MAX_BOUNDARY};
pub use question::{Descent, Question, RefAt, change};
pub use refusal::{Refusal, RefusedRef};
pub use standing::{Passing, Standing};

/// The `content-type` of a push.
pub const CONTENT_TYPE: &[u8] = b"application/x-git-receive-pack-request";

/// The most comparisons of one push, over all its refs, to which GitHub answers no. An honest push may have some: in a
/// merge of unrelated histories some commits descend from no old one.
pub const MAX_NO: usize = 16;

/// The refusal of a push whose comparisons have reached [`MAX_NO`] and are not at their end.
pub fn exhausted() -> Denial {
    let reason = format!(
        "GitHub has said of {MAX_NO} commits behind the push that they do not descend from the branches, and no more can be checked; fetch and merge, or push fewer branches at a time"
    );
    Denial::new(Rule::PushLimit, reason)
}

/// Judges a push by its headers. git's server would decompress an encoded body, and accepts only the content type
/// [`CONTENT_TYPE`].
///
/// # Errors
/// If the push is refused.
pub fn judge_headers(headers: &[(String, Vec<u8>)]) -> Result<(), Denial> {
    let values = |name: &'static str| headers.iter().filter(move |(have, _)| have == name).map(|(_, value)| value);
    if !values("content-type").eq([CONTENT_TYPE]) {
        let reason = "the content-type of a push has to be application/x-git-receive-pack-request";
        return Err(Denial::new(Rule::PushContentType, reason));
    }
    if values("content-encoding").next().is_some() {
        let reason = "content-encoding is not supported; send the push unencoded";
        return Err(Denial::new(Rule::PushEncoding, reason));
    }
    Ok(())
}

/// Judges the server's list of refs, before the client pushes: a push to a repository with another object format than
/// SHA-1 would be refused. git prints the refusal of this request, but may not be able to read a report on the push.
///
/// # Errors
/// If every push to the repository would be refused.
pub fn judge_advertisement(seen: &Rewriter) -> Result<(), Denial> {
    let Some(format) = seen.other_format() else { return Ok(()) };
    let reason = format!("the repository's object format is {format}; only sha1 can be pushed through the gateway");
    Err(Denial::new(Rule::PushFormat, reason))
}

pub use git_wire::Oid;
pub use git_wire::receive_pack::RefUpdate;
