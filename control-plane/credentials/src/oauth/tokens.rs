//! The files in which programs keep their logins: the fields that the gateway reads, and the changes of a refresh.
//! Pure.
//!
//! A refresh sets only fields whose values change. Unknown fields and the nesting are kept.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use serde_json::{Map, Value, json};

use super::provider::Layout;

/// The lifetime of a Codex token without an expiry. Codex refreshes its tokens at this interval.
const CODEX_LIFETIME: SignedDuration = SignedDuration::from_hours(8 * 24);

/// The lifetime of a refreshed token if the response has no expiry.
const UNKNOWN_LIFETIME: SignedDuration = SignedDuration::from_hours(1);

/// The longest token, in bytes. Many servers accept no header over 8 KiB, and web tokens have two or three KiB.
const MAX_TOKEN: usize = 8 << 10;

/// The tokens of a login.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// The access token, which is injected into requests.
    pub access: Arc<SecretString>,
    /// The refresh token. An API key has no refresh token.
    pub refresh: Option<Arc<SecretString>>,
    /// The account, if requests name the account.
    pub account: Option<String>,
    /// When the access token was issued, if known.
    pub issued: Option<Timestamp>,
    /// When the access token expires, if known.
    pub expires: Option<Timestamp>,
}

/// The response of a token endpoint.
#[derive(Debug)]
pub struct Renewed {
    fields: Map<String, Value>,
}

impl Renewed {
    /// Parses a response with status 200. Returns `None` if the response has no access token.
    pub fn read(body: &[u8]) -> Option<Self> {
        let Ok(Value::Object(fields)) = serde_json::from_slice(body) else { return None };
        fields.get("access_token")?.as_str().filter(|token| !token.is_empty())?;
        Some(Self { fields })
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.as_str().filter(|text| !text.is_empty())
    }

    fn expires(&self, now: Timestamp) -> Timestamp {
        let told = self.fields.get("expires_in").and_then(Value::as_i64).filter(|seconds| *seconds > 0);
        let told = told.and_then(|seconds| now.checked_add(SignedDuration::from_secs(seconds)).ok());
        told.or_else(|| self.text("access_token").and_then(|token| claim(token, "exp")))
            .unwrap_or_else(|| now.saturating_add(UNKNOWN_LIFETIME).unwrap_or(Timestamp::MAX))
    }
}

