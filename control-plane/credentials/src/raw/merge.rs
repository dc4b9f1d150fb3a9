//! One credential of an operator's entry and the built-in one of its name.

use std::collections::BTreeSet;

use policy::endpoint::{Endpoint, read_method};
use policy::{HostName, HostPattern, mark};

use super::super::built_in::{self, BuiltIn};
use super::super::entry::{Admits, Entry, Injection, Location};
use super::super::format::Format;
use super::super::permits::Permits;
use super::super::scope::Scope;
use super::FieldError;
use super::location::{read_format, read_header, read_query};
use super::shape::RawEntry;
use super::source::Sources;

/// The credential `name`: `raw`, and `built_in` for what `raw` leaves out.
///
/// # Errors
/// If a value of `raw` is wrong, or a required one is absent.
pub fn entry(
    name: &str,
    raw: &RawEntry,
    built_in: Option<&BuiltIn>,
    sources: &Sources<'_>,
) -> Result<Entry, FieldError> {
    let admits = raw.containers.clone().unwrap_or_default();
    let host = host(raw, built_in)?;
    Ok(Entry {
        name: name.to_owned(),
        group: built_in.and_then(|built_in| built_in.group),
        admits: Admits { labels: admits.labels, mode: admits.mode, list: admits.list },
        scope: scope(raw, built_in)?,
        permits: built_in.and_then(|built_in| Permits::of(built_in, &raw.also)),
        injections: at_its_place(injections(name, raw, built_in, sources)?, &host)?,
        host,
    })
}

/// Checks that a credential for a host whose credential is sealed stands where the push stage puts it into force.
fn at_its_place(injections: Vec<Injection>, host: &HostPattern) -> Result<Vec<Injection>, FieldError> {
    let sealed = HostName::parse(b"github.com").is_ok_and(|name| mark::seals(&name) && host.covers(&name));
    let elsewhere = |injection: &Injection| injection.location != Location::Header(mark::UNSEALED.to_owned());
    if sealed && injections.iter().any(elsewhere) {
        return Err(FieldError::new("header", "a credential for github.com stands in the header authorization"));
    }
    Ok(injections)
}

fn host(raw: &RawEntry, built_in: Option<&BuiltIn>) -> Result<HostPattern, FieldError> {
    let wrong = |problem: String| FieldError::new("host", problem);
    let host = raw.host.as_deref().or(built_in.map(|built_in| built_in.host));
    let host = host.ok_or_else(|| wrong("is required: the one host that the credential goes to".into()))?;
    let host = HostPattern::parse(host)
        .map_err(|error| wrong(format!("{host:?}: {error}; a credential is for one name, or for *.NAME")))?;
    if built_in.is_some() && matches!(host, HostPattern::Below(_)) {
        return Err(wrong("a built-in credential is for one exact name; write one of your own".into()));
    }
    if let Some(built_in) = built_in.filter(|built_in| built_in.is_github() && host.to_string() != built_in.host) {
        // On another host, nothing reads what a request does with the token.
        return Err(wrong(format!("{} is for {} only; write one of your own", built_in.name, built_in.host)));
    }
    Ok(host)
}

