//! The upstream side of HTTP/1.1: a connection has no task of its own. Whoever has a request drives it, in the exchange and
//! then in the body of the answer, which goes on with an upload that is not over yet.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::BytesMut;
use http::{StatusCode, Version};
use http_body::Body as _;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::Instant;

use super::encode;
use super::framing::{self, Framing};
use super::output::{KEPT, Output};
use super::parse::{self, Asked, Limits, ParsedResponse};
use super::wire::{Reader, Wire};
use super::writer::Writer;
use crate::http::body::{Body, BodyError, RequestBody};
use crate::http::informational::Informational;
use crate::http::{RequestHead, ResponseHead};
use crate::io::{Replay, Upstream};
use crate::live::LiveConnection;
use crate::socket;
use crate::upstream::{Lease, Upgrade, UpstreamConnection, while_it_moves};
use crate::worker::Share;

mod answer;
mod unanswered;

pub(crate) use answer::ResponseReader;
pub(crate) use unanswered::{Unanswered, Why};

/// An idle connection is retired this much before its server would close it: a request may be on its way by then.
const EARLY: Duration = Duration::from_secs(1);

/// A connection to an upstream, for one request at a time.
#[derive(Debug)]
pub(crate) struct Sender {
    inner: Rc<RefCell<Inner>>,
    /// Of the mesh's connections.
    live: Option<Rc<LiveConnection>>,
}

struct Inner {
    wire: Wire<Upstream>,
    limits: Limits,
    output: Output,
    upload: Option<Upload>,
    /// Of the answer under way.
    reader: Reader,
    scanned: usize,
    /// Whether a request was answered on it before.
    used: bool,
    /// What TLS had written before the request under way.
    sealed: Option<u64>,
    /// Whether anything was read since the request under way began.
    heard: bool,
    /// Whether its server ended its side since then.
    ended: bool,
    /// Why nothing more can be written.
    unwritable: Option<String>,
    /// Whether its server keeps it for another request.
    kept: bool,
    /// Whether its server may take all requests on it for one user's.
    private: bool,
    /// How long its server keeps it idle.
    idle: Option<Duration>,
    /// Since when it waits for work, or did before the request under way.
    rested: Option<Instant>,
    /// Completes when it was drained and its grace is over.
    over: Option<Pin<Box<dyn Future<Output = ()>>>>,
    counted: UpstreamConnection,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("reader", &self.reader).field("kept", &self.kept).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Upload {
    body: RequestBody,
    writer: Writer,
}

impl Sender {
    /// HTTP/1.1 on a fresh connection.
    pub(crate) fn new(
        io: Upstream,
        counted: UpstreamConnection,
        live: Option<Rc<LiveConnection>>,
        limits: Limits,
    ) -> Self {
        let over = live.as_ref().map(|_| Box::pin(counted.over()) as Pin<Box<dyn Future<Output = ()>>>);
        let inner = Inner {
            wire: Wire::new(io, BytesMut::new()),
            limits,
            output: Output::default(),
            upload: None,
            reader: Reader::Done,
            scanned: 0,
            used: false,
            sealed: None,
            heard: false,
            ended: false,
            unwritable: None,
            kept: true,
            private: false,
            idle: None,
            rested: None,
            over,
            counted,
        };
        Self { inner: Rc::new(RefCell::new(inner)), live }
    }

    /// Whether it is to take no more requests.
    pub(crate) fn is_draining(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.is_draining())
    }

    /// Whether the server of an idle connection said anything, if only that it ends. Wakes nobody. Asked once: it is given up then.
    pub(crate) fn has_ended(&self) -> bool {
        let (mut cx, mut byte) = (Context::from_waker(Waker::noop()), [0]);
        // What is read here is lost, and so is the connection: nobody asked for it.
        let (inner, mut read) = (&mut *self.inner.borrow_mut(), ReadBuf::new(&mut byte));
        let said = Pin::new(&mut inner.wire.stream).poll_read(&mut cx, &mut read).is_ready();
        if !read.filled().is_empty() {
            inner.counted.surplus_answer();
        }
        said
    }

    /// Whether the kernel knows of anything that an idle connection's server said, if only that it ends.
    pub(crate) fn has_input(&self) -> bool {
        socket::has_input(self.inner.borrow().wire.stream.tcp())
    }

    /// Whoever waits for a request holds no buffer.
    pub(crate) fn free_buffer(&self) {
        let inner = &mut *self.inner.borrow_mut();
        inner.wire.free();
        inner.output.settle();
    }

