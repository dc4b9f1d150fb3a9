//! Each link in the documents leads to a file of the repository and to a heading in it. Links to other sites are not
//! followed. Needs no gateway.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The documents beside docs/.
const DOCUMENTS: [&str; 6] =
    ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "envoy/README.md", "tests/README.md"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The documents below `directory`.
fn documents(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(documents(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found
}

/// The lines of `text` outside its fenced blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// The anchors of the headings of `text`, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let anchor = |heading: &str| {
        let kept = heading.trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ' '));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    prose(text).filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#'))).collect()
}

/// The targets of the links in `text`.
fn links(text: &str) -> Vec<&str> {
    let outside_code = prose(text).flat_map(|line| line.split('`').step_by(2));
    let parts = outside_code.flat_map(|part| part.split("](").skip(1));
    parts.filter_map(|part| part.split_once(')')).map(|(target, _)| target).collect()
}

#[test]
fn every_link_in_the_documents_leads_to_a_file_and_a_heading() {
    let root = root();
    let mut paths: Vec<PathBuf> = DOCUMENTS.iter().map(|name| root.join(name)).collect();
    paths.extend(documents(&root.join("docs")));
    let mut broken = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let local = links(&text).into_iter().filter(|target| !target.contains("://"));
        for target in local {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let there = file.exists()
                && (anchor.is_empty() || anchors(&std::fs::read_to_string(&file).unwrap()).contains(anchor));
            if !there {
                broken.push(format!("{}: {target}", path.strip_prefix(&root).unwrap().display()));
            }
        }
    }
    assert!(broken.is_empty(), "these links lead nowhere:\n{}", broken.join("\n"));
}

#[test]
fn links_and_anchors_are_those_of_github() {
    let text = "# What `x` holds, always\n[a](b.md#c) `[no](link)`\n```\n# not [a](heading)\n```\n[d](#e) [f](g)\n";
    assert_eq!(links(text), ["b.md#c", "#e", "g"]);
    assert_eq!(anchors(text), BTreeSet::from(["what-x-holds-always".to_owned()]));
}
