//! The body of a refusal: JSON for programs, plain text where git prints the body.
//!
//! [`render`] writes the body of every refusal, Envoy's own answers included, with one exception: a push whose client
//! reads git's report gets that report (`Refusal::report` in the crate `push`). The reason is worded where the
//! [`Denial`] is made.

use crate::{Denial, Rule, Stage};
use serde::Serialize;

/// The header of every refusal that names the rule.
pub const RULE_HEADER: &str = "x-sallyport-rule";

/// The form of a refusal's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `{"error","rule","stage","request_id"}`.
    Json,
    /// Lines of text: git prints the body of a refused `info/refs` as `remote:` lines, but only as text/plain
    /// (git's remote-curl.c, `show_http_message`).
    Text,
}

impl Form {
    /// The form for a request with this path: text for git's reads, which request `…/info/refs` first and then
    /// `…/git-upload-pack`. The refusal of a push is in its report.
    pub fn of_path(path: &[u8]) -> Self {
        let path = path.split(|b| *b == b'?').next().unwrap_or_default();
        if path.ends_with(b"/info/refs") || path.ends_with(b"/git-upload-pack") { Form::Text } else { Form::Json }
    }
}

/// A refusal, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The value of `content-type`.
    pub content_type: &'static str,
    /// The rule, for `x-sallyport-rule`.
    pub rule: Rule,
    /// The value of `retry-after`, in seconds. `None` without that header.
    pub retry_after: Option<u32>,
    /// The body.
    pub body: Vec<u8>,
}

#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    rule: Rule,
    stage: Stage,
    request_id: &'a str,
    /// The member of an error that `gh` and GitHub's own libraries print.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// Renders `denial`. `request_id` is the id in the audit line. For a refusal that Envoy sends itself, it is the format
/// command that Envoy replaces by the id.
pub fn render(denial: &Denial, form: Form, request_id: &str) -> Refusal {
    // The credential stage limits calls of GitHub's API too.
    let message = (denial.stage == Stage::Github || denial.rule == Rule::LimitGithub)
        .then(|| format!("{} (refused by sallyport, rule {})", denial.reason, denial.rule));
    let body = Body { error: &denial.reason, rule: denial.rule, stage: denial.stage, request_id, message };
    let (content_type, body) = match form {
        // A struct of strings always serialises. If it did not, the refusal would be sent without a body.
        Form::Json => ("application/json", format!("{}\n", serde_json::to_string(&body).unwrap_or_default())),
        Form::Text => (
            "text/plain; charset=utf-8",
            format!(
                "sallyport: refused (rule {})\nsallyport: {}\nsallyport: request id {request_id}\n",
                denial.rule, denial.reason
            ),
        ),
    };
    let Denial { status, rule, retry_after, .. } = *denial;
    Refusal { status, content_type, rule, retry_after, body: body.into_bytes() }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn git_gets_text_and_programs_get_json() {
        assert_eq!(Form::of_path(b"/o/r.git/info/refs?service=git-upload-pack"), Form::Text);
        assert_eq!(Form::of_path(b"/o/r/info/refs"), Form::Text);
        assert_eq!(Form::of_path(b"/o/r.git/git-upload-pack"), Form::Text);
        assert_eq!(Form::of_path(b"/o/r.git/git-receive-pack"), Form::Json);
        assert_eq!(Form::of_path(b"/repos/o/r?x=/info/refs"), Form::Json);
        assert_eq!(Form::of_path(b"/repos/o/r?x=/git-upload-pack"), Form::Json);
        let text = |denial: &Denial, form| String::from_utf8(render(denial, form, "7").body).unwrap();
        let denial = Denial::new(Rule::IdentityUnknown, "say \"who\"");
        assert_eq!(
            text(&denial, Form::Json),
            r#"{"error":"say \"who\"","rule":"identity.unknown","stage":"identity","request_id":"7"}"#.to_owned()
                + "\n"
        );
        let denial = Denial::new(Rule::GithubMerge, "no");
        assert_eq!(
            text(&denial, Form::Json),
            r#"{"error":"no","rule":"github.merge","stage":"github","request_id":"7","message":"no (refused by sallyport, rule github.merge)"}"#
                .to_owned()
                + "\n"
        );
        let waits = Denial::limited(Stage::Credentials, "full", 60);
        assert_eq!(render(&waits, Form::Json, "7").retry_after, Some(60));
        assert!(text(&waits, Form::Json).contains(r#""message":"full (refused by sallyport, rule limit.github)""#));
        let denial = Denial::new(Rule::IdentityUnknown, "who");
        assert!(text(&denial, Form::Text).contains("rule identity.unknown"));
    }
}
