//! Stage 3: what a request to one of GitHub's hosts does, and whether that container may do it.
//!
//! A REST call becomes an operation by its method and the most specific template of its path (`rest`), a GraphQL
//! document by every field of the one operation that it executes (`graphql`). An operation has a [`Class`], and the
//! class, the guards on what the request says, and the container's record give the verdict. What isn't known is
//! refused.
//!
//! **Invariant:** what was judged is what is sent. An allowed call is written anew from what was understood of it
//! ([`Allowed::target`], [`Allowed::body`]); nothing that was not understood goes along.
//!
//! Called by the github filter with each request, and by the CLI's `policy explain`.

mod class;
mod json;
mod rules;
mod scope;

pub use class::Class;
pub use rules::{Exception, Listed, Rules};
pub use scope::Scope;

use crate::{Denial, Stage};

/// What a request would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// A REST operation's id in GitHub's own description (`pulls/merge`), a mutation's name (`mergePullRequest`), or
    /// another word for what has no such name.
    pub name: String,
    /// What it does.
    pub class: Class,
}

/// A request that may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// What it does.
    pub operation: Operation,
    /// The rule that allowed it.
    pub rule: &'static str,
    /// The target to send in place of the one that came.
    pub target: Vec<u8>,
    /// The body to send in place of the one that came; `None` where that is not read.
    pub body: Option<Vec<u8>>,
    /// Node ids whose repository has to be confirmed with GitHub before: what they say of it is the client's word.
    pub ask: Vec<String>,
}

/// A request that ends here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What it would do, as far as that is known.
    pub operation: Option<Operation>,
    /// Why not.
    pub denial: Denial,
}

impl Refused {
    /// A refusal of what is not understood, or not known.
    pub fn unknown(rule: &'static str, reason: impl Into<String>) -> Self {
        Self { operation: None, denial: Denial::forbidden(Stage::Github, rule, reason) }
    }

    /// A refusal of a known operation.
    pub fn of(operation: &Operation, rule: &'static str, reason: impl Into<String>) -> Self {
        Self { operation: Some(operation.clone()), ..Self::unknown(rule, reason) }
    }
}
