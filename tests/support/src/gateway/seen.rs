//! What can be seen of a gateway from outside, for the searches for secrets.

use super::{Gateway, admin};
use crate::kept;
use std::path::Path;
use std::process::Child;

/// What of the admin API anybody may read who may use it, and no secret may be in.
const READABLE: [&str; 6] = ["/metrics", "/internal/containers", "/readyz", "/healthz", "/", "/ca.pem"];

/// What of Envoy's own is kept at a gateway's end: all but the filters' code.
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
    /// Every file that the gateway has written but the ones for its secrets, and the answers of its API.
    pub fn readable(&self) -> Vec<(String, Vec<u8>)> {
        let mut found = crate::secrets::files(&self.directory);
        let secret = self.state.join("tokens").display().to_string();
        found.retain(|(path, _)| !path.starts_with(&secret));
        for path in READABLE {
            found.push((path.to_owned(), self.call("GET", path, None).1.into_bytes()));
        }
        found
    }

    /// Keeps what a look from outside shows of a gateway that runs, for the search for secrets at the end of all.
    pub(super) fn keep_what_is_seen(&self) {
        let pid = self.child.lock().unwrap().as_ref().map(Child::id);
        let Some(pid) = pid.filter(|_| self.ready()) else { return };
        let Some(envoy) = self.envoy_pid() else { return };
        for path in READABLE {
            // It is noted where it is read.
            drop(self.try_call("GET", path, None));
        }
        let socket = self.state.join("run/envoy-admin.sock");
        for path in KEPT_OF_ENVOY {
            kept::all(path, admin::envoy(&socket, path).unwrap_or_default().as_bytes());
        }
        // What is in our own environment was put there by whoever started us.
        for file in [format!("{pid}/cmdline"), format!("{envoy}/cmdline"), format!("{envoy}/environ")] {
            kept::note(&file, &std::fs::read(Path::new("/proc").join(&file)).unwrap_or_default());
        }
    }
}
