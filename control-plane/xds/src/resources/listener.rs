//! LDS: the explicit proxy's listener and the internal listener behind it, and the chain of filters that both run.
//!
//! 1. listener: `proxy` accepts and counts the connection (wasm), a CONNECT is poured into `tunnel`, which ends TLS with
//!    a leaf minted for the name
//! 2. identity: wasm, who is speaking and which host
//! 3. github: wasm, what a request to one of GitHub's hosts does
//! 4. credentials: ext_authz adds the credential, where the stages before have left their marks ([`policy::mark`]); the
//!    wasm filter model reads what a model request asks of its provider; the wasm filter scrub, behind the forward proxy,
//!    keeps the credential out of the response
//! 5. push: wasm, what a push does. It stands last before the router, see [`http`]
//! 6. upstream: dynamic forward proxy and router
//!
//! Nothing here depends on the policy or the registry: after start, no listener changes, so no connection drains.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLog, AccessLogFilter, ComparisonFilter, DurationFilter, ExtensionFilter, LogTypeFilter, OrFilter, access_log,
    access_log_filter::FilterSpecifier, comparison_filter, extension_filter,
};
use envoy_types::pb::envoy::config::core::v3::{
    ApiVersion, ExtensionConfigSource, GrpcService, HeaderValue, Http1ProtocolOptions, Http2ProtocolOptions,
    HttpProtocolOptions as CommonOptions, RuntimeUInt32, SchemeHeaderTransformation, TrafficDirection,
    TypedExtensionConfig, http_protocol_options::HeadersWithUnderscoresAction, scheme_header_transformation,
};
use envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChain, Listener, ListenerFilter, filter, listener, listener_filter,
};
use envoy_types::pb::envoy::data::accesslog::v3::AccessLogType;
use envoy_types::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
};
use envoy_types::pb::envoy::extensions::filters::http::dynamic_forward_proxy::v3::{
    FilterConfig as ForwardProxyConfig, filter_config,
};
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{ExtAuthz, ext_authz};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::cert_mappers::sni::v3::Sni;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::cert_selectors::on_demand_secret::v3::Config as OnDemandSecret;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, downstream_tls_context::SessionTicketKeysType,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{ListStringMatcher, StringMatcher, string_matcher};
use envoy_types::pb::envoy::r#type::tracing::v3::{CustomTag, custom_tag};
use envoy_types::pb::envoy::r#type::v3::{HttpStatus, StatusCode};
use envoy_types::util::pack_any;
use policy::{RULE_HEADER, mark};
use prost::{Message, Name};

use super::{
    CLEARTEXT, CONNECTION_BUFFER, CONNECTIONS, CREDENTIALS, GITHUB, IDENTITY, MODEL, PROXIED, PROXY, PUSH, RESOLVER,
    SCRUB, TUNNEL, UPSTREAM, UPSTREAM_PROXY, ads, chain_match, cluster, control_plane, duration, flag, local_reply,
    number, tcp, transport_socket,
};
use base::contract::{AUDIT_STATE, GITHUB_MARK, HANDSHAKE_TAG, IDENTITY_MARK, LONG, PANIC_STATE};
use base::quota;

/// The idle timeout of a stream, in both directions. Model APIs may take minutes before the first byte.
const STREAM_IDLE: Duration = Duration::from_secs(3600);

/// The timeout for a request's headers.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(30);

/// How long Envoy waits for the peer of a connection that it closes: as long as the peer reads none of the remaining
/// bytes, and then again until the peer closes its side. A stream over HTTP/1.1 ends with its connection, and has to
/// end within a second after its record, so the time is short. A client that reads nothing for longer loses the end of
/// the response after which the connection closes.
const CLOSE: Duration = Duration::from_millis(500);

/// The idle timeout of a connection to the proxy between two requests. An open tunnel counts as a request. The filter
/// of connections has a shorter timeout for the first request.
const SILENCE: Duration = Duration::from_secs(60);

/// The timeout until Envoy knows whether a client speaks TLS, and the timeout for the handshake, which waits for the
/// leaf.
const DETECTION_TIMEOUT: Duration = Duration::from_secs(15);

/// The timeout of the credential stage. Then the request gets 503.
const AUTHZ_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest request headers, in KiB. Larger ones get 431. This is Envoy's default, made explicit.
const HEADERS_KIB: u32 = 60;

/// The most fields of a request's headers. More get 431. This is Envoy's default, made explicit.
const HEADERS: u32 = 100;