/// Parses a file.
///
/// # Errors
/// If the file holds no valid login. The error is the problem, to be shown after the file's name. It never quotes the
/// file.
pub fn read(layout: &Layout, text: &str) -> Result<Tokens, String> {
    let document: Value = serde_json::from_str(text).map_err(|_| "is no JSON")?;
    let none = || format!("holds no login of {}", layout.program());
    let at = |name: &str| place(layout, &document)?.get(name);
    let text = |name: &str| at(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let [access, refresh] = layout.names();
    if let Layout::OpenCode(_) = layout
        && text("type") == Some("api")
    {
        let key = text("key").ok_or_else(none)?;
        if key.len() > MAX_TOKEN || !plain(key) {
            return Err("holds a key that no header can carry".into());
        }
        return Ok(Tokens { access: secret(key), refresh: None, account: None, issued: None, expires: None });
    }
    let access = text(access).ok_or_else(none)?;
    if access.len() > MAX_TOKEN || !plain(access) {
        return Err("holds a token that no header can carry".into());
    }
    let milliseconds = |name: &str| at(name).and_then(number).and_then(|n| Timestamp::from_millisecond(n).ok());
    let last = document.get("last_refresh").and_then(Value::as_str).and_then(|text| text.parse::<Timestamp>().ok());
    let (issued, expires) = match layout {
        Layout::Codex => {
            let written = at("expires_at").or_else(|| document.get("expires_at")).and_then(time);
            let since = last.and_then(|last| last.checked_add(CODEX_LIFETIME).ok());
            (claim(access, "iat").or(last), claim(access, "exp").or(written).or(since))
        }
        Layout::Gemini => (None, milliseconds("expiry_date")),
        Layout::Claude => (None, milliseconds("expiresAt")),
        Layout::OpenCode(_) => (None, milliseconds("expires")),
    };
    let account = match layout {
        Layout::Codex => text("account_id").map(str::to_owned).or_else(|| text("id_token").and_then(account)),
        _ => None,
    };
    let account = account.filter(|account| plain(account));
    Ok(Tokens { access: secret(access), refresh: text(refresh).map(secret), account, issued, expires })
}

/// The content of the file after a refresh at `now`.
///
/// # Errors
/// If `text` holds no login.
pub fn renew(layout: &Layout, text: &str, renewed: &Renewed, now: Timestamp) -> Result<SecretString, String> {
    let mut document: Value = serde_json::from_str(text).map_err(|_| "is no JSON")?;
    let expires = renewed.expires(now);
    if let Layout::Codex = layout
        && let Some(fields) = document.as_object_mut()
    {
        fields.insert("last_refresh".into(), json!(now.to_string()));
        set_time(fields.get_mut("expires_at"), expires);
    }
    let fields = place_mut(layout, &mut document).ok_or_else(|| format!("holds no login of {}", layout.program()))?;
    let [access, refresh] = layout.names();
    let mut set = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), json!(value));
        }
    };
    set(access, renewed.text("access_token"));
    set(refresh, renewed.text("refresh_token"));
    if matches!(layout, Layout::Codex | Layout::Gemini) {
        set("id_token", renewed.text("id_token"));
    }
    match layout {
        Layout::Codex => set_time(fields.get_mut("expires_at"), expires),
        Layout::Gemini => {
            set("scope", renewed.text("scope"));
            set("token_type", renewed.text("token_type"));
            fields.insert("expiry_date".into(), json!(expires.as_millisecond()));
        }
        Layout::Claude => drop(fields.insert("expiresAt".into(), json!(expires.as_millisecond()))),
        Layout::OpenCode(_) => drop(fields.insert("expires".into(), json!(expires.as_millisecond()))),
    }
    Ok(format!("{document:#}\n").into())
}

fn plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn secret(text: &str) -> Arc<SecretString> {
    Arc::new(text.into())
}

/// The object with the tokens. Codex can also have the tokens at the top level.
fn place<'a>(layout: &Layout, document: &'a Value) -> Option<&'a Map<String, Value>> {
    match layout {
        Layout::Codex => document.get("tokens").and_then(Value::as_object).or_else(|| document.as_object()),
        Layout::Gemini => document.as_object(),
        Layout::Claude => document.get("claudeAiOauth")?.as_object(),
        Layout::OpenCode(provider) => document.get(provider)?.as_object(),
    }
}

fn place_mut<'a>(layout: &Layout, document: &'a mut Value) -> Option<&'a mut Map<String, Value>> {
    let inner = match layout {
        Layout::Codex => document.get("tokens").is_some_and(Value::is_object).then_some("tokens"),
        Layout::Gemini => None,
        Layout::Claude => Some("claudeAiOauth"),
        Layout::OpenCode(provider) => Some(provider.as_str()),
    };
    match inner {
        Some(name) => document.get_mut(name)?.as_object_mut(),
        None => document.as_object_mut(),
    }
}

/// A time among the claims of a JSON Web Token. The signature is not checked: the provider checks its own tokens.
fn claim(token: &str, name: &str) -> Option<Timestamp> {
    Timestamp::from_second(number(claims(token)?.get(name)?)?).ok()
}

fn account(token: &str) -> Option<String> {
    claims(token)?.get("https://api.openai.com/auth")?.get("chatgpt_account_id")?.as_str().map(str::to_owned)
}

fn claims(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&payload).ok()
}

fn number(value: &Value) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "JavaScript writes whole numbers as 1e12, too")]
    value.as_i64().or_else(|| value.as_f64().map(|number| number as i64))
}

/// A larger number is in milliseconds. In seconds, it would be after the year 5138.
const MILLISECONDS: i64 = 100_000_000_000;

fn time(value: &Value) -> Option<Timestamp> {
    match (value.as_str(), number(value)) {
        (Some(text), _) => text.parse().ok(),
        (None, Some(number)) if number > MILLISECONDS => Timestamp::from_millisecond(number).ok(),
        (None, number) => Timestamp::from_second(number?).ok(),
    }
}

