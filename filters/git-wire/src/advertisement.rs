//! Rewrites the server's list of refs before a push (`info/refs?service=git-receive-pack`). The gateway adds the
//! capability `no-thin`, so that the pack contains the base of every delta. It removes what it refuses or does not pass
//! on, so that git itself says so: `push-cert`, `push-options` unless the policy lists some, and `session-id`.

use crate::pktline::{self, Pkt};

/// The most bytes up to the end of the pkt-line with the capabilities.
pub const MAX: usize = 128 << 10;

/// The server's response is not a list of refs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server's answer is no list of refs")]
pub struct Malformed;

/// Rewrites the capabilities as the response streams. They follow the first ref.
#[derive(Debug, Default)]
pub struct Rewriter {
    /// The received bytes that are not forwarded yet. `None` after the capabilities were rewritten.
    pending: Option<Vec<u8>>,
    done: bool,
    format: Option<String>,
    /// `push-options` stays.
    options: bool,
}

impl Rewriter {
    /// A rewriter for a policy that lists push options, or lists none.
    pub fn new(options: bool) -> Self {
        Self { options, ..Self::default() }
    }

    /// Takes the next bytes, and returns the bytes to forward.
    ///
    /// # Errors
    /// If the response is not a list of refs. Then none of the bytes of this call may be forwarded.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<Vec<u8>, Malformed> {
        if self.done {
            return Ok(chunk.to_vec());
        }
        let pending = self.pending.get_or_insert_default();
        pending.extend_from_slice(chunk);
        let found = capabilities(pending)?;
        // The limit holds whether the capabilities are complete or not, so the chunks make no difference.
        if found.map_or(pending.len(), |(_, end)| end) > MAX {
            return Err(Malformed);
        }
        let Some((start, end)) = found else { return Ok(Vec::new()) };
        let pending = self.pending.take().unwrap_or_default();
        self.done = true;
        let mut out = pending.get(..start).unwrap_or_default().to_vec();
        let line = pending.get(start.saturating_add(4)..end).unwrap_or_default();
        pktline::write(&mut out, &changed(line, self.options)?);
        self.format = format(line);
        out.extend_from_slice(pending.get(end..).unwrap_or_default());
        Ok(out)
    }

    /// The repository's object format. `None` if it is SHA-1 or the server does not announce it.
    pub fn other_format(&self) -> Option<&str> {
        self.format.as_deref()
    }

    /// Checks that the response may end here.
    ///
    /// # Errors
    /// If the response has no capabilities.
    pub fn finish(&self) -> Result<(), Malformed> {
        if self.done { Ok(()) } else { Err(Malformed) }
    }
}

/// The start and the end of the pkt-line with the capabilities. Returns `None` if it is not complete yet.
fn capabilities(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut at = 0_usize;
    loop {
        let Some((pkt, length)) = pktline::first(bytes.get(at..).unwrap_or_default()).map_err(|_| Malformed)? else {
            return Ok(None);
        };
        let end = at.saturating_add(length);
        match pkt {
            Pkt::Flush => {}
            // `version 1` comes before the first ref if the client requested that version.
            Pkt::Line(line) if line.starts_with(b"# service=") || line.starts_with(b"version ") => {}
            Pkt::Line(line) if line.contains(&0) => return Ok(Some((at, end))),
            Pkt::Line(_) => return Err(Malformed),
        }
        at = end;
    }
}

fn changed(line: &[u8], options: bool) -> Result<Vec<u8>, Malformed> {
    let nul = line.iter().position(|byte| *byte == 0).ok_or(Malformed)?;
    let (name, rest) = line.split_at(nul);
    let newline = rest.ends_with(b"\n");
    let rest = rest.get(1..).unwrap_or_default();
    let kept = rest.strip_suffix(b"\n").unwrap_or(rest).split(|byte| *byte == b' ').filter(|capability| {
        let removed = [&b"push-cert"[..], b"session-id"].iter().any(|name| capability.starts_with(name));
        !capability.is_empty()
            && !removed
            && *capability != b"no-thin"
            && (options || !capability.starts_with(b"push-options"))
    });
    let mut out = [name, b"\0"].concat();
    for capability in kept.chain([&b"no-thin"[..]]) {
        out.push(b' ');
        out.extend_from_slice(capability);
    }
    if newline {
        out.push(b'\n');
    }
    if out.len().saturating_add(4) > pktline::MAX { Err(Malformed) } else { Ok(out) }
}

