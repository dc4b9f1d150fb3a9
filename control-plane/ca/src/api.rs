//! The operator's HTTP API for the CA, and the bundle of certificates for sandboxes.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;

use super::issuer::{Error, Issuer, PUBLIC};
use base::files;

/// The state of the routes.
#[derive(Clone, Debug)]
pub struct Api {
    /// The CA.
    pub issuer: Arc<Issuer>,
    /// The file for the bundle of all trusted roots.
    pub bundle: PathBuf,
    /// The system's roots, which come first in the bundle.
    pub roots_pem: Arc<str>,
}

impl Api {
    /// Writes the bundle: the system's roots, and every trusted CA of the gateway. An up-to-date bundle is not written
    /// again, so that a full disk does not prevent the start.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_bundle(&self) -> std::io::Result<()> {
        let bundle = format!("{}\n{}", self.roots_pem.trim_end(), self.issuer.trusted_pem());
        match std::fs::read(&self.bundle) {
            Ok(there) if there == bundle.as_bytes() => files::set_mode(&self.bundle, PUBLIC),
            _ => files::write_atomic(&self.bundle, bundle.as_bytes(), PUBLIC),
        }
    }

    /// The files of the CA that are gone or replaced, one line each.
    pub fn problems(&self) -> Vec<String> {
        let bundle = self.bundle.display();
        let of_bundle = match std::fs::read_to_string(&self.bundle) {
            Ok(text) if text.contains(&self.issuer.trusted_pem()) => None,
            Ok(_) => Some(format!("{bundle} does not have the CA that the gateway uses; a restart writes it anew")),
            Err(error) => Some(format!("{bundle} cannot be read: {error}; a restart writes it anew")),
        };
        self.issuer.problem().into_iter().chain(of_bundle).collect()
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn whoever_is_given_the_certificates_can_read_them_and_nobody_else_the_keys() {
        // As in `app`. This changes the umask of the whole process.
        rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
        let directory = tempfile::tempdir().unwrap();
        let start = || {
            let issuer = Issuer::open(directory.path()).unwrap();
            let api = Api { issuer, bundle: directory.path().join("ca-bundle.pem"), roots_pem: "roots".into() };
            api.write_bundle().unwrap();
            api
        };
        let mode = |name: &str| directory.path().join(name).metadata().unwrap().permissions().mode() & 0o777;
        let certificates = ["ca.pem", "ca-bundle.pem"];

        start().issuer.stage().unwrap();
        for name in certificates.into_iter().chain(["ca-next.pem"]) {
            assert_eq!(mode(name), 0o644, "{name}");
        }
        for name in ["ca.key", "ca-next.key"] {
            assert_eq!(mode(name), 0o600, "{name}");
        }
        // An older gateway wrote these files readable only for itself.
        for name in certificates {
            std::fs::set_permissions(directory.path().join(name), Permissions::from_mode(0o600)).unwrap();
        }
        start();
        for name in certificates {
            assert_eq!(mode(name), 0o644, "{name}");
        }
    }
    #[test]
    fn a_certificate_that_is_gone_or_another_one_is_told() {
        let [directory, elsewhere] = [(), ()].map(|()| tempfile::tempdir().unwrap());
        let issuer = Issuer::open(directory.path()).unwrap();
        let api = Api { issuer, bundle: directory.path().join("ca-bundle.pem"), roots_pem: "roots".into() };
        api.write_bundle().unwrap();
        let told = |parts: &[&str]| {
            let problems = api.problems();
            assert_eq!(problems.len(), parts.len(), "{problems:?}");
            assert!(problems.iter().zip(parts).all(|(problem, part)| problem.contains(part)), "{problems:?}");
        };
        told(&[]);
        api.issuer.stage().unwrap();
        api.write_bundle().unwrap();
        api.issuer.finish().unwrap();
        api.write_bundle().unwrap();
        told(&[]);
        let (own, other) = (directory.path().join("ca.pem"), elsewhere.path().join("ca.pem"));
        Issuer::open(elsewhere.path()).unwrap();
        std::fs::copy(&other, &own).unwrap();
        std::fs::write(&api.bundle, "roots").unwrap();
        told(&["ca.pem is not the CA", "ca-bundle.pem does not have the CA"]);
        std::fs::remove_file(&own).unwrap();
        std::fs::remove_file(&api.bundle).unwrap();
        told(&["ca.pem is gone", "ca-bundle.pem cannot be read"]);
    }
}
