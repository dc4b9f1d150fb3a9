//! A push that ends here, and how its client is told.

use git_wire::receive_pack::Capabilities;
use git_wire::report;
use policy::Denial;

/// Why a push is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The rule that decided, and why.
    pub denial: Denial,
    /// Each ref of the push, and why it was not moved.
    pub refs: Vec<RefusedRef>,
    pub(crate) capabilities: Capabilities,
}

/// A ref that is not moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRef {
    /// Its full name.
    pub name: String,
    /// One sentence.
    pub reason: String,
    /// It is why the push is refused.
    pub guilty: bool,
}

impl Refusal {
    /// git's own report, which it prints; `None` for a client that reads none.
    pub fn report(&self, request_id: &str) -> Option<Vec<u8>> {
        let mut lines = vec![format!("sallyport: push refused (rule {})", self.denial.rule)];
        let guilty: Vec<_> = self.refs.iter().filter(|refused| refused.guilty).collect();
        match guilty.is_empty() {
            true => lines.push(format!("sallyport: {}", self.denial.reason)),
            false => {
                lines.extend(guilty.iter().map(|refused| format!("sallyport: {}: {}", refused.name, refused.reason)))
            }
        }
        lines.push(format!("sallyport: request id {request_id}"));
        let refs: Vec<_> = self.refs.iter().map(|refused| (refused.name.clone(), refused.reason.clone())).collect();
        report::refused(&self.capabilities, &lines, &refs)
    }
}
