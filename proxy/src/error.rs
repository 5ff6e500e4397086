//! What can go wrong with a connection or request, whose fault it is, and the one answer it gets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use nix::errno::Errno;

use crate::http::h1::chunked::InvalidBody;
use crate::http::h1::parse::InvalidHead;

mod flag;

pub use flag::ResponseFlag;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's, or its connection's.
    Downstream,
    /// The endpoint's, or its connection's.
    Upstream,
    /// Ours.
    Internal,
}

/// Why a connection or request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No virtual host or route matches.
    #[error("no route for \"{authority}{path}\"")]
    NoRoute {
        /// The request's authority; empty if it had none.
        authority: String,
        /// Its path, without query.
        path: String,
    },
    /// The cluster has no endpoint to try.
    #[error("no healthy endpoint in cluster \"{cluster}\"")]
    NoEndpoint {
        /// The cluster's name.
        cluster: Arc<str>,
    },
    /// As much of the cluster is in use as its circuit breakers allow.
    #[error("cluster \"{cluster}\" is in use to its limit: {limit} {most}")]
    Overflow {
        /// The cluster's name.
        cluster: Arc<str>,
        /// The bound's name.
        limit: &'static str,
        /// The bound.
        most: u32,
    },
    /// TCP connect failed.
    #[error("cannot connect to {endpoint} of cluster \"{cluster}\": {source}")]
    Connect {
        /// The cluster's name.
        cluster: Arc<str>,
        /// The last endpoint tried.
        endpoint: SocketAddr,
        /// What the kernel said.
        source: Arc<std::io::Error>,
    },
    /// TCP connect or TLS handshake took too long.
    #[error("cannot connect to {endpoint} of cluster \"{cluster}\" within {timeout:?}")]
    ConnectTimeout {
        /// The cluster's name.
        cluster: Arc<str>,
        /// The last endpoint tried.
        endpoint: SocketAddr,
        /// The bound.
        timeout: Duration,
    },
    /// The TLS handshake with the endpoint failed, or its identity is not one we expect.
    #[error("TLS with {endpoint} of cluster \"{cluster}\" failed: {message}")]
    UpstreamTls {
        /// The cluster's name.
        cluster: Arc<str>,
        /// The last endpoint tried.
        endpoint: SocketAddr,
        /// The reason as metrics count it.
        reason: &'static str,
        /// What went wrong, in words.
        message: String,
    },
    /// The upstream ended before its answer was complete.
    #[error("connection to {endpoint} of cluster \"{cluster}\" ended before the response: {message}")]
    UpstreamClosed {
        /// The cluster's name.
        cluster: Arc<str>,
        /// The endpoint.
        endpoint: SocketAddr,
        /// What ended it.
        message: String,
        /// The HTTP/2 error code with which the upstream ended it.
        code: Option<h2::Reason>,
        /// The upstream provably never processed the request (RFC 9113 section 8.7, or it received nothing of it).
        unprocessed: bool,
    },
    /// The upstream reset the stream.
    #[error("{endpoint} of cluster \"{cluster}\" reset the stream: {code}")]
    UpstreamReset {
        /// The cluster's name.
        cluster: Arc<str>,
        /// The endpoint.
        endpoint: SocketAddr,
        /// The HTTP/2 error code (RFC 9113 section 7).
        code: h2::Reason,
    },
    /// The sidecar beside the endpoint could not hand the request to its application.
    #[error("{endpoint} of cluster \"{cluster}\" could not deliver the request: {reason}")]
    Undelivered {
        /// The cluster's name.
        cluster: Arc<str>,
        /// The endpoint.
        endpoint: SocketAddr,
        /// Why, as that sidecar says.
        reason: String,
    },
    /// The upstream broke its protocol.
    #[error("{endpoint} of cluster \"{cluster}\" broke the protocol: {message}")]
    UpstreamProtocol {
        /// The cluster's name.
        cluster: Arc<str>,
        /// The endpoint.
        endpoint: SocketAddr,
        /// What was wrong.
        message: String,
    },
    /// The upstream reset the stream within its response.
    #[error("the upstream reset the stream within its response: {0}")]
    ResponseReset(h2::Reason),
    /// The upstream's connection ended within its response.
    #[error("the upstream's response broke off: {0}")]
    ResponseTruncated(String),
    /// The route's request timeout passed, or the one a gRPC call brought.
    #[error("no complete response from cluster \"{cluster}\" within {timeout:?}")]
    RequestTimeout {
        /// The cluster's name.
        cluster: Arc<str>,
        /// The bound.
        timeout: Duration,
    },
    /// Nothing happened on the connection for its idle timeout.
    #[error("idle for {0:?}")]
    IdleTimeout(Duration),
    /// The connection was drained, because of its age or of trust that ended, and its grace is over.
    #[error("the connection was drained, and its grace is over")]
    Retired,
    /// The connection was aimed at one of the proxy's own ports.
    #[error("aimed at the proxy's own port {0}: a loop")]
    Loop(SocketAddr),
    /// The process has hardly any memory left of what it may have.
    #[error("memory is short")]
    Overloaded,
    /// As many connections are open as the limit of open files allows, and none ended within the connect timeout.
    #[error("no file was free for a connection within {0:?}")]
    NoFile(Duration),
    /// The client broke its protocol.
    #[error("bad request: {0}")]
    DownstreamProtocol(String),
    /// The head of an HTTP/1 request is refused.
    #[error("bad request: {0}")]
    InvalidHead(InvalidHead),
    /// The head of an HTTP/1 request did not come to its end in time.
    #[error("bad request: its head did not come within {0:?}")]
    HeadTimeout(Duration),
    /// The body of an HTTP/1 request is not framed as its head says.
    #[error("bad request: {0}")]
    InvalidBody(InvalidBody),
    /// The client went away.
    #[error("the client closed its connection")]
    DownstreamClosed,
}

