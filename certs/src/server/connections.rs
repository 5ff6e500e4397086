//! How many connections there are and whose, and whether anything happens on one.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::limits::network;
use crate::Peer;

/// Streams of trust bundles on one connection: one, and another that begins before the first is known to have ended.
const WATCHES: usize = 2;
/// So many connections an address may have however few there may be in all.
const LEAST_SHARE: usize = 8;

/// What a connection knows of its client; put into each of its requests.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) address: SocketAddr,
    pub(crate) peer: Option<Arc<Peer>>,
    pub(crate) calls: Calls,
    watches: Arc<Semaphore>,
}

impl Connection {
    pub(crate) fn new(address: SocketAddr, peer: Option<Peer>) -> Self {
        let (peer, watches) = (peer.map(Arc::new), Arc::new(Semaphore::new(WATCHES)));
        Self { address, peer, calls: Calls::default(), watches }
    }

    /// Room for one more stream of trust bundles; none where it has its share.
    pub(crate) fn watch(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.watches).try_acquire_owned().ok()
    }
}

/// The calls that run on one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls(Arc<watch::Sender<usize>>);

/// One call; it runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Call(Arc<watch::Sender<usize>>);

impl Calls {
    pub(crate) fn begin(&self) -> Call {
        self.0.send_modify(|running| *running += 1);
        Call(Arc::clone(&self.0))
    }

    /// Completes once no call has run for `bound`.
    pub(crate) async fn idle_for(&self, bound: Duration) {
        let mut running = self.0.subscribe();
        loop {
            let idle = *running.borrow_and_update() == 0;
            match idle {
                true if tokio::time::timeout(bound, running.changed()).await.is_err() => return,
                true => {}
                // The sender is ours as well, so this cannot fail.
                false => drop(running.changed().await),
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

/// How many connections there may be: in all, and of one address.
pub(crate) struct Shares {
    slots: Arc<Semaphore>,
    most: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's place, until it is dropped.
pub(crate) struct Share {
    shares: Arc<Shares>,
    network: IpAddr,
    _slot: OwnedSemaphorePermit,
}

impl Shares {
    /// `max` in all; a quarter of them for one address, behind which a node's worth of pods may be.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            slots: Arc::new(Semaphore::new(max)),
            most: (max / 4).max(LEAST_SHARE),
            open: Mutex::default(),
        })
    }

    /// A place for a connection from `address`.
    ///
    /// # Errors
    /// There is none; the word for the metrics.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Result<Share, &'static str> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| "too_many_connections")?;
        let network = network(address);
        let mut all = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = all.entry(network).or_default();
        if *open >= self.most {
            return Err("too_many_of_one_address");
        }
        *open += 1;
        Ok(Share { shares: Arc::clone(self), network, _slot: slot })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut all = self.shares.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = all.get_mut(&self.network) {
            *open -= 1;
            if *open == 0 {
                all.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_quarter_and_gives_it_back() {
        let shares = Shares::new(40);
        let (one, other) = ("2001:db8::1".parse().unwrap(), "2001:db8:0:1::1".parse().unwrap());
        let held: Vec<_> = (0..10).map(|_| shares.take(one).unwrap_or_else(|word| panic!("{word}"))).collect();
        assert_eq!(shares.take("2001:db8::2".parse().unwrap()).err(), Some("too_many_of_one_address"));
        let others: Vec<_> = (0..10).map(|_| shares.take(other).unwrap_or_else(|word| panic!("{word}"))).collect();
        drop(held);
        assert!(shares.take(one).is_ok());
        drop(others);
        assert!(shares.open.lock().unwrap().is_empty());

        let few = Shares::new(2);
        let _held = (few.take(one), few.take(one));
        assert_eq!(few.take(other).err(), Some("too_many_connections"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_once_no_call_has_run_for_long() {
        const BOUND: Duration = Duration::from_secs(20);
        let calls = Calls::default();
        let began = tokio::time::Instant::now();
        let idle = calls.idle_for(BOUND);
        let work = async {
            tokio::time::sleep(BOUND / 2).await;
            let (one, other) = (calls.begin(), calls.begin());
            tokio::time::sleep(BOUND * 3).await;
            drop(one);
            tokio::time::sleep(BOUND * 3).await;
            drop(other);
            // A call that is over before anybody looks counts too.
            tokio::time::sleep(BOUND / 2).await;
            drop(calls.begin());
        };
        tokio::join!(idle, work);
        assert_eq!(began.elapsed().as_secs(), (BOUND * 8).as_secs());
    }

    #[test]
    fn a_connection_has_two_watches() {
        let connection = Connection::new("127.0.0.1:1".parse().unwrap(), None);
        let held = (connection.watch().unwrap(), connection.watch().unwrap());
        assert!(connection.watch().is_none());
        drop(held.0);
        assert!(connection.watch().is_some());
    }
}
