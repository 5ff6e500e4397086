//! One direction of a relay.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::pipe::Pipe;
use crate::watch::Watch;

/// What one read takes at most: twice what TLS takes at once.
const SCRATCH: usize = 128 * 1024;
/// From here on a read is of a connection that has many bytes to move.
const BULK: usize = 64 * 1024;
/// After this much in a row the other connections of the worker have their turn.
const TURN: usize = 256 * 1024;

thread_local! {
    /// Bytes pass through here from a read to the write that follows at once; only what the other side does not take is
    /// kept per connection.
    static PASSAGE: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// One side of a relay.
pub(super) trait Endpoint: AsyncRead + AsyncWrite + Unpin {
    /// The socket itself where bytes pass it unchanged and none was read ahead.
    fn plain(&self) -> Option<&TcpStream> {
        None
    }

    /// Whether its connection is known to have broken, whatever it sent before and is not read yet.
    fn has_broken(&self) -> bool {
        false
    }
}

/// Which side of a direction broke.
#[derive(Debug)]
pub(super) enum Broken {
    Read(io::Error),
    Write(io::Error),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The reader has ended; the writer is being told.
    Ending,
    Over,
}

/// Moves bytes from one side to the other.
#[derive(Debug, Default)]
pub(super) struct Direction {
    state: State,
    /// Read, and not yet taken by the writer.
    rest: BytesMut,
    /// Where bytes wait in the kernel while there are many of them and both sides are plain.
    pipe: Option<Pipe>,
    /// The last read was of [`BULK`] or more: it pays to leave the bytes in the kernel.
    bulk: bool,
    /// Written since the last flush.
    unflushed: bool,
    /// Whether the reader is still there; since the writer first took nothing.
    watch: Watch,
}

impl Direction {
    /// Whether it has ended or is broken.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Moves what can be moved. Ready once: when the end was passed on, or one side broke.
    pub(super) fn poll<R: Endpoint, W: Endpoint>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        moved: impl Fn(usize),
    ) -> Poll<Result<(), Broken>> {
        if self.is_over() {
            return Poll::Pending;
        }
        let result = ready!(self.poll_open(cx, from, to, moved));
        self.state = State::Over;
        self.rest = BytesMut::new();
        self.release_pipe();
        Poll::Ready(result)
    }

    fn poll_open<R: Endpoint, W: Endpoint>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        moved: impl Fn(usize),
    ) -> Poll<Result<(), Broken>> {
        let mut turn = 0;
        loop {
            if self.poll_rest(cx, to, &moved).map_err(Broken::Write)?.is_pending() {
                return self.poll_broken(cx, from).map(Err);
            }
            if self.state == State::Ending {
                return Poll::Ready(ready!(Pin::new(to).poll_shutdown(cx)).map_err(Broken::Write));
            }
            if turn >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let read = match (from.plain(), to.plain()) {
                (Some(plain), Some(_)) if self.bulk && self.has_pipe() => self.poll_splice(cx, plain),
                _ => self.poll_pass(cx, from, to, &moved),
            };
            match read {
                Poll::Ready(Ok(0)) => self.state = State::Ending,
                Poll::Ready(Ok(n)) => turn += n,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.bulk = false;
                    self.release_pipe();
                    if self.unflushed {
                        ready!(Pin::new(to).poll_flush(cx)).map_err(Broken::Write)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Completes when the reader broke, while nothing is read from it because the writer takes nothing.
    fn poll_broken<R: Endpoint>(&mut self, cx: &mut Context<'_>, from: &R) -> Poll<Broken> {
        self.watch.poll(cx, || from.has_broken()).map(|()| Broken::Read(io::ErrorKind::ConnectionReset.into()))
    }

    /// Writes what was read before; ready when nothing is left.
    fn poll_rest<W: Endpoint>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        moved: &impl Fn(usize),
    ) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let n = ready!(Pin::new(&mut *to).poll_write(cx, &self.rest))?;
            self.rest.advance(taken(n)?);
            self.unflushed = true;
            moved(n);
        }
        self.rest = BytesMut::new();
        if let (Some(pipe), Some(to)) = (&mut self.pipe, to.plain()) {
            while !pipe.is_empty() {
                let n = ready!(pipe.poll_write_to(cx, to))?;
                moved(taken(n)?);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes what the other side takes at once; the rest is kept. Pending only for lack of bytes.
    fn poll_pass<R: Endpoint, W: Endpoint>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        moved: &impl Fn(usize),
    ) -> Poll<Result<usize, Broken>> {
        PASSAGE.with_borrow_mut(|passage| {
            let mut read = ReadBuf::new(passage);
            ready!(Pin::new(from).poll_read(cx, &mut read)).map_err(Broken::Read)?;
            let bytes = read.filled();
            let mut written = 0;
            while written < bytes.len() {
                match Pin::new(&mut *to).poll_write(cx, &bytes[written..]) {
                    Poll::Ready(result) => {
                        let n = result.and_then(taken).map_err(Broken::Write)?;
                        written += n;
                        self.unflushed = true;
                        moved(n);
                    }
                    Poll::Pending => {
                        self.rest.extend_from_slice(&bytes[written..]);
                        break;
                    }
                }
            }
            self.bulk = bytes.len() >= BULK;
            Poll::Ready(Ok(bytes.len()))
        })
    }

    /// Whether there is a pipe, if need be a new one; none where there are as many as there may be.
    fn has_pipe(&mut self) -> bool {
        if self.pipe.is_none() {
            self.pipe = Pipe::new();
        }
        self.pipe.is_some()
    }

    fn release_pipe(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            pipe.keep();
        }
    }

    /// Lets the kernel move the next bytes into the pipe, which is empty.
    fn poll_splice(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<Result<usize, Broken>> {
        let pipe = self.pipe.as_mut().expect("asked before");
        pipe.poll_read_from(cx, from).map_err(Broken::Read)
    }
}

/// A writer that takes nothing would be asked for ever.
fn taken(n: usize) -> io::Result<usize> {
    if n == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(n) }
}
