//! Byte streams of the data path: concrete types, one branch where plain and TLS differ.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

use crate::socket;

/// A stream whose first bytes were read already, and are read again.
#[derive(Debug)]
pub struct Replay<S> {
    /// Read before the stream; empty once replayed.
    pub prefix: BytesMut,
    /// The stream itself.
    pub stream: S,
}

impl<S> Replay<S> {
    /// A stream nothing was read from yet.
    pub fn new(stream: S) -> Self {
        Self { prefix: BytesMut::new(), stream }
    }
}

/// What a downstream connection reads and writes.
#[derive(Debug)]
pub enum Downstream {
    /// Plaintext, or an application's own TLS that passes as bytes.
    Plain(TcpStream),
    /// TLS terminated here; boxed, since it is a kilobyte and the plain case should not carry it.
    Tls(Box<server::TlsStream<Replay<TcpStream>>>),
}

/// What a connection to an endpoint reads and writes.
#[derive(Debug)]
pub enum Upstream {
    /// Plaintext.
    Plain(TcpStream),
    /// TLS originated here.
    Tls(Box<client::TlsStream<Counted>>),
}

/// A connection below TLS, which takes more at a time than it passes on: counts what was passed on.
#[derive(Debug)]
pub struct Counted {
    stream: TcpStream,
    written: u64,
}

impl Counted {
    /// A connection to which nothing was written yet.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, written: 0 }
    }

    /// The connection itself.
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.stream
    }

    fn count(&mut self, written: io::Result<usize>) -> io::Result<usize> {
        self.written += *written.as_ref().unwrap_or(&0) as u64;
        written
    }
}

impl Downstream {
    /// The connection below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.get_ref().0.stream,
        }
    }

    /// Whether something came that is not read yet. Of TLS that may be its last word.
    pub(crate) fn has_unread(&self) -> bool {
        // TLS reads no more than it has plaintext for.
        let opened = matches!(self, Self::Tls(stream) if !stream.get_ref().1.wants_read());
        opened || socket::has_unread(self.tcp())
    }
}

impl Upstream {
    /// The connection below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0.tcp(),
        }
    }

    /// Bytes that TLS has written to the connection so far; `None`: what is written goes there as it is.
    pub(crate) fn sealed(&self) -> Option<u64> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => Some(stream.get_ref().0.written),
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf).map(|written| self.count(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs).map(|written| self.count(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replay<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let n = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..n]);
        self.prefix.advance(n);
        if self.prefix.is_empty() {
            // Frees the buffer: a connection may live for days.
            self.prefix = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replay<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What rustls copies at once. More, behind the head of a record and so unaligned, glibc before 2.40 copies by `rep movsb`, which
/// takes several times as long on AMD's Zen 3 and 4.
const PIECE: usize = 2048;
/// Pieces in a write: as much as rustls takes at once.
const PIECES: usize = 64 * 1024 / PIECE;

/// Writes what it is given into TLS in pieces that are quick to copy.
fn poll_write_pieces<S: AsyncWrite>(
    stream: Pin<&mut S>,
    cx: &mut Context<'_>,
    bufs: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if bufs.iter().all(|buf| buf.len() <= PIECE) {
        return match bufs {
            [buf] => stream.poll_write(cx, buf),
            bufs => stream.poll_write_vectored(cx, bufs),
        };
    }
    let mut pieces = [io::IoSlice::new(&[]); PIECES];
    let mut count = 0;
    for (place, piece) in pieces.iter_mut().zip(bufs.iter().flat_map(|buf| buf.chunks(PIECE))) {
        *place = io::IoSlice::new(piece);
        count += 1;
    }
    stream.poll_write_vectored(cx, &pieces[..count])
}

macro_rules! plain_or_tls {
    ($type:ty) => {
        impl AsyncRead for $type {
            fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
                    Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
                }
            }
        }

        impl AsyncWrite for $type {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
                    Self::Tls(stream) => poll_write_pieces(Pin::new(stream.as_mut()), cx, &[io::IoSlice::new(buf)]),
                }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
                    Self::Tls(stream) => poll_write_pieces(Pin::new(stream.as_mut()), cx, bufs),
                }
            }

            fn is_write_vectored(&self) -> bool {
                true
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
                    Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
                    Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
                }
            }
        }
    };
}

plain_or_tls!(Downstream);
plain_or_tls!(Upstream);

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes everything, in writes of so many slices.
    #[derive(Default)]
    struct Taker {
        bytes: Vec<u8>,
        largest: usize,
    }

    impl AsyncWrite for Taker {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            for buf in bufs {
                self.largest = self.largest.max(buf.len());
                self.bytes.extend_from_slice(buf);
            }
            Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_tls_is_given_comes_in_order_in_small_pieces() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        for lengths in [&[0][..], &[1], &[2048], &[2049], &[9, 16_384], &[3, 0, 2050, 5], &[65_536], &[9, 190_000]] {
            let mut rest = &bytes[..];
            let bufs: Vec<_> =
                lengths.iter().map(|length| io::IoSlice::new(rest.split_off(..*length).unwrap())).collect();
            let mut taker = Taker::default();
            let mut cx = Context::from_waker(Waker::noop());
            let Poll::Ready(Ok(n)) = poll_write_pieces(Pin::new(&mut taker), &mut cx, &bufs) else { panic!() };
            let all: usize = lengths.iter().sum();
            assert!(n == all || (n < all && n > PIECE * (PIECES - lengths.len())), "{lengths:?}: {n} were taken");
            assert!(taker.bytes == bytes[..n] && taker.largest <= PIECE, "{lengths:?}");
        }
    }
}
