//! The words of the project, held against the six rules of CONTRIBUTING.md: a list of phrases that documents, comments
//! and messages must not contain, and the form of commit subjects. Needs no gateway.
//!
//! To exempt one sentence, add the sentence to [`EXEMPT`] with a reason. A stale entry of [`EXEMPT`] is an error.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Phrases that hide a subject, wherever they stand in a sentence.
const PHRASES: [&str; 29] = [
    "anybody's",
    "are none",
    "but for",
    "by whom",
    "for whom",
    "from whom",
    "is none",
    "is nobody",
    "it is to be",
    "nobody but",
    "nobody else's",
    "nobody's",
    "none but",
    "none is",
    "none of which",
    "nothing but",
    "of none",
    "of nobody",
    "of such",
    "of what",
    "of whom",
    "of whose",
    "somebody else's",
    "somebody's",
    "that which",
    "there are none",
    "to whom",
    "whoever",
    "with whom",
];

/// Words that begin no sentence, no item of a list and no cell of a table. A question may begin with them.
const BEGINNINGS: [&str; 11] =
    ["Nobody", "None", "One that", "Such", "That", "That which", "What", "Whatever", "Whichever", "Who", "Whoever"];

/// Sentences that may stay: the file, a part of the sentence, the reason.
const EXEMPT: &[(&str, &str, &str)] =
    &[("CONTRIBUTING.md", "Do not begin with what, whoever", "the rule names the words")];

/// The commit from which on subjects have the form `area: imperative`.
const BASE: &str = "f225f90";
/// The length of a subject in characters.
const SUBJECT: usize = 72;

/// A sentence that breaks a rule.
#[derive(Debug, PartialEq)]
struct Finding {
    /// The file, relative to the root.
    file: String,
    /// The line on which the paragraph or comment begins.
    line: usize,
    phrase: String,
    sentence: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The files below `directory` that have words: documents, sources and configuration. Built files are left out.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path));
        } else if path.is_file() && kind(&name).is_some() {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// How a file marks its words.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Markdown,
    Rust,
    /// `#` begins a comment.
    Hash,
}

fn kind(name: &str) -> Option<Kind> {
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    if ends(&[".md"]) {
        Some(Kind::Markdown)
    } else if ends(&[".rs", ".proto"]) {
        Some(Kind::Rust)
    } else if ends(&[".yaml", ".yml", ".yaml.example", ".sh", ".py", ".toml", "Makefile", "Dockerfile.control"]) {
        Some(Kind::Hash)
    } else {
        None
    }
}

/// The paragraphs of a document or the comments of a source, each with its first line.
fn paragraphs(kind: Kind, text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let (mut open, mut fenced) = (false, false);
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())).peekable();
    while let Some((number, line)) = lines.next() {
        let comment = |marks: &[&str]| marks.iter().find_map(|mark| line.strip_prefix(mark)).map(str::trim);
        let words = match kind {
            Kind::Markdown => Some(line),
            Kind::Rust => comment(&["//!", "///", "//"]),
            Kind::Hash => comment(&["#"]),
        };
        if kind == Kind::Rust && words.is_none() {
            let messages = ["#[error(\"", "help = \"", "about = \""];
            found.extend(
                messages.iter().filter_map(|message| line.split_once(message)).map(|(_, rest)| (number, rest.into())),
            );
        }
        let Some(words) = words else {
            open = false;
            continue;
        };
        if words.starts_with("```") {
            fenced = !fenced;
            open = false;
            continue;
        }
        // Headings, also those of a table, are no sentences.
        let heads_table = words.starts_with('|') && lines.peek().is_some_and(|(_, next)| next.contains("| --- |"));
        if fenced || words.is_empty() || heads_table || kind == Kind::Markdown && words.starts_with('#') {
            open = false;
            continue;
        }
        let item = words.strip_prefix("- ").or_else(|| words.strip_prefix("| ")).or_else(|| words.strip_prefix('#'));
        let numbered = words.split_once(". ").is_some_and(|(number, _)| number.bytes().all(|b| b.is_ascii_digit()));
        if let (true, None, false, Some((_, paragraph))) = (open, item, numbered, found.last_mut()) {
            *paragraph += " ";
            *paragraph += words;
        } else if words.starts_with('|') {
            found.extend(words.split('|').map(|cell| (number, cell.trim().to_owned())));
        } else {
            let words = item.unwrap_or(words).trim_start_matches(['#', ' ']);
            let words = if numbered { words.split_once(". ").map_or(words, |(_, rest)| rest) } else { words };
            found.push((number, words.to_owned()));
        }
        open = true;
    }
    found
}

/// The sentences of `paragraph`, without code spans and emphasis.
fn sentences(paragraph: &str) -> Vec<String> {
    let mut plain = String::new();
    for (index, part) in paragraph.split('`').enumerate() {
        plain += if index % 2 == 0 { part } else { "`" };
    }
    let plain = plain.replace(['*', '_'], "").replace("e.g. ", "e.g., ").replace("i.e. ", "i.e., ");
    let mut sentences = Vec::new();
    let mut rest = plain.as_str();
    while let Some(end) = rest.find(". ").into_iter().chain(rest.find("? ")).chain(rest.find("! ")).min() {
        sentences.push(rest[..=end].trim().to_owned());
        rest = &rest[end + 2..];
    }
    sentences.push(rest.trim().to_owned());
    sentences.retain(|sentence| !sentence.is_empty());
    sentences
}

