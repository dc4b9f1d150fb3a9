//! Stub logins: files in the form of a client's stored login, with placeholders for the secrets. A client can parse
//! them, and they expire in 2100, so the client starts and does not try to refresh them.
//!
//! Stubs grant no access: the gateway removes them from every request.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::Error;
use base::files;
use credentials::{PLACEHOLDER, placeholder};

/// The end of 2099, in seconds since 1970: every stub's expiry.
const EXPIRY: u64 = 4_102_444_800;
/// The same as a date. Codex refreshes a login eight days after this date.
const EXPIRY_DATE: &str = "2100-01-01T00:00:00Z";
/// Readable by the owner only, like the files that the clients write.
const MODE: u32 = 0o600;

/// Writes all stubs below `home` and returns their paths. `force` allows to replace files that are no stubs.
///
/// # Errors
/// If a stub would replace a file that is no stub, and `force` is false; no file is then written. If a file cannot be
/// read or written.
pub fn write(home: &Path, codex_account_id: &str, force: bool) -> Result<Vec<PathBuf>, Error> {
    let stubs = [
        (".claude/.credentials.json", claude()),
        (".codex/auth.json", codex(codex_account_id)),
        (".gemini/oauth_creds.json", gemini()),
        (".local/share/opencode/auth.json", opencode()),
    ];
    let stubs = stubs.map(|(name, stub)| (home.join(name), stub));
    for (path, _) in &stubs {
        if !force && !replaceable(path)? {
            return Err(Error::Usage(format!(
                "{} exists and is not a stub file; --force replaces it, and its content is lost",
                path.display()
            )));
        }
    }
    for (path, stub) in &stubs {
        let directory = path.parent().unwrap_or(home);
        let written = std::fs::create_dir_all(directory)
            .and_then(|()| files::write_atomic(path, format!("{stub:#}\n").as_bytes(), MODE));
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(stubs.map(|(path, _)| path).into())
}

/// Whether `path` can be replaced without a loss: it doesn't exist, or is a stub.
fn replaceable(path: &Path) -> Result<bool, Error> {
    match std::fs::read(path) {
        Ok(text) => Ok(serde_json::from_slice(&text).is_ok_and(|there| is_stub(&there))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Error::Other(anyhow::Error::new(error).context(format!("cannot read {}", path.display())))),
    }
}

/// Whether a file has secrets, and all of them are placeholders.
fn is_stub(there: &Value) -> bool {
    let mut secrets = Vec::new();
    collect_secrets(there, &mut secrets);
    !secrets.is_empty() && secrets.into_iter().all(is_placeholder)
}

fn is_placeholder(secret: &str) -> bool {
    placeholder::is_in(secret) || secret.ends_with(&BASE64_URL_SAFE_NO_PAD.encode(PLACEHOLDER))
}

fn collect_secrets<'a>(value: &'a Value, into: &mut Vec<&'a str>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let name = name.to_ascii_lowercase();
                let secret = ["token", "key", "refresh", "access", "secret"].iter().any(|word| name.contains(word));
                match value {
                    Value::String(text) if secret && !matches!(name.as_str(), "token_type" | "last_refresh") => {
                        into.push(text);
                    }
                    _ => collect_secrets(value, into),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect_secrets(value, into)),
        _ => {}
    }
}

/// A token with three parts that can be decoded. Clients read its claims without checking the signature.
fn jwt(claims: &Value) -> String {
    let header = json!({"alg": "none", "typ": "JWT"}).to_string();
    [header, claims.to_string(), PLACEHOLDER.to_owned()].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part)).join(".")
}

fn claude() -> Value {
    json!({"claudeAiOauth": {
        "accessToken": PLACEHOLDER,
        "refreshToken": PLACEHOLDER,
        "expiresAt": EXPIRY * 1000,
        "scopes": ["user:inference", "user:profile"],
        "subscriptionType": "max",
    }})
}

fn codex(account_id: &str) -> Value {
    let account = json!({
        "chatgpt_account_id": account_id,
        "chatgpt_user_id": PLACEHOLDER,
        "chatgpt_plan_type": "pro",
    });
    let claims = json!({
        "iss": "https://auth.openai.com",
        "sub": PLACEHOLDER,
        "email": "sandbox@example.com",
        "exp": EXPIRY,
        "https://api.openai.com/auth": account,
    });
    json!({
        "auth_mode": "chatgpt",
        "OPENAI_API_KEY": null,
        "tokens": {
            "id_token": jwt(&claims),
            "access_token": jwt(&claims),
            "refresh_token": PLACEHOLDER,
            "account_id": account_id,
        },
        "last_refresh": EXPIRY_DATE,
    })
}

fn gemini() -> Value {
    let claims = json!({"iss": "https://accounts.google.com", "email": "sandbox@example.com", "exp": EXPIRY});
    json!({
        "access_token": format!("ya29.{PLACEHOLDER}"),
        "refresh_token": format!("1//{PLACEHOLDER}"),
        "id_token": jwt(&claims),
        "scope": "https://www.googleapis.com/auth/cloud-platform openid https://www.googleapis.com/auth/userinfo.email",
        "token_type": "Bearer",
        "expiry_date": EXPIRY * 1000,
    })
}

fn opencode() -> Value {
    let key = json!({"type": "api", "key": PLACEHOLDER});
    json!({"anthropic": key, "openai": key, "google": key})
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn stubs_are_written_for_their_owner_and_again() {
        let home = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let written = write(home.path(), "acct", false).unwrap();
            assert_eq!(written.len(), 4);
            for path in written {
                assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600, "{path:?}");
                let there: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                assert!(is_stub(&there), "{there}");
            }
        }
    }

    #[test]
    fn what_is_no_stub_is_kept_and_then_nothing_is_written() {
        let half = {
            let mut stub = codex("acct");
            stub["OPENAI_API_KEY"] = "somebody's".into();
            stub.to_string()
        };
        let two = json!({"anthropic": {"type": "api", "key": PLACEHOLDER}, "x": {"type": "oauth", "refresh": "own"}});
        for (name, text) in [
            (".codex/auth.json", half),
            (".codex/auth.json", r#"{"tokens": {"refresh_token": "somebody's"}}"#.into()),
            (".gemini/oauth_creds.json", "no JSON".into()),
            (".local/share/opencode/auth.json", "{}".into()),
            (".local/share/opencode/auth.json", two.to_string()),
        ] {
            let home = tempfile::tempdir().unwrap();
            let path = home.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
            let error = write(home.path(), "acct", false).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("--force"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            assert!(!home.path().join(".claude/.credentials.json").exists(), "all or none");
            write(home.path(), "acct", true).unwrap();
            assert_ne!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn tokens_parse_and_expire_late() {
        let codex = codex("acct");
        for name in ["id_token", "access_token"] {
            let token = codex["tokens"][name].as_str().unwrap();
            let parts: Vec<_> = token.split('.').map(|part| BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).collect();
            assert_eq!(parts.len(), 3, "{token}");
            let claims: Value = serde_json::from_slice(&parts[1]).unwrap();
            assert_eq!(claims["exp"], EXPIRY);
            assert_eq!(claims["https://api.openai.com/auth"]["chatgpt_account_id"], "acct");
        }
        assert_eq!(codex["tokens"]["account_id"], "acct");
    }
}