/// The most streams of a sandbox's HTTP/2 connection at a time. Clients learn it from Envoy's settings. A sandbox with
/// more requests under way opens another connection.
const H2_STREAMS: u32 = 128;

/// The most frames of all kinds that wait for a sandbox that doesn't read. Then Envoy closes the connection. This and
/// the next four are Envoy's defaults, made explicit.
const H2_FRAMES: u32 = 10_000;

/// The most waiting frames that answer the sandbox's own: PING, SETTINGS, RST_STREAM.
const H2_CONTROL_FRAMES: u32 = 1_000;

/// The most frames in a row without payload and without an end of stream.
const H2_EMPTY_FRAMES: u32 = 1;

/// The most PRIORITY frames for each stream.
const H2_PRIORITY_FRAMES: u32 = 100;

/// The most WINDOW_UPDATE frames for each DATA frame that Envoy has sent.
const H2_WINDOW_UPDATES: u32 = 10;

/// How long Envoy buffers a finished request before it sends it to the audit.
pub const AUDIT_FLUSH: Duration = Duration::from_millis(100);

/// A secret name that no client can request, so that a handshake without a server name gets no certificate.
const NO_SERVER_NAME: &str = "no-server-name";

/// The explicit proxy's listener: CONNECT and absolute-form requests in cleartext.
pub fn proxy(address: SocketAddr, resolver: SocketAddr) -> Listener {
    let manager = HttpConnectionManager {
        upgrade_configs: vec![upgrade("CONNECT", false), upgrade("websocket", false)],
        ..http(PROXY, resolver)
    };
    Listener {
        address: Some(tcp(address)),
        traffic_direction: TrafficDirection::Inbound.into(),
        filter_chains: vec![FilterChain {
            filters: vec![discovered_connection_filter(CONNECTIONS), network_filter(manager)],
            ..Default::default()
        }],
        access_log: vec![refused_log()],
        ..base(PROXY)
    }
}

/// The internal listener in which every tunnel ends. A TLS connection gets a leaf for its server name. All other bytes
/// are parsed as HTTP.
pub fn tunnel(resolver: SocketAddr) -> Listener {
    let selector = OnDemandSecret {
        config_source: Some(ads()),
        certificate_mapper: Some(TypedExtensionConfig {
            name: "sni".into(),
            typed_config: Some(pack_any(Sni { default_value: NO_SERVER_NAME.into() })),
        }),
        ..Default::default()
    };
    let tls = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            custom_tls_certificate_selector: Some(TypedExtensionConfig {
                name: "on-demand-secret".into(),
                typed_config: Some(pack_any(selector)),
            }),
            alpn_protocols: vec!["h2".into(), "http/1.1".into()],
            ..Default::default()
        }),
        // The selector does not start with either kind of session resumption.
        disable_stateful_session_resumption: true,
        session_ticket_keys_type: Some(SessionTicketKeysType::DisableStatelessSessionResumption(true)),
        ..Default::default()
    };
    let encrypted = FilterChain {
        name: "tls".into(),
        transport_socket: Some(transport_socket("envoy.transport_sockets.tls", tls)),
        transport_socket_connect_timeout: Some(duration(DETECTION_TIMEOUT)),
        filters: vec![network_filter(http(TUNNEL, resolver))],
        ..Default::default()
    };
    let cleartext = FilterChain {
        name: "http".into(),
        filters: vec![network_filter(http(CLEARTEXT, resolver))],
        ..Default::default()
    };
    Listener {
        traffic_direction: TrafficDirection::Outbound.into(),
        listener_specifier: Some(listener::ListenerSpecifier::InternalListener(listener::InternalListenerConfig {})),
        listener_filters: vec![
            listener_filter("envoy.filters.listener.proxy_protocol", ProxyProtocol::default()),
            listener_filter("envoy.filters.listener.tls_inspector", TlsInspector::default()),
        ],
        listener_filters_timeout: Some(duration(DETECTION_TIMEOUT)),
        filter_chain_matcher: Some(chain_match::by_protocol(&encrypted.name, &cleartext.name)),
        filter_chains: vec![encrypted, cleartext],
        access_log: vec![handshake_log()],
        ..base(TUNNEL)
    }
}

