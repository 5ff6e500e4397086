//! What the clients of a worker send over HTTP/2 and nobody has read yet: a window for each request that has a body, narrower in a crowd.
//!
//! Streams come by themselves, and the client goes by the window that it has heard of: a narrower one holds once it is acknowledged.
//! Of a stream that began before that, more may have been read by then than the narrower window has. Nothing is left of its own
//! then, and the h2 crate looks at what it may give back when something is given back, which is never: nothing can come. So such a
//! stream looks itself, by giving back nothing, when the client has acknowledged.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::crowd::{Crowd, Told};
use crate::signal::{Reaches, Signal};
use crate::telemetry::metrics::DownstreamMetrics;

/// The window that streams have until a client has acknowledged another (RFC 9113 section 6.9.2).
const FIRST: u32 = 65_535;

/// The windows of a client's streams.
pub(super) struct Windows {
    told: Told,
    uploads: Rc<Uploads>,
}

/// The uploads of one connection; there are as many as there are other references to this.
#[derive(Debug)]
struct Uploads {
    crowd: Rc<Crowd>,
    /// The client was told of a narrower window, and is not known to have acknowledged it.
    narrowed: Cell<bool>,
    /// Some began meanwhile.
    late: Cell<bool>,
    /// How often it turned out to have.
    acknowledged: Rc<Signal<u64>>,
    counts: Arc<DownstreamMetrics>,
}

/// A stream on which a client may send; until this is dropped.
#[derive(Debug)]
pub(crate) struct Upload {
    uploads: Rc<Uploads>,
    /// The window may become narrower yet.
    late: Option<Box<Reaches<u64>>>,
}

/// A request as the h2 crate has it, and the way to its answer.
type Accepted = (http::Request<h2::RecvStream>, SendResponse<Bytes>);

impl Windows {
    /// Of a connection that is about to begin: [`Self::first`] is what its client hears. Where there is no crowd a stream may have
    /// `most` bytes unread.
    pub(super) fn new(crowd: Rc<Crowd>, most: u32, counts: Arc<DownstreamMetrics>) -> Self {
        let told = Told::new(crowd.clone(), most);
        let narrowed = Cell::new(told.last() < FIRST);
        let uploads = Rc::new(Uploads { crowd, narrowed, late: Cell::default(), acknowledged: Rc::default(), counts });
        Self { told, uploads }
    }

    /// In bytes.
    pub(super) fn first(&self) -> u32 {
        self.told.last()
    }

    /// Counts a stream on which the client may send.
    pub(super) fn upload(&self) -> Upload {
        let uploads = self.uploads.clone();
        uploads.crowd.enter();
        let late = uploads.narrowed.get().then(|| {
            uploads.late.set(true);
            let acknowledged = &uploads.acknowledged;
            Box::new(acknowledged.reaches(acknowledged.stage() + 1))
        });
        Upload { uploads, late }
    }

    /// The next stream. The client is told of another window before its streams are looked for: those that are on their way already
    /// would keep all windows as they are.
    pub(super) fn poll_accept<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        h2: &mut Connection<S, Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Accepted, h2::Error>>> {
        self.told.listen(cx);
        self.tell(h2);
        loop {
            let accepted = h2.poll_accept(cx);
            // The acknowledgement may have come right now; what is told then is still to be written.
            if accepted.is_ready() || !self.tell(h2) {
                return accepted;
            }
        }
    }

    /// Tells the client of the window; and where streams wait for it to acknowledge the last one, that one again, since the h2 crate
    /// takes another only then.
    fn tell<S: AsyncRead + AsyncWrite + Unpin>(&mut self, h2: &mut Connection<S, Bytes>) -> bool {
        let Self { told, uploads } = self;
        let (before, quiet) = (told.last(), Rc::strong_count(uploads) == 1);
        let tells = told.tell(quiet, uploads.late.get(), |window| h2.set_initial_window_size(window));
        if tells {
            uploads.narrowed.set(told.last() < before);
            if uploads.late.take() {
                uploads.acknowledged.advance(uploads.acknowledged.stage() + 1);
            }
        }
        tells
    }
}

impl Upload {
    /// Asked while nothing comes: completes once, where the window became narrower meanwhile.
    pub(crate) fn poll_narrowed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(late) = &mut self.late else { return Poll::Pending };
        let narrowed = Pin::new(&mut **late).poll(cx);
        if narrowed.is_ready() {
            self.late = None;
        }
        narrowed
    }

    /// A small part of it waits, joined with those before it.
    pub(crate) fn joined(&self) {
        self.uploads.counts.joined();
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.uploads.crowd.leave();
    }
}

#[cfg(test)]
mod tests;
