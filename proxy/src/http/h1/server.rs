//! The downstream side of HTTP/1.0 and HTTP/1.1 (RFC 9112): a connection is one task, and one conversation.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, Version};
use http_body::Body as _;
use tokio::io::AsyncWrite as _;

use super::downstream::{Connection, Ended, Ending, Shared, body};
use super::encode;
use super::framing::{self, Framing};
use super::output::Output;
use super::parse::ParsedRequest;
use super::writer::Writer;
use crate::drain::Drain;
use crate::http::body::{Body, BodyError, Timed};
use crate::http::informational::Informational;
use crate::http::{RequestHead, ResponseHead};
use crate::io::{Downstream, Replay};
use crate::request::{HttpConnection, ResponseBody};
use crate::socket;
use crate::upstream::Upgrade;

/// How long a client that was told of the end may go on sending, so that it comes to read the answer.
const LINGER: Duration = Duration::from_secs(30);
/// Its silence that ends this earlier.
const SILENCE: Duration = Duration::from_secs(2);

/// How long the end of a body may come behind its last byte.
const END: Duration = Duration::from_secs(1);

/// Serves a downstream connection until it ends. A drain lets the request in hand finish and closes; where the pod only leaves, the
/// connection ends with its next answer, so that no request comes upon a closed one.
///
/// # Errors
/// The connection ended in the middle of something.
pub(crate) async fn serve(io: Replay<Downstream>, http: Rc<HttpConnection>, drain: Drain) -> Result<(), Ended> {
    let connection: Shared = Rc::new(RefCell::new(Connection::new(io, http.limits(), http.room().clone())));
    let upgrade = match converse(&connection, &http, drain).await {
        Ok(Some(upgrade)) => upgrade,
        ended => {
            // Whoever still sends a request on would hold the connection.
            connection.borrow_mut().refuse_body();
            return ended.map(drop);
        }
    };
    // Nobody else holds it: the request was read to its end.
    let Some(connection) = Rc::into_inner(connection) else { return Ok(()) };
    let wire = connection.into_inner().wire;
    http.tunnel(Replay { prefix: wire.input, stream: wire.stream }, upgrade).await;
    Ok(())
}

/// One request after another, until the end, or until the connection leaves HTTP.
async fn converse(connection: &Shared, http: &Rc<HttpConnection>, drain: Drain) -> Result<Option<Box<Upgrade>>, Ended> {
    let ending = Cell::new(Ending::No);
    let mut over = pin!(drain.over());
    let mut outlived = pin!(drain.outlived());
    let mut conversation = pin!(Conversation::new(connection, http, &ending).run());
    loop {
        let last = ending.get();
        tokio::select! {
            biased;
            ended = conversation.as_mut() => return ended,
            () = drain.signaled(), if last < Ending::Now => ending.set(Ending::Now),
            () = outlived.as_mut(), if last < Ending::WithAnswer => ending.set(Ending::WithAnswer),
            () = http.idle(), if last < Ending::Now => ending.set(Ending::Now),
            // What is under way is seen to break off.
            () = over.as_mut() => return Ok(None),
        }
    }
}

/// What follows an exchange.
enum Next {
    Request,
    Close,
    Tunnel(Box<Upgrade>),
}

/// The facts of a request that its answer depends on.
#[derive(Clone, Copy)]
struct Asked {
    version: Version,
    head: bool,
    keep_alive: bool,
    /// The client waits for a 100 before it sends the body.
    waits: bool,
}

struct Conversation<'a> {
    connection: &'a Shared,
    http: &'a Rc<HttpConnection>,
    ending: &'a Cell<Ending>,
    output: Output,
}

impl<'a> Conversation<'a> {
    fn new(connection: &'a Shared, http: &'a Rc<HttpConnection>, ending: &'a Cell<Ending>) -> Self {
        Self { connection, http, ending, output: Output::default() }
    }

    /// One request after another; a connection that leaves HTTP ends it.
    async fn run(mut self) -> Result<Option<Box<Upgrade>>, Ended> {
        loop {
            let head = poll_fn(|cx| self.connection.borrow_mut().poll_head(self.ending.get(), cx)).await;
            let next = match head {
                Ok(Some(request)) => self.exchange(request).await?,
                Ok(None) => Next::Close,
                Err(error) => {
                    let (head, body) = self.http.refuse(Box::new(RequestHead::unread()), error);
                    let asked = Asked { version: Version::HTTP_11, head: false, keep_alive: false, waits: false };
                    self.answer(asked, head, body).await?;
                    self.close(true).await;
                    return Ok(None);
                }
            };
            match next {
                Next::Request => {}
                Next::Tunnel(upgrade) => return Ok(Some(upgrade)),
                Next::Close => {
                    let more = !self.connection.borrow().is_clean();
                    self.close(more).await;
                    return Ok(None);
                }
            }
        }
    }

