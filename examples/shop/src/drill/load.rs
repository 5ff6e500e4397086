//! The three kinds of load, each from a thread in the namespace of whoever sends it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use shop_mesh::pods::{CATALOG_VIRTUAL, CUSTOMERS, GATEWAY, LEDGER, STOREFRONT};
use shop_mesh::{namespace, raised};
use tokio::task::JoinSet;

use crate::counts::Counts;
use crate::{connections, requests, streams};

/// HTTP/1.1 clients, at the door and inside the mesh each.
const CLIENTS: usize = 4;
/// Sales of each of some streams: seconds, and one that outlasts every connection.
const SALES: [u64; 6] = [20, 30, 40, 50, 60, 100_000];
/// TCP connections at once.
const CONNECTIONS: u64 = 4;

/// What sends, until it is told to stop by the counts.
pub(crate) struct Loads(JoinSet<anyhow::Result<()>>);

/// Starts all of it.
pub(crate) fn start(counts: &Arc<Counts>) -> Loads {
    let mut running = JoinSet::new();
    let door = Arc::clone(counts);
    running.spawn(async move {
        namespace::within(&GATEWAY.namespace(), move || requests::load(raised::door(), CLIENTS, door)).await
    });
    let inside = Arc::clone(counts);
    running.spawn(async move { namespace::within(&CUSTOMERS.namespace(), move || customers(inside)).await });
    Loads(running)
}

/// Everything that comes from the customers' pod.
async fn customers(counts: Arc<Counts>) -> anyhow::Result<()> {
    let mut running = JoinSet::new();
    running.spawn(requests::load(STOREFRONT.at(8080), CLIENTS, Arc::clone(&counts)));
    for sales in SALES {
        let catalog = SocketAddr::from((CATALOG_VIRTUAL, 50051));
        running.spawn(streams::load(catalog, sales, Arc::clone(&counts)));
    }
    for number in 0..CONNECTIONS {
        running.spawn(connections::load(LEDGER.at(9000), 0x9e37_79b9 * (number + 1), Arc::clone(&counts)));
    }
    all(running).await
}

impl Loads {
    /// Waits for what is under way, after the counts were told to stop.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        all(self.0).await
    }
}

async fn all(mut running: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(ended) = running.join_next().await {
        ended.context("a load panicked")??;
    }
    Ok(())
}
