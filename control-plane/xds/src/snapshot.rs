//! All resources at one time, built from the operator's configuration. Immutable; replaced as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;
use policy::{Access, ConnectionLimits, HostPattern, Policy, RulesInForce};
use prost::{Message, Name};

use super::resources::{self, CONNECTIONS, GITHUB, IDENTITY, MODEL, PUSH, SCRUB, cluster, extension, listener, route};
use base::hash::short_hash;
use outbound::upstreams::Upstreams;

/// The kinds of resource, in the order of updates: a resource is sent before the resources that refer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKind {
    /// CDS.
    Cluster,
    /// SDS.
    Secret,
    /// ECDS.
    Extension,
    /// LDS.
    Listener,
    /// RDS.
    Route,
}

impl ResourceKind {
    /// All kinds, in order.
    pub const ALL: [ResourceKind; 5] = [
        ResourceKind::Cluster,
        ResourceKind::Secret,
        ResourceKind::Extension,
        ResourceKind::Listener,
        ResourceKind::Route,
    ];

    /// The type URL that names this kind on the wire.
    pub fn type_url(self) -> String {
        match self {
            ResourceKind::Cluster => Cluster::type_url(),
            ResourceKind::Secret => Secret::type_url(),
            ResourceKind::Extension => TypedExtensionConfig::type_url(),
            ResourceKind::Listener => Listener::type_url(),
            ResourceKind::Route => RouteConfiguration::type_url(),
        }
    }

    /// The name of this kind among [`base::telemetry::UPDATES`].
    pub fn name(self) -> &'static str {
        match self {
            ResourceKind::Cluster => "cluster",
            ResourceKind::Secret => "secret",
            ResourceKind::Extension => "extension",
            ResourceKind::Listener => "listener",
            ResourceKind::Route => "route",
        }
    }

    /// The kind that a type URL names.
    pub fn of(type_url: &str) -> Option<ResourceKind> {
        ResourceKind::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }
}

/// One resource and the version of its content.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// The version, which changes if and only if the content changes.
    pub version: String,
    /// The resource itself.
    pub body: Any,
}

impl Resource {
    /// A resource whose version is the hash of its bytes.
    pub fn of<T: Message + Name>(message: T) -> Self {
        let body = pack_any(message);
        Self { version: short_hash(&body.value), body }
    }
}

/// Every host that any container may reach, with the facts for routing.
///
/// A pinned host that only a suffix covers gets its own entry, because it has its own cluster. It has a credential if
/// the suffix has one.
fn hosts(
    upstreams: &Upstreams,
    policy: &Policy,
    extra: &BTreeSet<HostPattern>,
    credentialed: impl Fn(&HostPattern) -> bool,
) -> Vec<route::Host> {
    let mut egress = policy.egress.clone();
    for pattern in extra {
        egress.add(pattern.clone(), Access::full());
    }
    let listed = egress.clone();
    for host in upstreams.pins.keys() {
        if let Some(access) = egress.access(host).cloned() {
            egress.add(HostPattern::Exact(host.clone()), access);
        }
    }
    egress
        .entries()
        .map(|(pattern, access)| {
            let exact = match &pattern {
                HostPattern::Exact(name) => Some(name),
                HostPattern::Below(_) => None,
            };
            // A pinned host that only a suffix covers still counts as covered by the suffix.
            let by = exact.and_then(|name| listed.by(name));
            let credentialed = credentialed(by.as_ref().unwrap_or(&pattern));
            route::Host {
                pinned: exact.is_some_and(|name| upstreams.pins.contains_key(name)),
                credentialed,
                cleartext: access.cleartext && !credentialed,
                strip_credentials: policy.strip_foreign_credentials && !credentialed,
                pattern,
            }
        })
        .collect()
}

/// The addresses on which Envoy listens, and the limits of connections.
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    /// The explicit proxy, for sandboxes.
    pub proxy: SocketAddr,
    /// The DNS port for Envoy's own resolver.
    pub resolver: SocketAddr,
    /// The most connections of one address.
    pub limits: ConnectionLimits,
    /// The most connections of all sandboxes together. All upstreams of a kind together have as many.
    pub connections: u32,
}

/// The resources of every kind by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    resources: BTreeMap<ResourceKind, BTreeMap<String, Resource>>,
}

