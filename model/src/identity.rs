//! Who a workload is: SPIFFE IDs and trust domains (the SPIFFE-ID specification, sections 2.1 to 2.3).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// How inbound connections must be protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MtlsMode {
    /// Every connection must be mTLS with an SVID of a trusted domain.
    Strict,
    /// mTLS of the mesh is terminated; plaintext and the application's own TLS pass too.
    #[default]
    Permissive,
    /// No mTLS is terminated.
    Off,
}

/// Who a workload is and whom it trusts: where its SVID comes from, and what peers are judged by besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IdentityConfig {
    /// The trust domain the SVID must belong to.
    pub trust_domain: TrustDomain,
    /// Where SVID and trust bundle come from.
    pub source: IdentitySource,
    /// Trust domains besides our own, each with roots that vouch for it alone.
    pub federated: Vec<FederatedBundle>,
    /// Files with PEM or DER revocation lists; watched.
    pub crls: Vec<PathBuf>,
    /// How old a mesh connection may become before it is drained; [`None`]: any age.
    pub max_connection_age: Option<Duration>,
    /// How long start-up waits for the first identity before it gives up.
    pub startup_timeout: Duration,
}

/// Where an SVID and its trust bundle come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentitySource {
    /// Three files, watched.
    Files(IdentityFiles),
    /// A certificate authority, asked with a key made here.
    Ca(CaClient),
    /// A SPIFFE Workload API, such as SPIRE's agent serves.
    WorkloadApi(WorkloadApi),
}

/// A certificate authority that speaks Istio's `CreateCertificate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CaClient {
    /// `HOST:PORT`.
    pub address: Arc<str>,
    /// The name its certificate must have; the address's host unless configured.
    pub server_name: Arc<str>,
    /// PEM roots that vouch for the authority's own certificate; read again for each connection.
    pub roots: PathBuf,
    /// The bearer token that proves who asks; read again for each request.
    pub token: PathBuf,
    /// What kind of key is made.
    pub key: KeyKind,
    /// The life asked for.
    pub ttl: Duration,
}

/// A kind of private key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyKind {
    /// ECDSA on P-256.
    #[default]
    P256,
    /// Ed25519.
    Ed25519,
    /// RSA with 2048 bits.
    Rsa2048,
}

/// A SPIFFE Workload API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkloadApi {
    /// Its unix socket.
    pub socket: PathBuf,
    /// Which of several SVIDs to use; the first where [`None`].
    pub spiffe_id: Option<SpiffeId>,
}

/// The roots of another trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FederatedBundle {
    /// The domain they vouch for.
    pub trust_domain: TrustDomain,
    /// PEM roots; watched.
    pub roots: PathBuf,
}

/// The files an identity is read from; all are watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IdentityFiles {
    /// PEM chain, leaf first.
    pub certificate: PathBuf,
    /// PEM private key (PKCS#8).
    pub key: PathBuf,
    /// PEM roots of the trust domain.
    pub trust_bundle: PathBuf,
}

/// A trust domain: lower-case letters, digits, dots, dashes and underscores; 1 to 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// A SPIFFE ID, `spiffe://TRUST-DOMAIN/PATH`; at most 2048 bytes. Displayed exactly as parsed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    domain_end: usize,
}

/// Why a text is not a SPIFFE ID or trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpiffeId {
    /// Does not begin with `spiffe://` (lower case).
    #[error("a SPIFFE ID begins with spiffe://")]
    Scheme,
    /// Longer than 2048 bytes, or a trust domain longer than 255.
    #[error("too long")]
    Length,
    /// The trust domain is empty or has a byte outside `a-z 0-9 . - _` (user info and ports are not allowed).
    #[error("a trust domain has only lower-case letters, digits, dots, dashes and underscores")]
    TrustDomain,
    /// A path segment is empty, `.` or `..`, or has a byte outside `A-Z a-z 0-9 . - _`.
    #[error(
        "each path segment has only letters, digits, dots, dashes and underscores, and is not empty, \".\" or \"..\""
    )]
    Path,
}

impl TrustDomain {
    /// The domain's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffeId {
    /// The ID of a Kubernetes-style workload: `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    ///
    /// # Errors
    /// `namespace` or `account` is not a valid path segment.
    pub fn workload(domain: &TrustDomain, namespace: &str, account: &str) -> Result<Self, InvalidSpiffeId> {
        format!("spiffe://{domain}/ns/{namespace}/sa/{account}").parse()
    }

    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain's text.
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..self.domain_end]
    }

    /// The path with its leading slash; empty for the ID of the trust domain itself.
    pub fn path(&self) -> &str {
        &self.text[self.domain_end..]
    }
}

const SCHEME: &str = "spiffe://";

fn check_domain(text: &str) -> Result<(), InvalidSpiffeId> {
    if text.len() > 255 {
        return Err(InvalidSpiffeId::Length);
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if text.is_empty() || !text.bytes().all(allowed) {
        return Err(InvalidSpiffeId::TrustDomain);
    }
    Ok(())
}

impl FromStr for TrustDomain {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_domain(text)?;
        Ok(Self(text.into()))
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > 2048 {
            return Err(InvalidSpiffeId::Length);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(InvalidSpiffeId::Scheme)?;
        let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
        check_domain(domain)?;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let segment = |s: &str| !matches!(s, "" | "." | "..") && s.bytes().all(allowed);
        if path.is_some_and(|path| !path.split('/').all(segment)) {
            return Err(InvalidSpiffeId::Path);
        }
        Ok(Self { text: text.into(), domain_end: SCHEME.len() + domain.len() })
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for TrustDomain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_a_workload_id() {
        let id: SpiffeId = "spiffe://example.org/ns/shop/sa/catalog".parse().unwrap();
        assert_eq!((id.trust_domain(), id.path()), ("example.org", "/ns/shop/sa/catalog"));
        assert_eq!(SpiffeId::workload(&"example.org".parse().unwrap(), "shop", "catalog"), Ok(id));
    }

    #[test]
    fn refuses_what_the_specification_refuses() {
        let too_long = format!("spiffe://a/{}", "x".repeat(2048));
        for text in [
            "",
            "http://a/b",
            "SPIFFE://a/b",
            "spiffe://",
            "spiffe:///x",
            "spiffe://A/x",
            "spiffe://a:1/x",
            "spiffe://u@a/x",
            "spiffe://a/",
            "spiffe://a//x",
            "spiffe://a/x/",
            "spiffe://a/.",
            "spiffe://a/../x",
            "spiffe://a/x?y",
            "spiffe://a/x#y",
            "spiffe://a/%41",
            "spiffe://a/x\0",
            "spiffe://ä/x",
            &too_long,
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?} was accepted");
        }
    }
}
