//! Why a run cannot start or go on.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;

use ipnet::Ipv4Net;

/// Why `remora run` ends without its command, or before it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces, interfaces and rules are root's to make.
    #[error("needs root: run it with sudo")]
    NotRoot,
    /// Programs that are nowhere.
    #[error("not found: {}", .0.join("; "))]
    Missing(Vec<String>),
    /// A file or folder.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What the kernel refused.
    #[error("cannot {what}: {source}")]
    Kernel {
        /// What was to be done.
        what: String,
        /// What it said.
        source: nix::Error,
    },
    /// A program that ended with a failure.
    #[error("`{command}` failed ({status}): {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// The name belongs to a run that is alive.
    #[error("the name {name} is taken by the run with process id {pid}")]
    NameTaken {
        /// The name.
        name: String,
        /// The other run's process.
        pid: u32,
    },
    /// An address to publish or listen at is not to be had.
    #[error("cannot listen at {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Other runs use another network.
    #[error("the runs that are up share {used}: leave --subnet out, or end them first")]
    OtherSubnet {
        /// Their network.
        used: Ipv4Net,
    },
    /// The host has a route into the network already.
    #[error("{subnet} overlaps with {route}, which this host has a route to: choose another with --subnet")]
    SubnetInUse {
        /// The network asked for.
        subnet: Ipv4Net,
        /// The route's destination.
        route: Ipv4Net,
    },
    /// Every address is taken.
    #[error("all addresses of {0} are taken")]
    Full(Ipv4Net),
    /// The local certificate authority.
    #[error("the local certificate authority: {0}")]
    Identity(#[from] remora_certs::Error),
    /// `--config` names a file that cannot be used.
    #[error("{0}")]
    Config(String),
    /// `--user` names nobody, or the proxy's user.
    #[error("--user {0}: {1}")]
    User(String, &'static str),
    /// The sidecar is not ready in time.
    #[error("the sidecar is not ready: {reason}; its log ends:\n{log}")]
    NotReady {
        /// What it says of itself, or why it cannot be asked.
        reason: String,
        /// The end of its log.
        log: String,
    },
    /// The sidecar ended while the command was to run.
    #[error("the sidecar ended ({status}), and with it the command; its log ends:\n{log}")]
    SidecarEnded {
        /// How.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
}

impl Error {
    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    pub(super) fn kernel(what: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        let what = what.into();
        move |source| Self::Kernel { what, source }
    }
}
