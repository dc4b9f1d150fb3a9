//! Tests wait for conditions. Every sleep in tests/ is listed here with its reason.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The files with sleeps, the number of the sleeps in each, and the reason.
const SLEEPS: [(&str, usize, &str); 9] = [
    ("support/src/lib.rs", 4, "`eventually` and `holds` look at their conditions again and again"),
    ("support/src/gateway/admin.rs", 1, "`abort_call` leaves at a moment of the test's choice"),
    ("support/src/upstream/odd.rs", 3, "the upstream is slow: that is its answer"),
    ("support/src/upstream/pranks.rs", 1, "an answer is held until the test lets it go"),
    ("support/src/upstream/tokens.rs", 1, "the token endpoint is slow: that is its answer"),
    ("e2e/tests/own/chaos/kills.rs", 2, "a kill comes at a random moment; the traffic leaves a core to what is killed"),
    ("e2e/tests/own/oauth.rs", 1, "each kill comes later in the life of a refresh"),
    ("e2e/tests/own/operator.rs", 1, "processor time is measured while nothing is requested"),
    ("e2e/tests/shared/registration.rs", 1, "a record expires at a moment that is on the clock"),
];

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn every_sleep_in_the_tests_is_listed_with_its_reason() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    let own = Path::new("support/tests/sleeps.rs");
    let mut found = BTreeMap::new();
    for path in sources(&tests) {
        let name = path.strip_prefix(&tests).unwrap();
        let source = std::fs::read_to_string(&path).unwrap();
        let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
        let count: usize = code.map(|line| line.matches("sleep(").count()).sum();
        if count > 0 && name != own {
            found.insert(name.to_string_lossy().into_owned(), count);
        }
    }
    let listed = SLEEPS.map(|(file, count, reason)| {
        assert!(!reason.is_empty());
        (file.to_owned(), count)
    });
    assert_eq!(
        found,
        BTreeMap::from(listed),
        "a test waits for a condition, or its sleep is in SLEEPS with the reason"
    );
}
