//! The tonic loop around [`Connection`]: one task for each Envoy.

use std::collections::{BTreeMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use futures::Stream;
use policy::HostName;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::connection::{Connection, Standing};
use super::leaves::Leaves;
use super::resources::secret;
use super::snapshot::{Resource, ResourceKind, Snapshot};
use base::telemetry::{self, Leaf};
use ca::issuer::Issuer;
use registry::Registry;

/// The most responses that are buffered for a slow Envoy. Then the task of its stream waits.
const OUTGOING: usize = 16;

/// The largest request, in bytes. Envoy's first request on a new stream lists all its resources:
/// [`leaves::MAX_LEAVES`] names of 253 characters with their versions take 2 MiB.
const MAX_REQUEST: usize = 16 << 20;

/// How often the leaves are checked for renewal.
const RENEWAL: Duration = Duration::from_secs(600);

/// The last response of each connected Envoy for each kind of resource. `/readyz` uses it.
#[derive(Clone, Debug, Default)]
pub struct Fleet(Arc<Mutex<BTreeMap<u64, BTreeMap<ResourceKind, Standing>>>>);

impl Fleet {
    /// The reasons why an Envoy does not run with the current configuration yet. Empty if every connected Envoy does.
    pub fn missing(&self) -> Vec<String> {
        let fleet = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if fleet.is_empty() {
            return vec!["envoy: none is connected".into()];
        }
        let mut missing = Vec::new();
        for standings in fleet.values() {
            for kind in [ResourceKind::Cluster, ResourceKind::Extension, ResourceKind::Listener, ResourceKind::Route] {
                match standings.get(&kind) {
                    Some(Standing::Accepted) => {}
                    Some(Standing::Rejected(why)) => missing.push(format!("envoy: refused its {kind:?}: {why}")),
                    Some(Standing::Pending) | None => missing.push(format!("envoy: has not taken its {kind:?} yet")),
                }
            }
        }
        missing
    }

    /// The number of connected Envoys.
    pub fn sessions(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn update(&self, id: u64, connection: &Connection) {
        let standings = ResourceKind::ALL
            .into_iter()
            .filter_map(|kind| connection.standing(kind).map(|standing| (kind, standing.clone())))
            .collect();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, standings);
    }

    fn remove(&self, id: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

/// The discovery service.
#[derive(Debug)]
pub struct Server {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    issuer: Arc<Issuer>,
    registry: Arc<Registry>,
    fleet: Fleet,
    next_id: std::sync::atomic::AtomicU64,
}

impl Server {
    /// Serves the resources from `snapshots`, and leaves from `issuer` on demand. Leaves of the hosts that the policy
    /// in `registry` lists by exact name are never evicted.
    pub fn new(
        snapshots: watch::Receiver<Arc<Snapshot>>,
        issuer: Arc<Issuer>,
        registry: Arc<Registry>,
        fleet: Fleet,
    ) -> Self {
        Self { snapshots, issuer, registry, fleet, next_id: 0.into() }
    }

    /// Turns this into a tonic service.
    pub fn into_service(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }
}

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Server {
    type StreamAggregatedResourcesStream = Outgoing<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Outgoing<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("only delta xDS is served; see envoy/bootstrap.yaml"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (sender, receiver) = mpsc::channel(OUTGOING);
        let id = self.next_id.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let session = Session {
            id,
            requests: request.into_inner(),
            snapshots: self.snapshots.clone(),
            issuer: Arc::clone(&self.issuer),
            registry: Arc::clone(&self.registry),
            fleet: self.fleet.clone(),
            leaves: Leaves::default(),
            ca_changes: self.issuer.changes(),
            sender,
        };
        tokio::spawn(session.run());
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

struct Session {
    id: u64,
    requests: Streaming<DeltaDiscoveryRequest>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    issuer: Arc<Issuer>,
    registry: Arc<Registry>,
    fleet: Fleet,
    leaves: Leaves,
    ca_changes: watch::Receiver<u64>,
    sender: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

impl Session {
    async fn run(mut self) {
        tracing::info!(envoy = self.id, "an Envoy has connected");
        let mut connection = Connection::default();
        let mut renewal = tokio::time::interval(RENEWAL);
        // The loop ends when Envoy closes the stream or disconnects, or when this process stops.
        while let Some(responses) = self.step(&mut connection, &mut renewal).await {
            self.fleet.update(self.id, &connection);
            for response in responses {
                if self.sender.send(Ok(response)).await.is_err() {
                    break;
                }
            }
        }
        self.fleet.remove(self.id);
        telemetry::leaves_held(self.leaves.len(), 0);
        tracing::info!(envoy = self.id, "an Envoy has gone");
    }

    async fn step(
        &mut self,
        connection: &mut Connection,
        renewal: &mut Interval,
    ) -> Option<Vec<DeltaDiscoveryResponse>> {
        tokio::select! {
            request = self.requests.next() => {
                let request = request?.ok()?;
                if let Some(error) = &request.error_detail {
                    telemetry::nack(ResourceKind::of(&request.type_url).map(ResourceKind::name));
                    tracing::error!(kind = %request.type_url, error = %error.message, "Envoy refused an update");
                }
                Some(self.answer(connection, request))
            }
            _ = renewal.tick() => {
                let due = self.leaves.due(Instant::now());
                Some(self.renew(connection, due))
            }
            changed = self.ca_changes.changed() => {
                changed.ok()?;
                let all = self.leaves.names();
                Some(self.renew(connection, all))
            }
            changed = self.snapshots.changed() => {
                changed.ok()?;
                let snapshot = Arc::clone(&self.snapshots.borrow_and_update());
                Some(connection.on_snapshot(&snapshot))
            }
            () = self.sender.closed() => None,
        }
    }
}

impl Session {
    fn answer(&mut self, connection: &mut Connection, request: DeltaDiscoveryRequest) -> Vec<DeltaDiscoveryResponse> {
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let policy = self.registry.policy();
        let (issuer, registry, leaves) = (&self.issuer, &self.registry, &mut self.leaves);
        let held = leaves.len();
        if ResourceKind::of(&request.type_url) == Some(ResourceKind::Secret) {
            request.resource_names_unsubscribe.iter().for_each(|name| leaves.forget(name));
        }
        // Leaves that Envoy held before its stream broke off were granted then.
        let held_before: HashSet<String> = request.initial_resource_versions.keys().cloned().collect();
        let mut gone = Vec::new();
        let response = connection.on_request(request, &snapshot, &mut |kind, name| match kind {
            ResourceKind::Secret => {
                let host = HostName::parse(name.as_bytes()).ok();
                // Only the canonical spelling counts: each name has many others.
                let plain = host.as_ref().filter(|host| host.as_str() == name);
                let reached = |host: &HostName| policy.egress.access(host).is_some() || registry.allows_extra(host);
                let strange = host.is_some() && !plain.is_some_and(reached) && !held_before.contains(name);
                if strange && !leaves.take_strange(Instant::now()) {
                    telemetry::leaves(Leaf::Refused, 1);
                    tracing::debug!(name, "no certificate: too many names that nobody may reach");
                    return None;
                }
                let leaf = mint(issuer, name)?;
                let protected = plain.is_some_and(|host| policy.egress.names_exactly(host));
                gone.extend(leaves.issued(name, protected, Instant::now()));
                Some(leaf)
            }
            _ => snapshot.get(kind, name).cloned(),
        });
        telemetry::leaves(Leaf::Evicted, gone.len());
        telemetry::leaves_held(held, leaves.len());
        let evicted = (!gone.is_empty()).then(|| connection.take_back(ResourceKind::Secret, gone));
        response.into_iter().chain(evicted).collect()
    }

    fn renew(&mut self, connection: &mut Connection, names: Vec<String>) -> Vec<DeltaDiscoveryResponse> {
        let now = Instant::now();
        let renewed: Vec<(String, Resource)> =
            names.into_iter().filter_map(|name| mint(&self.issuer, &name).map(|leaf| (name, leaf))).collect();
        renewed.iter().for_each(|(name, _)| self.leaves.renewed(name, now));
        if renewed.is_empty() { Vec::new() } else { vec![connection.replace(ResourceKind::Secret, renewed)] }
    }
}

/// The leaf for a server name. Returns `None` if it can't be issued; the handshake then fails.
fn mint(issuer: &Issuer, name: &str) -> Option<Resource> {
    match issuer.leaf(name) {
        Ok(leaf) => {
            telemetry::leaves(Leaf::Minted, 1);
            Some(Resource::of(secret::leaf(name, &leaf)))
        }
        Err(error) => {
            telemetry::leaves(Leaf::Refused, 1);
            tracing::info!(name, %error, "no certificate for this name");
            None
        }
    }
}