/// The phrase of the list that `sentence` breaks.
fn broken(sentence: &str) -> Option<&'static str> {
    let lower = sentence.to_lowercase();
    let is_letter = |c: char| c.is_alphanumeric() || c == '\'';
    let within = |phrase: &str| {
        lower.match_indices(phrase).any(|(at, _)| {
            !lower[..at].chars().next_back().is_some_and(is_letter)
                && (phrase.ends_with(' ') || !lower[at + phrase.len()..].chars().next().is_some_and(is_letter))
        })
    };
    let begins = |word: &str| {
        lower.strip_prefix(&word.to_lowercase()).is_some_and(|rest| rest.starts_with(' ')) && !sentence.ends_with('?')
    };
    BEGINNINGS.into_iter().find(|word| begins(word)).or_else(|| PHRASES.into_iter().find(|phrase| within(phrase)))
}

/// All findings of one file.
fn findings(file: &str, text: &str) -> Vec<Finding> {
    let Some(kind) = kind(file) else { return Vec::new() };
    let mut findings = Vec::new();
    for (line, paragraph) in paragraphs(kind, text) {
        for sentence in sentences(&paragraph) {
            if let Some(phrase) = broken(&sentence) {
                findings.push(Finding { file: file.to_owned(), line, phrase: phrase.to_owned(), sentence });
            }
        }
    }
    findings
}

#[test]
fn documents_and_comments_use_plain_words() {
    let root = root();
    let mut all = Vec::new();
    for path in files(&root) {
        let file = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        all.extend(findings(&file, &std::fs::read_to_string(&path).unwrap()));
    }
    let exempt = |finding: &Finding, (file, part, _): &(&str, &str, &str)| {
        finding.file == *file && finding.sentence.contains(part)
    };
    let left: Vec<String> = all
        .iter()
        .filter(|finding| !EXEMPT.iter().any(|entry| exempt(finding, entry)))
        .map(|Finding { file, line, phrase, sentence }| format!("{file}:{line}: \"{phrase}\": {sentence}"))
        .collect();
    assert!(left.is_empty(), "rewrite these (CONTRIBUTING.md, Words):\n{}", left.join("\n"));
    let stale = EXEMPT.iter().filter(|entry| !all.iter().any(|finding| exempt(finding, entry)));
    assert_eq!(stale.collect::<Vec<_>>(), <[&(&str, &str, &str); 0]>::default(), "remove these from EXEMPT");
}

/// The reason why `subject` has a wrong form.
fn wrong(subject: &str) -> Option<&'static str> {
    let Some((area, rest)) = subject.split_once(": ") else { return Some("expected `area: imperative`") };
    let lower = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    if area.split(", ").any(|area| area.is_empty() || !area.bytes().all(lower)) {
        Some("an area is one lower-case word")
    } else if rest.starts_with(|first: char| first.is_uppercase()) {
        Some("the imperative begins in lower case")
    } else if subject.ends_with('.') {
        Some("a subject has no full stop")
    } else if subject.chars().count() > SUBJECT {
        Some("a subject has at most 72 characters")
    } else {
        None
    }
}

#[test]
fn commit_subjects_name_an_area_and_are_short() {
    let git = |arguments: &[&str]| Command::new("git").arg("-C").arg(root()).args(arguments).output();
    let known = git(&["merge-base", "--is-ancestor", BASE, "HEAD"]).is_ok_and(|output| output.status.success());
    if !known {
        // Not by a macro: the test harness would capture the line, and tests/summary.sh reads it.
        let _told = writeln!(std::io::stderr(), "skipped: commit subjects: this copy has no history back to {BASE}");
        return;
    }
    let range = format!("{BASE}..HEAD");
    let output = git(&["log", "--no-merges", "--format=%h%x09%s", &range]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let log = String::from_utf8(output.stdout).unwrap();
    let commits = log.lines().filter_map(|line| line.split_once('\t'));
    let bad = commits.filter_map(|(id, subject)| Some(format!("{id} {subject:?}: {}", wrong(subject)?)));
    assert_eq!(bad.collect::<Vec<_>>(), <[String; 0]>::default());
}

#[test]
fn a_subject_has_an_area_and_at_most_72_characters() {
    for good in
        ["push: hold the trailer", "push, github: run the flows", "git-wire: reject `0003`", "docs: name HTTP/2"]
    {
        assert_eq!(wrong(good), None, "{good}");
    }
    let long = format!("push: {}", "x".repeat(67));
    for bad in ["Hold the trailer", "Push: hold it", "push: Hold it", "push: hold it.", "a b: hold it", &long] {
        assert!(wrong(bad).is_some(), "{bad}");
    }
}

#[test]
fn phrases_are_found_in_sentences_cells_and_comments() {
    let found = |file: &str, text: &str| findings(file, text).into_iter().map(|found| found.line).collect::<Vec<_>>();
    assert_eq!(found("a.md", "A line\nof the paragraph. Whoever\nasks.\n\nFine."), [1]);
    assert_eq!(found("a.md", "- What is so\n- fine\n\n| what is so | a client |\n"), [1, 4]);
    assert_eq!(
        found(
            "a.md",
            "# What a rule is\n\n| what to do | b |\n| --- | --- |\n\nWhat is a rule? `nobody's`\n\n```\nwhoever\n```\n"
        ),
        [0usize; 0]
    );
    assert_eq!(found("a.rs", "/// Whether there\n/// is none.\nfn a() { \"whoever\" }\n"), [1]);
    assert_eq!(found("a.rs", "    #[error(\"nobody's friend\")]\n"), [1]);
    assert_eq!(found("a.yaml", "# of whom\nkey: whoever\n"), [1]);
    assert_eq!(found("a.md", "Nobodys and whatever are other words."), [0usize; 0]);
}
