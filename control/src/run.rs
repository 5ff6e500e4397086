//! `remora run -- CMD`: a sidecar beside a command on one's own machine.
//!
//! The command gets a network namespace with an address on a bridge that all runs share, a mount namespace with its own /etc/hosts and
//! /etc/resolv.conf, and a process namespace; `remora-init` and `remora-proxy` work in the network namespace as they do in a pod.
//! The namespaces have no names: they are held by open files of this process and go with it, and so do the processes in them (the
//! command's first process and the sidecar die with their parent, the rest with the first process). What outlives a killed run, the
//! bridge and its rules and a record nobody holds, is swept by the next one.
//!
//! Owns what is made on the host, from [`run`]'s first to its last moment. Invariant: whatever way it ends, the next run finds a clean host.
#![allow(clippy::print_stderr)] // what is to be said is said beside the command's own words

mod error;
mod identity;
pub mod inside;
mod mesh;
mod names;
mod namespace;
mod network;
mod orders;
mod place;
mod programs;
mod relay;
mod sidecar;
mod signals;
mod state;
mod upkeep;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::{PipeReader, PipeWriter, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use ipnet::Ipv4Net;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use remora_model::MtlsMode;
use remora_model::capture::PROXY_ID;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

pub use error::Error;
use mesh::Mesh;
use place::Place;
use programs::{Programs, output, with};
use sidecar::{Sidecar, Start};
use signals::{Event, Signals};
use state::State;
use upkeep::Upkeep;

/// The runs' network unless another is asked for: small, and where few others are.
pub const SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 213, 13, 0), 24);
/// How long the command may take to end when it must, and the sidecar always.
const END: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// What other runs call it.
    pub name: Name,
    /// What the command serves in the mesh; published ports are served, too.
    pub ports: BTreeSet<u16>,
    /// Ports of the command that are also at an address of the host.
    pub publish: Vec<(SocketAddr, u16)>,
    /// Ports of the host's loopback that are also at the command's.
    pub host_ports: BTreeSet<u16>,
    /// Which inbound connections are taken.
    pub mtls: MtlsMode,
    /// More for the sidecar's configuration.
    pub config: Option<PathBuf>,
    /// Where spans go.
    pub tracing: Option<http::Uri>,
    /// How long each certificate lives.
    pub identity_life: Duration,
    /// Where the sidecar's log goes, to stay there.
    pub log: Option<PathBuf>,
    /// Whom the command runs as; otherwise as root.
    pub user: Option<String>,
    /// The network that all runs share.
    pub subnet: Option<Ipv4Net>,
    /// The folder that all runs share.
    pub state: PathBuf,
    /// The command line; never empty.
    pub command: Vec<OsString>,
}

/// A run's name: a DNS label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// This one or none.
    Given(String),
    /// This one, or with a number behind it where it is taken.
    Like(String),
}

/// Runs the command beside a sidecar to its end, and returns its exit code as a shell has it.
///
/// # Errors
/// It could not be started, or the sidecar ended before it. Nothing is left of it then either.
pub fn run(options: &Options) -> Result<u8, Error> {
    if !Uid::effective().is_root() {
        return Err(Error::NotRoot);
    }
    let programs = Programs::find()?;
    // Before any thread is made: signals are for this one.
    let mut signals = Signals::take()?.receive();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::file("tokio"))?;
    runtime.block_on(async { beside(options, &programs, &mut signals).await })
}

type Watched = UnboundedReceiver<Event>;

