//! The connections that prove it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{Ip6tOriginalDst, OriginalDst};
use nix::unistd::{Gid, Uid, getegid, geteuid, setfsgid, setfsuid};
use remora_model::capture::{CaptureSpec, Destinations, Interception, is_inbound_source};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Report, target};
use crate::netlink::veth;
use crate::plan::Family;

/// How long a connection may take: it goes no further than this machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// Tries all three connections of a family.
pub(super) fn probe(report: &mut Report, spec: &CaptureSpec, family: Family) {
    outbound(report, spec, family);
    let transparent = spec.inbound.mode != Interception::Redirect;
    let unused = |port| TcpListener::bind(SocketAddr::new(any(family), port)).is_ok();
    let Some(port) = target::inbound_port(spec, unused).or_else(|| target::inbound_port(spec, |_| true)) else {
        return report.untried(format!("{family} inbound: no port is captured"));
    };
    let watch = match Watch::open(family, spec.inbound.proxy_port, transparent) {
        Ok(watch) => watch,
        Err(error) => {
            return report.problem(format!("{family} inbound: cannot listen on {}: {error}", spec.inbound.proxy_port));
        }
    };
    if watch.listener.is_none() && !unused(port) {
        return report
            .untried(format!("{family} inbound: proxy and application both listen, nothing tells them apart"));
    }
    inbound(report, spec, family, port, &watch);
    own_call(report, spec, family, port, &watch);
}

fn outbound(report: &mut Report, spec: &CaptureSpec, family: Family) {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let exempt = spec.proxy_uids.contains(&uid)
        || spec.proxy_gids.contains(&gid)
        || spec.outbound.exclude_uids.contains(&uid)
        || spec.outbound.exclude_gids.contains(&gid);
    if exempt {
        return report
            .untried(format!("{family} outbound: uid {uid}, gid {gid} is exempt; run verify as another user"));
    }
    let Some(target) = target::outbound(spec, family, &own_addresses()) else {
        return report.untried(format!("{family} outbound: nothing is captured"));
    };
    let watch = match Watch::open(family, spec.outbound.proxy_port, false) {
        Ok(watch) => watch,
        Err(error) => {
            return report
                .problem(format!("{family} outbound: cannot listen on {}: {error}", spec.outbound.proxy_port));
        }
    };
    let mut outcome = try_once(&watch, target.into());
    // A namespace without a default route reaches its neighbours only; that none of them answers is then not sure.
    if matches!(&outcome, Err(Failure::NoRoute))
        && watch.listener.is_some()
        && spec.outbound.include == Destinations::All
        && let Some(neighbour) = neighbour(spec, family)
    {
        outcome = try_once(&watch, (neighbour, target.1).into());
    }
    tell(report, &format!("{family} outbound"), spec.outbound.proxy_port, outcome);
}

fn inbound(report: &mut Report, spec: &CaptureSpec, family: Family, port: u16, watch: &Watch) {
    let (ours, theirs, _) = veth::addresses(family);
    let what = format!("{family} inbound");
    if spec.inbound.exclude_sources.iter().any(|net| net.contains(&theirs)) {
        return report.untried(format!("{what}: the probe's address {theirs} is an excluded client"));
    }
    match veth::as_neighbour(family, || try_once(watch, (ours, port).into())) {
        Ok(outcome) => tell(report, &what, spec.inbound.proxy_port, outcome),
        Err(error) => {
            report.untried(format!("{what}: no neighbour to connect from ({error}); the rules were compared only"))
        }
    }
}

/// The proxy's own call to the pod, which netfilter knows by the user that owns the socket.
fn own_call(report: &mut Report, spec: &CaptureSpec, family: Family, port: u16, watch: &Watch) {
    let what = format!("{family} call to itself");
    let own = own_addresses().into_iter().find(|address| address.is_ipv4() == (family == Family::V4));
    let Some(own) = own else {
        return report.untried(format!("{what}: the pod has no address"));
    };
    let (uid, gid) = (spec.proxy_uids.first().copied(), spec.proxy_gids.first().copied());
    if uid.is_none() && gid.is_none() {
        return report.untried(format!("{what}: no proxy uid or gid is configured"));
    }
    let outcome = std::thread::scope(|scope| {
        let attempt = scope.spawn(|| become_owner(uid, gid).then(|| try_once(watch, (own, port).into())));
        attempt.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    });
    match outcome {
        Some(outcome) => tell(report, &what, spec.inbound.proxy_port, outcome),
        None => report.untried(format!("{what}: cannot act as the proxy's user (needs SETUID and SETGID)")),
    }
}

/// Makes the calling thread create files, sockets too, as this user.
fn become_owner(uid: Option<u32>, gid: Option<u32>) -> bool {
    // Group first: the user may not be allowed to any more. Asking twice tells whether the first did anything.
    let group = gid.map(Gid::from_raw).is_none_or(|gid| {
        setfsgid(gid);
        setfsgid(gid) == gid
    });
    let user = uid.map(Uid::from_raw).is_none_or(|uid| {
        setfsuid(uid);
        setfsuid(uid) == uid
    });
    group && user
}

