//! What is recorded of a request when it is over.

use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;

use super::{ByteCounter, Inner, RequestTelemetry, Sampled};
use crate::error::{Error, ResponseFlag};
use crate::telemetry::access_log::{self, AccessRecord, Subject};
use crate::telemetry::metrics::{self, RequestProtocol};
use crate::telemetry::semantics;
use crate::telemetry::span::{Outcome, SpanRole};

impl Drop for RequestTelemetry {
    fn drop(&mut self) {
        let inner = &mut *self.0;
        let mut outcome = inner.outcome();
        inner.record_metrics(&outcome);
        let logs = inner.worker.logs(semantics::failed(&outcome));
        if !logs && inner.sampled.is_none() {
            return;
        }
        outcome.reason = match (&inner.failure, outcome.flag) {
            (Some(error), _) => Some(error.to_string().into()),
            (None, Some(ResponseFlag::DC)) => Some(Error::DownstreamClosed.to_string().into()),
            _ => None,
        };
        if let Some(sampled) = &inner.sampled {
            inner.record_span(sampled, &outcome);
        }
        if logs {
            inner.record_line(&outcome);
        }
    }
}

impl Inner {
    /// What became of the request, in the words of metrics, log and span.
    fn outcome(&mut self) -> Outcome {
        let grpc = self.protocol == RequestProtocol::Grpc;
        let gone = Error::DownstreamClosed;
        let failure = self.failure.as_ref().or_else(|| (!self.complete).then_some(&gone));
        let (status, grpc_status) = match failure {
            None => (self.status, self.grpc_status.or_else(|| semantics::grpc_status_of(self.status))),
            // Nobody was there to be answered.
            Some(Error::DownstreamClosed) => (self.status, Some(semantics::GRPC_CANCELLED)),
            Some(error) => {
                let answer = error.response();
                let answered = if grpc { StatusCode::OK } else { answer.status };
                (self.status.or(Some(answered)), self.grpc_status.or(Some(answer.grpc_status)))
            }
        };
        Outcome {
            status,
            grpc_status: grpc_status.filter(|_| grpc),
            flag: failure.map(Error::response_flag),
            reason: None,
        }
    }

    fn record_metrics(&self, outcome: &Outcome) {
        if !metrics::COUNTS {
            return;
        }
        let traffic = match &self.traffic {
            Some(traffic) => {
                traffic.active.down();
                traffic
            }
            None => self.worker.unrouted(self.connection.direction),
        };
        traffic.request(self.protocol, outcome.status, outcome.flag);
        if let Some(status) = outcome.grpc_status {
            traffic.grpc[usize::from(status)].add(1);
        }
        traffic.duration.record(self.started.elapsed());
        traffic.request_bytes.add(self.bytes.get().map_or(0, ByteCounter::total));
        traffic.response_bytes.add(self.bytes.get().map_or(0, ByteCounter::sent));
    }

    fn record_span(&self, sampled: &Sampled, outcome: &Outcome) {
        let mut span = match sampled.server_span {
            Some(span_id) => self.span(sampled, SpanRole::Server, span_id),
            // Attempts have spans of their own; a request that never came to one would otherwise not be in the trace.
            None if self.attempts.get() == 0 => self.client_span(sampled, None, 0),
            None => return,
        };
        span.end = span.start + self.started.elapsed();
        span.outcome = outcome.clone();
        self.worker.record_span(span);
    }

    fn record_line(&self, outcome: &Outcome) {
        let Some(target) = &self.target else { return };
        self.worker.record_line(AccessRecord {
            time: SystemTime::now(),
            format: self.worker.access_log.get().format,
            direction: self.connection.direction,
            client: self.connection.client,
            orig_dst: self.connection.orig_dst,
            peer: self.connection.peer.clone(),
            subject: Subject::Request {
                method: target.method.clone(),
                authority: target.authority.as_ref().map(|authority| access_log::bounded(authority.as_str())),
                path: access_log::bounded(target.path.path()),
                protocol: access_log::http_protocol(self.version, self.protocol),
                route: self.route.clone(),
            },
            outcome: outcome.clone(),
            cluster: self.traffic.as_ref().map(|traffic| Arc::clone(&traffic.cluster)),
            endpoint: self.endpoint.get(),
            duration: self.started.elapsed(),
            received: self.bytes.get().map_or(0, ByteCounter::total),
            sent: self.bytes.get().map_or(0, ByteCounter::sent),
            trace_id: self.trace_id,
        });
    }
}
