//! One certificate, explained.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use serde::Serialize;
use webpki::EndEntityCert;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ED25519,
};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::Content;
use crate::leaf::{self, Leaf, printable, system_time};
use crate::verify::{Clock, PeerRole, VerifyError};
use crate::{Fingerprint, TrustBundle, tls, verify_chain};

#[derive(Debug, Serialize)]
pub(super) struct CertificateReport {
    pub(super) kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) spiffe_id: Option<String>,
    /// Names other than the SPIFFE ID.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) names: Vec<String>,
    pub(super) subject: String,
    pub(super) issuer: String,
    pub(super) serial: String,
    pub(super) not_before: String,
    pub(super) not_after: String,
    /// Seconds until it ends; negative when it has.
    pub(super) expires_in_seconds: i64,
    #[serde(skip)]
    pub(super) begins_in_seconds: i64,
    pub(super) key: String,
    pub(super) sha256: String,
    pub(super) chain: Chain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    RootCa,
    IntermediateCa,
    Svid,
    /// A leaf that is no SVID.
    Certificate,
    Malformed,
}

/// Whether it leads to a root beside it.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub(super) enum Chain {
    /// It does: `root`, found in `file`.
    Valid { root: String, file: String },
    /// It is a root of the bundle itself.
    Root { file: String },
    /// It does not, or breaks a rule.
    Invalid { reason: &'static str, message: String },
    /// There is no bundle beside it.
    Unknown,
}

/// The file beside a certificate that says whom to trust.
pub(super) struct Roots<'a> {
    file: Option<(String, &'a [CertificateDer<'static>])>,
}

impl<'a> Roots<'a> {
    pub(super) fn among(beside: &'a BTreeMap<PathBuf, Content>, path: &Path) -> Self {
        let file = ["bundle.pem", "root.pem", "ca.pem"].into_iter().find_map(|name| {
            let content = beside.get(&path.with_file_name(name))?;
            (!content.certificates.is_empty()).then(|| (name.to_owned(), content.certificates.as_slice()))
        });
        Self { file }
    }
}

