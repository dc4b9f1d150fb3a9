//! Parses and checks `policy.yaml`. Every error gives the place or the key, and what is expected there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use policy::endpoint::{Endpoint, METHODS};
use policy::github::{Class, Exception, Patterns, Rules, is_operation};
use policy::push::PushRefusal;
use policy::{Access, BranchGlob, Characters, Egress, Given, HostPattern, HostRules, Policy};
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::push_keys::{PushOption, PushTime};
use super::{Error, parse, presets};
use base::hash::short_hash;
use credentials::Credentials;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    egress: Option<Vec<Entry>>,
    strip_foreign_credentials: Option<bool>,
    policy: Option<RawRules>,
    github: Option<RawGitHub>,
}

/// The block `policy:`, the rules for GitHub in the terms of the project's original design. An absent key has the same
/// value as without the block.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawRules {
    blocked_api_patterns: BTreeMap<Method, Expressions>,
    protected_branches: Option<Vec<BranchGlob>>,
    protect_default_branch: Option<bool>,
    branch_characters: Option<Characters>,
    allow_force_push: Option<bool>,
    allow_branch_deletion: Option<bool>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
struct Method(String);

impl TryFrom<String> for Method {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        if METHODS.contains(&name.as_str()) {
            Ok(Self(name))
        } else {
            Err(format!("{name:?} is no method; expected some of {}", METHODS.join(", ")))
        }
    }
}

/// The regular expressions of one method, which are compiled together.
#[derive(Debug)]
struct Expressions(Vec<String>);

impl<'de> Deserialize<'de> for Expressions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ExpressionsVisitor)
    }
}

struct ExpressionsVisitor;

impl<'de> Visitor<'de> for ExpressionsVisitor {
    type Value = Expressions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence of regular expressions on the path")
    }

    /// Compiles the expressions here, so that an error has the place of the list and the name of its method.
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Expressions, A::Error> {
        let mut expressions = Vec::new();
        while let Some(expression) = list.next_element::<String>()? {
            expressions.push(expression);
        }
        match Patterns::compile(&BTreeMap::from([(String::new(), expressions.clone())])) {
            Ok(_) => Ok(Expressions(expressions)),
            Err(error) => {
                Err(de::Error::custom(format!("{}; expected regular expressions on the path", error.problem)))
            }
        }
    }
}

/// The block `github:`, further rules for GitHub. An absent key has the same value as without the block.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawGitHub {
    bot: Classes,
    user: Classes,
    operations: Vec<RawException>,
    restricted_paths: Option<Vec<PathGlob>>,
    commands: Option<Vec<Word>>,
    denied_labels: Option<Vec<Word>>,
    allowed_labels: Option<Vec<Word>>,
    held_labels: Option<Vec<Word>>,
    agents: Option<Vec<Word>>,
    push_refusal: Option<PushRefusal>,
    push_options: BTreeSet<PushOption>,
    push_time: Option<PushTime>,
}

/// Classes in addition to the default ones, or removed from them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Classes {
    allow: BTreeSet<ClassName>,
    deny: BTreeSet<ClassName>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
struct ClassName(Class);

impl TryFrom<String> for ClassName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        // The class graphql is for requests other than POST /graphql, which can't be allowed.
        Class::named(&name).filter(|class| *class != Class::Graphql).map(Self).ok_or_else(|| {
            let names = Class::ALL.into_iter().filter(|class| *class != Class::Graphql).map(Class::name);
            format!("{name:?} is no class; the classes are {}", names.collect::<Vec<_>>().join(", "))
        })
    }
}

/// An entry of `operations:`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawException {
    labels: BTreeMap<String, String>,
    allow: BTreeSet<OperationName>,
    deny: BTreeSet<OperationName>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
struct OperationName(String);

impl TryFrom<String> for OperationName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        if is_operation(&name) {
            Ok(Self(name))
        } else {
            Err(format!(
                "{name:?} is no operation; expected one as GitHub's API calls it, such as pulls/merge, or a mutation such as mergePullRequest; a refusal and the audit name it"
            ))
        }
    }
}

