//! Whole requests, by the function that `policy explain` calls.

#![allow(clippy::unwrap_used, reason = "tests")]

use model::{Guard, judge};
use policy::{Denial, Egress, Rule};

fn told(headers: &[(&str, &str)], path: &str, body: &[u8]) -> Result<(), Denial> {
    let guard = Guard {
        credential: "provider".into(),
        also: [].into(),
        egress: Egress::default(),
        own: Vec::new(),
        except: Vec::new(),
    };
    let headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
    judge(&guard, &headers, path.as_bytes(), &[body])
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[test]
fn the_white_space_behind_a_body_has_a_limit() {
    for (size, passes) in [(0, true), (1_023, true), (1_024, false), (100_000, false)] {
        let body = format!("{{}}{}", " ".repeat(size));
        assert_eq!(told(&[JSON], "/", body.as_bytes()).is_ok(), passes, "{size}");
    }
}

#[test]
fn a_body_has_one_type_and_one_coding() {
    let cases: [(&[(&str, &str)], bool); 14] = [
        (&[JSON], true),
        (&[("Content-Type", "Application/JSON; charset=utf-8")], true),
        (&[JSON, ("content-encoding", "identity")], true),
        (&[], false),
        (&[JSON, JSON], false),
        (&[("content-type", "application/json, text/plain")], false),
        (&[("content-type", "application/json+protobuf")], false),
        (&[("content-type", "application/x-protobuf")], false),
        (&[("content-type", "text/plain; application/json")], false),
        (&[JSON, ("content-encoding", "gzip")], false),
        (&[JSON, ("content-encoding", "br")], false),
        (&[JSON, ("content-encoding", "identity"), ("content-encoding", "zstd")], false),
        (&[JSON, ("content-encoding", "")], false),
        (&[JSON, ("upgrade", "websocket")], false),
    ];
    for (headers, passes) in cases {
        let told = told(headers, "/v1/messages?beta=true", b"{}");
        assert_eq!(told.is_ok(), passes, "{headers:?}");
        assert!(told.is_ok() || told.unwrap_err().rule == Rule::CredentialsBody, "{headers:?}");
    }
    assert!(told(&[], "/", b"").is_ok(), "no body has no type");
    assert!(told(&[("upgrade", "websocket")], "/", b"").is_err());
}

#[test]
fn no_parameter_changes_the_type_of_a_body() {
    for (query, passes) in [
        ("alt=sse", true),
        ("$alt=json&key=x", true),
        ("ct=x", true),
        ("$ct=application/x-protobuf", false),
        ("a&%24CT=application/x-protobuf", false),
        ("$%63t=application/x-protobuf", false),
        ("$req=x", false),
    ] {
        assert_eq!(told(&[JSON], &format!("/v1/models/m:generateContent?{query}"), b"{}").is_ok(), passes, "{query}");
    }
}
