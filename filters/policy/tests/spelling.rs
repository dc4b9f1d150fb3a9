//! No other spelling of a refused path is allowed, unless the target that is sent is harmless. The GraphQL document
//! that is sent has the same meaning as the judged document.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use policy::Container;
use policy::github::{Allowed, Json, Judge, Rules};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};
use std::cell::Cell;
use std::collections::BTreeMap;
use support::graphql::{Given, Request, Words, words};
use support::{Case, Row, World, container, corpus, judged, lenient, rows};

/// Every operation, with whether it is allowed for `o/r`.
struct Routes {
    judge: Judge,
    who: Container,
    rows: Vec<(Row, bool)>,
}

impl Routes {
    fn new() -> Self {
        let judge = Judge::new(&Rules::default()).unwrap();
        let mut routes = Self { judge, who: container("user"), rows: Vec::new() };
        for row in rows() {
            let allowed = routes.judge(&row, &row.target()).is_some();
            routes.rows.push((row, allowed));
        }
        routes
    }

    /// The target that is sent for a request with the method and the body of `row`, if it is allowed.
    fn judge(&self, row: &Row, target: &str) -> Option<String> {
        let allowed = judged(&self.judge, &self.who, (&row.host, &row.method, target), &[], row.body()).ok()?;
        Some(String::from_utf8(allowed.target).unwrap())
    }

    /// Refused requests: refused because of their operation, or because of their repository.
    fn refused(&self) -> Vec<(Row, String)> {
        let foreign = |target: String| target.replacen("/o/r", "/o/other", 1);
        let of = |(row, allowed): &(Row, bool)| {
            if *allowed {
                row.template.starts_with("/repos/").then(|| (row.clone(), foreign(row.target())))
            } else {
                Some((row.clone(), row.target()))
            }
        };
        let refused: Vec<_> = self.rows.iter().filter_map(of).collect();
        for (row, target) in &refused {
            assert!(self.judge(row, target).is_none(), "{} {target}", row.method);
        }
        refused
    }

    /// Why a target must not be sent: a lenient server reads it as a request that is refused. `None` if it is harmless.
    fn harm(&self, row: &Row, sent: &str) -> Option<String> {
        let path = lenient(sent).replacen("/repositories/7", "/repos/o/r", 1);
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let here = self.rows.iter().filter(|(other, _)| other.method == row.method && other.host == row.host);
        let found = here.filter_map(|(other, allowed)| Some((fit(other, &segments)?, other, allowed)));
        let Some((_, other, allowed)) = found.max_by_key(|(fit, ..)| fit.clone()) else {
            return Some(format!("{path} is no operation"));
        };
        let foreign = other.template.starts_with("/repos/") && segments.get(1..3) != Some(&["o", "r"]);
        (!allowed || foreign).then(|| format!("{path} is {}", other.operation))
    }
}

/// Matches the segments against the template of a row, and returns a score for each part of the template. A word scores
/// more than a parameter, and that more than a parameter of several segments.
fn fit(row: &Row, segments: &[&str]) -> Option<Vec<u8>> {
    let template: Vec<&str> = row.template.split('/').skip(1).collect();
    let spare = (segments.len() + 1).checked_sub(template.len())?;
    let mut rest = segments;
    let mut fit = Vec::new();
    for part in template {
        let multi = part.trim_matches(['{', '}']) == row.multi;
        let (own, others) = rest.split_at_checked(if multi { spare } else { 1 })?;
        rest = others;
        fit.push(match part.starts_with('{') {
            true if multi => 0,
            // A server expects a number here.
            true if part.ends_with("_id}") && own.iter().any(|own| own.bytes().any(|b| b == b'-')) => return None,
            true => 1,
            false if own == [part] => 2,
            false => return None,
        });
    }
    rest.is_empty().then_some(fit)
}