/// A glob of paths in a repository.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct PathGlob(String);

impl TryFrom<String> for PathGlob {
    type Error = String;

    fn try_from(glob: String) -> Result<Self, String> {
        let part = |part: &str| !matches!(part, "" | "." | "..");
        if glob.split('/').all(part) && !glob.contains('\\') && !glob.chars().any(char::is_control) {
            Ok(Self(glob))
        } else {
            Err(format!("{glob:?} is no path from the repository's root, such as .github/workflows/**; * is any text"))
        }
    }
}

/// A text to search for. An empty text would match everywhere, and a text with white space around it nowhere.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Word(String);

impl TryFrom<String> for Word {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() || text.trim() != text || text.chars().any(char::is_control) {
            Err(format!("{text:?} is not a text without white space around it"))
        } else {
            Ok(Self(text))
        }
    }
}

/// One entry of `egress:`. It is checked while it is parsed, so that an error has its line.
#[derive(Debug)]
struct Entry {
    hosts: Hosts,
    /// With no rule in `allow` the entry lists no host.
    access: Access,
    deny: Vec<Endpoint>,
}

#[derive(Debug)]
enum Hosts {
    Listed(Vec<HostPattern>),
    /// The preset `credentials`: the hosts of the credentials that have a value.
    Configured,
}

impl Entry {
    /// The entries of an absent `egress:`, which are those of the shipped policy.
    fn defaults() -> Vec<Self> {
        let github = presets::expand("github").map(|(hosts, access)| Self::all(Hosts::Listed(hosts), access));
        github.into_iter().chain([Self::all(Hosts::Configured, Access::full())]).collect()
    }

    fn all(hosts: Hosts, access: Access) -> Self {
        Self { hosts, access, deny: Vec::new() }
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a host (api.example.com), all below a suffix (\"*.example.com\"), a preset, or {host: …, allow: […]}",
        )
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Entry, E> {
        read_name(text)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        let mut named: Option<Named> = None;
        let mut given = Given::default();
        let mut cleartext: Option<bool> = None;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "host" | "preset" if named.is_some() => {
                    return Err(de::Error::custom("an entry names one host or one preset"));
                }
                "host" => named = Some(Named::Host(read_pattern(&map.next_value::<String>()?)?)),
                "preset" => named = Some(Named::Preset(read_preset(&map.next_value::<String>()?)?)),
                "allow" => given.allow = Some(map.next_value()?),
                "deny" => given.deny = Some(map.next_value()?),
                "methods" => given.methods = Some(map.next_value()?),
                "cleartext" => cleartext = Some(map.next_value()?),
                other => {
                    let known = &["host", "preset", "allow", "deny", "methods", "cleartext"];
                    return Err(de::Error::unknown_field(other, known));
                }
            }
        }
        let mut entry = match named.ok_or_else(|| de::Error::missing_field("host"))? {
            Named::Host(host) => read_rules(host, &given)?,
            Named::Preset(_) if given.allow.is_some() || given.deny.is_some() => {
                let problem = "allow and deny are for one host or suffix; write host: in place of preset:, in an entry of its own";
                return Err(de::Error::custom(problem));
            }
            Named::Preset(preset) if given.methods.is_none() => preset,
            Named::Preset(preset) => {
                let allow = HostRules::methods(&given).map_err(de::Error::custom)?;
                Entry { access: Access { allow, ..preset.access }, ..preset }
            }
        };
        if cleartext == Some(true) && entry.access.allow.is_empty() {
            return Err(de::Error::custom("cleartext stands beside deny alone, which allows nothing; leave it out"));
        }
        entry.access.cleartext = cleartext.unwrap_or(entry.access.cleartext);
        Ok(entry)
    }
}

/// The hosts of an entry.
enum Named {
    Host(HostPattern),
    Preset(Entry),
}

