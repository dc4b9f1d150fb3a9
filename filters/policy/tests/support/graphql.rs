//! Rewrites GraphQL documents token by token without changing their meaning. This code shares only the lexer with the
//! policy's parser.

use apollo_parser::{Lexer, TokenKind};
use policy::github::Json;

/// The tokens of a document, without white space, commas and comments.
pub type Words = Vec<String>;

/// A request's document and variables.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub words: Words,
    pub variables: Vec<(String, Json)>,
    /// The other members of the body.
    others: Vec<(String, Json)>,
}

/// The tokens of `document`. Returns `None` if one is invalid, or if the document has a byte order mark, which the
/// lexer skips.
pub fn words(document: &str) -> Option<Words> {
    if document.contains('\u{feff}') {
        return None;
    }
    let mut words = Vec::new();
    for token in Lexer::new(document) {
        let token = token.ok()?;
        match token.kind() {
            TokenKind::Whitespace | TokenKind::Comment | TokenKind::Comma | TokenKind::Eof => {}
            _ => words.push(token.data().to_owned()),
        }
    }
    Some(words)
}

impl Request {
    /// Parses a body.
    pub fn read(body: &str) -> Option<Self> {
        let Json::Object(members) = Json::parse(body.as_bytes()).ok()? else { return None };
        let mut request = Self { words: Vec::new(), variables: Vec::new(), others: Vec::new() };
        for (name, value) in members {
            match (name.as_str(), value) {
                ("query", Json::String(text)) => request.words = words(&text)?,
                ("variables", Json::Object(members)) => request.variables = members,
                (_, value) => request.others.push((name, value)),
            }
        }
        (!request.words.is_empty()).then_some(request)
    }

    /// The body, with `between` between the document's tokens.
    pub fn write(&self, between: &str) -> String {
        let mut members = vec![("query".to_owned(), Json::String(self.words.join(between)))];
        if !self.variables.is_empty() {
            members.push(("variables".to_owned(), Json::Object(self.variables.clone())));
        }
        members.extend(self.others.iter().cloned());
        String::from_utf8(Json::Object(members).to_bytes()).unwrap()
    }

    /// The indices of the braces around the operation's selections.
    fn selections(&self) -> Option<(usize, usize)> {
        let mut at = 0;
        loop {
            let is_fragment = self.words.get(at)? == "fragment";
            while self.words.get(at)? != "{" {
                at = if self.words.get(at)? == "(" { self.closing(at)? } else { at } + 1;
            }
            let end = self.closing(at)?;
            if !is_fragment {
                return Some((at, end));
            }
            at = end + 1;
        }
    }

    /// The index of the token that closes the bracket at `open`.
    fn closing(&self, open: usize) -> Option<usize> {
        let mut depth = 0;
        for (at, word) in self.words.iter().enumerate().skip(open) {
            match word.as_str() {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Some(at);
            }
        }
        None
    }

    /// The fields at the root, including those in inline fragments: the index where each begins, and that of its name.
    fn roots(&self) -> Vec<(usize, usize)> {
        let mut roots = Vec::new();
        if let Some((start, end)) = self.selections() {
            self.roots_of(start, end, &mut roots);
        }
        roots
    }

    fn roots_of(&self, start: usize, end: usize, roots: &mut Vec<(usize, usize)>) {
        let word = |at: usize| self.words.get(at).map_or("", String::as_str);
        let mut at = start + 1;
        let mut in_fragment = false;
        while at < end {
            match word(at) {
                "..." => {
                    in_fragment = matches!(word(at + 1), "on" | "@" | "{");
                    at += match word(at + 1) {
                        "on" => 2,
                        "@" | "{" => 0,
                        _ => 1,
                    };
                }
                "@" => at += 1,
                "{" | "(" => {
                    let Some(close) = self.closing(at) else { return };
                    if in_fragment && word(at) == "{" {
                        self.roots_of(at, close, roots);
                        in_fragment = false;
                    }
                    at = close;
                }
                _ => {
                    let name = if word(at + 1) == ":" { at + 2 } else { at };
                    roots.push((at, name));
                    at = name;
                }
            }
            at += 1;
        }
    }

