//! The guard of model requests: a body is judged the same in any parts, plain or in zstd, and what passes is JSON.

use crate::{Choices, chunks};
use model::{Guard, REMOTE, STORED, judge};
use policy::{Access, Egress, HostPattern};
use serde::de::IgnoredAny;

/// Runs one input: what is permitted, the sizes of the parts, and the body.
pub fn run(input: &[u8]) {
    let mut choices = Choices(input);
    let (setting, sizes) = (choices.byte(), [choices.byte(), choices.byte()]);
    let body = choices.0;
    let also = [(1, REMOTE), (2, STORED), (4, "files")];
    let also = also.into_iter().filter(|(bit, _)| setting & bit != 0).map(|(_, name)| name.to_owned()).collect();
    let mut egress = Egress::default();
    egress.add(HostPattern::parse("*.example.com").expect("a pattern"), Access::full());
    let guard = Guard { credential: "fuzz".into(), also, egress, own: Vec::new(), except: Vec::new() };
    let mut headers = vec![("content-type".to_owned(), b"application/json".to_vec())];
    if setting & 8 != 0 {
        headers.push(("content-encoding".into(), b"zstd".to_vec()));
    }
    let whole = judge(&guard, &headers, b"/v1/messages", &[body]);
    let parts = judge(&guard, &headers, b"/v1/messages", &chunks(body, &sizes));
    assert_eq!(whole.is_ok(), parts.is_ok(), "{whole:?} {parts:?}");
    if whole.is_ok() && setting & 8 == 0 && !body.is_empty() {
        let text = std::str::from_utf8(body).expect("what passes is UTF-8");
        serde_json::from_str::<IgnoredAny>(text).expect("what passes is JSON");
        // Nothing that is permitted less passes.
        if guard.permits_all() {
            return;
        }
        let open = Guard { also: [REMOTE.into(), STORED.into()].into(), ..guard };
        judge(&open, &headers, b"/v1/messages", &[body]).expect("what passes a guard passes a wider one");
    }
}
