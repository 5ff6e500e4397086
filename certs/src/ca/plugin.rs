//! A CA that was issued elsewhere (cert-manager, Vault, a person): certificate, key and trust bundle from files.

use std::path::{Path, PathBuf};

/// What an authority is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignerFiles {
    /// The certificate to sign with, followed by those above it where there are more levels; PEM.
    pub certificate: PathBuf,
    /// Its key: PEM, as PKCS#8, SEC1 or PKCS#1.
    pub key: PathBuf,
    /// The roots that workloads trust; PEM. One of them must be above the certificate.
    pub bundle: PathBuf,
}

impl SignerFiles {
    /// The files of `directory`, by our names or by those of a Kubernetes secret as cert-manager writes it; [`None`]
    /// where there are neither.
    pub(super) fn of(directory: &Path) -> Option<Self> {
        let names = [["intermediate.pem", "intermediate-key.pem", "bundle.pem"], ["tls.crt", "tls.key", "ca.crt"]];
        let [certificate, key, bundle] =
            names.into_iter().find(|[certificate, ..]| directory.join(certificate).symlink_metadata().is_ok())?;
        Some(Self {
            certificate: directory.join(certificate),
            key: directory.join(key),
            bundle: directory.join(bundle),
        })
    }
}
