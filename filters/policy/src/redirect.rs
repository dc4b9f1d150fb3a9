//! Redirects that GitHub's answers give a container: run logs, artifacts and files of releases are at hosts that the
//! policy does not list, under URLs that GitHub signs. The identity stage appends a parameter to the `location` of the
//! answer, and lets a GET of that URL pass.
//!
//! The parameter is a message authentication code over the container's record, the host, the path and the time until which
//! the URL is valid. Nothing is remembered, so the URL is valid in all workers and after a restart.
//!
//! **Invariant:** path and query of a request that passes are those that an answer of GitHub's has named. Only the headers
//! are the sandbox's.

use crate::{Denial, Egress, HostName, HostPattern, Rule};
use hmac::{Hmac, Mac};
use jiff::{SignedDuration, Timestamp};
use sha2::Sha256;

/// The hosts to which GitHub redirects, beside those of [`crate::github::kind`] that the github stage opens.
const TARGETS: [&str; 4] = [
    "release-assets.githubusercontent.com",
    "objects.githubusercontent.com",
    "*.actions.githubusercontent.com",
    "*.blob.core.windows.net",
];
/// The beginning of the hosts that store the logs and artifacts of runs. One or two digits follow.
const RESULTS: &str = "productionresultssa";
/// Where these hosts are.
const STORES: &str = ".blob.core.windows.net";
/// The hosts whose answers redirect to [`TARGETS`].
const SOURCES: [&str; 3] = ["api.github.com", "github.com", "uploads.github.com"];
/// How long a URL is valid.
const LIFETIME: SignedDuration = SignedDuration::from_hours(1);
/// The longest `location` that is read, in bytes.
const MAX_LOCATION: usize = 8 << 10;
/// The parameter, which is the last one of a URL. Its value is `EXPIRY.CODE`: seconds since 1970, and 32 hex digits.
const PARAMETER: &[u8] = b"sallyport=";
/// The length of a key, in bytes.
pub const KEY: usize = 32;

/// Whether GitHub redirects to `host`.
pub fn is_target(host: &HostName) -> bool {
    let host = host.as_str();
    TARGETS.iter().any(|target| target.strip_prefix('*').map_or(host == *target, |below| host.ends_with(below)))
}

/// Whether `host` is one of the few hosts of [`is_target`] that GitHub uses all the time. Of the others there is any
/// number.
pub fn is_usual_target(host: &HostName) -> bool {
    let number = host.as_str().strip_prefix(RESULTS).and_then(|rest| rest.strip_suffix(STORES));
    number.is_some_and(|number| matches!(number.len(), 1 | 2) && number.bytes().all(|b| b.is_ascii_digit()))
        || TARGETS.contains(&host.as_str())
}

/// Whether the answers of `host` may redirect to [`is_target`].
pub fn is_source(host: &HostName) -> bool {
    SOURCES.contains(&host.as_str())
}

/// The hosts to which GitHub redirects, if `egress` lists a host whose answers redirect there. No other list is needed:
/// the identity stage allows only single URLs there.
pub fn targets(egress: &Egress) -> impl Iterator<Item = HostPattern> {
    let source = |name: &&str| HostName::parse(name.as_bytes()).is_ok_and(|host| egress.access(&host).is_some());
    let given = SOURCES.iter().any(source);
    // A test parses every name of the table.
    TARGETS.iter().filter(move |_| given).filter_map(|target| HostPattern::parse(target).ok())
}

