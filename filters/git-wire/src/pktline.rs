//! pkt-lines (gitprotocol-common(5)): a length in four lower-case hex digits, then the content. The length includes its
//! own four digits.
//!
//! Stricter than git's reader: `0001` to `0004`, upper-case digits and a length beyond git's own limit are errors.

/// The longest pkt-line in bytes, including the four digits (git's pkt-line.h, `LARGE_PACKET_MAX`).
pub const MAX: usize = 65_520;

/// One pkt-line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pkt<'a> {
    /// `0000`.
    Flush,
    /// The content of a line, at least one byte.
    Line(&'a [u8]),
}

/// Invalid length at the start of a pkt-line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid length of a pkt-line; expected 0000, or four lower-case hex digits from 0005 to fff0")]
pub struct InvalidLength;

/// Parses the pkt-line at the start of `bytes`. Returns it with its length in bytes, or `None` if `bytes` ends before
/// the pkt-line is complete.
///
/// # Errors
/// If the length is invalid.
pub fn first(bytes: &[u8]) -> Result<Option<(Pkt<'_>, usize)>, InvalidLength> {
    let Some((digits, rest)) = bytes.split_at_checked(4) else { return Ok(None) };
    let length = length(digits).ok_or(InvalidLength)?;
    if length == 0 {
        return Ok(Some((Pkt::Flush, 4)));
    }
    if !(5..=MAX).contains(&length) {
        return Err(InvalidLength);
    }
    Ok(rest.get(..length.saturating_sub(4)).map(|line| (Pkt::Line(line), length)))
}

fn length(digits: &[u8]) -> Option<usize> {
    digits.iter().try_fold(0_usize, |sum, digit| match digit {
        b'0'..=b'9' | b'a'..=b'f' => Some(sum << 4 | usize::try_from(char::from(*digit).to_digit(16)?).ok()?),
        _ => None,
    })
}

/// Appends `line` as one pkt-line, or as several if it is too long for one.
pub fn write(out: &mut Vec<u8>, line: &[u8]) {
    for part in line.chunks(MAX.saturating_sub(4)) {
        out.extend_from_slice(format!("{:04x}", part.len().saturating_add(4)).as_bytes());
        out.extend_from_slice(part);
    }
}

/// The flush packet.
pub const FLUSH: &[u8] = b"0000";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_when_it_is_whole() {
        for end in 0..9 {
            assert_eq!(first(&b"0009hello0000"[..end]), Ok(None), "{end}");
        }
        assert_eq!(first(b"0009hello0000"), Ok(Some((Pkt::Line(b"hello"), 9))));
        assert_eq!(first(b"0000"), Ok(Some((Pkt::Flush, 4))));
        let mut longest = Vec::new();
        write(&mut longest, &vec![b'x'; MAX - 4]);
        assert_eq!(&longest[..4], b"fff0");
        assert!(matches!(first(&longest), Ok(Some((Pkt::Line(_), MAX)))));
        write(&mut longest, &vec![b'x'; MAX - 3]);
        assert_eq!(&longest[MAX..MAX + 4], b"fff0");
        assert_eq!(&longest[2 * MAX..], b"0005x");
    }

    #[test]
    fn lengths_that_mean_something_else_to_git_are_errors() {
        for odd in ["0001", "0002", "0003", "0004", "fff1", "ffff", "00FF", "+0a0", " 009", "0x09", "000g"] {
            assert_eq!(first(odd.as_bytes()), Err(InvalidLength), "{odd}");
        }
    }
}
