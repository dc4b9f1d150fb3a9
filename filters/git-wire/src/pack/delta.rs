//! Applies deltas (gitformat-pack(5), "Deltified representation").

use super::MAX_COMMIT;

/// Applies `delta` to `base`. Returns `None` if the delta is malformed, if it is for a base of another length, or if
/// the result is longer than [`MAX_COMMIT`].
pub fn apply(base: &[u8], delta: &[u8]) -> Option<Vec<u8>> {
    let (from, rest) = size(delta)?;
    let (to, mut rest) = size(rest)?;
    if from != base.len() || to > MAX_COMMIT {
        return None;
    }
    let mut made = Vec::with_capacity(to);
    while let Some((&op, after)) = rest.split_first() {
        rest = after;
        let part = if op & 0x80 != 0 {
            let offset = number(op, &mut rest, 4)?;
            let length = match number(op >> 4 & 7, &mut rest, 3)? {
                0 => 0x1_0000,
                length => length,
            };
            base.get(offset..offset.checked_add(length)?)?
        } else {
            // The opcode zero is reserved.
            let (part, after) = rest.split_at_checked(usize::from(op)).filter(|_| op != 0)?;
            rest = after;
            part
        };
        if made.len().saturating_add(part.len()) > to {
            return None;
        }
        made.extend_from_slice(part);
    }
    (made.len() == to).then_some(made)
}

/// Parses a length of at most four bytes. Each byte has seven bits, lowest first. Returns it with the rest of `bytes`.
fn size(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_usize;
    for (at, byte) in bytes.iter().enumerate().take(4) {
        value |= usize::from(byte & 0x7f) << at.saturating_mul(7);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(at.saturating_add(1)..)?));
        }
    }
    None
}

/// Parses a little-endian number. Bit n of `mask` is set if byte n is present; absent bytes are zero.
fn number(mask: u8, rest: &mut &[u8], bytes: u32) -> Option<usize> {
    let mut value = 0;
    for at in (0..bytes).filter(|at| mask >> at & 1 == 1) {
        let (&byte, after) = rest.split_first()?;
        value |= usize::from(byte).checked_shl(at.saturating_mul(8))?;
        *rest = after;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::apply;

    #[test]
    fn copies_and_inserts_make_the_object() {
        // 5 bytes from offset 6, then " x", then one byte from 0.
        let delta = [&[11, 8, 0x91, 6, 5, 2][..], b" x", &[0x90, 1]].concat();
        assert_eq!(apply(b"hello world", &delta).as_deref(), Some(&b"world xh"[..]));
        assert_eq!(apply(b"hello", &[5, 0]).as_deref(), Some(&b""[..]));
    }

    #[test]
    fn broken_deltas_make_nothing() {
        for (what, delta) in [
            ("empty", &[][..]),
            ("other base", &[6, 1, 1, b'x']),
            ("reserved", &[5, 1, 0]),
            ("too little", &[5, 2, 1, b'x']),
            ("too much", &[5, 1, 2, b'x', b'y']),
            ("insert ends early", &[5, 2, 2, b'x']),
            ("copy past the end", &[5, 2, 0x91, 4, 2]),
            ("copy's offset ends early", &[5, 1, 0x91]),
            ("size does not end", &[5, 0x80, 0x80, 0x80, 0x80, 1]),
            ("size of more than a commit", &[5, 0x81, 0x80, 0x40, 1, b'x']),
        ] {
            assert_eq!(apply(b"hello", delta), None, "{what}");
        }
    }
}
