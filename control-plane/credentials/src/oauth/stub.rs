//! The response to a sandbox that requests a new token from a token endpoint: a token that the program accepts, and
//! that gives no access.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::provider::Service;
use crate::placeholder::PLACEHOLDER;

/// The expiry of the placeholders, in Unix time: the year 2100.
const END: i64 = 4_102_444_800;

/// The lifetime of the placeholders, in seconds: ten years. Programs in JavaScript add this number to the current time.
const LIFETIME: i64 = 315_360_000;

/// The body of the response, in JSON.
pub fn body(service: Service) -> String {
    let body: Value = match service {
        Service::OpenAi => json!({
            "id_token": web_token(),
            "access_token": web_token(),
            "refresh_token": PLACEHOLDER,
            "token_type": "Bearer",
            "expires_in": LIFETIME,
        }),
        Service::Google => json!({
            "access_token": format!("ya29.{PLACEHOLDER}"),
            "expires_in": LIFETIME,
            "scope": "openid https://www.googleapis.com/auth/cloud-platform https://www.googleapis.com/auth/userinfo.email https://www.googleapis.com/auth/userinfo.profile",
            "token_type": "Bearer",
            "id_token": web_token(),
        }),
        Service::Anthropic => json!({
            "token_type": "Bearer",
            "access_token": format!("sk-ant-oat01-{PLACEHOLDER}"),
            "refresh_token": format!("sk-ant-ort01-{PLACEHOLDER}"),
            "expires_in": LIFETIME,
            "scope": "user:inference user:profile",
            "account": {"uuid": "00000000-0000-0000-0000-000000000000", "email_address": "nobody@example.com"},
            "organization": {"uuid": "00000000-0000-0000-0000-000000000000", "name": PLACEHOLDER},
        }),
    };
    body.to_string()
}

/// A JSON Web Token whose three parts can be parsed, with the claims that Codex reads.
fn web_token() -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "iss": "https://auth.openai.com", "sub": PLACEHOLDER, "iat": END - LIFETIME, "exp": END,
        "email": "nobody@example.com", "email_verified": true,
        "https://api.openai.com/auth": {
            "chatgpt_account_id": PLACEHOLDER, "chatgpt_user_id": PLACEHOLDER, "user_id": PLACEHOLDER,
            "chatgpt_plan_type": "pro",
        },
    });
    format!("{}.{}.{}", part(json!({"alg": "RS256", "typ": "JWT"})), part(claims), URL_SAFE_NO_PAD.encode(PLACEHOLDER))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::provider::Layout;
    use super::super::tokens;
    use super::*;
    use jiff::Timestamp;
    use secrecy::ExposeSecret;

    #[test]
    fn programs_find_in_a_stub_what_they_look_for() {
        let now: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
        let before = r#"{"access_token": "a", "refresh_token": "r", "claudeAiOauth": {"accessToken": "a"}}"#;
        for (service, layout, starts) in [
            (Service::OpenAi, Layout::Codex, "eyJ"),
            (Service::Google, Layout::Gemini, "ya29."),
            (Service::Anthropic, Layout::Claude, "sk-ant-oat01-"),
        ] {
            let renewed = tokens::Renewed::read(body(service).as_bytes()).unwrap();
            let file = tokens::renew(&layout, before, &renewed, now).unwrap();
            let after = tokens::read(&layout, file.expose_secret()).unwrap();
            assert!(after.access.expose_secret().starts_with(starts), "{layout:?}");
            assert!(after.expires.unwrap() > now + jiff::SignedDuration::from_hours(24 * 365), "{layout:?}");
            assert_eq!(after.account.as_deref(), (layout == Layout::Codex).then_some(PLACEHOLDER));
        }
    }
}
