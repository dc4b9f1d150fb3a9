//! `policy explain`: the gateway's decision on a request, by the code of its stages.

use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use jiff::Timestamp;
use policy::{Container, Denial, Explained, Rule, Whole};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::chain::{Answer, Chain, Judged};
use super::{Common, Error};
use registry::record;

/// Print the gateway's decision on a request of a container, and the reason
///
/// The stages identity, github and credentials judge the request. Exit 0 if the verdict is "allow" or "ask", 10 if it
/// is "deny". With --batch always 0. "ask" means that GitHub has to confirm node ids first; --answer supposes GitHub's
/// answer. The member "credential" names the credential that the gateway would add, and whether this process finds a
/// value for it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sallyport policy explain --container box.json --method PUT \\\n      --url https://api.github.com/repos/o/r/pulls/1/merge\n  sallyport policy explain --batch requests.jsonl --policy policy.yaml"
)]
pub struct Explain {
    /// The container: a registration as JSON, or a file with one
    #[arg(long, value_name = "FILE|JSON", required_unless_present = "batch")]
    container: Option<String>,
    /// The method
    #[arg(long, value_name = "M", default_value = "GET")]
    method: String,
    /// The whole URL, or host:port for CONNECT
    #[arg(long, required_unless_present = "batch")]
    url: Option<String>,
    /// A header; may be given more than once
    #[arg(long = "header", value_name = "K: V")]
    headers: Vec<String>,
    /// A file with the body
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Many requests, one JSON object in each line: {"id","container","method","url","headers","body"|"body_base64","answer"}
    #[arg(long, value_name = "FILE.jsonl", conflicts_with_all = ["container", "url", "body", "headers"])]
    batch: Option<PathBuf>,
    /// Suppose that GitHub answers each question with this; with --batch the default for lines without "answer"
    #[arg(long, value_enum, value_name = "yes|no", hide_possible_values = true)]
    answer: Option<Answer>,
    /// The policy [default: config/policy.yaml here, otherwise the built-in one]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Print JSON; the output is JSON without this option, too
    #[arg(long, hide = true)]
    json: bool,
}

/// One request: a line of a batch. Other members are ignored, so operators can note the expected verdict and a reason.
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(default)]
    id: Value,
    container: Value,
    method: String,
    url: String,
    #[serde(default)]
    headers: Headers,
    body: Option<String>,
    body_base64: Option<String>,
    answer: Option<Answer>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Headers {
    Map(serde_json::Map<String, Value>),
    Pairs(Vec<(String, String)>),
}

impl Default for Headers {
    fn default() -> Self {
        Self::Pairs(Vec::new())
    }
}

/// The output for one request.
#[derive(Debug, Serialize)]
struct Printed {
    #[serde(skip_serializing_if = "Value::is_null")]
    id: Value,
    #[serde(flatten)]
    judged: Judged,
}

impl Explain {
    pub(super) fn run(self, common: &Common) -> Result<(), Error> {
        let chain = Chain::load(common, self.policy.as_deref())?;
        if let Some(file) = &self.batch {
            return batch(file, &chain, self.answer);
        }
        let container = registration(&self.container.unwrap_or_default())?;
        let headers = Headers::Pairs(self.headers.iter().map(|text| header(text)).collect::<Result<_, Error>>()?);
        let body = self.body.as_deref().map(read).transpose()?;
        let line = Line {
            id: Value::Null,
            container,
            method: self.method,
            url: self.url.unwrap_or_default(),
            headers,
            body: None,
            body_base64: body.map(|body| BASE64_STANDARD.encode(body)),
            answer: self.answer,
        };
        let judged = explain(&line, &chain);
        let denied = judged.explained.verdict == "deny";
        print(&mut std::io::stdout().lock(), line.id, judged)?;
        if denied { Err(Error::Denied) } else { Ok(()) }
    }
}

fn batch(file: &Path, chain: &Chain, answer: Option<Answer>) -> Result<(), Error> {
    let text = read(file)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        let (id, judged) = match serde_json::from_slice::<Line>(line) {
            Ok(line) => {
                let line = Line { answer: line.answer.or(answer), ..line };
                (line.id.clone(), explain(&line, chain))
            }
            Err(error) => {
                let id = serde_json::from_slice::<Value>(line).ok().and_then(|line| line.get("id").cloned());
                (id.unwrap_or(Value::Null), unreadable(format!("the line cannot be read: {error}")))
            }
        };
        print(&mut out, id, judged)?;
    }
    out.flush().map_err(|error| anyhow::Error::from(error).into())
}

