//! A refused push, and its report to the client.

use git_wire::receive_pack::capabilities::Capabilities;
use git_wire::receive_pack::{self, RefUpdate};
use git_wire::report;
use policy::push::MAX_REFS;
use policy::{Denial, Rule};

/// The longest name of a ref in a refusal, in bytes. GitHub takes no longer one.
const MAX_NAME: usize = 255;
/// The longest reason, in characters.
const MAX_REASON: usize = 1_024;
/// The addition to the reason of a refusal that may come too late.
const UNREAD: &str = "a part of the push has passed unread, so GitHub may have moved the refs; fetch to see";

/// Why a push is refused. Takes 30 KB at most, for a head of any length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The rule that refused the push, and the reason.
    pub denial: Denial,
    /// Each ref of the push, with the reason why it was not moved. Of too many, the first [`MAX_REFS`].
    pub refs: Vec<RefusedRef>,
    capabilities: Capabilities,
    unread: bool,
}

/// A ref that was not moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRef {
    /// The ref's full name.
    pub name: String,
    /// One sentence, without a full stop.
    pub reason: String,
    /// The push was refused because of this ref.
    pub guilty: bool,
}

impl Refusal {
    /// A refusal, of which `refs` are all refs of the push. `unread`: bytes of the push have passed unparsed.
    pub(crate) fn new(
        denial: Denial,
        refs: impl IntoIterator<Item = RefusedRef>,
        capabilities: Capabilities,
        unread: bool,
    ) -> Self {
        let cut = |text: &str| text.chars().take(MAX_REASON).collect::<String>();
        let mut reason = cut(&denial.reason);
        if unread {
            reason = format!("{reason}; {UNREAD}");
        }
        let named = refs.into_iter().filter(|refused| refused.name.len() <= MAX_NAME).take(MAX_REFS);
        let refs = named.map(|refused| RefusedRef { reason: cut(&refused.reason), ..refused }).collect();
        Self { denial: Denial { reason, ..denial }, refs, capabilities, unread }
    }

    /// The refusal as git's own report, which git prints. Returns `None` if the client does not read reports.
    pub fn report(&self, request_id: &str) -> Option<Vec<u8>> {
        let mut lines = vec![format!("sallyport: push refused (rule {})", self.denial.rule)];
        let guilty: Vec<_> = self.refs.iter().filter(|refused| refused.guilty).collect();
        if guilty.is_empty() {
            lines.push(format!("sallyport: {}", self.denial.reason));
        } else {
            lines.extend(guilty.iter().map(|refused| format!("sallyport: {}: {}", refused.name, refused.reason)));
            lines.extend(self.unread.then(|| format!("sallyport: {UNREAD}")));
        }
        lines.push(format!("sallyport: request id {request_id}"));
        let refs: Vec<_> = self.refs.iter().map(|refused| (refused.name.clone(), refused.reason.clone())).collect();
        report::refused(&self.capabilities, &lines, &refs)
    }
}

/// Gives every ref a reason. A ref that would have been allowed gets the name of a refused ref as its reason.
pub(crate) fn with_reasons<'a>(refs: impl Iterator<Item = (&'a RefUpdate, Option<String>)>) -> Vec<RefusedRef> {
    let refs: Vec<_> = refs.collect();
    let because = refs.iter().find(|(_, reason)| reason.is_some()).map(|(update, _)| update.name.clone());
    let innocent = format!("not pushed, because {} was refused", because.unwrap_or_default());
    let with_reason = |(update, reason): (&RefUpdate, Option<String>)| RefusedRef {
        name: update.name.clone(),
        guilty: reason.is_some(),
        reason: reason.unwrap_or_else(|| innocent.clone()),
    };
    refs.into_iter().map(with_reason).collect()
}

pub(crate) fn malformed(reason: impl Into<String>) -> Denial {
    Denial::new(Rule::PushMalformed, reason)
}

/// A list of ref updates that can't be parsed.
pub(crate) fn of_head(error: &receive_pack::Error) -> Denial {
    let rule = match error {
        receive_pack::Error::Signed => Rule::PushSigned,
        receive_pack::Error::ObjectFormat(_) => Rule::PushFormat,
        receive_pack::Error::Limit { .. } => Rule::PushLimit,
        receive_pack::Error::Length(_) | receive_pack::Error::Line(_) | receive_pack::Error::Truncated => {
            Rule::PushMalformed
        }
    };
    Denial::new(rule, error.to_string())
}

/// A pack that can't be parsed.
pub(crate) fn of_pack(error: &git_wire::pack::Error) -> Denial {
    use git_wire::graph;
    use git_wire::pack::Error;
    let rule = match error {
        Error::Limit { .. } | Error::Commits(graph::Error::Limit { .. }) => Rule::PushLimit,
        Error::Malformed(_) | Error::Commits(graph::Error::Malformed) => Rule::PushMalformed,
    };
    Denial::new(rule, error.to_string())
}
