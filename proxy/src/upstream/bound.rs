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
    since: Since,
}

/// From when it counts.
#[derive(Clone, Debug)]
enum Since {
    Known(Instant),
    /// `None`: the request has not come whole yet.
    Awaited(Rc<Cell<Option<Instant>>>),
}

/// A request on its way here, until this is dropped.
#[derive(Debug)]
pub(crate) struct Receiving(Rc<Cell<Option<Instant>>>);

impl Bound {
    /// From now on: the request has come whole, or what it may take counts from its head.
    pub(crate) fn from_now(timeout: Duration) -> Self {
        Self { timeout, since: Since::Known(Instant::now()) }
    }

    /// From when the other is dropped, which is for the body that is awaited.
    pub(crate) fn from_the_end(timeout: Duration) -> (Self, Receiving) {
        let since = Rc::new(Cell::new(None));
        (Self { timeout, since: Since::Awaited(since.clone()) }, Receiving(since))
    }

    /// It is not over before this, and is asked again then.
    pub(crate) fn next(&self) -> Instant {
        self.since().unwrap_or_else(Instant::now) + self.timeout
    }

    pub(crate) fn is_over(&self) -> bool {
        self.since().is_some_and(|since| since + self.timeout <= Instant::now())
    }

    fn since(&self) -> Option<Instant> {
        match &self.since {
            Since::Known(since) => Some(*since),
            Since::Awaited(since) => since.get(),
        }
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
        let (bound, receiving) = Bound::from_the_end(second);
        tokio::time::advance(second * 5).await;
        assert!(!bound.is_over() && bound.next() == Instant::now() + second);
        drop(receiving);
        assert!(!bound.is_over());
        tokio::time::advance(second).await;
        assert!(bound.is_over() && bound.next() == Instant::now());
        let whole = Bound::from_now(second);
        assert!(!whole.is_over() && whole.next() == Instant::now() + second);
    }
}
