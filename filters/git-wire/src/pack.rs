//! Parses a pack as it streams (gitformat-pack(5)): finds its commits, and the place where its objects end.
//!
//! Only commits are kept, including deltas against commits of this pack. Trees, blobs, tags and all other deltas are
//! skipped. A commit that is a delta of an object that was not kept stays unknown, and proves nothing.
//!
//! **Invariant:** a server does not accept a pack without its trailer, and [`Scanner::feed`] reports where the trailer
//! begins before the trailer is complete, whatever the chunks are.
//!
//! **Invariant:** the work of one call is bounded by its caller, and not by what the bytes decompress to.

mod delta;
mod inflate;

use crate::Oid;
use crate::graph::{self, Graph};
use inflate::Inflater;
use sha1_checked::Sha1;
use std::collections::{HashMap, VecDeque};

/// The length in bytes of the trailer, which is the pack's hash.
pub const TRAILER: usize = 20;
/// The most objects. A push of the whole Linux kernel has ten million, but no agent makes such a push.
pub const MAX_OBJECTS: u32 = 5_000_000;
/// The longest text of one commit, in bytes.
pub const MAX_COMMIT: usize = 1 << 20;
/// The most text of all commits together, in bytes. Parsing this text takes most of the time.
pub const MAX_TEXT: usize = 64 << 20;
/// The most text of commits that is kept to resolve deltas, in bytes. Beyond this limit the oldest is dropped.
pub const MAX_KEPT: usize = 8 << 20;
/// The most bytes that may be inflated at a ratio above [`RATIO`]. GitHub takes files of 100 MB, so a file of zeros of that
/// size fits.
pub const MAX_INFLATED: u64 = 256 << 20;
/// Beyond [`MAX_INFLATED`], the most inflated bytes for each byte of the pack. Logs with the same lines again and again
/// have up to about 100; DEFLATE's limit is 1,032.
pub const RATIO: u64 = 100;
/// The work of inflating one byte is 1. This is the work of reading one byte of the pack, as measured by
/// `benches/scan.rs`: decoding costs more than copying.
pub const READING: u64 = 16;
/// The work of one byte of a commit's text: its SHA-1, with the detection of collisions, and its parents.
pub const HASHING: u64 = 16;
/// The work of one DEFLATE block, whatever comes out of it: the decoder's tables. As measured by `benches/scan.rs`, it
/// takes a fifth of this for the block of a small object of git's, about this for the shortest block with tables, and three
/// times as much for the largest tables.
pub const BLOCK: u64 = 4_096;
/// The work of following one parent of a commit for one question of the graph.
const FOLLOWING: u64 = 16;
/// The most bytes of an object's header or of a delta's offset. Each byte has seven bits of the number; the first byte
/// of a header has four.
const MAX_VARINT: usize = 7;

/// Why a pack is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The pack is malformed. git's server rejects it too, or reads it differently.
    #[error("invalid pack: {0}")]
    Malformed(&'static str),
    /// See [`graph::Error`].
    #[error(transparent)]
    Commits(#[from] graph::Error),
    /// A limit is exceeded.
    #[error("the pack has more than {limit} {what}; push in smaller steps")]
    Limit {
        /// The items that the limit counts.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

/// The part of a chunk that was parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fed {
    /// The number of bytes that were parsed. The rest has to be fed again.
    pub parsed: usize,
    /// The number of bytes, out of the parsed ones, that come before the trailer.
    pub pass: usize,
}

/// Parses one pack incrementally.
#[derive(Debug)]
pub struct Scanner {
    state: State,
    /// The number of bytes of the pack that were parsed.
    offset: u64,
    objects_left: u32,
    inflated: u64,
    /// See [`Scanner::work`].
    work: u64,
    text: usize,
    inflater: Inflater,
    kept: Kept,
    graph: Graph,
}

/// The kind of the next bytes.
#[derive(Debug)]
enum State {
    /// The signature, the version and the number of objects.
    Head(Field),
    /// An object's type and size.
    Object { at: u64, varint: Field },
    /// The distance from a delta back to its base.
    Offset { at: u64, size: u64, varint: Field },
    /// The id of a delta's base.
    Base { size: u64, at: u64, oid: Field },
    /// An object's content.
    Content(Content),
    /// The trailer, with the number of its bytes that have arrived.
    Trailer(usize),
}

/// Collects bytes until a field is complete.
#[derive(Debug, Default)]
struct Field(Vec<u8>);

/// An object whose content is being inflated.
#[derive(Debug)]
struct Content {
    at: u64,
    size: u64,
    out: u64,
    keep: Keep,
}

/// Which part of an object's content is kept.
#[derive(Debug)]
enum Keep {
    Nothing,
    Commit(Vec<u8>),
    /// A delta, and the offset of the commit that is its base.
    Delta(Vec<u8>, u64),
}

/// The texts of recent commits, to resolve deltas against them.
#[derive(Debug, Default)]
struct Kept {
    by_offset: HashMap<u64, (Oid, Vec<u8>)>,
    by_name: HashMap<Oid, u64>,
    order: VecDeque<u64>,
    bytes: usize,
}

impl Kept {
    fn insert(&mut self, at: u64, oid: Oid, text: Vec<u8>) {
        // Each commit also takes an entry in both maps.
        let cost = |text: &Vec<u8>| text.len().saturating_add(128);
        self.bytes = self.bytes.saturating_add(cost(&text));
        self.by_name.insert(oid, at);
        self.by_offset.insert(at, (oid, text));
        self.order.push_back(at);
        while self.bytes > MAX_KEPT {
            let Some((oid, text)) = self.order.pop_front().and_then(|oldest| self.by_offset.remove(&oldest)) else {
                break;
            };
            self.bytes = self.bytes.saturating_sub(cost(&text));
            // A commit that the pack contains twice may still be kept at its later offset.
            if self.by_name.get(&oid).is_some_and(|at| !self.by_offset.contains_key(at)) {
                self.by_name.remove(&oid);
            }
        }
    }
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            state: State::Head(Field::default()),
            offset: 0,
            objects_left: 0,
            inflated: 0,
            work: 0,
            text: 0,
            inflater: Inflater::default(),
            kept: Kept::default(),
            graph: Graph::default(),
        }
    }
}

