//! One downstream connection between its heads: what was read of it, and the body that is being read from it.
//!
//! Shared by the connection's task and the body of its request, which reads straight from it wherever it is sent.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use remora_model::HttpLimits;
use tokio::time::{Instant, Sleep};

use super::framing::Framing;
use super::parse::{self, Limits, ParsedRequest};
use super::wire::{Reader, Wire};
use crate::Error;
use crate::http::body::{Body, BodyError};
use crate::io::{Downstream, Replay};
use crate::signal::Reaches;
use crate::socket;
use crate::watch::Watch;
use crate::worker::Room;

/// How long a head may take from its first byte to its last on a connection that is to end.
const LAST_HEAD: Duration = Duration::from_secs(2);
/// Bytes a client may send ahead of the answer to its last request.
const AHEAD: usize = 64 * 1024;
/// How long the answer to a whole request is awaited that is not its client's last, when the client has ended its side. It may have gone, or
/// wait, and either way it may have meant what it asked: who is not behind a proxy sends it and leaves. Not while others wait for what it
/// holds: whoever is there comes first.
const PARTING: Duration = Duration::from_secs(2);
/// How long a client that has ended its side behind bytes that are not read yet is taken to be there while none of them is: what it sent
/// may be whole, and is read as soon as there is room for it. Not while others wait, either.
const UNREAD: Duration = Duration::from_secs(30);

/// A connection, shared with the body that is read from it.
pub(super) type Shared = Rc<RefCell<Connection>>;

/// How far a connection is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// It is not in sight.
    No,
    /// The next answer is the last.
    WithAnswer,
    /// As soon as no request is under way.
    Now,
}

/// Why a connection ended in the middle of something.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    /// The client ended it.
    #[error("the client ended it")]
    Gone,
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The answer broke off.
    #[error("its answer broke off: {0}")]
    Answer(BodyError),
}

/// Who reads the body of the request under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lending {
    /// Nobody: it was read to its end.
    Read,
    /// The exchange.
    Lent,
    /// Nobody: the exchange is over, or does not want it.
    Unwanted,
    /// Nobody can.
    Invalid,
    /// Nobody: the client ended within it.
    Gone,
}

/// The patience with a client that may have gone: it has an end, and sooner where others wait for what the client holds.
#[derive(Debug)]
struct Parting {
    by: Pin<Box<Sleep>>,
    wanted: Reaches<u64>,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) wire: Wire<Downstream>,
    limits: Limits,
    room: Rc<Room>,
    /// How long a head may take from its first byte to its last.
    header_timeout: Duration,
    reader: Reader,
    lending: Lending,
    /// The connection's task, while another reads the body.
    task: Option<Waker>,
    /// Who waits for more of the body.
    body: Option<Waker>,
    /// The request under way is the client's last, so that its end says nothing but that. Of any other it says that the answer is
    /// not waited for, or not for long.
    last: bool,
    /// The client has ended its side, behind a whole request.
    ended: bool,
    /// When a client that has ended its side is taken to be gone.
    parting: Option<Box<Parting>>,
    /// Whether the client is still there, while nothing is read from it.
    watch: Watch,
    scanned: usize,
    /// When a head that has begun is late.
    late: Option<Pin<Box<Sleep>>>,
    hurried: bool,
}

impl Connection {
    pub(super) fn new(io: Replay<Downstream>, limits: HttpLimits, room: Rc<Room>) -> Self {
        Self {
            wire: Wire::new(io.stream, io.prefix),
            limits: (&limits).into(),
            room,
            header_timeout: limits.header_timeout,
            reader: Reader::Done,
            lending: Lending::Read,
            task: None,
            body: None,
            last: false,
            ended: false,
            parting: None,
            watch: Watch::default(),
            scanned: 0,
            late: None,
            hurried: false,
        }
    }

