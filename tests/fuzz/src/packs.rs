//! Builds packs from the fuzzer's choices. Most are well-formed, so that the code behind the first check is reached
//! too.

use crate::Choices;
use crate::support::pack::{self, COMMIT, Name, Pack};
use std::collections::BTreeMap;

/// A pack and its content.
pub struct Made {
    pub bytes: Vec<u8>,
    /// The commits that the scanner has to find, with their parents. `None` if the pack may be malformed.
    pub commits: Option<BTreeMap<Name, Vec<Name>>>,
    /// The ids that a push can use.
    pub names: Vec<Name>,
}

struct Known {
    at: usize,
    name: Name,
    text: Vec<u8>,
}

/// Builds a pack.
pub fn made(choices: &mut Choices<'_>) -> Made {
    let count = choices.below(24);
    let mut pack = Pack::new(2, u32::try_from(count).expect("32 bits"));
    let mut known: Vec<Known> = Vec::new();
    let mut names = vec![pack::name("commit", b"outside")];
    let mut commits = Some(BTreeMap::new());
    for n in 0..count {
        let what = choices.byte();
        if what & 7 == 7 {
            other(&mut pack, choices, &mut commits);
            continue;
        }
        let parents: Vec<_> = (0..what >> 3 & 3).map(|_| names[choices.below(names.len())]).collect();
        let text = pack::commit(&parents, &format!("{n} {}", "a line of it\n".repeat(choices.below(8))));
        let name = pack::name("commit", &text);
        let at = pack.at();
        let base = if known.is_empty() { None } else { known.get(choices.below(known.len())) };
        match (what & 7, base) {
            (4, Some(base)) => pack.offset_delta(base.at, &pack::delta(&base.text, &text)),
            (5, Some(base)) => pack.named_delta(&base.name, &pack::delta(&base.text, &text)),
            (6, _) => {
                // The base is not in the pack, so the commit stays unknown.
                pack.named_delta(&names[0], &pack::delta(b"outside", &text));
                names.push(name);
                continue;
            }
            _ => pack.object(COMMIT, &text),
        }
        names.push(name);
        commits.iter_mut().for_each(|commits| _ = commits.insert(name, parents.clone()));
        known.push(Known { at, name, text });
    }
    let mut bytes = pack.finish();
    for _ in 0..choices.below(4) {
        let at = choices.below(256) << 8 | choices.below(256);
        let last = bytes.len() - 1;
        // Anywhere except in the trailer, which the scanner doesn't check.
        let (at, byte) = (at % (last - 19), choices.byte());
        match choices.below(4) {
            0 => drop(bytes.remove(at)),
            1 => bytes.insert(at, byte),
            2 => bytes.truncate(at),
            _ => bytes[at] ^= byte.max(1),
        }
        commits = None;
        if bytes.len() < 21 {
            break;
        }
    }
    Made { bytes, commits, names }
}

/// Appends an object other than a commit, or a malformed object.
fn other(pack: &mut Pack, choices: &mut Choices<'_>, commits: &mut Option<BTreeMap<Name, Vec<Name>>>) {
    let content = vec![b'x'; choices.below(256) * choices.below(64)];
    let (kind, odd) = (choices.byte(), choices.byte());
    match odd & 7 {
        0 => {
            // The size may be wrong, and may take more bytes than needed.
            pack.head(kind & 7, pack::size(&content) + u64::from(odd >> 6), choices.below(9));
            pack.0.extend(pack::deflated(&content));
            *commits = None;
        }
        1 => {
            pack.object(COMMIT, &content);
            *commits = None;
        }
        2 => {
            pack.head(pack::OFS_DELTA, pack::size(&content), 1);
            pack.distance(choices.below(256) << choices.below(24));
            pack.0.extend(pack::deflated(&content));
            *commits = None;
        }
        _ => pack.object(pack::TREE + kind % 3, &content),
    }
}
