//! The body of an answer: whoever reads it drives its connection, and with it an upload that is not over yet.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::Inner;
use crate::http::body::BodyError;

/// The body of an answer, read straight from its connection.
#[derive(Debug)]
pub struct ResponseReader {
    /// Until the answer ends: the connection is another's then, and may leave HTTP.
    inner: Option<Rc<RefCell<Inner>>>,
}

impl ResponseReader {
    pub(super) fn new(inner: Rc<RefCell<Inner>>) -> Self {
        Self { inner: Some(inner) }
    }

    pub(in crate::http) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(inner) = &self.inner else { return Poll::Ready(None) };
        let frame = ready!(inner.borrow_mut().poll_body(cx));
        if !matches!(frame, Some(Ok(_))) || inner.borrow().reader.is_done() {
            self.inner = None;
        }
        Poll::Ready(frame)
    }

    /// Goes on with the request while there is no room for more of its answer. Completes where the answer ends with it.
    pub(in crate::http) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let Some(inner) = &self.inner else { return Poll::Pending };
        let Err(error) = inner.borrow_mut().poll_upload(cx) else { return Poll::Pending };
        self.inner = None;
        Poll::Ready(error)
    }

    /// Whether its connection goes on behind it.
    pub(crate) fn is_kept(&self) -> bool {
        self.inner.as_ref().is_none_or(|inner| inner.borrow().kept)
    }

    pub(in crate::http) fn is_done(&self) -> bool {
        self.inner.is_none()
    }

    pub(in crate::http) fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), |inner| inner.borrow().reader.size_hint())
    }
}

impl Inner {
    /// What the answer has next.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Err(error) = self.poll_upload(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = ready!(self.reader.poll_frame(&mut self.wire, cx));
        if self.reader.is_done() {
            self.wire.settle();
        } else {
            self.kept &= matches!(frame, Some(Ok(_)));
        }
        Poll::Ready(frame)
    }
}
