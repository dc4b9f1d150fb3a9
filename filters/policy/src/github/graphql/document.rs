//! Parses the text of a GraphQL document strictly, and writes it anew.
//!
//! The tokens come from apollo-parser's lexer, which Apollo's router runs on hostile documents. The parser below
//! accepts only a part of the language. The alternatives were measured on a document of 4 KB:
//! - apollo-parser's lexer takes 30 µs.
//! - apollo-parser's own parser takes 150 µs, and 30 to 80 µs more to walk its tree, which holds every space and comma.
//!   It continues after errors, which is of no use here.
//! - cynic-parser 0.11 takes 75 µs, but panics on an integer beyond 64 bits, and on a block string with an emoji or a
//!   control character. A panic ends the whole filter.
//!
//! A difference between this parser and GitHub's does no harm: the text that is sent is [`Document::write`] of the
//! judged document, never the client's text.
//!
//! The file is longer than 600 lines because the grammar and its printer are one list of productions.

use apollo_parser::{Lexer, TokenKind};
use std::fmt::Write;

/// The longest document, in bytes. gh's own documents have 4 KB, but agents put whole files into documents.
pub const MAX_DOCUMENT: usize = 256 * 1024;
/// The most tokens in a document.
pub const MAX_TOKENS: usize = 20_000;
/// The most levels of nested selections, lists, objects and types. Each level takes stack, and a filter has 1 MiB.
pub const MAX_DEPTH: usize = 32;
/// The most variables in a document, and the most members in an object.
pub const MAX_VARIABLES: usize = 64;
/// The most named fragments.
pub const MAX_FRAGMENTS: usize = 64;
/// The most fields with an alias.
pub const MAX_ALIASES: usize = 512;

/// A document with one operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Document<'a> {
    pub mutation: bool,
    pub name: Option<&'a str>,
    pub variables: Vec<Variable<'a>>,
    pub selections: Vec<Selection<'a>>,
    pub fragments: Vec<Fragment<'a>>,
}

/// A variable's declaration.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable<'a> {
    pub name: &'a str,
    /// The type, as written.
    pub of: String,
    pub default: Option<Value<'a>>,
}

