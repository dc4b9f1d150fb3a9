//! The work of one call is bounded by its caller, whatever comes out of the bytes.

#![expect(clippy::unwrap_used, reason = "tests")]

use git_wire::pack::{BLOCK, READING, Scanner};

const SLICE: u64 = 8 << 20;
/// The most bytes that one step reads, and the most that it makes.
const STEP: (usize, u64) = (16 << 10, 32 << 10);

/// Four DEFLATE blocks with the shortest tables and nothing else: 257 and 1 codes, of which the block's end has one bit.
const TABLES: [u8; 45] = [
    0x04, 0xc0, 0x81, 0x00, 0x00, 0x00, 0x00, 0x00, 0x90, 0xff, 0x6b, 0x10, 0x00, 0x07, 0x02, 0x00, 0x00, 0x00, 0x00,
    0x40, 0xfe, 0xaf, 0x41, 0x00, 0x1c, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0xf9, 0xbf, 0x06, 0x01, 0x70, 0x20, 0x00,
    0x00, 0x00, 0x00, 0x00, 0xe4, 0xff, 0x1a,
];
/// A stored block of no bytes (RFC 1951, 3.2.4).
const STORED: [u8; 5] = [0, 0, 0, 0xff, 0xff];

/// A pack without its end: one blob, in whose data `block` is there again and again.
fn pack(block: &[u8], times: usize) -> Vec<u8> {
    let mut pack = b"PACK\0\0\0\x02\0\0\0\x01\x31\x78\x01".to_vec();
    pack.extend(block.repeat(times));
    pack
}

#[test]
fn blocks_of_which_nothing_comes_out_have_their_price() {
    for (block, blocks) in [(&STORED[..], 1), (&TABLES[..], 4)] {
        let times = (4 << 20) / block.len();
        let pack = pack(block, times);
        let mut scanner = Scanner::default();
        let mut rest = &pack[..];
        while !rest.is_empty() {
            let before = scanner.work();
            let fed = scanner.feed(rest, SLICE).unwrap();
            // A block takes a byte at least, and is read whole.
            let most = SLICE / (BLOCK + READING);
            assert!(fed.parsed <= usize::try_from(most).unwrap() * block.len() / blocks + STEP.0, "{}", fed.parsed);
            assert!(scanner.work() - before <= SLICE + u64::try_from(STEP.0).unwrap() * READING + STEP.1 + BLOCK);
            rest = &rest[fed.parsed..];
        }
        let count = u64::try_from(times * blocks).unwrap();
        assert!((count * BLOCK..=count * BLOCK * 11 / 10).contains(&scanner.made()), "{} of {count}", scanner.made());
    }
}

#[test]
fn the_result_does_not_depend_on_the_steps() {
    // Blocks end in the middle of a byte, and so in the middle of a chunk.
    let pack = [&pack(&TABLES, 20)[..], &[0x03, 0x00]].concat();
    for chunk in [1, 2, 3, 7, 45, pack.len()] {
        let mut scanner = Scanner::default();
        for chunk in pack.chunks(chunk) {
            let mut rest = chunk;
            while !rest.is_empty() {
                let fed = scanner.feed(rest, 1).unwrap();
                rest = &rest[fed.parsed..];
            }
        }
        // The object has one byte, of which none came out.
        let end = scanner.feed(&[0, 0, 0, 1], u64::MAX);
        assert_eq!(end.unwrap_err().to_string(), "invalid pack: an object is shorter than its header says", "{chunk}");
    }
}
