//! The end of the proxy, in its order: not ready, inbound connections still accepted, drained, gone.

use std::sync::Arc;
use std::time::Duration;

use remora_model::Snapshot;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::stop::{Stop, Why};
use super::workers::Workers;
use crate::drain::{Farewell, Phase};
use crate::readiness::Readiness;

/// How long connections may take to say that they end because they must.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Waits until the proxy is to end, withdraws readiness, and lets those who have not heard of it come for a while more.
/// Then waits until no connection is left, the bound has passed, or it is asked again.
pub(super) async fn drained(
    stop: &mut Stop,
    farewell: &Farewell,
    readiness: &Readiness,
    workers: &Workers,
    newest: &watch::Receiver<Arc<Snapshot>>,
) {
    let why = stop.due().await;
    readiness.draining();
    let (drain_timeout, lame_duck) = {
        let snapshot = newest.borrow();
        (snapshot.drain_timeout, snapshot.lame_duck.min(snapshot.drain_timeout))
    };
    let end = Instant::now() + drain_timeout;
    tracing::info!(timeout = ?drain_timeout, ?lame_duck, "draining");
    let gone = stop.application_gone();
    let ended = async {
        // Nobody answers those who come for an application that is gone.
        if why == Why::Asked && !lame_duck.is_zero() {
            // Whoever asks meanwhile is told with its answer. Afterwards a connection ends between two, where a request may be on its way.
            farewell.advance(Phase::Leaving);
            sleep(lame_duck).await;
            tracing::info!("inbound connections are no longer accepted");
        }
        farewell.advance(Phase::Draining);
        // It may need others to finish its work.
        gone.await;
        farewell.advance(Phase::Gone);
        workers.ended().await;
    };
    tokio::select! {
        () = ended => return tracing::info!("drained"),
        () = sleep_until(end) => tracing::warn!("connections are left at the end of the drain"),
        () = stop.asked() => tracing::warn!("asked again: ending now"),
    }
    farewell.advance(Phase::Over);
    // Whoever does not take even that is left behind.
    let _ = timeout(LAST_WORDS, workers.ended()).await;
}
