//! Bytes that wait to be parsed, in their order.

/// The bytes. Adding some, and parsing some, take time by their number, and not by the number of those that wait.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    all: Vec<u8>,
    /// The first of them that are parsed.
    parsed: usize,
}

impl Waiting {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.parsed > self.all.len() / 2 {
            self.all.drain(..self.parsed);
            self.parsed = 0;
        }
        self.all.extend_from_slice(bytes);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.all.get(self.parsed..).unwrap_or_default()
    }

    /// The first `count` of [`Self::bytes`] are parsed.
    pub(crate) fn parsed(&mut self, count: usize) {
        self.parsed = self.parsed.saturating_add(count).min(self.all.len());
        if self.parsed == self.all.len() {
            *self = Self::default();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    pub(crate) fn memory(&self) -> usize {
        self.all.capacity()
    }
}