    async fn exchange(&mut self, request: ParsedRequest) -> Result<Next, Ended> {
        let ParsedRequest { head, framing, keep_alive, expect_continue } = request;
        let mut asked = Asked {
            version: head.version,
            head: head.method == Method::HEAD,
            // What follows a CONNECT that is refused may not be meant for us.
            keep_alive: keep_alive && head.method != Method::CONNECT,
            waits: expect_continue,
        };
        let body = body(self.connection, framing);
        let (head, mut body) = self.handle(&mut asked, head, body).await?;
        if let Some(upgrade) = body.take_upgrade() {
            self.output.text(|text| encode::response(text, &head, Framing::Empty, false, asked.version, false));
            poll_fn(|cx| self.connection.borrow_mut().wire.poll_write(&mut self.output, cx)).await?;
            return Ok(Next::Tunnel(upgrade));
        }
        if self.answer(asked, head, body).await? {
            return Ok(Next::Close);
        }
        if !self.connection.borrow().is_read() && !self.rest().await? {
            return Ok(Next::Close);
        }
        self.connection.borrow_mut().wire.settle();
        self.output.settle();
        Ok(Next::Request)
    }

    /// The request's body beyond the answer: its upload may go on, and what nobody wants is passed over for a while, since the client
    /// was not told that its next request comes upon a closed connection. Whether that can be found.
    async fn rest(&mut self) -> Result<bool, Ended> {
        let returned = poll_fn(|cx| {
            let mut connection = self.connection.borrow_mut();
            // A drain, or an idle timeout, waits for no upload whose answer is complete.
            match self.ending.get() {
                Ending::Now => Poll::Ready(Ok(false)),
                _ if !connection.is_lent() => Poll::Ready(Ok(true)),
                _ => connection.poll_gone(cx).map(Err),
            }
        });
        if !returned.await? {
            return Ok(false);
        }
        let unwanted = || {
            poll_fn(|cx| match self.ending.get() {
                Ending::Now => Poll::Ready(false),
                _ => self.connection.borrow_mut().poll_unwanted(cx),
            })
        };
        // Whoever closes instead has to hear a client that still sends for as long.
        let passed_over = async { while let Ok(true) = tokio::time::timeout(SILENCE, unwanted()).await {} };
        let _ = tokio::time::timeout(LINGER, passed_over).await;
        Ok(self.connection.borrow().is_read())
    }

    /// Has the request handled, and passes on what is said before the answer.
    async fn handle(
        &mut self,
        asked: &mut Asked,
        head: Box<RequestHead>,
        body: Body,
    ) -> Result<(ResponseHead, ResponseBody), Ended> {
        let Self { connection, http, output, .. } = self;
        let informational = Informational::default();
        let mut handled = pin!(http.handle(head, body, &informational));
        poll_fn(|cx| {
            let answer = handled.as_mut().poll(cx);
            while let Some(head) = informational.pop() {
                asked.waits &= head.status != StatusCode::CONTINUE;
                // HTTP/1.0 knows nothing of them (RFC 9110 section 15.2).
                if asked.version == Version::HTTP_11 {
                    output.text(|text| encode::response(text, &head, Framing::Empty, false, asked.version, false));
                }
            }
            if let Poll::Ready(answer) = answer {
                return Poll::Ready(Ok(answer));
            }
            let mut connection = connection.borrow_mut();
            if !output.is_empty()
                && let Poll::Ready(Err(error)) = connection.wire.poll_write(output, cx)
            {
                return Poll::Ready(Err(error.into()));
            }
            connection.poll_gone(cx).map(Err)
        })
        .await
    }