    /// The head of the next request; `None`: there is none.
    ///
    /// # Errors
    /// It cannot be understood, or is late.
    pub(super) fn poll_head(
        &mut self,
        ending: Ending,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<ParsedRequest>, Error>> {
        loop {
            if !self.wire.input.is_empty() {
                let parsed = parse::request(&mut self.wire.input, &self.limits, &mut self.scanned);
                match parsed.map_err(Error::InvalidHead)? {
                    Some(request) => {
                        (self.late, self.last, self.parting) = (None, !request.keep_alive, None);
                        return Poll::Ready(Ok(Some(request)));
                    }
                    // Empty lines before a head are none of it.
                    None if self.late.is_none() && self.wire.input.iter().any(|byte| !b"\r\n".contains(byte)) => {
                        self.late = Some(Box::pin(tokio::time::sleep(self.header_timeout)));
                    }
                    None => {}
                }
            }
            match self.wire.poll_fill(cx) {
                Poll::Ready(Ok(read)) if read > 0 => {}
                Poll::Ready(_) => return Poll::Ready(Ok(None)),
                Poll::Pending => break,
            }
        }
        let Some(late) = self.late.as_mut() else {
            // Whoever waits, be it for hours, holds no buffer.
            self.wire.free();
            return if ending == Ending::Now { Poll::Ready(Ok(None)) } else { Poll::Pending };
        };
        if ending == Ending::Now && !self.hurried {
            self.hurried = true;
            late.as_mut().reset(Instant::now() + LAST_HEAD);
        }
        ready!(late.as_mut().poll(cx));
        // A head of which only a part has come never becomes a request.
        Poll::Ready(if self.hurried { Ok(None) } else { Err(Error::HeadTimeout(self.header_timeout)) })
    }

    /// Whether the client has sent everything of its request, as far as it was read.
    pub(super) fn is_read(&self) -> bool {
        self.lending == Lending::Read
    }

    /// Whether nothing of what the client sent is left behind.
    pub(super) fn is_clean(&self) -> bool {
        self.is_read() && self.wire.input.is_empty()
    }

    /// Completes when the client is gone.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        match self.lending {
            Lending::Gone => return Poll::Ready(Ended::Gone),
            // Whoever waits for more of the body sees its end, but may have been given up since.
            Lending::Lent => keep(&mut self.task, cx),
            Lending::Unwanted | Lending::Invalid => {}
            Lending::Read => {
                while self.wire.input.len() < AHEAD && !self.ended {
                    match ready!(self.wire.poll_fill(cx)) {
                        Ok(0) => self.ended = true,
                        Ok(_) => {}
                        Err(error) => return Poll::Ready(error.into()),
                    }
                }
                if self.ended && !self.last {
                    self.part(PARTING);
                }
            }
        }
        if self.poll_parted(cx).is_ready() { Poll::Ready(Ended::Gone) } else { self.poll_watch(cx) }
    }

    /// The client has ended its side, and is waited for no longer than that.
    fn part(&mut self, patience: Duration) {
        self.parting.get_or_insert_with(|| {
            Box::new(Parting { by: Box::pin(tokio::time::sleep(patience)), wanted: self.room.wanted() })
        });
    }

    /// A client that has ended its side takes its answer, or has some of it to take, and so is there: who is not has that reset.
    pub(super) fn takes(&mut self) {
        self.parting = None;
    }

    /// Completes when a client that has ended its side is waited for no more.
    fn poll_parted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(Parting { by, wanted }) = self.parting.as_deref_mut() else { return Poll::Pending };
        if Pin::new(wanted).poll(cx).is_ready() { Poll::Ready(()) } else { by.as_mut().poll(cx) }
    }

    /// Completes when the client broke off, or ended within its request, while nothing is read from it. What it sent before its end
    /// may be all of the request, and is read first.
    fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let Self { wire: Wire { stream, input, .. }, watch, .. } = self;
        let whole = self.last || (self.ended && self.lending == Lending::Read);
        let mut unread = false;
        let gone = watch.poll(cx, || {
            let ended = !whole && socket::has_peer_ended(stream.tcp());
            unread = ended && (!input.is_empty() || stream.has_unread());
            socket::has_broken(stream.tcp()) || (ended && !unread)
        });
        if unread {
            self.part(UNREAD);
        }
        gone.map(|()| Ended::Gone)
    }

    /// Who reads the body may be another task, which tells this one of its end.
    fn lend(&mut self, lending: Lending, cx: Option<&Context<'_>>) {
        self.lending = lending;
        if let Some(task) = &self.task
            && !cx.is_some_and(|cx| cx.waker().will_wake(task))
        {
            task.wake_by_ref();
        }
    }

    /// Whether somebody still reads the request's body.
    pub(super) fn is_lent(&self) -> bool {
        self.lending == Lending::Lent
    }

    /// Reads more of a body that nobody wants; whether that was not its end.
    pub(super) fn poll_unwanted(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.lending != Lending::Unwanted {
            return Poll::Ready(false);
        }
        self.lending = match ready!(self.reader.poll_frame(&mut self.wire, cx)) {
            Some(Ok(_)) if !self.reader.is_done() => return Poll::Ready(true),
            Some(Err(_)) => Lending::Invalid,
            _ => Lending::Read,
        };
        Poll::Ready(false)
    }

    /// Whoever still reads the request's body finds that it broke off, rather than a part of it missing.
    pub(super) fn refuse_body(&mut self) {
        if self.lending == Lending::Lent {
            self.lending = Lending::Gone;
            self.body.take().inspect(Waker::wake_by_ref);
        }
    }

    /// Reads what nobody will see.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        self.wire.input.clear();
        self.wire.poll_fill(cx)
    }
}

