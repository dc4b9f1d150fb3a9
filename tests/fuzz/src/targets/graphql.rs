//! A GraphQL document, optionally followed by a line of `#` and the variables as JSON. Judging the body that is sent
//! gives the same result.

use crate::worlds;
use policy::github::{Allowed, Call, Head, Judge};
use policy::{Container, HostName};
use std::sync::LazyLock;

static WORLDS: LazyLock<[(Judge, Container); 2]> = LazyLock::new(worlds);

/// Runs one input.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (document, variables) = text.rsplit_once("\n#").unwrap_or((text, "null"));
    let body = format!(r#"{{"query":{},"variables":{variables}}}"#, serde_json::json!(document));
    for (judge, who) in WORLDS.iter() {
        let Some(allowed) = judged(judge, who, body.as_bytes()) else { continue };
        let sent = allowed.body.as_deref().expect("GraphQL has a body");
        let again = judged(judge, who, sent);
        assert_eq!(again.as_ref(), Some(&allowed), "{}", String::from_utf8_lossy(sent));
    }
}

fn judged(judge: &Judge, who: &Container, body: &[u8]) -> Option<Allowed> {
    let host = HostName::parse(b"api.github.com").expect("a name");
    match judge.head(Call { method: b"POST", host: &host, target: b"/graphql", headers: &[] }, who) {
        Ok(Head::Body(pending)) => judge.body(pending, body, who).ok(),
        other => panic!("{other:?}"),
    }
}
