//! The audit: one line for each decision, written to `audit.jsonl` in the state directory.
//!
//! Envoy's access log brings what happened to each request; what the identity filter decided travels with it as
//! filter state, what the credential stage decided as dynamic metadata. Never a credential, never a body.

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use envoy_types::pb::envoy::config::core::v3::{RequestMethod, address};
use envoy_types::pb::envoy::data::accesslog::v3::HttpAccessLogEntry;
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_server::{
    AccessLogService, AccessLogServiceServer,
};
use envoy_types::pb::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage, StreamAccessLogsResponse, stream_access_logs_message::LogEntries,
};
use envoy_types::pb::google::protobuf::{BytesValue, Struct, value::Kind};
use jiff::Timestamp;
use prost::Message;
use serde::{Deserialize, Serialize};
use tonic::{Request, Response, Status, Streaming};

/// The filter state in which the identity filter leaves its decision, by Envoy's name for what `set_property` sets.
pub const AUDIT_STATE: &str = "wasm.sallyport.audit";

/// The header in which every refusal names its rule.
pub const RULE_HEADER: &str = "x-sallyport-rule";

/// The dynamic metadata's namespace in which ext_authz leaves its decision.
const AUTHZ_METADATA: &str = "envoy.filters.http.ext_authz";

/// One line.
#[derive(Debug, Serialize)]
struct Line {
    ts: Timestamp,
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
    duration_ms: i64,
    policy_version: Option<String>,
}

/// What the identity filter says of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Decision {
    request_id: String,
    container_id: Option<String>,
    stage: String,
    verdict: String,
    rule: String,
    reason: String,
    policy_version: Option<String>,
}

/// The sink.
#[derive(Debug)]
pub struct Audit {
    file: Mutex<std::fs::File>,
}

impl Audit {
    /// Appends to `path`.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path) -> std::io::Result<Arc<Self>> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        Ok(Arc::new(Self { file: Mutex::new(file) }))
    }

    /// As Envoy's access log service.
    pub fn service(self: Arc<Self>) -> AccessLogServiceServer<Service> {
        AccessLogServiceServer::new(Service(self))
    }

    fn write(&self, entries: Vec<HttpAccessLogEntry>) {
        let mut lines = Vec::new();
        for line in entries.into_iter().filter_map(line) {
            match serde_json::to_writer(&mut lines, &line) {
                Ok(()) => lines.push(b'\n'),
                Err(error) => tracing::error!(%error, "BUG: an audit line cannot be written as JSON"),
            }
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(&lines) {
            tracing::error!(%error, "audit lines are lost");
        }
    }
}

/// [`Audit`] as a tonic service.
#[derive(Debug)]
pub struct Service(Arc<Audit>);

#[tonic::async_trait]
impl AccessLogService for Service {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        let mut messages = request.into_inner();
        while let Some(message) = messages.message().await? {
            if let Some(LogEntries::HttpLogs(entries)) = message.log_entries {
                self.0.write(entries.log_entry);
            }
        }
        Ok(Response::new(StreamAccessLogsResponse {}))
    }
}

/// One access log entry as an audit line; none for a CONNECT that was opened, since what happens inside has lines
/// of its own.
fn line(entry: HttpAccessLogEntry) -> Option<Line> {
    let common = entry.common_properties.unwrap_or_default();
    let request = entry.request.unwrap_or_default();
    let response = entry.response.unwrap_or_default();
    let method = RequestMethod::try_from(request.request_method).unwrap_or_default();
    let status = response.response_code.map_or(0, |code| code.value);
    if method == RequestMethod::Connect && status == 200 {
        return None;
    }
    let mut decision = common
        .filter_state_objects
        .get(AUDIT_STATE)
        .and_then(|state| BytesValue::decode(state.value.as_slice()).ok())
        .and_then(|state| serde_json::from_slice::<Decision>(&state.value).ok())
        .unwrap_or_else(|| Decision {
            // No filter of ours was asked: Envoy answered by itself.
            stage: "listener".into(),
            verdict: "deny".into(),
            rule: response.response_headers.get(RULE_HEADER).cloned().unwrap_or_else(|| "listener.closed".into()),
            reason: response.response_code_details.clone(),
            ..Default::default()
        });
    if let Some(later) = common.metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get(AUTHZ_METADATA))
        && decision.verdict == "allow"
    {
        let field = |name: &str| text(later, name).unwrap_or_default();
        decision.stage = field("stage");
        decision.verdict = field("verdict");
        decision.rule = field("rule");
        decision.reason = field("reason");
    }
    // An answer of Envoy's own after all stages allowed; an upstream's header of this name is removed before.
    if let Some(rule) = response.response_headers.get(RULE_HEADER)
        && decision.verdict == "allow"
    {
        decision.stage = rule.split('.').next().unwrap_or_default().to_owned();
        decision.verdict = "deny".into();
        decision.rule.clone_from(rule);
        decision.reason = response.response_code_details.clone();
    }
    let peer = common.downstream_remote_address.and_then(|address| match address.address? {
        address::Address::SocketAddress(socket) => socket.address.parse::<IpAddr>().ok(),
        _ => None,
    });
    let start = common.start_time.unwrap_or_default();
    Some(Line {
        ts: Timestamp::new(start.seconds, start.nanos).unwrap_or_default(),
        request_id: if decision.request_id.is_empty() { common.stream_id } else { decision.request_id },
        container_id: decision.container_id,
        container_ip: peer.map(|ip| ip.to_canonical()),
        stage: decision.stage,
        verdict: decision.verdict,
        rule: decision.rule,
        reason: decision.reason,
        method: method.as_str_name().to_owned(),
        host: request.authority,
        path: without_values(&request.path),
        status,
        bytes_up: request.request_body_bytes,
        bytes_down: response.response_body_bytes,
        duration_ms: common.duration.map_or(0, |duration| {
            duration.seconds.saturating_mul(1000).saturating_add((duration.nanos / 1_000_000).into())
        }),
        policy_version: decision.policy_version,
    })
}

/// Query parameters whose values the audit shows: what they say is no secret of anybody's.
const SHOWN: [&str; 5] = ["service", "page", "per_page", "state", "ref"];

/// A target without the values of its query but the harmless ones: those of signed URLs are credentials.
fn without_values(target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else { return target.to_owned() };
    let shown = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if SHOWN.contains(&name) => pair.to_owned(),
        Some((name, _)) => format!("{name}=…"),
        None => pair.to_owned(),
    };
    let query: Vec<String> = query.split('&').map(shown).collect();
    format!("{path}?{}", query.join("&"))
}

fn text(fields: &Struct, name: &str) -> Option<String> {
    match fields.fields.get(name)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_query_are_not_kept() {
        assert_eq!(without_values("/o/r/info/refs?service=git-upload-pack"), "/o/r/info/refs?service=git-upload-pack");
        assert_eq!(without_values("/zip/main?token=SECRET&page=2&sig=a=b"), "/zip/main?token=…&page=2&sig=…");
        assert_eq!(without_values("/zip/main"), "/zip/main");
    }
}
