//! RDS: one virtual host for each allowed host, and a catch-all that refuses.
//!
//! The same hosts are in two kinds of route configurations: behind the explicit proxy's listener, where a CONNECT to
//! any well-formed name is opened, and behind the tunnel, without CONNECT. The routes list every host that any
//! container may reach. The identity filter decides which container may reach which host.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, FilterConfig, HeaderMatcher, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
    header_matcher, route, route_action, route_match,
};
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{ExtAuthzPerRoute, ext_authz_per_route};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher};
use envoy_types::pb::google::protobuf::{Any, UInt64Value};
use envoy_types::util::pack_any;
use policy::mark::SEALED;
use policy::push::MAX_UNSENT;
use policy::{CREDENTIAL_HEADERS, Denial, HostName, HostPattern, RULE_HEADER, Rule};

use super::{
    CLEARTEXT, CONNECTION_BUFFER, CREDENTIALS, GITHUB, MODEL, PROXY, PUSH, SCRUB, TUNNEL, UPSTREAM_CLEARTEXT, cluster,
    duration, flag, local_reply,
};

/// Headers that Envoy itself needs or adds before the router, and that no upstream may see. The identity filter removes
/// such headers of the client.
const NEVER_UPSTREAM: [&str; 9] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-envoy-external-address",
    "x-envoy-internal",
    "x-envoy-expected-rq-timeout-ms",
    "x-request-id",
    // A credential that no push stage has put into force goes nowhere.
    SEALED,
];

/// Response headers that are removed if the gateway added a credential: they would give the sandbox a session that was
/// opened with the credential.
const NEVER_WITH_CREDENTIAL: [&str; 2] = ["set-cookie", "set-cookie2"];

/// Response headers that are always removed. `alt-svc` would lead the sandbox past the gateway (RFC 7838). Only the
/// gateway may name a rule.
const NEVER_DOWNSTREAM: [&str; 2] = ["alt-svc", RULE_HEADER];

/// One allowed host or suffix, with the facts for routing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The host or suffix.
    pub pattern: HostPattern,
    /// The way to the host.
    pub way: Way,
    /// A credential may be added, so every request goes through ext_authz.
    pub credentialed: bool,
    /// Cleartext requests are forwarded in cleartext.
    pub cleartext: bool,
    /// Headers with the sandbox's own credentials are removed.
    pub strip_credentials: bool,
}

/// The way from Envoy to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The name is resolved.
    Resolved,
    /// The host has its own clusters.
    Pinned,
    /// The operator's proxy leads to the host.
    Proxied,
}

/// The transport between the client and the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    /// TLS, ended here.
    Tls,
    /// Cleartext.
    Http,
}

/// The route configuration of the explicit proxy's listener: CONNECT, and absolute-form requests.
pub fn proxy(hosts: &[Host]) -> RouteConfiguration {
    configuration(PROXY, hosts, Spoken::Http, &[connect()])
}

/// The route configuration for TLS inside a tunnel.
pub fn tunnel(hosts: &[Host]) -> RouteConfiguration {
    configuration(TUNNEL, hosts, Spoken::Tls, &[])
}

/// The route configuration for cleartext inside a tunnel.
pub fn cleartext(hosts: &[Host]) -> RouteConfiguration {
    configuration(CLEARTEXT, hosts, Spoken::Http, &[])
}

fn configuration(name: &str, hosts: &[Host], spoken: Spoken, before: &[Route]) -> RouteConfiguration {
    let with = |routes: Vec<Route>| before.iter().cloned().chain(routes).collect();
    let mut virtual_hosts: Vec<VirtualHost> = hosts
        .iter()
        .map(|host| VirtualHost {
            name: host.pattern.to_string(),
            domains: vec![host.pattern.to_string()],
            routes: with(vec![web_socket(host), onward(host, spoken)]),
            request_headers_to_remove: if host.strip_credentials {
                CREDENTIAL_HEADERS.map(str::to_owned).to_vec()
            } else {
                Vec::new()
            },
            typed_per_filter_config: without_stages_of_others(host),
            request_body_buffer_limit: body_buffer(host.pattern.may_be_github()),
            // Not for the refusal below, which names its rule in one of these headers.
            response_headers_to_remove: NEVER_DOWNSTREAM
                .iter()
                .chain(NEVER_WITH_CREDENTIAL.iter().filter(|_| host.credentialed))
                .map(|name| (*name).to_owned())
                .collect(),
            ..Default::default()
        })
        .collect();
    virtual_hosts.push(VirtualHost {
        name: "refused".into(),
        domains: vec!["*".into()],
        routes: with(vec![refusal()]),
        request_body_buffer_limit: body_buffer(false),
        ..Default::default()
    });
    RouteConfiguration {
        name: name.into(),
        virtual_hosts,
        request_headers_to_remove: NEVER_UPSTREAM.map(str::to_owned).to_vec(),
        // The identity filter still sees the port and judges it.
        ignore_port_in_host_matching: true,
        validate_clusters: flag(false),
        ..Default::default()
    }
}

