#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::{Access, HostPattern};

const STORE: &str = "productionresultssa7.blob.core.windows.net";
const SIGNED: &str = "/actions-results/1/logs.txt?rsct=text%2Fplain&se=2026-12-01T03%3A41%3A00Z&sig=a%2Bb%3D&sp=r";

fn host(name: &str) -> HostName {
    HostName::parse(name.as_bytes()).unwrap()
}

fn now() -> Timestamp {
    "2026-12-01T00:00:00Z".parse().unwrap()
}

fn key(byte: u8) -> Key {
    Key::read(&[byte; KEY]).unwrap()
}

fn signed(locations: &[&str]) -> Option<String> {
    let headers: Vec<_> = locations.iter().map(|to| ("location".to_owned(), to.as_bytes().to_vec())).collect();
    key(7).redirect(3, 302, &headers, now()).map(|location| String::from_utf8(location).unwrap())
}

/// Path and query of the redirect to [`SIGNED`], with the parameter.
fn given() -> String {
    signed(&[&format!("https://{STORE}{SIGNED}")])
        .unwrap()
        .strip_prefix(&format!("https://{STORE}"))
        .unwrap()
        .to_owned()
}

/// The path that goes upstream, `-` for a request without the parameter, or the reason of the refusal.
fn open(key: &Key, generation: u64, host: &HostName, method: &str, path: &str, now: Timestamp) -> String {
    match opened(Some(key), generation, host, method.as_bytes(), path.as_bytes(), now) {
        Ok(Some(path)) => String::from_utf8(path).unwrap(),
        Ok(None) => "-".into(),
        Err(denial) => {
            assert_eq!((denial.rule, denial.status), (Rule::EgressSigned, 403));
            denial.reason
        }
    }
}

#[test]
fn a_url_passes_for_its_record_until_it_expires_and_for_nothing_else() {
    let (store, path) = (host(STORE), given());
    assert!(path.starts_with(&format!("{SIGNED}&sallyport=1796086800.")), "{path}");
    let opens = |generation, store: &HostName, path: &str| open(&key(7), generation, store, "GET", path, now());
    assert_eq!(opens(3, &store, &path), SIGNED);
    assert_eq!(open(&key(7), 3, &store, "HEAD", &path, now()), SIGNED);
    let never = "this URL is not one";
    assert!(opens(4, &store, &path).starts_with(never), "another record");
    assert!(opens(3, &host("productionresultssa8.blob.core.windows.net"), &path).starts_with(never), "another host");
    assert!(open(&key(8), 3, &store, "GET", &path, now()).starts_with(never), "another gateway");
    assert!(open(&key(7), 3, &store, "PUT", &path, now()).starts_with("only GET and HEAD"));
    let end = now() + LIFETIME;
    let second = SignedDuration::from_secs(1);
    assert_eq!(open(&key(7), 3, &store, "GET", &path, end - second), SIGNED);
    assert!(open(&key(7), 3, &store, "GET", &path, end).starts_with("this URL was given more"), "expired");
    assert_eq!(
        opened(None, 3, &store, b"GET", path.as_bytes(), now()).unwrap_err().rule,
        Rule::EgressSigned,
        "without a key"
    );
}

#[test]
fn no_byte_of_a_url_can_be_changed() {
    let (store, path) = (host(STORE), given());
    for at in 0..path.len() {
        for other in [b'0', b'%', b'&', b'x'] {
            let mut bytes = path.clone().into_bytes();
            if std::mem::replace(&mut bytes[at], other) == other {
                continue;
            }
            let changed = String::from_utf8(bytes).unwrap();
            assert_ne!(open(&key(7), 3, &store, "GET", &changed, now()), SIGNED, "{changed}");
            assert!(!open(&key(7), 3, &store, "GET", &changed, now()).starts_with('/'), "{changed}");
        }
    }
    let parameter = &path[SIGNED.len()..];
    for changed in [
        format!("{path}&x=1"),
        format!("{path}{parameter}"),
        format!("/other{parameter}"),
        format!("{SIGNED}&x=1{parameter}"),
        format!("{SIGNED}{}", parameter.replace("1796086800", "1796086801")),
        format!("{SIGNED}{}", parameter.replace("1796086800", "+1796086800")),
        format!("{SIGNED}&sallyport="),
        format!("{SIGNED}&sallyport=1.{}", "0".repeat(32)),
        format!("{SIGNED}&sallyport=99999999999999999999.{}", "0".repeat(32)),
    ] {
        assert!(open(&key(7), 3, &store, "GET", &changed, now()).starts_with("this URL is not one"), "{changed}");
    }
    assert_eq!(open(&key(7), 3, &store, "GET", SIGNED, now()), "-");
    assert_eq!(open(&key(7), 3, &store, "GET", "/xsallyport=1", now()), "-");
    assert_eq!(open(&key(7), 3, &host("example.com"), "GET", &path, now()), "-", "of another host it is a parameter");
}

