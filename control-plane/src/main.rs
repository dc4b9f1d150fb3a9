//! Sallyport: the control plane, and the command line that speaks to it.

mod admin;
mod app;
mod audit;
mod ca;
mod cli;
mod config;
mod containers;
mod contract;
mod credentials;
mod dns;
mod envoy;
mod files;
mod github;
mod hash;
mod https;
mod live;
mod metrics;
mod problems;
mod process;
mod state;
mod telemetry;
mod upstreams;
mod xds;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::Cli::parse().run()
}
