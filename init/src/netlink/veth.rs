//! A neighbour for a moment: a veth pair from this network namespace into one that belongs to a thread and ends with it.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::sync::mpsc;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};

use super::{Socket, address, set_up};
use crate::plan::Family;

/// Its name on both sides.
const NAME: &str = "remora-probe";

/// The addresses of the pod's side and of the neighbour's, with their prefix length.
pub(crate) fn addresses(family: Family) -> (IpAddr, IpAddr, u8) {
    match family {
        Family::V4 => (Ipv4Addr::new(169, 254, 77, 1).into(), Ipv4Addr::new(169, 254, 77, 2).into(), 30),
        Family::V6 => (
            Ipv6Addr::new(0xfd72, 0x656d, 0x6f72, 0, 0, 0, 0, 1).into(),
            Ipv6Addr::new(0xfd72, 0x656d, 0x6f72, 0, 0, 0, 0, 2).into(),
            126,
        ),
    }
}

/// Runs `inside` as a neighbour of this pod, in a network namespace of its own, on the wire for that long.
///
/// # Errors
/// `PermissionDenied` without SYS_ADMIN; what the kernel says otherwise.
pub(crate) fn as_neighbour<T: Send>(family: Family, inside: impl FnOnce() -> T + Send) -> io::Result<T> {
    let (ready, namespace) = mpsc::channel::<File>();
    let (joined, wire) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let neighbour = scope.spawn(move || -> io::Result<T> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let own = File::open("/proc/thread-self/ns/net")?;
            ready.send(own).map_err(io::Error::other)?;
            wire.recv().map_err(io::Error::other)?;
            let (_, theirs, prefix) = addresses(family);
            bring_up(theirs, prefix)?;
            Ok(inside())
        });
        // No file comes when the thread failed: its error says why.
        let pair = namespace.recv().ok().map(|namespace| Pair::create(&namespace));
        let outcome = match pair {
            Some(Ok(pair)) => {
                let (ours, _, prefix) = addresses(family);
                let up = bring_up(ours, prefix);
                if up.is_ok() {
                    let _ = joined.send(());
                }
                drop(joined);
                up.map(|()| Some(pair))
            }
            Some(Err(error)) => {
                drop(joined);
                Err(error)
            }
            None => Ok(None),
        };
        let told = neighbour.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        let _pair = outcome?;
        told
    })
}

/// The pair; it ends with this value, or with the neighbour's namespace.
struct Pair {
    index: u32,
}

impl Pair {
    fn create(namespace: &File) -> io::Result<Self> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![LinkAttribute::IfName(NAME.into()), LinkAttribute::NetNsFd(namespace.as_raw_fd())];
        let mut link = LinkMessage::default();
        let info = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))];
        link.attributes = vec![LinkAttribute::IfName(NAME.into()), LinkAttribute::LinkInfo(info)];
        Socket::open()?.create(RouteNetlinkMessage::NewLink(link))?;
        Ok(Self { index: if_nametoindex(NAME)? })
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let mut link = LinkMessage::default();
        link.header.index = self.index;
        let _ = Socket::open().and_then(|mut socket| socket.request(RouteNetlinkMessage::DelLink(link)));
    }
}

/// Gives the pair's end in the calling thread's namespace an address, and sets it up.
fn bring_up(own: IpAddr, prefix: u8) -> io::Result<()> {
    let index = if_nametoindex(NAME)?;
    let mut socket = Socket::open()?;
    socket.create(RouteNetlinkMessage::NewAddress(address(index, own, prefix)))?;
    set_up(&mut socket, index)
}
