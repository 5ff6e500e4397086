//! A certificate authority: a root, an intermediate that signs day to day, and leaves that are X.509-SVIDs.
//!
//! [`Authority`] signs; [`CaDirectory`] keeps authorities, the trust bundle, the record of what was issued and join
//! tokens on disk, where nothing is lost to a crash. Everything a certificate says is decided in `profile`; there is no
//! way to ask for more.

mod change;
mod csr;
mod directory;
mod error;
mod files;
#[cfg(test)]
pub(crate) mod fixture;
mod init;
mod journal;
pub(crate) mod key;
mod lock;
mod plugin;
mod profile;
mod revocation;
pub mod rotation;
mod state;
mod token;

use std::cmp::{max, min};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, Issuer, KeyPair};
use remora_model::identity::KeyKind;
use remora_model::{SpiffeId, TrustDomain};
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

pub use self::change::NewRoot;
pub use self::csr::{CsrError, MAX_CSR_BYTES, ParsedCsr};
pub use self::directory::CaDirectory;
pub use self::error::CaError;
pub use self::init::Lifetimes;
pub use self::journal::{IssuedRecord, Proof, RENEWAL_GRACE, Seen};
pub(crate) use self::journal::{moment, seconds};
pub use self::plugin::SignerFiles;
use self::profile::{ca_params, leaf_params};
pub(crate) use self::profile::{hexadecimal, random_serial};
pub use self::state::{CaRoot, Phase, Revoked, Signer, State};
use crate::leaf::system_time;
use crate::svid::certified_key;
use crate::{Error, Fingerprint, pem};

/// How far back a leaf's validity begins, for peers whose clocks are behind.
pub const LEAF_BACKDATE: Duration = Duration::from_secs(2 * 60);

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
    // Its own certificate first, then those above it, without the root.
    chain: Vec<String>,
    fingerprint: Fingerprint,
    anchor: Option<Fingerprint>,
    trust_domain: Option<TrustDomain>,
    validity: Validity,
}

/// A new leaf with its key.
pub struct Issued {
    /// The leaf, then the certificates between it and the root, as PEM.
    pub chain_pem: String,
    /// The private key as PKCS#8 PEM: write it where only its owner reads.
    pub key_pem: String,
    /// From when until when the leaf is valid.
    pub validity: Validity,
    /// The leaf's serial number, lower-case hexadecimal.
    pub serial: String,
}

/// A new leaf for a key that somebody else holds.
#[derive(Clone, Debug)]
pub struct SignedLeaf {
    /// The leaf, then the certificates between it and the root, each as one PEM section.
    pub chain_pem: Vec<String>,
    /// The leaf's serial number, lower-case hexadecimal.
    pub serial: String,
    /// Whom it names.
    pub spiffe_id: SpiffeId,
    /// From when until when the leaf is valid.
    pub validity: Validity,
}

impl Authority {
    /// Makes the P-256 root of `trust_domain`. It signs CA certificates only one level deep.
    ///
    /// # Errors
    /// The validity is empty, or there is no randomness.
    pub fn root(trust_domain: &TrustDomain, validity: Validity) -> Result<Self, Error> {
        Self::root_of_kind(trust_domain, validity, KeyKind::P256)
    }

    /// As [`Authority::root`], with a key of another kind.
    ///
    /// # Errors
    /// As [`Authority::root`].
    pub fn root_of_kind(trust_domain: &TrustDomain, validity: Validity, kind: KeyKind) -> Result<Self, Error> {
        let key = key::generate(kind)?;
        let params = ca_params(trust_domain, &key, "root", 1, validity)?;
        let certificate = params.self_signed(&key)?;
        let fingerprint = Fingerprint::of(certificate.der());
        Ok(Self {
            issuer: Issuer::new(params, key),
            chain: vec![certificate.pem()],
            fingerprint,
            anchor: Some(fingerprint),
            trust_domain: Some(trust_domain.clone()),
            validity,
        })
    }

    /// Makes a P-256 intermediate signed by this root; it signs leaves only. Its validity is cut to the root's.
    ///
    /// # Errors
    /// As [`Authority::root`].
    pub fn intermediate(&self, trust_domain: &TrustDomain, validity: Validity) -> Result<Self, Error> {
        self.intermediate_of_kind(trust_domain, validity, KeyKind::P256)
    }

