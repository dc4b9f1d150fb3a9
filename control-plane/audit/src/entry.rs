//! From Envoy's access log to a line. Pure.
//!
//! What the identity filter decided travels with a request as filter state, what the credential stage decided as
//! dynamic metadata, what Envoy itself decided as a header of its answer.

use std::net::IpAddr;

use envoy_types::pb::envoy::config::core::v3::{RequestMethod, address};
use envoy_types::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, HttpAccessLogEntry, TcpAccessLogEntry,
};
use envoy_types::pb::google::protobuf::{BytesValue, Struct, value::Kind};
use jiff::Timestamp;
use policy::{RULE_HEADER, Rule};
use prost::Message;
use serde::Deserialize;

use super::{Event, Line, Update};
use base::contract::{AUDIT_STATE, HANDSHAKE_TAG, LONG, PANIC_STATE, shows};

/// The dynamic metadata's namespace in which ext_authz leaves its decision.
const AUTHZ_METADATA: &str = "envoy.filters.http.ext_authz";

/// What of one value of a peer's is kept, in bytes: a target can be 60 KiB long, and the audit's size is bounded.
const MAX_TEXT: usize = 2_048;

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
    operation: Option<String>,
    class: Option<String>,
    repo: Option<String>,
    updates: Vec<Update>,
    commits: Option<u64>,
    pack_bytes: Option<u64>,
    policy_version: Option<String>,
}

/// The line of a request. None for a CONNECT that was opened, since what happens inside has lines of its own, and
/// none for the start of what nobody has decided yet.
pub fn http(entry: HttpAccessLogEntry) -> Option<Line> {
    let common = entry.common_properties.unwrap_or_default();
    let request = entry.request.unwrap_or_default();
    let response = entry.response.unwrap_or_default();
    let event = match common.access_log_type() {
        AccessLogType::DownstreamPeriodic => Event::Start,
        _ => Event::End,
    };
    let status = response.response_code.map_or(0, |code| code.value);
    let method = match request.request_headers.get(":method") {
        Some(token) => token.clone(),
        // Envoy has understood none, or counts headers in its own way.
        None => match RequestMethod::try_from(request.request_method).unwrap_or_default() {
            RequestMethod::MethodUnspecified => String::new(),
            known => known.as_str_name().to_owned(),
        },
    };
    if method == "CONNECT" && (status == 200 || event == Event::Start) {
        return None;
    }
    let noted = common
        .filter_state_objects
        .get(AUDIT_STATE)
        .and_then(|state| BytesValue::decode(state.value.as_slice()).ok())
        .and_then(|state| serde_json::from_slice::<Decision>(&state.value).ok());
    if noted.is_none() && event == Event::Start {
        return None;
    }
    let mut decision = noted.unwrap_or_else(|| Decision {
        // No filter of ours was asked: Envoy answered by itself.
        stage: "listener".into(),
        verdict: "deny".into(),
        rule: Rule::ListenerClosed.name().into(),
        reason: response.response_code_details.clone(),
        ..Default::default()
    });
    let authz = common.metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get(AUTHZ_METADATA));
    if let Some(later) = authz
        && let Some(verdict) = text(later, "verdict")
        && decision.verdict == "allow"
    {
        let field = |name: &str| text(later, name).unwrap_or_default();
        (decision.stage, decision.verdict) = (field("stage"), verdict);
        (decision.rule, decision.reason) = (field("rule"), field("reason"));
    }
    // An answer of Envoy's own, after all stages allowed or before any was asked; an upstream's header of this name
    // is removed before.
    if let Some(rule) = response.response_headers.get(RULE_HEADER)
        && (decision.verdict == "allow" || decision.rule == Rule::ListenerClosed.name())
    {
        decision.stage = Rule::named(rule).map_or("listener", |rule| rule.stage().name()).to_owned();
        decision.verdict = "deny".into();
        decision.rule.clone_from(rule);
        decision.reason.clone_from(&response.response_code_details);
    }
    if decision.verdict != "allow" {
        // Whatever was meant, it was no permission.
        decision.verdict = "deny".into();
        for (field, unnamed) in [(&mut decision.stage, "listener"), (&mut decision.rule, Rule::ListenerUnnamed.name())]
        {
            if field.is_empty() {
                unnamed.clone_into(field);
            }
        }
    }
    let request_id = if decision.request_id.is_empty() { common.stream_id.clone() } else { decision.request_id };
    Some(Line {
        request_id: clean(&request_id),
        container_id: decision.container_id,
        stage: decision.stage,
        verdict: decision.verdict,
        rule: decision.rule,
        reason: clean(&decision.reason),
        method: clean(&method),
        host: clean(&request.authority),
        path: clean(&without_values(&request.path)),
        status,
        bytes_up: request.request_body_bytes,
        bytes_down: response.response_body_bytes,
        operation: decision.operation.as_deref().map(clean),
        class: decision.class,
        repo: decision.repo,
        updates: decision.updates,
        commits: decision.commits,
        pack_bytes: decision.pack_bytes,
        policy_version: decision.policy_version,
        panicked: common.filter_state_objects.contains_key(PANIC_STATE),
        ..base(&common, event)
    })
}

