//! Why an identity could not be read, or a certificate not made.

use std::io;
use std::path::PathBuf;

use crate::verify::VerifyError;

/// What failed, and in which file. No variant ever holds key material.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file is missing, not readable by this user, not a regular file, or too large.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file has no PEM section of the kind it is there for.
    #[error("{}: no PEM {wanted} in it", path.display())]
    NoPem {
        /// The file.
        path: PathBuf,
        /// "certificate" or "private key".
        wanted: &'static str,
    },
    /// A file has PEM sections that cannot be decoded; often a file that is still being written.
    #[error("{}: not valid PEM: {reason}", path.display())]
    BadPem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The certificate is not a valid X.509-SVID of the trust domain, or not valid now.
    #[error("{}: {source}", path.display())]
    Certificate {
        /// The certificate's file.
        path: PathBuf,
        /// The rule it breaks.
        source: VerifyError,
    },
    /// The key is of a kind or size that TLS cannot use.
    #[error("{}: the private key cannot be used: {source}", path.display())]
    Key {
        /// The key's file.
        path: PathBuf,
        /// What the TLS library says.
        source: rustls::Error,
    },
    /// The key is not the one the certificate was issued for.
    #[error("{} does not match the certificate in {}", key.display(), certificate.display())]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// A certificate of the trust bundle cannot be a trust anchor.
    #[error("{}: certificate {} of the bundle is not a CA certificate: {reason}", path.display(), index + 1)]
    Root {
        /// The bundle's file.
        path: PathBuf,
        /// Which certificate of the file, from 0.
        index: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A TLS configuration cannot be built.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl Error {
    /// The certificate rule broken, where that is what failed.
    pub fn verify_error(&self) -> Option<&VerifyError> {
        match self {
            Self::Certificate { source, .. } => Some(source),
            _ => None,
        }
    }
}
