//! Where the authority's state is kept: the seam between the service and a directory, or later a Kubernetes Secret.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use remora_model::{SpiffeId, TrustDomain};

use crate::Error;
use crate::ca::{Authority, IssuedRecord};

/// One state of the authority as the store has it.
pub struct Loaded {
    /// What signs.
    pub authority: Arc<Authority>,
    /// What it signs for; none where its certificate names none.
    pub trust_domain: Option<TrustDomain>,
    /// The roots, PEM.
    pub bundle_pem: Vec<u8>,
    /// Where the roots come from, for errors.
    pub bundle_path: PathBuf,
    /// Certificates taken back, PEM, and where they are listed.
    pub crl: Option<(PathBuf, Vec<u8>)>,
    /// Grows with each change of the bundle; 0 where that is not counted.
    pub bundle_version: u64,
}

/// Keeps the authority's state. Every method may block on a disk.
pub trait Store: Send + Sync {
    /// Reads what signs and what is trusted, as one.
    ///
    /// # Errors
    /// Something is missing, unreadable, or does not fit together.
    fn load(&self) -> Result<Loaded, Error>;

    /// What was loaded last is in use from now on. Until then, and for ever if it cannot be used, records are still
    /// those of what was loaded before.
    fn accepted(&self) {}

    /// What to watch: a change of any of these files means that [`Store::load`] may give something else.
    fn watch_paths(&self) -> Vec<PathBuf>;

    /// Records certificates, durable when it returns; before that they must not be handed out.
    ///
    /// # Errors
    /// They cannot be recorded: none counts as issued. [`crate::ca::CaError::Changed`]: the state is another than the
    /// one that signed them.
    fn record(&self, records: &[IssuedRecord]) -> Result<(), Error>;

    /// The identity that a join token is for, once.
    ///
    /// # Errors
    /// [`crate::ca::CaError`]'s variants for tokens that are not known, used or ended; else it cannot be looked up.
    fn redeem_token(&self, token: &str, now: SystemTime) -> Result<SpiffeId, Error>;

    /// The identity that a join token which was not used yet is for; it is not used by this. [`None`] where that is not
    /// known before [`Store::redeem_token`].
    ///
    /// # Errors
    /// It cannot be looked up.
    fn token_holder(&self, token: &str) -> Result<Option<SpiffeId>, Error> {
        let _ = token;
        Ok(None)
    }

    /// Whether the certificate with this serial number was issued to `id` by this authority, and it or what it renews
    /// began with a join token.
    ///
    /// # Errors
    /// The record cannot be read.
    fn began_with_join_token(&self, serial: &str, id: &SpiffeId) -> Result<bool, Error>;
}