/// The internal listener of the hosts that the operator's proxy leads to. Each connection is one that Envoy itself opens
/// to such a host, and begins with the handshake. The proxy gets a CONNECT to the name in the handshake, and so resolves it.
pub fn proxied() -> Listener {
    let tunnel = TcpProxy {
        stat_prefix: PROXIED.into(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(UPSTREAM_PROXY.into())),
        tunneling_config: Some(tcp_proxy::TunnelingConfig {
            hostname: "%REQUESTED_SERVER_NAME%:443".into(),
            ..Default::default()
        }),
        idle_timeout: Some(duration(STREAM_IDLE)),
        ..Default::default()
    };
    let filter = Filter { name: "tcp".into(), config_type: Some(filter::ConfigType::TypedConfig(pack_any(tunnel))) };
    Listener {
        traffic_direction: TrafficDirection::Outbound.into(),
        listener_specifier: Some(listener::ListenerSpecifier::InternalListener(listener::InternalListenerConfig {})),
        listener_filters: vec![listener_filter("envoy.filters.listener.tls_inspector", TlsInspector::default())],
        listener_filters_timeout: Some(duration(DETECTION_TIMEOUT)),
        filter_chains: vec![FilterChain { filters: vec![filter], ..Default::default() }],
        ..base(PROXIED)
    }
}

/// The listener for Envoy's own resolver: a loopback port that is forwarded to the control plane's Unix socket. c-ares
/// supports only TCP and UDP, and there is no network between Envoy and the control plane.
pub fn resolver(address: SocketAddr) -> Listener {
    let onward = TcpProxy {
        stat_prefix: RESOLVER.into(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(RESOLVER.into())),
        ..Default::default()
    };
    let filter = Filter { name: "tcp".into(), config_type: Some(filter::ConfigType::TypedConfig(pack_any(onward))) };
    Listener {
        address: Some(tcp(address)),
        filter_chains: vec![FilterChain { filters: vec![filter], ..Default::default() }],
        // Names are looked up under any number of sandboxes.
        ignore_global_conn_limit: true,
        ..base(RESOLVER)
    }
}

fn base(name: &str) -> Listener {
    Listener {
        name: name.into(),
        stat_prefix: name.into(),
        per_connection_buffer_limit_bytes: number(CONNECTION_BUFFER),
        ..Default::default()
    }
}

