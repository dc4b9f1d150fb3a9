//! The refused requests whose body is still coming. Pure; `filter` drops the body and answers when this says so.
//!
//! An answer in the middle of an upload reaches few clients: over HTTP/2 the reset that follows it wins (curl prints
//! "curl: (92)" and not the refusal). So the answer comes at the body's end, or when the body has paused or gone on too long.

use crate::limits::RATE;
use crate::request::Facts;
use crate::waiting::Progress;
use policy::Denial;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How much of a refused body is read before the answer is given all the same.
pub const MAX_BODY: usize = 1 << 30;
/// How long a refused body may make a pause before the answer is given all the same.
pub const MAX_TIME: Duration = Duration::from_secs(10);
/// How long somebody waits for the answer who asks for more in a second than there is. An answer costs as much as some
/// requests, so whoever asks again and again is to do it seldom.
pub const RATE_PAUSE: Duration = Duration::from_secs(3);
/// How many refused bodies a worker reads at a time; beyond it the answer is given at once.
const MAX_REFUSED: usize = 1024;

/// One of them.
#[derive(Clone, Debug)]
pub struct Refused {
    /// What the request says.
    pub facts: Facts,
    /// Why it is refused.
    pub denial: Denial,
    /// Where it stands.
    pub progress: Rc<Progress>,
    /// How much more of its body is read.
    left: usize,
    /// The uptime at which it has paused long enough.
    until: Duration,
}

impl Refused {
    /// A request that is refused at `uptime`.
    pub fn new(facts: &Facts, denial: &Denial, progress: &Rc<Progress>, uptime: Duration) -> Self {
        let (facts, denial, progress) = (facts.clone(), denial.clone(), progress.clone());
        let pause = if denial.rule == RATE { RATE_PAUSE } else { MAX_TIME };
        Self { facts, denial, progress, left: MAX_BODY, until: uptime.saturating_add(pause) }
    }
}

/// All of them, by the id of their context.
#[derive(Debug, Default)]
pub struct Bodies(BTreeMap<u32, Refused>);

impl Bodies {
    /// Waits for the body of the request `id`; false when too many are waited for already.
    pub fn await_body(&mut self, id: u32, refused: Refused) -> bool {
        let room = self.0.len() < MAX_REFUSED;
        if room {
            self.0.insert(id, refused);
        }
        room
    }

    /// Part of a body has come and was dropped: the request, when it is to be answered now. One that is answered late
    /// on purpose has its own time, whatever comes.
    pub fn dropped(&mut self, id: u32, size: usize, end: bool, uptime: Duration) -> Option<Refused> {
        let refused = self.0.get_mut(&id).filter(|refused| refused.denial.rule != RATE)?;
        refused.until = uptime.saturating_add(MAX_TIME);
        refused.left = refused.left.saturating_sub(size);
        if end || refused.left == 0 { self.0.remove(&id) } else { None }
    }

    /// The request `id` has ended by itself, or is answered.
    pub fn take(&mut self, id: u32) -> Option<Refused> {
        self.0.remove(&id)
    }

    /// Takes out every request that has taken long enough.
    pub fn take_overdue(&mut self, uptime: Duration) -> Vec<(u32, Refused)> {
        self.0.extract_if(.., |_, refused| refused.until <= uptime).collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use policy::Rule;

    fn refused() -> Refused {
        let denial = Denial::new(Rule::IdentityUnknown, "who");
        Refused::new(&Facts::read(vec![]), &denial, &Rc::default(), Duration::ZERO)
    }

    #[test]
    fn the_answer_comes_with_the_end_or_at_the_limit_of_size_or_of_time() {
        let mut bodies = Bodies::default();
        assert!(bodies.await_body(1, refused()));
        assert!(bodies.dropped(1, MAX_BODY - 1, false, Duration::ZERO).is_none());
        assert!(bodies.dropped(1, 1, false, Duration::ZERO).is_some());
        assert!(bodies.dropped(1, 1, true, Duration::ZERO).is_none(), "answered once");
        bodies.await_body(2, refused());
        assert!(bodies.dropped(2, 0, true, Duration::ZERO).is_some());
        bodies.await_body(3, refused());
        assert!(bodies.take_overdue(MAX_TIME - Duration::from_nanos(1)).is_empty());
        assert_eq!(bodies.take_overdue(MAX_TIME).len(), 1);
    }

    #[test]
    fn what_is_answered_late_is_answered_in_its_time_whatever_comes() {
        let mut bodies = Bodies::default();
        let denial = crate::limits::too_many(RATE, String::new());
        bodies.await_body(1, Refused::new(&Facts::read(vec![]), &denial, &Rc::default(), Duration::ZERO));
        assert!(bodies.dropped(1, 1, true, Duration::ZERO).is_none());
        assert!(bodies.dropped(1, 0, false, RATE_PAUSE / 2).is_none());
        assert!(bodies.take_overdue(RATE_PAUSE / 2).is_empty());
        assert_eq!(bodies.take_overdue(RATE_PAUSE).len(), 1);
    }

    #[test]
    fn no_more_bodies_are_awaited_than_the_limit() {
        let mut bodies = Bodies::default();
        for id in 0..MAX_REFUSED {
            assert!(bodies.await_body(id.try_into().unwrap(), refused()));
        }
        assert!(!bodies.await_body(u32::MAX, refused()));
        bodies.take(0).unwrap();
        assert!(bodies.await_body(u32::MAX, refused()));
    }
}
