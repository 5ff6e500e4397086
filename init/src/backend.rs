//! The two ways into netfilter, `iptables-nft` and `iptables-legacy`: finding their programs, choosing one, running it.

mod choose;
mod program;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::live::Live;
use crate::plan::Family;
use crate::{Error, Options};
pub(crate) use choose::{Chosen, choose, other};
use program::Program;

/// A variant of iptables. Each holds its own rules, and the kernel obeys both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// `iptables-nft`, over nf_tables; needs NET_ADMIN.
    Nft,
    /// `iptables-legacy`, over x_tables; needs NET_ADMIN and NET_RAW.
    Legacy,
}

impl Backend {
    /// Both, the preferred one first.
    pub const BOTH: [Self; 2] = [Self::Nft, Self::Legacy];

    fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }

    /// A capability that it needs and this process has not.
    #[must_use]
    pub fn missing_capability(self) -> Option<&'static str> {
        const NET_ADMIN: u64 = 1 << 12;
        const NET_RAW: u64 = 1 << 13;
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        let effective = u64::from_str_radix(effective.trim(), 16).ok()?;
        match self {
            _ if effective & NET_ADMIN == 0 => Some("NET_ADMIN"),
            Self::Legacy if effective & NET_RAW == 0 => Some("NET_RAW"),
            _ => None,
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iptables-{}", self.name())
    }
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "nft" => Ok(Self::Nft),
            "legacy" => Ok(Self::Legacy),
            _ => Err("expected nft, legacy or auto".to_owned()),
        }
    }
}

/// The programs of one backend and one family.
#[derive(Clone, Debug)]
pub struct Iptables {
    backend: Backend,
    save: Program,
    restore: Program,
    wait: u32,
}

impl Iptables {
    /// Finds the programs.
    ///
    /// # Errors
    /// [`Error::Binaries`].
    pub fn find(backend: Backend, family: Family, options: &Options) -> Result<Self, Error> {
        let stem = if family == Family::V4 { "iptables" } else { "ip6tables" };
        let find = |verb: &str| {
            Program::find(backend, stem, verb, &options.search).ok_or_else(|| Error::Binaries {
                what: format!("{stem}-{}-{verb}", backend.name()),
                searched: options.search.clone(),
            })
        };
        Ok(Self { backend, save: find("save")?, restore: find("restore")?, wait: options.wait })
    }

    /// The backend.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// What the namespace holds.
    ///
    /// # Errors
    /// [`Error::Capability`], [`Error::Rules`].
    pub fn save(&self) -> Result<Live, Error> {
        match self.save.run(&[], "") {
            Ok(saved) => Ok(Live::parse(&saved)),
            // Which tables exist is for root's eyes only; asking for each by name is not.
            Err(failure)
                if failure.message.contains("ip_tables_names") || failure.message.contains("ip6_tables_names") =>
            {
                let mut saved = String::new();
                for table in ["nat", "mangle"] {
                    saved += &self.save.run(&["-t", table], "").map_err(|failure| self.explain(failure))?;
                }
                Ok(Live::parse(&saved))
            }
            Err(failure) => Err(self.explain(failure)),
        }
    }

    /// Runs one transaction.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Capability`], [`Error::Rules`].
    pub fn restore(&self, rules: &str) -> Result<(), Error> {
        self.run_restore(&["--noflush"], rules)
    }

    /// Lets iptables read a transaction without committing it.
    ///
    /// # Errors
    /// As [`Iptables::restore`].
    pub fn test(&self, rules: &str) -> Result<(), Error> {
        self.run_restore(&["--noflush", "--test"], rules)
    }

    fn run_restore(&self, flags: &[&str], rules: &str) -> Result<(), Error> {
        let wait = self.wait.to_string();
        let flags = [flags, &["-w", &wait]].concat();
        self.restore.run(&flags, rules).map(drop).map_err(|failure| self.explain(failure))
    }

    /// What a failure means to the person who reads it.
    fn explain(&self, failure: program::Failure) -> Error {
        let says = |text: &str| failure.message.contains(text);
        // Without -w the lock is "held by another app", with it the file "can't be locked".
        if (says("xtables lock") || says("Can't lock")) && !says("lock file") {
            return Error::Locked { what: "xtables lock", seconds: self.wait };
        }
        if says("Permission denied") || says("Operation not permitted") || says("must be root") {
            return Error::Capability(self.backend.missing_capability().unwrap_or(match self.backend {
                Backend::Nft => "NET_ADMIN",
                Backend::Legacy => "NET_RAW",
            }));
        }
        Error::Rules { program: failure.program, message: failure.message }
    }
}

/// Where programs are looked for unless the caller says: PATH, then the system folders that `su` forgets.
#[must_use]
pub fn default_search() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in std::env::split_paths(&path).chain(system) {
        if !folder.as_os_str().is_empty() && !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}
