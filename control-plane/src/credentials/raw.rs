//! What may stand under `credentials:` in sallyport.yaml, and what becomes of it together with the built-in ones.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use policy::{AuthMode, HostName, HostPattern};
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};

use super::built_in::{self, BUILT_IN, BuiltIn};
use super::endpoint::{Endpoint, read_method};
use super::entry::{Admits, Entry, Place, Way};
use super::format::Format;
use super::oauth::endpoint::Client;
use super::oauth::provider::{Layout, Program, Service};
use super::oauth::{self, Login};
use super::scope::Scope;
use super::source::Source;
use super::source::app::{self, App, Settings};
use super::{Credentials, within};
use crate::contract::shows;

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
    also: Vec<String>,
    header: Option<String>,
    query: Option<String>,
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
    app: Option<app::Raw>,
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
    list: Option<BTreeSet<String>>,
}

/// Reads all that stands under `credentials:`. What is asked for by name is looked at here, so that an error has its place.
///
/// # Errors
/// It is of another shape, or names what a built-in credential does not have.
pub fn raws<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Raw>, D::Error> {
    deserializer.deserialize_map(All)
}

struct All;

impl<'de> Visitor<'de> for All {
    type Value = BTreeMap<String, Raw>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of credentials by their names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut all = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let raw = map.next_value_seed(Named(&name))?;
            if all.insert(name.clone(), raw).is_some() {
                return Err(de::Error::custom(format!("{name} stands here twice")));
            }
        }
        Ok(all)
    }
}

/// Reads the value of the name. By hand, since an untagged enum's errors say neither which key is wrong nor why.
struct Named<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Named<'_> {
    type Value = Raw;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Named<'_> {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("false, or a credential such as {host: api.example.com, from: {env: EXAMPLE_KEY}}")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Raw, E> {
        if value { Err(E::invalid_value(de::Unexpected::Bool(true), &self)) } else { Ok(Raw::Off) }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Raw, A::Error> {
        let entry = RawEntry::deserialize(MapAccessDeserializer::new(map))?;
        let built_in = BUILT_IN.iter().find(|b| b.name == self.0 || b.group == Some(self.0));
        let wrong = |problem| de::Error::custom(format!("credentials.{}.also: {problem}", self.0));
        also(&entry, built_in).map_err(wrong)?;
        Ok(Raw::Entry(Box::new(entry)))
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

/// What the values are read in.
struct Surroundings<'a> {
    /// What paths are relative to.
    base: &'a Path,
    /// The value of a variable.
    environment: &'a dyn Fn(&str) -> Option<OsString>,
    /// Each App once, so that its tokens serve all entries.
    apps: RefCell<Vec<Arc<App>>>,
    /// Each login once: a refresh token that two tasks spend is spent once too often.
    logins: RefCell<Vec<Arc<Login>>>,
}

