//! A pack: the same commits, the same end or the same kind of error in any chunks, and all the commits of one that is
//! well-formed; no more memory than is said. The first byte says whether the rest is a pack or the choices for one.

use crate::Choices;
use git_wire::Oid;
use git_wire::pack::{Error, Scanner, TRAILER};
use std::collections::BTreeMap;
use std::mem::discriminant;

/// What of a pack does not depend on its chunks.
#[derive(Debug, PartialEq)]
struct Seen {
    commits: BTreeMap<Oid, Vec<Oid>>,
    passed: usize,
    complete: bool,
}

/// Runs one input.
pub fn run(input: &[u8]) {
    let Some((sizes, rest)) = input.split_at_checked(4) else { return };
    let mut choices = Choices(rest);
    let (bytes, commits) = match choices.below(4) {
        0 => (choices.0.to_vec(), None),
        _ => {
            let made = crate::packs::made(&mut choices);
            (made.bytes, made.commits)
        }
    };
    let whole = read(&[&bytes]);
    for chunks in [crate::chunks(&bytes, sizes), crate::chunks(&bytes, &[0])] {
        match (read(&chunks), &whole) {
            (Ok(seen), Ok(whole)) => assert_eq!(&seen, whole),
            // Where data cannot be inflated and is too long as well, either may be found first.
            (Err(error), Err(whole)) => assert_eq!(discriminant(&error), discriminant(whole), "{error} {whole}"),
            (seen, whole) => panic!("{seen:?} {whole:?}"),
        }
    }
    if let Ok(seen) = &whole {
        assert!(!seen.complete || seen.passed == bytes.len() - TRAILER);
    }
    if let Some(commits) = commits {
        let seen = whole.expect("it is well-formed");
        let oids = |names: Vec<[u8; 20]>| names.into_iter().map(Oid::from).collect();
        assert_eq!(seen.commits, commits.into_iter().map(|(name, parents)| (name.into(), oids(parents))).collect());
        assert!(seen.complete);
    }
}

fn read(chunks: &[&[u8]]) -> Result<Seen, Error> {
    let (mut scanner, mut passed) = (Scanner::default(), 0);
    for chunk in chunks {
        passed += scanner.feed(chunk)?;
        // What inflates, and no more than twice what can have come out of so little.
        assert!(scanner.memory() < 16 << 20, "{}", scanner.memory());
    }
    Ok(Seen { commits: scanner.graph().iter().collect(), passed, complete: scanner.is_complete() })
}
