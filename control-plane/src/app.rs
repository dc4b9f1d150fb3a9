//! The wiring: creates every part once, connects the parts, and stops them together.
//!
//! `App::bind` opens everything and binds every socket. `Bound` knows the addresses. `Bound::run` serves until it is
//! stopped.

mod announce;
mod listeners;
mod readiness;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use policy::{HostPattern, Policy};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;

pub use self::announce::Addresses;
use self::announce::announce;
use self::listeners::Listeners;
use self::readiness::Readiness;
use crate::admin;
use crate::envoy::Envoy;
use crate::live::{Filters, Live};
use crate::metrics;
use crate::quotas;
use crate::repositories;
use audit::{Answered, Audit, Facts, Rejected, writer::Rotation};
use base::kept::Kept;
use base::problems::Problems;
use base::state::StateDir;
use ca::issuer::Issuer;
use config::Config;
use credentials::budget::Account;
use credentials::calls::Calls;
use credentials::{Credentials, server as authz};
use github::client::Client as GitHub;
use github::confirm::Confirm;
use github::ids::{Ids, Lookups};
use github::push::Push;
use outbound::dns::nameservers::Nameservers;
use outbound::dns::{self, Resolver};
use outbound::upstreams::Upstreams;
use registry::Registry;
use registry::api::{self, Api};
use registry::feed::Feed;
use registry::record::Limits;
use registry::redirects::RedirectKey;
use registry::store::Store;
use xds::resources::cluster::DNS_SOCKET;
use xds::server::{Fleet, Server as Discovery};

/// How long the admin API may take to finish its responses when the process stops.
const DRAIN: Duration = Duration::from_secs(2);

/// How long a stop waits for a refresh that has begun. After that the refresh continues in its own process. Exception:
/// if the gateway is the first process of a container, the stop waits until the refresh has ended.
const LAST_REFRESH: Duration = Duration::from_secs(5);

/// The most rejections by providers that wait for the credentials. More are dropped.
const REJECTIONS: usize = 256;

/// The most answers of GitHub's about its rate limits that wait for the budget of calls. More are dropped.
const ANSWERS: usize = 1_024;

/// The input of a gateway, which the command line has read.
#[derive(Debug)]
pub struct App {
    /// The configuration.
    pub config: Config,
    /// The policy.
    pub policy: Policy,
    /// The state directory.
    pub state_dir: PathBuf,
    /// The place of the filters' module.
    pub filters: Filters,
    /// The Envoy to run as a child. `None` under `serve`.
    pub envoy: Option<Envoy>,
}

/// A gateway whose sockets are bound, and that serves nothing yet.
pub struct Bound {
    addresses: Addresses,
    listeners: Listeners,
    /// Locked until the end.
    state: StateDir,
    config: Arc<Config>,
    upstreams: Arc<Upstreams>,
    access: admin::Access,
    ca: ca::api::Api,
    registry: Arc<Registry>,
    redirect_key: RedirectKey,
    problems: Problems,
    audit: Arc<Audit>,
    resolver: Arc<Resolver>,
    calls: Arc<Calls>,
    github: Arc<GitHub>,
    live: Live,
    /// One task for each login.
    logins: JoinSet<()>,
    envoy: Option<Envoy>,
    stop: watch::Sender<bool>,
}

