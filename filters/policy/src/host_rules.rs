//! The rules of a host, as an operator writes them: the requests that an entry allows, and those that it refuses. A record's
//! `egress_allow` consists of these. The entries of the policy are checked by the same function.

use crate::HostPattern;
use crate::endpoint::{Endpoint, Invalid, read_method};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The most rules in a list.
const MAX_RULES: usize = 100;

/// A host or a suffix, with its rules.
///
/// In JSON a text for every request to the host, or an object with `host`, and `allow`, `deny` or `methods`. `deny` alone
/// allows nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "Form")]
pub struct HostRules {
    /// The host or the suffix.
    pub host: HostPattern,
    /// The requests that pass. Empty means none.
    pub allow: Vec<Endpoint>,
    /// The requests that are refused, also if another entry allows them.
    pub deny: Vec<Endpoint>,
}

/// The rules of an entry, before they are checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// `allow`.
    pub allow: Option<Vec<String>>,
    /// `deny`.
    pub deny: Option<Vec<String>>,
    /// `methods`: the same as `allow` with these methods for every path.
    pub methods: Option<Vec<String>>,
}

/// The reason why an entry has no valid rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRules {
    /// A rule or a method is invalid.
    #[error("{0}: {1}")]
    Rule(&'static str, Invalid),
    /// A list has no entry.
    #[error("{0} is empty; remove the entry, or write a rule such as \"GET /v1/**\"")]
    Empty(&'static str),
    /// A list has more than 100 entries.
    #[error("{0} has more than 100 rules; write * for a part of a segment, or /** for all paths below")]
    Many(&'static str),
    /// A list has a rule twice.
    #[error("{0} has the rule {1} twice; remove one")]
    Twice(&'static str, Endpoint),
    /// Both lists have the same rule.
    #[error("the rule {0} stands under allow and deny; decide on one")]
    Opposed(Endpoint),
    /// Two keys say which methods pass.
    #[error("methods stands beside allow; write the methods in front of each path, such as \"GET|HEAD /v1/**\"")]
    Both,
    /// A rule on paths for a host of GitHub's.
    #[error("{0}: a host of GitHub's takes no rules on paths; the sections github and policy of policy.yaml decide there")]
    GitHub(HostPattern),
}

impl HostRules {
    /// Every request to `host`.
    pub fn all(host: HostPattern) -> Self {
        Self { host, allow: vec![Endpoint::everything(None)], deny: Vec::new() }
    }

    /// The rules `given` for `host`. Without any, every request passes.
    ///
    /// # Errors
    /// See [`InvalidRules`].
    pub fn new(host: HostPattern, given: &Given) -> Result<Self, InvalidRules> {
        let deny = given.deny.as_deref().map_or(Ok(Vec::new()), |texts| list("deny", texts))?;
        let allow = match (&given.allow, &given.methods) {
            (Some(_), Some(_)) => return Err(InvalidRules::Both),
            (Some(texts), None) => list("allow", texts)?,
            (None, Some(names)) => methods(names)?,
            (None, None) if deny.is_empty() => vec![Endpoint::everything(None)],
            (None, None) => Vec::new(),
        };
        if let Some(both) = allow.iter().find(|rule| deny.contains(rule)) {
            return Err(InvalidRules::Opposed(both.clone()));
        }
        if host.may_be_github() && !allow.iter().chain(&deny).all(Endpoint::is_everywhere) {
            return Err(InvalidRules::GitHub(host));
        }
        Ok(Self { host, allow, deny })
    }

    /// The rules that `methods` of `given` stands for. Without `methods`, every request passes.
    ///
    /// # Errors
    /// If a method is invalid, or the list is empty.
    pub fn methods(given: &Given) -> Result<Vec<Endpoint>, InvalidRules> {
        given.methods.as_deref().map_or(Ok(vec![Endpoint::everything(None)]), methods)
    }

    /// Whether the entry allows a request to `host`.
    pub fn lists(&self, host: &crate::HostName) -> bool {
        !self.allow.is_empty() && self.host.covers(host)
    }
}

fn methods(names: &[String]) -> Result<Vec<Endpoint>, InvalidRules> {
    let read = |name: &String| read_method(name).map_err(|error| InvalidRules::Rule("methods", error));
    if names.is_empty() {
        return Err(InvalidRules::Empty("methods"));
    }
    Ok(vec![Endpoint::everything(Some(names.iter().map(read).collect::<Result<_, _>>()?))])
}

fn list(key: &'static str, texts: &[String]) -> Result<Vec<Endpoint>, InvalidRules> {
    if texts.is_empty() {
        return Err(InvalidRules::Empty(key));
    }
    if texts.len() > MAX_RULES {
        return Err(InvalidRules::Many(key));
    }
    let mut rules = Vec::new();
    for text in texts {
        let rule = Endpoint::parse(text, None).map_err(|error| InvalidRules::Rule(key, error))?;
        if rules.contains(&rule) {
            return Err(InvalidRules::Twice(key, rule));
        }
        rules.push(rule);
    }
    Ok(rules)
}

/// The serialized form.
#[derive(Serialize)]
#[serde(untagged)]
enum Form {
    Host(HostPattern),
    Rules {
        host: HostPattern,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        allow: Vec<Endpoint>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        deny: Vec<Endpoint>,
    },
}

impl From<HostRules> for Form {
    fn from(HostRules { host, allow, deny }: HostRules) -> Self {
        if deny.is_empty() && allow == [Endpoint::everything(None)] {
            Self::Host(host)
        } else {
            Self::Rules { host, allow, deny }
        }
    }
}

/// The object form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    host: String,
    allow: Option<Vec<String>>,
    deny: Option<Vec<String>>,
    methods: Option<Vec<String>>,
}

impl<'de> Deserialize<'de> for HostRules {
    // Written by hand: the errors of an untagged enum say neither which field is wrong nor why.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Either)
    }
}

/// Deserializes either form.
struct Either;

impl<'de> Visitor<'de> for Either {
    type Value = HostRules;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a host, or an object with host, and allow, deny or methods")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<HostRules, E> {
        HostPattern::parse(text).map(HostRules::all).map_err(|error| E::custom(format!("{text:?}: {error}")))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HostRules, A::Error> {
        let Object { host, allow, deny, methods } = Object::deserialize(MapAccessDeserializer::new(map))?;
        let host =
            HostPattern::parse(&host).map_err(|error| <A::Error as de::Error>::custom(format!("{host:?}: {error}")))?;
        HostRules::new(host, &Given { allow, deny, methods }).map_err(de::Error::custom)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<HostRules, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn an_entry_is_a_text_or_an_object_and_comes_back_as_it_was() {
        for json in [
            r#""slack.com""#,
            r#""*.example.com""#,
            r#"{"host":"slack.com","allow":["POST /api/chat.postMessage","GET /api/users.*"]}"#,
            r#"{"host":"slack.com","allow":["/**"],"deny":["DELETE /**"]}"#,
            r#"{"host":"slack.com","deny":["/admin/**"]}"#,
            r#"{"host":"api.github.com","allow":["GET|HEAD /**"]}"#,
        ] {
            assert_eq!(serde_json::to_string(&read(json).unwrap()).unwrap(), json);
        }
        assert_eq!(read(r#"{"host":"slack.com"}"#), read(r#""slack.com""#));
        let methods = read(r#"{"host":"slack.com","methods":["HEAD","GET"]}"#);
        assert_eq!(methods, read(r#"{"host":"slack.com","allow":["GET|HEAD /**"]}"#));
        let denied = read(r#"{"host":"slack.com","deny":["/admin/**"]}"#).unwrap();
        assert!(denied.allow.is_empty() && !denied.lists(&crate::HostName::parse(b"slack.com").unwrap()));
    }

    #[test]
    fn each_mistake_in_an_entry_is_told() {
        for (json, hint) in [
            (r#""slack""#, "\"slack\": the host name has a single label"),
            (r#"{"allow":["/a"]}"#, "missing field `host`"),
            (r#"{"host":"slack.com","alow":["/a"]}"#, "unknown field `alow`"),
            (r#"{"host":"slack.com","allow":"/a"}"#, "expected a sequence"),
            (r#"{"host":"slack.com","allow":[]}"#, "allow is empty"),
            (r#"{"host":"slack.com","deny":[]}"#, "deny is empty"),
            (r#"{"host":"slack.com","methods":[]}"#, "methods is empty"),
            (r#"{"host":"slack.com","methods":["get"]}"#, "methods: invalid method \"get\": expected one of GET"),
            (r#"{"host":"slack.com","allow":["post /a"]}"#, "allow: invalid method \"post\""),
            (
                r#"{"host":"slack.com","allow":["POST a"]}"#,
                "allow: invalid path \"a\": the path has no / at its beginning",
            ),
            (r#"{"host":"slack.com","deny":["/a/**/b"]}"#, "deny: invalid path \"/a/**/b\": expected a path such as"),
            (r#"{"host":"slack.com","allow":["/a?b"]}"#, "without a query"),
            (r#"{"host":"slack.com","allow":["/a/../b"]}"#, "a segment of dots"),
            (r#"{"host":"slack.com","allow":["/a","GET /b","/a"]}"#, "allow has the rule /a twice"),
            (r#"{"host":"slack.com","allow":["/a"],"deny":["/a"]}"#, "/a stands under allow and deny"),
            (r#"{"host":"slack.com","allow":["/a"],"methods":["GET"]}"#, "methods stands beside allow"),
            (r#"{"host":"github.com","allow":["/o/r"]}"#, "github.com: a host of GitHub's takes no rules on paths"),
            (r#"{"host":"*.github.com","deny":["/o/r"]}"#, "*.github.com: a host of GitHub's"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(hint), "{json}\n{error}");
        }
    }

    #[test]
    fn a_list_has_100_rules_and_not_one_more() {
        for (count, fits) in [(MAX_RULES, true), (MAX_RULES + 1, false)] {
            let rules: Vec<String> = (0..count).map(|number| format!("/{number}")).collect();
            let json = serde_json::json!({"host": "slack.com", "allow": rules}).to_string();
            assert_eq!(read(&json).is_ok(), fits, "{count}");
        }
    }
}