/// The one answer an error gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// For HTTP.
    pub status: StatusCode,
    /// For gRPC: `grpc-status` (the gRPC status codes).
    pub grpc_status: u8,
}

/// gRPC's CANCELLED.
const GRPC_CANCELLED: u8 = 1;
/// gRPC's DEADLINE_EXCEEDED.
const GRPC_DEADLINE_EXCEEDED: u8 = 4;
/// gRPC's PERMISSION_DENIED.
const GRPC_PERMISSION_DENIED: u8 = 7;
/// gRPC's RESOURCE_EXHAUSTED.
const GRPC_RESOURCE_EXHAUSTED: u8 = 8;
/// gRPC's UNIMPLEMENTED.
const GRPC_UNIMPLEMENTED: u8 = 12;
/// gRPC's INTERNAL.
const GRPC_INTERNAL: u8 = 13;
/// gRPC's UNAVAILABLE.
const GRPC_UNAVAILABLE: u8 = 14;

impl Error {
    /// Whose fault it is.
    pub fn side(&self) -> Side {
        match self {
            Self::NoRoute { .. }
            | Self::NoEndpoint { .. }
            | Self::Overflow { .. }
            | Self::Retired
            | Self::Overloaded
            | Self::NoFile(_) => Side::Internal,
            Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::UpstreamTls { .. }
            | Self::UpstreamClosed { .. }
            | Self::UpstreamReset { .. }
            | Self::Undelivered { .. }
            | Self::UpstreamProtocol { .. }
            | Self::ResponseReset(_)
            | Self::ResponseTruncated(_)
            | Self::RequestTimeout { .. } => Side::Upstream,
            Self::IdleTimeout(_)
            | Self::Loop(_)
            | Self::DownstreamProtocol(_)
            | Self::InvalidHead(_)
            | Self::HeadTimeout(_)
            | Self::InvalidBody(_)
            | Self::DownstreamClosed => Side::Downstream,
        }
    }