fn read_name<E: de::Error>(text: &str) -> Result<Entry, E> {
    // Every host name contains a dot, and no preset does.
    if text.contains('.') || text.contains('*') {
        read_rules(read_pattern(text)?, &Given::default())
    } else {
        read_preset(text)
    }
}

fn read_pattern<E: de::Error>(text: &str) -> Result<HostPattern, E> {
    HostPattern::parse(text).map_err(|error| {
        E::custom(format!(
            "{text:?}: {error}; expected a name such as api.example.com, or \"*.example.com\" for all below it"
        ))
    })
}

fn read_rules<E: de::Error>(host: HostPattern, given: &Given) -> Result<Entry, E> {
    let HostRules { host, allow, deny } = HostRules::new(host, given).map_err(E::custom)?;
    Ok(Entry { hosts: Hosts::Listed(vec![host]), access: Access { allow, cleartext: false }, deny })
}

fn read_preset<E: de::Error>(text: &str) -> Result<Entry, E> {
    if text == presets::CREDENTIALS {
        return Ok(Entry::all(Hosts::Configured, Access::full()));
    }
    let (hosts, access) = presets::expand(text).ok_or_else(|| {
        E::custom(format!(
            "{text:?} is neither a host name nor a preset; the presets are {}",
            presets::names().join(", ")
        ))
    })?;
    Ok(Entry::all(Hosts::Listed(hosts), access))
}

/// Reads the policy. Without the file there is no policy, and nothing is allowed.
///
/// # Errors
/// If the file is empty or invalid, or can't be read.
pub fn load(file: &Path, credentials: &Credentials) -> Result<Policy, Error> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Policy::deny_all()),
        Err(source) => return Err(Error::Read { path: file.display().to_string(), source }),
    };
    // A program that writes the file truncates it first, and a full disk leaves it so.
    if text.trim().is_empty() {
        let problem = "the file is empty; write `egress: []` to allow nothing, or `{}` for the defaults".to_owned();
        return Err(Error::Shape { path: file.display().to_string(), place: String::new(), problem });
    }
    read(&text, file, credentials)
}

/// Parses the text of a policy file. `file` is named in errors. An absent `egress` and the preset `credentials` depend on the credentials that had a value at the start.
///
/// # Errors
/// If the text is invalid.
pub fn read(text: &str, file: &Path, credentials: &Credentials) -> Result<Policy, Error> {
    let raw: Raw = parse(text, file)?;
    let Filled = parse(text, file)?;
    let entries = raw.egress.unwrap_or_else(Entry::defaults);
    let mut content = text.as_bytes().to_vec();
    if entries.iter().any(|entry| matches!(entry.hosts, Hosts::Configured)) {
        content.extend(credentials.configured().iter().flat_map(|host| format!("{host}\n").into_bytes()));
    }
    let value = |key: String, problem| Error::Value { path: file.display().to_string(), key, problem };
    let github = further(rules(raw.policy.unwrap_or_default()), raw.github.unwrap_or_default())
        .map_err(|(key, problem)| value(format!("github.{key}"), problem))?;
    let mut egress = Egress::default();
    for (index, entry) in entries.into_iter().enumerate() {
        let hosts = match entry.hosts {
            Hosts::Listed(hosts) => hosts,
            Hosts::Configured => credentials.configured().to_vec(),
        };
        for host in hosts {
            if entry.access.cleartext && credentials.concern(&host) {
                let problem =
                    format!("{host} gets a credential, which never travels in cleartext; leave cleartext out");
                return Err(value(format!("egress[{index}].cleartext"), problem));
            }
            if !entry.access.allow.is_empty() {
                egress.add(host.clone(), entry.access.clone());
            }
            egress.refuse(host, entry.deny.clone());
        }
    }
    Ok(Policy {
        version: short_hash(&content),
        egress,
        strip_foreign_credentials: raw.strip_foreign_credentials.unwrap_or(true),
        github,
    })
}

