//! The server's list of refs before a push, on its way back: its first part waits until the capabilities have come, and
//! goes on with some of them changed.

use super::{ResponseHead, Step};
use crate::judge_advertisement;
use git_wire::advertisement::Rewriter;
use policy::flow::{Effect, Then};
use policy::{Denial, Rule};

const CONTENT_TYPE: &[u8] = b"application/x-git-receive-pack-advertisement";

/// The list's progress. After the change, and after a failure, the flow does nothing more with the request.
#[derive(Debug)]
pub(super) enum Advertisement {
    /// The response hasn't come. `options`: push options stay on offer.
    Asked { options: bool },
    /// Its headers wait, and the first `seen` bytes of its body, which the rewriter has.
    Reading { rewriter: Box<Rewriter>, seen: usize },
}

/// The result of new bytes.
pub(super) enum Fed {
    /// All of them wait.
    More,
    /// These go on in their place, and the rest of the response as it comes.
    Changed(Vec<u8>),
}

impl Advertisement {
    /// The list was requested, under a policy that lists push options or none.
    pub(super) fn new(options: bool) -> Self {
        Self::Asked { options }
    }

    /// The response's headers. `None` for a response that is no list and goes on as it is: a failure.
    ///
    /// # Errors
    /// If the response claims to be a list of refs, but is not one.
    pub(super) fn head(&mut self, head: &ResponseHead, end: bool) -> Result<Option<Step>, Denial> {
        if head.status != 200 {
            return Ok(None);
        }
        if end || head.encoded || head.content_type.as_deref() != Some(CONTENT_TYPE) {
            return Err(odd());
        }
        let Self::Asked { options } = *self else { return Err(odd()) };
        *self = Self::Reading { rewriter: Box::new(Rewriter::new(options)), seen: 0 };
        Ok(Some(Step::with(Effect::RemoveResponseHeader("content-length"), Then::Pause)))
    }

    /// More of the body, of which Envoy holds `size` bytes; `unread` are those behind [`Self::seen`].
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn body(&mut self, size: usize, unread: &[u8], end: bool) -> Result<Fed, Denial> {
        let Self::Reading { rewriter, seen } = self else { return Err(odd()) };
        let out = rewriter.feed(unread).map_err(|_| odd())?;
        judge_advertisement(rewriter)?;
        if !out.is_empty() {
            return Ok(Fed::Changed(out));
        }
        if end {
            return Err(odd());
        }
        *seen = size;
        Ok(Fed::More)
    }

    /// Bytes of the response that wait and were read.
    pub(super) fn seen(&self) -> usize {
        match self {
            Self::Asked { .. } => 0,
            Self::Reading { seen, .. } => *seen,
        }
    }

    /// Whether a list has begun.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::Reading { .. })
    }
}

pub(super) fn odd() -> Denial {
    let reason = "the server's answer is no list of refs";
    Denial::new(Rule::PushAdvertisement, reason)
}
