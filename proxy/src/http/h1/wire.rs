//! The bytes of one HTTP/1 connection: what was read and not taken yet, and how far a body was read.
//!
//! Bodies are never copied: what is read leaves as slices of the buffer it was read into.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::chunked::{Chunk, Decoder};
use super::framing::Framing;
use super::output::Output;
use super::parse::Limits;
use crate::http::body::BodyError;

/// Bytes asked of a stream at a time; more where a body fills them.
const READ: usize = 8 * 1024;
/// The bound of that.
const MOST_READ: usize = 64 * 1024;
/// Room below which a buffer grows before it is read into.
const LEAST_ROOM: usize = 1024;

/// A connection's stream and what was read of it.
#[derive(Debug)]
pub(super) struct Wire<S> {
    pub(super) stream: S,
    /// Read, and not taken yet.
    pub(super) input: BytesMut,
    read: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// A connection of which `input` was read before.
    pub(super) fn new(stream: S, input: BytesMut) -> Self {
        Self { stream, input, read: READ }
    }

    /// Reads more behind what is there; zero: the peer has ended.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.capacity() - self.input.len() < LEAST_ROOM {
            self.input.reserve(self.read);
        }
        let room = self.input.capacity() - self.input.len();
        let read = ready!(pin!(self.stream.read_buf(&mut self.input)).poll(cx))?;
        if read == room {
            self.read = (self.read * 2).min(MOST_READ);
        }
        Poll::Ready(Ok(read))
    }

    /// Writes what is on its way out, to the last byte.
    pub(super) fn poll_write(&mut self, output: &mut Output, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        output.poll_write_to(Pin::new(&mut self.stream), cx)
    }

    /// A message is over: the next begins with small reads, and an idle connection holds no large buffer.
    pub(super) fn settle(&mut self) {
        self.read = READ;
        if self.input.capacity() > READ {
            self.free();
        }
    }

    /// Nothing is read for a while.
    pub(super) fn free(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }
}

/// How far a body has been read.
#[derive(Debug)]
pub(super) enum Reader {
    /// To its end.
    Done,
    /// So many bytes are left.
    Length(u64),
    /// Chunks are left.
    Chunked(Decoder),
    /// It ends with the connection.
    UntilClose,
}

impl Reader {
    pub(super) fn new(framing: Framing, limits: Limits) -> Self {
        match framing {
            Framing::Empty | Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Decoder::new(limits)),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Done => SizeHint::with_exact(0),
            Self::Length(length) => SizeHint::with_exact(*length),
            Self::Chunked(_) | Self::UntilClose => SizeHint::default(),
        }
    }

    /// The next part of the body that `wire` carries.
    pub(super) fn poll_frame<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        wire: &mut Wire<S>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            match self.take(&mut wire.input) {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if self.is_done() => return Poll::Ready(None),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match ready!(wire.poll_fill(cx)) {
                Ok(0) if matches!(self, Self::UntilClose) => *self = Self::Done,
                Ok(0) => return Poll::Ready(Some(Err(BodyError::Closed("its sender ended".to_owned())))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(BodyError::Closed(error.to_string())))),
            }
        }
    }

    /// What is there already.
    fn take(&mut self, input: &mut BytesMut) -> Result<Option<Frame<Bytes>>, BodyError> {
        match self {
            Self::Chunked(decoder) => match decoder.decode(input).map_err(BodyError::from)? {
                None => Ok(None),
                Some(Chunk::Data(data)) => Ok(Some(Frame::data(data))),
                Some(Chunk::Trailers(trailers)) => {
                    *self = Self::Done;
                    Ok(Some(Frame::trailers(trailers)))
                }
                Some(Chunk::End) => {
                    *self = Self::Done;
                    Ok(None)
                }
            },
            _ if input.is_empty() => Ok(None),
            Self::Done => Ok(None),
            Self::Length(left) => {
                let size = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= size as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(Some(Frame::data(input.split_to(size).freeze())))
            }
            Self::UntilClose => Ok(Some(Frame::data(input.split().freeze()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn a_body_is_not_copied_out_of_the_buffer_it_was_read_into() {
        for framing in [Framing::Length(9), Framing::UntilClose] {
            let (client, _server) = tokio::io::duplex(7);
            let mut wire = Wire::new(client, BytesMut::from("a part"));
            let place = wire.input.as_ptr();
            let mut reader = Reader::new(framing, Limits::default());
            let frame = poll_fn(|cx| reader.poll_frame(&mut wire, cx)).await.unwrap().unwrap();
            let data = frame.into_data().unwrap();
            assert_eq!((&data[..], data.as_ptr()), (&b"a part"[..], place), "{framing:?}");
        }
    }

    #[tokio::test]
    async fn a_body_ends_where_its_framing_says() {
        for (framing, bytes, body) in [
            (Framing::Length(3), "abcnext", "abc"),
            (Framing::Chunked, "1\r\na\r\n2;x=y\r\nbc\r\n0\r\nt: u\r\n\r\nnext", "abc"),
            (Framing::Empty, "next", ""),
        ] {
            let (client, _server) = tokio::io::duplex(7);
            let mut wire = Wire::new(client, BytesMut::from(bytes));
            let mut reader = Reader::new(framing, Limits::default());
            let mut read = Vec::new();
            while let Some(frame) = poll_fn(|cx| reader.poll_frame(&mut wire, cx)).await {
                if let Ok(data) = frame.unwrap().into_data() {
                    read.extend_from_slice(&data);
                }
            }
            assert!(reader.is_done());
            assert_eq!((&read[..], &wire.input[..]), (body.as_bytes(), &b"next"[..]), "{framing:?}");
        }
    }
}