fn format(line: &[u8]) -> Option<String> {
    let capabilities = line.split(|byte| *byte == 0 || byte.is_ascii_whitespace());
    let other =
        capabilities.filter_map(|word| word.strip_prefix(b"object-format=")).find(|format| *format != b"sha1")?;
    Some(String::from_utf8_lossy(other).into_owned())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn advertisement(lines: &[&str], refs: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        pktline::write(&mut out, b"# service=git-receive-pack\n");
        out.extend_from_slice(b"0000");
        lines.iter().chain(refs).for_each(|line| pktline::write(&mut out, line.as_bytes()));
        out.extend_from_slice(b"0000");
        out
    }

    fn rewritten(body: &[u8]) -> Vec<u8> {
        rewritten_with(body, false)
    }

    fn rewritten_with(body: &[u8], options: bool) -> Vec<u8> {
        let mut all = Vec::new();
        for size in [1, 5, body.len()] {
            let mut rewriter = Rewriter::new(options);
            let out: Vec<_> = body.chunks(size).flat_map(|chunk| rewriter.feed(chunk).unwrap()).collect();
            rewriter.finish().unwrap();
            all.push(out);
        }
        assert!(all.iter().all(|out| *out == all[0]));
        all.remove(0)
    }

    #[test]
    fn some_capabilities_are_changed_and_the_rest_stays() {
        let oid = "a".repeat(40);
        let first = format!("{oid} refs/heads/main\0report-status delete-refs push-cert=170-x ofs-delta agent=a\n");
        let wanted = format!("{oid} refs/heads/main\0 report-status delete-refs ofs-delta agent=a no-thin\n");
        let other = format!("{oid} refs/heads/x\n");
        for version in [&[][..], &["version 1\n"]] {
            let got = rewritten(&advertisement(&[version, &[&first]].concat(), &[&other]));
            let want = advertisement(&[version, &[&wanted]].concat(), &[&other]);
            assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&want));
        }
    }

    #[test]
    fn push_options_are_offered_where_the_policy_lists_some() {
        let line = |capabilities: &str| format!("{} refs/heads/main\0{capabilities}\n", "a".repeat(40));
        let sent = advertisement(&[&line("atomic push-options agent=a session-id=1;2")], &[]);
        assert_eq!(rewritten_with(&sent, false), advertisement(&[&line(" atomic agent=a no-thin")], &[]));
        assert_eq!(rewritten_with(&sent, true), advertisement(&[&line(" atomic push-options agent=a no-thin")], &[]));
    }

    #[test]
    fn the_capabilities_are_within_the_limit_whatever_the_chunks_are() {
        // The lines before the capabilities fill the limit exactly.
        let body = |end: usize| {
            let first = format!("{} refs/heads/main\0report-status\n", "a".repeat(40));
            let mut body = Vec::new();
            while body.len() + first.len() + 4 < end {
                let left = end - first.len() - 4 - body.len();
                let part = if left <= pktline::MAX { left } else { pktline::MAX.min(left - 100) };
                pktline::write(&mut body, format!("{:<1$}", "# service=", part - 4).as_bytes());
            }
            pktline::write(&mut body, first.as_bytes());
            assert_eq!(body.len(), end);
            [&body[..], b"0000"].concat()
        };
        for (end, good) in [(MAX, true), (MAX + 1, false)] {
            for size in [1000, MAX + 1, MAX * 2] {
                let mut rewriter = Rewriter::default();
                let fed = body(end).chunks(size).try_for_each(|chunk| rewriter.feed(chunk).map(|_| ()));
                assert_eq!(fed.is_ok(), good, "{end} {size}");
            }
        }
    }

    #[test]
    fn the_format_of_the_objects_names_is_known() {
        for (capabilities, other) in [
            ("report-status agent=a", None),
            ("report-status object-format=sha1 agent=a", None),
            ("report-status object-format=sha256", Some("sha256")),
        ] {
            let mut rewriter = Rewriter::default();
            let first = format!("{} capabilities^{{}}\0{capabilities}\n", "0".repeat(64));
            rewriter.feed(&advertisement(&[&first], &[])).unwrap();
            assert_eq!(rewriter.other_format(), other, "{capabilities}");
        }
    }

    #[test]
    fn what_is_no_advertisement_is_not_handed_on() {
        let bad: [&[u8]; 4] = [b"<html>", b"0008abcd", b"001e# service=git-receive-pack\n0008abcd", &[b'0'; MAX + 1]];
        for body in bad {
            let mut rewriter = Rewriter::default();
            assert_eq!(rewriter.feed(body), Err(Malformed), "{:?}", body.get(..8));
        }
        let mut rewriter = Rewriter::default();
        assert_eq!(rewriter.feed(b"0000"), Ok(vec![]));
        assert_eq!(rewriter.finish(), Err(Malformed));
    }
}
