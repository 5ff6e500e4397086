//! The mesh connections of a worker that are open now: whose they are, how old they are, and how they are told to end.
//!
//! A connection is judged at its handshake, and may outlive what that judgement rested on. So each is entered here. When
//! its peer is no longer trusted, or it is too old, it is drained: it takes no more requests and finishes those it has.
//! What is left after the grace is ended. Nothing here is asked on the request path.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use remora_certs::Peer;
use tokio::time::Instant;

use crate::signal::{Reaches, Signal};
use crate::telemetry::{AnchorSeen, DrainReason};

/// How many connections began to drain, by the index of [`DrainReason`].
pub(crate) type Drained = [u64; DrainReason::ALL.len()];

/// Every open mesh connection of a worker, in both directions.
#[derive(Debug, Default)]
pub(crate) struct Live {
    entries: RefCell<HashMap<u64, Entry>>,
    next: Cell<u64>,
}

#[derive(Debug)]
struct Entry {
    peer: Peer,
    anchor: Arc<AnchorSeen>,
    /// When it is too old.
    aged: Option<Instant>,
    /// When its grace is over, once it drains.
    over: Option<Instant>,
    signal: Rc<Signal<Stage>>,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    #[default]
    Serving,
    Draining,
    Over,
}

/// An open mesh connection; dropping it takes it from the list.
#[derive(Debug)]
pub(crate) struct LiveConnection {
    live: Rc<Live>,
    key: u64,
    signal: Rc<Signal<Stage>>,
}

impl Live {
    /// Enters a connection whose peer was just verified. It may become `age` old, ± 10 % by `random`.
    pub(crate) fn enter(
        self: &Rc<Self>,
        peer: Peer,
        anchor: Arc<AnchorSeen>,
        age: Option<Duration>,
        random: u64,
    ) -> Rc<LiveConnection> {
        let key = self.next.replace(self.next.get() + 1);
        let signal = Rc::<Signal<Stage>>::default();
        let aged = age.map(|age| Instant::now() + jittered(age, random));
        let entry = Entry { peer, anchor, aged, over: None, signal: signal.clone() };
        self.entries.borrow_mut().insert(key, entry);
        Rc::new(LiveConnection { live: self.clone(), key, signal })
    }

    /// Judges every connection again: those with a reason against them drain, and end after `grace`.
    pub(crate) fn judge(&self, grace: Duration, verdict: impl Fn(&Peer) -> Option<DrainReason>) -> Drained {
        self.drain(grace, |entry| verdict(&entry.peer))
    }

    /// Once a second: what is connected counts as seen, what is too old drains, and what has had its grace ends.
    pub(crate) fn sweep(&self, grace: Duration) -> Drained {
        let (now, time) = (Instant::now(), SystemTime::now());
        for entry in self.entries.borrow().values() {
            entry.anchor.seen(time);
            if entry.over.is_some_and(|over| over <= now) {
                entry.signal.advance(Stage::Over);
            }
        }
        self.drain(grace, |entry| entry.aged.filter(|aged| *aged <= now).map(|_| DrainReason::Age))
    }

    fn drain(&self, grace: Duration, verdict: impl Fn(&Entry) -> Option<DrainReason>) -> Drained {
        let mut drained = Drained::default();
        for entry in self.entries.borrow_mut().values_mut().filter(|entry| entry.over.is_none()) {
            if let Some(reason) = verdict(entry) {
                drained[reason as usize] += 1;
                entry.over = Some(Instant::now() + grace);
                entry.signal.advance(Stage::Draining);
            }
        }
        drained
    }
}

/// From nine to eleven tenths of `age`, so that what began together does not end together.
fn jittered(age: Duration, random: u64) -> Duration {
    age.mul_f64(0.9 + 0.2 * (random >> 11) as f64 / (1u64 << 53) as f64)
}

impl LiveConnection {
    /// Whether it is to take no more requests.
    pub(crate) fn is_draining(&self) -> bool {
        self.signal.stage() >= Stage::Draining
    }

    /// Completes when it is to take no more requests.
    pub(crate) fn drained(&self) -> Reaches<Stage> {
        self.signal.reaches(Stage::Draining)
    }

    /// Completes when its grace is over.
    pub(crate) fn over(&self) -> Reaches<Stage> {
        self.signal.reaches(Stage::Over)
    }
}

impl Drop for LiveConnection {
    fn drop(&mut self) {
        self.live.entries.borrow_mut().remove(&self.key);
    }
}

/// Completes when the grace of `connection` is over; never for one that is not the mesh's.
pub(crate) async fn over(connection: Option<Rc<LiveConnection>>) {
    match connection {
        Some(connection) => connection.over().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_tenth() {
        let age = Duration::from_secs(100);
        assert_eq!(jittered(age, 0), Duration::from_secs(90));
        let latest = jittered(age, u64::MAX);
        assert!(latest > Duration::from_secs(109) && latest <= Duration::from_secs(110), "{latest:?}");
    }
}
