//! What the h2 crate does not tell or bound. It resets streams whose requests are malformed or too many without a word, and leaves out
//! of trailers what is too large: so the frames of a connection are watched, a look at each frame's nine bytes.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::takes::Takes;
use crate::telemetry::DownstreamMetrics;

const HEAD: usize = 9;
/// Of a reset's error code.
const CODE: usize = 4;
/// Of a setting: what it is, and its value (RFC 9113 section 6.5.1).
const SETTING: usize = 6;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const MAX_HEADER_LIST_SIZE: u16 = 6;
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
        if let Some(Written { frames, counts, .. }) = &mut self.written {
            frames.see(bytes, |frame| {
                if frame.kind == RST_STREAM {
                    counts.reset_sent(frame.code());
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
    /// The newest stream of a client: a block of a newer one is a request's head. An endpoint's answers come in any order, so that of one
    /// without a body the head is bounded as trailers are.
    newest: u32,
    /// Who learns what an endpoint says.
    takes: Option<Rc<Takes>>,
}

impl Blocks {
    fn downstream(most: usize) -> Self {
        let frames = Frames { skip: PREFACE, ..Frames::default() };
        Self { frames, bytes: None, most, newest: 0, takes: None }
    }

    fn upstream(most: usize, takes: Rc<Takes>) -> Self {
        Self { frames: Frames::default(), bytes: None, most, newest: u32::MAX, takes: Some(takes) }
    }

    /// Whether what was read keeps to the bound.
    fn see(&mut self, read: &[u8]) -> bool {
        let Self { frames, bytes, most, newest, takes } = self;
        let mut within = true;
        frames.see(read, |frame| {
            *bytes = match frame.kind {
                HEADERS if frame.stream > *newest => {
                    *newest = frame.stream;
                    None
                }
                HEADERS if frame.flags & END_STREAM != 0 => Some(frame.size),
                CONTINUATION => bytes.map(|bytes| bytes + frame.size),
                SETTINGS if frame.flags & ACK == 0 => {
                    if let Some(takes) = takes {
                        takes.hear(frame.setting(MAX_HEADER_LIST_SIZE), frame.ends);
                    }
                    None
                }
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
    stream: u32,
    /// Of its payload.
    size: usize,
    /// What is looked at of it: the code of a reset, one of the settings.
    payload: [u8; SETTING],
    /// Whether nothing more of it is looked at.
    ends: bool,
}

impl Frame {
    /// Of a reset.
    fn code(&self) -> u32 {
        let [a, b, c, d, ..] = self.payload;
        u32::from_be_bytes([a, b, c, d])
    }

    /// The value of this setting, where SETTINGS have it here.
    fn setting(&self, wanted: u16) -> Option<u32> {
        let [x, y, a, b, c, d] = self.payload;
        (self.size > 0 && u16::from_be_bytes([x, y]) == wanted).then(|| u32::from_be_bytes([a, b, c, d]))
    }
}

/// Where in a sequence of frames (RFC 9113 section 4.1) the last byte was.
#[derive(Default)]
struct Frames {
    /// The head of the frame, and a part of its payload.
    head: [u8; HEAD + SETTING],
    /// How much of that has come.
    have: usize,
    /// The payload's parts that are looked at: their size, if there are any, and what is left of them.
    part: usize,
    left: usize,
    /// What is left of the payload otherwise.
    skip: usize,
}

impl Frames {
    /// Calls for each frame, for SETTINGS with each setting.
    fn see(&mut self, mut bytes: &[u8], mut frame: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let passed = self.skip.min(bytes.len());
                self.skip -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            let want = HEAD + self.part;
            let taken = (want - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have < want {
                return;
            }
            let [a, b, c, kind, flags, w, x, y, z, payload @ ..] = self.head;
            let size = u32::from_be_bytes([0, a, b, c]) as usize;
            if self.part == 0 {
                // Of another size they are none.
                self.part = match kind {
                    RST_STREAM if size == CODE => CODE,
                    SETTINGS if size > 0 && size.is_multiple_of(SETTING) => SETTING,
                    _ => 0,
                };
                (self.left, self.skip) = if self.part > 0 { (size, 0) } else { (0, size) };
                if self.part > 0 {
                    continue;
                }
            }
            self.left -= self.part;
            let ends = self.left == 0;
            if ends {
                (self.have, self.part) = (0, 0);
            } else {
                self.have = HEAD;
            }
            let stream = u32::from_be_bytes([w, x, y, z]) & (u32::MAX >> 1);
            frame(Frame { kind, flags, stream, size, payload, ends });
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
                .for_each(|part| frames.see(part, |frame| codes.extend(reset(&frame).then(|| frame.code()))));
            assert_eq!(codes, [7, 1], "in parts of {cut}");
        }
    }

    #[tokio::test]
    async fn what_an_endpoint_says_is_found_however_the_frames_are_cut() {
        use crate::http::body::{Body, RequestBody};
        use crate::http::h1::parse::InvalidHead::BeyondEndpoint;

        let setting = |id: u16, value: u32| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
        let frame = |flags: u8, payload: &[u8]| {
            [&[0, 0, payload.len() as u8, SETTINGS, flags, 0, 0, 0, 0][..], payload].concat()
        };
        let said = [setting(3, 6), setting(MAX_HEADER_LIST_SIZE, 70_000), setting(4, 1)].concat();
        let bytes = [frame(0, &said), frame(ACK, b""), frame(0, &setting(5, 1)), vec![0; HEAD + SETTING]].concat();
        for cut in 1..=bytes.len() {
            let takes = Rc::new(Takes::new(false));
            let mut blocks = Blocks::upstream(100, takes.clone());
            assert!(bytes.chunks(cut).all(|part| blocks.see(part)));
            let mut body = RequestBody::new(Body::Empty, Default::default(), std::time::Duration::ZERO);
            let found = takes.check(70_001, &mut body).await;
            assert_eq!(found, Err(BeyondEndpoint { bytes: 70_001, most: 70_000 }), "in parts of {cut}");
        }
    }

    #[test]
    fn trailers_are_bounded_over_all_their_frames() {
        let frame = |kind: u8, flags: u8, size: usize| {
            [&[0, 0, size as u8, kind, flags, 0, 0, 0, 1], &*vec![HEADERS; size]].concat()
        };
        let head = [0, 0, 101, HEADERS, END_STREAM, 0, 0, 0];
        let whole = |kinds: &[(u8, u8, usize)], cut: usize| {
            // Heads are not trailers, though they end their streams.
            let heads = [1, 5].map(|stream| [&head[..], &[stream], &[HEADERS; 101]].concat()).concat();
            let mut bytes = [vec![HEADERS; PREFACE], heads].concat();
            kinds.iter().for_each(|(kind, flags, size)| bytes.extend(frame(*kind, *flags, *size)));
            let mut blocks = Blocks::downstream(100);
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
