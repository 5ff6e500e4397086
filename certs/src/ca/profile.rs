//! What a CA's certificates say: the one place where their fields are chosen.

use aws_lc_rs::rand;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use remora_model::{SpiffeId, TrustDomain};

use super::Validity;
use crate::Error;

/// 126 random bits in 16 bytes: positive, never shorter (RFC 5280, section 4.1.2.2).
pub(crate) fn random_serial() -> Result<[u8; 16], Error> {
    let mut serial = [0; 16];
    rand::fill(&mut serial).map_err(|_| Error::Random)?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

pub(super) fn params(validity: Validity, serial: &[u8]) -> Result<CertificateParams, Error> {
    let Validity { not_before, not_after } = validity;
    if not_after < not_before {
        return Err(Error::EmptyValidity { not_before, not_after });
    }
    let mut params = CertificateParams::default();
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.distinguished_name = DistinguishedName::new();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

pub(super) fn ca_params(
    trust_domain: &TrustDomain,
    key: &KeyPair,
    kind: &str,
    path_length: u8,
    validity: Validity,
) -> Result<CertificateParams, Error> {
    let mut params = params(validity, &random_serial()?)?;
    // Two roots of one domain live side by side while one replaces the other: the key's digits tell them apart.
    let digits = hexadecimal(&params.key_identifier(key)[..4]);
    params.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str());
    params.distinguished_name.push(DnType::CommonName, format!("{kind} {digits}"));
    // A signing certificate names its trust domain, without a path (X.509-SVID, section 3.2).
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").as_str().try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// An SVID's leaf for `id` (X.509-SVID, sections 2 and 4), with its serial number.
pub(super) fn leaf_params(id: &SpiffeId, validity: Validity) -> Result<(CertificateParams, String), Error> {
    let serial = random_serial()?;
    // The subject is empty: the URI is the identity, and then it is critical (RFC 5280, section 4.2.1.6).
    let mut params = params(validity, &serial)?;
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok((params, hexadecimal(&serial)))
}

/// Two lower-case digits a byte.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
