//! The cases of the corpus in tests/corpus/push, and the bytes of their bodies. The corpus's README documents the
//! fields.

use super::Server;
use super::pack::{self, COMMIT, NO_TREE, Name, Pack};
use policy::{BranchRules, Container};
use push::Oid;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// The default values of a case's fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Defaults {
    container: Container,
    rules: BranchRules,
    commits: BTreeMap<String, Commit>,
    git_refs: BTreeMap<String, String>,
}

/// One line of cases.jsonl.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    why: String,
    container: Option<Container>,
    rules: Option<BranchRules>,
    #[serde(default)]
    push_options: BTreeSet<String>,
    #[serde(default)]
    commits: BTreeMap<String, Commit>,
    git_refs: Option<BTreeMap<String, String>>,
    body: Vec<Part>,
    #[serde(default)]
    cut: usize,
    expect: Expect,
    #[serde(default)]
    runs: Runs,
}

#[derive(Clone, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Commit {
    Parents(Vec<String>),
    Text(String),
    Chain {
        chain: usize,
        from: String,
        #[serde(default)]
        deltas: bool,
    },
    Fan {
        fan: usize,
        #[serde(default)]
        and: Vec<String>,
    },
    Sized {
        bytes: usize,
        parents: Vec<String>,
    },
}

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Part {
    Raw(String),
    Line { line: String },
    Hex { hex: String },
    Repeat { repeat: usize, parts: Vec<Part> },
    Pack { pack: Vec<Object>, version: Option<u32>, count: Option<u32>, trailer: Option<String> },
}

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Object {
    Whole(String),
    Times {
        commit: String,
        times: usize,
    },
    Delta {
        commit: String,
        of: String,
        by: By,
    },
    Any {
        kind: u8,
        #[serde(default)]
        content: String,
        #[serde(default)]
        zeros: u64,
        size: Option<u64>,
        #[serde(default)]
        size_bytes: usize,
        #[serde(default)]
        stored: bool,
        #[serde(default)]
        broken: bool,
    },
    Hex {
        hex: String,
    },
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum By {
    Offset,
    Name,
}

/// The expected outcome of a push.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    pub verdict: Verdict,
    /// The rule that refuses the push.
    pub rule: Option<String>,
    /// Each ref that is not moved, and whether the push was refused because of it.
    pub refs: Option<BTreeMap<String, bool>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Allow,
    Deny,
}

/// How often a case runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runs {
    /// At every pace.
    #[default]
    Always,
    /// At one pace.
    Once,
    /// At one pace, and only in optimized builds.
    Optimized,
}

/// One case of the corpus.
pub struct Case {
    pub name: String,
    pub why: String,
    pub container: Container,
    pub rules: BranchRules,
    pub push_options: BTreeSet<String>,
    pub expect: Expect,
    pub runs: Runs,
    commits: BTreeMap<String, Commit>,
    git_refs: BTreeMap<String, String>,
    parts: Vec<Part>,
    cut: usize,
}

/// A body, and the offset of the first pack's trailer, if the pack gives the correct number of objects.
pub struct Body {
    pub bytes: Vec<u8>,
    pub trailer: Option<usize>,
}

/// All cases.
pub fn corpus() -> Vec<Case> {
    let defaults = include_str!("../../../../tests/corpus/push/defaults.json");
    let cases = include_str!("../../../../tests/corpus/push/cases.jsonl");
    let defaults: Defaults = serde_json::from_str(defaults).expect("defaults.json");
    let case = |line: &str| {
        let line: Line = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Case {
            container: line.container.unwrap_or_else(|| defaults.container.clone()),
            rules: line.rules.unwrap_or_else(|| defaults.rules.clone()),
            push_options: line.push_options,
            commits: defaults.commits.clone().into_iter().chain(line.commits).collect(),
            git_refs: line.git_refs.unwrap_or_else(|| defaults.git_refs.clone()),
            name: line.name,
            why: line.why,
            expect: line.expect,
            runs: line.runs,
            parts: line.body,
            cut: line.cut,
        }
    };
    cases.lines().map(case).collect()
}

impl Case {
    /// The body, byte for byte.
    pub fn body(&self) -> Body {
        let mut body = Body { bytes: Vec::new(), trailer: None };
        let mut texts = Texts { case: self, texts: BTreeMap::new() };
        self.parts.iter().for_each(|part| texts.part(part, None, &mut body));
        body.bytes.truncate(body.bytes.len() - self.cut);
        body
    }