/// Replaces a time, if present, in its own notation.
fn set_time(old: Option<&mut Value>, new: Timestamp) {
    let Some(old) = old else { return };
    *old = match number(old) {
        Some(number) if number > MILLISECONDS => json!(new.as_millisecond()),
        Some(_) => json!(new.as_second()),
        None if old.is_string() => json!(new.to_string()),
        None => Value::Null,
    };
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    const NOW: &str = "2026-12-01T00:00:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn jwt(claims: &Value) -> String {
        format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    fn answer(fields: &Value) -> Renewed {
        Renewed::read(fields.to_string().as_bytes()).unwrap()
    }

    /// The file `before` after a refresh that returns A2 and R2 for an hour.
    fn refreshed(layout: &Layout, before: &Value) -> Value {
        let renewed = answer(&json!({"access_token": "A2", "refresh_token": "R2", "expires_in": 3600}));
        let text = renew(layout, &before.to_string(), &renewed, now()).unwrap();
        let after = read(layout, text.expose_secret()).unwrap();
        assert_eq!(after.access.expose_secret(), "A2");
        assert_eq!(after.refresh.unwrap().expose_secret(), "R2");
        serde_json::from_str(text.expose_secret()).unwrap()
    }

    #[test]
    fn a_refresh_sets_what_has_changed_and_keeps_the_rest_of_each_file() {
        let later = now().as_millisecond() + 3_600_000;
        let codex = json!({
            "OPENAI_API_KEY": null, "auth_mode": "chatgpt", "last_refresh": "2026-11-01T00:00:00Z",
            "tokens": {"id_token": "I", "access_token": "A", "refresh_token": "R", "account_id": "acc", "new": [1, {"x": 2}]},
        });
        let mut expected = codex.clone();
        expected["last_refresh"] = json!(NOW);
        (expected["tokens"]["access_token"], expected["tokens"]["refresh_token"]) = (json!("A2"), json!("R2"));
        assert_eq!(refreshed(&Layout::Codex, &codex), expected);

        let flat = json!({"access_token": "A", "refresh_token": "R", "account_id": "acc", "id_token": "I", "expires_at": 5, "x": 1});
        let expected = json!({
            "access_token": "A2", "refresh_token": "R2", "account_id": "acc", "id_token": "I",
            "expires_at": later / 1000, "x": 1, "last_refresh": NOW,
        });
        assert_eq!(refreshed(&Layout::Codex, &flat), expected);

        let gemini = json!({"access_token": "A", "refresh_token": "R", "id_token": "I", "scope": "s", "token_type": "Bearer", "expiry_date": 5, "x": 1});
        let mut expected = gemini.clone();
        for (name, value) in
            [("access_token", json!("A2")), ("refresh_token", json!("R2")), ("expiry_date", json!(later))]
        {
            expected[name] = value;
        }
        assert_eq!(refreshed(&Layout::Gemini, &gemini), expected);

        let claude = json!({"mcp": {"a": 1}, "claudeAiOauth": {"accessToken": "A", "refreshToken": "R", "expiresAt": 5, "scopes": ["s"], "subscriptionType": "max"}});
        let mut expected = claude.clone();
        for (name, value) in [("accessToken", json!("A2")), ("refreshToken", json!("R2")), ("expiresAt", json!(later))]
        {
            expected["claudeAiOauth"][name] = value;
        }
        assert_eq!(refreshed(&Layout::Claude, &claude), expected);

        let opencode = json!({"zai": {"type": "api", "key": "K"}, "anthropic": {"type": "oauth", "refresh": "R", "access": "A", "expires": 5, "x": 1}});
        let mut expected = opencode.clone();
        for (name, value) in [("access", json!("A2")), ("refresh", json!("R2")), ("expires", json!(later))] {
            expected["anthropic"][name] = value;
        }
        assert_eq!(refreshed(&Layout::OpenCode("anthropic".into()), &opencode), expected);
        let key = read(&Layout::OpenCode("zai".into()), &opencode.to_string()).unwrap();
        assert!(key.access.expose_secret() == "K" && key.refresh.is_none() && key.expires.is_none());
    }

    #[test]
    fn an_answer_without_a_refresh_token_keeps_the_old_one() {
        let before = json!({"access_token": "A", "refresh_token": "R", "expiry_date": 5}).to_string();
        let renewed = answer(&json!({"access_token": "A2"}));
        let text = renew(&Layout::Gemini, &before, &renewed, now()).unwrap();
        let after = read(&Layout::Gemini, text.expose_secret()).unwrap();
        assert_eq!(after.refresh.unwrap().expose_secret(), "R");
        assert_eq!(after.expires.unwrap(), now() + UNKNOWN_LIFETIME);
    }

    #[test]
    fn the_end_of_a_token_is_where_each_program_writes_it() {
        let expires = |layout: &Layout, document: Value| read(layout, &document.to_string()).unwrap().expires;
        let at = |seconds| Some(Timestamp::from_second(seconds).unwrap());
        let token = jwt(&json!({"exp": 1_800_000_000, "iat": 1_700_000_000}));
        let codex = |access: &str, more: Value| {
            let mut document = json!({"tokens": {"access_token": access, "refresh_token": "R"}});
            document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            expires(&Layout::Codex, document)
        };
        assert_eq!(codex(&token, json!({"expires_at": 5, "last_refresh": NOW})), at(1_800_000_000));
        assert_eq!(codex("opaque", json!({"expires_at": 1_800_000_001, "last_refresh": NOW})), at(1_800_000_001));
        assert_eq!(codex("opaque", json!({"expires_at": 1_800_000_001_000_i64})), at(1_800_000_001));
        assert_eq!(codex("opaque", json!({"expires_at": NOW})), Some(now()));
        assert_eq!(codex("opaque", json!({"last_refresh": NOW})), Some(now() + CODEX_LIFETIME));
        assert_eq!(codex("opaque", json!({})), None);
        let milliseconds = 1_800_000_000_000_i64;
        assert_eq!(
            expires(&Layout::Gemini, json!({"access_token": "A", "expiry_date": milliseconds})),
            at(1_800_000_000)
        );
        assert_eq!(expires(&Layout::Gemini, json!({"access_token": "A", "expiry_date": 1.8e12})), at(1_800_000_000));
        let claude = json!({"claudeAiOauth": {"accessToken": "A", "expiresAt": milliseconds}});
        assert_eq!(expires(&Layout::Claude, claude), at(1_800_000_000));
        let opencode = json!({"openai": {"type": "oauth", "access": "A", "refresh": "R", "expires": milliseconds}});
        assert_eq!(expires(&Layout::OpenCode("openai".into()), opencode), at(1_800_000_000));
    }

    #[test]
    fn the_account_of_codex_stands_beside_the_tokens_or_in_one() {
        let id = jwt(&json!({"https://api.openai.com/auth": {"chatgpt_account_id": "from-claim"}}));
        let account = |tokens: Value| read(&Layout::Codex, &json!({"tokens": tokens}).to_string()).unwrap().account;
        assert_eq!(account(json!({"access_token": "A", "account_id": "own", "id_token": id})).as_deref(), Some("own"));
        assert_eq!(account(json!({"access_token": "A", "id_token": id})).as_deref(), Some("from-claim"));
        assert_eq!(account(json!({"access_token": "A", "id_token": "a.b.c"})), None);
    }

    #[test]
    fn what_is_no_login_is_told_without_what_is_in_it() {
        for text in [
            "",
            "sec",
            "[]",
            "{}",
            r#"{"tokens": null, "OPENAI_API_KEY": "sec"}"#,
            r#"{"tokens": {"access_token": 5}}"#,
        ] {
            let problem = read(&Layout::Codex, text).unwrap_err();
            assert!(!problem.contains("sec"), "{problem}");
        }
        let broken = read(&Layout::Gemini, r#"{"access_token": "sec\nret"}"#).unwrap_err();
        assert!(broken.contains("no header") && !broken.contains("sec"), "{broken}");
        assert!(Renewed::read(b"{}").is_none() && Renewed::read(br#"{"access_token": ""}"#).is_none());
    }
}
