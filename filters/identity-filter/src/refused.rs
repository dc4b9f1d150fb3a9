//! The refused requests whose body is still arriving. Pure: `worker` reports each dropped part, and this module
//! returns the requests whose response is due.
//!
//! Few clients show a response that arrives during an upload: over HTTP/2 the reset that follows it takes precedence
//! (curl prints "curl: (92)" instead of the refusal). The response is therefore sent at the body's end, or earlier if
//! the body pauses for too long or is too long.

use crate::life::Request;
use crate::limits::RATE;
use policy::Denial;
use std::collections::BTreeMap;
use std::time::Duration;

/// The most bytes of a refused body that are read. Then the response is sent.
pub const MAX_BODY: usize = 1 << 30;
/// The longest pause of a refused body. Then the response is sent.
pub const MAX_TIME: Duration = Duration::from_secs(10);
/// The delay of a response to a client beyond a rate limit. A response costs as much as several requests, so a client
/// that retries at once has to be slowed down.
pub const RATE_PAUSE: Duration = Duration::from_secs(3);
/// The most refused bodies that a worker reads at a time. Beyond this number the response is sent at once.
const MAX_REFUSED: usize = 1024;

/// A refused request whose body is still arriving.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The request.
    pub request: Request,
    /// Why the request is refused.
    pub denial: Denial,
    /// How many more bytes of the body are read.
    left: usize,
    /// The uptime at which the response is sent, if no part of the body arrives before.
    until: Duration,
}

impl Refused {
    /// A request that is refused at `uptime`.
    pub fn new(request: &Request, denial: Denial, uptime: Duration) -> Self {
        let pause = if denial.rule == RATE { RATE_PAUSE } else { MAX_TIME };
        Self { request: request.clone(), denial, left: MAX_BODY, until: uptime.saturating_add(pause) }
    }
}

/// The refused requests whose bodies are still arriving, by the id of their context.
#[derive(Debug, Default)]
pub struct Bodies(BTreeMap<u32, Refused>);

impl Bodies {
    /// Waits for the body of `refused`. Returns false if too many bodies are awaited already.
    pub fn await_body(&mut self, refused: Refused) -> bool {
        let room = self.0.len() < MAX_REFUSED;
        if room {
            self.0.insert(refused.request.id, refused);
        }
        room
    }

    /// A part of the body of the request `id` was dropped. Returns the request if its response is due now. A response
    /// that is delayed because of a rate limit keeps its own time, whatever arrives.
    pub fn dropped(&mut self, id: u32, size: usize, end: bool, uptime: Duration) -> Option<Refused> {
        let refused = self.0.get_mut(&id).filter(|refused| refused.denial.rule != RATE)?;
        refused.until = uptime.saturating_add(MAX_TIME);
        refused.left = refused.left.saturating_sub(size);
        if end || refused.left == 0 { self.0.remove(&id) } else { None }
    }

    /// Takes out the request `id`, because it has ended or its response is sent.
    pub fn take(&mut self, id: u32) -> Option<Refused> {
        self.0.remove(&id)
    }

    /// Takes out the requests whose response is due, at most `most`.
    pub fn take_overdue(&mut self, uptime: Duration, most: usize) -> Vec<Refused> {
        self.0.extract_if(.., |_, refused| refused.until <= uptime).map(|(_, refused)| refused).take(most).collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use policy::Rule;

    fn refused(id: u32) -> Refused {
        let denial = Denial::new(Rule::IdentityUnknown, "who");
        Refused::new(&Request::new(id), denial, Duration::ZERO)
    }

    #[test]
    fn the_answer_comes_with_the_end_or_at_the_limit_of_size_or_of_time() {
        let mut bodies = Bodies::default();
        assert!(bodies.await_body(refused(1)));
        assert!(bodies.dropped(1, MAX_BODY - 1, false, Duration::ZERO).is_none());
        assert!(bodies.dropped(1, 1, false, Duration::ZERO).is_some());
        assert!(bodies.dropped(1, 1, true, Duration::ZERO).is_none(), "answered once");
        bodies.await_body(refused(2));
        assert!(bodies.dropped(2, 0, true, Duration::ZERO).is_some());
        bodies.await_body(refused(3));
        assert!(bodies.take_overdue(MAX_TIME - Duration::from_nanos(1), 64).is_empty());
        assert_eq!(bodies.take_overdue(MAX_TIME, 64).len(), 1);
    }

    #[test]
    fn what_is_answered_late_is_answered_in_its_time_whatever_comes() {
        let mut bodies = Bodies::default();
        let denial = crate::limits::too_many(RATE, String::new());
        bodies.await_body(Refused::new(&Request::new(1), denial, Duration::ZERO));
        assert!(bodies.dropped(1, 1, true, Duration::ZERO).is_none());
        assert!(bodies.dropped(1, 0, false, RATE_PAUSE / 2).is_none());
        assert!(bodies.take_overdue(RATE_PAUSE / 2, 64).is_empty());
        assert_eq!(bodies.take_overdue(RATE_PAUSE, 64).len(), 1);
    }

    #[test]
    fn no_more_bodies_are_awaited_than_the_limit() {
        let mut bodies = Bodies::default();
        for id in 0..MAX_REFUSED {
            assert!(bodies.await_body(refused(id.try_into().unwrap())));
        }
        assert!(!bodies.await_body(refused(u32::MAX)));
        bodies.take(0).unwrap();
        assert!(bodies.await_body(refused(u32::MAX)));
    }
}
