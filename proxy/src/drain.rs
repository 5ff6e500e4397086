//! The proxy's end as every connection sees it: phases that are told once, and guards that tell when nobody is left.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::live::{self, LiveConnection};
use crate::signal::Signal;

/// How old an inbound connection may become once the pod leaves: time for many requests, and soon over.
const LEAVING_AGE: Duration = Duration::from_secs(1);

/// How far the proxy's end has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It is not in sight.
    #[default]
    Serving,
    /// The pod leaves: inbound connections are replaced again and again, so that callers find the endpoints that stay, and none ends
    /// where a request might be on its way.
    Leaving,
    /// No inbound connection is accepted any more, and those that are there are to end.
    Draining,
    /// The application is gone: without a connection there is nothing left to do.
    Gone,
    /// The time is over: what is left ends now, in both directions, so that nobody takes it for a proper end.
    Over,
}

/// Tells every thread of the phases. Clones tell the same. A worker passes them on to its connections.
#[derive(Clone, Debug, Default)]
pub struct Farewell(watch::Sender<Phase>);

impl Farewell {
    /// From now on it is `phase`, or a later one if that was told before; whether it is news.
    pub fn advance(&self, phase: Phase) -> bool {
        self.0.send_if_modified(|now| {
            let later = phase > *now;
            *now = phase.max(*now);
            later
        })
    }

    /// Hears of the phases, once a thread.
    pub fn subscribe(&self) -> watch::Receiver<Phase> {
        self.0.subscribe()
    }
}

/// A connection's view of the end.
#[derive(Clone, Debug)]
pub(crate) struct Drain {
    /// What begins the drain.
    process: Rc<Signal<Phase>>,
    /// What ends it.
    end: Rc<Signal<Phase>>,
    own: Option<Rc<LiveConnection>>,
    since: Instant,
}

impl Drain {
    /// The end that `process` tells of, for a connection that begins now.
    pub(crate) fn new(process: Rc<Signal<Phase>>) -> Self {
        Self { end: process.clone(), process, own: None, since: Instant::now() }
    }

    /// Of an outbound connection, which serves the application until that leaves: only the end of all is its end.
    pub(crate) fn only_over(process: Rc<Signal<Phase>>) -> Self {
        Self { end: process, process: Rc::default(), own: None, since: Instant::now() }
    }

    /// As before, and beginning too when `connection` is to be replaced.
    pub(crate) fn and(mut self, connection: Option<Rc<LiveConnection>>) -> Self {
        self.own = connection;
        self
    }

    /// Completes when the connection, or the process, has had its grace.
    pub(crate) fn over(&self) -> impl Future<Output = ()> + use<> {
        let (own, process) = (live::over(self.own.clone()), self.end.reaches(Phase::Over));
        async move {
            tokio::select! {
                () = own => {}
                () = process => {}
            }
        }
    }

    /// Completes when the pod leaves and the connection is too old for that: its next answers are to be its last.
    pub(crate) fn outlived(&self) -> impl Future<Output = ()> + use<> {
        let (leaving, old) = (self.process.reaches(Phase::Leaving), self.since + LEAVING_AGE);
        async move {
            leaving.await;
            tokio::time::sleep_until(old).await;
        }
    }

    /// Completes when the drain begins; at once if it has.
    pub(crate) async fn signaled(&self) {
        let process = self.process.reaches(Phase::Draining);
        match &self.own {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_leaves_retires_connections_by_their_age() {
        let told = Rc::<Signal<Phase>>::default();
        let begun = Instant::now();
        let old = Drain::new(told.clone());
        let hour = Duration::from_secs(3600);
        tokio::time::timeout(hour, old.outlived()).await.expect_err("the pod stays");
        told.advance(Phase::Leaving);
        old.outlived().await;
        assert_eq!(begun.elapsed(), hour, "it was old enough");
        let young = Drain::new(told.clone());
        young.outlived().await;
        assert_eq!(begun.elapsed(), hour + LEAVING_AGE);
        tokio::time::timeout(hour, old.signaled()).await.expect_err("it does not drain yet");
        let own = Drain::only_over(told.clone());
        tokio::time::timeout(hour, own.outlived()).await.expect_err("the application's own stay");
        told.advance(Phase::Gone);
        old.signaled().await;
        tokio::time::timeout(hour, own.signaled()).await.expect_err("and do not drain");
        tokio::time::timeout(hour, old.over()).await.expect_err("there is time");
        told.advance(Phase::Over);
        old.over().await;
        own.over().await;
    }

    #[test]
    fn phases_are_news_once_and_do_not_go_back() {
        let farewell = Farewell::default();
        assert!(farewell.advance(Phase::Leaving) && !farewell.advance(Phase::Leaving));
        assert!(farewell.advance(Phase::Gone) && !farewell.advance(Phase::Draining));
        assert_eq!(*farewell.subscribe().borrow(), Phase::Gone);
    }
}
