//! Token endpoints that rotate: each refresh token is valid once, and only the newest one.

use super::sites::{Body, json};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hyper::Response;
use serde_json::{Value, json};
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::Notify;

/// All endpoints, which share one login. Tokens have a number: `refresh_fixture_N` and `access_fixture_N`.
pub struct Tokens {
    state: Mutex<State>,
    released: Notify,
}

#[derive(Clone, Copy)]
struct State {
    newest: u64,
    asked: u64,
    reused: u64,
    delay: Option<Duration>,
    lifetime: u64,
}

impl Default for Tokens {
    fn default() -> Self {
        let state = State { newest: 0, asked: 0, reused: 0, delay: Some(Duration::ZERO), lifetime: 0 };
        Self { state: Mutex::new(state), released: Notify::new() }
    }
}

impl Tokens {
    /// Sets the delay of a response, and the lifetime of its tokens. `None` holds responses until the next call, which
    /// releases them.
    pub fn set(&self, delay: Option<Duration>, lifetime: Duration) {
        let mut state = self.state.lock().unwrap();
        (state.delay, state.lifetime) = (delay, lifetime.as_secs());
        self.released.notify_waiters();
    }

    /// The number of the newest tokens. A test begins with number 0.
    pub fn newest(&self) -> u64 {
        self.state.lock().unwrap().newest
    }

    /// The number of requests, and the number of requests with a used token.
    pub fn asked(&self) -> (u64, u64) {
        let state = self.state.lock().unwrap();
        (state.asked, state.reused)
    }

    /// Whether `host` and `path` are those of a token endpoint.
    pub(super) fn are(host: &str, path: &str) -> bool {
        matches!(
            (host, path),
            ("auth.openai.com", "/oauth/token")
                | ("oauth2.googleapis.com", "/token")
                | ("console.anthropic.com", "/v1/oauth/token")
        )
    }

    /// Responds as the endpoint at `host` does.
    pub(super) async fn answer(&self, host: &str, body: &[u8]) -> Response<Body> {
        let body: Value = match host {
            "oauth2.googleapis.com" => form(body),
            _ => serde_json::from_slice(body).unwrap_or_default(),
        };
        // Created before the state is read, so that no release is missed.
        let released = self.released.notified();
        let (state, rotated) = {
            let mut state = self.state.lock().unwrap();
            state.asked += 1;
            let good = body["refresh_token"] == refresh(state.newest).as_str() && body["grant_type"] == "refresh_token";
            if good {
                state.newest += 1;
            } else {
                state.reused += 1;
            }
            (*state, good)
        };
        match state.delay {
            Some(delay) => tokio::time::sleep(delay).await,
            None => released.await,
        }
        if !rotated {
            return match host {
                "auth.openai.com" => {
                    json(401, &json!({"error": {"code": "refresh_token_reused", "message": "used up"}}))
                }
                _ => json(400, &json!({"error": "invalid_grant", "error_description": "used up"})),
            };
        }
        let mut answer = json!({
            "access_token": access(state.newest), "refresh_token": refresh(state.newest), "expires_in": state.lifetime,
            "token_type": "Bearer",
        });
        match host {
            "auth.openai.com" => answer["id_token"] = web_token().into(),
            "oauth2.googleapis.com" => answer["scope"] = "openid".into(),
            _ => answer["account"] = json!({"uuid": "a"}),
        }
        json(200, &answer)
    }
}

fn form(body: &[u8]) -> Value {
    let text = String::from_utf8_lossy(body).into_owned();
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect()
}

fn web_token() -> String {
    let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2lnbmF0dXJl", part(json!({"alg": "RS256"})), part(json!({"email": "owner@example.com"})))
}

/// The refresh token with a number.
pub fn refresh(number: u64) -> String {
    format!("refresh_fixture_{number:06}")
}

/// The access token with a number.
pub fn access(number: u64) -> String {
    format!("access_fixture_{number:06}")
}
