//! Which filter chain a connection takes. Pure: is handed the listener and the original destination, hands on the chain.

use std::net::IpAddr;
use std::sync::Arc;

use remora_model::listener::ResolvedHostId;
use remora_model::{FilterChain, Listener};

use crate::address::OrigDst;

/// What each of a snapshot's `resolved_hosts` resolves to now: one sorted list per [`ResolvedHostId`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedHosts(Vec<Arc<[IpAddr]>>);

impl ResolvedHosts {
    /// One list of addresses per host name, in the snapshot's order. Each must be sorted; an unresolved name has none.
    pub fn new(addresses: Vec<Arc<[IpAddr]>>) -> Self {
        Self(addresses)
    }

    /// Whether `host` resolves to `ip`.
    pub fn contains(&self, host: ResolvedHostId, ip: IpAddr) -> bool {
        self.0.get(host.0 as usize).is_some_and(|addresses| addresses.binary_search(&ip).is_ok())
    }
}

/// The first chain of `listener` whose match takes `destination`, else the default chain.
pub fn select<'a>(listener: &'a Listener, destination: OrigDst, resolved: &ResolvedHosts) -> &'a FilterChain {
    let takes =
        |chain: &&FilterChain| chain.destination.matches(destination.socket(), |host, ip| resolved.contains(host, ip));
    listener.chains.iter().find(takes).unwrap_or(&listener.default_chain)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use remora_model::listener::DestinationMatch;
    use remora_model::{Direction, DownstreamTls, OriginalDst, PortRange, Protocol, RouteTable};

    use super::*;

    fn chain(name: &str, ports: &[&str], networks: &[&str], resolved: Option<u32>) -> FilterChain {
        FilterChain {
            name: name.into(),
            destination: DestinationMatch {
                ports: ports.iter().map(|port| port.parse::<PortRange>().unwrap()).collect(),
                networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
                resolved: resolved.map(ResolvedHostId),
            },
            protocol: Protocol::Auto,
            detect_timeout: Duration::ZERO,
            tls: DownstreamTls::Off,
            idle_timeout: Duration::ZERO,
            routes: RouteTable::default(),
            tcp: None,
        }
    }

    fn listener() -> Listener {
        Listener {
            name: "outbound".into(),
            direction: Direction::Outbound,
            addresses: vec![],
            original_dst: OriginalDst::Redirect,
            chains: vec![
                chain("catalog", &["50051"], &["10.7.0.100/32"], None),
                chain("prices", &["8000-8099"], &["10.8.0.0/16", "fd00::/8"], None),
                chain("named", &["80"], &[], Some(1)),
                chain("any-address", &["9000"], &[], None),
            ],
            default_chain: chain("passthrough", &[], &[], None),
        }
    }

    fn selected(destination: &str) -> String {
        let resolved = ["10.1.0.1", "10.1.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let resolved = ResolvedHosts::new(vec![[].into(), resolved.into()]);
        let listener = listener();
        select(&listener, OrigDst::new(destination.parse().unwrap()), &resolved).name.to_string()
    }

    #[test]
    fn address_and_port_must_both_match() {
        assert_eq!(selected("10.7.0.100:50051"), "catalog");
        assert_eq!(selected("10.7.0.101:50051"), "passthrough");
        assert_eq!(selected("10.7.0.100:50052"), "passthrough");
        assert_eq!(selected("10.8.3.4:8099"), "prices");
        assert_eq!(selected("10.8.3.4:8100"), "passthrough");
        assert_eq!(selected("[fd00::7]:8000"), "prices");
        assert_eq!(selected("203.0.113.9:9000"), "any-address");
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        assert_eq!(selected("[::ffff:10.7.0.100]:50051"), "catalog");
    }

    #[test]
    fn a_name_matches_what_it_resolves_to_now() {
        assert_eq!(selected("10.1.0.2:80"), "named");
        assert_eq!(selected("10.1.0.3:80"), "passthrough");
        let listener = listener();
        let nothing = ResolvedHosts::default();
        let destination = OrigDst::new("10.1.0.2:80".parse().unwrap());
        assert_eq!(&*select(&listener, destination, &nothing).name, "passthrough");
    }
}
