//! One address that serves a cluster.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use serde::Serialize;

/// An address that serves a cluster, and its share of the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Endpoint {
    /// Where to connect.
    pub address: SocketAddr,
    /// Share relative to the other endpoints' weights; 1 unless configured.
    pub weight: NonZeroU32,
}

impl Endpoint {
    /// An endpoint of weight 1.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, weight: NonZeroU32::MIN }
    }
}
