//! Checks GitHub's responses to an App against the requests. A token with more rights than requested is an error.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use serde::Deserialize;

use super::Key;
use super::settings::{Level, Permissions};
use outbound::https::Answer;

/// The longest token, in bytes. GitHub's have 40 characters. Its documentation said of other tokens that they "may grow
/// to 255".
const MAX_TOKEN: usize = 1024;

/// The longest use of a token, even if GitHub returns a later expiry: its documentation says "expires after 1 hour".
const LONGEST: SignedDuration = SignedDuration::from_hours(1);

/// A token and its expiry.
#[derive(Debug)]
pub struct Token {
    /// The token.
    pub value: SecretString,
    /// The expiry.
    pub until: Timestamp,
}

#[derive(Deserialize)]
struct RawToken {
    token: String,
    expires_at: Timestamp,
    permissions: BTreeMap<String, String>,
    repository_selection: String,
    repositories: Vec<RawRepository>,
}

#[derive(Deserialize)]
struct RawRepository {
    full_name: String,
}

#[derive(Deserialize)]
struct RawInstallation {
    id: u64,
    account: RawAccount,
}

#[derive(Deserialize)]
struct RawAccount {
    login: String,
}

/// The token in `answer`, the response to a request for `key` with `permissions`.
///
/// # Errors
/// If there is no token, or the token has more rights than requested.
pub fn token(answer: &Answer, key: &Key, permissions: &Permissions, now: Timestamp) -> Result<Token, String> {
    if answer.status != 201 {
        return Err(refused(answer.status, &format!("a token for {key}")));
    }
    // The error omits serde's message, which can quote the token.
    let raw: RawToken = serde_json::from_slice(&answer.body)
        .map_err(|error| format!("GitHub's response is not understood, line {}", error.line()))?;
    if !plausible(&raw.token) {
        return Err("GitHub's response has a text that is no token".into());
    }
    let value = SecretString::from(raw.token);
    if raw.repository_selection != "selected" || raw.repositories.is_empty() {
        return Err(format!("GitHub's token is not for {key} alone"));
    }
    if let Some(other) = raw.repositories.iter().find(|repository| !key.has(&repository.full_name)) {
        return Err(format!("GitHub's token is for {:?} too, which was not requested", other.full_name));
    }
    let level = |text: &str| match text {
        "read" => Some(Level::Read),
        "write" => Some(Level::Write),
        _ => None,
    };
    if let Some((name, most)) = raw.permissions.iter().find(|(name, most)| !permissions.allow(name, level(most))) {
        return Err(format!("GitHub's token has the permission {name:?}: {most:?}, which was not requested"));
    }
    let until = raw.expires_at.min(now.saturating_add(LONGEST).map_err(|error| error.to_string())?);
    Ok(Token { value, until })
}

/// The number of the installation in `answer`, the response to a request about a repository of `owner`.
///
/// # Errors
/// If there is no installation, or the installation is another owner's.
pub fn installation(answer: &Answer, owner: &str) -> Result<u64, String> {
    if answer.status != 200 {
        return Err(refused(answer.status, &format!("its installation at {owner}")));
    }
    let raw: RawInstallation = serde_json::from_slice(&answer.body)
        .map_err(|error| format!("GitHub's response is not understood: {error}"))?;
    if raw.account.login.eq_ignore_ascii_case(owner) {
        Ok(raw.id)
    } else {
        Err(format!("the installation is not at {owner} but at {:?}", raw.account.login))
    }
}

fn refused(status: u16, what: &str) -> String {
    let why = match status {
        401 => "the App's id and key do not match, or this machine's clock is wrong",
        403 => "the installation is suspended, or over its rate limit",
        404 => "the App is not installed there",
        422 => "the installation lacks one of the repositories, or one of the permissions",
        _ => "GitHub may be in trouble",
    };
    format!("the App does not get {what}: status {status}; {why}")
}

/// Whether `token` is allowed in all headers and in basic authentication.
fn plausible(token: &str) -> bool {
    let plain = token.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    !token.is_empty() && plain && token.len() <= MAX_TOKEN
}