impl App {
    /// Runs until SIGTERM or SIGINT, or until a part fails.
    ///
    /// # Errors
    /// If a part cannot be opened, or fails.
    pub fn run(self) -> anyhow::Result<()> {
        // Only the owner may read files, unless a file is created with another mode.
        rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            let bound = self.bind().await?;
            let Addresses { proxy, admin } = bound.addresses();
            tracing::info!(%proxy, %admin, "listening");
            bound.run(signalled()).await
        })
    }

    /// Opens everything and binds every socket. Serves nothing.
    ///
    /// # Errors
    /// If a part cannot be opened, or an address cannot be bound.
    async fn bind(mut self) -> anyhow::Result<Bound> {
        let state = StateDir::take(&self.state_dir)?;
        let dir = state.path();
        let configured = Addresses { proxy: self.config.proxy, admin: self.config.admin };
        let listeners = Listeners::bind(&mut self.config, dir, self.envoy.is_some()).await?;
        let addresses = Addresses { proxy: self.config.proxy, admin: self.config.admin };
        // Commands read the file only for a configured port 0: a gateway with fixed ports starts on a full disk, too.
        if addresses != configured {
            addresses.write(dir).context("the addresses cannot be written")?;
        }
        let config = Arc::new(self.config);
        let access = admin::Access::open(config.admin_auth, dir)?;
        let upstreams = Arc::new(config.upstreams()?);
        let ca = ca::api::Api {
            issuer: Issuer::open(dir).context("the certificate authority cannot be used")?,
            bundle: dir.join("ca-bundle.pem"),
            roots_pem: upstreams.roots_pem.as_str().into(),
        };
        ca.write_bundle().context("cannot write the CA bundle")?;
        let store = Store::open(&dir.join("registry.redb")).context("the registry cannot be opened")?;
        let registry = Registry::open(store, self.policy)?;
        let redirect_key = RedirectKey::open(dir)?;
        let problems = Problems::default();
        let audit = Audit::open(dir, Rotation::default(), Arc::clone(&registry), problems.clone())
            .context("the audit cannot be written")?;
        let nameservers = Nameservers::new(config.nameservers.clone(), dns::server::OUTSTANDING);
        let resolver = Arc::new(Resolver::new(nameservers, Arc::clone(&registry), problems.clone()));
        let credentials = Arc::clone(&config.credentials);
        let calls = Arc::new(Calls::new(config.github_calls));
        let github = Arc::new(GitHub::new(&upstreams, credentials, Arc::clone(&calls), Arc::clone(&resolver))?);
        let (stop, stopped) = watch::channel(false);
        let logins = config.credentials.keep_logins(&upstreams, &resolver, dir, &stopped)?;
        let live = Live::start(
            Arc::clone(&config),
            Arc::clone(&upstreams),
            self.filters,
            Arc::clone(&registry),
            problems.clone(),
        )?;
        Ok(Bound {
            addresses,
            listeners,
            state,
            config,
            upstreams,
            access,
            ca,
            registry,
            redirect_key,
            problems,
            audit,
            resolver,
            calls,
            github,
            live,
            logins,
            envoy: self.envoy,
            stop,
        })
    }
}

impl Bound {
    /// Where the gateway listens, with the ports that were bound.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Serves until `stopped` returns, or until a part fails. Then stops every part.
    ///
    /// # Errors
    /// If a part or `stopped` fails.
    pub async fn run(mut self, stopped: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
        self.warn_of_missing_credentials();
        let fleet = Fleet::default();
        let readiness = Arc::new(self.readiness(fleet.clone())?);
        let grpc = self.grpc(&fleet);
        let ids = Ids::new(Arc::clone(&self.registry), Arc::clone(&self.github), self.problems.clone());
        let routes = self.routes(&readiness, fleet, ids.lookups());
        let (stop, state_dir) = (self.stop, self.state.path().to_owned());

        tokio::spawn(Arc::clone(&self.registry).tidy());
        tokio::spawn(self.live.run());
        let ids = tokio::spawn(ids.run(stop.subscribe()));
        let grpc = tokio::spawn(grpc.serve_with_incoming(UnixListenerStream::new(self.listeners.grpc)));
        let dns = tokio::spawn(dns::server::serve(self.listeners.dns, self.resolver));
        let http = axum::serve(self.listeners.admin, admin::service(routes, self.access))
            .with_graceful_shutdown(flagged(stop.subscribe()));
        let http = tokio::spawn(async move { http.await });
        tokio::spawn(announce(readiness, self.addresses, state_dir.clone()));
        let (envoy_ended, envoy_end) = oneshot::channel();
        let envoy = self.envoy.map(|envoy| supervise(envoy, state_dir, stop.subscribe(), envoy_ended));
        let envoy_end = async {
            match &envoy {
                Some(_) => envoy_end.await.context("the supervision of Envoy panicked").flatten(),
                None => std::future::pending().await,
            }
        };

        let result = tokio::select! {
            ended = grpc => ended.context("the gRPC service panicked").and_then(|ended| ended.context("the gRPC socket failed")),
            ended = dns => ended.context("the resolver panicked").flatten(),
            ended = envoy_end => ended,
            ended = stopped => ended,
        };
        // The control plane serves Envoy until Envoy has ended, and nothing is left running.
        stop.send_replace(true);
        let (http, ids) = (tokio::time::timeout(DRAIN, http), tokio::time::timeout(DRAIN, ids));
        // The response to a refresh may hold the only token that is left.
        let patience = if std::process::id() == 1 { credentials::REFRESH_LIFETIME } else { LAST_REFRESH };
        let logins = tokio::time::timeout(patience, async { while self.logins.join_next().await.is_some() {} });
        drop(tokio::join!(http, ids, logins));
        if let Some(envoy) = envoy
            && tokio::task::spawn_blocking(|| envoy.join()).await.is_err()
        {
            tracing::error!("the supervision of Envoy panicked");
        }
        self.audit.finish().await;
        result
    }

