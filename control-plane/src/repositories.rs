//! `GET /internal/containers/IP/repositories`: the repositories of a record that GitHub has not confirmed, for
//! `sallyport container add`. A registration itself never waits for GitHub.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};

use github::ids::{Lookups, Unconfirmed};

/// How long the answer waits for GitHub.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// The route.
pub fn routes(lookups: Lookups) -> Router {
    Router::new().route("/internal/containers/{ip}/repositories", get(unconfirmed)).with_state(lookups)
}

async fn unconfirmed(
    State(lookups): State<Lookups>,
    Path(ip): Path<IpAddr>,
) -> Result<Json<Vec<Unconfirmed>>, StatusCode> {
    lookups.unconfirmed(ip, PATIENCE).await.map(Json).ok_or(StatusCode::NOT_FOUND)
}
