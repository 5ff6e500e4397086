use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use super::fixture::{CATALOG, Ca, TestDir, chain, current, hours, id};
use super::*;
use crate::{PeerRole, verify_chain};

fn year() -> Lifetimes {
    Lifetimes { root: hours(24 * 365), intermediate: hours(24 * 30) }
}

fn domain() -> TrustDomain {
    "example.org".parse().unwrap()
}

#[test]
fn a_leaf_says_what_an_svid_says_and_no_more() {
    let issued = Ca::new("example.org").issue(CATALOG);
    let chain = chain(&issued);
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    assert_eq!(leaf.subject().as_raw(), [0x30, 0], "no subject");
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical);
    assert_eq!(names.value.general_names, [GeneralName::URI(CATALOG)]);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical);
    assert_eq!(usage.value.flags, 1, "digitalSignature only");
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any && extended.other.is_empty());
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    assert_eq!(leaf.raw_serial().len(), 16);
    assert_eq!(leaf.extensions().len(), 6);
}

#[test]
fn serials_differ() {
    let serials: std::collections::HashSet<_> = (0..1000).map(|_| random_serial().unwrap()).collect();
    assert_eq!(serials.len(), 1000);
    assert!(serials.iter().all(|serial| (0x40..0x80).contains(&serial[0])));
}

#[test]
fn a_leaf_is_cut_to_its_signer() {
    let ca = Ca::new("example.org");
    let long = ca.intermediate.cut(Validity::around(SystemTime::now(), hours(100_000), hours(100_000)));
    assert_eq!(long, ca.intermediate.validity());
    let backwards = Validity { not_before: SystemTime::now(), not_after: SystemTime::now() - hours(1) };
    assert!(matches!(ca.intermediate.issue(&id(CATALOG), backwards), Err(Error::EmptyValidity { .. })));
}

#[test]
fn a_directory_is_made_private_and_read_back() {
    let directory = TestDir::new();
    let path = directory.path().join("ca");
    let ca = CaDirectory::init(&path, &domain(), year()).unwrap();
    let mode = |name: &str| std::fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("."), 0o700);
    assert_eq!((mode("root-key.pem"), mode("intermediate-key.pem")), (0o600, 0o600));
    assert_eq!((mode("root.pem"), mode("intermediate.pem"), mode("bundle.pem")), (0o644, 0o644, 0o644));
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 7, "nothing temporary is left");

    let signer = ca.authority();
    assert_eq!(signer.trust_domain(), Some(&domain()));
    let issued = signer.issue(&id(CATALOG), signer.cut(current())).unwrap();
    let bundle = crate::TrustBundle::load(domain(), &path.join("bundle.pem")).unwrap();
    let peer = verify_chain(&chain(&issued), PeerRole::Server, &bundle.into(), &[id(CATALOG)], SystemTime::now());
    assert_eq!(peer.unwrap().serial, issued.serial);
}

#[test]
fn a_ca_is_never_overwritten() {
    for name in ["root.pem", "root-key.pem", "intermediate.pem", "intermediate-key.pem", "bundle.pem"] {
        let directory = TestDir::new();
        std::fs::write(directory.path().join(name), "precious").unwrap();
        let error = CaDirectory::init(directory.path(), &domain(), year()).unwrap_err();
        assert!(matches!(&error, Error::Exists(path) if path.ends_with(name)), "{error}");
        assert_eq!(std::fs::read_to_string(directory.path().join(name)).unwrap(), "precious");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
    let directory = TestDir::new();
    std::os::unix::fs::symlink("/nowhere/at/all", directory.path().join("root.pem")).unwrap();
    assert!(matches!(CaDirectory::init(directory.path(), &domain(), year()), Err(Error::Exists(_))), "a dead symlink");
}

#[test]
fn what_does_not_sign_is_refused() {
    let (ca, directory) = (Ca::new("example.org"), TestDir::new());
    ca.write(directory.path(), &ca.issue(CATALOG));
    let path = |name| directory.path().join(name);
    let leaf = Authority::load(&path("cert.pem"), &path("key.pem")).unwrap_err();
    assert!(matches!(leaf, Error::NotCa(_)), "{leaf}");
    let foreign = Authority::load(&path("bundle.pem"), &path("key.pem")).unwrap_err();
    assert!(matches!(foreign, Error::KeyMismatch { .. }), "{foreign}");
}
