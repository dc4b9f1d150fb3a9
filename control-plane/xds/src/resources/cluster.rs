//! CDS: the destinations of requests. A dynamic forward proxy for all allowed hosts, a pair of clusters for each pinned
//! host, a pair for the hosts behind the operator's proxy, and the cluster that leads from a CONNECT into the internal
//! listener.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster, circuit_breakers::Thresholds, cluster, cluster::RefreshRate,
};
use envoy_types::pb::envoy::config::core::v3::{
    Address, DnsResolverOptions, EnvoyInternalAddress, Http1ProtocolOptions, Http2ProtocolOptions,
    HttpProtocolOptions as CommonOptions, Pipe, ProxyProtocolConfig, TransportSocket, TypedExtensionConfig,
    UpstreamHttpProtocolOptions, address, envoy_internal_address, proxy_protocol_config,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use envoy_types::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3::{ClusterConfig, cluster_config};
use envoy_types::pb::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use envoy_types::pb::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use envoy_types::pb::envoy::extensions::transport_sockets::internal_upstream::v3::InternalUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher, UpstreamTlsContext, common_tls_context,
    subject_alt_name_matcher::SanType,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions, http_protocol_options as upstream_options,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{AddressMatcher, StringMatcher, string_matcher};
use envoy_types::pb::google::protobuf::UInt64Value;
use envoy_types::pb::xds::core::v3::CidrRange;
use envoy_types::util::pack_any;
use policy::HostName;

use super::{
    CONNECTION_BUFFER, H2_CONNECTION_WINDOW, H2_STREAM_WINDOW, PROXIED, RESOLVER, TUNNEL, UPSTREAM, UPSTREAM_CLEARTEXT,
    UPSTREAM_PROXY, duration, inline, number, socket, tcp, transport_socket,
};
use outbound::dns::public::CLOSED;
use outbound::upstreams::{Proxy, Upstream};

/// The timeout for a TCP connection to an upstream.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an unused connection to an upstream is kept: less than servers keep one (AWS's load balancers 60 s, nginx
/// 75 s), so that seldom a request meets the server's end of the connection.
const IDLE: Duration = Duration::from_secs(50);

/// The most streams of a connection to an upstream. Servers allow 100 and more; further requests open a connection.
const UPSTREAM_STREAMS: u32 = 100;

/// The most header fields of a response. Envoy's own limit of 100 is below what some servers send.
const RESPONSE_FIELDS: u32 = 1_000;

/// The most connections, and the most requests, to all upstreams of a cluster together. A protection against
/// exhaustion, far above the load of one Envoy.
const CLUSTER_LIMIT: u32 = 16_384;

/// The most names in the DNS cache. The allow list limits them long before.
const DNS_NAMES: u32 = 4_096;

/// The control plane's socket for DNS, as Envoy finds it: relative to the state directory, like the bootstrap's.
pub const DNS_SOCKET: &str = "run/dns.sock";

/// The timeout of a query by Envoy's resolver: longer than the control plane takes for one (dns/nameservers.rs).
const DNS_QUERY: Duration = Duration::from_secs(5);
/// The timeout of a lookup of both kinds of address.
const DNS_LOOKUP: Duration = Duration::from_secs(6);
/// The shortest time after which a name in use is resolved again. Otherwise its TTL decides.
const DNS_REFRESH: Duration = Duration::from_secs(5);
/// The first and the longest pause before a name is resolved again that could not be resolved. The pause doubles.
const DNS_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// The time after which an unused name is dropped from the cache.
const DNS_UNUSED: Duration = Duration::from_secs(300);

/// The versions of HTTP that a cluster offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Versions {
    /// The version that the upstream selects by ALPN.
    Negotiated,
    /// HTTP/1.1, for WebSockets.
    Http1,
}

/// The way to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way<'a> {
    /// To an address that its name resolves to.
    Resolved,
    /// To the operator's address for this host.
    Pinned(&'a HostName),
    /// By a tunnel of the operator's proxy.
    Proxied,
}

