//! `blocked_api_patterns`: regular expressions on the path, by method, by which a request is refused whatever else is
//! said of it. They only ever refuse.

use super::Refused;
use crate::Rule;
use regex::bytes::{RegexSet, RegexSetBuilder};
use std::collections::BTreeMap;

/// The most memory that the expressions of one method may take when they are compiled.
const MAX_COMPILED: usize = 1 << 20;

/// The expressions, compiled.
#[derive(Clone, Debug)]
pub struct Patterns(BTreeMap<String, RegexSet>);

/// One of them is no regular expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("blocked_api_patterns.{method}: {problem}")]
pub struct InvalidPattern {
    /// The method that it stands under.
    pub method: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Patterns {
    /// Compiles them.
    ///
    /// # Errors
    /// One of them is no regular expression, or all of a method are too large.
    pub fn compile(patterns: &BTreeMap<String, Vec<String>>) -> Result<Self, InvalidPattern> {
        let compile = |(method, patterns): (&String, &Vec<String>)| {
            // Paths are ASCII by the time they come here.
            let set = RegexSetBuilder::new(patterns).unicode(false).size_limit(MAX_COMPILED).build();
            let set = set.map_err(|error| InvalidPattern { method: method.clone(), problem: error.to_string() })?;
            Ok((method.clone(), set))
        };
        patterns.iter().map(compile).collect::<Result<_, _>>().map(Self)
    }

    /// Refuses a request whose path fits one of its method's. HEAD is judged as GET too.
    ///
    /// # Errors
    /// The refusal.
    pub fn judge(&self, method: &str, target: &[u8]) -> Result<(), Refused> {
        let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
        let of = |method: &str| self.0.get(method).is_some_and(|set| set.is_match(path));
        if of(method) || (method == "HEAD" && of("GET")) {
            return Err(Refused::unknown(Rule::GithubBlockedPattern, "the path fits one of blocked_api_patterns"));
        }
        Ok(())
    }
}
