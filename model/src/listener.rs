//! Where connections arrive, and which filter chain each of them takes.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;

use crate::cluster::ClusterId;
use crate::identity::MtlsMode;
use crate::limits::HttpLimits;
use crate::port::PortRange;
use crate::route::RouteTable;

/// Which way a connection goes, seen from the application beside the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From elsewhere to the application.
    Inbound,
    /// From the application to elsewhere.
    Outbound,
    /// To a gateway's own listening address; nothing was intercepted.
    Gateway,
}

impl Direction {
    /// The word used in metrics, logs and spans.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Gateway => "gateway",
        }
    }
}

/// How a listener learns where an intercepted connection was aimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OriginalDst {
    /// The listener's own address: nothing was intercepted (a gateway).
    None,
    /// `SO_ORIGINAL_DST` of a REDIRECTed connection.
    Redirect,
    /// The local address of a TPROXYed connection, on an `IP_TRANSPARENT` socket.
    Tproxy,
}

/// A listening address and the chains its connections may take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listener {
    /// Unique in the snapshot: `inbound`, `outbound`, or the gateway's name.
    pub name: Arc<str>,
    /// Which way its connections go.
    pub direction: Direction,
    /// Every address to bind (one per family).
    pub addresses: Vec<SocketAddr>,
    /// How the original destination is found.
    pub original_dst: OriginalDst,
    /// The bounds of HTTP on its connections.
    pub limits: HttpLimits,
    /// Tried in order; the first whose `destination` matches is taken.
    pub chains: Vec<FilterChain>,
    /// Taken where no chain matches.
    pub default_chain: FilterChain,
}

/// What happens to the connections that a chain takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FilterChain {
    /// For logs and the admin pages, such as `catalog:50051`.
    pub name: Arc<str>,
    /// Which original destinations belong to it.
    pub destination: DestinationMatch,
    /// What the connections carry, when declared.
    pub protocol: Protocol,
    /// The silence after which a connection whose client has sent nothing, or not enough to be told apart, is taken for TCP.
    pub detect_timeout: Duration,
    /// What TLS is terminated.
    pub tls: DownstreamTls,
    /// A connection on which nothing happens is closed after this; zero: never.
    pub idle_timeout: Duration,
    /// How long what is sent to a client may stay unacknowledged, or find no room there (RFC 5482); `None`: as long as the kernel tries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unacknowledged: Option<Duration>,
    /// Where HTTP requests go.
    pub routes: RouteTable,
    /// Where a connection that is not HTTP goes; `None`: it is refused.
    pub tcp: Option<ClusterId>,
}

/// The original destinations a filter chain takes. An empty match takes all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DestinationMatch {
    /// Ports; empty: every port.
    pub ports: Vec<PortRange>,
    /// Addresses; with `resolved`, what its name resolves to counts too. Both empty: every address.
    pub networks: Vec<IpNet>,
    /// A host name whose current addresses belong to the match: the index of its watch in
    /// [`Snapshot::resolved_hosts`](crate::Snapshot).
    pub resolved: Option<ResolvedHostId>,
}

/// The index of a name in [`Snapshot::resolved_hosts`](crate::Snapshot).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ResolvedHostId(pub u32);

impl DestinationMatch {
    /// Whether `destination` belongs to the match, given the current addresses of each resolved host.
    pub fn matches(&self, destination: SocketAddr, resolved: impl Fn(ResolvedHostId, IpAddr) -> bool) -> bool {
        let ip = destination.ip().to_canonical();
        let port = self.ports.is_empty() || self.ports.iter().any(|range| range.contains(destination.port()));
        let anywhere = self.networks.is_empty() && self.resolved.is_none();
        port && (anywhere
            || self.networks.iter().any(|network| network.contains(&ip))
            || self.resolved.is_some_and(|host| resolved(host, ip)))
    }
}

/// What a connection carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Find out from the first bytes.
    #[default]
    Auto,
    /// HTTP/1.0 or HTTP/1.1 (a client that begins HTTP/2 with prior knowledge is understood too).
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Opaque bytes: no detection.
    Tcp,
}

/// What TLS a filter chain terminates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DownstreamTls {
    /// None: an application's own TLS passes as bytes.
    Off,
    /// The mesh's mTLS, as the mode says.
    Mesh(MtlsMode),
    /// Ordinary server TLS with its own certificate (a gateway).
    Terminate {
        /// PEM chain, leaf first.
        certificate: PathBuf,
        /// PEM private key (PKCS#8, SEC1 or PKCS#1).
        key: PathBuf,
    },
}
