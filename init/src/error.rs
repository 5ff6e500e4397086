//! Why redirection could not be set up, and the exit code that says so.

use std::io;
use std::path::PathBuf;

use crate::backend::Backend;

/// Why redirection could not be set up, checked or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag or environment variable makes no sense.
    #[error("{0}")]
    Arguments(String),
    /// The process may not change this network namespace.
    #[error("missing capability {0}: run in a container with `capabilities: {{add: [{0}]}}`")]
    Capability(&'static str),
    /// No usable iptables.
    #[error("no {what} found in {}", .searched.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(":"))]
    Binaries {
        /// What was looked for.
        what: String,
        /// The folders searched.
        searched: Vec<PathBuf>,
    },
    /// IPv6 is used here, and nothing can redirect it.
    #[error(
        "this namespace has the IPv6 address {address}, but {reason}; IPv6 connections would pass in plaintext (--ipv6 off accepts that)"
    )]
    Ipv6Escapes {
        /// An address in use.
        address: std::net::Ipv6Addr,
        /// Why there are no rules for it.
        reason: Box<Error>,
    },
    /// Somebody else holds the lock for longer than we wait.
    #[error("the {what} is still locked after {seconds} s (--wait); nothing was changed")]
    Locked {
        /// Which lock.
        what: &'static str,
        /// How long was waited, in seconds.
        seconds: u32,
    },
    /// iptables refused.
    #[error("{program} failed: {message}")]
    Rules {
        /// The program that refused.
        program: String,
        /// Its first line on standard error.
        message: String,
    },
    /// The rules were accepted, and yet are not there.
    #[error("the rules were accepted by {0}, but are not there: {1}")]
    NotApplied(Backend, String),
    /// Routing or addresses could not be changed.
    #[error("cannot {action}: {source}")]
    Netlink {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// `verify` found this many things missing or wrong.
    #[error("redirection is incomplete: {0} found")]
    Incomplete(Problems),
    /// A system call failed that should not.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A count of problems, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problems(pub usize);

impl std::fmt::Display for Problems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 == 1 { f.write_str("1 problem") } else { write!(f, "{} problems", self.0) }
    }
}

impl Error {
    /// The process's exit code: 2 arguments, 3 capability, 4 binaries, 5 locked, 6 rules not applied, 7 verify.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Arguments(_) => 2,
            Self::Capability(_) => 3,
            Self::Binaries { .. } => 4,
            Self::Ipv6Escapes { reason, .. } => reason.exit_code(),
            Self::Locked { .. } => 5,
            Self::Rules { .. } | Self::NotApplied(..) | Self::Netlink { .. } => 6,
            Self::Incomplete(_) => 7,
            Self::Io { .. } => 1,
        }
    }

    pub(crate) fn io(action: impl Into<String>, source: io::Error) -> Self {
        Self::Io { action: action.into(), source }
    }
}
