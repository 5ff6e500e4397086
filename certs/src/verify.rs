//! Judging a peer's certificate chain by the X.509-SVID specification.
//!
//! [`verify_chain`] is the whole judgement, a pure function of chain, role, bundle, expected identities and time. It runs
//! inside TLS handshakes through [`SpiffeVerifier`], and after those that were resumed, because they do not verify the
//! chain they take from the ticket.

mod error;
mod path;
mod rustls_verifier;

use std::cmp::min;
use std::sync::Arc;
use std::time::SystemTime;

use remora_model::SpiffeId;
use rustls_pki_types::{CertificateDer, UnixTime};

pub(crate) use self::error::Clock;
pub use self::error::{Defect, SanDefect, VerifyError, verify_error, verify_error_in};
pub(crate) use self::path::Link;
pub use self::rustls_verifier::SpiffeVerifier;
use crate::leaf::Leaf;
use crate::{Fingerprint, TrustBundles};

/// Which end of the connection the judged peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerRole {
    /// It connected to us.
    Client,
    /// We connected to it.
    Server,
}

/// A peer that proved who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its identity: the one URI of its leaf.
    pub spiffe_id: SpiffeId,
    /// The leaf's serial number, lower-case hexadecimal.
    pub serial: String,
    /// Until when the chain is valid: the earliest end among leaf and root.
    pub not_after: SystemTime,
    /// The SHA-256 of the leaf.
    pub fingerprint: Fingerprint,
    /// The SHA-256 of the root the chain ends in.
    pub anchor: Fingerprint,
    path: Arc<[Link]>,
}

impl Peer {
    /// The certificates between peer and root, the leaf first, without the root.
    pub(crate) fn path(&self) -> &[Link] {
        &self.path
    }
}

/// Checks that `chain` (leaf first) is a valid X.509-SVID at `now`, issued under the one of `bundles` that is its own
/// trust domain's, fit for `role`, not revoked, with an identity among `expected`. Where `expected` is empty, a server may
/// be anybody of our own trust domain and a client anybody of a domain with a bundle: a client knows whom it wants to
/// reach, while whom a server admits is for its authorisation to say.
///
/// Host names are not looked at. The signature over the handshake is the TLS library's to check.
///
/// # Errors
/// The first rule broken, in this order: a chain is there, the leaf is well-formed and no CA, it has one valid SPIFFE
/// ID, of a trusted domain, a path leads to a root and everything on it is valid now and not revoked, the identity is
/// expected.
pub fn verify_chain(
    chain: &[CertificateDer<'_>],
    role: PeerRole,
    bundles: &TrustBundles,
    expected: &[SpiffeId],
    now: SystemTime,
) -> Result<Peer, VerifyError> {
    let (end_entity, intermediates) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
    let leaf = Leaf::parse(end_entity, &[role])?;
    let own_only = role == PeerRole::Server && expected.is_empty();
    let domain = leaf.spiffe_id.trust_domain();
    let bundle = bundles.of(domain).filter(|bundle| !own_only || bundle.trust_domain() == bundles.own().trust_domain());
    let Some(bundle) = bundle else {
        let trusted = bundles.trust_domains().take(if own_only { 1 } else { usize::MAX }).cloned().collect();
        return Err(VerifyError::WrongTrustDomain { found: leaf.spiffe_id, trusted });
    };
    leaf.check_time(now)?;
    let (root, path) = path::find((end_entity, intermediates), role, (bundle, bundles), now)?;
    if !expected.is_empty() && !expected.contains(&leaf.spiffe_id) {
        return Err(VerifyError::WrongIdentity { found: leaf.spiffe_id, expected: expected.to_vec() });
    }
    Ok(Peer {
        spiffe_id: leaf.spiffe_id,
        serial: leaf.serial,
        not_after: min(leaf.not_after, root.not_after()),
        fingerprint: Fingerprint::of(end_entity),
        anchor: root.fingerprint(),
        path,
    })
}

fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn system_time(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(time.as_secs())
}

#[cfg(test)]
mod tests;
