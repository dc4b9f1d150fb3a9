//! The operator's HTTP API on the registry.
//!
//! It has no password: it listens on loopback only, and refuses what a web page in the operator's browser could
//! send (an `Origin`, or a `Host` that is no loopback name). Whatever the content type says, the body is JSON.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use jiff::{SignedDuration, Timestamp};
use policy::{AuthMode, Container, HostName, HostPattern, Repo};
use serde::{Deserialize, Serialize};

use super::registry::Registry;
use super::store;

/// The size of a registration; a record with a thousand repositories has 150 KB.
const MAX_BODY: usize = 1 << 20;
/// Where neither `ttl` nor `expires_at` is given.
const DEFAULT_TTL: SignedDuration = SignedDuration::from_hours(24);
/// Where a bot is given no branches.
const DEFAULT_BOT_BRANCHES: [&str; 2] = ["sandbox/*", "bot/*"];
/// Of a container's id, and of a label's key or value.
const MAX_TEXT: usize = 256;

/// What the routes need.
#[derive(Clone, Debug)]
pub struct Api {
    /// The registry.
    pub registry: Arc<Registry>,
    /// What a registration may say here.
    pub limits: Arc<Limits>,
}

/// What depends on how this gateway runs.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Whether a loopback address can be registered: for trying out on one machine.
    pub allow_loopback: bool,
    /// Hosts that the operator has pinned, perhaps to a private address: no single container is let in there.
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

/// Refuses what a browser sends on behalf of a web page: cross-site requests carry `Origin`, and a page whose name
/// was rebound to 127.0.0.1 sends that name as `Host`.
pub fn only_local_clients(router: Router) -> Router {
    router.layer(middleware::from_fn(|request: Request, next: Next| async move {
        if from_a_web_page(request.headers()) {
            let body = Problem { error: "the admin API is not for web pages".into(), field: None };
            return (StatusCode::FORBIDDEN, Json(body)).into_response();
        }
        next.run(request).await
    }))
}

fn from_a_web_page(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let local = host.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        || host.split(':').next() == Some("localhost");
    let own_site = headers.get("sec-fetch-site").is_none_or(|site| site == "none" || site == "same-origin");
    headers.contains_key(header::ORIGIN) || !own_site || !local
}

/// An error, as the client gets it.
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
                let error = format!("{:#}", anyhow::Error::from(error));
                tracing::error!(error, "a change of the registry could not be stored");
                (StatusCode::SERVICE_UNAVAILABLE, error, None)
            }
        };
        (status, Json(Problem { error, field })).into_response()
    }
}

fn invalid(field: &str, error: impl Into<String>) -> Failure {
    Failure::Invalid { field: field.into(), error: error.into() }
}

/// A registration, as it may be sent. For PATCH the same with everything optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    container_ip: Option<String>,
    container_id: Option<String>,
    repos: Option<Vec<String>>,
    auth_mode: Option<AuthMode>,
    allowed_branches: Option<Vec<String>>,
    expires_at: Option<String>,
    ttl: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    egress_allow: Option<Vec<String>>,
    credentials: Option<Vec<String>>,
}

impl Raw {
    fn parse(body: &[u8]) -> Result<Self, Failure> {
        let value: serde_json::Value =
            serde_json::from_slice(body).map_err(|error| Failure::Malformed(format!("not JSON: {error}")))?;
        serde_path_to_error::deserialize(value).map_err(|error| {
            let field = error.path().to_string();
            let message = error.into_inner().to_string();
            // serde names an unknown field in the message, not in the path.
            let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
            Failure::Invalid { field: unknown.map_or(field, str::to_owned), error: message }
        })
    }

    /// A whole new record.
    fn register(self, now: Timestamp, api: &Limits) -> Result<Container, Failure> {
        let text = self.container_ip.as_deref().ok_or_else(|| invalid("container_ip", "is required"))?;
        let address = container_address(text, api.allow_loopback)?;
        if self.repos.is_none() {
            return Err(invalid("repos", "is required; [] gives the container no repository"));
        }
        let blank = Container {
            container_ip: address,
            container_id: address.to_string(),
            repos: Vec::new(),
            auth_mode: AuthMode::default(),
            allowed_branches: Vec::new(),
            expires_at: now.saturating_add(DEFAULT_TTL).unwrap_or(now),
            labels: BTreeMap::new(),
            egress_allow: Vec::new(),
            credentials: None,
            generation: 0,
        };
        let branches_given = self.allowed_branches.is_some();
        let mut record = self.apply(blank, now, &api.pinned)?;
        if !branches_given && record.auth_mode == AuthMode::Bot {
            record.allowed_branches = DEFAULT_BOT_BRANCHES.map(str::to_owned).to_vec();
        }
        Ok(record)
    }

