//! The certificate authority's state in a Kubernetes Secret, for `remora_certs::server`.
//!
//! The Secret's keys are the files of a CA's directory (see `remora_certs::ca::CaDirectory`), and the Secret is the truth:
//! every change is one update that the API server refuses where somebody else was quicker. A private directory in memory
//! mirrors it, because that is what `CaDirectory` reads and what the service watches. Handed a client and a namespace;
//! hands on a `Store`. Several processes may share one Secret: they sign with the same intermediate and keep one record.

mod mirror;
mod record;
mod secret;
mod store;

pub(crate) use self::secret::state;
pub use self::secret::{Fresh, SecretStore};

/// Why the authority's Secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error(transparent)]
    Cluster(#[from] crate::cluster::Error),
    /// What is in the Secret.
    #[error("secret {name}: {source}")]
    Content {
        /// The Secret.
        name: String,
        /// What is wrong with it.
        source: remora_certs::Error,
    },
    /// The Secret is gone, but what it signed is still trusted.
    #[error(
        "the Secret {namespace}/{name} is not there, but the ConfigMap {bundle} still has the roots that a mesh trusts: a \
         new authority would cut it off. Restore the Secret from a copy; or, to begin anew with a new root, delete the \
         ConfigMap first"
    )]
    Lost {
        /// Its namespace.
        namespace: String,
        /// The Secret.
        name: String,
        /// The ConfigMap.
        bundle: &'static str,
    },
    /// The mirror cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Mirror {
        /// The file or directory.
        path: std::path::PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}
