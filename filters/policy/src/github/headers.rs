//! The headers of a request to GitHub's API. Headers that change a request's meaning are refused. Unknown headers are
//! removed.

use super::Refused;

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
const KEPT: [&str; 18] = [
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
];

/// The GraphQL preview features that a client may request: those that gh requests.
const FEATURES: [&str; 1] = ["merge_queue"];

/// Judges the headers, and returns the names of the headers to remove.
///
/// # Errors
/// If the request is refused.
pub fn screen(host: &str, headers: &[(String, Vec<u8>)]) -> Result<Vec<String>, Refused> {
    let refuse = |reason: String| Err(Refused::unknown("github.header", reason));
    let count = |name: &str| headers.iter().filter(|(have, _)| have.eq_ignore_ascii_case(name)).count();
    if count("content-length") > 0 && count("transfer-encoding") > 0 {
        return refuse("content-length and transfer-encoding exclude each other".into());
    }
    let mut removed = Vec::new();
    for (name, value) in headers {
        let lower = name.to_ascii_lowercase();
        if REFUSED.contains(&lower.as_str()) {
            return refuse(format!("{lower} is not passed on, and without it this would be another request"));
        }
        let text = String::from_utf8_lossy(value).to_ascii_lowercase();
        match lower.as_str() {
            name if name.starts_with(':') => {}
            "host" if !text.eq_ignore_ascii_case(host) => {
                return refuse("host is another one than the request's".into());
            }
            "authorization" | "content-type" | "content-length" | "graphql-features" | "host" if count(&lower) > 1 => {
                return refuse(format!("{lower} is there twice"));
            }
            // Envoy joins repeated `authorization` headers with a comma.
            "authorization" if text.contains(',') => return refuse("authorization is there twice".into()),
            "content-encoding" => return refuse("a body has to be sent as it is, without content-encoding".into()),
            "content-type" => {
                let charset = text.split(';').skip(1).find_map(|parameter| parameter.trim().strip_prefix("charset="));
                if charset.is_some_and(|charset| charset.trim_matches('"') != "utf-8") {
                    return refuse("a body has to be UTF-8".into());
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
