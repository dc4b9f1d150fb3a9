//! Whether a sandbox can be served: `/readyz`, and the other routes about the process itself.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpStream;

use base::kept::Kept;
use base::problems::Problems;
use credentials::Credentials;
use registry::Registry;
use xds::server::Fleet;

/// How long the proxy's port may take to accept a connection.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// The conditions under which a gateway can serve a sandbox.
#[derive(Debug)]
pub struct Readiness {
    /// The connected Envoys.
    pub fleet: Fleet,
    /// The problems that an operator should investigate although the gateway works.
    pub problems: Problems,
    /// The files of the state directory, which other programs may move or remove.
    pub kept: Kept,
    /// The CA, with its files.
    pub ca: ca::api::Api,
    /// The credentials, whose sources may fail.
    pub credentials: Arc<Credentials>,
    /// The registry, whose records Envoy's workers must hold.
    pub registry: Arc<Registry>,
    /// How many of Envoy's threads must hold the records. 1 for an Envoy that is not a child: its number of threads is
    /// unknown.
    pub min_fed: usize,
    /// The proxy's address. `None` if Envoy is not a child.
    pub proxy: Option<SocketAddr>,
}

impl Readiness {
    /// The conditions that are missing, one line each. Empty if the gateway is ready.
    pub async fn missing(&self) -> Vec<String> {
        let mut missing = self.fleet.missing();
        let fed = self.registry.fed();
        if fed < self.min_fed {
            missing.push(format!("identity: {fed} of {} Envoy threads hold the registry", self.min_fed));
        }
        if let Some(proxy) = self.proxy.map(reachable)
            && !accepts(proxy).await
        {
            missing.push(format!("listener: {proxy} accepts no connections"));
        }
        missing
    }

    /// The problems that an operator should investigate, one line each.
    fn warnings(&self) -> Vec<String> {
        let credentials = self.credentials.problems().into_iter().map(|problem| format!("credentials: {problem}"));
        let policy = self.registry.policy().github.branches.warning().map(|warning| format!("policy: {warning}"));
        let mut files = self.kept.problems();
        if files.is_empty() {
            files = self.ca.problems();
        }
        let files = files.into_iter().map(|problem| format!("state: {problem}"));
        self.problems.list().into_iter().chain(files).chain(credentials).chain(policy).collect()
    }
}

/// `address`, or the loopback address if it is unspecified.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    address
}

async fn accepts(address: SocketAddr) -> bool {
    matches!(tokio::time::timeout(PROBE_TIMEOUT, TcpStream::connect(address)).await, Ok(Ok(_)))
}

/// The routes about the process itself.
pub fn routes(readiness: Arc<Readiness>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/internal/placeholders", get(placeholders))
        .with_state(readiness)
}

/// The variables in which a sandbox has placeholders, for `sallyport env`.
async fn placeholders(State(readiness): State<Arc<Readiness>>) -> impl IntoResponse {
    Json(serde_json::json!(readiness.credentials.placeholders()))
}

async fn readyz(State(readiness): State<Arc<Readiness>>) -> impl IntoResponse {
    let missing = readiness.missing().await;
    let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let warnings = readiness.warnings();
    (status, Json(serde_json::json!({ "ready": missing.is_empty(), "missing": missing, "warnings": warnings })))
}