/// The most bytes of a body that a filter may hold. More than one read of a connection can bring, so that a filter that
/// drops each part never causes Envoy's own 413. In addition, the push filter writes up to [`MAX_UNSENT`] bytes at the end
/// of a push that it has held back.
fn body_buffer(pushes: bool) -> Option<UInt64Value> {
    let read = u64::from(CONNECTION_BUFFER) * 2;
    let held = if pushes { u64::try_from(MAX_UNSENT).unwrap_or(u64::MAX) } else { 0 };
    Some(UInt64Value { value: read.saturating_add(held) })
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
        // Only the identity stage judges a tunnel. A crash of the push filter's VM would end each tunnel that it has a
        // context of.
        typed_per_filter_config: ordered(&[off(CREDENTIALS), off(GITHUB), off(MODEL), off(PUSH), off(SCRUB)]),
        ..Default::default()
    }
}

/// The route for WebSockets. They need HTTP/1.1 on both sides, because an upstream that prefers HTTP/2 may not support
/// extended CONNECT (RFC 8441).
fn web_socket(host: &Host) -> Route {
    let upgrade = HeaderMatcher {
        name: "upgrade".into(),
        header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(string_matcher::MatchPattern::Exact("websocket".into())),
            ignore_case: true,
        })),
        ..Default::default()
    };
    let enabled =
        route_action::UpgradeConfig { upgrade_type: "websocket".into(), enabled: flag(true), ..Default::default() };
    let RouteMatch { path_specifier, .. } = everything();
    forward(
        "websocket",
        host,
        RouteMatch { path_specifier, headers: vec![upgrade], ..Default::default() },
        cluster::http1_name(way(host)),
        vec![enabled],
    )
}

fn onward(host: &Host, spoken: Spoken) -> Route {
    let cluster = match spoken {
        Spoken::Http if host.cleartext => UPSTREAM_CLEARTEXT.into(),
        Spoken::Http | Spoken::Tls => cluster::name(way(host)),
    };
    forward("onward", host, everything(), cluster, Vec::new())
}

fn way(host: &Host) -> cluster::Way<'_> {
    match host.way {
        Way::Resolved => cluster::Way::Resolved,
        Way::Pinned => cluster::Way::Pinned(host.pattern.name()),
        Way::Proxied => cluster::Way::Proxied,
    }
}

fn forward(
    name: &str,
    host: &Host,
    matching: RouteMatch,
    cluster: String,
    upgrade_configs: Vec<route_action::UpgradeConfig>,
) -> Route {
    Route {
        name: name.into(),
        r#match: Some(matching),
        action: Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster)),
            upgrade_configs,
            // Responses of models are slow and long. The listener's idle timeout limits them; there is no total
            // timeout.
            timeout: Some(duration(Duration::ZERO)),
            ..Default::default()
        })),
        typed_per_filter_config: if host.credentialed { HashMap::new() } else { without_credentials() },
        ..Default::default()
    }
}

/// The route that refuses all other hosts. The identity filter refuses them before; this is a second safeguard.
fn refusal() -> Route {
    let denial = Denial::new(Rule::EgressHost, "this host is not one of the allowed hosts");
    Route {
        name: "refused".into(),
        r#match: Some(everything()),
        action: Some(route::Action::DirectResponse(DirectResponseAction {
            status: denial.status.into(),
            body_format: Some(local_reply::body(&denial)),
            ..Default::default()
        })),
        response_headers_to_add: vec![local_reply::header(denial.rule)],
        // A host that is not allowed has no credential, so ext_authz is not needed.
        typed_per_filter_config: without_credentials(),
        ..Default::default()
    }
}

fn everything() -> RouteMatch {
    RouteMatch { path_specifier: Some(route_match::PathSpecifier::Prefix("/".into())), ..Default::default() }
}

fn without_credentials() -> HashMap<String, Any> {
    HashMap::from([off(CREDENTIALS)])
}

/// The setting that disables the filter `name`.
fn off(name: &str) -> (String, Any) {
    let disabled = if name == CREDENTIALS {
        pack_any(ExtAuthzPerRoute { r#override: Some(ext_authz_per_route::Override::Disabled(true)) })
    } else {
        pack_any(FilterConfig { disabled: true, ..Default::default() })
    };
    (name.to_owned(), disabled)
}

/// Disables the stages that don't concern a host, because a call of a filter costs as much as a small request.
fn without_stages_of_others(host: &Host) -> HashMap<String, Any> {
    let other = |name: &HostName| policy::github::kind(name).is_some_and(|kind| kind != policy::github::Kind::Web);
    let mut names = match &host.pattern {
        pattern if !pattern.may_be_github() => vec![GITHUB, PUSH],
        HostPattern::Exact(name) if other(name) => vec![PUSH],
        _ => vec![],
    };
    if !host.credentialed {
        names.push(SCRUB);
    }
    let github = matches!(&host.pattern, HostPattern::Exact(name) if policy::github::kind(name).is_some());
    if !host.credentialed || github {
        names.push(MODEL);
    }
    ordered(&names.into_iter().map(off).collect::<Vec<_>>())
}

/// A map that iterates in this order. Each map has a random order, and another order would change the version of the
/// same resource. So maps are made until one has the right order.
fn ordered(entries: &[(String, Any)]) -> HashMap<String, Any> {
    loop {
        let map: HashMap<_, _> = entries.iter().cloned().collect();
        if map.keys().eq(entries.iter().map(|(name, _)| name)) {
            return map;
        }
    }
}
