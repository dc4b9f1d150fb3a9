//! The configuration of a gateway before its start: policy, settings, variables and threads.

use super::{Gateway, logs};
use crate::{Upstream, upstream};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

/// The setting that keeps only GitHub's credential: api.anthropic.com is the rig's host without a credential.
pub const NO_CREDENTIAL_BUT_GITHUB: &str = "credentials: {anthropic: false, openai: false, gemini: false}\n";

/// The configuration of a gateway that does not exist yet.
#[derive(Clone, Debug)]
#[must_use = "a gateway comes of `build` or `up`"]
pub struct Builder {
    policy: String,
    settings: String,
    environment: Vec<(String, String)>,
    workers: u16,
    files: Option<u64>,
}

impl Gateway {
    /// A gateway with this policy. Its sallyport.yaml has only its addresses.
    pub fn with(policy: &str) -> Builder {
        Builder { policy: policy.to_owned(), settings: String::new(), environment: Vec::new(), workers: 2, files: None }
    }

    /// A gateway as most tests need it: `upstream` serves all of its names, the policy allows [`upstream::HOSTS`], and
    /// GitHub's is the only credential.
    pub fn before(upstream: &Upstream) -> Builder {
        Self::with(&policy(&upstream::HOSTS)).settings(NO_CREDENTIAL_BUT_GITHUB).upstream(upstream)
    }

    /// Starts a gateway as most tests need it.
    pub fn start(upstream: &Upstream) -> Self {
        Self::before(upstream).up()
    }
}

impl Builder {
    /// Adds lines to sallyport.yaml.
    pub fn settings(mut self, lines: &str) -> Self {
        self.settings += lines;
        self
    }

    /// Pins all of the names of `upstream` to it.
    pub fn upstream(self, upstream: &Upstream) -> Self {
        self.settings(&pins(upstream, &[]))
    }

    /// Adds a variable to the usual ones of the gateway's process.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds several variables.
    pub fn envs(self, variables: &[(&str, &str)]) -> Self {
        variables.iter().fold(self, |builder, (name, value)| builder.env(name, value))
    }

    /// Sets the number of Envoy's threads; the default is 2. Limits count in each thread, so with one thread they are
    /// exact.
    pub fn workers(mut self, workers: u16) -> Self {
        self.workers = workers;
        self
    }

    /// Sets the soft and the hard limit of open files of the gateway and its Envoy.
    pub fn files(mut self, files: u64) -> Self {
        self.files = Some(files);
        self
    }

    /// Writes the configuration, with its own ports and state directory. [`Gateway::up`] starts the gateway, or
    /// [`Gateway::serve`] and [`Gateway::start_envoy`].
    pub fn build(self) -> Gateway {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = crate::scratch("gateway");
        logs::print_when_a_test_fails(&directory);
        let (proxy_port, admin_port) = (8080 + 100 * number, 8081 + 100 * number);
        let gateway = Gateway {
            proxy_port,
            state: directory.join("state"),
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, admin_port)),
            environment: self.environment,
            workers: self.workers,
            files: self.files,
            child: Mutex::new(None),
            beside: Mutex::new(None),
            directory,
        };
        // Gateways of one test share its namespace, so each has its own resolver port.
        let config = format!(
            "listen:\n  proxy: 0.0.0.0:{proxy_port}\n  admin: {}\n  resolver: {}\npolicy: policy.yaml\n{}",
            gateway.admin,
            SocketAddr::from((Ipv4Addr::LOCALHOST, admin_port + 1)),
            self.settings,
        );
        std::fs::write(gateway.config(), config).unwrap();
        std::fs::write(gateway.policy_file(), self.policy).unwrap();
        gateway
    }

    /// Writes the configuration, starts the binary and waits until it is ready.
    pub fn up(self) -> Gateway {
        let gateway = self.build();
        gateway.up();
        gateway
    }
}

/// The lines of sallyport.yaml that pin the names of `upstream` to it, except names that are pinned elsewhere.
pub fn pins(upstream: &Upstream, elsewhere: &[(&str, SocketAddr)]) -> String {
    let mut pins = String::from("upstreams:\n");
    for host in upstream::HOSTS.into_iter().chain(upstream::OTHER_HOSTS) {
        let pinned = elsewhere.iter().find(|(name, _)| *name == host);
        let (address, ca) = (pinned.map_or(upstream.address, |(_, address)| *address), &upstream.ca);
        pins += &pin(host, address, ca);
    }
    pins
}

/// The line below `upstreams:` that pins `host` to `address`, with the CA in this PEM file.
pub fn pin(host: &str, address: SocketAddr, ca: &Path) -> String {
    format!("  {host}: {{address: {}, port: {}, ca: {}}}\n", address.ip(), address.port(), ca.display())
}

/// The text of a policy that allows only `hosts`.
pub fn policy(hosts: &[&str]) -> String {
    let entries: String = hosts.iter().map(|host| format!("  - {host}\n")).collect();
    format!("egress:\n{entries}")
}
