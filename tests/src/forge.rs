//! Certificates that a sane authority would not issue: expired, not yet valid, with a foreign name, fit for nothing;
//! signed by a real one. And an intermediate that may not sign for whom it signs.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
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
    forge_as(authority, out, forgery, |_| {});
}

/// As [`forge`]; `amend` has the last word about the leaf.
///
/// # Panics
/// As [`forge`].
pub fn forge_as(authority: &Path, out: &Path, forgery: &Forgery<'_>, amend: impl FnOnce(&mut CertificateParams)) {
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
    amend(&mut params);
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &issuer).unwrap();
    write(
        out,
        [
            ("key.pem", key.serialize_pem()),
            ("cert.pem", leaf.pem() + &intermediate),
            ("bundle.pem", read("bundle.pem")),
        ],
    );
}

/// Makes an authority in `out` under the same root as `authority`, whose intermediate may sign only for URIs of the host
/// `permitted` (a critical name constraint, RFC 5280 section 4.2.1.10).
///
/// # Panics
/// When the authority cannot be read.
pub fn constrain(authority: &Path, out: &Path, permitted: &str) {
    let read = |name: &str| std::fs::read_to_string(authority.join(name)).unwrap();
    let root = Issuer::from_ca_cert_pem(&read("root.pem"), KeyPair::from_pem(&read("root-key.pem")).unwrap()).unwrap();
    let length = |bytes: usize| u8::try_from(bytes).unwrap();
    let name = permitted.as_bytes();
    // permittedSubtrees [0] { GeneralSubtree { uniformResourceIdentifier [6] permitted } }
    let mut content = vec![0x30, length(name.len() + 6), 0xa0, length(name.len() + 4), 0x30, length(name.len() + 2)];
    content.extend([0x86, length(name.len())]);
    content.extend(name);
    let mut constraint = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
    constraint.set_criticality(true);
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "a constrained intermediate");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = OffsetDateTime::now_utc() - Duration::HOUR;
    params.not_after = OffsetDateTime::now_utc() + Duration::DAY;
    params.custom_extensions.push(constraint);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &root).unwrap();
    let files = [
        ("intermediate.pem", certificate.pem()),
        ("intermediate-key.pem", key.serialize_pem()),
        ("bundle.pem", read("bundle.pem")),
    ];
    write(out, files);
}

fn write<const N: usize>(out: &Path, files: [(&str, String); N]) {
    std::fs::create_dir_all(out).unwrap();
    std::fs::set_permissions(out, PermissionsExt::from_mode(0o755)).unwrap();
    for (name, text) in files {
        let file = out.join(name);
        std::fs::write(&file, text).unwrap();
        chown(&file, Some(PROXY), Some(PROXY)).unwrap();
    }
}

/// A revocation list of the intermediate in `authority`, as PEM: these serial numbers, in hexadecimal.
///
/// # Panics
/// When the authority cannot be read, or a serial number is none.
#[must_use]
pub fn revoke(authority: &Path, serials: &[&str]) -> String {
    let read = |name: &str| std::fs::read_to_string(authority.join(name)).unwrap();
    let key = KeyPair::from_pem(&read("intermediate-key.pem")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("intermediate.pem"), key).unwrap();
    let now = OffsetDateTime::now_utc();
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    let revoked = serials.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(bytes(serial)),
        revocation_time: now,
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: now,
        next_update: now + Duration::hours(1),
        crl_number: SerialNumber::from(1u64),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&issuer).unwrap().pem().unwrap()
}