/// The name of the cluster for a host.
pub fn name(way: Way<'_>) -> String {
    match way {
        Way::Resolved => UPSTREAM.to_owned(),
        Way::Pinned(host) => format!("{UPSTREAM}:{host}"),
        Way::Proxied => PROXIED.to_owned(),
    }
}

/// The name of the corresponding cluster that speaks only HTTP/1.1.
pub fn http1_name(way: Way<'_>) -> String {
    format!("{}:http1", name(way))
}

/// The clusters of a pinned host, which is verified against its own CA.
pub fn pinned(host: &HostName, upstream: &Upstream) -> [Cluster; 2] {
    let san = SubjectAltNameMatcher {
        san_type: SanType::Dns.into(),
        matcher: Some(StringMatcher {
            match_pattern: Some(string_matcher::MatchPattern::Exact(host.to_string())),
            ..Default::default()
        }),
        ..Default::default()
    };
    let tls = UpstreamTlsContext {
        sni: host.to_string(),
        common_tls_context: Some(validated_by(&upstream.ca_pem, vec![san])),
        ..Default::default()
    };
    let cluster = |name: String, versions| Cluster {
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::StrictDns.into())),
        load_assignment: Some(one_endpoint(&name, socket(&upstream.address, upstream.port))),
        transport_socket: Some(transport_socket("envoy.transport_sockets.tls", tls.clone())),
        typed_extension_protocol_options: http_options(versions, None),
        ..base(name)
    };
    [cluster(name(Way::Pinned(host)), Versions::Negotiated), cluster(http1_name(Way::Pinned(host)), Versions::Http1)]
}

/// The clusters of all other allowed hosts, which are resolved by name: two with TLS, verified against `roots_pem`, and
/// one without TLS.
pub fn dynamic_forward_proxy(roots_pem: &str, resolver: SocketAddr) -> [Cluster; 3] {
    let encrypted = || Some(verified(roots_pem));
    // Without TLS there is no name to verify; Envoy requires an explicit option for that.
    let cluster = |name: String, transport_socket: Option<TransportSocket>, options| Cluster {
        lb_policy: cluster::LbPolicy::ClusterProvided.into(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::ClusterType(cluster::CustomClusterType {
            name: "envoy.clusters.dynamic_forward_proxy".into(),
            typed_config: Some(pack_any(ClusterConfig {
                cluster_implementation_specifier: Some(cluster_config::ClusterImplementationSpecifier::DnsCacheConfig(
                    dns_cache(resolver),
                )),
                allow_insecure_cluster_options: transport_socket.is_none(),
                ..Default::default()
            })),
        })),
        transport_socket,
        typed_extension_protocol_options: options,
        ..base(name)
    };
    [
        cluster(name(Way::Resolved), encrypted(), http_options(Versions::Negotiated, follow_authority())),
        cluster(http1_name(Way::Resolved), encrypted(), http_options(Versions::Http1, follow_authority())),
        cluster(UPSTREAM_CLEARTEXT.into(), None, http_options(Versions::Http1, None)),
    ]
}

/// The clusters of the hosts that the operator's proxy leads to. Their one endpoint is the internal listener, which opens
/// a tunnel for each connection by the name in its handshake ([`super::listener::proxied`]). TLS is verified for the name,
/// within the tunnel. Connections with other names are never shared.
pub fn proxied(roots_pem: &str) -> [Cluster; 2] {
    let cluster = |name: String, versions| Cluster {
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Static.into())),
        load_assignment: Some(one_endpoint(&name, internal(PROXIED))),
        transport_socket: Some(verified(roots_pem)),
        typed_extension_protocol_options: http_options(versions, follow_authority()),
        ..base(name)
    };
    [cluster(name(Way::Proxied), Versions::Negotiated), cluster(http1_name(Way::Proxied), Versions::Http1)]
}

/// The cluster of the operator's proxy.
pub fn upstream_proxy(proxy: &Proxy) -> Cluster {
    Cluster {
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::StrictDns.into())),
        load_assignment: Some(one_endpoint(UPSTREAM_PROXY, socket(&proxy.address, proxy.port))),
        ..base(UPSTREAM_PROXY.into())
    }
}

