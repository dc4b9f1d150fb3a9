//! The operator's HTTP API for the registry: its routes. `record.rs` parses the registrations.
//!
//! `admin` authorizes the caller. The body is parsed as JSON, regardless of its content type. A change is carried out
//! completely or not at all, even if the client disconnects.

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use policy::Container;
use serde::Serialize;

use super::own;
use super::record::{self, Limits, Raw, invalid};
use super::registry::Registry;
use super::store;
use super::warnings::warnings;

/// The largest registration, in bytes. A record with a thousand repositories has 150 KB.
const MAX_BODY: usize = 1 << 20;

/// The state of the routes.
#[derive(Clone, Debug)]
pub struct Api {
    /// The registry.
    pub registry: Arc<Registry>,
    /// The limits on registrations.
    pub limits: Arc<Limits>,
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

/// A record that was written, as sent to the client.
#[derive(Debug, Serialize)]
struct Written {
    #[serde(flatten)]
    record: Container,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// An error, as sent to the client.
#[derive(Debug, Serialize)]
struct Problem {
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

enum Failure {
    Record(record::Invalid),
    NotFound(String),
    Store(store::Error),
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, error, field) = match self {
            Self::Record(record::Invalid::Json(error)) => (StatusCode::BAD_REQUEST, error, None),
            Self::Record(record::Invalid::Field { field, error }) => {
                (StatusCode::UNPROCESSABLE_ENTITY, error, Some(field))
            }
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

impl From<record::Invalid> for Failure {
    fn from(invalid: record::Invalid) -> Self {
        Self::Record(invalid)
    }
}

fn path_address(text: &str) -> Result<IpAddr, Failure> {
    text.parse::<IpAddr>().map(|ip| ip.to_canonical()).map_err(|_| Failure::NotFound(text.to_owned()))
}

/// The current time in whole seconds, so that an expiry is easy to read.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Refuses an address of this machine, that is an address that can be bound. Loopback addresses are checked elsewhere.
fn not_our_own(address: IpAddr) -> Result<(), record::Invalid> {
    if !address.is_loopback() && UdpSocket::bind((address, 0)).is_ok() {
        Err(invalid("container_ip", format!("{address} belongs to the gateway's own machine, not to a container")))
    } else {
        Ok(())
    }
}

/// Refuses a record that shares a branch with a record of `others` if one of the two may move it by force: each would
/// lose the other's commits. An expired record counts as soon as it is registered anew.
fn apart(record: &Container, others: &[Arc<Container>]) -> Result<(), Failure> {
    let others = others.iter().map(Arc::as_ref).filter(|other| record.force_own_branches || other.force_own_branches);
    match own::meetings(record, others, now()).first() {
        None => Ok(()),
        Some(met) => {
            let (field, whose) = match record.force_own_branches {
                true => ("force_own_branches", "the branches of this record are not its own"),
                false => ("allowed_branches", "another container may move these branches by force"),
            };
            Err(invalid(field, format!("{whose}: {met}; register globs that do not meet")).into())
        }
    }
}

async fn register(State(api): State<Api>, body: Bytes) -> Result<Response, Failure> {
    let record = Raw::parse(&body)?.register(now(), &api.limits)?;
    not_our_own(record.container_ip)?;
    if record.container_ip.is_loopback() {
        tracing::warn!("every process of this machine has its loopback addresses, and so this container's rights");
    }
    let before = api.registry.lookup(record.container_ip).1;
    let (record, replaced) = api.registry.put_if(record, apart).await?;
    let status = if replaced { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(written(&api.registry, &record, before.as_deref()))).into_response())
}

/// The answer about `record`, which was written in place of `before`. A change at the same moment may be missing in the
/// warnings.
fn written(registry: &Registry, record: &Container, before: Option<&Container>) -> Written {
    Written { record: record.clone(), warnings: warnings(record, before, &registry.list(), now()) }
}

async fn list(State(api): State<Api>) -> Json<Vec<Container>> {
    Json(api.registry.list().iter().map(|record| record.as_ref().clone()).collect())
}

async fn show(State(api): State<Api>, Path(ip): Path<String>) -> Result<Json<Container>, Failure> {
    let address = path_address(&ip)?;
    let record = api.registry.lookup(address).1.ok_or(Failure::NotFound(ip))?;
    Ok(Json(record.as_ref().clone()))
}

async fn patch(State(api): State<Api>, Path(ip): Path<String>, body: Bytes) -> Result<Json<Written>, Failure> {
    let address = path_address(&ip)?;
    let raw = Raw::parse(&body)?;
    if raw.container_ip.is_some() {
        return Err(invalid("container_ip", "cannot be changed; register the new address").into());
    }
    let limits = Arc::clone(&api.limits);
    let update = move |record, others: &[Arc<Container>]| {
        let record = raw.apply(record, now(), &limits.pinned)?;
        apart(&record, others)?;
        Ok::<_, Failure>(record)
    };
    let record = api.registry.update(address, update).await?.ok_or(Failure::NotFound(ip))?;
    Ok(Json(written(&api.registry, &record, None)))
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

    use policy::{AuthMode, Policy};
    use tokio::net::TcpListener;

    use super::store::Store;
    use super::store::failing::{Disk, Refuses};
    use super::*;
    use base::testing;

    fn register(body: &str) -> Container {
        record::record(&serde_json::from_str(body).unwrap(), Timestamp::now()).unwrap()
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
            registry.put(register(r#"{"container_ip":"10.222.0.1","repos":[]}"#)).await.unwrap();
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
            registry.put(register(r#"{"container_ip":"10.222.0.1","repos":[]}"#)).await.unwrap();
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
            registry.put(register(body)).await.unwrap();
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
    async fn force_and_another_record_s_branches_exclude_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let (address, registry, _server) = serve(Store::open(&directory.path().join("registry.redb")).unwrap()).await;
        let post = async |last: u8, more: &str| {
            let body = format!(r#"{{"container_ip":"10.222.0.{last}","repos":["o/r"]{more}}}"#);
            let (status, answer) = testing::call(address, "POST /internal/containers", &body).await;
            (status, answer.split_once("\"field\":\"").map(|(_, field)| field.trim_end_matches("\"}").to_owned()))
        };
        let refused = |field: &str| (422, Some(field.to_owned()));
        let (wide, force) = (r#","allowed_branches":["sandbox/*"]"#, r#","force_own_branches":true"#);
        // Each has branches of its own by default.
        assert_eq!(post(1, force).await, (201, None));
        assert_eq!(post(2, force).await, (201, None));
        // The other order, by a new record and by changes.
        assert_eq!(post(3, wide).await, refused("allowed_branches"));
        assert_eq!(post(3, "").await, (201, None));
        let patch = async |last: u8, body: &str| {
            testing::call(address, &format!("PATCH /internal/containers/10.222.0.{last}"), body).await
        };
        let (status, answer) = patch(3, r#"{"allowed_branches":["sandbox/10.222.0.1/x"]}"#).await;
        assert!(
            status == 422 && answer.contains("sandbox/10.222.0.1/x meets sandbox/10.222.0.1/* of 10.222.0.1 in o/r"),
            "{answer}"
        );
        assert_eq!(patch(3, r#"{"allowed_branches":["sandbox/*"],"repos":["o/s"]}"#).await.0, 200);
        assert_eq!(patch(3, r#"{"repos":["O/R"]}"#).await.0, 422);
        for last in [1, 2] {
            assert_eq!(patch(last, r#"{"force_own_branches":false}"#).await.0, 200);
        }
        assert_eq!(patch(3, r#"{"repos":["O/R"]}"#).await.0, 200);
        let (status, answer) = patch(1, r#"{"force_own_branches":true}"#).await;
        assert!(status == 422 && answer.contains(r#""field":"force_own_branches""#), "{answer}");
        assert_eq!(post(1, force).await, refused("force_own_branches"));
        // An expired record has no branches, until it is registered or changed to last longer.
        let expired = registry.lookup("10.222.0.3".parse().unwrap()).1.unwrap();
        let gone = Container { expires_at: "2020-01-01T00:00:00Z".parse().unwrap(), ..expired.as_ref().clone() };
        registry.put(gone).await.unwrap();
        assert_eq!(post(1, force).await, (200, None));
        assert_eq!(patch(3, r#"{"ttl":"1h"}"#).await.0, 422);
        assert_eq!(post(3, wide).await, refused("allowed_branches"));
        // A record may share branches with others without force.
        assert_eq!(patch(1, r#"{"force_own_branches":false}"#).await.0, 200);
        assert_eq!(post(3, wide).await, (200, None));
    }

    #[tokio::test]
    async fn an_answer_warns_of_what_may_be_a_mistake() {
        let directory = tempfile::tempdir().unwrap();
        let (address, ..) = serve(Store::open(&directory.path().join("registry.redb")).unwrap()).await;
        let post = async |last: u8, id: &str| {
            let body = format!(r#"{{"container_ip":"10.222.0.{last}","container_id":"{id}","repos":[]}}"#);
            let (_, answer) = testing::call(address, "POST /internal/containers", &body).await;
            let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
            assert_eq!(answer["container_id"], id);
            answer["warnings"].clone()
        };
        assert!(post(1, "a").await.is_null());
        assert!(post(1, "a").await.is_null(), "the same again");
        assert!(post(1, "b").await[0].as_str().unwrap().contains("was registered for a until"));
        assert!(post(2, "b").await[0].as_str().unwrap().contains("b is registered for 10.222.0.1 too"));
        let patch = testing::call(address, &format!("PATCH {ONE}"), r#"{"labels":{"x":"y"}}"#).await;
        assert!(patch.0 == 200 && patch.1.contains("b is registered for 10.222.0.2 too"), "{patch:?}");
    }

    #[tokio::test]
    async fn a_refused_patch_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (address, registry, _server) = serve(Store::open(&directory.path().join("registry.redb")).unwrap()).await;
        let body = r#"{"container_ip":"10.222.0.1","repos":["o/r"]}"#;
        let (record, _) = registry.put(register(body)).await.unwrap();
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
        let (record, _) = registry.put(register(r#"{"container_ip":"10.222.0.1","repos":[]}"#)).await.unwrap();
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
