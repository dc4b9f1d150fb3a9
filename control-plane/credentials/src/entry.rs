//! One credential: the containers that may use it, its host, and how it is injected.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use policy::{AuthMode, Container, Denial, HostPattern, Rule};
use secrecy::{ExposeSecret, SecretString};

use super::format::Format;
use super::oauth::Login;
use super::permits::Permits;
use super::scope::Scope;
use super::source::{Source, Subject, Unavailable};

/// A credential.
#[derive(Debug)]
pub struct Entry {
    /// The name of the credential in records and in the configuration.
    pub name: String,
    /// A name that the credential shares with others.
    pub group: Option<&'static str>,
    /// The containers that may use the credential.
    pub admits: Admits,
    /// The one host of the credential, or all hosts below a suffix.
    pub host: HostPattern,
    /// The requests on the host that get the credential.
    pub scope: Scope,
    /// The permissions for the bodies of its requests. `None`: the bodies are not read.
    pub permits: Option<Permits>,
    /// The sources and the places in a request. The first injection with a value counts.
    pub injections: Vec<Injection>,
}

/// The containers that may use a credential. A container must meet all conditions that are set.
#[derive(Clone, Debug, Default)]
pub struct Admits {
    /// The container has these labels with these values.
    pub labels: BTreeMap<String, String>,
    /// The container has this mode.
    pub mode: Option<AuthMode>,
    /// The container has one of these ids.
    pub list: Option<BTreeSet<String>>,
}

/// A source, and the place and the format of its value in a request.
#[derive(Debug)]
pub struct Injection {
    /// The source of the value.
    pub source: Source,
    /// The place of the value in a request.
    pub location: Location,
    /// The text around the value.
    pub format: Format,
    /// The variables in which a program in a sandbox looks for the credential.
    pub variables: Vec<String>,
}

/// The place of a credential in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// This header, in lower case.
    Header(String),
    /// This parameter of the query. Its name needs no percent-encoding.
    Query(String),
}

impl Entry {
    /// Whether `container` may use the credential. The container's record may list the credentials that it may use, and
    /// the entry may be for some containers only.
    pub fn admits(&self, container: &Container) -> bool {
        let named = |name: &String| *name == self.name || self.group.is_some_and(|group| name == group);
        container.credentials.as_ref().is_none_or(|names| names.iter().any(named))
            && self.admits.mode.is_none_or(|mode| container.auth_mode == mode)
            && self.admits.list.as_ref().is_none_or(|ids| ids.contains(&container.container_id))
            && self.admits.labels.iter().all(|(key, value)| container.labels.get(key) == Some(value))
    }

    /// The current value, and its injection. The values of some sources are for `subject` alone. Without a subject, the
    /// value is for all containers.
    ///
    /// # Errors
    /// If no source has a value (status 502), or if a source fails (status 503).
    pub async fn value(&self, subject: Option<Subject<'_>>) -> Result<(&Injection, Arc<SecretString>), Denial> {
        for injection in &self.injections {
            match injection.source.value(&self.name, &injection.format, subject).await {
                Ok(value) => return Ok((injection, value)),
                Err(Unavailable::Absent) => {}
                Err(Unavailable::Failed) => return Err(self.failed()),
                Err(Unavailable::NoRepository) => return Err(self.no_repository()),
            }
        }
        Err(self.missing())
    }

    /// The refusal if the credential has no value.
    pub fn missing(&self) -> Denial {
        let variables: Vec<&str> =
            self.injections.iter().flat_map(|injection| injection.source.variables()).map(String::as_str).collect();
        let hint = match variables.as_slice() {
            [] => format!("the source that the operator has set at credentials.{} has no value", self.name),
            _ => format!("the operator can set {}", variables.join(" or ")),
        };
        let reason = format!("the gateway has no credential {}; {hint}", self.name);
        Denial::new(Rule::CredentialsMissing, reason)
    }

    /// The refusal if the source has values for repositories only, and the request has no registered repository.
    fn no_repository(&self) -> Denial {
        let reason = "the gateway's GitHub App has tokens for registered repositories only, and the container has none";
        Denial::new(Rule::CredentialsMissing, reason)
    }

    fn failed(&self) -> Denial {
        let reason = format!("the source of the credential {} fails; the gateway's operator can see why", self.name);
        Denial::new(Rule::CredentialsSource, reason)
    }

    /// The parameter of the query into which one of the injections puts the value.
    pub fn parameter(&self) -> Option<&str> {
        self.injections.iter().find_map(|injection| match &injection.location {
            Location::Query(name) => Some(name.as_str()),
            Location::Header(_) => None,
        })
    }

    /// Whether the credential has a value now. Commands are not run for this check.
    pub fn has_value(&self) -> bool {
        // The gateway itself responds for a token endpoint. The entry exists only if its login does.
        matches!(self.scope, Scope::TokenEndpoint(_))
            || self.injections.iter().any(|injection| injection.source.has_value(&self.name, &injection.format))
    }

    /// The places in a request where its value may stand: the place of the injection in force, or of all injections if
    /// none has a value. Empty if the gateway answers the request itself.
    pub fn locations(&self) -> Vec<&Location> {
        let in_force =
            self.injections.iter().find(|injection| injection.source.has_value(&self.name, &injection.format));
        let mut found: Vec<&Location> = Vec::new();
        let injections = in_force.map_or(self.injections.as_slice(), std::slice::from_ref);
        for location in injections.iter().map(|injection| &injection.location) {
            if !found.contains(&location) {
                found.push(location);
            }
        }
        found
    }

    /// The logins that it may come from.
    pub fn logins(&self) -> impl Iterator<Item = &Arc<Login>> {
        self.injections.iter().filter_map(|injection| injection.source.as_login())
    }

    /// The variables of the first injection with a value. Without any value, those of the last injection.
    pub fn placeholders(&self) -> impl Iterator<Item = &str> {
        let in_force =
            self.injections.iter().find(|injection| injection.source.has_value(&self.name, &injection.format));
        in_force.or(self.injections.last()).into_iter().flat_map(|injection| &injection.variables).map(String::as_str)
    }

    /// The problems of the sources.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.injections
            .iter()
            .filter_map(|injection| injection.source.problem())
            .map(|problem| format!("{}: {problem}", self.name))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header {name}"),
            Self::Query(name) => write!(f, "query {name}"),
        }
    }
}

impl Injection {
    /// The text to inject for `value`. Only this function exposes a value for a request.
    pub fn fill(&self, value: &SecretString) -> String {
        self.format.fill(value.expose_secret())
    }

    /// The place of the value in a request that has it at `location`, in the notation of the scrub filter. For a
    /// header, the notation has the number of bytes before and after the value; for basic authentication, these count
    /// in the decoded text.
    pub fn whereabouts(&self, location: &Location) -> String {
        match (location, &self.format) {
            (Location::Query(name), _) => format!("query {name}"),
            (Location::Header(name), Format::Plain(before, after)) => {
                format!("header {name} {} {}", before.len(), after.len())
            }
            (Location::Header(name), Format::Basic(before, after)) => {
                format!("basic {name} {} {}", before.len(), after.len())
            }
            (Location::Header(name), Format::Query) => format!("header {name} 0 0"),
        }
    }
}
