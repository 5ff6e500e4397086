//! What a workload shows: its X.509-SVID with the key that proves it.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use remora_model::{SpiffeId, TrustDomain};
use rustls::sign::CertifiedKey;
use rustls::{Error as TlsError, InconsistentKeys};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::leaf::Leaf;
use crate::verify::{PeerRole, VerifyError};
use crate::{Error, Fingerprint, pem, tls};

/// An X.509-SVID with its private key, checked when it was read: the key belongs to the leaf, and the leaf is an SVID
/// of the trust domain, fit for both ends of a connection. The key cannot be taken out or printed.
#[derive(Clone, Debug)]
pub struct Svid {
    key: Arc<CertifiedKey>,
    leaf: Arc<Leaf>,
    fingerprint: Fingerprint,
}

impl Svid {
    /// Reads the PEM chain (leaf first) and the PEM key (PKCS#8, SEC1 or PKCS#1). Does not look at the clock.
    ///
    /// # Errors
    /// A file cannot be read or decoded, the key does not match, or the leaf is not an SVID of `trust_domain`.
    pub fn load(trust_domain: &TrustDomain, certificate: &Path, key: &Path) -> Result<Self, Error> {
        Self::parse(trust_domain, (certificate, &pem::read(certificate)?), (key, &pem::read(key)?))
    }

    pub(crate) fn parse(
        trust_domain: &TrustDomain,
        (certificate_path, certificate): (&Path, &[u8]),
        (key_path, key): (&Path, &[u8]),
    ) -> Result<Self, Error> {
        let chain = pem::certificates(certificate_path, certificate)?;
        Self::from_der(trust_domain, (certificate_path, chain), (key_path, pem::private_key(key_path, key)?))
    }

    /// An SVID of decoded parts; the paths name in errors where each comes from.
    pub(crate) fn from_der(
        trust_domain: &TrustDomain,
        (certificate_path, chain): (&Path, Vec<CertificateDer<'static>>),
        (key_path, key): (&Path, PrivateKeyDer<'static>),
    ) -> Result<Self, Error> {
        let refused = |source| Error::Certificate { path: certificate_path.to_owned(), source };
        let first = chain.first().ok_or_else(|| refused(VerifyError::NoCertificate))?;
        let leaf = Leaf::parse(first, &[PeerRole::Client, PeerRole::Server]).map_err(refused)?;
        if leaf.spiffe_id.trust_domain() != trust_domain.as_str() {
            let trusted = vec![trust_domain.clone()];
            return Err(refused(VerifyError::WrongTrustDomain { found: leaf.spiffe_id, trusted }));
        }
        let fingerprint = Fingerprint::of(first);
        let key = certified_key_of((certificate_path, chain), (key_path, key))?;
        Ok(Self { key, leaf: Arc::new(leaf), fingerprint })
    }

    /// The identity.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.leaf.spiffe_id
    }

    /// The leaf's serial number, lower-case hexadecimal.
    pub fn serial(&self) -> &str {
        &self.leaf.serial
    }

    /// From when the leaf is valid.
    pub fn not_before(&self) -> SystemTime {
        self.leaf.not_before
    }

    /// Until when the leaf is valid.
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }

    /// The SHA-256 of the leaf.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The leaf, then its intermediates, as they are sent.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    /// Chain and signing key in the form TLS wants.
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// Whether the leaf is valid at `now`.
    ///
    /// # Errors
    /// [`VerifyError::Expired`] or [`VerifyError::NotYetValid`].
    pub fn check_time(&self, now: SystemTime) -> Result<(), VerifyError> {
        self.leaf.check_time(now)
    }
}

/// Joins a chain and its key, each with the file it came from.
pub(crate) fn certified_key(
    (certificate_path, chain): (&Path, Vec<CertificateDer<'static>>),
    (key_path, key): (&Path, &[u8]),
) -> Result<Arc<CertifiedKey>, Error> {
    certified_key_of((certificate_path, chain), (key_path, pem::private_key(key_path, key)?))
}

/// As [`certified_key`], of a decoded key.
fn certified_key_of(
    (certificate_path, chain): (&Path, Vec<CertificateDer<'static>>),
    (key_path, key): (&Path, PrivateKeyDer<'static>),
) -> Result<Arc<CertifiedKey>, Error> {
    let unusable = |source| Error::Key { path: key_path.to_owned(), source };
    let signer = tls::provider().key_provider.load_private_key(key).map_err(unusable)?;
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        Ok(()) => Ok(Arc::new(certified)),
        Err(TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(Error::KeyMismatch { key: key_path.to_owned(), certificate: certificate_path.to_owned() })
        }
        Err(source) => Err(unusable(source)),
    }
}
