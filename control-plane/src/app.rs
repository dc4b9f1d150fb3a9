//! The wiring: every part made once, given what it needs, and stopped together.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use policy::Policy;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::UnixListenerStream;

use crate::admin;
use crate::audit::{self, Audit, Rejected, writer::Rotation};
use crate::ca::{self, issuer::Issuer};
use crate::config::Config;
use crate::containers::api::{self, Api, Limits};
use crate::containers::feed::Feed;
use crate::containers::registry::Registry;
use crate::containers::store::Store;
use crate::credentials::{self, Credentials, server as authz};
use crate::dns::nameservers::Nameservers;
use crate::dns::{self, Resolver};
use crate::envoy::Envoy;
use crate::github;
use crate::github::confirm::Confirm;
use crate::github::ids::Ids;
use crate::github::push::Push;
use crate::live::{Filters, Live};
use crate::metrics;
use crate::problems::Problems;
use crate::state::StateDir;
use crate::xds::resources::cluster::DNS_SOCKET;
use crate::xds::server::{Fleet, Server as Discovery};

/// How long the admin API may take to finish what it is doing when the process stops.
const DRAIN: Duration = Duration::from_secs(2);

/// How long a stop waits for a refresh that has begun. It goes on without us, but not without the first process of its
/// container, which then waits until it has ended.
const LAST_REFRESH: Duration = Duration::from_secs(5);

/// Rejections by providers that wait for the credentials. More are dropped.
const REJECTIONS: usize = 256;

/// How long the proxy's port may take to accept a connection before it counts as not there.
const PROBE: Duration = Duration::from_millis(500);

/// How long an Envoy that an earlier run has left may take to be gone.
const LEFT_BEHIND: Duration = Duration::from_secs(5);

/// How often the start looks whether everything is there.
const READY_POLL: Duration = Duration::from_millis(100);

/// Everything that the command line has found out.
#[derive(Debug)]
pub struct App {
    /// The configuration.
    pub config: Config,
    /// The policy.
    pub policy: Policy,
    /// The state directory.
    pub state_dir: PathBuf,
    /// Where the filters' modules are.
    pub filters: Filters,
    /// The Envoy to run as a child; absent under `serve`.
    pub envoy: Option<Envoy>,
}

impl App {
    /// Runs until SIGTERM or SIGINT, or until a part fails.
    ///
    /// # Errors
    /// What kept it from starting, or what failed.
    pub fn run(self) -> anyhow::Result<()> {
        tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(self.serve())
    }

