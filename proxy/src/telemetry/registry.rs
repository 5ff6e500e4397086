//! Where every worker's counts are found again: shards by worker, summed by the scrape.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use remora_model::Direction;

use super::exposition::{self, Value};
use super::identity::{IdentityMetrics, TrustMetrics};
use super::metrics::{Counter, DownstreamMetrics, TlsMetrics, Traffic, UpstreamMetrics};
use crate::breaker::InUse;

pub(crate) const DIRECTIONS: [Direction; 3] = [Direction::Inbound, Direction::Outbound, Direction::Gateway];

/// Everything the process counts. Made once; the control side scrapes it.
#[derive(Debug, Default)]
pub struct Registry {
    shards: Mutex<Vec<Arc<ShardData>>>,
    /// Of the clusters that have bounds.
    in_use: Mutex<BTreeMap<Arc<str>, Arc<InUse>>>,
    pub(crate) control: ControlMetrics,
}

/// What is not counted by workers. Any thread may write.
#[derive(Debug, Default)]
pub(crate) struct ControlMetrics {
    /// Applied, failed.
    pub(crate) config_reloads: [AtomicU64; 2],
    pub(crate) identity: IdentityMetrics,
    pub(crate) spans_exported: AtomicU64,
    pub(crate) spans_dropped: AtomicU64,
    pub(crate) access_log_dropped: AtomicU64,
    /// Zero where there is none.
    pub(crate) memory_limit: AtomicU64,
    pub(crate) memory_used: AtomicU64,
    pub(crate) memory_shortages: AtomicU64,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// The shard of one more worker.
    pub fn shard(self: &Arc<Self>) -> Shard {
        let data = Arc::new(ShardData::default());
        lock(&self.shards).push(Arc::clone(&data));
        Shard { data, registry: Arc::clone(self), single_thread: PhantomData }
    }

    /// Everything in Prometheus' text format 0.0.4.
    pub fn render_prometheus(&self) -> String {
        exposition::prometheus(&exposition::gather(self))
    }

    /// Every series as `name{label="value"}` and its value, sorted by name.
    pub fn stats(&self) -> Vec<(String, Value)> {
        exposition::stats(&exposition::gather(self))
    }

    /// Counts a configuration reload; `ok`: it was applied.
    pub fn config_reload(&self, ok: bool) {
        self.control.config_reloads[usize::from(!ok)].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts spans a collector took.
    pub fn spans_exported(&self, count: u64) {
        self.control.spans_exported.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts spans that were lost on the control side.
    pub fn spans_dropped(&self, count: u64) {
        self.control.spans_dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts access log lines that were lost on the control side.
    pub fn access_log_dropped(&self, count: u64) {
        self.control.access_log_dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// How much memory there may be and is; `short`: it has just become shorter than before.
    pub(crate) fn memory(&self, limit: u64, used: u64, short: bool) {
        self.control.memory_limit.store(limit, Ordering::Relaxed);
        self.control.memory_used.store(used, Ordering::Relaxed);
        self.control.memory_shortages.fetch_add(short.into(), Ordering::Relaxed);
    }

    pub(crate) fn shards(&self) -> Vec<Arc<ShardData>> {
        lock(&self.shards).clone()
    }

    pub(crate) fn in_use(&self) -> BTreeMap<Arc<str>, Arc<InUse>> {
        lock(&self.in_use).clone()
    }
}

/// One worker's counts. The handles it gives may be written only from the thread it lives in.
#[derive(Debug)]
pub struct Shard {
    data: Arc<ShardData>,
    registry: Arc<Registry>,
    /// Keeps the shard, and with it the right to write, in one thread.
    single_thread: PhantomData<std::cell::Cell<()>>,
}

/// By index of the direction, and cluster.
type ByDestination = BTreeMap<(usize, Arc<str>), Arc<Traffic>>;

#[derive(Debug, Default)]
pub(crate) struct ShardData {
    pub(crate) traffic: Mutex<ByDestination>,
    pub(crate) upstream: Mutex<BTreeMap<Arc<str>, Arc<UpstreamMetrics>>>,
    pub(crate) downstream: [Arc<DownstreamMetrics>; DIRECTIONS.len()],
    pub(crate) tls: Arc<TlsMetrics>,
    pub(crate) narrowed: Narrowed,
    pub(crate) trust: TrustMetrics,
    pub(crate) spans_dropped: Counter,
    pub(crate) access_log_dropped: Counter,
}

/// How often the windows that HTTP/2 streams may have were made narrower.
#[derive(Clone, Debug, Default)]
pub(crate) struct Narrowed {
    pub(crate) clients: Arc<Counter>,
    pub(crate) endpoints: Arc<Counter>,
}

impl Shard {
    /// Requests and TCP connections of `direction` to `cluster`. Takes a lock: ask when a snapshot is applied, not per request.
    /// The same names give the same handle, so counts survive a swap.
    pub fn traffic(&self, direction: Direction, cluster: &str) -> Arc<Traffic> {
        let key = (direction_index(direction), Arc::from(cluster));
        let mut traffic = lock(&self.data.traffic);
        Arc::clone(
            traffic
                .entry(key)
                .or_insert_with_key(|(_, cluster)| Arc::new(Traffic::new(direction, Arc::clone(cluster)))),
        )
    }

    /// Connections and attempts towards `cluster`; the same rules as [`traffic`](Self::traffic).
    pub fn upstream(&self, cluster: &str) -> Arc<UpstreamMetrics> {
        let mut upstream = lock(&self.data.upstream);
        Arc::clone(
            upstream
                .entry(Arc::from(cluster))
                .or_insert_with_key(|cluster| Arc::new(UpstreamMetrics::new(Arc::clone(cluster)))),
        )
    }

    /// How much of `cluster` is in use, by every worker; the same rules as [`traffic`](Self::traffic).
    pub(crate) fn in_use(&self, cluster: &Arc<str>) -> Arc<InUse> {
        Arc::clone(lock(&self.registry.in_use).entry(Arc::clone(cluster)).or_default())
    }

    /// Downstream connections of `direction`.
    pub fn downstream(&self, direction: Direction) -> Arc<DownstreamMetrics> {
        Arc::clone(&self.data.downstream[direction_index(direction)])
    }

    /// TLS handshakes.
    pub fn tls(&self) -> Arc<TlsMetrics> {
        Arc::clone(&self.data.tls)
    }

    /// Windows of HTTP/2 streams.
    pub(crate) fn narrowed(&self) -> Narrowed {
        self.data.narrowed.clone()
    }

    pub(crate) fn data(&self) -> &ShardData {
        &self.data
    }

    pub(crate) fn spans_dropped(&self, count: u64) {
        self.data.spans_dropped.add(count);
    }

    pub(crate) fn access_log_dropped(&self, count: u64) {
        self.data.access_log_dropped.add(count);
    }
}

pub(crate) fn direction_index(direction: Direction) -> usize {
    match direction {
        Direction::Inbound => 0,
        Direction::Outbound => 1,
        Direction::Gateway => 2,
    }
}

/// A lock whose data is complete at every moment, so that a panic elsewhere does not spoil it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
