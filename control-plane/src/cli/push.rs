//! `push explain`: the gateway's decision on a push, by the code of its stages.

use std::io::Read;
use std::path::PathBuf;
use std::rc::Rc;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use policy::push::Change;
use policy::{Container, Rule, Stage, Whole};
use push::{Descent, Inspection, Question, RefUpdate, Standing};
use serde::Serialize;

use super::chain::{Answer, Chain, Credential, Judged};
use super::explain::{container, header, registration};
use super::{Common, Error, print};

/// The bytes of the body that are read at a time.
const CHUNK: usize = 64 << 10;

/// Explain pushes.
#[derive(Debug, Subcommand)]
pub enum Push {
    Explain(Explain),
}

/// Print the gateway's decision on the push whose body is on standard input, and the reason
///
/// The stages identity, github and credentials judge the request first, then the stage push its body. The refs are taken
/// to be where the push says; the gateway asks GitHub. If the pack does not prove that a branch moves forward, the verdict
/// is "ask", with the commits that the gateway would look up at GitHub; --answer supposes GitHub's answer. Exit 10 if the
/// verdict is "deny", otherwise 0.
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
    /// A header that differs from git's; may be given more than once
    #[arg(long = "header", value_name = "K: V")]
    headers: Vec<String>,
    /// Suppose GitHub's answer about the commits under "ask": "yes" means that the branch moves forward
    #[arg(long, value_enum, value_name = "yes|no", hide_possible_values = true)]
    answer: Option<Answer>,
    /// The policy [default: config/policy.yaml here, otherwise the built-in one]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Print JSON; the output is JSON without this option, too
    #[arg(long, hide = true)]
    json: bool,
}

/// The output.
#[derive(Debug, Serialize)]
struct Explained<'a> {
    verdict: &'static str,
    stage: &'static str,
    rule: Rule,
    status: u16,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'static str>,
    updates: Vec<Update<'a>>,
    commits: usize,
    pack_bytes: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ask: Vec<DescentQuery>,
    /// The credential that the gateway adds. `None` if the push is refused, or github.com has no credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<&'a Credential>,
}

#[derive(Debug, Serialize)]
struct Update<'a> {
    #[serde(rename = "ref")]
    name: &'a str,
    old: Option<String>,
    new: Option<String>,
    kind: Change,
    /// The reason why the push may not move this ref. `None` if the ref has no fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// A question that the gateway would ask GitHub: whether a commit of the boundary descends from the old commit.
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
        let chain = Chain::load(common, self.policy.as_deref())?;
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
        if self.repo.split('/').count() != 2 {
            return Err(Error::Usage(format!("--repo {:?}: expected owner/name", self.repo)));
        }
        let (text, denied) =
            explain(&chain, container, (&self.repo, &headers), &mut std::io::stdin().lock(), self.answer)?;
        print(&format!("{text}\n"))?;
        if denied { Err(Error::Denied) } else { Ok(()) }
    }
}

/// Judges a push to a repository with these headers. Returns the text to print, and whether the push is denied.
fn explain(
    chain: &Chain,
    container: Container,
    (repo, headers): (&str, &[(String, Vec<u8>)]),
    body: &mut impl Read,
    answer: Option<Answer>,
) -> Result<(String, bool), Error> {
    let target = format!("/{repo}.git/git-receive-pack");
    let whole = Whole { method: b"POST", authority: b"github.com", target: target.as_bytes(), headers, body: b"" };
    let judged = chain.judge(whole, &container, None, Timestamp::now());
    let (owner, name) = repo.split_once('/').unwrap_or_default();
    let container = container.only(owner.as_bytes(), name.as_bytes());
    let mut inspection = Inspection::new(Rc::new(chain.policy.github.clone()), container);
    let mut ask = Vec::new();
    // The gateway reads no byte of a push that an earlier stage refuses.
    if judged.explained.verdict != "deny" {
        if let Err(denial) = push::judge_headers(headers) {
            inspection.refuse(denial);
        }
        ask = read(&mut inspection, body, answer)?;
    }
    let (explained, denied) = explained(&judged, &inspection, ask);
    Ok((serde_json::to_string(&explained).map_err(anyhow::Error::from)?, denied))
}

/// Inspects all of `body`. Returns the questions for GitHub, unless `answer` answers them.
fn read(inspection: &mut Inspection, body: &mut impl Read, answer: Option<Answer>) -> Result<Vec<Descent>, Error> {
    let mut chunk = vec![0; CHUNK];
    let mut ask = Vec::new();
    loop {
        let length = body.read(&mut chunk).map_err(anyhow::Error::from)?;
        match length {
            0 => inspection.finish(),
            _ => _ = inspection.feed(chunk.get(..length).unwrap_or_default(), u64::MAX),
        }
        // Nothing is sent.
        inspection.take();
        while let Some(question) = inspection.take_question() {
            match question {
                Question::Refs(_) => inspection.refs_are(&[]),
                Question::Descents(asked) => match answer {
                    Some(answer) => inspection.descents_are(&asked, &vec![answer.confirmed(); asked.len()]),
                    None => ask = asked,
                },
            }
        }
        if length == 0 {
            return Ok(ask);
        }
    }
}

