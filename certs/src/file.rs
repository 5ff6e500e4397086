//! Writing files so that a reader sees the old content or the new, never half, and a key is never readable by others,
//! not even for a moment.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::{Error, ca};

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// The owner only (0600).
    Secret,
    /// Everybody (0644).
    Public,
}

/// The user, and perhaps group, that files are given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group; [`None`]: left as it is.
    pub gid: Option<u32>,
}

/// A complete file under a temporary name beside its place; removed unless it is put there.
#[derive(Debug)]
pub(crate) struct Prepared {
    temporary: PathBuf,
    path: PathBuf,
}

impl Prepared {
    /// Writes `content` and flushes it to disk. Without `owner` the file that will be replaced keeps its owner, where
    /// we may give files away.
    pub(crate) fn new(path: &Path, content: &[u8], access: Access, owner: Option<Owner>) -> Result<Self, Error> {
        let failed = |source| Error::Write { path: path.to_owned(), source };
        let name = path.file_name().ok_or_else(|| failed(ErrorKind::InvalidInput.into()))?;
        let serial = ca::random_serial()?;
        let unique = ca::hexadecimal(&serial[..8]);
        let temporary = path.with_file_name(format!(".{}.{unique}", name.to_string_lossy()));
        // Never an existing file, never through a symlink, never wider than its owner until it is complete.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(failed)?;
        let prepared = Self { temporary, path: path.to_owned() };
        file.write_all(content).map_err(failed)?;
        give_away(&file, path, owner).map_err(failed)?;
        if access == Access::Public {
            file.set_permissions(Permissions::from_mode(0o644)).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
        Ok(prepared)
    }

    /// Puts the file in its place, over whatever is there.
    pub(crate) fn replace(self) -> Result<(), Error> {
        std::fs::rename(&self.temporary, &self.path)
            .and_then(|()| sync_directory(&self.path))
            .map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    /// Puts the file in its place, where nothing may be yet.
    pub(crate) fn create(self) -> Result<(), Error> {
        std::fs::hard_link(&self.temporary, &self.path).and_then(|()| sync_directory(&self.path)).map_err(|source| {
            match source.kind() {
                ErrorKind::AlreadyExists => Error::Exists(self.path.clone()),
                _ => Error::Write { path: self.path.clone(), source },
            }
        })
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // After a rename it is gone, which is as well.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

fn give_away(file: &File, replaced: &Path, owner: Option<Owner>) -> std::io::Result<()> {
    if let Some(Owner { uid, gid }) = owner {
        return fchown(file, Some(uid), gid);
    }
    let (Ok(old), new) = (std::fs::metadata(replaced), file.metadata()?) else { return Ok(()) };
    if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
        // Only root may; for anybody else the file stays theirs.
        let _ = fchown(file, Some(old.uid()), Some(old.gid()));
    }
    Ok(())
}

/// Removes what [`Prepared`] left in `directory` when its process was killed; nobody may be writing there.
pub(crate) fn sweep(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let unique = name.to_str().and_then(|name| name.strip_prefix('.')?.rsplit_once('.')).map(|(_, unique)| unique);
        if unique.is_some_and(|unique| unique.len() == 16 && unique.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Makes what was created, renamed or removed beside `of` last.
pub(crate) fn sync_directory(of: &Path) -> std::io::Result<()> {
    let directory = of.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}
