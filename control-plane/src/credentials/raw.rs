//! What may stand under `credentials:` in sallyport.yaml, and what becomes of it together with the built-in ones.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use policy::{AuthMode, HostName};
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::Credentials;
use super::built_in::{self, BUILT_IN, BuiltIn};
use super::endpoint::{Endpoint, read_method};
use super::entry::{Admits, Entry, Format, Scope, Way};
use super::oauth::endpoint::Client;
use super::oauth::provider::{Layout, Program, Service};
use super::oauth::{self, Login};
use super::source::Source;

/// How long the output of a command counts where nothing is said.
const DEFAULT_TTL: Duration = Duration::from_secs(300);

/// The longest name of a credential.
const MAX_NAME: usize = 64;

/// Headers that are not for credentials: they belong to the connection, to Envoy or to us (RFC 9110 section 7.6.1).
const NOT_FOR_CREDENTIALS: [&str; 12] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "x-request-id",
];

/// The value of one name under `credentials:`.
#[derive(Clone, Debug)]
pub enum Raw {
    /// `false`: the built-in credential of this name is switched off.
    Off,
    /// A credential, or what is different in a built-in one.
    Entry(Box<RawEntry>),
}

/// A credential, as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawEntry {
    host: Option<String>,
    methods: Option<Vec<String>>,
    paths: Option<Vec<String>>,
    header: Option<String>,
    format: Option<String>,
    from: Option<RawSource>,
    containers: Option<RawAdmits>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawSource {
    env: Option<Names>,
    file: Option<PathBuf>,
    command: Option<Vec<String>>,
    oauth: Option<Program>,
    provider: Option<String>,
    client_id: Option<String>,
    client_secret: Option<SecretString>,
    ttl: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a variable's name, or a list of them")]
enum Names {
    One(String),
    Several(Vec<String>),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawAdmits {
    labels: BTreeMap<String, String>,
    mode: Option<AuthMode>,
}

impl<'de> Deserialize<'de> for Raw {
    // By hand, since an untagged enum's errors say neither which key is wrong nor why.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Either)
    }
}

struct Either;

impl<'de> Visitor<'de> for Either {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("false, or a credential such as {host: api.example.com, from: {env: EXAMPLE_KEY}}")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Raw, E> {
        if value { Err(E::invalid_value(de::Unexpected::Bool(true), &self)) } else { Ok(Raw::Off) }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Raw, A::Error> {
        RawEntry::deserialize(MapAccessDeserializer::new(map)).map(|entry| Raw::Entry(Box::new(entry)))
    }
}

/// What is wrong, and at which key below `credentials`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `name.host` and the like.
    pub key: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

/// What a value below the name of a credential has wrong: the key, and the problem.
type Wrong = (&'static str, String);

/// The built-in credentials, changed and joined by the operator's. `base` is what paths are relative to,
/// `environment` gives the value of a variable.
///
/// # Errors
/// Anything that is not understood, and two credentials for one host.
pub fn read(
    raws: &BTreeMap<String, Raw>,
    base: &Path,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Credentials, Problem> {
    let problem = |name: &str, (key, problem): Wrong| {
        let key = if key.is_empty() { name.to_owned() } else { format!("{name}.{key}") };
        Problem { key, problem }
    };
    let mut found: Vec<Entry> = Vec::new();
    for built_in in BUILT_IN {
        let of = |name: &str| raws.get_key_value(name);
        let given = of(built_in.name).or_else(|| built_in.group.and_then(of));
        let (name, raw) = match given {
            Some((_, Raw::Off)) => continue,
            Some((name, Raw::Entry(raw))) => (name.as_str(), raw.as_ref()),
            None => (built_in.name, &RawEntry::default()),
        };
        found.push(entry(built_in.name, raw, Some(built_in), base, environment).map_err(|at| problem(name, at))?);
    }
    let known = |name: &str| BUILT_IN.iter().any(|b| b.name == name || b.group == Some(name));
    for (name, raw) in raws.iter().filter(|(name, _)| !known(name)) {
        let Raw::Entry(raw) = raw else {
            let names: Vec<&str> = BUILT_IN.iter().map(|built_in| built_in.name).collect();
            let reason = format!("only a built-in credential can be switched off; they are {}", names.join(", "));
            return Err(problem(name, ("", reason)));
        };
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) {
            let reason = format!("a credential's name is 1 to {MAX_NAME} of a-z, 0-9 and '-'");
            return Err(problem(name, ("", reason)));
        }
        found.push(entry(name, raw, None, base, environment).map_err(|at| problem(name, at))?);
    }
    let mut entries: BTreeMap<HostName, Entry> = BTreeMap::new();
    for entry in found {
        if let Some(other) = entries.get(&entry.host) {
            let reason = format!("{} has the credential {} already; a host has one", entry.host, other.name);
            return Err(problem(&entry.name, ("host", reason)));
        }
        entries.insert(entry.host.clone(), entry);
    }
    answers(&mut entries);
    Ok(Credentials::new(entries))
}

fn entry(
    name: &str,
    raw: &RawEntry,
    built_in: Option<&BuiltIn>,
    base: &Path,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Entry, Wrong> {
    let host = raw.host.as_deref().or(built_in.map(|built_in| built_in.host));
    let host = host.ok_or_else(|| ("host", "is required: the one host that the credential goes to".to_owned()))?;
    let host = HostName::parse(host.as_bytes())
        .map_err(|error| ("host", format!("{host:?}: {error}; a credential is for one exact name")))?;
    let admits = raw.containers.clone().unwrap_or_default();
    Ok(Entry {
        name: name.to_owned(),
        group: built_in.and_then(|built_in| built_in.group),
        admits: Admits { labels: admits.labels, mode: admits.mode },
        host,
        scope: scope(raw, built_in)?,
        ways: ways(name, raw, built_in, base, environment)?,
    })
}

fn scope(raw: &RawEntry, built_in: Option<&BuiltIn>) -> Result<Scope, Wrong> {
    let written = raw.methods.is_some() || raw.paths.is_some();
    let methods = match &raw.methods {
        Some(names) => Some(
            names
                .iter()
                .map(|name| read_method(name).map_err(|error| ("methods", error.to_string())))
                .collect::<Result<BTreeSet<_>, _>>()?,
        ),
        None => None,
    };
    let read = |text: &str| Endpoint::parse(text, methods.as_ref()).map_err(|error| ("paths", error.to_string()));
    let endpoints = |texts: &mut dyn Iterator<Item = &str>| texts.map(read).collect::<Result<_, _>>();
    Ok(match (built_in.map(|built_in| built_in.scope), &raw.paths) {
        (Some(built_in::Scope::GitHubGit | built_in::Scope::GitHubApi), _) if written => {
            let reason = "what the token is for at GitHub depends on the container's repositories; switch this one off \
                          and write one of your own to have it otherwise";
            return Err((if raw.paths.is_some() { "paths" } else { "methods" }, reason.to_owned()));
        }
        (Some(built_in::Scope::GitHubGit), _) => Scope::GitHubGit,
        (Some(built_in::Scope::GitHubApi), _) => Scope::GitHubApi,
        (_, Some(paths)) => Scope::Endpoints(endpoints(&mut paths.iter().map(String::as_str))?),
        (Some(built_in::Scope::Endpoints(_)), None) if methods.is_some() => {
            return Err(("methods", "each path of a built-in credential has its own; write `paths` too".to_owned()));
        }
        (Some(built_in::Scope::Endpoints(paths)), None) => Scope::Endpoints(endpoints(&mut paths.iter().copied())?),
        (None, None) => Scope::Endpoints(vec![Endpoint::everything(methods)]),
    })
}

fn ways(
    name: &str,
    raw: &RawEntry,
    built_in: Option<&BuiltIn>,
    base: &Path,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Vec<Way>, Wrong> {
    let header = raw.header.as_deref().map(read_header).transpose()?;
    let format = raw.format.as_deref().map(read_format).transpose()?;
    let Some(from) = &raw.from else {
        let Some(built_in) = built_in else {
            return Err((
                "from",
                "is required: {env: NAME}, {file: PATH} or {command: [PROGRAM, ARGUMENT]}".to_owned(),
            ));
        };
        if header.is_some() || format.is_some() {
            return Err(("from", "is required where a built-in credential's header or format is changed".to_owned()));
        }
        let login = built_in_login(name, base, environment)?;
        let ways = built_in.ways.iter().map(|way| built_in_way(way, environment));
        return login.map(Ok).into_iter().chain(ways).collect();
    };
    // The last way of a built-in one is the plain key.
    let usual = built_in.and_then(|built_in| built_in.ways.last());
    let header = header.or(usual.map(|way| way.header.to_owned())).unwrap_or_else(|| "authorization".to_owned());
    let format = match (format, usual.filter(|way| way.header == header)) {
        (Some(format), _) => format,
        (None, Some(way)) => read_format(way.format)?,
        (None, None) => read_format(if header == "authorization" { "Bearer {}" } else { "{}" })?,
    };
    if let Some(program) = from.oauth {
        let way = login(name, program, from, raw, base, environment)?;
        let placeholder = oauth::provider::built_in(name).and_then(|built_in| built_in.placeholder);
        return Ok(vec![Way { variables: placeholder.map(str::to_owned).into_iter().collect(), ..way }]);
    }
    if [from.provider.is_some(), from.client_id.is_some(), from.client_secret.is_some()].contains(&true) {
        return Err(("from", "provider, client_id and client_secret are for oauth".to_owned()));
    }
    let (source, own) = source(from, &format, base, environment)?;
    let looked_for = usual.into_iter().flat_map(|way| way.variables).map(|name| (*name).to_owned());
    let variables = own.into_iter().chain(looked_for).collect();
    Ok(vec![Way { source, header, format, variables }])
}

fn built_in_way(way: &built_in::Way, environment: &dyn Fn(&str) -> Option<OsString>) -> Result<Way, Wrong> {
    let format = read_format(way.format)?;
    let variables: Vec<String> = way.variables.iter().map(|name| (*name).to_owned()).collect();
    let source = Source::variables_of(variables.clone(), &format, environment);
    Ok(Way { source, header: read_header(way.header)?, format, variables })
}

/// The login that a built-in credential may come from, where a variable names its file.
fn built_in_login(
    name: &str,
    base: &Path,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Option<Way>, Wrong> {
    let Some(oauth::provider::BuiltIn { program, placeholder }) = oauth::provider::built_in(name) else {
        return Ok(None);
    };
    let from = RawSource { oauth: Some(program), ..RawSource::default() };
    if environment(program.variable()).is_none_or(|file| file.is_empty()) {
        // One that is never there says what could be set.
        let format = read_format("Bearer {}")?;
        let source = Source::variables_of(vec![program.variable().to_owned()], &format, &|_| None);
        return Ok(Some(Way { source, header: "authorization".to_owned(), format, variables: Vec::new() }));
    }
    let way = login(name, program, &from, &RawEntry::default(), base, environment)?;
    Ok(Some(Way { variables: placeholder.map(str::to_owned).into_iter().collect(), ..way }))
}

/// The way of a login.
fn login(
    name: &str,
    program: Program,
    from: &RawSource,
    raw: &RawEntry,
    base: &Path,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Way, Wrong> {
    if from.env.is_some() || from.command.is_some() || from.ttl.is_some() {
        return Err(("from", "beside oauth stand file, provider, client_id and client_secret".to_owned()));
    }
    let layout = match (program, &from.provider) {
        (Program::OpenCode, Some(provider)) => Layout::OpenCode(provider.clone()),
        (Program::OpenCode, None) => {
            return Err(("from.provider", "is required: which of the logins in OpenCode's file".to_owned()));
        }
        (_, Some(_)) => return Err(("from.provider", "is for OpenCode, whose file has several".to_owned())),
        (Program::Codex, None) => Layout::Codex,
        (Program::Gemini, None) => Layout::Gemini,
        (Program::Claude, None) => Layout::Claude,
    };
    let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
    let file = from.file.clone().or_else(|| variable(program.variable()).map(PathBuf::from));
    let file = file
        .ok_or_else(|| ("from.file", format!("is required, or the variable {} that names it", program.variable())))?;
    let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
    let google = layout.service() == Some(Service::Google);
    let id = from.client_id.clone().or_else(|| layout.service().and_then(Service::client_id).map(str::to_owned));
    let id = id.or_else(|| google.then(|| text("GEMINI_OAUTH_CLIENT_ID")).flatten());
    let secret = from.client_secret.clone();
    let secret = secret.or_else(|| google.then(|| text("GEMINI_OAUTH_CLIENT_SECRET").map(Into::into)).flatten());
    if google && (id.is_none() || secret.is_none()) {
        let reason = "and from.client_secret are required for Gemini CLI, or the variables GEMINI_OAUTH_CLIENT_ID and \
                      GEMINI_OAUTH_CLIENT_SECRET: those that it is shipped with";
        return Err(("from.client_id", reason.to_owned()));
    }
    let header = raw.header.as_deref().map_or_else(|| Ok("authorization".to_owned()), read_header)?;
    let format = read_format(raw.format.as_deref().unwrap_or("Bearer {}"))?;
    let client = id.map(|id| Client { id, secret });
    let source = Source::login(Login::new(name, layout, base.join(file), client));
    Ok(Way { source, header, format, variables: Vec::new() })
}

/// Adds what the gateway answers by itself: the token endpoints of the logins that there are. A host that has an entry of
/// the operator's stays as it is.
fn answers(entries: &mut BTreeMap<HostName, Entry>) {
    let services: BTreeSet<Service> = entries.values().flat_map(Entry::logins).filter_map(|l| l.service()).collect();
    for (service, (name, _)) in services.into_iter().flat_map(|s| s.endpoints().iter().map(move |e| (s, e))) {
        let Ok(host) = HostName::parse(name.as_bytes()) else { continue };
        entries.entry(host.clone()).or_insert_with(|| Entry {
            name: (*name).to_owned(),
            group: None,
            admits: Admits::default(),
            host,
            scope: Scope::Answer(service),
            ways: Vec::new(),
        });
    }
}

/// The source, and the variables that it reads.
fn source(
    from: &RawSource,
    format: &Format,
    base: &Path,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<(Source, Vec<String>), Wrong> {
    if from.ttl.is_some() && from.command.is_none() {
        return Err(("from.ttl", "is for a command; variables are read once and files when they change".to_owned()));
    }
    match (&from.env, &from.file, &from.command) {
        (Some(names), None, None) => {
            let names = match names {
                Names::One(name) => vec![name.clone()],
                Names::Several(names) => names.clone(),
            };
            let wrong = names.iter().find(|name| !is_variable(name));
            if let Some(wrong) = wrong.map(|name| format!("{name:?} is no variable's name")) {
                return Err(("from.env", wrong));
            }
            if names.is_empty() {
                return Err(("from.env", "names no variable".to_owned()));
            }
            Ok((Source::variables_of(names.clone(), format, environment), names))
        }
        (None, Some(path), None) => Ok((Source::file(base.join(path)), Vec::new())),
        (None, None, Some(command)) => {
            let (program, arguments) = command
                .split_first()
                .filter(|(program, _)| !program.is_empty())
                .ok_or_else(|| ("from.command", "names no program".to_owned()))?;
            // A path is relative to the file it stands in; a bare name is looked for in PATH.
            let program = match program.contains('/') {
                true => base.join(program).display().to_string(),
                false => program.clone(),
            };
            let ttl = from.ttl.as_deref().map(read_ttl).transpose()?.unwrap_or(DEFAULT_TTL);
            Ok((Source::command(program, arguments.to_vec(), ttl), Vec::new()))
        }
        _ => Err(("from", "expected one of env, file, command and oauth".to_owned())),
    }
}

fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn read_ttl(text: &str) -> Result<Duration, Wrong> {
    let duration = text
        .parse::<SignedDuration>()
        .map_err(|error| ("from.ttl", format!("expected a duration such as 5m or 1h: {error}")))?;
    let duration = Duration::try_from(duration).ok().filter(|duration| *duration >= Duration::from_secs(1));
    duration.ok_or_else(|| ("from.ttl", "must be one second or longer".to_owned()))
}

/// RFC 9110 section 5.1, of which an underscore is left out: Envoy drops such headers.
fn read_header(text: &str) -> Result<String, Wrong> {
    let name = text.to_ascii_lowercase();
    let token = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^`|~".contains(&b));
    let taken = NOT_FOR_CREDENTIALS.contains(&name.as_str())
        || ["x-envoy-", "x-sallyport-", "x-forwarded-"].iter().any(|prefix| name.starts_with(prefix));
    match !name.is_empty() && token && !taken {
        true => Ok(name),
        false => Err(("header", format!("{text:?} is no header for a credential, such as authorization or x-api-key"))),
    }
}

fn read_format(text: &str) -> Result<Format, Wrong> {
    Format::parse(text).ok_or_else(|| {
        ("format", format!("{text:?} is none; expected a text with {{}} for the value, such as \"Bearer {{}}\""))
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const SET: [(&str, &str); 3] = [("OPENAI_API_KEY", "K"), ("TAVILY_API_KEY", "T"), ("OAI", "O")];

    fn credentials(yaml: &str) -> Result<Credentials, String> {
        let raws: BTreeMap<String, Raw> = serde_yaml::from_str(yaml).map_err(|error| error.to_string())?;
        let get = |name: &str| SET.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        read(&raws, Path::new("/etc/sallyport"), &get).map_err(|at| format!("{}: {}", at.key, at.problem))
    }

    fn entry<'a>(credentials: &'a Credentials, host: &str) -> Option<&'a Entry> {
        credentials.entries.get(host)
    }

    #[test]
    fn the_built_in_credentials_need_no_configuration() {
        let credentials = credentials("{}").unwrap();
        assert_eq!(credentials.entries.len(), BUILT_IN.len());
        let hosts: Vec<&str> = credentials.configured().iter().map(HostName::as_str).collect();
        assert_eq!(hosts, ["api.openai.com"], "configured is what has a value");
        assert_eq!(
            credentials.placeholders(),
            ["ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GH_TOKEN", "GITHUB_TOKEN", "GOOGLE_API_KEY", "OPENAI_API_KEY"]
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
        assert_eq!(git.ways[0].format, Format::Basic("x-access-token:".into(), String::new()));
        assert!(matches!(entry(&credentials, "api.github.com").unwrap().scope, Scope::GitHubApi));
        let anthropic = entry(&credentials, "api.anthropic.com").unwrap();
        assert_eq!((anthropic.ways.len(), anthropic.ways[0].header.as_str()), (1, "x-api-key"));
        assert!(matches!(&anthropic.scope, Scope::Endpoints(endpoints) if endpoints.len() == 1));
        assert_eq!(anthropic.admits.mode, Some(AuthMode::User));
        assert!(credentials.placeholders().contains(&"ANTHROPIC_API_KEY"), "programs look for it all the same");
    }

    #[test]
    fn an_entry_of_one_s_own_needs_a_host_and_a_source() {
        let credentials = credentials(
            "tavily: {host: API.tavily.com, from: {env: [OTHER, TAVILY_API_KEY]}}\n\
             vault:\n  host: api.example.com\n  methods: [GET, POST]\n  paths: [/v1/**, 'PUT /v2/x']\n  header: X-Key\n  from: {command: [bin/key, --now], ttl: 1m}\n  containers: {labels: {team: a}}\n",
        )
        .unwrap();
        let tavily = entry(&credentials, "api.tavily.com").unwrap();
        assert_eq!(tavily.ways[0].header, "authorization");
        assert_eq!(tavily.ways[0].format, Format::Plain("Bearer ".into(), String::new()));
        let vault = entry(&credentials, "api.example.com").unwrap();
        assert_eq!(vault.ways[0].header, "x-key");
        assert_eq!(vault.ways[0].format, Format::Plain(String::new(), String::new()));
        let Scope::Endpoints(endpoints) = &vault.scope else { unreachable!() };
        assert_eq!(endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(), ["GET|POST /v1/**", "PUT /v2/x"]);
        let hosts: Vec<&str> = credentials.configured().iter().map(HostName::as_str).collect();
        assert_eq!(hosts, ["api.example.com", "api.openai.com", "api.tavily.com"]);
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

    /// One line for each kind of bad value: what is written, and a word of the error.
    #[test]
    fn what_is_not_understood_is_an_error_that_says_where() {
        let cases = [
            ("openai: true", "expected false, or a credential"),
            ("openai: K", "expected false, or a credential"),
            ("opnai: false", "opnai: only a built-in credential"),
            ("x: {}", "x.host: is required"),
            ("x: {host: api.example.com}", "x.from: is required"),
            ("x: {host: '*.example.com', from: {env: X}}", "x.host: "),
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
        ];
        for (yaml, word) in cases {
            let error = credentials(yaml).map(drop).unwrap_err();
            assert!(error.contains(word), "{yaml}\n{error}");
        }
    }
}
