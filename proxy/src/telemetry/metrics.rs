//! What a worker counts: plain atomics with one writer each, found once per snapshot and never by label on the way.
//!
//! Every type here belongs to one worker's shard. Only that worker writes; the scrape reads and sums. So a write is a relaxed load and
//! a relaxed store, which costs what an ordinary addition costs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{StatusCode, Version};
use remora_model::Direction;

use crate::error::ResponseFlag;

/// A count with a single writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call this.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The current count; any thread may ask.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
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

/// What a request speaks, as `remora_requests_total` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RequestProtocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 that is not gRPC.
    Http2,
    /// gRPC.
    Grpc,
}

impl RequestProtocol {
    pub(crate) const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Grpc];

    /// The protocol of a request of this version; `grpc` wins.
    pub fn of(version: Version, grpc: bool) -> Self {
        match (grpc, version == Version::HTTP_2) {
            (true, _) => Self::Grpc,
            (false, true) => Self::Http2,
            (false, false) => Self::Http1,
        }
    }

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
        }
    }
}

/// What an upstream connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Opaque bytes.
    Tcp,
}

impl UpstreamProtocol {
    pub(crate) const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Tcp];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tcp => "tcp",
        }
    }
}

/// What a downstream connection turned out to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DownstreamProtocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// The application's own TLS, passed on as bytes.
    Tls,
    /// Opaque bytes.
    Tcp,
    /// It ended, or was refused, before that was known.
    Unknown,
}

impl DownstreamProtocol {
    pub(crate) const ALL: [Self; 5] = [Self::Http1, Self::Http2, Self::Tls, Self::Tcp, Self::Unknown];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a downstream connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// Aimed at one of the proxy's own ports.
    Loop,
    /// The kernel could not tell where it was aimed.
    NoOriginalDestination,
    /// Plaintext where mTLS is required.
    Plaintext,
    /// The TLS handshake failed, or the peer's identity is not accepted.
    Tls,
    /// It carries something its filter chain has no way for.
    NoRoute,
    /// It broke its protocol before the first request.
    Protocol,
    /// It said nothing, or not enough, in time.
    Timeout,
    /// Too many connections, or no file descriptor left.
    Limit,
    /// The proxy is draining.
    Draining,
}

impl Refusal {
    pub(crate) const ALL: [Self; 9] = [
        Self::Loop,
        Self::NoOriginalDestination,
        Self::Plaintext,
        Self::Tls,
        Self::NoRoute,
        Self::Protocol,
        Self::Timeout,
        Self::Limit,
        Self::Draining,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loop => "loop",
            Self::NoOriginalDestination => "no_original_destination",
            Self::Plaintext => "plaintext",
            Self::Tls => "tls",
            Self::NoRoute => "no_route",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::Limit => "limit",
            Self::Draining => "draining",
        }
    }
}

/// Which end of a TLS handshake the proxy was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TlsSide {
    /// Downstream: the proxy answered.
    Server,
    /// Upstream: the proxy began.
    Client,
}

impl TlsSide {
    pub(crate) const ALL: [Self; 2] = [Self::Server, Self::Client];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// Why TLS handshakes fail, as metrics count it.
pub const TLS_FAILURE_REASONS: [&str; 11] = [
    "unknown_ca",
    "expired",
    "not_yet_valid",
    "wrong_trust_domain",
    "wrong_identity",
    "no_certificate",
    "bad_certificate",
    "invalid_spiffe_id",
    "protocol",
    "timeout",
    "closed",
];

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
#[derive(Debug, Default)]
pub struct DownstreamMetrics {
    pub(crate) connections: [Counter; DownstreamProtocol::ALL.len()],
    pub(crate) refused: [Counter; Refusal::ALL.len()],
    pub(crate) active: Gauge,
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

    /// A request found a connection in the pool.
    pub fn reused(&self) {
        self.reuse.add(1);
    }
}

/// How many gRPC status codes there are.
pub(crate) const GRPC_STATUSES: usize = 17;
/// Flags, and none, which is index 0.
const FLAGS: usize = ResponseFlag::ALL.len() + 1;

/// The codes that have a series of their own (the IANA HTTP status code registry); index 0 is "no response was begun".
/// Others share their class's series, so that an upstream cannot make series at will.
pub(crate) const CODES: [(u16, &str); 70] = [
    (0, "0"),
    (100, "100"),
    (101, "101"),
    (102, "102"),
    (103, "103"),
    (199, "1xx"),
    (200, "200"),
    (201, "201"),
    (202, "202"),
    (203, "203"),
    (204, "204"),
    (205, "205"),
    (206, "206"),
    (207, "207"),
    (208, "208"),
    (226, "226"),
    (299, "2xx"),
    (300, "300"),
    (301, "301"),
    (302, "302"),
    (303, "303"),
    (304, "304"),
    (305, "305"),
    (307, "307"),
    (308, "308"),
    (399, "3xx"),
    (400, "400"),
    (401, "401"),
    (402, "402"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (406, "406"),
    (407, "407"),
    (408, "408"),
    (409, "409"),
    (410, "410"),
    (411, "411"),
    (412, "412"),
    (413, "413"),
    (414, "414"),
    (415, "415"),
    (416, "416"),
    (417, "417"),
    (418, "418"),
    (421, "421"),
    (422, "422"),
    (423, "423"),
    (424, "424"),
    (425, "425"),
    (426, "426"),
    (428, "428"),
    (429, "429"),
    (431, "431"),
    (451, "451"),
    (498, "4xx"),
    (500, "500"),
    (501, "501"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
    (505, "505"),
    (506, "506"),
    (507, "507"),
    (508, "508"),
    (510, "510"),
    (511, "511"),
    (599, "5xx"),
    (799, "other"),
    (999, "other"),
];

/// The index in [`CODES`] of each status from 100 to 599.
const CODE_INDEX: [u8; 500] = code_index();

const fn code_index() -> [u8; 500] {
    let mut table = [0; 500];
    let mut status = 100;
    while status < 600 {
        let class_end = [199, 299, 399, 498, 599][status / 100 - 1];
        let mut index = 0;
        while index < CODES.len() {
            let code = CODES[index].0 as usize;
            if code == status || (code == class_end && table[status - 100] == 0) {
                table[status - 100] = index as u8;
            }
            index += 1;
        }
        status += 1;
    }
    table
}

fn code_slot(status: Option<StatusCode>) -> usize {
    match status.map(|status| usize::from(status.as_u16())) {
        None => 0,
        Some(code @ 100..600) => usize::from(CODE_INDEX[code - 100]),
        Some(_) => CODES.len() - 1,
    }
}

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
