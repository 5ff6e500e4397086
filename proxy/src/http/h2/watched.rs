//! What the h2 crate does not tell or bound. It resets streams whose requests are malformed or too many without a word, and leaves out
//! of trailers what is too large: so the frames of a connection are watched, a look at each frame's nine bytes.

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
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
/// A client's, before its frames (RFC 9113 section 3.4).
const PREFACE: usize = 24;

/// How often a connection may be looked at with something to write, and nothing written since, before its peer is taken not to read.
const LOOKS: u32 = 3;

/// How far the writing has come; and whether the reading has come to its end.
#[derive(Debug, Default)]
pub(super) struct Progress {
    written: Cell<u64>,
    /// The socket takes no more for now.
    blocked: Cell<bool>,
    /// When it was looked at last, and how often in vain.
    seen: Cell<u64>,
    looks: Cell<u32>,
    /// Trailers are far too large, so nothing more is read.
    too_large: Cell<bool>,
}

impl Progress {
    /// Looks at it: whether there is nothing to write, or has been written nothing for some looks.
    pub(super) fn is_over(&self) -> bool {
        let vain = self.written.get() == self.seen.replace(self.written.get());
        self.looks.set(if vain { self.looks.get() + 1 } else { 0 });
        !self.blocked.get() || self.looks.get() >= LOOKS
    }

    /// Whether trailers are far too large. Nothing more is read then.
    pub(super) fn is_too_large(&self) -> bool {
        self.too_large.get()
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.blocked.set(written.is_pending());
        if let Poll::Ready(Ok(n)) = written {
            self.written.set(self.written.get() + n as u64);
        }
        written
    }
}

/// A connection that ends with too large a block of trailers. A downstream one also counts what is written to it: bytes, and resets.
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
        Self { io, blocks: Blocks::new(block, PREFACE), written: Some(written) }
    }

    /// An endpoint's.
    pub(super) fn upstream(io: S, block: usize) -> Self {
        Self { io, blocks: Blocks::new(block, 0), written: None }
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
        if let Some(Written { frames, counts, .. }) = &mut self.written {
            frames.see(bytes, |frame| {
                if frame.kind == RST_STREAM {
                    counts.reset_sent(frame.code);
                }
            });
        }
    }
}

/// The header blocks of the frames that were read (RFC 9113 section 4.3), as far as they may be trailers'. Heads the h2 crate bounds itself.
struct Blocks {
    frames: Frames,
    /// How much of one has come that ends its stream, as trailers do.
    bytes: Option<usize>,
    most: usize,
}

impl Blocks {
    /// The first `skipped` bytes are no frames.
    fn new(most: usize, skipped: usize) -> Self {
        Self { frames: Frames { skip: skipped, ..Frames::default() }, bytes: None, most }
    }

    /// Whether what was read keeps to the bound.
    fn see(&mut self, read: &[u8]) -> bool {
        let Self { frames, bytes, most } = self;
        let mut within = true;
        frames.see(read, |frame| {
            *bytes = match frame.kind {
                HEADERS if frame.flags & END_STREAM != 0 => Some(frame.size),
                CONTINUATION => bytes.map(|bytes| bytes + frame.size),
                _ => None,
            };
            within &= bytes.is_none_or(|bytes| bytes <= *most);
        });
        within
    }
}

struct Frame {
    kind: u8,
    flags: u8,
    /// Of its payload.
    size: usize,
    /// Of a reset.
    code: u32,
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
    fn see(&mut self, mut bytes: &[u8], mut frame: impl FnMut(Frame)) {
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
            if self.have < want {
                return;
            }
            let [a, b, c, kind, flags, .., w, x, y, z] = self.head;
            let size = u32::from_be_bytes([0, a, b, c]) as usize;
            // A reset of another size is none.
            if self.have == HEAD && kind == RST_STREAM && size == CODE {
                continue;
            }
            let code = if self.have > HEAD { u32::from_be_bytes([w, x, y, z]) } else { 0 };
            self.skip = if self.have > HEAD { 0 } else { size };
            self.have = 0;
            frame(Frame { kind, flags, size, code });
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.written.as_ref().is_some_and(|written| written.progress.is_too_large()) {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if self.blocks.see(&buf.filled()[before..]) {
            return Poll::Ready(Ok(()));
        }
        let Some(written) = &self.written else {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "trailers are far too large")));
        };
        // Its client is told why it ends.
        written.progress.too_large.set(true);
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

    #[test]
    fn resets_are_found_however_the_frames_are_cut() {
        let frame =
            |kind: u8, payload: &[u8]| [&[0, 0, payload.len() as u8, kind, 0, 0, 0, 0, 1][..], payload].concat();
        let bytes = [
            frame(0, b"data that holds a \x03"),
            frame(RST_STREAM, &[0, 0, 0, 7]),
            frame(RST_STREAM, &[0; 5]),
            frame(4, b""),
            frame(RST_STREAM, &[0, 0, 0, 1]),
        ]
        .concat();
        for cut in 1..=bytes.len() {
            let (mut frames, mut codes) = (Frames::default(), Vec::new());
            let reset = |frame: &Frame| frame.kind == RST_STREAM && frame.size == CODE;
            bytes
                .chunks(cut)
                .for_each(|part| frames.see(part, |frame| codes.extend(reset(&frame).then_some(frame.code))));
            assert_eq!(codes, [7, 1], "in parts of {cut}");
        }
    }

    #[test]
    fn trailers_are_bounded_over_all_their_frames() {
        let frame = |kind: u8, flags: u8, size: usize| {
            [&[0, 0, size as u8, kind, flags, 0, 0, 0, 1], &*vec![HEADERS; size]].concat()
        };
        let whole = |kinds: &[(u8, u8, usize)], cut: usize| {
            let mut bytes = vec![HEADERS; PREFACE];
            kinds.iter().for_each(|(kind, flags, size)| bytes.extend(frame(*kind, *flags, *size)));
            let mut blocks = Blocks::new(100, PREFACE);
            bytes.chunks(cut).all(|part| blocks.see(part))
        };
        const END: u8 = END_STREAM | 4;
        for cut in [1, 7, 1000] {
            assert!(whole(&[(HEADERS, 1, 60), (CONTINUATION, 4, 40), (0, 1, 200), (HEADERS, END, 100)], cut));
            assert!(whole(&[(HEADERS, 4, 101), (HEADERS, 0, 90), (CONTINUATION, 4, 90), (0, END_STREAM, 101)], cut));
            assert!(!whole(&[(HEADERS, 1, 60), (CONTINUATION, 0, 40), (CONTINUATION, 4, 1)], cut));
            assert!(!whole(&[(RST_STREAM, 0, 5), (HEADERS, END, 101)], cut));
            assert!(!whole(&[(RST_STREAM, 0, 4), (HEADERS, END_STREAM, 50), (CONTINUATION, 4, 51)], cut));
        }
    }
}
