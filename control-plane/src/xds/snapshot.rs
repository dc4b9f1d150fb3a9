//! All resources at one moment, built from what the operator configured. Immutable; swapped whole.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;
use policy::{HostName, Policy};
use prost::{Message, Name};
use sha2::{Digest, Sha256};

use super::resources::{IDENTITY, cluster, extension, listener, route};
use crate::config::Config;

/// The kinds of resource, in the order in which an update is sent: what is referred to before what refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
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

impl Kind {
    /// All of them, in order.
    pub const ALL: [Kind; 5] = [Kind::Cluster, Kind::Secret, Kind::Extension, Kind::Listener, Kind::Route];

    /// The type URL that names this kind on the wire.
    pub fn type_url(self) -> String {
        match self {
            Kind::Cluster => Cluster::type_url(),
            Kind::Secret => Secret::type_url(),
            Kind::Extension => TypedExtensionConfig::type_url(),
            Kind::Listener => Listener::type_url(),
            Kind::Route => RouteConfiguration::type_url(),
        }
    }

    /// The kind that a type URL names.
    pub fn of(type_url: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }
}

/// One resource and the version of its content.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Changes when and only when the content does.
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

/// The first 12 hex digits of the SHA-256 of `bytes`: names a content.
pub fn short_hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// The resources of every kind by name.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    resources: BTreeMap<Kind, BTreeMap<String, Resource>>,
}

impl Snapshot {
    /// Builds all of it: the same inputs give the same snapshot, versions included.
    ///
    /// `credentialed` says of a host whether a credential may be added there. `filters` are the modules by name.
    pub fn build(
        config: &Config,
        policy: &Policy,
        credentialed: impl Fn(&HostName) -> bool,
        filters: &BTreeMap<String, Vec<u8>>,
    ) -> Self {
        let hosts: Vec<route::Host> = policy
            .egress
            .iter()
            .map(|name| route::Host {
                name: name.clone(),
                pinned: config.upstreams.contains_key(name),
                credentialed: credentialed(name),
            })
            .collect();
        let mut snapshot = Self::default();
        snapshot.add(Kind::Cluster, super::resources::TUNNEL, cluster::tunnel());
        snapshot.add(Kind::Cluster, super::resources::UPSTREAM, cluster::dynamic_forward_proxy(&config.roots_pem));
        for (host, upstream) in &config.upstreams {
            snapshot.add(Kind::Cluster, &cluster::pinned_name(host), cluster::pinned(host, upstream));
        }
        for (name, code) in filters {
            snapshot.add(Kind::Extension, name, extension::filter(name, code.clone()));
        }
        snapshot.add(Kind::Listener, super::resources::PROXY, listener::proxy(config.proxy));
        snapshot.add(Kind::Listener, super::resources::TUNNEL, listener::tunnel());
        snapshot.add(Kind::Route, super::resources::PROXY, route::proxy(&hosts));
        snapshot.add(Kind::Route, super::resources::TUNNEL, route::tunnel(&hosts));
        snapshot
    }

    /// The filters that the listeners wait for.
    pub const FILTERS: [&'static str; 1] = [IDENTITY];

    fn add<T: Message + Name>(&mut self, kind: Kind, name: &str, message: T) {
        self.insert(kind, name, Resource::of(message));
    }

    /// Adds or replaces one resource.
    pub fn insert(&mut self, kind: Kind, name: &str, resource: Resource) {
        self.resources.entry(kind).or_default().insert(name.into(), resource);
    }

    /// One resource.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Resource> {
        self.resources.get(&kind)?.get(name)
    }

    /// All resources of a kind.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = (&String, &Resource)> {
        self.resources.get(&kind).into_iter().flatten()
    }
}
