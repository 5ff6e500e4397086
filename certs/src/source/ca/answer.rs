//! Judging what an authority answered, before any of it is used.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use remora_model::TrustDomain;
use rustls_pki_types::PrivateKeyDer;

use super::failure::Failure;
use crate::verify::{PeerRole, verify_chain};
use crate::{Error, Svid, TrustBundle, TrustBundles, pem};

/// How far a certificate may begin in our future: an authority's clock may be ahead of ours.
const MOST_AHEAD: Duration = Duration::from_secs(5 * 60);

/// What an answer is good for.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) svid: Svid,
    pub(super) bundle: TrustBundle,
    /// How far the certificate begins in our future.
    pub(super) ahead: Duration,
}

/// Reads a `cert_chain`, as istiod fills it (leaf, what signed it, and last all roots), for `key`. It must be an SVID of
/// the trust domain that a peer with this very bundle would accept now.
pub(super) fn read(
    address: &Arc<str>,
    cert_chain: &[String],
    key: PrivateKeyDer<'static>,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<Answer, Failure> {
    let incomplete = |missing| Failure::Incomplete { address: Arc::clone(address), missing };
    let (roots, chain) = cert_chain.split_last().ok_or_else(|| incomplete("a certificate"))?;
    if chain.is_empty() {
        return Err(incomplete("roots"));
    }
    judge(chain, roots, key, trust_domain, now)
        .map_err(|reason| Failure::Answer { address: Arc::clone(address), reason })
}

fn judge(
    chain: &[String],
    roots: &str,
    key: PrivateKeyDer<'static>,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<Answer, Error> {
    // In errors these stand where a file's name does.
    let (chain_name, roots_name) = (Path::new("the certificate chain"), Path::new("the roots"));
    let key_name = Path::new("the key made for it");
    let certificates =
        chain.iter().map(|part| pem::certificates(chain_name, part.as_bytes())).collect::<Result<Vec<_>, _>>()?;
    let svid = Svid::from_der(trust_domain, (chain_name, certificates.concat()), (key_name, key))?;
    let bundle = TrustBundle::parse(trust_domain.clone(), roots_name, roots.as_bytes())?;

    let ahead = svid.not_before().duration_since(now).unwrap_or_default();
    let at = if ahead <= MOST_AHEAD { now + ahead } else { now };
    let bundles = TrustBundles::new(bundle.clone());
    for role in [PeerRole::Server, PeerRole::Client] {
        verify_chain(svid.certificates(), role, &bundles, &[], at)
            .map_err(|source| Error::Certificate { path: chain_name.to_owned(), source })?;
    }
    Ok(Answer { svid, bundle, ahead })
}
