//! The outbound listener: an entry is a chain that original destinations match, the rest passes through.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use ipnet::IpNet;
use remora_model::capture::OUTBOUND_PORT;
use remora_model::listener::{DestinationMatch, ResolvedHostId};
use remora_model::{
    ClusterId, Direction, DownstreamTls, FilterChain, HttpLimits, Listener, OriginalDst, PortRange, Protocol,
    RouteTable,
};

use super::clusters::Clusters;
use super::{DETECT_TIMEOUT, IDLE_TIMEOUT, PASSTHROUGH_CONNECT_TIMEOUT, inbound, listen, routes};
use crate::decode::{Field, Place, Spanned};
use crate::errors::{Problems, quoted};
use crate::raw::{Document, Outbound};
use crate::value::{Host, HostPort};

/// Declares each entry's own cluster; `None` where its host is wrong.
pub(super) fn declare(document: &Document, clusters: &mut Clusters, problems: &mut Problems) -> Vec<Option<ClusterId>> {
    let entries = document.outbound.given().map_or(&[][..], Vec::as_slice);
    entries.iter().map(|entry| Some(clusters.declare_entry(entry.host.given()?, &entry.upstream, problems))).collect()
}

/// The listener of the entries, whose own clusters are `own`.
pub(super) fn listener(
    document: &Document,
    own: &[Option<ClusterId>],
    clusters: &mut Clusters,
    resolved_hosts: &mut Vec<Arc<str>>,
    problems: &mut Problems,
) -> Listener {
    let entries = document.outbound.given().map_or(&[][..], Vec::as_slice);
    let mut names = Names { hosts: resolved_hosts, ids: HashMap::new() };
    let mut taken = Taken::default();
    let mut hosts = HashSet::new();
    let mut chains = Vec::new();
    for (index, (entry, own)) in entries.iter().zip(own).enumerate() {
        let table = route_table(entry, *own, clusters, problems);
        if let (Some(host), Some(own)) = (entry.host.given(), own)
            && !matches!(entry.addresses, Field::Wrong)
            // A name given twice is reported with its cluster.
            && hosts.insert(&host.value.text)
        {
            let destination = destination(entry, &host.value, &mut names);
            taken.claim(index, entry, host, &destination, problems);
            chains.push(chain(host, destination, *own, entry, table));
        }
    }
    let chains = most_specific_first(chains, &taken.mixed_ports());
    let passthrough = clusters.passthrough(PASSTHROUGH_CONNECT_TIMEOUT);
    Listener {
        name: "outbound".into(),
        direction: Direction::Outbound,
        addresses: listen(&document.outbound_listen, OUTBOUND_PORT),
        original_dst: OriginalDst::Redirect,
        limits: document.limits.or(HttpLimits::default()),
        chains,
        default_chain: FilterChain {
            name: "passthrough".into(),
            destination: DestinationMatch::default(),
            protocol: Protocol::Auto,
            detect_timeout: DETECT_TIMEOUT,
            tls: DownstreamTls::Off,
            idle_timeout: IDLE_TIMEOUT,
            unacknowledged: None,
            routes: routes::single(passthrough, None),
            tcp: Some(passthrough),
        },
    }
}

fn chain(
    host: &Spanned<HostPort>,
    destination: DestinationMatch,
    own: ClusterId,
    entry: &Outbound,
    routes: RouteTable,
) -> FilterChain {
    let protocol = entry.upstream.protocol.or_default();
    FilterChain {
        name: host.value.text.clone(),
        destination,
        protocol,
        detect_timeout: DETECT_TIMEOUT,
        tls: DownstreamTls::Off,
        idle_timeout: entry.upstream.timeouts.idle.unwrap_or(IDLE_TIMEOUT),
        // The client is in this very pod.
        unacknowledged: None,
        routes,
        tcp: inbound::tcp(protocol, own),
    }
}

/// The routes of an entry; without any, everything goes to its own cluster.
fn route_table(
    entry: &Outbound,
    own: Option<ClusterId>,
    clusters: &mut Clusters,
    problems: &mut Problems,
) -> RouteTable {
    let timeout = entry.upstream.timeouts.request.filter(|timeout| !timeout.is_zero());
    let protocol = entry.upstream.protocol.or_default();
    match (&entry.routes, own) {
        (Field::Given(written), _) => {
            if protocol == Protocol::Tcp {
                problems.report(&written.place, "are never asked: the protocol is tcp");
            }
            let owner = entry.host.given().map_or("outbound", |host| &host.value.text);
            routes::table(owner, &written.value, timeout, clusters, problems)
        }
        (Field::Absent | Field::Wrong, Some(own)) => inbound::table(protocol, own, timeout),
        (Field::Absent | Field::Wrong, None) => RouteTable::default(),
    }
}