/// The HTTP connection manager. The peer's address is the only identity. The judged request is the request that is
/// sent, so nothing is normalised.
fn http(routes: &str, resolver: SocketAddr) -> HttpConnectionManager {
    use http_connection_manager::{PathWithEscapedSlashesAction, RouteSpecifier, ServerHeaderTransformation};
    HttpConnectionManager {
        stat_prefix: routes.into(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: routes.into(),
        })),
        http_filters: vec![
            discovered(IDENTITY),
            discovered(GITHUB),
            http_filter(CREDENTIALS, credentials()),
            // Before the forward proxy: a short request is judged before its host is resolved. It never pauses what it has
            // once let go on, so that it may stand before filters that pause.
            discovered(MODEL),
            http_filter(UPSTREAM, forward_proxy(resolver)),
            discovered(SCRUB),
            // All filters of a stream share one buffer, and a filter that continues sends everything in it. The push
            // filter can hold a part of a body only if no filter behind it ever pauses.
            discovered(PUSH),
            http_filter("router", Router { suppress_envoy_headers: true, ..Default::default() }),
        ],
        http_protocol_options: Some(Http1ProtocolOptions {
            allow_absolute_url: flag(true),
            // Python up to 3.11 opens tunnels with HTTP/1.0.
            accept_http_10: true,
            ..Default::default()
        }),
        http2_protocol_options: Some(h2()),
        common_http_protocol_options: Some(CommonOptions {
            // CGI and its successors read `X_Real_IP` as `X-Real-IP`, which the identity filter removes.
            headers_with_underscores_action: HeadersWithUnderscoresAction::DropHeader.into(),
            idle_timeout: (routes == PROXY).then_some(SILENCE).map(duration),
            max_headers_count: number(HEADERS),
            ..Default::default()
        }),
        // Otherwise Envoy would take the peer's address from X-Forwarded-For.
        use_remote_address: flag(true),
        skip_xff_append: true,
        internal_address_config: Some(http_connection_manager::InternalAddressConfig::default()),
        normalize_path: flag(false),
        merge_slashes: false,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::KeepUnchanged.into(),
        strip_port_mode: None,
        strip_trailing_host_dot: true,
        // Upstreams are reached over TLS, whatever the sandbox uses.
        scheme_header_transformation: Some(SchemeHeaderTransformation {
            transformation: Some(scheme_header_transformation::Transformation::SchemeToOverwrite("https".into())),
            ..Default::default()
        }),
        server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
        // The routes enable upgrades. If they were enabled here, they would pass on every route.
        upgrade_configs: vec![upgrade("websocket", false)],
        local_reply_config: Some(local_reply::named()),
        max_request_headers_kb: number(HEADERS_KIB),
        stream_idle_timeout: Some(duration(STREAM_IDLE)),
        request_headers_timeout: Some(duration(HEADERS_TIMEOUT)),
        delayed_close_timeout: Some(duration(CLOSE)),
        access_log: vec![audit_log()],
        access_log_options: Some(http_connection_manager::HcmAccessLogOptions {
            access_log_flush_interval: Some(duration(LONG)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// HTTP/2 options towards sandboxes. The bootstrap limits streams that a client resets soon, and requests in one read.
fn h2() -> Http2ProtocolOptions {
    Http2ProtocolOptions {
        max_concurrent_streams: number(H2_STREAMS),
        max_outbound_frames: number(H2_FRAMES),
        max_outbound_control_frames: number(H2_CONTROL_FRAMES),
        max_consecutive_inbound_frames_with_empty_payload: number(H2_EMPTY_FRAMES),
        max_inbound_priority_frames_per_stream: number(H2_PRIORITY_FRAMES),
        max_inbound_window_update_frames_per_data_frame_sent: number(H2_WINDOW_UPDATES),
        ..cluster::h2()
    }
}

fn upgrade(kind: &str, enabled: bool) -> http_connection_manager::UpgradeConfig {
    http_connection_manager::UpgradeConfig { upgrade_type: kind.into(), enabled: flag(enabled), ..Default::default() }
}

/// ext_authz receives only the headers that it needs. The values of all other headers stay in Envoy.
fn credentials() -> ExtAuthz {
    let by_name = |name: &str| StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::Exact(name.into())),
        ..Default::default()
    };
    // The marks of the earlier stages. They are not among the headers, which the client writes.
    let metadata = |key: &str, property: &str| HeaderValue {
        key: key.into(),
        value: format!("%FILTER_STATE(wasm.{property}:PLAIN)%"),
        ..Default::default()
    };
    let service = GrpcService {
        initial_metadata: vec![metadata(IDENTITY_MARK, mark::IDENTITY), metadata(GITHUB_MARK, mark::GITHUB)],
        ..control_plane(AUTHZ_TIMEOUT)
    };
    ExtAuthz {
        services: Some(ext_authz::Services::GrpcService(service)),
        transport_api_version: ApiVersion::V3.into(),
        failure_mode_allow: false,
        status_on_error: Some(HttpStatus { code: StatusCode::ServiceUnavailable.into() }),
        allowed_headers: Some(ListStringMatcher { patterns: ["x-request-id", "upgrade"].map(by_name).to_vec() }),
        validate_mutations: true,
        ..Default::default()
    }
}

fn forward_proxy(resolver: SocketAddr) -> ForwardProxyConfig {
    ForwardProxyConfig {
        implementation_specifier: Some(filter_config::ImplementationSpecifier::DnsCacheConfig(cluster::dns_cache(
            resolver,
        ))),
        ..Default::default()
    }
}

/// The audit log: each request when it has ended, and a long request once before.
fn audit_log() -> AccessLog {
    let config = HttpGrpcAccessLogConfig {
        common_config: Some(CommonGrpcAccessLogConfig {
            filter_state_objects_to_log: vec![AUDIT_STATE.into(), PANIC_STATE.into()],
            ..log_service("audit")
        }),
        // The entry's own field supports only the usual methods.
        additional_request_headers_to_log: vec![":method".into()],
        // Of the other headers, the audit reads those of GitHub's answers to the gateway's token, and no others.
        additional_response_headers_to_log: std::iter::once(RULE_HEADER)
            .chain(quota::HEADERS)
            .map(str::to_owned)
            .collect(),
        ..Default::default()
    };
    let of = |specifier| AccessLogFilter { filter_specifier: Some(specifier) };
    let ended = of(FilterSpecifier::LogTypeFilter(LogTypeFilter {
        types: vec![AccessLogType::DownstreamPeriodic.into()],
        exclude: true,
    }));
    // A running stream is logged after LONG, and then repeatedly. Only the first entry is wanted.
    let first = of(FilterSpecifier::DurationFilter(DurationFilter {
        comparison: Some(ComparisonFilter {
            op: comparison_filter::Op::Le.into(),
            value: Some(RuntimeUInt32 {
                default_value: u32::try_from(LONG.as_millis()).unwrap_or(u32::MAX).saturating_mul(3) / 2,
                runtime_key: "sallyport.audit.start".into(),
            }),
        }),
    }));
    AccessLog {
        name: "envoy.access_loggers.http_grpc".into(),
        filter: Some(of(FilterSpecifier::OrFilter(OrFilter { filters: vec![ended, first] }))),
        config_type: Some(access_log::ConfigType::TypedConfig(pack_any(config))),
    }
}

/// The log of connections that the filter of connections has closed, as far as it has left a note, and of those over
/// which it has panicked.
fn refused_log() -> AccessLog {
    let states = [AUDIT_STATE, PANIC_STATE];
    let config = TcpGrpcAccessLogConfig {
        common_config: Some(CommonGrpcAccessLogConfig {
            filter_state_objects_to_log: states.map(str::to_owned).to_vec(),
            ..log_service("connections")
        }),
    };
    // A comparison fails for a connection without that state. In CEL, `||` is true if one side is true and the other side
    // fails. Where both fail, so does the expression, and the connection is not logged. Requests have their own state.
    tcp_log(config, states.map(|state| format!("size(filter_state['{state}']) > 0")).join(" || "))
}

/// The log of connections without an HTTP request. The audit selects those that began a handshake. The tag is empty if
/// no handshake was completed.
fn handshake_log() -> AccessLog {
    let finished = CustomTag {
        tag: HANDSHAKE_TAG.into(),
        r#type: Some(custom_tag::Type::Value("%COMMON_DURATION(DS_CX_BEG:DS_HS_END:ms)%".into())),
    };
    let config = TcpGrpcAccessLogConfig {
        common_config: Some(CommonGrpcAccessLogConfig { custom_tags: vec![finished], ..log_service("handshakes") }),
    };
    tcp_log(config, "!has(request.protocol)".into())
}

/// The log of the connections for which `expression` is true.
fn tcp_log(config: TcpGrpcAccessLogConfig, expression: String) -> AccessLog {
    let selected = ExpressionFilter { expression, ..Default::default() };
    AccessLog {
        name: "envoy.access_loggers.tcp_grpc".into(),
        filter: Some(AccessLogFilter {
            filter_specifier: Some(FilterSpecifier::ExtensionFilter(ExtensionFilter {
                name: "cel".into(),
                config_type: Some(extension_filter::ConfigType::TypedConfig(pack_any(selected))),
            })),
        }),
        config_type: Some(access_log::ConfigType::TypedConfig(pack_any(config))),
    }
}

fn log_service(name: &str) -> CommonGrpcAccessLogConfig {
    CommonGrpcAccessLogConfig {
        log_name: name.into(),
        grpc_service: Some(control_plane(AUTHZ_TIMEOUT)),
        transport_api_version: ApiVersion::V3.into(),
        buffer_flush_interval: Some(duration(AUDIT_FLUSH)),
        ..Default::default()
    }
}

/// A filter of connections whose code comes from ECDS. The listener waits for the code; without it Envoy closes every
/// connection.
fn discovered_connection_filter(name: &str) -> Filter {
    let source = ExtensionConfigSource {
        config_source: Some(ads()),
        type_urls: vec!["type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm".into()],
        ..Default::default()
    };
    Filter { name: name.into(), config_type: Some(filter::ConfigType::ConfigDiscovery(source)) }
}

/// A filter whose code comes from ECDS. The listener waits for the code; without it no request is served.
fn discovered(name: &str) -> HttpFilter {
    let source = ExtensionConfigSource {
        config_source: Some(ads()),
        type_urls: vec!["type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm".into()],
        ..Default::default()
    };
    HttpFilter {
        name: name.into(),
        config_type: Some(http_filter::ConfigType::ConfigDiscovery(source)),
        ..Default::default()
    }
}

fn http_filter<T: Message + Name>(name: &str, config: T) -> HttpFilter {
    HttpFilter {
        name: name.into(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(config))),
        ..Default::default()
    }
}

fn network_filter(manager: HttpConnectionManager) -> Filter {
    Filter { name: "http".into(), config_type: Some(filter::ConfigType::TypedConfig(pack_any(manager))) }
}

fn listener_filter<T: Message + Name>(name: &str, config: T) -> ListenerFilter {
    ListenerFilter {
        name: name.into(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(pack_any(config))),
        ..Default::default()
    }
}
