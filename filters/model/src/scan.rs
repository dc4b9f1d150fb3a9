//! A JSON body, read in parts: the strict grammar of RFC 8259 in UTF-8, and nothing of a body is kept but a name or a
//! value that counts, 512 bytes at most ([`MAX_KEPT`]).
//!
//! **Invariant:** [`Scan::feed`] says how many bytes may go on. The byte that closes the root object is never among them,
//! so that what goes on is no complete JSON until [`Scan::finish`] has succeeded.

use crate::frame::{Meaning, Value};
use crate::guard::{Guard, unreadable};
use policy::Denial;

/// The most levels of nested objects and arrays. serde_json has the same limit.
pub const MAX_DEPTH: usize = 128;
/// The most bytes of a name or a value that are kept. A longer one counts as its beginning.
pub const MAX_KEPT: usize = 512;

/// The next token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Value,
    /// Behind `[`.
    ValueOrEnd,
    /// Behind `,` in an object.
    Name,
    /// Behind `{`.
    NameOrEnd,
    Colon,
    /// Behind a value.
    After,
    Text(Escape),
    /// The rest of `true`, `false` or `null`.
    Literal(&'static [u8]),
    Number(Number),
    /// Behind the root.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    None,
    /// Behind `\`.
    Begun,
    /// Behind `\u`: how many digits are missing, and the number so far.
    Hex(u8, u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    Sign,
    Power,
}

/// A body, as far as it has come.
#[derive(Debug)]
pub struct Scan {
    meaning: Meaning,
    at: At,
    /// For each open level: whether it is an object.
    levels: Vec<bool>,
    utf8: Utf8,
    /// The text at hand is a name.
    naming: bool,
    /// The text at hand is kept.
    keeping: bool,
    kept: Vec<u8>,
    /// `kept` is not all of the text.
    cut: bool,
    /// The first half of a surrogate pair.
    high: Option<u16>,
}

impl Scan {
    /// Before the first byte.
    pub fn new(guard: Guard) -> Self {
        Self {
            meaning: Meaning::new(guard),
            at: At::Value,
            levels: Vec::new(),
            utf8: Utf8::default(),
            naming: false,
            keeping: false,
            kept: Vec::new(),
            cut: false,
            high: None,
        }
    }

    /// Whether the root is closed.
    pub fn closed(&self) -> bool {
        self.at == At::Done
    }

    /// Reads more of the body. Returns how many of `bytes` may go on: all before the byte that closes the root.
    ///
    /// # Errors
    /// If the guard refuses the body, or the body is no JSON object.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, Denial> {
        // The bytes before an invalid one are judged first, so that the rule does not depend on the parts.
        match self.utf8.feed(bytes) {
            Ok(()) => self.read(bytes),
            Err(valid) => {
                self.read(bytes.get(..valid).unwrap_or_default())?;
                Err(unreadable("the body is not UTF-8"))
            }
        }
    }

    fn read(&mut self, bytes: &[u8]) -> Result<usize, Denial> {
        let mut pass = if self.closed() { 0 } else { bytes.len() };
        let mut at = 0;
        while let Some(byte) = bytes.get(at).copied() {
            if self.at == At::Text(Escape::None) {
                at += self.run(bytes.get(at..).unwrap_or_default());
                let Some(byte) = bytes.get(at).copied() else { break };
                self.special(byte)?;
                at += 1;
                continue;
            }
            let done = self.closed();
            if self.byte(byte)? {
                at += 1;
            }
            if !done && self.closed() {
                pass = at.saturating_sub(1);
            }
        }
        Ok(pass)
    }

    /// The body has ended.
    ///
    /// # Errors
    /// If the JSON has not.
    pub fn finish(&self) -> Result<(), Denial> {
        if self.closed() { Ok(()) } else { Err(unreadable("the JSON ends too early")) }
    }

    /// Reads the bytes of a text up to the next quote, escape or control character. Returns how many they are.
    fn run(&mut self, bytes: &[u8]) -> usize {
        let size = plain(bytes);
        if self.keeping && size > 0 {
            self.flush();
            let room = MAX_KEPT.saturating_sub(self.kept.len());
            self.cut |= size > room;
            self.kept.extend(bytes.iter().take(size.min(room)));
        }
        size
    }

    /// Reads the byte behind such a run.
    fn special(&mut self, byte: u8) -> Result<(), Denial> {
        match byte {
            b'"' => self.end_text(),
            b'\\' => {
                self.at = At::Text(Escape::Begun);
                Ok(())
            }
            _ => Err(unreadable("a text in the JSON has a control character")),
        }
    }

    /// Reads one byte. Returns false if the byte only ends a number, and is to be read again.
    fn byte(&mut self, byte: u8) -> Result<bool, Denial> {
        match self.at {
            At::Text(escape) => self.escaped(escape, byte)?,
            At::Literal(rest) => match rest.split_first() {
                Some((first, rest)) if *first == byte => {
                    if rest.is_empty() {
                        self.after()
                    } else {
                        self.at = At::Literal(rest)
                    }
                }
                _ => return Err(malformed()),
            },
            At::Number(number) => match number.next(byte) {
                Some(next) => self.at = At::Number(next),
                None if number.may_end() => {
                    self.after();
                    return Ok(false);
                }
                None => return Err(malformed()),
            },
            _ if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') => {}
            At::ValueOrEnd if byte == b']' => self.close(false)?,
            At::Value | At::ValueOrEnd => self.begin(byte)?,
            At::NameOrEnd if byte == b'}' => self.close(true)?,
            At::Name | At::NameOrEnd if byte == b'"' => self.begin_text(true, !self.meaning.in_data()),
            At::Colon if byte == b':' => self.at = At::Value,
            At::After => match (byte, self.levels.last()) {
                (b',', Some(true)) => self.at = At::Name,
                (b',', Some(false)) => self.at = At::Value,
                (b'}', Some(true)) | (b']', Some(false)) => self.close(byte == b'}')?,
                _ => return Err(malformed()),
            },
            At::Done => return Err(unreadable("something follows the JSON object")),
            At::Name | At::NameOrEnd | At::Colon => return Err(malformed()),
        }
        Ok(true)
    }

    /// The first byte of a value.
    fn begin(&mut self, byte: u8) -> Result<(), Denial> {
        let (value, next) = match byte {
            b'{' => (Value::Object, At::NameOrEnd),
            b'[' => (Value::Array, At::ValueOrEnd),
            b'"' => {
                let reads = self.meaning.reads();
                self.begin_text(false, reads);
                return if reads { Ok(()) } else { self.meaning.value(Value::Text(b"unread", false)) };
            }
            b't' => (Value::Scalar, At::Literal(b"rue")),
            b'f' => (Value::Absent, At::Literal(b"alse")),
            b'n' => (Value::Absent, At::Literal(b"ull")),
            b'-' => (Value::Scalar, At::Number(Number::Minus)),
            b'0' => (Value::Scalar, At::Number(Number::Zero)),
            b'1'..=b'9' => (Value::Scalar, At::Number(Number::Digits)),
            _ => return Err(malformed()),
        };
        if matches!(byte, b'{' | b'[') {
            if self.levels.len() == MAX_DEPTH {
                return Err(unreadable(format!("the JSON has more than {MAX_DEPTH} levels")));
            }
            self.levels.push(byte == b'{');
        }
        self.at = next;
        self.meaning.value(value)
    }

    fn begin_text(&mut self, naming: bool, keeping: bool) {
        (self.naming, self.keeping, self.cut, self.high) = (naming, keeping, false, None);
        self.kept.clear();
        self.at = At::Text(Escape::None);
    }

    fn end_text(&mut self) -> Result<(), Denial> {
        self.flush();
        if self.naming {
            self.at = At::Colon;
            if self.keeping {
                // Every name of the APIs is ASCII. Another could be one of them to a parser that folds characters.
                if !self.kept.iter().all(|byte| matches!(byte, b' '..=b'~')) {
                    return Err(unreadable("the name of a member has other characters than printable ASCII"));
                }
                self.meaning.name(&self.kept, !self.cut);
            }
            return Ok(());
        }
        self.after();
        if self.keeping { self.meaning.value(Value::Text(&self.kept, !self.cut)) } else { Ok(()) }
    }

    fn escaped(&mut self, escape: Escape, byte: u8) -> Result<(), Denial> {
        let next = match (escape, byte) {
            (Escape::Begun, b'u') => Escape::Hex(4, 0),
            (Escape::Begun, _) => {
                let plain = match byte {
                    b'"' | b'\\' | b'/' => byte,
                    b'b' => 8,
                    b'f' => 12,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    _ => return Err(malformed()),
                };
                self.flush();
                self.keep(char::from(plain));
                Escape::None
            }
            (Escape::Hex(left, number), _) => {
                let digit = char::from(byte).to_digit(16).and_then(|digit| u16::try_from(digit).ok());
                let number = (number << 4) | digit.ok_or_else(malformed)?;
                if left > 1 {
                    Escape::Hex(left - 1, number)
                } else {
                    self.unit(number);
                    Escape::None
                }
            }
            (Escape::None, _) => return Err(malformed()),
        };
        self.at = At::Text(next);
        Ok(())
    }

    /// A UTF-16 unit of an escape.
    fn unit(&mut self, unit: u16) {
        match (self.high.take(), unit) {
            (Some(high), 0xdc00..=0xdfff) => {
                let code = 0x1_0000 + (u32::from(high - 0xd800) << 10) + u32::from(unit - 0xdc00);
                self.keep(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            (before, _) => {
                self.high = before;
                self.flush();
                if matches!(unit, 0xd800..=0xdbff) {
                    self.high = Some(unit);
                } else {
                    self.keep(char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
            }
        }
    }

    /// Half a surrogate pair is no character.
    fn flush(&mut self) {
        if self.high.take().is_some() {
            self.keep(char::REPLACEMENT_CHARACTER);
        }
    }

    fn keep(&mut self, character: char) {
        if !self.keeping {
            return;
        }
        let mut bytes = [0; 4];
        let bytes = character.encode_utf8(&mut bytes).as_bytes();
        if self.kept.len() + bytes.len() > MAX_KEPT {
            self.cut = true;
        } else {
            self.kept.extend(bytes);
        }
    }

    fn close(&mut self, _object: bool) -> Result<(), Denial> {
        self.levels.pop();
        self.after();
        self.meaning.end()
    }

    fn after(&mut self) {
        self.at = if self.levels.is_empty() { At::Done } else { At::After };
    }
}

impl Number {
    fn next(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Minus, b'0') => Self::Zero,
            (Self::Minus, b'1'..=b'9') | (Self::Digits, b'0'..=b'9') => Self::Digits,
            (Self::Zero | Self::Digits, b'.') => Self::Point,
            (Self::Point | Self::Fraction, b'0'..=b'9') => Self::Fraction,
            (Self::Zero | Self::Digits | Self::Fraction, b'e' | b'E') => Self::Exponent,
            (Self::Exponent, b'+' | b'-') => Self::Sign,
            (Self::Exponent | Self::Sign | Self::Power, b'0'..=b'9') => Self::Power,
            _ => return None,
        })
    }

    fn may_end(self) -> bool {
        matches!(self, Self::Zero | Self::Digits | Self::Fraction | Self::Power)
    }
}

fn malformed() -> Denial {
    unreadable("the body is no valid JSON")
}

/// The number of bytes before the first quote, backslash or control character. Eight bytes at a time: the bits that the
/// borrow of a subtraction sets above a match are ignored, because only the lowest match counts.
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let (words, rest) = bytes.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let zero = |word: u64| word.wrapping_sub(ONES) & !word;
        let below = word.wrapping_sub(ONES * 0x20) & !word;
        let found = (zero(word ^ (ONES * u64::from(b'"'))) | zero(word ^ (ONES * u64::from(b'\\'))) | below) & HIGHS;
        if found != 0 {
            return number * 8 + usize::try_from(found.trailing_zeros() / 8).unwrap_or(0);
        }
    }
    let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)).unwrap_or(rest.len());
    words.len() * 8 + end
}

/// Checks that the bytes are UTF-8 (RFC 8259 section 8.1). A lenient parser could read a longer encoding of a quote as a
/// quote.
#[derive(Debug, Default)]
struct Utf8 {
    /// The beginning of a character whose rest has not come.
    begun: Vec<u8>,
}

impl Utf8 {
    /// # Errors
    /// If a byte is invalid: the number of bytes before it.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), usize> {
        let mut rest = bytes;
        while !self.begun.is_empty() {
            let Some((first, after)) = rest.split_first() else { return Ok(()) };
            self.begun.push(*first);
            let before = bytes.len() - rest.len();
            rest = after;
            match std::str::from_utf8(&self.begun) {
                Ok(_) => self.begun.clear(),
                // Three bytes at most: a fourth completes every character.
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(before),
            }
        }
        match std::str::from_utf8(rest) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_none() => {
                self.begun.extend(rest.get(error.valid_up_to()..).unwrap_or_default());
                Ok(())
            }
            Err(error) => Err(bytes.len() - rest.len() + error.valid_up_to()),
        }
    }
}

#[cfg(test)]
mod tests;
