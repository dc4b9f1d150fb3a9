//! The values of the keys `push_options` and `push_time` of `github:`.

use std::time::Duration;

use base::duration::{self, Allowed};
use serde::{Deserialize, Deserializer};

/// The longest push option that can be listed, in bytes.
const MAX_PUSH_OPTION: usize = 100;
/// The times that a push may take.
const PUSH_TIME: Allowed =
    Allowed { least: Duration::from_secs(1), most: Duration::from_hours(24), bounds: "1s to 24h", example: "15m" };

/// The exact value of a push option.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct PushOption(pub(crate) String);

impl TryFrom<String> for PushOption {
    type Error = String;

    fn try_from(option: String) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".,_-=/:@+".contains(&byte);
        if (1..=MAX_PUSH_OPTION).contains(&option.len()) && option.bytes().all(plain) {
            Ok(Self(option))
        } else {
            Err(format!(
                "{option:?} is no push option that may be listed; expected 1 to {MAX_PUSH_OPTION} letters, digits and .,_-=/:@+, such as ci.skip"
            ))
        }
    }
}

/// How long a push may take, in seconds.
#[derive(Debug)]
pub(crate) struct PushTime(pub(crate) u64);

impl<'de> Deserialize<'de> for PushTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        duration::deserialize(deserializer, &PUSH_TIME).map(|time| Self(time.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_plain_and_a_time_has_an_end() {
        let option = |text: &str| PushOption::try_from(text.to_owned()).is_ok();
        let longest = "o".repeat(MAX_PUSH_OPTION);
        assert!(option("ci.skip") && option("topic=x") && option(&longest));
        assert!(!option(&format!("{longest}o")) && !option("") && !option("x;y") && !option("a b") && !option("é"));
        let time = |text: &str| serde_yaml::from_str::<PushTime>(text).ok().map(|time| time.0);
        assert_eq!(["1s", "15m", "24h"].map(time), [Some(1), Some(900), Some(86_400)]);
        assert_eq!(["0s", "24h 1s", "-1m", "x", "", "90"].map(time), [None; 6]);
    }
}
