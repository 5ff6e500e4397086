//! The Secret as the service's `Store`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use remora_certs::Error;
use remora_certs::ca::{CaDirectory, CaError, IssuedRecord};
use remora_certs::server::store::{Loaded, Store};
use remora_model::SpiffeId;
use tokio::time::Instant;

use super::SecretStore;
use super::record::{self, RECORD};
use super::secret::state;
use crate::cluster::{self, CA_SECRET};

/// How often a record is tried while others write too. Each try that fails is one that somebody else won.
const TRIES: usize = 32;
/// How long the API server may take, with all tries.
const PATIENCE: Duration = Duration::from_secs(10);

impl Store for SecretStore {
    fn load(&self) -> Result<Loaded, Error> {
        self.with_mirror(|path| {
            let opened = CaDirectory::open(path)?;
            Ok(Loaded {
                authority: Arc::clone(opened.authority()),
                trust_domain: opened.trust_domain().cloned(),
                bundle_pem: opened.bundle_pem().to_vec(),
                bundle_path: path.join("bundle.pem"),
                crl: opened.crl_pem()?.map(|pem| (path.join("crl.pem"), pem)),
                bundle_version: opened.bundle_version(),
            })
        })
    }

    fn watch_paths(&self) -> Vec<PathBuf> {
        // Every other file is named by the state.
        self.with_mirror(|path| ["state.json", "crl.pem"].map(|name| path.join(name)).into())
    }

    fn record(&self, records: &[IssuedRecord]) -> Result<(), Error> {
        let (mut secret, until) = (self.secret(), Instant::now() + PATIENCE);
        for _ in 0..TRIES {
            if let Err(error) = check_current(&secret, records) {
                // The service reads the state again, and signs anew.
                self.take(secret).map_err(|error| written(io::Error::other(error)))?;
                return Err(error.into());
            }
            let changed = with(secret, records, SystemTime::now())?;
            match self.in_time(until, self.secrets.replace(CA_SECRET, &PostParams::default(), &changed))? {
                Ok(changed) => return self.take(changed).map_err(|error| written(io::Error::other(error))),
                Err(error) if cluster::code(&error) == Some(409) => {
                    secret = self
                        .in_time(until, self.secrets.get(CA_SECRET))?
                        .map_err(|error| written(io::Error::other(cluster::told(&error))))?;
                }
                Err(error) => return Err(written(io::Error::other(cluster::told(&error)))),
            }
        }
        Err(written(io::Error::new(io::ErrorKind::ResourceBusy, "others write to it all the time")))
    }

    fn redeem_token(&self, _token: &str, _now: SystemTime) -> Result<SpiffeId, Error> {
        // Join tokens are for hosts without Kubernetes; their authority keeps a directory.
        Err(CaError::UnknownToken.into())
    }

    fn began_with_join_token(&self, _serial: &str, _id: &SpiffeId) -> Result<bool, Error> {
        Ok(false)
    }
}

impl SecretStore {
    /// An API server that does not answer holds nobody up for longer.
    fn in_time<T>(&self, until: Instant, asking: impl Future<Output = T>) -> Result<T, Error> {
        let answer = self.runtime.block_on(async { tokio::time::timeout_at(until, asking).await });
        answer.map_err(|_| written(io::Error::new(io::ErrorKind::TimedOut, "the API server does not answer")))
    }
}

fn written(source: io::Error) -> Error {
    Error::Write { path: PathBuf::from(format!("secret {CA_SECRET}")), source }
}

/// Refuses what another state than the Secret's signed.
fn check_current(secret: &Secret, records: &[IssuedRecord]) -> Result<(), CaError> {
    let state = state(secret)?;
    let is_current = |record: &IssuedRecord| {
        record.signer == state.signer.fingerprint && record.bundle_version == state.bundle_version
    };
    match records.iter().all(is_current) {
        true => Ok(()),
        false => Err(CaError::Changed(PathBuf::from(CA_SECRET))),
    }
}

/// The Secret with `records` on record, too.
fn with(mut secret: Secret, records: &[IssuedRecord], now: SystemTime) -> Result<Secret, Error> {
    let data = secret.data.get_or_insert_default();
    let mut all = IssuedRecord::read_all(RECORD.as_ref(), data.get(RECORD).map_or(&[][..], |content| &content.0))?;
    all.extend_from_slice(records);
    let (lines, dropped) = record::lines(all, now);
    if dropped > 0 {
        tracing::warn!(dropped, "the record of certificates is full: those that end first are not on record any more");
    }
    data.insert(RECORD.to_owned(), ByteString(lines));
    Ok(secret)
}
