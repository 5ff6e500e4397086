use std::process::Command;

use super::*;
use crate::ca::fixture::{CATALOG, Ca, TestDir, hours, id};
use crate::ca::{Issued, LEAF_BACKDATE, Lifetimes, Proof, SignedLeaf, Validity};
use crate::{PeerRole, TrustBundle, verify_chain};
use remora_model::identity::KeyKind;

fn lifetimes() -> Lifetimes {
    Lifetimes { root: hours(2400), intermediate: hours(240) }
}

fn init(directory: &TestDir) -> CaDirectory {
    CaDirectory::init(&directory.path().join("ca"), &"example.org".parse().unwrap(), lifetimes()).unwrap()
}

fn record(ca: &CaDirectory) -> IssuedRecord {
    let now = SystemTime::now();
    let leaf = SignedLeaf {
        chain_pem: Vec::new(),
        serial: "0a".to_owned(),
        spiffe_id: id(CATALOG),
        validity: Validity::around(now, LEAF_BACKDATE, hours(1)),
    };
    IssuedRecord::of(&leaf, ca.authority(), ca.bundle_version(), Proof::Oidc, now).unwrap()
}

fn corrupt(ca: &CaDirectory, name: &str, content: &[u8]) -> String {
    let path = ca.path().join(name);
    let before = std::fs::read(&path).unwrap();
    std::fs::write(&path, content).unwrap();
    let error = CaDirectory::open(ca.path()).unwrap_err().to_string();
    assert_eq!(std::fs::read(&path).unwrap(), content, "nothing is made anew");
    std::fs::write(&path, before).unwrap();
    assert!(CaDirectory::open(ca.path()).is_ok());
    error
}

#[test]
fn a_corrupt_state_is_refused_and_left_alone() {
    let directory = TestDir::new();
    let ca = init(&directory);
    let error = corrupt(&ca, STATE_FILE, b"");
    assert!(error.contains("state.json: the CA's state cannot be used"), "{error}");
    let state = std::fs::read_to_string(ca.path().join(STATE_FILE)).unwrap();
    let error = corrupt(&ca, STATE_FILE, state.replace("\"version\": 1", "\"version\": 2").as_bytes());
    assert!(error.contains("version 2 is not known"), "{error}");
    let error = corrupt(&ca, STATE_FILE, state.replace("root.pem", "../root.pem").as_bytes());
    assert!(error.contains("is not the name of a file"), "{error}");
    let other = Ca::new("example.org");
    let error = corrupt(&ca, "root.pem", other.root.certificate_pem().as_bytes());
    assert!(error.contains("root.pem: the CA's state cannot be used: its SHA-256 is"), "{error}");
    let error = corrupt(&ca, "intermediate-key.pem", other.root.key_pem().as_bytes());
    assert!(error.contains("does not match the certificate"), "{error}");
}

#[test]
fn a_lost_state_is_no_fresh_start() {
    let directory = TestDir::new();
    let ca = init(&directory);
    std::fs::remove_file(ca.path().join(STATE_FILE)).unwrap();
    let error = CaDirectory::open(ca.path()).unwrap_err().to_string();
    assert!(error.contains("state.json: the CA's state cannot be used: it is gone"), "{error}");
    let again = CaDirectory::init(ca.path(), &"example.org".parse().unwrap(), lifetimes());
    assert!(matches!(again, Err(Error::Exists(_))), "{again:?}");
    let nothing = CaDirectory::open(directory.path()).unwrap_err();
    assert!(matches!(nothing, Error::Ca(CaError::NoCa(_))), "{nothing}");
}

#[test]
fn the_bundle_follows_the_state() {
    let directory = TestDir::new();
    let ca = init(&directory);
    let bundle = ca.path().join(BUNDLE_FILE);
    std::fs::write(&bundle, "half").unwrap();
    CaDirectory::open(ca.path()).unwrap();
    assert_eq!(std::fs::read(&bundle).unwrap(), ca.bundle_pem());
}