    /// Whether the request provably had no effect, so that another endpoint may be tried whatever the method.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::UpstreamTls { .. }
            | Self::Undelivered { .. } => true,
            Self::UpstreamClosed { unprocessed, .. } => *unprocessed,
            Self::UpstreamReset { code, .. } => *code == h2::Reason::REFUSED_STREAM,
            _ => false,
        }
    }

    /// Whether a connection was not even asked for, for want of files, ports or memory here.
    pub fn is_want(&self) -> bool {
        let Self::Connect { source, .. } = self else { return false };
        let errno = source.raw_os_error().map(Errno::from_raw);
        matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM | Errno::EADDRNOTAVAIL))
    }

    /// Whether a request was left without a connection by no endpoint's making, but for want of time or room here: another would fare
    /// no better.
    pub fn is_of_no_endpoint(&self) -> bool {
        matches!(self, Self::RequestTimeout { .. } | Self::Overflow { .. } | Self::NoFile(_))
    }

    /// The HTTP/2 error code with which the upstream reset the stream.
    pub fn reset(&self) -> Option<h2::Reason> {
        match self {
            Self::UpstreamReset { code, .. } | Self::ResponseReset(code) => Some(*code),
            _ => None,
        }
    }

    /// How the client broke its protocol, as metrics count it; `None` where it did not.
    pub fn violation(&self) -> Option<&'static str> {
        match self {
            Self::InvalidHead(invalid) => Some(invalid.reason()),
            Self::InvalidBody(invalid) => Some(invalid.reason()),
            Self::HeadTimeout(_) => Some("head_timeout"),
            Self::DownstreamProtocol(_) => Some("malformed"),
            _ => None,
        }
    }

    /// Whether the upstream itself never saw the request: another sidecar may find one that does. Whoever refuses requests
    /// because there are too many has seen it.
    pub fn undelivered(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::ConnectTimeout { .. } => true,
            Self::UpstreamClosed { unprocessed, .. } => *unprocessed,
            _ => false,
        }
    }

    /// The flag in access log and metrics.
    pub fn response_flag(&self) -> ResponseFlag {
        match self {
            Self::NoRoute { .. } => ResponseFlag::NR,
            Self::NoEndpoint { .. } => ResponseFlag::UH,
            Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::UpstreamTls { .. }
            | Self::Undelivered { .. } => ResponseFlag::UF,
            Self::UpstreamClosed { .. } | Self::ResponseTruncated(_) | Self::Retired => ResponseFlag::UC,
            Self::UpstreamReset { .. } | Self::ResponseReset(_) => ResponseFlag::UR,
            Self::UpstreamProtocol { .. } => ResponseFlag::UPE,
            Self::RequestTimeout { .. } => ResponseFlag::UT,
            Self::IdleTimeout(_) => ResponseFlag::SI,
            Self::Loop(_) => ResponseFlag::LR,
            Self::Overloaded | Self::NoFile(_) => ResponseFlag::OM,
            Self::Overflow { .. } => ResponseFlag::UO,
            Self::DownstreamProtocol(_) | Self::InvalidHead(_) | Self::HeadTimeout(_) | Self::InvalidBody(_) => {
                ResponseFlag::DPE
            }
            Self::DownstreamClosed => ResponseFlag::DC,
        }
    }

    /// What the client is answered, if it can still be answered.
    pub fn response(&self) -> Response {
        let (status, grpc_status) = match self {
            Self::NoRoute { .. } => (StatusCode::NOT_FOUND, GRPC_UNIMPLEMENTED),
            Self::NoEndpoint { .. }
            | Self::Overflow { .. }
            | Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::UpstreamTls { .. }
            | Self::UpstreamClosed { .. }
            | Self::Retired
            | Self::Overloaded
            | Self::NoFile(_)
            | Self::Undelivered { .. } => (StatusCode::SERVICE_UNAVAILABLE, GRPC_UNAVAILABLE),
            Self::UpstreamReset { code, .. } => (StatusCode::SERVICE_UNAVAILABLE, grpc_status_of_reset(*code)),
            Self::ResponseReset(code) => (StatusCode::BAD_GATEWAY, grpc_status_of_reset(*code)),
            Self::UpstreamProtocol { .. } | Self::ResponseTruncated(_) => (StatusCode::BAD_GATEWAY, GRPC_UNAVAILABLE),
            Self::RequestTimeout { .. } => (StatusCode::GATEWAY_TIMEOUT, GRPC_DEADLINE_EXCEEDED),
            Self::IdleTimeout(_) | Self::HeadTimeout(_) => (StatusCode::REQUEST_TIMEOUT, GRPC_UNAVAILABLE),
            Self::InvalidHead(invalid) => (invalid.status(), GRPC_INTERNAL),
            Self::Loop(_) => (StatusCode::LOOP_DETECTED, GRPC_UNAVAILABLE),
            Self::DownstreamProtocol(_) | Self::InvalidBody(_) => (StatusCode::BAD_REQUEST, GRPC_INTERNAL),
            Self::DownstreamClosed => (StatusCode::BAD_REQUEST, GRPC_UNAVAILABLE),
        };
        Response { status, grpc_status }
    }
}

/// What gRPC clients make of a reset (gRPC over HTTP/2, "Errors").
fn grpc_status_of_reset(code: h2::Reason) -> u8 {
    match code {
        h2::Reason::CANCEL => GRPC_CANCELLED,
        h2::Reason::REFUSED_STREAM => GRPC_UNAVAILABLE,
        h2::Reason::ENHANCE_YOUR_CALM => GRPC_RESOURCE_EXHAUSTED,
        h2::Reason::INADEQUATE_SECURITY => GRPC_PERMISSION_DENIED,
        _ => GRPC_INTERNAL,
    }
}

#[cfg(test)]
mod tests;
