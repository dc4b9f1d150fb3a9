//! The shapes that may stand under `credentials:`, as serde reads them. Nothing is resolved or merged here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use base::duration::{self, Allowed};
use policy::AuthMode;
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};

use super::super::built_in::{BUILT_IN, BuiltIn};
use super::super::oauth::provider::Program;
use super::super::source::app;

/// The value of one name under `credentials:`.
#[derive(Clone, Debug)]
pub enum Raw {
    /// `false`: the built-in credential of this name is switched off.
    Off,
    /// A credential, or the changes to a built-in one.
    Entry(Box<RawEntry>),
}

/// A credential, as the operator writes it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawEntry {
    pub(super) host: Option<String>,
    pub(super) methods: Option<Vec<String>>,
    pub(super) paths: Option<Vec<String>>,
    pub(super) also: Vec<String>,
    pub(super) header: Option<String>,
    pub(super) query: Option<String>,
    pub(super) format: Option<String>,
    pub(super) from: Option<RawSource>,
    pub(super) containers: Option<RawAdmits>,
}

/// Where a credential's value comes from: exactly one of `env`, `file`, `command`, `oauth` and `app`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSource {
    pub(super) env: Option<Names>,
    pub(super) file: Option<PathBuf>,
    pub(super) command: Option<Vec<String>>,
    pub(super) oauth: Option<Program>,
    pub(super) provider: Option<String>,
    pub(super) client_id: Option<String>,
    pub(super) client_secret: Option<SecretString>,
    pub(super) ttl: Option<Ttl>,
    pub(super) app: Option<app::Raw>,
}

/// How long the output of a command is used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ttl(pub(super) Duration);

const TTL: Allowed = Allowed {
    least: Duration::from_secs(1),
    most: Duration::from_hours(365 * 24),
    bounds: "1s to 365d",
    example: "10m",
};

impl<'de> Deserialize<'de> for Ttl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        duration::deserialize(deserializer, &TTL).map(Self)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a variable's name, or a list of them")]
pub(super) enum Names {
    One(String),
    Several(Vec<String>),
}

/// Which containers may use a credential.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAdmits {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) mode: Option<AuthMode>,
    pub(super) list: Option<BTreeSet<String>>,
}

impl RawEntry {
    /// The endpoints of `built_in` that this entry switches on by name.
    ///
    /// # Errors
    /// If `built_in` is `None`, or has no endpoints of that name.
    pub(super) fn also(&self, built_in: Option<&BuiltIn>) -> Result<Vec<&'static str>, String> {
        let mut endpoints = Vec::new();
        for name in &self.also {
            let built_in = built_in.ok_or("is for a built-in credential; one of your own has `paths`")?;
            endpoints.extend(built_in.also(name)?);
        }
        Ok(endpoints)
    }
}

/// Reads the map under `credentials:`. The names in `also` are checked here, so that an error has its line and column.
///
/// # Errors
/// If the map has another shape, or `also` names endpoints that the built-in credential doesn't have.
pub fn raws<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Raw>, D::Error> {
    deserializer.deserialize_map(Entries)
}

/// Reads the map. By hand, because serde's maps accept a key twice.
struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = BTreeMap<String, Raw>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of credentials by their names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let raw = map.next_value_seed(Named(&name))?;
            if entries.insert(name.clone(), raw).is_some() {
                return Err(de::Error::custom(format!("{name} is set twice")));
            }
        }
        Ok(entries)
    }
}

/// Reads the value of the name. By hand, because the errors of an untagged enum name neither the wrong key nor the
/// reason.
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
        let built_in = BUILT_IN.iter().find(|built_in| built_in.is_named(self.0));
        let wrong = |problem| de::Error::custom(format!("credentials.{}.also: {problem}", self.0));
        entry.also(built_in).map_err(wrong)?;
        Ok(Raw::Entry(Box::new(entry)))
    }
}
