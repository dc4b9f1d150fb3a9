//! Packs made by hand, well-formed or not. Knows nothing of the code that reads them; the fuzz targets use it as well.

use flate2::Compression;
use flate2::write::ZlibEncoder;
use sha1::{Digest, Sha1};
use std::io::Write as _;

/// An object's name.
pub type Name = [u8; 20];

pub const COMMIT: u8 = 1;
pub const TREE: u8 = 2;
pub const BLOB: u8 = 3;
pub const TAG: u8 = 4;
pub const OFS_DELTA: u8 = 6;
pub const REF_DELTA: u8 = 7;

/// The empty tree, which every repository can have.
pub const NO_TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";

pub fn hex(name: &Name) -> String {
    name.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of an object of this kind.
pub fn name(kind: &str, content: &[u8]) -> Name {
    let mut hash = Sha1::new();
    hash.update(format!("{kind} {}\0", content.len()));
    hash.update(content);
    hash.finalize().into()
}

/// The text of a commit of the empty tree.
pub fn commit(parents: &[Name], message: &str) -> Vec<u8> {
    let parents: String = parents.iter().map(|parent| format!("parent {}\n", hex(parent))).collect();
    let who = "A U Thor <author@example.com> 1700000000 +0000";
    format!("tree {NO_TREE}\n{parents}author {who}\ncommitter {who}\n\n{message}\n").into_bytes()
}

/// One pack; its count stands at its start, and need not be true.
#[derive(Clone)]
pub struct Pack(pub Vec<u8>);

impl Pack {
    pub fn new(version: u32, count: u32) -> Self {
        Self([&b"PACK"[..], &version.to_be_bytes(), &count.to_be_bytes()].concat())
    }

    /// Where the next object begins.
    pub fn at(&self) -> usize {
        self.0.len()
    }

    /// An object's first bytes: its kind and its size, in at least so many bytes.
    pub fn head(&mut self, kind: u8, size: u64, bytes: usize) {
        let (mut byte, mut rest) = (kind << 4 | low(size, 4), size >> 4);
        for at in 1.. {
            if rest == 0 && at >= bytes {
                break;
            }
            self.0.push(byte | 0x80);
            (byte, rest) = (low(rest, 7), rest >> 7);
        }
        self.0.push(byte);
    }

    /// How far back a delta's base begins.
    pub fn distance(&mut self, distance: usize) {
        let mut rest = u64::try_from(distance).expect("64 bits");
        let mut bytes = vec![low(rest, 7)];
        while rest > 0x7f {
            rest = (rest >> 7) - 1;
            bytes.push(low(rest, 7) | 0x80);
        }
        bytes.reverse();
        self.0.extend(bytes);
    }

    /// A whole object.
    pub fn object(&mut self, kind: u8, content: &[u8]) {
        self.head(kind, size(content), 1);
        self.0.extend(deflated(content));
    }

    /// An object as a delta of what begins at `base_at` in this pack.
    pub fn offset_delta(&mut self, base_at: usize, delta: &[u8]) {
        let at = self.at();
        self.head(OFS_DELTA, size(delta), 1);
        self.distance(at - base_at);
        self.0.extend(deflated(delta));
    }

    /// An object as a delta of a named one.
    pub fn named_delta(&mut self, base: &Name, delta: &[u8]) {
        self.head(REF_DELTA, size(delta), 1);
        self.0.extend(base);
        self.0.extend(deflated(delta));
    }

    /// With the hash at its end.
    pub fn finish(mut self) -> Vec<u8> {
        let hash = Sha1::digest(&self.0);
        self.0.extend(hash);
        self.0
    }
}

pub fn size(content: &[u8]) -> u64 {
    u64::try_from(content.len()).expect("64 bits")
}

fn low(value: u64, bits: u32) -> u8 {
    u8::try_from(value & ((1 << bits) - 1)).expect("at most 7 bits")
}

pub fn deflated(content: &[u8]) -> Vec<u8> {
    compressed(content, Compression::fast())
}

pub fn compressed(content: &[u8], level: Compression) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), level);
    encoder.write_all(content).expect("to memory");
    encoder.finish().expect("to memory")
}

/// How to make `target` from `base`: what they begin and end with alike is copied.
pub fn delta(base: &[u8], target: &[u8]) -> Vec<u8> {
    let alike = |pairs: &mut dyn Iterator<Item = (&u8, &u8)>| pairs.take_while(|(a, b)| a == b).count();
    let start = alike(&mut base.iter().zip(target));
    let end = alike(&mut base[start..].iter().rev().zip(target[start..].iter().rev()));
    let mut out = [length(base.len()), length(target.len())].concat();
    copy(&mut out, 0, start);
    for part in target[start..target.len() - end].chunks(127) {
        out.push(u8::try_from(part.len()).expect("at most 127"));
        out.extend(part);
    }
    copy(&mut out, base.len() - end, end);
    out
}

fn copy(out: &mut Vec<u8>, mut offset: usize, mut length: usize) {
    while length > 0 {
        let part = length.min(0xffff);
        out.push(0x80 | 0x0f | 0x30);
        out.extend(u32::try_from(offset).expect("32 bits").to_le_bytes());
        out.extend(u16::try_from(part).expect("16 bits").to_le_bytes());
        (offset, length) = (offset + part, length - part);
    }
}

/// A length within a delta.
fn length(mut length: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = low(u64::try_from(length).expect("64 bits"), 7);
        length >>= 7;
        out.push(if length == 0 { byte } else { byte | 0x80 });
        if length == 0 {
            return out;
        }
    }
}

/// So many zero bytes, deflated: quickly, however many.
pub fn zeros(count: u64) -> Vec<u8> {
    use flate2::{Compress, FlushCompress};
    const BLOCK: usize = 1 << 20;
    let part = |size: usize| {
        let mut out = Vec::with_capacity(size / 8 + 64);
        let content = vec![0; size];
        let mut compress = Compress::new(Compression::best(), false);
        compress.compress_vec(&content, &mut out, FlushCompress::Full).expect("to memory");
        out
    };
    let block = u64::try_from(BLOCK).expect("64 bits");
    let whole = part(BLOCK);
    let mut out = vec![0x78, 0x01];
    (0..count / block).for_each(|_| out.extend(&whole));
    out.extend(part(usize::try_from(count % block).expect("less than a block")));
    // An empty last block, and the checksum (RFC 1950): one for the sum of the bytes, their count for the sum of sums.
    out.extend([0x03, 0x00]);
    out.extend(u32::try_from((count % 65_521) << 16 | 1).expect("32 bits").to_be_bytes());
    out
}
