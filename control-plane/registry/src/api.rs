//! The operator's HTTP API for the registry.
//!
//! `admin` authorizes the caller. The body is parsed as JSON, regardless of its content type. A change is carried out
//! completely or not at all, even if the client disconnects.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use jiff::{SignedDuration, Timestamp};
use policy::{AuthMode, BranchGlob, Container, HostName, HostPattern, Repo};
use serde::{Deserialize, Serialize};
use serde_path_to_error::Segment;

use super::registry::Registry;
use super::store;

/// The largest registration, in bytes. A record with a thousand repositories has 150 KB.
const MAX_BODY: usize = 1 << 20;
/// The lifetime of a record if neither `ttl` nor `expires_at` is given.
const DEFAULT_TTL: SignedDuration = SignedDuration::from_hours(24);
/// The branches of a bot if none are given.
const DEFAULT_BOT_BRANCHES: [&str; 2] = ["sandbox/*", "bot/*"];
/// The most characters of a container's id, and of a label's key or value.
const MAX_TEXT: usize = 256;

/// The state of the routes.
#[derive(Clone, Debug)]
pub struct Api {
    /// The registry.
    pub registry: Arc<Registry>,
    /// The limits on registrations.
    pub limits: Arc<Limits>,
}

/// Limits on registrations that depend on the gateway's configuration.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Whether a loopback address can be registered, for trying the gateway on one machine.
    pub allow_loopback: bool,
    /// The pinned hosts. They may have private addresses, so a single container can't get access to them.
    pub pinned: Vec<HostName>,
}

