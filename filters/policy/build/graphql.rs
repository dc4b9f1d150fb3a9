//! Turns `data/graphql-*.tsv` into static tables, in `graphql.rs` in the build's output directory. Types and fields are
//! sorted for binary search, and refer to each other by 16-bit indices instead of names.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// The rows of a table, by their first column.
type Table = BTreeMap<String, Vec<Vec<String>>>;

/// Writes `graphql.rs` to `out`.
pub fn generate(out: &Path) {
    let mut code = String::new();
    let types = read("data/graphql-types.tsv");
    let inputs = read("data/graphql-inputs.tsv");
    type_tables(&mut code, &types);
    input_tables(&mut code, &inputs);
    mutations(&mut code, &read("data/graphql-mutations.tsv"), &types, &inputs);
    std::fs::write(out.join("graphql.rs"), code).expect("OUT_DIR can be written");
}

fn read(path: &str) -> Table {
    println!("cargo::rerun-if-changed={path}");
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut table = Table::new();
    // The first line tells the source of the file, the second names the columns.
    for line in text.lines().skip(2) {
        assert!(!line.contains('?'), "{path}: judge this row, and take its question marks away: {line}");
        let mut fields = line.split('\t').map(str::to_owned);
        let first = fields.next().unwrap_or_default();
        table.entry(first).or_default().push(fields.collect());
    }
    for rows in table.values_mut() {
        rows.sort();
    }
    table
}

/// The index of `name` in a table, or `u16::MAX` for `-`.
fn place(table: &Table, name: &str) -> u16 {
    if name == "-" {
        return u16::MAX;
    }
    let at = table.keys().position(|key| key == name).unwrap_or_else(|| panic!("no type {name}"));
    u16::try_from(at).expect("the tables are small")
}

fn list(names: &str) -> Vec<&str> {
    names.split(',').filter(|name| *name != "-").collect()
}

fn add(code: &mut String, line: &str) {
    writeln!(code, "{line}").expect("a String takes everything");
}

fn type_tables(code: &mut String, types: &Table) {
    let mut arguments: Vec<Vec<&str>> = vec![Vec::new()];
    let (mut fields, mut heads, mut from) = (String::new(), String::new(), 0);
    for (name, rows) in types {
        for row in rows {
            let [field, returns, taken] = &row[..] else { panic!("graphql-types.tsv: {name}: {row:?}") };
            let taken = list(taken);
            let at = arguments.iter().position(|have| *have == taken).unwrap_or_else(|| {
                arguments.push(taken);
                arguments.len() - 1
            });
            add(&mut fields, &format!("({field:?}, {}, {at}),", place(types, returns)));
        }
        add(&mut heads, &format!("({name:?}, {from}, {}),", from + rows.len()));
        from += rows.len();
    }
    add(code, &format!("static TYPES: &[(&str, u16, u16)] = &[\n{heads}];"));
    add(code, &format!("static FIELDS: &[(&str, u16, u16)] = &[\n{fields}];"));
    let arguments: String = arguments.iter().map(|names| format!("&{names:?},\n")).collect();
    add(code, &format!("static ARGUMENTS: &[&[&str]] = &[\n{arguments}];"));
}

fn input_tables(code: &mut String, inputs: &Table) {
    let (mut fields, mut heads, mut from) = (String::new(), String::new(), 0);
    for (name, rows) in inputs {
        for row in rows {
            let [field, kind, ids] = &row[..] else { panic!("graphql-inputs.tsv: {name}: {row:?}") };
            let kind = match kind.as_str() {
                "ID" => format!("InputKind::Id(&{:?})", list(ids)),
                "String" | "Enum" | "Boolean" | "Number" => format!("InputKind::{kind}"),
                other => format!("InputKind::Object({})", place(inputs, other)),
            };
            add(&mut fields, &format!("({field:?}, {kind}),"));
        }
        add(&mut heads, &format!("({name:?}, {from}, {}),", from + rows.len()));
        from += rows.len();
    }
    add(code, &format!("static INPUTS: &[(&str, u16, u16)] = &[\n{heads}];"));
    add(code, &format!("static INPUT_FIELDS: &[(&str, InputKind)] = &[\n{fields}];"));
}

fn mutations(code: &mut String, mutations: &Table, types: &Table, inputs: &Table) {
    let mut rows = String::new();
    for (name, row) in mutations {
        let [class, input, payload, default, _availability] = &row[0][..] else {
            panic!("graphql-mutations.tsv: {name}: {row:?}")
        };
        let class: String = class.split('-').map(|word| word[..1].to_uppercase() + &word[1..]).collect();
        let (input, payload, off) = (place(inputs, input), place(types, payload), default == "off");
        let row = format!(
            "Mutation {{ name: {name:?}, class: Class::{class}, input: {input}, payload: {payload}, off: {off} }},"
        );
        add(&mut rows, &row);
    }
    add(code, &format!("static MUTATIONS: &[Mutation] = &[\n{rows}];"));
}
