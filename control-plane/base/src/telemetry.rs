//! The counters of this process, for Prometheus.
//!
//! Every part of the control plane counts with the functions below. They neither block nor fail.
//!
//! **Invariant:** no peer chooses the value of a label. Stages and rules are types of the `policy` crate.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// The kinds of update that an Envoy can refuse.
pub const UPDATES: [&str; 5] = ["cluster", "secret", "extension", "listener", "route"];

/// The label of any kind of update that is not in [`UPDATES`].
const OTHER: &str = "other";

/// Upper bounds in seconds: from a response of the gateway's own to a model that thinks for minutes.
const DURATIONS: [f64; 13] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0, 1800.0];

static GLOBAL: LazyLock<Telemetry> = LazyLock::new(Telemetry::new);

/// Why an audit line was not written to disk.
#[derive(Clone, Copy, Debug)]
pub enum Lost {
    /// The queue was full: the disk did not keep up.
    Queue,
    /// The write failed.
    Disk,
}

/// An event in the life of a leaf certificate.
#[derive(Clone, Copy, Debug)]
pub enum Leaf {
    /// Issued for a requested name, or renewed before it expires.
    Minted,
    /// No certificate can be issued for the name.
    Refused,
    /// Removed to make room for another.
    Evicted,
}

/// Counts an ended request by its decision.
pub fn decided(decided: &policy::Decided) {
    GLOBAL.decided(decided);
}

/// Counts the body bytes and the duration of an ended request.
pub fn ended(bytes_up: u64, bytes_down: u64, lasted: Duration) {
    GLOBAL.ended(bytes_up, bytes_down, lasted);
}

/// Counts audit lines that were not written to disk.
pub fn audit_lost(why: Lost, lines: u64) {
    GLOBAL.audit_lost.get_or_create(&AuditLost { why: why.name() }).inc_by(lines);
}

/// Counts a new file of the audit in place of one that another program has moved or removed.
pub fn audit_reopened() {
    GLOBAL.audit_reopened.inc();
}

/// Counts the event `what` for `count` leaves.
pub fn leaves(what: Leaf, count: usize) {
    GLOBAL.leaves.get_or_create(&Leaves { what: what.name() }).inc_by(count as u64);
}

/// Updates the number of leaves that Envoys hold: one Envoy held `before`, and now holds `after`.
pub fn leaves_held(before: usize, after: usize) {
    let change = i64::try_from(after).unwrap_or(i64::MAX).saturating_sub(i64::try_from(before).unwrap_or(i64::MAX));
    GLOBAL.leaves_held.inc_by(change);
}

/// Counts an update that an Envoy refused. `kind` is one of [`UPDATES`], or `None` for an unknown kind.
pub fn nack(kind: Option<&'static str>) {
    GLOBAL.nacks.get_or_create(&Nacks { kind: kind.unwrap_or(OTHER) }).inc();
}

/// Counts an injection of the credential `name` into a request. The operator chooses the name.
pub fn injected(name: &str) {
    GLOBAL.injected.get_or_create(&Injected { credential: name.to_owned() }).inc();
}

/// Counts a panic of a filter over a request.
pub fn panicked() {
    GLOBAL.panics.inc();
}

/// Counts a container that was blocked because of its panics.
pub fn blocked() {
    GLOBAL.blocked.inc();
}

/// The result of an attempt to refresh a login.
#[derive(Clone, Copy, Debug)]
pub enum Refresh {
    /// The new token is on disk.
    Done,
    /// The attempt failed and is retried.
    Failed,
    /// The service refused the refresh for good. The user must log in again.
    Refused,
    /// The new token could not be saved to disk.
    Unsaved,
}

/// Counts an attempt to refresh the login of the credential `name`.
pub fn refreshed(name: &str, what: Refresh) {
    let what = match what {
        Refresh::Done => "done",
        Refresh::Failed => "failed",
        Refresh::Refused => "refused",
        Refresh::Unsaved => "unsaved",
    };
    GLOBAL.refreshed.get_or_create(&Refreshed { credential: name.to_owned(), what }).inc();
}

