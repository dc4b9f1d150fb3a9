//! `GET /internal/github`: the quotas of GitHub's API and their use, for `sallyport doctor`.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use credentials::budget::Standing;
use credentials::calls::Calls;

/// One quota.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// `token`, an App's installation, or `public` for reads without a credential.
    pub account: String,
    /// GitHub's name of the part of the API.
    pub resource: String,
    /// Calls or points in a window. `None`, like the next two, if no answer has told the current window.
    pub limit: Option<u64>,
    /// Calls or points that are left.
    pub remaining: Option<u64>,
    /// The end of the window.
    pub reset: Option<Timestamp>,
    /// Whether each container has only its share of the remaining calls.
    pub shared: bool,
    /// Calls that the gateway knows since the window began.
    pub calls: u64,
    /// The container with the most of these calls.
    pub most: Option<Most>,
}

/// The calls of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Most {
    /// The container's id.
    pub container_id: String,
    /// The number of its calls.
    pub calls: u64,
}

impl From<Standing> for Quota {
    fn from(standing: Standing) -> Self {
        let Standing { account, resource, reading, shared, calls, most } = standing;
        let time = |seconds: u64| i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
        Self {
            account,
            resource: resource.name().to_owned(),
            limit: reading.map(|reading| reading.limit),
            remaining: reading.map(|reading| reading.remaining),
            reset: reading.and_then(|reading| time(reading.reset)),
            shared,
            calls,
            most: most.map(|(container_id, calls)| Most { container_id, calls }),
        }
    }
}

/// The route.
pub fn routes(calls: Arc<Calls>) -> Router {
    Router::new().route("/internal/github", get(quotas)).with_state(calls)
}

async fn quotas(State(calls): State<Arc<Calls>>) -> Json<Vec<Quota>> {
    Json(calls.standings().into_iter().map(Quota::from).collect())
}