/// A named fragment.
#[derive(Clone, Debug, PartialEq)]
pub struct Fragment<'a> {
    pub name: &'a str,
    pub on: &'a str,
    pub selections: Vec<Selection<'a>>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Selection<'a> {
    Field(Field<'a>),
    /// An inline fragment. Without `on` it has the type of the selection around it.
    Inline {
        on: Option<&'a str>,
        conditions: Vec<Condition<'a>>,
        selections: Vec<Selection<'a>>,
    },
    /// The name of a fragment, spread here.
    Spread {
        name: &'a str,
        conditions: Vec<Condition<'a>>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Field<'a> {
    pub alias: Option<&'a str>,
    pub name: &'a str,
    pub arguments: Vec<(&'a str, Value<'a>)>,
    pub conditions: Vec<Condition<'a>>,
    /// Empty if the field has no selections.
    pub selections: Vec<Selection<'a>>,
}

/// `@include(if:)` or `@skip(if:)`, the only directives.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition<'a> {
    pub skip: bool,
    /// A boolean or a variable.
    pub value: Value<'a>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    Variable(&'a str),
    /// The number, as written.
    Number(&'a str),
    String(String),
    Boolean(bool),
    Null,
    Enum(&'a str),
    List(Vec<Value<'a>>),
    Object(Vec<(&'a str, Value<'a>)>),
}

type Result<T> = std::result::Result<T, &'static str>;

impl<'a> Document<'a> {
    /// Parses a document.
    ///
    /// # Errors
    /// If the text is invalid; the error says why.
    pub fn parse(text: &'a str) -> Result<Self> {
        if text.len() > MAX_DOCUMENT {
            return Err("longer than 256 KiB");
        }
        // Some parsers treat a byte order mark as white space.
        if text.chars().any(|c| (c.is_control() && !matches!(c, '\t' | '\n' | '\r')) || c == '\u{feff}') {
            return Err("a control character or a byte order mark");
        }
        let mut tokens = Vec::new();
        for token in Lexer::new(text).with_limit(MAX_TOKENS) {
            let token = token.map_err(|_| "an invalid token, or more than 20000 tokens")?;
            match token.kind() {
                TokenKind::Whitespace | TokenKind::Comment | TokenKind::Comma | TokenKind::Eof => {}
                kind => tokens.push((kind, token.data())),
            }
        }
        Parser { tokens: &tokens, at: 0, depth: 0, aliases: 0 }.document()
    }
}

struct Parser<'a, 't> {
    tokens: &'t [(TokenKind, &'a str)],
    at: usize,
    depth: usize,
    aliases: usize,
}

impl<'a> Parser<'a, '_> {
    fn document(mut self) -> Result<Document<'a>> {
        let mut operation: Option<Document<'a>> = None;
        let mut fragments: Vec<Fragment<'a>> = Vec::new();
        while self.at < self.tokens.len() {
            if self.is_word("fragment") {
                let fragment = self.fragment()?;
                if fragments.iter().any(|other| other.name == fragment.name) {
                    return Err("two fragments with the same name");
                }
                fragments.push(fragment);
                if fragments.len() > MAX_FRAGMENTS {
                    return Err("more than 64 fragments");
                }
            } else if operation.replace(self.operation()?).is_some() {
                return Err("more than one operation");
            }
        }
        let operation = operation.ok_or("no operation")?;
        Ok(Document { fragments, ..operation })
    }

    fn operation(&mut self) -> Result<Document<'a>> {
        let mut document = Document {
            mutation: false,
            name: None,
            variables: Vec::new(),
            selections: Vec::new(),
            fragments: Vec::new(),
        };
        if self.peek() != Some(TokenKind::LCurly) {
            document.mutation = match self.name()? {
                "query" => false,
                "mutation" => true,
                "subscription" => return Err("subscriptions are not supported"),
                _ => return Err("a definition other than an operation or a fragment"),
            };
            if self.peek() == Some(TokenKind::Name) {
                document.name = Some(self.name()?);
            }
            if self.eat(TokenKind::LParen) {
                document.variables = self.variables()?;
            }
            if self.peek() == Some(TokenKind::At) {
                return Err("a directive on the operation");
            }
        }
        document.selections = self.selections()?;
        Ok(document)
    }

    fn variables(&mut self) -> Result<Vec<Variable<'a>>> {
        let mut variables: Vec<Variable<'a>> = Vec::new();
        loop {
            self.expect(TokenKind::Dollar)?;
            let name = self.name()?;
            self.expect(TokenKind::Colon)?;
            let mut of = String::new();
            self.type_of(&mut of)?;
            let default = if self.eat(TokenKind::Eq) { Some(self.value(true)?) } else { None };
            if self.peek() == Some(TokenKind::At) {
                return Err("a directive on a variable");
            }
            if variables.iter().any(|other| other.name == name) {
                return Err("two variables with the same name");
            }
            variables.push(Variable { name, of, default });
            if variables.len() > MAX_VARIABLES {
                return Err("more than 64 variables");
            }
            if self.eat(TokenKind::RParen) {
                return Ok(variables);
            }
        }
    }

    fn type_of(&mut self, of: &mut String) -> Result<()> {
        if self.eat(TokenKind::LBracket) {
            self.deeper()?;
            of.push('[');
            self.type_of(of)?;
            self.expect(TokenKind::RBracket)?;
            of.push(']');
            self.higher();
        } else {
            of.push_str(self.name()?);
        }
        if self.eat(TokenKind::Bang) {
            of.push('!');
        }
        Ok(())
    }

    fn fragment(&mut self) -> Result<Fragment<'a>> {
        self.name()?;
        let name = self.name()?;
        if name == "on" || self.name()? != "on" {
            return Err("a fragment without a name or a type");
        }
        let on = self.name()?;
        if self.peek() == Some(TokenKind::At) {
            return Err("a directive on a fragment's definition");
        }
        Ok(Fragment { name, on, selections: self.selections()? })
    }

    /// One or more selections in braces.
    fn selections(&mut self) -> Result<Vec<Selection<'a>>> {
        self.expect(TokenKind::LCurly)?;
        self.deeper()?;
        let mut selections = Vec::new();
        loop {
            selections.push(self.selection()?);
            if self.eat(TokenKind::RCurly) {
                self.higher();
                return Ok(selections);
            }
        }
    }

    fn selection(&mut self) -> Result<Selection<'a>> {
        if !self.eat(TokenKind::Spread) {
            return self.field().map(Selection::Field);
        }
        if self.peek() == Some(TokenKind::Name) && !self.is_word("on") {
            return Ok(Selection::Spread { name: self.name()?, conditions: self.conditions()? });
        }
        let on = if self.is_word("on") {
            self.name()?;
            Some(self.name()?)
        } else {
            None
        };
        Ok(Selection::Inline { on, conditions: self.conditions()?, selections: self.selections()? })
    }

    fn field(&mut self) -> Result<Field<'a>> {
        let mut name = self.name()?;
        let mut alias = None;
        if self.eat(TokenKind::Colon) {
            alias = Some(name);
            name = self.name()?;
            self.aliases = self.aliases.saturating_add(1);
            if self.aliases > MAX_ALIASES {
                return Err("more than 512 aliases");
            }
        }
        let arguments = self.arguments()?;
        let conditions = self.conditions()?;
        let selections = match self.peek() {
            Some(TokenKind::LCurly) => self.selections()?,
            _ => Vec::new(),
        };
        Ok(Field { alias, name, arguments, conditions, selections })
    }

    fn arguments(&mut self) -> Result<Vec<(&'a str, Value<'a>)>> {
        let mut arguments = Vec::new();
        if self.eat(TokenKind::LParen) {
            loop {
                self.member(&mut arguments, false)?;
                if self.eat(TokenKind::RParen) {
                    break;
                }
            }
        }
        Ok(arguments)
    }

    /// Parses `name: value` and appends it. A name may occur only once.
    fn member(&mut self, members: &mut Vec<(&'a str, Value<'a>)>, constant: bool) -> Result<()> {
        let name = self.name()?;
        self.expect(TokenKind::Colon)?;
        if members.iter().any(|(other, _)| *other == name) {
            return Err("a duplicate argument, or a duplicate member of an object");
        }
        members.push((name, self.value(constant)?));
        // The search for duplicates above takes quadratic time, so this number is limited.
        if members.len() > MAX_VARIABLES {
            return Err("more than 64 arguments, or more than 64 members of an object");
        }
        Ok(())
    }

    fn conditions(&mut self) -> Result<Vec<Condition<'a>>> {
        let mut conditions: Vec<Condition<'a>> = Vec::new();
        while self.eat(TokenKind::At) {
            let skip = match self.name()? {
                "skip" => true,
                "include" => false,
                _ => return Err("a directive other than @include and @skip"),
            };
            let mut arguments = self.arguments()?;
            let value = match (arguments.pop(), arguments.is_empty()) {
                (Some(("if", value @ (Value::Variable(_) | Value::Boolean(_)))), true) => value,
                _ => return Err("a directive without the single argument if: and a boolean or variable"),
            };
            if conditions.iter().any(|other| other.skip == skip) {
                return Err("a duplicate directive");
            }
            conditions.push(Condition { skip, value });
        }
        Ok(conditions)
    }

    fn value(&mut self, constant: bool) -> Result<Value<'a>> {
        let (kind, text) = self.next()?;
        Ok(match kind {
            TokenKind::Dollar if constant => return Err("a variable in a default value"),
            TokenKind::Dollar => Value::Variable(self.name()?),
            TokenKind::Int | TokenKind::Float => Value::Number(text),
            TokenKind::StringValue => Value::String(string(text).ok_or("a malformed string")?),
            TokenKind::Name => match text {
                "true" => Value::Boolean(true),
                "false" => Value::Boolean(false),
                "null" => Value::Null,
                name => Value::Enum(name),
            },
            TokenKind::LBracket => {
                self.deeper()?;
                let mut items = Vec::new();
                while !self.eat(TokenKind::RBracket) {
                    items.push(self.value(constant)?);
                }
                self.higher();
                Value::List(items)
            }
            TokenKind::LCurly => {
                self.deeper()?;
                let mut members = Vec::new();
                while !self.eat(TokenKind::RCurly) {
                    self.member(&mut members, constant)?;
                }
                self.higher();
                Value::Object(members)
            }
            _ => return Err("a missing value"),
        })
    }

    fn deeper(&mut self) -> Result<()> {
        self.depth = self.depth.saturating_add(1);
        if self.depth > MAX_DEPTH { Err("nested too deep") } else { Ok(()) }
    }

    fn higher(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    fn peek(&self) -> Option<TokenKind> {
        self.tokens.get(self.at).map(|(kind, _)| *kind)
    }

    fn next(&mut self) -> Result<(TokenKind, &'a str)> {
        let token = *self.tokens.get(self.at).ok_or("an unexpected end")?;
        self.at = self.at.saturating_add(1);
        Ok(token)
    }

    fn is_word(&self, word: &str) -> bool {
        self.tokens.get(self.at) == Some(&(TokenKind::Name, word))
    }

    fn eat(&mut self, kind: TokenKind) -> bool {
        let there = self.peek() == Some(kind);
        if there {
            self.at = self.at.saturating_add(1);
        }
        there
    }

    fn expect(&mut self, kind: TokenKind) -> Result<()> {
        if self.eat(kind) { Ok(()) } else { Err("an unexpected token") }
    }

    fn name(&mut self) -> Result<&'a str> {
        match self.next()? {
            (TokenKind::Name, name) => Ok(name),
            _ => Err("a missing name"),
        }
    }
}

