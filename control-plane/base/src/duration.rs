//! Durations as operators write them, such as `90s`, `15m`, `36h`, `7d`, `2w` and `1h30m`. The configuration, the policy,
//! and the registrations of the command line and of the admin API use this parser.
//!
//! A day has 24 hours. Months and years have no fixed length, and a number needs its unit.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};
use serde::de::{self, Deserializer, Visitor};

/// The durations that one key accepts.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// The shortest duration.
    pub least: Duration,
    /// The longest duration.
    pub most: Duration,
    /// Both bounds, for the message: `1s to 24h`.
    pub bounds: &'static str,
    /// A usual duration, for the message.
    pub example: &'static str,
}

/// Reads a duration of YAML or JSON. Checks it while it is read, so that an error has its place.
///
/// # Errors
/// See [`parse`].
pub fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
    allowed: &'static Allowed,
) -> Result<Duration, D::Error> {
    deserializer.deserialize_any(DurationVisitor(allowed))
}

struct DurationVisitor(&'static Allowed);

impl DurationVisitor {
    fn read<E: de::Error>(&self, text: &str) -> Result<Duration, E> {
        parse(text, self.0).map_err(E::custom)
    }
}

/// A bare number is read as its text, so that the error names the units.
impl Visitor<'_> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a duration such as {}", self.0.example)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        self.read(text)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Duration, E> {
        self.read(&number.to_string())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Duration, E> {
        self.read(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Duration, E> {
        self.read(&number.to_string())
    }
}

/// Parses a duration that `allowed` accepts.
///
/// # Errors
/// If `text` is no duration, or if the duration is out of bounds. The error has the text, the accepted form, the bounds
/// and an example.
pub fn parse(text: &str, allowed: &Allowed) -> Result<Duration, String> {
    let Allowed { least, most, bounds, example } = allowed;
    let text = text.trim();
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || b".+-".contains(&byte));
    if !text.is_empty() && is_number(text) {
        return Err(format!(
            "{text:?} has no unit; write w, d, h, m or s behind the number, such as {example}; allowed are {bounds}"
        ));
    }
    match duration(text) {
        Some(duration) if (*least..=*most).contains(&duration) => Ok(duration),
        Some(_) => Err(format!("{text:?} is out of range; allowed are {bounds}, such as {example}")),
        None => Err(format!(
            "{text:?} is no duration; write numbers with the units w, d, h, m and s, such as {example} or 1h30m; \
             allowed are {bounds}"
        )),
    }
}

/// `None` if `text` is no duration, or a negative one.
fn duration(text: &str) -> Option<Duration> {
    let span: Span = text.parse().ok()?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(duration).ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 60 * 60;
    const ALLOWED: Allowed = Allowed {
        least: Duration::from_secs(1),
        most: Duration::from_secs(28 * DAY),
        bounds: "1s to 28d",
        example: "8h",
    };

    #[test]
    fn every_unit_from_a_second_to_a_week_is_understood() {
        for (text, seconds) in [
            ("1s", 1),
            ("90m", 90 * 60),
            ("36h", 36 * 3_600),
            ("1h30m", 5_400),
            ("1h 30m", 5_400),
            (" 8h ", 8 * 3_600),
            ("7d", 7 * DAY),
            ("2w", 14 * DAY),
            ("1w1d1h1m1s", 8 * DAY + 3_661),
            ("28d", 28 * DAY),
            ("2 hours", 7_200),
        ] {
            assert_eq!(parse(text, &ALLOWED), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn an_error_has_the_value_the_form_the_bounds_and_an_example() {
        for (text, problem) in [
            ("90", "has no unit; write w, d, h, m or s behind the number"),
            ("-1", "has no unit"),
            ("1.5", "has no unit"),
            ("", "is no duration; write numbers with the units w, d, h, m and s"),
            ("soon", "is no duration"),
            ("-1h", "is no duration"),
            ("1mo", "is no duration"),
            ("1y", "is no duration"),
            ("7d5", "is no duration"),
            ("0s", "is out of range"),
            ("500ms", "is out of range"),
            ("28d1s", "is out of range"),
            ("999999999999h", "is no duration"),
        ] {
            let error = parse(text, &ALLOWED).unwrap_err();
            let told = [&format!("{text:?} {problem}"), "allowed are 1s to 28d", "such as 8h"];
            assert!(told.iter().all(|part| error.contains(*part)), "{text}: {error}");
            assert!(!error.contains("jiff"), "{error}");
        }
    }
}
