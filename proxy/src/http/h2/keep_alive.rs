//! Signs of life of another sidecar: requests that wait for an answer say nothing that TCP could find unacknowledged.

use std::future::pending;
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

/// How often it is asked.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long it may take: as long as what is not acknowledged. A peer that is short of processor time is not gone, and where a network fails
/// for 15 s TCP finds it again after 25.
const PATIENCE: Duration = Duration::from_secs(30);

/// Completes when a PING (RFC 9113 section 6.7) was not answered in time; never where none are sent.
pub(crate) async fn unanswered(pings: Option<PingPong>) {
    if let Some(mut pings) = pings {
        loop {
            sleep(INTERVAL).await;
            match timeout(PATIENCE, pings.ping(Ping::opaque())).await {
                Ok(Ok(_)) => {}
                // Its driver finds that the connection ended.
                Ok(Err(_)) => break,
                Err(_) => return,
            }
        }
    }
    pending().await
}
