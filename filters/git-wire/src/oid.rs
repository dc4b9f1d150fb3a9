//! Object ids.

use std::fmt;

/// The id of a git object: its SHA-1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Oid([u8; 20]);

impl Oid {
    /// The 20 bytes.
    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// Parses 40 lower-case hex digits. All zeros are accepted too, see [`Oid::or_none`].
    pub fn from_hex(hex: &[u8]) -> Option<Self> {
        let plain = hex.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if !plain { None } else { Self::from_any_hex(hex) }
    }

    /// Parses 40 hex digits of either case, as git does within a commit (git's hex.c).
    pub fn from_any_hex(hex: &[u8]) -> Option<Self> {
        let mut bytes = [0; 20];
        if hex.len() != 40 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let &[high, low] = pair else { return None };
            *byte = digit(high)? << 4 | digit(low)?;
        }
        Some(Self(bytes))
    }

    /// This id, or `None` if it is all zeros, which stands for no object.
    pub fn or_none(self) -> Option<Self> {
        (self.0 != [0; 20]).then_some(self)
    }
}

fn digit(hex: u8) -> Option<u8> {
    u8::try_from(char::from(hex).to_digit(16)?).ok()
}

impl From<[u8; 20]> for Oid {
    fn from(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forty_digits_are_a_name_and_nothing_else_is() {
        let hex = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(Oid::from_hex(hex.as_bytes()).map(|oid| oid.to_string()).as_deref(), Some(hex));
        let upper = hex.to_ascii_uppercase();
        assert_eq!(Oid::from_hex(upper.as_bytes()), None);
        assert_eq!(Oid::from_any_hex(upper.as_bytes()), Oid::from_hex(hex.as_bytes()));
        for odd in [&hex[1..], &format!("{hex}0"), &hex.replace('0', "g"), &hex.replace('0', "+"), ""] {
            assert_eq!(Oid::from_any_hex(odd.as_bytes()), None, "{odd}");
        }
        assert_eq!(Oid::from([0; 20]).or_none(), None);
        for byte in [0x00, 0x0f, 0xf0, 0xab] {
            let oid = Oid::from([byte; 20]);
            assert_eq!(Oid::from_hex(oid.to_string().as_bytes()), Some(oid));
        }
    }
}
