//! A group of endpoints that serve the same thing, and how to reach and choose them.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::endpoint::Endpoint;
use crate::identity::SpiffeId;
use crate::listener::Protocol;

/// The index of a cluster in [`Snapshot::clusters`](crate::Snapshot); always valid in the snapshot it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ClusterId(pub u32);

/// A named group of endpoints. Live state (pools, balancer, resolved addresses) is keyed by its name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cluster {
    /// Unique in the snapshot; what metrics, logs and the admin pages call it.
    pub name: Arc<str>,
    /// Where its endpoints come from.
    pub discovery: Discovery,
    /// How an endpoint is chosen, per request for HTTP, per connection for TCP.
    pub balance: Balance,
    /// What the endpoints speak; [`Protocol::Auto`]: what the downstream speaks.
    pub protocol: Protocol,
    /// How connections to the endpoints are protected.
    pub tls: UpstreamTls,
    /// Bound of one TCP connect and of one TLS handshake.
    pub connect_timeout: Duration,
    /// A pooled connection without a request, or a TCP connection without a byte, is closed after this; zero: never.
    pub idle_timeout: Duration,
    /// How long what is sent to an endpoint may stay unacknowledged, or find no room there (RFC 5482); `None`: as long as the kernel tries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unacknowledged: Option<Duration>,
    /// How much of it may be in use at once.
    #[serde(skip_serializing_if = "CircuitBreakers::is_off")]
    pub circuit_breakers: CircuitBreakers,
}

/// How much of a cluster may be in use at once, in the whole process; `None`: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CircuitBreakers {
    /// Connections to its endpoints.
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection.
    pub max_pending_requests: Option<u32>,
    /// Requests that have one.
    pub max_requests: Option<u32>,
    /// Requests that are being tried again.
    pub max_retries: Option<u32>,
}

impl CircuitBreakers {
    /// Whether nothing is bounded.
    pub fn is_off(&self) -> bool {
        *self == Self::default()
    }
}

/// Where a cluster's endpoints come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Discovery {
    /// Listed in the configuration; never empty addresses twice.
    Static(Vec<Endpoint>),
    /// Every address the name resolves to, looked up again and again.
    Dns {
        /// The name to resolve.
        host: Arc<str>,
        /// The port of every resolved address.
        port: u16,
    },
    /// The address the intercepted connection was aimed at: no balancing, pooled by that address.
    OriginalDst,
}

/// The balancing policy. Both honour the endpoints' weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Smooth weighted round robin.
    RoundRobin,
    /// Of two endpoints drawn at random (by weight), the one with fewer active requests.
    #[default]
    LeastRequest,
}

/// How connections to a cluster's endpoints are protected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamTls {
    /// Plaintext (or the application's own TLS, untouched).
    #[default]
    Off,
    /// Mesh mTLS: our SVID is shown, and the peer's SPIFFE ID must be one of `identities` (empty: any of the trust bundle's domain).
    Mesh {
        /// The SPIFFE IDs expected of the endpoints, sorted.
        identities: Vec<SpiffeId>,
    },
}
