//! The body of a refusal: JSON in the form that the clients of the host read, plain text where git prints the body.
//!
//! [`render`] writes the body of every refusal, Envoy's own answers included, with one exception: a push whose client
//! reads git's report gets that report (`Refusal::report` in the crate `push`). The reason is worded where the
//! [`Denial`] is made.

use crate::{Authority, Denial, Rule, Stage, github};
use serde::Serialize;

/// The header of every refusal that names the rule.
pub const RULE_HEADER: &str = "x-sallyport-rule";

/// The form of a refusal's body. Every form in JSON has the members `rule`, `stage` and `request_id`. The others are
/// those that the clients of the host read, so that they print the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `error` is the reason.
    Json,
    /// `error` is the reason, and `message` the reason with the rule: gh, GitHub's own libraries and git-lfs print it.
    GitHub,
    /// `error` is an object, as the model API of this provider writes it; `message` is at the top level too.
    Model(Provider),
    /// Lines of text: git prints the body of a refused `info/refs` as `remote:` lines, but only as text/plain
    /// (git's remote-curl.c, `show_http_message`).
    Text,
}

/// A model API with its own form of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// `{"type": "error", "error": {"type", "message"}}`
    Anthropic,
    /// `{"error": {"message", "type", "param", "code"}}`; other providers have copied it.
    OpenAi,
    /// `{"error": {"code", "message", "status"}}`, a google.rpc.Status
    Google,
}

/// The hosts of model APIs.
const PROVIDERS: [(&str, Provider); 11] = [
    ("api.anthropic.com", Provider::Anthropic),
    ("api.openai.com", Provider::OpenAi),
    ("chatgpt.com", Provider::OpenAi),
    ("openrouter.ai", Provider::OpenAi),
    ("api.groq.com", Provider::OpenAi),
    ("api.mistral.ai", Provider::OpenAi),
    ("api.x.ai", Provider::OpenAi),
    ("api.deepseek.com", Provider::OpenAi),
    ("api.perplexity.ai", Provider::OpenAi),
    ("generativelanguage.googleapis.com", Provider::Google),
    ("cloudcode-pa.googleapis.com", Provider::Google),
];

