//! A finished span as a worker hands it on: facts, not yet OpenTelemetry's words.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::{Method, StatusCode, Version};
use remora_model::{Direction, SpiffeId};

use crate::error::ResponseFlag;

/// Whether the proxy answered or asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpanRole {
    Server,
    Client,
}

/// A finished, sampled span.
#[derive(Clone, Debug)]
pub struct SpanRecord {
    pub(crate) trace_id: u128,
    pub(crate) span_id: u64,
    pub(crate) parent: Option<u64>,
    pub(crate) parent_is_remote: bool,
    pub(crate) random: bool,
    pub(crate) tracestate: Option<Box<str>>,
    pub(crate) role: SpanRole,
    pub(crate) start: SystemTime,
    pub(crate) end: SystemTime,
    pub(crate) direction: Direction,
    pub(crate) request: RequestFacts,
    pub(crate) cluster: Option<Arc<str>>,
    pub(crate) route: Option<Arc<str>>,
    /// Where this attempt went.
    pub(crate) endpoint: Option<SocketAddr>,
    /// 0 for the first attempt.
    pub(crate) resend: u32,
    pub(crate) outcome: Outcome,
}

/// What was asked, by whom.
#[derive(Clone, Debug)]
pub(crate) struct RequestFacts {
    pub(crate) method: Method,
    pub(crate) https: bool,
    pub(crate) authority: Option<Box<str>>,
    /// Without query, which may hold what must not be stored.
    pub(crate) path: Box<str>,
    pub(crate) version: Version,
    pub(crate) grpc: bool,
    pub(crate) user_agent: Option<Box<str>>,
    pub(crate) client: SocketAddr,
    pub(crate) orig_dst: SocketAddr,
    pub(crate) peer: Option<SpiffeId>,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) status: Option<StatusCode>,
    pub(crate) grpc_status: Option<u8>,
    pub(crate) flag: Option<ResponseFlag>,
    /// The sentence beside the flag.
    pub(crate) reason: Option<Box<str>>,
}
