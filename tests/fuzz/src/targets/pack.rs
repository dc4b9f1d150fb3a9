//! A pack. In any chunks the scanner finds the same commits and the same end, or returns the same kind of error. It
//! finds all commits of a well-formed pack, in limited memory. The first byte selects whether the rest is a pack, or
//! the choices to build one.

use crate::Choices;
use git_wire::Oid;
use git_wire::pack::{Error, Scanner, TRAILER};
use std::collections::BTreeMap;
use std::mem::discriminant;

/// The results that must not depend on the chunks.
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
            // If data is both malformed and too long, either error may be found first.
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
    for (at, chunk) in chunks.iter().enumerate() {
        // Some in the smallest steps.
        let (mut rest, most) = (*chunk, if at % 2 == 0 { u64::MAX } else { 1 });
        while !rest.is_empty() {
            let fed = scanner.feed(rest, most)?;
            passed += fed.pass;
            rest = &rest[fed.parsed..];
        }
        // The decompressor, and no more than twice the output that such a short input can have.
        assert!(scanner.memory() < 16 << 20, "{}", scanner.memory());
    }
    Ok(Seen { commits: scanner.graph().iter().collect(), passed, complete: scanner.is_complete() })
}
