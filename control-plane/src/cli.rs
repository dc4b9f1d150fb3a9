//! The command line. Errors go to stderr in one sentence. The exit status is 0 if the command is done, 2 if the command
//! line or a file is wrong, 10 for a denial by `explain`, and 1 for all other errors.

mod audit;
mod ca;
mod chain;
mod client;
mod container;
mod doctor;
mod env;
mod explain;
mod policy;
mod push;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// The one door out for AI agents in containers: Envoy ends TLS, Rust filters decide, credentials are added on the
/// way and never enter a sandbox.
#[derive(Debug, Parser)]
#[command(name = "sallyport", version, arg_required_else_help = true, after_help = EXAMPLE)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLE: &str = "Example:\n  GITHUB_TOKEN=… sallyport up\n  sallyport container add --ip 172.18.0.5 --repo owner/repo\n  sallyport env --gateway http://gateway:8080";

/// The options of every command.
#[derive(Debug, clap::Args)]
struct Common {
    /// The configuration [default: config/sallyport.yaml if it exists, else built-in]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The directory of the CA, the registry and the audit [default: state_dir of the configuration, else
    /// $XDG_STATE_HOME/sallyport or ~/.local/state/sallyport]
    #[arg(long, global = true, value_name = "DIR", env = "SALLYPORT_STATE_DIR")]
    state_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the control plane, and Envoy as its child
    Up(serve::Up),
    /// Run the control plane only
    Serve(serve::Serve),
    /// Register, list, show and remove containers
    #[command(subcommand)]
    Container(container::Container),
    /// Print the variables that a sandbox needs
    Env(env::Env),
    /// The certificate authority that sandboxes trust
    #[command(subcommand)]
    Ca(ca::Ca),
    /// Check a policy file, and explain decisions
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Explain the decision on a push
    #[command(subcommand)]
    Push(push::Push),
    /// Inspect the audit log
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Check that everything that a gateway needs is there
    Doctor(doctor::Doctor),
    /// Print a completion script for a shell
    ///
    /// Example: sallyport completions bash > /etc/bash_completion.d/sallyport
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Become Envoy, which ends with this process's parent
    #[command(hide = true)]
    RunEnvoy(serve::RunEnvoy),
    /// Refresh the login that standard input describes
    #[command(hide = true)]
    RefreshLogin(serve::RefreshLogin),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or a file is wrong.
    #[error("{0}")]
    Usage(String),
    /// `explain` denies the request, and has printed why.
    #[error("denied")]
    Denied,
    /// Every other error.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl From<config::Error> for Error {
    fn from(error: config::Error) -> Self {
        Self::Usage(error.to_string())
    }
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let done = match self.command {
            Command::Up(up) => up.run(&self.common),
            Command::Serve(serve) => serve.run(&self.common),
            Command::Container(container) => container.run(&self.common),
            Command::Env(env) => env.run(&self.common),
            Command::Ca(ca) => ca.run(&self.common),
            Command::Policy(policy) => policy.run(&self.common),
            Command::Push(push) => push.run(&self.common),
            Command::Audit(audit) => audit.run(&self.common),
            Command::Doctor(doctor) => doctor.run(&self.common),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "sallyport", &mut script);
                print(&String::from_utf8_lossy(&script))
            }
            Command::RunEnvoy(envoy) => envoy.run(),
            Command::RefreshLogin(refresh) => refresh.run(),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(Error::Denied) => ExitCode::from(10),
            Err(error) => {
                eprintln!("sallyport: {error}");
                ExitCode::from(if matches!(error, Error::Usage(_)) { 2 } else { 1 })
            }
        }
    }
}

impl Common {
    fn config(&self) -> Result<config::Config, Error> {
        Ok(config::Config::load(self.config.as_deref())?)
    }

    /// The state directory: from the command line or the environment, else from the configuration, else the user's.
    fn state_dir(&self, config: &config::Config) -> Result<PathBuf, Error> {
        let own = || {
            let base = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
            let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
            base.or_else(home).map(|base| base.join("sallyport"))
        };
        self.state_dir
            .clone()
            .or_else(|| config.state_dir.clone())
            .or_else(own)
            .ok_or_else(|| Error::Usage("no state directory; use --state-dir or set HOME".into()))
    }
}

/// Prints `text` on stdout. If the reader has closed the pipe, that is no error.
fn print(text: &str) -> Result<(), Error> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(anyhow::Error::from(error).into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
