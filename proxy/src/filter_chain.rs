//! Which filter chain a connection takes. Pure: is handed the listener and the original destination, hands on the chain.

use remora_model::{FilterChain, Listener, Snapshot};

use crate::address::OrigDst;
use crate::resolve::Resolved;

/// The first chain of `listener` whose match takes `destination`, else the default chain. `snapshot` is the one that
/// `listener` belongs to, `resolved` what its names resolve to now.
pub fn select<'a>(
    listener: &'a Listener,
    destination: OrigDst,
    snapshot: &Snapshot,
    resolved: &Resolved,
) -> &'a FilterChain {
    let takes = |chain: &&FilterChain| {
        chain.destination.matches(destination.socket(), |host, ip| resolved.contains(snapshot.resolved_host(host), ip))
    };
    listener.chains.iter().find(takes).unwrap_or(&listener.default_chain)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use remora_model::listener::{DestinationMatch, ResolvedHostId};
    use remora_model::snapshot::{Admin, Service};
    use remora_model::telemetry::{AccessLog, Telemetry};
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
            unacknowledged: None,
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
            limits: Default::default(),
            chains: vec![
                chain("catalog", &["50051"], &["10.7.0.100/32"], None),
                chain("prices", &["8000-8099"], &["10.8.0.0/16", "fd00::/8"], None),
                chain("named", &["80"], &[], Some(1)),
                chain("any-address", &["9000"], &[], None),
            ],
            default_chain: chain("passthrough", &[], &[], None),
        }
    }

    fn snapshot() -> Snapshot {
        let any = ([127, 0, 0, 1], 0).into();
        Snapshot {
            service: Service { name: "a".into(), namespace: "default".into(), version: None },
            identity: None,
            limits: Default::default(),
            listeners: vec![listener()],
            clusters: vec![],
            resolved_hosts: vec!["other".into(), "shop".into()],
            telemetry: Telemetry { tracing: None, access_log: AccessLog::default() },
            admin: Admin { address: any, metrics: vec![any], readiness: vec![any] },
            drain_timeout: Duration::ZERO,
            lame_duck: Duration::ZERO,
            exit_with_application: false,
            probes: Default::default(),
            workers: None,
        }
    }

    fn selected_with(resolved: &Resolved, destination: &str) -> String {
        let snapshot = snapshot();
        let destination = OrigDst::new(destination.parse().unwrap());
        select(&snapshot.listeners[0], destination, &snapshot, resolved).name.to_string()
    }

    fn selected(destination: &str) -> String {
        let shop = ["10.1.0.2", "10.1.0.1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let resolved = Resolved::new([("shop".into(), shop.to_vec()), ("other".into(), vec![[10, 1, 0, 3].into()])]);
        selected_with(&resolved, destination)
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
        assert_eq!(selected_with(&Resolved::default(), "10.1.0.2:80"), "passthrough");
    }
}
