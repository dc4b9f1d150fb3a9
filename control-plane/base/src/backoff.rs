//! Pauses between retries. Pure, without a clock: the caller counts its failures and waits.

use std::time::Duration;

/// A pause after each failure. It doubles from `first` with each failure in a row, up to `last`.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The pause after the first failure.
    pub first: Duration,
    /// The longest pause.
    pub last: Duration,
}

impl Backoff {
    /// The pause after this many failures in a row.
    pub fn pause(self, failures: u32) -> Duration {
        self.first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(self.last)
    }

    /// The pause, shortened by up to a half. `random` is in 0..1. Clients that failed together then retry at different
    /// times.
    pub fn spread(self, failures: u32, random: f64) -> Duration {
        self.pause(failures).mul_f64(1.0 - random / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_last_and_differ() {
        let backoff = Backoff { first: Duration::from_secs(1), last: Duration::from_secs(300) };
        let seconds = |failures, random| backoff.spread(failures, random).as_secs_f64();
        assert_eq!([1, 2, 3, 4].map(|failures| seconds(failures, 0.0)), [1.0, 2.0, 4.0, 8.0]);
        assert_eq!(seconds(9, 0.0), 256.0);
        assert_eq!(seconds(10, 0.0), 300.0);
        assert_eq!(seconds(u32::MAX, 0.0), 300.0);
        assert_eq!(seconds(2, 0.5), 1.5);
    }
}
