//! Certificates that a sane authority would not issue: expired, not yet valid, with a foreign name; signed by a real one.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
use time::{Duration, OffsetDateTime};

use crate::pod::PROXY;

/// What is asked of the forger.
#[derive(Clone, Debug)]
pub struct Forgery<'a> {
    /// The URI SANs.
    pub ids: &'a [&'a str],
    /// Seconds from now to the start of validity.
    pub from: i64,
    /// Seconds from now to its end.
    pub until: i64,
}

impl Default for Forgery<'_> {
    fn default() -> Self {
        Self { ids: &[], from: -60, until: 3_600 }
    }
}

/// Signs a leaf with the intermediate in `authority` and writes cert.pem, key.pem and bundle.pem into `out`.
///
/// # Panics
/// When the authority cannot be read.
pub fn forge(authority: &Path, out: &Path, forgery: &Forgery<'_>) {
    let read = |name: &str| std::fs::read_to_string(authority.join(name)).unwrap();
    let intermediate = read("intermediate.pem");
    let issuer =
        Issuer::from_ca_cert_pem(&intermediate, KeyPair::from_pem(&read("intermediate-key.pem")).unwrap()).unwrap();
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.not_before = now + Duration::seconds(forgery.from);
    params.not_after = now + Duration::seconds(forgery.until);
    params.subject_alt_names = forgery.ids.iter().map(|id| SanType::URI((*id).try_into().unwrap())).collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &issuer).unwrap();
    std::fs::create_dir_all(out).unwrap();
    std::fs::set_permissions(out, PermissionsExt::from_mode(0o755)).unwrap();
    for (name, text) in
        [("key.pem", key.serialize_pem()), ("cert.pem", leaf.pem() + &intermediate), ("bundle.pem", read("bundle.pem"))]
    {
        let file = out.join(name);
        std::fs::write(&file, text).unwrap();
        chown(&file, Some(PROXY), Some(PROXY)).unwrap();
    }
}
