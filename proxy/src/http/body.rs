//! Message bodies: frames move through, they are not copied.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::h1::chunked::InvalidBody;
use super::h1::client::ResponseReader;
use super::h1::downstream::RequestReader;
use super::h1::parse::Limits;
use super::h2::{Upload, check_trailers, strip};
use super::held::Held;
use super::stall::Stall;
use super::trailers;
use crate::telemetry::ByteCounter;
use crate::upstream::Receiving;

/// A body on its way through, whichever version it came in by.
#[derive(Debug, Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// A short text of our own.
    Full(Bytes),
    /// From a downstream HTTP/1 connection.
    H1Request(RequestReader),
    /// From an upstream HTTP/1 connection.
    H1Response(ResponseReader),
    /// From an HTTP/2 stream.
    H2(H2Body),
}

/// Why a body ended early.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BodyError {
    /// The peer reset the stream (RFC 9113 section 6.4).
    #[error("stream reset: {0}")]
    Reset(h2::Reason),
    /// The connection ended first.
    #[error("connection ended within the body: {0}")]
    Closed(String),
    /// A connection that carried it was drained, and its grace is over: it is ended here, and may be asked for again.
    #[error("{}", crate::Error::Retired)]
    Retired,
    /// It is not framed as its head says (RFC 9112 section 7.1).
    #[error("invalid body: {0}")]
    Invalid(#[from] InvalidBody),
    /// The time for the whole exchange is over.
    #[error("timed out within the body")]
    TimedOut,
    /// The client sent nothing of it, or took nothing of it, for so long.
    #[error("nothing of the body moved for {0:?}")]
    Stalled(Duration),
}

/// A body that whoever sends it may have to give up while there is no room for more of it.
pub(crate) trait Timed: http_body::Body<Data = Bytes, Error = BodyError> {
    /// What an HTTP/2 peer is told where the body's own connection ended before it was whole.
    const BROKEN_OFF: h2::Reason;

    /// Asked while there is no room, with how much was sent so far. Completes with what comes in place of the rest: why it is given
    /// up, or, where HTTP/2 can say that, trailers.
    fn poll_blocked(self: Pin<&mut Self>, sent: u64, cx: &mut Context<'_>) -> Poll<Result<Frame<Bytes>, BodyError>>;
}

/// The body of an HTTP/2 stream. Window is given back as data is taken, so what nobody reads stops its own stream only.
#[derive(Debug)]
pub struct H2Body {
    stream: h2::RecvStream,
    /// Our own sidecar is the peer: what its trailers say of their spelling is believed.
    hop: bool,
    limits: Limits,
    data_ended: bool,
    /// What came while there was no room for it. Its window is not given back yet.
    held: Option<Box<Held>>,
    /// The trailers that came so.
    trailers: Option<Result<Box<HeaderMap>, BodyError>>,
    /// It is a client's.
    upload: Option<Upload>,
}

impl Body {
    /// The body of an HTTP/2 stream, of a `hop` where our own sidecar is the peer; empty where its head ended it. Its trailers keep to
    /// `limits`.
    pub fn from_h2(stream: h2::RecvStream, hop: bool, limits: Limits) -> Self {
        if stream.is_end_stream() {
            Self::Empty
        } else {
            Self::H2(H2Body { stream, hop, limits, data_ended: false, held: None, trailers: None, upload: None })
        }
    }

    /// Asked while there is no room for more of it, so that its connection goes on for others: the request that it answers is sent,
    /// and what comes of a stream is held. Completes where it ends with that.
    pub(crate) fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        match self {
            Self::H1Response(body) => return body.poll_upload(cx),
            Self::H2(body) => body.hold(cx),
            Self::Empty | Self::Full(_) | Self::H1Request(_) => {}
        }
        Poll::Pending
    }
}

impl From<h2::Error> for BodyError {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(reason) if error.is_reset() => Self::Reset(reason),
            Some(h2::Reason::NO_ERROR) if error.is_go_away() && error.is_remote() => {
                Self::Closed("the peer drained the connection, and its grace is over".to_owned())
            }
            _ => Self::Closed(error.to_string()),
        }
    }
}

impl H2Body {
    /// It is this one.
    pub(crate) fn is_upload(&mut self, upload: Upload) {
        self.upload = Some(upload);
    }