    /// As [`Authority::intermediate`], with a key of another kind.
    ///
    /// # Errors
    /// As [`Authority::root`]; [`Error::SignerNotValid`] where the root's validity does not overlap with `validity`.
    pub fn intermediate_of_kind(
        &self,
        trust_domain: &TrustDomain,
        validity: Validity,
        kind: KeyKind,
    ) -> Result<Self, Error> {
        self.intermediate_as(trust_domain, self.overlap(validity)?, kind, |_| {})
    }

    /// As [`Authority::intermediate`], valid exactly as told, with a last word on what the certificate says.
    fn intermediate_as(
        &self,
        trust_domain: &TrustDomain,
        validity: Validity,
        kind: KeyKind,
        amend: impl FnOnce(&mut CertificateParams),
    ) -> Result<Self, Error> {
        let key = key::generate(kind)?;
        let mut params = ca_params(trust_domain, &key, "intermediate", 0, validity)?;
        amend(&mut params);
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            fingerprint: Fingerprint::of(certificate.der()),
            chain: vec![certificate.pem()],
            anchor: self.anchor,
            trust_domain: Some(trust_domain.clone()),
            validity,
        })
    }

    /// Reads a CA certificate (followed, where there are more levels, by those above it) and its key: PKCS#8, SEC1 or
    /// PKCS#1.
    ///
    /// # Errors
    /// A file cannot be read, the two do not match, or a certificate is not a CA's.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, Error> {
        Self::parse((certificate, &pem::read(certificate)?), (key, &pem::read(key)?))
    }

    pub(crate) fn parse(
        (certificate, certificate_pem): (&Path, &[u8]),
        (key, key_pem): (&Path, &[u8]),
    ) -> Result<Self, Error> {
        let chain = pem::certificates(certificate, certificate_pem)?;
        let first = chain[0].clone();
        let signer = pem::private_key(key, key_pem)?;
        let (_, parsed) = X509Certificate::from_der(&first).map_err(|_| Error::NotCa(certificate.to_owned()))?;
        let mut validity = validity_of(&parsed);
        let mut pems = Vec::with_capacity(chain.len());
        for (index, (above, section)) in chain.iter().zip(pem::certificate_sections(certificate_pem)).enumerate() {
            let (_, parsed) = X509Certificate::from_der(above).map_err(|_| Error::NotCa(certificate.to_owned()))?;
            if !parsed.is_ca() {
                return Err(Error::NotCa(certificate.to_owned()));
            }
            let is_root = parsed.subject() == parsed.issuer();
            if index == 0 || !is_root {
                validity = overlap(validity, validity_of(&parsed));
                pems.push(section);
            }
        }
        let trust_domain = signing_domain(&parsed);
        let fingerprint = Fingerprint::of(&first);
        certified_key((certificate, chain.clone()), (key, key_pem))?;
        let issuer = Issuer::from_ca_cert_der(&first, KeyPair::try_from(&signer)?)?;
        Ok(Self { issuer, chain: pems, fingerprint, anchor: None, trust_domain, validity })
    }

    /// Finds the root of `roots` that vouches for this authority; its end caps what is issued from now on.
    pub(crate) fn beneath(mut self, certificate: &Path, roots: &[CertificateDer<'_>]) -> Result<Self, Error> {
        let own = pem::certificates(certificate, self.chain.concat().as_bytes())?;
        for root in roots {
            let Ok((_, parsed)) = X509Certificate::from_der(root) else { continue };
            let vouches = |der: &CertificateDer<'_>| {
                der == root || X509Certificate::from_der(der).is_ok_and(|(_, child)| is_signed_by(&child, &parsed))
            };
            if own.last().is_some_and(vouches) {
                self.validity = overlap(self.validity, validity_of(&parsed));
                self.anchor = Some(Fingerprint::of(root));
                return Ok(self);
            }
        }
        Err(CaError::NoAnchor(certificate.to_owned()).into())
    }

    /// The trust domain its certificate names; none for a CA that was made elsewhere and names none.
    pub fn trust_domain(&self) -> Option<&TrustDomain> {
        self.trust_domain.as_ref()
    }

    /// From when until when it may sign.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// The SHA-256 of its own certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The SHA-256 of the root above it; [`None`] where that is not known.
    pub fn anchor(&self) -> Option<Fingerprint> {
        self.anchor
    }

    /// Its own certificate as PEM.
    pub fn certificate_pem(&self) -> &str {
        self.chain.first().map_or("", String::as_str)
    }

    /// `wanted`, as far as this CA's own validity reaches.
    pub fn cut(&self, wanted: Validity) -> Validity {
        overlap(self.validity, wanted)
    }

    /// As [`Authority::cut`], where something is left.
    fn overlap(&self, wanted: Validity) -> Result<Validity, Error> {
        let cut = self.cut(wanted);
        if cut.not_after < cut.not_before && wanted.not_before <= wanted.not_after {
            let Validity { not_before, not_after } = self.validity;
            return Err(Error::SignerNotValid { not_before, not_after });
        }
        Ok(cut)
    }

    /// What a leaf issued at `now` for `ttl` gets: from [`LEAF_BACKDATE`] earlier, until the CA's end at most.
    ///
    /// # Errors
    /// [`Error::SignerNotValid`]: the CA, or a certificate above it, is not valid at `now`.
    pub fn leaf_validity(&self, now: SystemTime, ttl: Duration) -> Result<Validity, Error> {
        let Validity { not_before, not_after } = self.validity;
        if now < not_before || now > not_after {
            return Err(Error::SignerNotValid { not_before, not_after });
        }
        self.overlap(Validity::around(now, LEAF_BACKDATE, ttl))
    }

    /// Makes a P-256 key and an SVID for `id`, valid exactly as told; see [`Authority::cut`]. Whether the CA should
    /// sign for this trust domain is the caller's to ask.
    ///
    /// # Errors
    /// The validity is empty, or there is no randomness.
    pub fn issue(&self, id: &SpiffeId, validity: Validity) -> Result<Issued, Error> {
        self.issue_as(id, validity, KeyKind::P256, |_| {})
    }

    /// As [`Authority::issue`], with a key of another kind.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn issue_of_kind(&self, id: &SpiffeId, validity: Validity, kind: KeyKind) -> Result<Issued, Error> {
        self.issue_as(id, validity, kind, |_| {})
    }

    /// As [`Authority::issue`], with a last word on what the certificate says.
    pub(crate) fn issue_as(
        &self,
        id: &SpiffeId,
        validity: Validity,
        kind: KeyKind,
        amend: impl FnOnce(&mut CertificateParams),
    ) -> Result<Issued, Error> {
        let key = key::generate(kind)?;
        let (mut params, serial) = leaf_params(id, validity)?;
        amend(&mut params);
        let leaf = params.signed_by(&key, &self.issuer)?;
        let chain_pem = leaf.pem() + &self.chain.concat();
        Ok(Issued { chain_pem, key_pem: key.serialize_pem(), validity, serial })
    }

    /// Makes an SVID for `id` with the request's key, valid exactly as told; see [`Authority::leaf_validity`]. Of the
    /// request nothing else counts.
    ///
    /// # Errors
    /// The request asks for another name, `id` is of another trust domain than this CA, or the validity is empty.
    pub fn sign_csr(&self, csr: &ParsedCsr, id: &SpiffeId, validity: Validity) -> Result<SignedLeaf, Error> {
        csr.check_names(id).map_err(CaError::Csr)?;
        self.check_domain(id)?;
        let (params, serial) = leaf_params(id, validity)?;
        let leaf = params.signed_by(csr.key(), &self.issuer)?;
        let chain_pem = std::iter::once(leaf.pem()).chain(self.chain.iter().cloned()).collect();
        Ok(SignedLeaf { chain_pem, serial, spiffe_id: id.clone(), validity })
    }

    /// Refuses an identity of another trust domain than the one this CA's certificate names.
    ///
    /// # Errors
    /// [`Error::ForeignId`].
    pub fn check_domain(&self, id: &SpiffeId) -> Result<(), Error> {
        match &self.trust_domain {
            Some(ours) if ours.as_str() != id.trust_domain() => {
                Err(Error::ForeignId { id: id.clone(), trust_domain: ours.clone() })
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }
}

fn overlap(one: Validity, other: Validity) -> Validity {
    Validity { not_before: max(one.not_before, other.not_before), not_after: min(one.not_after, other.not_after) }
}

fn validity_of(certificate: &X509Certificate<'_>) -> Validity {
    Validity {
        not_before: system_time(certificate.validity().not_before),
        not_after: system_time(certificate.validity().not_after),
    }
}

fn is_signed_by(child: &X509Certificate<'_>, parent: &X509Certificate<'_>) -> bool {
    child.issuer() == parent.subject() && child.verify_signature(Some(parent.public_key())).is_ok()
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
