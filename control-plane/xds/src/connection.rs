//! The delta xDS protocol of one stream, as a pure state machine: requests and snapshots in, responses out.
//!
//! The protocol is defined in Envoy's "xDS REST and gRPC protocol", section "Incremental xDS". A rejected version is
//! not sent again until its content changes, so a NACK never causes a resend loop.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
};

use super::snapshot::{Resource, ResourceKind, Snapshot};

/// The most subscriptions by name of one stream. Further names get the response that the resource does not exist. The
/// limit on leaves is lower, see [`super::leaves`].
pub const MAX_SUBSCRIPTIONS: usize = 16_384;

/// Envoy's response to the last update of a kind of resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The update was sent, and Envoy has not responded yet.
    Pending,
    /// The update is in force.
    Accepted,
    /// Envoy rejected the update. The text is Envoy's.
    Rejected(String),
}

/// The state of one stream.
#[derive(Debug, Default)]
pub struct Connection {
    kinds: BTreeMap<ResourceKind, KindState>,
    last_nonce: u64,
}

#[derive(Debug, Default)]
struct KindState {
    wildcard: bool,
    names: BTreeSet<String>,
    /// The resources that the client has or was sent, from name to version.
    sent: BTreeMap<String, String>,
    standing: Option<Standing>,
    nonce: String,
}

impl KindState {
    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }
}

/// Finds a resource by name, in the snapshot or by making it on demand.
pub type Find<'a> = dyn FnMut(ResourceKind, &str) -> Option<Resource> + 'a;

impl Connection {
    /// Handles one request. Returns the response, if one is due.
    pub fn on_request(
        &mut self,
        request: DeltaDiscoveryRequest,
        snapshot: &Snapshot,
        find: &mut Find<'_>,
    ) -> Option<DeltaDiscoveryResponse> {
        let kind = ResourceKind::of(&request.type_url)?;
        let first = !self.kinds.contains_key(&kind);
        let state = self.kinds.entry(kind).or_default();
        if first {
            state.sent = request.initial_resource_versions.into_iter().collect();
        }
        if !request.response_nonce.is_empty() && request.response_nonce == state.nonce {
            state.standing = Some(match request.error_detail {
                None => Standing::Accepted,
                Some(error) => Standing::Rejected(error.message),
            });
        }
        for name in &request.resource_names_unsubscribe {
            state.names.remove(name);
            state.sent.remove(name);
            if name == "*" {
                state.wildcard = false;
            }
        }
        // A first request without names subscribes to all resources. `*` does so at any time.
        let wildcard_before = state.wildcard;
        if (first && request.resource_names_subscribe.is_empty())
            || request.resource_names_subscribe.iter().any(|n| n == "*")
        {
            state.wildcard = true;
        }
        let mut upserts = Vec::new();
        let mut removals = Vec::new();
        for name in request.resource_names_subscribe {
            if name == "*" {
                continue;
            }
            let room = state.names.len() < MAX_SUBSCRIPTIONS || state.names.contains(&name);
            // A repeated subscription to a name gets a new response, whatever was sent before.
            match room.then(|| find(kind, &name)).flatten() {
                Some(resource) => {
                    state.names.insert(name.clone());
                    upserts.push((name, resource));
                }
                None => {
                    // When a secret is removed, Envoy drops the subscription, and subscribes again if needed.
                    state.sent.remove(&name);
                    if kind != ResourceKind::Secret && room {
                        state.names.insert(name.clone());
                    }
                    removals.push(name);
                }
            }
        }
        let opened = state.wildcard && !wildcard_before;
        if opened {
            upserts.extend(
                snapshot
                    .all(kind)
                    .filter(|(name, resource)| state.sent.get(*name) != Some(&resource.version))
                    .map(|(name, resource)| (name.clone(), resource.clone())),
            );
            removals.extend(state.sent.keys().filter(|name| snapshot.get(kind, name).is_none()).cloned());
        }
        if upserts.is_empty() && removals.is_empty() && !opened {
            return None;
        }
        Some(self.respond(kind, upserts, removals))
    }

    /// Handles a new snapshot. Returns the changes for this stream. Their order ensures that a resource exists before
    /// another refers to it, and is removed only after the last reference to it.
    pub fn on_snapshot(&mut self, snapshot: &Snapshot) -> Vec<DeltaDiscoveryResponse> {
        let mut responses = Vec::new();
        for kind in ResourceKind::ALL {
            let Some(state) = self.kinds.get(&kind) else { continue };
            let changed: Vec<(String, Resource)> = snapshot
                .all(kind)
                .filter(|(name, resource)| state.wants(name) && state.sent.get(*name) != Some(&resource.version))
                .map(|(name, resource)| (name.clone(), resource.clone()))
                .collect();
            if !changed.is_empty() {
                responses.push(self.respond(kind, changed, Vec::new()));
            }
        }
        for kind in ResourceKind::ALL.into_iter().rev().filter(|kind| *kind != ResourceKind::Secret) {
            let Some(state) = self.kinds.get(&kind) else { continue };
            let gone: Vec<String> =
                state.sent.keys().filter(|name| snapshot.get(kind, name).is_none()).cloned().collect();
            if !gone.is_empty() {
                responses.push(self.respond(kind, Vec::new(), gone));
            }
        }
        responses
    }