    /// Takes what has come out of the h2 crate, which counts small frames against the whole connection until they are taken, and
    /// ends it when there are many. The stream's window is as full as before, so it bounds what is held.
    fn hold(&mut self, cx: &mut Context<'_>) {
        while !self.data_ended {
            match self.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) if data.is_empty() => {}
                Poll::Ready(Some(Ok(data))) => {
                    if self.held.get_or_insert_default().push(data)
                        && let Some(upload) = &self.upload
                    {
                        upload.joined();
                    }
                }
                Poll::Ready(None) => self.data_ended = true,
                // An error comes again behind what is held.
                Poll::Ready(Some(Err(_))) | Poll::Pending => return,
            }
        }
        // Out of the h2 crate they may be judged: as it reads them they may be larger than what may be held.
        if self.trailers.is_none()
            && let Poll::Ready(Some(trailers)) = self.poll_trailers(cx)
        {
            self.trailers = Some(trailers.map(Box::new));
        }
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<HeaderMap, BodyError>>> {
        let Some(mut trailers) = ready!(self.stream.poll_trailers(cx))? else { return Poll::Ready(None) };
        check_trailers(&trailers, &self.limits).map_err(InvalidBody::Trailers)?;
        trailers::keep_harmless(&mut trailers, self.hop);
        // No value may have any (RFC 9113 section 8.2.1), and those of gRPC may be written so.
        strip(&mut trailers);
        Poll::Ready(Some(Ok(trailers)))
    }

    fn take_held(&mut self) -> Option<Bytes> {
        let data = self.held.as_mut()?.pop();
        self.held.take_if(|held| held.is_empty());
        data
    }

    /// Gives window back.
    fn release(&mut self, size: usize) {
        // Fails only for a stream that is gone, which the next poll reports.
        let _ = self.stream.flow_control().release_capacity(size);
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(data) = self.take_held() {
            self.release(data.len());
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if !self.data_ended {
            let data = self.stream.poll_data(cx);
            if data.is_pending()
                && let Some(upload) = &mut self.upload
                && upload.poll_narrowed(cx).is_ready()
            {
                self.release(0);
            }
            match ready!(data) {
                Some(Ok(data)) => {
                    self.release(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => self.data_ended = true,
            }
        }
        let trailers = match self.trailers.take() {
            Some(trailers) => Some(trailers.map(|trailers| *trailers)),
            None => ready!(self.poll_trailers(cx)),
        };
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)))
    }
}

impl Drop for H2Body {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.release(held.size());
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::H1Request(body) => body.poll_frame(cx),
            Self::H1Response(body) => body.poll_frame(cx),
            Self::H2(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::H1Request(body) => body.is_done(),
            Self::H1Response(body) => body.is_done(),
            Self::H2(body) => body.held.is_none() && body.trailers.is_none() && body.stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::H1Request(body) => body.size_hint(),
            Self::H1Response(body) => body.size_hint(),
            Self::H2(_) => SizeHint::default(),
        }
    }
}

/// A request body that counts what passes, and breaks off when its exchange stands still while its client sends nothing.
#[derive(Debug)]
pub struct RequestBody {
    /// What passed before and is to pass again: counted already.
    again: VecDeque<Bytes>,
    body: Body,
    bytes: Option<ByteCounter>,
    stall: Stall,
    /// Who waits for its end.
    receiving: Option<Receiving>,
}

impl RequestBody {
    /// A body whose bytes are added to `bytes`, and which breaks off where nothing moves in either direction for `idle`; zero:
    /// never.
    pub fn new(body: Body, bytes: ByteCounter, idle: Duration) -> Self {
        Self { again: VecDeque::new(), body, bytes: Some(bytes), stall: Stall::new(idle), receiving: None }
    }

    /// No body.
    pub fn empty() -> Self {
        let stall = Stall::new(Duration::ZERO);
        Self { again: VecDeque::new(), body: Body::Empty, bytes: None, stall, receiving: None }
    }

    /// The body, whose end is told to who waits for it.
    pub(crate) fn told_to(self, receiving: Option<Receiving>) -> Self {
        Self { receiving, ..self }
    }

    /// The body that begins with `passed`, which has passed before.
    pub fn after(mut self, mut passed: VecDeque<Bytes>) -> Self {
        passed.append(&mut self.again);
        Self { again: passed, ..self }
    }

    /// Asked while there is no room for more of it, as [`Body::poll_blocked`].
    pub(crate) fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        self.body.poll_blocked(cx)
    }

    /// Waits for `work`, with no room for any of it meanwhile.
    pub(crate) async fn wait_for<T>(&mut self, mut work: Pin<&mut impl Future<Output = T>>) -> T {
        poll_fn(|cx| {
            let done = work.as_mut().poll(cx);
            if done.is_pending() {
                // The body of a request does not break off by itself.
                let _ = self.poll_blocked(cx);
            }
            done
        })
        .await
    }

    /// Whether there is no body at all.
    pub fn is_empty(&self) -> bool {
        self.again.is_empty() && matches!(self.body, Body::Empty)
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(data) = self.again.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            let moved = self.bytes.as_ref().map_or(0, ByteCounter::moved);
            ready!(self.stall.poll(moved, cx));
            return Poll::Ready(Some(Err(BodyError::Stalled(self.stall.timeout()))));
        };
        if let (Some(Ok(frame)), Some(bytes)) = (&frame, &self.bytes)
            && let Some(data) = frame.data_ref()
        {
            bytes.add(data.len());
        }
        if self.receiving.is_some() && (!matches!(frame, Some(Ok(_))) || self.body.is_end_stream()) {
            self.receiving = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.again.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let again: u64 = self.again.iter().map(|data| data.len() as u64).sum();
        let rest = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(again + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(again + upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests;
