//! A pod without a proxy: listeners in its place tell who got a connection, and with which original destination.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{Ip6tOriginalDst, OriginalDst};
use nix::unistd::{Gid, Uid, geteuid, setfsgid, setfsuid};
use remora_test::binaries::binary;
use remora_test::eventually;
use remora_test::netns::{Bridge, Netns, tool};
use socket2::{Domain, Protocol, Socket, Type};

/// Both, as `--backend` and the programs name them.
pub(crate) const BACKENDS: [&str; 2] = ["nft", "legacy"];

/// Whether this machine can run these tests; says so if not.
pub(crate) fn ready() -> bool {
    let missing = ["ip", "iptables-nft-restore", "iptables-legacy-restore", "ip6tables-nft-restore"]
        .into_iter()
        .find(|name| !tool(name).is_absolute());
    if !geteuid().is_root() {
        println!("SKIPPED: not root");
    } else if let Some(name) = missing {
        println!("SKIPPED: {name} is not installed");
    } else {
        return true;
    }
    false
}

/// What a run of `remora-init` left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn failed(self, code: i32, part: &str) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stderr.contains(part), "{self:?}");
        assert_eq!(self.stderr.trim().lines().count(), 1, "one line says it all: {self:?}");
        self
    }
}

/// A command line for `remora-init` in a pod.
pub(crate) fn init_command(pod: &Netns, flags: &[&str]) -> Command {
    let mut command = pod.command(binary("remora-init"));
    command.args(flags);
    command
}

/// Runs `remora-init` in a pod.
pub(crate) fn init(pod: &Netns, flags: &[&str]) -> Ran {
    Ran::of(&mut init_command(pod, flags))
}

/// Runs iptables or ip6tables of a backend in a pod.
#[track_caller]
pub(crate) fn iptables(pod: &Netns, backend: &str, v6: bool, arguments: &[&str]) {
    let name = format!("{}-{backend}", if v6 { "ip6tables" } else { "iptables" });
    let output = pod.output(&name, arguments).unwrap();
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The rules and own chains of a backend, both families, without counters and comments.
pub(crate) fn saved(pod: &Netns, backend: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for family in ["iptables", "ip6tables"] {
        let output = pod.output(&format!("{family}-{backend}-save"), &[]).unwrap();
        let mut table = String::new();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name.to_owned();
            } else if line.starts_with("-A ") || (line.starts_with(':') && line.contains(" - [")) {
                let line = line.split(" [").next().unwrap_or(line);
                lines.push(format!("{family} {table} {line}"));
            }
        }
    }
    lines
}

/// Who makes a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct As(pub(crate) u32, pub(crate) u32);

/// An application's user.
pub(crate) const APP: As = As(1000, 1000);
/// The proxy's user.
pub(crate) const PROXY: As = As(1337, 1337);

/// Opens a connection in a namespace as a user, from an address if one is given.
pub(crate) fn connect(net: &Netns, who: As, from: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    net.enter(|| {
        // The thread ends with the closure, and its user with it.
        setfsgid(Gid::from_raw(who.1));
        setfsuid(Uid::from_raw(who.0));
        let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        if let Some(from) = from {
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
        Ok(socket.into())
    })
}

/// Named listeners, in whatever namespaces.
#[derive(Default)]
pub(crate) struct Sinks(Vec<(String, TcpListener)>);

impl Sinks {
    /// Listens in a namespace on one port, both families.
    pub(crate) fn listen(&mut self, name: &str, net: &Netns, port: u16, transparent: bool) {
        for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)] {
            let listener = net.enter(|| listener((any, port).into(), transparent)).unwrap();
            listener.set_nonblocking(true).unwrap();
            self.0.push((name.to_owned(), listener));
        }
    }

    /// Connects and tells who got it: the sink's name and the original destination there, or why nobody did.
    #[track_caller]
    pub(crate) fn landed(&self, net: &Netns, who: As, from: Option<IpAddr>, to: SocketAddr) -> Landed {
        let stream = match connect(net, who, from, to) {
            Ok(stream) => stream,
            Err(error) => return Landed { at: error.kind().to_string(), original: to },
        };
        let own = stream.local_addr().unwrap();
        eventually("a sink accepts the connection", || {
            self.0.iter().find_map(|(name, listener)| {
                loop {
                    let (accepted, peer) = listener.accept().ok()?;
                    if peer == own {
                        return Some(Landed { at: name.clone(), original: original(&accepted) });
                    }
                }
            })
        })
    }
}

/// Where a connection came out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Landed {
    pub(crate) at: String,
    pub(crate) original: SocketAddr,
}

pub(crate) fn listener(address: SocketAddr, transparent: bool) -> io::Result<TcpListener> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    match (address.is_ipv4(), transparent) {
        (true, true) => socket.set_ip_transparent_v4(true)?,
        (false, true) => socket.set_ip_transparent_v6(true)?,
        _ => {}
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// As a proxy asks: what REDIRECT rewrote, else the socket's own address.
fn original(stream: &TcpStream) -> SocketAddr {
    let local = stream.local_addr().unwrap();
    let rewritten = if local.is_ipv4() {
        getsockopt(stream, OriginalDst)
            .map(|a| SocketAddr::from((Ipv4Addr::from(u32::from_be(a.sin_addr.s_addr)), u16::from_be(a.sin_port))))
    } else {
        getsockopt(stream, Ip6tOriginalDst)
            .map(|a| SocketAddr::from((Ipv6Addr::from(a.sin6_addr.s6_addr), u16::from_be(a.sin6_port))))
    };
    rewritten.unwrap_or(local)
}

/// The address of a pod in one family.
pub(crate) fn address(net: &Netns, v6: bool) -> IpAddr {
    if v6 { net.v6().into() } else { net.v4().into() }
}

/// A pod, a client and two servers on one wire.
pub(crate) struct World {
    pub(crate) pod: Netns,
    pub(crate) client: Netns,
    pub(crate) server: Netns,
    pub(crate) other: Netns,
}

impl World {
    pub(crate) fn new() -> Self {
        let bridge = Bridge::new().unwrap();
        let pod = |name: &str| bridge.pod(name).unwrap();
        Self { pod: pod("pod"), client: pod("client"), server: pod("server"), other: pod("other") }
    }
}
