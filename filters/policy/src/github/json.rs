//! JSON that every parser reads the same way: no duplicate keys, at most [`MAX_DEPTH`] levels, nothing after the value.
//! A parsed value is serialized anew, so that what was judged is what is sent.

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use std::fmt;

/// The most levels of nested arrays and objects.
const MAX_DEPTH: usize = 32;

/// A value. Members of an object keep their order.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number. Numbers beyond 64 bits are rounded, here and in the text that is sent.
    Number(serde_json::Number),
    /// A string
    String(String),
    /// An array
    Array(Vec<Json>),
    /// An object
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Parses a complete text.
    ///
    /// # Errors
    /// If the text is invalid; the error says why.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(text).map_err(|_| "not UTF-8".to_owned())?;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let value = Seed(MAX_DEPTH).deserialize(&mut deserializer).map_err(|error| error.to_string())?;
        deserializer.end().map_err(|error| error.to_string())?;
        Ok(value)
    }

    /// Serializes the value.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Serializing cannot fail. If it did, an empty body would be sent, which GitHub refuses.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The member `name`, if the value is an object that has it.
    pub fn get(&self, name: &str) -> Option<&Json> {
        self.members().iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The members of an object; empty for any other value.
    pub fn members(&self) -> &[(String, Json)] {
        match self {
            Self::Object(members) => members,
            _ => &[],
        }
    }

    /// The text, if the value is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }
}

/// Deserializes a value that may have this many more levels.
struct Seed(usize);

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Seed {
    fn inner<E: de::Error>(&self) -> Result<Self, E> {
        self.0.checked_sub(1).map(Seed).ok_or_else(|| E::custom("nested too deep"))
    }
}

impl<'de> Visitor<'de> for Seed {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Json, E> {
        serde_json::Number::from_f64(value).map(Json::Number).ok_or_else(|| E::custom("a number is out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self.inner()?)? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members: Vec<(String, Json)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                return Err(de::Error::custom(format!("duplicate key {key:?}")));
            }
            members.push((key, map.next_value_seed(self.inner()?)?));
        }
        Ok(Json::Object(members))
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Seed(MAX_DEPTH).deserialize(deserializer)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(value) => value.serialize(serializer),
            Self::String(value) => serializer.serialize_str(value),
            Self::Array(items) => {
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| seq.serialize_element(item))?;
                seq.end()
            }
            Self::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                members.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))?;
                map.end()
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn nested(levels: usize) -> String {
        format!("{}{}", "[".repeat(levels), "]".repeat(levels))
    }

    #[test]
    fn what_is_read_is_written_as_it_was() {
        for text in
            [r#"{"b":1,"a":[true,null,-3,1.5,"é\n\u0000"]}"#, "[]", "7", "\"\\ud83d\\ude00\"", "18446744073709551615"]
        {
            let value = Json::parse(text.as_bytes()).unwrap();
            assert_eq!(Json::parse(&value.to_bytes()).unwrap(), value, "{text}");
        }
        assert_eq!(Json::parse(br#"{"b":1,"a":2}"#).unwrap().to_bytes(), br#"{"b":1,"a":2}"#);
    }

    #[test]
    fn a_number_beyond_64_bits_is_the_nearest_one() {
        let value = Json::parse(b"-118446744073709551616").unwrap();
        assert_eq!(value.to_bytes(), b"-1.1844674407370955e+20");
        assert_eq!(Json::parse(&value.to_bytes()).unwrap(), value);
    }

    #[test]
    fn what_two_readers_could_take_differently_is_refused() {
        for text in [
            &b"\xef\xbb\xbf{}"[..],
            b"{}{}",
            b"{} x",
            b"",
            b"{\"a\":1,\"a\":2}",
            b"{\"a\":1,\"\\u0061\":2}",
            b"{\"a\":1,}",
            b"{'a':1}",
            b"[NaN]",
            b"\"\\ud800\"",
            b"\xff\xfe{\x00}\x00",
            b"{\"x\":{\"a\":1,\"a\":1}}",
        ] {
            assert!(Json::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_depth_is_limited() {
        assert!(Json::parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert!(Json::parse(nested(MAX_DEPTH + 1).as_bytes()).is_err());
    }
}