impl Scanner {
    /// Parses the next bytes, until all are parsed or the work is at `most`. One more step may be done: of 16 KiB that are
    /// read, of 32 KiB that come out, or the end of one commit. The trailer is parsed when the graph has followed all
    /// commits before it.
    ///
    /// # Errors
    /// If the pack is invalid, see [`Error`]. The scanner can't be used after an error.
    pub fn feed(&mut self, chunk: &[u8], most: u64) -> Result<Fed, Error> {
        let until = self.work.saturating_add(most);
        let mut rest = chunk;
        loop {
            self.follow(until);
            if rest.is_empty() || self.graph.is_behind() {
                break;
            }
            if let State::Trailer(have) = &mut self.state {
                *have = have.saturating_add(rest.len());
                return if *have > TRAILER {
                    Err(Error::Malformed("bytes after the end"))
                } else {
                    Ok(Fed { parsed: chunk.len(), pass: chunk.len().saturating_sub(rest.len()) })
                };
            }
            if self.work >= until {
                break;
            }
            let used = self.step(rest)?;
            let used_bytes = u64::try_from(used).unwrap_or(u64::MAX);
            self.offset = self.offset.saturating_add(used_bytes);
            self.work = self.work.saturating_add(used_bytes.saturating_mul(READING));
            rest = rest.get(used..).unwrap_or_default();
        }
        let parsed = chunk.len().saturating_sub(rest.len());
        Ok(Fed { parsed, pass: parsed })
    }

    /// Lets the graph follow the commits that it has, until the work is at `until`.
    fn follow(&mut self, until: u64) {
        let most = until.saturating_sub(self.work).div_ceil(FOLLOWING);
        let followed = self.graph.follow(most);
        self.work = self.work.saturating_add(followed.saturating_mul(FOLLOWING));
    }

    /// The work so far. The unit is about the time for one inflated byte; see [`READING`], [`HASHING`] and [`BLOCK`].
    pub fn work(&self) -> u64 {
        self.work
    }

    /// The work without that of reading: each byte that was inflated, each block, each byte of the commits' text, and each
    /// parent that was followed, at its price.
    pub fn made(&self) -> u64 {
        self.work.saturating_sub(self.offset.saturating_mul(READING))
    }

