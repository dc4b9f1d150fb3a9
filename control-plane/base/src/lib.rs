//! What every part of the control plane stands on, and knows nothing of any of them.

pub mod contract;
pub mod files;
pub mod hash;
pub mod problems;
pub mod process;
pub mod state;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