    /// Sends a new version of resources that were sent by name.
    pub fn replace(&mut self, kind: ResourceKind, resources: Vec<(String, Resource)>) -> DeltaDiscoveryResponse {
        self.respond(kind, resources, Vec::new())
    }

    /// Removes resources that were sent by name. Envoy subscribes again when it needs one.
    pub fn take_back(&mut self, kind: ResourceKind, names: Vec<String>) -> DeltaDiscoveryResponse {
        if let Some(state) = self.kinds.get_mut(&kind) {
            for name in &names {
                state.names.remove(name);
            }
        }
        self.respond(kind, Vec::new(), names)
    }

    /// Envoy's last response for a kind. Returns `None` if Envoy has not subscribed to the kind.
    pub fn standing(&self, kind: ResourceKind) -> Option<&Standing> {
        self.kinds.get(&kind)?.standing.as_ref()
    }

    fn respond(
        &mut self,
        kind: ResourceKind,
        upserts: Vec<(String, Resource)>,
        removals: Vec<String>,
    ) -> DeltaDiscoveryResponse {
        self.last_nonce += 1;
        let nonce = self.last_nonce.to_string();
        let state = self.kinds.entry(kind).or_default();
        for name in &removals {
            state.sent.remove(name);
        }
        for (name, resource) in &upserts {
            state.sent.insert(name.clone(), resource.version.clone());
        }
        // An accepted update stays in force until Envoy responds to the next one.
        if state.standing != Some(Standing::Accepted) {
            state.standing = Some(Standing::Pending);
        }
        state.nonce.clone_from(&nonce);
        DeltaDiscoveryResponse {
            type_url: kind.type_url(),
            nonce,
            removed_resources: removals,
            resources: upserts
                .into_iter()
                .map(|(name, resource)| WireResource {
                    name,
                    version: resource.version,
                    resource: Some(resource.body),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use envoy_types::pb::google::{protobuf::Any, rpc::Status};

    fn resource(version: &str) -> Resource {
        Resource { version: version.into(), body: Any::default() }
    }

    fn snapshot(entries: &[(ResourceKind, &str, &str)]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (kind, name, version) in entries {
            snapshot.insert(*kind, name, resource(version));
        }
        snapshot
    }

    fn request(kind: ResourceKind, subscribe: &[&str]) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: kind.type_url(),
            resource_names_subscribe: subscribe.iter().map(|s| (*s).to_owned()).collect(),
            ..Default::default()
        }
    }

    fn answer(kind: ResourceKind, nonce: &str, error: Option<&str>) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            response_nonce: nonce.into(),
            error_detail: error.map(|message| Status { message: message.into(), ..Default::default() }),
            ..request(kind, &[])
        }
    }

    fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
        response.resources.iter().map(|r| r.name.as_str()).collect()
    }

    fn ask(
        connection: &mut Connection,
        request: DeltaDiscoveryRequest,
        snapshot: &Snapshot,
    ) -> Option<DeltaDiscoveryResponse> {
        connection.on_request(request, snapshot, &mut |kind, name| snapshot.get(kind, name).cloned())
    }

    #[test]
    fn a_first_request_without_names_gets_everything_and_later_only_changes() {
        let mut connection = Connection::default();
        let one = snapshot(&[(ResourceKind::Cluster, "a", "1"), (ResourceKind::Cluster, "b", "1")]);
        let first = ask(&mut connection, request(ResourceKind::Cluster, &[]), &one).unwrap();
        assert_eq!(names(&first), ["a", "b"]);
        assert_eq!(connection.standing(ResourceKind::Cluster), Some(&Standing::Pending));
        assert_eq!(ask(&mut connection, answer(ResourceKind::Cluster, &first.nonce, None), &one), None);
        assert_eq!(connection.standing(ResourceKind::Cluster), Some(&Standing::Accepted));
        assert!(connection.on_snapshot(&one).is_empty());
        let two = snapshot(&[(ResourceKind::Cluster, "a", "2")]);
        let update = connection.on_snapshot(&two);
        assert_eq!(update.len(), 2);
        assert_eq!(names(&update[0]), ["a"]);
        assert_eq!(update[1].removed_resources, ["b"]);
    }

    #[test]
    fn an_empty_kind_is_answered_too_since_envoy_waits_for_it() {
        let mut connection = Connection::default();
        let response = ask(&mut connection, request(ResourceKind::Cluster, &[]), &Snapshot::default()).unwrap();
        assert!(response.resources.is_empty());
    }

    #[test]
    fn a_refused_version_is_not_sent_again_until_it_changes() {
        let mut connection = Connection::default();
        let one = snapshot(&[(ResourceKind::Listener, "l", "1")]);
        let first = ask(&mut connection, request(ResourceKind::Listener, &[]), &one).unwrap();
        assert_eq!(
            ask(&mut connection, answer(ResourceKind::Listener, &first.nonce, Some("no such filter")), &one),
            None
        );
        assert_eq!(connection.standing(ResourceKind::Listener), Some(&Standing::Rejected("no such filter".into())));
        assert!(connection.on_snapshot(&one).is_empty());
        assert_eq!(connection.on_snapshot(&snapshot(&[(ResourceKind::Listener, "l", "2")])).len(), 1);
    }

    #[test]
    fn an_old_nonce_says_nothing_of_the_newer_update() {
        let mut connection = Connection::default();
        let first =
            ask(&mut connection, request(ResourceKind::Route, &[]), &snapshot(&[(ResourceKind::Route, "r", "1")]))
                .unwrap();
        let two = snapshot(&[(ResourceKind::Route, "r", "2")]);
        connection.on_snapshot(&two);
        ask(&mut connection, answer(ResourceKind::Route, &first.nonce, Some("late")), &two);
        assert_eq!(connection.standing(ResourceKind::Route), Some(&Standing::Pending));
    }

    #[test]
    fn a_reconnecting_client_is_sent_what_it_lacks() {
        let mut connection = Connection::default();
        let now = snapshot(&[(ResourceKind::Cluster, "same", "1"), (ResourceKind::Cluster, "changed", "2")]);
        let mut hello = request(ResourceKind::Cluster, &[]);
        hello.initial_resource_versions =
            [("same", "1"), ("changed", "1"), ("gone", "1")].map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        let response = ask(&mut connection, hello, &now).unwrap();
        assert_eq!(names(&response), ["changed"]);
        assert_eq!(response.removed_resources, ["gone"]);
    }

    #[test]
    fn a_secret_is_made_when_it_is_asked_for_and_refused_by_removal() {
        let mut connection = Connection::default();
        let none = Snapshot::default();
        let mut mint = |_: ResourceKind, name: &str| name.ends_with(".com").then(|| resource("leaf"));
        let made = connection.on_request(request(ResourceKind::Secret, &["a.com"]), &none, &mut mint).unwrap();
        assert_eq!(names(&made), ["a.com"]);
        let refused = connection.on_request(request(ResourceKind::Secret, &["bad name"]), &none, &mut mint).unwrap();
        assert_eq!(refused.removed_resources, ["bad name"]);
        assert!(connection.on_snapshot(&none).is_empty(), "a snapshot knows nothing of leaves");
        let again = connection.on_request(request(ResourceKind::Secret, &["a.com"]), &none, &mut mint).unwrap();
        assert_eq!(names(&again), ["a.com"], "asked for again, answered again");
    }

    #[test]
    fn what_is_taken_back_is_removed_and_can_be_asked_for_again() {
        let mut connection = Connection::default();
        let none = Snapshot::default();
        let mut mint = |_: ResourceKind, _: &str| Some(resource("leaf"));
        connection.on_request(request(ResourceKind::Secret, &["a.com"]), &none, &mut mint).unwrap();
        assert_eq!(connection.take_back(ResourceKind::Secret, vec!["a.com".into()]).removed_resources, ["a.com"]);
        let again = connection.on_request(request(ResourceKind::Secret, &["a.com"]), &none, &mut mint).unwrap();
        assert_eq!(names(&again), ["a.com"]);
        assert_eq!(
            names(&connection.replace(ResourceKind::Secret, vec![("a.com".into(), resource("new"))])),
            ["a.com"]
        );
    }

    #[test]
    fn what_is_unsubscribed_is_not_sent_any_more() {
        let mut connection = Connection::default();
        let one = snapshot(&[(ResourceKind::Route, "r", "1")]);
        ask(&mut connection, request(ResourceKind::Route, &["r"]), &one).unwrap();
        let mut leave = request(ResourceKind::Route, &[]);
        leave.resource_names_unsubscribe = vec!["r".into()];
        assert_eq!(ask(&mut connection, leave, &one), None);
        assert!(connection.on_snapshot(&snapshot(&[(ResourceKind::Route, "r", "2")])).is_empty());
    }

    #[test]
    fn a_subscribed_name_that_appears_later_is_sent_then() {
        let mut connection = Connection::default();
        let response = ask(&mut connection, request(ResourceKind::Route, &["r"]), &Snapshot::default()).unwrap();
        assert_eq!(response.removed_resources, ["r"]);
        assert_eq!(connection.on_snapshot(&snapshot(&[(ResourceKind::Route, "r", "1")])).len(), 1);
    }

    #[test]
    fn subscriptions_are_bounded() {
        let mut connection = Connection::default();
        let none = Snapshot::default();
        let mut mint = |_: ResourceKind, _: &str| Some(resource("leaf"));
        let all: Vec<String> = (0..MAX_SUBSCRIPTIONS).map(|n| format!("n{n}.com")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let response = connection.on_request(request(ResourceKind::Secret, &all), &none, &mut mint).unwrap();
        assert_eq!(response.resources.len(), MAX_SUBSCRIPTIONS);
        let over = connection.on_request(request(ResourceKind::Secret, &["over.com"]), &none, &mut mint).unwrap();
        assert_eq!(over.removed_resources, ["over.com"]);
    }
}