/// The value of a quoted string or a block string.
fn string(quoted: &str) -> Option<String> {
    if let Some(block) = quoted.strip_prefix("\"\"\"").and_then(|rest| rest.strip_suffix("\"\"\"")) {
        return Some(block_string(&block.replace("\\\"\"\"", "\"\"\"")));
    }
    let mut rest = quoted.strip_prefix('"')?.strip_suffix('"')?.chars();
    let mut text = String::with_capacity(quoted.len());
    while let Some(c) = rest.next() {
        let c = match c {
            '\\' => match rest.next()? {
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'u' => escaped(&mut rest)?,
                c @ ('"' | '\\' | '/') => c,
                _ => return None,
            },
            '"' => return None,
            c => c,
        };
        text.push(c);
    }
    Some(text)
}

/// Parses the rest of a Unicode escape, after `\u`: `XXXX`, `{X}`, or a surrogate pair `XXXX\uXXXX`.
fn escaped(rest: &mut std::str::Chars<'_>) -> Option<char> {
    if let Some(braced) = rest.as_str().strip_prefix('{') {
        let (digits, after) = braced.split_once('}')?;
        *rest = after.chars();
        return char::from_u32(hex(digits)?);
    }
    let first = four(rest)?;
    if !(0xd800..0xdc00).contains(&first) {
        return char::from_u32(first);
    }
    *rest = rest.as_str().strip_prefix("\\u")?.chars();
    let pair = [u16::try_from(first).ok()?, u16::try_from(four(rest)?).ok()?];
    char::decode_utf16(pair).next()?.ok()
}