    /// Whether the whole pack has arrived, including its trailer.
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Trailer(TRAILER))
    }

    /// The commits so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The commits so far, to add questions about them.
    pub fn graph_mut(&mut self) -> &mut Graph {
        &mut self.graph
    }

    /// The number of bytes of the pack that were parsed, without the trailer.
    pub fn bytes(&self) -> u64 {
        self.offset
    }

    /// The approximate memory use in bytes.
    pub fn memory(&self) -> usize {
        let content = match &self.state {
            State::Content(Content { keep: Keep::Commit(text) | Keep::Delta(text, _), .. }) => text.capacity(),
            _ => 0,
        };
        let fixed = self.inflater.memory().saturating_add(content);
        fixed.saturating_add(self.kept.bytes).saturating_add(self.graph.memory())
    }

    /// Parses a part of `rest`, which is not empty. Returns the number of bytes parsed.
    fn step(&mut self, rest: &[u8]) -> Result<usize, Error> {
        match &mut self.state {
            State::Head(field) => {
                let used = field.fill(rest, 12);
                if let &[b'P', b'A', b'C', b'K', v0, v1, v2, v3, c0, c1, c2, c3] = field.0.as_slice() {
                    if u32::from_be_bytes([v0, v1, v2, v3]) != 2 {
                        return Err(Error::Malformed("the version is not 2"));
                    }
                    self.objects_left = u32::from_be_bytes([c0, c1, c2, c3]);
                    if self.objects_left > MAX_OBJECTS {
                        return Err(Error::Limit { what: "objects", limit: MAX_OBJECTS.into() });
                    }
                    let at = self.offset.saturating_add(u64::try_from(used).unwrap_or(u64::MAX));
                    self.next_object(at);
                } else if !b"PACK".starts_with(field.0.get(..4).unwrap_or(&field.0)) {
                    return Err(Error::Malformed("the signature PACK is missing"));
                }
                Ok(used)
            }
            State::Object { at, varint } => {
                let at = *at;
                let Some(used) = varint.varint(rest)? else { return Ok(rest.len()) };
                let (kind, size) = kind_and_size(&varint.0);
                self.state = match kind {
                    1 => self.content(at, size, Keep::Commit(Vec::new()))?,
                    2..=4 => self.content(at, size, Keep::Nothing)?,
                    6 => State::Offset { at, size, varint: Field::default() },
                    7 => State::Base { size, at, oid: Field::default() },
                    _ => return Err(Error::Malformed("an object has an unknown type")),
                };
                Ok(used)
            }
            State::Offset { at, size, varint } => {
                let (at, size) = (*at, *size);
                let Some(used) = varint.varint(rest)? else { return Ok(rest.len()) };
                let base = at.checked_sub(distance(&varint.0)).filter(|base| *base != at);
                let base = base.ok_or(Error::Malformed("the offset of a delta's base is out of range"))?;
                self.state = self.delta(at, size, Some(base))?;
                Ok(used)
            }
            State::Base { size, at, oid } => {
                let (at, size) = (*at, *size);
                let used = oid.fill(rest, 20);
                if let Ok(name) = <[u8; 20]>::try_from(oid.0.as_slice()) {
                    let base = self.kept.by_name.get(&Oid::from(name)).copied();
                    self.state = self.delta(at, size, base)?;
                }
                Ok(used)
            }
            State::Content(_) => self.inflate(rest),
            State::Trailer(_) => Err(Error::Malformed("BUG: the trailer is parsed as an object")),
        }
    }

    /// Sets the state after an object. The next object, if there is one, begins at `at`.
    fn next_object(&mut self, at: u64) {
        self.state = match self.objects_left {
            0 => State::Trailer(0),
            _ => State::Object { at, varint: Field::default() },
        };
    }

    fn delta(&mut self, at: u64, size: u64, base: Option<u64>) -> Result<State, Error> {
        match base.filter(|base| self.kept.by_offset.contains_key(base)) {
            Some(base) => self.content(at, size, Keep::Delta(Vec::new(), base)),
            None => self.content(at, size, Keep::Nothing),
        }
    }

    fn content(&mut self, at: u64, size: u64, keep: Keep) -> Result<State, Error> {
        let longest = u64::try_from(MAX_COMMIT).unwrap_or(u64::MAX);
        if size > longest && !matches!(keep, Keep::Nothing) {
            return Err(Error::Limit { what: "bytes in one commit", limit: longest });
        }
        self.inflater.reset();
        Ok(State::Content(Content { at, size, out: 0, keep }))
    }

    fn inflate(&mut self, rest: &[u8]) -> Result<usize, Error> {
        let State::Content(content) = &mut self.state else { return Ok(0) };
        let invalid = Error::Malformed("an object's data can't be decompressed");
        let inflate::Step { read, made, block, complete } = self.inflater.step(rest).ok_or(invalid)?;
        if let Keep::Commit(text) | Keep::Delta(text, _) = &mut content.keep {
            text.extend_from_slice(made);
        }
        let made = u64::try_from(made.len()).unwrap_or(u64::MAX);
        content.out = content.out.saturating_add(made);
        if content.out > content.size {
            return Err(Error::Malformed("an object is longer than its header says"));
        }
        self.inflated = self.inflated.saturating_add(made);
        self.work = self.work.saturating_add(made).saturating_add(if block { BLOCK } else { 0 });
        let at = self.offset.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        if self.inflated > MAX_INFLATED.saturating_add(at.saturating_mul(RATIO)) {
            return Err(Error::Limit { what: "bytes of decompressed data", limit: MAX_INFLATED });
        }
        if complete {
            if content.out != content.size {
                return Err(Error::Malformed("an object is shorter than its header says"));
            }
            let begun = content.at;
            let keep = std::mem::replace(&mut content.keep, Keep::Nothing);
            self.keep(begun, keep)?;
            self.objects_left = self.objects_left.saturating_sub(1);
            self.next_object(at);
        }
        Ok(read)
    }

    fn keep(&mut self, at: u64, keep: Keep) -> Result<(), Error> {
        let text = match keep {
            Keep::Nothing => return Ok(()),
            Keep::Commit(text) => text,
            Keep::Delta(delta, base) => {
                // The base was kept when the delta began, and no commit has been kept or dropped since.
                let base = self.kept.by_offset.get(&base).map(|(_, text)| text.as_slice()).unwrap_or_default();
                delta::apply(base, &delta).ok_or(Error::Malformed("a delta of a commit can't be applied"))?
            }
        };
        self.text = self.text.saturating_add(text.len());
        self.work = self.work.saturating_add(u64::try_from(text.len()).unwrap_or(u64::MAX).saturating_mul(HASHING));
        if self.text > MAX_TEXT {
            let limit = u64::try_from(MAX_TEXT).unwrap_or(u64::MAX);
            return Err(Error::Limit { what: "bytes of commit text", limit });
        }
        let oid = name(&text).ok_or(Error::Malformed("a commit is a SHA-1 collision attack"))?;
        self.graph.add(oid, &graph::parents(&text)?)?;
        self.kept.insert(at, oid, text);
        Ok(())
    }
}

