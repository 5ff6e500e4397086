//! Whom a workload trusts: the roots of one trust domain. Several roots at once are normal while a root is replaced.

use std::path::Path;
use std::time::SystemTime;

use remora_model::TrustDomain;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use webpki::anchor_from_trusted_cert;
use x509_parser::prelude::{FromDer, X509Certificate};

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

    pub(crate) fn parse(trust_domain: TrustDomain, path: &Path, pem: &[u8]) -> Result<Self, Error> {
        let mut bundle = Self { trust_domain, roots: Vec::new(), anchors: Vec::new() };
        for (index, certificate) in pem::certificates(path, pem)?.into_iter().enumerate() {
            bundle.add(certificate).map_err(|reason| Error::Root { path: path.to_owned(), index, reason })?;
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
        subject: printable(&parsed.subject().to_string()),
        not_before: system_time(parsed.validity().not_before),
        not_after: system_time(parsed.validity().not_after),
        certificate: certificate.clone(),
    };
    Ok((root, anchor))
}