fn four(rest: &mut std::str::Chars<'_>) -> Option<u32> {
    let (digits, after) = rest.as_str().split_at_checked(4)?;
    *rest = after.chars();
    hex(digits)
}

fn hex(digits: &str) -> Option<u32> {
    let good = (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if good { u32::from_str_radix(digits, 16).ok() } else { None }
}

/// The value of a block string: the text without the common indentation of its lines, and without blank lines at its
/// start and end (BlockStringValue() in the GraphQL specification).
fn block_string(raw: &str) -> String {
    let is_white = |c: char| c == ' ' || c == '\t';
    let raw = raw.replace("\r\n", "\n").replace('\r', "\n");
    let lines: Vec<&str> = raw.split('\n').collect();
    let indent = |line: &&str| line.find(|c| !is_white(c));
    let common = lines.iter().skip(1).filter_map(indent).min().unwrap_or(0);
    let mut left: Vec<&str> = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        left.push(if index == 0 { line } else { line.get(common..).unwrap_or_default() });
    }
    let blank = |line: &&str| line.chars().all(is_white);
    let Some(first) = left.iter().position(|line| !blank(line)) else { return String::new() };
    let last = left.iter().rposition(|line| !blank(line)).unwrap_or(first);
    left.get(first..=last).unwrap_or_default().join("\n")
}

