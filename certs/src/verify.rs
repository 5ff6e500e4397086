//! Judging a peer's certificate chain by the X.509-SVID specification.
//!
//! [`verify_chain`] is the whole judgement, a pure function of chain, role, bundle, expected identities and time. It runs
//! inside TLS handshakes through [`SpiffeVerifier`], and once more after every handshake, because a resumed one does
//! not verify the chain it takes from the ticket.

mod error;
mod rustls_verifier;

use std::cmp::min;
use std::sync::Arc;
use std::time::SystemTime;

use remora_model::SpiffeId;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, Error as PathError, KeyUsage, VerifiedPath};

pub(crate) use self::error::Clock;
pub use self::error::{Defect, SanDefect, VerifyError, verify_error, verify_error_in};
pub use self::rustls_verifier::SpiffeVerifier;
use crate::bundle::Root;
use crate::leaf::Leaf;
use crate::{Fingerprint, TrustBundle, tls};

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
}

/// Checks that `chain` (leaf first) is a valid X.509-SVID at `now`, issued under `bundle` for its trust domain, fit for
/// `role`, with an identity among `expected` (any of the trust domain when `expected` is empty).
///
/// Host names are not looked at. The signature over the handshake is the TLS library's to check.
///
/// # Errors
/// The first rule broken, in this order: a chain is there, the leaf is well-formed and no CA, it has one valid SPIFFE
/// ID, of our trust domain, a path leads to a root and everything on it is valid now, the identity is expected.
pub fn verify_chain(
    chain: &[CertificateDer<'_>],
    role: PeerRole,
    bundle: &TrustBundle,
    expected: &[SpiffeId],
    now: SystemTime,
) -> Result<Peer, VerifyError> {
    let (end_entity, intermediates) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
    let leaf = Leaf::parse(end_entity, &[role])?;
    if leaf.spiffe_id.trust_domain() != bundle.trust_domain().as_str() {
        let trusted = bundle.trust_domain().clone();
        return Err(VerifyError::WrongTrustDomain { found: leaf.spiffe_id, trusted });
    }
    leaf.check_time(now)?;
    let root = find_root(end_entity, intermediates, role, bundle, now)?;
    if !expected.is_empty() && !expected.contains(&leaf.spiffe_id) {
        return Err(VerifyError::WrongIdentity { found: leaf.spiffe_id, expected: expected.to_vec() });
    }
    Ok(Peer {
        spiffe_id: leaf.spiffe_id,
        serial: leaf.serial,
        not_after: min(leaf.not_after, root.not_after()),
        fingerprint: Fingerprint::of(end_entity),
        anchor: root.fingerprint(),
    })
}

/// Builds a path from the leaf to a root of `bundle`; all signatures, validities and name constraints on it hold.
fn find_root<'b>(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    role: PeerRole,
    bundle: &'b TrustBundle,
    now: SystemTime,
) -> Result<&'b Root, VerifyError> {
    let time = unix_time(now);
    let usage = match role {
        PeerRole::Client => KeyUsage::client_auth(),
        PeerRole::Server => KeyUsage::server_auth(),
    };
    // A trust anchor is a name and a key to the path builder; that the root itself is valid now is asked here.
    let root_is_valid = |path: &VerifiedPath<'_>| match bundle.root_of(path.anchor()) {
        Some(root) if now > root.not_after() => {
            Err(PathError::CertExpired { time, not_after: unix_time(root.not_after()) })
        }
        Some(root) if now < root.not_before() => {
            Err(PathError::CertNotValidYet { time, not_before: unix_time(root.not_before()) })
        }
        Some(_) => Ok(()),
        None => Err(PathError::UnknownIssuer),
    };
    let refused = |error| VerifyError::from_path(error, role);
    let end_entity = EndEntityCert::try_from(end_entity).map_err(refused)?;
    let path = end_entity
        .verify_for_usage(
            tls::provider().signature_verification_algorithms.all,
            bundle.anchors(),
            intermediates,
            time,
            usage,
            None,
            Some(&root_is_valid),
        )
        .map_err(refused)?;
    bundle.root_of(path.anchor()).ok_or(VerifyError::UnknownCa)
}

fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn system_time(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(time.as_secs())
}

/// How verifiers share a bundle.
type SharedBundle = Arc<TrustBundle>;

#[cfg(test)]
mod tests;
