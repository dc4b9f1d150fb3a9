//! The gRPC side of the registry: one Watch stream for each Envoy worker, and the Lookup of a single address.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use policy::{Container, Policy};
use registry_proto::registry_server::{Registry as RegistryService, RegistryServer};
use registry_proto::{Container as WireContainer, LookupRequest, LookupResponse, WatchRequest, WatchResponse};
use registry_proto::{address_bytes, address_of};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::redirects::RedirectKey;
use super::registry::{Change, Registry, Subscription};
use super::workers::Watcher;

/// The most messages that are buffered for a slow worker. Then the task of its stream waits.
const OUTGOING: usize = 64;

/// The service.
#[derive(Debug)]
pub struct Feed {
    registry: Arc<Registry>,
    key: RedirectKey,
}

impl Feed {
    /// Serves `registry` as a tonic service, and gives each worker `key`.
    pub fn service(registry: Arc<Registry>, key: RedirectKey) -> RegistryServer<Self> {
        RegistryServer::new(Self { registry, key })
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl RegistryService for Feed {
    type WatchStream = Messages;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let (sender, receiver) = mpsc::channel(OUTGOING);
        let watcher = self.registry.watcher();
        tokio::spawn(serve(Arc::clone(&self.registry), self.key.clone(), watcher, request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn lookup(&self, request: Request<LookupRequest>) -> Result<Response<LookupResponse>, Status> {
        let address = address_of(&request.into_inner().address)
            .ok_or_else(|| Status::invalid_argument("an address has 4 or 16 bytes"))?;
        let (version, record) = self.registry.lookup(address);
        let record = record.map(|record| json(record.as_ref())).transpose()?;
        Ok(Response::new(LookupResponse { version, record }))
    }
}

/// Sends the whole registry and every change after it, until either side closes the stream.
async fn serve(
    registry: Arc<Registry>,
    key: RedirectKey,
    watcher: Watcher,
    mut requests: Streaming<WatchRequest>,
    sender: mpsc::Sender<Result<WatchResponse, Status>>,
) {
    let mut subscription = registry.subscribe();
    let mut next = Some(snapshot(&subscription, &key));
    loop {
        if let Some(message) = next.take()
            && sender.send(message).await.is_err()
        {
            return;
        }
        tokio::select! {
            request = requests.next() => match request {
                Some(Ok(WatchRequest { applied: 0 })) => {}
                Some(Ok(WatchRequest { applied })) => watcher.applied(applied),
                Some(Err(_)) | None => return,
            },
            change = subscription.changes.recv() => next = Some(match change {
                Ok((version, change)) => update(version, &change),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::info!(missed, "a worker fell behind; it is sent the whole registry");
                    subscription = registry.subscribe();
                    snapshot(&subscription, &key)
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }),
            () = sender.closed() => return,
            () = watcher.given_up() => return,
        }
    }
}

fn snapshot(subscription: &Subscription, key: &RedirectKey) -> Result<WatchResponse, Status> {
    Ok(WatchResponse {
        version: subscription.version,
        snapshot: true,
        upserts: subscription.records.iter().map(|record| container(record)).collect::<Result<_, _>>()?,
        removals: Vec::new(),
        policy: Some(json::<Policy>(&subscription.policy)?),
        redirect_key: key.bytes().to_vec(),
    })
}

fn update(version: u64, change: &Change) -> Result<WatchResponse, Status> {
    let mut message = WatchResponse { version, ..Default::default() };
    match change {
        Change::Upsert(record) => message.upserts.push(container(record)?),
        Change::Remove(address) => message.removals.push(address_bytes(*address)),
        Change::Policy(policy) => message.policy = Some(json::<Policy>(policy)?),
    }
    Ok(message)
}

fn container(record: &Container) -> Result<WireContainer, Status> {
    Ok(WireContainer { address: address_bytes(record.container_ip), record: json(record)? })
}

fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, Status> {
    serde_json::to_vec(value).map_err(|error| Status::internal(format!("BUG: {error}")))
}
