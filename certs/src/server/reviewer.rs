//! Who asks: the seam between a request's credentials and the SPIFFE ID they prove.
//!
//! Handed the `authorization` metadata and the client's certificate, hands on a [`Caller`] or a [`Refused`]. Which
//! reviewer judges a token is decided by configuration and the token's shape alone, and its answer is final: a token that
//! one reviewer refuses is never offered to another. A token is never logged and never part of an error.

pub mod certificate;
pub mod join;
pub mod jwks;
pub mod kubernetes;
pub mod oidc;
pub mod template;

use std::sync::Arc;

use remora_model::{SpiffeId, TrustDomain};

use self::certificate::CertificateReviewer;
use self::join::JoinTokenReviewer;
use self::kubernetes::KubernetesReviewer;
use self::oidc::OidcReviewer;
use super::refusal::{Reason, Refused};
use crate::Peer;
pub use crate::ca::Proof;

/// The largest bearer token, in bytes; service-account tokens have about a thousand.
pub const MAX_TOKEN: usize = 16 * 1024;

/// Somebody who proved who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The identity that follows from the proof; a certificate names this and nothing else.
    pub spiffe_id: SpiffeId,
    /// What the proof calls the caller, such as `system:serviceaccount:shop:cart`.
    pub subject: String,
    /// How it was proved.
    pub proof: Proof,
}

/// The word of a proof in the audit log and the metrics; the record of certificates has the same.
pub(crate) fn word(proof: Proof) -> &'static str {
    match proof {
        Proof::TokenReview => "token_review",
        Proof::Oidc => "oidc",
        Proof::JoinToken => "join_token",
        Proof::Certificate => "certificate",
        Proof::Command => "command",
    }
}

/// Judges one kind of bearer token.
#[tonic::async_trait]
pub trait TokenReviewer: Send + Sync {
    /// Whom `token` (at most [`MAX_TOKEN`] bytes) proves.
    ///
    /// # Errors
    /// The token proves nobody, or whoever must be asked cannot be.
    async fn review(&self, token: &str) -> Result<Caller, Refused>;

    /// Whom `token` is for, where that can be told without using it up; it is not judged yet.
    ///
    /// # Errors
    /// As [`TokenReviewer::review`].
    async fn announced(&self, token: &str) -> Result<Option<SpiffeId>, Refused> {
        let _ = token;
        Ok(None)
    }
}

/// The reviewers that are configured; none of a kind: such tokens are refused.
#[derive(Default)]
pub struct Reviewers {
    /// Tokens of the OIDC issuer.
    pub oidc: Option<Arc<OidcReviewer>>,
    /// Every other signed token: the API server knows.
    pub kubernetes: Option<Arc<KubernetesReviewer>>,
    /// Join tokens.
    pub join: Option<Arc<JoinTokenReviewer>>,
    /// Renewal by certificate; needs no configuration, its record says who may.
    pub certificate: Option<Arc<CertificateReviewer>>,
}

impl Reviewers {
    /// Judges a request by its `authorization` metadata, or without one by the verified client certificate.
    ///
    /// # Errors
    /// Nothing proves anybody.
    pub async fn review(&self, authorization: Option<&str>, peer: Option<&Peer>) -> Result<Caller, Refused> {
        let Some(authorization) = authorization else {
            return match (&self.certificate, peer) {
                (Some(reviewer), Some(peer)) => reviewer.review(peer).await,
                _ => Err(Refused::new(Reason::NoCredentials, "a bearer token is needed (metadata `authorization`)")),
            };
        };
        let token = bearer(authorization)?;
        self.reviewer_of(token)?.review(token).await
    }

    /// Whom [`Reviewers::review`] would prove, where judging is dear: it uses up a token or looks through the record.
    ///
    /// # Errors
    /// As [`Reviewers::review`].
    pub async fn announced(
        &self,
        authorization: Option<&str>,
        peer: Option<&Peer>,
    ) -> Result<Option<SpiffeId>, Refused> {
        let Some(authorization) = authorization else {
            return Ok(self.certificate.as_ref().and(peer).map(|peer| peer.spiffe_id.clone()));
        };
        let token = bearer(authorization)?;
        self.reviewer_of(token)?.announced(token).await
    }

    fn reviewer_of(&self, token: &str) -> Result<&dyn TokenReviewer, Refused> {
        if is_jwt(token) {
            if let Some(oidc) = self.oidc.as_deref() {
                // Unverified, so good for choosing only; the chosen one verifies it.
                if oidc::claimed_issuer(token).as_deref() == Some(oidc.issuer()) {
                    return Ok(oidc);
                }
            }
            if let Some(kubernetes) = self.kubernetes.as_deref() {
                return Ok(kubernetes);
            }
            return Err(Refused::new(Reason::WrongIssuer, "nobody here vouches for this token's issuer"));
        }
        match self.join.as_deref() {
            Some(join) => Ok(join),
            None => Err(Refused::new(Reason::TokenMalformed, "the token is of no kind that is accepted here")),
        }
    }
}

/// The token of `Bearer TOKEN` (RFC 6750, section 2.1), within its bounds.
fn bearer(authorization: &str) -> Result<&str, Refused> {
    let malformed = |detail| Refused::new(Reason::TokenMalformed, detail);
    let (scheme, token) = authorization.trim().split_once(' ').ok_or_else(|| malformed("not `Bearer TOKEN`"))?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(malformed("the authorization scheme is not Bearer"));
    }
    let token = token.trim();
    if token.len() > MAX_TOKEN {
        return Err(Refused::new(Reason::TokenTooLarge, format!("a token has at most {MAX_TOKEN} bytes")));
    }
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(malformed("the token is empty or has characters that no token has"));
    }
    Ok(token)
}

/// Three base64url parts (RFC 7519, section 3.1), the signature perhaps empty.
fn is_jwt(token: &str) -> bool {
    let part = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    let parts: Vec<_> = token.splitn(4, '.').collect();
    parts.len() == 3 && parts.iter().all(|p| part(p)) && !parts[0].is_empty() && !parts[1].is_empty()
}

/// The identity of `system:serviceaccount:NAMESPACE:ACCOUNT`, Kubernetes' name of a service account.
pub(crate) fn service_account(trust_domain: &TrustDomain, username: &str) -> Result<SpiffeId, Refused> {
    let nobody = || Refused::new(Reason::NoIdentity, "only service accounts have identities in this mesh");
    let name = username.strip_prefix("system:serviceaccount:").ok_or_else(nobody)?;
    let (namespace, account) = name.split_once(':').ok_or_else(nobody)?;
    // Kubernetes has no such names; another issuer's `sub` might, to reach into somebody else's path.
    if name.contains('/') {
        return Err(nobody());
    }
    SpiffeId::workload(trust_domain, namespace, account)
        .map_err(|_| Refused::new(Reason::NoIdentity, "the service account's name makes no SPIFFE ID"))
}

#[cfg(test)]
mod tests;
