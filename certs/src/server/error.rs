//! Why the authority cannot start or go on.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What failed, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the authority's state, or a certificate in it, cannot be used.
    #[error(transparent)]
    Certs(#[from] crate::Error),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({what}): {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// "gRPC" or "admin".
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The runtime cannot be started.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
    /// No way to prove an identity is configured.
    #[error("nobody could prove who they are: give --kubernetes, --oidc-issuer or --join-tokens")]
    NoReviewer,
    /// The signing certificate names no trust domain, and none was told.
    #[error("the signing certificate names no trust domain: give --trust-domain")]
    NoTrustDomain,
    /// The signing certificate names another trust domain than was told.
    #[error("the signing certificate is of the trust domain {found}, not of {told}")]
    OtherTrustDomain {
        /// The certificate's.
        found: remora_model::TrustDomain,
        /// As configured, or as it was before.
        told: remora_model::TrustDomain,
    },
    /// The signing certificate does not lead to a root of the bundle.
    #[error("what the signing certificate issues is not valid by the trust bundle: {0}")]
    Unverified(#[from] crate::VerifyError),
    /// A name for the serving certificate is none.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    DnsName(String),
    /// The authority's own SPIFFE ID is of another trust domain.
    #[error("the authority's own identity {id} is not of the trust domain {trust_domain}")]
    OwnIdentity {
        /// As told.
        id: remora_model::SpiffeId,
        /// The signing certificate's.
        trust_domain: remora_model::TrustDomain,
    },
    /// A kubeconfig cannot be used.
    #[error("{}: {reason}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no cluster around this process, or it cannot be talked to.
    #[error("the Kubernetes API server cannot be used: {0} (outside a cluster give --kubeconfig)")]
    InCluster(String),
    /// A JWKS URL may not be asked.
    #[error("{url}: {reason}")]
    JwksUrl {
        /// The URL.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A JWKS file holds no keys that can be used.
    #[error("{}: {reason}", path.display())]
    Jwks {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The system's own roots cannot be read.
    #[error("cannot read the system's CA certificates: {0} (or give --oidc-jwks-ca)")]
    NativeRoots(io::Error),
}