fn tell(report: &mut Report, what: &str, proxy_port: u16, outcome: Result<Captured, Failure>) {
    match outcome {
        Ok(Captured::Seen(target)) => {
            report.good(format!(
                "{what}: a connection to {target} arrived at port {proxy_port}, original destination known"
            ));
        }
        Ok(Captured::Answered(target)) => {
            report.good(format!("{what}: a connection to {target}, where nobody is, was answered by the proxy"));
        }
        Err(Failure::NoRoute) => {
            report.untried(format!("{what}: there is no route to any address that could be tried"))
        }
        Err(Failure::Escaped(why)) => report.problem(format!("{what}: {why}")),
    }
}

enum Captured {
    /// It came to our listener, with this original destination.
    Seen(SocketAddr),
    /// It was accepted where nobody but the proxy could.
    Answered(SocketAddr),
}

enum Failure {
    NoRoute,
    Escaped(String),
}

/// The proxy's port, watched in its place unless it listens itself.
struct Watch {
    listener: Option<TcpListener>,
    port: u16,
}

impl Watch {
    fn open(family: Family, port: u16, transparent: bool) -> io::Result<Self> {
        let domain = if family == Family::V4 { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if family == Family::V6 {
            socket.set_only_v6(true)?;
        }
        if transparent && family == Family::V4 {
            socket.set_ip_transparent_v4(true)?;
        } else if transparent {
            socket.set_ip_transparent_v6(true)?;
        }
        socket.set_read_timeout(Some(PATIENCE))?;
        let bound = socket.bind(&SocketAddr::new(any(family), port).into()).and_then(|()| socket.listen(16));
        match bound {
            Ok(()) => Ok(Self { listener: Some(socket.into()), port }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(Self { listener: None, port }),
            Err(error) => Err(error),
        }
    }
}

fn try_once(watch: &Watch, target: SocketAddr) -> Result<Captured, Failure> {
    let escaped = |why: String| Failure::Escaped(format!("a connection to {target} {why}"));
    let stream = TcpStream::connect_timeout(&target, PATIENCE).map_err(|error| match error.kind() {
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => Failure::NoRoute,
        io::ErrorKind::TimedOut => escaped(format!("did not come to port {}: no answer", watch.port)),
        _ => escaped(format!("did not come to port {}: {error}", watch.port)),
    })?;
    let Some(listener) = &watch.listener else { return Ok(Captured::Answered(target)) };
    let own = stream.local_addr().map_err(|error| escaped(error.to_string()))?;
    loop {
        match listener.accept() {
            Ok((accepted, peer)) if peer == own => {
                return match original_destination(&accepted) {
                    Some(original) if original == target => Ok(Captured::Seen(target)),
                    Some(other) => Err(escaped(format!("arrived with the original destination {other}"))),
                    None => Err(escaped("arrived without its original destination".to_owned())),
                };
            }
            Ok(_) => {}
            Err(_) => return Err(escaped(format!("was answered by somebody else than port {}", watch.port))),
        }
    }
}

/// What REDIRECT rewrote; what it did not is the socket's own address.
fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    let rewritten = if local.is_ipv4() {
        getsockopt(stream, OriginalDst)
            .map(|found| {
                let address = Ipv4Addr::from(u32::from_be(found.sin_addr.s_addr));
                SocketAddr::from((address, u16::from_be(found.sin_port)))
            })
            .ok()
    } else {
        getsockopt(stream, Ip6tOriginalDst)
            .map(|found| {
                let address = Ipv6Addr::from(found.sin6_addr.s6_addr);
                SocketAddr::from((address, u16::from_be(found.sin6_port)))
            })
            .ok()
    };
    Some(rewritten.unwrap_or(local))
}

fn any(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The addresses of this namespace by which others reach it.
fn own_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let found = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    });
    let public = |address: &IpAddr| match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !is_inbound_source(*address),
    };
    found.filter(public).collect()
}

/// Another address on a wire of this pod that is captured.
fn neighbour(spec: &CaptureSpec, family: Family) -> Option<IpAddr> {
    let excluded = |address: &IpAddr| spec.outbound.exclude_cidrs.iter().any(|net| net.contains(address));
    let next = |own: IpAddr| match own {
        IpAddr::V4(own) => IpAddr::V4(Ipv4Addr::from(u32::from(own) ^ 1)),
        IpAddr::V6(own) => IpAddr::V6(Ipv6Addr::from(u128::from(own) ^ 1)),
    };
    let own = own_addresses().into_iter().filter(|own| own.is_ipv4() == (family == Family::V4));
    own.map(next).find(|address| !excluded(address))
}
