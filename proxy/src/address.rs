//! Addresses that must not be mistaken for one another.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The address a downstream connection came from. IPv4-mapped IPv6 is shown as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(SocketAddr);

/// The address a downstream connection was aimed at before redirection (or the listening address where nothing was
/// intercepted). IPv4-mapped IPv6 is shown as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OrigDst(SocketAddr);

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

macro_rules! address {
    ($name:ident) => {
        impl $name {
            /// Wraps an address, IPv4-mapped IPv6 as IPv4.
            pub fn new(address: SocketAddr) -> Self {
                Self(canonical(address))
            }

            /// The address and port.
            pub fn socket(self) -> SocketAddr {
                self.0
            }

            /// The address without its port.
            pub fn ip(self) -> IpAddr {
                self.0.ip()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

address!(ClientAddr);
address!(OrigDst);
