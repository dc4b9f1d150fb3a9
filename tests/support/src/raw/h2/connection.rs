//! A connection over HTTP/2 that sends any frames, and what comes back.

use super::{
    ACK, END_STREAM, Field, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, PING, RST_STREAM, SETTINGS, fields_on, frame,
    read_frame, strange, word,
};
use crate::client::STEP;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// A connection that sends any frames, on any number of streams. It reads only where a function says so, and then
/// answers no frame.
pub struct Connection<S> {
    stream: S,
    next: u32,
}

/// The end of a [`Connection`], or the events before a deadline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// The streams that were reset, with their codes.
    pub resets: Vec<(u32, u32)>,
    /// The streams with a response.
    pub answered: Vec<u32>,
    /// The code of a GOAWAY.
    pub goaway: Option<u32>,
    /// Whether the peer has closed the connection.
    pub closed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Sends the preface, with a window of `window` bytes for each stream.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn begin(mut stream: S, window: u32) -> io::Result<Self> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let size = window.to_be_bytes();
        let settings = [&[0, 1, 0, 0, 0, 0, 0, INITIAL_WINDOW_SIZE][..], &size].concat();
        bytes.extend(frame(SETTINGS, 0, 0, &settings));
        bytes.extend(frame(SETTINGS, ACK, 0, &[]));
        stream.write_all(&bytes).await?;
        stream.flush().await?;
        Ok(Self { stream, next: 1 })
    }

    /// Sends a request without a body, or with `open` one whose body is still to come. Returns its stream.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn request(&mut self, fields: &[Field<'_>], open: bool) -> io::Result<u32> {
        let on = self.next;
        self.next += 2;
        self.send(&fields_on(on, fields, if open { 0 } else { END_STREAM })).await?;
        Ok(on)
    }

    /// Resets a stream, with the code CANCEL.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn reset(&mut self, on: u32) -> io::Result<()> {
        self.send(&frame(RST_STREAM, 0, on, &[0, 0, 0, 8])).await
    }

    /// Sends a frame of any kind.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn frame(&mut self, kind: u8, flags: u8, on: u32, payload: &[u8]) -> io::Result<()> {
        self.send(&frame(kind, flags, on, payload)).await
    }

    /// Sends `count` PING frames, in one write for each hundred.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn pings(&mut self, count: u32) -> io::Result<()> {
        let hundred = frame(PING, 0, 0, &[7; 8]).repeat(100);
        for _ in 0..count / 100 {
            self.send(&hundred).await?;
        }
        Ok(())
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(STEP, self.stream.write_all(bytes)).await??;
        self.stream.flush().await
    }

    /// The peer's setting `number`, from its first SETTINGS frame.
    ///
    /// # Errors
    /// If the frame doesn't come, or lacks the setting.
    pub async fn setting(&mut self, number: u8) -> io::Result<u32> {
        loop {
            let (kind, flags, _, payload) = timeout(STEP, read_frame(&mut self.stream)).await??;
            if kind == SETTINGS && flags & ACK == 0 {
                let found = payload.chunks_exact(6).find(|setting| setting[..2] == [0, number]);
                return found.map(|setting| word(&setting[2..])).ok_or_else(|| strange("no such setting"));
            }
        }
    }

    /// Reads until the peer closes the connection, `done` is true, or nothing arrives `within`.
    pub async fn events(&mut self, within: std::time::Duration, done: impl Fn(&Events) -> bool) -> Events {
        let mut events = Events::default();
        while !done(&events) {
            match timeout(within, read_frame(&mut self.stream)).await {
                Err(_) => break,
                Ok(Err(_)) => {
                    events.closed = true;
                    break;
                }
                Ok(Ok((HEADERS, _, on, _))) => events.answered.push(on),
                Ok(Ok((RST_STREAM, _, on, payload))) => events.resets.push((on, word(&payload))),
                Ok(Ok((GOAWAY, _, _, payload))) => events.goaway = Some(word(&payload[4..])),
                Ok(Ok(_)) => {}
            }
        }
        events
    }
}
