//! Converts an entry of Envoy's access log to a line of the audit. Pure.
//!
//! A decision reaches the access log in one of three ways: the identity filter's as filter state, the credential
//! stage's as dynamic metadata, Envoy's own as a header of its response.

use std::fmt::Display;
use std::net::IpAddr;

use envoy_types::pb::envoy::config::core::v3::{RequestMethod, address};
use envoy_types::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, ConnectionProperties, HttpAccessLogEntry, HttpResponseProperties, TcpAccessLogEntry,
};
use envoy_types::pb::google::protobuf::{BytesValue, Struct, value::Kind};
use jiff::Timestamp;
use policy::{Decided, Decision, Note, RULE_HEADER, Rule, Unreadable};
use prost::Message;

use super::{Action, Answered, Event, Http, Line, Origin, Who};
use base::contract::{ACCOUNT_FIELD, AUDIT_STATE, HANDSHAKE_TAG, LONG, PANIC_STATE, shows};
use base::quota::Quoted;

/// The dynamic metadata's namespace in which ext_authz leaves its decision.
const AUTHZ_METADATA: &str = "envoy.filters.http.ext_authz";

/// Envoy's code for a response of the upstream (router.cc, `onUpstreamHeaders`).
const VIA_UPSTREAM: &str = "via_upstream";

/// The longest text of a peer that is kept, in bytes. A target can be 60 KiB long, and the audit's size is bounded.
const MAX_TEXT: usize = 2_048;

/// The line of a request. `None` for an accepted CONNECT, because the requests inside the tunnel have their own lines.
/// Also `None` for the start of a request that the filters have not decided yet.
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
        // Envoy parsed no method, or does not list `:method` among the headers.
        None => match RequestMethod::try_from(request.request_method).unwrap_or_default() {
            RequestMethod::MethodUnspecified => String::new(),
            known => known.as_str_name().to_owned(),
        },
    };
    if method == "CONNECT" && (status == 200 || event == Event::Start) {
        return None;
    }
    let noted = common.filter_state_objects.get(AUDIT_STATE).map(|state| {
        let state = BytesValue::decode(state.value.as_slice()).unwrap_or_default();
        Note::read(&state.value)
    });
    if noted.is_none() && event == Event::Start {
        return None;
    }
    let decided = decided(noted.as_ref(), &common, &response);
    let note = noted.and_then(Result::ok);
    let operation = note.as_ref().and_then(|note| note.operation.as_ref());
    Some(Line {
        who: Who {
            request_id: clean(note.as_ref().map_or(&common.stream_id, |note| &note.request_id)),
            container_id: note.as_ref().and_then(|note| note.container_id.clone()),
            container_ip: peer(&common),
        },
        decided: Decided { reason: clean(&decided.reason), ..decided },
        http: Http {
            method: clean(&method),
            host: clean(&request.authority),
            path: clean(&without_values(&request.path)),
            status,
            bytes_up: request.request_body_bytes,
            bytes_down: response.response_body_bytes,
            duration_ms: milliseconds(&common, event),
        },
        action: operation.map(|known| Action { operation: clean(&known.name), class: known.class }),
        push: note.as_ref().and_then(|note| note.push.clone()),
        policy_version: note.map(|note| note.policy_version),
        panicked: panicked(&common),
        origin: Origin::default(),
        ts: began(&common),
        event,
    })
}

/// GitHub's statements about its rate limits, in the answer to a request of a sandbox. `None` for every other answer:
/// only calls of GitHub's API have an account, and only an answer of the upstream's own counts.
pub fn answered(entry: &HttpAccessLogEntry) -> Option<Answered> {
    let (common, response) = (entry.common_properties.as_ref()?, entry.response.as_ref()?);
    let authz = common.metadata.as_ref()?.filter_metadata.get(AUTHZ_METADATA)?;
    let allowed = text(authz, "verdict") == Some(Decision::Allow.name());
    let account = text(authz, ACCOUNT_FIELD).filter(|_| allowed && response.response_code_details == VIA_UPSTREAM)?;
    let status = response.response_code.map_or(0, |code| code.value);
    let quoted = Quoted::read(status, |name| response.response_headers.get(name).map(String::as_str));
    let of = |container| Answered { container, account: account.to_owned(), quoted };
    peer(common).map(of).filter(|_| !quoted.is_empty())
}

