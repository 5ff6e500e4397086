//! How much of a cluster may be in use at once, by all workers together: Envoy's circuit breakers.
//!
//! One relaxed atomic for each bound, touched only where a cluster has bounds at all. A lock is taken by whoever waits for a
//! connection, and to tell it; by no other request.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use remora_model::CircuitBreakers;
use tokio::sync::Notify;

use crate::Error;
use crate::waiting::Waits;

/// What is bounded. The discriminant indexes counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Limit {
    /// Connections to the cluster's endpoints.
    Connections,
    /// Requests that wait for a connection.
    Pending,
    /// Requests that have one.
    Requests,
    /// Requests that are being tried again.
    Retries,
}

impl Limit {
    /// Every one, in the order of the discriminants.
    pub(crate) const ALL: [Self; 4] = [Self::Connections, Self::Pending, Self::Requests, Self::Retries];

    /// The configuration's name of it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "max_connections",
            Self::Pending => "max_pending_requests",
            Self::Requests => "max_requests",
            Self::Retries => "max_retries",
        }
    }
}

/// How much of a cluster is in use, by all workers.
#[derive(Debug, Default)]
pub(crate) struct InUse([AtomicU32; Limit::ALL.len()]);

impl InUse {
    pub(crate) fn count(&self, what: Limit) -> u32 {
        self.0[what as usize].load(Ordering::Relaxed)
    }

    fn enter(&self, what: Limit, most: u32) -> bool {
        let one_more = |count| (count < most).then_some(count + 1);
        self.0[what as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }
}

/// The bounds of a cluster as the requests to one of its endpoints meet them in one worker, and those of them that wait.
#[derive(Debug)]
pub(crate) struct Bounds {
    limits: CircuitBreakers,
    in_use: Arc<InUse>,
    /// Connections to the endpoint that are being made, or carry one request at a time.
    unshared: Cell<u32>,
    waiting: Cell<u32>,
    freed: Notify,
    /// The last connection that could not be made, and how many could not.
    failed: RefCell<(u32, Option<Error>)>,
}

impl Bounds {
    pub(crate) fn new(limits: CircuitBreakers, in_use: Arc<InUse>) -> Rc<Self> {
        let (unshared, waiting, freed, failed) = Default::default();
        Rc::new(Self { limits, in_use, unshared, waiting, freed, failed })
    }

    /// The same for another endpoint.
    pub(crate) fn another(&self) -> Rc<Self> {
        Self::new(self.limits, self.in_use.clone())
    }

    /// How many there may be.
    pub(crate) fn most(&self, what: Limit) -> u32 {
        let limit = match what {
            Limit::Connections => self.limits.max_connections,
            Limit::Pending => self.limits.max_pending_requests,
            Limit::Requests => self.limits.max_requests,
            Limit::Retries => self.limits.max_retries,
        };
        limit.unwrap_or(u32::MAX)
    }

    /// Takes a place, if one is left.
    pub(crate) fn enter(self: &Rc<Self>, what: Limit) -> Option<Place> {
        let entered = self.in_use.enter(what, self.most(what));
        entered.then(|| Place { bounds: self.clone(), what, unshared: None })
    }

    /// Takes the place of a connection. Where there is none to wait for, one is had whatever others hold: or its requests would wait
    /// for ever.
    pub(crate) fn connect(self: &Rc<Self>, has_streams: bool) -> Option<Place> {
        let most = if self.is_alone(has_streams) { u32::MAX } else { self.most(Limit::Connections) };
        if !self.in_use.enter(Limit::Connections, most) {
            return None;
        }
        Some(Place { bounds: self.clone(), what: Limit::Connections, unshared: Some(Unshared::new(self)) })
    }

    /// Whether there is nothing to wait for: no stream, no connection for one request at a time, and none is being made.
    pub(crate) fn is_alone(&self, has_streams: bool) -> bool {
        !has_streams && self.unshared.get() == 0
    }

    /// Whether requests wait for a connection that may not be made. Others are to wait behind them.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.get() > 0
    }

    /// Waits until a connection, or room on one, may be free.
    ///
    /// # Errors
    /// Meanwhile one could not be made.
    pub(crate) async fn freed(&self) -> Result<(), Error> {
        let _waits = Waits::new(&self.waiting);
        let before = self.failed.borrow().0;
        self.freed.notified().await;
        match &*self.failed.borrow() {
            (count, Some(error)) if *count != before => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Tells the one that waits longest.
    pub(crate) fn tell_one(&self) {
        if self.is_waited_for() {
            self.freed.notify_one();
        }
    }

    /// Tells all who wait to look again.
    pub(crate) fn tell_all(&self) {
        self.freed.notify_waiters();
    }

    /// Tells all who wait that a connection could not be made: theirs could not either.
    pub(crate) fn failed(&self, error: &Error) {
        let mut failed = self.failed.borrow_mut();
        *failed = (failed.0.wrapping_add(1), Some(error.clone()));
        self.tell_all();
    }
}

/// Counts a connection as being made, or as one for one request at a time.
#[derive(Debug)]
struct Unshared(Rc<Bounds>);

impl Unshared {
    fn new(bounds: &Rc<Bounds>) -> Self {
        bounds.unshared.set(bounds.unshared.get() + 1);
        Self(bounds.clone())
    }
}

impl Drop for Unshared {
    fn drop(&mut self) {
        self.0.unshared.set(self.0.unshared.get() - 1);
    }
}

/// A place within the bounds; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    bounds: Rc<Bounds>,
    what: Limit,
    unshared: Option<Unshared>,
}

impl Place {
    /// The connection turned out to be one that requests share.
    pub(crate) fn is_shared(&mut self) {
        self.unshared = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.is_shared();
        self.bounds.in_use.0[self.what as usize].fetch_sub(1, Ordering::Relaxed);
        // A request that ended leaves its connection, or room on one.
        if matches!(self.what, Limit::Connections | Limit::Requests) {
            self.bounds.tell_one();
        }
    }
}

#[cfg(test)]
mod tests;
