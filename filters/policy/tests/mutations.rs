//! Rewrites each case of the corpus of bypass attempts. An equivalent request gets the same verdict by the same rule.
//! No other spelling of a refused request is allowed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use policy::Explained;
use policy::github::Json;
use std::collections::BTreeMap;
use support::graphql::{Given, Request};
use support::{Case, World, corpus, lenient};

/// A rewriting of a request: its name, and a function that returns the rewritten copies of a case, if there are any.
type Mutation = (&'static str, fn(&Case) -> Vec<Case>);

/// Rewritings that keep the meaning of a request.
const SAME: [Mutation; 25] = [
    ("owner and repository in other letter case", letter_case),
    ("harmless headers around, in reverse order", headers_reversed),
    ("harmless headers around", headers_around),
    ("header names in upper case", header_names_upper),
    ("header names in lower case", header_names_lower),
    ("JSON members in reverse order", members_reversed),
    ("JSON with white space", json_white_space),
    ("JSON keys with escaped letters", json_keys_escaped),
    ("JSON values with escaped letters", json_values_escaped),
    ("all of JSON's strings with escaped letters", json_strings_escaped),
    ("GraphQL with a comment between all words", |case| graphql_spaced(case, " #}{\n")),
    ("GraphQL with commas between all words", |case| graphql_spaced(case, ",\t,")),
    ("GraphQL with line ends between all words", |case| graphql_spaced(case, "\r\n")),
    ("root fields with the alias of a merge", |case| graphql(case, |request| request.aliased("mergePullRequest"))),
    ("root fields with a harmless alias", |case| graphql(case, |request| request.aliased("addComment"))),
    ("root fields under conditions", |case| graphql(case, Request::under_conditions)),
    ("selections in a named fragment", |case| graphql(case, Request::in_named_fragment)),
    ("selections in two named fragments", |case| graphql(case, Request::in_two_fragments)),
    ("selections in an inline fragment", |case| graphql(case, |request| request.in_inline_fragment("...on ROOT{"))),
    ("selections in an inline fragment without a type", |case| {
        graphql(case, |request| request.in_inline_fragment("...@include(if:true)@skip(if:false){"))
    }),
    ("strings in variables", |case| graphql(case, |request| request.strings_in_variables(Given::Value))),
    ("strings in defaults of variables", |case| graphql(case, |request| request.strings_in_variables(Given::Default))),
    ("inputs in variables", |case| graphql(case, |request| request.inputs_in_variables(Given::Value))),
    ("inputs in defaults of variables", |case| graphql(case, |request| request.inputs_in_variables(Given::Default))),
    ("inputs in variables with another default", |case| {
        graphql(case, |request| request.inputs_in_variables(Given::Both))
    }),
];

/// Other spellings of a path, which some servers treat as the same path.
const SPELLINGS: [Mutation; 10] = [
    ("one letter percent-encoded", |case| letters(case, |letter| format!("%{letter:02x}"))),
    ("one letter percent-encoded twice", |case| letters(case, |letter| format!("%25{letter:02X}"))),
    ("a doubled slash", |case| slashes(case, "//")),
    ("a segment of a dot", |case| slashes(case, "/./")),
    ("a segment and back", |case| slashes(case, "/x/../")),
    ("an encoded slash", |case| slashes(case, "%2F")),
    ("a backslash", |case| slashes(case, "\\")),
    ("a slash at the end", |case| at_end(case, "/")),
    ("a parameter of the path", |case| at_end(case, ";x=1")),
    ("one more parameter of the query", |case| query(case, "per_page=1")),
];

#[test]
fn what_means_the_same_has_the_same_verdict() {
    let world = World::new();
    let (mut wrong, mut ran) = (Vec::new(), BTreeMap::new());
    for case in corpus() {
        let before = world.explain(&case);
        for (name, mutated) in mutated(&case, &SAME, &mut ran) {
            let after = world.explain(&mutated);
            if decision(&before) != decision(&after) {
                let (before, after) = (decision(&before), decision(&after));
                wrong.push(format!("{} with {name}: {before:?}, then {after:?}\n  {}", case.id, mutated.printed()));
            }
        }
    }
    report(&wrong);
    assert_ran(&SAME, &ran, 1_500);
}

#[test]
fn no_spelling_of_a_path_does_what_is_refused() {
    let world = World::new();
    let (mut wrong, mut ran) = (Vec::new(), BTreeMap::new());
    for case in corpus() {
        let before = world.explain(&case);
        for (name, mutated) in mutated(&case, &SPELLINGS, &mut ran) {
            let after = world.explain(&mutated);
            let fits = match (before.verdict, after.verdict) {
                (_, "deny") => true,
                ("deny", _) => false,
                _ => {
                    let sent = |case: &Case| lenient(&String::from_utf8(world.allowed(case).unwrap().target).unwrap());
                    decision(&before) == decision(&after) && sent(&case) == sent(&mutated)
                }
            };
            if !fits {
                wrong.push(format!("{} with {name}: {after:?}\n  {}", case.id, mutated.printed()));
            }
        }
    }
    report(&wrong);
    assert_ran(&SPELLINGS, &ran, 9_000);
}

/// A verdict without its reason's text.
fn decision(explained: &Explained) -> impl PartialEq + std::fmt::Debug + use<> {
    let Explained { verdict, stage, rule, operation, class, ask, .. } = explained;
    (*verdict, *stage, *rule, operation.clone(), *class, ask.clone())
}

/// The rewritten copies of a case that differ from it, each with the name of its rewriting.
fn mutated(case: &Case, mutations: &[Mutation], ran: &mut BTreeMap<&'static str, usize>) -> Vec<(&'static str, Case)> {
    let mut all = Vec::new();
    for (name, of) in mutations {
        for mutated in of(case).into_iter().filter(|mutated| mutated != case) {
            *ran.entry(*name).or_default() += 1;
            all.push((*name, mutated));
        }
    }
    all
}

fn report(wrong: &[String]) {
    let shown: Vec<&str> = wrong.iter().take(10).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} wrong, of which the first:\n{}", wrong.len(), shown.join("\n"));
}

