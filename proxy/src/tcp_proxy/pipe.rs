//! A pipe through which splice(2) moves bytes from socket to socket without copying them.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a pipe holds, if the kernel allows it (its own default is a quarter).
const CAPACITY: usize = 256 * 1024;
/// Pipes a worker keeps for the next bulk transfer.
const KEPT: usize = 16;
/// Pipes a worker may have, however many open files there are: peers that stop reading fill them, and the kernel holds what is in them.
const MOST: usize = 64;

thread_local! {
    static IDLE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
    static OPEN: Cell<usize> = const { Cell::new(0) };
    static ALLOWED: Cell<usize> = const { Cell::new(MOST) };
}

/// Allows this thread no more pipes than so many. Each is two open files.
pub(crate) fn allow(most: usize) {
    ALLOWED.set(most.min(MOST));
}

/// A pipe. Filled only while it is empty, so that "would block" always speaks of the socket.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

impl Pipe {
    /// An idle pipe of this worker, or a new one if it may have one more.
    pub(super) fn new() -> Option<Self> {
        if let Some(pipe) = IDLE.with_borrow_mut(Vec::pop) {
            return Some(pipe);
        }
        if OPEN.get() >= ALLOWED.get() {
            return None;
        }
        let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).ok()?;
        OPEN.set(OPEN.get() + 1);
        // Refused when this user has many pipes already; the default size does, too.
        let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(CAPACITY as i32));
        Some(Self { read, write, held: 0 })
    }

    /// Keeps the pipe for another connection, unless bytes of this one are in it.
    pub(super) fn keep(self) {
        if self.is_empty() {
            IDLE.with_borrow_mut(|idle| {
                if idle.len() < KEPT {
                    idle.push(self);
                }
            });
        }
    }

    /// How many pipes this thread keeps.
    #[cfg(test)]
    pub(super) fn kept() -> usize {
        IDLE.with_borrow(Vec::len)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves what the socket has into the pipe; zero: the peer has ended.
    pub(super) fn poll_read_from(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<usize>> {
        debug_assert!(self.is_empty());
        loop {
            ready!(from.poll_read_ready(cx))?;
            match from.try_io(Interest::READABLE, || transfer(from, &self.write, CAPACITY)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    self.held = *result.as_ref().unwrap_or(&0);
                    return Poll::Ready(result);
                }
            }
        }
    }

    /// Moves what the pipe holds to the socket, as much as it takes.
    pub(super) fn poll_write_to(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || transfer(&self.read, to, self.held)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    self.held -= result.as_ref().unwrap_or(&0);
                    return Poll::Ready(result);
                }
            }
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        OPEN.set(OPEN.get() - 1);
    }
}

fn transfer(from: impl AsFd, to: impl AsFd, n: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    loop {
        match splice(&from, None, &to, None, n, flags) {
            Err(nix::errno::Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}