fn explained<'a>(judged: &'a Judged, inspection: &'a Inspection, ask: Vec<Descent>) -> (Explained<'a>, bool) {
    let before = &judged.explained;
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
    let (verdict, stage, rule, status, reason) = match (refusal.map(|refusal| &refusal.denial), before.verdict) {
        (_, "deny") => ("deny", before.stage, before.rule, before.status, before.reason.as_str()),
        (Some(denial), _) => ("deny", denial.stage, denial.rule, denial.status, denial.reason.as_str()),
        (None, _) => (if ask.is_empty() { "allow" } else { "ask" }, Stage::Push, Rule::PushAllowed, 200, ""),
    };
    let denied = verdict == "deny";
    let explained = Explained {
        verdict,
        stage: stage.name(),
        rule,
        status,
        reason,
        operation: before.operation.as_deref(),
        class: before.class,
        updates: updates.collect(),
        commits: inspection.commits(),
        pack_bytes: inspection.pack_bytes(),
        ask,
        credential: judged.credential.as_ref().filter(|_| !denied),
    };
    (explained, denied)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::chain::tests::{chain, container};
    use super::*;
    use serde_json::{Value, json};

    /// A body that moves `sandbox/x` between two commits. Its pack is empty.
    fn body() -> Vec<u8> {
        let update = format!("{} {} refs/heads/sandbox/x\0report-status", "1".repeat(40), "2".repeat(40));
        let head = format!("{:04x}{update}0000PACK", 4 + update.len());
        [head.as_bytes(), &[0, 0, 0, 2, 0, 0, 0, 0], &[7; 20]].concat()
    }

    /// The printed verdict on the push `body` to `repo` under `policy`.
    fn printed(policy: &str, record: Value, repo: &str, body: &mut impl Read, answer: Option<Answer>) -> Value {
        let headers = [("content-type".to_owned(), push::CONTENT_TYPE.to_vec())];
        let chain = chain(policy, &["GITHUB_TOKEN"]);
        let (text, denied) = explain(&chain, container(record), (repo, &headers), body, answer).unwrap();
        let said: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(said["verdict"] == "deny", denied, "{said}");
        assert!(!text.contains("the-value"), "{text}");
        said
    }

    /// A body that can't be read.
    struct Unread;

    impl Read for Unread {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the body is read"))
        }
    }

    #[test]
    fn an_earlier_stage_refuses_before_the_body_is_read() {
        let denied = "github: {bot: {deny: [write-ref]}}";
        let by_label = "github: {operations: [{labels: {team: a}, deny: [git/receive-pack]}]}";
        for (policy, record, repo, rule) in [
            (denied, json!({}), "acme/app", "github.write-ref"),
            (by_label, json!({"labels": {"team": "a"}}), "acme/app", "github.operation"),
            ("", json!({}), "acme/other", "github.repo"),
            ("", json!({"credentials": ["openai"]}), "acme/app", "credentials.container"),
            ("egress: [example.com]", json!({}), "acme/app", "egress.host"),
        ] {
            let said = printed(policy, record, repo, &mut Unread, None);
            assert_eq!((&said["verdict"], &said["rule"]), (&json!("deny"), &json!(rule)), "{said}");
            assert!(said.get("credential").is_none(), "{said}");
            let github = rule != "egress.host";
            assert_eq!(said["operation"] == "git/receive-pack" && said["class"] == "write-ref", github, "{said}");
        }
    }

    #[test]
    fn a_question_is_answered_as_the_option_says() {
        let rule = |answer| {
            let said = printed("", json!({}), "acme/app", &mut body().as_slice(), answer);
            assert_eq!((&said["operation"], &said["class"]), (&json!("git/receive-pack"), &json!("write-ref")));
            let asked = said.get("ask").is_some();
            let credential = said["credential"]["rule"].as_str().unwrap_or_default();
            format!("{} {} {asked} {credential}", said["verdict"].as_str().unwrap(), said["rule"].as_str().unwrap())
        };
        assert_eq!(rule(None), "ask push.allowed true credentials.git");
        assert_eq!(rule(Some(Answer::Yes)), "allow push.allowed false credentials.git");
        assert_eq!(rule(Some(Answer::No)), "deny push.force false ");
    }
}