/// The routes below `/internal/`.
pub fn routes(api: Api) -> Router {
    Router::new()
        .route("/internal/containers", post(register).get(list))
        .route("/internal/register", post(register))
        .route("/internal/containers/{ip}", get(show).patch(patch).delete(remove))
        .route("/internal/register/{ip}", delete(remove))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

/// An error, as sent to the client.
#[derive(Debug, Serialize)]
struct Problem {
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

enum Failure {
    Malformed(String),
    Invalid { field: String, error: String },
    NotFound(String),
    Store(store::Error),
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, error, field) = match self {
            Self::Malformed(error) => (StatusCode::BAD_REQUEST, error, None),
            Self::Invalid { field, error } => (StatusCode::UNPROCESSABLE_ENTITY, error, Some(field)),
            Self::NotFound(address) => (StatusCode::NOT_FOUND, format!("nobody is registered at {address}"), None),
            Self::Store(error) => {
                let full = error.is_full();
                let status = if full { StatusCode::INSUFFICIENT_STORAGE } else { StatusCode::SERVICE_UNAVAILABLE };
                let error = format!("{:#}", anyhow::Error::from(error));
                tracing::error!(error, "a change of the registry could not be stored");
                (status, error, None)
            }
        };
        (status, Json(Problem { error, field })).into_response()
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

fn invalid(field: &str, error: impl Into<String>) -> Failure {
    Failure::Invalid { field: field.into(), error: error.into() }
}

/// The body of a registration. For PATCH every field is optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    container_ip: Option<String>,
    container_id: Option<String>,
    repos: Option<Vec<Repo>>,
    auth_mode: Option<AuthMode>,
    allowed_branches: Option<Vec<String>>,
    force_own_branches: Option<bool>,
    expires_at: Option<String>,
    ttl: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    egress_allow: Option<Vec<String>>,
    credentials: Option<Vec<String>>,
}

/// The record that a registration of `json` would make at `now`, for `explain`. This machine's own addresses are not
/// checked.
///
/// # Errors
/// If the registration is invalid; the error says why.
pub fn record(json: &serde_json::Value, now: Timestamp) -> Result<Container, String> {
    let limits = Limits { allow_loopback: true, pinned: Vec::new() };
    let raw = Raw::parse(json.to_string().as_bytes());
    raw.and_then(|raw| raw.register(now, &limits)).map_err(|failure| match failure {
        Failure::Malformed(error) | Failure::NotFound(error) => error,
        Failure::Invalid { field, error } => format!("{field}: {error}"),
        Failure::Store(error) => error.to_string(),
    })
}

impl Raw {
    fn parse(body: &[u8]) -> Result<Self, Failure> {
        let value: serde_json::Value =
            serde_json::from_slice(body).map_err(|error| Failure::Malformed(format!("not JSON: {error}")))?;
        serde_path_to_error::deserialize(value).map_err(|error| {
            let field = match error.path().iter().next() {
                Some(Segment::Map { key }) => Some(key.clone()),
                _ => None,
            };
            let message = error.into_inner().to_string();
            // For an unknown field, serde gives the name in the message, not in the path.
            let unknown = || message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
            let field = field.or_else(|| unknown().map(str::to_owned)).unwrap_or_default();
            Failure::Invalid { field, error: message }
        })
    }

    /// Makes a new record.
    fn register(self, now: Timestamp, api: &Limits) -> Result<Container, Failure> {
        let text = self.container_ip.as_deref().ok_or_else(|| invalid("container_ip", "is required"))?;
        let address = container_address(text, api.allow_loopback)?;
        if self.repos.is_none() {
            return Err(invalid("repos", "is required; [] gives the container no repository"));
        }
        let blank = Container {
            blocked: None,
            container_ip: address,
            container_id: address.to_string(),
            repos: Vec::new(),
            auth_mode: AuthMode::default(),
            allowed_branches: Vec::new(),
            force_own_branches: false,
            expires_at: now.saturating_add(DEFAULT_TTL).unwrap_or(now),
            labels: BTreeMap::new(),
            egress_allow: Vec::new(),
            credentials: None,
            generation: 0,
        };
        let branches_given = self.allowed_branches.is_some();
        let mut record = self.apply(blank, now, &api.pinned)?;
        if !branches_given && record.auth_mode == AuthMode::Bot {
            record.allowed_branches =
                DEFAULT_BOT_BRANCHES.iter().map(|glob| branch_glob(glob)).collect::<Result<_, _>>()?;
        }
        Ok(record)
    }

    /// Replaces the fields of `record` that are given.
    fn apply(self, mut record: Container, now: Timestamp, pinned: &[HostName]) -> Result<Container, Failure> {
        if let Some(id) = self.container_id {
            record.container_id = plain_text("container_id", id)?;
        }
        record.repos = self.repos.unwrap_or(record.repos);
        record.auth_mode = self.auth_mode.unwrap_or(record.auth_mode);
        if let Some(branches) = self.allowed_branches {
            record.allowed_branches = branches.iter().map(|glob| branch_glob(glob)).collect::<Result<_, _>>()?;
        }
        record.force_own_branches = self.force_own_branches.unwrap_or(record.force_own_branches);
        if let Some(labels) = self.labels {
            record.labels = labels
                .into_iter()
                .map(|(key, value)| Ok((plain_text("labels", key)?, plain_text("labels", value)?)))
                .collect::<Result<_, Failure>>()?;
        }
        if let Some(hosts) = self.egress_allow {
            record.egress_allow = hosts.iter().map(|host| extra_host(host, pinned)).collect::<Result<_, _>>()?;
        }
        if self.credentials.is_some() {
            record.credentials = self.credentials;
        }
        if let Some(expires_at) = expiry(self.expires_at, self.ttl, now)? {
            record.expires_at = expires_at;
        }
        Ok(record)
    }
}

fn branch_glob(text: &str) -> Result<BranchGlob, Failure> {
    BranchGlob::parse(text).map_err(|error| invalid("allowed_branches", error.to_string()))
}

fn expiry(at: Option<String>, ttl: Option<String>, now: Timestamp) -> Result<Option<Timestamp>, Failure> {
    match (at, ttl) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(invalid("ttl", "give either ttl or expires_at")),
        (Some(at), None) => match at.parse::<Timestamp>() {
            Ok(at) if at > now => Ok(Some(at)),
            Ok(_) => Err(invalid("expires_at", "is in the past")),
            Err(error) => Err(invalid("expires_at", format!("expected a time such as 2027-01-15T00:00:00Z: {error}"))),
        },
        (None, Some(ttl)) => match ttl.parse::<SignedDuration>() {
            Ok(duration) if duration.is_positive() => {
                now.checked_add(duration).map(Some).map_err(|error| invalid("ttl", error.to_string()))
            }
            Ok(_) => Err(invalid("ttl", "must be longer than nothing")),
            Err(error) => Err(invalid("ttl", format!("expected a duration such as 8h or 90m: {error}"))),
        },
    }
}