    async fn serve(self) -> anyhow::Result<()> {
        // Whatever is written is for its owner alone, unless it says otherwise.
        rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
        // Held to the end.
        let state = StateDir::take(&self.state_dir)?;
        let state_dir = state.path().to_owned();
        let issuer = Issuer::open(&state_dir).context("the certificate authority cannot be used")?;
        let config = Arc::new(self.config);
        let upstreams = Arc::new(config.upstreams()?);
        let ca = ca::api::Api {
            issuer: Arc::clone(&issuer),
            bundle: state_dir.join("ca-bundle.pem"),
            roots_pem: upstreams.roots_pem.as_str().into(),
        };
        ca.write_bundle().context("cannot write the CA bundle")?;
        let store = Store::open(&state_dir.join("registry.redb")).context("the registry cannot be opened")?;
        let registry = Registry::open(store, self.policy)?;
        tokio::spawn(Arc::clone(&registry).tidy());
        let problems = Problems::default();
        let audit = Audit::open(&state_dir, Rotation::default(), Arc::clone(&registry), problems.clone())
            .context("the audit cannot be written")?;
        let nameservers = Nameservers::new(config.nameservers.clone(), dns::server::OUTSTANDING);
        let resolver = Arc::new(Resolver::new(nameservers, Arc::clone(&registry), problems.clone()));
        let credentials = Arc::clone(&config.credentials);
        let github = Arc::new(github::client::Client::new(&upstreams, credentials, Arc::clone(&resolver))?);
        let (stop, stopped) = watch::channel(false);
        let mut logins = config.credentials.keep_logins(&upstreams, &resolver, &state_dir, &stopped)?;
        let live = Live::start(
            Arc::clone(&config),
            Arc::clone(&upstreams),
            self.filters,
            Arc::clone(&registry),
            problems.clone(),
        )?;
        let snapshots = live.snapshots();
        tokio::spawn(live.run());
        let fleet = Fleet::default();
        let ids = Ids::new(Arc::clone(&registry), Arc::clone(&github), problems.clone());
        let ids = tokio::spawn(ids.run(stopped.clone()));

        let dns = dns::server::serve(bind_socket(&state_dir.join(DNS_SOCKET))?, resolver);
        let socket = bind_socket(&state_dir.join("run/xds.sock"))?;
        let grpc = tonic::transport::Server::builder()
            .add_service(
                Discovery::new(snapshots, Arc::clone(&issuer), Arc::clone(&registry), fleet.clone()).into_service(),
            )
            .add_service(Feed::service(Arc::clone(&registry)))
            .add_service(Confirm::service(Arc::clone(&registry), Arc::clone(&github)))
            .add_service(Push::service(Arc::clone(&registry), github))
            .add_service(authz::Server::service(Arc::clone(&registry), Arc::clone(&config.credentials)))
            .add_service(Arc::clone(&audit).service(rejections(Arc::clone(&config.credentials))))
            .serve_with_incoming(UnixListenerStream::new(socket));

        let observed = metrics::routes(Arc::clone(&registry), fleet.clone(), Arc::clone(&config.credentials))
            .merge(audit::api::routes(Arc::clone(&audit), stopped.clone()));
        let readiness = Arc::new(Readiness {
            fleet,
            problems,
            credentials: Arc::clone(&config.credentials),
            registry: Arc::clone(&registry),
            // Envoy's main thread runs the filter too, though it sees no requests.
            fed: self.envoy.as_ref().map_or(1, |envoy| usize::from(envoy.concurrency) + 1),
            proxy: self.envoy.as_ref().map(|_| config.proxy),
        });
        let limits = Limits { allow_loopback: self.envoy.is_some(), pinned: upstreams.pins.keys().cloned().collect() };
        let routes = api::routes(Api { registry, limits: Arc::new(limits) })
            .merge(ca::api::routes(ca))
            .merge(self::routes(Arc::clone(&readiness)))
            .merge(observed);
        let access = admin::Access::open(config.admin_auth, &state_dir)?;
        let listener = TcpListener::bind(config.admin)
            .await
            .with_context(|| format!("the admin API cannot listen on {}", config.admin))?;
        let http =
            axum::serve(listener, admin::service(routes, access)).with_graceful_shutdown(flagged(stopped.clone()));

        if self.envoy.is_some() {
            free(config.resolver).await.with_context(|| {
                format!("Envoy's resolver cannot listen on {}: set listen.resolver", config.resolver)
            })?;
        }
        let named = readiness.registry.policy();
        let unset = config.credentials.without_value(|hosts| named.egress.entries().any(|(entry, _)| entry == *hosts));
        for credential in unset {
            tracing::warn!("{credential}; until then, requests that need it are answered 502");
        }
        tokio::spawn(announce(readiness, config.proxy, config.admin, state_dir.clone()));
        let (envoy_ended, envoy_end) = oneshot::channel();
        let envoy = self.envoy.map(|envoy| supervise(envoy, state_dir, stopped, envoy_ended));
        let envoy_end = async {
            match &envoy {
                Some(_) => envoy_end.await.context("the supervision of Envoy panicked").flatten(),
                None => std::future::pending().await,
            }
        };

        let grpc = tokio::spawn(grpc);
        let http = tokio::spawn(async move { http.await });
        let dns = tokio::spawn(dns);
        let result = tokio::select! {
            ended = grpc => ended.context("the gRPC service panicked").and_then(|ended| ended.context("the gRPC socket failed")),
            ended = dns => ended.context("the resolver panicked").flatten(),
            ended = envoy_end => ended,
            signal = signalled() => signal,
        };
        // Envoy's end is waited for, so that nothing is left running; the control plane answers it until then.
        stop.send_replace(true);
        let (http, ids) = (tokio::time::timeout(DRAIN, http), tokio::time::timeout(DRAIN, ids));
        // The answer to a refresh may hold the only token that is left.
        let patience = if std::process::id() == 1 { credentials::REFRESH_LIFETIME } else { LAST_REFRESH };
        let logins = tokio::time::timeout(patience, async { while logins.join_next().await.is_some() {} });
        drop(tokio::join!(http, ids, logins));
        if let Some(envoy) = envoy
            && tokio::task::spawn_blocking(|| envoy.join()).await.is_err()
        {
            tracing::error!("the supervision of Envoy panicked");
        }
        audit.finish().await;
        result
    }
}

/// Tells `credentials` of each request that a provider rejects: the sender of a channel that a task reads.
fn rejections(credentials: Arc<Credentials>) -> mpsc::Sender<Rejected> {
    let (rejections, mut rejected) = mpsc::channel::<Rejected>(REJECTIONS);
    tokio::spawn(async move {
        while let Some(Rejected { host, began }) = rejected.recv().await {
            credentials.rejected(&host, began);
        }
    });
    rejections
}

/// Runs Envoy on a thread of its own, which lives as long as the child does.
fn supervise(
    envoy: Envoy,
    state_dir: PathBuf,
    stop: watch::Receiver<bool>,
    ended: oneshot::Sender<anyhow::Result<()>>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        // Nobody waits for the end any more when the whole process is stopping.
        drop(ended.send(envoy.supervise(&state_dir, stop)));
    })
}

