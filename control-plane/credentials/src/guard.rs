//! The guard of one request: what the model filter, which reads the body ([`model::flow`]), has to permit.

use super::entry::Entry;
use super::{Credentials, within};
use model::Guard;
use policy::{Container, Egress, HostPattern};

impl Credentials {
    /// The guard of a request of `container` with the credential `entry`: for the method and the path, with or without a
    /// query. `None` if its body is not read. `egress` lists the hosts that every container may reach.
    pub fn guard(
        &self,
        entry: &Entry,
        container: &Container,
        egress: &Egress,
        (method, path): (&str, &[u8]),
    ) -> Option<Guard> {
        let permits = entry.permits.as_ref()?;
        let path = path.split(|byte| *byte == b'?').next().unwrap_or_default();
        if !permits.reads(method, path) {
            return None;
        }
        // A request to such a host gets the gateway's credential, and only on some paths. The provider's has neither.
        let credentialed = self.entries.keys().filter(|host| {
            let covered = |pattern: &HostPattern| within(pattern, host) || within(host, pattern);
            container.egress_allow.iter().any(|rules| !rules.allow.is_empty() && covered(&rules.host))
                || egress.entries().any(|(pattern, _)| covered(&pattern))
        });
        let guard = Guard {
            credential: entry.name.clone(),
            also: permits.also.clone(),
            egress: egress.clone(),
            own: container.egress_allow.clone(),
            except: credentialed.cloned().collect(),
        };
        (!guard.permits_all()).then_some(guard)
    }
}
