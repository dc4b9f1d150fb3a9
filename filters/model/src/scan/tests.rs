//! The scanner against serde_json, and against a reading of the whole value at once.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use super::{MAX_DEPTH, MAX_KEPT, Scan, plain};
use crate::guard::Guard;
use crate::words::{self, What};
use policy::endpoint::Endpoint;
use policy::{Access, Denial, Egress, HostPattern};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn guard(also: &[&str]) -> Guard {
    let mut egress = Egress::default();
    egress.add(HostPattern::parse("*.example.com").unwrap(), Access::full());
    let allow = vec![Endpoint::parse("GET /x", None).unwrap()];
    egress.add(HostPattern::parse("rules.example.com").unwrap(), Access { allow, cleartext: false });
    let also = also.iter().map(|name| (*name).to_owned()).collect();
    let except = vec![HostPattern::parse("key.example.com").unwrap()];
    Guard { credential: "provider".into(), also, egress, own: Vec::new(), except }
}

/// The verdict on a body in parts, and how many bytes of it may go on before its end.
fn read(guard: &Guard, parts: &[&[u8]]) -> Result<usize, Denial> {
    let mut scan = Scan::new(guard.clone());
    let mut pass = 0;
    for part in parts {
        pass += scan.feed(part)?;
    }
    scan.finish().map(|()| pass)
}

fn rule(body: &str, also: &[&str]) -> &'static str {
    read(&guard(also), &[body.as_bytes()]).map_or_else(|denial| denial.rule.name(), |_| "passes")
}