/// The decision about a request. The first of these counts: a denial of the filters, a denial of the credential stage,
/// Envoy's own refusal, a permission of the filters that has a reason, the permission of the credential stage, the
/// permission of the filters. If all of them are absent, Envoy ended the request before any stage.
fn decided(
    noted: Option<&Result<Note, Unreadable>>,
    common: &AccessLogCommon,
    response: &HttpResponseProperties,
) -> Decided {
    let filters = noted.map(|noted| noted.as_ref().map_or_else(unnamed, |note| note.decided.clone()));
    // Only requests that the filters allow reach the credential stage. Envoy adds fields of its own to the metadata.
    let passed = filters.as_ref().is_some_and(|decided| decided.verdict == Decision::Allow);
    let authz = common.metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get(AUTHZ_METADATA));
    let authz = authz
        .filter(|words| passed && text(words, "verdict").is_some())
        .map(|words| Decided::from_words(|name| text(words, name)).unwrap_or_else(|error| unnamed(&error)));
    // Envoy has removed any upstream's header of this name before.
    let envoy = response.response_headers.get(RULE_HEADER).map(|name| match Rule::named(name) {
        Some(rule) => Decided::denied(rule, response.response_code_details.clone()),
        None => unnamed(format!("no rule is called {name:?}")),
    });
    let only = |decided: &Option<Decided>, verdict| decided.clone().filter(|decided| decided.verdict == verdict);
    [
        only(&filters, Decision::Deny),
        only(&authz, Decision::Deny),
        envoy,
        // A push of which bytes have passed unread, and whose end has not gone on: the ref may have moved.
        only(&filters, Decision::Allow).filter(|decided| !decided.reason.is_empty()),
        only(&authz, Decision::Allow),
        only(&filters, Decision::Allow),
    ]
    .into_iter()
    .find_map(|decided| decided)
    .unwrap_or_else(|| Decided::denied(Rule::ListenerClosed, response.response_code_details.clone()))
}

/// A denial, for a request whose decision cannot be read.
fn unnamed(why: impl Display) -> Decided {
    tracing::error!(%why, "BUG: a decision cannot be read; its audit line is named {}", Rule::ListenerUnnamed);
    Decided::denied(Rule::ListenerUnnamed, why.to_string())
}

/// The filter that panicked, and its callback.
fn panicked(common: &AccessLogCommon) -> Option<String> {
    let state = BytesValue::decode(common.filter_state_objects.get(PANIC_STATE)?.value.as_slice()).unwrap_or_default();
    Some(clean(&String::from_utf8_lossy(&state.value)))
}

/// The line of a connection: of a refused one, of one over which a filter panicked, or of one whose TLS handshake has
/// failed.
pub fn connection(entry: TcpAccessLogEntry) -> Option<Line> {
    let common = entry.common_properties.unwrap_or_default();
    let bytes = entry.connection_properties.unwrap_or_default();
    let panicked = panicked(&common);
    let line = match common.filter_state_objects.get(AUDIT_STATE) {
        Some(state) => {
            let state = BytesValue::decode(state.value.as_slice()).unwrap_or_default();
            refused(&common, bytes, Note::read(&state.value))
        }
        None if panicked.is_some() => {
            let reason = "a filter panicked, so the connection was closed";
            unasked(&common, bytes, Decided::denied(Rule::ListenerFilterFailed, reason))
        }
        None => return handshake(common, bytes),
    };
    Some(Line { panicked, ..line })
}

/// The line of a connection that was refused before its first byte.
fn refused(common: &AccessLogCommon, bytes: ConnectionProperties, noted: Result<Note, Unreadable>) -> Line {
    let (decided, note) = match noted {
        Ok(note) => (note.decided.clone(), Some(note)),
        Err(error) => (unnamed(error), None),
    };
    Line {
        who: Who {
            request_id: clean(&common.stream_id),
            container_id: note.as_ref().and_then(|note| note.container_id.clone()),
            container_ip: peer(common),
        },
        policy_version: note.map(|note| note.policy_version),
        ..unasked(common, bytes, Decided { reason: clean(&decided.reason), ..decided })
    }
}

/// The line of a failed TLS handshake. `None` for a connection that ended before or after its handshake. Also `None`
/// for a connection without TLS: its malformed request has a line.
fn handshake(common: AccessLogCommon, bytes: ConnectionProperties) -> Option<Line> {
    let flags = common.response_flags.unwrap_or_default();
    let finished = !matches!(common.custom_tags.get(HANDSHAKE_TAG).map_or("", String::as_str), "" | "-");
    if finished || flags.downstream_protocol_error {
        return None;
    }
    let failed = common.downstream_transport_failure_reason.as_str();
    let reason = if flags.no_route_found {
        "the server name is missing, or is no plain name such as api.example.com"
    } else if failed.is_empty() {
        return None;
    } else {
        failed
    };
    Some(unasked(&common, bytes, Decided::denied(Rule::ListenerHandshake, clean(reason))))
}

