//! A zstd body, block by block (RFC 8878): one frame without a dictionary, and nothing behind it. The provider never sees
//! it, so that no two decoders can read it differently.

use crate::guard::unreadable;
use policy::Denial;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::fmt;

/// The largest window, in bytes: what zstd's level 3 uses, with which Codex compresses. It bounds a decoder's memory.
pub const MAX_WINDOW: usize = 2 << 20;
/// A body inflates to [`SLACK`] bytes and this many for each byte that has come. A long chat that repeats a file inflates
/// by about 30.
pub const RATIO: u64 = 64;
/// See [`RATIO`].
pub const SLACK: u64 = 4 << 20;
/// The magic number of a frame (section 3.1.1).
const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
/// The size of a block's header (section 3.1.1.2).
const BLOCK_HEADER: usize = 3;
/// The largest block (section 3.1.1.2.3).
const MAX_BLOCK: usize = 128 << 10;
/// The size of a frame's checksum.
const CHECKSUM: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Frame,
    /// With a checksum behind the last block.
    Block(bool),
    Done,
}

/// A body, as far as it has come.
pub struct Inflate {
    decoder: FrameDecoder,
    at: At,
    /// Bytes that are no whole block yet: 128 KiB at most.
    waiting: Vec<u8>,
    received: u64,
    produced: u64,
    window: usize,
}

impl Default for Inflate {
    fn default() -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW as u64);
        Self { decoder, at: At::Frame, waiting: Vec::new(), received: 0, produced: 0, window: 0 }
    }
}

impl fmt::Debug for Inflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, received, produced, .. } = self;
        f.debug_struct("Inflate").field("at", at).field("received", received).field("produced", produced).finish()
    }
}

impl Inflate {
    /// Bytes that the decoder may use: its window, and a block before and after.
    pub fn memory(&self) -> usize {
        if self.at == At::Frame { 0 } else { self.window + 2 * MAX_BLOCK }
    }

    /// Inflates more of the body, and passes each part on.
    ///
    /// # Errors
    /// If the body is no such frame, or inflates too far; or the error of `pass`.
    pub fn feed(&mut self, bytes: &[u8], mut pass: impl FnMut(&[u8]) -> Result<(), Denial>) -> Result<(), Denial> {
        self.received = self.received.saturating_add(bytes.len() as u64);
        self.waiting.extend(bytes);
        let waiting = std::mem::take(&mut self.waiting);
        let mut rest = waiting.as_slice();
        while let Some(size) = self.next(rest)? {
            let Some((part, after)) = rest.split_at_checked(size) else { break };
            rest = after;
            self.part(part, &mut pass)?;
        }
        if self.at == At::Done && !rest.is_empty() {
            return Err(unreadable("something follows the zstd frame of the body"));
        }
        self.waiting = rest.to_vec();
        Ok(())
    }

    /// The body has ended.
    ///
    /// # Errors
    /// If its frame has not.
    pub fn finish(&self) -> Result<(), Denial> {
        if self.at == At::Done { Ok(()) } else { Err(unreadable("the zstd frame of the body ends too early")) }
    }

    /// The size of the next part: the frame's header, or a block. `None` if more bytes have to come to know, or none may.
    fn next(&self, rest: &[u8]) -> Result<Option<usize>, Denial> {
        match self.at {
            At::Done => Ok(None),
            At::Frame => {
                let Some(descriptor) = rest.get(MAGIC.len()) else { return Ok(None) };
                if !rest.starts_with(&MAGIC) || descriptor & 0b11 != 0 {
                    return Err(unreadable("the body is no zstd frame without a dictionary"));
                }
                let single = descriptor >> 5 & 1;
                let window = usize::from(single == 0);
                let content = match descriptor >> 6 {
                    0 => usize::from(single),
                    1 => 2,
                    2 => 4,
                    _ => 8,
                };
                Ok(Some(MAGIC.len() + 1 + window + content))
            }
            At::Block(checksum) => {
                let Some([first, second, third]) = rest.first_chunk::<BLOCK_HEADER>() else { return Ok(None) };
                let header = u32::from_le_bytes([*first, *second, *third, 0]);
                let (last, kind, size) = (header & 1 == 1, header >> 1 & 0b11, header >> 3);
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                if kind == 3 || size > MAX_BLOCK {
                    return Err(unreadable("the zstd frame of the body has an impossible block"));
                }
                // A block of one repeated byte.
                let content = if kind == 1 { 1 } else { size };
                Ok(Some(BLOCK_HEADER + content + if last && checksum { CHECKSUM } else { 0 }))
            }
        }
    }

