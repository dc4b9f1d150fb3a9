//! The server's list of refs before a push. Rewriting gives the same result in any chunks. The result has `no-thin`
//! once and no `push-cert`, and rewriting it again changes nothing. The first bytes of the input are the chunks' sizes.

use git_wire::advertisement::{Malformed, Rewriter};
use git_wire::pktline::{Pkt, first};

/// Runs one input.
pub fn run(input: &[u8]) {
    let Some((sizes, body)) = input.split_at_checked(4) else { return };
    let whole = rewritten(&[body]);
    assert_eq!(rewritten(&crate::chunks(body, sizes)), whole);
    assert_eq!(rewritten(&crate::chunks(body, &[0])), whole);
    let Ok(out) = whole else { return };
    assert_eq!(rewritten(&[&out]).as_ref(), Ok(&out));
    let (before, after) = (lines(body), lines(&out));
    let first = |line: &[u8]| line.contains(&0) && !line.starts_with(b"# service=") && !line.starts_with(b"version ");
    let changed = before.0.iter().position(|line| first(line)).expect("it has capabilities");
    for (at, (before, after)) in before.0.iter().zip(&after.0).enumerate() {
        assert!(at == changed || before == after);
    }
    assert_eq!(before.1, after.1);
    let line = &after.0[changed];
    let nul = line.iter().position(|byte| *byte == 0).expect("it has capabilities");
    assert_eq!(line[..nul], before.0[changed][..nul]);
    let text = line[nul + 1..].strip_suffix(b"\n").unwrap_or(&line[nul + 1..]);
    let capabilities: Vec<_> = text.split(|byte| *byte == b' ').collect();
    assert_eq!(capabilities.iter().filter(|capability| **capability == b"no-thin").count(), 1);
    assert!(!capabilities.iter().any(|capability| capability.starts_with(b"push-cert")));
}

fn rewritten(chunks: &[&[u8]]) -> Result<Vec<u8>, Malformed> {
    let (mut rewriter, mut out) = (Rewriter::default(), Vec::new());
    for chunk in chunks {
        out.extend(rewriter.feed(chunk)?);
    }
    rewriter.finish()?;
    Ok(out)
}

/// The lines, with an empty line for each flush, and the bytes after the last line.
fn lines(mut bytes: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut lines = Vec::new();
    while let Ok(Some((pkt, length))) = first(bytes) {
        lines.push(match pkt {
            Pkt::Flush => vec![],
            Pkt::Line(line) => line.to_vec(),
        });
        bytes = &bytes[length..];
    }
    (lines, bytes.to_vec())
}