#[test]
fn an_escape_has_one_spelling() {
    let (store, path) = (host(STORE), given());
    for (from, to) in [("%2F", "%2f"), ("%3A", "%3a"), ("logs", "%6cogs"), ("logs", "%6Cogs"), ("rsct", "%72sct")] {
        assert_eq!(open(&key(7), 3, &store, "GET", &path.replace(from, to), now()), SIGNED, "{to}");
    }
    for (from, to) in
        [("%2F", "/"), ("%2B", "+"), ("%2F", "%252F"), ("%2F", "%2"), ("/1/", "//1/"), ("/1/", "/x/../1/")]
    {
        let changed = path.replace(from, to);
        assert!(open(&key(7), 3, &store, "GET", &changed, now()).starts_with("this URL is not one"), "{changed}");
    }
    for (text, same) in [("/%", "/%"), ("/%4", "/%4"), ("/%zz%41", "/%zzA"), ("/%2541", "/%2541"), ("/%e4%7E", "/%E4~")]
    {
        assert_eq!(canonical(text.as_bytes()), same.as_bytes());
    }
}

#[test]
fn only_a_plain_redirect_to_a_known_host_is_signed() {
    for location in [
        "https://release-assets.githubusercontent.com/a?b=c",
        "https://objects.githubusercontent.com/a",
        "https://pipelines.actions.githubusercontent.com/a?urlSignature=x",
        &format!("https://{STORE}/"),
    ] {
        let (signed, before) = (signed(&[location]).unwrap(), if location.contains('?') { '&' } else { '?' });
        assert!(signed.starts_with(&format!("{location}{before}sallyport=")), "{signed}");
    }
    for location in [
        "http://objects.githubusercontent.com/a",
        "HTTPS://objects.githubusercontent.com/a",
        "//objects.githubusercontent.com/a",
        "/a",
        "",
        "https://objects.githubusercontent.com",
        "https://objects.githubusercontent.com?a",
        "https://objects.githubusercontent.com:443/a",
        "https://objects.githubusercontent.com./a",
        "https://Objects.githubusercontent.com/a",
        "https://u@objects.githubusercontent.com/a",
        "https://objects.githubusercontent.com/a#b",
        "https://objects.githubusercontent.com/a b",
        "https://objects.githubusercontent.com/a\\b",
        "https://objects.githubusercontent.com/ä",
        "https://objects.githubusercontent.com/a?sallyport=1",
        "https://evilobjects.githubusercontent.com/a",
        "https://blob.core.windows.net/a",
        "https://xblob.core.windows.net/a",
        "https://a.blob.core.windows.net.example.com/a",
        "https://api.github.com/a",
        "https://example.com/a",
    ] {
        assert_eq!(signed(&[location]), None, "{location}");
    }
    let fine = "https://objects.githubusercontent.com/a";
    assert_eq!((signed(&[fine, fine]), signed(&[])), (None, None));
    let long = |length: usize| format!("{fine}{}", "a".repeat(length - fine.len()));
    assert!(signed(&[&long(MAX_LOCATION)]).is_some() && signed(&[&long(MAX_LOCATION + 1)]).is_none());
    let headers = [("location".to_owned(), fine.as_bytes().to_vec())];
    for (status, is) in [(200, false), (201, false), (300, false), (301, true), (303, true), (304, false), (308, true)]
    {
        assert_eq!(key(7).redirect(3, status, &headers, now()).is_some(), is, "{status}");
    }
}

#[test]
fn the_hosts_are_open_where_github_is() {
    let mut egress = Egress::default();
    assert_eq!(targets(&egress).count(), 0);
    egress.add(HostPattern::parse("api.github.com").unwrap(), Access::FULL);
    assert_eq!(targets(&egress).count(), TARGETS.len());
    for (name, target, usual) in [
        ("objects.githubusercontent.com", true, true),
        (STORE, true, true),
        ("productionresultssa19.blob.core.windows.net", true, true),
        ("productionresultssa100.blob.core.windows.net", true, false),
        ("productionresultssa.blob.core.windows.net", true, false),
        ("mine.blob.core.windows.net", true, false),
        ("a.actions.githubusercontent.com", true, false),
        ("actions.githubusercontent.com", false, false),
        ("raw.githubusercontent.com", false, false),
    ] {
        let host = host(name);
        assert_eq!((is_target(&host), is_usual_target(&host)), (target, usual), "{name}");
        assert_eq!(targets(&egress).any(|pattern| pattern.covers(&host)), target, "{name}");
    }
    assert!(is_source(&host("api.github.com")) && !is_source(&host(STORE)));
}

#[test]
fn a_key_has_32_bytes_and_is_not_printed() {
    assert!(Key::read(&[0; 31]).is_none() && Key::read(&[0; 33]).is_none() && Key::read(b"").is_none());
    assert_eq!(format!("{:?}", key(7)), "Key");
}
