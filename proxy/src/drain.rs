//! Drain as every connection sees it: a signal that is given once, and guards that tell when nobody is left.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::{Notify, watch};

use crate::live::{self, LiveConnection};

/// A connection's view of the drain.
#[derive(Clone, Debug)]
pub(crate) struct Drain {
    process: watch::Receiver<bool>,
    own: Option<Rc<LiveConnection>>,
}

impl Drain {
    /// A drain that begins when `signal` becomes true.
    pub(crate) fn new(signal: watch::Receiver<bool>) -> Self {
        Self { process: signal, own: None }
    }

    /// A drain that never begins: an outbound connection serves the application until that leaves.
    pub(crate) fn never() -> Self {
        Self::new(watch::channel(false).1)
    }

    /// As before, and beginning too when `connection` is to be replaced.
    pub(crate) fn and(mut self, connection: Option<Rc<LiveConnection>>) -> Self {
        self.own = connection;
        self
    }

    /// Completes when a connection that is to be replaced has had its grace; the end of the process's own drain is not
    /// told to connections.
    pub(crate) fn over(&self) -> impl Future<Output = ()> + use<> {
        live::over(self.own.clone())
    }

    /// Completes when the drain begins; at once if it has.
    pub(crate) async fn signaled(&mut self) {
        let Self { process, own } = self;
        let process = async {
            if process.wait_for(|draining| *draining).await.is_err() {
                // The sender is gone without a drain: nothing will ever be signaled.
                std::future::pending::<()>().await;
            }
        };
        match own {
            None => process.await,
            Some(own) => tokio::select! {
                () = process => {}
                () = own.drained() => {}
            },
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
