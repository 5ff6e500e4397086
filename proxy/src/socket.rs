//! Listening and dialling sockets, with every option the data path relies on.
//!
//! Hands out listeners and connected streams. Invariant: each of them is non-blocking, without Nagle's delay, and finds
//! out about a peer that vanished while idle.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use remora_model::capture;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream};

mod round_trip;
mod unacknowledged;

pub(crate) use round_trip::round_trip;
pub(crate) use unacknowledged::unacknowledged;

/// How long an idle connection waits before the kernel asks whether its peer is still there, and between two questions.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Unanswered questions after which a peer counts as gone.
const KEEPALIVE_RETRIES: u32 = 3;
/// How long what is sent on a hop whose other end always reads (the mesh's shared HTTP/2 connections) may stay unacknowledged.
pub(crate) const HOP_UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Connections that wait to be accepted, per listening socket.
pub const BACKLOG: i32 = 4096;

/// Binds and listens on `address`, non-blocking. An IPv6 socket takes IPv6 only, so that both families can be bound to
/// one port. With `reuse_port` several sockets of this process share the address (ask [`probe`] first whether another
/// process has it); with `transparent` the socket takes TPROXYed connections, which needs a capability.
///
/// # Errors
/// What the kernel said; [`unavailable`] and [`in_use`] tell the common ones apart.
pub fn listen(
    address: SocketAddr,
    reuse_port: bool,
    transparent: bool,
    backlog: i32,
) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for the last process's connections to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    if transparent {
        if address.is_ipv4() { socket.set_ip_transparent_v4(true)? } else { socket.set_ip_transparent_v6(true)? }
    }
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Finds out whether another socket listens on `address`, by listening there alone for a moment. SO_REUSEPORT would let
/// a second process of the same user share the port and take half of the connections; this does not.
///
/// # Errors
/// What [`listen`] would say; [`in_use`] holds for it when the port is taken.
pub fn probe(address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    listen(address, false, false, 1).map(drop)
}

/// Whether an error of [`listen`] says that the address family or the address does not exist in this network namespace
/// (IPv6 is disabled, say), so that the listener may be left out.
pub fn unavailable(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL | Errno::EPROTONOSUPPORT))
}

/// Whether an error of [`listen`] or [`probe`] says that the port is taken.
pub fn in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

/// Connects to `address`, from `source` if given (any port of it: the kernel chooses one when the destination is known,
/// so that one source address serves 28,000 connections to each destination). The caller bounds the time.
///
/// # Errors
/// What the kernel said.
pub async fn connect(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if let Some(source) = source {
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    dial(socket, address).await
}

/// Connects; dropped before that it ends with RST, since its peer may take it for connected and its end for a client's.
async fn dial(socket: Socket, address: SocketAddr) -> io::Result<TcpStream> {
    set_options(&SockRef::from(&socket))?;
    socket.set_linger(Some(Duration::ZERO))?;
    let stream = TcpSocket::from_std_stream(socket.into()).connect(address).await?;
    end_on_drop(&stream)?;
    Ok(stream)
}

/// Ports that are tried for a connection under another's address.
const PORT_TRIES: u64 = 16;

/// Connects to `address` under a client's address, so that an application on this machine sees that. Needs a capability, and
/// the redirection that brings the answers back. The port is none that clients take by themselves as a rule (their
/// connection to the same port is known to the kernel by its name too): from 10000, begun with at `random`.
///
/// # Errors
/// What the kernel said.
pub async fn connect_as(client: IpAddr, address: SocketAddr, random: u64) -> io::Result<TcpStream> {
    let mut error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for n in 0..PORT_TRIES {
        let port = 10_000 + (random.wrapping_add(n * 1_009) % 22_000) as u16;
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if address.is_ipv4() {
            socket.set_ip_transparent_v4(true)?
        } else {
            socket.set_ip_transparent_v6(true)?
        }
        socket.set_mark(capture::TPROXY_LEG_MARK)?;
        socket.set_reuse_address(true)?;
        let connected = match socket.bind(&SocketAddr::new(client, port).into()) {
            Ok(()) => dial(socket, address).await,
            Err(error) => Err(error),
        };
        match connected {
            Err(taken) if matches!(taken.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable) => {
                error = taken
            }
            connected => return connected,
        }
    }
    Err(error)
}

/// Sets the options of an accepted connection.
///
/// # Errors
/// What the kernel said, about a connection that is gone already for instance.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    set_options(&SockRef::from(stream))
}

fn set_options(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)
}

/// Ends the connection when bytes stay unacknowledged, or find a closed window, for `longest` (TCP_USER_TIMEOUT, RFC 5482). Not for an
/// application's own connections unless it was asked for: the kernel counts a peer that is alive but does not read, and direct connections
/// wait for such a peer for ever.
///
/// # Errors
/// What the kernel said.
pub fn bound_unacknowledged(stream: &TcpStream, longest: Duration) -> io::Result<()> {
    SockRef::from(stream).set_tcp_user_timeout(Some(longest))
}

/// Whether the kernel has something to read, if only the peer's end, which the runtime may not have been told yet.
pub(crate) fn has_input(stream: &TcpStream) -> bool {
    let would_block = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
    !SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]).is_err_and(would_block)
}

/// Whether the peer sent something that is not read yet; its end is nothing.
pub(crate) fn has_unread(stream: &TcpStream) -> bool {
    SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]).is_ok_and(|read| read > 0)
}

