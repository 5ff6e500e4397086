//! What the proxy tells of its traffic: metrics, spans and the access log.
//!
//! Three guards are the only telemetry on the path of a connection: [`ConnectionTelemetry`], [`RequestTelemetry`] and
//! [`AttemptTelemetry`]. Each is plain data of one worker, is told what happens, and records when it is dropped. Nothing on the path
//! locks, formats or looks up a label: metric handles are resolved when a snapshot is applied, strings are copied only for spans that
//! are sampled and lines that are written, and both leave the worker in batches that are dropped, and counted, rather than waited for.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use remora_model::telemetry::{AccessLog, AccessLogFilter, Telemetry};
use remora_model::{Direction, SpiffeId};

use crate::address::{ClientAddr, OrigDst};

pub mod access_log;
mod attempt;
mod channel;
mod connection;
pub mod context;
pub mod export;
mod exposition;
pub mod identity;
mod ids;
pub mod metrics;
mod open;
mod process;
pub mod registry;
mod request;
mod semantics;
mod span;

pub use attempt::AttemptTelemetry;
pub use channel::{Sinks, Sources, channels};
pub use connection::ConnectionTelemetry;
pub use exposition::Value;
pub use identity::{AnchorSeen, DrainReason};
pub use metrics::{
    DownstreamMetrics, DownstreamProtocol, Refusal, RequestProtocol, TLS_FAILURE_REASONS, TlsMetrics, TlsSide, Traffic,
    UpstreamMetrics, UpstreamProtocol,
};
pub use open::{ConnectionStatus, OpenConnection};
pub use registry::{Registry, Shard};
pub use request::{ByteCounter, RequestTelemetry};

use access_log::AccessRecord;
use channel::Batch;
use context::Formats;
use ids::IdGenerator;
use open::OpenConnections;
use registry::{DIRECTIONS, direction_index};
use span::SpanRecord;

/// What is known of a downstream connection once it has been inspected and its peer is verified.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Which way it goes.
    pub direction: Direction,
    /// Where it came from.
    pub client: ClientAddr,
    /// Where it was aimed.
    pub orig_dst: OrigDst,
    /// The verified SPIFFE ID of the mTLS peer.
    pub peer: Option<SpiffeId>,
    /// The server name of the TLS client hello.
    pub sni: Option<Arc<str>>,
    /// The proxy terminated TLS that the client itself speaks (a gateway's `https`; not the mesh's mTLS).
    pub https: bool,
}

/// The telemetry of one worker: its metric shard, the current settings, and what waits to be handed to the control side.
#[derive(Debug)]
pub struct WorkerTelemetry {
    shard: Shard,
    downstream: [Arc<DownstreamMetrics>; DIRECTIONS.len()],
    unrouted: [Arc<Traffic>; DIRECTIONS.len()],
    tls: Arc<TlsMetrics>,
    tracing: Cell<Option<TracingSettings>>,
    access_log: Cell<AccessLog>,
    ids: IdGenerator,
    sinks: Sinks,
    spans: RefCell<Batch<SpanRecord>>,
    lines: RefCell<Batch<AccessRecord>>,
    open: OpenConnections,
}

/// The part of the tracing configuration that requests need.
#[derive(Clone, Copy, Debug)]
struct TracingSettings {
    ratio: f64,
    written: Formats,
}

impl WorkerTelemetry {
    /// Telemetry of one more worker. Until [`apply`](Self::apply) nothing is traced and the access log has its default filter.
    pub fn new(registry: &Arc<Registry>, sinks: Sinks) -> Rc<Self> {
        let shard = registry.shard();
        let downstream = DIRECTIONS.map(|direction| shard.downstream(direction));
        let unrouted = DIRECTIONS.map(|direction| shard.traffic(direction, "-"));
        let tls = shard.tls();
        Rc::new(Self {
            shard,
            downstream,
            unrouted,
            tls,
            tracing: Cell::new(None),
            access_log: Cell::new(AccessLog::default()),
            ids: IdGenerator::seeded(),
            sinks,
            spans: RefCell::default(),
            lines: RefCell::default(),
            open: OpenConnections::default(),
        })
    }

    /// The downstream connections that are open now.
    pub fn open_connections(&self) -> Vec<ConnectionStatus> {
        self.open.status()
    }

    /// Takes the settings of a snapshot; requests under way keep theirs.
    pub fn apply(&self, telemetry: &Telemetry) {
        self.tracing.set(telemetry.tracing.as_ref().map(|tracing| TracingSettings {
            ratio: tracing.sampling_ratio,
            written: Formats::of(&tracing.propagation),
        }));
        self.access_log.set(telemetry.access_log);
        if let Some(tracing) = &telemetry.tracing {
            self.sinks.spans.limit(tracing.queue);
        }
    }

    /// Hands what has gathered to the control side; never waits. Called every second, and once when the worker ends.
    pub fn flush(&self) {
        self.shard.spans_dropped(self.spans.borrow_mut().flush(&self.sinks.spans));
        self.flush_lines();
    }

    /// Hands on log lines alone, every 100 ms. Each export of spans costs the control thread more than all its spans, at the expense of what is
    /// served meanwhile.
    pub fn flush_lines(&self) {
        self.shard.access_log_dropped(self.lines.borrow_mut().flush(&self.sinks.lines));
    }

    /// The metric shard, to resolve handles when a snapshot is applied.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Downstream connections of `direction`.
    pub fn downstream(&self, direction: Direction) -> &Arc<DownstreamMetrics> {
        &self.downstream[direction_index(direction)]
    }

    /// TLS handshakes.
    pub fn tls(&self) -> &TlsMetrics {
        &self.tls
    }

    fn unrouted(&self, direction: Direction) -> &Arc<Traffic> {
        &self.unrouted[direction_index(direction)]
    }

    fn record_span(&self, span: SpanRecord) {
        self.shard.spans_dropped(self.spans.borrow_mut().push(span, &self.sinks.spans));
    }

    fn record_line(&self, line: AccessRecord) {
        self.shard.access_log_dropped(self.lines.borrow_mut().push(line, &self.sinks.lines));
    }

    /// Whether something that `failed` or not gets a line.
    fn logs(&self, failed: bool) -> bool {
        match self.access_log.get().filter {
            AccessLogFilter::Off => false,
            AccessLogFilter::Failed => failed,
            AccessLogFilter::All => true,
        }
    }

    fn logs_anything(&self) -> bool {
        self.access_log.get().filter != AccessLogFilter::Off
    }
}

#[cfg(test)]
mod tests;
