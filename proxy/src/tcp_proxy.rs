//! Relays bytes both ways between two connections until both are done.
//!
//! Is handed a downstream and an upstream connection, counts what it relays as it goes. Invariants: what was read is written
//! before the end of its direction is passed on; the end of one direction leaves the other running; a reset on one side
//! becomes a reset on the other, within a second or so where that reads nothing. A silent connection holds no buffer.

mod direction;
mod pipe;
mod wary;

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use self::direction::{Broken, Direction, Endpoint};
pub(crate) use self::pipe::allow as allow_pipes;
use self::wary::Wary;
use crate::io::{Downstream, Replay, Upstream};
use crate::socket;
use crate::telemetry::ConnectionTelemetry;

/// The idle timeout is checked this many times in its length, so that a connection is closed at most a quarter late.
const CHECKS: u32 = 4;

/// Counts bytes when the other side has taken them.
pub trait ByteCount {
    /// `n` more bytes went to the client.
    fn sent(&self, n: usize);
    /// `n` more bytes came from the client.
    fn received(&self, n: usize);
}

impl ByteCount for ConnectionTelemetry {
    fn sent(&self, n: usize) {
        Self::sent(self, n);
    }

    fn received(&self, n: usize) {
        Self::received(self, n);
    }
}

/// Nobody asks.
impl ByteCount for () {
    fn sent(&self, _: usize) {}

    fn received(&self, _: usize) {}
}

/// Why a relay ended before both sides were done.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Nothing moved in either direction for this long.
    #[error("idle for {0:?}")]
    Idle(Duration),
    /// It was told to end.
    #[error("told to end")]
    Over,
    /// The client is a sidecar, whose hello came behind the server's first word.
    #[error("a sidecar's hello was late")]
    LateHello,
    /// The downstream connection broke.
    #[error("the downstream connection broke: {0}")]
    Downstream(io::Error),
    /// The upstream connection broke.
    #[error("the upstream connection broke: {0}")]
    Upstream(io::Error),
}

/// Relays until both sides have ended, one breaks, nothing moves for `idle` (zero: no bound), or it is `over`. Bytes that
/// were read before, in the prefixes, go first. With `wary` a sidecar's hello does not pass, where nothing of the client was read before.
///
/// # Errors
/// It did not end by both sides' ends: then both are reset, so that neither takes what it has for all there was.
pub async fn relay(
    mut downstream: Replay<Downstream>,
    mut upstream: Replay<Upstream>,
    wary: bool,
    idle: Duration,
    count: &impl ByteCount,
    over: impl Future<Output = ()>,
) -> Result<(), RelayError> {
    let relaying = async {
        if !wary {
            return relay_between(&mut downstream, &mut upstream, idle, count).await;
        }
        let mut downstream = Wary::new(&mut downstream);
        let result = relay_between(&mut downstream, &mut upstream, idle, count).await;
        if downstream.was_late() { Err(RelayError::LateHello) } else { result }
    };
    let result = tokio::select! {
        result = relaying => result,
        () = over => Err(RelayError::Over),
    };
    if result.is_err() {
        // Should the option fail, the connection is gone already.
        let _ = socket::abort_on_drop(downstream.stream.tcp());
        let _ = socket::abort_on_drop(upstream.stream.tcp());
    }
    result
}

impl Endpoint for Replay<Downstream> {
    fn plain(&self) -> Option<&TcpStream> {
        match &self.stream {
            Downstream::Plain(stream) if self.prefix.is_empty() => Some(stream),
            _ => None,
        }
    }

    fn has_broken(&self) -> bool {
        socket::has_broken(self.stream.tcp())
    }
}

impl Endpoint for Replay<Upstream> {
    fn plain(&self) -> Option<&TcpStream> {
        match &self.stream {
            Upstream::Plain(stream) if self.prefix.is_empty() => Some(stream),
            _ => None,
        }
    }

    fn has_broken(&self) -> bool {
        socket::has_broken(self.stream.tcp())
    }
}

async fn relay_between<D: Endpoint, U: Endpoint>(
    downstream: &mut D,
    upstream: &mut U,
    idle: Duration,
    count: &impl ByteCount,
) -> Result<(), RelayError> {
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let mut watch = (!idle.is_zero()).then(|| IdleWatch::new(idle));
    let moved = Cell::new(false);
    let mut broken = None;
    poll_fn(|cx| {
        let upwards = up.poll(cx, downstream, upstream, |n| {
            moved.set(true);
            count.received(n);
        });
        match upwards {
            Poll::Ready(Err(Broken::Read(error))) => return Poll::Ready(Err(RelayError::Downstream(error))),
            // What the upstream said before it broke still comes down; its end follows at once.
            Poll::Ready(Err(Broken::Write(error))) => broken = Some(RelayError::Upstream(error)),
            _ => {}
        }
        let downwards = down.poll(cx, upstream, downstream, |n| {
            moved.set(true);
            count.sent(n);
        });
        match downwards {
            Poll::Ready(Err(Broken::Read(error))) => {
                return Poll::Ready(Err(broken.take().unwrap_or(RelayError::Upstream(error))));
            }
            Poll::Ready(Err(Broken::Write(error))) => broken = broken.take().or(Some(RelayError::Downstream(error))),
            _ => {}
        }
        if up.is_over() && down.is_over() {
            return Poll::Ready(broken.take().map_or(Ok(()), Err));
        }
        if let Some(watch) = &mut watch
            && watch.poll(cx, moved.take()).is_ready()
        {
            return Poll::Ready(Err(RelayError::Idle(idle)));
        }
        Poll::Pending
    })
    .await
}

/// Ends when nothing moved for a number of checks in a row. The clock is read once a check, not once a read.
struct IdleWatch {
    every: Duration,
    quiet: u32,
    timer: Pin<Box<Sleep>>,
}

impl IdleWatch {
    fn new(idle: Duration) -> Self {
        let every = idle / CHECKS;
        Self { every, quiet: 0, timer: Box::pin(sleep(every)) }
    }

    fn poll(&mut self, cx: &mut Context<'_>, moved: bool) -> Poll<()> {
        if moved {
            self.quiet = 0;
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            // The check at which something moved last began its quiet time somewhere in between.
            if self.quiet == CHECKS {
                return Poll::Ready(());
            }
            self.quiet += 1;
            self.timer.as_mut().reset(Instant::now() + self.every);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
