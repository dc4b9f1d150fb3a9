//! Evaluates the values of a document: literals, and variables with the client's values or their defaults.

use super::super::Json;
use super::document::{Document, Value, Variable};
use std::collections::BTreeSet;

/// An evaluated value, as GitHub will see it.
#[derive(Clone, Debug, PartialEq)]
pub enum Given<'a> {
    Null,
    Boolean(bool),
    Number,
    /// A string. If a variable supplied it, it may also be an enum value.
    Text(&'a str),
    /// An enum value that is written in the document.
    Enum(&'a str),
    List(Vec<Given<'a>>),
    Object(Vec<(&'a str, Given<'a>)>),
}

/// The variables of a document.
pub struct Variables<'a> {
    declared: &'a [Variable<'a>],
    given: &'a [(String, Json)],
    /// The variables that were used so far.
    used: BTreeSet<&'a str>,
}

impl<'a> Variables<'a> {
    /// The variables of `document`, with the client's values `given`.
    pub fn new(document: &'a Document<'a>, given: &'a [(String, Json)]) -> Self {
        Self { declared: &document.variables, given, used: BTreeSet::new() }
    }

    /// Whether a value that was evaluated so far uses the variable `name`.
    pub fn is_used(&self, name: &str) -> bool {
        self.used.contains(name)
    }

    /// Evaluates `value`. Returns `None` for a variable that has neither a value nor a default; GitHub treats such a
    /// value as absent.
    ///
    /// # Errors
    /// If a variable is not declared, or if one of a non-null type is null or has no value.
    pub fn evaluate(&mut self, value: &'a Value<'a>) -> Result<Option<Given<'a>>, String> {
        Ok(Some(match value {
            Value::Variable(name) => return self.variable(name),
            Value::Number(_) => Given::Number,
            Value::String(text) => Given::Text(text),
            Value::Boolean(value) => Given::Boolean(*value),
            Value::Null => Given::Null,
            Value::Enum(name) => Given::Enum(name),
            Value::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for item in items {
                    list.push(self.evaluate(item)?.unwrap_or(Given::Null));
                }
                Given::List(list)
            }
            Value::Object(members) => {
                let mut object = Vec::with_capacity(members.len());
                for (name, value) in members {
                    if let Some(value) = self.evaluate(value)? {
                        object.push((*name, value));
                    }
                }
                Given::Object(object)
            }
        }))
    }

    fn variable(&mut self, name: &'a str) -> Result<Option<Given<'a>>, String> {
        let variable = self.declared.iter().find(|variable| variable.name == name);
        let variable = variable.ok_or_else(|| format!("there is no variable ${name}"))?;
        self.used.insert(name);
        match self.given.iter().find(|(have, _)| have == name) {
            Some((_, Json::Null)) if variable.of.ends_with('!') => Err(format!("${name} may not be null")),
            Some((_, value)) => Ok(Some(from_json(value))),
            None => match &variable.default {
                // A default contains no variables, so this does not recurse further.
                Some(value) => self.evaluate(value),
                None if variable.of.ends_with('!') => Err(format!("${name} is not given")),
                None => Ok(None),
            },
        }
    }
}

fn from_json(value: &Json) -> Given<'_> {
    match value {
        Json::Null => Given::Null,
        Json::Bool(value) => Given::Boolean(*value),
        Json::Number(_) => Given::Number,
        Json::String(text) => Given::Text(text),
        Json::Array(items) => Given::List(items.iter().map(from_json).collect()),
        Json::Object(members) => {
            Given::Object(members.iter().map(|(name, value)| (name.as_str(), from_json(value))).collect())
        }
    }
}