    fn warn_of_missing_credentials(&self) {
        let policy = self.registry.policy();
        let named = |hosts: &HostPattern| policy.egress.entries().any(|(entry, _)| entry == *hosts);
        for credential in self.config.credentials.without_value(named) {
            tracing::warn!("{credential}; until then, requests that need it get status 502");
        }
    }

    fn readiness(&self, fleet: Fleet) -> anyhow::Result<Readiness> {
        let kept = kept(&self.state).context("a file of the state directory is gone already")?;
        Ok(Readiness {
            fleet,
            problems: self.problems.clone(),
            kept,
            ca: self.ca.clone(),
            credentials: Arc::clone(&self.config.credentials),
            registry: Arc::clone(&self.registry),
            // Envoy's main thread runs the filter too, though it serves no requests.
            min_fed: self.envoy.as_ref().map_or(1, |envoy| usize::from(envoy.concurrency) + 1),
            proxy: self.envoy.as_ref().map(|_| self.addresses.proxy),
        })
    }

    /// Every service that Envoy calls.
    fn grpc(&self, fleet: &Fleet) -> tonic::transport::server::Router {
        let (registry, credentials) = (&self.registry, &self.config.credentials);
        let (issuer, snapshots) = (Arc::clone(&self.ca.issuer), self.live.snapshots());
        tonic::transport::Server::builder()
            .add_service(Discovery::new(snapshots, issuer, Arc::clone(registry), fleet.clone()).into_service())
            .add_service(Feed::service(Arc::clone(registry), self.redirect_key.clone()))
            .add_service(Confirm::service(Arc::clone(registry), Arc::clone(&self.github)))
            .add_service(Push::service(Arc::clone(registry), Arc::clone(&self.github)))
            .add_service(authz::Server::service(Arc::clone(registry), Arc::clone(credentials), Arc::clone(&self.calls)))
            .add_service(Arc::clone(&self.audit).service(Facts {
                rejected: rejections(Arc::clone(credentials)),
                answered: answers(Arc::clone(&self.calls)),
            }))
    }

    /// Every route of the admin API.
    fn routes(&self, readiness: &Arc<Readiness>, fleet: Fleet, lookups: Lookups) -> Router {
        let (registry, credentials) = (&self.registry, &self.config.credentials);
        let limits =
            Limits { allow_loopback: self.envoy.is_some(), pinned: self.upstreams.pins.keys().cloned().collect() };
        api::routes(Api { registry: Arc::clone(registry), limits: Arc::new(limits) })
            .merge(ca::api::routes(self.ca.clone()))
            .merge(readiness::routes(Arc::clone(readiness)))
            .merge(metrics::routes(Arc::clone(registry), fleet, Arc::clone(credentials), Arc::clone(&self.calls)))
            .merge(quotas::routes(Arc::clone(&self.calls)))
            .merge(repositories::routes(lookups))
            .merge(audit::api::routes(Arc::clone(&self.audit), self.stop.subscribe()))
    }
}

/// The files of the state directory that must stay at their paths. The audit follows its own file, and the CA is compared by
/// its certificate.
fn kept(state: &StateDir) -> std::io::Result<Kept> {
    let mut kept = Kept::of(state.path())?;
    for name in ["lock", "registry.redb", "admin-token", listeners::GRPC_SOCKET, DNS_SOCKET] {
        kept.open(name)?;
    }
    kept.present("ca.key");
    Ok(kept)
}

