//! `METHOD host target`, a newline and the body. The request that is sent belongs to the container's repository, or reads a
//! public one, and judging it again gives the same result.

use crate::{REPO, worlds};
use policy::github::{Allowed, Call, Head, Judge};
use policy::{Container, HostName};
use std::sync::LazyLock;

static WORLDS: LazyLock<[(Judge, Container); 2]> = LazyLock::new(worlds);

/// Runs one input.
pub fn run(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (head, body) = input.split_at(end);
    let parts: Vec<&[u8]> = head.splitn(3, |byte| *byte == b' ').collect();
    let [method, host, target] = parts[..] else { return };
    let Ok(host) = HostName::parse(host) else { return };
    let body = body.get(1..).unwrap_or_default();
    for (judge, who) in WORLDS.iter() {
        let Some(allowed) = judged(judge, who, method, &host, target, body) else { continue };
        let sent = String::from_utf8(allowed.target.clone()).expect("a target is ASCII");
        let path = sent.split('?').next().unwrap_or_default();
        assert!(!path.split('/').any(|part| part == "." || part == ".."), "{sent}");
        let base =
            if host.as_str().starts_with("api.") || host.as_str().starts_with("uploads.") { "/repos/" } else { "/" };
        if allowed.is_public() {
            let pack = host.as_str() == "github.com" && path.ends_with("/git-upload-pack");
            assert!(matches!(method, b"GET" | b"HEAD") || (method == b"POST" && pack), "{host} {sent} is no read");
        } else if path.starts_with(base) && (base == "/repos/" || path != "/") {
            let own = path[base.len()..].to_ascii_lowercase();
            let own = own.strip_prefix(REPO).unwrap_or_else(|| panic!("{host} {sent} is of another repository"));
            assert!(own.is_empty() || own.starts_with(['/', '.']), "{host} {sent} is of another repository");
        }
        let body = allowed.body.as_deref().unwrap_or(body);
        assert_eq!(judged(judge, who, method, &host, &allowed.target, body).as_ref(), Some(&allowed));
    }
}

fn judged(
    judge: &Judge,
    who: &Container,
    method: &[u8],
    host: &HostName,
    target: &[u8],
    body: &[u8],
) -> Option<Allowed> {
    match judge.head(Call { method, host, target, headers: &[] }, who).ok()? {
        Head::Elsewhere => None,
        Head::Allowed(allowed) => Some(allowed),
        Head::Body(pending) => judge.body(pending, body, who).ok(),
    }
}
