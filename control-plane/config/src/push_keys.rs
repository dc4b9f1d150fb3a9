//! The values of the keys `push_options` and `push_time` of `github:`.

use jiff::SignedDuration;
use serde::Deserialize;

/// The longest push option that can be listed, in bytes.
const MAX_PUSH_OPTION: usize = 100;
/// The longest time of a push, in seconds.
const MAX_PUSH_TIME: u64 = 24 * 60 * 60;

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
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct PushTime(pub(crate) u64);

impl TryFrom<String> for PushTime {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let seconds = text.parse::<SignedDuration>().ok().and_then(|time| u64::try_from(time.as_secs()).ok());
        match seconds.filter(|seconds| (1..=MAX_PUSH_TIME).contains(seconds)) {
            Some(seconds) => Ok(Self(seconds)),
            None => Err(format!("{text:?} is no time from 1s to 24h, such as 15m")),
        }
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
        let time = |text: &str| PushTime::try_from(text.to_owned()).ok().map(|time| time.0);
        assert_eq!(["1s", "15m", "24h"].map(time), [Some(1), Some(900), Some(MAX_PUSH_TIME)]);
        assert_eq!(["0s", "24h 1s", "-1m", "x", ""].map(time), [None; 5]);
    }
}