    /// Whether its exchange left it clean, since what came behind the answer would be taken for the next one, and nobody waits for
    /// its file. Asked once behind each: what came is counted.
    pub(crate) fn is_reusable(&self) -> bool {
        let inner = self.inner.borrow();
        if !inner.kept || inner.private || !inner.reader.is_done() || !inner.is_sent() {
            return false;
        }
        if !inner.wire.input.is_empty() {
            inner.counted.surplus_answer();
            return false;
        }
        !inner.counted.file.is_wanted()
    }

    /// Whether the request is still being sent though its answer is complete.
    pub(crate) fn is_uploading(&self) -> bool {
        let inner = self.inner.borrow();
        inner.kept && inner.reader.is_done() && inner.upload.is_some()
    }

    /// Sends the rest of a request that was answered before its end, for as long as it gets on.
    pub(crate) async fn finish(&self) {
        let finishing = pin!(poll_fn(|cx| self.inner.borrow_mut().poll_finish(cx)));
        if !while_it_moves(finishing, || self.inner.borrow().output.written_bytes()).await {
            self.inner.borrow_mut().kept = false;
        }
    }

    /// It serves a request that has this share of the open files, until it rests.
    pub(crate) fn serve(&self, share: Share) {
        self.inner.borrow().counted.file.serve(share);
    }

    /// It waits for work.
    pub(crate) fn rest(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.rested = Some(Instant::now());
        inner.counted.file.take_share();
    }

    /// Since when it waits for work, or did before the request under way; `None`: that is its first.
    pub(crate) fn rested(&self) -> Option<Instant> {
        self.inner.borrow().rested
    }

    /// How long it may be idle before its server could close it.
    pub(crate) fn idle_limit(&self) -> Option<Duration> {
        let idle = self.inner.borrow().idle?;
        Some(idle.saturating_sub(EARLY).max(idle / 2))
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn send(
        &self,
        head: &RequestHead,
        body: RequestBody,
        informational: &Informational,
    ) -> Result<(ResponseHead, Body), Unanswered> {
        let harmless = head.method.is_idempotent() && body.is_empty();
        let repeatable = harmless && head.repeats;
        let asked = Asked::of(head);
        self.inner.borrow_mut().begin(head, body);
        if !harmless && self.inner.borrow().is_stale() {
            return Err(self.inner.borrow_mut().unanswered(Why::Closed("it was closed while idle".to_owned()), false));
        }
        let answered = poll_fn(|cx| self.inner.borrow_mut().poll_answer(asked, informational, cx)).await;
        match answered {
            Ok(ParsedResponse { head, framing, keep_alive, idle_timeout }) => {
                let mut inner = self.inner.borrow_mut();
                inner.used = true;
                inner.kept = keep_alive;
                inner.idle = idle_timeout.or(inner.idle);
                inner.reader = Reader::new(framing, inner.limits);
                let body = match inner.reader.is_done() {
                    true => Body::Empty,
                    false => Body::H1Response(ResponseReader::new(self.inner.clone())),
                };
                Ok((head, body))
            }
            Err(why) => Err(self.inner.borrow_mut().unanswered(why, repeatable)),
        }
    }

    /// The connection that leaves HTTP, and holds what its request held.
    pub(crate) fn upgrade(self, lease: Option<Lease>) -> Option<Box<Upgrade>> {
        let Inner { wire, counted, .. } = Rc::into_inner(self.inner)?.into_inner();
        let io = Replay { prefix: wire.input, stream: wire.stream };
        Some(Box::new(Upgrade { io, live: self.live, counted, lease }))
    }
}

impl Inner {
    fn begin(&mut self, head: &RequestHead, body: RequestBody) {
        let framing = framing(head, &body);
        self.output.begin();
        self.sealed = self.wire.stream.sealed();
        self.private |= self.output.text(|text| encode::request(text, head, framing));
        self.upload = Some(Upload { body, writer: Writer::new(framing) });
        (self.heard, self.ended, self.scanned) = (false, false, 0);
    }

    fn is_sent(&self) -> bool {
        self.upload.is_none() && self.output.is_empty()
    }

    fn sent(&mut self) {
        if self.upload.take().is_some_and(|upload| !upload.writer.is_repeatable()) {
            self.output.forget();
        }
        // Its answer may take long to come.
        if self.output.written_bytes() > KEPT as u64 {
            self.output.settle();
        }
    }

