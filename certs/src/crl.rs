//! Certificate revocation lists (RFC 5280, section 5): which certificates an authority has taken back.
//!
//! A list is believed about the certificates of one issuer only: of the name in it, whose key signed it. The name alone
//! says nothing, since authorities of several trust domains, and successive ones of one, may be called the same.
//! Whether the issuer's certificate has the key usage cRLSign is not asked: its key can only make us stricter.
//! A list past its next update is still believed, because what it names stays revoked; a certificate of which no list
//! speaks is good.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateRevocationListDer, SubjectPublicKeyInfoDer};
use webpki::{CertRevocationList, Error as PathError, OwnedCertRevocationList, RawPublicKeyEntity};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::leaf::{printable, system_time};
use crate::{Error, pem, tls};

/// Issuers whose keys a list remembers to have been tried; there are a handful of CAs in a mesh.
const TRIED: usize = 64;

/// Who signs certificates and the lists that take them back: a name and the key behind it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Issuer {
    /// The distinguished name in DER, without its outer SEQUENCE.
    pub(crate) name: Box<[u8]>,
    pub(crate) key: SubjectPublicKeyInfoDer<'static>,
}

/// One revocation list.
pub struct RevocationList {
    der: Box<[u8]>,
    signed: Range<usize>,
    signature: Box<[u8]>,
    revoked: CertRevocationList<'static>,
    entries: usize,
    issuer: String,
    this_update: SystemTime,
    next_update: SystemTime,
    /// Whether the list is this issuer's, for those that were asked about.
    tried: Mutex<Vec<(Arc<Issuer>, bool)>>,
}

impl RevocationList {
    /// Reads every list of a file: PEM sections `X509 CRL`, or one list in DER.
    ///
    /// # Errors
    /// The file cannot be read, holds no list, or one that is malformed, a delta, indirect, or has no next update.
    pub fn load(path: &Path) -> Result<Vec<Arc<Self>>, Error> {
        Self::parse(path, &pem::read(path)?)
    }

    /// As [`RevocationList::load`] for the bytes of `path`, which is only named in errors.
    ///
    /// # Errors
    /// As [`RevocationList::load`], without the reading.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Arc<Self>>, Error> {
        // A DER list is a SEQUENCE; no text begins with a "0" and holds a PEM section all the same.
        let lists = if bytes.first() == Some(&0x30) && !bytes.starts_with(b"-----") {
            vec![CertificateRevocationListDer::from(bytes)]
        } else {
            let sections = CertificateRevocationListDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>();
            sections.map_err(|reason| pem::bad_pem(path, &reason))?
        };
        if lists.is_empty() {
            return Err(Error::NoPem { path: path.to_owned(), wanted: "X509 CRL" });
        }
        Self::from_der(path, &lists)
    }

    /// Reads lists in DER; `origin` names where they come from in errors.
    pub(crate) fn from_der(origin: &Path, lists: &[impl AsRef<[u8]>]) -> Result<Vec<Arc<Self>>, Error> {
        let read = |(index, der): (usize, &_)| {
            let list = Self::one(AsRef::<[u8]>::as_ref(der));
            list.map(Arc::new).map_err(|reason| Error::Crl { path: origin.to_owned(), index, reason })
        };
        lists.iter().enumerate().map(read).collect()
    }

    fn one(der: &[u8]) -> Result<Self, &'static str> {
        let revoked = OwnedCertRevocationList::from_der(der).map_err(|error| explain(&error))?;
        let (rest, parsed) = CertificateRevocationList::from_der(der).map_err(|_| "it is malformed")?;
        if !rest.is_empty() {
            return Err("it is malformed");
        }
        let signed = parsed.tbs_cert_list.as_ref();
        // The part is a slice of the whole, so its place follows from the addresses.
        let start = (signed.as_ptr() as usize).checked_sub(der.as_ptr() as usize).ok_or("it is malformed")?;
        let next_update = parsed.next_update().ok_or("it has no next update")?;
        Ok(Self {
            der: der.into(),
            signed: start..start + signed.len(),
            signature: parsed.signature_value.data.as_ref().into(),
            revoked: revoked.into(),
            entries: parsed.iter_revoked_certificates().count(),
            issuer: printable(&parsed.issuer().to_string()),
            this_update: system_time(parsed.last_update()),
            next_update: system_time(next_update),
            tried: Mutex::default(),
        })
    }

    /// The distinguished name of the authority that signed it, for people.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// When it was made.
    pub fn this_update(&self) -> SystemTime {
        self.this_update
    }

    /// Until when a newer one was to be made; it is believed later too.
    pub fn next_update(&self) -> SystemTime {
        self.next_update
    }

    /// How many certificates it names.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// The list as it was read.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whether it takes back the certificate of `issuer` with this serial number (as DER has it, without tag and
    /// length).
    pub(crate) fn revokes(&self, issuer: &Arc<Issuer>, serial: &[u8]) -> bool {
        self.revoked.issuer() == &*issuer.name
            && self.revoked.find_serial(serial).is_ok_and(|entry| entry.is_some())
            && self.is_signed_by(issuer)
    }

    /// Whether the signature is by the issuer's key; each key is tried once.
    fn is_signed_by(&self, issuer: &Arc<Issuer>) -> bool {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, signed)) = tried.iter().find(|(known, _)| Arc::ptr_eq(known, issuer) || known == issuer) {
            return *signed;
        }
        let signed = self.verify(issuer);
        if tried.len() < TRIED {
            tried.push((Arc::clone(issuer), signed));
        }
        signed
    }

    fn verify(&self, issuer: &Issuer) -> bool {
        let Ok(key) = RawPublicKeyEntity::try_from(&issuer.key) else { return false };
        let signed = &self.der[self.signed.clone()];
        let algorithms = tls::provider().signature_verification_algorithms.all;
        algorithms.iter().any(|&algorithm| key.verify_signature(algorithm, signed, &self.signature).is_ok())
    }
}

impl fmt::Debug for RevocationList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocationList")
            .field("issuer", &self.issuer)
            .field("entries", &self.entries)
            .field("this_update", &self.this_update)
            .field("next_update", &self.next_update)
            .finish_non_exhaustive()
    }
}

fn explain(error: &PathError) -> &'static str {
    match error {
        PathError::UnsupportedDeltaCrl => "delta lists are not supported",
        PathError::UnsupportedIndirectCrl => "indirect lists are not supported",
        PathError::UnsupportedCrlVersion => "only version 2 lists are supported",
        PathError::InvalidCrlNumber => "its number is malformed",
        PathError::UnsupportedCriticalExtension => "it has a critical extension that is not understood",
        _ => "it is malformed",
    }
}

#[cfg(test)]
mod tests;
