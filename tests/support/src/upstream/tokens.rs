//! A token endpoint that rotates: each refresh token is good once, and the newest alone is.

use super::sites::{Body, json};
use hyper::Response;
use serde_json::{Value, json};
use std::sync::Mutex;
use std::time::Duration;

/// The endpoint. Tokens carry a number: `refresh_fixture_N` and, in the access token's last part, `access_fixture_N`.
#[derive(Default)]
pub struct Tokens(Mutex<State>);

#[derive(Clone, Copy, Default)]
struct State {
    newest: u64,
    asked: u64,
    reused: u64,
    delay: Duration,
    lifetime: u64,
}

impl Tokens {
    /// How long an answer takes, and how long the tokens live that it gives.
    pub fn set(&self, delay: Duration, lifetime: Duration) {
        let mut state = self.0.lock().unwrap();
        (state.delay, state.lifetime) = (delay, lifetime.as_secs());
    }

    /// The number of the newest tokens; 0 are those that a test has begun with.
    pub fn newest(&self) -> u64 {
        self.0.lock().unwrap().newest
    }

    /// How often it was asked, and how often with a token that is used up.
    pub fn asked(&self) -> (u64, u64) {
        let state = self.0.lock().unwrap();
        (state.asked, state.reused)
    }

    /// Takes the tokens of this number for the newest, as a new login does.
    pub fn begin_again(&self, newest: u64) {
        self.0.lock().unwrap().newest = newest;
    }

    pub(super) async fn answer(&self, body: &[u8]) -> Response<Body> {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let (state, rotated) = {
            let mut state = self.0.lock().unwrap();
            state.asked += 1;
            let good = body["refresh_token"] == refresh(state.newest).as_str();
            if good {
                state.newest += 1;
            } else {
                state.reused += 1;
            }
            (*state, good)
        };
        tokio::time::sleep(state.delay).await;
        match rotated {
            true => json(
                200,
                &json!({"access_token": access(state.newest), "refresh_token": refresh(state.newest), "expires_in": state.lifetime}),
            ),
            false => json(401, &json!({"error": {"code": "refresh_token_reused", "message": "used up"}})),
        }
    }
}

/// The refresh token of a number.
pub fn refresh(number: u64) -> String {
    format!("refresh_fixture_{number:06}")
}

/// The access token of a number.
pub fn access(number: u64) -> String {
    format!("access_fixture_{number:06}")
}
