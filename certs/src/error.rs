//! Why an identity could not be read, or a certificate not made.

use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use remora_model::{SpiffeId, TrustDomain};

use crate::ca::CaError;
use crate::verify::{Clock, VerifyError};

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
    /// A trust bundle without any certificate.
    #[error("{}: no certificate in the bundle", path.display())]
    EmptyBundle {
        /// Where it comes from.
        path: PathBuf,
    },
    /// A revocation list cannot be used.
    #[error("{}: revocation list {} cannot be used: {reason}", path.display(), index + 1)]
    Crl {
        /// The list's file.
        path: PathBuf,
        /// Which list of the file, from 0.
        index: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file is there already and must not be overwritten.
    #[error("{} exists; a CA is never overwritten (choose another directory, or move it away)", .0.display())]
    Exists(PathBuf),
    /// A file or directory cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The certificate to sign with is not a CA's.
    #[error("{} is not a CA certificate", .0.display())]
    NotCa(PathBuf),
    /// The CA certificate has ended, or not begun.
    #[error("the CA certificate is valid from {} to {} only", Clock(not_before), Clock(not_after))]
    SignerNotValid {
        /// Its beginning.
        not_before: SystemTime,
        /// Its end.
        not_after: SystemTime,
    },
    /// The CA is another trust domain's.
    #[error("this CA signs for the trust domain {trust_domain}, not for {id}")]
    ForeignId {
        /// The identity asked for.
        id: SpiffeId,
        /// The CA's trust domain.
        trust_domain: TrustDomain,
    },
    /// A certificate would end before it begins.
    #[error("a certificate cannot end ({}) before it begins ({})", Clock(not_after), Clock(not_before))]
    EmptyValidity {
        /// The beginning asked for.
        not_before: SystemTime,
        /// The end asked for.
        not_after: SystemTime,
    },
    /// A key or certificate cannot be made.
    #[error("cannot make the certificate: {0}")]
    Sign(#[from] rcgen::Error),
    /// The operating system has no randomness.
    #[error("no randomness from the operating system")]
    Random,
    /// The report cannot be written.
    #[error("cannot write the output: {0}")]
    Output(io::Error),
    /// A directory has no certificate to show.
    #[error("{}: no certificate, bundle or key in this directory", .0.display())]
    NothingToShow(PathBuf),
    /// The CA's state, its record or a request to it.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The service cannot start.
    #[cfg(feature = "server")]
    #[error(transparent)]
    Serve(Box<crate::server::Error>),
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