/// Explains `all[index]`; the certificates after it are its intermediates.
pub(super) fn explain(
    all: &[CertificateDer<'static>],
    index: usize,
    roots: &Roots<'_>,
    now: SystemTime,
) -> CertificateReport {
    let der = &all[index];
    let Ok((_, parsed)) = X509Certificate::from_der(der) else { return malformed(der) };
    let leaf = Leaf::parse(der, &[PeerRole::Client, PeerRole::Server]);
    let kind = match (parsed.is_ca(), &leaf) {
        (true, _) if parsed.subject() == parsed.issuer() => Kind::RootCa,
        (true, _) => Kind::IntermediateCa,
        (false, Ok(_)) => Kind::Svid,
        (false, Err(_)) => Kind::Certificate,
    };
    let (spiffe_id, names) = names(&parsed, leaf.as_ref().ok());
    let validity = parsed.validity();
    let (not_before, not_after) = (system_time(validity.not_before), system_time(validity.not_after));
    let chain = match kind {
        Kind::RootCa | Kind::IntermediateCa => chain_of_ca(der, &parsed, roots, now),
        _ => chain_of_leaf(&all[index..], leaf, roots, now),
    };
    CertificateReport {
        kind,
        spiffe_id,
        names,
        subject: printable(&parsed.subject().to_string()),
        issuer: printable(&parsed.issuer().to_string()),
        serial: leaf::serial(&parsed),
        not_before: Clock(&not_before).to_string(),
        not_after: Clock(&not_after).to_string(),
        expires_in_seconds: seconds_until(not_after, now),
        begins_in_seconds: seconds_until(not_before, now),
        key: key_of(parsed.public_key()),
        sha256: Fingerprint::of(der).to_string(),
        chain,
    }
}

/// The SPIFFE ID (a CA's is its trust domain), and every other name.
fn names(parsed: &X509Certificate<'_>, leaf: Option<&Leaf>) -> (Option<String>, Vec<String>) {
    let mut spiffe_id = leaf.map(|leaf| leaf.spiffe_id.to_string());
    let mut others = Vec::new();
    let extension = parsed.subject_alternative_name().ok().flatten();
    for name in extension.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default() {
        match name {
            GeneralName::URI(uri) if spiffe_id.as_deref() == Some(uri) => {}
            GeneralName::URI(uri) if parsed.is_ca() && spiffe_id.is_none() && uri.starts_with("spiffe://") => {
                spiffe_id = Some(printable(uri));
            }
            GeneralName::URI(uri) => others.push(format!("URI {}", printable(uri))),
            GeneralName::DNSName(name) => others.push(format!("DNS {}", printable(name))),
            other => others.push(printable(&other.to_string())),
        }
    }
    (spiffe_id, others)
}

fn chain_of_leaf(
    chain: &[CertificateDer<'static>],
    leaf: Result<Leaf, VerifyError>,
    roots: &Roots<'_>,
    now: SystemTime,
) -> Chain {
    let Some((file, certificates)) = &roots.file else {
        return leaf.map_or_else(invalid, |_| Chain::Unknown);
    };
    let judged = leaf.and_then(|leaf| {
        // Whatever domain it names: the question here is where the chain leads.
        let domain = leaf.spiffe_id.trust_domain().parse().map_err(|_| VerifyError::UnknownCa)?;
        let bundle = TrustBundle::from_certificates(domain, certificates).ok_or(VerifyError::UnknownCa)?;
        let peer = verify_chain(chain, PeerRole::Server, &bundle.clone().into(), &[], now)?;
        let root = bundle.root(peer.anchor).ok_or(VerifyError::UnknownCa)?;
        Ok(Chain::Valid { root: root.subject().to_owned(), file: file.clone() })
    });
    judged.unwrap_or_else(invalid)
}

fn chain_of_ca(
    der: &CertificateDer<'static>,
    parsed: &X509Certificate<'_>,
    roots: &Roots<'_>,
    now: SystemTime,
) -> Chain {
    let validity = parsed.validity();
    let (not_before, not_after) = (system_time(validity.not_before), system_time(validity.not_after));
    if now > not_after {
        return invalid(VerifyError::Expired { not_after, now });
    }
    if now < not_before {
        return invalid(VerifyError::NotYetValid { not_before, now });
    }
    let Some((file, certificates)) = &roots.file else { return Chain::Unknown };
    if certificates.contains(der) {
        return Chain::Root { file: file.clone() };
    }
    let signer = certificates.iter().find_map(|root| {
        let (_, root_parsed) = X509Certificate::from_der(root).ok()?;
        (root_parsed.subject() == parsed.issuer() && signed_by(parsed, root))
            .then(|| printable(&root_parsed.subject().to_string()))
    });
    match signer {
        Some(root) => Chain::Valid { root, file: file.clone() },
        None => invalid(VerifyError::UnknownCa),
    }
}

fn signed_by(parsed: &X509Certificate<'_>, issuer: &CertificateDer<'_>) -> bool {
    let Ok(issuer) = EndEntityCert::try_from(issuer) else { return false };
    let (message, signature) = (parsed.tbs_certificate.as_ref(), &parsed.signature_value.data);
    let algorithms = tls::provider().signature_verification_algorithms.all;
    algorithms.iter().any(|&algorithm| issuer.verify_signature(algorithm, message, signature).is_ok())
}

fn invalid(error: VerifyError) -> Chain {
    Chain::Invalid { reason: error.reason(), message: error.to_string() }
}

fn malformed(der: &CertificateDer<'_>) -> CertificateReport {
    CertificateReport {
        kind: Kind::Malformed,
        spiffe_id: None,
        names: Vec::new(),
        subject: String::new(),
        issuer: String::new(),
        serial: String::new(),
        not_before: String::new(),
        not_after: String::new(),
        expires_in_seconds: 0,
        begins_in_seconds: 0,
        key: String::new(),
        sha256: Fingerprint::of(der).to_string(),
        chain: invalid(VerifyError::BadCertificate(crate::verify::Defect::Malformed)),
    }
}

fn seconds_until(moment: SystemTime, now: SystemTime) -> i64 {
    match moment.duration_since(now) {
        Ok(ahead) => ahead.as_secs().try_into().unwrap_or(i64::MAX),
        Err(behind) => -behind.duration().as_secs().try_into().unwrap_or(i64::MAX),
    }
}

/// The SubjectPublicKeyInfo of a certificate, as DER.
pub(super) fn spki_of(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.public_key().raw.to_vec())
}

/// The kind of a key given as SubjectPublicKeyInfo.
pub(super) fn public_key_of(spki: &[u8]) -> String {
    SubjectPublicKeyInfo::from_der(spki).map_or_else(|_| "unknown".to_owned(), |(_, spki)| key_of(&spki))
}

fn key_of(key: &SubjectPublicKeyInfo<'_>) -> String {
    let algorithm = &key.algorithm.algorithm;
    if *algorithm == OID_SIG_ED25519 {
        return "Ed25519".to_owned();
    }
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
        let known = [(OID_EC_P256, "P-256"), (OID_NIST_EC_P384, "P-384"), (OID_NIST_EC_P521, "P-521")];
        let name =
            known.into_iter().find(|(oid, _)| curve.as_ref() == Some(oid)).map_or("another curve", |(_, name)| name);
        return format!("ECDSA {name}");
    }
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        return match key.parsed() {
            Ok(PublicKey::RSA(rsa)) => format!("RSA {}", rsa.key_size()),
            _ => "RSA".to_owned(),
        };
    }
    format!("unknown ({algorithm})")
}