/// Asserts that each rewriting made at least 10 copies, and all together at least `least`.
fn assert_ran(mutations: &[Mutation], ran: &BTreeMap<&'static str, usize>, least: usize) {
    let total: usize = ran.values().sum();
    println!("{total} copies: {ran:?}");
    for (name, _) in mutations {
        assert!(ran.get(name).is_some_and(|count| *count >= 10), "{name}: {:?} copies", ran.get(name));
    }
    assert!(total >= least, "{total} copies");
}

fn letter_case(case: &Case) -> Vec<Case> {
    let target = case.target.replace("acme/app", "AcMe/APP").replace("acme/secret", "ACME/Secret");
    vec![case.at(target)]
}

fn headers_reversed(case: &Case) -> Vec<Case> {
    let mut around = headers_around(case);
    around.iter_mut().for_each(|case| case.headers.reverse());
    around
}

fn headers_around(case: &Case) -> Vec<Case> {
    let mut headers = vec![("Accept-Language".to_owned(), b"en".to_vec())];
    headers.extend(case.headers.iter().cloned());
    headers.push(("User-Agent".to_owned(), b"x".to_vec()));
    vec![Case { headers, ..case.clone() }]
}

fn header_names_upper(case: &Case) -> Vec<Case> {
    vec![header_names(case, str::to_ascii_uppercase)]
}

fn header_names_lower(case: &Case) -> Vec<Case> {
    vec![header_names(case, str::to_ascii_lowercase)]
}

fn header_names(case: &Case, of: fn(&str) -> String) -> Case {
    let headers = case.headers.iter().map(|(name, value)| (of(name), value.clone())).collect();
    Case { headers, ..case.clone() }
}

fn members_reversed(case: &Case) -> Vec<Case> {
    fn reversed(json: Json) -> Json {
        match json {
            Json::Object(members) => {
                Json::Object(members.into_iter().rev().map(|(name, value)| (name, reversed(value))).collect())
            }
            Json::Array(items) => Json::Array(items.into_iter().map(reversed).collect()),
            json => json,
        }
    }
    let json = Json::parse(case.body.as_bytes());
    json.map(|json| case.with(String::from_utf8(reversed(json).to_bytes()).unwrap())).into_iter().collect()
}

/// Whether the body looks like JSON. Malformed JSON counts too.
fn is_json(case: &Case) -> bool {
    case.body.trim_start_matches('\u{feff}').starts_with(['{', '['])
}

