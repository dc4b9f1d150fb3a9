//! The stage identity: which container sends the request, and may it reach the host?
//!
//! Called by the identity filter for every CONNECT and every request, and by the CLI's `explain`.

use crate::{Authority, By, Container, Denial, HostName, Policy, Rule, Verdict};
use bstr::ByteSlice;
use jiff::Timestamp;

/// The ports that a CONNECT may name. Connections to the upstream always use TLS, also for plain HTTP in a tunnel.
pub const CONNECT_PORTS: [u16; 2] = [443, 80];

/// The facts of a request for the identity stage, as Envoy received the request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `:method`.
    pub method: &'a [u8],
    /// `:path`: path and query, raw.
    pub path: &'a [u8],
    /// `:authority`.
    pub authority: &'a [u8],
    /// The name in the TLS handshake. `None` if the client speaks plain HTTP.
    pub sni: Option<&'a [u8]>,
}

/// Judges the target of a CONNECT by its form only.
///
/// A well-formed CONNECT is opened for every client, and the requests inside the tunnel are refused: clients hide the
/// body of a refused CONNECT, and show the body of a refused request. Opening the tunnel resolves and dials no host.
pub fn decide_connect(authority: &[u8]) -> Verdict {
    let authority = match Authority::parse(authority) {
        Ok(authority) => authority,
        Err(error) => return Verdict::Deny(Denial::new(Rule::RequestAuthority, error.to_string())),
    };
    match authority.port {
        Some(port) if CONNECT_PORTS.contains(&port) => Verdict::Allow(By { rule: Rule::RequestConnect }),
        Some(port) => Verdict::Deny(Denial::new(
            Rule::RequestPort,
            format!("port {port} cannot be reached through the gateway, only 443 and 80"),
        )),
        None => Verdict::Deny(Denial::new(Rule::RequestPort, "CONNECT needs a port, 443 or 80")),
    }
}

/// Judges a request of `container`, the container that is registered at the source address. Returns the request's host,
/// with the rule that allows it. `container` is `None` if no container is registered there.
///
/// # Errors
/// If the authority is no plain name, or differs from the name in the TLS handshake. If the port is not 443 or 80, or
/// the path has an invalid byte. If no container is registered, or its record is blocked or has expired at `now`. If
/// the method is TRACE. If neither the policy nor the record lists the host, the method or the path, or one of them
/// refuses the request. The error is the refusal.
pub fn decide_request(
    container: Option<&Container>,
    request: Request<'_>,
    policy: &Policy,
    now: Timestamp,
) -> Result<(HostName, By), Denial> {
    let (host, container) = admit(container, request, now)?;
    let path = request.path.split(|byte| *byte == b'?').next().unwrap_or_default();
    match policy.egress.decide(&container.egress_allow, &host, request.method, path) {
        Verdict::Allow(by) => Ok((host, by)),
        Verdict::Deny(denial) => Err(denial),
    }
}

/// Judges the requests in a tunnel of `container`, as far as the target of its CONNECT tells: some request to its host may
/// pass. Returns the host.
///
/// # Errors
/// The same as of [`decide_request`], except for the method and the path.
pub(crate) fn decide_tunnel(
    container: Option<&Container>,
    request: Request<'_>,
    policy: &Policy,
    now: Timestamp,
) -> Result<HostName, Denial> {
    let (host, container) = admit(container, request, now)?;
    policy.egress.listed(&container.egress_allow, &host)?;
    Ok(host)
}

