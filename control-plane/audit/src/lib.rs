//! The audit: one line for each decision, in `audit.jsonl` and for whoever follows.
//!
//! Envoy's access log brings what happened; `entry` makes a [`Line`] of it, `writer` puts it on disk on a thread of its
//! own, `api` shows it to the operator. Nothing here waits for the disk or for a reader: what they can't keep up with
//! is dropped, counted and said. Never a credential, never a body.

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
use policy::Container;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc as channel, watch};
use tonic::{Request, Response, Status, Streaming};

use self::panics::Panics;
use self::writer::{Job, QUEUE, Rotation, Writer};
use base::problems::Problems;
use base::telemetry;
use registry::Registry;
use registry::store;

/// Lines that are kept in memory for the API; 2 to 20 MiB.
const RECENT: usize = 5_000;

/// How much of the file is read for them at start.
const RECENT_BYTES: u64 = 4 << 20;

/// Lines that a follower may be behind before it loses some.
const FOLLOWER: usize = 1_024;

/// How long a stop waits for Envoy's last lines, and then for the disk.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Whether a line is about a stream that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Event {
    Start,
    End,
}

/// One line.
#[derive(Debug, Serialize)]
struct Line {
    ts: Timestamp,
    event: Event,
    request_id: String,
    container_id: Option<String>,
    container_ip: Option<IpAddr>,
    stage: String,
    verdict: String,
    rule: String,
    reason: String,
    method: String,
    host: String,
    path: String,
    status: u32,
    bytes_up: u64,
    bytes_down: u64,
    duration_ms: u64,
    /// What it does on GitHub, and the class of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<String>,
    /// The repository of a push, what it would do to which refs, the commits that were read of it, and how many bytes
    /// of its pack came.
    #[serde(skip_serializing_if = "Option::is_none")]
    repo: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    updates: Vec<Update>,
    #[serde(skip_serializing_if = "Option::is_none")]
    commits: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pack_bytes: Option<u64>,
    policy_version: Option<String>,
    /// Whether a filter has panicked over it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    panicked: bool,
    /// Which stream of which Envoy brought it, and its number there; gaps are lines that were lost after they came.
    envoy: String,
    seq: u64,
}

/// What a push would do to a ref.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Update {
    #[serde(rename = "ref")]
    name: String,
    old: Option<String>,
    new: Option<String>,
    kind: policy::push::Change,
}

/// An allowed request that a provider has answered with 401.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The request's host.
    pub host: String,
    /// When the request began.
    pub began: Timestamp,
}

/// By what lines are chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Key {
    container_id: Option<String>,
    container_ip: Option<IpAddr>,
    verdict: String,
}

/// A line as it is passed around.
#[derive(Clone, Debug)]
struct Record {
    key: Arc<Key>,
    json: Arc<str>,
}

/// The sink.
#[derive(Debug)]
pub struct Audit {
    registry: Arc<Registry>,
    queue: SyncSender<Job>,
    /// Set while lines are dropped, so that it is said once.
    full: Mutex<u64>,
    shown: Mutex<Shown>,
    panics: Mutex<Panics>,
    /// Streams of Envoys that are open.
    streams: watch::Sender<usize>,
    /// Tells the streams of this process from those of its predecessors.
    run: String,
    next_stream: AtomicU64,
}

/// What the API shows. One lock for both, so that a follower gets each line once.
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
    /// The file cannot be opened, or there can be no thread.
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

    /// As Envoy's access log service. Each allowed request that a provider answers with 401 is sent to `rejections`.
    pub fn service(self: Arc<Self>, rejections: channel::Sender<Rejected>) -> AccessLogServiceServer<Service> {
        AccessLogServiceServer::new(Service(self, rejections))
    }

    /// Waits until Envoy's streams have ended and everything they brought is on disk.
    pub async fn finish(&self) {
        let mut streams = self.streams.subscribe();
        let ended = tokio::time::timeout(LAST_LINES, streams.wait_for(|open| *open == 0)).await;
        if ended.is_err() {
            tracing::warn!("an Envoy is still sending audit lines; what comes from now on is lost");
        }
        let (done, flushed) = mpsc::sync_channel(1);
        let queue = self.queue.clone();
        let wait = move || queue.try_send(Job::Flush(done)).is_ok() && flushed.recv_timeout(LAST_LINES).is_ok();
        if !tokio::task::spawn_blocking(wait).await.unwrap_or(false) {
            tracing::error!("the disk does not take the last audit lines; they are lost");
        }
    }

    fn take(&self, line: &Line) {
        if line.event == Event::End {
            telemetry::decided(&line.verdict, &line.stage, &line.rule);
            telemetry::ended(line.bytes_up, line.bytes_down, Duration::from_millis(line.duration_ms));
        }
        let json: Arc<str> = match serde_json::to_string(line) {
            Ok(json) => json.into(),
            Err(error) => return tracing::error!(%error, "BUG: an audit line cannot be written as JSON"),
        };
        self.queue(Arc::clone(&json));
        let key = Key {
            container_id: line.container_id.clone(),
            container_ip: line.container_ip,
            verdict: line.verdict.clone(),
        };
        let record = Record { key: Arc::new(key), json };
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.recent.len() >= RECENT {
            shown.recent.pop_front();
        }
        shown.recent.push_back(record.clone());
        // An error says that nobody follows.
        drop(shown.followers.send(record));
    }

    /// Counts a panic over a request of `address`, and blocks whoever does it too often.
    fn panicked(&self, address: IpAddr) {
        tracing::error!(%address, "BUG: a filter has panicked over a request; its audit line says which");
        let mut panics = self.panics.lock().unwrap_or_else(PoisonError::into_inner);
        if panics.note(address, Timestamp::now()) {
            let registry = Arc::clone(&self.registry);
            tokio::spawn(async move { block(&registry, address).await });
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

    /// The last lines, and all from now on.
    fn follow(&self) -> (Vec<Record>, broadcast::Receiver<Record>) {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        (shown.recent.iter().cloned().collect(), shown.followers.subscribe())
    }
}

async fn block(registry: &Arc<Registry>, address: IpAddr) {
    let why = format!("since a filter panicked over its requests {} times within a minute", panics::MOST);
    let blocked =
        registry.update(address, |record| Ok::<_, store::Error>(Container { blocked: Some(why), ..record })).await;
    match blocked {
        Ok(Some(record)) => tracing::error!(%address, id = %record.container_id, "blocked a container"),
        // Nobody's requests are refused by the first look at their address.
        Ok(None) => {}
        Err(error) => tracing::error!(%address, error = format!("{error:#}"), "a container could not be blocked"),
    }
}

/// One Envoy's stream, counted for as long as it is open.
struct Source<'a> {
    audit: &'a Audit,
    rejections: &'a channel::Sender<Rejected>,
    name: String,
    taken: u64,
}

