//! Parses the head of a push's body, and writes it anew: everything before the pack (gitprotocol-pack(5), "Reference
//! Update Request"). A server gets only what [`Request::write`] has written.

use crate::Oid;
pub mod capabilities;

use crate::pktline::{self, FLUSH, InvalidLength, Pkt};
use capabilities::Capabilities;

/// The longest head, in bytes. A thousand lines of the greatest length have 350 KB.
pub const MAX_HEAD: usize = 512 << 10;
/// The most ref updates.
pub const MAX_UPDATES: usize = 1_000;
/// The most `shallow` lines. A shallow clone has one for each commit at which its history ends.
pub const MAX_SHALLOW: usize = 5_000;
/// The longest ref name, in bytes. GitHub takes 255.
pub const MAX_NAME: usize = 1_024;
/// The most push options.
pub const MAX_OPTIONS: usize = 100;

/// The head of a push.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The commits at which the client's history ends, from its `shallow` lines.
    pub shallow: Vec<Oid>,
    /// The updates, in order. A client sends an empty list to trigger authentication before it sends a large body.
    pub updates: Vec<RefUpdate>,
    /// The client's capabilities, as far as they are passed on.
    pub capabilities: Capabilities,
    /// The push options (`git push -o`).
    pub options: Vec<String>,
}

impl Request {
    /// Whether a pack follows. No pack follows if refs are only deleted (git's send-pack.c).
    pub fn has_pack(&self) -> bool {
        self.updates.iter().any(|update| update.new.is_some())
    }

    /// Writes the head anew, as git writes it (git's send-pack.c). Parsing the result gives the same request.
    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for commit in &self.shallow {
            pktline::write(&mut out, format!("shallow {commit}\n").as_bytes());
        }
        let hex = |oid: Option<Oid>| oid.map_or_else(|| "0".repeat(40), |oid| oid.to_string());
        let mut capabilities = self.capabilities.write(!self.options.is_empty());
        for update in &self.updates {
            let mut line = format!("{} {} {}", hex(update.old), hex(update.new), update.name);
            // They follow the first update.
            if !capabilities.is_empty() {
                line.push('\0');
                line.push_str(&std::mem::take(&mut capabilities));
            }
            pktline::write(&mut out, line.as_bytes());
        }
        out.extend_from_slice(FLUSH);
        if !self.options.is_empty() {
            self.options.iter().for_each(|option| pktline::write(&mut out, option.as_bytes()));
            out.extend_from_slice(FLUSH);
        }
        out
    }
}

/// One ref update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefUpdate {
    /// The ref's current commit, as the client claims. `None` if the ref does not exist.
    pub old: Option<Oid>,
    /// The ref's new commit. `None` deletes the ref, regardless of `old`.
    pub new: Option<Oid>,
    /// The ref's name as received. It has no control characters.
    pub name: String,
}