/// The checks of a request in front of the lists of hosts.
fn admit<'c>(
    container: Option<&'c Container>,
    request: Request<'_>,
    now: Timestamp,
) -> Result<(HostName, &'c Container), Denial> {
    let authority =
        Authority::parse(request.authority).map_err(|error| Denial::new(Rule::RequestAuthority, error.to_string()))?;
    if let Some(port) = authority.port
        && !CONNECT_PORTS.contains(&port)
    {
        let reason = format!("port {port} cannot be reached through the gateway, only 443 and 80");
        return Err(Denial::new(Rule::RequestPort, reason));
    }
    // RFC 3986 section 2: a URI has only these bytes. Later stages see other bytes in another form than the upstream.
    if !request.path.iter().all(u8::is_ascii_graphic) {
        let reason = "the path holds a byte that no URI has; it has to be percent-encoded";
        return Err(Denial::new(Rule::RequestPath, reason));
    }
    if let Some(sni) = request.sni
        && HostName::parse(sni).as_ref() != Ok(&authority.host)
    {
        // RFC 9110 section 15.5.20: the client may retry on a new connection for that name.
        let reason = format!("this connection was made for {}, not for {}", sni.as_bstr(), authority.host);
        return Err(Denial::new(Rule::RequestSni, reason));
    }
    let Some(container) = container else {
        let reason = "no container is registered at your address";
        return Err(Denial::new(Rule::IdentityUnknown, reason));
    };
    if container.expired(now) {
        let reason = format!("the registration of {} expired at {}", container.container_id, container.expires_at);
        return Err(Denial::new(Rule::IdentityExpired, reason));
    }
    if let Some(why) = &container.blocked {
        let reason = format!("{} is blocked, {why}; its operator can register it again", container.container_id);
        return Err(Denial::new(Rule::IdentityBlocked, reason));
    }
    // RFC 9110 section 9.3.8: the response to TRACE repeats the request, including the credential.
    if request.method == b"TRACE" {
        return Err(Denial::new(Rule::RequestMethod, "TRACE is not passed on"));
    }
    Ok((authority.host, container))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::{Access, Egress, HostPattern, HostRules};

    const NOW: &str = "2026-12-01T00:00:00Z";

    fn container() -> Container {
        serde_json::from_str(
            r#"{"container_ip":"172.18.0.5","container_id":"abc","repos":["o/r"],"expires_at":"2027-01-15T00:00:00Z"}"#,
        )
        .unwrap()
    }

    fn policy() -> Policy {
        let mut egress = Egress::default();
        egress.add(HostPattern::parse("github.com").unwrap(), Access::full());
        Policy { version: "t".into(), egress, strip_foreign_credentials: true, github: crate::github::Rules::default() }
    }

    fn rule(container: Option<&Container>, authority: &str, sni: Option<&str>, now: &str) -> &'static str {
        let request =
            Request { method: b"GET", path: b"/", authority: authority.as_bytes(), sni: sni.map(str::as_bytes) };
        match decide_request(container, request, &policy(), now.parse().unwrap()) {
            Ok(_) => "allow",
            Err(denial) => denial.rule.name(),
        }
    }

    #[test]
    fn every_refusal_names_its_rule() {
        let known = container();
        let known = Some(&known);
        assert_eq!(rule(known, "github.com", Some("github.com"), NOW), "allow");
        assert_eq!(rule(known, "GitHub.com.:443", Some("github.com"), NOW), "allow");
        assert_eq!(rule(known, "github.com", None, NOW), "allow");
        assert_eq!(rule(None, "github.com", Some("github.com"), NOW), "identity.unknown");
        assert_eq!(rule(known, "github.com", Some("github.com"), "2027-01-15T00:00:00Z"), "identity.expired");
        assert_eq!(rule(known, "example.com", Some("example.com"), NOW), "egress.host");
        assert_eq!(rule(known, "xgithub.com", Some("xgithub.com"), NOW), "egress.host");
        assert_eq!(rule(known, "api.github.com", Some("api.github.com"), NOW), "egress.host");
        assert_eq!(rule(known, "github.com", Some("example.com"), NOW), "request.sni");
        assert_eq!(rule(known, "github.com:22", Some("github.com"), NOW), "request.port");
        assert_eq!(rule(known, "u@github.com", Some("github.com"), NOW), "request.authority");
        assert_eq!(rule(known, "127.0.0.1", None, NOW), "request.authority");
        let blocked = Container { blocked: Some("why".into()), ..container() };
        assert_eq!(rule(Some(&blocked), "github.com", Some("github.com"), NOW), "identity.blocked");
    }

    #[test]
    fn a_container_reaches_its_own_extra_hosts_and_nobody_else_does() {
        let mut known = container();
        known.egress_allow = vec![HostRules::all(HostPattern::parse("*.example.com").unwrap())];
        assert_eq!(rule(Some(&known), "a.example.com", None, NOW), "allow");
        assert_eq!(rule(Some(&known), "example.com", None, NOW), "egress.host");
        assert_eq!(rule(Some(&container()), "a.example.com", None, NOW), "egress.host");
    }

    #[test]
    fn a_path_of_other_bytes_than_a_uri_has_is_refused() {
        let known = container();
        for path in [&b"/\xff"[..], b"/a b", b"/\x00", b"/\x7f", "/é".as_bytes()] {
            let request = Request { method: b"GET", path, authority: b"github.com", sni: None };
            let denied = decide_request(Some(&known), request, &policy(), NOW.parse().unwrap());
            assert_eq!(denied.unwrap_err().rule, "request.path");
        }
    }

    #[test]
    fn trace_is_refused() {
        let known = container();
        let request = Request { method: b"TRACE", path: b"/", authority: b"github.com", sni: None };
        let denied = decide_request(Some(&known), request, &policy(), NOW.parse().unwrap());
        assert_eq!(denied.unwrap_err().rule, "request.method");
    }

    #[test]
    fn without_a_policy_nothing_is_reached() {
        let known = container();
        let request = Request { method: b"GET", path: b"/", authority: b"github.com", sni: None };
        let denied = decide_request(Some(&known), request, &Policy::deny_all(), NOW.parse().unwrap());
        assert_eq!(denied.unwrap_err().rule, "egress.host");
    }

    #[test]
    fn connect_is_judged_by_its_form() {
        assert!(matches!(decide_connect(b"anything.example:443"), Verdict::Allow(_)));
        assert!(matches!(decide_connect(b"anything.example:80"), Verdict::Allow(_)));
        for target in
            ["anything.example", "anything.example:22", "127.0.0.1:443", "[::1]:443", "localhost:443", "a@b.c:443"]
        {
            assert!(matches!(decide_connect(target.as_bytes()), Verdict::Deny(_)), "{target}");
        }
    }
}
