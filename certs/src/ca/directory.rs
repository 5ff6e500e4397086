//! A CA kept in a directory: what it is, and what it has issued.
//!
//! `state.json` is the truth; the files it names are complete before it names them, and `bundle.pem` follows from it.
//! Whoever writes holds the lock. A directory without a state, with certificate, key and bundle put there by something
//! else, is a CA too: it signs, but is rotated elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use remora_model::TrustDomain;
use rustls_pki_types::CertificateDer;

use super::init::{UNFINISHED, finish};
use super::journal::{self, IssuedRecord, Seen};
use super::lock::{DirectoryLock, is_marked};
use super::state::{STATE_FILE, State};
use super::{Authority, CaError, Signer, SignerFiles};
use crate::file::{Access, Prepared};
use crate::{Error, Fingerprint, pem};

pub(super) const BUNDLE_FILE: &str = "bundle.pem";
pub(super) const CRL_FILE: &str = "crl.pem";

/// A record smaller than this, in bytes, is not worth compacting.
const COMPACT_FROM: u64 = 1024 * 1024;

/// A directory that holds a CA, as it was when it was opened.
#[derive(Debug)]
pub struct CaDirectory {
    path: PathBuf,
    state: Option<State>,
    files: SignerFiles,
    authority: Arc<Authority>,
    bundle_pem: Vec<u8>,
    // The size of the record after it was compacted last; it is compacted again when it has doubled.
    compacted: AtomicU64,
}

