//! What the gateway itself asks GitHub, with its own credential: the numbers and default branches of registered
//! repositories (`ids`), and to whom the nodes of a GraphQL write belong (`confirm`). `client` makes the calls.
//!
//! All of it reads; nothing here writes to GitHub. What GitHub does not answer is not taken for granted.

pub mod client;
pub mod confirm;
pub mod ids;

#[cfg(test)]
mod testing;
