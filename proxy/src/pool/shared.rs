//! HTTP/2 connections that requests share.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use remora_model::HttpLimits;
use tokio::time::Instant;

use crate::breaker::Place;
use crate::crowd::Crowd;
use crate::http::h1::parse::Limits;
use crate::http::h2;
use crate::worker::Share;

/// A shared HTTP/2 connection.
pub(crate) struct Shared {
    /// Cloned for each request.
    pub(crate) sender: h2::Sender,
    /// Whether the other end is our own sidecar, which understands the hop header.
    pub(crate) ours: bool,
    /// The bounds of what it answers.
    pub(crate) limits: Limits,
    /// What was said on it.
    pub(crate) named: h2::Named,
    pub(super) active: Cell<u32>,
    pub(super) closed: Cell<bool>,
    retired: Cell<bool>,
    pub(super) last_used: Cell<Instant>,
    /// Of the open files, until it rests for the first time: from then on it is anybody's.
    share: Cell<Share>,
    /// Whether none of its streams has been written, but such as are over.
    pub(super) quiet: Cell<bool>,
    /// Among which its streams count.
    pub(super) crowd: Rc<Crowd>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("active", &self.active).field("closed", &self.closed).finish_non_exhaustive()
    }
}

/// A stream on a shared connection, and its place within the cluster's bounds; ends when dropped.
#[derive(Debug)]
pub(crate) struct Stream(pub(crate) Rc<Shared>, pub(crate) Option<Place>);

impl Shared {
    /// One that was dialled with this share, by the worker of this crowd.
    pub(crate) fn new(sender: h2::Sender, ours: bool, limits: &HttpLimits, share: Share, crowd: Rc<Crowd>) -> Rc<Self> {
        Rc::new(Self {
            sender,
            ours,
            limits: h2::field_limits(limits, ours),
            named: h2::Named::default(),
            active: Cell::new(0),
            closed: Cell::new(false),
            retired: Cell::new(false),
            last_used: Cell::new(Instant::now()),
            share: Cell::new(share),
            quiet: Cell::new(true),
            crowd,
        })
    }

    /// The driver found the connection ended.
    pub(crate) fn mark_closed(&self) {
        self.closed.set(true);
    }

    /// It was drained, and its grace is over: what is still under way ends here and now, by no fault of the server's.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.get()
    }

    pub(super) fn has_room(&self) -> bool {
        let active = self.active.get();
        // What the peer allows is behind a lock.
        !self.closed.get() && active < h2::MAX_STREAMS && (active as usize) < self.sender.current_max_send_streams()
    }
}

impl Stream {
    pub(super) fn new(shared: Rc<Shared>) -> Self {
        shared.active.set(shared.active.get() + 1);
        // Before its request is written, so that its window is told before it.
        shared.crowd.enter();
        Self(shared, None)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let active = self.0.active.get() - 1;
        self.0.active.set(active);
        self.0.crowd.leave();
        if active == 0 {
            self.0.quiet.set(true);
            self.0.last_used.set(Instant::now());
            self.0.share.take();
        }
    }
}
