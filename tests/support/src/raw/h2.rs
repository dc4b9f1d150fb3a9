//! HTTP/2 frame by frame (RFC 9113): one request on its own connection, with any bytes in its fields, and the whole
//! response. Real clients check the fields that they send; this client does not.

mod connection;
mod hpack;

pub use connection::{Connection, Events};

use hpack::decode;

use crate::client::STEP;
use crate::{Answer, kept};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// The largest frame that every peer accepts (RFC 9113 section 6.5.2).
const FRAME: usize = 16_384;
/// The initial flow-control window of a connection and of a stream (RFC 9113 section 6.9.2).
const WINDOW: usize = 65_535;
const INITIAL_WINDOW_SIZE: u8 = 4;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// A field to send: unchanged name and value.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// A received field.
pub type Got = (String, Vec<u8>);

/// A request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// All of its fields, pseudo-headers such as `:method` included.
    pub fields: &'a [Field<'a>],
    /// Its body.
    pub body: &'a [u8],
    /// The trailers.
    pub trailers: &'a [Field<'a>],
}

/// The end of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The stream ended regularly.
    Whole,
    /// A tunnel is open.
    Open,
    /// The stream was reset, with this code.
    Reset(u32),
    /// The connection was closed, with the code of its GOAWAY if there was one.
    Closed(Option<u32>),
}

/// The whole response.
#[derive(Debug)]
pub struct Heard {
    /// The status; 0 if no status came.
    pub status: u16,
    /// The headers of the response, without the status.
    pub headers: Vec<Got>,
    /// Its body.
    pub body: Vec<u8>,
    /// The trailers.
    pub trailers: Vec<Got>,
    /// The way in which it ended.
    pub end: End,
}

impl Heard {
    /// All values of the header `name` (lower case).
    pub fn header(&self, name: &str) -> Vec<&[u8]> {
        self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_slice()).collect()
    }

    /// Keeps the response for the search for secrets.
    fn keep(&self) {
        let fields = self.headers.iter().chain(&self.trailers);
        let lines = fields.flat_map(|(name, value)| [name.as_bytes(), b": ", value, b"\n"].concat());
        kept::note("over HTTP/2", &lines.chain(self.body.iter().copied()).collect::<Vec<u8>>());
    }

    /// The response in the form of [`crate::Client`].
    pub fn answer(&self) -> Answer {
        let rule = self.header("x-sallyport-rule").first().map(|rule| String::from_utf8_lossy(rule).into_owned());
        Answer { status: self.status, rule, body: String::from_utf8_lossy(&self.body).into_owned() }
    }
}

/// Sends `request` and reads until the stream or the connection ends, or until a tunnel is open. A body beyond a window
/// is sent as the peer opens its windows.
///
/// # Errors
/// If the step times out, or the received bytes are not HTTP/2.
pub async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: Request<'_>) -> io::Result<Heard> {
    let work = async {
        let connect = request.fields.iter().any(|(name, value)| (*name, *value) == (&b":method"[..], &b"CONNECT"[..]));
        let mut hearing = Hearing::new(connect);
        // A server that refuses a request may close the connection before all is sent. Its response can still be read.
        if request.body.len() <= WINDOW {
            let _ = stream.write_all(&bytes(request)).await;
        } else if send_long(stream, request, &mut hearing).await?.is_some() {
            return Ok(hearing.heard);
        }
        let _ = stream.flush().await;
        while hearing.next(stream).await?.is_none() {}
        Ok(hearing.heard)
    };
    timeout(STEP, work).await?.inspect(Heard::keep)
}

/// Sends a request whose body exceeds a window. Stops early if the connection or the stream ends.
async fn send_long(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: Request<'_>,
    hearing: &mut Hearing,
) -> io::Result<Option<Event>> {
    let head = bytes(Request { body: b"-", trailers: &[], ..request });
    // Drop the DATA frame. The head was made with a body, so it does not end the stream.
    let _ = stream.write_all(&head[..head.len() - 10]).await;
    let mut body = request.body;
    while !body.is_empty() {
        let room = usize::try_from(hearing.room.min(hearing.room_of_all)).unwrap_or(0);
        if room == 0 {
            let _ = stream.flush().await;
            if let Some(Event::Over) = hearing.next(stream).await? {
                return Ok(Some(Event::Over));
            }
            continue;
        }
        let (chunk, rest) = body.split_at(room.min(FRAME).min(body.len()));
        let last = rest.is_empty() && request.trailers.is_empty();
        let _ = stream.write_all(&frame(DATA, if last { END_STREAM } else { 0 }, 1, chunk)).await;
        hearing.room -= i64::try_from(chunk.len()).unwrap();
        hearing.room_of_all -= i64::try_from(chunk.len()).unwrap();
        body = rest;
    }
    if !request.trailers.is_empty() {
        let _ = stream.write_all(&fields(request.trailers, END_STREAM)).await;
    }
    Ok(None)
}

