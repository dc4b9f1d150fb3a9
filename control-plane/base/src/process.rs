//! The running program.

/// The path of the running program, for its hidden commands. It stays valid after the program's file is replaced.
pub const OURSELVES: &str = "/proc/self/exe";
