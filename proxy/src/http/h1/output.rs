//! What is on its way out of one HTTP/1 connection: the proxy's own text (heads, what stands around chunks), and between it the parts of
//! bodies as they were read, written together in one system call.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// Pieces written by one system call at most.
const PIECES: usize = 32;
/// Bytes on their way out beyond which nothing more is taken from a body.
const MOST_OUTPUT: usize = 64 * 1024;
/// Pieces of which the same is true: each takes memory beside its bytes.
const MOST_PIECES: usize = 256;
/// Bytes of a body that are kept beyond their writing, and in how many parts: each holds the buffer it was read into.
const MOST_KEPT: usize = 64 * 1024;
const MOST_PARTS: usize = 64;
/// Text that a connection keeps room for between messages.
pub(super) const KEPT: usize = 4 * 1024;

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// The proxy's own text, of all pieces.
    text: BytesMut,
    pieces: VecDeque<Piece>,
    size: usize,
    /// Whether something was written that the stream may still hold back.
    unflushed: bool,
    /// Bytes of the message that were written.
    written: u64,
    /// Whether the parts of its body can be had back, as far as they were written.
    keeps: bool,
    kept: Vec<Bytes>,
    kept_size: usize,
}

#[derive(Debug)]
enum Piece {
    /// So many bytes of the text.
    Text(usize),
    /// A part of a body, of which so many bytes were written.
    Data(Bytes, usize),
}

impl Output {
    /// A new message begins. What is written of its body is kept until [`forget`](Self::forget) is called, or it is too much.
    pub(super) fn begin(&mut self) {
        self.forget();
        (self.written, self.keeps) = (0, true);
    }

    /// What is written is kept no more.
    pub(super) fn forget(&mut self) {
        (self.keeps, self.kept_size) = (false, 0);
        self.kept.clear();
    }

    /// Bytes of the message that were written.
    pub(super) fn written_bytes(&self) -> u64 {
        self.written
    }

    /// Appends what `write` writes.
    pub(super) fn text<T>(&mut self, write: impl FnOnce(&mut BytesMut) -> T) -> T {
        let before = self.text.len();
        let result = write(&mut self.text);
        let added = self.text.len() - before;
        self.size += added;
        match self.pieces.back_mut() {
            _ if added == 0 => {}
            Some(Piece::Text(size)) => *size += added,
            _ => self.pieces.push_back(Piece::Text(added)),
        }
        result
    }

