//! Certificates for this crate's tests: right ones, and ones that are wrong in exactly one way.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};
use remora_model::identity::{IdentityFiles, KeyKind};
use remora_model::{SpiffeId, TrustDomain};
use rustls_pki_types::CertificateDer;

use super::{Authority, Issued, Validity};
use crate::{Fingerprint, Identity, Svid, TrustBundle, pem};

pub(crate) const CATALOG: &str = "spiffe://example.org/ns/shop/sa/catalog";
pub(crate) const PRICING: &str = "spiffe://example.org/ns/shop/sa/pricing";

/// A root and an intermediate of one trust domain.
pub(crate) struct Ca {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) root: Authority,
    pub(crate) intermediate: Authority,
}

pub(crate) fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

pub(crate) fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 3600)
}

/// Around now, as certificates in use are.
pub(crate) fn current() -> Validity {
    Validity::around(SystemTime::now(), hours(1), hours(24))
}

impl Ca {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let trust_domain: TrustDomain = trust_domain.parse().unwrap();
        let long = Validity::around(SystemTime::now(), hours(1000), hours(10_000));
        let root = Authority::root(&trust_domain, long).unwrap();
        let intermediate = root.intermediate(&trust_domain, long).unwrap();
        Self { trust_domain, root, intermediate }
    }

    /// The same CA with another intermediate, amended.
    pub(crate) fn with_intermediate(mut self, validity: Validity, amend: impl FnOnce(&mut CertificateParams)) -> Self {
        self.intermediate = self.root.intermediate_as(&self.trust_domain, validity, KeyKind::P256, amend).unwrap();
        self
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        let pem = self.root.certificate_pem().as_bytes();
        TrustBundle::parse(self.trust_domain.clone(), Path::new("bundle.pem"), pem).unwrap()
    }

    pub(crate) fn issue(&self, text: &str) -> Issued {
        self.intermediate.issue(&id(text), current()).unwrap()
    }

    /// The chain of a leaf that says something else.
    pub(crate) fn amended(&self, amend: impl FnOnce(&mut CertificateParams)) -> Vec<CertificateDer<'static>> {
        chain(&self.intermediate.issue_as(&id(CATALOG), current(), KeyKind::P256, amend).unwrap())
    }

    pub(crate) fn identity(&self, text: &str) -> Identity {
        let issued = self.issue(text);
        let (certificate, key) = (issued.chain_pem.as_bytes(), issued.key_pem.as_bytes());
        let domain = text.parse::<SpiffeId>().unwrap().trust_domain().parse().unwrap();
        let svid = Svid::parse(&domain, (Path::new("cert.pem"), certificate), (Path::new("key.pem"), key)).unwrap();
        Identity::new(svid, self.bundle())
    }

    /// Writes an identity's three files into `directory`.
    pub(crate) fn write(&self, directory: &Path, issued: &Issued) {
        std::fs::create_dir_all(directory).unwrap();
        std::fs::write(directory.join("cert.pem"), &issued.chain_pem).unwrap();
        std::fs::write(directory.join("key.pem"), &issued.key_pem).unwrap();
        std::fs::write(directory.join("bundle.pem"), self.root.certificate_pem()).unwrap();
    }

    pub(crate) fn files(&self, directory: &Path) -> IdentityFiles {
        IdentityFiles {
            certificate: directory.join("cert.pem"),
            key: directory.join("key.pem"),
            trust_bundle: directory.join("bundle.pem"),
        }
    }
}

/// Signs under the name of `certificate` with `key`, whether they belong together or may sign at all; `chain_pem` is what
/// it shows for itself.
pub(crate) fn impostor(certificate: &CertificateDer<'_>, key: KeyPair, chain_pem: &str) -> Authority {
    let issuer = Issuer::from_ca_cert_der(certificate, key).unwrap();
    Authority {
        issuer,
        chain: vec![chain_pem.to_owned()],
        fingerprint: Fingerprint::of(certificate),
        anchor: None,
        trust_domain: None,
        validity: current(),
    }
}

/// A revocation list of `authority` in PEM, with these serial numbers (hexadecimal), made an hour before `next_update`.
pub(crate) fn crl(authority: &Authority, serials: &[&str], next_update: SystemTime) -> String {
    let revoked = |serial: &&str| RevokedCertParams {
        serial_number: SerialNumber::from_slice(&bytes(serial)),
        revocation_time: (next_update - hours(1)).into(),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: (next_update - hours(1)).into(),
        next_update: next_update.into(),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&authority.issuer).unwrap().pem().unwrap()
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits = hexadecimal.as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

pub(crate) fn chain(issued: &Issued) -> Vec<CertificateDer<'static>> {
    pem::certificates(Path::new("chain.pem"), issued.chain_pem.as_bytes()).unwrap()
}

/// A directory of its own, removed at the end.
pub(crate) struct TestDir(PathBuf);

impl TestDir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("remora-certs-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
