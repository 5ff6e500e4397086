//! One request, from its head to the end of its response's body.

mod record;

use std::cell::{Cell, OnceCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, StatusCode, Version};
use remora_model::Direction;

use super::attempt::{AttemptSpan, AttemptTelemetry};
use super::context::{self, Formats, TraceContext};
use super::ids::ratio_samples;
use super::metrics::{RequestProtocol, Traffic, UpstreamMetrics};
use super::semantics;
use super::span::{Outcome, RequestFacts, SpanRecord, SpanRole};
use super::{ConnectionInfo, TracingSettings, WorkerTelemetry};
use crate::error::Error;
use crate::http::head::{RequestHead, ResponseHead};

/// Body bytes seen so far, those of the request and those of its response; a clone counts into the same sums.
#[derive(Clone, Debug, Default)]
pub struct ByteCounter(Rc<(Cell<u64>, Cell<u64>)>);

impl ByteCounter {
    /// Counts `n` more bytes of the request.
    pub fn add(&self, n: usize) {
        self.0.0.set(self.0.0.get() + n as u64);
    }

    /// The request's bytes counted so far.
    pub fn total(&self) -> u64 {
        self.0.0.get()
    }

    /// The bytes of both directions counted so far.
    pub fn moved(&self) -> u64 {
        self.total() + self.0.1.get()
    }

    fn sent(&self) -> u64 {
        self.0.1.get()
    }

    fn add_sent(&self, n: usize) {
        self.0.1.set(self.0.1.get() + n as u64);
    }
}

/// The guard of one request. It moves into the response's body and ends with it; what it was told is recorded when it is dropped.
///
/// Dropped without [`complete`](Self::complete) or [`failed`](Self::failed), the client has gone away (flag `DC`).
#[derive(Debug)]
pub struct RequestTelemetry(Box<Inner>);

#[derive(Debug)]
struct Inner {
    worker: Rc<WorkerTelemetry>,
    connection: Rc<ConnectionInfo>,
    started: Instant,
    protocol: RequestProtocol,
    version: Version,
    /// What a line or a span needs; absent where neither can come.
    target: Option<Target>,
    trace_id: Option<u128>,
    sampled: Option<Sampled>,
    traffic: Option<Arc<Traffic>>,
    route: Option<Arc<str>>,
    bytes: OnceCell<ByteCounter>,
    attempts: Cell<u32>,
    endpoint: Cell<Option<SocketAddr>>,
    status: Option<StatusCode>,
    grpc_status: Option<u8>,
    failure: Option<Error>,
    complete: bool,
}

/// Shares the head's buffers: nothing is copied before it is known to be wanted.
#[derive(Debug)]
struct Target {
    method: Method,
    authority: Option<Authority>,
    path: PathAndQuery,
}

/// The position of a sampled request in its trace.
#[derive(Debug)]
struct Sampled {
    start: SystemTime,
    trace_id: u128,
    /// The caller's span.
    parent: Option<u64>,
    /// Ours, where the request itself has one (inbound and gateway).
    server_span: Option<u64>,
    debug: bool,
    random: bool,
    formats: Formats,
    /// What there is before it is written.
    present: Formats,
    tracestate: Option<Box<str>>,
    user_agent: Option<Box<str>>,
}

impl RequestTelemetry {
    /// A request's head has been read. Where tracing is configured, the trace context is read from the head and the sampling decision is
    /// made; inbound and at a gateway the headers then name our server span as the parent. Outbound they are written by
    /// [`attempt`](Self::attempt), except for a request that is not sampled: its headers are final after this call.
    pub fn start(worker: &Rc<WorkerTelemetry>, connection: &Rc<ConnectionInfo>, head: &mut RequestHead) -> Self {
        let protocol = RequestProtocol::of(head.version, head.is_grpc());
        let (trace_id, sampled) = match worker.tracing.get() {
            None => (None, None),
            Some(settings) => {
                let (trace_id, sampled) = trace(worker, settings, connection.direction, &mut head.headers);
                (Some(trace_id), sampled)
            }
        };
        let target = (sampled.is_some() || worker.logs_anything()).then(|| Target {
            method: head.method.clone(),
            authority: head.authority.clone(),
            path: head.path.clone(),
        });
        // Made where it stays.
        let inner = Box::write(
            Box::new_uninit(),
            Inner {
                worker: Rc::clone(worker),
                connection: Rc::clone(connection),
                started: Instant::now(),
                protocol,
                version: head.version,
                target,
                trace_id,
                sampled,
                traffic: None,
                route: None,
                bytes: OnceCell::new(),
                attempts: Cell::new(0),
                endpoint: Cell::new(None),
                status: None,
                grpc_status: None,
                failure: None,
                complete: false,
            },
        );
        Self(inner)
    }

