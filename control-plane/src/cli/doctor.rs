//! `doctor`: one line for each thing that a gateway needs, and the next step if it is wrong. Changes nothing.
//!
//! The checks use this shell's variables, network and files, and the admin API of the running gateway.

mod files;
mod github;
mod host;
mod network;
mod quotas;
mod records;

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::client::Client;
use super::{Common, Error, print};
use crate::quotas::Quota;
use config::Config;
use policy::Container;

/// How long the gateway, a nameserver or an upstream may take to respond.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The checks, in the order of their lines.
const CHECKS: [fn(&Context) -> Vec<Finding>; 18] = [
    files::policy,
    files::state,
    files::ca,
    files::envoy,
    files::filters,
    network::ports,
    network::gateway,
    network::roots,
    github::credentials,
    network::nameservers,
    network::upstreams,
    github::token,
    quotas::quotas,
    records::branches,
    records::locks,
    host::spoofing,
    host::files,
    host::clock,
];

/// Check that everything that a gateway needs is there.
#[derive(Debug, Args)]
#[command(after_help = "Exit 0, or 1 if a check fails. Example:\n  sallyport doctor --config config/sallyport.yaml")]
pub struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The Envoy that `up` would run [default: envoy on the PATH]
    #[arg(long, value_name = "PATH", env = "ENVOY_BIN")]
    envoy: Option<PathBuf>,
    /// The directory of the filters [default: `filters` beside the program's directory]
    #[arg(long, value_name = "DIR", env = "SALLYPORT_FILTERS")]
    filters: Option<PathBuf>,
}

/// The input of the checks.
#[derive(Debug)]
struct Context {
    config: Config,
    /// The state directory, or why it is unknown.
    state_dir: Result<PathBuf, String>,
    /// `--envoy`.
    envoy: Option<PathBuf>,
    /// `--filters`.
    filters: Option<PathBuf>,
    /// The response of the gateway's `/readyz`; `None` if no gateway runs.
    gateway: Option<Readyz>,
    /// The registered containers; empty if the gateway does not list them.
    records: Vec<Container>,
    /// The quotas of GitHub's API, as the gateway knows them. `None` if no gateway runs, or an older one.
    quotas: Option<Vec<Quota>>,
}

/// A response of `/readyz`.
#[derive(Debug)]
struct Readyz {
    status: u16,
    /// The body. Null if it is no JSON.
    body: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warn,
    Fail,
}

/// The result of a check: one line.
#[derive(Debug, Serialize)]
struct Finding {
    state: State,
    check: &'static str,
    found: String,
    /// The next step. Empty if no step is needed.
    todo: String,
}

impl Finding {
    fn ok(check: &'static str, found: impl Display) -> Self {
        Self { state: State::Ok, check, found: found.to_string(), todo: String::new() }
    }

    fn warn(check: &'static str, found: impl Display, todo: impl Display) -> Self {
        Self { state: State::Warn, check, found: found.to_string(), todo: todo.to_string() }
    }

    fn fail(check: &'static str, found: impl Display, todo: impl Display) -> Self {
        Self { state: State::Fail, check, found: found.to_string(), todo: todo.to_string() }
    }

    fn line(&self) -> String {
        let state = match self.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        let todo = if self.todo.is_empty() { String::new() } else { format!("; {}", self.todo) };
        // An error may have line breaks.
        let found: Vec<&str> = self.found.split_whitespace().collect();
        format!("{state:<4}  {:<12} {}{todo}\n", self.check, found.join(" "))
    }
}

impl Doctor {
    pub(super) fn run(self, common: &Common) -> Result<(), Error> {
        let json = self.json;
        let findings = self.findings(common);
        let failed = findings.iter().filter(|finding| finding.state == State::Fail).count();
        if json {
            print(&format!("{}\n", serde_json::json!({ "ok": failed == 0, "checks": findings })))?;
        } else {
            print(&findings.iter().map(Finding::line).collect::<String>())?;
        }
        match failed {
            0 => Ok(()),
            1 => Err(Error::Other(anyhow::anyhow!("one check failed; its line has the next step"))),
            more => Err(Error::Other(anyhow::anyhow!("{more} checks failed; their lines have the next steps"))),
        }
    }

    fn findings(self, common: &Common) -> Vec<Finding> {
        let config = match common.config() {
            Ok(config) => config,
            // Every other check needs the configuration.
            Err(error) => return vec![Finding::fail("config", error, "correct the file")],
        };
        let client = Client::new(common, &config);
        let probed = client.probe("/readyz", TIMEOUT).ok();
        let listed = client.probe("/internal/containers", TIMEOUT).ok().filter(|(status, _)| *status == 200);
        let quotas = probed.as_ref().and_then(|_| client.probe("/internal/github", TIMEOUT).ok());
        let context = Context {
            state_dir: common.state_dir(&config).map_err(|error| error.to_string()),
            envoy: self.envoy,
            filters: self.filters,
            gateway: probed
                .map(|(status, body)| Readyz { status, body: serde_json::from_str(&body).unwrap_or_default() }),
            records: listed.and_then(|(_, body)| serde_json::from_str(&body).ok()).unwrap_or_default(),
            quotas: quotas.and_then(|(_, body)| serde_json::from_str(&body).ok()),
            config,
        };
        let understood = Finding::ok("config", "understood");
        std::iter::once(understood).chain(CHECKS.iter().flat_map(|check| check(&context))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The states of `findings`.
    pub fn states(findings: &[Finding]) -> Vec<State> {
        findings.iter().map(|finding| finding.state).collect()
    }

    #[test]
    fn a_finding_is_one_line() {
        let line = Finding::fail("policy", "a\n  b", "mend it").line();
        assert_eq!(line, "FAIL  policy       a b; mend it\n");
    }
}
