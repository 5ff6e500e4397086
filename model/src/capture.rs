//! What traffic a pod's redirection turns towards the sidecar; shared by `remora-init`, which makes the rules,
//! and `remora-proxy`, which receives what they redirect.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::PortRange;

/// Where redirected outbound connections arrive.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where redirected inbound connections arrive.
pub const INBOUND_PORT: u16 = 15006;
/// The admin interface, on loopback only.
pub const ADMIN_PORT: u16 = 15000;
/// Prometheus metrics and health, on the pod's address.
pub const METRICS_PORT: u16 = 15020;
/// Readiness, on the pod's address.
pub const READINESS_PORT: u16 = 15021;
/// Ports of the proxy itself: never redirected, and never dialled on behalf of a connection (a loop).
pub const OWN_PORTS: [u16; 5] = [ADMIN_PORT, OUTBOUND_PORT, INBOUND_PORT, METRICS_PORT, READINESS_PORT];

/// The uid and gid the proxy runs under, whose own connections are never redirected.
pub const PROXY_ID: u32 = 1337;

/// The address from which the inbound leg dials the application over IPv4. Reserved for this use: redirection returns
/// connections from it first of all, so that a pod's call to itself can pass the inbound listener exactly once.
pub const INBOUND_SOURCE_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
/// The same for IPv6; `remora-init` adds it to the loopback interface.
pub const INBOUND_SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);
/// How many addresses are reserved: the first and those that follow it. Each has a pod's ephemeral ports (28,000 as a rule) for
/// every port of the application; the next one is for connections that find none left.
pub const INBOUND_SOURCES: u8 = 10;
/// The networks that hold all of them, from 127.0.0.6 to 127.0.0.15.
pub const INBOUND_SOURCE_NETS_V4: [Ipv4Net; 2] =
    [Ipv4Net::new_assert(INBOUND_SOURCE_V4, 31), Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 8), 29)];
/// The same for IPv6, from ::6 to ::f.
pub const INBOUND_SOURCE_NETS_V6: [Ipv6Net; 2] =
    [Ipv6Net::new_assert(INBOUND_SOURCE_V6, 127), Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 8), 125)];

/// The reserved address number `n` of a family, counted around.
#[must_use]
pub fn inbound_source(ipv6: bool, n: u8) -> IpAddr {
    let n = n % INBOUND_SOURCES;
    match ipv6 {
        false => IpAddr::V4(Ipv4Addr::from_bits(INBOUND_SOURCE_V4.to_bits() + u32::from(n))),
        true => IpAddr::V6(Ipv6Addr::from_bits(INBOUND_SOURCE_V6.to_bits() + u128::from(n))),
    }
}

/// Whether an address is one of those reserved for the inbound leg.
#[must_use]
pub fn is_inbound_source(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => INBOUND_SOURCE_NETS_V4.iter().any(|net| net.contains(&v4)),
        IpAddr::V6(v6) => INBOUND_SOURCE_NETS_V6.iter().any(|net| net.contains(&v6)),
    }
}

/// Everything that decides which connections of a pod the sidecar receives. `remora-init` turns it into rules.
///
/// Only TCP is ever captured. What is excluded wins over what is included, whatever the order it was given in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureSpec {
    /// Connections that come to the pod.
    pub inbound: InboundCapture,
    /// Connections that leave the pod.
    pub outbound: OutboundCapture,
    /// The proxy's uids: their connections are never captured outbound; those to the pod itself are captured inbound.
    pub proxy_uids: Vec<u32>,
    /// The proxy's gids, for which the same holds.
    pub proxy_gids: Vec<u32>,
    /// Interfaces whose traffic is left alone in both directions.
    pub exclude_interfaces: Vec<InterfaceName>,
    /// Interfaces of virtual machines inside the pod: what comes from them is treated as outbound.
    pub virtual_interfaces: Vec<InterfaceName>,
}

/// Which inbound connections are captured, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundCapture {
    /// How connections are turned.
    pub mode: Interception,
    /// The proxy's inbound port.
    pub proxy_port: u16,
    /// Which destination ports are captured.
    pub include_ports: Ports,
    /// Destination ports that are not. [`OWN_PORTS`] never are.
    pub exclude_ports: Vec<PortRange>,
    /// Clients whose connections are not captured.
    pub exclude_sources: Vec<IpNet>,
}

/// Which outbound connections are captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundCapture {
    /// The proxy's outbound port.
    pub proxy_port: u16,
    /// Which destinations are captured.
    pub include: Destinations,
    /// Destination ports that are not.
    pub exclude_ports: Vec<PortRange>,
    /// Destination networks that are not.
    pub exclude_cidrs: Vec<IpNet>,
    /// Users, beside the proxy, whose connections are not.
    pub exclude_uids: Vec<u32>,
    /// Groups, beside the proxy's, whose connections are not.
    pub exclude_gids: Vec<u32>,
}

