//! The audit: one line for each decision, written to `audit.jsonl` and streamed to followers.
//!
//! The source is Envoy's access log. `entry` converts an entry to a [`Line`], `writer` writes the line to disk on its
//! own thread, `api` shows the lines to the operator. The audit never waits for the disk or for a reader: if they do
//! not keep up, lines are dropped, counted and reported. A line never holds a credential or a body.

pub mod api;
mod entry;
mod panics;
pub mod writer;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_server::{
    AccessLogService, AccessLogServiceServer,
};
use envoy_types::pb::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage, StreamAccessLogsResponse, stream_access_logs_message::LogEntries,
};
use jiff::Timestamp;
use policy::github::Class;
use policy::{Container, Decided, Decision, PushNote};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc as channel, watch};
use tonic::{Request, Response, Status, Streaming};

use self::panics::{Culprit, Panics};
use self::writer::{Job, QUEUE, Rotation, Writer};
use base::problems::Problems;
use base::quota::Quoted;
use base::telemetry;
use registry::Registry;
use registry::store;

/// Lines that are kept in memory for the API; 2 to 20 MiB.
const RECENT: usize = 5_000;

/// The bytes at the end of the file that are read at start to fill [`RECENT`].
const RECENT_BYTES: u64 = 4 << 20;

/// The number of lines that are queued for a follower. A follower that is further behind loses lines.
const FOLLOWER: usize = 1_024;

/// How long a stop waits for Envoy's last lines, and then for the disk.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Whether the request has ended, or is a stream that is still open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Event {
    Start,
    End,
}

/// One line. Its JSON is flat, with the fields in this order. Only [`Key`] and the CLI parse it.
#[derive(Debug, Serialize)]
struct Line {
    ts: Timestamp,
    event: Event,
    #[serde(flatten)]
    who: Who,
    #[serde(flatten)]
    decided: Decided,
    #[serde(flatten)]
    http: Http,
    #[serde(flatten)]
    action: Option<Action>,
    #[serde(flatten)]
    push: Option<PushNote>,
    policy_version: Option<String>,
    /// The filter that panicked over the request or the connection, and its callback.
    #[serde(skip_serializing_if = "Option::is_none")]
    panicked: Option<String>,
    #[serde(flatten)]
    origin: Origin,
}

/// The request's id and its container.
#[derive(Debug, Serialize)]
struct Who {
    request_id: String,
    container_id: Option<String>,
    container_ip: Option<IpAddr>,
}

/// The request and its response, as far as Envoy saw them.
#[derive(Debug, Default, Serialize)]
struct Http {
    method: String,
    host: String,
    path: String,
    status: u32,
    bytes_up: u64,
    bytes_down: u64,
    duration_ms: u64,
}

/// The operation at GitHub, and its class.
#[derive(Debug, Serialize)]
struct Action {
    operation: String,
    class: Class,
}

/// The stream of an Envoy that sent the line, and the line's number in the stream. A gap in the numbers is a lost line.
#[derive(Debug, Default, Serialize)]
struct Origin {
    envoy: String,
    seq: u64,
}

/// An allowed request whose response had the status 401.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The request's host.
    pub host: String,
    /// When the request began.
    pub began: Timestamp,
}

/// An answer of GitHub's API to a request with the gateway's credential, as far as it tells rate limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The container's address.
    pub container: IpAddr,
    /// The account that pays for the request, as the credential stage writes it.
    pub account: String,
    /// GitHub's statements.
    pub quoted: Quoted,
}

/// The receivers of facts that the audit finds. A fact is dropped if its channel is full.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Gets each rejection of a credential.
    pub rejected: channel::Sender<Rejected>,
    /// Gets each answer that tells rate limits.
    pub answered: channel::Sender<Answered>,
}

/// The fields by which readers filter lines.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Key {
    container_id: Option<String>,
    container_ip: Option<IpAddr>,
    verdict: Decision,
}

/// A line in memory: its filter fields and its JSON.
#[derive(Clone, Debug)]
struct Record {
    key: Arc<Key>,
    json: Arc<str>,
}