    /// Whether this is gRPC.
    pub fn is_grpc(&self) -> bool {
        self.0.protocol == RequestProtocol::Grpc
    }

    /// The request takes `route` to the cluster that `traffic` counts.
    pub fn routed(&mut self, route: &Arc<str>, traffic: &Arc<Traffic>) {
        let inner = &mut *self.0;
        traffic.active.up();
        if let Some(previous) = inner.traffic.replace(Arc::clone(traffic)) {
            previous.active.down();
        }
        inner.route = Some(Arc::clone(route));
    }

    /// The request is sent to `endpoint`: counted as an attempt, and as a retry from the second on. Outbound and at a gateway a sampled
    /// request gets a client span, which `headers` then name as the parent.
    pub fn attempt(
        &self,
        upstream: &Arc<UpstreamMetrics>,
        endpoint: SocketAddr,
        headers: &mut HeaderMap,
    ) -> AttemptTelemetry {
        let inner = &*self.0;
        let resend = inner.attempts.get();
        inner.attempts.set(resend.saturating_add(1));
        inner.endpoint.set(Some(endpoint));
        upstream.attempt();
        if resend > 0 {
            upstream.retry();
        }
        let grpc = inner.protocol == RequestProtocol::Grpc;
        let span = match &inner.sampled {
            Some(sampled) if inner.connection.direction != Direction::Inbound => {
                let span = inner.client_span(sampled, Some(endpoint), resend);
                let context = sampled.context(span.span_id);
                context::write(headers, &context, sampled.formats, sampled.present);
                Some(AttemptSpan::start(&inner.worker, span))
            }
            _ => None,
        };
        AttemptTelemetry::new(span, grpc)
    }

    /// The head of the response that goes to the client, ours or the upstream's. A gRPC status in it (trailers-only) is noted.
    pub fn response(&mut self, head: &ResponseHead) {
        self.0.status = Some(head.status);
        self.grpc_status(&head.headers);
    }

    /// The request failed; the last error told counts. An attempt that is tried again is told to its [`AttemptTelemetry`] only.
    pub fn failed(&mut self, error: &Error) {
        if let Some(reason) = error.violation() {
            self.0.worker.downstream(self.0.connection.direction).violation(reason);
        }
        self.0.failure = Some(error.clone());
    }

    /// Notes `grpc-status`, if it is there.
    pub fn grpc_status(&mut self, trailers: &HeaderMap) {
        if self.0.protocol == RequestProtocol::Grpc
            && let Some(status) = semantics::grpc_status(trailers)
        {
            self.0.grpc_status = Some(status);
        }
    }

    /// Counts the bytes of the request's body; give it to whatever passes the body on.
    pub fn request_bytes_handle(&self) -> ByteCounter {
        self.0.bytes.get_or_init(ByteCounter::default).clone()
    }

    /// The bytes of the request's body so far.
    pub fn request_bytes(&self) -> u64 {
        self.0.bytes.get().map_or(0, ByteCounter::total)
    }

    /// Counts `n` more bytes of the response's body.
    pub fn response_bytes(&self, n: usize) {
        self.0.bytes.get_or_init(ByteCounter::default).add_sent(n);
    }

    /// The response's body ended as it should.
    pub fn complete(&mut self) {
        self.0.complete = true;
    }

