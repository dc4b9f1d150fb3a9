//! Parses and checks `policy.yaml`. Every error gives the place or the key, and what is expected there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use policy::github::{Class, Exception, Patterns, Rules, is_operation};
use policy::push::PushRefusal;
use policy::{Access, BranchGlob, Characters, Egress, HostPattern, Policy};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

use super::push_keys::{PushOption, PushTime};
use super::{Error, parse, presets};
use base::hash::short_hash;
use credentials::Credentials;

/// The methods that an entry can list: PATCH, and those of RFC 9110 except TRACE and CONNECT, which never pass.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

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
    hosts: Vec<HostPattern>,
    access: Access,
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
            "a host (api.example.com), all below a suffix (\"*.example.com\"), a preset, or {host: …, methods: […]}",
        )
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Entry, E> {
        read_name(text)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        let mut entry: Option<Entry> = None;
        let mut methods: Option<BTreeSet<String>> = None;
        let mut cleartext: Option<bool> = None;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "host" | "preset" if entry.is_some() => {
                    return Err(de::Error::custom("an entry names one host or one preset"));
                }
                "host" => {
                    let text: String = map.next_value()?;
                    entry = Some(read_host(&text)?);
                }
                "preset" => {
                    let text: String = map.next_value()?;
                    entry = Some(read_preset(&text)?);
                }
                "methods" => methods = Some(read_methods(map.next_value()?)?),
                "cleartext" => cleartext = Some(map.next_value()?),
                other => return Err(de::Error::unknown_field(other, &["host", "preset", "methods", "cleartext"])),
            }
        }
        let mut entry = entry.ok_or_else(|| de::Error::missing_field("host"))?;
        if methods.is_some() {
            entry.access.methods = methods;
        }
        entry.access.cleartext = cleartext.unwrap_or(entry.access.cleartext);
        Ok(entry)
    }
}

fn read_name<E: de::Error>(text: &str) -> Result<Entry, E> {
    // Every host name contains a dot, and no preset does.
    if text.contains('.') || text.contains('*') { read_host(text) } else { read_preset(text) }
}

fn read_host<E: de::Error>(text: &str) -> Result<Entry, E> {
    let pattern = HostPattern::parse(text).map_err(|error| {
        E::custom(format!(
            "{text:?}: {error}; expected a name such as api.example.com, or \"*.example.com\" for all below it"
        ))
    })?;
    Ok(Entry { hosts: vec![pattern], access: Access::FULL })
}

fn read_preset<E: de::Error>(text: &str) -> Result<Entry, E> {
    let (hosts, access) = presets::expand(text).ok_or_else(|| {
        E::custom(format!(
            "{text:?} is neither a host name nor a preset; the presets are {}",
            presets::names().join(", ")
        ))
    })?;
    Ok(Entry { hosts, access })
}

fn read_methods<E: de::Error>(names: Vec<String>) -> Result<BTreeSet<String>, E> {
    match names.iter().find(|name| !METHODS.contains(&name.as_str())) {
        Some(name) => Err(E::custom(format!("{name:?} is no method; expected some of {}", METHODS.join(", ")))),
        None => Ok(names.into_iter().collect()),
    }
}

/// Reads the policy. Without the file there is no policy, and nothing is allowed.
///
/// # Errors
/// If the file is invalid, or can't be read.
pub fn load(file: &Path, credentials: &Credentials) -> Result<Policy, Error> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Policy::deny_all()),
        Err(source) => return Err(Error::Read { path: file.display().to_string(), source }),
    };
    read(&text, file, credentials)
}

