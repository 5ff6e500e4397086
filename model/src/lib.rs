//! The typed configuration shared by every part of Remora.
//!
//! Owns the [`Snapshot`] and the types it is made of. Pure data: no tokio, no I/O, no file format. A front end in
//! `remora-config` is handed bytes and makes a snapshot; `remora-proxy` and `remora-init` are handed the result.
//! Invariant: every reference inside a snapshot (a [`ClusterId`]) is valid, since only the compiler makes one.

pub mod capture;
pub mod cluster;
pub mod endpoint;
pub mod identity;
pub mod limits;
pub mod listener;
pub mod port;
pub mod probe;
pub mod route;
pub mod snapshot;
pub mod telemetry;

pub use cluster::{Balance, CircuitBreakers, Cluster, ClusterId, Discovery, UpstreamTls};
pub use endpoint::Endpoint;
pub use identity::{InvalidSpiffeId, MtlsMode, SpiffeId, TrustDomain};
pub use limits::HttpLimits;
pub use listener::{Direction, DownstreamTls, FilterChain, Listener, OriginalDst, Protocol};
pub use port::{InvalidPortRange, PortRange};
pub use route::{HeaderMatch, PathMatch, Route, RouteMatch, RouteTable, VirtualHost, WeightedCluster};
pub use snapshot::Snapshot;
