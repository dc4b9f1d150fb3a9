//! Calls to the admin API of a running gateway.

use std::net::SocketAddr;

use anyhow::{Context, anyhow};
use serde_json::Value;

use super::Error;

/// The admin API at one address.
#[derive(Debug)]
pub struct Client {
    agent: ureq::Agent,
    admin: SocketAddr,
}

impl Client {
    /// A client of the gateway at `admin`.
    pub fn new(admin: SocketAddr) -> Self {
        // A refusal's body says why, so no status is an error of the transport.
        let agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
        Self { agent, admin }
    }

    /// GET, as text.
    ///
    /// # Errors
    /// The gateway does not run or refuses.
    pub fn get(&self, path: &str) -> Result<String, Error> {
        self.finish(self.agent.get(self.url(path)).call())
    }

    /// POST of JSON.
    ///
    /// # Errors
    /// The gateway does not run or refuses.
    pub fn post(&self, path: &str, body: &Value) -> Result<String, Error> {
        let request = self.agent.post(self.url(path)).header("content-type", "application/json");
        self.finish(request.send(body.to_string()))
    }

    /// DELETE.
    ///
    /// # Errors
    /// The gateway does not run or refuses.
    pub fn delete(&self, path: &str) -> Result<String, Error> {
        self.finish(self.agent.delete(self.url(path)).call())
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    fn finish(&self, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<String, Error> {
        let mut answer = answer
            .with_context(|| format!("no gateway answers at http://{}; is `sallyport up` running?", self.admin))?;
        let status = answer.status();
        let body = answer.body_mut().read_to_string().context("the gateway's answer broke off")?;
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
