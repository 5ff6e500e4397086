//! Kubernetes TokenReview: the API server judges the token, including whether its pod and account still exist.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use remora_model::TrustDomain;

use super::{Caller, Proof, TokenReviewer, service_account};
use crate::server::KubernetesAccess;
use crate::server::error::Error;
use crate::server::refusal::{Reason, Refused};

/// How long one review may take before the caller is told to come again.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Asks the API server.
pub struct KubernetesReviewer {
    reviews: Api<TokenReview>,
    audience: String,
    trust_domain: TrustDomain,
}

impl KubernetesReviewer {
    /// Prepares to ask the API server. Only tokens for `audience` count. Needs the right to create `tokenreviews`
    /// (ClusterRole `system:auth-delegator`).
    ///
    /// # Errors
    /// The configuration cannot be read or used.
    pub async fn new(access: &KubernetesAccess, audience: String, trust_domain: TrustDomain) -> Result<Self, Error> {
        let client = match access {
            KubernetesAccess::Client(client) => client.clone(),
            KubernetesAccess::Kubeconfig(path) => client(kubeconfig(path).await?)?,
            KubernetesAccess::InCluster => {
                client(Config::incluster().map_err(|error| Error::InCluster(error.to_string()))?)?
            }
        };
        Ok(Self { reviews: Api::all(client), audience, trust_domain })
    }

    async fn ask(&self, token: &str) -> Result<TokenReviewStatus, Refused> {
        let unavailable = |detail: String| Refused::new(Reason::ReviewerUnavailable, detail);
        let spec = TokenReviewSpec { audiences: Some(vec![self.audience.clone()]), token: Some(token.to_owned()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let parameters = PostParams::default();
        let answer = tokio::time::timeout(TIMEOUT, self.reviews.create(&parameters, &review)).await;
        match answer {
            Ok(Ok(review)) => Ok(review.status.unwrap_or_default()),
            Ok(Err(kube::Error::Api(status))) => {
                // Its message may quote the request; the reason is a word.
                tracing::warn!(code = status.code, reason = %status.reason, "the API server refuses to review tokens");
                Err(unavailable(format!("the API server refuses to review tokens ({} {})", status.code, status.reason)))
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the API server cannot be asked");
                Err(unavailable("the API server cannot be asked".to_owned()))
            }
            Err(_) => Err(unavailable(format!("the API server did not answer within {TIMEOUT:?}"))),
        }
    }
}

async fn kubeconfig(path: &Path) -> Result<Config, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Kubeconfig { path: path.to_owned(), reason: error.to_string() };
    let read = Kubeconfig::read_from(path).map_err(|error| failed(&error))?;
    Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.map_err(|error| failed(&error))
}

fn client(mut config: Config) -> Result<Client, Error> {
    config.connect_timeout = Some(TIMEOUT);
    config.read_timeout = Some(TIMEOUT);
    Client::try_from(config).map_err(|error| Error::InCluster(error.to_string()))
}

#[tonic::async_trait]
impl TokenReviewer for KubernetesReviewer {
    async fn review(&self, token: &str) -> Result<Caller, Refused> {
        judge(&self.ask(token).await?, &self.audience, &self.trust_domain)
    }
}

/// What a review's answer proves.
fn judge(status: &TokenReviewStatus, audience: &str, trust_domain: &TrustDomain) -> Result<Caller, Refused> {
    if status.authenticated != Some(true) {
        // The server's own words tell an operator what is wrong, but may quote parts of the token: classes only.
        let error = status.error.as_deref().unwrap_or_default();
        return Err(if error.contains("audience") {
            Refused::new(Reason::WrongAudience, format!("the token is not for the audience {audience}"))
        } else if error.contains("expired") {
            Refused::new(Reason::TokenExpired, "the API server says that the token has expired")
        } else {
            Refused::new(Reason::TokenRejected, "the API server does not accept the token")
        });
    }
    // A server that does not know about audiences answers without them: that is no proof.
    if !status.audiences.iter().flatten().any(|confirmed| confirmed == audience) {
        let detail = format!("the API server does not confirm the audience {audience}");
        return Err(Refused::new(Reason::WrongAudience, detail));
    }
    let username = status.user.as_ref().and_then(|user| user.username.as_deref()).unwrap_or_default();
    Ok(Caller {
        spiffe_id: service_account(trust_domain, username)?,
        subject: username.to_owned(),
        proof: Proof::TokenReview,
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn status(username: &str, audiences: &[&str]) -> TokenReviewStatus {
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(audiences.iter().map(|&audience| audience.to_owned()).collect()),
            user: Some(UserInfo { username: Some(username.to_owned()), ..UserInfo::default() }),
            error: None,
        }
    }

    fn reason(status: &TokenReviewStatus) -> Reason {
        judge(status, "remora-ca", &"example.org".parse().unwrap()).unwrap_err().reason
    }

    #[test]
    fn a_service_account_is_named_by_its_namespace_and_name() {
        let status = status("system:serviceaccount:shop:cart", &["other", "remora-ca"]);
        let caller = judge(&status, "remora-ca", &"example.org".parse().unwrap()).unwrap();
        assert_eq!(caller.spiffe_id.as_str(), "spiffe://example.org/ns/shop/sa/cart");
        assert_eq!(caller.proof, Proof::TokenReview);
    }

    #[test]
    fn an_audience_that_is_not_confirmed_proves_nothing() {
        assert_eq!(reason(&status("system:serviceaccount:shop:cart", &["other"])), Reason::WrongAudience);
        assert_eq!(reason(&status("system:serviceaccount:shop:cart", &[])), Reason::WrongAudience);
    }

    #[test]
    fn only_service_accounts_have_identities() {
        for username in ["admin", "system:node:n", "system:serviceaccount:shop", "system:serviceaccount:a/b:c", ""] {
            assert_eq!(reason(&status(username, &["remora-ca"])), Reason::NoIdentity, "{username}");
        }
    }

    #[test]
    fn what_is_not_authenticated_is_refused_whatever_else_it_says() {
        let mut refused = status("system:serviceaccount:shop:cart", &["remora-ca"]);
        refused.authenticated = Some(false);
        assert_eq!(reason(&refused), Reason::TokenRejected);
        refused.authenticated = None;
        refused.error = Some("token audiences [\"x\"] is invalid".to_owned());
        assert_eq!(reason(&refused), Reason::WrongAudience);
        refused.error = Some("[invalid bearer token, service account token has expired]".to_owned());
        assert_eq!(reason(&refused), Reason::TokenExpired);
    }
}
