//! `push explain`: what the gateway would say to a push, by the very code that the push filter runs.

use std::io::Read;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use policy::push::Change;
use policy::{Denial, Rule, Stage};
use push::{Descent, Inspection, Question, RefUpdate, Standing};
use serde::Serialize;

use super::explain::{container, header, policy, registration};
use super::{Common, Error, print};

/// How much of the body is read at a time.
const CHUNK: usize = 64 << 10;

/// What pushes do.
#[derive(Debug, Subcommand)]
pub enum Push {
    Explain(Explain),
}

/// Say what the gateway would answer to a push, whose body comes on standard input
///
/// The refs are taken to be where the push says that they are; the gateway asks GitHub. Where the fast-forward cannot
/// be seen in the pack, the answer is \"ask\", with the commits that GitHub would be asked about. Exit 0, or 10 where it
/// is denied.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  GIT_TRACE_CURL=1 git push 2>trace   # or any recording of the body of POST …/git-receive-pack\n  sallyport push explain --container box.json --repo o/r < body"
)]
pub struct Explain {
    /// The container: a registration as JSON, or a file with one
    #[arg(long, value_name = "FILE|JSON")]
    container: String,
    /// The repository that is pushed to
    #[arg(long, value_name = "OWNER/NAME")]
    repo: String,
    /// A header, where it is not as git sends it; may be given more than once
    #[arg(long = "header", value_name = "K: V")]
    headers: Vec<String>,
    /// The policy [default: config/policy.yaml here, otherwise the built-in one]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// JSON is all that it prints
    #[arg(long, hide = true)]
    json: bool,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Explained<'a> {
    verdict: &'static str,
    stage: &'static str,
    rule: Rule,
    status: u16,
    reason: &'a str,
    updates: Vec<Update<'a>>,
    commits: usize,
    pack_bytes: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ask: Vec<DescentQuery>,
}

#[derive(Debug, Serialize)]
struct Update<'a> {
    #[serde(rename = "ref")]
    name: &'a str,
    old: Option<String>,
    new: Option<String>,
    kind: Change,
    /// Why it would not be moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// What GitHub would be asked: whether one of the boundary's commits descends from the old one.
#[derive(Debug, Serialize)]
struct DescentQuery {
    #[serde(rename = "ref")]
    name: String,
    old: String,
    boundary: Vec<String>,
}

impl Push {
    pub(super) fn run(self, common: &Common) -> Result<(), Error> {
        let Self::Explain(explain) = self;
        explain.run(common)
    }
}

impl Explain {
    fn run(self, common: &Common) -> Result<(), Error> {
        let policy = policy(common, self.policy.as_deref())?;
        let container = container(registration(&self.container)?, Timestamp::now())
            .map_err(|error| Error::Usage(format!("--container: {error}")))?;
        let mut headers = Vec::new();
        for text in &self.headers {
            let (name, value) = header(text)?;
            headers.push((name.to_ascii_lowercase(), value.into_bytes()));
        }
        if !headers.iter().any(|(name, _)| name == "content-type") {
            headers.push(("content-type".into(), push::CONTENT_TYPE.to_vec()));
        }
        let (owner, name) = self
            .repo
            .split_once('/')
            .ok_or_else(|| Error::Usage(format!("--repo {:?}: expected owner/name", self.repo)))?;
        let mut inspection = Inspection::new(policy.github.branches.clone(), container.clone());
        if !container.has_repo(owner.as_bytes(), name.as_bytes()) {
            let reason = format!("{} is not one of the repositories of {}", self.repo, container.container_id);
            inspection.refuse(Denial::new(Rule::GithubRepo, reason));
        } else if let Err(denial) = push::judge_headers(&headers) {
            inspection.refuse(denial);
        }
        let ask = read(&mut inspection, &mut std::io::stdin().lock())?;
        let (explained, denied) = explained(&inspection, ask);
        print(&format!("{}\n", serde_json::to_string(&explained).map_err(anyhow::Error::from)?))?;
        if denied { Err(Error::Denied) } else { Ok(()) }
    }
}

/// Inspects all of `body`, and returns what is left to ask.
fn read(inspection: &mut Inspection, body: &mut impl Read) -> Result<Vec<Descent>, Error> {
    let mut chunk = vec![0; CHUNK];
    let mut ask = Vec::new();
    loop {
        let length = body.read(&mut chunk).map_err(anyhow::Error::from)?;
        match length {
            0 => inspection.finish(),
            _ => _ = inspection.feed(chunk.get(..length).unwrap_or_default()),
        }
        while let Some(question) = inspection.take_question() {
            match question {
                Question::Refs(_) => inspection.refs_are(&[]),
                Question::Descents(asked) => ask = asked,
            }
        }
        if length == 0 {
            return Ok(ask);
        }
    }
}

fn explained(inspection: &Inspection, ask: Vec<Descent>) -> (Explained<'_>, bool) {
    let refusal = match inspection.standing() {
        Standing::Refused(refusal) => Some(refusal),
        Standing::Unjudged | Standing::Pending | Standing::Allowed => None,
    };
    let update = |update: &'_ RefUpdate| (update.old.map(|oid| oid.to_string()), update.new.map(|oid| oid.to_string()));
    let updates = inspection.updates().iter().map(|of| {
        let (old, new) = update(of);
        let reason = refusal.and_then(|refusal| refusal.refs.iter().find(|refused| refused.name == of.name));
        let reason = reason.map(|refused| refused.reason.as_str());
        Update { name: &of.name, old, new, kind: push::change(of), reason }
    });
    let ask = ask.into_iter().map(|descent| DescentQuery {
        name: descent.name,
        old: descent.ancestor.to_string(),
        boundary: descent.commits.iter().map(ToString::to_string).collect(),
    });
    let ask: Vec<_> = ask.collect();
    let verdict = match refusal {
        Some(_) => "deny",
        None if ask.is_empty() => "allow",
        None => "ask",
    };
    let denial = refusal.map(|refusal| &refusal.denial);
    let explained = Explained {
        verdict,
        stage: denial.map_or(Stage::Push, |denial| denial.stage).name(),
        rule: denial.map_or(Rule::PushAllowed, |denial| denial.rule),
        status: denial.map_or(200, |denial| denial.status),
        reason: denial.map_or("", |denial| denial.reason.as_str()),
        updates: updates.collect(),
        commits: inspection.commits(),
        pack_bytes: inspection.pack_bytes(),
        ask,
    };
    (explained, refusal.is_some())
}
