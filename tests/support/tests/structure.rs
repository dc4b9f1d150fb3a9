//! The modules of each crate, held against their imports: siblings import each other without a circle. Needs no gateway.
//!
//! The test reads `crate::…` and `super::…` paths in sources. A path through a re-export counts as an import of the
//! re-exported module. Code for tests is left out. A module may use items of the module that declares it, and the
//! declaring module may use items of its children: the two are one room.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The directories whose crates are read.
const CRATES: [&str; 2] = ["control-plane", "filters"];

/// The path of a module inside its crate. The root's path is empty.
type Module = Vec<String>;

/// The sources of one crate by module, without code for tests.
type Sources = BTreeMap<Module, String>;

/// The arrows between the children of each module: importer and imported.
type Arrows = BTreeMap<Module, BTreeSet<(String, String)>>;

/// The sources below `src`, and the modules that only tests have.
fn read(src: &Path) -> Sources {
    let (mut sources, mut tests) = (Sources::new(), Vec::new());
    let mut directories = vec![src.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let module: Module = path.strip_prefix(src).unwrap().with_extension("").iter().map(text).collect();
                let module = if module == ["lib"] || module == ["main"] { Module::new() } else { module };
                let (source, own) = without_tests(&std::fs::read_to_string(&path).unwrap());
                tests.extend(own.into_iter().map(|name| [module.clone(), vec![name]].concat()));
                sources.insert(module, source);
            }
        }
    }
    sources.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
    sources
}

fn text(part: &std::ffi::OsStr) -> String {
    part.to_string_lossy().into_owned()
}

/// `source` without comments and without the items that only tests have, and the names of the modules among those.
fn without_tests(source: &str) -> (String, Vec<String>) {
    let (mut kept, mut modules, mut skipping) = (String::new(), Vec::new(), false);
    for line in source.lines() {
        let code = line.trim_start();
        if line.starts_with("#[cfg(") && line.contains("test") {
            skipping = true;
        } else if !skipping {
            if !code.starts_with("//") {
                kept.push_str(line);
                kept.push('\n');
            }
        } else if line.starts_with(|c: char| !c.is_whitespace() && c != '#') && line.ends_with([';', '}']) {
            // rustfmt puts the end of an item at the start of a line.
            skipping = false;
            modules.extend(code.strip_suffix(';').and_then(|code| code.rsplit_once("mod ")).map(|(_, n)| n.to_owned()));
        }
    }
    (kept, modules)
}

