//! What the targets share: a container, and rules to judge it by. Each target is a file in `src/bin`, with seeds in
//! `tests/corpus/fuzz/` under the same name, and a panic is a finding.

/// What the tests of pushes have: packs made by hand, and a push from its first byte to the verdict.
#[path = "../../../filters/push/tests/support/mod.rs"]
pub mod support;

/// One stream through the chain of filters, with its events in any order.
#[path = "../../stand-in/tests/support/mod.rs"]
pub mod chain;

pub mod packs;

use policy::Container;
use policy::github::{Class, Judge, Rules};

/// The repository of [`worlds`].
pub const REPO: &str = "acme/app";

/// A bot under the rules by default, and a user who may do all that no guard forbids.
pub fn worlds() -> [(Judge, Container); 2] {
    let all = Rules { user: Class::ALL.into(), ..Rules::default() };
    [world(&Rules::default(), "bot"), world(&all, "user")]
}

fn world(rules: &Rules, mode: &str) -> (Judge, Container) {
    let container = serde_json::json!({
        "container_ip": "172.18.0.5",
        "container_id": "fuzz",
        "repos": [{"name": REPO, "id": 23_096_959, "default_branch": "main"}],
        "auth_mode": mode,
        "allowed_branches": ["sandbox/*"],
        "expires_at": "2027-01-15T00:00:00Z",
    });
    (Judge::new(rules).expect("no patterns"), serde_json::from_value(container).expect("a container"))
}

/// Numbers of the fuzzer's choice; zeros once they are used up.
pub struct Choices<'a>(pub &'a [u8]);

impl Choices<'_> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// A number below the limit, which is at most 256.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit.max(1)
    }
}

/// The body in chunks, whose sizes come in turn.
pub fn chunks<'a>(body: &'a [u8], sizes: &[u8]) -> Vec<&'a [u8]> {
    let (mut rest, mut chunks) = (body, Vec::new());
    for size in sizes.iter().cycle() {
        let (chunk, after) = rest.split_at(rest.len().min(1 + usize::from(*size)));
        chunks.push(chunk);
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    chunks
}