/// The line of a connection without a request.
fn unasked(common: &AccessLogCommon, bytes: ConnectionProperties, decided: Decided) -> Line {
    let tls = common.tls_properties.clone().unwrap_or_default();
    Line {
        ts: began(common),
        event: Event::End,
        who: Who { request_id: clean(&common.stream_id), container_id: None, container_ip: peer(common) },
        decided,
        http: Http {
            host: clean(&tls.tls_sni_hostname),
            bytes_up: bytes.received_bytes,
            bytes_down: bytes.sent_bytes,
            duration_ms: milliseconds(common, Event::End),
            ..Http::default()
        },
        action: None,
        push: None,
        policy_version: None,
        panicked: None,
        origin: Origin::default(),
    }
}

fn peer(common: &AccessLogCommon) -> Option<IpAddr> {
    let address::Address::SocketAddress(socket) = common.downstream_remote_address.as_ref()?.address.as_ref()? else {
        return None;
    };
    socket.address.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

fn began(common: &AccessLogCommon) -> Timestamp {
    let start = common.start_time.unwrap_or_default();
    Timestamp::new(start.seconds, start.nanos).unwrap_or_default()
}

fn milliseconds(common: &AccessLogCommon, event: Event) -> u64 {
    let milliseconds = match (common.duration, event) {
        (Some(lasted), _) => lasted.seconds.saturating_mul(1_000).saturating_add((lasted.nanos / 1_000_000).into()),
        // Envoy has no duration yet.
        (None, Event::Start) => i64::try_from(LONG.as_millis()).unwrap_or(i64::MAX),
        (None, Event::End) => 0,
    };
    milliseconds.try_into().unwrap_or_default()
}

/// A peer's text, safe to display: without control characters, and not longer than [`MAX_TEXT`].
fn clean(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_TEXT);
    let cut = if end < text.len() { "…" } else { "" };
    let kept = text.get(..end).unwrap_or_default();
    kept.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).chain(cut.chars()).collect()
}

/// The target with the values of its query removed, except harmless ones. The values in signed URLs are credentials.
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

