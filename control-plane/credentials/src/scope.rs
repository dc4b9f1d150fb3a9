//! What a credential is for on its host.

pub mod github;

use super::endpoint::Endpoint;
use super::oauth::provider::Service;

/// What a credential is for on its host.
#[derive(Debug)]
pub enum Scope {
    /// git on the container's repositories.
    GitHubGit,
    /// The API, on the container's repositories and what belongs to none.
    GitHubApi,
    /// These; empty is none.
    Endpoints(Vec<Endpoint>),
    /// A token endpoint: the gateway answers by itself, and nothing goes on.
    TokenEndpoint(Service),
}