/// The original destinations of an entry: never everywhere.
fn destination(entry: &Outbound, host: &HostPort, names: &mut Names<'_>) -> DestinationMatch {
    let ports = vec![PortRange::new(host.port.get(), host.port.get()).expect("a port above 0 is a range")];
    let addresses = entry.addresses.given().map(|addresses| addresses.iter().map(|address| address.value).collect());
    match (addresses, &host.host) {
        (Some(networks), _) => DestinationMatch { ports, networks, resolved: None },
        (None, Host::Ip(ip)) => DestinationMatch { ports, networks: vec![(*ip).into()], resolved: None },
        (None, Host::Name(name)) => DestinationMatch { ports, networks: Vec::new(), resolved: Some(names.id(name)) },
    }
}

/// Host names that are watched, each once.
struct Names<'h> {
    hosts: &'h mut Vec<Arc<str>>,
    ids: HashMap<Arc<str>, ResolvedHostId>,
}

impl Names<'_> {
    fn id(&mut self, name: &Arc<str>) -> ResolvedHostId {
        *self.ids.entry(name.clone()).or_insert_with(|| {
            self.hosts.push(name.clone());
            ResolvedHostId(u32::try_from(self.hosts.len() - 1).expect("a file of 4 MiB names fewer hosts"))
        })
    }
}

/// Which destinations belong to which entry.
#[derive(Default)]
struct Taken {
    networks: HashMap<(u16, IpNet), usize>,
    names: HashMap<(u16, ResolvedHostId), usize>,
    /// The prefix lengths that occur, by port and family.
    lengths: HashMap<(u16, bool), BTreeSet<u8>>,
}

impl Taken {
    /// Notes the destinations of an entry; reports those that an earlier entry takes.
    fn claim(
        &mut self,
        index: usize,
        entry: &Outbound,
        host: &Spanned<HostPort>,
        destination: &DestinationMatch,
        problems: &mut Problems,
    ) {
        let port = host.value.port.get();
        let places: Vec<&Place> = match entry.addresses.given() {
            Some(addresses) => addresses.iter().map(|address| &address.place).collect(),
            None => vec![&host.place],
        };
        for (network, place) in destination.networks.iter().zip(places) {
            if let Some(before) = self.networks.insert((port, *network), index) {
                let what = if before == index { "this entry".into() } else { format!("outbound[{before}]") };
                problems.report(place, format!("{network} at port {port} belongs to {what} already"));
            }
            self.lengths.entry((port, is_v4(network))).or_default().insert(network.prefix_len());
        }
        if let Some(name) = destination.resolved
            && let Some(before) = self.names.insert((port, name), index)
        {
            let message = format!("{} belongs to outbound[{before}] already", quoted(&host.value.text));
            problems.report(&host.place, message);
        }
    }

    /// The ports where entries lie within each other's networks, or names may resolve into them: there, an entry
    /// with networks of several sizes cannot stand at one place in the order.
    fn mixed_ports(&self) -> HashSet<u16> {
        let mut mixed: HashSet<u16> = self.names.keys().map(|(port, _)| *port).collect();
        for ((port, network), index) in &self.networks {
            let lengths = self.lengths.get(&(*port, is_v4(network))).into_iter().flatten();
            let wider = lengths.take_while(|length| **length < network.prefix_len());
            let within_another = wider
                .filter_map(|length| IpNet::new(network.addr(), *length).ok())
                .any(|wider| self.networks.get(&(*port, wider.trunc())).is_some_and(|other| other != index));
            if within_another {
                mixed.insert(*port);
            }
        }
        mixed
    }
}

fn is_v4(network: &IpNet) -> bool {
    matches!(network, IpNet::V4(_))
}

/// Orders chains by the size of their networks, single addresses and names first, else as written. On `mixed` ports
/// a chain is divided into one for each size of network.
fn most_specific_first(chains: Vec<FilterChain>, mixed: &HashSet<u16>) -> Vec<FilterChain> {
    let size = |network: &IpNet| network.max_prefix_len() - network.prefix_len();
    let mut sized: Vec<(u8, FilterChain)> = Vec::new();
    for chain in chains {
        let divide = chain.destination.ports.iter().any(|port| mixed.contains(&port.first()));
        let mut by_size: BTreeMap<u8, Vec<IpNet>> = BTreeMap::new();
        let widest = chain.destination.networks.iter().map(size).max().unwrap_or(0);
        for network in &chain.destination.networks {
            by_size.entry(if divide { size(network) } else { widest }).or_default().push(*network);
        }
        if by_size.is_empty() {
            sized.push((0, chain));
            continue;
        }
        for (size, networks) in by_size {
            let mut part = chain.clone();
            part.destination.networks = networks;
            sized.push((size, part));
        }
    }
    sized.sort_by_key(|(size, _)| *size);
    sized.into_iter().map(|(_, chain)| chain).collect()
}
