//! What the values of a document come to: literals, and variables with what was given for them or their defaults.

use super::super::Json;
use super::document::{Document, Value, Variable};
use std::collections::BTreeSet;

/// A value, as GitHub comes to see it.
#[derive(Clone, Debug, PartialEq)]
pub enum Given<'a> {
    Null,
    Boolean(bool),
    Number,
    /// A string, or, given by a variable, perhaps an enum's value.
    Text(&'a str),
    /// An enum's value in the document.
    Enum(&'a str),
    List(Vec<Given<'a>>),
    Object(Vec<(&'a str, Given<'a>)>),
}

/// The variables of a document.
pub struct Variables<'a> {
    declared: &'a [Variable<'a>],
    given: &'a [(String, Json)],
    /// Those that are used anywhere.
    used: BTreeSet<&'a str>,
}

impl<'a> Variables<'a> {
    /// Those of `document`, of which `given` are given.
    pub fn new(document: &'a Document<'a>, given: &'a [(String, Json)]) -> Self {
        Self { declared: &document.variables, given, used: BTreeSet::new() }
    }

    /// Whether the variable `name` is used by what was evaluated so far.
    pub fn is_used(&self, name: &str) -> bool {
        self.used.contains(name)
    }

    /// What `value` comes to; `None` where it is a variable that is neither given nor has a default, which is as if it
    /// weren't written.
    ///
    /// # Errors
    /// What is wrong with it.
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
                // A default has no variables in it.
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
