//! A YAML file of the operator's: parsed whole, and with a place for each error, also for those that are found later.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Error;

/// The text of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Document<'a> {
    text: &'a str,
    file: &'a Path,
}

impl<'a> Document<'a> {
    /// `text`, which is the content of `file`.
    pub(crate) fn new(text: &'a str, file: &'a Path) -> Self {
        // YAML parses an empty document as null. For an operator it is a file without keys.
        let empty = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
        Self { text: if empty { "{}" } else { text }, file }
    }

    /// Parses the document.
    ///
    /// # Errors
    /// If the text is no YAML, has another structure, or has a key or a list entry without a value.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let parsed = self.parse_as()?;
        let Filled = self.parse_as()?;
        Ok(parsed)
    }

    fn parse_as<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_yaml::from_str(self.text).map_err(|error: serde_yaml::Error| {
            let place = place(&error).unwrap_or_default();
            let message = error.to_string();
            // The message begins with the place already.
            let problem = message.rsplit_once(" at line ").map_or(message.as_str(), |(problem, _)| problem).to_owned();
            Error::Shape { path: self.file.display().to_string(), place, problem }
        })
    }

    /// The error that the value of `key` has `problem`. `key` is written as in messages, for example `egress[1].host`.
    pub(crate) fn wrong(&self, key: String, problem: String) -> Error {
        Error::Value { path: self.file.display().to_string(), place: self.place_of(&key), key, problem }
    }

    /// The place of the value of `key` as `:line:column`. The place around it if the key is absent; empty if that is the
    /// whole document.
    fn place_of(&self, key: &str) -> String {
        let around = std::iter::successors(Some(key), |key| key.rfind(['.', '[']).and_then(|end| key.get(..end)));
        let at = |key| match Seek(key).deserialize(serde_yaml::Deserializer::from_str(self.text)) {
            Ok(()) => None,
            Err(error) => place(&error),
        };
        around.filter(|key| !key.is_empty()).find_map(at).unwrap_or_default()
    }
}

fn place(error: &serde_yaml::Error) -> Option<String> {
    error.location().map(|at| format!(":{}:{}", at.line(), at.column()))
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

/// Fails at the value of this key, and so has the parser tell the place. Without a rest of the key each value is the one.
/// Reaches the end without an error if the key is absent.
struct Seek<'a>(&'a str);

impl<'a> Seek<'a> {
    /// The rest of the key behind `name`. Names may have dots, as hosts do. `None` if the key does not begin with `name`.
    fn behind(&self, name: &str) -> Option<&'a str> {
        let rest = self.0.strip_prefix(name)?;
        match rest.chars().next() {
            None | Some('[') => Some(rest),
            Some('.') => rest.get(1..),
            Some(_) => None,
        }
    }

    /// The index at the beginning of the key, and the rest behind it.
    fn index(&self) -> Option<(usize, &'a str)> {
        let (index, rest) = self.0.strip_prefix('[')?.split_once(']')?;
        Some((index.parse().ok()?, rest.strip_prefix('.').unwrap_or(rest)))
    }
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.0.is_empty() { deserializer.deserialize_any(Here) } else { deserializer.deserialize_any(self) }
    }
}

/// Accepts no value.
struct Here;

impl Visitor<'_> for Here {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no value at all")
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a map or a list with {}", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            match self.behind(&name) {
                Some(rest) => map.next_value_seed(Seek(rest))?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some((index, rest)) = self.index() else {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(());
        };
        let mut at = 0_usize;
        loop {
            let more = if at == index {
                list.next_element_seed(Seek(rest))?.is_some()
            } else {
                list.next_element::<IgnoredAny>()?.is_some()
            };
            if !more {
                return Ok(());
            }
            at = at.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_a_place_and_an_absent_one_the_place_around_it() {
        let text = "upstreams:\n  github: {port: 1}\n  github.com:\n    address: a\ncredentials: {x: {from: {env: [A, B]}}}\nlist:\n  - a\n  - {b: c}\n";
        for (key, place) in [
            ("upstreams", ":2:3"),
            ("upstreams.github.com", ":4:5"),
            ("upstreams.github.com.address", ":4:14"),
            ("upstreams.github.com.ca", ":4:5"),
            ("upstreams.github.port", ":2:18"),
            ("credentials.x.from.env", ":5:31"),
            ("credentials.x.host", ":5:18"),
            ("list[0]", ":7:5"),
            ("list[1].b", ":8:9"),
            ("list[2]", ":7:3"),
            ("nameservers", ""),
            ("", ""),
        ] {
            assert_eq!(Document::new(text, Path::new("x")).place_of(key), place, "{key}");
        }
    }
}
