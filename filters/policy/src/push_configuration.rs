//! The push filter's configuration, as the control plane writes it and the filter reads it.

use crate::github::Rules;
use serde::{Deserialize, Serialize};

/// The push filter's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushConfiguration {
    /// Rises with each new policy, so that no configuration comes back. Envoy configures a filter for each new
    /// configuration, and not for an earlier one that it still knows. A worker has the rules of the highest revision.
    pub revision: u64,
    /// The rules.
    pub rules: Rules,
}
