//! RDS: one virtual host for each allowed host, and a catch-all that refuses.
//!
//! The same hosts stand in two route configurations: behind the explicit proxy's listener, where a CONNECT to any
//! well-formed name is opened, and behind the tunnel, where there is no CONNECT. Who may reach which host is the
//! identity filter's decision; what is listed here is all that any container may reach.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, header_value_option::HeaderAppendAction};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_action,
    route_match,
};
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{ExtAuthzPerRoute, ext_authz_per_route};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;
use policy::HostName;

use super::{CREDENTIALS, PROXY, TUNNEL, UPSTREAM, cluster, duration, flag, inline};

/// Headers that Envoy itself needs or adds until the router and that no upstream may see. What a client sends of
/// their kind is removed by the identity filter.
const NEVER_UPSTREAM: [&str; 8] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-envoy-external-address",
    "x-envoy-internal",
    "x-envoy-expected-rq-timeout-ms",
    "x-request-id",
];

/// Headers that no sandbox may see: `alt-svc` would lead it past the gateway (RFC 7838).
const NEVER_DOWNSTREAM: [&str; 1] = ["alt-svc"];

/// One allowed host, as routing needs to know it.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name.
    pub name: HostName,
    /// It has a cluster of its own.
    pub pinned: bool,
    /// A credential may be added, so every request asks ext_authz.
    pub credentialed: bool,
}

/// The route configuration of the explicit proxy's listener.
pub fn proxy(hosts: &[Host]) -> RouteConfiguration {
    configuration(PROXY, hosts, &[connect()])
}

/// The route configuration of the internal listener.
pub fn tunnel(hosts: &[Host]) -> RouteConfiguration {
    configuration(TUNNEL, hosts, &[])
}

fn configuration(name: &str, hosts: &[Host], before: &[Route]) -> RouteConfiguration {
    let with = |route: Route| before.iter().cloned().chain([route]).collect();
    let mut virtual_hosts: Vec<VirtualHost> = hosts
        .iter()
        .map(|host| VirtualHost {
            name: host.name.to_string(),
            domains: vec![host.name.to_string()],
            routes: with(onward(host)),
            ..Default::default()
        })
        .collect();
    virtual_hosts.push(VirtualHost {
        name: "refused".into(),
        domains: vec!["*".into()],
        routes: with(refusal()),
        ..Default::default()
    });
    RouteConfiguration {
        name: name.into(),
        virtual_hosts,
        request_headers_to_remove: NEVER_UPSTREAM.map(str::to_owned).to_vec(),
        response_headers_to_remove: NEVER_DOWNSTREAM.map(str::to_owned).to_vec(),
        // The identity filter still sees the port and judges it.
        ignore_port_in_host_matching: true,
        validate_clusters: flag(false),
        ..Default::default()
    }
}

fn connect() -> Route {
    let connect = route_action::UpgradeConfig {
        upgrade_type: "CONNECT".into(),
        connect_config: Some(route_action::upgrade_config::ConnectConfig::default()),
        ..Default::default()
    };
    Route {
        name: "connect".into(),
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::ConnectMatcher(route_match::ConnectMatcher {})),
            ..Default::default()
        }),
        action: Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(TUNNEL.into())),
            upgrade_configs: vec![connect],
            timeout: Some(duration(Duration::ZERO)),
            ..Default::default()
        })),
        typed_per_filter_config: without_credentials(),
        ..Default::default()
    }
}

fn onward(host: &Host) -> Route {
    let cluster = if host.pinned { cluster::pinned_name(&host.name) } else { UPSTREAM.into() };
    Route {
        name: "onward".into(),
        r#match: Some(everything()),
        action: Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster)),
            // Answers of models are slow and long: the listener's idle limit bounds them, no total timeout does.
            timeout: Some(duration(Duration::ZERO)),
            ..Default::default()
        })),
        typed_per_filter_config: if host.credentialed { HashMap::new() } else { without_credentials() },
        ..Default::default()
    }
}

/// The identity filter refuses these before; this stands should it not.
fn refusal() -> Route {
    let rule = HeaderValueOption {
        header: Some(HeaderValue { key: "x-sallyport-rule".into(), value: "egress.host".into(), ..Default::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    };
    Route {
        name: "refused".into(),
        r#match: Some(everything()),
        action: Some(route::Action::DirectResponse(DirectResponseAction {
            status: 403,
            body: Some(inline(
                r#"{"error":"this host is not one of the allowed hosts","rule":"egress.host","stage":"identity"}"#,
            )),
            ..Default::default()
        })),
        response_headers_to_add: vec![rule],
        ..Default::default()
    }
}

fn everything() -> RouteMatch {
    RouteMatch { path_specifier: Some(route_match::PathSpecifier::Prefix("/".into())), ..Default::default() }
}

fn without_credentials() -> HashMap<String, Any> {
    let disabled = ExtAuthzPerRoute { r#override: Some(ext_authz_per_route::Override::Disabled(true)) };
    HashMap::from([(CREDENTIALS.into(), pack_any(disabled))])
}