/// The key of the codes. A gateway has one, over restarts.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// A key of [`KEY`] random bytes. Returns `None` for any other number.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == KEY).then(|| Hmac::new_from_slice(bytes).ok()).flatten().map(Self)
    }

    /// The `location` of an answer with `status` and `headers` for the container with the record of `generation`. Returns
    /// `None` if the answer stays as it is: it is no redirect to a host of [`is_target`], or has several locations, or a
    /// location that clients could change on the way (longer than 8 KiB, bytes that no URI has, a fragment, a port).
    pub fn redirect(
        &self,
        generation: u64,
        status: u16,
        headers: &[(String, Vec<u8>)],
        now: Timestamp,
    ) -> Option<Vec<u8>> {
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            return None;
        }
        let mut locations = headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("location"));
        let (_, location) = locations.next().filter(|_| locations.next().is_none())?;
        self.sign(generation, location, now)
    }

    fn sign(&self, generation: u64, location: &[u8], now: Timestamp) -> Option<Vec<u8>> {
        let rest = location.strip_prefix(b"https://").filter(|_| location.len() <= MAX_LOCATION)?;
        let (authority, path) = rest.split_at(rest.iter().position(|byte| *byte == b'/')?);
        let host = HostName::parse(authority).ok().filter(|host| host.as_str().as_bytes() == authority)?;
        let ours = path.windows(PARAMETER.len()).any(|part| part == PARAMETER);
        if !is_target(&host) || ours || !path.iter().all(|byte| is_plain(*byte)) {
            return None;
        }
        let expiry = now.checked_add(LIFETIME).ok()?.as_second();
        let code = self.code(generation, &host, expiry, &canonical(path)).finalize().into_bytes();
        let code = code.first_chunk::<16>().copied().map(u128::from_be_bytes)?;
        let before: &[u8] = if path.contains(&b'?') { b"&" } else { b"?" };
        Some([location, before, PARAMETER, format!("{expiry}.{code:032x}").as_bytes()].concat())
    }

    fn code(&self, generation: u64, host: &HostName, expiry: i64, path: &[u8]) -> Hmac<Sha256> {
        let mut code = self.0.clone();
        // Neither a number nor a host name has a newline, so no two facts have the same bytes.
        code.update(format!("redirect\n{generation}\n{host}\n{expiry}\n").as_bytes());
        code.update(path);
        code
    }
}

/// The path and query to which a request with the parameter goes, without the parameter. `generation` is the one of the
/// container's record. Returns `None` if `host` is not a host of [`is_target`], or the request has no parameter.
///
/// # Errors
/// If the parameter was not given for this URL and this record, or has expired. If the method is not GET or HEAD.
pub(crate) fn opened(
    key: Option<&Key>,
    generation: u64,
    host: &HostName,
    method: &[u8],
    path: &[u8],
    now: Timestamp,
) -> Result<Option<Vec<u8>>, Denial> {
    let at = path.windows(PARAMETER.len()).rposition(|part| part == PARAMETER).and_then(|at| at.checked_sub(1));
    let Some((path, value)) = at.filter(|_| is_target(host)).and_then(|at| path.split_at_checked(at)) else {
        return Ok(None);
    };
    let Some(value) = value.strip_prefix(b"?").or(value.strip_prefix(b"&")) else { return Ok(None) };
    let refused = |reason: &str| Err(Denial::new(Rule::EgressSigned, reason));
    let parsed = value.strip_prefix(PARAMETER).and_then(parse);
    let path = canonical(path);
    let valid = |(expiry, code): (i64, u128)| {
        let key = key?.code(generation, host, expiry, &path);
        key.verify_truncated_left(&code.to_be_bytes()).is_ok().then_some(expiry)
    };
    let Some(expiry) = parsed.and_then(valid) else {
        return refused(
            "this URL is not one that GitHub has given this container; send the call to api.github.com again",
        );
    };
    if expiry <= now.as_second() {
        return refused("this URL was given more than an hour ago; send the call to api.github.com again");
    }
    if !matches!(method, b"GET" | b"HEAD") {
        return refused("only GET and HEAD requests may be sent to a URL that GitHub has given");
    }
    Ok(Some(path))
}

/// The expiry and the code of a parameter's value.
fn parse(value: &[u8]) -> Option<(i64, u128)> {
    let (expiry, code) = std::str::from_utf8(value).ok()?.split_once('.')?;
    let digits = expiry.bytes().all(|b| b.is_ascii_digit()) && code.bytes().all(|b| b.is_ascii_hexdigit());
    (digits && code.len() == 32).then_some(())?;
    Some((expiry.parse().ok()?, u128::from_str_radix(code, 16).ok()?))
}

/// Whether clients send the byte of a location as it is (RFC 3986 section 3.4, with `%`).
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&byte)
}

/// The path with each escape in one spelling, as RFC 3986 section 6.2.2 has it: hex digits in upper case, and no escape of
/// an unreserved character. Some clients change locations in this way.
fn canonical(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let digits = after.first_chunk::<2>().filter(|two| *byte == b'%' && two.iter().all(u8::is_ascii_hexdigit));
        let escaped = digits.and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match (escaped, digits) {
            (Some(escaped), _) if escaped.is_ascii_alphanumeric() || b"-._~".contains(&escaped) => out.push(escaped),
            (Some(_), Some(digits)) => out.extend([b'%'].into_iter().chain(digits.map(|b| b.to_ascii_uppercase()))),
            _ => {
                out.push(*byte);
                continue;
            }
        }
        rest = after.get(2..).unwrap_or_default();
    }
    out
}

#[cfg(test)]
mod tests;
