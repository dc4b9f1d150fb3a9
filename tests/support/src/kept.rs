//! What the gateway has answered, on disk: tests/support/in-netns.sh searches all of it for secrets when a test binary has
//! ended, beside what the gateway itself has written.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// As much is kept of one answer: large ones are files and packs of a test's own.
const MOST: usize = 256 << 10;

/// Keeps `bytes`, which came of `what`.
pub fn note(what: &str, bytes: &[u8]) {
    all(what, &bytes[..bytes.len().min(MOST)]);
}

/// The same, however long they are.
pub fn all(what: &str, bytes: &[u8]) {
    let Some(scratch) = std::env::var_os("SALLYPORT_SCRATCH") else { return };
    let mut text = format!("--- {what}\n").into_bytes();
    text.extend_from_slice(bytes);
    text.push(b'\n');
    let file = Path::new(&scratch).join("answers");
    // In one write each, so that they stay apart.
    OpenOptions::new().create(true).append(true).open(file).unwrap().write_all(&text).unwrap();
}
