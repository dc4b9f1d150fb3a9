//! Warnings about a registration that is valid, but perhaps a mistake: the record replaces another container's record, or
//! another address has the same id. The API answers with them, and `container add` prints them.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use policy::Container;

/// The most addresses that a warning names.
const NAMED: usize = 3;

/// The warnings about `record`, which is registered in place of `before`. `all` are all records. Expired records are
/// ignored.
pub fn warnings(record: &Container, before: Option<&Container>, all: &[Arc<Container>], now: Timestamp) -> Vec<String> {
    let (id, address) = (&record.container_id, record.container_ip);
    let mut warnings = Vec::new();
    if let Some(before) = before.filter(|before| before.container_id != *id && !before.expired(now)) {
        let (other, until) = (&before.container_id, before.expires_at);
        warnings.push(format!("{address} was registered for {other} until {until}; {id} has replaced that record"));
    }
    let same =
        |other: &&Arc<Container>| other.container_id == *id && other.container_ip != address && !other.expired(now);
    let others: Vec<IpAddr> = all.iter().filter(same).map(|other| other.container_ip).collect();
    if !others.is_empty() {
        let mut named: Vec<String> = others.iter().take(NAMED).map(ToString::to_string).collect();
        if others.len() > NAMED {
            named.push(format!("{} more addresses", others.len() - NAMED));
        }
        let named = named.join(", ");
        warnings.push(format!(
            "{id} is registered for {named} too; the audit has one name for all of them, and `container rm` ends one"
        ));
    }
    warnings
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn record(last: u8, id: &str, expires_at: &str) -> Container {
        serde_json::from_value(serde_json::json!({
            "container_ip": format!("10.0.0.{last}"), "container_id": id, "repos": [], "expires_at": expires_at,
        }))
        .unwrap()
    }

    #[test]
    fn a_replaced_container_and_an_id_of_two_addresses_are_told() {
        let (past, now, future) =
            ("2026-01-01T00:00:00Z", "2026-12-01T00:00:00Z".parse().unwrap(), "2027-01-01T00:00:00Z");
        let told = |before: Option<&Container>, all: &[Container]| {
            let all: Vec<_> = all.iter().cloned().map(Arc::new).collect();
            warnings(&record(1, "a", future), before, &all, now)
        };
        assert!(told(None, &[record(1, "a", future), record(2, "b", future), record(3, "a", past)]).is_empty());
        // The same container again, and a record that was expired anyway.
        assert!(told(Some(&record(1, "a", future)), &[]).is_empty());
        assert!(told(Some(&record(1, "b", past)), &[]).is_empty());
        let replaced = told(Some(&record(1, "b", future)), &[]);
        assert_eq!(replaced, ["10.0.0.1 was registered for b until 2027-01-01T00:00:00Z; a has replaced that record"]);
        let twice = told(None, &[record(1, "a", future), record(2, "a", future)]);
        assert!(twice.len() == 1 && twice[0].starts_with("a is registered for 10.0.0.2 too;"), "{twice:?}");
        let many: Vec<_> = (1..=9).map(|last| record(last, "a", future)).collect();
        let often = told(None, &many);
        assert!(often[0].contains("for 10.0.0.2, 10.0.0.3, 10.0.0.4, 5 more addresses too"), "{often:?}");
    }
}
