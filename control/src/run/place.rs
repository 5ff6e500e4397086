//! A run's place among the others: its name, its address, its record and its folder, from the first to the last moment.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use remora_model::SpiffeId;

use super::identity::trust_domain;
use super::network::Network;
use super::programs::Programs;
use super::state::{Record, State};
use super::{Error, Name};

/// Held while the run is there; dropping it takes everything of it from the host, and with the last run the shared network.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) state: State,
    pub(super) record: Record,
    network: Network,
    programs: Programs,
    /// Locked: the sign of life.
    _alive: File,
}

impl Place {
    /// Sweeps what killed runs left, joins or makes the network, and takes a name and an address.
    pub(super) fn take(
        state: State,
        programs: &Programs,
        name: &Name,
        ports: BTreeSet<u16>,
        subnet: Option<Ipv4Net>,
    ) -> Result<Self, Error> {
        let _lock = state.lock()?;
        let alive = state.sweep()?;
        let name = free_name(name, &alive)?;
        let network = Network::join(&state, programs, subnet, &alive)?;
        let record = || -> Result<_, Error> {
            let address = network.free_address(&alive)?;
            let id = id(&name).to_string();
            let record = Record { name, address, ports, id, pid: std::process::id() };
            Ok((state.record(&record)?, record))
        };
        let (alive, record) = record().inspect_err(|_| {
            if alive.is_empty() {
                network.remove(&state, programs);
            }
        })?;
        Ok(Self { record, network, programs: programs.clone(), _alive: alive, state })
    }

    /// The run's folder on the host.
    pub(super) fn folder(&self) -> PathBuf {
        self.state.run(&self.record.name)
    }

    /// Connects a network namespace.
    pub(super) fn plug(&self, netns: &std::path::Path) -> Result<(), Error> {
        self.network.plug(&self.programs, self.record.address, netns)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let leave = || -> Result<(), Error> {
            let _lock = self.state.lock()?;
            self.network.unplug(&self.programs, self.record.address);
            self.state.forget(&self.record.name)?;
            if self.state.sweep()?.is_empty() {
                self.network.remove(&self.state, &self.programs);
            }
            Ok(())
        };
        if let Err(error) = leave() {
            super::say(&format!("not everything is taken down, the next run will: {error}"));
        }
    }
}

/// Who a run of this name is.
pub(super) fn id(name: &str) -> SpiffeId {
    SpiffeId::workload(&trust_domain(), "local", name).expect("a name is one path segment of a SPIFFE ID")
}

fn free_name(wanted: &Name, alive: &[Record]) -> Result<String, Error> {
    let holder = |name: &str| alive.iter().find(|record| record.name == name);
    match wanted {
        Name::Given(name) => match holder(name) {
            Some(other) => Err(Error::NameTaken { name: name.clone(), pid: other.pid }),
            None => Ok(name.clone()),
        },
        Name::Like(base) => {
            let numbered = (2..).map(|n: u32| format!("{base}-{n}"));
            let mut names = std::iter::once(base.clone()).chain(numbered);
            Ok(names.find(|name| holder(name).is_none()).unwrap_or_default())
        }
    }
}
