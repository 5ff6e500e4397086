//! The record of certificates, durable before any answer: requests that wait at the same time share one flush to disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::audit::{self, Asker};
use super::metrics::Metrics;
use super::store::Store;
use crate::Error;
use crate::ca::{CaError, IssuedRecord};

/// Records that wait at most; beyond that callers wait to hand theirs over.
const WAITING: usize = 1024;
/// Records written by one flush at most.
const BATCH: usize = 1024;

/// A certificate to be recorded, with what the audit log says of it.
pub(crate) struct Entry {
    pub(crate) record: IssuedRecord,
    pub(crate) asker: Asker,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// It is on disk.
    Yes,
    /// The authority's state is another than the one that signed: read it again, and sign anew.
    Stale,
    /// It cannot be written.
    No,
}

/// Hands records to the task that writes them.
#[derive(Clone)]
pub(crate) struct Journal {
    entries: mpsc::Sender<(Entry, oneshot::Sender<Recorded>)>,
    good: Recording,
}

/// How recording goes.
#[derive(Clone)]
pub(crate) struct Recording(Arc<AtomicBool>);

impl Recording {
    /// Whether the last write succeeded.
    pub(crate) fn is_good(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Journal {
    /// Starts the writer; it ends, with all it was handed written, once every `Journal` is dropped.
    pub(crate) fn start(store: Arc<dyn Store>, metrics: Arc<Metrics>) -> (Self, tokio::task::JoinHandle<()>) {
        let (entries, waiting) = mpsc::channel(WAITING);
        let good = Arc::new(AtomicBool::new(true));
        let writer = tokio::spawn(write(waiting, store, metrics, Arc::clone(&good)));
        (Self { entries, good: Recording(good) }, writer)
    }

    /// Waits until the record is on disk; the audit line is written with it, whether or not the caller still waits.
    pub(crate) async fn record(&self, entry: Entry) -> Recorded {
        let (done, written) = oneshot::channel();
        match self.entries.send((entry, done)).await {
            Ok(()) => written.await.unwrap_or(Recorded::No),
            Err(_) => Recorded::No,
        }
    }

    /// How recording goes, for as long as anybody asks.
    pub(crate) fn recording(&self) -> Recording {
        self.good.clone()
    }
}

async fn write(
    mut waiting: mpsc::Receiver<(Entry, oneshot::Sender<Recorded>)>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    good: Arc<AtomicBool>,
) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let records: Vec<_> = batch.iter().map(|(entry, _)| entry.record.clone()).collect();
        let store = Arc::clone(&store);
        let written = match tokio::task::spawn_blocking(move || store.record(&records)).await {
            Ok(Ok(())) => Recorded::Yes,
            Ok(Err(Error::Ca(CaError::Changed(_)))) => Recorded::Stale,
            Ok(Err(error)) => {
                tracing::error!(%error, "cannot record certificates; none is handed out");
                Recorded::No
            }
            Err(_) => Recorded::No,
        };
        good.store(written != Recorded::No, Ordering::Relaxed);
        metrics.batch.observe(f64::from(u32::try_from(batch.len()).unwrap_or(u32::MAX)));
        for (Entry { record, asker }, done) in batch.drain(..) {
            if written == Recorded::Yes {
                audit::issued(&asker, &record);
                if let Some(caller) = &asker.caller {
                    metrics.issued(caller.proof);
                }
            }
            // Nobody waits any more where the caller hung up.
            let _ = done.send(written);
        }
    }
}

#[cfg(test)]
mod tests;
