//! The parts of a gateway with a stand-in for api.github.com, for unit tests.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::ops::Deref;
use std::sync::Arc;

use policy::{HostName, Policy};

use super::client::Client;
use base::problems::Problems;
use outbound::dns::{Resolver, nameservers::Nameservers};
use outbound::https::testing::{HOST, Server, TOKEN};
use outbound::upstreams::{Upstream, Upstreams};
use registry::Registry;
use registry::store::Store;

/// The server, and the parts of a gateway that use it.
pub struct Rig {
    pub registry: Arc<Registry>,
    pub client: Arc<Client>,
    pub problems: Problems,
    server: Server,
    /// Kept as long as the other parts.
    _directory: tempfile::TempDir,
}

impl Rig {
    pub async fn start(answers: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static) -> Self {
        Self::with_token(Some(TOKEN), answers).await
    }

    /// A rig with `token` in the credential's file.
    pub async fn with_token(
        token: Option<&str>,
        answers: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        let server = Server::start(answers).await;
        let directory = tempfile::tempdir().unwrap();
        let pinned = Upstream { address: "localhost".into(), port: server.port, ca_pem: server.ca_pem.clone() };
        let pins = [(HostName::parse(HOST.as_bytes()).unwrap(), pinned)].into();
        let upstreams = Upstreams { pins, ..Upstreams::default() };
        let yaml = "{github-api: {from: {file: token}}}";
        let raw = credentials::raws(serde_yaml::Deserializer::from_str(yaml)).unwrap();
        let credentials = Arc::new(credentials::read(&raw, directory.path(), &|_| None).unwrap());
        if let Some(token) = token {
            std::fs::write(directory.path().join("token"), token).unwrap();
        }
        let store = Store::open(&directory.path().join("registry.redb")).unwrap();
        let policy = Policy { github: policy::github::Rules::default(), ..Policy::deny_all() };
        let registry = Registry::open(store, policy).unwrap();
        let problems = Problems::default();
        let nameservers = Nameservers::new(Vec::new(), 1);
        let resolver = Arc::new(Resolver::new(nameservers, Arc::clone(&registry), problems.clone()));
        let client = Arc::new(Client::new(&upstreams, credentials, Arc::default(), resolver).unwrap());
        Self { registry, client, problems, server, _directory: directory }
    }
}

impl Deref for Rig {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}