/// The id of the commit with this text. Returns `None` if the text is a SHA-1 collision attack, which git detects too
/// (sha1dc).
fn name(text: &[u8]) -> Option<Oid> {
    let mut hasher = Sha1::new();
    use sha1_checked::Digest;
    hasher.update(format!("commit {}\0", text.len()));
    hasher.update(text);
    let hash = hasher.try_finalize();
    (!hash.has_collision()).then(|| Oid::from(<[u8; 20]>::from(*hash.hash())))
}

impl Field {
    /// Takes bytes until the field has `length` bytes. Returns the number of bytes taken.
    fn fill(&mut self, rest: &[u8], length: usize) -> usize {
        let used = length.saturating_sub(self.0.len()).min(rest.len());
        self.0.extend_from_slice(rest.get(..used).unwrap_or_default());
        used
    }

    /// Takes bytes up to the first whose highest bit is clear. Returns the number of bytes taken, or `None` if `rest`
    /// has no such byte.
    fn varint(&mut self, rest: &[u8]) -> Result<Option<usize>, Error> {
        let end = rest.iter().position(|byte| byte & 0x80 == 0).map(|at| at.saturating_add(1));
        let used = end.unwrap_or(rest.len());
        if self.0.len().saturating_add(used) > MAX_VARINT {
            return Err(Error::Malformed("an object's header or a delta's offset is too long"));
        }
        self.0.extend_from_slice(rest.get(..used).unwrap_or_default());
        Ok(end)
    }
}

/// An object's type and size. The first byte has three bits of type and the four lowest bits of the size. Each further
/// byte has seven bits of the size, lowest first.
fn kind_and_size(varint: &[u8]) -> (u8, u64) {
    let (mut size, mut shift) = (0_u64, 0_u32);
    for (at, byte) in varint.iter().enumerate() {
        let bits = if at == 0 { 4 } else { 7 };
        size |= (u64::from(*byte) & ((1 << bits) - 1)) << shift;
        shift = shift.saturating_add(bits);
    }
    (varint.first().map_or(0, |first| first >> 4 & 7), size)
}

/// A delta's offset. Each byte has seven bits, highest first, and one is added before each shift (git's
/// unpack-objects.c, `unpack_delta_entry`).
fn distance(varint: &[u8]) -> u64 {
    let mut value = 0_u64;
    for (at, byte) in varint.iter().enumerate() {
        if at > 0 {
            value = value.saturating_add(1) << 7;
        }
        value |= u64::from(byte & 0x7f);
    }
    value
}