/// The paths of the tree at the start of `rest`, such as `a::{b, c::D}`, each behind `head`.
fn tree(head: &[String], rest: &str) -> Vec<Module> {
    let rest = rest.trim_start();
    if let Some(group) = rest.strip_prefix('{') {
        let (mut depth, mut start, mut found) = (0, 0, Vec::new());
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    found.extend(tree(head, &group[start..at]));
                    start = at + 1;
                    if c == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
        return found;
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let (name, behind) = rest.split_at(end);
    if name.is_empty() {
        return Vec::new();
    }
    let path = [head, &[name.to_owned()]].concat();
    match behind.strip_prefix("::") {
        Some(more) if more.starts_with(['*', '<']) => vec![path],
        Some(more) => tree(&path, more),
        None => vec![path],
    }
}

/// The paths in `source` that begin with `word::`.
fn paths(source: &str, word: &str) -> Vec<Module> {
    let start = format!("{word}::");
    let whole = |at: usize| !source[..at].ends_with(|c: char| c.is_alphanumeric() || "_:$".contains(c));
    let starts = source.match_indices(&start).map(|(at, _)| at).filter(|at| whole(*at));
    starts.flat_map(|at| tree(&[], &source[at..])).collect()
}

/// The deepest module that `path` leads to, through at most one re-export.
fn home(sources: &Sources, path: &[String]) -> Module {
    let depth = (0..=path.len()).rev().find(|depth| sources.contains_key(&path[..*depth])).unwrap_or(0);
    let module = &path[..depth];
    let Some(name) = path.get(depth) else { return module.to_vec() };
    let source = sources.get(module).map_or("", String::as_str);
    let children = sources.keys().filter(|child| child.len() == depth + 1 && child.starts_with(module));
    let mut exported = children.filter(|child| {
        let uses = source.split(';').filter_map(|item| item.trim().rsplit_once("use ").map(|(_, tree)| tree));
        let child = child.last().unwrap();
        uses.flat_map(|import| tree(&[], import.strip_prefix("self::").unwrap_or(import)))
            .any(|import| import.first() == Some(child) && import.last() == Some(name))
    });
    exported.next_back().cloned().unwrap_or_else(|| module.to_vec())
}

/// The arrows between siblings.
fn arrows(sources: &Sources) -> Arrows {
    let mut arrows = Arrows::new();
    for (module, source) in sources {
        let mut imported: Vec<Module> = paths(source, "crate").iter().map(|path| path[1..].to_vec()).collect();
        for path in paths(source, "super") {
            let up = path.iter().take_while(|part| *part == "super").count().min(module.len());
            imported.push([&module[..module.len() - up], &path[up..]].concat());
        }
        for path in imported {
            let home = home(sources, &path);
            let common = module.iter().zip(&home).take_while(|(a, b)| a == b).count();
            if let (Some(from), Some(to)) = (module.get(common), home.get(common)) {
                arrows.entry(module[..common].to_vec()).or_default().insert((from.clone(), to.clone()));
            }
        }
    }
    arrows
}

/// The rest of `arrows` after modules without importers or without imports are removed, one by one.
fn circle(arrows: &BTreeSet<(String, String)>) -> BTreeSet<(String, String)> {
    let mut left = arrows.clone();
    loop {
        let (from, to): (BTreeSet<_>, BTreeSet<_>) = left.iter().cloned().unzip();
        let inside = |(a, b): &(String, String)| to.contains(a) && from.contains(b);
        let fewer: BTreeSet<_> = left.iter().filter(|arrow| inside(arrow)).cloned().collect();
        if fewer.len() == left.len() {
            return left;
        }
        left = fewer;
    }
}

#[test]
fn modules_import_each_other_without_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let (mut circles, mut crates, mut modules, mut all) = (BTreeMap::new(), 0, 0, 0);
    for directory in CRATES {
        let inside = std::fs::read_dir(root.join(directory)).unwrap().map(|entry| entry.unwrap().path());
        for member in inside.chain([root.join(directory)]).filter(|path| path.join("Cargo.toml").is_file()) {
            let sources = read(&member.join("src"));
            let name = member.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            crates += 1;
            modules += sources.len();
            for (module, arrows) in arrows(&sources) {
                all += arrows.len();
                let circle = circle(&arrows);
                if !circle.is_empty() {
                    circles.insert(name.clone(), format!("{}: {circle:?}", module.join("::")));
                }
            }
        }
    }
    println!("{crates} crates, {modules} modules, {all} arrows between siblings");
    assert!(crates > 15 && all > 100, "the crates are not where they were: {crates} with {all} arrows");
    assert!(circles.is_empty(), "modules import each other in a circle: {circles:#?}");
}

#[test]
fn an_arrow_back_is_seen_in_every_form() {
    let sources = |files: &[(&str, &str)]| -> Sources {
        let module = |path: &str| path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
        files.iter().map(|(path, source)| (module(path), without_tests(source).0)).collect()
    };
    let circles = |back: &str| {
        let root = "mod a;\nmod b;\npub use self::a::{Item, more::Deep};\n";
        let all = sources(&[("", root), ("a", "use crate::b::{self, Thing};"), ("b", back), ("b::c", "")]);
        arrows(&all).values().filter(|arrows| !circle(arrows).is_empty()).count()
    };
    for back in [
        "use crate::a::Item;",
        "use crate::{\n    b::c,\n    a::{Item, Other},\n};",
        "use super::a;",
        "use crate::Item;",
        "fn f() -> crate::a::Item {}",
    ] {
        assert_eq!(circles(back), 1, "{back}");
    }
    for forward in [
        "use crate::b::c;",
        "use self::c::Item;",
        "// use crate::a;",
        "#[cfg(test)]\nmod tests {\n    use crate::a;\n}\n",
        "use other_crate::a;",
    ] {
        assert_eq!(circles(forward), 0, "{forward}");
    }
}

/// The lines of a file that tells one story. A longer file says in its head why it is longer.
const LINES: usize = 600;

#[test]
fn a_file_of_more_than_600_lines_says_why() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let (mut directories, mut files, mut silent) = (vec![root.clone()], 0, Vec::new());
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                directories.push(path);
            } else if name.ends_with(".rs") {
                files += 1;
                let source = std::fs::read_to_string(&path).unwrap();
                let head = source.lines().take_while(|line| line.starts_with("//!"));
                let reason = head.into_iter().any(|line| line.contains("longer than 600 lines because"));
                if source.lines().count() > LINES && !reason {
                    silent.push(path.strip_prefix(&root).unwrap().to_owned());
                }
            }
        }
    }
    assert!(files > 200, "the sources are not where they were: {files} files");
    assert!(silent.is_empty(), "longer than {LINES} lines without a reason in the head: {silent:?}");
}
