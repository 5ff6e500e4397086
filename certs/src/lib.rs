//! Workload identity: who this workload is, whom it trusts, and how a peer proves who it is.
//!
//! The crate reads an X.509-SVID, its key and the bundles of trusted domains ([`identity`]), keeps them fresh while the files change
//! ([`source`]), builds TLS configurations from them ([`tls`]) and judges a peer's chain by SPIFFE's rules
//! ([`verify`]). [`ca`] is a small certificate authority behind the `remora-certs` binary.
//!
//! Two rules hold everywhere. A private key is never printed or logged. A peer's identity is the one URI in its leaf
//! and nothing else: host names play no part.

pub mod bundle;
pub mod bundles;
pub mod ca;
pub mod cli;
pub mod crl;
mod error;
mod file;
pub mod fingerprint;
pub mod identity;
mod leaf;
mod pem;
pub mod proto;
#[cfg(feature = "server")]
pub mod server;
pub mod show;
pub mod source;
pub mod svid;
pub mod tls;
pub mod verify;
pub mod watch;

pub use bundle::TrustBundle;
pub use bundles::TrustBundles;
pub use crl::RevocationList;
pub use error::Error;
pub use file::Owner;
pub use fingerprint::Fingerprint;
pub use identity::Identity;
pub use source::{CertificateSource, FileSource};
pub use svid::Svid;
pub use verify::{Peer, PeerRole, SpiffeVerifier, VerifyError, verify_chain, verify_error};
