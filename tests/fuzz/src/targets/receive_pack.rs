//! The head of a push. The parser returns the same request or the same error in any chunks, and accepts no ref name
//! that two parsers could read differently. The head that is written anew is read as the same request. The first bytes of the input are the chunks' sizes.

use git_wire::receive_pack::{Error, Parser, Request};

/// Runs one input.
pub fn run(input: &[u8]) {
    let Some((sizes, body)) = input.split_at_checked(4) else { return };
    let whole = read(&[body]);
    assert_eq!(read(&crate::chunks(body, sizes)), whole);
    assert_eq!(read(&crate::chunks(body, &[0])), whole);
    let Ok(Some((request, used))) = whole else { return };
    assert!(body[..used].ends_with(b"0000"));
    // Bytes after the head are not read, so an equal head gives an equal request.
    assert_eq!(read(&[&body[..used], b"PACK"]), Ok(Some((request.clone(), used))));
    for update in &request.updates {
        let odd = |c: char| c.is_control() || c == ' ';
        assert!(!update.name.is_empty() && !update.name.contains(odd), "{update:?}");
        assert_ne!((update.old, update.new).0.map(|oid| *oid.as_bytes()), Some([0; 20]));
        // The body has each line as git writes it.
        let hex = |oid: Option<git_wire::Oid>| oid.map_or("0".repeat(40), |oid| oid.to_string());
        let line = format!("{} {} {}", hex(update.old), hex(update.new), update.name);
        assert!(body[..used].windows(line.len()).any(|part| part == line.as_bytes()), "{line}");
    }
    assert!(!request.capabilities.has("object-format=sha256"));
    // The written head has the same meaning, and one form.
    let written = request.write();
    let Ok(Some((again, used))) = read(&[&written]) else { panic!("{request:?}") };
    assert_eq!((&again, used, again.write()), (&request, written.len(), written));
}

fn read(chunks: &[&[u8]]) -> Result<Option<(Request, usize)>, Error> {
    let (mut parser, mut before) = (Parser::default(), 0);
    for chunk in chunks {
        if let Some((request, used)) = parser.feed(chunk)? {
            return Ok(Some((request, before + used)));
        }
        before += chunk.len();
    }
    Ok(None)
}
