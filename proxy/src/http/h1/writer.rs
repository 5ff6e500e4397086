//! A body on its way out by one framing.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::encode;
use super::framing::Framing;
use super::output::Output;
use crate::http::body::BodyError;

/// How far a body has been written.
#[derive(Debug)]
pub(super) enum Writer {
    /// To its end.
    Done,
    /// To its end, with trailers.
    Trailed,
    /// So many bytes are left.
    Length(u64),
    /// In chunks.
    Chunked,
    /// It ends with the connection.
    UntilClose,
}

impl Writer {
    pub(super) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Empty | Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked,
            Framing::UntilClose => Self::UntilClose,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Done | Self::Trailed)
    }

    /// Whether the data alone makes the same body again.
    pub(super) fn is_repeatable(&self) -> bool {
        !matches!(self, Self::Trailed)
    }

    /// Moves what there is of a body to the output, as far as there is room. Completes with the body.
    ///
    /// # Errors
    /// The body broke off, or is not as long as was announced.
    pub(super) fn poll_take<B>(
        &mut self,
        mut body: Pin<&mut B>,
        output: &mut Output,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), BodyError>>
    where
        B: Body<Data = Bytes, Error = BodyError>,
    {
        while !self.is_done() {
            if !output.has_room() {
                return Poll::Pending;
            }
            match body.as_mut().poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => self.end(output)?,
                Poll::Ready(Some(frame)) => {
                    self.frame(frame?, output)?;
                    if !self.is_done() && body.is_end_stream() {
                        self.end(output)?;
                    }
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn frame(&mut self, frame: Frame<Bytes>, output: &mut Output) -> Result<(), BodyError> {
        let data = match frame.into_data() {
            Ok(data) if data.is_empty() => return Ok(()),
            Ok(data) => data,
            Err(frame) => {
                let Ok(trailers) = frame.into_trailers() else { return Ok(()) };
                if let Self::Chunked = self {
                    output.text(|text| encode::last_chunk(text, Some(&trailers)));
                    *self = Self::Trailed;
                    return Ok(());
                }
                // Only chunks leave a place for trailers.
                return self.end(output);
            }
        };
        match self {
            Self::Chunked => {
                output.text(|text| encode::chunk_head(text, data.len()));
                output.data(data);
                output.text(|text| text.extend_from_slice(encode::CHUNK_END));
            }
            Self::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or_else(other_length)?;
                if *left == 0 {
                    *self = Self::Done;
                }
                output.data(data);
            }
            Self::UntilClose => output.data(data),
            Self::Done | Self::Trailed => {}
        }
        Ok(())
    }

    fn end(&mut self, output: &mut Output) -> Result<(), BodyError> {
        match self {
            Self::Length(_) => return Err(other_length()),
            Self::Chunked => output.text(|text| encode::last_chunk(text, None)),
            Self::Done | Self::Trailed | Self::UntilClose => {}
        }
        *self = Self::Done;
        Ok(())
    }
}

fn other_length() -> BodyError {
    BodyError::Closed("its length is not the announced one".to_owned())
}