/// Whether the runtime knows that the peer has ended, whatever it sent before and is not read yet.
pub(crate) fn has_peer_ended(stream: &TcpStream) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    let ready = pin!(stream.ready(Interest::READABLE)).poll(&mut cx);
    matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
}

/// Whether the runtime knows that the connection broke: that its peer reset it, or is not to be reached.
pub(crate) fn has_broken(stream: &TcpStream) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    let ready = pin!(stream.ready(Interest::ERROR)).poll(&mut cx);
    matches!(ready, Poll::Ready(Ok(ready)) if ready.is_error())
}

/// Makes the connection end with RST instead of FIN when it is dropped, so that its peer learns of an abort.
///
/// # Errors
/// What the kernel said.
pub fn abort_on_drop(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// Makes it end with FIN again.
///
/// # Errors
/// What the kernel said.
pub(crate) fn end_on_drop(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(None)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::Ipv4Addr;

    use socket2::SockFilter;

    use super::*;

    const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    /// The socket receives nothing any more, as if all were under way.
    pub(crate) fn deafen(stream: &TcpStream) {
        // BPF_RET | BPF_K, of which nothing: no segment passes.
        SockRef::from(stream).attach_filter(&[SockFilter::new(0x06, 0, 0, 0)]).unwrap();
    }

    fn local(listener: &std::net::TcpListener) -> SocketAddr {
        listener.local_addr().unwrap()
    }

    #[test]
    fn workers_share_a_port_that_others_see_as_taken() {
        let first = listen(LOOPBACK, true, false, 16).unwrap();
        let second = listen(local(&first), true, false, 16).unwrap();
        assert_eq!(local(&first), local(&second));
        assert!(in_use(&probe(local(&first)).unwrap_err()));
        assert!(in_use(&listen(local(&first), false, false, 16).unwrap_err()));
        let address = local(&first);
        drop((first, second));
        probe(address).unwrap();
    }

    #[test]
    fn both_families_bind_one_port() {
        let v4 = listen("0.0.0.0:0".parse().unwrap(), true, false, 16).unwrap();
        let v6 = listen(SocketAddr::new("::".parse().unwrap(), local(&v4).port()), true, false, 16).unwrap();
        assert_eq!(local(&v4).port(), local(&v6).port());
    }

    #[test]
    fn an_address_of_nobody_is_told_apart_from_a_taken_port() {
        let error = listen("192.0.2.1:0".parse().unwrap(), false, false, 16).unwrap_err();
        assert!(unavailable(&error) && !in_use(&error), "{error}");
        assert!(!unavailable(&Errno::EACCES.into()));
        assert!(unavailable(&Errno::EAFNOSUPPORT.into()));
    }

    #[tokio::test]
    async fn connects_from_the_source_it_is_told() {
        let listener = listen(LOOPBACK, false, false, 16).unwrap();
        let address = local(&listener);
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let source = IpAddr::from([127, 0, 0, 6]);
        let (client, accepted) = tokio::join!(connect(address, Some(source)), listener.accept());
        let (client, (accepted, peer)) = (client.unwrap(), accepted.unwrap());
        assert_eq!(peer.ip(), source);
        tune(&accepted).unwrap();
        for stream in [&client, &accepted] {
            let socket = SockRef::from(stream);
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE);
        }
        bound_unacknowledged(&client, HOP_UNACKNOWLEDGED).unwrap();
        assert_eq!(SockRef::from(&client).tcp_user_timeout().unwrap(), Some(HOP_UNACKNOWLEDGED));
    }

    #[tokio::test]
    async fn one_source_port_serves_several_destinations() {
        let source = IpAddr::from([127, 0, 0, 6]);
        let listeners: Vec<_> = (0..2).map(|_| listen(LOOPBACK, false, false, 16).unwrap()).collect();
        for listener in &listeners {
            let stream = connect(local(listener), Some(source)).await.unwrap();
            let option = nix::sys::socket::getsockopt(&stream, sockopt::IpBindAddressNoPort).unwrap();
            assert!(option);
        }
    }

    #[tokio::test]
    async fn a_refused_connect_says_so() {
        let address = local(&listen(LOOPBACK, false, false, 16).unwrap());
        let error = connect(address, None).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_dial_that_is_given_up_ends_with_a_reset() {
        use tokio::io::AsyncReadExt;
        let listener = tokio::net::TcpListener::from_std(listen(LOOPBACK, false, false, 16).unwrap()).unwrap();
        let mut dialled = Box::pin(connect(listener.local_addr().unwrap(), None));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(dialled.as_mut().poll(&mut cx).is_pending(), "the runtime was not told yet");
        let (mut accepted, _) = listener.accept().await.unwrap();
        drop(dialled);
        assert_eq!(accepted.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let (stream, accepted) = tokio::join!(connect(listener.local_addr().unwrap(), None), listener.accept());
        drop(stream.unwrap());
        assert_eq!(accepted.unwrap().0.read(&mut [0]).await.unwrap(), 0, "as a connection it just ends");
    }

    #[tokio::test]
    async fn an_aborted_connection_ends_with_a_reset() {
        use tokio::io::AsyncReadExt;
        let listener = tokio::net::TcpListener::from_std(listen(LOOPBACK, false, false, 16).unwrap()).unwrap();
        let (client, accepted) = tokio::join!(connect(listener.local_addr().unwrap(), None), listener.accept());
        abort_on_drop(&client.unwrap()).unwrap();
        let error = accepted.unwrap().0.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
