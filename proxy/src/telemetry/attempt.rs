//! One try of a request on one endpoint.

use std::rc::Rc;
use std::time::Instant;

use http::HeaderMap;

use super::WorkerTelemetry;
use super::semantics;
use super::span::SpanRecord;
use crate::error::Error;
use crate::http::head::ResponseHead;

/// The guard of one attempt: its client span ends when this is dropped, so it moves into the response's body beside
/// [`RequestTelemetry`](super::RequestTelemetry). Where no span is made it is two words that do nothing.
#[derive(Debug)]
pub struct AttemptTelemetry {
    span: Option<Box<AttemptSpan>>,
    grpc: bool,
}

#[derive(Debug)]
pub(crate) struct AttemptSpan {
    worker: Rc<WorkerTelemetry>,
    started: Instant,
    record: Option<SpanRecord>,
    complete: bool,
}

impl AttemptSpan {
    pub(crate) fn start(worker: &Rc<WorkerTelemetry>, mut record: SpanRecord) -> Box<Self> {
        record.start = std::time::SystemTime::now();
        Box::new(Self { worker: Rc::clone(worker), started: Instant::now(), record: Some(record), complete: false })
    }
}

impl AttemptTelemetry {
    pub(crate) fn new(span: Option<Box<AttemptSpan>>, grpc: bool) -> Self {
        Self { span, grpc }
    }

    fn record(&mut self) -> Option<&mut SpanRecord> {
        self.span.as_mut()?.record.as_mut()
    }

    /// The upstream's response began; a gRPC status in its head (trailers-only) is noted.
    pub fn response(&mut self, head: &ResponseHead) {
        if let Some(record) = self.record() {
            record.outcome.status = Some(head.status);
        }
        self.grpc_status(&head.headers);
    }

    /// Notes `grpc-status`, if it is there.
    pub fn grpc_status(&mut self, trailers: &HeaderMap) {
        let grpc = self.grpc;
        if let Some(record) = self.record().filter(|_| grpc)
            && let Some(status) = semantics::grpc_status(trailers)
        {
            record.outcome.grpc_status = Some(status);
        }
    }

    /// The attempt failed, whether or not another follows.
    pub fn failed(&mut self, error: &Error) {
        if let Some(record) = self.record() {
            record.outcome.flag = Some(error.response_flag());
            record.outcome.reason = Some(error.to_string().into());
        }
    }

    /// The response's body ended as it should.
    pub fn complete(mut self) {
        if let Some(span) = &mut self.span {
            span.complete = true;
        }
    }
}

impl Drop for AttemptSpan {
    fn drop(&mut self) {
        let Some(mut record) = self.record.take() else { return };
        record.end = record.start + self.started.elapsed();
        let outcome = &mut record.outcome;
        if !self.complete && outcome.flag.is_none() {
            outcome.flag = Some(Error::DownstreamClosed.response_flag());
            outcome.reason = Some(Error::DownstreamClosed.to_string().into());
        }
        if record.request.grpc && outcome.grpc_status.is_none() && outcome.flag.is_none() {
            outcome.grpc_status = semantics::grpc_status_of(outcome.status);
        }
        self.worker.record_span(record);
    }
}
