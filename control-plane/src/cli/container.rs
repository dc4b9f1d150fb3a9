//! `container add | ls | show | rm`.

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use registry::own::{self, Meeting};
use serde_json::{Map, Value, json};

use super::client::Client;
use super::{Common, Error, print};

/// Register, list, show and remove containers.
#[derive(Debug, Subcommand)]
pub enum Container {
    /// Register a container, or replace the record at its address
    Add(Add),
    /// List the registered containers
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the record of a container
    Show {
        /// Its address
        ip: String,
        /// Print JSON, which is the default
        #[arg(long)]
        json: bool,
    },
    /// Remove a container; its requests are refused from now on
    Rm {
        /// Its address
        ip: String,
    },
}

/// A registration.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sallyport container add --ip 172.18.0.5 --repo owner/repo --branch 'sandbox/*' --ttl 8h\n  sallyport container add --ip 172.18.0.5 --repo owner/repo \\\n      --egress 'slack.com POST /api/chat.postMessage' --egress '*.example.com'"
)]
pub struct Add {
    /// The container's address, as Envoy sees it
    #[arg(long)]
    ip: String,
    /// A repository that the container may use; repeatable
    #[arg(long = "repo", value_name = "OWNER/REPO", required = true)]
    repos: Vec<String>,
    /// Whether the container runs unattended or for a person
    #[arg(long, value_enum, default_value_t = Mode::Bot)]
    mode: Mode,
    /// A branch that the container may push to, as a glob; repeatable [default for bot: sandbox/ID/*]
    #[arg(long = "branch", value_name = "GLOB")]
    branches: Vec<String>,
    /// Allow force pushes to the branches of --branch
    #[arg(long)]
    force_own_branches: bool,
    /// A host beside those of the policy, or a rule for requests to a host, such as 'slack.com POST /api/chat.*';
    /// repeatable
    #[arg(long = "egress", value_name = "HOST [RULE]")]
    egress: Vec<String>,
    /// The container's name in the audit [default: its address]
    #[arg(long)]
    id: Option<String>,
    /// How long the registration lasts, such as 8h [default: 24h]
    #[arg(long)]
    ttl: Option<String>,
    /// Print the record as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// Unattended: pushes only to its allowed branches
    Bot,
    /// Supervised by a person: pushes to any branch that is not protected
    User,
}

impl Container {
    pub(super) fn run(self, common: &Common) -> Result<(), Error> {
        let client = Client::new(common, &common.config()?);
        match self {
            Self::Add(add) => add.run(&client),
            Self::Ls { json: true } => print(&client.get("/internal/containers")?).and_then(|()| print("\n")),
            Self::Ls { json: false } => list(&client),
            Self::Show { ip, json: _ } => {
                let record = client.get(&format!("/internal/containers/{ip}"))?;
                print(&record).and_then(|()| print("\n"))
            }
            Self::Rm { ip } => client.delete(&format!("/internal/containers/{ip}")).map(drop),
        }
    }
}

impl Add {
    fn run(self, client: &Client) -> Result<(), Error> {
        let mode = match self.mode {
            Mode::Bot => "bot",
            Mode::User => "user",
        };
        let mut body = Map::from_iter([
            ("container_ip".to_owned(), json!(self.ip)),
            ("repos".to_owned(), json!(self.repos)),
            ("auth_mode".to_owned(), json!(mode)),
        ]);
        if !self.branches.is_empty() {
            body.insert("allowed_branches".into(), json!(self.branches));
        }
        if self.force_own_branches {
            body.insert("force_own_branches".into(), json!(true));
        }
        if !self.egress.is_empty() {
            body.insert("egress_allow".into(), self.egress.iter().map(|text| host_rules(text)).collect());
        }
        if let Some(id) = self.id {
            body.insert("container_id".into(), json!(id));
        }
        if let Some(ttl) = self.ttl {
            body.insert("ttl".into(), json!(ttl));
        }
        let answer = client.post("/internal/containers", &Value::Object(body))?;
        for met in shared(client, &answer) {
            eprintln!("sallyport: warning: {met}: each of the two can move the other's branches there");
        }
        if self.json {
            return print(&answer).and_then(|()| print("\n"));
        }
        let record: Value = serde_json::from_str(&answer).unwrap_or_default();
        print(&format!("registered {}\n", row(&record, Timestamp::now())))
    }
}

