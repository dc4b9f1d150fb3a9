//! HPACK (RFC 7541): reads a block of fields. The dynamic table is empty, as the gateway's peer has asked for no table.

use super::{Got, strange};
use std::io;

/// RFC 7541 section 6, with an empty dynamic table.
pub(super) fn decode(mut block: &[u8]) -> io::Result<Vec<Got>> {
    let mut fields = Vec::new();
    while let Some(first) = block.first().copied() {
        if first & 0x80 != 0 {
            let index = read_integer(&mut block, 7)?;
            let status = STATUSES.get(index.wrapping_sub(8)).ok_or_else(|| strange("an indexed field"))?;
            fields.push((":status".to_owned(), status.as_bytes().to_vec()));
        } else if first & 0xe0 == 0x20 {
            // A change of the table's size.
            read_integer(&mut block, 5)?;
        } else {
            let index = read_integer(&mut block, if first & 0x40 != 0 { 6 } else { 4 })?;
            let name = match index {
                0 => String::from_utf8_lossy(&read_text(&mut block)?).into_owned(),
                index => (*STATIC.get(index - 1).ok_or_else(|| strange("an index"))?).to_owned(),
            };
            fields.push((name, read_text(&mut block)?));
        }
    }
    Ok(fields)
}

fn read_integer(block: &mut &[u8], prefix: u32) -> io::Result<usize> {
    let most = (1_usize << prefix) - 1;
    let mut value = usize::from(next(block)?) & most;
    if value < most {
        return Ok(value);
    }
    let mut shift = 0;
    loop {
        let byte = usize::from(next(block)?);
        value += (byte & 127) << shift;
        shift += 7;
        if byte < 128 {
            return Ok(value);
        }
    }
}

fn next(block: &mut &[u8]) -> io::Result<u8> {
    let (first, rest) = block.split_first().ok_or_else(|| strange("a block"))?;
    *block = rest;
    Ok(*first)
}

fn read_text(block: &mut &[u8]) -> io::Result<Vec<u8>> {
    let packed = block.first().is_some_and(|first| first & 0x80 != 0);
    let length = read_integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or_else(|| strange("a text"))?;
    *block = rest;
    if packed { unpack(text) } else { Ok(text.to_vec()) }
}

/// RFC 7541 appendix B, for printable ASCII.
fn unpack(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let (mut text, mut code, mut length) = (Vec::new(), 0_u32, 0_u8);
    for bit in bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)) {
        (code, length) = (code << 1 | u32::from(bit), length + 1);
        if let Some(at) = PACKED.iter().position(|packed| *packed == (code, length)) {
            text.push(u8::try_from(at).unwrap() + b' ');
            (code, length) = (0, 0);
        }
    }
    // The remaining bits are padding.
    if length < 8 { Ok(text) } else { Err(strange("a text")) }
}

/// The statuses of the static table, from index 8 on (RFC 7541 appendix A).
const STATUSES: [&str; 7] = ["200", "204", "206", "304", "400", "404", "500"];

/// The names of the static table (RFC 7541 appendix A).
const STATIC: [&str; 61] = [
    ":authority",
    ":method",
    ":method",
    ":path",
    ":path",
    ":scheme",
    ":scheme",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "accept",
    "access-control-allow-origin",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
];

/// Code and length for each byte from the space on.
const PACKED: [(u32, u8); 95] = [
    (0x14, 6),
    (0x3f8, 10),
    (0x3f9, 10),
    (0xffa, 12),
    (0x1ff9, 13),
    (0x15, 6),
    (0xf8, 8),
    (0x7fa, 11),
    (0x3fa, 10),
    (0x3fb, 10),
    (0xf9, 8),
    (0x7fb, 11),
    (0xfa, 8),
    (0x16, 6),
    (0x17, 6),
    (0x18, 6),
    (0x0, 5),
    (0x1, 5),
    (0x2, 5),
    (0x19, 6),
    (0x1a, 6),
    (0x1b, 6),
    (0x1c, 6),
    (0x1d, 6),
    (0x1e, 6),
    (0x1f, 6),
    (0x5c, 7),
    (0xfb, 8),
    (0x7ffc, 15),
    (0x20, 6),
    (0xffb, 12),
    (0x3fc, 10),
    (0x1ffa, 13),
    (0x21, 6),
    (0x5d, 7),
    (0x5e, 7),
    (0x5f, 7),
    (0x60, 7),
    (0x61, 7),
    (0x62, 7),
    (0x63, 7),
    (0x64, 7),
    (0x65, 7),
    (0x66, 7),
    (0x67, 7),
    (0x68, 7),
    (0x69, 7),
    (0x6a, 7),
    (0x6b, 7),
    (0x6c, 7),
    (0x6d, 7),
    (0x6e, 7),
    (0x6f, 7),
    (0x70, 7),
    (0x71, 7),
    (0x72, 7),
    (0xfc, 8),
    (0x73, 7),
    (0xfd, 8),
    (0x1ffb, 13),
    (0x7fff0, 19),
    (0x1ffc, 13),
    (0x3ffc, 14),
    (0x22, 6),
    (0x7ffd, 15),
    (0x3, 5),
    (0x23, 6),
    (0x4, 5),
    (0x24, 6),
    (0x5, 5),
    (0x25, 6),
    (0x26, 6),
    (0x27, 6),
    (0x6, 5),
    (0x74, 7),
    (0x75, 7),
    (0x28, 6),
    (0x29, 6),
    (0x2a, 6),
    (0x7, 5),
    (0x2b, 6),
    (0x76, 7),
    (0x2c, 6),
    (0x8, 5),
    (0x9, 5),
    (0x2d, 6),
    (0x77, 7),
    (0x78, 7),
    (0x79, 7),
    (0x7a, 7),
    (0x7b, 7),
    (0x7ffe, 15),
    (0x7fc, 11),
    (0x3ffd, 14),
    (0x1ffd, 13),
];
