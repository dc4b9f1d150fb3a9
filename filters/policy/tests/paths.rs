//! An allowed path is within its rule for every server, whatever the server decodes and resolves first. A path that some
//! server may read as a denied one is denied.

#![expect(clippy::unwrap_used, reason = "tests")]

use policy::endpoint::Endpoint;
use policy::spelling;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use std::cell::Cell;

/// The parts of a hostile path.
const PARTS: [&str; 40] = [
    "/", "/", "/", "/", "/", "/a", "/a", "/b", "/-/", "/@a%2fb", "a", "b", "ab", "A", "-", ".", "..", ":", "%3A",
    "%3a", "%2f", "%2F", "%20", "%C3%A9", "*", "%2A", "%2e", "%61", "%25", "%252f", "%5c", "\\", ";", "%3b", "%3F",
    "#", "%c0%af", "%", "/../", "%2f..%2f",
];
/// The parts of a pattern.
const PATTERN: [&str; 20] = [
    "/", "/", "/", "/a", "/b", "/*", "/-/", "a", "b", "A", "*", "*", ":", "%3a", "%2f", "%2F*", "/@*%2f*", "%20",
    "%2A", "-",
];

/// The escapes that a server decodes before it looks at the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decodes {
    Nothing,
    /// RFC 3986 section 6.2.2.2.
    Unreserved,
    /// nginx's and Apache's way of keeping names with slashes.
    AllButSlash,
    OnlySlash,
    All,
    Twice,
}

const DECODES: [Decodes; 6] =
    [Decodes::Nothing, Decodes::Unreserved, Decodes::AllButSlash, Decodes::OnlySlash, Decodes::All, Decodes::Twice];

/// The first code of an escape that a server has not decoded. The escape is one code, and not three bytes.
const ESCAPED: u16 = 256;
/// The code of a star in a pattern.
const STAR: u16 = 512;

impl Decodes {
    /// The codes of `text`, as a server reads them.
    fn apply(self, text: &[u8]) -> Vec<u16> {
        let once = self.once(text);
        match once.iter().map(|code| u8::try_from(*code)).collect::<Result<Vec<u8>, _>>() {
            Ok(bytes) if self == Self::Twice => self.once(&bytes),
            _ => once,
        }
    }

    fn once(self, text: &[u8]) -> Vec<u16> {
        let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
        let (mut out, mut at) = (Vec::new(), 0);
        while let Some(byte) = text.get(at) {
            if let (b'%', Some(high), Some(low)) = (byte, digit(text.get(at + 1)), digit(text.get(at + 2))) {
                let decoded = u8::try_from(high * 16 + low).unwrap();
                let unreserved = decoded.is_ascii_alphanumeric() || b"-._~".contains(&decoded);
                let decodes = match self {
                    Self::Nothing => false,
                    Self::Unreserved => unreserved,
                    Self::AllButSlash => decoded != b'/',
                    Self::OnlySlash => decoded == b'/',
                    Self::All | Self::Twice => true,
                };
                out.push(u16::from(decoded) + if decodes { 0 } else { ESCAPED });
                at += 3;
            } else {
                out.push((*byte).into());
                at += 1;
            }
        }
        out
    }
}

/// Whether `code` is the byte `byte`.
fn is(code: u16, byte: u8) -> bool {
    code == u16::from(byte)
}

/// The path that a careless server uses in place of `decoded`.
fn resolved(decoded: &[u16]) -> Vec<u16> {
    let text: Vec<u16> = decoded.iter().map(|code| if is(*code, b'\\') { b'/'.into() } else { *code }).collect();
    let end = |code: &u16| b"?#\0".iter().any(|byte| is(*code, *byte));
    let text = text.split(end).next().unwrap_or_default();
    let mut segments: Vec<&[u16]> = Vec::new();
    let all: Vec<&[u16]> = text.split(|code| is(*code, b'/')).collect();
    for (index, segment) in all.iter().enumerate().skip(1) {
        let segment = segment.split(|code| is(*code, b';')).next().unwrap_or_default();
        let length = segment.iter().rposition(|code| !is(*code, b' ')).map_or(0, |at| at + 1);
        let name: Vec<u8> = segment[..length].iter().map(|code| u8::try_from(*code).unwrap_or(b'x')).collect();
        match &name[..] {
            b"." => {}
            b".." => drop(segments.pop()),
            b"" if index + 1 < all.len() => {}
            _ => segments.push(segment),
        }
    }
    let slash = u16::from(b'/');
    [&[slash][..], &segments.join(&slash)].concat()
}

/// Whether `text` matches `pattern`, by the definition: `*` is any text without a slash.
fn matches(pattern: &[u16], text: &[u16], below: bool) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => !below,
        (None, Some((first, _))) => below && is(*first, b'/'),
        (Some((&STAR, rest)), _) => {
            let run = text.iter().position(|code| is(*code, b'/')).unwrap_or(text.len());
            (0..=run).any(|at| matches(rest, &text[at..], below))
        }
        (Some((one, rest)), Some((other, behind))) => one == other && matches(rest, behind, below),
        (Some(_), None) => false,
    }
}

/// The pattern as a server reads it, and whether it ends in `/**`.
fn read(pattern: &str, decodes: Decodes) -> (Vec<u16>, bool) {
    let (pattern, below) = pattern.strip_suffix("/**").map_or((pattern, false), |pattern| (pattern, true));
    let mut codes: Vec<u16> = Vec::new();
    for (index, part) in pattern.split('*').enumerate() {
        codes.extend((index > 0).then_some(STAR));
        codes.extend(decodes.apply(part.as_bytes()));
    }
    (codes, below)
}