    /// Writes an answer; whether the connection ends with it.
    async fn answer(&mut self, asked: Asked, head: ResponseHead, body: ResponseBody) -> Result<bool, Ended> {
        let Self { connection, output, ending, .. } = self;
        let framing = framing(&asked, &head, &body);
        let mut body = pin!(body);
        let (unread, lent) = (!connection.borrow().is_read(), connection.borrow().is_lent());
        let refused = asked.waits || head.status.is_client_error() || head.status.is_server_error();
        // Where nobody takes the rest of the request the client may as well keep it.
        let refused = unread && (refused || !lent || body.ends_upload());
        let close = !asked.keep_alive || refused || ending.get() > Ending::No || framing == Framing::UntilClose;
        output.text(|text| encode::response(text, &head, framing, close, asked.version, asked.head));
        if framing == Framing::UntilClose {
            // However it breaks off: an end would say that it was complete.
            let _ = socket::abort_on_drop(connection.borrow().wire.stream.tcp());
        }
        let mut writer = Writer::new(framing);
        let written = poll_fn(|cx| poll_answer(connection, &mut writer, body.as_mut(), output, cx)).await;
        let error = match written {
            Ok(written) => {
                written?;
                if framing == Framing::UntilClose {
                    let _ = socket::end_on_drop(connection.borrow().wire.stream.tcp());
                }
                ended(body).await;
                return Ok(close);
            }
            Err(error) => error,
        };
        if output.has_room() {
            // What came before it broke off is still the client's.
            let rest = poll_fn(|cx| connection.borrow_mut().wire.poll_write(output, cx));
            let _ = tokio::time::timeout(LINGER, rest).await;
        }
        Err(Ended::Answer(error))
    }

    /// Ends the connection. A client that still sends is heard for a while: a reset would take the answer from it.
    async fn close(&mut self, more: bool) {
        self.connection.borrow_mut().refuse_body();
        let ended = poll_fn(|cx| Pin::new(&mut self.connection.borrow_mut().wire.stream).poll_shutdown(cx));
        // TLS has a last word, which a client that reads nothing takes for ever.
        if !matches!(tokio::time::timeout(LINGER, ended).await, Ok(Ok(()))) || !more {
            return;
        }
        let heard = async {
            loop {
                let read = poll_fn(|cx| self.connection.borrow_mut().poll_discard(cx));
                if !matches!(tokio::time::timeout(SILENCE, read).await, Ok(Ok(1..))) {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(LINGER, heard).await;
    }
}

/// Writes what there is of an answer. Completes with its end, and with the client's.
///
/// # Errors
/// The answer broke off.
fn poll_answer<B: Timed>(
    connection: &Shared,
    writer: &mut Writer,
    mut body: Pin<&mut B>,
    output: &mut Output,
    cx: &mut Context<'_>,
) -> Poll<Result<Result<(), Ended>, BodyError>> {
    let before = output.written_bytes();
    loop {
        let taken = writer.poll_take(body.as_mut(), output, cx)?.is_ready();
        let full = !output.has_room();
        // Not borrowed beyond this: an answer may carry what reads the request, and ends it where it gives up.
        let written = connection.borrow_mut().wire.poll_write(output, cx);
        match written {
            Poll::Ready(Err(error)) => return Poll::Ready(Ok(Err(error.into()))),
            Poll::Ready(Ok(())) if taken => return Poll::Ready(Ok(Ok(()))),
            Poll::Ready(Ok(())) if full => continue,
            Poll::Ready(Ok(())) => {}
            Poll::Pending => {
                // Only HTTP/2 is told by trailers.
                if let Poll::Ready(Err(error)) = body.as_mut().poll_blocked(output.written_bytes(), cx) {
                    return Poll::Ready(Err(error));
                }
            }
        }
        let mut connection = connection.borrow_mut();
        if !output.is_empty() || output.written_bytes() > before {
            connection.takes();
        }
        return connection.poll_gone(cx).map(|ended| Ok(Err(ended)));
    }
}

/// Waits for the end of a body of which every byte was written: its sender may say so a little later.
async fn ended(mut body: Pin<&mut ResponseBody>) {
    if body.is_over() {
        return;
    }
    // More than was announced does not reach the client.
    let end = poll_fn(|cx| {
        while let Some(Ok(frame)) = ready!(body.as_mut().poll_frame(cx))
            && frame.data_ref().is_none_or(Bytes::is_empty)
        {}
        Poll::Ready(())
    });
    let _ = tokio::time::timeout(END, end).await;
    body.complete();
}

/// How the body of an answer is framed.
fn framing(asked: &Asked, head: &ResponseHead, body: &ResponseBody) -> Framing {
    let bare = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if asked.head || bare || body.is_end_stream() {
        return Framing::Empty;
    }
    let announced = || framing::announced(&head.headers, asked.version);
    match body.size_hint().exact().or_else(announced) {
        Some(length) => Framing::Length(length),
        None if asked.version == Version::HTTP_11 => Framing::Chunked,
        None => Framing::UntilClose,
    }
}

#[cfg(test)]
mod tests;
