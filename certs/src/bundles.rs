//! Everything peers are judged by: our own roots, those of federated trust domains, and revocation lists.

use std::sync::Arc;
use std::time::SystemTime;

use remora_model::TrustDomain;

use crate::crl::{Issuer, RevocationList};
use crate::leaf::hexadecimal;
use crate::verify::{Clock, VerifyError};
use crate::{Peer, TrustBundle};

/// The bundle of our own trust domain, those of the domains it is federated with, and revocation lists.
///
/// A bundle vouches for its own domain and no other (SPIFFE Trust Domain and Bundle, section 4): the roots of one domain
/// never decide about a peer of another, however many are trusted.
#[derive(Clone, Debug)]
pub struct TrustBundles {
    own: TrustBundle,
    federated: Vec<TrustBundle>,
    crls: Vec<Arc<RevocationList>>,
}

impl TrustBundles {
    /// Trust in our own domain alone.
    pub fn new(own: TrustBundle) -> Self {
        Self { own, federated: Vec::new(), crls: Vec::new() }
    }

    /// Trusts the domain of `bundle` too. A second bundle of the same domain replaces the first; one of our own domain
    /// is left out, for only our own source says who vouches for it.
    #[must_use]
    pub fn with_federated(mut self, bundle: TrustBundle) -> Self {
        if bundle.trust_domain() == self.own.trust_domain() {
            tracing::warn!(trust_domain = %bundle.trust_domain(), "a federated bundle of our own domain is left out");
            return self;
        }
        self.federated.retain(|known| known.trust_domain() != bundle.trust_domain());
        self.federated.push(bundle);
        self.federated.sort_by(|a, b| a.trust_domain().cmp(b.trust_domain()));
        self
    }

    /// Honours revocation lists besides those it has; whoever signed them is asked when they are used.
    #[must_use]
    pub fn with_crls(mut self, lists: impl IntoIterator<Item = Arc<RevocationList>>) -> Self {
        let now = SystemTime::now();
        for list in lists {
            if now > list.next_update() {
                tracing::warn!(
                    issuer = list.issuer(),
                    next_update = %Clock(&list.next_update()),
                    "a revocation list is out of date; what it names stays revoked"
                );
            }
            self.crls.push(list);
        }
        self
    }

    /// The bundle of our own trust domain.
    pub fn own(&self) -> &TrustBundle {
        &self.own
    }

    /// The bundles of other trust domains, in the order of their names.
    pub fn federated(&self) -> &[TrustBundle] {
        &self.federated
    }

    /// The revocation lists.
    pub fn crls(&self) -> &[Arc<RevocationList>] {
        &self.crls
    }

    /// The one bundle that decides about peers of `trust_domain`.
    pub fn of(&self, trust_domain: &str) -> Option<&TrustBundle> {
        std::iter::once(&self.own).chain(&self.federated).find(|bundle| bundle.trust_domain().as_str() == trust_domain)
    }

    /// The trust domains whose peers are accepted, our own first.
    pub fn trust_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        std::iter::once(&self.own).chain(&self.federated).map(TrustBundle::trust_domain)
    }

    /// Judges a live connection again, cheaply: whether a peer that was verified earlier, by these bundles or older
    /// ones, would still find its root here, and nothing on its path has been revoked since. Does not look at the clock.
    ///
    /// # Errors
    /// [`VerifyError::WrongTrustDomain`], [`VerifyError::UnknownCa`] or [`VerifyError::Revoked`].
    pub fn still_trusts(&self, peer: &Peer) -> Result<(), VerifyError> {
        let bundle = self.of(peer.spiffe_id.trust_domain()).ok_or_else(|| VerifyError::WrongTrustDomain {
            found: peer.spiffe_id.clone(),
            trusted: self.trust_domains().cloned().collect(),
        })?;
        if bundle.root(peer.anchor).is_none() {
            return Err(VerifyError::UnknownCa);
        }
        match peer.path().iter().find(|link| self.revokes(&link.issuer, &link.serial)) {
            Some(link) => Err(VerifyError::Revoked { serial: Some(hexadecimal(&link.serial)) }),
            None => Ok(()),
        }
    }

    /// Whether both trust the same: roots, federated domains and revocation lists.
    pub fn same(&self, other: &Self) -> bool {
        let lists = |bundles: &Self| bundles.crls.iter().map(|list| list.der().to_vec()).collect::<Vec<_>>();
        self.own.same(&other.own)
            && self.federated.len() == other.federated.len()
            && self.federated.iter().zip(&other.federated).all(|(one, two)| one.same(two))
            && lists(self) == lists(other)
    }

    /// Whether some list takes back the certificate of `issuer` with this serial number.
    pub(crate) fn revokes(&self, issuer: &Arc<Issuer>, serial: &[u8]) -> bool {
        self.crls.iter().any(|list| list.revokes(issuer, serial))
    }
}

impl From<TrustBundle> for TrustBundles {
    fn from(own: TrustBundle) -> Self {
        Self::new(own)
    }
}

#[cfg(test)]
mod tests;