impl Snapshot {
    /// Builds a snapshot. The same inputs give the same snapshot, including the versions.
    ///
    /// `extra` are the hosts that single containers may reach in addition to those of the policy. `credentialed` tells
    /// whether a credential may be added for an entry of the list. `module` is the code of all filters. `revision` rises
    /// with each change of the rules for GitHub.
    pub fn build(
        listen: Listen,
        upstreams: &Upstreams,
        (revision, policy): (u64, &Policy),
        extra: &BTreeSet<HostPattern>,
        credentialed: impl Fn(&HostPattern) -> bool,
        module: &[u8],
    ) -> Self {
        let hosts = hosts(upstreams, policy, extra, credentialed);
        let mut snapshot = Self::default();
        snapshot.add(ResourceKind::Cluster, resources::TUNNEL, cluster::tunnel());
        snapshot.add(ResourceKind::Cluster, resources::RESOLVER, cluster::resolver());
        for mut cluster in cluster::dynamic_forward_proxy(&upstreams.roots_pem, listen.resolver) {
            cluster::limit(&mut cluster, listen.connections);
            snapshot.add(ResourceKind::Cluster, &cluster.name.clone(), cluster);
        }
        for mut cluster in upstreams.pins.iter().flat_map(|(host, upstream)| cluster::pinned(host, upstream)) {
            cluster::limit(&mut cluster, listen.connections);
            snapshot.add(ResourceKind::Cluster, &cluster.name.clone(), cluster);
        }
        let limits = serde_json::to_vec(&listen.limits).unwrap_or_default();
        snapshot.add(ResourceKind::Extension, CONNECTIONS, extension::connection_filter(CONNECTIONS, module, limits));
        for name in [IDENTITY, GITHUB, MODEL, PUSH, SCRUB] {
            let rules = match name {
                GITHUB | PUSH => serde_json::to_vec(&RulesInForce { revision, rules: policy.github.clone() }).ok(),
                // The identity filter receives its rules on its own stream. The others have none.
                _ => None,
            };
            snapshot.add(ResourceKind::Extension, name, extension::filter(name, module, rules));
        }
        snapshot.add(ResourceKind::Listener, resources::PROXY, listener::proxy(listen.proxy, listen.resolver));
        snapshot.add(ResourceKind::Listener, resources::TUNNEL, listener::tunnel(listen.resolver));
        snapshot.add(ResourceKind::Listener, resources::RESOLVER, listener::resolver(listen.resolver));
        snapshot.add(ResourceKind::Route, resources::PROXY, route::proxy(&hosts));
        snapshot.add(ResourceKind::Route, resources::TUNNEL, route::tunnel(&hosts));
        snapshot.add(ResourceKind::Route, resources::CLEARTEXT, route::cleartext(&hosts));
        snapshot
    }

    fn add<T: Message + Name>(&mut self, kind: ResourceKind, name: &str, message: T) {
        self.insert(kind, name, Resource::of(message));
    }

    /// Adds or replaces one resource.
    pub fn insert(&mut self, kind: ResourceKind, name: &str, resource: Resource) {
        self.resources.entry(kind).or_default().insert(name.into(), resource);
    }

    /// One resource.
    pub fn get(&self, kind: ResourceKind, name: &str) -> Option<&Resource> {
        self.resources.get(&kind)?.get(name)
    }

    /// All resources of a kind.
    pub fn all(&self, kind: ResourceKind) -> impl Iterator<Item = (&String, &Resource)> {
        self.resources.get(&kind).into_iter().flatten()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn build(policy: &Policy) -> Snapshot {
        revised(1, policy)
    }

    fn revised(revision: u64, policy: &Policy) -> Snapshot {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let limits = ConnectionLimits { container: 512, stranger: 16, strangers: 25_000, requests_per_second: 250 };
        let listen = Listen { proxy: at(8080), resolver: at(8054), limits, connections: 50_000 };
        Snapshot::build(listen, &Upstreams::default(), (revision, policy), &BTreeSet::new(), |_| true, b"module")
    }

    #[test]
    fn a_policy_that_comes_back_is_a_new_configuration_of_github_and_push() {
        let policy = Policy::deny_all();
        let [first, again] = [1, 3].map(|revision| revised(revision, &policy));
        for (name, resource) in first.all(ResourceKind::Extension) {
            let same = again.get(ResourceKind::Extension, name).unwrap() == resource;
            assert_eq!(same, ![GITHUB, PUSH].contains(&name.as_str()), "{name}");
        }
    }

    #[test]
    fn every_kind_has_its_counter() {
        assert_eq!(ResourceKind::ALL.map(ResourceKind::name), base::telemetry::UPDATES);
    }

    #[test]
    fn the_same_inputs_give_the_same_snapshot() {
        for _ in 0..32 {
            assert_eq!(build(&Policy::deny_all()), build(&Policy::deny_all()));
        }
    }

    #[test]
    fn no_policy_changes_a_listener_or_a_cluster() {
        let mut policy = Policy::deny_all();
        policy.egress.add(HostPattern::parse("github.com").unwrap(), Access::full());
        let (none, some) = (build(&Policy::deny_all()), build(&policy));
        for kind in [ResourceKind::Listener, ResourceKind::Cluster, ResourceKind::Extension] {
            assert!(none.all(kind).eq(some.all(kind)), "{kind:?}");
        }
        assert!(!none.all(ResourceKind::Route).eq(some.all(ResourceKind::Route)));
    }
}
