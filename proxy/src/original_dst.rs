//! Where a redirected connection was aimed before redirection, and whether that is the proxy itself.
//!
//! Is handed an accepted connection and hands on its [`OrigDst`]. Invariant: a destination that [`OwnAddresses::is_loop`]
//! refuses is never dialled, so that no connection can go round in the proxy.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use remora_model::capture::OWN_PORTS;
use remora_model::{Direction, OriginalDst};
use socket2::{SockAddr, SockRef};
use tokio::net::TcpStream;

use crate::address::OrigDst;

/// Where `stream`, whose own address is `local`, was aimed: what conntrack remembers of a REDIRECTed connection, the local address of all others. A
/// connection that was not redirected answers its local address, so that [`OwnAddresses::is_loop`] sees it.
///
/// # Errors
/// What `getsockopt` said, for a connection that is gone already for instance.
pub fn original_dst(stream: &TcpStream, local: SocketAddr, mode: OriginalDst) -> io::Result<OrigDst> {
    let destination = match mode {
        OriginalDst::None | OriginalDst::Tproxy => local,
        OriginalDst::Redirect => redirected(stream, local)?,
    };
    Ok(OrigDst::new(destination))
}

fn redirected(stream: &TcpStream, local: SocketAddr) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    // An IPv4 peer of a dual-stack socket is an IPv4 flow in conntrack, which only level 0 answers for.
    let answer = if local.ip().to_canonical().is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    match answer {
        Ok(address) => Ok(SockAddr::as_socket(&address).unwrap_or(local)),
        Err(error) if no_conntrack_entry(&error) => Ok(local),
        Err(error) => Err(error),
    }
}

/// Whether the kernel knows no redirection of the connection: no entry, or no NAT in this network namespace at all.
fn no_conntrack_entry(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ENOENT | Errno::ENOPROTOOPT | Errno::EOPNOTSUPP))
}

/// The proxy's own ports and the addresses of this network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    ports: Vec<u16>,
    interfaces: Vec<IpAddr>,
}

impl OwnAddresses {
    /// The ports of [`OWN_PORTS`] and of `bound` (intercepting and administrative listeners, not gateways: those are
    /// legitimate destinations), on the addresses that the interfaces have now.
    ///
    /// # Errors
    /// The interfaces cannot be listed.
    pub fn from_interfaces(bound: &[SocketAddr]) -> io::Result<Self> {
        let address = |storage: SockaddrStorage| {
            let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        };
        let interfaces = getifaddrs()?.filter_map(|interface| interface.address.and_then(address)).collect();
        Ok(Self::new(bound, interfaces))
    }

    /// As [`OwnAddresses::from_interfaces`], with the interfaces' addresses given.
    pub fn new(bound: &[SocketAddr], interfaces: Vec<IpAddr>) -> Self {
        let mut ports: Vec<u16> = OWN_PORTS.into_iter().chain(bound.iter().map(SocketAddr::port)).collect();
        ports.sort_unstable();
        ports.dedup();
        Self { ports, interfaces }
    }

    /// Whether a connection that arrived on `local`, aimed at `destination`, would make the proxy dial itself: one of its
    /// own ports on an address of this network namespace. Everything inbound is aimed at this namespace; a connection
    /// that was not redirected is aimed at the listener itself. A gateway never dials where it was reached.
    pub fn is_loop(&self, destination: OrigDst, local: SocketAddr, direction: Direction) -> bool {
        if direction == Direction::Gateway || self.ports.binary_search(&destination.socket().port()).is_err() {
            return false;
        }
        let ip = destination.ip();
        direction == Direction::Inbound
            || ip.is_loopback()
            || ip.is_unspecified()
            || ip == local.ip().to_canonical()
            || self.interfaces.contains(&ip)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn dst(text: &str) -> OrigDst {
        OrigDst::new(text.parse().unwrap())
    }

    async fn accepted(listen: &str, connect: IpAddr) -> (TcpStream, SocketAddr, TcpStream) {
        let listener = TcpListener::bind(listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect((connect, address.port())).await.unwrap();
        (listener.accept().await.unwrap().0, address, client)
    }

    #[tokio::test]
    async fn an_unredirected_connection_answers_its_local_address() {
        for (listen, connect) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")] {
            let connect: IpAddr = connect.parse().unwrap();
            let (stream, address, _client) = accepted(listen, connect).await;
            for mode in [OriginalDst::None, OriginalDst::Redirect, OriginalDst::Tproxy] {
                let found = original_dst(&stream, stream.local_addr().unwrap(), mode).unwrap();
                assert_eq!(found.socket(), SocketAddr::new(connect, address.port()), "{listen} {mode:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_direct_hit_on_a_listener_is_a_loop() {
        let (stream, address, _client) = accepted("127.0.0.1:0", [127, 0, 0, 1].into()).await;
        let own = OwnAddresses::from_interfaces(&[address]).unwrap();
        let found = original_dst(&stream, stream.local_addr().unwrap(), OriginalDst::Redirect).unwrap();
        let local = stream.local_addr().unwrap();
        assert!(own.is_loop(found, local, Direction::Inbound));
        assert!(own.is_loop(found, local, Direction::Outbound));
        assert!(!own.is_loop(found, local, Direction::Gateway));
    }

    #[test]
    fn own_ports_elsewhere_are_destinations_like_any_other() {
        let own = OwnAddresses::new(&["0.0.0.0:25001".parse().unwrap()], vec!["10.7.0.2".parse().unwrap()]);
        let local = "127.0.0.1:15001".parse().unwrap();
        let outbound = |text| own.is_loop(dst(text), local, Direction::Outbound);
        for text in ["10.7.0.2:15006", "10.7.0.2:25001", "127.0.0.9:15000", "[::1]:15020", "[::ffff:10.7.0.2]:15001"] {
            assert!(outbound(text), "{text}");
        }
        for text in ["10.7.0.3:15020", "10.7.0.2:8080", "[fd00::1]:15001"] {
            assert!(!outbound(text), "{text}");
        }
        assert!(own.is_loop(dst("10.9.9.9:15006"), local, Direction::Inbound));
        assert!(!own.is_loop(dst("10.9.9.9:80"), local, Direction::Inbound));
    }
}