/// TLS with a certificate for the name of the request, verified against `roots_pem`.
fn verified(roots_pem: &str) -> TransportSocket {
    let tls =
        UpstreamTlsContext { common_tls_context: Some(validated_by(roots_pem, Vec::new())), ..Default::default() };
    transport_socket("envoy.transport_sockets.tls", tls)
}

/// The server name of a handshake, and the name that its certificate must have, are those of the request.
fn follow_authority() -> Option<UpstreamHttpProtocolOptions> {
    Some(UpstreamHttpProtocolOptions { auto_sni: true, auto_san_validation: true, ..Default::default() })
}

/// The address of an internal listener, which only Envoy can reach.
fn internal(listener: &str) -> Address {
    Address {
        address: Some(address::Address::EnvoyInternalAddress(EnvoyInternalAddress {
            address_name_specifier: Some(envoy_internal_address::AddressNameSpecifier::ServerListenerName(
                listener.into(),
            )),
            ..Default::default()
        })),
    }
}

/// The DNS cache. The filter and the clusters of the dynamic forward proxy share it by its name.
///
/// Envoy queries only the control plane, at `resolver`. But Envoy resolves some names itself, for example those in its
/// hosts file, so addresses that are not public are dropped again from its results.
pub fn dns_cache(resolver: SocketAddr) -> DnsCacheConfig {
    let asked = CaresDnsResolverConfig {
        resolvers: vec![tcp(resolver)],
        filter_unroutable_families: true,
        dns_resolver_options: Some(DnsResolverOptions {
            use_tcp_for_dns_lookups: true,
            no_default_search_domain: true,
        }),
        query_timeout_seconds: Some(UInt64Value { value: DNS_QUERY.as_secs() }),
        query_tries: number(2),
        ..Default::default()
    };
    let closed = CLOSED
        .iter()
        .map(|range| CidrRange { address_prefix: range.first.to_string(), prefix_len: number(range.length.into()) });
    DnsCacheConfig {
        name: UPSTREAM.into(),
        dns_lookup_family: cluster::DnsLookupFamily::All.into(),
        max_hosts: number(DNS_NAMES),
        dns_min_refresh_rate: Some(duration(DNS_REFRESH)),
        host_ttl: Some(duration(DNS_UNUSED)),
        dns_failure_refresh_rate: Some(RefreshRate {
            base_interval: Some(duration(DNS_RETRY.0)),
            max_interval: Some(duration(DNS_RETRY.1)),
        }),
        dns_query_timeout: Some(duration(DNS_LOOKUP)),
        typed_dns_resolver_config: Some(TypedExtensionConfig {
            name: "envoy.network.dns_resolver.cares".into(),
            typed_config: Some(pack_any(asked)),
        }),
        resolved_address_filter: Some(AddressMatcher { ranges: closed.collect(), invert_match: false }),
        ..Default::default()
    }
}

/// The cluster from an opened CONNECT into the internal listener. The PROXY header carries the sandbox's address. Only
/// Envoy can reach an internal listener, so the header is trusted.
pub fn tunnel() -> Cluster {
    let inside = InternalUpstreamTransport {
        transport_socket: Some(transport_socket("envoy.transport_sockets.raw_buffer", RawBuffer {})),
        ..Default::default()
    };
    let proxy_header = ProxyProtocolUpstreamTransport {
        config: Some(ProxyProtocolConfig { version: proxy_protocol_config::Version::V2.into(), ..Default::default() }),
        transport_socket: Some(transport_socket("envoy.transport_sockets.internal_upstream", inside)),
        ..Default::default()
    };
    Cluster {
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Static.into())),
        load_assignment: Some(one_endpoint(TUNNEL, internal(TUNNEL))),
        transport_socket: Some(transport_socket("envoy.transport_sockets.upstream_proxy_protocol", proxy_header)),
        ..base(TUNNEL.into())
    }
}