#[test]
fn each_name_in_also_permits_its_members_and_no_others() {
    let (remote, stored) = ("credentials.remote-tool", "credentials.stored");
    for (body, refused, by) in [
        (r#"{"mcp_servers":[{"url":"https://evil.test"}]}"#, remote, &["remote-tools"][..]),
        (r#"{"tools":[{"type":"web_fetch_1"}]}"#, remote, &["remote-tools"]),
        (r#"{"tools":[{"urlContext":{}}]}"#, remote, &["remote-tools"]),
        (r#"{"model":"groq/compound-mini"}"#, remote, &["remote-tools"]),
        (r#"{"image_url":"https://evil.test/"}"#, remote, &["remote-tools"]),
        (r#"{"image_url":"https://key.example.com/"}"#, remote, &["remote-tools"]),
        (r#"{"image_url":"https://rules.example.com/x"}"#, remote, &["remote-tools"]),
        (r#"{"source":{"type":"file","file_id":"f"}}"#, stored, &["stored", "files"]),
        (r#"{"file_uri":"https://generativelanguage.googleapis.com/v1/files/x"}"#, stored, &["stored", "files"]),
        (r#"{"previous_response_id":"r"}"#, stored, &["stored", "responses"]),
        (r#"{"conversation":{"id":"c"}}"#, stored, &["stored", "conversations"]),
        (r#"{"input":[{"id":"m"}]}"#, stored, &["stored", "responses"]),
        (r#"{"tools":[{"type":"file_search","vector_store_ids":["v"]}]}"#, stored, &["stored", "vector-stores"]),
        (r#"{"cached_content":"c"}"#, stored, &["stored", "caches"]),
        (r#"{"container":"c"}"#, stored, &["stored"]),
        (r#"{"prompt":{"id":"p"}}"#, stored, &["stored"]),
        (r#"{"environment":{"type":"container_reference"}}"#, stored, &["stored"]),
        (r#"{"model":"@preset/x"}"#, stored, &["stored"]),
    ] {
        assert_eq!(rule(body, &[]), refused, "{body}");
        for name in ["remote-tools", "stored", "files", "responses", "conversations", "vector-stores", "caches"] {
            let expected = if by.contains(&name) { "passes" } else { refused };
            assert_eq!(rule(body, &[name]), expected, "{body} with {name}");
        }
    }
}

#[test]
fn a_member_has_one_reading() {
    for body in [
        r#"{"tools":[{"type":"function","type":"mcp"}]}"#,
        r#"{"tools":[{"type":null,"type":"mcp"}]}"#,
        "{\"mcp_\u{17f}ervers\":[{}]}",
        r#"{"mcp_servers\u0000":[{}]}"#,
        r#"{"mcp_servers\ud800":[{}]}"#,
        "{\"mcp_servers\u{200b}\":[{}]}",
    ] {
        assert_eq!(rule(body, &[]), "credentials.body", "{body}");
    }
    // In the agent's data, names may be anything.
    assert_eq!(rule("{\"metadata\":{\"\u{17f}\":{\"type\":1,\"type\":2}}}", &[]), "passes");
    let mut all = guard(&[]);
    for host in ["github.com", "api.github.com", "raw.githubusercontent.com"] {
        all.egress.add(HostPattern::parse(host).unwrap(), Access::full());
        let body = format!(r#"{{"image_url":"https://{host}/x"}}"#);
        assert_eq!(read(&all, &[body.as_bytes()]).unwrap_err().rule, "credentials.remote-tool", "{host}");
    }
}

#[test]
fn a_refusal_names_the_member_and_the_way_out() {
    let reason = |body: &str| read(&guard(&[]), &[body.as_bytes()]).unwrap_err().reason;
    assert_eq!(
        reason(r#"{"image_url":"https://evil.test/?d=x"}"#),
        "the member \"image_url\" lets the provider fetch from evil.test, which is no host that the container may read \
         everywhere without a credential; the operator can permit it by `also: [remote-tools]` of the credential provider"
    );
    let stored = reason(r#"{"file_id":"x"}"#);
    assert!(stored.contains("`also: [stored] or [files]` of the credential provider"), "{stored}");
}

#[test]
fn every_row_is_reached_and_each_name_is_short_enough() {
    for (under, name, what) in words::MEMBERS {
        assert!(name.len() < 40 && words::is(name.as_bytes(), name) && name.to_ascii_lowercase() == **name, "{name}");
        let member = Map::from_iter([((*name).to_owned(), json!("https://evil.test/"))]);
        let body = under.map_or(json!(member), |under| json!({under: member})).to_string();
        let expected = match what {
            What::Url | What::UrlOrData | What::Remote => "credentials.remote-tool",
            What::Tool if *name == "tools" => "credentials.remote-tool",
            What::Stored { .. } => "credentials.stored",
            What::Tool | What::Data | What::Model => "passes",
        };
        assert_eq!(rule(&body, &[]), expected, "{body}");
    }
}

#[test]
fn each_limit_holds_at_its_number() {
    let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
    assert_eq!(rule(&nested(MAX_DEPTH), &[]), "passes");
    assert_eq!(rule(&nested(MAX_DEPTH + 1), &[]), "credentials.body");
    // In the agent's data, too.
    let data = |levels: usize| nested(levels).replace("\"a\"", "\"metadata\"");
    assert_eq!((rule(&data(MAX_DEPTH), &[]), rule(&data(MAX_DEPTH + 1), &[])), ("passes", "credentials.body"));
    let url = |host: &str, size: usize| {
        let url = format!("https://{host}/");
        format!("{{\"image_url\":\"{url}{}\"}}", "x".repeat(size - url.len()))
    };
    for size in [MAX_KEPT, MAX_KEPT + 1, 100_000] {
        assert_eq!(rule(&url("a.example.com", size), &[]), "passes", "{size}");
        assert_eq!(rule(&url("evil.test", size), &[]), "credentials.remote-tool", "{size}");
        // The table has no name of that length.
        assert_eq!(rule(&format!("{{\"{}\":1}}", "mcp_servers".repeat(size / 11)), &[]), "passes");
    }
    assert_eq!(rule(&format!("{{\"model\":\"{}\"}}", "m".repeat(MAX_KEPT)), &[]), "passes");
    assert_eq!(rule(&format!("{{\"model\":\"{}\"}}", "m".repeat(MAX_KEPT + 1)), &[]), "credentials.remote-tool");
}

#[test]
fn the_byte_that_closes_the_root_waits() {
    let body = br#" {"a":[{}],"b":"}"} "#;
    for part in 1..=body.len() {
        let mut scan = Scan::new(guard(&[]));
        let mut passed: Vec<u8> = Vec::new();
        for part in body.chunks(part) {
            let pass = scan.feed(part).unwrap();
            passed.extend(&part[..pass]);
        }
        scan.finish().unwrap();
        assert_eq!(passed, br#" {"a":[{}],"b":"}""#, "{part}");
    }
}

#[test]
fn the_run_of_plain_bytes_is_the_longest() {
    for at in 0..40 {
        for stop in [b'"', b'\\', 0, 0x1f, b'\n'] {
            for (fill, behind) in [(b'a', b'"'), (0x20, b'\\'), (0xff, 0), (0x7f, 0x21), (0x80, b']'), (b'!', b'#')] {
                let mut bytes = vec![fill; 40];
                bytes[at] = stop;
                if let Some(byte) = bytes.get_mut(at + 1) {
                    *byte = behind;
                }
                assert_eq!(plain(&bytes), at, "{stop} {fill}");
            }
        }
    }
    assert_eq!(plain(&[b'x'; 40]), 40);
    assert_eq!(plain(b""), 0);
}

/// The rule by which the whole `value` is refused, read at once. `under` and `what`: its place.
fn refused(guard: &Guard, value: &Value, under: &str, what: Option<(&'static str, What)>, listed: bool) -> bool {
    let stored = |also: &[&str]| !guard.stored(also);
    let text = value.as_str().unwrap_or_default();
    let there = !matches!(value, Value::Null | Value::Bool(false));
    let url = || guard.url("x", text.as_bytes(), true).is_err();
    if let (Some((name, What::Url)), true) = (what, value.is_string()) {
        let file = name == "file_uri" && text.starts_with("https://generativelanguage.googleapis.com/");
        return if file { stored(&["files"]) } else { url() };
    }
    let own = match what {
        Some((_, What::Data)) => return false,
        Some((_, What::UrlOrData)) => value.is_string() && text.contains(':') && url(),
        Some((_, What::Remote)) => there && !value.is_array() && !guard.remote(),
        // Objects and arrays are read further, and an object judges a member with an excuse by itself.
        Some((_, What::Stored { also, but })) => {
            there
                && !value.is_array()
                && !value.is_object()
                && text.is_empty() != value.is_string()
                && stored(also)
                && (but.is_empty() || listed)
        }
        Some(("tools", What::Tool)) => value.is_string() && !tool(text) && !guard.remote(),
        Some((_, What::Model)) => {
            value.is_string()
                && (text.starts_with("@preset/") && stored(&[]) || text.starts_with("groq/compound") && !guard.remote())
        }
        Some((_, What::Url | What::Tool)) | None => false,
    };
    own || match value {
        Value::Array(items) => items.iter().any(|item| {
            let bare = under == "input"
                && item.as_object().is_some_and(|item| {
                    let has = |name: &str| {
                        item.get(name).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)))
                    };
                    has("id") && !item.get("type").is_some_and(Value::is_string) && !has("role")
                });
            bare && stored(&["responses"]) || refused(guard, item, under, what, true)
        }),
        Value::Object(members) => {
            let kind = members.get("type").and_then(Value::as_str);
            let is_tool = matches!(what, Some((_, What::Tool)));
            let typed = kind.is_some_and(|kind| {
                words::TYPES.iter().any(|(name, also)| *name == kind && stored(also))
                    || is_tool && !tool(kind) && !guard.remote()
            });
            let odd = is_tool && kind.is_none() && !guard.remote() && {
                let named = members.get("name").is_some_and(|name| !matches!(name, Value::Null | Value::Bool(false)));
                let strange = |name: &String| name != "type" && !words::GEMINI_TOOLS.contains(&name.as_str());
                let wrong = members.get("type").is_some_and(|kind| !matches!(kind, Value::Null | Value::Bool(false)));
                wrong || !named && members.keys().any(strange)
            };
            typed
                || odd
                || members.iter().any(|(name, value)| {
                    let what = words::what(under.as_bytes(), name.as_bytes());
                    if let Some((_, What::Stored { also, but })) = what
                        && !but.is_empty()
                        && !value.is_array()
                        && !value.is_object()
                        && !matches!(value, Value::Null | Value::Bool(false))
                        && value.as_str() != Some("")
                    {
                        return stored(also) && !kind.is_some_and(|kind| but.contains(&kind));
                    }
                    refused(guard, value, name, what, false)
                })
        }
        _ => false,
    }
}

fn tool(kind: &str) -> bool {
    words::TOOLS.iter().any(|tool| policy::glob::covers(tool.as_bytes(), kind.as_bytes()))
}

const NAMES: [&str; 30] = [
    "a",
    "b",
    "type",
    "name",
    "id",
    "role",
    "input",
    "tools",
    "content",
    "source",
    "url",
    "image_url",
    "file_url",
    "mcp_servers",
    "server_url",
    "file_id",
    "container",
    "conversation",
    "metadata",
    "input_schema",
    "file_data",
    "previous_response_id",
    "model",
    "results",
    "tool",
    "definition",
    "function_declarations",
    "url_context",
    "skill_id",
    "prompt",
];

const TEXTS: [&str; 18] = [
    "",
    "x",
    "function",
    "mcp",
    "web_fetch_1",
    "custom",
    "item_reference",
    "file_citation",
    "anthropic",
    "https://evil.test/",
    "https://a.example.com/x",
    "https://key.example.com/",
    "data:image/png;base64,AA",
    "@preset/x",
    "groq/compound",
    "\u{1F600}\"\\\n",
    "https://generativelanguage.googleapis.com/f",
    "mcp_servers",
];

/// A value with members of the table.
fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![3 => prop::sample::select(TEXTS.to_vec()).prop_map(Value::from), 1 => any::<String>().prop_map(Value::from)];
    let leaf = prop_oneof![
        4 => text,
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => any::<f64>().prop_map(|number| json!(number)),
        1 => any::<i64>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        let name = prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned);
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            3 => prop::collection::btree_map(name, inner, 0..6).prop_map(|members| json!(members)),
        ]
    })
}

/// The text of a JSON value in which some characters are escapes.
fn spelled(value: &Value, seed: u64) -> String {
    let text = value.to_string();
    let (mut spelled, mut random, mut inside, mut escaped) = (String::new(), seed | 1, false, false);
    for character in text.chars() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let plain = inside && !escaped && character.is_ascii_alphanumeric();
        if plain && random >> 60 == 0 {
            spelled += &format!("\\u{:04x}", u32::from(character));
        } else {
            spelled.push(character);
        }
        if !escaped && character == '"' {
            inside = !inside;
        }
        if !inside && matches!(character, ',' | ':' | '[') && random >> 61 == 0 {
            spelled += " \n\t";
        }
        escaped = inside && !escaped && character == '\\';
    }
    spelled
}

fn chunks(bytes: &[u8], part: usize) -> Vec<&[u8]> {
    bytes.chunks(part.max(1)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_body_is_judged_as_its_whole_value_is(value in value(), seed in any::<u64>(), part in 1_usize..40, also in 0_usize..5) {
        let also = [&[][..], &["remote-tools"], &["stored"], &["files"], &["remote-tools", "stored"]][also];
        let guard = guard(also);
        let text = spelled(&value, seed);
        prop_assert_eq!(&serde_json::from_str::<Value>(&text).unwrap(), &serde_json::from_str::<Value>(&value.to_string()).unwrap());
        let told = read(&guard, &chunks(text.as_bytes(), part));
        if value.is_object() {
            prop_assert_eq!(told.is_err(), refused(&guard, &value, "", None, false), "{} {:?}", text, told);
        } else {
            prop_assert_eq!(told.unwrap_err().rule, policy::Rule::CredentialsBody);
        }
    }

    #[test]
    fn any_parts_give_the_same_verdict_and_serde_json_accepts_what_passes(
        value in value(), seed in any::<u64>(), part in 1_usize..40,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..3), 0..3),
    ) {
        let mut bytes = spelled(&value, seed).into_bytes();
        for (at, byte, how) in changes {
            let at = at.index(bytes.len() + 1);
            match how {
                0 if at < bytes.len() => bytes[at] = byte,
                1 if at < bytes.len() => drop(bytes.remove(at)),
                _ => bytes.insert(at, byte),
            }
        }
        let told = |told: Result<usize, Denial>| told.map_err(|denial| denial.rule);
        for also in [&[][..], &["remote-tools", "stored"]] {
            let guard = guard(also);
            prop_assert_eq!(told(read(&guard, &[&bytes])), told(read(&guard, &chunks(&bytes, part))));
        }
        let whole = read(&guard(&["remote-tools", "stored"]), &[&bytes]);
        let theirs = std::str::from_utf8(&bytes).ok().and_then(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).ok());
        match whole {
            Ok(_) => prop_assert!(theirs.is_some(), "only ours takes {}", bytes.escape_ascii()),
            Err(denial) => {
                let stricter = ["member", "JSON object", "levels"].iter().any(|word| denial.reason.contains(word));
                prop_assert!(stricter || theirs.is_none(), "only theirs takes {}: {denial:?}", bytes.escape_ascii());
            }
        }
    }
}
