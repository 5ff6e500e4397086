//! The access log: one line a request, or a connection that is not HTTP, on standard output.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, Version};
use remora_model::telemetry::AccessLogFormat;
use remora_model::{Direction, SpiffeId};

use super::metrics::RequestProtocol;
use super::span::Outcome;
use crate::address::{ClientAddr, OrigDst};

/// Longer texts of a request are cut to this many bytes.
const TEXT: usize = 1024;

/// A line, not yet formatted.
#[derive(Clone, Debug)]
pub struct AccessRecord {
    pub(crate) time: SystemTime,
    pub(crate) format: AccessLogFormat,
    pub(crate) direction: Direction,
    pub(crate) client: ClientAddr,
    pub(crate) orig_dst: OrigDst,
    pub(crate) peer: Option<SpiffeId>,
    pub(crate) subject: Subject,
    pub(crate) outcome: Outcome,
    pub(crate) cluster: Option<Arc<str>>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) duration: Duration,
    /// From the client.
    pub(crate) received: u64,
    /// To the client.
    pub(crate) sent: u64,
    pub(crate) trace_id: Option<u128>,
}

/// What the line is about.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    Request {
        method: Method,
        authority: Option<Box<str>>,
        path: Box<str>,
        protocol: &'static str,
        route: Option<Arc<str>>,
    },
    Connection {
        protocol: &'static str,
        sni: Option<Arc<str>>,
    },
}

/// A copy of `text` that keeps no buffer alive and is not longer than a line can bear.
pub(crate) fn bounded(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(TEXT)].into()
}

/// How a line names what a request speaks.
pub(crate) fn http_protocol(version: Version, protocol: RequestProtocol) -> &'static str {
    match (protocol, version) {
        (RequestProtocol::Grpc, _) => "grpc",
        (_, Version::HTTP_2) => "HTTP/2",
        (_, Version::HTTP_10) => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}
