//! pkt-lines. The parser accepts exactly the lines that a direct implementation of the rules accepts. Writing a line
//! restores the input.

use git_wire::pktline::{FLUSH, MAX, Pkt, first, write};

/// Runs one input.
pub fn run(input: &[u8]) {
    let mut rest = input;
    loop {
        let read = first(rest);
        assert_eq!(read, plain(rest));
        let Ok(Some((pkt, length))) = read else { break };
        let mut written = Vec::new();
        match pkt {
            Pkt::Flush => written.extend(FLUSH),
            Pkt::Line(line) => write(&mut written, line),
        }
        assert_eq!(written, rest[..length]);
        // A shorter prefix is incomplete.
        assert_eq!(first(&rest[..length - 1]), Ok(None));
        rest = &rest[length..];
    }
}

fn plain(bytes: &[u8]) -> Result<Option<(Pkt<'_>, usize)>, git_wire::pktline::InvalidLength> {
    let Some(digits) = bytes.get(..4) else { return Ok(None) };
    let text = String::from_utf8_lossy(digits);
    let length = usize::from_str_radix(&text, 16).ok().filter(|length| format!("{length:04x}") == text);
    match length {
        Some(0) => Ok(Some((Pkt::Flush, 4))),
        Some(length) if length > 4 && length <= MAX => Ok(bytes.get(4..length).map(|line| (Pkt::Line(line), length))),
        _ => Err(git_wire::pktline::InvalidLength),
    }
}