fn json_white_space(case: &Case) -> Vec<Case> {
    let spaced = |text: &str| {
        let mut spaced = String::new();
        for c in text.chars() {
            match c {
                '{' | '[' | ',' | ':' => spaced.extend([c, ' ', '\t', '\r', '\n']),
                '}' | ']' => spaced.extend(['\n', c]),
                _ => spaced.push(c),
            }
        }
        spaced
    };
    if is_json(case) { vec![case.with(json_parts(&case.body, spaced, |_, string| string.to_owned()))] } else { vec![] }
}

fn json_keys_escaped(case: &Case) -> Vec<Case> {
    json_escaped(case, |is_key| is_key)
}

fn json_values_escaped(case: &Case) -> Vec<Case> {
    json_escaped(case, |is_key| !is_key)
}

fn json_strings_escaped(case: &Case) -> Vec<Case> {
    json_escaped(case, |_| true)
}

fn json_escaped(case: &Case, concerns: fn(bool) -> bool) -> Vec<Case> {
    let escaped = |is_key: bool, string: &str| {
        let mut text = String::new();
        let mut rest = string.chars();
        while let Some(c) = rest.next() {
            match c {
                '\\' => {
                    let kind = rest.next().unwrap();
                    text.extend([c, kind]);
                    text.extend(rest.by_ref().take(if kind == 'u' { 4 } else { 0 }));
                }
                _ if c.is_ascii_alphabetic() && concerns(is_key) => text.push_str(&format!("\\u{:04x}", u32::from(c))),
                _ => text.push(c),
            }
        }
        text
    };
    if is_json(case) { vec![case.with(json_parts(&case.body, str::to_owned, escaped))] } else { vec![] }
}

/// Rewrites a JSON text: its strings with `string`, which is told whether a string is a key, and the text between them
/// with `between`.
fn json_parts(text: &str, between: impl Fn(&str) -> String, string: impl Fn(bool, &str) -> String) -> String {
    let mut written = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('"') {
        written.push_str(&between(before));
        let mut end = 0;
        while !after[end..].starts_with('"') {
            end += if after[end..].starts_with('\\') { 2 } else { after[end..].chars().next().unwrap().len_utf8() };
        }
        rest = &after[end + 1..];
        let is_key = rest.trim_start().starts_with(':');
        written.push_str(&format!("\"{}\"", string(is_key, &after[..end])));
    }
    written + &between(rest)
}

fn graphql(case: &Case, rewrite: impl Fn(&Request) -> Option<Request>) -> Vec<Case> {
    let request = if case.target.trim_end_matches('/') == "/graphql" { Request::read(&case.body) } else { None };
    request.and_then(|request| rewrite(&request)).map(|request| case.with(request.write(" "))).into_iter().collect()
}

fn graphql_spaced(case: &Case, between: &str) -> Vec<Case> {
    let request = if case.target.trim_end_matches('/') == "/graphql" { Request::read(&case.body) } else { None };
    request.map(|request| case.with(request.write(between))).into_iter().collect()
}

/// The index at which the path of the target ends.
fn path_end(case: &Case) -> usize {
    case.target.find(['?', '#']).unwrap_or(case.target.len())
}

/// Copies in which one letter of the path is spelled differently, one copy for each letter.
fn letters(case: &Case, written: impl Fn(u8) -> String) -> Vec<Case> {
    let path = case.target[..path_end(case)].bytes().enumerate();
    path.filter(|(_, letter)| letter.is_ascii_alphabetic())
        .map(|(at, letter)| replaced(case, at, &written(letter)))
        .collect()
}

/// Copies in which one slash of the path is spelled differently, one copy for each slash.
fn slashes(case: &Case, written: &str) -> Vec<Case> {
    let path = case.target[..path_end(case)].bytes().enumerate();
    path.filter(|(_, byte)| *byte == b'/').map(|(at, _)| replaced(case, at, written)).collect()
}

fn replaced(case: &Case, at: usize, written: &str) -> Case {
    case.at(format!("{}{written}{}", &case.target[..at], &case.target[at + 1..]))
}

fn at_end(case: &Case, written: &str) -> Vec<Case> {
    let (path, query) = case.target.split_at(path_end(case));
    vec![case.at(format!("{path}{written}{query}"))]
}

fn query(case: &Case, parameter: &str) -> Vec<Case> {
    let sign = if case.target.contains('?') { '&' } else { '?' };
    vec![case.at(format!("{}{sign}{parameter}", case.target))]
}
