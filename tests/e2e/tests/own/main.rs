//! Tests that start and stop gateways of their own. tests/run-e2e.sh runs each module in namespaces of its own, several
//! modules at once.

mod audit;
mod ca;
mod chaos;
mod clients;
mod github_ids;
mod lfs;
mod lifecycle;
mod oauth;
mod operator;
mod panic;
mod public;
mod quota;
mod redirects;
mod seeds;
mod stages;
mod upstream_proxy;
