//! A small certificate authority: a root, an intermediate that signs day to day, and leaves that are X.509-SVIDs.
//!
//! Keys are ECDSA P-256. Everything a certificate says is decided here; there is no way to ask for more.

mod directory;
#[cfg(test)]
pub(crate) mod fixture;

use std::cmp::{max, min};
use std::path::Path;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use remora_model::{SpiffeId, TrustDomain};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

pub use self::directory::{CaDirectory, Lifetimes};
use crate::leaf::system_time;
use crate::svid::certified_key;
use crate::{Error, pem};

/// How far back a CA certificate's validity begins, for clocks that are behind; further than any leaf's.
pub const CA_BACKDATE: Duration = Duration::from_secs(60 * 60);

/// From when until when a certificate is valid, both inclusive; whole seconds count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The beginning.
    pub not_before: SystemTime,
    /// The end.
    pub not_after: SystemTime,
}

impl Validity {
    /// From `backdate` before `now` until `lifetime` after it.
    pub fn around(now: SystemTime, backdate: Duration, lifetime: Duration) -> Self {
        Self { not_before: now - backdate, not_after: now + lifetime }
    }
}

/// A CA certificate with its key: what signs.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    trust_domain: Option<TrustDomain>,
    validity: Validity,
}

/// A new leaf with its key.
pub struct Issued {
    /// The leaf, then the certificate that signed it, as PEM.
    pub chain_pem: String,
    /// The private key as PKCS#8 PEM: write it where only its owner reads.
    pub key_pem: String,
    /// From when until when the leaf is valid.
    pub validity: Validity,
    /// The leaf's serial number, lower-case hexadecimal.
    pub serial: String,
}

impl Authority {
    /// Makes the root of `trust_domain`. It signs CA certificates only one level deep.
    ///
    /// # Errors
    /// The validity is empty, or there is no randomness.
    pub fn root(trust_domain: &TrustDomain, validity: Validity) -> Result<Self, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = ca_params(trust_domain, &key, "root", 1, validity)?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem, trust_domain: Some(trust_domain.clone()), validity })
    }

    /// Makes an intermediate signed by this root; it signs leaves only. Its validity is cut to the root's.
    ///
    /// # Errors
    /// As [`Authority::root`].
    pub fn intermediate(&self, trust_domain: &TrustDomain, validity: Validity) -> Result<Self, Error> {
        self.intermediate_as(trust_domain, self.cut(validity), |_| {})
    }

    /// As [`Authority::intermediate`], valid exactly as told, with a last word on what the certificate says.
    fn intermediate_as(
        &self,
        trust_domain: &TrustDomain,
        validity: Validity,
        amend: impl FnOnce(&mut CertificateParams),
    ) -> Result<Self, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = ca_params(trust_domain, &key, "intermediate", 0, validity)?;
        amend(&mut params);
        let pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem, trust_domain: Some(trust_domain.clone()), validity })
    }

    /// Reads a CA certificate and its key.
    ///
    /// # Errors
    /// A file cannot be read, the two do not match, or the certificate is not a CA's.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, Error> {
        let (certificate_pem, key_pem) = (pem::read(certificate)?, pem::read(key)?);
        let chain = pem::certificates(certificate, &certificate_pem)?;
        let first = chain[0].clone();
        let signer = pem::private_key(key, &key_pem)?;
        certified_key((certificate, chain), (key, &key_pem))?;
        let not_ca = || Error::NotCa(certificate.to_owned());
        let (_, parsed) = X509Certificate::from_der(&first).map_err(|_| not_ca())?;
        if !parsed.is_ca() {
            return Err(not_ca());
        }
        let validity = Validity {
            not_before: system_time(parsed.validity().not_before),
            not_after: system_time(parsed.validity().not_after),
        };
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&first, KeyPair::try_from(&signer)?)?,
            pem: String::from_utf8_lossy(&certificate_pem).into_owned(),
            trust_domain: signing_domain(&parsed),
            validity,
        })
    }

    /// The trust domain its certificate names; none for a CA that was made elsewhere and names none.
    pub fn trust_domain(&self) -> Option<&TrustDomain> {
        self.trust_domain.as_ref()
    }

    /// From when until when it may sign.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// The CA certificate as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// `wanted`, as far as this CA's own validity reaches.
    pub fn cut(&self, wanted: Validity) -> Validity {
        Validity {
            not_before: max(wanted.not_before, self.validity.not_before),
            not_after: min(wanted.not_after, self.validity.not_after),
        }
    }

    /// Makes a key and an SVID for `id`, valid exactly as told; see [`Authority::cut`]. Whether the CA should sign for
    /// this trust domain is the caller's to ask.
    ///
    /// # Errors
    /// The validity is empty, or there is no randomness.
    pub fn issue(&self, id: &SpiffeId, validity: Validity) -> Result<Issued, Error> {
        self.issue_as(id, validity, |_| {})
    }

    /// As [`Authority::issue`], with a last word on what the certificate says.
    fn issue_as(
        &self,
        id: &SpiffeId,
        validity: Validity,
        amend: impl FnOnce(&mut CertificateParams),
    ) -> Result<Issued, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let serial = random_serial()?;
        // The subject is empty: the URI is the identity, and then it is critical (RFC 5280, section 4.2.1.6).
        let mut params = params(validity, &serial)?;
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        amend(&mut params);
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            chain_pem: leaf.pem() + &self.pem,
            key_pem: key.serialize_pem(),
            validity,
            serial: serial.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }

    pub(crate) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }
}

/// 126 random bits in 16 bytes: positive, never shorter (RFC 5280, section 4.1.2.2).
pub(crate) fn random_serial() -> Result<[u8; 16], Error> {
    let mut serial = [0; 16];
    rand::fill(&mut serial).map_err(|_| Error::Random)?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

fn params(validity: Validity, serial: &[u8]) -> Result<CertificateParams, Error> {
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

fn ca_params(
    trust_domain: &TrustDomain,
    key: &KeyPair,
    kind: &str,
    path_length: u8,
    validity: Validity,
) -> Result<CertificateParams, Error> {
    let mut params = params(validity, &random_serial()?)?;
    // Two roots of one domain live side by side while one replaces the other: the key's digits tell them apart.
    let digits: String = params.key_identifier(key).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str());
    params.distinguished_name.push(DnType::CommonName, format!("{kind} {digits}"));
    // A signing certificate names its trust domain, without a path (X.509-SVID, section 3.2).
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").as_str().try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn signing_domain(certificate: &X509Certificate<'_>) -> Option<TrustDomain> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri.parse::<SpiffeId>().ok()?.trust_domain().parse().ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