/// Why a head is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// See [`InvalidLength`].
    #[error(transparent)]
    Length(#[from] InvalidLength),
    /// An unexpected or malformed line.
    #[error("invalid line in the list of ref updates: {0}")]
    Line(&'static str),
    /// `git push --signed`.
    #[error("the gateway does not support signed pushes; push without --signed")]
    Signed,
    /// The objects' ids are not SHA-1.
    #[error("the repository's object format is {0}; only sha1 can be pushed through the gateway")]
    ObjectFormat(String),
    /// A limit is exceeded.
    #[error("the push has more than {limit} {what}; push less at a time")]
    Limit {
        /// The items that the limit counts.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The body ends before the head is complete.
    #[error("the push ends within its list of ref updates")]
    Truncated,
}

/// Parses a head incrementally.
#[derive(Debug, Default)]
pub struct Parser {
    pending: Vec<u8>,
    seen: usize,
    section: Section,
    request: Request,
    /// Push options follow the list of ref updates.
    options: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Section {
    #[default]
    Commands,
    Options,
    Done,
}

impl Parser {
    /// Parses the next bytes. Returns `None` until the head is complete, and then the request with the number of bytes
    /// of `chunk` that belong to the head.
    ///
    /// # Errors
    /// If the head is invalid, see [`Error`]. The parser can't be used after an error.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<Option<(Request, usize)>, Error> {
        let before = self.pending.len();
        // At most MAX_HEAD + 1 bytes are read, so that the result does not depend on the chunks.
        let left = MAX_HEAD.saturating_add(1).saturating_sub(self.seen).saturating_sub(before);
        let taken = chunk.get(..left).unwrap_or(chunk);
        self.pending.extend_from_slice(taken);
        let mut pending = std::mem::take(&mut self.pending);
        let mut at = 0_usize;
        while let Some((pkt, length)) = pktline::first(pending.get(at..).unwrap_or_default())? {
            at = at.saturating_add(length);
            self.within(at)?;
            self.section = self.next_section(pkt)?;
            if self.section == Section::Done {
                return Ok(Some((std::mem::take(&mut self.request), at.saturating_sub(before))));
            }
        }
        self.within(pending.len())?;
        pending.drain(..at);
        self.pending = pending;
        self.seen = self.seen.saturating_add(at);
        Ok(None)
    }

    /// Takes a pkt-line. Returns the section of the next one.
    fn next_section(&mut self, pkt: Pkt<'_>) -> Result<Section, Error> {
        match (self.section, pkt) {
            (Section::Commands, Pkt::Flush) => {
                if self.request.updates.is_empty() && !self.request.shallow.is_empty() {
                    return Err(Error::Line("shallow without a ref update"));
                }
                Ok(if self.options { Section::Options } else { Section::Done })
            }
            (Section::Options | Section::Done, Pkt::Flush) => Ok(Section::Done),
            (Section::Commands, Pkt::Line(line)) => {
                self.command(chomp(line))?;
                Ok(Section::Commands)
            }
            (Section::Options | Section::Done, Pkt::Line(line)) => {
                let options = &mut self.request.options;
                limit(options.len(), "push options", MAX_OPTIONS)?;
                let option = text(chomp(line), "a push option with a control character or invalid UTF-8")?;
                if option.is_empty() {
                    return Err(Error::Line("an empty push option"));
                }
                options.push(option.to_owned());
                Ok(Section::Options)
            }
        }
    }

    fn command(&mut self, line: &[u8]) -> Result<(), Error> {
        let Request { shallow, updates, capabilities, .. } = &mut self.request;
        if line.starts_with(b"push-cert") {
            return Err(Error::Signed);
        }
        if let Some(hex) = line.strip_prefix(b"shallow ") {
            limit(shallow.len(), "shallow lines", MAX_SHALLOW)?;
            let known = Oid::from_hex(hex).and_then(Oid::or_none).filter(|_| updates.is_empty());
            shallow.push(known.ok_or(Error::Line("shallow after a ref update, or without an object id"))?);
            return Ok(());
        }
        // Capabilities are allowed on the first line only. git reads them from any line, but other parsers would take
        // them for a part of the ref's name.
        let line = match line.iter().position(|byte| *byte == 0) {
            None => line,
            Some(_) if !updates.is_empty() => return Err(Error::Line("capabilities after the first ref update")),
            Some(nul) => {
                let (line, after) = line.split_at(nul);
                let after = after.get(1..).unwrap_or_default();
                let after = text(after, "capabilities with a control character or invalid UTF-8")?;
                (*capabilities, self.options) = Capabilities::parse(after)?;
                line
            }
        };
        limit(updates.len(), "ref updates", MAX_UPDATES)?;
        updates.push(update(line)?);
        Ok(())
    }

    fn within(&self, pending: usize) -> Result<(), Error> {
        if self.seen.saturating_add(pending) > MAX_HEAD {
            Err(Error::Limit { what: "bytes in the list of ref updates", limit: MAX_HEAD })
        } else {
            Ok(())
        }
    }
}

fn update(line: &[u8]) -> Result<RefUpdate, Error> {
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let (old, new, name) = (parts.next(), parts.next(), parts.next());
    let oid = |hex: Option<&[u8]>| match hex {
        Some(hex) if hex.len() == 64 => Err(Error::ObjectFormat("sha256".into())),
        hex => hex.and_then(Oid::from_hex).ok_or(Error::Line("a ref update without two object ids")),
    };
    let (old, new) = (oid(old)?.or_none(), oid(new)?.or_none());
    let name = text(name.unwrap_or_default(), "a ref name with a control character or invalid UTF-8")?;
    limit(name.len().saturating_sub(1), "bytes in a ref name", MAX_NAME)?;
    if name.is_empty() || name.contains(' ') {
        Err(Error::Line("a ref update without a ref name, or with a space in the name"))
    } else {
        Ok(RefUpdate { old, new, name: name.to_owned() })
    }
}

/// Removes the one newline that a line may end with.
fn chomp(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

/// Decodes UTF-8 without control characters. Some parsers end a text at a control character.
fn text<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a str, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::Line(what))?;
    if text.chars().any(char::is_control) { Err(Error::Line(what)) } else { Ok(text) }
}

fn limit(have: usize, what: &'static str, limit: usize) -> Result<(), Error> {
    if have >= limit { Err(Error::Limit { what, limit }) } else { Ok(()) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::capabilities::MAX_CAPABILITIES;
    use super::*;
    use proptest::prelude::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
    const ZERO: &str = "0000000000000000000000000000000000000000";

    fn pkts(lines: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in lines {
            match *line {
                "0000" => out.extend_from_slice(b"0000"),
                line => pktline::write(&mut out, line.as_bytes()),
            }
        }
        out
    }

    fn read(body: &[u8]) -> Result<Option<(Request, usize)>, Error> {
        let whole = Parser::default().feed(body);
        for size in [1, 3, 7] {
            let mut parser = Parser::default();
            let mut at = 0;
            let mut answer = Ok(None);
            for chunk in body.chunks(size) {
                answer = parser.feed(chunk).map(|done| done.map(|(request, used)| (request, used + at)));
                if !matches!(answer, Ok(None)) {
                    break;
                }
                at += chunk.len();
            }
            // The errors may differ: a chunk may end before the byte that makes the whole body invalid.
            assert_eq!(answer.is_ok(), whole.is_ok(), "chunks of {size}");
            if let (Ok(answer), Ok(whole)) = (&answer, &whole) {
                assert_eq!(answer, whole, "chunks of {size}");
            }
        }
        whole
    }

    fn good(body: &[u8]) -> Request {
        match read(body) {
            Ok(Some((request, used))) => {
                assert_eq!(used, body.len());
                request
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_git_sends_is_read() {
        let caps = " report-status-v2 side-band-64k quiet object-format=sha1 agent=git/2.47.3";
        let request = good(&pkts(&[
            &format!("shallow {A}\n"),
            &format!("{A} {B} refs/heads/x\0{caps}"),
            &format!("{ZERO} {B} refs/tags/v1"),
            &format!("{B} {ZERO} refs/heads/é\n"),
            "0000",
        ]));
        let oid = |hex: &str| Oid::from_hex(hex.as_bytes());
        let update = |old: &str, new: &str, name: &str| RefUpdate {
            old: oid(old).and_then(Oid::or_none),
            new: oid(new).and_then(Oid::or_none),
            name: name.into(),
        };
        assert_eq!(
            request.updates,
            [update(A, B, "refs/heads/x"), update(ZERO, B, "refs/tags/v1"), update(B, ZERO, "refs/heads/é")]
        );
        assert!(request.capabilities.report_status() && request.capabilities.side_band() && request.has_pack());
        let request =
            good(&pkts(&[&format!("{A} {ZERO} refs/heads/x\0push-options"), "0000", "ci.skip", "a=b\n", "0000"]));
        assert_eq!((request.options, request.updates.len()), (vec!["ci.skip".to_owned(), "a=b".to_owned()], 1));
        assert!(good(b"0000").updates.is_empty());
        // The bytes after the head don't belong to it.
        let mut body = pkts(&[&format!("{A} {B} refs/heads/x\0a"), "0000"]);
        let head = body.len();
        body.extend_from_slice(b"PACK");
        assert_eq!(read(&body).unwrap().unwrap().1, head);
    }

    #[test]
    fn what_git_and_another_reader_could_take_differently_is_an_error() {
        let command = format!("{A} {B} refs/heads/x");
        let first = format!("{command}\0report-status");
        let cases: &[(&str, Vec<u8>)] = &[
            ("delim ends", [pkts(&[&first]), b"0001".to_vec()].concat()),
            ("upper-case length", [b"00".to_vec(), format!("6A{first}").into_bytes()].concat()),
            ("newline before the NUL", pkts(&[&format!("{command}\n\0report-status"), "0000"])),
            ("push-options with a value", pkts(&[&format!("{command}\0push-options=1"), "0000", "0000"])),
            ("NUL on the second line", pkts(&[&first, &format!("{A} {B} refs/heads/y\0x"), "0000"])),
            ("NUL on the second line only", pkts(&[&command, &format!("{A} {B} refs/heads/y\0x"), "0000"])),
            ("two NULs", pkts(&[&format!("{first}\0atomic"), "0000"])),
            ("capabilities on shallow", pkts(&[&format!("shallow {A}\0report-status"), &command, "0000"])),
            ("shallow after an update", pkts(&[&first, &format!("shallow {A}"), "0000"])),
            ("shallow of zeros", pkts(&[&format!("shallow {ZERO}"), &first, "0000"])),
            ("shallow alone", pkts(&[&format!("shallow {A}"), "0000"])),
            ("upper-case name", pkts(&[&format!("{} {B} refs/heads/x", A.to_uppercase()), "0000"])),
            ("39 digits", pkts(&[&format!("{} {B} refs/heads/x", &A[1..]), "0000"])),
            ("41 zeros", pkts(&[&format!("{ZERO}0 {B} refs/heads/x"), "0000"])),
            ("two spaces", pkts(&[&format!("{A}  {B} refs/heads/x"), "0000"])),
            ("space in the name", pkts(&[&format!("{A} {B} refs/heads/x y"), "0000"])),
            ("tab", pkts(&[&format!("{A}\t{B} refs/heads/x"), "0000"])),
            ("no name", pkts(&[&format!("{A} {B}"), "0000"])),
            ("empty name", pkts(&[&format!("{A} {B} "), "0000"])),
            ("newline in the name", pkts(&[&format!("{A} {B} refs/heads/x\ny"), "0000"])),
            ("two newlines", pkts(&[&format!("{A} {B} refs/heads/x\n\n"), "0000"])),
            ("DEL in the name", pkts(&[&format!("{A} {B} refs/heads/x\x7f"), "0000"])),
            ("ERR", pkts(&["ERR no", "0000"])),
            ("version", pkts(&["version 1", &first, "0000"])),
            ("empty option", [pkts(&[&format!("{command}\0push-options"), "0000"]), b"0005\n0000".to_vec()].concat()),
            ("control byte in an option", pkts(&[&format!("{command}\0push-options"), "0000", "a\x01b", "0000"])),
        ];
        for (what, body) in cases {
            assert!(matches!(read(body), Err(Error::Line(_) | Error::Length(_))), "{what}: {:?}", read(body));
        }
        assert_eq!(read(&pkts(&[&first, "push-cert\0x", "0000"])), Err(Error::Signed));
        let format = |name: &str| Err(Error::ObjectFormat(name.into()));
        assert_eq!(read(&pkts(&[&format!("{command}\0object-format=sha256"), "0000"])), format("sha256"));
        assert_eq!(read(&pkts(&[&format!("{A}{} {B} x", &A[..24]), "0000"])), format("sha256"));
        assert!(matches!(read(&[0xff, 0xfe, 0xfd, 0xfc]), Err(Error::Length(_))));
        let mut raw = format!("003f{A} {B} refs/heads/").into_bytes();
        raw.splice(..4, b"0067".iter().copied());
        raw.resize(0x67, 0xff);
        assert_eq!(read(&raw), Err(Error::Line("a ref name with a control character or invalid UTF-8")));
    }

    #[test]
    fn each_limit_holds_at_its_number() {
        let updates = |count: usize| {
            let mut lines: Vec<_> = (0..count).map(|n| format!("{A} {B} refs/heads/{n}")).collect();
            lines.push("0000".into());
            pkts(&lines.iter().map(String::as_str).collect::<Vec<_>>())
        };
        assert_eq!(Parser::default().feed(&updates(MAX_UPDATES)).unwrap().unwrap().0.updates.len(), MAX_UPDATES);
        let over = Parser::default().feed(&updates(MAX_UPDATES + 1));
        assert_eq!(over, Err(Error::Limit { what: "ref updates", limit: MAX_UPDATES }));

        let capable = |count: usize| {
            let capabilities = "  quiet".repeat(count);
            Parser::default().feed(&pkts(&[&format!("{A} {B} refs/heads/x\0{capabilities}"), "0000"]))
        };
        assert!(capable(MAX_CAPABILITIES).unwrap().unwrap().0.capabilities.has("quiet"));
        let over = Error::Limit { what: "capabilities", limit: MAX_CAPABILITIES };
        assert_eq!(capable(MAX_CAPABILITIES + 1), Err(over));

        let named = |length: usize| {
            let name = "n".repeat(length);
            Parser::default().feed(&pkts(&[&format!("{A} {B} {name}"), "0000"]))
        };
        assert!(named(MAX_NAME).is_ok());
        assert_eq!(named(MAX_NAME + 1), Err(Error::Limit { what: "bytes in a ref name", limit: MAX_NAME }));

        let shallow = |count: usize| {
            let line = format!("shallow {A}");
            let command = format!("{A} {B} refs/heads/x");
            pkts(&[vec![line.as_str(); count], vec![&command, "0000"]].concat())
        };
        assert!(Parser::default().feed(&shallow(MAX_SHALLOW)).is_ok());
        let over = Parser::default().feed(&shallow(MAX_SHALLOW + 1));
        assert_eq!(over, Err(Error::Limit { what: "shallow lines", limit: MAX_SHALLOW }));

        let options = |count: usize| {
            let command = format!("{A} {B} refs/heads/x\0push-options");
            pkts(&[vec![command.as_str(), "0000"], vec!["o"; count], vec!["0000"]].concat())
        };
        assert!(Parser::default().feed(&options(MAX_OPTIONS)).is_ok());
        let over = Parser::default().feed(&options(MAX_OPTIONS + 1));
        assert_eq!(over, Err(Error::Limit { what: "push options", limit: MAX_OPTIONS }));

        // Push options fill a head up to an exact length.
        let head = |length: usize| {
            let mut body = pkts(&[&format!("{A} {B} refs/heads/x\0push-options"), "0000"]);
            while body.len() + 4 < length {
                let left = length - 4 - body.len();
                let part = if left <= pktline::MAX { left } else { (pktline::MAX).min(left - 5) };
                pktline::write(&mut body, &vec![b'o'; part - 4]);
            }
            body.extend_from_slice(b"0000");
            assert_eq!(body.len(), length);
            body
        };
        for chunk in [1 << 20, 4096] {
            let feed = |body: Vec<u8>| {
                let mut parser = Parser::default();
                body.chunks(chunk).map(|chunk| parser.feed(chunk)).find(|step| !matches!(step, Ok(None))).unwrap()
            };
            assert!(feed(head(MAX_HEAD)).is_ok());
            assert!(matches!(feed(head(MAX_HEAD + 1)), Err(Error::Limit { .. })), "{chunk}");
            // Bytes beyond the limit are not read, so they don't change the error.
            let long = [&head(MAX_HEAD)[..MAX_HEAD - 4], b"0009odd\x01x", b"zzzz", &[b'x'; 4096]].concat();
            assert!(matches!(feed(long), Err(Error::Limit { .. })), "{chunk}");
        }
    }

    fn oids() -> impl Strategy<Value = Oid> {
        any::<[u8; 20]>().prop_map(Oid::from).prop_filter("a name", |oid| oid.or_none().is_some())
    }

    /// Heads as a client may send them, in canonical form or not.
    fn heads() -> impl Strategy<Value = Vec<u8>> {
        let name = prop_oneof![4 => "refs/[a-z]{1,9}/[!-~é]{1,40}", 1 => "[!-~]{1,1024}"];
        let update = (prop::option::of(oids()), prop::option::of(oids()), name, any::<bool>());
        let words = prop_oneof![
            8 => prop::sample::select(vec![
                "report-status", "report-status-v2", "side-band-64k", "quiet", "atomic", "ofs-delta", "delete-refs",
                "object-format=sha1", "agent=git/2.47.3", "agent=a;b", "session-id=1", "push-options",
            ]).prop_map(str::to_owned),
            1 => "[!-~]{1,20}",
        ];
        let capabilities = prop::option::of((prop::collection::vec(words, 0..12), any::<bool>()));
        let options = prop::collection::vec("[ -~]{1,30}", 0..4);
        (prop::collection::vec(oids(), 0..4), prop::collection::vec(update, 1..6), capabilities, options).prop_map(
            |(shallow, updates, capabilities, options)| {
                let hex = |oid: Option<Oid>| oid.map_or(ZERO.to_owned(), |oid| oid.to_string());
                let mut lines: Vec<_> = shallow.iter().map(|oid| format!("shallow {oid}")).collect();
                let asks =
                    capabilities.as_ref().is_some_and(|(words, _)| words.iter().any(|word| word == "push-options"));
                for (at, (old, new, name, newline)) in updates.into_iter().enumerate() {
                    let mut line = format!("{} {} {name}", hex(old), hex(new));
                    if let Some((words, spaced)) = capabilities.as_ref().filter(|_| at == 0) {
                        line += &format!("\0{}{}", if *spaced { " " } else { "" }, words.join(" "));
                    }
                    lines.push(line + if newline { "\n" } else { "" });
                }
                lines.push("0000".into());
                if asks {
                    lines.extend(options);
                    lines.push("0000".into());
                }
                pkts(&lines.iter().map(String::as_str).collect::<Vec<_>>())
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        /// The written head has the meaning of the one that came, and one form.
        #[test]
        fn what_is_written_is_read_as_it_was(head in heads()) {
            // Words that refuse the push are covered above.
            let Ok(Some((request, used))) = Parser::default().feed(&head) else { return Ok(()) };
            prop_assert_eq!(used, head.len());
            let written = request.write();
            prop_assert_eq!(good(&written), request.clone());
            prop_assert_eq!(good(&written).write(), written.clone());
            let text = String::from_utf8_lossy(&written).into_owned();
            for stray in ["session-id", ";b", "\n0000"] {
                let named = request.updates.iter().any(|update| update.name.contains(stray))
                    || request.options.iter().any(|option| option.contains(stray));
                prop_assert!(named || !text.contains(stray), "{}", text);
            }
        }
    }

    #[test]
    fn the_written_form_is_git_s() {
        let request = |head: &[&str]| good(&pkts(head));
        let written = |head: &[&str]| String::from_utf8(request(head).write()).unwrap();
        let caps = " report-status-v2 side-band-64k object-format=sha1 agent=git/2.47.3";
        let shallow = format!("shallow {A}\n");
        let first = format!("{A} {B} refs/heads/x\0{caps}");
        let second = format!("{ZERO} {B} refs/tags/v1");
        let git = [shallow.as_str(), &first, &second, "0000"];
        assert_eq!(written(&git).as_bytes(), pkts(&git), "git's own form stays");
        let odd = format!("{A} {B} refs/heads/x\0 x;y=1 session-id=1 quiet push-options agent=a;b\n");
        let plain = format!("{A} {B} refs/heads/x\0 quiet push-options");
        assert_eq!(
            written(&[&odd, "0000", "ci.skip\n", "0000"]).as_bytes(),
            pkts(&[&plain, "0000", "ci.skip", "0000"])
        );
        let without = format!("{A} {B} refs/heads/x\0 quiet");
        assert_eq!(written(&[&odd, "0000", "0000"]).as_bytes(), pkts(&[&without, "0000"]), "no options, no section");
        let bare = format!("{A} {B} refs/heads/x");
        assert_eq!(written(&[&format!("{bare}\0x"), "0000"]).as_bytes(), pkts(&[&bare, "0000"]));
        assert_eq!(written(&["0000"]), "0000");
    }
}
