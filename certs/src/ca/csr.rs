//! Certificate signing requests (RFC 2986): read, checked, and believed in nothing but the key.

use rcgen::SubjectPublicKeyInfo;
use remora_model::SpiffeId;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use crate::leaf::printable;

/// The largest request that is looked at, in bytes of PEM; an RSA-8192 request is a third of it.
pub const MAX_CSR_BYTES: usize = 16 * 1024;

/// Why a signing request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// Larger than [`MAX_CSR_BYTES`].
    #[error("the signing request has {0} bytes; at most {MAX_CSR_BYTES} are read")]
    TooLarge(usize),
    /// Not one PEM section of the kind `CERTIFICATE REQUEST`.
    #[error("the signing request is not PEM with one CERTIFICATE REQUEST")]
    NotPem,
    /// Its DER cannot be read, or something follows it.
    #[error("the signing request is malformed")]
    Malformed,
    /// Signed in a way, or with a key, that is not accepted.
    #[error(
        "the signing request's key or signature is of a kind not accepted: P-256, Ed25519 and RSA from 2048 to 8192 bits are"
    )]
    Kind,
    /// Not signed by the key it carries: whoever asks may not have the key.
    #[error("the signing request's signature is wrong")]
    Signature,
    /// It asks for a name besides the one that the asker proved.
    #[error("the signing request asks for {found}, but only {proved} is proved")]
    ForeignName {
        /// What it asks for, made printable.
        found: String,
        /// What was proved.
        proved: SpiffeId,
    },
}

/// A signing request whose signature is right; of what it says only the key is used.
#[derive(Clone, Debug)]
pub struct ParsedCsr {
    key: SubjectPublicKeyInfo,
    names: Vec<RequestedName>,
}

#[derive(Clone, Debug)]
enum RequestedName {
    Uri(String),
    Other(String),
}

impl ParsedCsr {
    /// Reads a PEM request and checks its size, its signature and the kind of its key.
    ///
    /// # Errors
    /// As [`CsrError`] says; never panics, whatever the bytes.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CsrError> {
        if pem.len() > MAX_CSR_BYTES {
            return Err(CsrError::TooLarge(pem.len()));
        }
        let mut sections = CertificateSigningRequestDer::pem_slice_iter(pem);
        match (sections.next(), sections.next()) {
            (Some(Ok(der)), None) => Self::from_der(&der),
            _ => Err(CsrError::NotPem),
        }
    }

    /// As [`ParsedCsr::from_pem`], from DER.
    ///
    /// # Errors
    /// As [`CsrError`] says.
    pub fn from_der(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > MAX_CSR_BYTES {
            return Err(CsrError::TooLarge(der.len()));
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed);
        }
        check_kind(&request)?;
        request.verify_signature().map_err(|_| CsrError::Signature)?;
        let key = SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
            .map_err(|_| CsrError::Kind)?;
        Ok(Self { key, names: names(&request)? })
    }

    /// The key, to be certified.
    pub(super) fn key(&self) -> &SubjectPublicKeyInfo {
        &self.key
    }

    /// Refuses a request that asks for any name but `proved`; asking for none is fine.
    ///
    /// # Errors
    /// [`CsrError::ForeignName`].
    pub fn check_names(&self, proved: &SpiffeId) -> Result<(), CsrError> {
        let foreign = self.names.iter().find_map(|name| match name {
            RequestedName::Uri(uri) if uri == proved.as_str() => None,
            RequestedName::Uri(text) | RequestedName::Other(text) => Some(text),
        });
        match foreign {
            Some(found) => Err(CsrError::ForeignName { found: printable(found), proved: proved.clone() }),
            None => Ok(()),
        }
    }
}

fn check_kind(request: &X509CertificationRequest<'_>) -> Result<(), CsrError> {
    let signed_by = &request.signature_algorithm.algorithm;
    let info = &request.certification_request_info.subject_pki;
    let is_any = |accepted: &[_]| accepted.contains(signed_by);
    let accepted = match info.parsed().map_err(|_| CsrError::Kind)? {
        PublicKey::RSA(key) => {
            let bits = key.modulus.iter().skip_while(|&&byte| byte == 0).count() * 8;
            (2048..=8192).contains(&bits)
                && is_any(&[OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA])
        }
        PublicKey::EC(_) => {
            let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
            curve.is_some_and(|curve| curve == OID_EC_P256)
                && is_any(&[OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384])
        }
        _ => info.algorithm.algorithm == OID_SIG_ED25519 && is_any(&[OID_SIG_ED25519]),
    };
    if accepted { Ok(()) } else { Err(CsrError::Kind) }
}

fn names(request: &X509CertificationRequest<'_>) -> Result<Vec<RequestedName>, CsrError> {
    let mut found = Vec::new();
    for extension in request.requested_extensions().into_iter().flatten() {
        match extension {
            ParsedExtension::SubjectAlternativeName(names) => {
                found.extend(names.general_names.iter().map(|name| match name {
                    GeneralName::URI(uri) => RequestedName::Uri((*uri).to_owned()),
                    other => RequestedName::Other(other.to_string()),
                }));
            }
            // A name that cannot be read cannot be compared either.
            ParsedExtension::ParseError { .. } => return Err(CsrError::Malformed),
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
