//! Inflates the content of objects (RFC 1950 and 1951), in steps.
//!
//! **Invariant:** a step begins one DEFLATE block at most. The decoder builds its tables for each block that brings its own,
//! whatever comes out of the block, so the caller gives each such step a price.

use std::fmt;
use zlib_rs::{Inflate, InflateFlush, Status};

/// The most bytes that one step reads.
pub const MOST_READ: usize = 16 << 10;
/// The most bytes that one step makes.
const MOST_MADE: usize = 32 << 10;
/// The length of the header of a zlib stream, in bytes. No block begins before it.
const HEADER: u64 = 2;

/// Inflates one stream after the other.
pub struct Inflater {
    inflate: Inflate,
    out: Box<[u8]>,
    /// The last step read nothing, and made nothing.
    idle: bool,
}

/// The result of a step.
#[derive(Debug)]
pub struct Step<'a> {
    /// The number of bytes that were read.
    pub read: usize,
    /// The bytes that came out.
    pub made: &'a [u8],
    /// A block may have begun.
    pub block: bool,
    /// The stream is complete, and its checksum is correct.
    pub complete: bool,
}

impl Default for Inflater {
    fn default() -> Self {
        Self { inflate: Inflate::new(true, 15), out: vec![0; MOST_MADE].into_boxed_slice(), idle: false }
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").field("read", &self.inflate.total_in()).finish_non_exhaustive()
    }
}

impl Inflater {
    /// Begins a new stream.
    pub fn reset(&mut self) {
        self.inflate.reset(true);
        self.idle = false;
    }

    /// Inflates the next part of `bytes`, which are not empty. Returns `None` if the stream is invalid.
    pub fn step(&mut self, bytes: &[u8]) -> Option<Step<'_>> {
        let (read, made) = (self.inflate.total_in(), self.inflate.total_out());
        let bytes = bytes.get(..MOST_READ).unwrap_or(bytes);
        let status = self.inflate.decompress(bytes, &mut self.out, InflateFlush::Block).ok()?;
        let block = read >= HEADER && status != Status::StreamEnd;
        let read = usize::try_from(self.inflate.total_in().saturating_sub(read)).ok()?;
        let made = usize::try_from(self.inflate.total_out().saturating_sub(made)).ok()?;
        // The code for a block's end may be in the byte that was read last. A second step without progress is an error.
        let idle = read == 0 && made == 0 && status != Status::StreamEnd;
        if idle && self.idle {
            return None;
        }
        self.idle = idle;
        Some(Step { read, made: self.out.get(..made)?, block, complete: status == Status::StreamEnd })
    }

    /// The memory use in bytes: of the output, and of the decoder's window and tables.
    pub fn memory(&self) -> usize {
        self.out.len().saturating_add(64 << 10)
    }
}
