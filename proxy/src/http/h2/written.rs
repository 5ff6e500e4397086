//! What the h2 crate does without a word: it resets streams whose requests are malformed or too many. So the frames that it writes
//! are watched, a look at each frame's nine bytes.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::telemetry::DownstreamMetrics;

const HEAD: usize = 9;
const CODE: usize = 4;
const RST_STREAM: u8 = 3;

/// How often a connection may be looked at with something to write, and nothing written since, before its peer is taken not to read.
const LOOKS: u32 = 3;

/// How far the writing has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    written: Cell<u64>,
    /// The socket takes no more for now.
    blocked: Cell<bool>,
    /// When it was looked at last, and how often in vain.
    seen: Cell<u64>,
    looks: Cell<u32>,
}

impl Progress {
    /// Looks at it: whether there is nothing to write, or has been written nothing for some looks.
    pub(super) fn is_over(&self) -> bool {
        let vain = self.written.get() == self.seen.replace(self.written.get());
        self.looks.set(if vain { self.looks.get() + 1 } else { 0 });
        !self.blocked.get() || self.looks.get() >= LOOKS
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.blocked.set(written.is_pending());
        if let Poll::Ready(Ok(n)) = written {
            self.written.set(self.written.get() + n as u64);
        }
        written
    }
}

/// A downstream connection that counts what is written to it: bytes, and resets.
pub(super) struct Watched<S> {
    io: S,
    frames: Frames,
    counts: Arc<DownstreamMetrics>,
    progress: Rc<Progress>,
}

impl<S> Watched<S> {
    pub(super) fn new(io: S, counts: Arc<DownstreamMetrics>) -> Self {
        Self { io, frames: Frames::default(), counts, progress: Rc::default() }
    }

    pub(super) fn progress(&self) -> Rc<Progress> {
        self.progress.clone()
    }

    fn see(&mut self, bytes: &[u8]) {
        let Self { frames, counts, .. } = self;
        frames.see(bytes, |code| counts.reset_sent(code));
    }
}

/// Where in a sequence of frames (RFC 9113 section 4.1) the last byte was.
#[derive(Default)]
struct Frames {
    /// The head of the frame, and the code of a reset.
    head: [u8; HEAD + CODE],
    /// How much of it has come.
    have: usize,
    /// What is left of the payload.
    skip: usize,
}

impl Frames {
    fn see(&mut self, mut bytes: &[u8], mut reset: impl FnMut(u32)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let passed = self.skip.min(bytes.len());
                self.skip -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            let want = if self.have < HEAD { HEAD } else { HEAD + CODE };
            let taken = (want - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            let [a, b, c, kind, ..] = self.head;
            if self.have == HEAD && kind != RST_STREAM {
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                self.have = 0;
            } else if self.have == HEAD + CODE {
                let [.., w, x, y, z] = self.head;
                reset(u32::from_be_bytes([w, x, y, z]));
                self.have = 0;
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        let written = ready!(self.progress.note(written))?;
        self.see(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        let written = ready!(self.progress.note(written))?;
        let mut left = written;
        for buf in bufs {
            let seen = left.min(buf.len());
            self.see(&buf[..seen]);
            left -= seen;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        // TLS takes more at a time than it passes on: only this tells that some of it waits.
        self.progress.blocked.set(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_written_and_not_passed_on_is_not_over() {
        use std::future::poll_fn;
        use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};

        // As TLS does, it takes more than its stream.
        let (near, mut far) = tokio::io::duplex(8);
        let mut watched = Watched::new(BufWriter::with_capacity(64, near), Arc::default());
        let progress = watched.progress();
        assert!(progress.is_over(), "nothing was written");
        watched.write_all(&[0; 32]).await.unwrap();
        let waits = poll_fn(|cx| Poll::Ready(Pin::new(&mut watched).poll_flush(cx).is_pending())).await;
        assert!(waits);
        assert!(!progress.is_over(), "some of it waits for the peer");
        let mut read = [0; 32];
        let (flushed, _) = tokio::join!(watched.flush(), far.read_exact(&mut read));
        flushed.unwrap();
        assert!(progress.is_over());
    }

    #[test]
    fn resets_are_found_however_the_frames_are_cut() {
        let frame =
            |kind: u8, payload: &[u8]| [&[0, 0, payload.len() as u8, kind, 0, 0, 0, 0, 1][..], payload].concat();
        let bytes = [
            frame(0, b"data that holds a \x03"),
            frame(RST_STREAM, &[0, 0, 0, 7]),
            frame(4, b""),
            frame(RST_STREAM, &[0, 0, 0, 1]),
        ]
        .concat();
        for cut in 1..=bytes.len() {
            let (mut frames, mut codes) = (Frames::default(), Vec::new());
            bytes.chunks(cut).for_each(|part| frames.see(part, |code| codes.push(code)));
            assert_eq!(codes, [7, 1], "in parts of {cut}");
        }
    }
}
