//! `GET /metrics`, in the OpenMetrics text format: the counters of `telemetry`, and the gauges that each request
//! computes.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use base::telemetry;
use credentials::Credentials;
use credentials::budget::Standing;
use credentials::calls::Calls;
use registry::Registry as Containers;
use xds::server::Fleet;

/// Clock ticks per second, the unit of processor time in /proc: `USER_HZ`, 100 on every supported architecture.
const TICKS: f64 = 100.0;

/// `GET /metrics`.
pub fn routes(containers: Arc<Containers>, fleet: Fleet, credentials: Arc<Credentials>, calls: Arc<Calls>) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(Facts { containers, fleet, credentials, calls })
}

/// The sources of the gauges.
#[derive(Clone)]
struct Facts {
    containers: Arc<Containers>,
    fleet: Fleet,
    credentials: Arc<Credentials>,
    calls: Arc<Calls>,
}

async fn metrics(State(facts): State<Facts>) -> impl IntoResponse {
    let mut now = Registry::with_prefix("sallyport");
    let mut gauge = |name: &str, help: &str, value: usize| {
        now.register(name, help, ConstGauge::<i64>::new(i64::try_from(value).unwrap_or(i64::MAX)));
    };
    gauge("containers", "Containers that are registered", facts.containers.list().len());
    gauge("watchers", "Envoy workers that follow the registry", facts.containers.following());
    gauge("xds_sessions", "Envoys that are connected", facts.fleet.sessions());
    let failing = Family::<Failing, Gauge>::default();
    for (name, fails) in facts.credentials.failing() {
        failing.get_or_create(&Failing { credential: name.to_owned() }).set(fails.into());
    }
    let help = "Whether the source of a credential fails; /readyz says why";
    now.register("credentials_failing", help, failing);
    let (remaining, limit) = (Family::<Quota, Gauge>::default(), Family::<Quota, Gauge>::default());
    for Standing { account, resource, reading, .. } in facts.calls.standings() {
        let Some(reading) = reading else { continue };
        let label = Quota { account, resource: resource.name() };
        remaining.get_or_create(&label).set(i64::try_from(reading.remaining).unwrap_or(i64::MAX));
        limit.get_or_create(&label).set(i64::try_from(reading.limit).unwrap_or(i64::MAX));
    }
    let help = "Calls or points that are left of a quota of GitHub's API, as GitHub's answers tell";
    now.register("github_quota_remaining", help, remaining);
    now.register("github_quota_limit", "Calls or points of a quota of GitHub's API in one window", limit);
    let process = process();
    (
        [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
        telemetry::text(&[now, process]),
    )
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failing {
    credential: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Quota {
    account: String,
    resource: &'static str,
}

/// The metrics that Prometheus's own clients export of a process. Values that /proc doesn't have are left out.
fn process() -> Registry {
    static STARTED: LazyLock<f64> = LazyLock::new(|| Timestamp::now().as_duration().as_secs_f64());
    let mut registry = Registry::with_prefix("process");
    registry.register_with_unit("start_time", "When it started", Unit::Seconds, ConstGauge::new(*STARTED));
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        if let Some(kib) = field("VmRSS:") {
            let bytes = i64::try_from(kib.saturating_mul(1_024)).unwrap_or(i64::MAX);
            registry.register_with_unit("resident_memory", "Memory in use", Unit::Bytes, ConstGauge::new(bytes));
        }
        if let Some(threads) = field("Threads:") {
            let threads = i64::try_from(threads).unwrap_or(i64::MAX);
            registry.register("threads", "Threads", ConstGauge::new(threads));
        }
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        let open = i64::try_from(open.count()).unwrap_or(i64::MAX);
        registry.register("open_fds", "Open files and sockets", ConstGauge::new(open));
    }
    if let Some(seconds) = std::fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(processor_seconds) {
        registry.register_with_unit("cpu", "Processor time", Unit::Seconds, ConstCounter::new(seconds));
    }
    registry
}

/// User and system time from a line of /proc/PID/stat (proc(5)): fields 14 and 15. Field 2, the program's name, may
/// contain any character and ends with the last parenthesis.
fn processor_seconds(stat: &str) -> Option<f64> {
    let (_, behind) = stat.rsplit_once(')')?;
    let mut fields = behind.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_measured() {
        let text = telemetry::text(&[process()]);
        for name in ["start_time_seconds", "resident_memory_bytes", "open_fds", "threads", "cpu_seconds_total"] {
            assert!(text.contains(&format!("\nprocess_{name} ")), "{name}\n{text}");
        }
        assert_eq!(processor_seconds("7 (a) b) c) S 1 1 1 0 -1 1 1 0 0 0 150 50 0 0 20").unwrap(), 2.0);
    }
}
