//! gRPC: streams in both directions that last for seconds, every message of which is checked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use shop_mesh::rpc::{CatalogClient, Sale};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use crate::counts::Counts;

/// Between two sales.
const PACE: Duration = Duration::from_millis(100);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the sidecars' configurations name as `drain_timeout`: how long a stream on a draining connection may go on.
const GRACE: Duration = Duration::from_secs(10);
/// The sidecars look once a second.
const TOLERANCE: Duration = Duration::from_secs(1);

/// How a stream ended that was not cut.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    /// By both sides, all sales counted.
    Complete,
    /// By a status that says so, after the grace.
    Told,
}

/// One stream after another, each of `sales` sales, until the counts say stop.
pub(crate) async fn load(address: SocketAddr, sales: u64, counts: Arc<Counts>) -> anyhow::Result<()> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect_lazy();
    let catalog = CatalogClient::new(channel);
    while counts.go_on() {
        match stream(&catalog, sales, &counts).await {
            Ok(Ending::Complete) => counts.streams.add(1),
            Ok(Ending::Told) => counts.told_streams.add(1),
            Err(error) => {
                counts.stream_broke(&error);
                tokio::time::sleep(PACE).await;
            }
        }
    }
    Ok(())
}

async fn stream(catalog: &CatalogClient, sales: u64, counts: &Counts) -> anyhow::Result<Ending> {
    let began = Instant::now();
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let mut totals = match catalog.tally(ReceiverStream::new(receiver)).await {
        Ok(totals) => totals,
        Err(status) => return ending(&status, began.elapsed()),
    };
    let (mut sum, mut replica) = (0, None);
    for number in 1..=sales {
        if !counts.go_on() {
            break;
        }
        let sale = Sale { cents: number * 7 };
        sum += sale.cents;
        // Where nobody receives any more, the answer says why.
        let _ = sender.send(sale).await;
        let total = tokio::time::timeout(PATIENCE, totals.next()).await.context("no total within 10 s")?;
        let total = match total {
            Some(Ok(total)) => total,
            Some(Err(status)) => return ending(&status, began.elapsed()),
            None => bail!("ended after {} of {sales} sales, without a reason", number - 1),
        };
        ensure!(total.sales == number && total.cents == sum, "a wrong total after {number} sales: {total:?}");
        let first = replica.get_or_insert_with(|| total.replica.clone());
        ensure!(*first == total.replica, "a stream changed from {first} to {}", total.replica);
        counts.messages.add(1);
        tokio::time::sleep(PACE).await;
    }
    drop(sender);
    match tokio::time::timeout(PATIENCE, totals.next()).await.context("the stream does not end")? {
        None => Ok(Ending::Complete),
        Some(Ok(total)) => bail!("a total without a sale: {total:?}"),
        Some(Err(status)) => ending(&status, began.elapsed()),
    }
}

/// A status that was received (and not made up from a broken connection, which is its source then) tells the client; a
/// stream that had less than the grace was cut nevertheless.
fn ending(status: &Status, lived: Duration) -> anyhow::Result<Ending> {
    let received = std::error::Error::source(status).is_none();
    if received && status.code() == Code::Unavailable && lived + TOLERANCE >= GRACE {
        return Ok(Ending::Told);
    }
    let how = if received { "told" } else { "cut" };
    bail!("{how} after {:.1} s: {:?}: {}", lived.as_secs_f64(), status.code(), status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stream_that_was_told_after_the_grace_is_not_broken() {
        let told = Status::unavailable("draining");
        assert_eq!(ending(&told, GRACE).unwrap(), Ending::Told);
        assert!(ending(&told, GRACE / 2).is_err());
        assert!(ending(&Status::internal("no"), GRACE).is_err());
        let cut = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        assert!(ending(&cut, GRACE).is_err());
    }
}