    fn type_of_root(&self) -> &'static str {
        if self.words.iter().any(|word| word == "mutation") { "Mutation" } else { "Query" }
    }

    /// Gives each field at the root the alias `alias`, with a number appended from the second field on.
    pub fn aliased(&self, alias: &str) -> Option<Self> {
        let mut to = self.clone();
        for (index, (start, name)) in self.roots().into_iter().enumerate().rev() {
            let alias = if index == 0 { alias.to_owned() } else { format!("{alias}{index}") };
            to.words.splice(start..name, [alias, ":".to_owned()]);
        }
        Some(to)
    }

    /// Adds a condition that is true to each field at the root.
    pub fn under_conditions(&self) -> Option<Self> {
        let mut to = self.clone();
        for (_, name) in self.roots().into_iter().rev() {
            let has_arguments = self.words.get(name + 1).is_some_and(|word| word == "(");
            let end = if has_arguments { self.closing(name + 1)? } else { name } + 1;
            if self.words.get(end).is_none_or(|word| word != "@") {
                to.words.splice(end..end, split("@include(if:true)@skip(if:false)"));
            }
        }
        Some(to)
    }

    /// Moves the operation's selections into a named fragment.
    pub fn in_named_fragment(&self) -> Option<Self> {
        let (start, end) = self.selections()?;
        let mut to = self.clone();
        let moved: Words = to.words.splice(start..=end, split("{ ...moved }")).collect();
        to.words.extend(split(&format!("fragment moved on {}", self.type_of_root())));
        to.words.extend(moved);
        Some(to)
    }

    /// Moves the operation's selections into a named fragment, which a second fragment before the operation spreads.
    pub fn in_two_fragments(&self) -> Option<Self> {
        let mut to = self.in_named_fragment()?;
        let first = split(&format!("fragment first on {} {{ ...moved @include(if:true) }}", self.type_of_root()));
        let at = to.words.iter().position(|word| word == "moved")?;
        *to.words.get_mut(at)? = "first".to_owned();
        to.words.splice(0..0, first);
        Some(to)
    }

    /// Moves the operation's selections into an inline fragment that begins with `head`. `ROOT` in `head` stands for
    /// the type of the root.
    pub fn in_inline_fragment(&self, head: &str) -> Option<Self> {
        let (start, end) = self.selections()?;
        let mut to = self.clone();
        to.words.splice(end..end, split("}"));
        to.words.splice(start + 1..start + 1, split(&head.replace("ROOT", self.type_of_root())));
        Some(to)
    }

    /// Moves the strings of the operation's arguments into variables.
    pub fn strings_in_variables(&self, by: Given) -> Option<Self> {
        let (start, end) = self.selections()?;
        let mut to = self.clone();
        let mut declared = Words::new();
        for at in (start..end).rev() {
            let word = self.words.get(at)?;
            if !word.starts_with('"') {
                continue;
            }
            // A string with escapes and a block string differ from a JSON string.
            if word.contains('\\') || word.starts_with("\"\"") {
                return None;
            }
            let name = format!("moved{at}");
            to.words.splice(at..=at, ["$".to_owned(), name.clone()]);
            to.declare(&mut declared, by, &name, "String", word, word);
        }
        to.add_variables(declared)
    }

    /// Moves the inputs of mutations into variables.
    pub fn inputs_in_variables(&self, by: Given) -> Option<Self> {
        let mut to = self.clone();
        let mut declared = Words::new();
        for (_, name) in self.roots().into_iter().rev() {
            let is_input = |words: &[String]| words == ["(", "input", ":", "{"];
            if !self.words.get(name + 1..name + 5).is_some_and(is_input) {
                continue;
            }
            let (open, close) = (name + 4, self.closing(name + 4)?);
            let literal = self.words.get(open..=close)?;
            if literal.iter().any(|word| word == "$" || word.contains('\\') || word.starts_with("\"\"\"")) {
                return None;
            }
            let of = self.words.get(name)?;
            let of = format!("{}{}Input", of.get(..1)?.to_uppercase(), of.get(1..)?);
            let variable = format!("moved{name}");
            to.words.splice(open..=close, ["$".to_owned(), variable.clone()]);
            to.declare(&mut declared, by, &variable, &of, &literal.join(" "), &json(literal));
        }
        to.add_variables(declared)
    }

    fn declare(&mut self, declared: &mut Words, by: Given, name: &str, of: &str, literal: &str, value: &str) {
        match by {
            Given::Value => {
                declared.extend(split(&format!("${name}:{of}!")));
                self.variables.push((name.to_owned(), Json::parse(value.as_bytes()).unwrap()));
            }
            Given::Default => declared.extend(split(&format!("${name}:{of}={literal}"))),
            Given::Both => {
                declared.extend(split(&format!("${name}:{of}=null")));
                self.variables.push((name.to_owned(), Json::parse(value.as_bytes()).unwrap()));
            }
        }
    }

    fn add_variables(mut self, declared: Words) -> Option<Self> {
        if declared.is_empty() {
            return None;
        }
        let (start, _) = self.selections()?;
        if self.words.get(start.wrapping_sub(1)).is_some_and(|word| word == ")") {
            self.words.splice(start - 1..start - 1, declared);
        } else {
            let is_short = start == 0 || self.words.get(start - 1).is_some_and(|word| word == "}");
            let keyword = if is_short { &["query"][..] } else { &[] };
            let words = keyword.iter().chain(&["("]).map(|word| (*word).to_owned()).chain(declared);
            self.words.splice(start..start, words.chain([")".to_owned()]).collect::<Words>());
        }
        Some(self)
    }
}

/// How a variable gets its value.
#[derive(Clone, Copy)]
pub enum Given {
    /// From the request's variables.
    Value,
    /// From its default.
    Default,
    /// From the request's variables, and it has another default.
    Both,
}

fn split(text: &str) -> Words {
    words(text).unwrap()
}

/// A GraphQL object as JSON. Enum values become strings, as clients send them.
fn json(literal: &[String]) -> String {
    let mut text = String::new();
    for (at, word) in literal.iter().enumerate() {
        let is_key = literal.get(at + 1).is_some_and(|next| next == ":");
        let opens = |word: &String| matches!(word.as_str(), "{" | "[" | ":");
        let follows = at.checked_sub(1).and_then(|before| literal.get(before)).is_some_and(|before| !opens(before));
        if follows && !matches!(word.as_str(), "}" | "]" | ":") {
            text.push(',');
        }
        let is_name = word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let is_word = matches!(word.as_str(), "true" | "false" | "null");
        if is_key || (is_name && !is_word) {
            text.push_str(&format!("\"{word}\""));
        } else {
            text.push_str(word);
        }
    }
    text
}
