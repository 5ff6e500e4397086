//! Tokens of an OIDC issuer: a JWT signed by a key of its JWKS (RFC 7519; OpenID Connect Core, section 3.1.3.7).

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation};
use remora_model::{SpiffeId, TrustDomain};
use serde_json::{Map, Value};

use super::jwks::{JwksSource, Key};
use super::template::SubjectTemplate;
use super::{Caller, Proof, TokenReviewer, service_account};
use crate::server::refusal::{Reason, Refused};

/// How far the issuer's clock may be from ours when `exp` and `nbf` are judged, in seconds.
pub const LEEWAY: u64 = 30;

/// What may sign. Never `none`, and never a shared secret: a public key must not serve as one.
const ALGORITHMS: [Algorithm; 4] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA, Algorithm::PS256];

/// Judges the tokens of one issuer.
pub struct OidcReviewer {
    issuer: String,
    audience: String,
    keys: JwksSource,
    template: Option<SubjectTemplate>,
    trust_domain: TrustDomain,
}

impl OidcReviewer {
    /// Accepts tokens of `issuer` (exactly, as in `iss`) for `audience`. Without `template` a token must name a
    /// Kubernetes service account, in the claim `kubernetes.io` or as `sub`.
    pub fn new(
        issuer: String,
        audience: String,
        keys: JwksSource,
        template: Option<SubjectTemplate>,
        trust_domain: TrustDomain,
    ) -> Self {
        Self { issuer, audience, keys, template, trust_domain }
    }

    /// Whose tokens these are.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY;
        validation
    }

    fn identity(&self, claims: &Map<String, Value>) -> Result<SpiffeId, Refused> {
        if let Some(template) = &self.template {
            return template.identity(&self.trust_domain, claims);
        }
        if let Some(Value::Object(kubernetes)) = claims.get("kubernetes.io") {
            let account = kubernetes.get("serviceaccount").and_then(|account| account.get("name"));
            if let (Some(Value::String(namespace)), Some(Value::String(account))) =
                (kubernetes.get("namespace"), account)
            {
                return service_account(&self.trust_domain, &format!("system:serviceaccount:{namespace}:{account}"));
            }
        }
        service_account(&self.trust_domain, claims.get("sub").and_then(Value::as_str).unwrap_or_default())
    }
}

#[tonic::async_trait]
impl TokenReviewer for OidcReviewer {
    async fn review(&self, token: &str) -> Result<Caller, Refused> {
        let header = header(token)?;
        let key = self.keys.key(header.kid.as_deref()).await?;
        let claims = verify(token, &header, &key, &self.validation(header.alg))?;
        let spiffe_id = self.identity(&claims)?;
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Caller { spiffe_id, subject, proof: Proof::Oidc })
    }
}

/// The issuer a token claims, not verified.
pub(super) fn claimed_issuer(token: &str) -> Option<String> {
    let claims: Map<String, Value> = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    Some(claims.get("iss")?.as_str()?.to_owned())
}

/// The header, if what it asks for is understood and allowed.
fn header(token: &str) -> Result<Header, Refused> {
    // An algorithm the library has no name for, `none` among them, does not parse at all.
    let header = jsonwebtoken::decode_header(token).map_err(|_| {
        Refused::new(Reason::BadSignature, "the token's header is malformed or its algorithm not allowed")
    })?;
    if !ALGORITHMS.contains(&header.alg) {
        return Err(Refused::new(Reason::BadSignature, "the token's algorithm is not RS256, ES256, EdDSA or PS256"));
    }
    // A header that must be understood and is not (RFC 7515, section 4.1.11).
    if header.crit.is_some() {
        return Err(Refused::new(Reason::TokenMalformed, "the token has critical headers, which are not understood"));
    }
    Ok(header)
}

fn verify(token: &str, header: &Header, key: &Key, validation: &Validation) -> Result<Map<String, Value>, Refused> {
    if key.algorithm.is_some_and(|algorithm| algorithm != header.alg) {
        return Err(Refused::new(Reason::BadSignature, "the token's algorithm is not its key's"));
    }
    match jsonwebtoken::decode::<Map<String, Value>>(token, &key.decoding, validation) {
        Ok(data) => Ok(data.claims),
        Err(error) => Err(refused(error.kind())),
    }
}

fn refused(kind: &ErrorKind) -> Refused {
    let (reason, detail) = match kind {
        ErrorKind::ExpiredSignature => (Reason::TokenExpired, "the token has expired"),
        ErrorKind::ImmatureSignature => (Reason::TokenNotYetValid, "the token is not valid yet"),
        ErrorKind::InvalidAudience => (Reason::WrongAudience, "the token is for another audience"),
        ErrorKind::InvalidIssuer => (Reason::WrongIssuer, "the token is of another issuer"),
        ErrorKind::InvalidSignature
        | ErrorKind::InvalidAlgorithm
        | ErrorKind::UnsupportedAlgorithm
        | ErrorKind::InvalidKeyFormat => (Reason::BadSignature, "the token's signature does not hold"),
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => {
            (Reason::WrongAudience, "the token has no audience")
        }
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => (Reason::WrongIssuer, "the token has no issuer"),
        ErrorKind::MissingRequiredClaim(_) => (Reason::TokenExpired, "the token does not say until when it is valid"),
        _ => (Reason::TokenMalformed, "the token is malformed"),
    };
    Refused::new(reason, detail)
}