/// For every refused operation, spells each slash in other ways, one at a time.
#[test]
fn no_slash_written_otherwise_opens_what_is_refused() {
    let routes = Routes::new();
    let (mut tried, mut wrong) = (0, Vec::new());
    for (row, target) in routes.refused() {
        for (at, _) in target.match_indices('/') {
            for slash in ["%2F", "%252f", "//", "/./", "/x/../", "\\", ";/", "/%2e/"] {
                let spelled = format!("{}{slash}{}", &target[..at], &target[at + 1..]);
                tried += 1;
                if let Some(harm) = routes.judge(&row, &spelled).and_then(|sent| routes.harm(&row, &sent)) {
                    wrong.push(format!("{} {spelled}: {harm}", row.method));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong[..wrong.len().min(10)].join("\n"));
    assert!(tried > 50_000, "{tried}");
}

/// A change of a target's text.
#[derive(Clone, Debug)]
enum Change {
    Encode(Index),
    EncodeTwice(Index),
    OtherCase(Index),
    Insert(Index, &'static str),
    Slash(Index, &'static str),
    Append(&'static str),
}

const JUNK: [&str; 26] = [
    "/",
    "//",
    "/./",
    "/../",
    "/x/../",
    "\\",
    ";",
    ";x=1",
    "%2F",
    "%2f",
    "%252F",
    "%5C",
    "%2e%2e%2f",
    "%2e",
    "%00",
    "%20",
    "%0a",
    "%",
    "%zz",
    "?",
    "?per_page=1",
    "?x=1&x=2",
    "#",
    "#/../",
    ".json",
    "\u{e9}",
];

impl Change {
    fn apply(&self, target: &str) -> String {
        let ends: Vec<usize> = (0..=target.len()).filter(|at| target.is_char_boundary(*at)).collect();
        let place = |index: &Index, of: usize| *ends.get(index.index(of)).unwrap();
        let replaced = |index: &Index, by: fn(&str) -> String| {
            let at = index.index(ends.len() - 1);
            let (from, to) = (ends[at], ends[at + 1]);
            format!("{}{}{}", &target[..from], by(&target[from..to]), &target[to..])
        };
        match self {
            Self::Encode(at) => replaced(at, |c| c.bytes().map(|byte| format!("%{byte:02X}")).collect()),
            Self::EncodeTwice(at) => replaced(at, |c| c.bytes().map(|byte| format!("%25{byte:02x}")).collect()),
            Self::OtherCase(at) => {
                replaced(at, |c| if c.to_uppercase() == c { c.to_lowercase() } else { c.to_uppercase() })
            }
            Self::Insert(at, junk) => {
                let (before, after) = target.split_at(place(at, ends.len()));
                format!("{before}{junk}{after}")
            }
            Self::Slash(at, by) => {
                let slashes: Vec<usize> = target.match_indices('/').map(|(at, _)| at).collect();
                if slashes.is_empty() {
                    target.to_owned()
                } else {
                    let at = slashes[at.index(slashes.len())];
                    format!("{}{by}{}", &target[..at], &target[at + 1..])
                }
            }
            Self::Append(junk) => format!("{target}{junk}"),
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        at().prop_map(Change::Encode),
        at().prop_map(Change::EncodeTwice),
        at().prop_map(Change::OtherCase),
        (at(), select(&JUNK[..])).prop_map(|(at, junk)| Change::Insert(at, junk)),
        (at(), select(&JUNK[..])).prop_map(|(at, junk)| Change::Slash(at, junk)),
        select(&JUNK[..]).prop_map(Change::Append),
    ]
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

#[test]
fn no_spelling_opens_what_is_refused() {
    let routes = Routes::new();
    let refused = routes.refused();
    // Paths are most ambiguous where a parameter may span several segments.
    let wide: Vec<_> = refused.iter().filter(|(row, _)| row.multi != "-").cloned().collect();
    assert!(wide.len() > 50 && refused.len() > 1_000, "{} of {}", wide.len(), refused.len());
    let request = prop_oneof![select(refused), select(wide)];
    let allowed = Cell::new(0);
    let outcome = runner(12_000).run(&(request, prop::collection::vec(change(), 1..4)), |((row, target), changes)| {
        let spelled = changes.iter().fold(target, |target, change| change.apply(&target));
        if let Some(sent) = routes.judge(&row, &spelled) {
            allowed.set(allowed.get() + 1);
            let harm = routes.harm(&row, &sent);
            prop_assert!(harm.is_none(), "{} {spelled} is sent as {sent}: {}", row.method, harm.unwrap());
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(allowed.get() > 0, "none of them is allowed as something else");
}

/// Bodies of POST /graphql: from gh and from the corpus.
fn documents() -> Vec<Request> {
    let text = std::fs::read_to_string("../../tests/corpus/github/gh-documents.jsonl").unwrap();
    let body = |line: &str| {
        let Ok(Json::Object(members)) = Json::parse(line.as_bytes()) else { panic!("{line}") };
        let members = members.into_iter().filter(|(name, _)| name == "query" || name == "variables").collect();
        String::from_utf8(Json::Object(members).to_bytes()).unwrap()
    };
    let of_corpus = corpus().into_iter().filter(|case| case.target == "/graphql").map(|case| case.body);
    text.lines().map(body).chain(of_corpus).filter_map(|body| Request::read(&body)).collect()
}

type Rewriting = fn(&Request) -> Option<Request>;

const REWRITINGS: [Rewriting; 10] = [
    |request| request.aliased("x"),
    Request::under_conditions,
    Request::in_named_fragment,
    Request::in_two_fragments,
    |request| request.in_inline_fragment("...on ROOT{"),
    |request| request.in_inline_fragment("...@include(if:true){"),
    |request| request.strings_in_variables(Given::Value),
    |request| request.strings_in_variables(Given::Default),
    |request| request.inputs_in_variables(Given::Value),
    |request| request.inputs_in_variables(Given::Both),
];

/// A request of the corpus to POST /graphql, with another body.
fn graphql(body: String) -> Case {
    let case = corpus().into_iter().find(|case| case.id == "H18").unwrap();
    assert_eq!(case.target, "/graphql");
    case.with(body)
}

fn sent(allowed: &Allowed) -> String {
    String::from_utf8(allowed.body.clone().unwrap()).unwrap()
}

#[test]
fn a_document_that_is_sent_means_what_was_judged() {
    let world = World::new();
    let case = graphql(String::new());
    let ways = prop::collection::vec(select(&REWRITINGS[..]), 0..4);
    let between = select(&[" ", ",", "\n#\"{\n", "\t"][..]);
    let allowed = Cell::new(0);
    let outcome = runner(2_000).run(&(select(documents()), ways, between), |(request, ways, between)| {
        let request = ways.iter().fold(request, |request, rewrite| rewrite(&request).unwrap_or(request));
        let Some(first) = world.allowed(&case.with(request.write(between))) else { return Ok(()) };
        allowed.set(allowed.get() + 1);
        let second = world.allowed(&case.with(sent(&first)));
        prop_assert_eq!(second.as_ref(), Some(&first));
        let after = Request::read(&sent(&first)).unwrap();
        let tree = apollo_parser::Parser::new(&after.words.join(" ")).parse();
        prop_assert_eq!(tree.errors().count(), 0, "{}", sent(&first));
        let (before, after) = (Parts::of(&request), Parts::of(&after));
        prop_assert_eq!(&before.operation, &after.operation);
        for (name, fragment) in &after.fragments {
            prop_assert_eq!(before.fragments.get(name), Some(fragment));
        }
        for (name, declared) in &after.declared {
            prop_assert_eq!(before.declared.get(name), Some(declared));
        }
        for (name, value) in &after.given {
            prop_assert_eq!(before.given.get(name), Some(value));
        }
        // Every declaration and value that is needed is sent too.
        for name in after.used() {
            prop_assert!(after.declared.contains_key(&name), "${} is not declared", name);
            prop_assert_eq!(before.given.contains_key(&name), after.given.contains_key(&name), "{}", name);
        }
        for name in after.spread() {
            prop_assert!(after.fragments.contains_key(&name), "there is no fragment {}", name);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(allowed.get() > 500, "{} of them were allowed", allowed.get());
}

/// The parts of a document. Strings are replaced by their values.
#[derive(Debug)]
struct Parts {
    /// The operation from its keyword on, without the declarations of variables.
    operation: Words,
    fragments: BTreeMap<String, Words>,
    declared: BTreeMap<String, Words>,
    given: BTreeMap<String, Json>,
}

impl Parts {
    fn of(request: &Request) -> Self {
        let mut parts = Self {
            operation: Words::new(),
            fragments: BTreeMap::new(),
            declared: BTreeMap::new(),
            given: request.variables.iter().cloned().collect(),
        };
        for definition in definitions(&request.words) {
            if definition.first().is_some_and(|word| word == "fragment") {
                parts.fragments.insert(definition[1].clone(), definition);
                continue;
            }
            let brackets = definition.iter().position(|word| word == "(" || word == "{").unwrap();
            let mut selections = brackets;
            if definition[brackets] == "(" {
                let mut depth = 0;
                let is_end = |word: &String| {
                    depth += i32::from(word == "(") - i32::from(word == ")");
                    depth == 0
                };
                selections += definition[brackets..].iter().position(is_end).unwrap() + 1;
                let declarations = &definition[brackets + 1..selections - 1];
                for declared in declarations.split(|word| word == "$").skip(1) {
                    parts.declared.insert(declared[0].clone(), declared.to_vec());
                }
            }
            let head = &definition[..brackets];
            parts.operation = if head.is_empty() { vec!["query".to_owned()] } else { head.to_vec() };
            parts.operation.extend_from_slice(&definition[selections..]);
        }
        parts
    }

    fn all(&self) -> impl Iterator<Item = &[String]> {
        let definitions = [&self.operation].into_iter().chain(self.fragments.values());
        definitions.flat_map(|definition| definition.windows(2))
    }

    fn used(&self) -> Vec<String> {
        self.all().filter(|pair| pair[0] == "$").map(|pair| pair[1].clone()).collect()
    }

    fn spread(&self) -> Vec<String> {
        let is_name = |word: &str| word != "on" && !word.starts_with(['@', '{']);
        self.all().filter(|pair| pair[0] == "..." && is_name(&pair[1])).map(|pair| pair[1].clone()).collect()
    }
}

/// Cuts a document into definitions, after each outermost closing brace.
fn definitions(words: &[String]) -> Vec<Words> {
    let mut definitions = vec![Words::new()];
    let mut depth = 0;
    for word in words {
        depth += i32::from(matches!(word.as_str(), "(" | "{")) - i32::from(matches!(word.as_str(), ")" | "}"));
        let text = serde_json::from_str::<String>(word).map_or_else(|_| word.clone(), |text| format!("{text:?}"));
        definitions.last_mut().unwrap().push(text);
        if depth == 0 && word == "}" {
            definitions.push(Words::new());
        }
    }
    definitions.pop();
    definitions
}

/// The ways to write a string in a document.
#[derive(Clone, Copy, Debug)]
enum Literal {
    Quoted,
    Escaped,
    Braced,
    Block,
}

impl Literal {
    fn of(self, text: &str) -> String {
        let character = |c: char| match (self, c) {
            (Self::Braced, _) => format!("\\u{{{:x}}}", u32::from(c)),
            (Self::Escaped, _) => c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04X}")).collect(),
            (_, '\n') => "\\n".to_owned(),
            (_, '"' | '\\') => format!("\\{c}"),
            _ => c.to_string(),
        };
        match self {
            // Each line is indented by two. The parser removes the indentation that all lines share, so the text's own
            // indentation remains.
            Self::Block => {
                let lines: Vec<String> = text.replace("\"\"\"", "\\\"\"\"").lines().map(|l| format!("  {l}")).collect();
                format!("\"\"\"\n{}\n\"\"\"", lines.join("\n"))
            }
            _ => format!("\"{}\"", text.chars().map(character).collect::<String>()),
        }
    }
}

#[test]
fn a_text_is_sent_as_the_text_that_was_judged() {
    let world = World::new();
    let case = graphql(String::new());
    // The first line has no indentation, so that no more than the two spaces is removed. The last line is not blank.
    let text = "[a-z][ -~\u{e9}\u{1f600}\u{2028}]{0,12}(\n[ \"\\\\]{0,6}[ -~\u{fffd}]{0,8}){0,3}[A-Z.\"\\\\]{0,4}[a-z]";
    let literal = select(&[Literal::Quoted, Literal::Escaped, Literal::Braced, Literal::Block][..]);
    let allowed = Cell::new(0);
    let outcome = runner(3_000).run(&(text, literal, any::<bool>()), |(text, literal, in_default)| {
        let written = literal.of(&text);
        let (declared, value) =
            if in_default { (format!("($b:String={written})"), "$b") } else { (String::new(), written.as_str()) };
        let input = format!("{{subjectId:\"I_kwDOAWBuf84DDmhc\",body:{value}}}");
        let query = format!("mutation{declared}{{addComment(input:{input}){{clientMutationId}}}}");
        let body = Json::Object(vec![("query".to_owned(), Json::String(query.clone()))]);
        // A random line may be a command to a bot, which is refused.
        let Some(first) = world.allowed(&case.with(String::from_utf8(body.to_bytes()).unwrap())) else { return Ok(()) };
        allowed.set(allowed.get() + 1);
        let sent = Json::parse(sent(&first).as_bytes()).unwrap();
        let words = words(sent.get("query").and_then(Json::as_str).unwrap()).unwrap();
        // The document has one more string, the id.
        let body = words.iter().find(|word| word.starts_with('"') && !word.contains("I_kwDO"));
        prop_assert_eq!(serde_json::from_str::<String>(body.unwrap()).unwrap(), text, "{}", query);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(allowed.get() > 2_500, "{} of them were allowed", allowed.get());
}