impl<'a> Source<'a> {
    fn open(audit: &'a Audit, rejections: &'a channel::Sender<Rejected>) -> Self {
        audit.streams.send_modify(|open| *open += 1);
        Self { audit, rejections, name: String::new(), taken: 0 }
    }

    fn take(&mut self, message: StreamAccessLogsMessage) {
        // Only the first message of a stream has it.
        if let Some(identifier) = message.identifier {
            let node = identifier.node.map(|node| node.id).unwrap_or_default();
            let number = self.audit.next_stream.fetch_add(1, Ordering::Relaxed);
            self.name = format!("{node}.{}.{number}", self.audit.run);
            tracing::debug!(source = %self.name, log = %identifier.log_name, "an Envoy sends its access log");
        }
        let lines: Vec<Line> = match message.log_entries {
            Some(LogEntries::HttpLogs(entries)) => entries.log_entry.into_iter().filter_map(entry::http).collect(),
            Some(LogEntries::TcpLogs(entries)) => entries.log_entry.into_iter().filter_map(entry::handshake).collect(),
            None => Vec::new(),
        };
        for mut line in lines {
            self.taken += 1;
            (line.envoy, line.seq) = (self.name.clone(), self.taken);
            self.name_container(&mut line);
            self.audit.take(&line);
            if line.status == 401 && line.verdict == "allow" {
                // Full: a provider that rejects a token rejects the next request with it as well.
                drop(self.rejections.try_send(Rejected { host: line.host.clone(), began: line.ts }));
            }
            if line.panicked
                && let Some(address) = line.container_ip
            {
                self.audit.panicked(address);
            }
        }
    }

    /// Envoy's own answers come without what the identity filter knows.
    fn name_container(&self, line: &mut Line) {
        if line.container_id.is_none()
            && let Some(address) = line.container_ip
        {
            line.container_id = self.audit.registry.lookup(address).1.map(|record| record.container_id.clone());
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
pub struct Service(Arc<Audit>, channel::Sender<Rejected>);

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
    use policy::Policy;
    use prost::Message;
    use registry::store::Store;

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
        let (none, _) = channel::channel(1);
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
        let (none, _) = channel::channel(1);
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
        let mut source = Source::open(&audit, &rejections);
        let answered = |verdict: &str, status: u32| {
            let value = BytesValue { value: format!(r#"{{"verdict":"{verdict}"}}"#).into() }.encode_to_vec();
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
        for (verdict, status, told) in [("allow", 200, false), ("deny", 401, false), ("allow", 401, true)] {
            let log_entry = vec![answered(verdict, status)];
            source.take(first(LogEntries::HttpLogs(HttpAccessLogEntries { log_entry })));
            let host = rejected.try_recv().ok().map(|rejected| rejected.host);
            assert_eq!(host.as_deref(), told.then_some("api.example.com"), "{verdict} {status}");
        }
    }

    #[tokio::test]
    async fn a_full_queue_drops_lines_and_holds_up_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let (queue, jobs) = mpsc::sync_channel(2);
        let mut audit = Arc::into_inner(audit(directory.path())).unwrap();
        audit.queue = queue;
        let (none, _) = channel::channel(1);
        Source::open(&audit, &none).take(first(requests(5)));
        assert_eq!(jobs.try_iter().count(), 2, "and this test has not hung");
        assert_eq!(*audit.full.lock().unwrap(), 3);
        Source::open(&audit, &none).take(first(requests(1)));
        assert_eq!(*audit.full.lock().unwrap(), 0);
        assert_eq!(audit.follow().0.len(), 6, "followers are not the disk");
    }
}