/// Parses the text of a policy file. `file` is named in errors. Without `egress:` the default preset is allowed, and
/// the hosts that had a credential at the start.
///
/// # Errors
/// If the text is invalid.
pub fn read(text: &str, file: &Path, credentials: &Credentials) -> Result<Policy, Error> {
    let raw: Raw = parse(text, file)?;
    // The credentials affect the policy, and so its version, only if the text does not list the hosts.
    let mut content = text.as_bytes().to_vec();
    let entries = raw.egress.unwrap_or_else(|| {
        let configured = credentials.configured();
        content.extend(configured.iter().flat_map(|host| format!("{host}\n").into_bytes()));
        default_entries(configured)
    });
    let value = |key: String, problem| Error::Value { path: file.display().to_string(), key, problem };
    let github = further(rules(raw.policy.unwrap_or_default()), raw.github.unwrap_or_default())
        .map_err(|(key, problem)| value(format!("github.{key}"), problem))?;
    let mut egress = Egress::default();
    for (index, entry) in entries.into_iter().enumerate() {
        for host in entry.hosts {
            if entry.access.cleartext && credentials.concern(&host) {
                let problem =
                    format!("{host} gets a credential, which never travels in cleartext; leave cleartext out");
                return Err(value(format!("egress[{index}].cleartext"), problem));
            }
            egress.add(host, entry.access.clone());
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

/// The entries of an absent `egress:`.
fn default_entries(configured: &[HostPattern]) -> Vec<Entry> {
    let preset = presets::expand(presets::DEFAULT).map(|(hosts, access)| Entry { hosts, access });
    let hosts = configured.to_vec();
    preset.into_iter().chain([Entry { hosts, access: Access::FULL }]).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use credentials;
    use policy::HostName;
    use std::collections::BTreeMap;

    fn policy(text: &str) -> Result<Policy, Error> {
        let set = |name: &str| (name == "OPENAI_API_KEY").then(|| "K".into());
        let credentials = credentials::read(&BTreeMap::new(), Path::new(""), &set).unwrap();
        read(text, Path::new("policy.yaml"), &credentials)
    }

    fn access(policy: &Policy, host: &str) -> Option<Access> {
        policy.egress.access(&HostName::parse(host.as_bytes()).unwrap()).cloned()
    }

    #[test]
    fn an_empty_list_is_none_and_an_absent_one_github_and_the_configured_credentials() {
        assert_eq!(policy("egress: []").unwrap().egress, Egress::default());
        assert_eq!(access(&policy("").unwrap(), "github.com"), Some(Access::FULL));
        assert_eq!(access(&policy("").unwrap(), "api.openai.com"), Some(Access::FULL));
        assert_eq!(access(&policy("").unwrap(), "api.anthropic.com"), None, "it has no value");
        assert_eq!(access(&policy("egress: [github]").unwrap(), "api.openai.com"), None);
        let nothing = Credentials::default();
        assert_ne!(policy("").unwrap().version, read("", Path::new(""), &nothing).unwrap().version);
        assert_eq!(load(Path::new("/nonexistent/policy.yaml"), &nothing).unwrap(), Policy::deny_all());
    }

    #[test]
    fn each_kind_of_entry_means_what_the_example_says() {
        let policy = policy(
            "egress:\n  - api.example.com\n  - '*.example.org'\n  - pypi\n  - {preset: npm, methods: [GET, HEAD, POST]}\n  - {host: mirror.example.net, cleartext: true, methods: [GET]}\n",
        )
        .unwrap();
        assert_eq!(access(&policy, "api.example.com"), Some(Access::FULL));
        assert_eq!(access(&policy, "a.example.org"), Some(Access::FULL));
        assert_eq!(access(&policy, "example.org"), None);
        assert!(!access(&policy, "pypi.org").unwrap().allows(b"POST"));
        assert!(access(&policy, "registry.npmjs.org").unwrap().allows(b"POST"));
        assert!(access(&policy, "mirror.example.net").unwrap().cleartext);
    }

    /// The policy file of the project's original design.
    const SEED: &str = include_str!("../../../tests/corpus/seeds/policy.yaml");

    #[test]
    fn the_policy_of_the_original_design_is_understood() {
        let seed = policy(SEED).unwrap();
        assert_eq!(seed.github.blocked_api_patterns["PUT"], [r"^/repos/[^/]+/[^/]+/pulls/\d+/merge$"]);
        assert_eq!(seed.github.blocked_api_patterns.len(), 3);
        let protected: Vec<String> = seed.github.branches.protected.iter().map(ToString::to_string).collect();
        assert_eq!(protected, ["main", "master"]);
        assert!(!seed.github.branches.allow_force_push && !seed.github.branches.allow_deletion);
        assert_eq!(access(&seed, "github.com"), Some(Access::FULL));
        assert_eq!(policy("").unwrap().github, Rules::default());
        // Given keys apply, and absent keys have their defaults.
        let other = policy("policy: {protected_branches: [], allow_force_push: true, allow_branch_deletion: true}");
        let branches = other.unwrap().github.branches;
        assert!(branches.protected.is_empty() && branches.allow_force_push && branches.allow_deletion);
        assert!(branches.protect_default);
        let other = policy("policy: {protect_default_branch: false, branch_characters: '#,'}").unwrap().github.branches;
        assert!(!other.protect_default);
        assert_eq!((other.protected.len(), other.characters.to_string().as_str()), (2, "#,"));
        assert_eq!(policy("policy: {protected_branches: ['release/*']}").unwrap().github.branches.protected.len(), 1);
    }

    #[test]
    fn a_wrong_value_in_the_rules_is_named() {
        for (text, hint) in [
            ("policy: {blocked_api_paterns: {}}", "policy.yaml:1:10: policy: unknown field `blocked_api_paterns`"),
            ("policy: {allow_force_push: maybe}", "policy.yaml:1:28: policy.allow_force_push: "),
            ("policy: {protected_branches: main}", "policy.yaml:1:30: policy.protected_branches: "),
            ("policy: {protected_branches: ['a..b']}", "is not a branch glob"),
            ("policy: {protect_default_branch: main}", "policy.protect_default_branch: "),
            ("policy: {branch_characters: '# '}", "branch_characters has ' ', which is in no name of git's"),
            (
                "policy:\n  blocked_api_patterns:\n    GET: []\n    put: []\n",
                "policy.yaml:3:5: policy.blocked_api_patterns: \"put\" is no method",
            ),
            (
                "policy:\n  blocked_api_patterns:\n    GET: ['/', '(']\n",
                "policy.yaml:3:10: policy.blocked_api_patterns.GET: regex parse error",
            ),
            ("policy: {blocked_api_patterns: {GET: ['(']}}", "expected regular expressions on the path"),
            ("policy: {blocked_api_patterns: {GET: ['(?:[a-z]{1000}){1000}']}}", "size limit"),
            ("policy: {blocked_api_patterns: {GET: '/'}}", "a sequence"),
            ("policy: {blocked_api_patterns: {TRACE: ['/']}}", "no method"),
        ] {
            let message = policy(text).unwrap_err().to_string();
            assert!(message.contains(hint), "{text}\n{message}");
        }
    }

    #[test]
    fn the_rules_for_github_are_those_of_the_default_and_what_is_said() {
        let text = "github:\n  bot: {allow: [ci], deny: [write-object]}\n  user: {allow: [merge]}\n  operations:\n    - {labels: {team: infra}, allow: [actions/re-run-workflow, closeIssue], deny: [pulls/update]}\n    - {deny: [git/receive-pack]}\n  restricted_paths: [deploy/**]\n  commands: []\n  denied_labels: [ship it]\n  held_labels: [hold*]\n  agents: [robot]\npolicy: {protected_branches: [trunk]}\n";
        let rules = policy(text).unwrap().github;
        let default = Rules::default();
        let classes = |classes: &BTreeSet<Class>| classes.iter().map(|class| class.name()).collect::<Vec<_>>();
        assert_eq!(classes(&rules.bot), ["read-repo", "read-global", "write-collab", "write-ref", "ci"]);
        assert_eq!(rules.user.len(), default.user.len() + 1);
        assert_eq!(rules.operations.len(), 2);
        assert_eq!(rules.operations[0].labels["team"], "infra");
        assert!(rules.operations[0].allow.contains("closeIssue") && rules.operations[0].deny.contains("pulls/update"));
        assert_eq!(rules.restricted_paths, ["deploy/**"]);
        assert!(rules.commands.is_empty());
        assert_eq!((rules.denied_labels, rules.held_labels), (vec!["ship it".to_owned()], vec!["hold*".to_owned()]));
        assert_eq!((rules.allowed_labels, rules.agents), (None, vec!["robot".to_owned()]));
        let allowed = policy("github: {allowed_labels: [bug, 'area/*']}").unwrap().github.allowed_labels;
        assert_eq!(allowed, Some(vec!["bug".to_owned(), "area/*".to_owned()]));
        assert_eq!(rules.branches.protected.len(), 1);
        for nothing in ["", "github:", "github: {}"] {
            assert_eq!(policy(nothing).unwrap().github, default, "{nothing}");
        }
        assert_ne!(policy(text).unwrap().version, policy("").unwrap().version);
    }

    /// The defaults in the example's comments are the actual defaults.
    #[test]
    fn the_example_gives_the_defaults_for_github() {
        for example in
            [include_str!("../../../config/policy.yaml"), include_str!("../../../config/policy.yaml.example")]
        {
            let github = example.split_once("\n#github:\n").unwrap().1;
            let text: String = github.lines().map(|line| format!("{}\n", line.trim_start_matches('#'))).collect();
            let rules = policy(&format!("github:\n{text}")).unwrap().github;
            assert_eq!(Rules { operations: Vec::new(), ..rules }, Rules::default());
        }
    }

    #[test]
    fn a_wrong_word_about_github_is_named_with_its_place() {
        for (text, hint) in [
            ("github:\n  bots: {}", "policy.yaml:2:3: github: unknown field `bots`"),
            ("github:\n  bot: [ci]", "policy.yaml:2:8: github.bot: "),
            (
                "github:\n  bot: {allow: [deploy]}",
                "policy.yaml:2:16: github.bot.allow: \"deploy\" is no class; the classes are read-repo, ",
            ),
            ("github:\n  bot: {allow: [graphql]}", "is no class"),
            ("github:\n  bot: {allow: ci}", "a sequence"),
            ("github:\n  bot: {allow: [ci], deny: [ci]}", "policy.yaml: github.bot: ci stands under allow and deny"),
            ("github:\n  user: {allows: [ci]}", "unknown field `allows`"),
            (
                "github:\n  operations: [{allow: [pulls/marge]}]",
                "github.operations[0].allow: \"pulls/marge\" is no operation",
            ),
            ("github:\n  operations: [{deny: [closeIssues]}]", "such as mergePullRequest"),
            ("github:\n  operations: [{labels: {team: a}}]", "policy.yaml: github.operations[0]: says nothing"),
            ("github:\n  operations: [{label: {team: a}, allow: [pulls/merge]}]", "unknown field `label`"),
            ("github:\n  operations: [{labels: {team: [a]}, allow: [pulls/merge]}]", "a string"),
            ("github:\n  restricted_paths: [/x]", "policy.yaml:2:21: github.restricted_paths: "),
            ("github:\n  restricted_paths: ['a\\b']", "such as .github/workflows/**"),
            ("github:\n  commands: ['']", "policy.yaml:2:13: github.commands: "),
            ("github:\n  denied_labels: [' x']", "without white space around it"),
            ("github:\n  agents: copilot", "a sequence"),
            ("github: {denied_labels: [a], allowed_labels: [b]}", "policy.yaml: github.allowed_labels: stands beside"),
            ("github:\n  push_options: ['x;y']", "policy.yaml:2:17: github.push_options: "),
            ("github:\n  push_options: ['']", "such as ci.skip"),
            ("github:\n  push_time: 0s", "is no time from 1s to 24h, such as 15m"),
            ("github:\n  push_time: 25h", "is no time from 1s to 24h"),
            ("github:\n  push_time: -1m", "is no time from 1s to 24h"),
        ] {
            let message = policy(text).unwrap_err().to_string();
            assert!(message.contains(hint), "{text}\n{message}");
        }
    }

    /// One line for each kind of invalid value: text, line, column, and a word of the hint.
    #[test]
    fn an_error_has_its_place_and_a_hint() {
        let cases = [
            ("egres: []", 1, 1, "`egress`"),
            ("strip_foreign_credentials: maybe", 1, 28, "a boolean"),
            ("egress: github", 1, 9, "a sequence"),
            ("egress:\n  - 127.0.0.1\n", 2, 5, "use the host's name"),
            ("egress:\n  - github\n  - localhost\n", 3, 5, "presets are"),
            ("egress:\n  - '*'\n", 2, 5, "api.example.com"),
            ("egress:\n  - evil.*.com\n", 2, 5, "api.example.com"),
            ("egress:\n  - gihub\n", 2, 5, "presets are"),
            ("egress:\n  - 7\n", 2, 5, "a host"),
            ("egress:\n  - {methods: [GET]}\n", 2, 5, "missing field `host`"),
            ("egress:\n  - {host: a.example.com, preset: npm}\n", 2, 5, "one host or one preset"),
            ("egress:\n  - {host: a.example.com, method: [GET]}\n", 2, 5, "`methods`"),
            ("egress:\n  - {host: a.example.com, methods: [get]}\n", 2, 5, "GET"),
            ("egress:\n  - {host: a.example.com, methods: GET}\n", 2, 36, "a sequence"),
            ("egress:\n  - {host: a.example.com, cleartext: perhaps}\n", 2, 38, "a boolean"),
            ("egress:\n  - github\n egress: []\n", 3, 2, "did not find"),
        ];
        for (text, line, column, hint) in cases {
            let message = policy(text).unwrap_err().to_string();
            assert!(message.starts_with(&format!("policy.yaml:{line}:{column}: ")), "{text}\n{message}");
            assert!(message.contains(hint), "{text}\n{message}");
        }
        for preset in ["host: github.com", "host: api.openai.com", "preset: anthropic"] {
            let text = format!("egress: [github, {{{preset}, cleartext: true}}]");
            let message = policy(&text).unwrap_err().to_string();
            assert!(message.starts_with("policy.yaml: egress[1].cleartext: "), "{message}");
        }
    }
}
