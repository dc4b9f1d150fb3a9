//! The requests on a host that get its credential.

pub mod github;

use super::oauth::provider::Service;
use policy::endpoint::Endpoint;

/// The requests on a host that get its credential.
#[derive(Debug)]
pub enum Scope {
    /// git on the container's repositories.
    GitHubGit,
    /// The API, on the container's repositories and on resources that belong to no repository.
    GitHubApi,
    /// These endpoints. An empty list matches no request.
    Endpoints(Vec<Endpoint>),
    /// A token endpoint: the gateway responds itself, and sends nothing to the upstream.
    TokenEndpoint(Service),
}
