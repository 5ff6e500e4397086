//! What a worker works by, resolved when it is handed over, so that nothing on the request path is looked up by name.

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use remora_certs::identity::Identity;
use remora_certs::{Peer, VerifyError};
use remora_model::{ClusterId, Direction, DownstreamTls, FilterChain, HttpLimits, Listener, OriginalDst, Snapshot};

use crate::address::ClientAddr;
use crate::cluster::ClusterState;
use crate::control::gateway::GatewayCertificates;
use crate::resolve::Resolved;
use crate::telemetry::{DrainReason, WorkerTelemetry};
use crate::tls::{GatewayTls, MeshTls};
use crate::upstream::Caller;

/// The index of a listener in the snapshot; the same in every snapshot of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListenerId(pub(crate) usize);

/// Everything a worker works by. Replaced whole.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) resolved: Arc<Resolved>,
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) gateways: GatewayCertificates,
}

/// An input resolved: clusters with their live state, TLS configurations, metric handles.
#[derive(Debug)]
pub(crate) struct View {
    pub(super) input: Input,
    pub(super) clusters: Vec<Rc<ClusterState>>,
    tls: Option<Rc<MeshTls>>,
    /// By listener: whether what its clients need is dialled from their addresses.
    keeps_clients: Vec<bool>,
}

/// A filter chain of a view.
#[derive(Clone, Debug)]
pub(crate) struct ChainView {
    pub(super) view: Rc<View>,
    pub(super) listener: ListenerId,
    /// `None`: the listener's default chain.
    pub(super) index: Option<usize>,
}

impl View {
    pub(super) fn new(input: Input, previous: Option<&Self>, telemetry: &Rc<WorkerTelemetry>) -> Self {
        let known: HashMap<&str, &Rc<ClusterState>> =
            previous.into_iter().flat_map(|view| &view.clusters).map(|cluster| (&**cluster.name(), cluster)).collect();
        let cluster = |config: &remora_model::Cluster| match known.get(&*config.name) {
            Some(cluster) if cluster.config == *config => {
                cluster.resolve(&input.resolved);
                Rc::clone(cluster)
            }
            _ => Rc::new(ClusterState::new(config.clone(), telemetry, &input.resolved)),
        };
        let clusters = input.snapshot.clusters.iter().map(cluster).collect();
        let tls = match (&input.identity, previous.and_then(|view| view.tls.as_ref())) {
            (None, _) => None,
            (Some(identity), Some(tls)) if tls.generation() == identity.generation() => Some(tls.clone()),
            (Some(identity), _) => Some(Rc::new(MeshTls::new(identity.clone()))),
        };
        let keeps = |at: &Listener| at.direction == Direction::Inbound && at.original_dst == OriginalDst::Tproxy;
        let keeps_clients = input.snapshot.listeners.iter().map(keeps).collect();
        Self { input, clusters, tls, keeps_clients }
    }

    /// The cluster of an id taken from this view's snapshot.
    pub(crate) fn cluster(&self, id: ClusterId) -> &Rc<ClusterState> {
        &self.clusters[id.0 as usize]
    }

    pub(crate) fn tls(&self) -> Option<&Rc<MeshTls>> {
        self.tls.as_ref()
    }

    /// The generation of its SVID; 0 without one.
    pub(super) fn generation(&self) -> u64 {
        self.tls.as_ref().map_or(0, |tls| tls.generation())
    }

    /// How long a connection that drains may still take.
    pub(super) fn grace(&self) -> Duration {
        self.input.snapshot.drain_timeout
    }

    pub(super) fn max_age(&self) -> Option<Duration> {
        self.input.snapshot.identity.as_ref().and_then(|identity| identity.max_connection_age)
    }

    /// What speaks against a peer that was verified earlier.
    pub(super) fn verdict(&self, peer: &Peer) -> Option<DrainReason> {
        match self.input.identity.as_ref()?.bundles().still_trusts(peer) {
            Ok(()) => None,
            Err(VerifyError::Revoked { .. }) => Some(DrainReason::Revoked),
            Err(_) => Some(DrainReason::AnchorRemoved),
        }
    }

    /// The TLS of a chain that terminates its own.
    pub(crate) fn gateway_tls(&self, tls: &DownstreamTls) -> Option<&GatewayTls> {
        let DownstreamTls::Terminate { certificate, key } = tls else { return None };
        self.input.gateways.get(&(certificate.clone(), key.clone()))
    }

    pub(crate) fn listener(&self, id: ListenerId) -> &Listener {
        &self.input.snapshot.listeners[id.0]
    }

    /// The bounds of HTTP on connections to endpoints.
    pub(crate) fn limits(&self) -> HttpLimits {
        self.input.snapshot.limits
    }
}

impl ChainView {
    pub(crate) fn chain(&self) -> &FilterChain {
        let listener = self.listener();
        self.index.map_or(&listener.default_chain, |index| &listener.chains[index])
    }

    pub(crate) fn listener(&self) -> &Listener {
        self.view.listener(self.listener)
    }

    pub(crate) fn view(&self) -> &Rc<View> {
        &self.view
    }

    /// On whose behalf what this connection needs is dialled.
    pub(crate) fn caller(&self, client: ClientAddr) -> Caller {
        let link_local = matches!(client.ip(), IpAddr::V6(v6) if v6.is_unicast_link_local());
        let kept = self.view.keeps_clients[self.listener.0] && !link_local;
        Caller { direction: self.listener().direction, kept: kept.then(|| client.ip()) }
    }
}
