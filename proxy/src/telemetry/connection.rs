//! One downstream connection, from accept to close.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use remora_model::Direction;

use super::access_log::{AccessRecord, Subject};
use super::metrics::{DownstreamMetrics, DownstreamProtocol, Refusal, Traffic};
use super::open::OpenConnection;
use super::span::Outcome;
use super::{ConnectionInfo, WorkerTelemetry};
use crate::error::Error;

/// The guard of one downstream connection. It counts the connection as open until it is dropped. TCP connections, and those that
/// failed before their first request, get an access log line as the filter says; requests have their own.
#[derive(Debug)]
pub struct ConnectionTelemetry {
    worker: Rc<WorkerTelemetry>,
    metrics: Arc<DownstreamMetrics>,
    /// What is known of it, as the worker's list has it.
    open: Rc<OpenConnection>,
    refusal: Option<Refusal>,
    traffic: Option<Arc<Traffic>>,
    failure: Option<Error>,
}

impl ConnectionTelemetry {
    /// A connection was accepted.
    pub fn start(worker: &Rc<WorkerTelemetry>, direction: Direction) -> Self {
        let metrics = Arc::clone(worker.downstream(direction));
        metrics.opened();
        Self {
            worker: Rc::clone(worker),
            metrics,
            open: worker.open.enter(),
            refusal: None,
            traffic: None,
            failure: None,
        }
    }

    /// Who it is, for the access log: without it the connection gets no line. May be told again as more is known.
    pub fn connection(&self, info: &Rc<ConnectionInfo>) {
        *self.open.info.borrow_mut() = Some(Rc::clone(info));
    }

    /// What the admin page shows of it.
    pub fn open(&self) -> &Rc<OpenConnection> {
        &self.open
    }

    /// What it speaks; counted once.
    pub fn protocol(&self, protocol: DownstreamProtocol) {
        if self.open.protocol.replace(Some(protocol)).is_none() {
            self.metrics.identified(protocol);
            self.metrics.detected(self.open.started.elapsed());
        }
    }

    /// Its first bytes could be the beginning of anything, and no more came in time.
    pub fn undecided(&self) {
        self.metrics.undecided();
    }

    /// It is refused.
    pub fn refused(&mut self, reason: Refusal) {
        self.metrics.refused(reason);
        self.refusal = Some(reason);
    }

    /// It is relayed as bytes to the cluster that `traffic` counts.
    pub fn tcp(&mut self, traffic: &Arc<Traffic>) {
        traffic.tcp_connections.add(1);
        self.traffic = Some(Arc::clone(traffic));
    }

    /// The endpoint it is relayed to.
    pub fn endpoint(&self, endpoint: SocketAddr) {
        self.open.endpoint.set(Some(endpoint));
    }

    /// `n` more bytes were relayed to the client.
    pub fn sent(&self, n: usize) {
        let sent = &self.open.sent;
        sent.set(sent.get() + n as u64);
        if let Some(traffic) = &self.traffic {
            traffic.tcp_sent.add(n as u64);
        }
    }

    /// `n` more bytes were relayed from the client.
    pub fn received(&self, n: usize) {
        let received = &self.open.received;
        received.set(received.get() + n as u64);
        if let Some(traffic) = &self.traffic {
            traffic.tcp_received.add(n as u64);
        }
    }

    /// It failed; the last error told counts.
    pub fn failed(&mut self, error: &Error) {
        if let Some(reason) = error.violation() {
            self.metrics.violation(reason);
        }
        self.failure = Some(error.clone());
    }

    fn record_line(&self, info: &ConnectionInfo, protocol: DownstreamProtocol) {
        let reason = self.failure.as_ref().map(|error| error.to_string().into());
        let reason = reason.or_else(|| self.refusal.map(|refusal| format!("refused: {}", refusal.as_str()).into()));
        let flag = self.failure.as_ref().map(Error::response_flag);
        self.worker.record_line(AccessRecord {
            time: SystemTime::now(),
            format: self.worker.access_log.get().format,
            direction: info.direction,
            client: info.client,
            orig_dst: info.orig_dst,
            peer: info.peer.clone(),
            subject: Subject::Connection { protocol: protocol.as_str(), sni: info.sni.clone() },
            outcome: Outcome { status: None, grpc_status: None, flag, reason },
            cluster: self.traffic.as_ref().map(|traffic| Arc::clone(&traffic.cluster)),
            endpoint: self.open.endpoint.get(),
            duration: self.open.started.elapsed(),
            received: self.open.received.get(),
            sent: self.open.sent.get(),
            trace_id: None,
        });
    }
}

impl Drop for ConnectionTelemetry {
    fn drop(&mut self) {
        self.worker.open.leave(&self.open);
        let known = self.open.protocol.get();
        let protocol = known.unwrap_or(DownstreamProtocol::Unknown);
        if known.is_none() {
            self.metrics.identified(protocol);
        }
        self.metrics.closed();
        let failed = self.failure.is_some() || self.refusal.is_some();
        let relayed = self.traffic.is_some();
        if (failed || relayed)
            && self.worker.logs(failed)
            && let Some(info) = self.open.info.borrow().as_ref()
        {
            self.record_line(info, protocol);
        }
    }
}
