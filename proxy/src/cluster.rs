//! The live state of a cluster in one worker: its endpoints, who is being asked how much, and its pools.
//!
//! Keyed by name; survives a snapshot swap unless the cluster itself changed.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use remora_model::{Cluster, Direction, Discovery, Endpoint};
use rustls_pki_types::ServerName;
use tokio::time::Instant;

use crate::Error;
use crate::balance::Balancer;
use crate::breaker::{Bounds, Limit, Place};
use crate::pool::Pool;
use crate::resolve::Resolved;
use crate::telemetry::{Traffic, UpstreamMetrics, WorkerTelemetry};

/// How long an endpoint that could not be reached is passed over while others can be; doubled by each further failure.
const BACK_OFF: Duration = Duration::from_secs(1);
/// Bound of the doubling.
const MAX_BACK_OFF: Duration = Duration::from_secs(30);

/// A cluster as a worker sees it.
#[derive(Debug)]
pub(crate) struct ClusterState {
    /// What the snapshot says.
    pub(crate) config: Cluster,
    /// Counters of what goes on towards its endpoints.
    pub(crate) metrics: Arc<UpstreamMetrics>,
    /// The name that routes a TLS connection and keys its resumption; proves nothing.
    server_name: Option<ServerName<'static>>,
    /// Connections that wait for work.
    pub(crate) pool: Pool,
    telemetry: Rc<WorkerTelemetry>,
    traffic: [OnceCell<Arc<Traffic>>; 3],
    endpoints: RefCell<Endpoints>,
}

#[derive(Debug)]
struct Endpoints {
    states: Vec<Rc<EndpointState>>,
    balancer: Balancer,
}

/// One endpoint: how much it is asked right now, and whether it could be reached lately.
#[derive(Debug)]
pub(crate) struct EndpointState {
    /// Where it is, and its weight.
    pub(crate) endpoint: Endpoint,
    active: Cell<u32>,
    failures: Cell<u32>,
    avoid_until: Cell<Option<Instant>>,
}

/// An endpoint that was chosen.
#[derive(Debug)]
pub(crate) enum Picked {
    /// One of the cluster's; it counts as active until this is dropped.
    Known(Active),
    /// Where a connection was aimed: there is no other to choose, so nothing is kept of it.
    Aimed(SocketAddr),
}

/// Counts an endpoint as active.
#[derive(Debug)]
pub(crate) struct Active(Rc<EndpointState>);

impl ClusterState {
    pub(crate) fn new(config: Cluster, telemetry: &Rc<WorkerTelemetry>, resolved: &Resolved) -> Self {
        let endpoints = endpoints(&config, resolved);
        let limits = config.circuit_breakers;
        let bounds = (!limits.is_off()).then(|| Bounds::new(limits, telemetry.shard().in_use(&config.name)));
        Self {
            metrics: telemetry.shard().upstream(&config.name),
            server_name: server_name(&config),
            pool: Pool::new(bounds),
            telemetry: telemetry.clone(),
            traffic: Default::default(),
            endpoints: RefCell::new(Endpoints {
                balancer: Balancer::new(config.balance, &endpoints),
                states: endpoints.into_iter().map(EndpointState::new).collect(),
            }),
            config,
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.config.name
    }

    /// Takes a place within the cluster's bounds, as they are met at `at`; none where nothing is bounded.
    ///
    /// # Errors
    /// No place is left.
    pub(crate) fn enter(&self, at: Option<&Rc<Bounds>>, what: Limit) -> Result<Option<Place>, Error> {
        let Some(bounds) = at else { return Ok(None) };
        bounds.enter(what).map(Some).ok_or_else(|| {
            self.metrics.overflowed(what);
            Error::Overflow { cluster: self.name().clone(), limit: what.as_str(), most: bounds.most(what) }
        })
    }

    /// What a TLS client hello to `endpoint` names.
    pub(crate) fn server_name(&self, endpoint: SocketAddr) -> ServerName<'static> {
        self.server_name.clone().unwrap_or_else(|| ServerName::from(endpoint.ip()))
    }

    /// The counters of requests and connections that came from `direction`; looked up at first use.
    pub(crate) fn traffic(&self, direction: Direction) -> &Arc<Traffic> {
        self.traffic[direction as usize].get_or_init(|| self.telemetry.shard().traffic(direction, &self.config.name))
    }

    /// Takes over newly resolved addresses; endpoints that stay keep their state, pools of those that left are dropped.
    pub(crate) fn resolve(&self, resolved: &Resolved) {
        let new = endpoints(&self.config, resolved);
        let mut endpoints = self.endpoints.borrow_mut();
        if endpoints.states.iter().map(|state| state.endpoint).eq(new.iter().copied()) {
            return;
        }
        let states = new
            .iter()
            .map(|endpoint| {
                let known = endpoints.states.iter().find(|state| state.endpoint == *endpoint);
                known.cloned().unwrap_or_else(|| EndpointState::new(*endpoint))
            })
            .collect();
        endpoints.states = states;
        endpoints.balancer.update(&new);
        if self.config.discovery != Discovery::OriginalDst {
            self.pool.retain(|address| new.iter().any(|endpoint| endpoint.address == address));
        }
    }

