//! Clusters by name: declared once, referred to from anywhere.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use remora_model::{
    Balance, CircuitBreakers, Cluster, ClusterId, Discovery, Endpoint, Protocol, SpiffeId, TrustDomain, UpstreamTls,
};

use super::{CONNECT_TIMEOUT, IDLE_TIMEOUT, Mesh, Trusted};
use crate::decode::{Field, Spanned};
use crate::errors::{Complaint, Problems, quoted};
use crate::raw::{Named, Upstream};
use crate::suggest::nearest;
use crate::value::{Host, HostPort};

/// The cluster that the inbound leg goes to.
const INBOUND: &str = "inbound";
/// The cluster of destinations without an entry.
const PASSTHROUGH: &str = "passthrough";

/// The clusters declared so far.
pub(super) struct Clusters {
    mesh: Mesh,
    list: Vec<Cluster>,
    by_name: HashMap<Arc<str>, Declared>,
    /// How many clusters of routes want the same name.
    namesakes: HashMap<String, u32>,
}

#[derive(Clone, Copy)]
struct Declared {
    id: ClusterId,
    line: usize,
    /// By an outbound entry or under `clusters`, not by a route.
    by_itself: bool,
}

impl Clusters {
    pub(super) fn new(mesh: Mesh) -> Self {
        Self { mesh, list: Vec::new(), by_name: HashMap::new(), namesakes: HashMap::new() }
    }

    pub(super) fn into_list(self) -> Vec<Cluster> {
        self.list
    }

    /// Declares what stands under `clusters`.
    pub(super) fn declare_named(&mut self, named: &[Named], problems: &mut Problems) {
        for Named { name, upstream } in named {
            let discovery = discovery(upstream, None, problems);
            self.declare(name, upstream, discovery, problems);
        }
    }

    /// Declares an outbound entry's own cluster: without endpoints, what its host resolves to.
    pub(super) fn declare_entry(
        &mut self,
        host: &Spanned<HostPort>,
        upstream: &Upstream,
        problems: &mut Problems,
    ) -> ClusterId {
        let discovery = discovery(upstream, Some(&host.value), problems);
        let name = Spanned { value: host.value.text.clone(), place: host.place.clone() };
        let id = self.declare(&name, upstream, discovery, problems);
        let protocol = &mut self.list[id.0 as usize].protocol;
        // An entry's `http` declares what its clients speak; a gRPC client among them is not to be spoken to in HTTP/1.1.
        if *protocol == Protocol::Http {
            *protocol = Protocol::Auto;
        }
        id
    }

    fn declare(
        &mut self,
        name: &Spanned<Arc<str>>,
        upstream: &Upstream,
        discovery: Discovery,
        problems: &mut Problems,
    ) -> ClusterId {
        if matches!(&*name.value, INBOUND | PASSTHROUGH) {
            problems.report(&name.place, format!("{} is the name of a built-in cluster", quoted(&name.value)));
        } else if let Some(before) = self.by_name.get(&name.value) {
            let message = format!("cluster {} is already declared in line {}", quoted(&name.value), before.line);
            problems.report(&name.place, message);
        }
        let cluster = self.build(name.value.clone(), upstream, discovery, problems);
        self.add(cluster, name.place.at().line, true)
    }

    fn add(&mut self, cluster: Cluster, line: usize, by_itself: bool) -> ClusterId {
        let id = ClusterId(u32::try_from(self.list.len()).expect("a file of 4 MiB declares fewer clusters"));
        self.by_name.entry(cluster.name.clone()).or_insert(Declared { id, line, by_itself });
        self.list.push(cluster);
        id
    }

    /// The cluster a route names.
    pub(super) fn named(&self, name: &Spanned<Arc<str>>, problems: &mut Problems) -> Option<ClusterId> {
        let found = self.by_name.get(&name.value).filter(|declared| declared.by_itself);
        if found.is_none() {
            let mut declared: Vec<&Cluster> = self.list.iter().collect();
            declared.retain(|cluster| self.by_name.get(&cluster.name).is_some_and(|known| known.by_itself));
            let suggestion = nearest(&name.value, declared.iter().map(|cluster| &*cluster.name));
            let complaint = Complaint::from(format!("unknown cluster {}", quoted(&name.value)));
            problems.report(&name.place, complaint.suggest(suggestion));
        }
        found.map(|declared| declared.id)
    }

    /// The cluster of a route's `to`: one of that name, or a new one of that host.
    pub(super) fn to(&mut self, to: &Spanned<HostPort>, upstream: &Upstream, problems: &mut Problems) -> ClusterId {
        let name = &to.value.text;
        let line = to.place.at().line;
        let known = self.by_name.get(name).copied();
        if let Some(Declared { id, line, by_itself: true }) = known {
            if !upstream.is_bare() {
                let message = format!("cluster {} is declared in line {line}; its settings belong there", quoted(name));
                problems.report(&upstream.place, message);
            }
            return id;
        }
        let discovery = discovery(upstream, Some(&to.value), problems);
        let cluster = self.build(name.clone(), upstream, discovery, problems);
        match known {
            Some(known) if self.list[known.id.0 as usize] == cluster => known.id,
            Some(known) => {
                let message = format!("{} has other settings in line {}", quoted(name), known.line);
                problems.report(&to.place, message);
                known.id
            }
            None => self.add(cluster, line, false),
        }
    }