fn keep(kept: &mut Option<Waker>, cx: &Context<'_>) {
    match kept {
        Some(waker) => waker.clone_from(cx.waker()),
        waker => *waker = Some(cx.waker().clone()),
    }
}

/// The body of the next request, which is framed so.
pub(super) fn body(connection: &Shared, framing: Framing) -> Body {
    let mut inner = connection.borrow_mut();
    let reader = Reader::new(framing, inner.limits);
    if reader.is_done() {
        return Body::Empty;
    }
    (inner.reader, inner.lending) = (reader, Lending::Lent);
    drop(inner);
    Body::H1Request(RequestReader { connection: Some(connection.clone()) })
}

/// The body of a request, read straight from its connection.
#[derive(Debug)]
pub struct RequestReader {
    /// Until the request ends: the connection may leave HTTP then.
    connection: Option<Shared>,
}

impl RequestReader {
    pub(in crate::http) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(connection) = &self.connection else { return Poll::Ready(None) };
        let mut borrowed = connection.borrow_mut();
        let inner = &mut *borrowed;
        if inner.lending != Lending::Lent {
            return Poll::Ready(Some(Err(BodyError::Closed("it is wanted no more".to_owned()))));
        }
        let Poll::Ready(frame) = inner.reader.poll_frame(&mut inner.wire, cx) else {
            keep(&mut inner.body, cx);
            return Poll::Pending;
        };
        // Its client's end may come behind more of it.
        inner.parting = None;
        let lending = match &frame {
            Some(Err(BodyError::Invalid(_))) => Lending::Invalid,
            Some(Err(_)) => Lending::Gone,
            _ if inner.reader.is_done() => Lending::Read,
            _ => return Poll::Ready(frame),
        };
        inner.lend(lending, Some(cx));
        drop(borrowed);
        self.connection = None;
        Poll::Ready(frame)
    }

    pub(in crate::http) fn is_done(&self) -> bool {
        self.connection.is_none()
    }

    pub(in crate::http) fn size_hint(&self) -> SizeHint {
        self.connection.as_ref().map_or(SizeHint::with_exact(0), |connection| connection.borrow().reader.size_hint())
    }
}

impl Drop for RequestReader {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection.borrow_mut().lend(Lending::Unwanted, None);
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
