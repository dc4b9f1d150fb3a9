//! Decides when to open the stream that feeds the memory. A pure state machine, which `filter` drives from `on_tick`.
//!
//! It counts ticks instead of reading a clock, because a clock can be set.

use std::time::Duration;

/// The first pause before the stream is reopened.
const SHORTEST: Duration = Duration::from_millis(100);
/// The longest pause before the stream is reopened. A restarted control plane is connected again within this time.
const LONGEST: Duration = Duration::from_secs(2);

/// The stream to the registry.
#[derive(Debug)]
pub struct Link {
    state: State,
    /// The pause after the stream ends the next time.
    pause: Duration,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Down { left: Duration },
    Up { token: u32 },
}

impl Link {
    /// A stream that was never opened.
    pub fn new() -> Self {
        Self { state: State::Down { left: Duration::ZERO }, pause: SHORTEST }
    }

    /// Handles a tick, `passed` after the last one. Returns whether to open the stream now.
    pub fn tick(&mut self, passed: Duration) -> bool {
        match &mut self.state {
            State::Down { left } => {
                *left = left.saturating_sub(passed);
                left.is_zero()
            }
            State::Up { .. } => false,
        }
    }

    /// The stream was opened, with the call id `token`.
    pub fn opened(&mut self, token: u32) {
        self.state = State::Up { token };
    }

    /// A message of the stream was applied. Resets the pause.
    pub fn fed(&mut self) {
        self.pause = SHORTEST;
    }

    /// The stream ended, or couldn't be opened.
    pub fn closed(&mut self) {
        self.state = State::Down { left: self.pause };
        self.pause = self.pause.saturating_mul(2).min(LONGEST);
    }

    /// Whether `token` is the call id of the current stream, not of an earlier one.
    pub fn is(&self, token: u32) -> bool {
        self.state == State::Up { token }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_tick_opens() {
        let mut link = Link::new();
        assert!(link.tick(SHORTEST));
        link.opened(7);
        assert!(!link.tick(SHORTEST));
        assert!(link.is(7) && !link.is(6));
    }

    #[test]
    fn the_pause_doubles_to_two_seconds_and_a_message_makes_it_short_again() {
        let mut link = Link::new();
        let mut pauses = Vec::new();
        for token in 0..7 {
            link.opened(token);
            link.closed();
            assert!(!link.is(token));
            let mut ticks = 1;
            while !link.tick(SHORTEST) {
                ticks += 1;
            }
            pauses.push(ticks * 100);
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 2000, 2000]);
        link.opened(9);
        link.fed();
        link.closed();
        assert!(link.tick(SHORTEST));
    }
}
