//! Stage 5: may a credential be added to this request, which one, and how?
//!
//! `decide` is the one pure function that says who may use a credential, where it may go and how it is put in;
//! `server` is Envoy's ext_authz around it.

pub mod decide;
pub mod server;

use policy::HostName;
use secrecy::SecretString;

/// The variables that hold the GitHub token, in this order.
pub const GITHUB_VARIABLES: [&str; 2] = ["GITHUB_TOKEN", "GH_TOKEN"];

/// What stands in a sandbox's variables, for programs that refuse to start without a credential. Worth nothing.
pub const PLACEHOLDER: &str = "held-by-the-gateway";

/// What the gateway can add. Read once, at start.
#[derive(Debug, Default)]
pub struct Credentials {
    /// GitHub's token.
    pub github: Option<SecretString>,
}

impl Credentials {
    /// From the environment. An empty variable is none, and so is the placeholder: the gateway may be started from a
    /// shell that was set up as a sandbox.
    pub fn from_environment() -> Self {
        let github = GITHUB_VARIABLES
            .iter()
            .filter_map(|name| std::env::var(name).ok())
            .find(|value| !matches!(value.trim(), "" | PLACEHOLDER))
            .map(|value| SecretString::from(value.trim().to_owned()));
        Self { github }
    }

    /// Whether requests to `host` go through the credential stage at all.
    pub fn concern(host: &HostName) -> bool {
        decide::Target::of(host.as_str()).is_some()
    }
}
