//! Sallyport: the control plane, and the command line that calls it.

mod admin;
mod app;
mod cli;
mod envoy;
mod live;
mod machine;
mod metrics;
mod quotas;
mod repositories;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::Cli::parse().run()
}
