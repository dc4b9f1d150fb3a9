//! What the targets share: a container, and rules to judge it by. Each target is a file in `src/bin`, with seeds in
//! `tests/corpus/fuzz/` under the same name, and a panic is a finding.

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
