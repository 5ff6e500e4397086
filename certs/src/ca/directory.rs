//! A CA kept in a directory: `root.pem`, `root-key.pem`, `intermediate.pem`, `intermediate-key.pem`, `bundle.pem`.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use remora_model::TrustDomain;

use super::{Authority, CA_BACKDATE, Validity};
use crate::file::{Access, Prepared};
use crate::{Error, pem};

/// How long the CA certificates of a new directory are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// The root's.
    pub root: Duration,
    /// The intermediate's; cut to the root's.
    pub intermediate: Duration,
}

/// A directory that holds a CA.
#[derive(Clone, Debug)]
pub struct CaDirectory {
    path: PathBuf,
}

impl CaDirectory {
    /// Makes a root and an intermediate for `trust_domain` in `path`, which is made (0700) where missing. Keys are
    /// 0600. Nothing is ever overwritten; after an error nothing is left behind.
    ///
    /// # Errors
    /// Any of the files exists, or one cannot be written.
    pub fn init(path: &Path, trust_domain: &TrustDomain, lifetimes: Lifetimes) -> Result<Self, Error> {
        let now = SystemTime::now();
        let root = Authority::root(trust_domain, Validity::around(now, CA_BACKDATE, lifetimes.root))?;
        let intermediate =
            root.intermediate(trust_domain, Validity::around(now, CA_BACKDATE, lifetimes.intermediate))?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| Error::Write { path: path.to_owned(), source })?;
        let files = [
            ("root-key.pem", root.key_pem(), Access::Secret),
            ("root.pem", root.certificate_pem().to_owned(), Access::Public),
            ("intermediate-key.pem", intermediate.key_pem(), Access::Secret),
            ("intermediate.pem", intermediate.certificate_pem().to_owned(), Access::Public),
            ("bundle.pem", root.certificate_pem().to_owned(), Access::Public),
        ];
        if let Some((name, ..)) = files.iter().find(|(name, ..)| path.join(name).symlink_metadata().is_ok()) {
            return Err(Error::Exists(path.join(name)));
        }
        let prepared = files
            .iter()
            .map(|(name, content, access)| Prepared::new(&path.join(name), content.as_bytes(), *access, None))
            .collect::<Result<Vec<_>, _>>()?;
        for (index, file) in prepared.into_iter().enumerate() {
            if let Err(error) = file.create() {
                for (name, ..) in &files[..index] {
                    // Ours, made a moment ago.
                    let _ = std::fs::remove_file(path.join(name));
                }
                return Err(error);
            }
        }
        Ok(Self { path: path.to_owned() })
    }

    /// A directory made by [`CaDirectory::init`]; its files are read when they are needed.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The intermediate, ready to sign.
    ///
    /// # Errors
    /// As [`Authority::load`].
    pub fn intermediate(&self) -> Result<Authority, Error> {
        Authority::load(&self.path.join("intermediate.pem"), &self.path.join("intermediate-key.pem"))
    }

    /// The trust bundle as PEM.
    ///
    /// # Errors
    /// It cannot be read, or holds no certificate.
    pub fn bundle_pem(&self) -> Result<Vec<u8>, Error> {
        let path = self.path.join("bundle.pem");
        let content = pem::read(&path)?;
        pem::certificates(&path, &content)?;
        Ok(content)
    }
}