    /// The cluster of a route's own endpoints, named after the route: `HOST/PATH`.
    pub(super) fn own(&mut self, name: &str, upstream: &Upstream, problems: &mut Problems) -> ClusterId {
        // Routes of one path may differ in methods, headers or hosts.
        let number = self.namesakes.entry(name.to_owned()).or_default();
        *number += 1;
        let numbered = if *number == 1 { name.to_owned() } else { format!("{name}#{number}") };
        let name: Arc<str> = numbered.into();
        if let Some(before) = self.by_name.get(&name) {
            let message = format!("its cluster {} is declared in line {} already", quoted(&name), before.line);
            problems.report(&upstream.place, message);
        }
        let discovery = discovery(upstream, None, problems);
        let cluster = self.build(name, upstream, discovery, problems);
        self.add(cluster, upstream.place.at().line, false)
    }

    /// The cluster of the inbound leg: the application itself, in plaintext.
    pub(super) fn inbound(&mut self, connect_timeout: Duration, idle_timeout: Duration) -> ClusterId {
        self.original(INBOUND, connect_timeout, idle_timeout)
    }

    /// The cluster of destinations nothing is said of.
    pub(super) fn passthrough(&mut self, connect_timeout: Duration) -> ClusterId {
        self.original(PASSTHROUGH, connect_timeout, IDLE_TIMEOUT)
    }

    fn original(&mut self, name: &str, connect_timeout: Duration, idle_timeout: Duration) -> ClusterId {
        let cluster = Cluster {
            name: name.into(),
            discovery: Discovery::OriginalDst,
            balance: Balance::default(),
            protocol: Protocol::Auto,
            tls: UpstreamTls::Off,
            connect_timeout,
            idle_timeout,
            unacknowledged: None,
            circuit_breakers: CircuitBreakers::default(),
        };
        self.add(cluster, 0, false)
    }

    fn build(&self, name: Arc<str>, upstream: &Upstream, discovery: Discovery, problems: &mut Problems) -> Cluster {
        Cluster {
            name,
            discovery,
            balance: upstream.balance.or_default(),
            protocol: upstream.protocol.or_default(),
            tls: self.tls(upstream, problems),
            connect_timeout: upstream.timeouts.connect.unwrap_or(CONNECT_TIMEOUT),
            idle_timeout: upstream.timeouts.idle.unwrap_or(IDLE_TIMEOUT),
            unacknowledged: upstream.timeouts.unacknowledged,
            circuit_breakers: upstream.circuit_breakers.or_default(),
        }
    }

    fn tls(&self, upstream: &Upstream, problems: &mut Problems) -> UpstreamTls {
        let mtls = match &upstream.mtls {
            Field::Given(Spanned { value: true, place }) if self.mesh == Mesh::Absent => {
                problems.report(place, "true needs the top-level mtls, which is missing");
                return UpstreamTls::Off;
            }
            Field::Given(mtls) => mtls.value,
            Field::Absent | Field::Wrong => self.mesh != Mesh::Absent,
        };
        let expected = upstream.identity.given();
        if let (false, Some(expected), false) = (mtls, expected, matches!(upstream.mtls, Field::Wrong)) {
            problems.report(&expected.place, "cannot be verified without mtls");
        }
        if !mtls {
            return UpstreamTls::Off;
        }
        let expected = expected.map_or(&[][..], |expected| &expected.value);
        if let Mesh::Present(Some(Trusted { domains, closed: true })) = &self.mesh {
            let foreign = |id: &SpiffeId| !domains.iter().any(|domain| domain.as_str() == id.trust_domain());
            for identity in expected.iter().filter(|identity| foreign(&identity.value)) {
                let message = match domains.as_slice() {
                    [own] => format!("{} is not of the trust domain {own}, whose bundle we have", identity.value),
                    _ => {
                        let known = domains.iter().map(TrustDomain::as_str).collect::<Vec<_>>().join(", ");
                        format!("{} is not of a trust domain whose bundle we have: {known}", identity.value)
                    }
                };
                problems.report(&identity.place, message);
            }
        }
        let mut identities: Vec<_> = expected.iter().map(|identity| identity.value.clone()).collect();
        identities.sort();
        identities.dedup();
        UpstreamTls::Mesh { identities }
    }
}

/// Where the endpoints of `upstream` come from; without a word about it, from `host`.
fn discovery(upstream: &Upstream, host: Option<&HostPort>, problems: &mut Problems) -> Discovery {
    if let (Field::Given(_), Field::Given(dns)) = (&upstream.endpoints, &upstream.dns) {
        problems.report(&dns.place, "endpoints are given too; they come from one or the other");
    }
    match (&upstream.endpoints, &upstream.dns) {
        (Field::Given(endpoints), _) => Discovery::Static(distinct(endpoints, problems)),
        (Field::Absent, Field::Given(dns)) => of_host(&dns.value),
        (Field::Wrong, _) | (Field::Absent, Field::Wrong) => Discovery::Static(Vec::new()),
        (Field::Absent, Field::Absent) => host.map_or_else(
            || {
                problems.report(&upstream.place, "needs endpoints or dns");
                Discovery::Static(Vec::new())
            },
            of_host,
        ),
    }
}

fn of_host(HostPort { host, port, .. }: &HostPort) -> Discovery {
    match host {
        Host::Ip(ip) => Discovery::Static(vec![Endpoint::new((*ip, port.get()).into())]),
        Host::Name(name) => Discovery::Dns { host: name.clone(), port: port.get() },
    }
}

fn distinct(endpoints: &[Spanned<Endpoint>], problems: &mut Problems) -> Vec<Endpoint> {
    let mut seen = HashSet::new();
    for Spanned { value: endpoint, place } in endpoints {
        if !seen.insert(endpoint.address) {
            problems.report(place, format!("{} is listed twice; give it a weight", endpoint.address));
        }
    }
    endpoints.iter().map(|endpoint| endpoint.value).collect()
}
