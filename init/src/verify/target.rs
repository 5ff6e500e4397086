//! Where to connect: addresses and ports that a spec captures. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use remora_model::PortRange;
use remora_model::capture::{CaptureSpec, Destinations, OWN_PORTS, Ports};

use crate::plan::Family;

/// Addresses reserved for documentation (RFC 5737, RFC 3849, RFC 9637): nobody answers there.
fn nobody(family: Family) -> Vec<IpAddr> {
    match family {
        Family::V4 => [[192, 0, 2, 1], [198, 51, 100, 1], [203, 0, 113, 1]].map(|a| Ipv4Addr::from(a).into()).to_vec(),
        Family::V6 => [[0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], [0x3fff, 0, 0, 0, 0, 0, 0, 1]]
            .map(|a| Ipv6Addr::from(a).into())
            .to_vec(),
    }
}

/// A destination that is captured outbound, `None` if none is.
pub(super) fn outbound(spec: &CaptureSpec, family: Family, own: &[IpAddr]) -> Option<(IpAddr, u16)> {
    let outbound = &spec.outbound;
    let free = |address: &IpAddr| {
        !outbound.exclude_cidrs.iter().any(|net| net.contains(address))
            && !own.contains(address)
            && !address.is_loopback()
    };
    let any = nobody(family).into_iter().find(free);
    let common = [80, 443, 8080].into_iter().chain(1..=u16::MAX);
    let any_port = || common.clone().find(|port| !holds(&outbound.exclude_ports, *port));
    match &outbound.include {
        Destinations::All => any.zip(any_port()),
        Destinations::Only { cidrs, ports } => {
            let inside = cidrs.iter().filter(|net| family.holds(net)).flat_map(some_hosts).find(free);
            let listed = first(ports, |port| !holds(&outbound.exclude_ports, port));
            inside.zip(any_port()).or_else(|| any.zip(listed))
        }
    }
}

/// A few addresses of a network.
fn some_hosts(net: &IpNet) -> impl Iterator<Item = IpAddr> {
    net.hosts().take(64)
}

/// A port that is captured inbound and pleases `also`, `None` if there is none.
pub(super) fn inbound_port(spec: &CaptureSpec, also: impl Fn(u16) -> bool) -> Option<u16> {
    let inbound = &spec.inbound;
    let own = [inbound.proxy_port, spec.outbound.proxy_port];
    let captured = |port: u16| {
        !holds(&inbound.exclude_ports, port) && !OWN_PORTS.contains(&port) && !own.contains(&port) && also(port)
    };
    match &inbound.include_ports {
        // The high end first: applications are rarely there.
        Ports::All => (1..=u16::MAX).rev().find(|port| captured(*port)),
        Ports::Only(ports) => first(ports, captured),
    }
}

fn first(ports: &[PortRange], pleases: impl Fn(u16) -> bool) -> Option<u16> {
    ports.iter().flat_map(|range| range.first()..=range.last()).find(|port| pleases(*port))
}

fn holds(ports: &[PortRange], port: u16) -> bool {
    ports.iter().any(|range| range.contains(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn exclusions_are_stepped_around() {
        let mut spec = CaptureSpec::default();
        assert_eq!(outbound(&spec, Family::V4, &[]), Some((address("192.0.2.1"), 80)));
        spec.outbound.exclude_cidrs = vec!["192.0.0.0/8".parse().unwrap()];
        spec.outbound.exclude_ports = vec!["80".parse().unwrap(), "400-500".parse().unwrap()];
        assert_eq!(outbound(&spec, Family::V4, &[]), Some((address("198.51.100.1"), 8080)));
        assert_eq!(outbound(&spec, Family::V6, &[]), Some((address("2001:db8::1"), 8080)));
        spec.outbound.exclude_cidrs = vec!["0.0.0.0/0".parse().unwrap()];
        assert_eq!(outbound(&spec, Family::V4, &[]), None);
    }

    #[test]
    fn only_what_is_included_is_tried() {
        let mut spec = CaptureSpec::default();
        spec.outbound.include = Destinations::Only { cidrs: vec!["10.9.0.0/30".parse().unwrap()], ports: vec![] };
        assert_eq!(outbound(&spec, Family::V4, &[address("10.9.0.1")]), Some((address("10.9.0.2"), 80)));
        assert_eq!(outbound(&spec, Family::V6, &[]), None);
        spec.outbound.include = Destinations::Only { cidrs: vec![], ports: vec!["9000-9001".parse().unwrap()] };
        spec.outbound.exclude_ports = vec!["9000".parse().unwrap()];
        assert_eq!(outbound(&spec, Family::V6, &[]), Some((address("2001:db8::1"), 9001)));
    }

    #[test]
    fn inbound_ports_are_neither_excluded_nor_the_proxys() {
        let mut spec = CaptureSpec::default();
        assert_eq!(inbound_port(&spec, |_| true), Some(65535));
        spec.inbound.include_ports = Ports::Only(vec!["15000-15002".parse().unwrap(), "8080".parse().unwrap()]);
        spec.inbound.exclude_ports = vec!["15002".parse().unwrap()];
        assert_eq!(inbound_port(&spec, |_| true), Some(8080));
        assert_eq!(inbound_port(&spec, |port| port != 8080), None);
    }
}