/// A call to GitHub's API with the gateway's credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GithubCall {
    /// The gateway reads the refs of a push.
    Refs,
    /// The gateway compares two commits of a push.
    Compare,
    /// The gateway confirms the nodes of a write.
    Confirm,
    /// The gateway reads a repository.
    Repository,
    /// A sandbox makes the call.
    Sandbox,
}

/// Counts a call to GitHub's API that is to be made.
pub fn github_call(kind: GithubCall) {
    GLOBAL.github_calls.get_or_create(&GithubCalls { kind: kind.name() }).inc();
}

/// Counts a call to GitHub's API that a limit refuses: `hour`, `share` or `pause`.
pub fn github_refused(why: &'static str) {
    GLOBAL.github_refused.get_or_create(&GithubRefused { why }).inc();
}

/// All counters in the OpenMetrics text format, followed by those of `more`.
pub fn text(more: &[Registry]) -> String {
    GLOBAL.text(more)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decided {
    verdict: &'static str,
    stage: &'static str,
    rule: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuditLost {
    why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Leaves {
    what: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Nacks {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Injected {
    credential: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refreshed {
    credential: String,
    what: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GithubCalls {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GithubRefused {
    why: &'static str,
}

/// All counters of one process.
struct Telemetry {
    registry: Registry,
    requests: Family<Decided, Counter>,
    bytes: Family<Direction, Counter>,
    durations: Histogram,
    audit_lost: Family<AuditLost, Counter>,
    audit_reopened: Counter,
    leaves: Family<Leaves, Counter>,
    leaves_held: Gauge,
    nacks: Family<Nacks, Counter>,
    panics: Counter,
    blocked: Counter,
    injected: Family<Injected, Counter>,
    refreshed: Family<Refreshed, Counter>,
    github_calls: Family<GithubCalls, Counter>,
    github_refused: Family<GithubRefused, Counter>,
}

impl Telemetry {
    fn new() -> Self {
        let mut registry = Registry::with_prefix("sallyport");
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "This program", Info::new(version));
        let all = Self {
            requests: Family::default(),
            bytes: Family::default(),
            durations: Histogram::new(DURATIONS),
            audit_lost: Family::default(),
            audit_reopened: Counter::default(),
            leaves: Family::default(),
            leaves_held: Gauge::default(),
            nacks: Family::default(),
            panics: Counter::default(),
            blocked: Counter::default(),
            injected: Family::default(),
            refreshed: Family::default(),
            github_calls: Family::default(),
            github_refused: Family::default(),
            registry: Registry::default(),
        };
        let help = "Requests, refused CONNECTs and refused handshakes, by the rule that decided";
        registry.register("requests", help, all.requests.clone());
        let help = "Bytes of bodies, up from sandboxes and down to them";
        registry.register_with_unit("body", help, Unit::Bytes, all.bytes.clone());
        let help = "How long requests lasted, from the first byte to the last";
        registry.register_with_unit("request_duration", help, Unit::Seconds, all.durations.clone());
        registry.register("audit_lost", "Audit lines that were not written to disk", all.audit_lost.clone());
        let help = "New files of the audit after another program had moved or removed the file";
        registry.register("audit_reopened", help, all.audit_reopened.clone());
        registry.register("leaves", "Certificates for hosts, by event", all.leaves.clone());
        registry.register("leaves_held", "Certificates that Envoys hold", all.leaves_held.clone());
        registry.register("xds_nacks", "Updates that an Envoy refused", all.nacks.clone());
        registry.register("filter_panics", "Panics of a filter over a request or a connection", all.panics.clone());
        let help = "Containers that were blocked because of panics";
        registry.register("containers_blocked", help, all.blocked.clone());
        registry.register("credentials_injected", "Requests with an injected credential", all.injected.clone());
        let help = "Attempts to refresh a login, by result";
        registry.register("credentials_refreshed", help, all.refreshed.clone());
        let help = "Calls to GitHub's API with the gateway's credential, by kind";
        registry.register("github_calls", help, all.github_calls.clone());
        let help = "Calls to GitHub's API that a limit has refused, by limit";
        registry.register("github_calls_refused", help, all.github_refused.clone());
        // These counters are exported from the start, as 0.
        for kind in GithubCall::ALL {
            drop(all.github_calls.get_or_create(&GithubCalls { kind: kind.name() }));
        }
        for why in ["hour", "share", "pause"] {
            drop(all.github_refused.get_or_create(&GithubRefused { why }));
        }
        for why in [Lost::Queue, Lost::Disk] {
            drop(all.audit_lost.get_or_create(&AuditLost { why: why.name() }));
        }
        for what in [Leaf::Minted, Leaf::Refused, Leaf::Evicted] {
            drop(all.leaves.get_or_create(&Leaves { what: what.name() }));
        }
        for kind in UPDATES {
            drop(all.nacks.get_or_create(&Nacks { kind }));
        }
        Self { registry, ..all }
    }

    fn decided(&self, decided: &policy::Decided) {
        let policy::Decided { stage, verdict, rule, .. } = decided;
        let label = Decided { verdict: verdict.name(), stage: stage.name(), rule: rule.name() };
        self.requests.get_or_create(&label).inc();
    }

    fn ended(&self, bytes_up: u64, bytes_down: u64, lasted: Duration) {
        self.bytes.get_or_create(&Direction { direction: "up" }).inc_by(bytes_up);
        self.bytes.get_or_create(&Direction { direction: "down" }).inc_by(bytes_down);
        self.durations.observe(lasted.as_secs_f64());
    }

    fn text(&self, more: &[Registry]) -> String {
        let mut text = String::new();
        let mut registries = std::iter::once(&self.registry).chain(more);
        let written = registries.try_for_each(|registry| encode_registry(&mut text, registry));
        if let Err(error) = written.and_then(|()| encode_eof(&mut text)) {
            tracing::error!(%error, "BUG: the metrics cannot be written");
        }
        text
    }
}

impl GithubCall {
    const ALL: [Self; 5] = [Self::Refs, Self::Compare, Self::Confirm, Self::Repository, Self::Sandbox];

    fn name(self) -> &'static str {
        match self {
            GithubCall::Refs => "refs",
            GithubCall::Compare => "compare",
            GithubCall::Confirm => "confirm",
            GithubCall::Repository => "repository",
            GithubCall::Sandbox => "sandbox",
        }
    }
}

impl Lost {
    fn name(self) -> &'static str {
        match self {
            Lost::Queue => "queue",
            Lost::Disk => "disk",
        }
    }
}

impl Leaf {
    fn name(self) -> &'static str {
        match self {
            Leaf::Minted => "minted",
            Leaf::Refused => "refused",
            Leaf::Evicted => "evicted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_by_the_rule_that_decided() {
        let telemetry = Telemetry::new();
        telemetry.decided(&policy::Decided::allowed(policy::Rule::EgressHost));
        telemetry.decided(&policy::Decided::allowed(policy::Rule::EgressHost));
        telemetry.ended(3, 4, Duration::from_millis(20));
        let text = telemetry.text(&[]);
        for line in [
            r#"sallyport_requests_total{verdict="allow",stage="identity",rule="egress.host"} 2"#,
            r#"sallyport_body_bytes_total{direction="down"} 4"#,
            r#"sallyport_request_duration_seconds_bucket{le="0.025"} 1"#,
            r#"sallyport_audit_lost_total{why="queue"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn labels_are_words_of_ours_and_no_more_than_so_many() {
        let telemetry = Telemetry::new();
        for _ in 0..2 {
            for rule in policy::Rule::ALL {
                telemetry.decided(&policy::Decided::denied(*rule, "what a peer has chosen"));
            }
        }
        let text = telemetry.text(&[]);
        assert_eq!(text.matches("sallyport_requests_total{").count(), policy::Rule::ALL.len());
        assert!(!text.contains("chosen"), "{text}");
    }
}
