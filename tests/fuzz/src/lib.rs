//! The fuzz targets and their shared code: containers, and rules to judge their requests by. Each target is a file in
//! `src/targets`, with seeds in `tests/corpus/fuzz/` under the same name. A panic is a finding. `tests/seeds.rs` runs the
//! targets over their seeds with the unit tests; `run.sh` runs them under libFuzzer.

/// The support code of the push tests: packs built by hand, and the inspection of a whole push.
#[path = "../../../filters/push/tests/support/mod.rs"]
pub mod support;

/// The support code of the chain's tests: a policy, a container and pushes.
#[path = "../../stand-in/tests/support/mod.rs"]
pub mod chain_support;

use support::pack;

pub mod packs;
pub mod targets;

use policy::Container;
use policy::github::{Class, Judge, Rules};

/// The repository of [`worlds`].
pub const REPO: &str = "acme/app";

/// A bot under the default rules, and a user with all classes. Only the guards restrict this user.
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

/// Numbers that the fuzzer chooses. After the end of the input they are zero.
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

/// The body in chunks. The sizes are used in turn.
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
