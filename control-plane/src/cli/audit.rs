//! `audit tail`.

use std::io::{BufRead, BufReader};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use policy::Decision;
use serde::Deserialize;
use serde_json::Value;

use super::client::Client;
use super::{Common, Error, print};
use base::percent;

/// Inspect the audit log.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Print the last decisions, and each new one
    Tail(Tail),
}

/// The selection of lines, and their form.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sallyport audit tail --verdict deny --container 172.18.0.5")]
pub struct Tail {
    /// Print the lines as they are in audit.jsonl
    #[arg(long)]
    json: bool,
    /// Only lines of this container, by its id or its address
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    /// Only lines with this verdict
    #[arg(long, value_enum)]
    verdict: Option<Verdict>,
    /// The number of past lines to begin with; the gateway keeps some thousands
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    lines: usize,
    /// Print the last lines and exit
    #[arg(long)]
    no_follow: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Verdict {
    /// The request passed
    Allow,
    /// The request was refused
    Deny,
}

impl Audit {
    pub(super) fn run(self, common: &Common) -> Result<(), Error> {
        let Self::Tail(tail) = self;
        tail.run(&Client::new(common, &common.config()?))
    }
}

impl Tail {
    fn run(self, client: &Client) -> Result<(), Error> {
        let mut answer = BufReader::new(client.open(&self.path())?);
        let mut line = String::new();
        let mut event = String::new();
        loop {
            line.clear();
            if answer.read_line(&mut line).context("the connection to the gateway broke")? == 0 {
                return Ok(());
            }
            let text = line.trim_end();
            if self.no_follow {
                self.show("", text)?;
            } else if let Some(name) = text.strip_prefix("event:") {
                name.trim().clone_into(&mut event);
            } else if let Some(data) = text.strip_prefix("data:") {
                self.show(&event, data.trim_start())?;
            } else if text.is_empty() {
                event.clear();
            }
        }
    }

    fn path(&self) -> String {
        let follow = if self.no_follow { 0 } else { 1 };
        let mut path = format!("/internal/audit?follow={follow}&last={}", self.lines);
        if let Some(container) = &self.container {
            path += &format!("&container={}", percent::encode(container));
        }
        path += match self.verdict {
            Some(Verdict::Allow) => "&verdict=allow",
            Some(Verdict::Deny) => "&verdict=deny",
            None => "",
        };
        path
    }

    fn show(&self, event: &str, data: &str) -> Result<(), Error> {
        match event {
            "lost" => {
                let value: Value = serde_json::from_str(data).unwrap_or_default();
                eprintln!(
                    "sallyport: {} lines are missing here, because they arrived too fast; audit.jsonl has them",
                    value["lost"]
                );
                Ok(())
            }
            _ if self.json => print(&format!("{data}\n")),
            _ => print(&format!("{}\n", row(&serde_json::from_str(data).unwrap_or_default()))),
        }
    }
}

/// The printed fields of a line. Each may be missing, because the gateway may have another version.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Row {
    ts: String,
    event: String,
    container_id: Option<String>,
    container_ip: Option<String>,
    verdict: Option<Decision>,
    rule: String,
    reason: String,
    method: String,
    host: String,
    path: String,
    status: u64,
    bytes_up: u64,
    bytes_down: u64,
    duration_ms: u64,
}

/// One line of the audit, for a terminal.
fn row(line: &Row) -> String {
    let text = |text: &str| if text.is_empty() { "-".to_owned() } else { printable(text) };
    let field = |field: &Option<String>| text(field.as_deref().unwrap_or_default());
    let who = match (field(&line.container_id), field(&line.container_ip)) {
        (id, ip) if id == "-" || id == ip => ip,
        (id, ip) => format!("{id} ({ip})"),
    };
    let verdict = match line.event.as_str() {
        "start" => "open",
        _ => line.verdict.map_or("-", Decision::name),
    };
    // A handshake has no method, nor has a request that Envoy could not read.
    let what = if line.method.is_empty() {
        text(&line.host)
    } else {
        format!("{} {}{}", printable(&line.method), text(&line.host), printable(&line.path))
    };
    let refused = line.verdict == Some(Decision::Deny) && !line.reason.is_empty();
    let why = if refused { format!(": {}", printable(&line.reason)) } else { String::new() };
    let Row { status, duration_ms, bytes_up, bytes_down, .. } = line;
    let (ts, rule) = (text(&line.ts), text(&line.rule));
    format!("{ts} {verdict:<5} {who}  {what}  {status} {duration_ms}ms up {bytes_up} down {bytes_down}  {rule}{why}")
}

/// Escapes text from a sandbox for a terminal: every character that could move the cursor, or hide or reverse the text
/// after it.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let shown = c == '…' || c.is_ascii_graphic() || c == ' ';
            let (plain, spelled) = if shown { (Some(c), None) } else { (None, Some(c.escape_unicode())) };
            plain.into_iter().chain(spelled.into_iter().flatten())
        })
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_is_one_line_and_moves_no_cursor() {
        let line = json!({"ts": "2026-11-24T08:00:00Z", "event": "end", "container_id": "box", "container_ip": "10.0.0.5",
            "verdict": "deny", "rule": "egress.host", "reason": "no \u{1b}[2J", "method": "GET",
            "host": "a.example", "path": "/x\u{202e}y\n", "status": 403, "duration_ms": 7, "bytes_up": 1, "bytes_down": 2});
        assert_eq!(
            row(&serde_json::from_value(line).unwrap()),
            "2026-11-24T08:00:00Z deny  box (10.0.0.5)  GET a.example/x\\u{202e}y\\u{a}  403 7ms up 1 down 2  egress.host: no \\u{1b}[2J"
        );
        assert!(row(&Row::default()).starts_with("- - "), "{}", row(&Row::default()));
    }

    #[test]
    fn what_is_asked_for_stands_in_the_query() {
        let tail = Tail {
            json: false,
            container: Some("a b&c=ü".into()),
            verdict: Some(Verdict::Deny),
            lines: 3,
            no_follow: true,
        };
        assert_eq!(tail.path(), "/internal/audit?follow=0&last=3&container=a%20b%26c%3D%C3%BC&verdict=deny");
    }
}
