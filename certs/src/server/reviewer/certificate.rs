//! Renewal by certificate: whoever began with a join token has no other token to show again.

use std::sync::Arc;

use super::{Caller, Proof};
use crate::Peer;
use crate::server::refusal::{Reason, Refused};
use crate::server::store::Store;

/// Judges client certificates. Their chain was verified in the handshake; what is asked here is whether the record
/// allows a renewal. Workloads with tokens of their own renew by those: a stolen certificate must not live for ever.
pub struct CertificateReviewer {
    store: Arc<dyn Store>,
}

impl CertificateReviewer {
    /// By the record in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Whether `peer` may renew.
    ///
    /// # Errors
    /// Its certificate did not begin with a join token, or the record cannot be read.
    pub async fn review(&self, peer: &Peer) -> Result<Caller, Refused> {
        let (store, serial, id) = (Arc::clone(&self.store), peer.serial.clone(), peer.spiffe_id.clone());
        let renewable = tokio::task::spawn_blocking(move || store.began_with_join_token(&serial, &id)).await;
        let failed = || Refused::new(Reason::StoreUnavailable, "the record of certificates cannot be read");
        let renewable = renewable.map_err(|_| failed())?.map_err(|error| {
            tracing::error!(%error, "cannot read the record of certificates");
            failed()
        })?;
        if !renewable {
            let detail = "this certificate did not begin with a join token: show a bearer token";
            return Err(Refused::new(Reason::NotRenewable, detail));
        }
        Ok(Caller { spiffe_id: peer.spiffe_id.clone(), subject: peer.serial.clone(), proof: Proof::Certificate })
    }
}
