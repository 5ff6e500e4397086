//! What flags hold: lists separated by commas.

use std::fmt::Display;
use std::str::FromStr;

use ipnet::IpNet;
use remora_model::PortRange;
use remora_model::capture::{InterfaceName, Ports};

use crate::Error;

/// The items of a list; blanks and empty items do not count.
pub(crate) fn list<T>(flag: &str, text: &str) -> Result<Vec<T>, Error>
where
    T: FromStr,
    T::Err: Display,
{
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    items.map(|item| item.parse().map_err(|why| Error::Arguments(format!("{flag} {item}: {why}")))).collect()
}

/// `*` or a list of ports.
pub(crate) fn ports(flag: &str, text: &str) -> Result<Ports, Error> {
    if text.trim() == "*" { Ok(Ports::All) } else { Ok(Ports::Only(some_ports(flag, text)?)) }
}

/// A list of ports, of which `*` is every one.
pub(crate) fn some_ports(flag: &str, text: &str) -> Result<Vec<PortRange>, Error> {
    list(flag, if text.trim() == "*" { "1-65535" } else { text })
}

/// A list of networks; an address is a network of one. Everything (`*`) is no network.
pub(crate) fn cidrs(flag: &str, text: &str) -> Result<Vec<IpNet>, Error> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let parsed = items.map(|item| {
        let net = item.parse::<IpNet>().ok().or_else(|| item.parse::<std::net::IpAddr>().ok().map(IpNet::from));
        net.map(|net| net.trunc()).ok_or_else(|| {
            Error::Arguments(format!("{flag} {item}: expected an address or a network such as 10.0.0.0/8 or fd00::/8"))
        })
    });
    parsed.collect()
}

/// A list of uids or gids.
pub(crate) fn numbers(flag: &str, text: &str) -> Result<Vec<u32>, Error> {
    list(flag, text)
}

/// A list of interfaces.
pub(crate) fn interfaces(flag: &str, text: &str) -> Result<Vec<InterfaceName>, Error> {
    list(flag, text)
}
