//! Drain as every connection sees it: a signal that is given once, and guards that tell when nobody is left.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::{Notify, watch};

/// A connection's view of the drain.
#[derive(Clone, Debug)]
pub(crate) struct Drain(watch::Receiver<bool>);

impl Drain {
    /// A drain that begins when `signal` becomes true.
    pub(crate) fn new(signal: watch::Receiver<bool>) -> Self {
        Self(signal)
    }

    /// A drain that never begins: an outbound connection serves the application until that leaves.
    pub(crate) fn never() -> Self {
        Self(watch::channel(false).1)
    }

    /// Completes when the drain begins; at once if it has.
    pub(crate) async fn signaled(&mut self) {
        if self.0.wait_for(|draining| *draining).await.is_err() {
            // The sender is gone without a drain: nothing will ever be signaled.
            std::future::pending::<()>().await;
        }
    }
}

/// Counts the connections of a worker.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: Cell<usize>,
    none: Notify,
}

/// One open connection; dropping it ends the count.
#[derive(Debug)]
pub(crate) struct Open(Rc<Connections>);

impl Connections {
    /// Counts a connection until the guard is dropped.
    pub(crate) fn open(self: &Rc<Self>) -> Open {
        self.open.set(self.open.get() + 1);
        Open(self.clone())
    }

    /// Completes when no connection is open.
    pub(crate) async fn none(&self) {
        while self.open.get() > 0 {
            self.none.notified().await;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let open = self.0.open.get() - 1;
        self.0.open.set(open);
        if open == 0 {
            self.0.none.notify_one();
        }
    }
}
