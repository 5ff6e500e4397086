//! Connections spread evenly over the workers.
//!
//! The kernel gives a connection to a worker by a hash of its addresses: of two connections that carry half of the load
//! each, as often as not one worker gets both. So one that was accepted may be handed to the worker that has the fewest of
//! its listener's, once, before anything is read. Counts are of connections, not of requests: to end one costs an atomic.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::ListenerId;

/// A worker may have one in so many more than the least before it hands one on: to do so takes some microseconds, which
/// only pays where a single connection is much of a worker's load.
const UNEVEN: usize = 8;

/// A connection of a listener that counts as its worker's until this is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that another worker accepted.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) listener: ListenerId,
    pub(crate) stream: std::net::TcpStream,
    pub(crate) client: SocketAddr,
    pub(crate) place: Place,
}

/// A worker as the others see it.
#[derive(Debug)]
struct Peer {
    /// By listener.
    open: Vec<Arc<AtomicUsize>>,
    sender: mpsc::UnboundedSender<Handed>,
}

impl Peer {
    /// Of all listeners, with those that it is being handed.
    fn all(&self) -> usize {
        self.open.iter().map(|open| open.load(Ordering::Relaxed)).sum()
    }
}

/// What a worker is handed by the others.
pub(crate) type Inbox = mpsc::UnboundedReceiver<Handed>;

/// What a worker knows of all of them.
#[derive(Clone, Debug)]
pub(crate) struct Spread {
    workers: Arc<[Peer]>,
    own: usize,
    pub(super) most: usize,
}

impl Spread {
    /// For each of `workers` its own; none may be handed more than `most` connections in all.
    pub(crate) fn among(workers: usize, listeners: usize, most: usize) -> Vec<(Self, Inbox)> {
        let (peers, inboxes): (Vec<_>, Vec<_>) = (0..workers)
            .map(|_| {
                let (sender, inbox) = mpsc::unbounded_channel();
                (Peer { open: (0..listeners).map(|_| Arc::default()).collect(), sender }, inbox)
            })
            .unzip();
        let workers: Arc<[Peer]> = peers.into();
        let spread = |own| Self { workers: workers.clone(), own, most };
        inboxes.into_iter().enumerate().map(|(own, inbox)| (spread(own), inbox)).collect()
    }

    /// Whether this worker has as many connections as it may have.
    pub(super) fn is_full(&self) -> bool {
        self.workers[self.own].all() >= self.most
    }

    /// A place with this worker.
    pub(crate) fn own_place(&self, listener: ListenerId) -> Place {
        Place::take(&self.workers[self.own].open[listener.0])
    }

    /// Hands a connection that was just accepted to the worker that has much fewer. What comes back is to be served here:
    /// nobody has, or the other one has ended.
    pub(crate) fn hand_over(
        &self,
        listener: ListenerId,
        stream: TcpStream,
        client: SocketAddr,
    ) -> std::io::Result<Option<TcpStream>> {
        let Some(other) = self.much_fewer(listener) else { return Ok(Some(stream)) };
        let stream = stream.into_std()?;
        let place = Place::take(&other.open[listener.0]);
        match other.sender.send(Handed { listener, stream, client, place }) {
            Ok(()) => Ok(None),
            Err(mpsc::error::SendError(handed)) => TcpStream::from_std(handed.stream).map(Some),
        }
    }

    fn much_fewer(&self, ListenerId(listener): ListenerId) -> Option<&Peer> {
        let open = |peer: &Peer| peer.open[listener].load(Ordering::Relaxed);
        let least = self.workers.iter().min_by_key(|peer| open(peer))?;
        let own = open(&self.workers[self.own]);
        // Each of the others may do so at this moment, and it accepts some itself.
        let has_room = || least.all() + self.workers.len() <= self.most;
        (own.saturating_sub(open(least)) > own / UNEVEN && has_room()).then_some(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTENER: ListenerId = ListenerId(1);

    /// Whether the first of two workers hands on, having `own` connections where the other has `other`.
    fn hands(own: usize, other: usize, most: usize) -> bool {
        let workers = Spread::among(2, 2, most);
        let places =
            |worker: usize, count| (0..count).map(|_| workers[worker].0.own_place(LISTENER)).collect::<Vec<_>>();
        let _open = (places(0, own), places(1, other));
        // Those of another listener do not count, but for the most.
        let _others = [workers[1].0.own_place(ListenerId(0)), workers[1].0.own_place(ListenerId(0))];
        workers[0].0.much_fewer(LISTENER).is_some()
    }

    #[test]
    fn the_second_connection_goes_to_the_other_worker() {
        assert!(!hands(0, 0, 100));
        assert!(hands(1, 0, 100));
        assert!(!hands(1, 1, 100));
        assert!(!hands(1, 2, 100));
    }

    #[test]
    fn among_many_one_more_does_not_matter() {
        assert!(!hands(16, 14, 100));
        assert!(hands(16, 13, 100));
    }

    #[test]
    fn no_worker_is_handed_more_than_it_may_have() {
        assert!(hands(9, 1, 5));
        assert!(!hands(9, 1, 4), "it may be accepting one");
    }

    #[test]
    fn a_connection_counts_until_its_place_is_dropped() {
        let workers = Spread::among(2, 2, 100);
        let place = workers[0].0.own_place(LISTENER);
        assert!(workers[0].0.much_fewer(LISTENER).is_some());
        drop(place);
        assert!(workers[0].0.much_fewer(LISTENER).is_none());
    }
}
