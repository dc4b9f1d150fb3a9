//! Sallyport: the control plane, and the command line that speaks to it.

mod app;
mod audit;
mod ca;
mod cli;
mod config;
mod containers;
mod credentials;
mod envoy;
mod files;
mod live;
mod xds;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::Cli::parse().run()
}