fn text<'a>(fields: &'a Struct, name: &str) -> Option<&'a str> {
    match fields.fields.get(name)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use envoy_types::pb::envoy::config::core::v3::{Address, Metadata, SocketAddress};
    use envoy_types::pb::envoy::data::accesslog::v3::{HttpRequestProperties, ResponseFlags, TlsProperties};
    use envoy_types::pb::google::protobuf::{Any, UInt32Value, Value};
    use policy::github::Class;

    const ALLOWED: &str = r#"{"request_id":"7","container_id":"box","decided":{"stage":"identity","verdict":"allow","rule":"egress.host","reason":""},"policy_version":"p1"}"#;

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
        let decided = &line.decided;
        [decided.verdict.name(), decided.stage.name(), decided.rule.name()]
    }

    #[test]
    fn the_method_is_the_token_that_was_sent() {
        for method in ["GET", "PURGE", "M-SEARCH", "get"] {
            assert_eq!(http(entry(method, 200, Some(ALLOWED))).unwrap().http.method, method);
        }
        let mut without = entry("", 400, None);
        without.request.as_mut().unwrap().request_headers.clear();
        assert_eq!(http(without).unwrap().http.method, "", "Envoy understood none");
    }

    #[test]
    fn an_opened_connect_has_no_line_and_a_refused_one_has() {
        assert!(http(entry("CONNECT", 200, Some(ALLOWED))).is_none());
        assert!(http(started(entry("CONNECT", 0, Some(ALLOWED)))).is_none());
        assert_eq!(http(entry("CONNECT", 403, Some(ALLOWED))).unwrap().http.status, 403);
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
        // Envoy's own fields in the metadata are not a decision.
        assert_eq!(said(&http(with_authz(allowed(), &[("duration", "1")])).unwrap())[0], "allow");
        let unreachable = answered_by_envoy(allowed(), "upstream.unreachable");
        assert_eq!(said(&http(unreachable).unwrap()), ["deny", "upstream", "upstream.unreachable"]);
        let too_large = answered_by_envoy(entry("GET", 431, None), "limit.headers");
        assert_eq!(said(&http(too_large).unwrap()), ["deny", "listener", "limit.headers"], "as the answer says");
    }

    #[test]
    fn only_githubs_own_answers_to_the_gateways_credential_tell_a_quota() {
        let fields =
            [("stage", "credentials"), ("verdict", "allow"), ("rule", "credentials.api"), (ACCOUNT_FIELD, "token 7")];
        let headers = ["5000", "12", "1800000000", "core"];
        let with = |fields: &[(&str, &str)]| {
            let mut entry = with_authz(entry("GET", 200, Some(ALLOWED)), fields);
            let address = SocketAddress { address: "10.0.0.1".into(), ..SocketAddress::default() };
            entry.common_properties.as_mut().unwrap().downstream_remote_address =
                Some(Address { address: Some(address::Address::SocketAddress(address)) });
            let response = entry.response.as_mut().unwrap();
            let names = base::quota::HEADERS.into_iter().map(str::to_owned);
            response.response_headers = names.zip(headers.map(str::to_owned)).collect();
            entry
        };
        let told = answered(&with(&fields)).unwrap();
        assert_eq!((told.account.as_str(), told.container), ("token 7", "10.0.0.1".parse().unwrap()));
        assert_eq!(told.quoted.reading.unwrap().remaining, 12);
        assert_eq!(answered(&with(&fields[..3])), None, "a credential of another host");
        assert_eq!(answered(&with(&[])), None, "no credential");
        let mut denied = fields;
        denied[1].1 = "deny";
        assert_eq!(answered(&with(&denied)), None);
        for details in ["", "ext_authz_denied", "via_upstream_and_more"] {
            let mut entry = with(&fields);
            entry.response.as_mut().unwrap().response_code_details = details.into();
            assert_eq!(answered(&entry), None, "{details}");
        }
        let mut silent = with(&fields);
        silent.response.as_mut().unwrap().response_headers.clear();
        assert_eq!(answered(&silent), None);
    }

    #[test]
    fn a_denial_always_has_stage_and_rule() {
        let renamed = ALLOWED.replace("decided", "decision");
        for unreadable in [
            entry("GET", 403, Some("{}")),
            entry("GET", 403, Some("no json")),
            entry("GET", 200, Some(&renamed)),
            entry("GET", 200, Some(&ALLOWED.replace("egress.host", "egress.new"))),
            with_authz(entry("GET", 403, Some(ALLOWED)), &[("verdict", "deny")]),
            with_authz(entry("GET", 200, Some(ALLOWED)), &[("verdict", "perhaps")]),
            answered_by_envoy(entry("GET", 403, Some(ALLOWED)), "new.rule"),
        ] {
            let line = http(unreadable).unwrap();
            assert_eq!(said(&line), ["deny", "listener", "listener.unnamed"], "{line:?}");
            assert!(!line.decided.reason.is_empty(), "{line:?}");
        }
        for unasked in [entry("GET", 0, None), HttpAccessLogEntry::default()] {
            assert_eq!(said(&http(unasked).unwrap()), ["deny", "listener", "listener.closed"]);
        }
    }

    #[test]
    fn a_line_is_flat_and_its_fields_stand_in_order() {
        let update = policy::UpdateNote {
            name: "refs/heads/x".into(),
            old: None,
            new: Some("1".into()),
            kind: policy::push::Change::Create,
        };
        let push = policy::PushNote { repo: "o/r".into(), updates: vec![update], commits: 1, pack_bytes: 2 };
        let operation = policy::github::Operation { name: "git/receive-pack".into(), class: Class::WriteRef };
        let note = Note::read(ALLOWED.as_bytes()).unwrap().allowed(Rule::PushAllowed);
        let note = note.about(Some(&operation)).of_push(push).to_bytes();
        let line = http(entry("POST", 200, Some(std::str::from_utf8(&note).unwrap()))).unwrap();
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"ts":"1970-01-01T00:00:00Z","event":"end","request_id":"7","container_id":"box","container_ip":null,"stage":"push","verdict":"allow","rule":"push.allowed","reason":"","method":"POST","host":"","path":"","status":200,"bytes_up":0,"bytes_down":0,"duration_ms":0,"operation":"git/receive-pack","class":"write-ref","repo":"o/r","updates":[{"ref":"refs/heads/x","old":null,"new":"1","kind":"create"}],"commits":1,"pack_bytes":2,"policy_version":"p1","envoy":"","seq":0}"#
        );
        let line = http(entry("GET", 200, Some(ALLOWED))).unwrap();
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"ts":"1970-01-01T00:00:00Z","event":"end","request_id":"7","container_id":"box","container_ip":null,"stage":"identity","verdict":"allow","rule":"egress.host","reason":"","method":"GET","host":"","path":"","status":200,"bytes_up":0,"bytes_down":0,"duration_ms":0,"policy_version":"p1","envoy":"","seq":0}"#
        );
    }

    #[test]
    fn a_permission_with_a_reason_is_named_before_the_credential_s() {
        let authz = [("verdict", "allow"), ("stage", "credentials"), ("rule", "credentials.git"), ("reason", "")];
        let mut note = Note::read(ALLOWED.as_bytes()).unwrap().allowed(Rule::PushAllowed);
        let line = |note: &Note| {
            let note = note.to_bytes();
            http(with_authz(entry("POST", 0, Some(std::str::from_utf8(&note).unwrap())), &authz)).unwrap()
        };
        assert_eq!(said(&line(&note)), ["allow", "credentials", "credentials.git"]);
        note.decided.reason = "the end has not come".into();
        assert_eq!(said(&line(&note)), ["allow", "push", "push.allowed"]);
        assert_eq!(line(&note).decided.reason, "the end has not come");
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
        let line = connection(entry("TLS_error", "", none())).unwrap();
        assert_eq!(said(&line), ["deny", "listener", "listener.handshake"]);
        assert_eq!((line.http.host.as_str(), line.decided.reason.as_str()), ("a.example", "TLS_error"));
        let no_chain = ResponseFlags { no_route_found: true, ..none() };
        assert!(connection(entry("", "-", no_chain)).unwrap().decided.reason.contains("server name"));
        assert!(connection(entry("TLS_error", "3", none())).is_none(), "it was finished");
        assert!(connection(entry("", "", none())).is_none(), "it was not begun");
        let malformed = ResponseFlags { downstream_protocol_error: true, ..none() };
        assert!(connection(entry("TLS_error", "", malformed)).is_none(), "that is a request");
    }

    #[test]
    fn a_connection_over_which_a_filter_panicked_has_a_line_that_names_the_filter() {
        let state = |text: &str| {
            let value = BytesValue { value: text.as_bytes().to_vec() }.encode_to_vec();
            Any { type_url: String::new(), value }
        };
        let panic = (PANIC_STATE.to_owned(), state("connections on_new_connection"));
        let refused = ALLOWED.replace("\"allow\"", "\"deny\"").replace("egress.host", "limit.tcp");
        let note = (AUDIT_STATE.to_owned(), state(&refused));
        for (states, rule, place) in [
            (vec![panic.clone()], "listener.filter-failed", Some("connections on_new_connection")),
            (vec![note.clone(), panic], "limit.tcp", Some("connections on_new_connection")),
            (vec![note], "limit.tcp", None),
        ] {
            let address = SocketAddress { address: "10.0.0.1".into(), ..SocketAddress::default() };
            let line = connection(TcpAccessLogEntry {
                common_properties: Some(AccessLogCommon {
                    filter_state_objects: states.into_iter().collect(),
                    downstream_remote_address: Some(Address {
                        address: Some(address::Address::SocketAddress(address)),
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            })
            .unwrap();
            assert_eq!((line.decided.verdict, line.decided.rule.name()), (Decision::Deny, rule));
            assert_eq!(line.panicked.as_deref(), place, "{rule}");
            assert_eq!(line.who.container_ip, Some("10.0.0.1".parse().unwrap()));
        }
    }

    #[test]
    fn a_peers_text_is_short_and_without_control_characters() {
        let mut long = entry("GET", 200, Some(ALLOWED));
        let request = long.request.as_mut().unwrap();
        request.path = format!("/{}", "é".repeat(60_000));
        request.authority = "a\u{1b}[31m\u{9b}\r\n".into();
        let line = http(long).unwrap();
        assert!(line.http.path.len() <= MAX_TEXT + '…'.len_utf8() && line.http.path.ends_with('…'));
        assert_eq!(line.http.host, "a\u{fffd}[31m\u{fffd}\u{fffd}\u{fffd}");
    }

    #[test]
    fn values_of_a_query_are_not_kept() {
        assert_eq!(without_values("/o/r/info/refs?service=git-upload-pack"), "/o/r/info/refs?service=git-upload-pack");
        assert_eq!(without_values("/zip/main?token=SECRET&page=2&sig=a=b"), "/zip/main?token=…&page=2&sig=…");
        assert_eq!(without_values("/zip/main"), "/zip/main");
    }
}
