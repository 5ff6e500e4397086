//! The parts of an X.509-SVID leaf that identify a workload, read once and checked by the rules that need no CA:
//! X.509-SVID sections 2 (one URI SAN), 4.1 (not a CA), 4.3 (key usage) and 4.4 (extended key usage).

use std::time::{Duration, SystemTime};

use remora_model::SpiffeId;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use crate::ca;
use crate::verify::{Defect, PeerRole, SanDefect, VerifyError};

/// Tag number of `uniformResourceIdentifier` in GeneralName (RFC 5280, section 4.2.1.6).
const URI_TAG: u32 = 6;

/// What a well-formed leaf says.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) serial: String,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Leaf {
    /// Reads `der`; it must be fit for each of `roles`.
    pub(crate) fn parse(der: &CertificateDer<'_>, roles: &[PeerRole]) -> Result<Self, VerifyError> {
        let malformed = || VerifyError::BadCertificate(Defect::Malformed);
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| malformed())?;
        if !rest.is_empty() {
            return Err(malformed());
        }
        check_usages(&certificate, roles)?;
        let spiffe_id = only_uri(&certificate)?;
        Ok(Self {
            spiffe_id,
            serial: serial(&certificate),
            not_before: system_time(certificate.validity().not_before),
            not_after: system_time(certificate.validity().not_after),
        })
    }

    /// Refuses a leaf whose validity does not contain `now`.
    pub(crate) fn check_time(&self, now: SystemTime) -> Result<(), VerifyError> {
        if now > self.not_after {
            return Err(VerifyError::Expired { not_after: self.not_after, now });
        }
        if now < self.not_before {
            return Err(VerifyError::NotYetValid { not_before: self.not_before, now });
        }
        Ok(())
    }
}

/// The serial number in lower-case hexadecimal, two digits a byte, as OpenSSL counts it.
pub(crate) fn serial(certificate: &X509Certificate<'_>) -> String {
    hexadecimal(certificate.raw_serial())
}

/// A number in DER's bytes as lower-case hexadecimal, two digits a byte, without leading zero bytes.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    let significant = bytes.iter().position(|&byte| byte != 0).unwrap_or(bytes.len().saturating_sub(1));
    ca::hexadecimal(&bytes[significant..])
}

/// Text out of a certificate as it may be printed: whoever made it must not write to our terminal or start log lines.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { printable.extend(c.escape_default()) } else { printable.push(c) }
    }
    printable
}

/// A moment of X.509 as system time; moments before 1970 count as 1970.
pub(crate) fn system_time(time: ASN1Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.timestamp().try_into().unwrap_or(0))
}

fn check_usages(certificate: &X509Certificate<'_>, roles: &[PeerRole]) -> Result<(), VerifyError> {
    let defect = |defect| Err(VerifyError::BadCertificate(defect));
    let malformed = |_| VerifyError::BadCertificate(Defect::Malformed);
    if certificate.basic_constraints().map_err(malformed)?.is_some_and(|basic| basic.value.ca) {
        return defect(Defect::CaAsLeaf);
    }
    if let Some(usage) = certificate.key_usage().map_err(malformed)? {
        if usage.value.key_cert_sign() || usage.value.crl_sign() {
            return defect(Defect::LeafMaySign);
        }
        if !usage.value.digital_signature() {
            return defect(Defect::NoDigitalSignature);
        }
    }
    let extended = certificate.extended_key_usage().map_err(malformed)?;
    let has = |role| {
        extended.as_ref().is_some_and(|usage| match role {
            PeerRole::Client => usage.value.client_auth,
            PeerRole::Server => usage.value.server_auth,
        })
    };
    match roles.iter().find(|&&role| !has(role)) {
        Some(&role) => defect(Defect::ExtendedKeyUsage(role)),
        None => Ok(()),
    }
}

fn only_uri(certificate: &X509Certificate<'_>) -> Result<SpiffeId, VerifyError> {
    let names = certificate.subject_alternative_name().map_err(|_| VerifyError::BadCertificate(Defect::Malformed))?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let mut found = None;
    for name in names {
        let text = match name {
            GeneralName::URI(text) => text,
            // Not even text: it still counts as a URI, and fails as one.
            GeneralName::Invalid(tag, _) if tag.0 == URI_TAG => "",
            _ => continue,
        };
        if found.replace(text).is_some() {
            return Err(VerifyError::InvalidSpiffeId(SanDefect::SeveralUris));
        }
    }
    let text = found.ok_or(VerifyError::InvalidSpiffeId(SanDefect::NoUri))?;
    text.parse().map_err(|reason| VerifyError::InvalidSpiffeId(SanDefect::NotSpiffe { uri: printable(text), reason }))
}
