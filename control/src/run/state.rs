//! What the runs of a host know of each other: a folder with one folder a run, a lock for changes, and the network they share.
//!
//! A run is alive while it holds the lock on its record, which the kernel takes from it however it ends. Invariant: a record that can be
//! read is complete and was locked before it could be.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;

/// What a run says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// What other runs call it.
    pub(super) name: String,
    pub(super) address: Ipv4Addr,
    /// What its command serves.
    pub(super) ports: BTreeSet<u16>,
    /// Its SPIFFE ID.
    pub(super) id: String,
    /// Of `remora run`.
    pub(super) pid: u32,
}

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct State {
    folder: PathBuf,
}

impl State {
    /// Opens it; makes it, for root alone, where missing.
    pub(super) fn open(folder: &Path) -> Result<Self, Error> {
        let state = Self { folder: std::path::absolute(folder).map_err(Error::file(folder))? };
        folders(&state.runs())?;
        Ok(state)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The local certificate authority's.
    pub(super) fn authority(&self) -> PathBuf {
        self.folder.join("ca")
    }

    /// One run's own.
    pub(super) fn run(&self, name: &str) -> PathBuf {
        self.runs().join(name)
    }

    fn runs(&self) -> PathBuf {
        self.folder.join("runs")
    }

    /// Held, it keeps other runs from changing anything.
    pub(super) fn lock(&self) -> Result<File, Error> {
        let path = self.folder.join("lock");
        let open = || OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        open().and_then(|file| file.lock().map(|()| file)).map_err(Error::file(path.clone()))
    }

    /// The runs that are alive, by name.
    pub(super) fn alive(&self) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        for name in self.names()? {
            records.extend(alive(&self.run(&name).join("record.json"))?);
        }
        records.sort_unstable_by(|a: &Record, b| a.name.cmp(&b.name));
        Ok(records)
    }

    /// Removes what runs that are gone have left here. The lock must be held.
    pub(super) fn sweep(&self) -> Result<Vec<Record>, Error> {
        let alive = self.alive()?;
        for name in self.names()? {
            if !alive.iter().any(|record| record.name == name) {
                self.forget(&name)?;
            }
        }
        Ok(alive)
    }

    /// Removes a run's folder. The lock must be held.
    pub(super) fn forget(&self, name: &str) -> Result<(), Error> {
        let folder = self.run(name);
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::File { path: folder, source: error }),
            _ => Ok(()),
        }
    }

    /// Publishes a record; the run is alive until the file is dropped. The lock must be held.
    pub(super) fn record(&self, record: &Record) -> Result<File, Error> {
        let folder = self.run(&record.name);
        folders(&folder)?;
        let (path, fresh) = (folder.join("record.json"), folder.join("record.fresh"));
        let write = || -> std::io::Result<File> {
            let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
            file.lock()?;
            serde_json::to_writer(&file, record)?;
            std::fs::rename(&fresh, &path)?;
            Ok(file)
        };
        write().map_err(Error::file(path.clone()))
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        let entries = std::fs::read_dir(self.runs()).map_err(Error::file(self.runs()))?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }
}

/// Its record, if the run is alive.
fn alive(path: &Path) -> Result<Option<Record>, Error> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?,
    };
    // Shared, so that those who look do not take each other for the owner.
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        Ok(()) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    serde_json::from_reader(file).map(Some).map_err(|error| failed(error.into()))
}

/// Makes a folder, and those above, for its owner alone.
fn folders(path: &Path) -> Result<(), Error> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::file(path))
}

#[cfg(test)]
mod tests;