fn container_address(text: &str, allow_loopback: bool) -> Result<IpAddr, Failure> {
    let field = "container_ip";
    let address = text
        .parse::<IpAddr>()
        .map_err(|_| invalid(field, format!("{text:?} is not an IP address such as 172.18.0.5")))?
        .to_canonical();
    if !can_be_a_source(address) {
        return Err(invalid(field, format!("{address} is not the address of a container")));
    }
    if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return Err(invalid(field, format!("{address} means another machine on every link; register another address")));
    }
    if address.is_loopback() && !allow_loopback {
        return Err(invalid(
            field,
            "every process of a machine has its loopback addresses; register the container's own",
        ));
    }
    Ok(address)
}

/// Refuses an address of this machine, that is an address that can be bound. Loopback addresses are checked elsewhere.
fn not_our_own(address: IpAddr) -> Result<(), Failure> {
    if !address.is_loopback() && UdpSocket::bind((address, 0)).is_ok() {
        Err(invalid("container_ip", format!("{address} belongs to the gateway's own machine, not to a container")))
    } else {
        Ok(())
    }
}

/// Whether packets can have this source (RFC 6890 section 2.2). "This network", multicast groups, reserved addresses,
/// the broadcast address and the unspecified address can't be a source.
fn can_be_a_source(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] != 0 && v4 < Ipv4Addr::new(224, 0, 0, 0),
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast(),
    }
}

fn extra_host(text: &str, pinned: &[HostName]) -> Result<HostPattern, Failure> {
    let pattern = HostPattern::parse(text).map_err(|error| invalid("egress_allow", format!("{text:?}: {error}")))?;
    match pinned.iter().find(|host| pattern.covers(host)) {
        Some(host) => {
            Err(invalid("egress_allow", format!("{host} is one of upstreams:, which only the policy can allow")))
        }
        None => Ok(pattern),
    }
}

fn plain_text(field: &str, text: String) -> Result<String, Failure> {
    if text.is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        return Err(invalid(field, format!("expected 1 to {MAX_TEXT} characters without control characters")));
    }
    Ok(text)
}

fn path_address(text: &str) -> Result<IpAddr, Failure> {
    text.parse::<IpAddr>().map(|ip| ip.to_canonical()).map_err(|_| Failure::NotFound(text.to_owned()))
}

/// The current time in whole seconds, so that an expiry is easy to read.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

async fn register(State(api): State<Api>, body: Bytes) -> Result<Response, Failure> {
    let record = Raw::parse(&body)?.register(now(), &api.limits)?;
    not_our_own(record.container_ip)?;
    if record.container_ip.is_loopback() {
        tracing::warn!("every process of this machine has its loopback addresses, and so this container's rights");
    }
    let (record, replaced) = api.registry.put(record).await?;
    let status = if replaced { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(record.as_ref().clone())).into_response())
}

async fn list(State(api): State<Api>) -> Json<Vec<Container>> {
    Json(api.registry.list().iter().map(|record| record.as_ref().clone()).collect())
}

async fn show(State(api): State<Api>, Path(ip): Path<String>) -> Result<Json<Container>, Failure> {
    let address = path_address(&ip)?;
    let record = api.registry.lookup(address).1.ok_or(Failure::NotFound(ip))?;
    Ok(Json(record.as_ref().clone()))
}

async fn patch(State(api): State<Api>, Path(ip): Path<String>, body: Bytes) -> Result<Json<Container>, Failure> {
    let address = path_address(&ip)?;
    let raw = Raw::parse(&body)?;
    if raw.container_ip.is_some() {
        return Err(invalid("container_ip", "cannot be changed; register the new address"));
    }
    let update = move |record| raw.apply(record, now(), &api.limits.pinned);
    let record = api.registry.update(address, update).await?.ok_or(Failure::NotFound(ip))?;
    Ok(Json(record.as_ref().clone()))
}

