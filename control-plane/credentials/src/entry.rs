//! One credential: who may use it, where it may go, how it is put in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use policy::{AuthMode, Container, Denial, HostPattern, Rule};
use secrecy::{ExposeSecret, SecretString};

use super::format::Format;
use super::oauth::Login;
use super::scope::Scope;
use super::source::{Source, Subject, Unavailable};

/// A credential.
#[derive(Debug)]
pub struct Entry {
    /// Its name, which records and the configuration use.
    pub name: String,
    /// A name that it shares with others.
    pub group: Option<&'static str>,
    /// Who may use it.
    pub admits: Admits,
    /// The one host that it goes to, or all below a suffix.
    pub host: HostPattern,
    /// What it is for there.
    pub scope: Scope,
    /// Where it comes from and how it is put in; the first that has a value counts.
    pub injections: Vec<Injection>,
}

/// Which containers a credential is for: those that have all of this.
#[derive(Clone, Debug, Default)]
pub struct Admits {
    /// Labels with these values.
    pub labels: BTreeMap<String, String>,
    /// This mode.
    pub mode: Option<AuthMode>,
    /// One of these ids.
    pub list: Option<BTreeSet<String>>,
}

/// A source, and how what comes from it is put in.
#[derive(Debug)]
pub struct Injection {
    /// Where the value comes from.
    pub source: Source,
    /// Where it is put in.
    pub location: Location,
    /// What stands there.
    pub format: Format,
    /// The variables in which a program in a sandbox looks for it.
    pub variables: Vec<String>,
}

/// Where in a request a credential stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In this header, lower case.
    Header(String),
    /// In this parameter of the query, whose name needs no encoding.
    Query(String),
}

impl Entry {
    /// Whether `container` may use it: its record may name fewer than there are, and the entry may be for some only.
    pub fn admits(&self, container: &Container) -> bool {
        let named = |name: &String| *name == self.name || self.group.is_some_and(|group| name == group);
        container.credentials.as_ref().is_none_or(|names| names.iter().any(named))
            && self.admits.mode.is_none_or(|mode| container.auth_mode == mode)
            && self.admits.list.as_ref().is_none_or(|ids| ids.contains(&container.container_id))
            && self.admits.labels.iter().all(|(key, value)| container.labels.get(key) == Some(value))
    }

    /// The present value, and its injection. The value of some sources is for `subject` alone. Without a subject, it is
    /// the value for all.
    ///
    /// # Errors
    /// 502 where there is none, 503 where a source fails.
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

    /// The refusal where there is no value.
    pub fn missing(&self) -> Denial {
        let variables: Vec<&str> =
            self.injections.iter().flat_map(|injection| injection.source.variables()).map(String::as_str).collect();
        let hint = match variables.as_slice() {
            [] => format!("the source that its operator has set at credentials.{} gives none", self.name),
            _ => format!("its operator can set {}", variables.join(" or ")),
        };
        let reason = format!("the gateway has no credential {}; {hint}", self.name);
        Denial::new(Rule::CredentialsMissing, reason)
    }

    /// The refusal where values are for repositories.
    fn no_repository(&self) -> Denial {
        let reason = "the gateway's GitHub App has tokens for registered repositories only, and there is none here";
        Denial::new(Rule::CredentialsMissing, reason)
    }

    fn failed(&self) -> Denial {
        let reason = format!("the source of the credential {} fails; the gateway's operator can see why", self.name);
        Denial::new(Rule::CredentialsSource, reason)
    }

    /// The parameter of a query in which one of its injections puts it.
    pub fn parameter(&self) -> Option<&str> {
        self.injections.iter().find_map(|injection| match &injection.location {
            Location::Query(name) => Some(name.as_str()),
            Location::Header(_) => None,
        })
    }

    /// Whether there is a value at this moment; a command is not run for it.
    pub fn has_value(&self) -> bool {
        // What the gateway answers by itself is there where its login is.
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

    /// The variables of the injection in force, or of the last if none has a value.
    pub fn placeholders(&self) -> impl Iterator<Item = &str> {
        let in_force =
            self.injections.iter().find(|injection| injection.source.has_value(&self.name, &injection.format));
        in_force.or(self.injections.last()).into_iter().flat_map(|injection| &injection.variables).map(String::as_str)
    }

    /// What is wrong with its sources.
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
    /// What is put in with `value`. The one place where a value is taken out of its wrapper to go into a request.
    pub fn fill(&self, value: &SecretString) -> String {
        self.format.fill(value.expose_secret())
    }

    /// Where the value stands in a request, in the words of the scrub filter: in a header how many bytes stand before
    /// and behind it there, or in what is encoded there.
    pub fn whereabouts(&self) -> String {
        match (&self.location, &self.format) {
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
