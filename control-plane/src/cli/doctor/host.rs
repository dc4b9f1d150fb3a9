//! The machine: kernel settings and clock.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{Context, Finding};
use crate::machine;
use config::Limits;

/// The plausible years, from the first release on.
const YEARS: std::ops::Range<i16> = 2026..2100;

/// Checks the kernel's settings that let a sandbox use another sandbox's address, or bypass the gateway.
pub fn spoofing(_: &Context) -> Vec<Finding> {
    spoofing_in(Path::new("/proc/sys/net/ipv4"))
}

/// `root` is /proc/sys/net/ipv4.
fn spoofing_in(root: &Path) -> Vec<Finding> {
    let read = |path: PathBuf| -> Option<u32> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
    let interfaces: Vec<String> = std::fs::read_dir(root.join("conf"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !matches!(name.as_str(), "all" | "default" | "lo"))
        .collect();
    // The larger of the interface's own value and that of `all` counts (ip-sysctl: rp_filter; route_localnet is an OR).
    let value = |interface: &str, key: &str| -> u32 {
        ["all", interface].iter().filter_map(|name| read(root.join("conf").join(name).join(key))).max().unwrap_or(0)
    };
    let interfaces_with = |wanted: &dyn Fn(&str) -> bool| -> String {
        interfaces.iter().filter(|name| wanted(name)).cloned().collect::<Vec<_>>().join(", ")
    };
    let mut findings = Vec::new();
    let local = interfaces_with(&|name| value(name, "route_localnet") == 1);
    if !local.is_empty() {
        findings.push(Finding::fail(
            "spoofing",
            format!("route_localnet is on for {local}: packets from there can reach 127.0.0.1, and so the admin API"),
            "sysctl net.ipv4.conf.IFACE.route_localnet=0",
        ));
    }
    let loose = interfaces_with(&|name| value(name, "rp_filter") == 0);
    if !loose.is_empty() {
        findings.push(Finding::warn(
            "spoofing",
            format!("rp_filter is off for {loose}: packets from there may have another network's source address"),
            "sysctl net.ipv4.conf.all.rp_filter=1",
        ));
    }
    if read(root.join("ip_forward")) == Some(1) {
        findings.push(Finding::warn(
            "spoofing",
            "this machine forwards packets (ip_forward=1), so a sandbox may bypass the gateway",
            "put sandboxes on an internal network, as config/compose.yaml does",
        ));
    }
    if findings.is_empty() {
        findings.push(if interfaces.is_empty() {
            Finding::warn("spoofing", "the kernel's settings cannot be read", "check them by hand")
        } else {
            Finding::ok("spoofing", "no forwarding, no route to loopback, reverse paths are checked")
        });
    }
    findings
}

/// Whether an Envoy that is started from here may have all connections.
pub fn files(context: &Context) -> Vec<Finding> {
    vec![files_of(&context.config.limits, machine::files())]
}

fn files_of(limits: &Limits, files: u64) -> Finding {
    match machine::too_few_files(limits, files) {
        None => Finding::ok("files", format!("room for {} connections of sandboxes", limits.connections)),
        Some(problem) => Finding::warn("files", problem, "LimitNOFILE= of systemd, ulimit -Hn, or limits.connections"),
    }
}

/// Whether the clock shows a plausible year.
pub fn clock(_: &Context) -> Vec<Finding> {
    vec![clock_at(Timestamp::now())]
}

fn clock_at(now: Timestamp) -> Finding {
    let year = now.strftime("%Y").to_string();
    if year.parse().is_ok_and(|year: i16| YEARS.contains(&year)) {
        Finding::ok("clock", now.strftime("%Y-%m-%dT%H:%MZ"))
    } else {
        Finding::fail(
            "clock",
            format!("the clock shows the year {year}"),
            "set the clock: certificates and expiry depend on it",
        )
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::State;
    use super::super::tests::states;
    use super::*;

    #[test]
    fn the_kernels_settings_are_read_for_each_interface() {
        let root = tempfile::tempdir().unwrap();
        let set = |path: &str, value: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{value}\n")).unwrap();
        };
        assert_eq!(states(&spoofing_in(root.path())), [State::Warn], "nothing to read");
        for interface in ["all", "default", "lo", "eth0"] {
            set(&format!("conf/{interface}/route_localnet"), "0");
            set(&format!("conf/{interface}/rp_filter"), "0");
        }
        set("ip_forward", "0");
        set("conf/all/rp_filter", "1");
        set("conf/lo/route_localnet", "1");
        assert_eq!(states(&spoofing_in(root.path())), [State::Ok]);
        set("conf/eth0/route_localnet", "1");
        let found = spoofing_in(root.path());
        assert!(found[0].state == State::Fail && found[0].found.contains("eth0"), "{found:?}");
        set("conf/eth0/route_localnet", "0");
        set("conf/all/rp_filter", "0");
        set("ip_forward", "1");
        assert_eq!(states(&spoofing_in(root.path())), [State::Warn, State::Warn]);
    }

    #[test]
    fn a_low_limit_of_files_is_a_warning() {
        let limits = Limits::default();
        assert_eq!(files_of(&limits, 150_000).state, State::Ok);
        let low = files_of(&limits, 4_096);
        assert!(low.state == State::Warn && low.found.contains("1365 connections, not 50000"), "{low:?}");
    }

    #[test]
    fn a_clock_of_another_century_is_not_believed() {
        for (now, expected) in [
            ("1970-01-01T00:00:00Z", State::Fail),
            ("2026-11-24T00:00:00Z", State::Ok),
            ("2106-02-07T00:00:00Z", State::Fail),
        ] {
            assert_eq!(clock_at(now.parse().unwrap()).state, expected, "{now}");
        }
    }
}