    /// `record` with what is given here in place of what was there.
    fn apply(self, mut record: Container, now: Timestamp, pinned: &[HostName]) -> Result<Container, Failure> {
        if let Some(id) = self.container_id {
            record.container_id = plain_text("container_id", id)?;
        }
        if let Some(repos) = self.repos {
            record.repos = repos
                .iter()
                .map(|repo| Repo::parse(repo).map_err(|error| invalid("repos", error.to_string())))
                .collect::<Result<_, _>>()?;
        }
        record.auth_mode = self.auth_mode.unwrap_or(record.auth_mode);
        if let Some(branches) = self.allowed_branches {
            record.allowed_branches =
                branches.into_iter().map(|glob| plain_text("allowed_branches", glob)).collect::<Result<_, _>>()?;
        }
        if let Some(labels) = self.labels {
            record.labels = labels
                .into_iter()
                .map(|(key, value)| Ok((plain_text("labels", key)?, plain_text("labels", value)?)))
                .collect::<Result<_, _>>()?;
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
    if address.is_unspecified() || address.is_multicast() || address == IpAddr::from([255, 255, 255, 255]) {
        return Err(invalid(field, format!("{address} is not the address of a container")));
    }
    if address.is_loopback() {
        if !allow_loopback {
            return Err(invalid(
                field,
                "every process of a machine has its loopback addresses; register the container's own",
            ));
        }
    } else if UdpSocket::bind((address, 0)).is_ok() {
        // An address that can be bound is this machine's own.
        return Err(invalid(field, format!("{address} belongs to the gateway's own machine, not to a container")));
    }
    Ok(address)
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

/// This second: an expiry is for people to read.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

async fn register(State(api): State<Api>, body: Bytes) -> Result<Response, Failure> {
    let record = Raw::parse(&body)?.register(now(), &api.limits)?;
    let (record, replaced) = api.registry.put(record).await.map_err(Failure::Store)?;
    tracing::info!(address = %record.container_ip, id = %record.container_id, replaced, "registered a container");
    if record.container_ip.is_loopback() {
        tracing::warn!("every process of this machine has its loopback addresses, and so this container's rights");
    }
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
    let record = api.registry.lookup(address).1.ok_or(Failure::NotFound(ip))?;
    let changed = raw.apply(record.as_ref().clone(), now(), &api.limits.pinned)?;
    let (record, _) = api.registry.put(changed).await.map_err(Failure::Store)?;
    tracing::info!(%address, id = %record.container_id, "changed a container");
    Ok(Json(record.as_ref().clone()))
}

async fn remove(State(api): State<Api>, Path(ip): Path<String>) -> Result<StatusCode, Failure> {
    let address = path_address(&ip)?;
    if !api.registry.remove(address).await.map_err(Failure::Store)? {
        return Err(Failure::NotFound(ip));
    }
    tracing::info!(%address, "removed a container");
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

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
        assert_eq!(record.allowed_branches, ["sandbox/*", "bot/*"]);
        assert_eq!(record.expires_at.to_string(), "2026-12-02T00:00:00Z");
        let ttl = register(r#"{"container_ip":"172.18.0.5","repos":[],"ttl":"8h"}"#).unwrap();
        assert_eq!(ttl.expires_at.to_string(), "2026-12-01T08:00:00Z");
    }

    #[test]
    fn each_wrong_value_names_its_field() {
        let cases = [
            (r#"{"repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"172.18.0.5"}"#, "repos"),
            (r#"{"container_ip":"172.18.0","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"127.0.0.1","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"0.0.0.0","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"224.0.0.1","repos":[]}"#, "container_ip"),
            (r#"{"container_ip":"172.18.0.5","repos":["x"]}"#, "repos"),
            (r#"{"container_ip":"172.18.0.5","repos":"o/r"}"#, "repos"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"auth_mode":"root"}"#, "auth_mode"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"expires_at":"2026-11-30T00:00:00Z"}"#, "expires_at"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"expires_at":"soon"}"#, "expires_at"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"ttl":"-1h"}"#, "ttl"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"ttl":"1h","expires_at":"2027-01-15T00:00:00Z"}"#, "ttl"),
            (r#"{"container_ip":"172.18.0.5","repos":[],"repo":["o/r"]}"#, "repo"),
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

    #[test]
    fn a_web_page_is_not_the_operator() {
        let headers = |host: &str, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            headers
        };
        for host in ["127.0.0.1:8081", "localhost:8081", "[::1]:8081", "localhost", "127.0.0.1"] {
            assert!(!from_a_web_page(&headers(host, None)), "{host}");
            assert!(from_a_web_page(&headers(host, Some("https://evil.test"))), "{host}");
        }
        assert!(from_a_web_page(&headers("evil.test:8081", None)));
        assert!(from_a_web_page(&HeaderMap::new()));
    }
}