/// Listens on a Unix socket in place of one that an earlier run has left.
fn bind_socket(path: &Path) -> anyhow::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("{} is in the way", path.display()));
        }
        _ => {}
    }
    UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))
}

/// Waits until nobody listens at `address`. Envoy would share the port with another gateway's Envoy and not say so; one
/// that an earlier run has left is on its way out.
async fn free(address: SocketAddr) -> std::io::Result<()> {
    let until = tokio::time::Instant::now() + LEFT_BEHIND;
    loop {
        match TcpListener::bind(address).await {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() != std::io::ErrorKind::AddrInUse || tokio::time::Instant::now() >= until => {
                return Err(error);
            }
            Err(_) => tokio::time::sleep(READY_POLL).await,
        }
    }
}

async fn flagged(mut stop: watch::Receiver<bool>) {
    // An error says that the sender has gone, which is a stop too.
    drop(stop.wait_for(|stop| *stop).await);
}

async fn signalled() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
    }
    Ok(())
}

/// What has to be there before a sandbox is served.
#[derive(Debug)]
struct Readiness {
    fleet: Fleet,
    /// What an operator should look at though everything works.
    problems: Problems,
    credentials: Arc<Credentials>,
    registry: Arc<Registry>,
    /// How many of Envoy's threads have to hold the registry. Of an Envoy that is not our own child it is not known
    /// how many it has.
    fed: usize,
    /// The proxy's address, where Envoy is our own child.
    proxy: Option<SocketAddr>,
}

impl Readiness {
    async fn missing(&self) -> Vec<String> {
        let mut missing = self.fleet.missing();
        let fed = self.registry.fed();
        if fed < self.fed {
            missing.push(format!("identity: {fed} of {} Envoy threads hold the registry", self.fed));
        }
        if let Some(mut proxy) = self.proxy {
            if proxy.ip().is_unspecified() {
                proxy.set_ip(if proxy.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
            }
            if !matches!(tokio::time::timeout(PROBE, TcpStream::connect(proxy)).await, Ok(Ok(_))) {
                missing.push(format!("listener: {proxy} accepts no connections"));
            }
        }
        missing
    }
}

/// What an operator asks of the process itself.
fn routes(readiness: Arc<Readiness>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/internal/placeholders", get(placeholders))
        .with_state(readiness)
}

/// The variables in which a sandbox has placeholders; `sallyport env` asks for them.
async fn placeholders(State(readiness): State<Arc<Readiness>>) -> impl IntoResponse {
    Json(serde_json::json!(readiness.credentials.placeholders()))
}

async fn ready(State(readiness): State<Arc<Readiness>>) -> impl IntoResponse {
    let missing = readiness.missing().await;
    let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let credentials = readiness.credentials.problems().into_iter().map(|problem| format!("credentials: {problem}"));
    let warnings: Vec<String> = readiness.problems.list().into_iter().chain(credentials).collect();
    (status, Json(serde_json::json!({ "ready": missing.is_empty(), "missing": missing, "warnings": warnings })))
}

/// Tells the operator where everything is: once the gateway serves, or at once where somebody else runs its Envoy.
async fn announce(readiness: Arc<Readiness>, proxy: SocketAddr, admin: SocketAddr, state_dir: PathBuf) {
    let state = state_dir.display();
    let alone = readiness.proxy.is_none();
    if alone {
        eprintln!(
            "\n  Sallyport's control plane is running and waits for its Envoy.\n\n    Envoy's socket        {state}/run/xds.sock\n    proxy for sandboxes   http://{proxy}, on Envoy's side\n    admin API             http://{admin}\n    state, CA, audit      {state}\n\n  Next, in another terminal, with the state directory as Envoy's working directory:\n\n    envoy --config-path …/envoy/bootstrap.yaml\n    sallyport container add --ip ADDRESS --repo OWNER/REPO\n"
        );
    }
    let mut every = tokio::time::interval(READY_POLL);
    loop {
        every.tick().await;
        let missing = readiness.missing().await;
        if missing.is_empty() {
            break;
        }
        tracing::debug!(?missing, "not ready yet");
    }
    tracing::info!(%proxy, %admin, %state, "ready");
    if !alone {
        eprintln!(
            "\n  Sallyport is ready.\n\n    proxy for sandboxes   http://{proxy}\n    admin API             http://{admin}\n    state, CA, audit      {state}\n\n  Next, in another terminal:\n\n    sallyport container add --ip 127.0.0.1 --repo OWNER/REPO\n    eval \"$(sallyport env)\"\n    git clone https://github.com/OWNER/REPO\n"
        );
    }
}
