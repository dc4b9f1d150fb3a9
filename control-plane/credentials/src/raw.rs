//! Credentials as the operator configures them under `credentials:`, merged with the built-in ones.
//!
//! `shape` has the types that serde reads. `merge` combines an operator's entry with a built-in one. `location` parses
//! the place of the value in a request. `source` and `login` make the sources of the value.

mod location;
mod login;
mod merge;
mod shape;
mod source;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use policy::HostPattern;

use self::login::add_token_endpoints;
use self::shape::RawEntry;
pub use self::shape::{Raw, raws};
use self::source::Sources;
use super::built_in::BUILT_IN;
use super::entry::Entry;
use super::{Credentials, within};

/// The longest name of a credential.
const MAX_NAME: usize = 64;

/// The problem with a value, and its key below `credentials`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, for example `name.host`.
    pub key: String,
    /// The problem and the allowed values.
    pub problem: String,
}

/// The problem with a value, and its key below the name of a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The key, for example `host` or `from.env`. Empty for the name itself.
    pub key: &'static str,
    /// The problem and the allowed values.
    pub problem: String,
}

impl FieldError {
    /// `problem` at `key`.
    pub fn new(key: &'static str, problem: impl Into<String>) -> Self {
        Self { key, problem: problem.into() }
    }

    /// The problem of the credential `name`.
    fn of(self, name: &str) -> Problem {
        let key = if self.key.is_empty() { name.to_owned() } else { format!("{name}.{}", self.key) };
        Problem { key, problem: self.problem }
    }
}

