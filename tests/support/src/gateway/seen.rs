//! The visible data of a gateway from outside, for the searches for secrets.

use super::{Gateway, admin};
use crate::kept;
use std::path::Path;
use std::process::Child;

/// Paths of the admin API whose responses every user of the API may read. No secret may be in them.
const READABLE: [&str; 6] = ["/metrics", "/internal/containers", "/readyz", "/healthz", "/", "/ca.pem"];

/// Envoy's own admin data that is kept at a gateway's end. Only the filters' code is left out.
const KEPT_OF_ENVOY: [&str; 9] = [
    "/config_dump?resource=bootstrap",
    "/config_dump?resource=dynamic_listeners",
    "/config_dump?resource=dynamic_route_configs",
    "/config_dump?resource=dynamic_active_clusters",
    "/config_dump?resource=dynamic_active_secrets",
    "/config_dump?resource=static_clusters",
    "/certs",
    "/clusters",
    "/stats",
];

impl Gateway {
    /// The files that the gateway has written, except the files for its secrets, and the responses of its API.
    pub fn readable(&self) -> Vec<(String, Vec<u8>)> {
        let mut found = crate::secrets::files(&self.directory);
        let secret = self.state.join("tokens").display().to_string();
        found.retain(|(path, _)| !path.starts_with(&secret));
        for path in READABLE {
            found.push((path.to_owned(), self.call("GET", path, None).1.into_bytes()));
        }
        found
    }

    /// Keeps the visible data of a running gateway, for the search for secrets when the test binary has ended.
    pub(super) fn keep_what_is_seen(&self) {
        let pid = self.child.lock().unwrap().as_ref().map(Child::id);
        let Some(pid) = pid.filter(|_| self.ready()) else { return };
        let Some(envoy) = self.envoy_pid() else { return };
        for path in READABLE {
            // `try_call` keeps the response.
            drop(self.try_call("GET", path, None));
        }
        let socket = self.state.join("run/envoy-admin.sock");
        for path in KEPT_OF_ENVOY {
            kept::all(path, admin::envoy(&socket, path).unwrap_or_default().as_bytes());
        }
        // The environment of `sallyport up` is the choice of the program that started it, so it is not kept.
        for file in [format!("{pid}/cmdline"), format!("{envoy}/cmdline"), format!("{envoy}/environ")] {
            kept::note(&file, &std::fs::read(Path::new("/proc").join(&file)).unwrap_or_default());
        }
    }
}