/// The receiver of all audit lines.
#[derive(Debug)]
pub struct Audit {
    registry: Arc<Registry>,
    queue: SyncSender<Job>,
    /// The number of lines dropped since the queue was last free. The log has one message for each such period.
    full: Mutex<u64>,
    shown: Mutex<Shown>,
    panics: Mutex<Panics>,
    /// The number of open streams from Envoys.
    streams: watch::Sender<usize>,
    /// Tells the streams of this process from those of its predecessors.
    run: String,
    next_stream: AtomicU64,
}

/// The lines for the API. One lock for both fields, so that a follower gets each line once.
#[derive(Debug)]
struct Shown {
    recent: VecDeque<Record>,
    followers: broadcast::Sender<Record>,
}

impl Audit {
    /// Opens the audit in the state directory and starts its writer. `registry` names the containers of requests that
    /// no filter has seen.
    ///
    /// # Errors
    /// If the file can't be opened, or the thread can't be started.
    pub fn open(
        directory: &Path,
        rotation: Rotation,
        registry: Arc<Registry>,
        problems: Problems,
    ) -> std::io::Result<Arc<Self>> {
        let mut writer = Writer::open(directory, rotation, problems)?;
        let recent = writer.tail(RECENT_BYTES)?.into_iter().filter_map(|json| {
            let key = serde_json::from_str(&json).ok()?;
            Some(Record { key: Arc::new(key), json: json.into() })
        });
        let mut recent: VecDeque<_> = recent.collect();
        recent.drain(..recent.len().saturating_sub(RECENT));
        let (queue, jobs) = mpsc::sync_channel(QUEUE);
        std::thread::Builder::new().name("audit".into()).spawn(move || writer.run(&jobs))?;
        let (followers, _) = broadcast::channel(FOLLOWER);
        Ok(Arc::new(Self {
            registry,
            queue,
            full: Mutex::new(0),
            shown: Mutex::new(Shown { recent, followers }),
            panics: Mutex::default(),
            streams: watch::channel(0).0,
            run: format!("{:x}", Timestamp::now().as_millisecond()),
            next_stream: 0.into(),
        }))
    }

    /// Returns Envoy's access log service, which reports to `facts`.
    pub fn service(self: Arc<Self>, facts: Facts) -> AccessLogServiceServer<Service> {
        AccessLogServiceServer::new(Service(self, facts))
    }

    /// Waits until Envoy's streams have ended and all their lines are on disk.
    pub async fn finish(&self) {
        let mut streams = self.streams.subscribe();
        let ended = tokio::time::timeout(LAST_LINES, streams.wait_for(|open| *open == 0)).await;
        if ended.is_err() {
            tracing::warn!("an Envoy is still sending audit lines; further lines are lost");
        }
        let (done, flushed) = mpsc::sync_channel(1);
        let queue = self.queue.clone();
        let wait = move || queue.try_send(Job::Flush(done)).is_ok() && flushed.recv_timeout(LAST_LINES).is_ok();
        if !tokio::task::spawn_blocking(wait).await.unwrap_or(false) {
            tracing::error!("the last audit lines cannot be written to disk and are lost");
        }
    }

    fn take(&self, line: &Line) {
        if line.event == Event::End {
            telemetry::decided(&line.decided);
            let Http { bytes_up, bytes_down, duration_ms, .. } = line.http;
            telemetry::ended(bytes_up, bytes_down, Duration::from_millis(duration_ms));
        }
        let json: Arc<str> = match serde_json::to_string(line) {
            Ok(json) => json.into(),
            Err(error) => return tracing::error!(%error, "BUG: an audit line cannot be written as JSON"),
        };
        self.queue(Arc::clone(&json));
        let key = Key {
            container_id: line.who.container_id.clone(),
            container_ip: line.who.container_ip,
            verdict: line.decided.verdict,
        };
        let record = Record { key: Arc::new(key), json };
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.recent.len() >= RECENT {
            shown.recent.pop_front();
        }
        shown.recent.push_back(record.clone());
        // `send` fails if there is no follower.
        drop(shown.followers.send(record));
    }

