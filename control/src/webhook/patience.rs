//! How long a connection may keep us waiting: long between requests, a moment from a request's first byte to its answer.

use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// The bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Until the first byte of a request; and for an answer to be taken.
    pub(super) idle: Duration,
    /// From that byte until there is an answer.
    pub(super) request: Duration,
}

/// A stream of requests and answers that fails with [`ErrorKind::TimedOut`] when it has to be waited for beyond a bound.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    patience: Patience,
    deadline: Pin<Box<Sleep>>,
    in_request: bool,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, patience: Patience) -> Self {
        Self { stream, patience, deadline: Box::pin(sleep(patience.idle)), in_request: false }
    }

    /// What is read begins a request, what is written is its answer.
    fn now_in_request(&mut self, in_request: bool) {
        if self.in_request != in_request {
            self.in_request = in_request;
            let bound = if in_request { self.patience.request } else { self.patience.idle };
            self.deadline.as_mut().reset(Instant::now() + bound);
        }
    }

    fn bounded<T>(&mut self, cx: &mut Context<'_>, polled: Poll<Result<T>>) -> Poll<Result<T>> {
        if polled.is_pending() && self.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "it took too long")));
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.now_in_request(true);
        }
        self.bounded(cx, polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.now_in_request(false);
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.bounded(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.bounded(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.bounded(cx, polled)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http::Response;
    use http_body_util::{BodyExt, Full};
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const PATIENCE: Patience = Patience { idle: Duration::from_secs(180), request: Duration::from_secs(10) };

    /// A connection to a server that answers each request with its body.
    fn connected() -> DuplexStream {
        let (client, server) = duplex(64);
        let service = service_fn(async |request: http::Request<hyper::body::Incoming>| {
            let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::new(body)))
        });
        let stream = TokioIo::new(Patient::new(server, PATIENCE));
        tokio::spawn(http1::Builder::new().header_read_timeout(None).serve_connection(stream, service));
        client
    }

    /// How many seconds it takes the server to close.
    async fn until_closed(client: &mut DuplexStream) -> u64 {
        let began = Instant::now();
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
        (Instant::now() - began).as_secs()
    }

    async fn exchange(client: &mut DuplexStream) {
        client.write_all(b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nyes").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nyes") {
            assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0, "{answer:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_between_requests_may_be_long() {
        let mut client = connected();
        for _ in 0..2 {
            sleep(Duration::from_secs(179)).await;
            exchange(&mut client).await;
        }
        assert_eq!(until_closed(&mut client).await, 180);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_has_begun_may_not() {
        for part in ["P", "POST / HTTP/1.1\r\ncontent-", "POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nye"] {
            let mut client = connected();
            exchange(&mut client).await;
            client.write_all(part.as_bytes()).await.unwrap();
            assert_eq!(until_closed(&mut client).await, 10, "{part:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_drops_is_no_longer() {
        let mut client = connected();
        let began = Instant::now();
        while client.write_all(b"P").await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
        // It is seen with the next drop.
        let seconds = (Instant::now() - began).as_secs();
        assert!((10..=11).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_takes_ends_it() {
        let mut client = connected();
        let body = "x".repeat(1000);
        client.write_all(format!("POST / HTTP/1.1\r\ncontent-length: 1000\r\n\r\n{body}").as_bytes()).await.unwrap();
        sleep(Duration::from_secs(181)).await;
        let mut taken = Vec::new();
        let _ = client.read_to_end(&mut taken).await;
        assert!(taken.len() < 1000, "it went on: {} bytes", taken.len());
    }
}
