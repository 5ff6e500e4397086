//! The authority's state in a directory: what `remora-certs init` made, or a plug-in signer with its records beside it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use remora_model::SpiffeId;

use super::store::{Loaded, Store};
use crate::Error;
use crate::ca::{CaDirectory, CaError, IssuedRecord, RENEWAL_GRACE, Seen, SignerFiles};

/// A [`Store`] in a directory. Other processes may work on it at the same time: the directory's lock keeps order.
pub struct DirectoryStore {
    path: PathBuf,
    signer: Option<SignerFiles>,
    // As it is in use; what was signed by another state is not recorded.
    current: RwLock<Arc<CaDirectory>>,
    // As it was read last, until it is in use.
    loaded: Mutex<Option<Arc<CaDirectory>>>,
    renewable: Mutex<Renewable>,
    // How far the record was looked through for those that others issued.
    seen: Mutex<Seen>,
}

/// Certificates that may be renewed by showing them: serial number, holder, end in seconds since 1970.
type Renewable = HashMap<String, (SpiffeId, u64)>;

impl DirectoryStore {
    /// Opens the CA in `path`. With `signer`, certificate, key and bundle are kept elsewhere, and `path` has the record
    /// and the join tokens only.
    ///
    /// # Errors
    /// There is no CA, or its files cannot be used.
    pub fn open(path: &Path, signer: Option<SignerFiles>) -> Result<Self, Error> {
        let current = RwLock::new(Arc::new(open(path, signer.as_ref())?));
        let (loaded, renewable, seen) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Self { path: path.to_owned(), signer, current, loaded, renewable, seen })
    }

    fn current(&self) -> Arc<CaDirectory> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn loaded(&self) -> MutexGuard<'_, Option<Arc<CaDirectory>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holder(&self, serial: &str) -> Option<SpiffeId> {
        let renewable = self.renewable.lock().unwrap_or_else(PoisonError::into_inner);
        renewable.get(serial).map(|(id, _)| id.clone())
    }

    fn remember<'r>(&self, records: impl IntoIterator<Item = &'r IssuedRecord>) {
        let mut renewable = self.renewable.lock().unwrap_or_else(PoisonError::into_inner);
        let renews = records.into_iter().filter(|record| record.by.renews_by_certificate());
        renewable.extend(renews.map(|record| (record.serial.clone(), (record.spiffe_id.clone(), record.not_after))));
    }

    fn forget_expired(&self, now: SystemTime) {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.renewable.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, (_, end)| *end >= now);
    }
}

/// A certificate that ended before this is not renewed any more.
fn earliest_end() -> SystemTime {
    SystemTime::now().checked_sub(RENEWAL_GRACE).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn open(path: &Path, signer: Option<&SignerFiles>) -> Result<CaDirectory, Error> {
    match signer {
        Some(files) => CaDirectory::open_with_signer(path, files.clone()),
        None => CaDirectory::open(path),
    }
}

impl Store for DirectoryStore {
    fn load(&self) -> Result<Loaded, Error> {
        let opened = Arc::new(open(&self.path, self.signer.as_ref())?);
        let crl = opened.crl_pem()?.map(|pem| (self.path.join("crl.pem"), pem));
        let loaded = Loaded {
            authority: Arc::clone(opened.authority()),
            trust_domain: opened.trust_domain().cloned(),
            bundle_pem: opened.bundle_pem().to_vec(),
            bundle_path: self
                .signer
                .as_ref()
                .map_or_else(|| self.path.join("bundle.pem"), |files| files.bundle.clone()),
            crl,
            bundle_version: opened.bundle_version(),
        };
        *self.loaded() = Some(opened);
        self.forget_expired(earliest_end());
        Ok(loaded)
    }

    fn accepted(&self) {
        if let Some(loaded) = self.loaded().take() {
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        }
    }

    fn watch_paths(&self) -> Vec<PathBuf> {
        // What cannot be used yet is what somebody will mend.
        let loaded = self.loaded().clone();
        loaded.unwrap_or_else(|| self.current()).watch_paths()
    }

    fn record(&self, records: &[IssuedRecord]) -> Result<(), Error> {
        let current = self.current();
        let (signer, version) = (current.authority().fingerprint(), current.bundle_version());
        if records.iter().any(|record| record.signer != signer || record.bundle_version != version) {
            return Err(CaError::Changed(self.path.clone()).into());
        }
        current.record_all(records)?;
        self.remember(records);
        Ok(())
    }

    fn redeem_token(&self, token: &str, now: SystemTime) -> Result<SpiffeId, Error> {
        self.current().redeem_token(token, now)
    }

    fn token_holder(&self, token: &str) -> Result<Option<SpiffeId>, Error> {
        self.current().token_holder(token)
    }

    fn began_with_join_token(&self, serial: &str, id: &SpiffeId) -> Result<bool, Error> {
        if let Some(holder) = self.holder(serial) {
            return Ok(holder == *id);
        }
        // Issued before this process began, or by another beside it. Each line is read once, whoever asks.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut records = self.current().recorded_since(&mut seen)?;
        records.retain(|record| !record.is_expired(earliest_end()));
        self.remember(&records);
        drop(seen);
        Ok(self.holder(serial).is_some_and(|holder| holder == *id))
    }
}

#[cfg(test)]
mod tests;