    /// The trace this request belongs to, sampled or not, as 32 hexadecimal digits' value; `None` where tracing is off.
    pub fn trace_id(&self) -> Option<u128> {
        self.0.trace_id
    }
}

/// Reads the context, decides, and writes the headers that are already certain.
fn trace(
    worker: &WorkerTelemetry,
    settings: TracingSettings,
    direction: Direction,
    headers: &mut HeaderMap,
) -> (u128, Option<Sampled>) {
    let incoming = context::read(headers);
    let formats = settings.written.and(incoming.found);
    let trace_id = incoming.parent.map_or_else(|| worker.ids.trace_id(), |parent| parent.trace_id);
    if incoming.is_unreadable() {
        worker.downstream(direction).violation("trace_context");
    }
    let sampled = incoming.sampled.unwrap_or_else(|| ratio_samples(trace_id, settings.ratio));
    if incoming.tracestate {
        context::limit_tracestate(headers, incoming.w3c);
    }
    if !sampled {
        if !incoming.says_unsampled_to(settings.written) {
            let random = incoming.parent.is_some_and(|parent| parent.random);
            let span_id = worker.ids.span_id();
            let context = TraceContext { trace_id, span_id, sampled, debug: false, random };
            context::write(headers, &context, formats, incoming.present);
        }
        return (trace_id, None);
    }
    let server_span = (direction != Direction::Outbound).then(|| worker.ids.span_id());
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(Box::from);
    let position = Sampled {
        start: SystemTime::now(),
        trace_id,
        parent: incoming.parent.map(|parent| parent.span_id),
        server_span,
        debug: incoming.debug,
        random: incoming.parent.is_some_and(|parent| parent.random),
        formats,
        present: incoming.present,
        tracestate: context::tracestate(headers),
        user_agent: text(http::header::USER_AGENT),
    };
    if let Some(span_id) = server_span {
        context::write(headers, &position.context(span_id), formats, position.present);
    }
    (trace_id, Some(position))
}

impl Sampled {
    /// What the headers say when `span_id` is the parent of what follows.
    fn context(&self, span_id: u64) -> TraceContext {
        TraceContext { trace_id: self.trace_id, span_id, sampled: true, debug: self.debug, random: self.random }
    }
}

impl Inner {
    fn facts(&self, sampled: &Sampled) -> RequestFacts {
        let target = self.target.as_ref();
        RequestFacts {
            method: target.map(|target| target.method.clone()).unwrap_or_default(),
            https: self.connection.https,
            authority: target.and_then(|target| target.authority.as_ref()).map(|authority| authority.as_str().into()),
            path: target.map(|target| target.path.path().into()).unwrap_or_default(),
            version: self.version,
            grpc: self.protocol == RequestProtocol::Grpc,
            user_agent: sampled.user_agent.clone(),
            client: self.connection.client.socket(),
            orig_dst: self.connection.orig_dst.socket(),
            peer: self.connection.peer.clone(),
        }
    }

    /// A span that begins now; its end and outcome are filled in later.
    fn span(&self, sampled: &Sampled, role: SpanRole, span_id: u64) -> SpanRecord {
        SpanRecord {
            trace_id: sampled.trace_id,
            span_id,
            parent: sampled.parent,
            parent_is_remote: true,
            random: sampled.random,
            tracestate: sampled.tracestate.clone(),
            role,
            start: sampled.start,
            end: sampled.start,
            direction: self.connection.direction,
            request: self.facts(sampled),
            cluster: self.traffic.as_ref().map(|traffic| Arc::clone(&traffic.cluster)),
            route: self.route.clone(),
            endpoint: None,
            resend: 0,
            outcome: Outcome::default(),
        }
    }

    fn client_span(&self, sampled: &Sampled, endpoint: Option<SocketAddr>, resend: u32) -> SpanRecord {
        let mut span = self.span(sampled, SpanRole::Client, self.worker.ids.span_id());
        if let Some(server) = sampled.server_span {
            (span.parent, span.parent_is_remote) = (Some(server), false);
        }
        (span.endpoint, span.resend) = (endpoint, resend);
        span
    }
}
