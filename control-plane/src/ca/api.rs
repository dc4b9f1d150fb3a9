//! The operator's HTTP API on the CA, and the bundle that sandboxes are given.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;

use super::issuer::{Error, Issuer};
use crate::files;

/// What the routes need.
#[derive(Clone, Debug)]
pub struct Api {
    /// The CA.
    pub issuer: Arc<Issuer>,
    /// Where the bundle of all trusted roots is written.
    pub bundle: PathBuf,
    /// The system's roots, which stand in it first.
    pub roots_pem: Arc<str>,
}

impl Api {
    /// Writes the bundle: the system's roots and every CA of ours that is to be trusted. One that is there already is
    /// left alone, so that a full disk keeps nobody from starting.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_bundle(&self) -> std::io::Result<()> {
        let bundle = format!("{}\n{}", self.roots_pem.trim_end(), self.issuer.trusted_pem());
        match std::fs::read(&self.bundle) {
            Ok(there) if there == bundle.as_bytes() => Ok(()),
            _ => files::write_atomic(&self.bundle, bundle.as_bytes(), 0o644),
        }
    }

    fn changed(&self, changed: Result<(), Error>) -> Response {
        let done = changed.map_err(|error| {
            let status = match error {
                Error::Staged | Error::NotStaged => StatusCode::CONFLICT,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            (status, format!("{:#}", anyhow::Error::from(error)))
        });
        let written = done.and_then(|()| {
            self.write_bundle().map_err(|error| {
                (StatusCode::SERVICE_UNAVAILABLE, format!("{} cannot be written: {error}", self.bundle.display()))
            })
        });
        match written {
            Ok(()) => Json(json!({ "bundle": self.bundle })).into_response(),
            Err((status, error)) => (status, Json(json!({ "error": error }))).into_response(),
        }
    }
}

/// The routes.
pub fn routes(api: Api) -> Router {
    Router::new()
        .route("/ca.pem", get(certificates))
        .route("/internal/ca/rotate", post(|State(api): State<Api>| async move { api.changed(api.issuer.stage()) }))
        .route(
            "/internal/ca/rotate/finish",
            post(|State(api): State<Api>| async move { api.changed(api.issuer.finish()) }),
        )
        .with_state(api)
}

async fn certificates(State(api): State<Api>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/x-pem-file")], api.issuer.trusted_pem())
}