impl Form {
    /// The form for a request with this authority and path: text for git's reads, which request `…/info/refs` first and
    /// then `…/git-upload-pack`, otherwise the form of the host. The refusal of a push is in its report.
    pub fn of(authority: &[u8], path: &[u8]) -> Self {
        let path = path.split(|b| *b == b'?').next().unwrap_or_default();
        if path.ends_with(b"/info/refs") || path.ends_with(b"/git-upload-pack") {
            return Self::Text;
        }
        let Ok(Authority { host, .. }) = Authority::parse(authority) else { return Self::Json };
        if github::kind(&host).is_some() {
            return Self::GitHub;
        }
        let provider = PROVIDERS.iter().find(|(name, _)| *name == host.as_str());
        provider.map_or(Self::Json, |(_, provider)| Self::Model(*provider))
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
    /// Anthropic's `"error"`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    error: Error<'a>,
    rule: Rule,
    stage: Stage,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Error<'a> {
    Reason(&'a str),
    Anthropic {
        r#type: &'static str,
        message: &'a str,
    },
    OpenAi {
        message: &'a str,
        r#type: &'static str,
        /// Null: a refusal concerns no single parameter.
        param: (),
        code: Rule,
    },
    Google {
        code: u16,
        message: &'a str,
        status: &'static str,
    },
}

impl<'a> Error<'a> {
    /// The member `error` of `provider` for a refusal of `denial`, whose reason with the rule is `message`. The SDKs make
    /// their exceptions by the status of the response; the words for it are those of the providers' documentation where these have one for the status.
    fn of(provider: Provider, denial: &Denial, message: &'a str) -> Self {
        let code = denial.status;
        match provider {
            Provider::Anthropic => {
                let r#type = match code {
                    400 => "invalid_request_error",
                    401 => "authentication_error",
                    403 => "permission_error",
                    404 => "not_found_error",
                    413 => "request_too_large",
                    429 => "rate_limit_error",
                    _ => "api_error",
                };
                Self::Anthropic { r#type, message }
            }
            Provider::OpenAi => {
                let r#type = match code {
                    429 => "rate_limit_error",
                    500.. => "server_error",
                    _ => "invalid_request_error",
                };
                Self::OpenAi { message, r#type, param: (), code: denial.rule }
            }
            Provider::Google => {
                let status = match code {
                    400 => "INVALID_ARGUMENT",
                    401 => "UNAUTHENTICATED",
                    403 => "PERMISSION_DENIED",
                    404 => "NOT_FOUND",
                    429 => "RESOURCE_EXHAUSTED",
                    502 | 503 => "UNAVAILABLE",
                    _ => "UNKNOWN",
                };
                Self::Google { code, message, status }
            }
        }
    }
}

/// Renders `denial`. `request_id` is the id in the audit line. For a refusal that Envoy sends itself, it is the format
/// command that Envoy replaces by the id.
pub fn render(denial: &Denial, form: Form, request_id: &str) -> Refusal {
    let said = format!("{} (refused by sallyport, rule {})", denial.reason, denial.rule);
    let json = |kind, error, message| {
        let body = Body { kind, error, rule: denial.rule, stage: denial.stage, request_id, message };
        // A struct of strings always serialises. If it did not, the refusal would be sent without a body.
        ("application/json", format!("{}\n", serde_json::to_string(&body).unwrap_or_default()))
    };
    let reason = Error::Reason(&denial.reason);
    let (content_type, body) = match form {
        Form::Json => json(None, reason, None),
        Form::GitHub => json(None, reason, Some(&said)),
        Form::Model(provider) => {
            let kind = (provider == Provider::Anthropic).then_some("error");
            json(kind, Error::of(provider, denial, &said), Some(&said))
        }
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

    fn text(denial: &Denial, form: Form) -> String {
        String::from_utf8(render(denial, form, "7").body).unwrap()
    }

    #[test]
    fn git_gets_text_and_programs_get_the_json_of_their_host() {
        for (authority, path, form) in [
            ("github.com", "/o/r.git/info/refs?service=git-upload-pack", Form::Text),
            ("github.com", "/o/r/info/refs", Form::Text),
            ("github.com", "/o/r.git/git-upload-pack", Form::Text),
            ("github.com", "/o/r.git/git-receive-pack", Form::GitHub),
            ("API.github.com:443", "/repos/o/r?x=/info/refs", Form::GitHub),
            ("raw.githubusercontent.com", "/repos/o/r?x=/git-upload-pack", Form::GitHub),
            ("api.anthropic.com", "/v1/messages", Form::Model(Provider::Anthropic)),
            ("api.openai.com.", "/v1/responses", Form::Model(Provider::OpenAi)),
            ("generativelanguage.googleapis.com", "/v1beta/models", Form::Model(Provider::Google)),
            ("example.com", "/", Form::Json),
            ("my-api.openai.com.example.com", "/", Form::Json),
            ("127.0.0.1", "/", Form::Json),
            ("", "/", Form::Json),
        ] {
            assert_eq!(Form::of(authority.as_bytes(), path.as_bytes()), form, "{authority}{path}");
        }
    }

    #[test]
    fn each_form_has_what_its_clients_read() {
        let denial = Denial::new(Rule::IdentityUnknown, "say \"who\"");
        let own = r#""rule":"identity.unknown","stage":"identity","request_id":"7""#;
        let said = r#"say \"who\" (refused by sallyport, rule identity.unknown)"#;
        let forms = [
            (Form::Json, format!(r#"{{"error":"say \"who\"",{own}}}"#)),
            (Form::GitHub, format!(r#"{{"error":"say \"who\"",{own},"message":"{said}"}}"#)),
            (
                Form::Model(Provider::Anthropic),
                format!(
                    r#"{{"type":"error","error":{{"type":"permission_error","message":"{said}"}},{own},"message":"{said}"}}"#
                ),
            ),
            (
                Form::Model(Provider::OpenAi),
                format!(
                    r#"{{"error":{{"message":"{said}","type":"invalid_request_error","param":null,"code":"identity.unknown"}},{own},"message":"{said}"}}"#
                ),
            ),
            (
                Form::Model(Provider::Google),
                format!(
                    r#"{{"error":{{"code":403,"message":"{said}","status":"PERMISSION_DENIED"}},{own},"message":"{said}"}}"#
                ),
            ),
        ];
        for (form, expected) in forms {
            assert_eq!(text(&denial, form), expected + "\n", "{form:?}");
        }
        assert!(text(&denial, Form::Text).contains("rule identity.unknown"));
    }

    #[test]
    fn a_limit_tells_when_to_try_again() {
        let waits = Denial::limited(Stage::Credentials, "full", 60);
        assert_eq!(render(&waits, Form::GitHub, "7").retry_after, Some(60));
        let google = text(&waits, Form::Model(Provider::Google));
        assert!(google.contains(r#""code":429"#) && google.contains("RESOURCE_EXHAUSTED"), "{google}");
        assert!(text(&waits, Form::Model(Provider::Anthropic)).contains("rate_limit_error"));
    }
}
