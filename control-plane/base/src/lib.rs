//! Shared modules of the control plane. They do not depend on its other crates.

pub mod backoff;
pub mod contract;
pub mod duration;
pub mod files;
pub mod hash;
pub mod kept;
pub mod percent;
pub mod problems;
pub mod process;
pub mod quota;
pub mod state;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
