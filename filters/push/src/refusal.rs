//! A refused push, and its report to the client.

use git_wire::receive_pack::Capabilities;
use git_wire::report;
use policy::Denial;

/// Why a push is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The rule that refused the push, and the reason.
    pub denial: Denial,
    /// Each ref of the push, with the reason why it was not moved.
    pub refs: Vec<RefusedRef>,
    pub(crate) capabilities: Capabilities,
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
    /// The refusal as git's own report, which git prints. Returns `None` if the client does not read reports.
    pub fn report(&self, request_id: &str) -> Option<Vec<u8>> {
        let mut lines = vec![format!("sallyport: push refused (rule {})", self.denial.rule)];
        let guilty: Vec<_> = self.refs.iter().filter(|refused| refused.guilty).collect();
        if guilty.is_empty() {
            lines.push(format!("sallyport: {}", self.denial.reason));
        } else {
            lines.extend(guilty.iter().map(|refused| format!("sallyport: {}: {}", refused.name, refused.reason)));
        }
        lines.push(format!("sallyport: request id {request_id}"));
        let refs: Vec<_> = self.refs.iter().map(|refused| (refused.name.clone(), refused.reason.clone())).collect();
        report::refused(&self.capabilities, &lines, &refs)
    }
}
