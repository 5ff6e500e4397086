//! The identity a proxy works with at one moment: its SVID and its trust bundles, read together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use remora_model::TrustDomain;
use remora_model::identity::IdentityFiles;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;

use crate::{Error, Svid, TrustBundle, TrustBundles, pem};

/// An SVID and the trust bundles to judge peers by. Never changes; a newer one replaces it whole.
#[derive(Clone, Debug)]
pub struct Identity {
    svid: Svid,
    bundles: Arc<TrustBundles>,
    generation: u64,
    tickets: Arc<OnceLock<Arc<dyn ProducesTickets>>>,
}

static NEXT_GENERATION: AtomicU64 = AtomicU64::new(1);

impl Identity {
    /// Joins the two under the next generation number.
    pub fn new(svid: Svid, bundles: impl Into<TrustBundles>) -> Self {
        let generation = NEXT_GENERATION.fetch_add(1, Ordering::Relaxed);
        Self { svid, bundles: Arc::new(bundles.into()), generation, tickets: Arc::default() }
    }

    /// What this workload shows.
    pub fn svid(&self) -> &Svid {
        &self.svid
    }

    /// Whom this workload trusts.
    pub fn bundles(&self) -> &Arc<TrustBundles> {
        &self.bundles
    }

    /// Whom it trusts of its own trust domain.
    pub fn bundle(&self) -> &TrustBundle {
        self.bundles.own()
    }

    /// A number no other identity of this process has; a later one has a higher number. Key pools and TLS
    /// configurations by it.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What encrypts session tickets under this identity; one for all who serve as it, so that a client may resume with
    /// any of them.
    ///
    /// # Errors
    /// No randomness for its keys.
    pub(crate) fn tickets(&self) -> Result<Arc<dyn ProducesTickets>, Error> {
        if let Some(tickets) = self.tickets.get() {
            return Ok(Arc::clone(tickets));
        }
        let fresh = Ticketer::new()?;
        Ok(Arc::clone(self.tickets.get_or_init(|| fresh)))
    }

    /// Whether both hold the same certificates, roots and revocation lists; generations are not compared.
    pub fn same_certificates(&self, other: &Self) -> bool {
        self.svid.certificates() == other.svid.certificates() && self.bundles.same(&other.bundles)
    }
}

/// Reads the three files of an identity in `trust_domain`. The SVID must be valid now.
///
/// # Errors
/// Says which file and what: missing, not readable, not PEM, unusable key, key and certificate not a pair, not an SVID
/// of the trust domain, expired or not yet valid.
pub fn load(trust_domain: &TrustDomain, files: &IdentityFiles) -> Result<Identity, Error> {
    let (certificate, key) = (pem::read(&files.certificate)?, pem::read(&files.key)?);
    let bundle = pem::read(&files.trust_bundle)?;
    let svid = Svid::parse(trust_domain, (&files.certificate, &certificate), (&files.key, &key))?;
    svid.check_time(SystemTime::now())
        .map_err(|source| Error::Certificate { path: files.certificate.clone(), source })?;
    let bundle = TrustBundle::parse(trust_domain.clone(), &files.trust_bundle, &bundle)?;
    Ok(Identity::new(svid, bundle))
}

#[cfg(test)]
mod tests;