impl Document<'_> {
    /// The document's text. [`Document::parse`] of this text returns an equal document.
    pub fn write(&self) -> String {
        let mut text = String::new();
        text.push_str(if self.mutation { "mutation" } else { "query" });
        if let Some(name) = self.name {
            text.push(' ');
            text.push_str(name);
        }
        for (index, variable) in self.variables.iter().enumerate() {
            text.push_str(if index == 0 { "($" } else { " $" });
            text.push_str(variable.name);
            text.push(':');
            text.push_str(&variable.of);
            if let Some(default) = &variable.default {
                text.push('=');
                write_value(&mut text, default);
            }
        }
        if !self.variables.is_empty() {
            text.push(')');
        }
        write_selections(&mut text, &self.selections);
        for fragment in &self.fragments {
            text.push_str(" fragment ");
            text.push_str(fragment.name);
            text.push_str(" on ");
            text.push_str(fragment.on);
            write_selections(&mut text, &fragment.selections);
        }
        text
    }
}

fn write_selections(text: &mut String, selections: &[Selection<'_>]) {
    for (index, selection) in selections.iter().enumerate() {
        text.push(if index == 0 { '{' } else { ' ' });
        match selection {
            Selection::Field(field) => {
                if let Some(alias) = field.alias {
                    text.push_str(alias);
                    text.push(':');
                }
                text.push_str(field.name);
                for (index, (name, value)) in field.arguments.iter().enumerate() {
                    text.push(if index == 0 { '(' } else { ' ' });
                    text.push_str(name);
                    text.push(':');
                    write_value(text, value);
                }
                if !field.arguments.is_empty() {
                    text.push(')');
                }
                write_conditions(text, &field.conditions);
                write_selections(text, &field.selections);
            }
            Selection::Inline { on, conditions, selections } => {
                text.push_str("...");
                if let Some(on) = on {
                    text.push_str("on ");
                    text.push_str(on);
                }
                write_conditions(text, conditions);
                write_selections(text, selections);
            }
            Selection::Spread { name, conditions } => {
                text.push_str("...");
                text.push_str(name);
                write_conditions(text, conditions);
            }
        }
    }
    if !selections.is_empty() {
        text.push('}');
    }
}

fn write_conditions(text: &mut String, conditions: &[Condition<'_>]) {
    for condition in conditions {
        text.push_str(if condition.skip { "@skip(if:" } else { "@include(if:" });
        write_value(text, &condition.value);
        text.push(')');
    }
}

fn write_value(text: &mut String, value: &Value<'_>) {
    match value {
        Value::Variable(name) => {
            text.push('$');
            text.push_str(name);
        }
        Value::Number(number) => text.push_str(number),
        Value::String(string) => write_string(text, string),
        Value::Boolean(value) => text.push_str(if *value { "true" } else { "false" }),
        Value::Null => text.push_str("null"),
        Value::Enum(name) => text.push_str(name),
        Value::List(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(' ');
                }
                write_value(text, item);
            }
            text.push(']');
        }
        Value::Object(members) => {
            text.push('{');
            for (index, (name, value)) in members.iter().enumerate() {
                if index > 0 {
                    text.push(' ');
                }
                text.push_str(name);
                text.push(':');
                write_value(text, value);
            }
            text.push('}');
        }
    }
}

fn write_string(text: &mut String, string: &str) {
    text.push('"');
    for c in string.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            // The parser refuses these characters unescaped, but accepts their escapes.
            c if c.is_control() || c == '\u{feff}' => {
                // Writing to a String never fails.
                let _always = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
}
