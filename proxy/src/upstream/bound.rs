//! The time a request may take, from when it has come whole: how long its client takes to send it is no fault of who answers it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

/// The time an exchange may take.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    /// As configured, for the error.
    pub(crate) timeout: Duration,
    /// Since when; `None`: the request has not come whole yet.
    since: Rc<Cell<Option<Instant>>>,
}

/// A request on its way here, until this is dropped.
#[derive(Debug)]
pub(crate) struct Receiving(Rc<Cell<Option<Instant>>>);

impl Bound {
    /// From now on, where the request has come whole or counts from its head; otherwise from the end of what [`Self::receiving`] gives.
    pub(crate) fn new(timeout: Duration, now: bool) -> Self {
        Self { timeout, since: Rc::new(Cell::new(now.then(Instant::now))) }
    }

    /// For the body that is awaited; `None`: none is.
    pub(crate) fn receiving(&self) -> Option<Receiving> {
        self.since.get().is_none().then(|| Receiving(self.since.clone()))
    }

    /// It is not over before this, and is asked again then.
    pub(crate) fn next(&self) -> Instant {
        self.since.get().unwrap_or_else(Instant::now) + self.timeout
    }

    pub(crate) fn is_over(&self) -> bool {
        self.since.get().is_some_and(|since| since + self.timeout <= Instant::now())
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.set(Some(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_runs_from_the_end_of_the_request() {
        let second = Duration::from_secs(1);
        let bound = Bound::new(second, false);
        let receiving = bound.receiving();
        tokio::time::advance(second * 5).await;
        assert!(!bound.is_over() && bound.next() == Instant::now() + second);
        drop(receiving);
        assert!(!bound.is_over() && bound.receiving().is_none());
        tokio::time::advance(second).await;
        assert!(bound.is_over() && bound.next() == Instant::now());
        assert!(Bound::new(second, true).receiving().is_none());
    }
}
