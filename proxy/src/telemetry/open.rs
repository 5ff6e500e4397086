//! The downstream connections of a worker that are open now, as the admin page shows them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::ConnectionInfo;
use super::metrics::DownstreamProtocol;

/// An open downstream connection, for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConnectionStatus {
    /// Which way it goes.
    pub direction: &'static str,
    /// What it speaks; "unknown" until that is found out.
    pub protocol: &'static str,
    /// Where it came from.
    pub client: SocketAddr,
    /// Where it was aimed.
    pub original_destination: SocketAddr,
    /// The verified SPIFFE ID of the mTLS peer.
    pub peer: Option<String>,
    /// Since it was accepted.
    pub age_seconds: f64,
    /// Requests, which are HTTP/2's streams, that were not answered to their end yet; of HTTP only.
    pub active: u32,
    /// All requests so far.
    pub requests: u64,
    /// Where its bytes are relayed to; of TCP only, as are those bytes.
    pub endpoint: Option<SocketAddr>,
    /// Bytes relayed from the client.
    pub received: u64,
    /// Bytes relayed to the client.
    pub sent: u64,
}

/// What is known of a connection while it is open. Written by its own task alone.
#[derive(Debug)]
pub struct OpenConnection {
    /// Its place in the list.
    key: u64,
    pub(super) started: Instant,
    pub(super) info: RefCell<Option<Rc<ConnectionInfo>>>,
    pub(super) protocol: Cell<Option<DownstreamProtocol>>,
    pub(super) endpoint: Cell<Option<SocketAddr>>,
    pub(super) received: Cell<u64>,
    pub(super) sent: Cell<u64>,
    active: Cell<u32>,
    requests: Cell<u64>,
}

impl OpenConnection {
    /// A request begins.
    pub(crate) fn request_begins(&self) {
        self.active.set(self.active.get() + 1);
        self.requests.set(self.requests.get() + 1);
    }

    /// A request was answered to its end, or given up.
    pub(crate) fn request_ends(&self) {
        self.active.set(self.active.get() - 1);
    }

    /// Requests that have begun and not ended.
    pub(crate) fn active(&self) -> u32 {
        self.active.get()
    }

    /// Requests that have begun.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Completes when no request was active for `timeout`, which is looked at once in that time.
    pub(crate) async fn rested(&self, timeout: Duration) {
        loop {
            // One that is active now may end just before the next look.
            let (rests, seen) = (self.active() == 0, self.requests());
            tokio::time::sleep(timeout).await;
            if rests && self.active() == 0 && self.requests() == seen {
                return;
            }
        }
    }

    fn status(&self) -> Option<ConnectionStatus> {
        let info = self.info.borrow().clone()?;
        Some(ConnectionStatus {
            direction: info.direction.as_str(),
            protocol: self.protocol.get().unwrap_or(DownstreamProtocol::Unknown).as_str(),
            client: info.client.socket(),
            original_destination: info.orig_dst.socket(),
            peer: info.peer.as_ref().map(ToString::to_string),
            age_seconds: self.started.elapsed().as_secs_f64(),
            active: self.active.get(),
            requests: self.requests.get(),
            endpoint: self.endpoint.get(),
            received: self.received.get(),
            sent: self.sent.get(),
        })
    }
}

/// A worker's open connections.
#[derive(Debug, Default)]
pub(super) struct OpenConnections {
    entries: RefCell<HashMap<u64, Rc<OpenConnection>>>,
    next: Cell<u64>,
}

impl OpenConnections {
    /// Enters one that was just accepted.
    pub(super) fn enter(&self) -> Rc<OpenConnection> {
        let key = self.next.replace(self.next.get() + 1);
        let open = Rc::new(OpenConnection {
            key,
            started: Instant::now(),
            info: RefCell::default(),
            protocol: Cell::default(),
            endpoint: Cell::default(),
            received: Cell::default(),
            sent: Cell::default(),
            active: Cell::default(),
            requests: Cell::default(),
        });
        self.entries.borrow_mut().insert(key, open.clone());
        open
    }

    /// It has ended.
    pub(super) fn leave(&self, open: &OpenConnection) {
        self.entries.borrow_mut().remove(&open.key);
    }

    /// All of which it is known where they go.
    pub(super) fn status(&self) -> Vec<ConnectionStatus> {
        self.entries.borrow().values().filter_map(|open| open.status()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_has_rested_when_none_of_its_requests_ended_within_the_time() {
        let open = OpenConnections::default().enter();
        let second = Duration::from_secs(1);
        let begun = tokio::time::Instant::now();
        let requests = async {
            tokio::time::sleep(second / 2).await;
            open.request_begins();
            tokio::time::sleep(second * 5 / 2 - second / 1000).await;
            open.request_ends();
        };
        // It ends a thousandth of a second before the third look.
        let ((), ()) = tokio::join!(open.rested(second), requests);
        assert_eq!(begun.elapsed().as_secs(), 4);
    }
}
