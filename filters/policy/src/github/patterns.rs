//! `blocked_api_patterns`: regular expressions on the path, by method. A request that matches one is refused, whatever
//! the other rules say. Patterns never allow a request.

use super::Refused;
use crate::Rule;
use regex::bytes::{RegexSet, RegexSetBuilder};
use std::collections::BTreeMap;

/// The most memory that the compiled expressions of one method may take, in bytes.
const MAX_COMPILED: usize = 1 << 20;

/// The compiled expressions, by method.
#[derive(Clone, Debug)]
pub struct Patterns(BTreeMap<String, RegexSet>);

/// A pattern is not a valid regular expression, or the patterns of a method are too large.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("blocked_api_patterns.{method}: {problem}")]
pub struct InvalidPattern {
    /// The method of the pattern.
    pub method: String,
    /// The problem with the pattern.
    pub problem: String,
}

impl Patterns {
    /// Compiles the patterns.
    ///
    /// # Errors
    /// If a pattern is not a valid regular expression, or if the patterns of one method are too large together.
    pub fn compile(patterns: &BTreeMap<String, Vec<String>>) -> Result<Self, InvalidPattern> {
        let compile = |(method, patterns): (&String, &Vec<String>)| {
            // Paths are ASCII here; the target was parsed before.
            let set = RegexSetBuilder::new(patterns).unicode(false).size_limit(MAX_COMPILED).build();
            let set = set.map_err(|error| InvalidPattern { method: method.clone(), problem: error.to_string() })?;
            Ok((method.clone(), set))
        };
        patterns.iter().map(compile).collect::<Result<_, _>>().map(Self)
    }

    /// Refuses a request whose path matches a pattern of its method. HEAD is matched against the patterns of GET too.
    ///
    /// # Errors
    /// If the request is refused.
    pub fn judge(&self, method: &str, target: &[u8]) -> Result<(), Refused> {
        let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
        let of = |method: &str| self.0.get(method).is_some_and(|set| set.is_match(path));
        if of(method) || (method == "HEAD" && of("GET")) {
            return Err(Refused::unknown(Rule::GithubBlockedPattern, "the path matches one of blocked_api_patterns"));
        }
        Ok(())
    }
}
