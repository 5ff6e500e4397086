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
    inner: Rc<RefCell<Inner>>,
    done: bool,
}

impl ResponseReader {
    pub(super) fn new(inner: Rc<RefCell<Inner>>) -> Self {
        Self { inner, done: false }
    }

    pub(in crate::http) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let inner = &mut *self.inner.borrow_mut();
        if let Err(error) = inner.poll_upload(cx) {
            self.done = true;
            return Poll::Ready(Some(Err(error)));
        }
        let frame = ready!(inner.reader.poll_frame(&mut inner.wire, cx));
        self.done = inner.reader.is_done();
        if self.done {
            inner.wire.settle();
        } else if !matches!(frame, Some(Ok(_))) {
            (self.done, inner.kept) = (true, false);
        }
        Poll::Ready(frame)
    }

    /// Goes on with the request while there is no room for more of its answer. Completes where the answer ends with it.
    pub(in crate::http) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        // The connection is another's then.
        if !self.done
            && let Err(error) = self.inner.borrow_mut().poll_upload(cx)
        {
            self.done = true;
            return Poll::Ready(error);
        }
        Poll::Pending
    }

    /// Whether its connection goes on behind it.
    pub(crate) fn is_kept(&self) -> bool {
        self.inner.borrow().kept
    }

    pub(in crate::http) fn is_done(&self) -> bool {
        self.done
    }

    pub(in crate::http) fn size_hint(&self) -> SizeHint {
        if self.done { SizeHint::with_exact(0) } else { self.inner.borrow().reader.size_hint() }
    }
}
