//! Join tokens: made by `remora-certs token`, bound to one identity, good once.

use std::sync::Arc;
use std::time::SystemTime;

use remora_model::SpiffeId;

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
        let spiffe_id = self.ask(token, |store, token| store.redeem_token(token, SystemTime::now())).await?;
        Ok(Caller { subject: spiffe_id.to_string(), spiffe_id, proof: Proof::JoinToken })
    }

    async fn announced(&self, token: &str) -> Result<Option<SpiffeId>, Refused> {
        self.ask(token, |store, token| store.token_holder(token)).await
    }
}

impl JoinTokenReviewer {
    async fn ask<T: Send + 'static>(
        &self,
        token: &str,
        ask: impl FnOnce(&dyn Store, &str) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Refused> {
        let (store, token) = (Arc::clone(&self.store), token.to_owned());
        let asked = tokio::task::spawn_blocking(move || ask(&*store, &token)).await;
        let failed = || Refused::new(Reason::StoreUnavailable, "the join token cannot be looked up");
        asked.map_err(|_| failed())?.map_err(|error| {
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
        })
    }
}