impl CaDirectory {
    /// Opens a CA made by [`CaDirectory::init`], or one put there by something else: `intermediate.pem`,
    /// `intermediate-key.pem` and `bundle.pem`, or `tls.crt`, `tls.key` and `ca.crt`. Repairs what a crash left.
    ///
    /// # Errors
    /// There is no CA, a file cannot be read, or the files contradict one another. Nothing is guessed or made anew.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let opened = Self::read(path)?;
        let unfinished = path.join(UNFINISHED).exists();
        if opened.state.is_none() || !(unfinished || opened.bundle_is_stale()) {
            return Ok(opened);
        }
        // Somebody is changing it just now, or died doing so.
        let _lock = opened.lock()?;
        let opened = Self::read(path)?;
        opened.write_bundle()?;
        finish(path)?;
        Ok(opened)
    }

    /// A CA whose certificate, key and bundle are kept elsewhere; `path`, which must exist, holds what it records.
    ///
    /// # Errors
    /// As [`CaDirectory::open`].
    pub fn open_with_signer(path: &Path, files: SignerFiles) -> Result<Self, Error> {
        if !path.is_dir() {
            return Err(CaError::NoCa(path.to_owned()).into());
        }
        Self::read_plugin(path, files)
    }

    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        match State::read(path)? {
            Some(state) => Self::read_own(path, state),
            None if is_marked(path) => {
                let interrupted = path.join(UNFINISHED).exists();
                let (path, reason) = match interrupted {
                    true => (path.to_owned(), "its making was interrupted: run `remora-certs init` again"),
                    false => (path.join(STATE_FILE), "it is gone"),
                };
                Err(CaError::Corrupt { path, reason: reason.to_owned() }.into())
            }
            None => match SignerFiles::of(path) {
                Some(files) => Self::read_plugin(path, files),
                None => Err(CaError::NoCa(path.to_owned()).into()),
            },
        }
    }

    fn read_own(path: &Path, state: State) -> Result<Self, Error> {
        let (mut roots, mut bundle_pem): (Vec<CertificateDer<'static>>, _) = (Vec::new(), Vec::new());
        for root in &state.roots {
            let file = path.join(&root.certificate);
            let content = pem::read(&file)?;
            let certificate = pem::certificates(&file, &content)?.swap_remove(0);
            check_fingerprint(&file, Fingerprint::of(&certificate), root.fingerprint)?;
            bundle_pem.extend(pem::certificate_sections(&content).into_iter().take(1).flat_map(String::into_bytes));
            roots.push(certificate);
        }
        let files = SignerFiles {
            certificate: path.join(&state.signer.certificate),
            key: path.join(&state.signer.key),
            bundle: path.join(BUNDLE_FILE),
        };
        let authority = load_signer(path, &state.signer, &roots)?;
        Ok(Self::with(path, Some(state), files, authority, bundle_pem))
    }

    fn read_plugin(path: &Path, files: SignerFiles) -> Result<Self, Error> {
        let bundle_pem = pem::read(&files.bundle)?;
        let roots = pem::certificates(&files.bundle, &bundle_pem)?;
        let authority = Authority::load(&files.certificate, &files.key)?.beneath(&files.certificate, &roots)?;
        Ok(Self::with(path, None, files, authority, bundle_pem))
    }

    fn with(path: &Path, state: Option<State>, files: SignerFiles, authority: Authority, bundle_pem: Vec<u8>) -> Self {
        let (path, authority) = (path.to_owned(), Arc::new(authority));
        Self { path, state, files, authority, bundle_pem, compacted: AtomicU64::new(0) }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What signs.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// The trust bundle as PEM.
    pub fn bundle_pem(&self) -> &[u8] {
        &self.bundle_pem
    }

    /// Counts the trust bundles there have been; 0 for a CA that is rotated elsewhere.
    pub fn bundle_version(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.bundle_version)
    }

    /// The trust domain it signs for; [`None`] for one made elsewhere whose certificate names none.
    pub fn trust_domain(&self) -> Option<&TrustDomain> {
        self.state.as_ref().map(|state| &state.trust_domain).or(self.authority.trust_domain())
    }

    /// Its state; [`None`] for a CA that is rotated elsewhere.
    pub fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    /// What to watch to notice that the CA was changed: open it again then.
    pub fn watch_paths(&self) -> Vec<PathBuf> {
        let SignerFiles { certificate, key, bundle } = &self.files;
        let own = [STATE_FILE, CRL_FILE].map(|name| self.path.join(name));
        own.into_iter().chain([certificate.clone(), key.clone(), bundle.clone()]).collect()
    }

    /// The revocation lists as PEM, once something was revoked.
    ///
    /// # Errors
    /// The file is there, but cannot be read.
    pub fn crl_pem(&self) -> Result<Option<Vec<u8>>, Error> {
        match pem::read(&self.path.join(CRL_FILE)) {
            Ok(content) => Ok(Some(content)),
            Err(Error::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Records a certificate; it is on disk when this returns, so that the certificate may be handed out.
    ///
    /// # Errors
    /// As [`CaDirectory::record_all`].
    pub fn record(&self, record: &IssuedRecord) -> Result<(), Error> {
        self.record_all(std::slice::from_ref(record))
    }

    /// Records certificates, flushed once for all of them.
    ///
    /// # Errors
    /// The record cannot be written; or [`CaError::Changed`]: the CA was rotated since it was opened, or what proved
    /// one of the holders was revoked, and what was signed before must not be handed out any more. Open it again and
    /// sign anew, for whoever still may have it.
    pub fn record_all(&self, records: &[IssuedRecord]) -> Result<(), Error> {
        let lines = journal::lines(records).map_err(|source| self.journal_failed(source))?;
        let _lock = self.lock()?;
        if let Some(state) = &self.state {
            let now = State::read(&self.path)?;
            let good = |now: &State| {
                let same = now.bundle_version == state.bundle_version && now.signer == state.signer;
                same && !records.iter().filter_map(|record| record.proved_by.as_deref()).any(|by| now.has_revoked(by))
            };
            if !now.as_ref().is_some_and(good) {
                return Err(CaError::Changed(self.path.clone()).into());
            }
        }
        let size = journal::append(&self.path, &lines)?;
        self.compact_if_due(size);
        Ok(())
    }

    /// Records that the certificate `serial`, which was recorded before, is in use now in place of `replaced`.
    pub(crate) fn record_adoption(&self, serial: &str, replaced: &str) -> Result<(), Error> {
        let line = journal::adoption(serial, replaced).map_err(|source| self.journal_failed(source))?;
        // Whatever the CA has become meanwhile, this is true.
        let _lock = self.lock()?;
        journal::append(&self.path, &line).map(drop)
    }

    /// What was recorded stays recorded, whatever becomes of this; the caller holds the lock.
    fn compact_if_due(&self, size: u64) {
        if size <= COMPACT_FROM || size <= 2 * self.compacted.load(Ordering::Relaxed) {
            return;
        }
        let compacted = journal::compact(&self.path, SystemTime::now()).unwrap_or_else(|error| {
            tracing::warn!(%error, "the record of certificates cannot be compacted; it is tried again when it has doubled");
            size
        });
        self.compacted.store(compacted, Ordering::Relaxed);
    }

    fn journal_failed(&self, source: std::io::Error) -> Error {
        Error::Write { path: self.path.join(journal::JOURNAL_FILE), source }
    }

    /// Every certificate that was issued and has not expired at `now`, in the order of issue.
    ///
    /// # Errors
    /// The record cannot be read; the error names the line.
    pub fn unexpired(&self, now: SystemTime) -> Result<Vec<IssuedRecord>, Error> {
        let mut records = journal::read(&self.path)?;
        records.retain(|record| !record.is_expired(now));
        Ok(records)
    }

    /// Those recorded since `seen`, which is moved to the end; all, where the record was written anew meanwhile.
    ///
    /// # Errors
    /// As [`CaDirectory::unexpired`]; `seen` is not moved then.
    pub fn recorded_since(&self, seen: &mut Seen) -> Result<Vec<IssuedRecord>, Error> {
        let lock = self.lock()?;
        let (lines, end) = journal::written_since(&self.path, seen)?;
        drop(lock);
        let records = IssuedRecord::read_all(&self.path.join(journal::JOURNAL_FILE), &lines)?;
        *seen = end;
        Ok(records)
    }

    /// The record of the certificate `serial`; [`None`] where there is none, or no more.
    ///
    /// # Errors
    /// As [`CaDirectory::unexpired`].
    pub fn issued(&self, serial: &str) -> Result<Option<IssuedRecord>, Error> {
        Ok(journal::read(&self.path)?.into_iter().rev().find(|record| record.serial == serial))
    }

    /// Takes expired certificates out of the record.
    ///
    /// # Errors
    /// The record cannot be read or written.
    pub fn compact(&self, now: SystemTime) -> Result<(), Error> {
        let _lock = self.lock()?;
        journal::compact(&self.path, now).map(|size| self.compacted.store(size, Ordering::Relaxed))
    }

    pub(super) fn lock(&self) -> Result<DirectoryLock, Error> {
        DirectoryLock::exclusive(&self.path)
    }

    fn bundle_is_stale(&self) -> bool {
        self.state.is_some() && !pem::read(&self.path.join(BUNDLE_FILE)).is_ok_and(|there| there == self.bundle_pem)
    }

    /// Makes `bundle.pem` follow the state; the caller holds the lock.
    pub(super) fn write_bundle(&self) -> Result<(), Error> {
        if !self.bundle_is_stale() {
            return Ok(());
        }
        Prepared::new(&self.path.join(BUNDLE_FILE), &self.bundle_pem, Access::Public, None)?.replace()
    }
}

/// Reads an intermediate that the state of `directory` names; `roots` are the bundle's.
pub(super) fn load_signer(
    directory: &Path,
    signer: &Signer,
    roots: &[CertificateDer<'static>],
) -> Result<Authority, Error> {
    let certificate = directory.join(&signer.certificate);
    let authority = Authority::load(&certificate, &directory.join(&signer.key))?.beneath(&certificate, roots)?;
    check_fingerprint(&certificate, authority.fingerprint(), signer.fingerprint)?;
    if authority.anchor() != Some(signer.root) {
        let reason = "another root than state.json says is above it".to_owned();
        return Err(CaError::Corrupt { path: certificate, reason }.into());
    }
    Ok(authority)
}

fn check_fingerprint(path: &Path, found: Fingerprint, expected: Fingerprint) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    let reason = format!("its SHA-256 is {found}, and state.json says {expected}");
    Err(CaError::Corrupt { path: path.to_owned(), reason }.into())
}

#[cfg(test)]
mod tests;