/// The rules for GitHub. The branch rules apply to pushes, and to every API operation that moves a branch.
fn rules(raw: RawRules) -> Rules {
    let patterns = raw.blocked_api_patterns.into_iter().map(|(method, expressions)| (method.0, expressions.0));
    let mut rules = Rules { blocked_api_patterns: patterns.collect(), ..Rules::default() };
    rules.branches.protected = raw.protected_branches.unwrap_or(rules.branches.protected);
    rules.branches.protect_default = raw.protect_default_branch.unwrap_or(rules.branches.protect_default);
    rules.branches.characters = raw.branch_characters.unwrap_or(rules.branches.characters);
    rules.branches.allow_force_push = raw.allow_force_push.unwrap_or(rules.branches.allow_force_push);
    rules.branches.allow_deletion = raw.allow_branch_deletion.unwrap_or(rules.branches.allow_deletion);
    rules
}

/// Applies `github:` to `rules`. The error is the invalid key and the reason.
fn further(mut rules: Rules, raw: RawGitHub) -> Result<Rules, (String, String)> {
    for (key, classes, given) in [("bot", &mut rules.bot, raw.bot), ("user", &mut rules.user, raw.user)] {
        if let Some(both) = given.allow.intersection(&given.deny).next() {
            return Err((key.into(), format!("{} stands under allow and deny; decide on one", both.0.name())));
        }
        classes.extend(given.allow.into_iter().map(|class| class.0));
        classes.retain(|class| !given.deny.contains(&ClassName(*class)));
    }
    for (index, entry) in raw.operations.into_iter().enumerate() {
        if entry.allow.is_empty() && entry.deny.is_empty() {
            return Err((
                format!("operations[{index}]"),
                "says nothing; expected allow or deny with operations".into(),
            ));
        }
        let names = |names: BTreeSet<OperationName>| names.into_iter().map(|name| name.0).collect();
        let (allow, deny) = (names(entry.allow), names(entry.deny));
        rules.operations.push(Exception { labels: entry.labels, allow, deny });
    }
    if raw.denied_labels.is_some() && raw.allowed_labels.is_some() {
        let problem = "stands beside denied_labels; allowed_labels alone decides, so leave denied_labels out";
        return Err(("allowed_labels".into(), problem.into()));
    }
    let words = |words: Vec<Word>| words.into_iter().map(|word| word.0).collect();
    rules.restricted_paths =
        raw.restricted_paths.map_or(rules.restricted_paths, |globs| globs.into_iter().map(|glob| glob.0).collect());
    rules.commands = raw.commands.map_or(rules.commands, words);
    rules.denied_labels = raw.denied_labels.map_or(rules.denied_labels, words);
    rules.allowed_labels = raw.allowed_labels.map(words);
    rules.held_labels = raw.held_labels.map_or(rules.held_labels, words);
    rules.agents = raw.agents.map_or(rules.agents, words);
    rules.push_refusal = raw.push_refusal.unwrap_or(rules.push_refusal);
    rules.push_options = raw.push_options.into_iter().map(|option| option.0).collect();
    rules.push_time = raw.push_time.map_or(rules.push_time, |time| time.0);
    Ok(rules)
}

/// A document in which every key and every list entry has a value. YAML reads a key whose entries are all commented out
/// as null, which must not count as an absent key: its default may allow more.
#[derive(Debug)]
struct Filled;

impl<'de> Deserialize<'de> for Filled {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value.deserialize(deserializer).map(|()| Self)
    }
}

/// Any value.
struct Value;

impl<'de> DeserializeSeed<'de> for Value {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Err(E::custom(
            "no value; write [] or {} for an empty one, quote it if it is a text, or remove the key for its default",
        ))
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i128<E>(self, _: i128) -> Result<(), E> {
        Ok(())
    }

    fn visit_u128<E>(self, _: u128) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Value)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key::<String>()?.is_some() {
            map.next_value_seed(Value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
