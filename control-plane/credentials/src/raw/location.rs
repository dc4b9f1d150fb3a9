//! Where a credential stands in a request, as the operator writes it: `header`, `query`, `format`.

use super::super::entry::Location;
use super::super::format::Format;
use super::FieldError;
use base::contract::shows;

/// Headers that are not for credentials: they belong to the connection, to Envoy or to us (RFC 9110 section 7.6.1).
const NOT_FOR_CREDENTIALS: [&str; 12] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "x-request-id",
];

/// Prefixes of headers that belong to Envoy, to us, or to proxies.
const NOT_FOR_CREDENTIALS_BELOW: [&str; 3] = ["x-envoy-", "x-sallyport-", "x-forwarded-"];

/// Reads `header`.
///
/// # Errors
/// If `text` is no token (RFC 9110 section 5.1), has an underscore, or names a header that is not for credentials.
/// Envoy drops headers with an underscore.
pub fn read_header(text: &str) -> Result<Location, FieldError> {
    let name = text.to_ascii_lowercase();
    let token = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^`|~".contains(&b));
    let taken = NOT_FOR_CREDENTIALS.contains(&name.as_str())
        || NOT_FOR_CREDENTIALS_BELOW.iter().any(|prefix| name.starts_with(prefix));
    if !name.is_empty() && token && !taken {
        Ok(Location::Header(name))
    } else {
        let problem = format!("{text:?} is no header for a credential, such as authorization or x-api-key");
        Err(FieldError::new("header", problem))
    }
}

/// Reads `query`.
///
/// # Errors
/// If percent-encoding would change the name, or if the audit log shows the values of parameters of this name.
pub fn read_query(text: &str) -> Result<Location, FieldError> {
    let unreserved = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
    if !text.is_empty() && unreserved && !shows(text) {
        Ok(Location::Query(text.to_owned()))
    } else {
        let problem = format!("{text:?} is no parameter for a credential, such as key or api_key");
        Err(FieldError::new("query", problem))
    }
}

/// Reads `format`.
///
/// # Errors
/// If `text` doesn't have exactly one `{}`.
pub fn read_format(text: &str) -> Result<Format, FieldError> {
    Format::parse(text).ok_or_else(|| {
        let problem = format!(
            "invalid format {text:?}: expected a text with one {{}} for the credential's value, such as \"Bearer {{}}\""
        );
        FieldError::new("format", problem)
    })
}