async fn beside(options: &Options, programs: &Programs, signals: &mut Watched) -> Result<u8, Error> {
    let user = options.user.as_deref().map(user).transpose()?;
    // Whatever may be refused comes before anything is made.
    let published = options.publish.iter().map(|(host, port)| Ok((listen(*host)?, *port)));
    let published: Vec<(TcpListener, u16)> = published.collect::<Result<_, Error>>()?;
    let state = State::open(&options.state)?;
    let open = published.iter().map(|(_, port)| *port).collect::<BTreeSet<_>>();
    let ports = options.ports.union(&open).copied().collect();
    let mesh = Mesh::new(options.config.as_deref(), options.mtls, open, state.folder().to_owned())?;
    let place = Place::take(state, programs, &options.name, ports, options.subnet)?;

    let network = namespace::network()?;
    place.plug(&namespace::path(&network))?;
    let mut upkeep = Upkeep::begin(&place, &network, mesh, options.identity_life)?;
    let mounts = namespace::mounts(&upkeep.binds(&programs.proxy))?;
    output(Command::new(&programs.init).arg(with("--netns=", &namespace::path(&network))).arg("apply"))?;
    led_inside(options, &network)?;

    let tracing = options.tracing.as_ref().map(ToString::to_string);
    let mut sidecar = Sidecar::start(&Start {
        programs,
        network: namespace::path(&network),
        mounts: namespace::path(&mounts),
        inside: place.state.folder(),
        log: options.log.clone().unwrap_or_else(|| place.folder().join("proxy.log")),
        tracing: tracing.as_deref(),
    })?;
    if let Some(code) = until_ready(&mut sidecar, place.record.address, signals).await? {
        return Ok(code);
    }
    for (listener, port) in published {
        relay::tcp(listener, (place.record.address, port).into()).map_err(Error::file("a published port"))?;
    }
    let command = first_process(options, programs, user.as_ref(), &network, &mounts)?;
    let ended = tokio::select! {
        ended = attend(command, &mut sidecar, signals) => ended,
        never = upkeep.go_on() => match never {},
    };
    sidecar.terminate();
    until_gone(sidecar.child(), signals).await?;
    ended
}

/// Waits for the sidecar, but no longer than the sidecar lives or its user wants: then the exit code is what is returned.
async fn until_ready(sidecar: &mut Sidecar, address: Ipv4Addr, signals: &mut Watched) -> Result<Option<u8>, Error> {
    loop {
        let event = tokio::select! {
            ready = sidecar.ready(address) => return ready.map(|()| None),
            event = next(signals) => event,
        };
        match event {
            Event::Child => {
                if let Some(status) = sidecar.ended() {
                    return Err(Error::NotReady { reason: status.to_string(), log: sidecar.last_words() });
                }
            }
            Event::Sent(signal) => return Ok(Some(128 + signal as u8)),
        }
    }
}

/// Waits for the command's end, and hands signals on to it.
async fn attend(mut command: Running, sidecar: &mut Sidecar, signals: &mut Watched) -> Result<u8, Error> {
    loop {
        match next(signals).await {
            Event::Sent(signal) => command.signal(signal),
            Event::Child => {
                if let Some(status) = command.child.try_wait().map_err(Error::file("the command"))? {
                    return Ok(inside::code(status));
                }
                if let Some(status) = sidecar.ended() {
                    // Without it the command reaches nobody.
                    command.signal(Signal::SIGTERM);
                    until_gone(&mut command.child, signals).await?;
                    return Err(Error::SidecarEnded { status, log: sidecar.last_words() });
                }
            }
        }
    }
}

/// Waits for a child's end, but not for ever; what does not end by itself is killed when it is dropped.
async fn until_gone(child: &mut Child, signals: &mut Watched) -> Result<Option<ExitStatus>, Error> {
    let gone = async {
        loop {
            if let Some(status) = child.try_wait().map_err(Error::file("a child"))? {
                return Ok(status);
            }
            next(signals).await;
        }
    };
    timeout(END, gone).await.ok().transpose()
}

async fn next(signals: &mut Watched) -> Event {
    // Without the thread that reads them there are no more.
    signals.recv().await.unwrap_or(Event::Sent(Signal::SIGTERM))
}

/// The command's first process. Dropping it kills it, and the kernel all others in its process namespace.
#[derive(Debug)]
struct Running {
    child: Child,
    orders: PipeWriter,
    /// The first process opens it by its path here.
    _orders: PipeReader,
}

