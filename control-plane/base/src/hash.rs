//! Hex digits, and short hashes that identify contents.

use sha2::{Digest, Sha256};

/// `bytes` as lower-case hex digits, two for each byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The first 12 hex digits of the SHA-256 of `bytes`.
pub fn short_hash(bytes: &[u8]) -> String {
    hash(bytes).chars().take(12).collect()
}

/// The SHA-256 of `bytes` as 64 hex digits.
pub fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_has_one_short_name() {
        assert_eq!(hex(&[0, 0xa, 0xff]), "000aff");
        // The SHA-256 of the empty input begins with e3b0c44298fc (FIPS 180-4).
        assert_eq!(short_hash(b""), "e3b0c44298fc");
    }
}
