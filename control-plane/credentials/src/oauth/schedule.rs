//! The times at which logins are refreshed. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::tokens::Tokens;
use base::backoff::Backoff;

/// The least time between the refresh of a token and its expiry.
const MARGIN: SignedDuration = SignedDuration::from_mins(5);

/// The pause after a failed refresh.
pub const RETRIES: Backoff = Backoff { first: Duration::from_secs(1), last: Duration::from_secs(300) };

/// The time when a new token is due: a tenth of the token's lifetime before its expiry, but at least [`MARGIN`] before.
/// For a short lifetime, the time is at most half the lifetime before the expiry. `None` if the expiry is unknown.
pub fn due(tokens: &Tokens) -> Option<Timestamp> {
    let expires = tokens.expires?;
    let margin = match tokens.issued {
        Some(issued) => {
            let lifetime = expires.duration_since(issued).max(SignedDuration::ZERO);
            (lifetime / 10).max(MARGIN).min(lifetime / 2)
        }
        None => MARGIN,
    };
    Some(expires.saturating_sub(margin).unwrap_or(Timestamp::MIN))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn due_of(issued: Option<i64>, expires: i64) -> i64 {
        let at = |second| Timestamp::from_second(second).unwrap();
        let tokens = Tokens {
            access: Arc::new("A".into()),
            refresh: None,
            account: None,
            issued: issued.map(at),
            expires: Some(at(expires)),
        };
        due(&tokens).unwrap().as_second()
    }

    #[test]
    fn a_token_is_due_a_tenth_of_its_life_before_its_end_or_five_minutes() {
        assert_eq!(due_of(None, 10_000), 9_700);
        assert_eq!(due_of(Some(0), 3_000), 2_700);
        assert_eq!(due_of(Some(0), 864_000), 777_600, "ten days");
        assert_eq!(due_of(Some(0), 60), 30, "not at once, again and again");
        assert_eq!(due_of(Some(100), 60), 60);
    }
}