/// An entry of `egress_allow` for the value of `--egress`. The gateway checks it.
fn host_rules(text: &str) -> Value {
    match text.split_once(' ') {
        Some((host, rule)) => json!({"host": host, "allow": [rule]}),
        None => json!(text),
    }
}

/// The records with which the registered record `answer` shares branches.
fn shared(client: &Client, answer: &str) -> Vec<Meeting> {
    let Ok(record) = serde_json::from_str::<policy::Container>(answer) else { return Vec::new() };
    let listed = client.get("/internal/containers").ok();
    let others: Vec<policy::Container> = listed.and_then(|list| serde_json::from_str(&list).ok()).unwrap_or_default();
    own::meetings(&record, &others, Timestamp::now())
}

fn list(client: &Client) -> Result<(), Error> {
    let records: Vec<Value> = serde_json::from_str(&client.get("/internal/containers")?)
        .map_err(|error| Error::Other(anyhow::anyhow!("cannot parse the gateway's response: {error}")))?;
    if records.is_empty() {
        return print("no container is registered\n");
    }
    let now = Timestamp::now();
    let rows: String = records.iter().map(|record| format!("{}\n", row(record, now))).collect();
    print(&rows)
}

/// One record on one line.
fn row(record: &Value, now: Timestamp) -> String {
    let text = |key: &str| record[key].as_str().unwrap_or("-").to_owned();
    let joined = |key: &str| {
        // A repository is its name, or an object that has it.
        let names =
            record[key].as_array().into_iter().flatten().filter_map(|entry| entry.as_str().or(entry["name"].as_str()));
        names.collect::<Vec<_>>().join(",")
    };
    let id = text("container_id");
    let expires_at = text("expires_at");
    let expired = expires_at.parse::<Timestamp>().is_ok_and(|at| at <= now);
    let force = if record["force_own_branches"] == true { " by force" } else { "" };
    format!(
        "{:<15} {id:<15} {:<4} {} {expires_at}  {}  [{}]{force}",
        text("container_ip"),
        text("auth_mode"),
        if expired { "expired" } else { "until" },
        joined("repos"),
        joined("allowed_branches")
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_when_a_record_expires_and_that_it_has() {
        let record = json!({
            "container_ip": "172.18.0.5", "container_id": "a", "auth_mode": "bot", "allowed_branches": ["bot/*"],
            "repos": ["o/r", {"name": "o/s", "id": 7}], "expires_at": "2027-01-15T00:00:00Z"
        });
        let row = |now: &str| row(&record, now.parse().unwrap());
        let before = row("2027-01-14T23:59:59Z");
        assert!(before.contains("bot  until 2027-01-15T00:00:00Z  o/r,o/s  [bot/*]"), "{before}");
        let after = row("2027-01-15T00:00:00Z");
        assert!(after.contains("bot  expired 2027-01-15T00:00:00Z  o/r,o/s  [bot/*]"), "{after}");
        assert!(after.ends_with("[bot/*]"), "{after}");
    }

    #[test]
    fn an_egress_is_a_host_or_a_rule_for_a_host() {
        for (text, expected) in [
            ("*.example.com", json!("*.example.com")),
            ("slack.com /api/**", json!({"host": "slack.com", "allow": ["/api/**"]})),
            ("slack.com GET|POST /api/a", json!({"host": "slack.com", "allow": ["GET|POST /api/a"]})),
        ] {
            assert_eq!(host_rules(text), expected);
            assert!(serde_json::from_value::<policy::HostRules>(host_rules(text)).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_row_says_where_a_container_may_use_force() {
        let record = json!({"allowed_branches": ["bot/*"], "force_own_branches": true});
        assert!(row(&record, Timestamp::UNIX_EPOCH).ends_with("[bot/*] by force"));
    }
}