    /// Whether the kernel knows that the server closed it, which the runtime may not have noticed yet.
    fn is_stale(&self) -> bool {
        self.used && socket::has_input(self.wire.stream.tcp())
    }

    /// Sends what there is to send.
    ///
    /// # Errors
    /// The request broke off.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        while !self.is_sent() && self.unwritable.is_none() {
            let taken = match &mut self.upload {
                Some(Upload { body, writer }) => writer.poll_take(Pin::new(body), &mut self.output, cx)?.is_ready(),
                None => true,
            };
            let full = !self.output.has_room();
            match self.wire.poll_write(&mut self.output, cx) {
                Poll::Ready(Ok(())) if taken => self.sent(),
                Poll::Ready(Ok(())) if full => {}
                // The rest of the body has not come yet.
                Poll::Ready(Ok(())) => return Ok(()),
                Poll::Pending => break,
                // There may be an answer all the same.
                Poll::Ready(Err(error)) => self.unwritable = Some(error.to_string()),
            }
        }
        match self.upload.as_mut().map(|upload| upload.body.poll_blocked(cx)) {
            Some(Poll::Ready(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Sends what is left of a request whose answer is complete.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The server's end, or its word, is the upload's end; and so is the end of its drain's grace.
        if self.poll_over(cx).is_err() || self.poll_send(cx).is_err() || self.wire.poll_fill(cx).is_ready() {
            self.kept = false;
            return Poll::Ready(());
        }
        if self.is_sent() || self.unwritable.is_some() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn poll_answer(
        &mut self,
        asked: Asked,
        informational: &Informational,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ParsedResponse, Why>> {
        self.poll_over(cx).map_err(|error| Why::Closed(error.to_string()))?;
        self.poll_send(cx).map_err(Why::Request)?;
        loop {
            if !self.wire.input.is_empty() {
                let parsed = parse::response(&mut self.wire.input, asked, &self.limits, &mut self.scanned);
                match parsed.map_err(Why::Invalid)? {
                    Some(answer) if answer.head.status == StatusCode::SWITCHING_PROTOCOLS => {
                        return Poll::Ready(self.switched(asked, answer));
                    }
                    Some(ParsedResponse { head, .. }) if head.status.is_informational() => {
                        if !informational.push(head) {
                            return Poll::Ready(Err(Why::Misplaced("too many informational responses")));
                        }
                        continue;
                    }
                    Some(answer) => return Poll::Ready(Ok(answer)),
                    None => {}
                }
            }
            let closed = match ready!(self.wire.poll_fill(cx)) {
                Ok(0) => {
                    self.ended = true;
                    "it was closed".to_owned()
                }
                Ok(_) => {
                    self.heard = true;
                    self.output.forget();
                    continue;
                }
                Err(error) => {
                    // TLS was not told, but its connection has ended.
                    self.ended = error.kind() == ErrorKind::UnexpectedEof;
                    error.to_string()
                }
            };
            return Poll::Ready(Err(Why::Closed(self.unwritable.take().unwrap_or(closed))));
        }
    }

    /// A 101: the bytes behind it are the new protocol's.
    fn switched(&self, asked: Asked, answer: ParsedResponse) -> Result<ParsedResponse, Why> {
        match (asked.upgrade, self.is_sent()) {
            (true, true) => Ok(answer),
            (true, false) => Err(Why::Misplaced("101 before the end of the request")),
            (false, _) => Err(Why::Misplaced("101 to a request that asked for nothing")),
        }
    }

    /// Sends what is left of a request while its answer comes.
    ///
    /// # Errors
    /// The answer ends with it.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        self.poll_over(cx)?;
        if let Err(error) = self.poll_send(cx) {
            // Its answer is there, so it need not be whole; but what follows it could not be told from the rest of it.
            (self.upload, self.kept) = (None, false);
            // A server that waits for the rest is told by the connection's end alone.
            if matches!(error, BodyError::Stalled(_)) {
                return Err(error);
            }
        }
        Ok(())
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        match self.over.as_mut().map(|over| over.as_mut().poll(cx)) {
            Some(Poll::Ready(())) => Err(BodyError::Retired),
            _ => Ok(()),
        }
    }
}

/// How the body of a request is framed.
fn framing(head: &RequestHead, body: &RequestBody) -> Framing {
    if body.is_end_stream() {
        return Framing::Empty;
    }
    match body.size_hint().exact().or_else(|| framing::announced(&head.headers, Version::HTTP_11)) {
        Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    }
}

#[cfg(test)]
mod tests;
