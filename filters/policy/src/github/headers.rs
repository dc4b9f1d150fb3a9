//! The headers of a request to GitHub's API. Headers that change a request's meaning are refused. Unknown headers are
//! removed.

use super::Refused;
use crate::Rule;

/// Headers that make some servers treat a request as a different one.
pub const REFUSED: [&str; 9] = [
    "x-forwarded-host",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-method",
    "x-original-url",
    "x-rewrite-url",
    "cookie",
    "upgrade",
];

/// Headers that are forwarded. A later stage replaces the client's `authorization` with the credential.
const KEPT: [&str; 19] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "authorization",
    "content-length",
    "content-type",
    "graphql-features",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-unmodified-since",
    "time-zone",
    "transfer-encoding",
    "user-agent",
    "x-github-api-version",
    "x-request-id",
    "x-forwarded-proto",
    super::RETRY_ON,
];

/// The GraphQL preview features that a client may request: the one of gh, and those of github-mcp-server for the values of
/// an issue's fields. The tables still decide about each field and member of a preview.
const FEATURES: [&str; 3] = ["merge_queue", "issue_fields", "repo_issue_fields"];

/// Judges the headers, and returns the names of the headers to remove.
///
/// # Errors
/// If the request is refused.
pub fn screen(host: &str, headers: &[(String, Vec<u8>)]) -> Result<Vec<String>, Refused> {
    let refuse = |reason: String| Err(Refused::unknown(Rule::GithubHeader, reason));
    let count = |name: &str| headers.iter().filter(|(have, _)| have.eq_ignore_ascii_case(name)).count();
    if count("content-length") > 0 && count("transfer-encoding") > 0 {
        return refuse("the request has both content-length and transfer-encoding; only one is allowed".into());
    }
    let mut removed = Vec::new();
    for (name, value) in headers {
        let lower = name.to_ascii_lowercase();
        if REFUSED.contains(&lower.as_str()) {
            return refuse(format!("the header {lower} is not allowed, because it can change the request's meaning"));
        }
        let text = String::from_utf8_lossy(value).to_ascii_lowercase();
        match lower.as_str() {
            name if name.starts_with(':') => {}
            "host" if !text.eq_ignore_ascii_case(host) => {
                return refuse("the header host differs from the request's authority".into());
            }
            "authorization" | "content-type" | "content-length" | "graphql-features" | "host" if count(&lower) > 1 => {
                return refuse(format!("duplicate header {lower}"));
            }
            // Envoy joins repeated `authorization` headers with a comma.
            "authorization" if text.contains(',') => return refuse("duplicate header authorization".into()),
            "content-encoding" => return refuse("content-encoding is not supported; send the body unencoded".into()),
            "content-type" => {
                let charset = text.split(';').skip(1).find_map(|parameter| parameter.trim().strip_prefix("charset="));
                if charset.is_some_and(|charset| charset.trim_matches('"') != "utf-8") {
                    return refuse("the body's charset has to be UTF-8".into());
                }
            }
            "graphql-features" if text.split(',').any(|feature| !FEATURES.contains(&feature.trim())) => {
                return refuse(format!("graphql-features may be {} only", FEATURES.join(", ")));
            }
            known if KEPT.contains(&known) => {}
            _ => removed.push(lower),
        }
    }
    removed.sort();
    removed.dedup();
    Ok(removed)
}
