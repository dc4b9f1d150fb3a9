//! What GitHub answers to an App, held against what it was asked: a token that can do more than that is none of ours.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use serde::Deserialize;

use super::Key;
use super::settings::{Level, Permissions};
use outbound::https::Answer;

/// The longest token. GitHub's have 40 characters, and "may grow to 255" is what its documentation said of the others.
const MAX_TOKEN: usize = 1024;

/// The longest that a token counts, whatever GitHub says of it: "expires after 1 hour".
const LONGEST: SignedDuration = SignedDuration::from_hours(1);

/// A token, and until when it is good.
#[derive(Debug)]
pub struct Token {
    /// The token.
    pub value: SecretString,
    /// Its end.
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

/// The token in `answer`, which was asked for `key` with `permissions`.
///
/// # Errors
/// There is none, or it can do more than that.
pub fn token(answer: &Answer, key: &Key, permissions: &Permissions, now: Timestamp) -> Result<Token, String> {
    if answer.status != 201 {
        return Err(refused(answer.status, &format!("a token for {key}")));
    }
    // What stands in the answer is not said: it is the token.
    let raw: RawToken = serde_json::from_slice(&answer.body)
        .map_err(|error| format!("GitHub's answer is not understood, line {}", error.line()))?;
    if !plausible(&raw.token) {
        return Err("GitHub's token holds what no token does".into());
    }
    let value = SecretString::from(raw.token);
    if raw.repository_selection != "selected" || raw.repositories.is_empty() {
        return Err(format!("GitHub's token is not for {key} alone"));
    }
    if let Some(other) = raw.repositories.iter().find(|repository| !key.has(&repository.full_name)) {
        return Err(format!("GitHub's token is for {:?} too, which was not asked for", other.full_name));
    }
    let level = |text: &str| match text {
        "read" => Some(Level::Read),
        "write" => Some(Level::Write),
        _ => None,
    };
    if let Some((name, most)) = raw.permissions.iter().find(|(name, most)| !permissions.allow(name, level(most))) {
        return Err(format!("GitHub's token has the permission {name:?}: {most:?}, which was not asked for"));
    }
    let until = raw.expires_at.min(now.saturating_add(LONGEST).map_err(|error| error.to_string())?);
    Ok(Token { value, until })
}

/// The number of the installation in `answer`, which was asked for on an owner's repository.
///
/// # Errors
/// There is none, or it is another owner's.
pub fn installation(answer: &Answer, owner: &str) -> Result<u64, String> {
    if answer.status != 200 {
        return Err(refused(answer.status, &format!("its installation at {owner}")));
    }
    let raw: RawInstallation =
        serde_json::from_slice(&answer.body).map_err(|error| format!("GitHub's answer is not understood: {error}"))?;
    if raw.account.login.eq_ignore_ascii_case(owner) {
        Ok(raw.id)
    } else {
        Err(format!("the installation is not at {owner} but at {:?}", raw.account.login))
    }
}

fn refused(status: u16, what: &str) -> String {
    let why = match status {
        401 => "GitHub takes the App's id and key not for a pair, or the clock is wrong",
        403 => "the installation is suspended, or asked too often",
        404 => "it is not installed there",
        422 => "the installation lacks one of the repositories, or one of the permissions",
        _ => "GitHub may be in trouble",
    };
    format!("the App does not get {what}: status {status}; {why}")
}

/// What can stand in any header, and in basic authentication.
fn plausible(token: &str) -> bool {
    let plain = token.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    !token.is_empty() && plain && token.len() <= MAX_TOKEN
}
