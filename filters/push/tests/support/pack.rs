//! Builds packs by hand, well-formed or not, independently of the code that parses them. The fuzz targets use this file
//! too.

use flate2::Compression;
use flate2::write::ZlibEncoder;
use sha1::{Digest, Sha1};
use std::io::Write as _;

/// An object's id.
pub type Name = [u8; 20];

pub const COMMIT: u8 = 1;
pub const TREE: u8 = 2;
pub const BLOB: u8 = 3;
pub const TAG: u8 = 4;
pub const OFS_DELTA: u8 = 6;
pub const REF_DELTA: u8 = 7;

/// The id of the empty tree, which git knows in every repository.
pub const NO_TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";

pub fn hex(name: &Name) -> String {
    name.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The id of an object of this type.
pub fn name(kind: &str, content: &[u8]) -> Name {
    let mut hash = Sha1::new();
    hash.update(format!("{kind} {}\0", content.len()));
    hash.update(content);
    hash.finalize().into()
}

/// The text of a commit with the empty tree.
pub fn commit(parents: &[Name], message: &str) -> Vec<u8> {
    let parents: String = parents.iter().map(|parent| format!("parent {}\n", hex(parent))).collect();
    let who = "A U Thor <author@example.com> 1700000000 +0000";
    format!("tree {NO_TREE}\n{parents}author {who}\ncommitter {who}\n\n{message}\n").into_bytes()
}

/// A pack under construction. The number of objects in its head need not be correct.
#[derive(Clone)]
pub struct Pack(pub Vec<u8>);

impl Pack {
    pub fn new(version: u32, count: u32) -> Self {
        Self([&b"PACK"[..], &version.to_be_bytes(), &count.to_be_bytes()].concat())
    }

    /// The offset of the next object.
    pub fn at(&self) -> usize {
        self.0.len()
    }

    /// Appends an object's header: its type and its size, in at least `bytes` bytes.
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

    /// Appends the distance from a delta back to its base.
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

    /// Appends a whole object.
    pub fn object(&mut self, kind: u8, content: &[u8]) {
        self.head(kind, size(content), 1);
        self.0.extend(deflated(content));
    }

    /// Appends an object as a delta of the object at offset `base_at` in this pack.
    pub fn offset_delta(&mut self, base_at: usize, delta: &[u8]) {
        let at = self.at();
        self.head(OFS_DELTA, size(delta), 1);
        self.distance(at - base_at);
        self.0.extend(deflated(delta));
    }

    /// Appends an object as a delta of the object with the id `base`.
    pub fn named_delta(&mut self, base: &Name, delta: &[u8]) {
        self.head(REF_DELTA, size(delta), 1);
        self.0.extend(base);
        self.0.extend(deflated(delta));
    }

    /// Appends the trailer, and returns the pack.
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

/// A delta that makes `target` from `base`, by copying their common prefix and suffix.
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

/// Encodes a length as in a delta.
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

/// The compressed form of `count` zero bytes. Fast for any count.
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
    // An empty last block, and the checksum (RFC 1950). The sum of the bytes is 1, and the sum of the sums is `count`.
    out.extend([0x03, 0x00]);
    out.extend(u32::try_from((count % 65_521) << 16 | 1).expect("32 bits").to_be_bytes());
    out
}
