//! The whole configuration of one proxy, complete and consistent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::cluster::{Cluster, ClusterId};
use crate::identity::IdentityConfig;
use crate::limits::HttpLimits;
use crate::listener::{Listener, ResolvedHostId};
use crate::probe::Probes;
use crate::telemetry::Telemetry;

/// The whole configuration of one proxy. Snapshots swap whole; live state survives a swap by cluster name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    /// The workload beside the proxy.
    pub service: Service,
    /// Where the workload's SVID comes from; `None`: no mTLS in either direction.
    pub identity: Option<IdentityConfig>,
    /// Every listening address. Addresses and original-destination modes are fixed at start-up; a reload that changes them is refused.
    pub listeners: Vec<Listener>,
    /// The bounds of HTTP on connections to endpoints.
    pub limits: HttpLimits,
    /// Every cluster; referred to by [`ClusterId`].
    pub clusters: Vec<Cluster>,
    /// Names whose current addresses filter chains match on; referred to by [`ResolvedHostId`].
    pub resolved_hosts: Vec<Arc<str>>,
    /// Spans and access log.
    pub telemetry: Telemetry,
    /// The proxy's own interfaces.
    pub admin: Admin,
    /// How long a drain waits for requests and connections to end, `lame_duck` included.
    pub drain_timeout: Duration,
    /// How long a drain goes on accepting inbound connections: callers learn late that the pod leaves.
    pub lame_duck: Duration,
    /// Whether the proxy ends when no process of the application is left that it can see.
    pub exit_with_application: bool,
    /// The application's probes.
    pub probes: Probes,
    /// Worker threads; `None`: the CPU quota, at most 2 for a sidecar.
    pub workers: Option<u32>,
}

/// The workload beside the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Its name, such as `catalog`.
    pub name: Arc<str>,
    /// Its namespace; `default` unless configured.
    pub namespace: Arc<str>,
    /// Its version, if configured.
    pub version: Option<Arc<str>>,
}

/// The proxy's own interfaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Admin {
    /// The admin interface; loopback unless configured otherwise.
    pub address: SocketAddr,
    /// Prometheus metrics and health; every address of both families unless configured otherwise.
    pub metrics: Vec<SocketAddr>,
    /// Readiness; as `metrics`.
    pub readiness: Vec<SocketAddr>,
}

impl Snapshot {
    /// The cluster of an id taken from this snapshot.
    pub fn cluster(&self, id: ClusterId) -> &Cluster {
        &self.clusters[id.0 as usize]
    }

    /// The host name of an id taken from this snapshot.
    pub fn resolved_host(&self, id: ResolvedHostId) -> &str {
        &self.resolved_hosts[id.0 as usize]
    }
}