    /// Counts a panic at `place` over a request or a connection of `who`, and blocks the container after too many panics.
    /// Requests of an address without a container are refused anyway.
    fn panicked(&self, who: &Who, place: &str) {
        let Who { container_id: id, container_ip: address, .. } = who;
        tracing::error!(?address, ?id, place, "BUG: a filter panicked; see its audit line");
        telemetry::panicked();
        let (Some(address), Some(id)) = (*address, id.clone()) else { return };
        let culprit = Culprit { address, id };
        let mut panics = self.panics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(period) = panics.note(&culprit, Timestamp::now()) {
            let registry = Arc::clone(&self.registry);
            tokio::spawn(async move { block(&registry, culprit, period).await });
        }
    }

    fn queue(&self, line: Arc<str>) {
        let sent = self.queue.try_send(Job::Line(line));
        let mut dropped = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        match sent {
            Ok(()) if *dropped > 0 => {
                tracing::error!(lines = *dropped, "audit lines were dropped because the disk did not keep up");
                *dropped = 0;
            }
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                if *dropped == 0 {
                    tracing::error!("the disk does not keep up with the audit; lines are dropped");
                }
                *dropped += 1;
                telemetry::audit_lost(telemetry::Lost::Queue, 1);
            }
        }
    }

    /// The recent lines, and a receiver of all later ones.
    fn follow(&self) -> (Vec<Record>, broadcast::Receiver<Record>) {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        (shown.recent.iter().cloned().collect(), shown.followers.subscribe())
    }
}

async fn block(registry: &Arc<Registry>, Culprit { address, id }: Culprit, period: &panics::Period) {
    let why = format!("since a filter panicked over its requests {} times within {}", period.most, period.name);
    // No error: another container is registered at the address by now.
    let update = move |record: Container, _: &[Arc<Container>]| {
        if record.container_id == id { Ok(Container { blocked: Some(why), ..record }) } else { Err(None) }
    };
    match registry.update::<Option<store::Error>>(address, update).await {
        Ok(Some(record)) => {
            telemetry::blocked();
            tracing::error!(%address, id = %record.container_id, "blocked a container");
        }
        // No container is registered at the address, so its requests are refused anyway.
        Ok(None) | Err(None) => {}
        Err(Some(error)) => {
            tracing::error!(%address, error = format!("{error:#}"), "a container could not be blocked");
        }
    }
}

/// One Envoy's stream, counted while it is open.
struct Source<'a> {
    audit: &'a Audit,
    facts: &'a Facts,
    name: String,
    taken: u64,
}

impl<'a> Source<'a> {
    fn open(audit: &'a Audit, facts: &'a Facts) -> Self {
        audit.streams.send_modify(|open| *open += 1);
        Self { audit, facts, name: String::new(), taken: 0 }
    }

    fn take(&mut self, message: StreamAccessLogsMessage) {
        // Only the first message of a stream has an identifier.
        if let Some(identifier) = message.identifier {
            let node = identifier.node.map(|node| node.id).unwrap_or_default();
            let number = self.audit.next_stream.fetch_add(1, Ordering::Relaxed);
            self.name = format!("{node}.{}.{number}", self.audit.run);
            tracing::debug!(source = %self.name, log = %identifier.log_name, "an Envoy sends its access log");
        }
        if let Some(LogEntries::HttpLogs(entries)) = &message.log_entries {
            // If the channel is full, the message is dropped: the next answer tells the same quota.
            let told = entries.log_entry.iter().filter_map(entry::answered);
            told.for_each(|answered| drop(self.facts.answered.try_send(answered)));
        }
        let lines: Vec<Line> = match message.log_entries {
            Some(LogEntries::HttpLogs(entries)) => entries.log_entry.into_iter().filter_map(entry::http).collect(),
            Some(LogEntries::TcpLogs(entries)) => entries.log_entry.into_iter().filter_map(entry::connection).collect(),
            None => Vec::new(),
        };
        for mut line in lines {
            self.taken += 1;
            line.origin = Origin { envoy: self.name.clone(), seq: self.taken };
            self.name_container(&mut line);
            self.audit.take(&line);
            if line.http.status == 401 && line.decided.verdict == Decision::Allow {
                // If the channel is full, the message is dropped: a provider that rejects a token also rejects the
                // next request with it.
                drop(self.facts.rejected.try_send(Rejected { host: line.http.host.clone(), began: line.ts }));
            }
            if let Some(place) = &line.panicked {
                self.audit.panicked(&line.who, place);
            }
        }
    }

