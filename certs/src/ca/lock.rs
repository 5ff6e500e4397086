//! One writer at a time in a CA's directory, over all processes. The kernel frees the lock when its holder dies.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::Error;

pub(super) const LOCK_FILE: &str = "lock";

/// Held until dropped.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    file: File,
    path: PathBuf,
}

impl DirectoryLock {
    /// Waits until nobody else writes in `directory`.
    pub(super) fn exclusive(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(LOCK_FILE);
        let open = || OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        match open().and_then(|file| file.lock().map(|()| file)) {
            Ok(file) => Ok(Self { file, path }),
            Err(source) => Err(Error::Write { path, source }),
        }
    }

    /// Leaves a mark in the lock's file: from now on a directory without a state is one that lost it.
    pub(super) fn mark(&self) -> Result<(), Error> {
        (&self.file)
            .write_all(b"remora-certs\n")
            .and_then(|()| self.file.sync_all())
            .map_err(|source| Error::Write { path: self.path.clone(), source })
    }
}

/// Whether `directory` once had a state.
pub(super) fn is_marked(directory: &Path) -> bool {
    std::fs::metadata(directory.join(LOCK_FILE)).is_ok_and(|metadata| metadata.len() > 0)
}
