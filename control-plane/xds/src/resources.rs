//! One module for each kind of resource, and the names and helpers that they share.

pub mod chain_match;
pub mod cluster;
pub mod extension;
pub mod listener;
pub mod local_reply;
pub mod route;
pub mod secret;

use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, GrpcService, SocketAddress, TransportSocket, address,
    config_source, data_source, grpc_service, socket_address,
};
use envoy_types::pb::google::protobuf::{BoolValue, Duration as ProtoDuration, UInt32Value};
use std::net::SocketAddr;
use std::time::Duration;

/// The static cluster of the bootstrap that leads back to this process.
pub const CONTROL_PLANE: &str = "control-plane";

/// The cluster to which an opened CONNECT is forwarded, and the internal listener behind it.
pub const TUNNEL: &str = "tunnel";

/// The dynamic forward proxy: its filter, its cluster and its DNS cache.
pub const UPSTREAM: &str = "upstream";

/// The forward proxy's cluster in cleartext, for hosts with `cleartext` in the policy.
pub const UPSTREAM_CLEARTEXT: &str = "upstream-cleartext";

/// The route configuration for cleartext inside a tunnel.
pub const CLEARTEXT: &str = "cleartext";

/// The clusters of the hosts that the operator's proxy leads to, and the internal listener behind them.
pub const PROXIED: &str = "proxied";

/// The cluster of the operator's proxy.
pub const UPSTREAM_PROXY: &str = "upstream-proxy";

/// The listener that sandboxes use as an explicit proxy.
pub const PROXY: &str = "proxy";

/// The listener that Envoy's own resolver queries, and the cluster that leads from it back to this process.
pub const RESOLVER: &str = "resolver";

/// The ext_authz filter.
pub const CREDENTIALS: &str = "credentials";

/// The filter that counts connections.
pub const CONNECTIONS: &str = "connections";

/// The identity filter.
pub const IDENTITY: &str = "identity";

/// The github filter.
pub const GITHUB: &str = "github";

/// The push filter.
pub const PUSH: &str = "push";

/// The filter that reads what a request with a model provider's key asks of it.
pub const MODEL: &str = "model";

/// The filter that keeps credentials out of responses.
pub const SCRUB: &str = "scrub";

/// The most bytes in one connection's buffer before Envoy stops reading, and the base of [`route`]'s limit on bodies
/// that a filter holds. Above every limit of the filters, so that Envoy's 413 never comes first.
pub const CONNECTION_BUFFER: u32 = 2 << 20;

/// HTTP/2 flow-control window of one stream: enough for 200 Mbit/s at 40 ms, small enough that slow readers hold
/// little of Envoy's memory.
pub const H2_STREAM_WINDOW: u32 = 1 << 20;

/// HTTP/2 flow-control window of one connection of a sandbox.
pub const H2_CONNECTION_WINDOW: u32 = 4 << 20;

/// The config source for resources on the existing ADS stream.
pub fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(config_source::ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    }
}

/// The service for gRPC calls from Envoy to this process.
pub fn control_plane(timeout: Duration) -> GrpcService {
    GrpcService {
        timeout: Some(duration(timeout)),
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(grpc_service::EnvoyGrpc {
            cluster_name: CONTROL_PLANE.into(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// A TCP address.
pub fn tcp(address: SocketAddr) -> Address {
    socket(&address.ip().to_string(), address.port())
}

/// A TCP address whose host may be a name.
pub fn socket(host: &str, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: host.into(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    }
}

/// A `bool` for a field whose absence has its own meaning.
pub fn flag(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

/// A number for a field whose absence has its own meaning.
pub fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

/// A duration, with nanosecond precision.
pub fn duration(value: Duration) -> ProtoDuration {
    ProtoDuration { seconds: value.as_secs().try_into().unwrap_or(i64::MAX), nanos: value.subsec_nanos() as i32 }
}

/// A data source with inline text.
pub fn inline(text: impl Into<String>) -> envoy_types::pb::envoy::config::core::v3::DataSource {
    envoy_types::pb::envoy::config::core::v3::DataSource {
        specifier: Some(data_source::Specifier::InlineString(text.into())),
        ..Default::default()
    }
}

/// A transport socket with this name and configuration.
pub fn transport_socket<T: prost::Message + prost::Name>(name: &str, config: T) -> TransportSocket {
    use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
    TransportSocket {
        name: name.into(),
        config_type: Some(ConfigType::TypedConfig(envoy_types::util::pack_any(config))),
    }
}