/// Creates the channel by which the audit reports to `credentials` each request that a provider rejects. Returns the
/// sender; a task reads the channel.
fn rejections(credentials: Arc<Credentials>) -> mpsc::Sender<Rejected> {
    let (rejections, mut rejected) = mpsc::channel::<Rejected>(REJECTIONS);
    tokio::spawn(async move {
        while let Some(Rejected { host, began }) = rejected.recv().await {
            credentials.rejected(&host, began);
        }
    });
    rejections
}

/// Creates the channel by which the audit reports to `calls` what GitHub's answers to sandboxes tell of its rate limits.
/// Returns the sender; a task reads the channel.
fn answers(calls: Arc<Calls>) -> mpsc::Sender<Answered> {
    let (answers, mut answered) = mpsc::channel::<Answered>(ANSWERS);
    tokio::spawn(async move {
        while let Some(Answered { container, account, quoted }) = answered.recv().await {
            match Account::parse(&account) {
                Some(account) => _ = calls.heard(&account, Some(container), quoted),
                None => tracing::error!(account, "BUG: the account of a call to GitHub cannot be read"),
            }
        }
    });
    answers
}

/// Runs Envoy on a thread of its own, which lives as long as the child does.
fn supervise(
    envoy: Envoy,
    state_dir: PathBuf,
    stop: watch::Receiver<bool>,
    ended: oneshot::Sender<anyhow::Result<()>>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        // The receiver is gone when the whole process is stopping.
        drop(ended.send(envoy.supervise(&state_dir, stop)));
    })
}

async fn flagged(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;

    use super::*;
    use base::testing::{answer, call, send};

    /// A control plane without Envoy in `directory`, with `listen` in its configuration.
    fn app(directory: &Path, listen: &str) -> App {
        let file = directory.join("sallyport.yaml");
        let key = rcgen::KeyPair::generate().unwrap();
        let root = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        std::fs::write(directory.join("roots.pem"), root.pem()).unwrap();
        std::fs::write(&file, format!("listen: {listen}\nupstream_roots: roots.pem\n")).unwrap();
        std::fs::write(directory.join(crate::live::MODULE), b"\0asm\x01\0\0\0").unwrap();
        App {
            config: Config::load(Some(&file)).unwrap(),
            policy: Policy::deny_all(),
            state_dir: directory.join("state"),
            filters: Filters::find(Some(directory.to_owned())).unwrap(),
            envoy: None,
        }
    }

    #[tokio::test]
    async fn with_port_0_the_bound_address_is_known_before_it_serves() {
        let directory = tempfile::tempdir().unwrap();
        let app = app(directory.path(), "{admin: '127.0.0.1:0'}");
        let config = app.config.clone();
        let bound = app.bind().await.unwrap();
        let addresses = bound.addresses();
        assert_ne!(addresses.admin.port(), 0);
        assert_eq!(Addresses::find(&config, Some(&directory.path().join("state"))), addresses);
        assert_eq!(Addresses::find(&config, None).admin.port(), 0);
        let (stop, stopped) = oneshot::channel();
        let client = async {
            assert_eq!(call(addresses.admin, "GET /healthz", "").await, (200, "ok\n".to_owned()));
            assert_eq!(call(addresses.admin, "GET /readyz", "").await.0, 401, "the token is required");
            let token = std::fs::read_to_string(directory.path().join("state/admin-token")).unwrap();
            let (host, bearer) = (addresses.admin.to_string(), format!("Bearer {}", token.trim_end()));
            let headers = [("host", host.as_str()), ("authorization", &bearer)];
            let ready = answer(send(addresses.admin, "GET /readyz", &headers, "").await).await;
            assert_eq!(ready.0, 503, "there is no Envoy");
            stop.send(()).unwrap();
        };
        let (ended, ()) = tokio::join!(bound.run(async { Ok(stopped.await?) }), client);
        ended.unwrap();
    }

    #[tokio::test]
    async fn without_envoy_as_a_child_its_ports_are_not_0() {
        let directory = tempfile::tempdir().unwrap();
        for key in ["proxy", "resolver"] {
            let listen = format!("{{admin: '127.0.0.1:0', {key}: '127.0.0.1:0'}}");
            let error = app(directory.path(), &listen).bind().await.err().unwrap().to_string();
            assert!(error.contains(&format!("listen.{key}: port 0 is for `sallyport up`")), "{error}");
        }
    }
}
