//! A client whose server spoke before it, at a port where sidecars are answered by TLS: one whose hello was late takes what the server said
//! for no answer, and its hello is none of the server's business.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::direction::Endpoint;
use crate::inspect::{self, Verdict};
use crate::io::{Downstream, Replay};

/// What one read takes until it is judged: a hello is smaller.
const READ: usize = 4096;

/// The client, of whose first bytes a sidecar's hello breaks the relay.
pub(super) struct Wary<'a> {
    client: &'a mut Replay<Downstream>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Judging,
    Passing,
    Late,
}

impl<'a> Wary<'a> {
    pub(super) fn new(client: &'a mut Replay<Downstream>) -> Self {
        Self { client, stage: Stage::Judging }
    }

    /// Whether a sidecar's hello came.
    pub(super) fn was_late(&self) -> bool {
        self.stage == Stage::Late
    }

    /// Ready when what the client says may pass.
    fn poll_judge(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.stage == Stage::Judging {
            let mut space = [MaybeUninit::uninit(); READ];
            let mut read = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut self.client.stream).poll_read(cx, &mut read))?;
            let prefix = &mut self.client.prefix;
            prefix.extend_from_slice(read.filled());
            self.stage = match inspect::classify(prefix) {
                Verdict::Tls(hello) if hello.is_mesh() => Stage::Late,
                // The server may wait for what else is whole already.
                Verdict::NeedMore if inspect::begins_tls(prefix) && !read.filled().is_empty() => Stage::Judging,
                _ => Stage::Passing,
            };
        }
        if self.was_late() { Poll::Ready(Err(io::ErrorKind::InvalidData.into())) } else { Poll::Ready(Ok(())) }
    }
}

impl Endpoint for Wary<'_> {
    fn plain(&self) -> Option<&TcpStream> {
        self.client.plain().filter(|_| self.stage == Stage::Passing)
    }

    fn has_broken(&self) -> bool {
        self.client.has_broken()
    }
}

impl AsyncRead for Wary<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_judge(cx))?;
        Pin::new(&mut *self.client).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wary<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.client).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.client).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.client).poll_shutdown(cx)
    }
}
