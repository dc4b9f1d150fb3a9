//! Bytes of a push that wait, in their order: to be parsed, or to be sent.

use std::collections::VecDeque;

/// The size of a piece, in bytes.
const PIECE: usize = 64 << 10;

/// The bytes, in pieces. Adding some, and taking some away, take time by their number, and not by the number of those that
/// wait. They take the memory of their own number, and of two pieces at most in addition.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pieces: VecDeque<Vec<u8>>,
    /// The bytes of the first piece that are taken away.
    gone: usize,
    length: usize,
}

impl Waiting {
    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        self.length = self.length.saturating_add(bytes.len());
        while !bytes.is_empty() {
            match self.pieces.back_mut().filter(|last| last.len() < PIECE) {
                Some(last) => {
                    let room = PIECE.saturating_sub(last.len()).min(bytes.len());
                    let (now, later) = bytes.split_at(room);
                    last.extend_from_slice(now);
                    bytes = later;
                }
                None => self.pieces.push_back(Vec::with_capacity(PIECE)),
            }
        }
    }

    /// The first bytes, at most [`PIECE`] of them. Empty if none wait.
    pub(crate) fn first(&self) -> &[u8] {
        self.pieces.front().and_then(|first| first.get(self.gone..)).unwrap_or_default()
    }

    /// Takes away the first `count` of [`Self::first`].
    pub(crate) fn drop_first(&mut self, count: usize) {
        let count = count.min(self.first().len());
        self.gone = self.gone.saturating_add(count);
        self.length = self.length.saturating_sub(count);
        if self.first().is_empty() {
            self.pieces.pop_front();
            self.gone = 0;
        }
    }

    /// Adds all of `other`.
    pub(crate) fn append(&mut self, other: Self) {
        let Self { mut pieces, gone, length } = other;
        if let Some(first) = pieces.front_mut() {
            first.drain(..gone);
        }
        self.pieces.append(&mut pieces);
        self.length = self.length.saturating_add(length);
    }

    /// Takes all bytes away, in one piece.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let Self { pieces, gone, length } = std::mem::take(self);
        let mut all = Vec::with_capacity(length);
        for (at, piece) in pieces.iter().enumerate() {
            all.extend_from_slice(piece.get(if at == 0 { gone } else { 0 }..).unwrap_or_default());
        }
        all
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(crate) fn memory(&self) -> usize {
        self.pieces.iter().map(Vec::capacity).fold(0, usize::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_and_take_their_own_memory() {
        let bytes: Vec<u8> = (0..=250).cycle().take(5 * PIECE + 7).collect();
        for part in [1, PIECE - 1, PIECE, PIECE + 1, bytes.len()] {
            let mut waiting = Waiting::default();
            bytes.chunks(part).for_each(|part| waiting.push(part));
            assert_eq!((waiting.len(), waiting.is_empty()), (bytes.len(), false));
            assert!(waiting.memory() <= bytes.len() + 2 * PIECE, "{part}: {}", waiting.memory());
            let mut out = Vec::new();
            while waiting.len() > PIECE {
                let most = waiting.first().len().min(1_000);
                out.extend_from_slice(&waiting.first()[..most]);
                waiting.drop_first(most);
                assert!(waiting.memory() <= waiting.len() + 2 * PIECE);
            }
            let mut before = Waiting::default();
            before.push(&out);
            before.append(waiting);
            assert_eq!((before.len(), before.take() == bytes), (bytes.len(), true), "{part}");
            assert_eq!((before.len(), before.memory(), before.take()), (0, 0, vec![]));
        }
    }
}
