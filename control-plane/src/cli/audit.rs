//! `audit tail`.

use std::io::{BufRead, BufReader};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::client::Client;
use super::{Common, Error, print};
use base::percent;

/// What was decided.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Print the last decisions, and each further one as it is made
    Tail(Tail),
}

/// Which lines, and how.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sallyport audit tail --verdict deny --container 172.18.0.5")]
pub struct Tail {
    /// Print the lines as they are in audit.jsonl
    #[arg(long)]
    json: bool,
    /// Of this container only, by its id or its address
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    /// With this verdict only
    #[arg(long, value_enum)]
    verdict: Option<Verdict>,
    /// How many of the last lines to begin with; the gateway remembers some thousands
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    lines: usize,
    /// Print the last lines and end
    #[arg(long)]
    no_follow: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Verdict {
    /// It passed
    Allow,
    /// It was refused
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
            if answer.read_line(&mut line).context("the gateway has gone")? == 0 {
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
        let value: Value = serde_json::from_str(data).unwrap_or_default();
        match event {
            "lost" => {
                eprintln!("sallyport: {} lines came faster than they were read; audit.jsonl has them", value["lost"]);
                Ok(())
            }
            _ if self.json => print(&format!("{data}\n")),
            _ => print(&format!("{}\n", row(&value))),
        }
    }
}

/// One line of the audit for somebody who looks on.
fn row(line: &Value) -> String {
    let text = |key: &str| line[key].as_str().filter(|text| !text.is_empty()).map_or_else(|| "-".to_owned(), printable);
    let number = |key: &str| line[key].as_u64().unwrap_or_default();
    let who = match (text("container_id"), text("container_ip")) {
        (id, ip) if id == "-" || id == ip => ip,
        (id, ip) => format!("{id} ({ip})"),
    };
    let verdict = match line["event"].as_str() {
        Some("start") => "open".to_owned(),
        _ => text("verdict"),
    };
    let what = match text("method") {
        // A handshake has no method, and what Envoy could not read has none that we know.
        method if method == "-" => text("host"),
        method => format!("{method} {}{}", text("host"), line["path"].as_str().map(printable).unwrap_or_default()),
    };
    let why = match line["reason"].as_str() {
        Some(reason) if line["verdict"] == "deny" && !reason.is_empty() => format!(": {}", printable(reason)),
        _ => String::new(),
    };
    let (rule, status, took) = (text("rule"), number("status"), number("duration_ms"));
    let (up, down) = (number("bytes_up"), number("bytes_down"));
    format!("{} {verdict:<5} {who}  {what}  {status} {took}ms up {up} down {down}  {rule}{why}", text("ts"))
}

/// Text that may come from a sandbox, as it can be shown on a terminal: whatever could move the cursor, hide or turn
/// round what follows is spelled out.
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
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_is_one_line_and_moves_no_cursor() {
        let line = json!({"ts": "2026-11-24T08:00:00Z", "event": "end", "container_id": "box", "container_ip": "10.0.0.5",
            "verdict": "deny", "rule": "egress.host", "reason": "no \u{1b}[2J", "method": "GET",
            "host": "a.example", "path": "/x\u{202e}y\n", "status": 403, "duration_ms": 7, "bytes_up": 1, "bytes_down": 2});
        assert_eq!(
            row(&line),
            "2026-11-24T08:00:00Z deny  box (10.0.0.5)  GET a.example/x\\u{202e}y\\u{a}  403 7ms up 1 down 2  egress.host: no \\u{1b}[2J"
        );
        assert!(row(&Value::Null).starts_with("- - "), "{}", row(&Value::Null));
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
