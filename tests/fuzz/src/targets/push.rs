//! A whole push. The verdict is the same in any chunks. With early answers from the server it is the same too, or the
//! push is decided before its flaw arrives. The first byte selects whether the rest is a body, or the choices to build
//! one.

use crate::Choices;
use crate::support::pack::{self, Name};
use crate::support::{AT_THE_END, Pace, Server, inspect};
use git_wire::pack::TRAILER;
use policy::github::Rules;
use policy::{BranchRules, Container};
use push::{Inspection, Oid};
use std::rc::Rc;

/// A server that has the given refs, and takes some bits of the ids to decide descent.
struct Believer {
    refs: Vec<(String, Option<Oid>)>,
}

impl Server for Believer {
    fn at(&self, name: &str) -> Option<Oid> {
        self.refs.iter().find(|(known, _)| known == name).and_then(|(_, at)| *at)
    }

    fn descends(&self, commit: &Oid, ancestor: &Oid) -> bool {
        (commit.as_bytes()[0] ^ ancestor.as_bytes()[0]) & 3 != 0
    }
}

/// Runs one input.
pub fn run(input: &[u8]) {
    let mut choices = Choices(input);
    let (kind, chunk, after) = (choices.byte(), 1 + choices.below(256), choices.below(16));
    let branches =
        BranchRules { allow_force_push: kind & 4 != 0, allow_deletion: kind & 8 != 0, ..BranchRules::default() };
    let push_options = ["an option".to_owned()].into();
    let rules = Rc::new(Rules { branches, push_options, ..Rules::default() });
    let body = match kind & 3 {
        0 => choices.0.to_vec(),
        _ => made(&mut choices),
    };
    // In most pushes, the refs are where the push claims they are.
    let mut probe = Inspection::new(rules.clone(), container(kind));
    probe.feed(&body, 1);
    let told = probe.updates().iter().filter(|_| kind & 16 == 0).map(|update| (update.name.clone(), update.old));
    let server = Believer { refs: told.collect() };
    let run = |pace: Pace| {
        let got = inspect(Inspection::new(rules.clone(), container(kind)), &body, pace, &server);
        assert!(got.memory < 16 << 20);
        match got.refusal.as_ref().map(|refusal| refusal.denial.rule.name()) {
            // The pack may end without a trailer.
            None | Some("push.malformed" | "push.limit") => {}
            // If the answers arrive at the end, the pack has a trailer, which waits for the answers.
            Some("push.stale" | "push.force") if pace.answers_after == AT_THE_END => {
                assert!(got.passed == 0 || got.passed + TRAILER <= body.len());
            }
            Some("push.stale" | "push.force") => {}
            // All other rules concern the list of ref updates, which is not sent before the verdict.
            Some(rule) => assert_eq!(got.passed, 0, "{rule}"),
        }
        got.refusal.map(|refusal| refusal.denial.rule.name())
    };
    let whole = run(Pace { chunk: body.len().max(1), answers_after: AT_THE_END });
    for chunk in [1, chunk] {
        assert_eq!(run(Pace { chunk, answers_after: AT_THE_END }), whole);
        let early = run(Pace { chunk, answers_after: after });
        match (early, whole) {
            (early, whole) if early == whole => {}
            // Everything was proved before the flaw arrived.
            (None, Some("push.malformed" | "push.limit")) => {}
            // The refs' objects are known before the pack ends.
            (Some("push.stale"), Some("push.malformed" | "push.limit" | "push.force")) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn made(choices: &mut Choices<'_>) -> Vec<u8> {
    let count = 1 + choices.below(4);
    let lines: Vec<_> = (0..count).map(|_| [choices.byte(), choices.byte(), choices.byte()]).collect();
    let flags = choices.byte();
    let pack = crate::packs::made(choices);
    let mut body = Vec::new();
    let pkt = |body: &mut Vec<u8>, line: &str| body.extend(format!("{:04x}{line}", line.len() + 4).bytes());
    for (at, [old, new, name]) in lines.into_iter().enumerate() {
        let hex = |choice: u8| match pack.names.get(usize::from(choice) % (pack.names.len() + 1)) {
            Some(name) => pack::hex(name),
            None => pack::hex(&Name::default()),
        };
        let capabilities = match (at, flags & 1) {
            (0, 0) => "\0 report-status side-band-64k",
            (0, _) => "\0 report-status push-options",
            _ => "",
        };
        let name = ["heads/sandbox/x", "heads/sandbox/y", "tags/sandbox/z", "heads/main"][usize::from(name % 4)];
        // In most pushes, each ref is named once.
        let name = if flags & 2 == 0 { format!("refs/{name}{at}") } else { format!("refs/{name}") };
        pkt(&mut body, &format!("{} {} {name}{capabilities}", hex(old), hex(new)));
    }
    body.extend(b"0000");
    if flags & 1 == 1 {
        pkt(&mut body, "an option");
        body.extend(b"0000");
    }
    if flags & 12 != 12 {
        body.extend(pack.bytes);
    }
    body.extend(vec![b'x'; usize::from(flags >> 4).saturating_sub(12)]);
    body
}

fn container(kind: u8) -> Container {
    let record = serde_json::json!({
        "container_ip": "172.18.0.5",
        "container_id": "fuzz",
        "repos": [crate::REPO],
        "auth_mode": if kind & 32 == 0 { "bot" } else { "user" },
        "allowed_branches": ["sandbox/*"],
        "force_own_branches": kind & 64 != 0,
        "expires_at": "2027-01-15T00:00:00Z",
    });
    serde_json::from_value(record).expect("a container")
}
