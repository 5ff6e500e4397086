//! Why the CA's directory cannot be used, or refuses.

use std::path::PathBuf;
use std::time::Duration;

use super::CsrError;
use super::rotation::{Obstacle, Step};

/// What is wrong with the CA's directory, or why it refuses what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// A file of the CA's state says something impossible. Nothing is guessed and nothing made anew: restore it.
    #[error("{}: the CA's state cannot be used: {reason}; restore the directory from a copy", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A line of the record of issued certificates cannot be read, and it is not the torn end of an interrupted write.
    #[error("{}:{line}: not a record of an issued certificate: {reason}", path.display())]
    Journal {
        /// The record's file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The directory has no CA.
    #[error("{}: no certificate authority here (no state.json, and no intermediate.pem or tls.crt)", .0.display())]
    NoCa(PathBuf),
    /// No root of the trust bundle vouches for the certificate to sign with.
    #[error("{}: no root of the trust bundle signed it: nobody would trust what it issues", .0.display())]
    NoAnchor(PathBuf),
    /// The CA's keys came from elsewhere, and so must their rotation.
    #[error("{}: this CA was issued elsewhere (there is no state.json): rotate it where it came from, and replace the files", .0.display())]
    Plugin(PathBuf),
    /// The CA changed after it was read, perhaps was rotated: read it again, and sign anew.
    #[error("{}: the CA has changed since it was read", .0.display())]
    Changed(PathBuf),
    /// A step of a rotation would break something.
    #[error("the step \"{step}\" is refused:{}", listed(obstacles))]
    Refused {
        /// The step.
        step: Step,
        /// What it would break.
        obstacles: Vec<Obstacle>,
    },
    /// The root's key is needed, and not in the directory.
    #[error("{} is not there, and only the root's key can sign an intermediate: bring it for this one moment with --root-key FILE (signing of workloads goes on without it)", .0.display())]
    RootKeyOffline(PathBuf),
    /// The new root is the old one.
    #[error("that root is in the trust bundle already")]
    SameRoot,
    /// No unexpired certificate is the one that is meant.
    #[error("no certificate of that serial number or SPIFFE ID is on record, or it has expired")]
    NotIssued,
    /// A signing request is refused.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// No such join token was made, or it is long gone.
    #[error("the join token is not known")]
    UnknownToken,
    /// The join token was used before; each is good for one use.
    #[error("the join token was used before")]
    UsedToken,
    /// The join token's time is over.
    #[error("the join token expired {} s ago", .0.as_secs())]
    ExpiredToken(Duration),
}

/// One line each.
fn listed(obstacles: &[Obstacle]) -> String {
    obstacles.iter().map(|obstacle| format!("\n  {obstacle}")).collect()
}