    fn part(&mut self, part: &[u8], pass: &mut impl FnMut(&[u8]) -> Result<(), Denial>) -> Result<(), Denial> {
        let broken =
            |error: &dyn fmt::Display| unreadable(format!("the zstd frame of the body can't be read: {error}"));
        if self.at == At::Frame {
            self.decoder.init(part).map_err(|error| broken(&error))?;
            let descriptor = part.get(MAGIC.len()).copied().unwrap_or_default();
            self.at = At::Block(descriptor >> 2 & 1 == 1);
            self.window = MAX_WINDOW;
            return Ok(());
        }
        let last =
            self.decoder.decode_blocks(part, BlockDecodingStrategy::UptoBlocks(1)).map_err(|error| broken(&error))?;
        if last {
            self.at = At::Done;
        }
        let plain = self.decoder.collect().unwrap_or_default();
        self.produced = self.produced.saturating_add(plain.len() as u64);
        if self.produced > SLACK.saturating_add(self.received.saturating_mul(RATIO)) {
            return Err(unreadable(format!("the zstd frame of the body inflates by more than {RATIO}")));
        }
        pass(&plain)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    fn inflate(bytes: &[u8], part: usize) -> Result<Vec<u8>, Denial> {
        let (mut inflate, mut plain) = (Inflate::default(), Vec::new());
        for part in bytes.chunks(part) {
            inflate.feed(part, |part| {
                plain.extend(part);
                Ok(())
            })?;
        }
        inflate.finish()?;
        Ok(plain)
    }

    /// A frame with a window of 1 MiB, and the blocks `(last, kind, size, content)`.
    fn frame(blocks: &[(bool, u32, u32, &[u8])]) -> Vec<u8> {
        let mut bytes = [&MAGIC[..], &[0, 0b0101_0000]].concat();
        for (last, kind, size, content) in blocks {
            let header = u32::from(*last) | kind << 1 | size << 3;
            bytes.extend(&header.to_le_bytes()[..BLOCK_HEADER]);
            bytes.extend(*content);
        }
        bytes
    }

    #[test]
    fn a_frame_is_inflated_in_any_parts() {
        let plain: Vec<u8> = (0..400_000_u32).flat_map(|number| (number / 7).to_string().into_bytes()).collect();
        let packed = compress_to_vec(plain.as_slice(), CompressionLevel::Fastest);
        assert!(packed.len() < plain.len() / 2);
        for part in [packed.len(), 1, 7, 4096, 200_000] {
            assert!(inflate(&packed, part).unwrap() == plain, "{part}");
        }
    }

    #[test]
    fn what_is_not_one_whole_frame_is_refused() {
        let good = frame(&[(false, 0, 2, b"{ "), (true, 0, 1, b"}")]);
        assert_eq!(inflate(&good, 3).unwrap(), b"{ }");
        let skippable = [&0x184d_2a50_u32.to_le_bytes()[..], &[0; 4], &good].concat();
        let mut dictionary = good.clone();
        dictionary[4] |= 1;
        let mut window = good.clone();
        // 2^(10 + 12), twice the limit.
        window[5] = 12 << 3;
        let bad = [
            [&good[..], &good].concat(),
            [&good[..], b" "].concat(),
            good[..good.len() - 1].to_vec(),
            good[..5].to_vec(),
            skippable,
            dictionary,
            window,
            frame(&[(true, 3, 1, b"}")]),
            frame(&[(true, 0, 128 * 1024 + 1, &[b' '; 128 * 1024 + 1])]),
            b"{}".to_vec(),
        ];
        for (number, bytes) in bad.iter().enumerate() {
            assert_eq!(inflate(bytes, 5).unwrap_err().rule, "credentials.body", "{number}");
        }
        window = good.clone();
        window[5] = 11 << 3;
        assert_eq!(inflate(&window, 5).unwrap(), b"{ }", "a window at the limit");
    }

    #[test]
    fn a_body_that_inflates_too_far_is_refused() {
        // Each block is 4 bytes and inflates to 128 KiB.
        let bomb = |blocks: usize| {
            let block: (bool, u32, u32, &[u8]) = (false, 1, 128 * 1024, b" ");
            let mut blocks = vec![block; blocks];
            blocks.push((true, 0, 0, b""));
            frame(&blocks)
        };
        let limit = usize::try_from(SLACK).unwrap() / MAX_BLOCK;
        assert_eq!(inflate(&bomb(limit), 4096).unwrap().len(), limit * MAX_BLOCK);
        let denial = inflate(&bomb(limit + 1), 4096).unwrap_err();
        assert!(denial.reason.contains("inflates by more"), "{denial:?}");
    }
}