impl Running {
    /// Has the command given a signal, unless it has it already; see [`orders`].
    fn signal(&mut self, signal: Signal) {
        // Gone already: its end is the next event.
        let _ = self.orders.write_all(&[signal as u8]);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts this program again as the first process of a new process namespace; see [`inside`].
fn first_process(
    options: &Options,
    programs: &Programs,
    user: Option<&User>,
    network: &File,
    mounts: &File,
) -> Result<Running, Error> {
    let (reader, orders) = std::io::pipe().map_err(Error::file("a pipe"))?;
    let program = std::env::current_exe().map_err(Error::file("/proc/self/exe"))?;
    let mut command = Command::new(&program);
    command
        .arg("run-inside")
        .args([namespace::path(network), namespace::path(mounts), namespace::path(&reader)])
        .arg("--");
    if let Some(user) = user {
        let (uid, gid) = (user.uid.to_string(), user.gid.to_string());
        command.arg(&programs.setpriv).args(["--reuid", &uid, "--regid", &gid, "--init-groups", "--"]);
        command.env("HOME", &user.dir).env("USER", &user.name).env("LOGNAME", &user.name);
    }
    command.args(&options.command).stdin(Stdio::inherit());
    let own = File::open("/proc/self/ns/pid").map_err(Error::file("/proc/self/ns/pid"))?;
    // Concerns the children from here on, and no thread can be made meanwhile: so it is undone at once.
    unshare(CloneFlags::CLONE_NEWPID).map_err(Error::kernel("make a process namespace"))?;
    let child = command.spawn();
    setns(own, CloneFlags::CLONE_NEWPID).map_err(Error::kernel("leave the process namespace"))?;
    Ok(Running { child: child.map_err(Error::file(program))?, orders, _orders: reader })
}

/// Leads the command to ports of the host's loopback, that of a collector on it among them, at the very same addresses.
fn led_inside(options: &Options, network: &File) -> Result<(), Error> {
    let ports = options.host_ports.iter().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, *port)));
    let collector = options.tracing.as_ref().and_then(|url| {
        let host = url.host()?.trim_start_matches('[').trim_end_matches(']');
        let ip = if host == "localhost" { Ipv4Addr::LOCALHOST.into() } else { host.parse().ok()? };
        Some(SocketAddr::new(ip, url.port_u16().unwrap_or(80))).filter(|at| at.ip().is_loopback())
    });
    for address in ports.chain(collector).collect::<BTreeSet<_>>() {
        let listener = namespace::inside(network, || listen(address))??;
        relay::tcp(listener, address).map_err(Error::file("a port of the host"))?;
    }
    Ok(())
}

fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).map_err(|source| Error::Listen { address, source })
}

/// A user by name or number.
fn user(text: &str) -> Result<User, Error> {
    let refused = |reason| Error::User(text.to_owned(), reason);
    let found = match text.parse() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid)),
        Err(_) => User::from_name(text),
    };
    let user = found.ok().flatten().ok_or_else(|| refused("there is no such user"))?;
    if user.uid.as_raw() == PROXY_ID || user.gid.as_raw() == PROXY_ID {
        return Err(refused("is the sidecar's own, whose traffic is not intercepted"));
    }
    Ok(user)
}

/// Makes a folder that `group` may read, and only root may change: what root writes there goes nowhere else.
fn readable_folder(path: &Path, group: u32) -> Result<(), Error> {
    let make = || {
        std::fs::DirBuilder::new().mode(0o700).create(path)?;
        chown(path, None, Some(group))?;
        std::fs::set_permissions(path, Permissions::from_mode(0o750))
    };
    make().map_err(Error::file(path))
}

/// Lets everybody who reaches `file` read it, whatever root's umask.
fn readable(file: &File) -> std::io::Result<()> {
    file.set_permissions(Permissions::from_mode(0o644))
}

/// A line beside the command's own words.
fn say(text: &str) {
    for line in text.lines() {
        eprintln!("remora run: {line}");
    }
}
