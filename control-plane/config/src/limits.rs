//! `limits` in sallyport.yaml: how much sandboxes may use of the gateway. Every value has a range.

use std::ops::RangeInclusive;

use policy::ConnectionLimits;
use serde::Deserialize;

/// The limits, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most TCP connections of all sandboxes together.
    pub connections: u32,
    /// The most TCP connections of one address with a container.
    pub container_connections: u32,
    /// The most TCP connections of one address without a container.
    pub stranger_connections: u32,
    /// The requests per second of one address in one Envoy worker.
    pub requests_per_second: u32,
    /// The size that Envoy's heap may have, in bytes. `None` means a share of the machine's memory.
    pub envoy_heap: Option<u64>,
}

/// The section as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Raw {
    connections: Option<u32>,
    container_connections: Option<u32>,
    stranger_connections: Option<u32>,
    requests_per_second: Option<u32>,
    envoy_heap_mib: Option<u32>,
}

/// The range of `connections`. Below it one container could take the connections of all.
const CONNECTIONS: RangeInclusive<u32> = 64..=1_000_000;
/// The range of `container_connections` and `stranger_connections`.
const OF_ONE: RangeInclusive<u32> = 1..=65_535;
/// The range of `requests_per_second`.
const REQUESTS: RangeInclusive<u32> = 1..=1_000_000;
/// The range of `envoy_heap_mib`. Envoy doesn't start its filters with less.
const HEAP_MIB: RangeInclusive<u32> = 64..=1_048_576;

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 50_000,
            container_connections: 512,
            stranger_connections: 16,
            requests_per_second: 250,
            envoy_heap: None,
        }
    }
}

impl Limits {
    /// Checks the section. An error is the key and its problem.
    pub(crate) fn check(raw: &Raw) -> Result<Self, (&'static str, String)> {
        let all = Self::default();
        let checked = |key, value: Option<u32>, default, range: RangeInclusive<u32>| {
            let value = value.unwrap_or(default);
            if range.contains(&value) {
                Ok(value)
            } else {
                Err((key, format!("{value} is out of range; allowed are {} to {}", range.start(), range.end())))
            }
        };
        let heap = raw.envoy_heap_mib.map(|heap| checked("envoy_heap_mib", Some(heap), heap, HEAP_MIB)).transpose()?;
        Ok(Self {
            connections: checked("connections", raw.connections, all.connections, CONNECTIONS)?,
            container_connections: checked(
                "container_connections",
                raw.container_connections,
                all.container_connections,
                OF_ONE,
            )?,
            stranger_connections: checked(
                "stranger_connections",
                raw.stranger_connections,
                all.stranger_connections,
                OF_ONE,
            )?,
            requests_per_second: checked(
                "requests_per_second",
                raw.requests_per_second,
                all.requests_per_second,
                REQUESTS,
            )?,
            envoy_heap: heap.map(|mib| u64::from(mib) << 20),
        })
    }

    /// The limits for Envoy's filter of connections. However small the number of all connections is, four containers are
    /// needed to take them, and strangers take half of them at most.
    pub fn of_connections(&self) -> ConnectionLimits {
        ConnectionLimits {
            container: self.container_connections.min(self.connections / 4).max(1),
            stranger: self.stranger_connections.min(self.connections / 8).max(1),
            strangers: (self.connections / 2).max(1),
            requests_per_second: self.requests_per_second,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Limits, String> {
        let raw: Raw = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        Limits::check(&raw).map_err(|(key, problem)| format!("{key}: {problem}"))
    }

    #[test]
    fn each_limit_has_its_range() {
        assert_eq!(check("{}").unwrap(), Limits::default());
        for (key, range) in [
            ("connections", CONNECTIONS),
            ("container_connections", OF_ONE),
            ("stranger_connections", OF_ONE),
            ("requests_per_second", REQUESTS),
            ("envoy_heap_mib", HEAP_MIB),
        ] {
            for (value, ok) in
                [(*range.start(), true), (*range.end(), true), (range.start() - 1, false), (range.end() + 1, false)]
            {
                let checked = check(&format!("{key}: {value}"));
                assert_eq!(checked.is_ok(), ok, "{key}: {value}: {checked:?}");
                assert!(ok || checked.unwrap_err().starts_with(key));
            }
        }
        assert!(check("connection: 5").is_err());
        assert_eq!(check("envoy_heap_mib: 512").unwrap().envoy_heap, Some(512 << 20));
    }

    #[test]
    fn one_address_never_has_more_than_a_quarter_of_all() {
        let limits = |connections| {
            let limits = Limits { connections, ..Limits::default() }.of_connections();
            (limits.container, limits.stranger, limits.strangers)
        };
        assert_eq!(limits(50_000), (512, 16, 25_000));
        assert_eq!(limits(341), (85, 16, 170));
        assert_eq!(limits(1), (1, 1, 1));
    }
}
