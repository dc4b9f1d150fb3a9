//! Compares our JSON parser with serde_json. A text that ours accepts is accepted by serde_json with the same value. A
//! text that only serde_json accepts has a duplicate key or is nested too deep. Serializing keeps the value.

use policy::github::Json;
use serde_json::Value;

/// Runs one input.
pub fn run(input: &[u8]) {
    let theirs = serde_json::from_slice::<Value>(input);
    match Json::parse(input) {
        Ok(ours) => {
            let theirs = theirs.unwrap_or_else(|error| panic!("ours takes it as {ours:?}, the other says {error}"));
            assert!(same(&ours, &theirs), "{ours:?} is not {theirs:?}");
            assert_eq!(Json::parse(&ours.to_bytes()).as_ref(), Ok(&ours));
        }
        Err(why) => {
            let strict = why.contains("duplicate key") || why.contains("nested too deep");
            assert!(strict || theirs.is_err(), "only the other takes it: {why}");
        }
    }
}

fn same(ours: &Json, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Json::Null, Value::Null) => true,
        (Json::Bool(one), Value::Bool(other)) => one == other,
        (Json::Number(one), Value::Number(other)) => one == other,
        (Json::String(one), Value::String(other)) => one == other,
        (Json::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Json::Object(one), Value::Object(other)) => {
            let equal = |(name, one): &(String, Json)| other.get(name).is_some_and(|other| same(one, other));
            one.len() == other.len() && one.iter().all(equal)
        }
        _ => false,
    }
}
