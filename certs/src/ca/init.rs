//! Making a CA's directory, in a way that an interrupted attempt is told from a CA and can be made again.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use remora_model::TrustDomain;
use remora_model::identity::KeyKind;

use super::directory::BUNDLE_FILE;
use super::journal::JOURNAL_FILE;
use super::lock::{DirectoryLock, LOCK_FILE};
use super::state::{STATE_FILE, State};
use super::{Authority, CA_BACKDATE, CaDirectory, CaRoot, Signer, Validity};
use crate::Error;
use crate::file::{Access, Prepared, sweep, sync_directory};

/// There while a CA is being made: what else is in the directory is worth nothing yet.
pub(super) const UNFINISHED: &str = ".init";

const FILES: [&str; 7] =
    ["root-key.pem", "root.pem", "intermediate-key.pem", "intermediate.pem", BUNDLE_FILE, JOURNAL_FILE, STATE_FILE];

/// How long the CA certificates of a new directory are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// The root's.
    pub root: Duration,
    /// The intermediate's; cut to the root's.
    pub intermediate: Duration,
}

impl CaDirectory {
    /// Makes a P-256 CA; see [`CaDirectory::init_of_kind`].
    ///
    /// # Errors
    /// As there.
    pub fn init(path: &Path, trust_domain: &TrustDomain, lifetimes: Lifetimes) -> Result<Self, Error> {
        Self::init_of_kind(path, trust_domain, lifetimes, KeyKind::P256)
    }

    /// Makes a root and an intermediate for `trust_domain` in `path`, which is made (0700) where missing. Keys are
    /// 0600. Nothing is ever overwritten, but for what an interrupted attempt left; after an error nothing is left.
    ///
    /// # Errors
    /// Any of the files exists, or one cannot be written.
    pub fn init_of_kind(
        path: &Path,
        trust_domain: &TrustDomain,
        lifetimes: Lifetimes,
        kind: KeyKind,
    ) -> Result<Self, Error> {
        let now = SystemTime::now();
        let root = Authority::root_of_kind(trust_domain, Validity::around(now, CA_BACKDATE, lifetimes.root), kind)?;
        let validity = Validity::around(now, CA_BACKDATE, lifetimes.intermediate);
        let intermediate = root.intermediate_of_kind(trust_domain, validity, kind)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| Error::Write { path: path.to_owned(), source })?;
        check_free(path)?;
        let lock = DirectoryLock::exclusive(path)?;
        check_free(path)?;
        sweep(path);
        if let Err(error) = write(path, &lock, trust_domain, &root, &intermediate) {
            for name in FILES.into_iter().chain([LOCK_FILE, UNFINISHED]) {
                // Ours, made a moment ago.
                let _ = std::fs::remove_file(path.join(name));
            }
            return Err(error);
        }
        drop(lock);
        Self::open(path)
    }
}

/// Refuses a directory that has, or may have, a CA.
fn check_free(path: &Path) -> Result<(), Error> {
    let exists = |name: &str| path.join(name).symlink_metadata().is_ok();
    let files = if exists(UNFINISHED) { &[STATE_FILE] } else { &FILES[..] };
    match files.iter().find(|name| exists(name)) {
        Some(name) => Err(Error::Exists(path.join(name))),
        None => Ok(()),
    }
}

fn write(
    path: &Path,
    lock: &DirectoryLock,
    domain: &TrustDomain,
    root: &Authority,
    intermediate: &Authority,
) -> Result<(), Error> {
    let marker = path.join(UNFINISHED);
    if marker.symlink_metadata().is_err() {
        Prepared::new(&marker, b"", Access::Secret, None)?.create()?;
    }
    lock.mark()?;
    for (name, content, access) in [
        ("root-key.pem", &*root.key_pem(), Access::Secret),
        ("root.pem", root.certificate_pem(), Access::Public),
        ("intermediate-key.pem", &*intermediate.key_pem(), Access::Secret),
        ("intermediate.pem", intermediate.certificate_pem(), Access::Public),
        (BUNDLE_FILE, root.certificate_pem(), Access::Public),
    ] {
        Prepared::new(&path.join(name), content.as_bytes(), access, None)?.replace()?;
    }
    let fingerprint = root.fingerprint();
    let root = CaRoot { certificate: "root.pem".to_owned(), key: "root-key.pem".to_owned(), fingerprint };
    let signer = Signer {
        certificate: "intermediate.pem".to_owned(),
        key: "intermediate-key.pem".to_owned(),
        fingerprint: intermediate.fingerprint(),
        root: fingerprint,
    };
    State::new(domain.clone(), root, signer).write(path)?;
    finish(path)
}

/// Takes the mark of an unfinished attempt away once the state is there.
pub(super) fn finish(path: &Path) -> Result<(), Error> {
    let marker = path.join(UNFINISHED);
    match std::fs::remove_file(&marker).and_then(|()| sync_directory(&marker)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::Write { path: marker, source: error }),
        _ => Ok(()),
    }
}