/// The line of a TLS handshake that came to nothing. None for a connection that ended after its handshake or before
/// any, and none for what was no TLS: that has a line as a malformed request.
pub fn handshake(entry: TcpAccessLogEntry) -> Option<Line> {
    let common = entry.common_properties.unwrap_or_default();
    let flags = common.response_flags.unwrap_or_default();
    let finished = !matches!(common.custom_tags.get(HANDSHAKE_TAG).map_or("", String::as_str), "" | "-");
    if finished || flags.downstream_protocol_error {
        return None;
    }
    let failed = common.downstream_transport_failure_reason.as_str();
    let reason = match flags.no_route_found {
        true => "the server name is missing, or none that can be reached",
        false if failed.is_empty() => return None,
        false => failed,
    };
    let bytes = entry.connection_properties.unwrap_or_default();
    let tls = common.tls_properties.clone().unwrap_or_default();
    Some(Line {
        stage: "listener".into(),
        verdict: "deny".into(),
        rule: Rule::ListenerHandshake.name().into(),
        reason: clean(reason),
        host: clean(&tls.tls_sni_hostname),
        bytes_up: bytes.received_bytes,
        bytes_down: bytes.sent_bytes,
        ..base(&common, Event::End)
    })
}

/// What both kinds of entry say in the same place.
fn base(common: &AccessLogCommon, event: Event) -> Line {
    let peer = common.downstream_remote_address.as_ref().and_then(|address| match address.address.as_ref()? {
        address::Address::SocketAddress(socket) => socket.address.parse::<IpAddr>().ok(),
        _ => None,
    });
    let start = common.start_time.unwrap_or_default();
    let milliseconds = match (common.duration, event) {
        (Some(lasted), _) => lasted.seconds.saturating_mul(1_000).saturating_add((lasted.nanos / 1_000_000).into()),
        // Envoy has none yet.
        (None, Event::Start) => i64::try_from(LONG.as_millis()).unwrap_or(i64::MAX),
        (None, Event::End) => 0,
    };
    Line {
        ts: Timestamp::new(start.seconds, start.nanos).unwrap_or_default(),
        event,
        request_id: clean(&common.stream_id),
        container_id: None,
        container_ip: peer.map(|ip| ip.to_canonical()),
        stage: String::new(),
        verdict: String::new(),
        rule: String::new(),
        reason: String::new(),
        method: String::new(),
        host: String::new(),
        path: String::new(),
        status: 0,
        bytes_up: 0,
        bytes_down: 0,
        duration_ms: milliseconds.try_into().unwrap_or_default(),
        operation: None,
        class: None,
        repo: None,
        updates: Vec::new(),
        commits: None,
        pack_bytes: None,
        policy_version: None,
        panicked: false,
        envoy: String::new(),
        seq: 0,
    }
}

/// A peer's text as an operator can look at it: no control characters, and not longer than [`MAX_TEXT`].
fn clean(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_TEXT);
    let cut = if end < text.len() { "…" } else { "" };
    let kept = text.get(..end).unwrap_or_default();
    kept.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).chain(cut.chars()).collect()
}