/// Sends a request with its body in `pieces`. Each piece is sent when the peer has read the one before, which its
/// response to a PING shows. Each piece must be shorter than a frame, and all together shorter than a window.
///
/// # Errors
/// As [`ask`].
pub async fn ask_in_pieces(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    fields: &[Field<'_>],
    pieces: &[&[u8]],
) -> io::Result<Heard> {
    ask_in_pieces_with(stream, fields, pieces, async |_| {}).await
}

/// [`ask_in_pieces`] that awaits `read` with the number of each piece that the peer has read, before the next is sent.
///
/// # Errors
/// As [`ask`].
pub async fn ask_in_pieces_with(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    fields: &[Field<'_>],
    pieces: &[&[u8]],
    mut read: impl AsyncFnMut(usize),
) -> io::Result<Heard> {
    let work = async {
        let head = bytes(Request { fields, body: b"-", trailers: &[] });
        // Drop the DATA frame. The head was made with a body, so it does not end the stream.
        let _ = stream.write_all(&head[..head.len() - 10]).await;
        let mut hearing = Hearing::new(false);
        for (number, piece) in pieces.iter().enumerate() {
            let flags = if number + 1 == pieces.len() { END_STREAM } else { 0 };
            let _ = stream.write_all(&frame(DATA, flags, 1, piece)).await;
            let _ = stream.write_all(&frame(PING, 0, 0, &[7; 8])).await;
            let _ = stream.flush().await;
            loop {
                match hearing.next(stream).await? {
                    None => {}
                    Some(Event::Pong) => break,
                    Some(Event::Over) => return Ok(hearing.heard),
                }
            }
            read(number).await;
        }
        loop {
            if let Some(Event::Over) = hearing.next(stream).await? {
                return Ok(hearing.heard);
            }
        }
    };
    timeout(STEP, work).await?.inspect(Heard::keep)
}

/// The state of a response that is being read.
struct Hearing {
    heard: Heard,
    connect: bool,
    block: Vec<u8>,
    ends: bool,
    /// The remaining flow-control windows of the stream and of the connection.
    room: i64,
    room_of_all: i64,
    /// The initial window of a stream.
    initial: i64,
}

/// An event that a frame completes.
enum Event {
    /// The response to a PING.
    Pong,
    /// The stream or the connection has ended.
    Over,
}

impl Hearing {
    fn new(connect: bool) -> Self {
        let heard = Heard { status: 0, headers: vec![], body: vec![], trailers: vec![], end: End::Closed(None) };
        let room = i64::try_from(WINDOW).unwrap();
        Self { heard, connect, block: vec![], ends: false, room, room_of_all: room, initial: room }
    }

    /// Reads one frame.
    async fn next(&mut self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<Option<Event>> {
        let Ok((kind, flags, on, payload)) = read_frame(stream).await else { return Ok(Some(Event::Over)) };
        match kind {
            SETTINGS if flags & ACK == 0 => {
                for setting in payload.chunks_exact(6).filter(|setting| setting[..2] == [0, INITIAL_WINDOW_SIZE]) {
                    let initial = i64::from(word(&setting[2..]));
                    self.room += initial - self.initial;
                    self.initial = initial;
                }
                drop(stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await);
            }
            WINDOW_UPDATE if on == 0 => self.room_of_all += i64::from(word(&payload)),
            WINDOW_UPDATE => self.room += i64::from(word(&payload)),
            PING if flags & ACK == 0 => drop(stream.write_all(&frame(PING, ACK, 0, &payload)).await),
            PING => return Ok(Some(Event::Pong)),
            GOAWAY => self.heard.end = End::Closed(Some(word(&payload[4..]))),
            RST_STREAM if on == 1 => {
                self.heard.end = End::Reset(word(&payload));
                return Ok(Some(Event::Over));
            }
            DATA => {
                self.heard.body.extend(unpadded(flags, &payload));
                self.ends |= flags & END_STREAM != 0;
            }
            HEADERS => {
                self.ends |= flags & END_STREAM != 0;
                let start = if flags & PRIORITY == 0 { 0 } else { 5 };
                self.block.extend(&unpadded(flags, &payload)[start..]);
            }
            CONTINUATION => self.block.extend(payload),
            _ => {}
        }
        if matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS != 0 {
            self.heard.take(decode(&std::mem::take(&mut self.block))?)?;
        }
        let _ = stream.flush().await;
        if self.ends && self.block.is_empty() {
            self.heard.end = End::Whole;
            return Ok(Some(Event::Over));
        }
        if self.connect && self.heard.status == 200 {
            self.heard.end = End::Open;
            return Ok(Some(Event::Over));
        }
        Ok(None)
    }
}

fn bytes(request: Request<'_>) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS_HEADER_TABLE_SIZE 0: the peer's fields never refer to earlier fields.
    bytes.extend(frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]));
    bytes.extend(frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()));
    let alone = request.body.is_empty() && request.trailers.is_empty();
    bytes.extend(fields(request.fields, if alone { END_STREAM } else { 0 }));
    for (number, chunk) in request.body.chunks(FRAME).enumerate() {
        let last = request.trailers.is_empty() && (number + 1) * FRAME >= request.body.len();
        bytes.extend(frame(DATA, if last { END_STREAM } else { 0 }, 1, chunk));
    }
    if !request.trailers.is_empty() {
        bytes.extend(fields(request.trailers, END_STREAM));
    }
    bytes
}