impl Surroundings<'_> {
    fn app(&self, settings: Settings) -> Source {
        let mut apps = self.apps.borrow_mut();
        let known = apps.iter().find(|app| *app.settings() == settings).map(Arc::clone);
        Source::app(known.unwrap_or_else(|| {
            let app = Arc::new(App::new(settings));
            apps.push(Arc::clone(&app));
            app
        }))
    }

    fn login(&self, name: &str, layout: Layout, file: &Path, client: Option<Client>) -> Result<Source, Wrong> {
        let (mut logins, file) = (self.logins.borrow_mut(), self.base.join(file));
        let Some(known) = logins.iter().find(|login| login.is_of(&layout, &file)) else {
            let login = Arc::new(Login::new(name, layout, file, client));
            logins.push(Arc::clone(&login));
            return Ok(Source::login(login));
        };
        let id = |client: Option<&Client>| client.map(|client| client.id.clone());
        match id(known.client()) == id(client.as_ref()) {
            true => Ok(Source::login(Arc::clone(known))),
            false => Err(("from.client_id", "is another one than elsewhere for the same file".to_owned())),
        }
    }
}

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
    let surroundings = &Surroundings { base, environment, apps: RefCell::default(), logins: RefCell::default() };
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
        found.push(entry(built_in.name, raw, Some(built_in), surroundings).map_err(|at| problem(name, at))?);
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
        found.push(entry(name, raw, None, surroundings).map_err(|at| problem(name, at))?);
    }
    let mut entries: BTreeMap<HostPattern, Entry> = BTreeMap::new();
    for entry in found {
        let both = |other: &&Entry| within(&other.host, &entry.host) || within(&entry.host, &other.host);
        if let Some(other) = entries.values().find(both) {
            let reason = match other.host == entry.host {
                true => format!("{} has the credential {} already; a host has one", entry.host, other.name),
                false => format!(
                    "{} and {} of {} have hosts in common; a host has one credential",
                    entry.host, other.host, other.name
                ),
            };
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
    surroundings: &Surroundings<'_>,
) -> Result<Entry, Wrong> {
    let host = raw.host.as_deref().or(built_in.map(|built_in| built_in.host));
    let host = host.ok_or_else(|| ("host", "is required: the one host that the credential goes to".to_owned()))?;
    let host = HostPattern::parse(host)
        .map_err(|error| ("host", format!("{host:?}: {error}; a credential is for one name, or for *.NAME")))?;
    if built_in.is_some() && matches!(host, HostPattern::Below(_)) {
        return Err(("host", "a built-in credential is for one exact name; write one of your own".to_owned()));
    }
    if let Some(built_in) = built_in.filter(|built_in| built_in.is_github() && host.to_string() != built_in.host) {
        // Elsewhere nobody would read what a request does with the token.
        return Err(("host", format!("{} is for {} only; write one of your own", built_in.name, built_in.host)));
    }
    let admits = raw.containers.clone().unwrap_or_default();
    Ok(Entry {
        name: name.to_owned(),
        group: built_in.and_then(|built_in| built_in.group),
        admits: Admits { labels: admits.labels, mode: admits.mode, list: admits.list },
        host,
        scope: scope(raw, built_in)?,
        ways: ways(name, raw, built_in, surroundings)?,
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
    let also = also(raw, built_in).map_err(|problem| ("also", problem))?;
    Ok(match (built_in.map(|built_in| built_in.scope), &raw.paths) {
        (Some(built_in::Scope::GitHubGit | built_in::Scope::GitHubApi), _) if written => {
            let reason = "what the token is for at GitHub depends on the container's repositories; switch this one off \
                          and write one of your own to have it otherwise";
            return Err((if raw.paths.is_some() { "paths" } else { "methods" }, reason.to_owned()));
        }
        (Some(built_in::Scope::GitHubGit), _) => Scope::GitHubGit,
        (Some(built_in::Scope::GitHubApi), _) => Scope::GitHubApi,
        (_, Some(paths)) => Scope::Endpoints(endpoints(&mut paths.iter().map(String::as_str).chain(also))?),
        (Some(built_in::Scope::Endpoints(_)), None) if methods.is_some() => {
            return Err(("methods", "each path of a built-in credential has its own; write `paths` too".to_owned()));
        }
        (Some(built_in::Scope::Endpoints(paths)), None) => {
            Scope::Endpoints(endpoints(&mut paths.iter().copied().chain(also))?)
        }
        (None, None) => Scope::Endpoints(vec![Endpoint::everything(methods)]),
    })
}

/// The endpoints of a built-in credential that are switched on by name.
fn also(raw: &RawEntry, built_in: Option<&BuiltIn>) -> Result<Vec<&'static str>, String> {
    let mut endpoints = Vec::new();
    for name in &raw.also {
        let built_in = built_in.ok_or("is for a built-in credential; one of your own has `paths`")?;
        endpoints.extend(built_in.also(name)?);
    }
    Ok(endpoints)
}

fn ways(
    name: &str,
    raw: &RawEntry,
    built_in: Option<&BuiltIn>,
    surroundings: &Surroundings<'_>,
) -> Result<Vec<Way>, Wrong> {
    let place = match (&raw.header, &raw.query) {
        (Some(_), Some(_)) => return Err(("query", "a credential stands in a header or in the query".to_owned())),
        (Some(header), None) => Some(read_header(header)?),
        (None, query) => query.as_deref().map(read_query).transpose()?,
    };
    let format = raw.format.as_deref().map(read_format).transpose()?;
    let Some(from) = &raw.from else {
        let Some(built_in) = built_in else {
            return Err((
                "from",
                "is required: {env: NAME}, {file: PATH} or {command: [PROGRAM, ARGUMENT]}".to_owned(),
            ));
        };
        if place.is_some() || format.is_some() {
            let reason = "is required where a built-in credential's header, query or format is changed";
            return Err(("from", reason.to_owned()));
        }
        let login = built_in_login(name, surroundings)?;
        let own = built_in.ways.iter().map(|way| built_in_way(way, surroundings.environment));
        let mut ways = login.map(Ok).into_iter().chain(own).collect::<Result<Vec<_>, _>>()?;
        if built_in.is_github() {
            ways.extend(app_way(built_in, surroundings)?);
        }
        return Ok(ways);
    };
    // The last way of a built-in one is the plain key.
    let usual = built_in.and_then(|built_in| built_in.ways.last());
    let at = |header: &str| Place::Header(header.to_owned());
    let place = place.unwrap_or_else(|| at(usual.map_or("authorization", |way| way.header)));
    if let Place::Query(_) = place
        && format.is_some()
    {
        return Err(("format", "is for a header; a parameter of the query is the value and nothing else".to_owned()));
    }
    let format = match (format, usual.filter(|way| at(way.header) == place)) {
        (Some(format), _) => format,
        (None, Some(way)) => read_format(way.format)?,
        (None, None) if matches!(place, Place::Query(_)) => Format::Query,
        (None, None) => read_format(if place == at("authorization") { "Bearer {}" } else { "{}" })?,
    };
    if let Some(program) = from.oauth {
        let way = login(name, program, from, raw, surroundings)?;
        let placeholder = oauth::provider::built_in(name).and_then(|built_in| built_in.placeholder);
        return Ok(vec![Way { variables: placeholder.map(str::to_owned).into_iter().collect(), ..way }]);
    }
    if [from.provider.is_some(), from.client_id.is_some(), from.client_secret.is_some()].contains(&true) {
        return Err(("from", "provider, client_id and client_secret are for oauth".to_owned()));
    }
    let (source, own) = source(from, &format, built_in, surroundings)?;
    let looked_for = usual.into_iter().flat_map(|way| way.variables).map(|name| (*name).to_owned());
    let variables = own.into_iter().chain(looked_for).collect();
    Ok(vec![Way { source, place, format, variables }])
}

fn built_in_way(way: &built_in::Way, environment: &dyn Fn(&str) -> Option<OsString>) -> Result<Way, Wrong> {
    let format = read_format(way.format)?;
    let variables: Vec<String> = way.variables.iter().map(|name| (*name).to_owned()).collect();
    let source = Source::variables_of(variables.clone(), &format, environment);
    Ok(Way { source, place: read_header(way.header)?, format, variables })
}

/// The way of a GitHub App that variables name: the last, with the header of the others.
fn app_way(built_in: &BuiltIn, surroundings: &Surroundings<'_>) -> Result<Option<Way>, Wrong> {
    let source = match Settings::of_variables(surroundings.environment) {
        Ok(None) => return Ok(None),
        Ok(Some(settings)) => surroundings.app(settings),
        Err(problem) => Source::broken(Settings::VARIABLES.map(str::to_owned).into(), problem),
    };
    let Some(last) = built_in.ways.last() else { return Ok(None) };
    let way = built_in_way(last, surroundings.environment)?;
    Ok(Some(Way { source, ..way }))
}

/// The login that a built-in credential may come from, where a variable names its file.
fn built_in_login(name: &str, surroundings: &Surroundings<'_>) -> Result<Option<Way>, Wrong> {
    let Some(oauth::provider::BuiltIn { program, placeholder }) = oauth::provider::built_in(name) else {
        return Ok(None);
    };
    let from = RawSource { oauth: Some(program), ..RawSource::default() };
    if (surroundings.environment)(program.variable()).is_none_or(|file| file.is_empty()) {
        // One that is never there says what could be set.
        let format = read_format("Bearer {}")?;
        let source = Source::variables_of(vec![program.variable().to_owned()], &format, &|_| None);
        return Ok(Some(Way {
            source,
            place: Place::Header("authorization".to_owned()),
            format,
            variables: Vec::new(),
        }));
    }
    let way = login(name, program, &from, &RawEntry::default(), surroundings)?;
    Ok(Some(Way { variables: placeholder.map(str::to_owned).into_iter().collect(), ..way }))
}

/// The way of a login.
fn login(
    name: &str,
    program: Program,
    from: &RawSource,
    raw: &RawEntry,
    surroundings: &Surroundings<'_>,
) -> Result<Way, Wrong> {
    if from.env.is_some() || from.command.is_some() || from.ttl.is_some() || from.app.is_some() {
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
    let variable = |name: &str| (surroundings.environment)(name).filter(|value| !value.is_empty());
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
    if raw.query.is_some() {
        return Err(("query", "a login stands in a header".to_owned()));
    }
    let place = read_header(raw.header.as_deref().unwrap_or("authorization"))?;
    let format = read_format(raw.format.as_deref().unwrap_or("Bearer {}"))?;
    let client = id.map(|id| Client { id, secret });
    let source = surroundings.login(name, layout, &file, client)?;
    Ok(Way { source, place, format, variables: Vec::new() })
}

/// Adds what the gateway answers by itself: the token endpoints of the logins that there are. A host that has an entry of
/// the operator's stays as it is.
fn answers(entries: &mut BTreeMap<HostPattern, Entry>) {
    let services: BTreeSet<Service> = entries.values().flat_map(Entry::logins).filter_map(|l| l.service()).collect();
    for (service, (name, _)) in services.into_iter().flat_map(|s| s.endpoints().iter().map(move |e| (s, e))) {
        let Ok(host) = HostName::parse(name.as_bytes()) else { continue };
        if entries.keys().any(|taken| taken.covers(&host)) {
            continue;
        }
        let host = HostPattern::Exact(host);
        let answer = Entry {
            name: (*name).to_owned(),
            group: None,
            admits: Admits::default(),
            host: host.clone(),
            scope: Scope::Answer(service),
            ways: Vec::new(),
        };
        entries.insert(host, answer);
    }
}

/// The source, and the variables that it reads.
fn source(
    from: &RawSource,
    format: &Format,
    built_in: Option<&BuiltIn>,
    surroundings: &Surroundings<'_>,
) -> Result<(Source, Vec<String>), Wrong> {
    if from.ttl.is_some() && from.command.is_none() {
        return Err(("from.ttl", "is for a command; variables are read once and files when they change".to_owned()));
    }
    let base = surroundings.base;
    match (&from.env, &from.file, &from.command, &from.app) {
        (Some(names), None, None, None) => {
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
            Ok((Source::variables_of(names.clone(), format, surroundings.environment), names))
        }
        (None, Some(path), None, None) => Ok((Source::file(base.join(path)), Vec::new())),
        (None, None, Some(command), None) => {
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
        (None, None, None, Some(app)) if built_in.is_some_and(BuiltIn::is_github) => {
            Ok((surroundings.app(app.check(base)?), Vec::new()))
        }
        (None, None, None, Some(_)) => Err(("from.app", "is for github, github-git and github-api".to_owned())),
        _ => Err(("from", "expected one of env, file, command, oauth and app".to_owned())),
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
fn read_header(text: &str) -> Result<Place, Wrong> {
    let name = text.to_ascii_lowercase();
    let token = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^`|~".contains(&b));
    let taken = NOT_FOR_CREDENTIALS.contains(&name.as_str())
        || ["x-envoy-", "x-sallyport-", "x-forwarded-"].iter().any(|prefix| name.starts_with(prefix));
    match !name.is_empty() && token && !taken {
        true => Ok(Place::Header(name)),
        false => Err(("header", format!("{text:?} is no header for a credential, such as authorization or x-api-key"))),
    }
}

/// A name that is the same encoded and not, and whose value the audit leaves out.
fn read_query(text: &str) -> Result<Place, Wrong> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
    match !text.is_empty() && plain && !shows(text) {
        true => Ok(Place::Query(text.to_owned())),
        false => Err(("query", format!("{text:?} is no parameter for a credential, such as key or api_key"))),
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
        let raws = raws(serde_yaml::Deserializer::from_str(yaml)).map_err(|error| error.to_string())?;
        let get = |name: &str| SET.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        read(&raws, Path::new("/etc/sallyport"), &get).map_err(|at| format!("{}: {}", at.key, at.problem))
    }

    fn at(header: &str) -> Place {
        Place::Header(header.to_owned())
    }

    fn entry<'a>(credentials: &'a Credentials, host: &str) -> Option<&'a Entry> {
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
        assert_eq!(git.ways[0].format, Format::Basic("x-access-token:".into(), String::new()));
        assert!(matches!(entry(&credentials, "api.github.com").unwrap().scope, Scope::GitHubApi));
        let anthropic = entry(&credentials, "api.anthropic.com").unwrap();
        assert_eq!((anthropic.ways.len(), &anthropic.ways[0].place), (1, &at("x-api-key")));
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
        assert_eq!(search.ways[0].place, at("authorization"));
        assert_eq!(search.ways[0].format, Format::Plain("Bearer ".into(), String::new()));
        let vault = entry(&credentials, "api.example.com").unwrap();
        assert_eq!(vault.ways[0].place, at("x-key"));
        assert_eq!(vault.ways[0].format, Format::Plain(String::new(), String::new()));
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
    fn an_app_of_variables_is_the_last_way_of_github_and_one_for_both() {
        let read = |yaml: &str, set: &'static [(&str, &str)]| {
            let get = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            read(&raws(serde_yaml::Deserializer::from_str(yaml)).unwrap(), Path::new("/etc"), &get)
        };
        let app = &[("GITHUB_APP_ID", "5"), ("GITHUB_APP_PRIVATE_KEY_FILE", "/k.pem")];
        let of = |credentials: &Credentials, host: &str| {
            let ways = &entry(credentials, host).unwrap().ways;
            let source = &ways.last().unwrap().source;
            (ways.len(), source.as_app().map(std::ptr::from_ref), source.problem())
        };
        let none = read("{}", &[]).unwrap();
        assert_eq!((of(&none, "github.com").0, of(&none, "github.com").1), (1, None));
        let variables = read("{}", app).unwrap();
        let (git, api) = (of(&variables, "github.com"), of(&variables, "api.github.com"));
        assert_eq!(git.0, 2);
        assert!(git.1.is_some() && git.1 == api.1, "tokens are good for both");
        assert!(git.2.unwrap().contains("/k.pem is not there"));
        assert_eq!(of(&variables, "api.openai.com").1, None);
        let mut looked_for = variables.placeholders();
        looked_for.retain(|name| name.starts_with("GITHUB") || name.starts_with("GH_"));
        assert_eq!(looked_for, ["GH_TOKEN", "GITHUB_TOKEN"]);
        let written = read("github: {from: {app: {id: 5, key: k.pem}}}", &[]).unwrap();
        assert!(
            of(&written, "github.com").1.is_some() && of(&written, "github.com").1 == of(&written, "api.github.com").1
        );
        assert_eq!(of(&written, "github.com").0, 1);
        let half = read("{}", &[("GITHUB_APP_ID", "5")]).unwrap();
        assert!(of(&half, "github.com").2.unwrap().contains("GITHUB_APP_PRIVATE_KEY_FILE is not set"));
        let elsewhere = read("openai: {from: {app: {id: 5, key: k}}}", &[]).unwrap_err();
        assert_eq!(elsewhere.key, "openai.from.app");
    }

    #[test]
    fn a_login_is_the_first_way_of_a_built_in_one_and_the_gateway_answers_for_its_token_endpoint() {
        let of = |yaml: &str, set: &'static [(&str, &str)]| {
            let get = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            read(&raws(serde_yaml::Deserializer::from_str(yaml)).unwrap(), Path::new("/etc"), &get).unwrap()
        };
        let login = |credentials: &Credentials, host: &str| {
            let logins: Vec<_> = entry(credentials, host).unwrap().logins().map(|login| login.service()).collect();
            logins
        };
        let answered = |credentials: &Credentials, host: &str| {
            entry(credentials, host).is_some_and(|entry| matches!(entry.scope, Scope::Answer(_)))
        };
        let none = of("{}", &[]);
        assert_eq!(login(&none, "chatgpt.com"), []);
        assert!(!answered(&none, "auth.openai.com"));

        let variables = of("{}", &[("CODEX_AUTH_FILE", "/codex"), ("CLAUDE_OAUTH_FILE", "/claude")]);
        assert_eq!(login(&variables, "chatgpt.com"), [Some(Service::OpenAi)]);
        assert_eq!(login(&variables, "api.anthropic.com"), [Some(Service::Anthropic)]);
        assert!(
            entry(&variables, "api.anthropic.com").unwrap().ways.len() > 1,
            "a key is taken where there is no login"
        );
        for host in ["auth.openai.com", "console.anthropic.com", "platform.claude.com"] {
            assert!(answered(&variables, host), "{host}");
        }
        assert!(!answered(&variables, "oauth2.googleapis.com"));

        let gemini = "gemini-cli: {from: {oauth: gemini, file: a, client_id: i, client_secret: s}}";
        assert_eq!(login(&of(gemini, &[]), "cloudcode-pa.googleapis.com"), [Some(Service::Google)]);
        let open = "openai: {from: {oauth: opencode, provider: openai, file: a}}";
        assert_eq!(login(&of(open, &[]), "api.openai.com"), [Some(Service::OpenAi)]);
        let other = "groq: {from: {oauth: opencode, provider: groq, file: a}}";
        assert_eq!(login(&of(other, &[]), "api.groq.com"), [None], "used to its end");
        let own = "mine: {host: auth.openai.com, from: {env: X}}";
        assert!(!answered(&of(own, &[("CODEX_AUTH_FILE", "/codex")]), "auth.openai.com"), "the operator's stays");
    }

    #[test]
    fn two_credentials_of_one_file_have_one_login() {
        let login = |credentials: &Credentials, host: &str| entry(credentials, host).unwrap().logins().next().cloned();
        let yaml = "openai: {from: {oauth: codex, file: /codex}}\ncodex: {from: {oauth: codex, file: /codex}}";
        let shared = credentials(yaml).unwrap();
        let [one, other] = ["api.openai.com", "chatgpt.com"].map(|host| login(&shared, host).unwrap());
        assert!(Arc::ptr_eq(&one, &other));
        let yaml = "openai: {from: {oauth: codex, file: /a}}\ncodex: {from: {oauth: codex, file: /b}}";
        let apart = credentials(yaml).unwrap();
        let [one, other] = ["api.openai.com", "chatgpt.com"].map(|host| login(&apart, host).unwrap());
        assert!(!Arc::ptr_eq(&one, &other));
        let yaml = "openai: {from: {oauth: codex, file: /a, client_id: x}}\ncodex: {from: {oauth: codex, file: /a}}";
        assert!(credentials(yaml).unwrap_err().contains("from.client_id: is another one"));
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
        let own = entry(&credentials, "*.example.com").unwrap();
        assert_eq!(own.ways[0].place, Place::Query("sig".into()));
        assert_eq!(own.ways[0].format, Format::Query);
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
            ("x: {host: '*', from: {env: X}}", "x.host: "),
            ("x: {host: 'api.*.com', from: {env: X}}", "x.host: "),
            ("x: {host: '*.openai.com', from: {env: X}}", "x.host: *.openai.com and api.openai.com of openai have"),
            ("openai: {host: '*.openai.com', from: {env: X}}", "openai.host: a built-in credential"),
            ("github-git: {host: octocorp.ghe.com}", "github-git.host: github-git is for github.com only"),
            ("github-api: {host: api.octocorp.ghe.com}", "github-api.host: github-api is for api.github.com only"),
            ("x: {host: '*.a.com', from: {env: X}}\ny: {host: '*.b.a.com', from: {env: X}}", "y.host: "),
            (
                "openai: {also: [files, file]}",
                "expected some of audio, batches, conversations, files, images, responses",
            ),
            ("github: {also: [files]}", "credentials.github.also: github-git has nothing"),
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
            ("openai: {from: {file: a, client_id: b}}", "openai.from: provider, client_id and client_secret"),
        ];
        for (yaml, word) in cases {
            let error = credentials(yaml).map(drop).unwrap_err();
            assert!(error.contains(word), "{yaml}\n{error}");
        }
    }
}
