//! The configuration of the filters github and push, as the control plane writes it and they read it.

use crate::github::Rules;
use serde::{Deserialize, Serialize};

/// The rules in force from a revision on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RulesInForce {
    /// Rises with each new policy, so that no configuration comes back. Envoy configures a filter for each new
    /// configuration, and not for an earlier one that it still knows. A worker has the rules of the highest revision.
    pub revision: u64,
    /// The rules.
    pub rules: Rules,
}