/// The codes with their letters in lower case.
fn lower(codes: &[u16]) -> Vec<u16> {
    codes.iter().map(|code| u8::try_from(*code).map_or(*code, |byte| byte.to_ascii_lowercase().into())).collect()
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(select(&PARTS[..]), 0..8).prop_map(|parts| format!("/{}", parts.concat()))
}

/// Paths of the parts that are not hostile, so that many of them pass.
fn plain() -> impl Strategy<Value = String> {
    prop::collection::vec(select(&PARTS[5..26]), 1..7).prop_map(|parts| {
        let text = parts.concat();
        if text.starts_with('/') { text } else { format!("/{text}") }
    })
}

fn pattern() -> impl Strategy<Value = String> {
    let parts = prop::collection::vec(select(&PATTERN[..]), 0..6).prop_map(|parts| parts.concat());
    (parts, any::<bool>()).prop_map(|(parts, below)| {
        let slash = if parts.starts_with('/') { "" } else { "/" };
        format!("{slash}{parts}{}", if below { "/**" } else { "" })
    })
}

/// A plain path, and a pattern that is the path with stars in place of some parts.
fn alike() -> impl Strategy<Value = (String, String)> {
    (plain(), prop::collection::vec(0..4_u8, 8)).prop_map(|(path, picks)| {
        let mut pattern = String::new();
        for (part, pick) in path.split_inclusive(['/', 'b', 'f', 'F']).zip(picks.iter().cycle()) {
            match pick {
                0 if !part.starts_with('/') && !pattern.ends_with('*') => pattern.push('*'),
                1 if part == "/" => return (path.clone(), format!("{pattern}/**")),
                _ => pattern.push_str(part),
            }
        }
        (path, pattern)
    })
}

fn run(cases: u32, check: impl Fn(String, Endpoint, String) -> Result<(), TestCaseError>) {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let pairs = prop_oneof![(path(), pattern()), (plain(), pattern()), alike()];
    runner
        .run(&pairs, |(path, pattern)| match Endpoint::parse(&pattern, None) {
            Ok(endpoint) if spelling::check(path.as_bytes()).is_ok() => check(path, endpoint, pattern),
            _ => Ok(()),
        })
        .unwrap();
}

#[test]
fn an_allowed_path_is_within_its_rule_for_every_server() {
    let allowed = Cell::new(0);
    run(20_000, |path, endpoint, pattern| {
        if endpoint.is_everywhere() || !endpoint.allows(b"GET", path.as_bytes()) {
            return Ok(());
        }
        allowed.set(allowed.get() + 1);
        for decodes in DECODES {
            let arrived = resolved(&decodes.apply(path.as_bytes()));
            let (wanted, below) = read(&pattern, decodes);
            prop_assert!(matches(&wanted, &arrived, below), "{decodes:?} {pattern} {path} {arrived:?}");
        }
        prop_assert!(endpoint.denies(b"GET", path.as_bytes()), "a denial covers at least the same: {pattern} {path}");
        Ok(())
    });
    assert!(allowed.get() > 1_000, "{}", allowed.get());
}

#[test]
fn a_path_that_some_server_reads_as_a_denied_one_is_denied() {
    let denied = Cell::new(0);
    run(20_000, |path, endpoint, pattern| {
        for decodes in DECODES {
            let arrived = lower(&resolved(&decodes.apply(path.as_bytes())));
            let (wanted, below) = read(&pattern, decodes);
            let wanted = lower(&wanted);
            let slash = [u16::from(b'/')];
            let with_and_without = |text: &[u16]| [text.to_vec(), text.strip_suffix(&slash).unwrap_or(text).to_vec()];
            for wanted in with_and_without(&wanted) {
                for arrived in with_and_without(&arrived) {
                    if matches(&wanted, &arrived, below) {
                        denied.set(denied.get() + 1);
                        prop_assert!(endpoint.denies(b"GET", path.as_bytes()), "{decodes:?} {pattern} {path}");
                    }
                }
            }
        }
        Ok(())
    });
    assert!(denied.get() > 1_000, "{}", denied.get());
}

/// A refusal names the rule that would allow its request.
#[test]
fn a_path_without_a_star_is_a_rule_that_allows_it_alone() {
    let mut runner = TestRunner::new(Config { cases: 20_000, failure_persistence: None, ..Config::default() });
    let compared = Cell::new(0);
    runner
        .run(&(plain(), plain()), |(path, other)| {
            let fit = |path: &String| spelling::check(path.as_bytes()).is_ok() && !path.contains('*');
            if !fit(&path) || !fit(&other) {
                return Ok(());
            }
            compared.set(compared.get() + 1);
            let rule = Endpoint::parse(&format!("GET {path}"), None).unwrap();
            prop_assert!(rule.allows(b"GET", path.as_bytes()), "{path}");
            let same = Decodes::Nothing.apply(path.as_bytes()) == Decodes::Nothing.apply(other.as_bytes());
            prop_assert_eq!(rule.allows(b"GET", other.as_bytes()), same, "{} {}", path, other);
            Ok(())
        })
        .unwrap();
    assert!(compared.get() > 1_000, "{}", compared.get());
}
