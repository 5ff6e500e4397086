//! Reads chunked bodies (RFC 9112 section 7.1). Data is handed on as it comes, sharing the buffer it was read into.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::parse::{self, InvalidHead, Limits};

/// Bytes of a line with a chunk's size and extensions, which are read and forgotten.
const MAX_SIZE_LINE: usize = 4096;
/// Hexadecimal digits of a size.
const MAX_DIGITS: usize = 16;

/// Why a body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBody {
    /// No size, or something else behind it than extensions.
    #[error("invalid chunk size")]
    Size,
    /// A line that is too long, or that does not end with CRLF.
    #[error("invalid line of a chunk's size")]
    Line,
    /// The data is longer than its size said.
    #[error("no line end after a chunk's data")]
    End,
    /// The trailers are not fields, or too many.
    #[error("in trailers: {0}")]
    Trailers(InvalidHead),
}

impl InvalidBody {
    /// The reason as metrics count it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Size => "chunk_size",
            Self::Line => "chunk_line",
            Self::End => "chunk_end",
            Self::Trailers(error) => error.reason(),
        }
    }
}

/// A part of a chunked body.
#[derive(Clone, Debug, PartialEq)]
pub enum Chunk {
    /// Some data; never empty.
    Data(Bytes),
    /// The trailers, where there are any; [`encode::last_chunk`](super::encode::last_chunk) writes their names as they came.
    Trailers(HeaderMap),
    /// There is no more.
    End,
}

/// Reads one body.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    state: State,
    /// How much of the line, or of the trailers, was looked at already.
    scanned: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    End,
}

impl Decoder {
    /// Of a body whose trailers keep to `limits`.
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::Size, scanned: 0 }
    }

    /// Takes the next part off the front of `buf`; `None` until more of it has come.
    ///
    /// # Errors
    /// The bytes are no chunked body. Where the message ends is unknown then.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Chunk>, InvalidBody> {
        loop {
            self.state = match self.state {
                State::Size => match self.size(buf)? {
                    Some(0) => State::Trailers,
                    Some(size) => State::Data(size),
                    None => return Ok(None),
                },
                State::Data(0) => State::DataEnd,
                State::Data(_) if buf.is_empty() => return Ok(None),
                State::Data(left) => {
                    let here = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
                    self.state = State::Data(left - here as u64);
                    return Ok(Some(Chunk::Data(buf.split_to(here).freeze())));
                }
                State::DataEnd => match &buf[..] {
                    [] | [b'\r'] => return Ok(None),
                    [b'\r', b'\n', ..] => {
                        buf.advance(2);
                        State::Size
                    }
                    _ => return Err(InvalidBody::End),
                },
                State::Trailers => {
                    let trailers = parse::trailers(buf, &self.limits, &mut self.scanned);
                    let Some(trailers) = trailers.map_err(InvalidBody::Trailers)? else { return Ok(None) };
                    self.state = State::End;
                    if trailers.is_empty() {
                        continue;
                    }
                    return Ok(Some(Chunk::Trailers(trailers)));
                }
                State::End => return Ok(Some(Chunk::End)),
            }
        }
    }

    fn size(&mut self, buf: &mut BytesMut) -> Result<Option<u64>, InvalidBody> {
        let Some(end) = memchr::memchr(b'\n', &buf[self.scanned..]).map(|at| self.scanned + at) else {
            self.scanned = buf.len();
            return if buf.len() > MAX_SIZE_LINE { Err(InvalidBody::Line) } else { Ok(None) };
        };
        let line = buf[..end].strip_suffix(b"\r").filter(|_| end <= MAX_SIZE_LINE).ok_or(InvalidBody::Line)?;
        let size = size(line)?;
        buf.advance(end + 1);
        self.scanned = 0;
        Ok(Some(size))
    }
}

/// `chunk-size [ chunk-ext ]`; white space may follow the size, since there are servers that pad it.
fn size(line: &[u8]) -> Result<u64, InvalidBody> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    if digits.is_empty() || digits.len() > MAX_DIGITS {
        return Err(InvalidBody::Size);
    }
    let blank = rest.iter().take_while(|&&byte| byte == b' ' || byte == b'\t').count();
    let extensions = &rest[blank..];
    if !matches!(extensions, [] | [b';', ..]) {
        return Err(InvalidBody::Size);
    }
    if extensions.iter().any(|&byte| byte != b'\t' && (byte < b' ' || byte == 0x7f)) {
        return Err(InvalidBody::Line);
    }
    let value = |byte: u8| u64::from((byte as char).to_digit(16).expect("a hexadecimal digit"));
    Ok(digits.iter().fold(0, |size, &byte| size << 4 | value(byte)))
}

#[cfg(test)]
mod tests;
