//! The head of a guarded request, and the reader of its body. Nothing may make the provider read other bytes than these,
//! or read them as anything but JSON.

use crate::guard::{Guard, unreadable};
use crate::inflate::Inflate;
use crate::scan::Scan;
use policy::Denial;

/// The most bytes behind the root object: white space.
const MAX_TAIL: usize = 1024;

/// The beginnings of Google's system parameters.
const SYSTEM_PARAMETER: [&[u8]; 2] = [b"$", b"%24"];
/// Those that change what a body is: its media type, and a body in the query. The credential stage removes
/// `$httpHeaders` and `$httpMethod`.
const ABOUT_THE_BODY: [&[u8]; 2] = [b"ct", b"req"];

/// The coding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// None.
    Identity,
    /// zstd (RFC 8878), as Codex sends it with a login at chatgpt.com. It is undone, and the provider gets the plain body.
    Zstd,
}

/// Judges the headers and the query. `empty`: the request has no body.
///
/// # Errors
/// If the body could be read otherwise than as JSON.
pub fn judge(headers: &[(String, Vec<u8>)], path: &[u8], empty: bool) -> Result<Coding, Denial> {
    let values = |wanted: &str| {
        let named = headers.iter().filter(move |(name, _)| name.eq_ignore_ascii_case(wanted));
        named.map(|(_, value)| value.trim_ascii().to_ascii_lowercase()).collect::<Vec<_>>()
    };
    if values("upgrade").iter().any(|value| value == b"websocket") {
        return Err(unreadable("the frames of a WebSocket are not read; send the request by POST"));
    }
    if empty {
        return Ok(Coding::Identity);
    }
    let query = path.split(|byte| *byte == b'?').nth(1).unwrap_or_default();
    for parameter in query.split(|byte| *byte == b'&') {
        let name = parameter.split(|byte| *byte == b'=').next().unwrap_or_default().to_ascii_lowercase();
        let system = SYSTEM_PARAMETER.iter().find_map(|start| name.strip_prefix(*start));
        if system.is_some_and(|name| ABOUT_THE_BODY.contains(&name) || name.contains(&b'%')) {
            return Err(unreadable("the parameter $ct or $req of the query would change how the body is read"));
        }
    }
    match values("content-type").as_slice() {
        [one] if one.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii() == b"application/json" => {}
        _ => return Err(unreadable("the body is not declared as JSON; send one content-type: application/json")),
    }
    match values("content-encoding").as_slice() {
        [] => Ok(Coding::Identity),
        [one] if one == b"identity" => Ok(Coding::Identity),
        [one] if one == b"zstd" => Ok(Coding::Zstd),
        _ => Err(unreadable("the body is compressed; send it plain or with zstd")),
    }
}

/// The way of the bytes at hand.
#[derive(Debug, PartialEq, Eq)]
pub enum Onward {
    /// So many of them may go on as they are, and the rest waits for the end.
    Plain(usize),
    /// These go on in their place, of which so many now.
    Inflated(Vec<u8>, usize),
}

/// The reader of one body.
#[derive(Debug)]
pub struct Reader {
    scan: Scan,
    inflate: Option<Inflate>,
    /// Bytes since the root object was closed, with the byte that closed it.
    tail: usize,
    empty: bool,
}

impl Reader {
    /// A reader of a body in this coding.
    pub fn new(guard: Guard, coding: Coding) -> Self {
        let inflate = (coding == Coding::Zstd).then(Inflate::default);
        Self { scan: Scan::new(guard), inflate, tail: 0, empty: true }
    }

    /// Whether the root object is closed.
    pub fn closed(&self) -> bool {
        self.scan.closed()
    }

    /// Bytes of memory for the decoder.
    pub fn memory(&self) -> usize {
        self.inflate.as_ref().map_or(0, Inflate::memory)
    }

    /// Reads more of the body.
    ///
    /// # Errors
    /// If the guard refuses the body, or the body can't be read for certain.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Onward, Denial> {
        self.empty &= bytes.is_empty();
        let Some(inflate) = &mut self.inflate else {
            let pass = self.scan.feed(bytes)?;
            self.follow(bytes.len() - pass)?;
            return Ok(Onward::Plain(pass));
        };
        let mut plain = Vec::new();
        let (scan, mut pass) = (&mut self.scan, 0);
        inflate.feed(bytes, |part| {
            pass += scan.feed(part)?;
            plain.extend(part);
            Ok(())
        })?;
        self.follow(plain.len() - pass)?;
        Ok(Onward::Inflated(plain, pass))
    }

    fn follow(&mut self, held: usize) -> Result<(), Denial> {
        self.tail = self.tail.saturating_add(held);
        if self.tail > MAX_TAIL {
            return Err(unreadable("more than 1 KiB of white space follows the JSON object"));
        }
        Ok(())
    }

    /// The body has ended.
    ///
    /// # Errors
    /// If the JSON or its coding has not. A body without a byte is no body.
    pub fn finish(&self) -> Result<(), Denial> {
        if self.empty {
            return Ok(());
        }
        if let Some(inflate) = &self.inflate {
            inflate.finish()?;
        }
        self.scan.finish()
    }
}
