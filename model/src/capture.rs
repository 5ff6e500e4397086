//! What traffic a pod's redirection turns towards the sidecar; shared by `remora-init`, which makes the rules,
//! and `remora-proxy`, which receives what they redirect.

use std::net::{Ipv4Addr, Ipv6Addr};

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
