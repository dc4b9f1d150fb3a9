//! Writes the body, the container or the server's refs of a case in tests/corpus/push, for tests outside Rust:
//! `push-body NAME [body|container|refs]`. Without a name, lists each case's name, verdict and rule.

#![expect(clippy::expect_used, reason = "for tests")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::Write as _;
use support::body::corpus;

fn main() {
    let mut args = std::env::args().skip(1);
    let (name, what) = (args.next(), args.next());
    let mut out = std::io::stdout().lock();
    let Some(name) = name else {
        for case in corpus() {
            let rule = case.expect.rule.unwrap_or_else(|| "-".into());
            writeln!(out, "{}\t{:?}\t{rule}", case.name, case.expect.verdict).expect("stdout");
        }
        return;
    };
    let case = corpus().into_iter().find(|case| case.name == name).expect("a case of that name");
    match what.as_deref() {
        None | Some("body") => out.write_all(&case.body().bytes).expect("stdout"),
        Some("container") => serde_json::to_writer(out, &case.container).expect("stdout"),
        Some("refs") => serde_json::to_writer(out, &case.refs()).expect("stdout"),
        Some(other) => writeln!(out, "{other} is neither body, container nor refs").expect("stdout"),
    }
}
