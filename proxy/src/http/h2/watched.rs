//! What the h2 crate does not tell or bound. It resets streams whose requests are malformed or too many without a word, leaves out
//! of trailers what is too large, and takes any number of frames that mean nothing: so the frames of a connection are watched, a look
//! at each frame's nine bytes.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::blocks::Blocks;
use super::floods::data_frames;
use super::frames::{DATA, Frames, RST_STREAM};
use super::takes::Takes;
use crate::telemetry::DownstreamMetrics;

/// How often a connection may be looked at with something to write, and nothing written since, before its peer is taken not to read.
const LOOKS: u32 = 3;

/// How far the writing has come; and whether the reading has come to an end.
#[derive(Debug, Default)]
pub(super) struct Progress {
    written: Cell<u64>,
    /// The socket takes no more for now.
    blocked: Cell<bool>,
    /// When it was looked at last, and how often in vain.
    seen: Cell<u64>,
    looks: Cell<u32>,
    /// DATA frames, by their size.
    data: Cell<u64>,
    /// What the peer sends too much of, as metrics count it: nothing more is read then.
    abuse: Cell<Option<&'static str>>,
}

impl Progress {
    /// Looks at it: whether there is nothing to write, or has been written nothing for some looks.
    pub(super) fn is_over(&self) -> bool {
        let vain = self.written.get() == self.seen.replace(self.written.get());
        self.looks.set(if vain { self.looks.get() + 1 } else { 0 });
        !self.blocked.get() || self.looks.get() >= LOOKS
    }

    /// What the peer sends too much of, as metrics count it. Nothing more is read then.
    pub(super) fn abuse(&self) -> Option<&'static str> {
        self.abuse.get()
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.blocked.set(written.is_pending());
        if let Poll::Ready(Ok(n)) = written {
            self.written.set(self.written.get() + n as u64);
        }
        written
    }
}

/// A connection that ends with too large a block of trailers. A downstream one also ends with a flood of frames, and counts what is
/// written to it: bytes, DATA frames and resets.
pub(crate) struct Watched<S> {
    io: S,
    blocks: Blocks,
    written: Option<Written>,
}

struct Written {
    frames: Frames,
    counts: Arc<DownstreamMetrics>,
    progress: Rc<Progress>,
}

impl<S> Watched<S> {
    /// A client's, whose trailers may take a header block of `block` bytes.
    pub(super) fn downstream(io: S, block: usize, counts: Arc<DownstreamMetrics>) -> Self {
        let written = Written { frames: Frames::default(), counts, progress: Rc::default() };
        Self { io, blocks: Blocks::downstream(block), written: Some(written) }
    }

    /// An endpoint's, whose SETTINGS are told to `takes`.
    pub(super) fn upstream(io: S, block: usize, takes: Rc<Takes>) -> Self {
        Self { io, blocks: Blocks::upstream(block, takes), written: None }
    }

    /// Of a downstream connection.
    pub(super) fn progress(&self) -> Rc<Progress> {
        self.written.as_ref().map(|written| written.progress.clone()).unwrap_or_default()
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &self.written {
            Some(watched) => watched.progress.note(written),
            None => written,
        }
    }

    fn see(&mut self, bytes: &[u8]) {
        if let Some(Written { frames, counts, progress }) = &mut self.written {
            frames.see(bytes, |frame| match frame.kind {
                DATA => progress.data.set(progress.data.get() + data_frames(frame.size)),
                RST_STREAM => counts.reset_sent(frame.code()),
                _ => {}
            });
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let progress = self.written.as_ref().map(|written| &written.progress);
        if progress.is_some_and(|progress| progress.abuse().is_some()) {
            return Poll::Pending;
        }
        let sent = progress.map_or(0, |progress| progress.data.get());
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let Err(abuse) = self.blocks.see(&mut buf.filled_mut()[before..], sent) else { return Poll::Ready(Ok(())) };
        let Some(written) = &self.written else {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "trailers are far too large")));
        };
        // Its client is told why it ends.
        written.progress.abuse.set(Some(abuse));
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        let written = ready!(self.note(written))?;
        self.see(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        let written = ready!(self.note(written))?;
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
        if let Some(written) = &self.written {
            written.progress.blocked.set(flushed.is_pending());
        }
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
    async fn who_is_sent_more_may_give_more_window_back() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        const UPDATE: [u8; 13] = [0, 0, 4, 8, 0, 0, 0, 0, 1, 0, 0, 0, 1];
        // As many frames as are written, in parts of so many bytes, or of two buffers at a time.
        for (frames, part) in [(0, 1), (50, 1), (50, 7), (50, 0)] {
            let (near, mut far) = tokio::io::duplex(1 << 20);
            let mut watched = Watched::downstream(near, 0, Arc::default());
            let progress = watched.progress();
            let data = [0, 0, 3, DATA, 0, 0, 0, 0, 1, 1, 2, 3];
            if part == 0 {
                let (head, rest) = data.split_at(5);
                for _ in 0..frames {
                    let both = [io::IoSlice::new(head), io::IoSlice::new(rest)];
                    assert_eq!(watched.write_vectored(&both).await.unwrap(), data.len());
                }
            } else {
                for part in data.repeat(frames).chunks(part) {
                    watched.write_all(part).await.unwrap();
                }
            }
            // Before them comes the preface.
            let most = 1_000 + 20 * frames;
            far.write_all(&[vec![0; 24], UPDATE.repeat(most)].concat()).await.unwrap();
            let mut read = vec![0; 24 + UPDATE.len() * most];
            watched.read_exact(&mut read).await.unwrap();
            assert_eq!(progress.abuse(), None, "{frames} frames in parts of {part}");
            far.write_all(&UPDATE).await.unwrap();
            let over = std::future::poll_fn(|cx| {
                Poll::Ready(Pin::new(&mut watched).poll_read(cx, &mut ReadBuf::new(&mut [0; 64])).is_pending())
            });
            assert!(over.await);
            assert_eq!(progress.abuse(), Some("h2_window_update_flood"), "{frames} frames in parts of {part}");
        }
    }

    #[tokio::test]
    async fn what_was_written_and_not_passed_on_is_not_over() {
        use std::future::poll_fn;
        use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};

        // As TLS does, it takes more than its stream.
        let (near, mut far) = tokio::io::duplex(8);
        let mut watched = Watched::downstream(BufWriter::with_capacity(64, near), 0, Arc::default());
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
}
