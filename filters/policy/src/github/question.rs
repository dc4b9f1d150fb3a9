//! The questions about a request that only GitHub can answer: what its ids and numbers stand for.
//!
//! The judge asks ([`super::Allowed::ask`]), the filter carries the question to the control plane, and the control
//! plane compares GitHub's answer with the record and the rules.

use super::node_id;
use super::{Operation, Refused, Scope};
use crate::Rule;
use serde::Serialize;
use std::fmt;

/// One question: is this object what the request needs it to be?
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// The object.
    pub about: About,
    /// Its use in the request.
    pub purpose: Purpose,
}

/// An object, as the request or the gateway names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum About {
    /// A GraphQL node, by its id.
    Node(String),
    /// An issue or a pull request, by the name of its repository and its number there.
    Issue {
        /// The repository, `owner/name`.
        repo: String,
        /// The number.
        number: u64,
    },
}

/// The use of an object in a request. Except for [`Purpose::Person`], the object has to be in one of the container's
/// repositories, and each purpose but [`Purpose::Read`] has a further condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// The request reads the object.
    Read,
    /// The request writes to the object. A ref has to be a branch that the container may move.
    Write,
    /// The request moves a ref without regard to its commits: the ref has to be a branch that the container may move by
    /// force.
    Force,
    /// The request sets a label, which the rules have to allow.
    SetLabel,
    /// The request removes or changes a label, which may not be one of the held labels.
    DropLabel,
    /// The request assigns a user or requests a review. The login may not be an agent's.
    Person,
    /// The request changes a text, which the gateway's own account has to have written.
    Rewrite,
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => f.write_str(id),
            Self::Issue { repo, number } => write!(f, "{repo}#{number}"),
        }
    }
}

impl Question {
    /// A question about a node.
    pub fn node(id: &str, purpose: Purpose) -> Self {
        Self { about: About::Node(id.to_owned()), purpose }
    }
}

/// REST operations that change a text, with the parameter that names the text and the prefix of the text's node id. The
/// prefix is empty if the parameter is a number of an issue or a pull request, which is in no id.
const REWRITES: [(&str, &str, &str); 6] = [
    ("issues/update", "issue_number", ""),
    ("issues/update-comment", "comment_id", "IC"),
    ("pulls/update", "pull_number", ""),
    ("pulls/update-review", "review_id", "PRR"),
    ("pulls/update-review-comment", "comment_id", "PRRC"),
    ("repos/update-commit-comment", "comment_id", "CC"),
];

/// The question about the text that the REST `operation` changes. `None` if it changes no text. The caller knows that
/// the body has a text.
///
/// # Errors
/// If the repository's number is not known yet (503), or if the text's number is out of range.
pub fn rewrite(
    scope: &Scope<'_>,
    operation: &Operation,
    parameters: &[(&'static str, String)],
) -> Result<Option<Question>, Refused> {
    let Some((_, name, prefix)) = REWRITES.iter().find(|(have, ..)| *have == operation.name) else { return Ok(None) };
    let parameter = |name: &str| parameters.iter().find(|(have, _)| *have == name).map(|(_, value)| value.as_str());
    let (owner, repo) = (parameter("owner").unwrap_or_default(), parameter("repo").unwrap_or_default());
    let refuse = |rule, reason: &str| Err(Refused::of(operation, rule, reason));
    let Some(number) = parameter(name).and_then(|number| number.parse::<u64>().ok()) else {
        return refuse(Rule::GithubTarget, "the number in the path is out of range");
    };
    let pending = "the numbers of this container's repositories are still being looked up; try again";
    let about = match scope.repo(owner, repo) {
        None => return refuse(Rule::GithubRepo, "the repository is not one of this container's"),
        Some(repo) if prefix.is_empty() => About::Issue { repo: repo.to_string(), number },
        Some(repo) => match repo.id() {
            Some(id) => About::Node(node_id::object(prefix, id, number)),
            None => return refuse(Rule::GithubIdsPending, pending),
        },
    };
    Ok(Some(Question { about, purpose: Purpose::Rewrite }))
}
