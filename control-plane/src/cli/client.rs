//! Calls to the admin API of a running gateway.

use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use ureq::RequestBuilder;

use super::{Common, Error};
use crate::admin;
use crate::app::Addresses;

/// The admin API at one address.
#[derive(Debug)]
pub struct Client {
    agent: ureq::Agent,
    admin: SocketAddr,
    token: Option<SecretString>,
}

impl Client {
    /// A client of the gateway that `config` describes. The client sends the token if it can read the token's file in
    /// the state directory. A gateway that requires no token accepts clients without one.
    pub(super) fn new(common: &Common, config: &config::Config) -> Self {
        let state_dir = common.state_dir(config).ok();
        let token = state_dir.as_deref().and_then(|directory| admin::token(directory).ok());
        let Addresses { admin, .. } = Addresses::find(config, state_dir.as_deref());
        // The body of a refusal has the reason, so an error status must not be an error of the transport.
        let agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
        Self { agent, admin, token }
    }

    /// Sends a GET. Returns the response's text.
    ///
    /// # Errors
    /// If the gateway does not run or refuses.
    pub fn get(&self, path: &str) -> Result<String, Error> {
        self.finish(self.authorized(self.agent.get(self.url(path))).call())
    }

    /// Sends a GET whose response may never end. Returns a reader of the response.
    ///
    /// # Errors
    /// If the gateway does not run or refuses.
    pub fn open(&self, path: &str) -> Result<impl Read + 'static, Error> {
        match self.authorized(self.agent.get(self.url(path))).call() {
            Ok(answer) if answer.status().is_success() => Ok(answer.into_body().into_reader()),
            other => Err(match self.finish(other) {
                Err(error) => error,
                Ok(_) => Error::Other(anyhow!("BUG: a success status was treated as a refusal")),
            }),
        }
    }

    /// Sends a GET. Returns the status and the body, for every status.
    ///
    /// # Errors
    /// If no response arrives within `patience`.
    pub fn probe(&self, path: &str, patience: Duration) -> anyhow::Result<(u16, String)> {
        let request = self.authorized(self.agent.get(self.url(path)));
        let mut answer = request.config().timeout_global(Some(patience)).build().call()?;
        Ok((answer.status().as_u16(), answer.body_mut().read_to_string()?))
    }

    /// Sends a POST of JSON.
    ///
    /// # Errors
    /// If the gateway does not run or refuses.
    pub fn post(&self, path: &str, body: &Value) -> Result<String, Error> {
        let request = self.agent.post(self.url(path)).header("content-type", "application/json");
        self.finish(self.authorized(request).send(body.to_string()))
    }

    /// Sends a DELETE.
    ///
    /// # Errors
    /// If the gateway does not run or refuses.
    pub fn delete(&self, path: &str) -> Result<String, Error> {
        self.finish(self.authorized(self.agent.delete(self.url(path))).call())
    }

    fn authorized<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {}", token.expose_secret())),
            None => request,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    fn finish(&self, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<String, Error> {
        let mut answer = answer
            .with_context(|| format!("no gateway answers at http://{}; is `sallyport up` running?", self.admin))?;
        let status = answer.status();
        let body =
            answer.body_mut().read_to_string().context("the connection ended before the gateway's whole response")?;
        if status.is_success() {
            return Ok(body);
        }
        let problem: Value = serde_json::from_str(&body).unwrap_or_default();
        let error = problem["error"].as_str().unwrap_or(&body);
        let message = match problem["field"].as_str() {
            Some(field) => format!("{field}: {error}"),
            None => error.to_owned(),
        };
        Err(if status.as_u16() == 422 { Error::Usage(message) } else { Error::Other(anyhow!(message)) })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use axum::Router;
    use axum::routing::get;

    use super::*;
    use crate::admin::testing::serve;

    #[tokio::test]
    async fn a_command_sends_the_token_of_the_state_directory() {
        let state = tempfile::tempdir().unwrap();
        let access = admin::Access::open(config::AdminAuth::Token, state.path()).unwrap();
        let (address, _server) = serve(Router::new().route("/x", get(|| async { "x" })), access).await;
        let file = state.path().join("sallyport.yaml");
        std::fs::write(&file, format!("listen: {{admin: '{address}'}}\n")).unwrap();
        let ask = async |state_dir: &std::path::Path| {
            let common = Common { config: Some(file.clone()), state_dir: Some(state_dir.to_owned()) };
            let client = Client::new(&common, &common.config().unwrap());
            tokio::task::spawn_blocking(move || client.get("/x")).await.unwrap()
        };
        assert_eq!(ask(state.path()).await.unwrap(), "x");
        let nothing = tempfile::tempdir().unwrap();
        let refused = ask(nothing.path()).await.unwrap_err().to_string();
        assert!(refused.contains("admin-token"), "{refused}");
    }
}