/// The cluster from the resolver's listener to this process.
pub fn resolver() -> Cluster {
    let socket = Pipe { path: DNS_SOCKET.into(), ..Default::default() };
    Cluster {
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Static.into())),
        load_assignment: Some(one_endpoint(RESOLVER, Address { address: Some(address::Address::Pipe(socket)) })),
        ..base(RESOLVER.into())
    }
}

/// Limits the connections of `cluster` to `most`, so that its upstreams don't use up Envoy's files. Beyond the limit a
/// worker has one connection to each upstream; further requests wait for a connection.
pub fn limit(cluster: &mut Cluster, most: u32) {
    for thresholds in cluster.circuit_breakers.iter_mut().flat_map(|breakers| &mut breakers.thresholds) {
        thresholds.max_connections = number(CLUSTER_LIMIT.min(most));
    }
}

fn base(name: String) -> Cluster {
    Cluster {
        name,
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        per_connection_buffer_limit_bytes: number(CONNECTION_BUFFER),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![Thresholds {
                max_connections: number(CLUSTER_LIMIT),
                max_pending_requests: number(CLUSTER_LIMIT),
                max_requests: number(CLUSTER_LIMIT),
                max_retries: number(CLUSTER_LIMIT),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn one_endpoint(cluster: &str, address: Address) -> ClusterLoadAssignment {
    let endpoint = LbEndpoint {
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(Endpoint {
            address: Some(address),
            ..Default::default()
        })),
        ..Default::default()
    };
    ClusterLoadAssignment {
        cluster_name: cluster.into(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() }],
        ..Default::default()
    }
}

fn validated_by(ca_pem: &str, names: Vec<SubjectAltNameMatcher>) -> CommonTlsContext {
    let validation = CertificateValidationContext {
        trusted_ca: Some(inline(ca_pem)),
        match_typed_subject_alt_names: names,
        ..Default::default()
    };
    CommonTlsContext {
        validation_context_type: Some(common_tls_context::ValidationContextType::ValidationContext(validation)),
        ..Default::default()
    }
}

fn http_options(
    versions: Versions,
    follow_authority: Option<UpstreamHttpProtocolOptions>,
) -> HashMap<String, envoy_types::pb::google::protobuf::Any> {
    use upstream_options::{AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config};
    let versions = match versions {
        Versions::Negotiated => UpstreamProtocolOptions::AutoConfig(AutoHttpConfig {
            http_protocol_options: Some(Http1ProtocolOptions::default()),
            http2_protocol_options: Some(h2_upstream()),
            ..Default::default()
        }),
        Versions::Http1 => UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(explicit_http_config::ProtocolConfig::HttpProtocolOptions(
                Http1ProtocolOptions::default(),
            )),
        }),
    };
    let options = HttpProtocolOptions {
        common_http_protocol_options: Some(CommonOptions {
            idle_timeout: Some(duration(IDLE)),
            max_headers_count: number(RESPONSE_FIELDS),
            ..Default::default()
        }),
        upstream_http_protocol_options: follow_authority,
        upstream_protocol_options: Some(versions),
        ..Default::default()
    };
    HashMap::from([("envoy.extensions.upstreams.http.v3.HttpProtocolOptions".into(), pack_any(options))])
}

/// HTTP/2 options towards upstreams. Requests of several sandboxes share a connection, so its window holds the windows of
/// all its streams: responses that a client does not read take nothing from the others.
fn h2_upstream() -> Http2ProtocolOptions {
    Http2ProtocolOptions {
        max_concurrent_streams: number(UPSTREAM_STREAMS),
        initial_connection_window_size: number(UPSTREAM_STREAMS * H2_STREAM_WINDOW),
        ..h2()
    }
}

/// HTTP/2 options towards sandboxes, and the stream's window towards upstreams. The windows limit the memory that one
/// stream and one connection can take in Envoy.
pub fn h2() -> Http2ProtocolOptions {
    Http2ProtocolOptions {
        initial_stream_window_size: number(H2_STREAM_WINDOW),
        initial_connection_window_size: number(H2_CONNECTION_WINDOW),
        ..Default::default()
    }
}