    /// Adds the container and the policy version, which Envoy's own responses lack: the identity filter did not see
    /// these requests.
    fn name_container(&self, line: &mut Line) {
        if line.who.container_id.is_none()
            && let Some(address) = line.who.container_ip
        {
            line.who.container_id = self.audit.registry.lookup(address).1.map(|record| record.container_id.clone());
        }
        if line.policy_version.is_none() {
            line.policy_version = Some(self.audit.registry.policy().version.clone());
        }
    }
}

impl Drop for Source<'_> {
    fn drop(&mut self) {
        self.audit.streams.send_modify(|open| *open = open.saturating_sub(1));
    }
}

/// [`Audit`] as a tonic service.
#[derive(Debug)]
pub struct Service(Arc<Audit>, Facts);

#[tonic::async_trait]
impl AccessLogService for Service {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        let mut source = Source::open(&self.0, &self.1);
        let mut messages = request.into_inner();
        loop {
            match messages.message().await {
                Ok(Some(message)) => source.take(message),
                Ok(None) => return Ok(Response::new(StreamAccessLogsResponse {})),
                Err(status) => {
                    tracing::info!(source = %source.name, lines = source.taken, "an Envoy's access log broke off");
                    return Err(status);
                }
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use base::contract::AUDIT_STATE;
    use envoy_types::pb::envoy::config::core::v3::Node;
    use envoy_types::pb::envoy::data::accesslog::v3::{
        AccessLogCommon, HttpAccessLogEntry, HttpRequestProperties, HttpResponseProperties, TcpAccessLogEntry,
    };
    use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::{
        HttpAccessLogEntries, Identifier, TcpAccessLogEntries,
    };
    use envoy_types::pb::google::protobuf::{Any, BytesValue, UInt32Value};
    use policy::{Note, Policy, Rule};
    use prost::Message;
    use registry::store::Store;

    /// Facts for which there is no receiver.
    fn unheard() -> Facts {
        Facts { rejected: channel::channel(1).0, answered: channel::channel(1).0 }
    }

    fn audit(directory: &Path) -> Arc<Audit> {
        let store = Store::open(&directory.join("registry.redb")).unwrap();
        let registry = Registry::open(store, Policy::deny_all()).unwrap();
        Audit::open(directory, Rotation::default(), registry, Problems::default()).unwrap()
    }

    fn first(entries: LogEntries) -> StreamAccessLogsMessage {
        let node = Node { id: "one".into(), ..Default::default() };
        let identifier = Identifier { node: Some(node), log_name: "audit".into() };
        StreamAccessLogsMessage { identifier: Some(identifier), log_entries: Some(entries) }
    }

    fn requests(count: usize) -> LogEntries {
        LogEntries::HttpLogs(HttpAccessLogEntries { log_entry: vec![HttpAccessLogEntry::default(); count] })
    }

    fn failed_handshake() -> TcpAccessLogEntry {
        let common = AccessLogCommon { downstream_transport_failure_reason: "failed".into(), ..Default::default() };
        TcpAccessLogEntry { common_properties: Some(common), ..Default::default() }
    }

    fn on_disk(directory: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(directory.join("audit.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[tokio::test]
    async fn each_stream_counts_its_lines_and_what_was_written_is_shown_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let first_run = audit(directory.path());
        let none = unheard();
        {
            let (mut one, mut two) = (Source::open(&first_run, &none), Source::open(&first_run, &none));
            one.take(first(requests(2)));
            two.take(first(LogEntries::TcpLogs(TcpAccessLogEntries { log_entry: vec![failed_handshake()] })));
            one.take(StreamAccessLogsMessage { identifier: None, log_entries: Some(requests(1)) });
        }
        first_run.finish().await;
        let lines = on_disk(directory.path());
        let numbers: Vec<_> = lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect();
        assert_eq!(numbers, [1, 2, 1, 3]);
        assert_eq!(lines[0]["envoy"], lines[3]["envoy"]);
        assert_ne!(lines[0]["envoy"], lines[2]["envoy"]);
        assert!(lines[0]["envoy"].as_str().unwrap().starts_with("one."));
        assert!(lines.iter().all(|line| line["policy_version"] == "none"));
        drop(first_run);
        assert_eq!(audit(directory.path()).follow().0.len(), 4);
    }

    #[tokio::test]
    async fn a_stop_waits_for_the_streams_that_are_open() {
        let directory = tempfile::tempdir().unwrap();
        let audit = audit(directory.path());
        let none = unheard();
        let mut source = Source::open(&audit, &none);
        let late = async {
            tokio::task::yield_now().await;
            source.take(first(requests(1)));
            drop(source);
        };
        tokio::join!(audit.finish(), late);
        assert_eq!(on_disk(directory.path()).len(), 1);
    }

    #[tokio::test]
    async fn a_provider_s_401_to_an_allowed_request_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let audit = audit(directory.path());
        let (rejections, mut rejected) = channel::channel(1);
        let facts = Facts { rejected: rejections, ..unheard() };
        let mut source = Source::open(&audit, &facts);
        let answered = |decided: Decided, status: u32| {
            let value = BytesValue { value: Note { decided, ..Note::default() }.to_bytes() }.encode_to_vec();
            let state = Any { type_url: String::new(), value };
            HttpAccessLogEntry {
                common_properties: Some(AccessLogCommon {
                    filter_state_objects: [(AUDIT_STATE.to_owned(), state)].into(),
                    ..Default::default()
                }),
                request: Some(HttpRequestProperties { authority: "api.example.com".into(), ..Default::default() }),
                response: Some(HttpResponseProperties {
                    response_code: Some(UInt32Value { value: status }),
                    ..Default::default()
                }),
                ..Default::default()
            }
        };
        let allowed = || Decided::allowed(Rule::CredentialsApi);
        let denied = Decided::denied(Rule::EgressHost, "no");
        for (decided, status, told) in [(allowed(), 200, false), (denied, 401, false), (allowed(), 401, true)] {
            let log_entry = vec![answered(decided, status)];
            source.take(first(LogEntries::HttpLogs(HttpAccessLogEntries { log_entry })));
            let host = rejected.try_recv().ok().map(|rejected| rejected.host);
            assert_eq!(host.as_deref(), told.then_some("api.example.com"), "{status}");
        }
    }

    #[tokio::test]
    async fn a_container_is_blocked_for_its_own_panics_only() {
        let directory = tempfile::tempdir().unwrap();
        let audit = audit(directory.path());
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let record = serde_json::json!({
            "container_ip": address, "container_id": "b", "repos": [], "expires_at": "2100-01-01T00:00:00Z",
        });
        audit.registry.put(serde_json::from_value(record).unwrap()).await.unwrap();
        // The container before has panicked too often just when the next one got the address.
        for (id, blocked) in [("a", false), ("b", true)] {
            block(&audit.registry, Culprit { address, id: id.into() }, &panics::PERIODS[0]).await;
            let record = audit.registry.lookup(address).1.unwrap();
            let why = record.blocked.as_ref().filter(|why| why.contains("3 times within a minute"));
            assert_eq!(why.is_some(), blocked, "{id}: {record:?}");
        }
    }

    #[tokio::test]
    async fn a_full_queue_drops_lines_and_holds_up_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let (queue, jobs) = mpsc::sync_channel(2);
        let mut audit = Arc::into_inner(audit(directory.path())).unwrap();
        audit.queue = queue;
        let none = unheard();
        Source::open(&audit, &none).take(first(requests(5)));
        assert_eq!(jobs.try_iter().count(), 2, "and this test has not hung");
        assert_eq!(*audit.full.lock().unwrap(), 3);
        Source::open(&audit, &none).take(first(requests(1)));
        assert_eq!(*audit.full.lock().unwrap(), 0);
        assert_eq!(audit.follow().0.len(), 6, "followers are not the disk");
    }
}
