//! The sandbox's own credentials in a request. They are removed if the gateway injects a credential.

use percent_encoding::percent_decode;

/// Parameters of a query that can carry a credential. Google also accepts its own parameters with a leading `$`. The
/// last two carry headers and the method (Closure's goog.net.rpc.HttpCors).
const PARAMETERS: [&str; 9] =
    ["key", "api_key", "api-key", "apikey", "access_token", "oauth_token", "bearer_token", "httpheaders", "httpmethod"];

/// The parameters of a target's query that carry a credential, for Envoy to remove. `ours` is the name of the gateway's
/// own parameter, if any. The names are spelled as in the target, because Envoy compares bytes. `None` if Envoy would
/// not find one of the parameters.
pub fn query_credentials(target: &[u8], ours: Option<&str>) -> Option<Vec<String>> {
    let carries = |name| carries(name, ours);
    let Some(at) = target.iter().position(|b| *b == b'?') else { return Some(Vec::new()) };
    let query = target.get(at + 1..).unwrap_or_default();
    let mut found = Vec::new();
    for pair in query.split(|b| *b == b'&') {
        // Some servers also split a query at `;`. Envoy splits only at `&`.
        let mut parts = pair.split(|b| *b == b';');
        let name = name(parts.next().unwrap_or_default());
        if parts.any(|part| carries(self::name(part))) {
            return None;
        }
        if carries(name) {
            let name = str::from_utf8(name).ok()?.to_owned();
            if !found.contains(&name) {
                found.push(name);
            }
        }
    }
    Some(found)
}

fn name(pair: &[u8]) -> &[u8] {
    pair.split(|b| *b == b'=').next().unwrap_or_default()
}

fn carries(name: &[u8], ours: Option<&str>) -> bool {
    // Malformed escapes are kept verbatim.
    let decoded: Vec<u8> = percent_decode(name).collect();
    let name = decoded.strip_prefix(b"$").unwrap_or(&decoded);
    PARAMETERS.into_iter().chain(ours).any(|parameter| name.eq_ignore_ascii_case(parameter.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_in_a_query_is_found_in_every_spelling() {
        let cases: [(&str, Option<&[&str]>); 13] = [
            ("/v1/models", Some(&[])),
            ("/v1/models?", Some(&[])),
            ("/v1/models?alt=sse&monkey=1&keys=2", Some(&[])),
            ("/v1/models?key=K", Some(&["key"])),
            ("/v1/models?alt=sse&key=K&key=L&access_token=T", Some(&["key", "access_token"])),
            ("/v1/models?%6bey=K&KEY=K&$key=K&%24k%65y=K", Some(&["%6bey", "KEY", "$key", "%24k%65y"])),
            ("/v1/models?$httpHeaders=x&httpMethod=y", Some(&["$httpHeaders", "httpMethod"])),
            ("/v1/models?key", Some(&["key"])),
            ("/v1/models?api%5Fkey=K", Some(&["api%5Fkey"])),
            ("/v1/models?%=1&%6=2&%zz=3", Some(&[])),
            ("/v1/models?a=b?key=K", Some(&[])),
            ("/v1/models?a=1;key=K", None),
            ("/v1/models?a=1;b=2", Some(&[])),
        ];
        for (target, expected) in cases {
            let expected = expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
            assert_eq!(query_credentials(target.as_bytes(), None), expected, "{target}");
        }
        let target = b"/v1/models?sig=1&Sig=2&s%69g=3&key=4&sign=5";
        assert_eq!(query_credentials(target, Some("sig")).unwrap_or_default(), ["sig", "Sig", "s%69g", "key"]);
        assert_eq!(query_credentials(b"/?a;s%69g=3", Some("sig")), None);
    }
}