    /// Appends a part of a body.
    pub(super) fn data(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.size += data.len();
            self.pieces.push_back(Piece::Data(data, 0));
        }
    }

    /// Whether there is room for more of a body.
    pub(super) fn has_room(&self) -> bool {
        self.size < MOST_OUTPUT && self.pieces.len() < MOST_PIECES
    }

    /// Whether everything has left.
    pub(super) fn is_empty(&self) -> bool {
        self.size == 0 && !self.unflushed
    }

    /// A message has left: what more it took than most do is given back.
    pub(super) fn settle(&mut self) {
        // Asks for the whole allocation: `capacity` tells of its end only.
        if self.text.is_empty() && self.text.try_reclaim(KEPT + 1) {
            self.text = BytesMut::new();
        }
        if self.pieces.is_empty() && self.pieces.capacity() > PIECES {
            self.pieces = VecDeque::new();
        }
    }

    /// Whether it holds room for so much text.
    #[cfg(test)]
    pub(super) fn holds_room(&mut self, text: usize) -> bool {
        self.text.try_reclaim(text)
    }

    /// Takes the parts of the body back, unless something that was written of it was not kept; the text is gone.
    pub(super) fn take_data(&mut self) -> Option<VecDeque<Bytes>> {
        let Self { pieces, kept, keeps, .. } = std::mem::take(self);
        let left = pieces.into_iter();
        let left = left.filter_map(|piece| if let Piece::Data(data, _) = piece { Some(data) } else { None });
        keeps.then(|| kept.into_iter().chain(left).collect())
    }

    /// Writes all of it.
    pub(super) fn poll_write_to<S: AsyncWrite>(
        &mut self,
        mut stream: Pin<&mut S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.size > 0 {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let mut text = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = match piece {
                    Piece::Text(size) => {
                        text += size;
                        IoSlice::new(&self.text[text - size..text])
                    }
                    Piece::Data(data, written) => IoSlice::new(&data[*written..]),
                };
            }
            let count = self.pieces.len().min(PIECES);
            let written = ready!(match &slices[..count] {
                // Cheaper for the kernel.
                [one] => stream.as_mut().poll_write(cx, one),
                several => stream.as_mut().poll_write_vectored(cx, several),
            })?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written(written);
        }
        if self.unflushed {
            ready!(stream.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn written(&mut self, mut count: usize) {
        self.unflushed = true;
        self.written += count as u64;
        self.size -= count;
        while count > 0 {
            let piece = self.pieces.front_mut().expect("no more is written than there is");
            let size = match piece {
                Piece::Text(size) => *size,
                Piece::Data(data, written) => data.len() - *written,
            };
            let taken = size.min(count);
            count -= taken;
            match piece {
                Piece::Text(size) => {
                    self.text.advance(taken);
                    *size -= taken;
                }
                Piece::Data(_, written) => *written += taken,
            }
            if taken == size
                && let Some(Piece::Data(data, _)) = self.pieces.pop_front()
            {
                self.keep(data);
            }
        }
    }

    fn keep(&mut self, data: Bytes) {
        if !self.keeps {
            return;
        }
        self.kept_size += data.len();
        if self.kept_size <= MOST_KEPT && self.kept.len() < MOST_PARTS {
            self.kept.push(data);
        } else {
            self.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;

    use super::super::wire::Wire;
    use super::*;

    /// Where that lay which it was told to write, all in one call.
    #[derive(Default)]
    struct Places(Vec<*const u8>);

    impl AsyncWrite for Places {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            unreachable!("several pieces")
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.0.extend(slices.iter().map(|slice| slice.as_ptr()));
            Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_body_is_written_from_where_it_was_read_with_the_head_before_it() {
        let parts = [vec![b'x'; 9], vec![b'y'; 9_000]].map(Bytes::from);
        let mut output = Output::default();
        output.text(|out| out.extend_from_slice(b"head"));
        parts.iter().for_each(|part| output.data(part.clone()));
        let mut places = Places::default();
        poll_fn(|cx| output.poll_write_to(Pin::new(&mut places), cx)).await.unwrap();
        assert_eq!(places.0[1..], parts.map(|part| part.as_ptr()));
    }

    #[tokio::test]
    async fn text_and_data_leave_in_order_however_little_is_taken_at_a_time() {
        let (client, mut server) = tokio::io::duplex(7);
        let mut wire = Wire::new(client, BytesMut::new());
        let mut output = Output::default();
        let mut wanted = String::new();
        for round in 0..3 * PIECES {
            let text = format!("head {round} ");
            output.text(|out| out.extend_from_slice(text.as_bytes()));
            output.text(|out| out.extend_from_slice(b"more "));
            output.data(Bytes::from(format!("data {round} ")));
            wanted += &format!("{text}more data {round} ");
        }
        assert!(!output.is_empty() && output.written_bytes() == 0);
        let write = async {
            poll_fn(|cx| wire.poll_write(&mut output, cx)).await.unwrap();
            assert!(output.is_empty() && output.written_bytes() > 0);
            drop(wire);
        };
        let mut read = String::new();
        let (_, count) = tokio::join!(write, server.read_to_string(&mut read));
        assert_eq!((count.unwrap(), &read), (wanted.len(), &wanted));
    }

    #[tokio::test]
    async fn small_pieces_are_bounded_and_their_memory_is_given_back() {
        let (client, mut server) = tokio::io::duplex(1 << 20);
        let mut wire = Wire::new(client, BytesMut::new());
        let mut output = Output::default();
        let mut rounds = 0;
        while output.has_room() {
            output.text(|out| out.extend_from_slice(b"1\r\n"));
            output.data(Bytes::from_static(b"x"));
            output.text(|out| out.extend_from_slice(b"\r\n"));
            rounds += 1;
        }
        assert_eq!(rounds, MOST_PIECES / 2);
        poll_fn(|cx| wire.poll_write(&mut output, cx)).await.unwrap();
        assert!(output.has_room());
        output.text(|out| out.extend_from_slice(&[b't'; 4 * KEPT]));
        output.settle();
        assert!(output.text.len() == 4 * KEPT, "what is to be written stays");
        poll_fn(|cx| wire.poll_write(&mut output, cx)).await.unwrap();
        output.settle();
        assert!(!output.holds_room(1) && output.pieces.capacity() == 0);
        output.text(|out| out.extend_from_slice(b"head"));
        poll_fn(|cx| wire.poll_write(&mut output, cx)).await.unwrap();
        output.settle();
        assert!(output.holds_room(4), "what every message needs is kept");
        drop(wire);
        server.read_to_end(&mut Vec::new()).await.unwrap();
    }
}
