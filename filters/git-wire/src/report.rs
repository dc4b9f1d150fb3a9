//! The gateway's response to a refused push, in the form that the client requested (gitprotocol-pack(5), "Report
//! Status", and git's sideband.c).

use crate::pktline::{self, FLUSH};
use crate::receive_pack::capabilities::Capabilities;

/// Writes a report that no ref was updated: `lines` for the user, and for each of `refs` its name and the reason.
/// Returns `None` if the client does not read reports; the refusal then needs another form.
pub fn refused(capabilities: &Capabilities, lines: &[String], refs: &[(String, String)]) -> Option<Vec<u8>> {
    if !capabilities.report_status() {
        return None;
    }
    let mut report = Vec::new();
    pktline::write(&mut report, b"unpack ok\n");
    for (name, reason) in refs {
        pktline::write(&mut report, format!("ng {} {}\n", one_line(name), one_line(reason)).as_bytes());
    }
    report.extend_from_slice(FLUSH);
    if !capabilities.side_band() {
        return Some(report);
    }
    let mut out = Vec::new();
    for line in lines {
        banded(&mut out, 2, format!("{}\n", one_line(line)).as_bytes());
    }
    banded(&mut out, 1, &report);
    out.extend_from_slice(FLUSH);
    Some(out)
}

fn banded(out: &mut Vec<u8>, band: u8, bytes: &[u8]) {
    // The band's number takes one byte of each pkt-line.
    for part in bytes.chunks(pktline::MAX.saturating_sub(5)) {
        pktline::write(out, &[&[band], part].concat());
    }
}

fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}
