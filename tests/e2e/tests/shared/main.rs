//! Tests that share one gateway in each module without an effect on each other. tests/run-e2e.sh runs each module in
//! its own namespaces, several modules at once.

mod chain;
mod credential_attacks;
mod credentials;
mod dns;
mod gh;
mod git_and_curl;
mod github;
mod hostile;
mod models;
mod protocols;
mod push;
mod push_corpus;
mod push_hostile;
mod readme;
mod refusals;
mod registration;
mod rig;
mod spellings;
mod spoofing;
