//! The webhook's connections: so many at once, shared fairly between the addresses they come from.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, JoinSet};

/// Between two lines in the log about connections that found no room.
const COMPLAINT: Duration = Duration::from_secs(60);

/// Those that are open.
#[derive(Debug)]
pub(super) struct Connections {
    limit: usize,
    tasks: JoinSet<()>,
    /// The oldest first.
    open: Vec<(IpAddr, AbortHandle)>,
    complained: Option<Instant>,
}

impl Connections {
    /// Room for `limit` at once.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, tasks: JoinSet::new(), open: Vec::new(), complained: None }
    }

    /// Serves a connection from `peer`. Where all places are taken, the address that has most of them gives up its oldest; where
    /// that would be `peer` itself, the connection is closed at once: the API server comes again, or to another replica.
    pub(super) fn add(&mut self, peer: IpAddr, connection: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|(_, task)| !task.is_finished());
        if self.open.len() < self.limit || self.make_room(peer) {
            self.open.push((peer, self.tasks.spawn(connection)));
        }
    }

    fn make_room(&mut self, peer: IpAddr) -> bool {
        let mut counts = HashMap::<IpAddr, usize>::new();
        self.open.iter().for_each(|(address, _)| *counts.entry(*address).or_default() += 1);
        let own = counts.get(&peer).copied().unwrap_or_default();
        let Some((greediest, most)) = counts.into_iter().max_by_key(|(_, count)| *count) else { return false };
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAINT) {
            self.complained = Some(Instant::now());
            tracing::warn!(%peer, %greediest, most, "all connections of the webhook are taken");
        }
        // By one more they would take it from each other in turn.
        if most <= own + 1 {
            return false;
        }
        if let Some(oldest) = self.open.iter().position(|(address, _)| *address == greediest) {
            self.open.remove(oldest).1.abort();
        }
        true
    }

    /// Waits until all have ended.
    pub(super) async fn ended(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    const GREEDY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    /// A silent connection, and what tells its end.
    fn silent() -> (impl Future<Output = ()> + Send + 'static, UnboundedReceiver<()>) {
        let (open, closed) = unbounded_channel();
        let connection = async move {
            pending::<()>().await;
            drop(open);
        };
        (connection, closed)
    }

    #[tokio::test]
    async fn an_address_with_every_place_gives_way_to_another_until_they_have_as_many() {
        let mut connections = Connections::new(512);
        let mut add = |peer| {
            let (connection, closed) = silent();
            connections.add(peer, connection);
            closed
        };
        let mut greedy: Vec<_> = (0..512).map(|_| add(GREEDY)).collect();
        // Refused: it would only take from itself.
        assert_eq!(add(GREEDY).recv().await, None);
        let mut others: Vec<_> = (0..256).map(|_| add(OTHER)).collect();
        for oldest in greedy.drain(..256) {
            let mut oldest = oldest;
            assert_eq!(oldest.recv().await, None, "closed");
        }
        for peer in [OTHER, GREEDY] {
            assert_eq!(add(peer).recv().await, None, "refused");
        }
        assert!(
            greedy
                .iter_mut()
                .chain(&mut others)
                .all(|open| open.try_recv().is_err_and(|error| error == tokio::sync::mpsc::error::TryRecvError::Empty))
        );
    }

    #[tokio::test]
    async fn what_has_ended_takes_no_place() {
        let mut connections = Connections::new(1);
        for _ in 0..3 {
            let (told, mut heard) = unbounded_channel();
            connections.add(GREEDY, async move { told.send("served").unwrap() });
            assert_eq!(heard.recv().await, Some("served"));
            assert_eq!(heard.recv().await, None);
            tokio::task::yield_now().await;
        }
        connections.ended().await;
    }
}
