//! What a worker counts: plain atomics with one writer each, found once per snapshot and never by label on the way.
//!
//! Every type here belongs to one worker's shard. Only that worker writes; the scrape reads and sums. So a write is a relaxed load and
//! a relaxed store, which costs what an ordinary addition costs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::StatusCode;
use remora_model::Direction;

use crate::breaker::Limit;
use crate::error::ResponseFlag;

mod codes;
mod labels;

pub use labels::{
    DownstreamProtocol, RESET_CODES, Refusal, RequestProtocol, TLS_FAILURE_REASONS, TlsSide, UpstreamProtocol,
    VIOLATIONS,
};

use codes::{CODES, code_slot};

/// Whether workers count. They do but in a program that is made to show what that costs.
pub(crate) const COUNTS: bool = cfg!(not(feature = "uncounted"));

/// A count with a single writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call this.
    pub fn add(&self, n: u64) {
        if COUNTS {
            self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
        }
    }

    /// The current count; any thread may ask.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn sub(&self, n: u64) {
        self.add(n.wrapping_neg());
    }
}

/// How many of something there are now; with a single writer.
#[derive(Debug, Default)]
pub struct Gauge(Counter);

impl Gauge {
    /// One more.
    pub fn up(&self) {
        self.0.add(1);
    }

    /// One fewer.
    pub fn down(&self) {
        self.0.sub(1);
    }

    /// How many there are; any thread may ask.
    pub fn value(&self) -> u64 {
        self.0.value()
    }
}

/// The upper bounds of the duration histogram's buckets, in microseconds; the last bucket has none.
pub(crate) const DURATION_BOUNDS_US: [u64; 17] = [
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
];

/// Durations by bucket; a bucket's bound belongs to it, as in Prometheus.
#[derive(Debug, Default)]
pub struct DurationHistogram {
    buckets: [Counter; DURATION_BOUNDS_US.len() + 1],
    sum_ns: Counter,
}

impl DurationHistogram {
    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = DURATION_BOUNDS_US.partition_point(|bound| bound.saturating_mul(1_000) < ns);
        self.buckets[bucket].add(1);
        self.sum_ns.add(ns);
    }

    /// The counts of each bucket (not cumulated) and the sum in nanoseconds.
    pub(crate) fn read(&self) -> ([u64; DURATION_BOUNDS_US.len() + 1], u64) {
        (std::array::from_fn(|i| self.buckets[i].value()), self.sum_ns.value())
    }
}

/// TLS handshakes of one worker.
#[derive(Debug, Default)]
pub struct TlsMetrics {
    pub(crate) handshakes: [[Counter; 2]; 2],
    pub(crate) failures: [[Counter; TLS_FAILURE_REASONS.len()]; 2],
}

impl TlsMetrics {
    /// A handshake that succeeded, verification of the peer included.
    pub fn handshake(&self, side: TlsSide, resumed: bool) {
        self.handshakes[side as usize][usize::from(resumed)].add(1);
    }

    /// A handshake that failed for one of [`TLS_FAILURE_REASONS`]; any other text counts as `protocol`.
    pub fn handshake_failed(&self, side: TlsSide, reason: &'static str) {
        let index = |wanted| TLS_FAILURE_REASONS.iter().position(|known| *known == wanted);
        let index = index(reason).or_else(|| index("protocol")).unwrap_or_default();
        self.failures[side as usize][index].add(1);
    }
}

/// Downstream connections of one worker in one direction.
#[derive(Debug)]
pub struct DownstreamMetrics {
    pub(crate) connections: [Counter; DownstreamProtocol::ALL.len()],
    pub(crate) refused: [Counter; Refusal::ALL.len()],
    pub(crate) violations: [Counter; VIOLATIONS.len()],
    pub(crate) resets: [Counter; RESET_CODES.len()],
    pub(crate) joined: Counter,
    pub(crate) accept_pauses: Counter,
    pub(crate) active: Gauge,
    pub(crate) detection: DurationHistogram,
    pub(crate) detection_timeouts: Counter,
}

