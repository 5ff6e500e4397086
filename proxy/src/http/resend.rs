//! A request body on its way out that can be had back, so that a request which provably had no effect can be sent again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::body::{BodyError, RequestBody, Timed};
use super::h1::chunked::InvalidBody;
use super::h2::{Takes, list_bytes};

/// How much of a body may have passed before it cannot be sent again.
const MOST: usize = 64 * 1024;

/// In how many frames: each holds the buffer it was read into.
const MOST_FRAMES: usize = 64;

/// A body that is lent to whoever sends it. Clones are the same body.
#[derive(Clone, Debug)]
pub(crate) struct Lent(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    body: RequestBody,
    /// What has passed, sharing its buffers; `None` where the body cannot be had back.
    passed: Option<VecDeque<Bytes>>,
    size: usize,
    /// Frames that have passed, and bytes of them that were sent when there was no room for more.
    moved: (u64, u64),
    /// What broke it off.
    broken: Option<BodyError>,
    /// What bounds its trailers.
    takes: Option<Rc<Takes>>,
}

impl Lent {
    pub(crate) fn new(body: RequestBody) -> Self {
        let passed = Some(VecDeque::new());
        Self(Rc::new(RefCell::new(State { body, passed, size: 0, moved: (0, 0), broken: None, takes: None })))
    }

    /// One that breaks off where its trailers are more than its endpoint takes.
    pub(crate) fn within(self, takes: Rc<Takes>) -> Self {
        self.0.borrow_mut().takes = Some(takes);
        self
    }

    /// The whole body again, unless too much of it has passed. Whoever still sends it finds it ended.
    pub(crate) fn take_back(&self) -> Option<RequestBody> {
        let mut state = self.0.borrow_mut();
        let passed = state.passed.take()?;
        Some(std::mem::replace(&mut state.body, RequestBody::empty()).after(passed))
    }

    /// What broke it off.
    pub(crate) fn broken(&self) -> Option<BodyError> {
        self.0.borrow().broken.clone()
    }

    /// How far it is, without holding it.
    pub(crate) fn progress(&self) -> Progress {
        Progress(Rc::downgrade(&self.0))
    }

    /// It was sent for good: nothing more is kept of it.
    pub(crate) fn settle(&self) {
        self.0.borrow_mut().passed = None;
    }
}

/// How far a body is that somebody else holds.
#[derive(Debug)]
pub(crate) struct Progress(Weak<RefCell<State>>);

impl Progress {
    /// Another value once anything of it has passed or was sent; `None` where nobody holds the body any more.
    pub(crate) fn moved(&self) -> Option<(u64, u64)> {
        Some(self.0.upgrade()?.borrow().moved)
    }
}

impl State {
    /// Whether the endpoint takes it: far too large trailers would end its connection.
    fn is_taken(&self, frame: &Frame<Bytes>) -> Result<(), BodyError> {
        let (Some(takes), Some(trailers)) = (&self.takes, frame.trailers_ref()) else { return Ok(()) };
        takes.fits(list_bytes(trailers)).map_err(|invalid| BodyError::Invalid(InvalidBody::Trailers(invalid)))
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(passed) = &mut self.passed else { return };
        match frame.data_ref() {
            Some(data) if self.size + data.len() <= MOST && passed.len() < MOST_FRAMES => {
                self.size += data.len();
                passed.push_back(data.clone());
            }
            _ => self.passed = None,
        }
    }
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = self.0.borrow_mut();
        let frame = ready!(Pin::new(&mut state.body).poll_frame(cx));
        let frame = frame.map(|frame| frame.and_then(|frame| state.is_taken(&frame).map(|()| frame)));
        state.moved.0 += 1;
        match &frame {
            Some(Ok(frame)) => state.keep(frame),
            Some(Err(error)) => (state.passed, state.broken) = (None, Some(error.clone())),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.borrow().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.borrow().body.size_hint()
    }
}

impl Timed for Lent {
    /// A client that leaves takes back what it asked; a server is not at fault, and neither are we.
    const BROKEN_OFF: h2::Reason = h2::Reason::CANCEL;

    /// The exchange is bounded by its answer.
    fn poll_blocked(self: Pin<&mut Self>, sent: u64, cx: &mut Context<'_>) -> Poll<Result<Frame<Bytes>, BodyError>> {
        let mut state = self.0.borrow_mut();
        state.moved.1 = sent;
        state.body.poll_blocked(cx).map(Err)
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::BodyExt;

    use super::super::body::Body;
    use super::*;
    use crate::telemetry::ByteCounter;

    fn body(text: impl Into<Bytes>) -> (RequestBody, ByteCounter) {
        let bytes = ByteCounter::default();
        (RequestBody::new(Body::Full(text.into()), bytes.clone(), std::time::Duration::ZERO), bytes)
    }

    async fn read(body: impl http_body::Body<Data = Bytes, Error = BodyError>) -> Bytes {
        body.collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn what_has_passed_comes_again_and_counts_once() {
        let (body, bytes) = body("hello");
        let lent = Lent::new(body);
        assert_eq!(read(lent.clone()).await, "hello");
        let again = lent.take_back().unwrap();
        assert_eq!(again.size_hint().exact(), Some(5));
        assert!(!again.is_end_stream() && !again.is_empty() && lent.is_end_stream());
        let lent = Lent::new(again);
        assert_eq!(read(lent.clone()).await, "hello");
        assert_eq!(read(lent.take_back().unwrap()).await, "hello", "and again");
        assert_eq!(bytes.total(), 5);
    }

    #[tokio::test]
    async fn what_is_sent_of_a_part_is_progress() {
        let (body, _) = body("hello");
        let mut lent = Lent::new(body);
        let progress = lent.progress();
        let mut sent = async |bytes| {
            let _pending = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut lent).poll_blocked(bytes, cx))).await;
            progress.moved()
        };
        let (before, same, after) = (sent(1).await, sent(1).await, sent(2).await);
        assert!(before.is_some() && before == same && same != after);
    }

    #[tokio::test]
    async fn what_has_not_passed_is_there_too() {
        let (body, _) = body("hello");
        assert_eq!(read(Lent::new(body).take_back().unwrap()).await, "hello");
    }

    #[tokio::test]
    async fn a_body_that_is_long_or_sent_for_good_is_not_kept() {
        let (long, _) = body(vec![0; MOST + 1]);
        let lent = Lent::new(long);
        assert_eq!(read(lent.clone()).await.len(), MOST + 1);
        assert!(lent.take_back().is_none());
        let (short, _) = body("x");
        let lent = Lent::new(short);
        for _ in 0..=MOST_FRAMES {
            lent.0.borrow_mut().keep(&Frame::data(Bytes::from_static(b"x")));
        }
        assert!(lent.take_back().is_none(), "a little in many frames is much to keep");
        let (settled, _) = body("hello");
        let lent = Lent::new(settled);
        lent.settle();
        assert_eq!(read(lent.clone()).await, "hello");
        assert!(lent.take_back().is_none());
    }
}
