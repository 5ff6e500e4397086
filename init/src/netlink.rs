//! Addresses, routing rules and routes, by netlink: an image has no `ip`.
//!
//! What is made here carries a routing protocol number of its own, so that it can be told from what others made.

pub(crate) mod socket;
pub(crate) mod veth;

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use remora_model::capture::{INBOUND_SOURCES, inbound_source, is_inbound_source};

use crate::Error;
use crate::plan::Family;
use socket::Socket;

/// Marks our routing rules and routes; the letter R, assigned to nobody.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(0x52);

/// Where marked packets are delivered: the pair behind `ip rule add fwmark MARK lookup TABLE` and `ip route add local default dev lo table TABLE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) mark: u32,
    pub(crate) table: u32,
}

/// What of TPROXY's routing is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deliveries {
    pub(crate) rules: Vec<Delivery>,
    pub(crate) routes: Vec<u32>,
}

/// The first of the inbound leg's IPv6 source addresses that is not on `lo`.
pub(crate) fn missing_inbound_source() -> Result<Option<IpAddr>, Error> {
    let failed = |source| Error::Netlink { action: "list the addresses of lo", source };
    let (mut socket, lo) = open().map_err(failed)?;
    let mut request = AddressMessage::default();
    request.header.family = AddressFamily::Inet6;
    let answers = socket.dump(RouteNetlinkMessage::GetAddress(request)).map_err(failed)?;
    let there = |source: &IpAddr| {
        answers.iter().any(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => {
                message.header.index == lo && message.attributes.contains(&AddressAttribute::Address(*source))
            }
            _ => false,
        })
    };
    Ok(inbound_sources().find(|source| !there(source)))
}

fn inbound_sources() -> impl Iterator<Item = IpAddr> {
    (0..INBOUND_SOURCES).map(|n| inbound_source(true, n))
}

/// Adds the inbound leg's IPv6 source addresses to `lo`; how many were missing.
pub(crate) fn add_inbound_sources() -> Result<usize, Error> {
    change_inbound_sources("add ::6 to ::f to lo", true)
}

/// Removes them; whether any was there.
pub(crate) fn remove_inbound_sources() -> Result<bool, Error> {
    Ok(change_inbound_sources("remove ::6 to ::f from lo", false)? > 0)
}

fn change_inbound_sources(action: &'static str, add: bool) -> Result<usize, Error> {
    let failed = |source| Error::Netlink { action, source };
    let (mut socket, lo) = open().map_err(failed)?;
    let mut changed = 0;
    for source in inbound_sources() {
        changed += usize::from(change_inbound_source(&mut socket, lo, source, add).map_err(failed)?);
    }
    Ok(changed)
}

fn change_inbound_source(socket: &mut Socket, lo: u32, source: IpAddr, add: bool) -> io::Result<bool> {
    let mut message = address(lo, source, 128);
    // Deprecated from the start: the kernel then never chooses it as the source of another connection.
    let mut lifetime = CacheInfo::default();
    lifetime.ifa_valid = u32::MAX;
    message.attributes.push(AddressAttribute::CacheInfo(lifetime));
    let outcome = if add {
        socket.create(RouteNetlinkMessage::NewAddress(message))
    } else {
        socket.request(RouteNetlinkMessage::DelAddress(message))
    };
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The message that names `address` on an interface: usable at once. The kernel looks for nobody else who has it, since on `lo`, too, it
/// may be bound only after that, whenever a task of the kernel comes to it.
fn address(index: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = prefix;
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.header.flags = AddressHeaderFlags::Nodad;
    let flags = AddressAttribute::Flags(AddressFlags::Nodad);
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address), flags];
    message
}

/// What of TPROXY's routing, made by us, is there.
pub(crate) fn deliveries(family: Family) -> Result<Deliveries, Error> {
    let failed = |source| Error::Netlink { action: "list routing rules", source };
    let (mut socket, _) = open().map_err(failed)?;
    let mut rule = RuleMessage::default();
    rule.header.family = family_of(family);
    let rules = socket.dump(RouteNetlinkMessage::GetRule(rule)).map_err(failed)?;
    let mut route = RouteMessage::default();
    route.header.address_family = family_of(family);
    let routes = socket.dump(RouteNetlinkMessage::GetRoute(route)).map_err(failed)?;
    Ok(Deliveries {
        rules: rules.iter().filter_map(our_rule).collect(),
        routes: routes.iter().filter_map(our_route).collect(),
    })
}

