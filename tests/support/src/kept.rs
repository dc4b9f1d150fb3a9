//! Responses of the gateway, kept on disk. When a test binary has ended, tests/support/in-netns.sh searches them and
//! the gateway's own files for secrets.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// The number of bytes kept of one response. Larger responses are files and packs of a test's own.
const MOST: usize = 256 << 10;

/// Keeps the first bytes of `bytes`, the response to `what`.
pub fn note(what: &str, bytes: &[u8]) {
    all(what, &bytes[..bytes.len().min(MOST)]);
}

/// Keeps all of `bytes`.
pub fn all(what: &str, bytes: &[u8]) {
    let Some(scratch) = std::env::var_os("SALLYPORT_SCRATCH") else { return };
    let mut text = format!("--- {what}\n").into_bytes();
    text.extend_from_slice(bytes);
    text.push(b'\n');
    let file = Path::new(&scratch).join("answers");
    // One write for each response, so that concurrent responses do not mix.
    OpenOptions::new().create(true).append(true).open(file).unwrap().write_all(&text).unwrap();
}
