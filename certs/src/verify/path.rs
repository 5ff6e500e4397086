//! The way from a leaf to a root: signatures, validities, name constraints and revocation.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use webpki::{EndEntityCert, Error as PathError, KeyUsage, VerifiedPath};

use super::{PeerRole, VerifyError, unix_time};
use crate::bundle::Root;
use crate::crl::Issuer;
use crate::leaf::hexadecimal;
use crate::{TrustBundle, TrustBundles, tls};

/// One certificate of a path, as a revocation list names it: by its issuer and its serial number. That is all that is
/// kept of a chain for as long as its connection lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) issuer: Arc<Issuer>,
    /// In DER, without tag and length.
    pub(crate) serial: Box<[u8]>,
}

/// Builds a path from the leaf to a root of `bundle`; all signatures, validities and name constraints on it hold, and no
/// list of `bundles` takes any of its certificates back.
pub(super) fn find<'b>(
    (end_entity, intermediates): (&CertificateDer<'_>, &[CertificateDer<'_>]),
    role: PeerRole,
    (bundle, bundles): (&'b TrustBundle, &TrustBundles),
    now: SystemTime,
) -> Result<(&'b Root, Arc<[Link]>), VerifyError> {
    let usage = match role {
        PeerRole::Client => KeyUsage::client_auth(),
        PeerRole::Server => KeyUsage::server_auth(),
    };
    // What the path builder's errors have no room for.
    let (links, revoked) = (RefCell::default(), RefCell::default());
    let accept = |path: &VerifiedPath<'_>| {
        let root = bundle.root_of(path.anchor()).ok_or(PathError::UnknownIssuer)?;
        check_root(root, now)?;
        let candidate = links_of(path, root);
        if let Some(link) = candidate.iter().find(|link| bundles.revokes(&link.issuer, &link.serial)) {
            revoked.replace(Some(hexadecimal(&link.serial)));
            return Err(PathError::CertRevoked);
        }
        links.replace(candidate);
        Ok(())
    };
    let refused = |error| VerifyError::from_path(error, role);
    let end_entity = EndEntityCert::try_from(end_entity).map_err(refused)?;
    let algorithms = tls::provider().signature_verification_algorithms.all;
    let path = end_entity.verify_for_usage(
        algorithms,
        bundle.anchors(),
        intermediates,
        unix_time(now),
        usage,
        None,
        Some(&accept),
    );
    let path = path.map_err(|error| match error {
        PathError::CertRevoked => VerifyError::Revoked { serial: revoked.take() },
        error => refused(error),
    })?;
    let root = bundle.root_of(path.anchor()).ok_or(VerifyError::UnknownCa)?;
    Ok((root, links.take().into()))
}

/// A trust anchor is a name and a key to the path builder; that the root itself is valid now is asked here.
fn check_root(root: &Root, now: SystemTime) -> Result<(), PathError> {
    let time = unix_time(now);
    if now > root.not_after() {
        return Err(PathError::CertExpired { time, not_after: unix_time(root.not_after()) });
    }
    if now < root.not_before() {
        return Err(PathError::CertNotValidYet { time, not_before: unix_time(root.not_before()) });
    }
    Ok(())
}

fn links_of(path: &VerifiedPath<'_>, root: &Root) -> Vec<Link> {
    let mut links = Vec::new();
    let mut serial = path.end_entity().serial();
    for intermediate in path.intermediate_certificates() {
        let issuer = Issuer { name: intermediate.subject().into(), key: intermediate.subject_public_key_info() };
        links.push(Link { issuer: Arc::new(issuer), serial: serial.into() });
        serial = intermediate.serial();
    }
    links.push(Link { issuer: Arc::clone(root.issuer()), serial: serial.into() });
    links
}