    /// The server's refs, with the ids of their commits.
    pub fn refs(&self) -> BTreeMap<String, String> {
        let mut texts = Texts { case: self, texts: BTreeMap::new() };
        self.git_refs.iter().map(|(name, label)| (name.clone(), pack::hex(&texts.name(label)))).collect()
    }

    /// The texts of the commits that the server has, each after its parents.
    pub fn on_server(&self) -> Vec<Vec<u8>> {
        let mut texts = Texts { case: self, texts: BTreeMap::new() };
        let (mut labels, mut todo) = (Vec::new(), self.git_refs.values().collect::<Vec<_>>());
        while let Some(label) = todo.pop() {
            labels.retain(|known| *known != label);
            labels.push(label);
            todo.extend(self.parents(label));
        }
        labels.iter().rev().map(|label| texts.text(label)).collect()
    }

    /// These commits and their ancestors.
    fn reach<'a>(&'a self, from: impl IntoIterator<Item = &'a String>) -> BTreeSet<&'a String> {
        let (mut seen, mut todo) = (BTreeSet::new(), from.into_iter().collect::<Vec<_>>());
        while let Some(label) = todo.pop() {
            if seen.insert(label) {
                todo.extend(self.parents(label));
            }
        }
        seen
    }

    fn parents(&self, label: &str) -> &[String] {
        match self.commits.get(label) {
            Some(Commit::Parents(parents) | Commit::Sized { parents, .. }) => parents,
            Some(_) => panic!("{}: {label} is not plain enough for a server", self.name),
            None => panic!("{}: there is no commit {label}", self.name),
        }
    }
}

impl Server for Case {
    fn at(&self, name: &str) -> Option<Oid> {
        let mut texts = Texts { case: self, texts: BTreeMap::new() };
        self.git_refs.get(name).map(|label| Oid::from(texts.name(label)))
    }

    fn descends(&self, commit: &Oid, ancestor: &Oid) -> bool {
        let mut texts = Texts { case: self, texts: BTreeMap::new() };
        let mut called = |name: &Oid, label: &str| texts.name(label) == *name.as_bytes();
        let server = self.reach(self.git_refs.values());
        let Some(label) = server.into_iter().find(|label| called(commit, label)) else { return false };
        self.reach([label]).into_iter().any(|label| called(ancestor, label))
    }
}

/// The texts of the commits that were built so far.
struct Texts<'a> {
    case: &'a Case,
    /// A chain has several texts, every other commit one.
    texts: BTreeMap<String, Vec<Vec<u8>>>,
}