fn explain(line: &Line, chain: &Chain) -> Judged {
    let now = Timestamp::now();
    let container = match container(line.container.clone(), now) {
        Ok(container) => container,
        Err(error) => return unreadable(format!("the container cannot be read: {error}")),
    };
    let body = match (&line.body, &line.body_base64) {
        (Some(_), Some(_)) => return unreadable("a request has either body or body_base64".into()),
        (Some(body), None) => body.clone().into_bytes(),
        (None, Some(body)) => match BASE64_STANDARD.decode(body) {
            Ok(body) => body,
            Err(error) => return unreadable(format!("body_base64 cannot be read: {error}")),
        },
        (None, None) => Vec::new(),
    };
    let headers: Option<Vec<(String, Vec<u8>)>> = match &line.headers {
        Headers::Map(map) => {
            map.iter().map(|(name, value)| Some((name.clone(), value.as_str()?.as_bytes().to_vec()))).collect()
        }
        Headers::Pairs(pairs) => {
            Some(pairs.iter().map(|(name, value)| (name.clone(), value.as_bytes().to_vec())).collect())
        }
    };
    let Some(headers) = headers else { return unreadable("a header's value must be a string".into()) };
    let connect = line.method == "CONNECT";
    let rest = ["https://", "http://"].into_iter().find_map(|scheme| line.url.strip_prefix(scheme));
    let Some(rest) = rest.or_else(|| connect.then_some(line.url.as_str())) else {
        return unreadable("the URL must begin with https:// or http://".into());
    };
    let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let whole = Whole {
        method: line.method.as_bytes(),
        authority: authority.as_bytes(),
        target: if target.is_empty() { b"/" } else { target.as_bytes() },
        headers: &headers,
        body: &body,
    };
    chain.judge(whole, &container, line.answer, now)
}

/// Reads the value of `--container`: JSON, or the path of a file with JSON.
///
/// # Errors
/// If the file can't be read, or the text is no JSON.
pub(super) fn registration(given: &str) -> Result<Value, Error> {
    let text = if given.trim_start().starts_with('{') {
        given.to_owned()
    } else {
        read(Path::new(given)).map(|text| String::from_utf8_lossy(&text).into_owned())?
    };
    serde_json::from_str(&text)
        .map_err(|error| Error::Usage(format!("--container is neither a file nor JSON: {error}")))
}

/// Parses the value of `--header`: a name, a colon and a value.
///
/// # Errors
/// If there is no colon.
pub(super) fn header(text: &str) -> Result<(String, String), Error> {
    let (name, value) =
        text.split_once(':').ok_or_else(|| Error::Usage(format!("--header {text:?}: expected 'Name: value'")))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// The record that a registration makes. Its time of expiry may be in the past.
///
/// # Errors
/// If the registration is invalid.
pub(super) fn container(mut json: Value, now: Timestamp) -> Result<Container, String> {
    let expires_at = json.as_object_mut().and_then(|object| object.remove("expires_at"));
    let mut record = record::record(&json, now)?;
    if let Some(at) = expires_at {
        let at = at.as_str().and_then(|at| at.parse().ok());
        record.expires_at = at.ok_or("expires_at: expected a time such as 2027-01-15T00:00:00Z")?;
    }
    Ok(record)
}

fn unreadable(reason: String) -> Judged {
    Explained::denied(Denial::new(Rule::RequestUnreadable, reason), None).into()
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(file).map_err(|error| Error::Usage(format!("{}: {error}", file.display())))
}

fn print(out: &mut impl Write, id: Value, judged: Judged) -> Result<(), Error> {
    let json = serde_json::to_string(&Printed { id, judged }).map_err(anyhow::Error::from)?;
    match writeln!(out, "{json}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(anyhow::Error::from(error).into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::chain::tests::chain;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_of_a_batch_may_have_an_answer() {
        let chain = chain("", &[]);
        let query = "mutation($i:AddCommentInput!){addComment(input:$i){clientMutationId}}";
        let input = json!({"subjectId": "PR_kwDOAWBuf84Bh4UQ", "body": "a comment"});
        let body = json!({"query": query, "variables": {"i": input}}).to_string();
        let line = |more: Value| {
            let mut line = json!({
                "id": 1, "method": "POST", "url": "https://api.github.com/graphql", "body": body, "why": "a comment",
                "container": {"container_ip": "172.18.0.5", "repos": [{"name": "acme/app", "id": 23_096_959}]},
            });
            line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value::<Line>(line)
        };
        for (more, expected) in [
            (json!({}), "ask"),
            (json!({"answer": null}), "ask"),
            (json!({"answer": "yes"}), "allow"),
            (json!({"answer": "no"}), "deny"),
        ] {
            assert_eq!(explain(&line(more).unwrap(), &chain).explained.verdict, expected);
        }
        assert!(line(json!({"answer": "perhaps"})).is_err());
    }
}
