//! Join tokens: made by `remora-certs token`, bound to one identity, good once.

use std::sync::Arc;
use std::time::SystemTime;

use super::{Caller, Proof, TokenReviewer};
use crate::Error;
use crate::ca::CaError;
use crate::server::refusal::{Reason, Refused};
use crate::server::store::Store;

/// Redeems join tokens: whoever shows one first is whom it names, and nobody after.
pub struct JoinTokenReviewer {
    store: Arc<dyn Store>,
}

impl JoinTokenReviewer {
    /// Of the tokens in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }
}

#[tonic::async_trait]
impl TokenReviewer for JoinTokenReviewer {
    async fn review(&self, token: &str) -> Result<Caller, Refused> {
        let (store, token) = (Arc::clone(&self.store), token.to_owned());
        let redeemed = tokio::task::spawn_blocking(move || store.redeem_token(&token, SystemTime::now())).await;
        let failed = || Refused::new(Reason::StoreUnavailable, "the join token cannot be looked up");
        let spiffe_id = redeemed.map_err(|_| failed())?.map_err(|error| {
            let reason = match &error {
                Error::Ca(CaError::UnknownToken) => Reason::JoinTokenUnknown,
                Error::Ca(CaError::UsedToken) => Reason::JoinTokenUsed,
                Error::Ca(CaError::ExpiredToken(_)) => Reason::JoinTokenExpired,
                _ => {
                    tracing::error!(%error, "cannot look up a join token");
                    return failed();
                }
            };
            Refused::new(reason, error.to_string())
        })?;
        Ok(Caller { subject: spiffe_id.to_string(), spiffe_id, proof: Proof::JoinToken })
    }
}
