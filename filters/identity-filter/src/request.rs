//! Collects the facts of a request for the identity stage, and lists the headers and trailers that are never sent
//! upstream. Makes no access decision. Called by `filter`.

use policy::CREDENTIAL_HEADERS;

/// Headers that name another host, path, method or peer than the judged request, or that only concern the connection to
/// this gateway. For each of them there are servers that trust it.
const STRIPPED: [&str; 18] = [
    "cf-connecting-ip",
    "forwarded",
    "proxy-authorization",
    "proxy-connection",
    "true-client-ip",
    "via",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-host",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-method",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
];
/// Prefixes of more headers of this kind. `x-envoy-*` also controls Envoy's own router.
const STRIPPED_PREFIXES: [&str; 3] = ["x-envoy-", "x-forwarded-", "x-sallyport-"];
/// Headers that Envoy sets on every request, whatever the client sent. The route configuration removes them at the
/// router, which is cheaper than removing them here.
const KEPT: [&str; 3] = ["x-envoy-external-address", "x-forwarded-proto", "x-request-id"];

/// The facts of one request. Owned, so that the request can be held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `:method`.
    pub method: Vec<u8>,
    /// `:authority`. `None` unless the request has exactly one.
    pub authority: Option<Vec<u8>>,
    /// `:path`. Empty for a CONNECT.
    pub path: Vec<u8>,
    /// Whether the request upgrades to another protocol. Its body then belongs to that protocol and has no end.
    pub upgrade: bool,
    /// Envoy's id for the request, or `-` if it has none.
    pub request_id: String,
    /// The request's headers that are not sent upstream.
    pub stripped: Vec<String>,
}

impl Facts {
    /// Collects the facts from the headers of a request.
    pub fn read(headers: Vec<(String, Vec<u8>)>) -> Self {
        let mut method = Vec::new();
        let mut authorities = Vec::new();
        let mut path = Vec::new();
        let mut upgrade = false;
        let mut request_id = None;
        let mut stripped: Vec<String> = Vec::new();
        for (name, value) in headers {
            match name.as_str() {
                ":method" => method = value,
                // Envoy turns `Host` into the authority, so a remaining `Host` is a second authority.
                ":authority" | "host" => authorities.push(value),
                ":path" => path = value,
                "upgrade" => upgrade = true,
                "x-request-id" => request_id = Some(String::from_utf8_lossy(&value).into_owned()),
                _ if is_stripped(&name) && !stripped.contains(&name) => stripped.push(name),
                _ => {}
            }
        }
        let authority = if authorities.len() == 1 { authorities.pop() } else { None };
        Self { method, authority, path, upgrade, request_id: request_id.unwrap_or_else(|| "-".into()), stripped }
    }
}

/// Whether the header `name`, in any letter case, is never sent upstream.
pub fn is_stripped(name: &str) -> bool {
    misleads(name) && !is_one_of(&KEPT, name)
}

/// Whether the trailer `name`, in any letter case, is never sent upstream. Some servers merge trailers into the headers.
/// So these trailers are removed: those whose headers are stripped here or at the router, and those with credentials. RFC
/// 9110 section 6.5.1 forbids fields for routing and authentication in trailers.
pub fn is_stripped_trailer(name: &str) -> bool {
    misleads(name) || is_one_of(&KEPT, name) || is_one_of(&CREDENTIAL_HEADERS, name)
}

/// Whether `name` is in [`STRIPPED`] or has one of [`STRIPPED_PREFIXES`].
fn misleads(name: &str) -> bool {
    let begins = |prefix: &&str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    is_one_of(&STRIPPED, name) || STRIPPED_PREFIXES.iter().any(begins)
}

fn is_one_of(names: &[&str], name: &str) -> bool {
    names.iter().any(|other| name.eq_ignore_ascii_case(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(headers: &[(&str, &[u8])]) -> Facts {
        Facts::read(headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect())
    }

    #[test]
    fn headers_that_speak_for_someone_else_are_stripped() {
        for name in STRIPPED {
            assert!(is_stripped(name), "{name}");
            assert!(is_stripped(&name.to_ascii_uppercase()), "{name}");
        }
        for name in [
            "x-forwarded-for",
            "X-Forwarded-Host",
            "x-forwarded-client-cert",
            "x-forwarded-",
            "x-envoy-upstream-rq-timeout-ms",
            "X-Sallyport-Rule",
            "x-sallyport-",
        ] {
            assert!(is_stripped(name), "{name}");
        }
    }

    #[test]
    fn other_headers_are_not() {
        for name in [
            "x-request-id",
            "x-envoy-external-address",
            "x-forwarded-proto",
            "X-Forwarded-Proto",
            ":authority",
            ":path",
            "host",
            "authorization",
            "cookie",
            "accept",
            "x-envoy",
            "x-envo",
            "x-github-api-version",
            "forwarded2",
            "",
            "x-sallypört",
        ] {
            assert!(!is_stripped(name), "{name}");
        }
    }

    #[test]
    fn a_trailer_that_no_header_may_be_is_stripped() {
        let of_the_routes = ["x-forwarded-proto", "x-envoy-external-address", "x-request-id", policy::mark::SEALED];
        let own = ["authorization", "Cookie", "x-api-key", "x-goog-api-key", "api-key", "private-token"];
        for name in STRIPPED.iter().chain(&of_the_routes).chain(&own) {
            assert!(is_stripped_trailer(name), "{name}");
            assert!(is_stripped_trailer(&name.to_ascii_uppercase()), "{name}");
        }
        for name in
            ["grpc-status", "grpc-message", "x-checksum", "x-amz-checksum-crc32", "digest", "server-timing", "x"]
        {
            assert!(!is_stripped_trailer(name), "{name}");
        }
    }

    #[test]
    fn the_headers_are_sorted_out_in_one_pass() {
        let facts = facts(&[
            (":method", b"GET"),
            (":authority", b"github.com"),
            (":path", b"/o/r"),
            ("x-request-id", b"7"),
            ("x-forwarded-for", b"10.9.9.9"),
            ("accept", b"\xff"),
            ("x-forwarded-for", b"10.9.9.8"),
            ("via", b"1.1 x"),
        ]);
        let expected = Facts {
            method: b"GET".to_vec(),
            authority: Some(b"github.com".to_vec()),
            path: b"/o/r".to_vec(),
            upgrade: false,
            request_id: "7".into(),
            stripped: vec!["x-forwarded-for".into(), "via".into()],
        };
        assert_eq!(facts, expected);
    }

    #[test]
    fn the_authority_has_to_be_there_exactly_once() {
        assert_eq!(facts(&[(":method", b"GET")]).authority, None);
        assert_eq!(facts(&[(":authority", b"a.test"), (":authority", b"a.test")]).authority, None);
        assert_eq!(facts(&[(":authority", b"a.test"), ("host", b"b.test")]).authority, None);
    }

    #[test]
    fn an_id_that_is_no_text_is_shown_as_well_as_it_can_be() {
        assert_eq!(facts(&[("x-request-id", b"a\xffb")]).request_id, "a\u{fffd}b");
        assert_eq!(facts(&[]).request_id, "-");
    }
}