impl Default for DownstreamMetrics {
    fn default() -> Self {
        Self {
            connections: Default::default(),
            refused: Default::default(),
            violations: std::array::from_fn(|_| Counter::default()),
            resets: Default::default(),
            joined: Counter::default(),
            accept_pauses: Counter::default(),
            active: Gauge::default(),
            detection: DurationHistogram::default(),
            detection_timeouts: Counter::default(),
        }
    }
}

impl DownstreamMetrics {
    /// A connection was accepted.
    pub fn opened(&self) {
        self.active.up();
    }

    /// A connection ended, having spoken `protocol`. The total counts connections when they have been understood or have ended.
    pub fn closed(&self) {
        self.active.down();
    }

    /// What a connection speaks is known, or will never be.
    pub fn identified(&self, protocol: DownstreamProtocol) {
        self.connections[protocol as usize].add(1);
    }

    /// It took so long until it was known what a connection speaks.
    pub fn detected(&self, after: Duration) {
        self.detection.record(after);
    }

    /// A connection's first bytes could be the beginning of anything, and no more came in time.
    pub fn undecided(&self) {
        self.detection_timeouts.add(1);
    }

    /// A client broke its protocol in one of the ways of [`VIOLATIONS`]; any other text counts as `other`.
    pub fn violation(&self, reason: &'static str) {
        let index = VIOLATIONS.iter().position(|known| *known == reason).unwrap_or(VIOLATIONS.len() - 1);
        self.violations[index].add(1);
    }

    /// A stream was reset, with this HTTP/2 error code.
    pub fn reset_sent(&self, code: u32) {
        let last = RESET_CODES.len() - 1;
        self.resets[usize::try_from(code).map_or(last, |code| code.min(last))].add(1);
    }

    /// A small part of an upload has to wait, joined with those before it.
    pub(crate) fn joined(&self) {
        self.joined.add(1);
    }

    /// Accepting rests: there are as many connections, or open files, as there may be.
    pub fn accept_paused(&self) {
        self.accept_pauses.add(1);
    }

    /// A connection was refused.
    pub fn refused(&self, reason: Refusal) {
        self.refused[reason as usize].add(1);
    }
}

/// Connections and attempts towards one cluster, of one worker.
#[derive(Debug)]
pub struct UpstreamMetrics {
    pub(crate) cluster: Arc<str>,
    pub(crate) connections: [Counter; UpstreamProtocol::ALL.len()],
    pub(crate) active: Gauge,
    pub(crate) connect_failures: Counter,
    pub(crate) attempts: Counter,
    pub(crate) retries: Counter,
    pub(crate) reuse: Counter,
    pub(crate) surplus: Counter,
    pub(crate) overflows: [Counter; Limit::ALL.len()],
}

impl UpstreamMetrics {
    pub(crate) fn new(cluster: Arc<str>) -> Self {
        Self {
            cluster,
            connections: Default::default(),
            active: Gauge::default(),
            connect_failures: Counter::default(),
            attempts: Counter::default(),
            retries: Counter::default(),
            reuse: Counter::default(),
            surplus: Counter::default(),
            overflows: Default::default(),
        }
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &Arc<str> {
        &self.cluster
    }

    /// A connection was made (TLS included) and is now active.
    pub fn connection_opened(&self, protocol: UpstreamProtocol) {
        self.connections[protocol as usize].add(1);
        self.active.up();
    }

    /// A connection counted by [`connection_opened`](Self::connection_opened) ended.
    pub fn connection_closed(&self) {
        self.active.down();
    }

    /// A connection could not be made.
    pub fn connect_failed(&self) {
        self.connect_failures.add(1);
    }

    /// A request, or a TCP connection, is tried on an endpoint. [`RequestTelemetry`](super::RequestTelemetry) counts HTTP attempts by itself.
    pub fn attempt(&self) {
        self.attempts.add(1);
    }

    /// The attempt was not the first. [`RequestTelemetry`](super::RequestTelemetry) counts HTTP retries by itself.
    pub fn retry(&self) {
        self.retries.add(1);
    }

    /// An endpoint said more on a connection than it was asked for, and another request will not find it there.
    pub(crate) fn surplus_answer(&self) {
        self.surplus.add(1);
    }

    /// As much of the cluster is in use as may be.
    pub(crate) fn overflowed(&self, limit: Limit) {
        self.overflows[limit as usize].add(1);
    }

    /// A request found a connection in the pool.
    pub fn reused(&self) {
        self.reuse.add(1);
    }
}

/// How many gRPC status codes there are.
pub(crate) const GRPC_STATUSES: usize = 17;
/// Flags, and none, which is index 0.
const FLAGS: usize = ResponseFlag::ALL.len() + 1;

/// Requests and TCP connections of one direction and cluster, of one worker.
#[derive(Debug)]
pub struct Traffic {
    pub(crate) direction: Direction,
    pub(crate) cluster: Arc<str>,
    /// By protocol and flag; made at the first request of its kind, since most never happen.
    requests: [[OnceLock<Box<[Counter; CODES.len()]>>; FLAGS]; RequestProtocol::ALL.len()],
    pub(crate) grpc: [Counter; GRPC_STATUSES],
    pub(crate) duration: DurationHistogram,
    pub(crate) request_bytes: Counter,
    pub(crate) response_bytes: Counter,
    pub(crate) active: Gauge,
    pub(crate) tcp_connections: Counter,
    pub(crate) tcp_sent: Counter,
    pub(crate) tcp_received: Counter,
}

impl Traffic {
    pub(crate) fn new(direction: Direction, cluster: Arc<str>) -> Self {
        Self {
            direction,
            cluster,
            requests: Default::default(),
            grpc: Default::default(),
            duration: DurationHistogram::default(),
            request_bytes: Counter::default(),
            response_bytes: Counter::default(),
            active: Gauge::default(),
            tcp_connections: Counter::default(),
            tcp_sent: Counter::default(),
            tcp_received: Counter::default(),
        }
    }