/// A choice of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Every port.
    All,
    /// These; an empty list is none.
    Only(Vec<PortRange>),
}

/// A choice of outbound destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destinations {
    /// Every destination.
    All,
    /// A destination in one of the networks, or at one of the ports; both empty is none.
    Only {
        /// Destination networks. One inside the loopback range captures calls over loopback too, 127.0.0.1 and ::1 excepted.
        cidrs: Vec<IpNet>,
        /// Destination ports.
        ports: Vec<PortRange>,
    },
}

/// How inbound connections reach the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interception {
    /// The destination is rewritten to the proxy's port; the proxy asks the kernel for the original one and needs no capability.
    Redirect,
    /// The destination stays as it is, so the client's and the server's address are both real. The proxy needs `NET_ADMIN`.
    Tproxy {
        /// The packet mark of captured packets; the next higher mark is used for the pod's calls to itself.
        mark: u32,
        /// The routing table that delivers marked packets locally.
        table: u32,
    },
}

impl Interception {
    /// TPROXY with the usual mark and routing table.
    pub const TPROXY: Self = Self::Tproxy { mark: TPROXY_MARK, table: TPROXY_TABLE };
}

/// The usual packet mark of TPROXY.
pub const TPROXY_MARK: u32 = 1337;
/// The mark of the inbound leg's packets where the application is to see the client's address: redirection lets them pass,
/// and brings back to the proxy what answers them.
pub const TPROXY_LEG_MARK: u32 = 0x52_0539;
/// The usual routing table of TPROXY.
pub const TPROXY_TABLE: u32 = 133;

impl Default for CaptureSpec {
    /// Everything in both directions, on the usual ports, except the proxy's own traffic.
    fn default() -> Self {
        Self {
            inbound: InboundCapture {
                mode: Interception::Redirect,
                proxy_port: INBOUND_PORT,
                include_ports: Ports::All,
                exclude_ports: Vec::new(),
                exclude_sources: Vec::new(),
            },
            outbound: OutboundCapture {
                proxy_port: OUTBOUND_PORT,
                include: Destinations::All,
                exclude_ports: Vec::new(),
                exclude_cidrs: Vec::new(),
                exclude_uids: Vec::new(),
                exclude_gids: Vec::new(),
            },
            proxy_uids: vec![PROXY_ID],
            proxy_gids: vec![PROXY_ID],
            exclude_interfaces: Vec::new(),
            virtual_interfaces: Vec::new(),
        }
    }
}

/// A network interface's name as Linux allows it, so that it cannot be read as anything else in a rule; a trailing `+` matches
/// every name that begins so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(String);

/// Why a text is not an [`InterfaceName`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an interface name (1 to 15 letters, digits, or any of . _ - @, with + only at the end)")]
pub struct InvalidInterfaceName(String);

impl InterfaceName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = InvalidInterfaceName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let stem = text.strip_suffix('+').unwrap_or(text);
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
        let sound =
            (1..16).contains(&text.len()) && !stem.is_empty() && !text.starts_with('-') && stem.chars().all(plain);
        if sound && text != "." && text != ".." {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidInterfaceName(text.to_owned()))
        }
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_cannot_carry_rules() {
        for name in ["eth0", "net1", "veth+", "eth0.100", "br-1_a"] {
            assert_eq!(name.parse::<InterfaceName>().map(|n| n.to_string()), Ok(name.to_owned()));
        }
        for name in ["", "+", "-j", "eth0 -j ACCEPT", "a\n-A OUTPUT", "e\"th", "..", "sixteen-letters-", "a+b"] {
            assert!(name.parse::<InterfaceName>().is_err(), "{name:?} was accepted");
        }
    }

    #[test]
    fn the_reserved_networks_hold_the_reserved_addresses_and_no_other() {
        for ipv6 in [false, true] {
            let all: Vec<IpAddr> = (0..INBOUND_SOURCES).map(|n| inbound_source(ipv6, n)).collect();
            assert!(all.iter().all(|address| is_inbound_source(*address)));
            assert_eq!(inbound_source(ipv6, INBOUND_SOURCES), all[0]);
        }
        let held: u128 = INBOUND_SOURCE_NETS_V6.iter().map(|net| 1 << (128 - net.prefix_len())).sum();
        assert_eq!(held, u128::from(INBOUND_SOURCES));
        for other in ["127.0.0.1", "127.0.0.5", "127.0.0.16", "127.0.0.53", "::1", "::5", "::10"] {
            assert!(!is_inbound_source(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn the_default_captures_everything_but_the_proxy() {
        let spec = CaptureSpec::default();
        assert_eq!(spec.inbound.include_ports, Ports::All);
        assert_eq!(spec.outbound.include, Destinations::All);
        assert_eq!((spec.proxy_uids, spec.proxy_gids), (vec![1337], vec![1337]));
    }
}