fn our_rule(message: &RouteNetlinkMessage) -> Option<Delivery> {
    let RouteNetlinkMessage::NewRule(rule) = message else { return None };
    if !rule.attributes.contains(&RuleAttribute::Protocol(PROTOCOL)) {
        return None;
    }
    let mark =
        rule.attributes.iter().find_map(|a| if let RuleAttribute::FwMark(mark) = a { Some(*mark) } else { None })?;
    let table =
        rule.attributes.iter().find_map(|a| if let RuleAttribute::Table(table) = a { Some(*table) } else { None });
    Some(Delivery { mark, table: table.unwrap_or(rule.header.table.into()) })
}

fn our_route(message: &RouteNetlinkMessage) -> Option<u32> {
    let RouteNetlinkMessage::NewRoute(route) = message else { return None };
    if route.header.protocol != PROTOCOL {
        return None;
    }
    let table =
        route.attributes.iter().find_map(|a| if let RouteAttribute::Table(table) = a { Some(*table) } else { None });
    Some(table.unwrap_or(route.header.table.into()))
}

/// Makes TPROXY's routing what `wanted` says, and removes any other that we made; whether anything changed.
pub(crate) fn deliver(family: Family, wanted: Option<Delivery>) -> Result<bool, Error> {
    let there = deliveries(family)?;
    let failed = |source| Error::Netlink { action: "change routing rules for TPROXY", source };
    let (mut socket, lo) = open().map_err(failed)?;
    let mut changed = false;
    if let Some(delivery) = wanted {
        if !there.routes.contains(&delivery.table) {
            socket.create(RouteNetlinkMessage::NewRoute(route(family, lo, delivery.table))).map_err(failed)?;
            changed = true;
        }
        if !there.rules.contains(&delivery) {
            socket.create(RouteNetlinkMessage::NewRule(rule(family, delivery))).map_err(failed)?;
            changed = true;
        }
    }
    let mut kept = false;
    for delivery in there.rules {
        // The same rule twice is one too many.
        if Some(delivery) == wanted && !std::mem::replace(&mut kept, true) {
            continue;
        }
        socket.request(RouteNetlinkMessage::DelRule(rule(family, delivery))).map_err(failed)?;
        changed = true;
    }
    for table in there.routes.into_iter().filter(|table| wanted.is_none_or(|delivery| delivery.table != *table)) {
        socket.request(RouteNetlinkMessage::DelRoute(route(family, lo, table))).map_err(failed)?;
        changed = true;
    }
    Ok(changed)
}

fn rule(family: Family, delivery: Delivery) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family_of(family);
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::FwMark(delivery.mark),
        RuleAttribute::Table(delivery.table),
        RuleAttribute::Protocol(PROTOCOL),
    ];
    message
}

fn route(family: Family, lo: u32, table: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(family);
    message.header.protocol = PROTOCOL;
    message.header.scope = RouteScope::Host;
    message.header.kind = RouteType::Local;
    message.attributes = vec![RouteAttribute::Oif(lo), RouteAttribute::Table(table)];
    message
}

fn family_of(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// Sets `lo` up, which in a new namespace is down.
pub(crate) fn set_lo_up() -> Result<(), Error> {
    let up = open().and_then(|(mut socket, lo)| set_up(&mut socket, lo));
    up.map_err(|source| Error::Netlink { action: "set lo up", source })
}

fn set_up(socket: &mut Socket, index: u32) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    socket.request(RouteNetlinkMessage::SetLink(link))
}

/// A socket and the number of `lo`.
fn open() -> io::Result<(Socket, u32)> {
    Ok((Socket::open()?, nix::net::if_::if_nametoindex("lo")?))
}

/// How far IPv6 reaches in this namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ipv6Use {
    /// The kernel has none, or it is switched off here.
    Off,
    /// Only loopback and link-local addresses.
    Local,
    /// An address that others can reach.
    Reachable(Ipv6Addr),
}

/// How far IPv6 reaches in this namespace.
pub(crate) fn ipv6_use() -> Ipv6Use {
    let disabled = std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6");
    let Ok(addresses) = nix::ifaddrs::getifaddrs() else { return Ipv6Use::Off };
    let reachable = addresses.into_iter().find_map(|interface| {
        let address = interface.address?.as_sockaddr_in6()?.ip();
        let local = address.is_loopback() || address.is_unicast_link_local() || is_inbound_source(address.into());
        (!local).then_some(address)
    });
    match (reachable, disabled) {
        (Some(address), _) => Ipv6Use::Reachable(address),
        (None, Ok(text)) if text.trim() == "0" => Ipv6Use::Local,
        _ => Ipv6Use::Off,
    }
}