    /// Chooses an endpoint that is not in `tried`; one that failed lately only where no other is left.
    pub(crate) fn pick(
        &self,
        orig_dst: SocketAddr,
        tried: &[SocketAddr],
        mut random: impl FnMut() -> u64,
    ) -> Option<Picked> {
        if self.config.discovery == Discovery::OriginalDst {
            let fresh = !tried.contains(&orig_dst);
            return fresh.then_some(Picked::Aimed(orig_dst));
        }
        let Endpoints { states, balancer } = &mut *self.endpoints.borrow_mut();
        let active = |index: usize| states[index].active.get();
        let was_tried = |index: usize| !tried.is_empty() && tried.contains(&states[index].endpoint.address);
        // Only an endpoint that failed has a time to compare, so the clock is not read where all is well.
        let avoided = |index: usize| was_tried(index) || states[index].avoided();
        let index =
            balancer.pick(active, avoided, &mut random).or_else(|| balancer.pick(active, was_tried, &mut random))?;
        Some(Picked::Known(Active::new(&states[index])))
    }

    /// An address of the other family that the cluster's name resolves to as well.
    pub(crate) fn other_family(&self, address: SocketAddr) -> Option<SocketAddr> {
        let Discovery::Dns { .. } = self.config.discovery else { return None };
        let endpoints = self.endpoints.borrow();
        let mut others = endpoints.states.iter().filter(|state| !state.avoided()).map(|state| state.endpoint.address);
        others.find(|other| other.is_ipv6() != address.is_ipv6())
    }

    /// Endpoints for the admin page.
    pub(crate) fn endpoint_states(&self) -> Vec<Rc<EndpointState>> {
        self.endpoints.borrow().states.clone()
    }
}

fn server_name(config: &Cluster) -> Option<ServerName<'static>> {
    let host = match &config.discovery {
        Discovery::Dns { host, .. } => &**host,
        _ => config.name.rsplit_once(':').map_or(&*config.name, |(host, _)| host),
    };
    ServerName::try_from(host.to_owned()).ok().filter(|name| matches!(name, ServerName::DnsName(_)))
}

fn endpoints(config: &Cluster, resolved: &Resolved) -> Vec<Endpoint> {
    match &config.discovery {
        Discovery::Static(endpoints) => endpoints.clone(),
        Discovery::Dns { host, port } => {
            let at = |ip: &IpAddr| Endpoint::new(SocketAddr::new(*ip, *port));
            resolved.addresses(host).iter().map(at).collect()
        }
        Discovery::OriginalDst => Vec::new(),
    }
}

impl EndpointState {
    fn new(endpoint: Endpoint) -> Rc<Self> {
        Rc::new(Self { endpoint, active: Cell::new(0), failures: Cell::new(0), avoid_until: Cell::new(None) })
    }

    /// Requests and TCP connections at it right now.
    pub(crate) fn active(&self) -> u32 {
        self.active.get()
    }

    /// Whether it failed so lately that others are asked first.
    pub(crate) fn avoided(&self) -> bool {
        self.avoid_until.get().is_some_and(|until| Instant::now() < until)
    }

    /// It could not be reached, unless what was missing was here. Those who waited for the same dial all say so; it counts once.
    pub(crate) fn unreachable(&self, error: &Error) {
        if self.avoided() || error.is_want() {
            return;
        }
        let failures = self.failures.get();
        let back_off = (BACK_OFF * 2u32.saturating_pow(failures.min(8))).min(MAX_BACK_OFF);
        self.failures.set(failures.saturating_add(1));
        self.avoid_until.set(Some(Instant::now() + back_off));
    }
}

impl Picked {
    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Known(active) => active.0.endpoint.address,
            Self::Aimed(address) => *address,
        }
    }

    /// It answered, or took a connection of bytes.
    pub(crate) fn reached(&self) {
        if let Self::Known(Active(endpoint)) = self
            && endpoint.failures.take() > 0
        {
            endpoint.avoid_until.set(None);
        }
    }

    /// It could not be reached.
    pub(crate) fn unreachable(&self, error: &Error) {
        if let Self::Known(Active(endpoint)) = self {
            endpoint.unreachable(error);
        }
    }

    /// The cluster's endpoint itself, which may be wanted for longer.
    pub(crate) fn endpoint(&self) -> Option<Rc<EndpointState>> {
        match self {
            Self::Known(active) => Some(active.0.clone()),
            Self::Aimed(_) => None,
        }
    }
}

impl Active {
    fn new(endpoint: &Rc<EndpointState>) -> Self {
        endpoint.active.set(endpoint.active.get() + 1);
        Self(endpoint.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn an_endpoint_is_not_passed_over_for_want_of_what_was_missing_here() {
        let endpoint: SocketAddr = ([127, 0, 0, 1], 1).into();
        let state = EndpointState::new(Endpoint::new(endpoint));
        for (errno, avoided) in [(Errno::EMFILE, false), (Errno::EADDRNOTAVAIL, false), (Errno::ECONNREFUSED, true)] {
            let source = Arc::new(errno.into());
            state.unreachable(&Error::Connect { cluster: "c".into(), endpoint, source });
            assert_eq!(state.avoided(), avoided, "{errno}");
        }
    }
}