/// A target without the values of its query but the harmless ones: those of signed URLs are credentials.
fn without_values(target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else { return target.to_owned() };
    let shown = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if shows(name) => pair.to_owned(),
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
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use envoy_types::pb::envoy::config::core::v3::Metadata;
    use envoy_types::pb::envoy::data::accesslog::v3::{
        HttpRequestProperties, HttpResponseProperties, ResponseFlags, TlsProperties,
    };
    use envoy_types::pb::google::protobuf::{Any, UInt32Value, Value};

    const ALLOWED: &str = r#"{"request_id":"7","container_id":"box","stage":"identity","verdict":"allow","rule":"egress.host","reason":"","policy_version":"p1"}"#;

    fn entry(method: &str, status: u32, noted: Option<&str>) -> HttpAccessLogEntry {
        let state = noted.map(|json| {
            let value = BytesValue { value: json.as_bytes().to_vec() }.encode_to_vec();
            (AUDIT_STATE.to_owned(), Any { type_url: String::new(), value })
        });
        HttpAccessLogEntry {
            common_properties: Some(AccessLogCommon {
                filter_state_objects: state.into_iter().collect(),
                stream_id: "s1".into(),
                access_log_type: AccessLogType::DownstreamEnd.into(),
                ..Default::default()
            }),
            request: Some(HttpRequestProperties {
                request_headers: [(":method".to_owned(), method.to_owned())].into(),
                ..Default::default()
            }),
            response: Some(HttpResponseProperties {
                response_code: Some(UInt32Value { value: status }),
                response_code_details: "via_upstream".into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn answered_by_envoy(mut entry: HttpAccessLogEntry, rule: &str) -> HttpAccessLogEntry {
        entry.response.as_mut().unwrap().response_headers.insert(RULE_HEADER.into(), rule.into());
        entry
    }

    fn with_authz(mut entry: HttpAccessLogEntry, fields: &[(&str, &str)]) -> HttpAccessLogEntry {
        let value = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
        let fields = fields.iter().map(|(key, text)| ((*key).to_owned(), value(text))).collect();
        entry.common_properties.as_mut().unwrap().metadata = Some(Metadata {
            filter_metadata: [(AUTHZ_METADATA.to_owned(), Struct { fields })].into(),
            ..Default::default()
        });
        entry
    }

    fn started(mut entry: HttpAccessLogEntry) -> HttpAccessLogEntry {
        entry.common_properties.as_mut().unwrap().access_log_type = AccessLogType::DownstreamPeriodic.into();
        entry
    }

    /// Verdict, stage and rule.
    fn said(line: &Line) -> [&str; 3] {
        [&line.verdict, &line.stage, &line.rule]
    }

    #[test]
    fn the_method_is_the_token_that_was_sent() {
        for method in ["GET", "PURGE", "M-SEARCH", "get"] {
            assert_eq!(http(entry(method, 200, Some(ALLOWED))).unwrap().method, method);
        }
        let mut without = entry("", 400, None);
        without.request.as_mut().unwrap().request_headers.clear();
        assert_eq!(http(without).unwrap().method, "", "Envoy understood none");
    }

    #[test]
    fn an_opened_connect_has_no_line_and_a_refused_one_has() {
        assert!(http(entry("CONNECT", 200, Some(ALLOWED))).is_none());
        assert!(http(started(entry("CONNECT", 0, Some(ALLOWED)))).is_none());
        assert_eq!(http(entry("CONNECT", 403, Some(ALLOWED))).unwrap().status, 403);
        assert_eq!(http(entry("GET", 200, Some(ALLOWED))).unwrap().event, Event::End);
    }

    #[test]
    fn a_long_stream_has_a_start_once_it_is_decided() {
        assert_eq!(http(started(entry("GET", 200, Some(ALLOWED)))).unwrap().event, Event::Start);
        assert!(http(started(entry("GET", 0, None))).is_none());
    }

    #[test]
    fn the_last_stage_that_decided_is_named() {
        let allowed = || entry("GET", 200, Some(ALLOWED));
        assert_eq!(said(&http(allowed()).unwrap()), ["allow", "identity", "egress.host"]);
        let fields = [("stage", "credentials"), ("verdict", "deny"), ("rule", "credentials.repo"), ("reason", "no")];
        assert_eq!(said(&http(with_authz(allowed(), &fields)).unwrap()), ["deny", "credentials", "credentials.repo"]);
        // Envoy's own fields there are no decision.
        assert_eq!(said(&http(with_authz(allowed(), &[("duration", "1")])).unwrap())[0], "allow");
        let unreachable = answered_by_envoy(allowed(), "upstream.unreachable");
        assert_eq!(said(&http(unreachable).unwrap()), ["deny", "upstream", "upstream.unreachable"]);
        let too_large = answered_by_envoy(entry("GET", 431, None), "limit.headers");
        assert_eq!(said(&http(too_large).unwrap()), ["deny", "listener", "limit.headers"], "as the answer says");
    }

    #[test]
    fn a_denial_always_has_stage_and_rule() {
        let cases = [
            entry("GET", 0, None),
            entry("GET", 403, Some("{}")),
            entry("GET", 403, Some("no json")),
            entry("GET", 403, Some(r#"{"verdict":"perhaps"}"#)),
            with_authz(entry("GET", 403, Some(ALLOWED)), &[("verdict", "deny")]),
            answered_by_envoy(entry("GET", 403, Some(ALLOWED)), "new.rule"),
            HttpAccessLogEntry::default(),
        ];
        for entry in cases {
            let line = http(entry).unwrap();
            assert_eq!(line.verdict, "deny");
            assert!(!line.stage.is_empty() && !line.rule.is_empty(), "{line:?}");
        }
    }

    #[test]
    fn a_refused_handshake_names_the_server_that_was_asked_for() {
        let entry = |failed: &str, finished: &str, flags: ResponseFlags| TcpAccessLogEntry {
            common_properties: Some(AccessLogCommon {
                tls_properties: Some(TlsProperties { tls_sni_hostname: "a.example".into(), ..Default::default() }),
                downstream_transport_failure_reason: failed.into(),
                custom_tags: [(HANDSHAKE_TAG.to_owned(), finished.to_owned())].into(),
                response_flags: Some(flags),
                ..Default::default()
            }),
            ..Default::default()
        };
        let none = ResponseFlags::default;
        let line = handshake(entry("TLS_error", "", none())).unwrap();
        assert_eq!(said(&line), ["deny", "listener", "listener.handshake"]);
        assert_eq!((line.host.as_str(), line.reason.as_str()), ("a.example", "TLS_error"));
        let no_chain = ResponseFlags { no_route_found: true, ..none() };
        assert!(handshake(entry("", "-", no_chain)).unwrap().reason.contains("server name"));
        assert!(handshake(entry("TLS_error", "3", none())).is_none(), "it was finished");
        assert!(handshake(entry("", "", none())).is_none(), "it was not begun");
        let malformed = ResponseFlags { downstream_protocol_error: true, ..none() };
        assert!(handshake(entry("TLS_error", "", malformed)).is_none(), "that is a request");
    }

    #[test]
    fn a_peers_text_is_short_and_without_control_characters() {
        let mut long = entry("GET", 200, Some(ALLOWED));
        let request = long.request.as_mut().unwrap();
        request.path = format!("/{}", "é".repeat(60_000));
        request.authority = "a\u{1b}[31m\u{9b}\r\n".into();
        let line = http(long).unwrap();
        assert!(line.path.len() <= MAX_TEXT + '…'.len_utf8() && line.path.ends_with('…'));
        assert_eq!(line.host, "a\u{fffd}[31m\u{fffd}\u{fffd}\u{fffd}");
    }

    #[test]
    fn values_of_a_query_are_not_kept() {
        assert_eq!(without_values("/o/r/info/refs?service=git-upload-pack"), "/o/r/info/refs?service=git-upload-pack");
        assert_eq!(without_values("/zip/main?token=SECRET&page=2&sig=a=b"), "/zip/main?token=…&page=2&sig=…");
        assert_eq!(without_values("/zip/main"), "/zip/main");
    }
}
