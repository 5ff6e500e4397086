//! Whom a workload trusts: the roots of one trust domain. Several roots at once are normal while a root is replaced.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use remora_model::TrustDomain;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, TrustAnchor};
use webpki::anchor_from_trusted_cert;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::crl::Issuer;
use crate::leaf::{printable, system_time};
use crate::{Error, Fingerprint, pem};

/// The trust anchors of one trust domain; at least one.
#[derive(Clone, Debug)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Vec<Root>,
    // Parallel to `roots`, in the one piece that path building needs.
    anchors: Vec<TrustAnchor<'static>>,
}

/// One root certificate.
#[derive(Clone, Debug)]
pub struct Root {
    certificate: CertificateDer<'static>,
    fingerprint: Fingerprint,
    issuer: Arc<Issuer>,
    subject: String,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Root {
    /// The certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The SHA-256 of the certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Name and key, as certificates that it signed see them.
    pub(crate) fn issuer(&self) -> &Arc<Issuer> {
        &self.issuer
    }

    /// The subject's distinguished name, for people.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// From when the root is valid.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when the root is valid; no chain is accepted through it later.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

impl TrustBundle {
    /// Reads the PEM roots of `trust_domain` from `path`. A root listed twice counts once; expired roots stay listed,
    /// but nothing is accepted through them.
    ///
    /// # Errors
    /// The file cannot be read, holds no certificate, or one that is not a CA's.
    pub fn load(trust_domain: TrustDomain, path: &Path) -> Result<Self, Error> {
        Self::parse(trust_domain, path, &pem::read(path)?)
    }

    /// As [`TrustBundle::load`] for the bytes of `path`, which is only named in errors.
    ///
    /// # Errors
    /// As [`TrustBundle::load`], without the reading.
    pub fn parse(trust_domain: TrustDomain, path: &Path, pem: &[u8]) -> Result<Self, Error> {
        Self::from_der(trust_domain, path, pem::certificates(path, pem)?)
    }

    /// A bundle of these certificates, which must all be roots; `origin` names where they come from in errors.
    pub(crate) fn from_der(
        trust_domain: TrustDomain,
        origin: &Path,
        certificates: Vec<CertificateDer<'static>>,
    ) -> Result<Self, Error> {
        if certificates.is_empty() {
            return Err(Error::EmptyBundle { path: origin.to_owned() });
        }
        let mut bundle = Self { trust_domain, roots: Vec::new(), anchors: Vec::new() };
        for (index, certificate) in certificates.into_iter().enumerate() {
            bundle.add(certificate).map_err(|reason| Error::Root { path: origin.to_owned(), index, reason })?;
        }
        Ok(bundle)
    }

    /// A bundle of those among `certificates` that can be roots; none when there are none.
    pub(crate) fn from_certificates(
        trust_domain: TrustDomain,
        certificates: &[CertificateDer<'static>],
    ) -> Option<Self> {
        let mut bundle = Self { trust_domain, roots: Vec::new(), anchors: Vec::new() };
        for certificate in certificates {
            // What cannot be a root is no reason to distrust the others.
            let _ = bundle.add(certificate.clone());
        }
        (!bundle.roots.is_empty()).then_some(bundle)
    }

    fn add(&mut self, certificate: CertificateDer<'static>) -> Result<(), &'static str> {
        let (root, anchor) = parse_root(certificate)?;
        if self.root(root.fingerprint).is_none() {
            self.roots.push(root);
            self.anchors.push(anchor);
        }
        Ok(())
    }

    /// The trust domain whose identities these roots vouch for; for no other domain's.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots, in the file's order.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// The root with this fingerprint.
    pub fn root(&self, fingerprint: Fingerprint) -> Option<&Root> {
        self.roots.iter().find(|root| root.fingerprint == fingerprint)
    }

    /// Whether both have the same domain and the same roots in the same order.
    pub(crate) fn same(&self, other: &Self) -> bool {
        let fingerprints = |bundle: &Self| bundle.roots.iter().map(Root::fingerprint).collect::<Vec<_>>();
        self.trust_domain == other.trust_domain && fingerprints(self) == fingerprints(other)
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// The root behind an anchor that came from [`TrustBundle::anchors`].
    pub(crate) fn root_of(&self, anchor: &TrustAnchor<'_>) -> Option<&Root> {
        let index = self.anchors.iter().position(|known| std::ptr::eq(known, anchor) || known == anchor)?;
        self.roots.get(index)
    }
}

fn parse_root(certificate: CertificateDer<'static>) -> Result<(Root, TrustAnchor<'static>), &'static str> {
    let anchor = anchor_from_trusted_cert(&certificate).map_err(|_| "it is malformed")?.to_owned();
    let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|_| "it is malformed")?;
    if !parsed.is_ca() {
        return Err("its basic constraints do not say CA");
    }
    let root = Root {
        fingerprint: Fingerprint::of(&certificate),
        issuer: Arc::new(Issuer {
            name: anchor.subject.as_ref().into(),
            key: SubjectPublicKeyInfoDer::from(parsed.public_key().raw.to_vec()),
        }),
        subject: printable(&parsed.subject().to_string()),
        not_before: system_time(parsed.validity().not_before),
        not_after: system_time(parsed.validity().not_after),
        certificate: certificate.clone(),
    };
    Ok((root, anchor))
}