impl Heard {
    /// An informational response, the final response, or trailers. Only trailers have no status.
    fn take(&mut self, fields: Vec<Got>) -> io::Result<()> {
        let status = fields.iter().find(|(name, _)| name == ":status");
        let Some((_, status)) = status else {
            self.trailers = fields;
            return Ok(());
        };
        let status = std::str::from_utf8(status).ok().and_then(|text| text.parse().ok());
        self.status = status.ok_or_else(|| strange("a status"))?;
        self.headers = fields.into_iter().filter(|(name, _)| name != ":status").collect();
        Ok(())
    }
}

fn frame(kind: u8, flags: u8, on: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &on.to_be_bytes(), payload].concat()
}

/// Literal fields without indexing or compression (RFC 7541 section 6.2.2), in as many frames as they need.
fn fields(fields: &[Field<'_>], flags: u8) -> Vec<u8> {
    fields_on(1, fields, flags)
}

fn fields_on(on: u32, fields: &[Field<'_>], flags: u8) -> Vec<u8> {
    let text = |text: &[u8]| [integer(text.len(), 7), text.to_vec()].concat();
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect();
    let chunks: Vec<&[u8]> = block.chunks(FRAME).collect();
    let part = |(number, chunk): (usize, &&[u8])| {
        let (kind, flags) = if number == 0 { (HEADERS, flags) } else { (CONTINUATION, 0) };
        frame(kind, flags | if number + 1 == chunks.len() { END_HEADERS } else { 0 }, on, chunk)
    };
    chunks.iter().enumerate().flat_map(part).collect()
}

/// RFC 7541 section 5.1, with an empty prefix.
fn integer(value: usize, prefix: u32) -> Vec<u8> {
    let most = (1 << prefix) - 1;
    if value < most {
        return vec![u8::try_from(value).unwrap()];
    }
    let mut bytes = vec![u8::try_from(most).unwrap()];
    let mut rest = value - most;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
    stream.read_exact(&mut payload).await?;
    Ok((head[3], head[4], word(&head[5..]) & 0x7fff_ffff, payload))
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn unpadded(flags: u8, payload: &[u8]) -> &[u8] {
    if flags & PADDED == 0 { payload } else { &payload[1..payload.len() - usize::from(payload[0])] }
}

fn strange(what: &str) -> io::Error {
    io::Error::other(format!("{what} that is not understood here"))
}