impl Texts<'_> {
    fn name(&mut self, label: &str) -> Name {
        pack::name("commit", &self.text(label))
    }

    fn text(&mut self, label: &str) -> Vec<u8> {
        self.all(label).last().expect("at least one").clone()
    }

    fn all(&mut self, label: &str) -> &[Vec<u8>] {
        if !self.texts.contains_key(label) {
            let made = self.make(label);
            self.texts.insert(label.to_owned(), made);
        }
        &self.texts[label]
    }

    fn make(&mut self, label: &str) -> Vec<Vec<u8>> {
        let Some(commit) = self.case.commits.get(label).cloned() else {
            panic!("{}: there is no commit {label}", self.case.name)
        };
        match commit {
            Commit::Parents(parents) => vec![pack::commit(&self.names(&parents), label)],
            Commit::Text(text) => vec![self.filled(&text, None).into_bytes()],
            Commit::Chain { chain, from, .. } => {
                let mut tip = self.name(&from);
                let mut texts = Vec::with_capacity(chain);
                for at in 0..chain {
                    let text = pack::commit(&[tip], &format!("{label} {at}"));
                    tip = pack::name("commit", &text);
                    texts.push(text);
                }
                texts
            }
            Commit::Fan { fan, and } => {
                let mut parents: Vec<_> = (0..fan).map(|at| pack::name("commit", at.to_string().as_bytes())).collect();
                parents.extend(self.names(&and));
                vec![pack::commit(&parents, label)]
            }
            Commit::Sized { bytes, parents } => {
                let short = pack::commit(&self.names(&parents), label).len();
                vec![pack::commit(&self.names(&parents), &format!("{label}{}", ".".repeat(bytes - short)))]
            }
        }
    }

    fn names(&mut self, labels: &[String]) -> Vec<Name> {
        labels.iter().map(|label| self.name(label)).collect()
    }

    /// Replaces the placeholders in braces.
    fn filled(&mut self, text: &str, number: Option<usize>) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (label, after) = after.split_once('}').unwrap_or_else(|| panic!("{}: {text}", self.case.name));
            out += before;
            match (label, number) {
                ("0", _) => out += &"0".repeat(40),
                ("tree", _) => out += NO_TREE,
                ("n", Some(number)) => out += &number.to_string(),
                (label, _) => match label.strip_suffix("^^") {
                    Some(label) => out += &pack::hex(&self.name(label)).to_uppercase(),
                    None => out += &pack::hex(&self.name(label)),
                },
            }
            rest = after;
        }
        out + rest
    }

    fn part(&mut self, part: &Part, number: Option<usize>, body: &mut Body) {
        match part {
            Part::Raw(text) => body.bytes.extend(self.filled(text, number).bytes()),
            Part::Line { line } => {
                let line = self.filled(line, number);
                body.bytes.extend(format!("{:04x}{line}", line.len() + 4).bytes());
            }
            Part::Hex { hex } => body.bytes.extend(unhex(hex)),
            Part::Repeat { repeat, parts } => {
                for number in 0..*repeat {
                    parts.iter().for_each(|part| self.part(part, Some(number), body));
                }
            }
            Part::Pack { pack, version, count, trailer } => {
                let bytes = self.pack(pack, version.unwrap_or(2), *count);
                let end = body.bytes.len() + bytes.len();
                if count.is_none() {
                    body.trailer.get_or_insert(end - 20);
                }
                body.bytes.extend(bytes);
                if let Some(trailer) = trailer {
                    body.bytes.truncate(end - 20);
                    body.bytes.extend(unhex(trailer));
                }
            }
        }
    }

    fn pack(&mut self, objects: &[Object], version: u32, count: Option<u32>) -> Vec<u8> {
        let mut pack = Pack::new(version, 0);
        let mut places = BTreeMap::new();
        let mut written = 0;
        for object in objects {
            written += self.object(object, &mut pack, &mut places);
        }
        let count = count.unwrap_or_else(|| u32::try_from(written).expect("32 bits"));
        pack.0[8..12].copy_from_slice(&count.to_be_bytes());
        pack.finish()
    }

    /// Appends the object to `pack`. Returns the number of objects that it appended.
    fn object(&mut self, object: &Object, pack: &mut Pack, places: &mut BTreeMap<String, usize>) -> usize {
        match object {
            Object::Whole(label) => {
                places.insert(label.clone(), pack.at());
                let deltas = matches!(self.case.commits.get(label), Some(Commit::Chain { deltas: true, .. }));
                let texts = self.all(label);
                let mut before: Option<(usize, &[u8])> = None;
                for text in texts {
                    let at = pack.at();
                    match before.filter(|_| deltas) {
                        Some((base, base_text)) => pack.offset_delta(base, &pack::delta(base_text, text)),
                        None => pack.object(COMMIT, text),
                    }
                    before = Some((at, text));
                }
                texts.len()
            }
            Object::Times { commit, times } => {
                let text = self.text(commit);
                let (size, data) = (pack::size(&text), pack::deflated(&text));
                for _ in 0..*times {
                    pack.head(COMMIT, size, 1);
                    pack.0.extend(&data);
                }
                *times
            }
            Object::Delta { commit, of, by } => {
                let (base, text) = (self.text(of), self.text(commit));
                let delta = pack::delta(&base, &text);
                let at = pack.at();
                match by {
                    By::Offset => pack.offset_delta(places[of], &delta),
                    By::Name => pack.named_delta(&self.name(of), &delta),
                }
                places.insert(commit.clone(), at);
                1
            }
            Object::Any { kind, content, zeros, size, size_bytes, stored, broken } => {
                let content = self.filled(content, None).into_bytes();
                let level = if *stored { flate2::Compression::none() } else { flate2::Compression::fast() };
                pack.head(*kind, size.unwrap_or(pack::size(&content) + zeros), *size_bytes);
                let mut data = if *zeros > 0 { pack::zeros(*zeros) } else { pack::compressed(&content, level) };
                if *broken && let Some(last) = data.last_mut() {
                    *last ^= 1;
                }
                pack.0.extend(data);
                1
            }
            Object::Hex { hex } => {
                pack.0.extend(unhex(hex));
                1
            }
        }
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits");
    (0..hex.len()).step_by(2).map(byte).collect()
}
