//! How spans and access log records leave the workers: in batches, through bounded queues that nobody waits for.
//!
//! A queue's bound counts records, from the moment a worker takes one in until it is exported or written: one relaxed atomic for all
//! workers, touched only for sampled spans and written lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::access_log::AccessRecord;
use super::registry::Registry;
use super::span::SpanRecord;

/// A batch is handed on at once when it has this many records (or a quarter of the bound, if that is less).
pub(crate) const BATCH: usize = 256;
/// Access log records waiting to be written at most.
const LINES: usize = 16_384;
/// Batches on their way; the bound on records is met long before.
const BATCHES: usize = 4_096;
/// Until a snapshot says otherwise.
const SPANS: usize = 2_048;

/// The workers' end: what they record goes here.
#[derive(Clone, Debug)]
pub struct Sinks {
    pub(crate) spans: Sink<SpanRecord>,
    pub(crate) lines: Sink<AccessRecord>,
}

/// The control side's end.
#[derive(Debug)]
pub struct Sources {
    /// For [`export::run`](super::export::run).
    pub spans: Source<SpanRecord>,
    /// For [`access_log::start`](super::access_log::start).
    pub access_log: Source<AccessRecord>,
}

/// Connects workers and control side; what is lost is counted in `registry`.
pub fn channels(registry: &Arc<Registry>) -> (Sinks, Sources) {
    let (spans, span_source) = channel(SPANS, registry);
    let (lines, line_source) = channel(LINES, registry);
    (Sinks { spans, lines }, Sources { spans: span_source, access_log: line_source })
}

fn channel<T>(limit: usize, registry: &Arc<Registry>) -> (Sink<T>, Source<T>) {
    let (sender, receiver) = mpsc::channel(BATCHES);
    let budget = Arc::new(Budget { pending: AtomicUsize::new(0), limit: AtomicUsize::new(limit) });
    let source = Source { receiver, budget: Arc::clone(&budget), registry: Arc::clone(registry) };
    (Sink { sender, budget }, source)
}

#[derive(Debug)]
pub(crate) struct Budget {
    pending: AtomicUsize,
    limit: AtomicUsize,
}

impl Budget {
    fn take(&self) -> bool {
        // Two workers may both take the last place: a bound that is off by a worker is a bound.
        let free = self.pending.load(Ordering::Relaxed) < self.limit.load(Ordering::Relaxed);
        if free {
            self.pending.fetch_add(1, Ordering::Relaxed);
        }
        free
    }

    fn give_back(&self, count: usize) {
        self.pending.fetch_sub(count, Ordering::Relaxed);
    }
}

/// One queue's sending end.
#[derive(Debug)]
pub(crate) struct Sink<T> {
    sender: mpsc::Sender<Vec<T>>,
    budget: Arc<Budget>,
}

impl<T> Clone for Sink<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), budget: Arc::clone(&self.budget) }
    }
}

impl<T> Sink<T> {
    /// Sets how many records may wait.
    pub(crate) fn limit(&self, records: usize) {
        self.budget.limit.store(records, Ordering::Relaxed);
    }

    fn batch(&self) -> usize {
        (self.budget.limit.load(Ordering::Relaxed) / 4).clamp(1, BATCH)
    }
}

/// One queue's receiving end.
#[derive(Debug)]
pub struct Source<T> {
    pub(crate) receiver: mpsc::Receiver<Vec<T>>,
    budget: Arc<Budget>,
    pub(crate) registry: Arc<Registry>,
}

impl<T> Source<T> {
    /// How many records have been taken in and not left.
    pub(crate) fn pending(&self) -> usize {
        self.budget.pending.load(Ordering::Relaxed)
    }

    /// `count` records have left the queue for good.
    pub(crate) fn done(&self, count: usize) {
        self.budget.give_back(count);
    }
}

/// What one worker has gathered and not yet handed on.
#[derive(Debug)]
pub(crate) struct Batch<T>(Vec<T>);

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Batch<T> {
    /// Takes a record in; how many records were dropped.
    pub(crate) fn push(&mut self, record: T, sink: &Sink<T>) -> u64 {
        if !sink.budget.take() {
            return 1;
        }
        self.0.push(record);
        if self.0.len() >= sink.batch() { self.flush(sink) } else { 0 }
    }

    /// Hands everything on; how many records were dropped.
    pub(crate) fn flush(&mut self, sink: &Sink<T>) -> u64 {
        if self.0.is_empty() {
            return 0;
        }
        let batch = std::mem::take(&mut self.0);
        match sink.sender.try_send(batch) {
            Ok(()) => 0,
            Err(mpsc::error::TrySendError::Full(batch) | mpsc::error::TrySendError::Closed(batch)) => {
                sink.budget.give_back(batch.len());
                batch.len() as u64
            }
        }
    }
}