    /// The direction it counts.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// The cluster's name; `-` for what no route took.
    pub fn cluster(&self) -> &Arc<str> {
        &self.cluster
    }

    pub(crate) fn request(&self, protocol: RequestProtocol, status: Option<StatusCode>, flag: Option<ResponseFlag>) {
        let flag = flag.map_or(0, |flag| flag as usize + 1);
        let codes = self.requests[protocol as usize][flag]
            .get_or_init(|| Box::new(std::array::from_fn(|_| Counter::default())));
        codes[code_slot(status)].add(1);
    }

    /// Every count that is not zero: protocol, code label, flag label (empty for none), count.
    pub(crate) fn requests(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str, u64)> + '_ {
        RequestProtocol::ALL.into_iter().flat_map(move |protocol| {
            self.requests[protocol as usize].iter().enumerate().flat_map(move |(flag, codes)| {
                let flag = flag.checked_sub(1).map_or("", |index| ResponseFlag::ALL[index].as_str());
                codes.get().into_iter().flat_map(move |codes| {
                    codes
                        .iter()
                        .zip(CODES)
                        .filter(|(count, _)| count.value() > 0)
                        .map(move |(count, (_, code))| (protocol.as_str(), code, flag, count.value()))
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_belongs_to_the_bucket_that_its_bound_closes() {
        let histogram = DurationHistogram::default();
        for us in [0, 500, 501, 1_000, 300_000_000, 300_000_001] {
            histogram.record(Duration::from_micros(us));
        }
        histogram.record(Duration::from_nanos(500_001));
        let (buckets, sum) = histogram.read();
        assert_eq!((buckets[0], buckets[1], buckets[16], buckets[17]), (2, 3, 1, 1));
        assert_eq!(sum, (500 + 501 + 1_000 + 600_000_001) * 1_000 + 500_001);
    }

    #[test]
    fn an_upstream_cannot_make_series_at_will() {
        let traffic = Traffic::new(Direction::Inbound, "a".into());
        for code in 100..1000 {
            traffic.request(RequestProtocol::Http1, StatusCode::from_u16(code).ok(), None);
        }
        assert!(traffic.requests().count() < CODES.len());
        assert_eq!(traffic.requests().map(|(_, _, _, count)| count).sum::<u64>(), 900);
    }

    #[test]
    fn unknown_tls_reasons_count_as_protocol() {
        let tls = TlsMetrics::default();
        tls.handshake_failed(TlsSide::Client, "something new");
        let protocol = TLS_FAILURE_REASONS.iter().position(|reason| *reason == "protocol").unwrap();
        assert_eq!(tls.failures[TlsSide::Client as usize][protocol].value(), 1);
    }
}