async fn remove(State(api): State<Api>, Path(ip): Path<String>) -> Result<StatusCode, Failure> {
    let removed = api.registry.remove(path_address(&ip)?).await?;
    if removed { Ok(StatusCode::NO_CONTENT) } else { Err(Failure::NotFound(ip)) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;
    use std::io::ErrorKind;
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::{Duration, Instant};

    use policy::Policy;
    use tokio::net::TcpListener;

    use super::store::Store;
    use super::store::failing::{Disk, Refuses};
    use super::*;
    use base::testing;

    fn register(body: &str) -> Result<Container, (u16, Option<String>)> {
        let now: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
        let limits = Limits { allow_loopback: false, pinned: vec![HostName::parse(b"git.example.com").unwrap()] };
        Raw::parse(body.as_bytes()).and_then(|raw| raw.register(now, &limits)).map_err(|failure| match failure {
            Failure::Malformed(_) => (400, None),
            Failure::Invalid { field, .. } => (422, Some(field)),
            Failure::NotFound(_) => (404, None),
            Failure::Store(_) => (503, None),
        })
    }

    #[test]
    fn the_body_of_the_documentation_is_taken() {
        let record = register(
            r#"{"container_ip":"172.18.0.5","container_id":"abc123def456","repos":["owner/repo1","owner/repo2"],
                "auth_mode":"bot","allowed_branches":["sandbox/*","bot/*"],"expires_at":"2027-01-15T00:00:00Z"}"#,
        )
        .unwrap();
        assert_eq!(record.repos.len(), 2);
        assert_eq!(record.expires_at.to_string(), "2027-01-15T00:00:00Z");
    }

    #[test]
    fn what_is_absent_has_the_documented_default() {
        let record = register(r#"{"container_ip":"::ffff:172.18.0.5","repos":[]}"#).unwrap();
        assert_eq!(record.container_ip.to_string(), "172.18.0.5");
        assert_eq!(record.container_id, "172.18.0.5");
        let branches: Vec<_> = record.allowed_branches.iter().map(ToString::to_string).collect();
        assert_eq!(branches, ["sandbox/*", "bot/*"]);
        assert_eq!(record.expires_at.to_string(), "2026-12-02T00:00:00Z");
        let ttl = register(r#"{"container_ip":"172.18.0.5","repos":[],"ttl":"8h"}"#).unwrap();
        assert_eq!(ttl.expires_at.to_string(), "2026-12-01T08:00:00Z");
    }

    #[test]
    fn a_repository_may_be_an_object() {
        let record = register(
            r#"{"container_ip":"172.18.0.5","repos":["o/r",{"name":"owner/repo1","id":23096959,"default_branch":"main"}]}"#,
        )
        .unwrap();
        assert_eq!((record.repos[0].id(), record.repos[0].default_branch()), (None, None));
        assert_eq!((record.repos[1].id(), record.repos[1].default_branch()), (Some(23_096_959), Some("main")));
        assert!(record.has_repo(b"Owner", b"repo1"));
    }

    #[test]
    fn the_addresses_beside_the_refused_ones_are_taken() {
        for address in ["1.0.0.1", "223.255.255.254", "fd00::5", "fec0::1", "169.254.1.1"] {
            assert!(register(&format!(r#"{{"container_ip":"{address}","repos":[]}}"#)).is_ok(), "{address}");
        }
    }

    #[test]
    fn each_wrong_value_names_its_field() {
        let cases = [
            (r#"{"repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"172.18.0.5"}"#, "repos"),
            (r#"{"container_ip":"172.18.0","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"127.0.0.1","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"0.0.0.0","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"0.1.2.3","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"224.0.0.1","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"240.0.0.1","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"255.255.255.255","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"::","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"::ffff:0.1.2.3","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"ff02::1","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"fe80::1","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"febf::1","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"fe80::1%eth0","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"172.18.0.5","repos":["x"]}"#, "repos"),
            (r#"{"container_ip":"172.18.0.5","repos":"o/r"}"#, "repos"),
            (r#"{"container_ip":"172.18.0.5","repos":["o/r",1]}"#, "repos"),
            (r#"{"container_ip":"172.18.0.5","repos":[{"id":1}]}"#, "repos"),
            (r#"{"container_ip":"172.18.0.5","repos":[{"name":"o"}]}"#, "repos"),
            (r#"{"container_ip":"172.18.0.5","repos":[{"name":"o/r","branch":"main"}]}"#, "repos"),
            (r#"{"container_ip":"172.18.0.5","repos":[{"name":"o/r","default_branch":"a..b"}]}"#, "repos"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"auth_mode":"root"}"#, "auth_mode"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"expires_at":"2026-11-30T00:00:00Z"}"#, "expires_at"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"expires_at":"soon"}"#, "expires_at"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"force_own_branches":"yes"}"#, "force_own_branches"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"ttl":"-1h"}"#, "ttl"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"ttl":"1h","expires_at":"2027-01-15T00:00:00Z"}"#, "ttl"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"repo":["o/r"]}"#, "repo"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"labels":{"a":1}}"#, "labels"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"container_id":"a\nb"}"#, "container_id"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"egress_allow":["*"]}"#, "egress_allow"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"egress_allow":["git.example.com"]}"#, "egress_allow"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"egress_allow":["*.example.com"]}"#, "egress_allow"),
        ];
        for (body, field) in cases {
            assert_eq!(register(body).unwrap_err(), (422, Some(field.to_owned())), "{body}");
        }
        assert_eq!(register("{").unwrap_err(), (400, None));
    }

    /// Serves the API with a new registry, at the returned address.
    async fn serve(store: Store) -> (SocketAddr, Arc<Registry>, tokio::task::JoinHandle<std::io::Result<()>>) {
        let registry = Registry::open(store, Policy::deny_all()).unwrap();
        let api = Api { registry: Arc::clone(&registry), limits: Arc::default() };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, routes(api)).await });
        (address, registry, server)
    }

    const ONE: &str = "/internal/containers/10.222.0.1";

    #[tokio::test]
    async fn a_registration_whose_client_hangs_up_is_made_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.redb");
        let (address, registry, server) = serve(Store::open(&path).unwrap()).await;
        let host = address.to_string();
        for number in 1..=50 {
            let body = format!(r#"{{"container_ip":"10.222.0.{number}","repos":[]}}"#);
            drop(testing::send(address, "POST /internal/containers", &[("host", &host)], &body).await);
            tokio::time::sleep(Duration::from_micros(200 * number)).await;
        }
        let last = r#"{"container_ip":"10.222.1.1","repos":[]}"#;
        assert_eq!(testing::call(address, "POST /internal/register", last).await.0, 201);
        let in_memory = registry.list();
        assert!(in_memory.len() > 1, "none of them had begun");
        let generations: BTreeSet<_> = in_memory.iter().map(|record| record.generation).collect();
        assert_eq!(generations.len(), in_memory.len(), "a version was used twice");
        server.abort();
        drop(registry);
        // The tasks of the connections release it a moment later.
        let deadline = Instant::now() + Duration::from_secs(10);
        let store = loop {
            match Store::open(&path) {
                Ok(store) => break store,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert_eq!(Registry::open(store, Policy::deny_all()).unwrap().list(), in_memory);
    }

    #[tokio::test]
    async fn patches_beside_each_other_are_all_applied() {
        let directory = tempfile::tempdir().unwrap();
        let (address, registry, _server) = serve(Store::open(&directory.path().join("registry.redb")).unwrap()).await;
        let patch = format!("PATCH {ONE}");
        for _ in 0..10 {
            registry.put(register(r#"{"container_ip":"10.222.0.1","repos":[]}"#).unwrap()).await.unwrap();
            let (id, repos, labels, mode) = tokio::join!(
                testing::call(address, &patch, r#"{"container_id":"new"}"#),
                testing::call(address, &patch, r#"{"repos":["o/r"]}"#),
                testing::call(address, &patch, r#"{"labels":{"a":"b"}}"#),
                testing::call(address, &patch, r#"{"auth_mode":"user"}"#),
            );
            assert_eq!([id.0, repos.0, labels.0, mode.0], [200; 4]);
            let record = registry.list().remove(0);
            assert_eq!(record.container_id, "new");
            assert_eq!((record.repos.len(), record.labels.len(), record.auth_mode), (1, 1, AuthMode::User));
        }
    }

    #[tokio::test]
    async fn a_patch_beside_a_delete_does_not_bring_the_container_back() {
        let directory = tempfile::tempdir().unwrap();
        let (address, registry, _server) = serve(Store::open(&directory.path().join("registry.redb")).unwrap()).await;
        for _ in 0..10 {
            registry.put(register(r#"{"container_ip":"10.222.0.1","repos":[]}"#).unwrap()).await.unwrap();
            let patch = || testing::call(address, "PATCH /internal/containers/10.222.0.1", r#"{"labels":{"a":"b"}}"#);
            let delete = testing::call(address, "DELETE /internal/register/10.222.0.1", "");
            let (one, deleted, two, three) = tokio::join!(patch(), delete, patch(), patch());
            assert_eq!(deleted.0, 204);
            assert!([one.0, two.0, three.0].iter().all(|status| [200, 404].contains(status)));
            assert!(registry.list().is_empty());
        }
        assert_eq!(testing::call(address, &format!("PATCH {ONE}"), "{}").await.0, 404);
        assert_eq!(testing::call(address, &format!("DELETE {ONE}"), "").await.0, 404);
    }

    #[tokio::test]
    async fn force_on_own_branches_is_given_and_taken_and_stays_where_it_is_not_named() {
        let directory = tempfile::tempdir().unwrap();
        let (address, registry, _server) = serve(Store::open(&directory.path().join("registry.redb")).unwrap()).await;
        let forces = || registry.list()[0].force_own_branches;
        for (body, force) in [
            (r#"{"container_ip":"10.222.0.1","repos":[]}"#, false),
            (r#"{"container_ip":"10.222.0.1","repos":[],"force_own_branches":true}"#, true),
        ] {
            registry.put(register(body).unwrap()).await.unwrap();
            assert_eq!(forces(), force, "{body}");
        }
        let told = r#""force_own_branches":true"#;
        for (body, force) in [
            (r#"{"repos":["o/r"]}"#, true),
            (r#"{"force_own_branches":false}"#, false),
            (r#"{"labels":{}}"#, false),
            (r#"{"force_own_branches":true}"#, true),
        ] {
            let (status, answer) = testing::call(address, &format!("PATCH {ONE}"), body).await;
            assert_eq!((status, answer.contains(told), forces()), (200, force, force), "{body}");
        }
    }

    #[tokio::test]
    async fn a_refused_patch_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (address, registry, _server) = serve(Store::open(&directory.path().join("registry.redb")).unwrap()).await;
        let body = r#"{"container_ip":"10.222.0.1","repos":["o/r"]}"#;
        let (record, _) = registry.put(register(body).unwrap()).await.unwrap();
        for body in [r#"{"repos":[],"ttl":"-1h"}"#, r#"{"container_ip":"10.222.0.2"}"#] {
            let (status, answer) = testing::call(address, &format!("PATCH {ONE}"), body).await;
            assert!(status == 422 && answer.contains("field"), "{status} {answer}");
        }
        assert_eq!(registry.list(), [record]);
    }

    #[tokio::test]
    async fn a_full_disk_is_507_any_other_failure_503_and_nothing_is_half_done() {
        let directory = tempfile::tempdir().unwrap();
        let (store, disk) = Disk::store(&directory.path().join("registry.redb"));
        let (address, registry, _server) = serve(store).await;
        let (record, _) = registry.put(register(r#"{"container_ip":"10.222.0.1","repos":[]}"#).unwrap()).await.unwrap();
        for (kind, expected) in
            [(ErrorKind::StorageFull, 507), (ErrorKind::QuotaExceeded, 507), (ErrorKind::Other, 503)]
        {
            disk.refuse(Refuses::Writes(kind));
            for (start, body) in [
                ("POST /internal/containers", r#"{"container_ip":"10.222.0.2","repos":[]}"#),
                ("POST /internal/containers", r#"{"container_ip":"10.222.0.1","repos":["o/r"]}"#),
                ("PATCH /internal/containers/10.222.0.1", r#"{"repos":["o/r"]}"#),
                ("DELETE /internal/containers/10.222.0.1", ""),
            ] {
                let (status, answer) = testing::call(address, start, body).await;
                assert_eq!(status, expected, "{start} {answer}");
                assert_eq!(registry.list(), [Arc::clone(&record)], "{start}");
            }
        }
        disk.refuse(Refuses::Nothing);
        assert_eq!(testing::call(address, &format!("DELETE {ONE}"), "").await.0, 204);
    }
}