fn scope(raw: &RawEntry, built_in: Option<&BuiltIn>) -> Result<Scope, FieldError> {
    let methods = match &raw.methods {
        Some(names) => {
            let read = |name: &String| read_method(name).map_err(|error| FieldError::new("methods", error.to_string()));
            Some(names.iter().map(read).collect::<Result<BTreeSet<_>, _>>()?)
        }
        None => None,
    };
    let read = |text: &str| {
        Endpoint::parse(text, methods.as_ref()).map_err(|error| FieldError::new("paths", error.to_string()))
    };
    let endpoints = |texts: &mut dyn Iterator<Item = &str>| texts.map(read).collect::<Result<_, _>>();
    let also = raw.also(built_in).map_err(|problem| FieldError::new("also", problem))?;
    Ok(match (built_in.map(|built_in| built_in.scope), &raw.paths) {
        (Some(built_in::Scope::GitHubGit | built_in::Scope::GitHubApi), paths)
            if paths.is_some() || raw.methods.is_some() =>
        {
            let problem = "the scope of the token at GitHub depends on the container's repositories; for another scope, \
                           switch this credential off and write one of your own";
            return Err(FieldError::new(if paths.is_some() { "paths" } else { "methods" }, problem));
        }
        (Some(built_in::Scope::GitHubGit), _) => Scope::GitHubGit,
        (Some(built_in::Scope::GitHubApi), _) => Scope::GitHubApi,
        (_, Some(paths)) => Scope::Endpoints(endpoints(&mut paths.iter().map(String::as_str).chain(also))?),
        (Some(built_in::Scope::Endpoints(_)), None) if methods.is_some() => {
            let problem = "each path of a built-in credential has its own methods; set `paths` too";
            return Err(FieldError::new("methods", problem));
        }
        (Some(built_in::Scope::Endpoints(paths)), None) => {
            Scope::Endpoints(endpoints(&mut paths.iter().copied().chain(also))?)
        }
        (None, None) => Scope::Endpoints(vec![Endpoint::everything(methods)]),
    })
}

fn injections(
    name: &str,
    raw: &RawEntry,
    built_in: Option<&BuiltIn>,
    sources: &Sources<'_>,
) -> Result<Vec<Injection>, FieldError> {
    let location = match (&raw.header, &raw.query) {
        (Some(_), Some(_)) => {
            return Err(FieldError::new(
                "query",
                "a credential stands in a header or in the query; remove one of the keys",
            ));
        }
        (Some(header), None) => Some(read_header(header)?),
        (None, query) => query.as_deref().map(read_query).transpose()?,
    };
    let format = raw.format.as_deref().map(read_format).transpose()?;
    let Some(from) = &raw.from else {
        let Some(built_in) = built_in else {
            let problem = "is required: {env: NAME}, {file: PATH} or {command: [PROGRAM, ARGUMENT]}";
            return Err(FieldError::new("from", problem));
        };
        if location.is_some() || format.is_some() {
            let problem = "is required where a built-in credential's header, query or format is changed";
            return Err(FieldError::new("from", problem));
        }
        return built_in_injections(name, built_in, sources);
    };
    // The last injection of a built-in credential is the plain key.
    let usual = built_in.and_then(|built_in| built_in.injections.last());
    let at = |header: &str| Location::Header(header.to_owned());
    let location = location.unwrap_or_else(|| at(usual.map_or("authorization", |injection| injection.header)));
    if let Location::Query(_) = location
        && format.is_some()
    {
        let problem = "is for a header; a parameter of the query is the bare value";
        return Err(FieldError::new("format", problem));
    }
    let format = match (format, usual.filter(|injection| at(injection.header) == location)) {
        (Some(format), _) => format,
        (None, Some(injection)) => read_format(injection.format)?,
        (None, None) if matches!(location, Location::Query(_)) => Format::Query,
        (None, None) => read_format(if location == at("authorization") { "Bearer {}" } else { "{}" })?,
    };
    if let Some(program) = from.oauth {
        return Ok(vec![sources.login_injection(name, program, from, raw)?]);
    }
    let (source, own) = sources.read(from, &format, built_in)?;
    let looked_for = usual.into_iter().flat_map(|injection| injection.variables).map(|name| (*name).to_owned());
    let variables = own.into_iter().chain(looked_for).collect();
    Ok(vec![Injection { source, location, format, variables }])
}

/// The injections of a built-in credential without `from`: its login, its variables, and at GitHub the App of
/// variables.
fn built_in_injections(name: &str, built_in: &BuiltIn, sources: &Sources<'_>) -> Result<Vec<Injection>, FieldError> {
    let login = sources.built_in_login_injection(name)?;
    let variables = built_in.injections.iter().map(|injection| sources.variable_injection(injection));
    let mut injections = login.map(Ok).into_iter().chain(variables).collect::<Result<Vec<_>, _>>()?;
    if built_in.is_github() {
        injections.extend(sources.app_injection(built_in)?);
    }
    Ok(injections)
}