#[test]
fn an_interrupted_init_is_made_again() {
    let directory = TestDir::new();
    let ca = init(&directory);
    std::fs::remove_file(ca.path().join(STATE_FILE)).unwrap();
    std::fs::write(ca.path().join(UNFINISHED), "").unwrap();
    let error = CaDirectory::open(ca.path()).unwrap_err().to_string();
    assert!(error.contains("interrupted: run `remora-certs init` again"), "{error}");
    let again = init(&directory);
    assert_ne!(again.authority().fingerprint(), ca.authority().fingerprint());
    assert!(!again.path().join(UNFINISHED).exists());
    std::fs::write(ca.path().join(UNFINISHED), "").unwrap();
    CaDirectory::open(ca.path()).unwrap();
    assert!(!ca.path().join(UNFINISHED).exists(), "all but its last step had been done");
}

#[test]
fn what_is_recorded_is_read_back_until_it_expires() {
    let directory = TestDir::new();
    let ca = init(&directory);
    let record = record(&ca);
    ca.record(&record).unwrap();
    assert_eq!(
        CaDirectory::open(ca.path()).unwrap().unexpired(SystemTime::now()).unwrap(),
        std::slice::from_ref(&record)
    );
    assert_eq!(ca.issued("0a").unwrap().as_ref(), Some(&record));
    assert_eq!(ca.unexpired(SystemTime::now() + hours(2)).unwrap(), []);
    ca.compact(SystemTime::now() + hours(2)).unwrap();
    assert_eq!(ca.issued("0a").unwrap(), None);
}

#[test]
fn what_was_signed_before_a_change_is_not_recorded_after_it() {
    let directory = TestDir::new();
    let ca = init(&directory);
    let mut state = ca.state().unwrap().clone();
    state.bundle_version += 1;
    state.write(ca.path()).unwrap();
    let refused = ca.record(&record(&ca)).unwrap_err();
    assert!(matches!(refused, Error::Ca(CaError::Changed(_))), "{refused}");
    ca.record_adoption("0b", "0a").unwrap();
    assert_eq!(ca.unexpired(SystemTime::now()).unwrap(), []);
}

#[test]
fn what_a_certificate_proved_is_not_recorded_once_that_is_revoked() {
    let directory = TestDir::new();
    let ca = init(&directory);
    let shown = record(&ca);
    ca.record(&shown).unwrap();
    let renewal = |serial: &str| IssuedRecord {
        serial: serial.to_owned(),
        by: Proof::Certificate,
        proved_by: Some(shown.serial.clone()),
        ..record(&ca)
    };
    ca.record(&renewal("0b")).unwrap();
    // By another process, while a renewal is under way.
    let other = CaDirectory::open(ca.path()).unwrap();
    other.revoke(|record| record.serial == shown.serial, SystemTime::now()).unwrap();
    let of_somebody_else = IssuedRecord { serial: "0d".to_owned(), ..record(&ca) };
    let refused = ca.record_all(&[of_somebody_else.clone(), renewal("0c")]).unwrap_err();
    assert!(matches!(refused, Error::Ca(CaError::Changed(_))), "{refused}");
    ca.record(&of_somebody_else).unwrap();
    let serials: Vec<_> = ca.unexpired(SystemTime::now()).unwrap().into_iter().map(|record| record.serial).collect();
    assert_eq!(serials, ["0a", "0b", "0d"]);
}

#[test]
fn what_cannot_be_compacted_is_recorded_all_the_same() {
    let directory = TestDir::new();
    let ca = init(&directory);
    let path = ca.path().join(journal::JOURNAL_FILE);
    std::fs::write(&path, format!("{}\n", "x".repeat(COMPACT_FROM as usize))).unwrap();
    assert!(ca.compact(SystemTime::now()).is_err());
    ca.record(&record(&ca)).unwrap();
    assert!(std::fs::read_to_string(&path).unwrap().ends_with("}\n"));
    assert!(ca.compacted.load(Ordering::Relaxed) > COMPACT_FROM, "and it is not tried again every time");
}

/// Writes a CA from elsewhere, with its key as openssl writes it in another format.
fn plugin(directory: &TestDir, ca: &Ca, convert: &[&str]) -> Option<CaDirectory> {
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("tls.crt"), ca.intermediate.certificate_pem()).unwrap();
    std::fs::write(path("pkcs8.pem"), ca.intermediate.key_pem()).unwrap();
    std::fs::write(path("ca.crt"), ca.root.certificate_pem()).unwrap();
    let openssl = Command::new("openssl")
        .args(convert)
        .arg("-in")
        .arg(path("pkcs8.pem"))
        .arg("-out")
        .arg(path("tls.key"))
        .output();
    if !openssl.is_ok_and(|output| output.status.success()) {
        return None;
    }
    Some(CaDirectory::open(directory.path()).unwrap())
}

