//! A directory that only we read, with the files of the authority's Secret in it.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::Error;

/// The file whose change means that others changed too: written last.
pub(super) const STATE: &str = "state.json";

/// Files by name.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// Removed when dropped.
#[derive(Debug)]
pub(super) struct Mirror {
    path: PathBuf,
    files: Files,
}

impl Mirror {
    /// Makes an empty one beneath the system's directory for temporary files ($TMPDIR).
    pub(super) fn new() -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let base = std::env::temp_dir();
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = base.join(format!("remora-ca-{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path, files: Files::new() }),
                // Left by a process of the same number that was killed.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(source) => return Err(Error::Mirror { path, source }),
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory hold exactly `files`.
    pub(super) fn write(&mut self, files: Files) -> Result<(), Error> {
        let changed = |name: &String, content: &Vec<u8>| self.files.get(name) != Some(content);
        let (last, first): (Vec<_>, Vec<_>) =
            files.iter().filter(|(name, content)| changed(name, content)).partition(|(name, _)| *name == STATE);
        for (name, content) in first.into_iter().chain(last) {
            let path = self.path.join(name);
            put(&path, content).map_err(|source| Error::Mirror { path, source })?;
        }
        for name in self.files.keys().filter(|name| !files.contains_key(*name)) {
            let _ = std::fs::remove_file(self.path.join(name));
        }
        self.files = files;
        Ok(())
    }

    /// Reads what `CaDirectory` left in the directory.
    pub(super) fn read(path: &Path) -> Result<Files, Error> {
        let failed = |source| Error::Mirror { path: path.to_owned(), source };
        let mut files = Files::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_file = entry.file_type().map_err(failed)?.is_file();
            // The lock is of this directory only; temporary files begin with a point.
            if is_file && !name.starts_with('.') && name != "lock" {
                files.insert(name, std::fs::read(entry.path()).map_err(failed)?);
            }
        }
        Ok(files)
    }
}

/// Renamed into place, so that whoever reads sees the old content or the new.
fn put(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    std::fs::rename(&temporary, path)
}

impl Drop for Mirror {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
