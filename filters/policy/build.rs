//! Turns the tables of GitHub's operations in `data/` into static tables.

#![expect(clippy::expect_used, clippy::panic, reason = "a build that cannot be made fails")]

#[path = "build/graphql.rs"]
mod graphql;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

fn main() {
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    rest(Path::new(&out));
    graphql::generate(Path::new(&out));
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=data");
}

/// Writes `rest.rs`: the operations sorted by their [`key`], with an index by key.
fn rest(out: &Path) {
    let text = std::fs::read_to_string("data/rest.tsv").expect("data/rest.tsv is there");
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines().skip(1) {
        assert!(!line.contains('?'), "data/rest.tsv: judge this row, and take its question marks away: {line}");
        let fields: Vec<&str> = line.split('\t').collect();
        let [method, template, operation, class, _scoped, host, multi, body, query, _availability, default] =
            fields[..]
        else {
            panic!("data/rest.tsv: not eleven fields: {line}");
        };
        let name = if operation == "-" { format!("{method} {template}") } else { operation.to_owned() };
        let class: String = class.split('-').map(|word| word[..1].to_uppercase() + &word[1..]).collect();
        let list = |field: &str| match field {
            "-" => "&[]".to_owned(),
            names => format!("&{:?}", names.split(',').collect::<Vec<_>>()),
        };
        let row = format!(
            "Row {{ method: {method:?}, template: {template:?}, name: {name:?}, class: Class::{class}, uploads: {}, \
             multi: {multi:?}, body: {}, query: {}, off: {} }},\n",
            host == "uploads.github.com",
            list(body),
            list(query),
            default == "off",
        );
        groups.entry(key(method, template)).or_default().push(row);
    }
    let mut rows = String::new();
    let mut index = String::new();
    let mut count = 0;
    for (key, group) in groups {
        writeln!(index, "({key:?}, {count}, {}),", count + group.len()).expect("a String takes everything");
        count += group.len();
        rows.extend(group);
    }
    let code =
        format!("static ROWS: [Row; {count}] = [\n{rows}];\nstatic INDEX: &[(&str, usize, usize)] = &[\n{index}];\n");
    std::fs::write(out.join("rest.rs"), code).expect("OUT_DIR can be written");
}

/// The key by which a request is looked up: the method and the first word of the path, or below `/repos/{owner}/{repo}`
/// the word after the repository's name. `rest::key` computes the same keys.
fn key(method: &str, template: &str) -> String {
    let mut parts = template.split('/').skip(1);
    let first = parts.next().unwrap_or_default();
    match first {
        "repos" => format!("{method} repos/{}", parts.nth(2).unwrap_or_default()),
        _ => format!("{method} {first}"),
    }
}
