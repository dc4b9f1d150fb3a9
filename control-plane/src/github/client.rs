//! The gateway's own calls to api.github.com, with the credential of the API.

use std::sync::Arc;

use bytes::Bytes;
use hyper::Method;

pub use super::transport::{Answer, Error};
use super::transport::{Place, Transport};
use crate::config::Config;
use crate::credentials::{Credentials, Use};
use crate::dns::Resolver;

/// Calls at a time. One more waits.
const CONCURRENT: usize = 8;

/// Tokens of a GitHub App that are asked for at a time. They have turns of their own: a call that waits for its token
/// holds none.
const MINTS: usize = 256;

/// The client.
#[derive(Debug)]
pub struct Client {
    transport: Transport,
    credentials: Arc<Credentials>,
}

impl Client {
    /// For the host as `config` has it; where that is not pinned, `resolver` finds it, and `roots_pem` are who vouches
    /// for it. From now on the credentials can reach it too.
    ///
    /// # Errors
    /// The roots cannot be read.
    pub fn new(config: &Config, roots_pem: &str, resolver: Arc<Resolver>) -> Result<Self, Error> {
        Self::at(config, roots_pem, Place::Public(resolver))
    }

    /// The same for a command of the operator's, which finds the host as every program on its machine does.
    ///
    /// # Errors
    /// The roots cannot be read.
    pub fn of_command(config: &Config, roots_pem: &str) -> Result<Self, Error> {
        Self::at(config, roots_pem, Place::of_the_machine())
    }

    fn at(config: &Config, roots_pem: &str, otherwise: Place) -> Result<Self, Error> {
        let transport = Transport::new(config, roots_pem, otherwise, CONCURRENT)?;
        let credentials = Arc::clone(&config.credentials);
        credentials.reach_github(&Arc::new(transport.beside(MINTS)));
        Ok(Self { transport, credentials })
    }

    /// GET of `path`, for `whom` and with a credential that is good for them; for nobody with one that is good for all.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, whom: Option<Use<'_>>, path: &str) -> Result<Answer, Error> {
        self.call(whom, Method::GET, path, Bytes::new()).await
    }

    /// POST of `body`, which is JSON, to `path`. Sent a second time where a kept connection fails: for questions only.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ask(&self, whom: Use<'_>, path: &str, body: Vec<u8>) -> Result<Answer, Error> {
        self.call(Some(whom), Method::POST, path, body.into()).await
    }

    async fn call(&self, whom: Option<Use<'_>>, method: Method, path: &str, body: Bytes) -> Result<Answer, Error> {
        let header = self.credentials.own_request(self.transport.host(), whom).await;
        let header = header.map_err(|denial| Error::NoCredential(denial.reason))?;
        self.transport.call(method, path, header, body).await
    }
}

#[cfg(test)]
impl Client {
    /// The way that it goes.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::testing::Rig;
    use super::super::transport::MAX_ANSWER;
    use super::*;

    #[tokio::test]
    async fn an_answer_has_a_limit() {
        let rig =
            Rig::start(|line, _| (200, "x".repeat(if line == "GET /fits" { MAX_ANSWER } else { MAX_ANSWER + 1 })))
                .await;
        assert_eq!(rig.client.get(None, "/fits").await.unwrap().body.len(), MAX_ANSWER);
        assert!(matches!(rig.client.get(None, "/more").await, Err(Error::Answer)));
        assert!(rig.client.get(None, "/fits").await.is_ok(), "the next one has a good connection");
    }

    #[tokio::test]
    async fn without_a_credential_nothing_is_asked() {
        let rig = Rig::with_token(None, |_, _| (200, String::new())).await;
        assert!(matches!(rig.client.get(None, "/").await, Err(Error::NoCredential(_))));
        assert!(rig.asked.lock().unwrap().is_empty());
    }
}