/// The built-in credentials, changed by the operator's, and the operator's own. `base` is the directory that paths are
/// relative to, `environment` returns the value of a variable.
///
/// # Errors
/// If a value is wrong, or two credentials have a host in common.
pub fn read(
    raws: &BTreeMap<String, Raw>,
    base: &Path,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Credentials, Problem> {
    let sources = Sources::new(base, environment);
    let mut found = Vec::new();
    for built_in in BUILT_IN {
        let raw_of = |name: &str| raws.get_key_value(name);
        let (name, raw) = match raw_of(built_in.name).or_else(|| built_in.group.and_then(raw_of)) {
            Some((_, Raw::Off)) => continue,
            Some((name, Raw::Entry(raw))) => (name.as_str(), raw.as_ref()),
            None => (built_in.name, &RawEntry::default()),
        };
        found.push(merge::entry(built_in.name, raw, Some(built_in), &sources).map_err(|error| error.of(name))?);
    }
    let is_built_in = |name: &str| BUILT_IN.iter().any(|built_in| built_in.is_named(name));
    for (name, raw) in raws.iter().filter(|(name, _)| !is_built_in(name)) {
        found.push(own_entry(name, raw, &sources).map_err(|error| error.of(name))?);
    }
    let mut entries = by_host(found)?;
    add_token_endpoints(&mut entries);
    Ok(Credentials::new(entries))
}

/// The operator's own credential `name`.
fn own_entry(name: &str, raw: &Raw, sources: &Sources<'_>) -> Result<Entry, FieldError> {
    let Raw::Entry(raw) = raw else {
        let names: Vec<&str> = BUILT_IN.iter().map(|built_in| built_in.name).collect();
        let problem =
            format!("only a built-in credential can be switched off; the built-in ones are {}", names.join(", "));
        return Err(FieldError::new("", problem));
    };
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(allowed) {
        let problem = format!("a credential's name has 1 to {MAX_NAME} characters of a-z, 0-9 and '-'");
        return Err(FieldError::new("", problem));
    }
    merge::entry(name, raw, None, sources)
}

/// The entries by host. A host has one entry.
fn by_host(found: Vec<Entry>) -> Result<BTreeMap<HostPattern, Entry>, Problem> {
    let mut entries: BTreeMap<HostPattern, Entry> = BTreeMap::new();
    for entry in found {
        let overlaps = |other: &&Entry| within(&other.host, &entry.host) || within(&entry.host, &other.host);
        if let Some(other) = entries.values().find(overlaps) {
            let problem = if other.host == entry.host {
                format!("{} has the credential {} already; a host can have one credential", entry.host, other.name)
            } else {
                format!(
                    "{} and {} of {} have hosts in common; a host can have one credential",
                    entry.host, other.host, other.name
                )
            };
            return Err(FieldError::new("host", problem).of(&entry.name));
        }
        entries.insert(entry.host.clone(), entry);
    }
    Ok(entries)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use policy::AuthMode;

    use super::super::entry::Location;
    use super::super::format::Format;
    use super::super::scope::Scope;
    use super::*;

    const SET: [(&str, &str); 3] = [("OPENAI_API_KEY", "K"), ("TAVILY_API_KEY", "T"), ("OAI", "O")];

    /// The credentials of `yaml`, with [`SET`] as the environment.
    pub fn credentials(yaml: &str) -> Result<Credentials, String> {
        credentials_of(yaml, &SET)
    }

    /// The credentials of `yaml`, with `variables` as the environment.
    pub fn credentials_of(yaml: &str, variables: &[(&str, &str)]) -> Result<Credentials, String> {
        let raws = raws(serde_yaml::Deserializer::from_str(yaml)).map_err(|error| error.to_string())?;
        let get = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        read(&raws, Path::new("/etc/sallyport"), &get).map_err(|error| format!("{}: {}", error.key, error.problem))
    }

    fn at(header: &str) -> Location {
        Location::Header(header.to_owned())
    }

    /// The entry for `host`, written as in the configuration.
    pub fn entry<'a>(credentials: &'a Credentials, host: &str) -> Option<&'a Entry> {
        credentials.entries.get(&HostPattern::parse(host).unwrap())
    }

    #[test]
    fn the_built_in_credentials_need_no_configuration() {
        let credentials = credentials("{}").unwrap();
        assert_eq!(credentials.entries.len(), BUILT_IN.len());
        let hosts: Vec<String> = credentials.configured().iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["api.openai.com", "api.tavily.com"], "configured is what has a value");
        assert_eq!(
            credentials.placeholders(),
            [
                "ANTHROPIC_API_KEY",
                "DEEPSEEK_API_KEY",
                "GEMINI_API_KEY",
                "GH_TOKEN",
                "GITHUB_TOKEN",
                "GOOGLE_API_KEY",
                "GROQ_API_KEY",
                "MISTRAL_API_KEY",
                "OPENAI_API_KEY",
                "OPENROUTER_API_KEY",
                "PERPLEXITY_API_KEY",
                "SEMANTIC_SCHOLAR_API_KEY",
                "TAVILY_API_KEY",
                "XAI_API_KEY",
            ]
        );
    }

    #[test]
    fn a_built_in_one_is_switched_off_or_changed_by_its_name() {
        let credentials = credentials(
            "openai: false\ngithub: {from: {file: token}}\nanthropic: {from: {file: /run/key}, paths: ['POST /v1/messages'], containers: {mode: user}}\n",
        )
        .unwrap();
        assert!(entry(&credentials, "api.openai.com").is_none());
        let git = entry(&credentials, "github.com").unwrap();
        assert!(matches!(git.scope, Scope::GitHubGit));
        assert_eq!(git.injections[0].format, Format::Basic("x-access-token:".into(), String::new()));
        assert!(matches!(entry(&credentials, "api.github.com").unwrap().scope, Scope::GitHubApi));
        let anthropic = entry(&credentials, "api.anthropic.com").unwrap();
        assert_eq!((anthropic.injections.len(), &anthropic.injections[0].location), (1, &at("x-api-key")));
        assert!(matches!(&anthropic.scope, Scope::Endpoints(endpoints) if endpoints.len() == 1));
        assert_eq!(anthropic.admits.mode, Some(AuthMode::User));
        assert!(credentials.placeholders().contains(&"ANTHROPIC_API_KEY"), "programs look for it all the same");
    }

    #[test]
    fn an_entry_of_one_s_own_needs_a_host_and_a_source() {
        let credentials = credentials(
            "search: {host: API.example.net, from: {env: [OTHER, TAVILY_API_KEY]}}\n\
             vault:\n  host: api.example.com\n  methods: [GET, POST]\n  paths: [/v1/**, 'PUT /v2/x']\n  header: X-Key\n  from: {command: [bin/key, --now], ttl: 1m}\n  containers: {labels: {team: a}}\n",
        )
        .unwrap();
        let search = entry(&credentials, "api.example.net").unwrap();
        assert_eq!(search.injections[0].location, at("authorization"));
        assert_eq!(search.injections[0].format, Format::Plain("Bearer ".into(), String::new()));
        let vault = entry(&credentials, "api.example.com").unwrap();
        assert_eq!(vault.injections[0].location, at("x-key"));
        assert_eq!(vault.injections[0].format, Format::Plain(String::new(), String::new()));
        let Scope::Endpoints(endpoints) = &vault.scope else { unreachable!() };
        assert_eq!(endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(), ["GET|POST /v1/**", "PUT /v2/x"]);
        let hosts: Vec<String> = credentials.configured().iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["api.example.com", "api.example.net", "api.openai.com", "api.tavily.com"]);
    }

    #[test]
    fn what_is_off_is_switched_on_by_its_name() {
        let scope = |yaml: &str, host: &str| {
            let credentials = credentials(yaml).unwrap();
            let Scope::Endpoints(endpoints) = &entry(&credentials, host).unwrap().scope else { unreachable!() };
            endpoints.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let usual = scope("{}", "api.openai.com");
        let more = scope("openai: {also: [responses, files]}", "api.openai.com");
        assert_eq!(more[..usual.len()], usual[..]);
        for endpoint in ["DELETE|GET /v1/responses/*", "GET|POST /v1/files"] {
            assert!(more.contains(&endpoint.to_owned()) && !usual.contains(&endpoint.to_owned()), "{endpoint}");
        }
        assert!(!more.iter().any(|endpoint| endpoint.contains("batches")), "{more:?}");
        let own = scope("openai: {paths: [POST /v1/responses], also: [batches]}", "api.openai.com");
        assert_eq!((own.len(), own[0].as_str()), (4, "POST /v1/responses"));
        for yaml in [
            "anthropic: {also: [batches, files]}",
            "gemini: {also: [files, caches, batches]}",
            "openai: {also: [files, responses, batches]}",
        ] {
            assert!(credentials(yaml).is_ok(), "{yaml}");
        }
    }

    #[test]
    fn an_entry_for_a_suffix_concerns_what_is_allowed_below_it() {
        let yaml = "own: {host: '*.example.com', query: sig, from: {env: OAI}}";
        let credentials = credentials(yaml).unwrap();
        let concerned = |hosts: &str| credentials.concern(&HostPattern::parse(hosts).unwrap());
        for hosts in ["*.example.com", "a.example.com", "a.b.example.com", "*.b.example.com", "api.openai.com"] {
            assert!(concerned(hosts), "{hosts}");
        }
        for hosts in ["example.com", "*.xample.com", "aexample.com", "*.openai.com", "b.api.openai.com"] {
            assert!(!concerned(hosts), "{hosts}");
        }
        let routed = |host: &[u8], lists: &[&str]| {
            let entry = |pattern: &&str| policy::HostRules::all(HostPattern::parse(pattern).unwrap());
            let lists: Vec<_> = lists.iter().map(entry).collect();
            credentials.concern_host(&policy::HostName::parse(host).unwrap(), &policy::Egress::default(), &lists)
        };
        assert!(routed(b"a.b.example.com", &["*.b.example.com"]));
        assert!(routed(b"api.openai.com", &["*.openai.com", "api.openai.com"]), "the longest pattern is the route");
        for (host, lists) in [("api.openai.com", &["*.openai.com", "*.b.example.com"][..]), ("a.example.com", &[])] {
            assert!(!routed(host.as_bytes(), lists), "{host}");
        }
        let own = entry(&credentials, "*.example.com").unwrap();
        assert_eq!(own.injections[0].location, Location::Query("sig".into()));
        assert_eq!(own.injections[0].format, Format::Query);
    }

    #[test]
    fn the_example_that_is_shipped_is_understood() {
        let shipped = include_str!("../../../config/sallyport.yaml.example");
        let (_, example) = shipped.split_once("\n#credentials:\n").unwrap();
        let example: String =
            example.lines().map_while(|line| line.strip_prefix('#')).flat_map(|l| [l, "\n"]).collect();
        let credentials = credentials(&example).unwrap();
        assert!(entry(&credentials, "api.openai.com").is_none());
        assert!(entry(&credentials, "packages.example.com").is_some());
    }

    /// One line for each kind of bad value: the YAML, and a part of the error.
    #[test]
    fn what_is_not_understood_is_an_error_that_says_where() {
        let cases = [
            ("openai: true", "expected false, or a credential"),
            ("openai: K", "expected false, or a credential"),
            ("opnai: false", "opnai: only a built-in credential"),
            ("x: {}", "x.host: is required"),
            ("x: {host: api.example.com}", "x.from: is required"),
            ("x: {host: '*', from: {env: X}}", "x.host: "),
            ("x: {host: 'api.*.com', from: {env: X}}", "x.host: "),
            ("x: {host: '*.openai.com', from: {env: X}}", "x.host: *.openai.com and api.openai.com of openai have"),
            ("openai: {host: '*.openai.com', from: {env: X}}", "openai.host: a built-in credential"),
            (
                "github: false\nx: {host: github.com, from: {env: X}, header: x-key}",
                "x.header: a credential for github.com",
            ),
            (
                "github: false\nx: {host: github.com, from: {env: X}, query: key}",
                "x.header: a credential for github.com",
            ),
            ("github-git: {host: octocorp.ghe.com}", "github-git.host: github-git is for github.com only"),
            ("github-api: {host: api.octocorp.ghe.com}", "github-api.host: github-api is for api.github.com only"),
            ("x: {host: '*.a.com', from: {env: X}}\ny: {host: '*.b.a.com', from: {env: X}}", "y.host: "),
            (
                "openai: {also: [files, file]}",
                "expected some of audio, batches, conversations, files, images, responses",
            ),
            ("github: {also: [files]}", "credentials.github.also: github-git has no endpoints"),
            ("x: {host: api.example.com, from: {env: X}, also: [files]}", "x.also: is for a built-in credential"),
            ("x: {host: api.example.com, from: {env: X}, header: a, query: b}", "x.query: a credential stands"),
            ("x: {host: api.example.com, from: {env: X}, query: ''}", "x.query: "),
            ("x: {host: api.example.com, from: {env: X}, query: a=b}", "x.query: "),
            ("x: {host: api.example.com, from: {env: X}, query: page}", "x.query: "),
            ("x: {host: api.example.com, from: {env: X}, query: b, format: 'k {}'}", "x.format: is for a header"),
            ("openai: {query: key}", "openai.from: is required"),
            ("x: {host: api.example.com, from: {env: X}, containers: {list: a}}", "expected a sequence"),
            ("x: {host: 10.0.0.1, from: {env: X}}", "x.host: "),
            ("x: {host: api.openai.com, from: {env: X}}", "x.host: api.openai.com has the credential openai already"),
            ("X_y: {host: api.example.com, from: {env: X}}", "X_y: a credential's name"),
            ("x: {host: api.example.com, from: {env: X, file: y}}", "x.from: expected one of"),
            ("x: {host: api.example.com, from: {}}", "x.from: expected one of"),
            ("x: {host: api.example.com, from: {env: X Y}}", "x.from.env: "),
            ("x: {host: api.example.com, from: {env: []}}", "x.from.env: "),
            ("x: {host: api.example.com, from: {env: 7}}", "a variable's name"),
            ("x: {host: api.example.com, from: {env: X, ttl: 5m}}", "x.from.ttl: is for a command"),
            ("x: {host: api.example.com, from: {command: []}}", "x.from.command: "),
            ("x: {host: api.example.com, from: {command: [a], ttl: soon}}", "x.from.ttl: expected a duration"),
            ("x: {host: api.example.com, from: {command: [a], ttl: 0s}}", "x.from.ttl: must be"),
            ("x: {host: api.example.com, from: {env: X}, header: Host}", "x.header: "),
            ("x: {host: api.example.com, from: {env: X}, header: 'a b'}", "x.header: "),
            ("x: {host: api.example.com, from: {env: X}, header: x_key}", "x.header: "),
            ("x: {host: api.example.com, from: {env: X}, header: x-envoy-key}", "x.header: "),
            ("x: {host: api.example.com, from: {env: X}, format: Bearer}", "x.format: "),
            ("x: {host: api.example.com, from: {env: X}, methods: [get]}", "x.methods: "),
            ("x: {host: api.example.com, from: {env: X}, paths: [v1]}", "x.paths: "),
            ("x: {host: api.example.com, from: {env: X}, path: /v1}", "unknown field `path`"),
            ("x: {host: api.example.com, from: {env: X}, containers: {label: {}}}", "unknown field `label`"),
            ("x: {host: api.example.com, from: {env: X}, containers: {mode: root}}", "root"),
            ("github-api: {paths: [/]}", "github-api.paths: "),
            ("openai: {methods: [POST]}", "openai.methods: "),
            ("openai: {header: x-key}", "openai.from: is required"),
            ("anthropic: {from: {oauth: cursor}}", "unknown variant `cursor`"),
            (
                "anthropic: {from: {oauth: claude}}",
                "anthropic.from.file: is required, or the variable CLAUDE_OAUTH_FILE",
            ),
            ("anthropic: {from: {oauth: claude, file: a, env: X}}", "anthropic.from: "),
            ("anthropic: {from: {oauth: claude, file: a, ttl: 5m}}", "anthropic.from: beside oauth stand"),
            ("anthropic: {from: {oauth: claude, file: a, provider: anthropic}}", "from.provider: is for OpenCode"),
            ("anthropic: {from: {oauth: opencode, file: a}}", "anthropic.from.provider: is required"),
            ("gemini-cli: {from: {oauth: gemini, file: a}}", "gemini-cli.from.client_id: and from.client_secret"),
            ("anthropic: {from: {oauth: claude, file: a}, query: k}", "anthropic.query: a login stands in a header"),
            ("github: {from: {app: {id: 0, key: k}}}", "github.from.app.id: "),
            ("openai: {from: {file: a, client_id: b}}", "openai.from: provider, client_id and client_secret"),
        ];
        for (yaml, word) in cases {
            let error = credentials(yaml).map(drop).unwrap_err();
            assert!(error.contains(word), "{yaml}\n{error}");
        }
    }
}