fn check(ca: &Ca, issued: &Issued) {
    let chain = crate::ca::fixture::chain(issued);
    verify_chain(&chain, PeerRole::Server, &ca.bundle().into(), &[], SystemTime::now()).unwrap();
}

#[test]
fn a_plugged_in_authority_signs_with_keys_of_any_format() {
    for (kind, convert, header) in [
        (KeyKind::P256, &["ec"][..], "EC PRIVATE KEY"),
        (KeyKind::Rsa2048, &["rsa", "-traditional"], "RSA PRIVATE KEY"),
        (KeyKind::Ed25519, &["pkey"], "PRIVATE KEY"),
    ] {
        let (directory, mut ca) = (TestDir::new(), Ca::new("example.org"));
        let root = ca.root.validity();
        ca.intermediate = ca.root.intermediate_of_kind(&ca.trust_domain, root, kind).unwrap();
        let Some(opened) = plugin(&directory, &ca, convert) else { return eprintln!("skipped: no openssl") };
        let key = std::fs::read_to_string(directory.path().join("tls.key")).unwrap();
        assert!(key.starts_with(&format!("-----BEGIN {header}-----")), "{kind:?}");
        let validity = opened.authority().leaf_validity(SystemTime::now(), hours(1)).unwrap();
        check(&ca, &opened.authority().issue(&id(CATALOG), validity).unwrap());
        assert_eq!((opened.state(), opened.bundle_version()), (None, 0));
        assert_eq!(opened.authority().anchor(), Some(ca.bundle().roots()[0].fingerprint()));
        opened.record(&record(&opened)).unwrap();
        assert!(CaDirectory::open(directory.path()).is_ok(), "its record does not make it ours");
    }
}

#[test]
fn a_chain_of_several_levels_is_handed_out_whole() {
    let (directory, top) = (TestDir::new(), Ca::new("example.org"));
    let path = |name: &str| directory.path().join(name);
    let long = top.root.validity();
    let unconstrained = |params: &mut rcgen::CertificateParams| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    };
    let grandparent = Authority::root(&top.trust_domain, long).unwrap();
    let open_root = grandparent.intermediate_as(&top.trust_domain, long, KeyKind::P256, unconstrained).unwrap();
    let short = Validity { not_after: SystemTime::now() + hours(2), ..long };
    let middle = open_root.intermediate_as(&top.trust_domain, short, KeyKind::P256, unconstrained).unwrap();
    let signer = middle.intermediate_as(&top.trust_domain, long, KeyKind::P256, |_| {}).unwrap();
    let chain = signer.certificate_pem().to_owned() + middle.certificate_pem();
    std::fs::write(path("intermediate.pem"), format!("a comment\n{chain}")).unwrap();
    std::fs::write(path("intermediate-key.pem"), signer.key_pem()).unwrap();
    std::fs::write(path("bundle.pem"), open_root.certificate_pem()).unwrap();
    let ca = CaDirectory::open(directory.path()).unwrap();
    let validity = ca.authority().leaf_validity(SystemTime::now(), hours(24)).unwrap();
    assert!(validity.not_after <= short.not_after, "cut by the level above the signer");
    let issued = ca.authority().issue(&id(CATALOG), validity).unwrap();
    let chain = crate::ca::fixture::chain(&issued);
    assert_eq!(chain.len(), 3);
    let bundle = TrustBundle::load(top.trust_domain.clone(), &path("bundle.pem")).unwrap();
    verify_chain(&chain, PeerRole::Client, &bundle.into(), &[], SystemTime::now()).unwrap();
}

#[test]
fn a_plugged_in_authority_that_nobody_trusts_is_refused() {
    let (directory, ca, other) = (TestDir::new(), Ca::new("example.org"), Ca::new("example.org"));
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("intermediate.pem"), ca.intermediate.certificate_pem()).unwrap();
    std::fs::write(path("intermediate-key.pem"), ca.intermediate.key_pem()).unwrap();
    std::fs::write(path("bundle.pem"), other.root.certificate_pem()).unwrap();
    let error = CaDirectory::open(directory.path()).unwrap_err();
    assert!(matches!(error, Error::Ca(CaError::NoAnchor(_))), "{error}");
}
