use super::*;
use crate::ca::fixture::{CATALOG, Ca, PRICING, TestDir, chain, crl, hours, id, impostor};
use crate::{PeerRole, TrustBundles, VerifyError, verify_chain};

fn lists(pem: &str) -> Vec<Arc<RevocationList>> {
    RevocationList::parse("crl.pem".as_ref(), pem.as_bytes()).unwrap()
}

fn soon() -> SystemTime {
    SystemTime::now() + hours(1)
}

fn refusal(bytes: &[u8]) -> String {
    RevocationList::parse("crl.pem".as_ref(), bytes).unwrap_err().to_string()
}

#[test]
fn a_revoked_leaf_is_refused_and_nobody_else() {
    let ca = Ca::new("example.org");
    let (catalog, pricing) = (ca.issue(CATALOG), ca.issue(PRICING));
    let bundles = TrustBundles::new(ca.bundle()).with_crls(lists(&crl(&ca.intermediate, &[&catalog.serial], soon())));
    for role in [PeerRole::Client, PeerRole::Server] {
        let judge = |issued, expected: &[_]| verify_chain(&chain(issued), role, &bundles, expected, SystemTime::now());
        let error = judge(&catalog, &[id(CATALOG)]).unwrap_err();
        assert_eq!(error, VerifyError::Revoked { serial: Some(catalog.serial.clone()) });
        let message = error.to_string();
        assert_eq!(
            message,
            format!("the certificate with serial number {} has been revoked by its issuer", catalog.serial)
        );
        assert!(judge(&pricing, &[]).is_ok());
        assert!(judge(&ca.issue(CATALOG), &[]).is_ok(), "another certificate of the same workload");
    }
}

#[test]
fn a_revoked_intermediate_takes_its_leaves_with_it() {
    let ca = Ca::new("example.org");
    let leaf = chain(&ca.issue(CATALOG));
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf[1]).unwrap();
    let list = crl(&ca.root, &[&crate::leaf::serial(&parsed)], soon());
    let bundles = TrustBundles::new(ca.bundle()).with_crls(lists(&list));
    let judged = verify_chain(&leaf, PeerRole::Client, &bundles, &[], SystemTime::now());
    assert_eq!(judged.unwrap_err().reason(), "revoked");
}

#[test]
fn a_live_peer_is_judged_again() {
    let ca = Ca::new("example.org");
    let issued = ca.issue(CATALOG);
    let before = TrustBundles::new(ca.bundle());
    let peer = verify_chain(&chain(&issued), PeerRole::Client, &before, &[], SystemTime::now()).unwrap();
    assert_eq!(before.still_trusts(&peer), Ok(()));
    let with = |pem: &str| before.clone().with_crls(lists(pem)).still_trusts(&peer);
    assert_eq!(with(&crl(&ca.intermediate, &["01"], soon())), Ok(()));
    let revoked = Err(VerifyError::Revoked { serial: Some(issued.serial.clone()) });
    assert_eq!(with(&crl(&ca.intermediate, &[&issued.serial], soon())), revoked);
    let out_of_date = crl(&ca.intermediate, &["01", &issued.serial], SystemTime::now() - hours(9));
    assert_eq!(with(&out_of_date), revoked, "what was revoked stays revoked");
}

/// An authority of the same name without its key cannot revoke, neither in a handshake nor later.
#[test]
fn a_list_that_the_issuer_did_not_sign_revokes_nothing() {
    let ca = Ca::new("example.org");
    let issued = ca.issue(CATALOG);
    let posing = impostor(&chain(&issued)[1], rcgen::KeyPair::generate().unwrap(), "");
    let list = lists(&crl(&posing, &[&issued.serial], soon()));
    let bundles = TrustBundles::new(ca.bundle()).with_crls(list.clone());
    let peer = verify_chain(&chain(&issued), PeerRole::Client, &bundles, &[], SystemTime::now()).unwrap();
    assert_eq!(bundles.still_trusts(&peer), Ok(()));
    assert_eq!(list[0].tried.lock().unwrap().len(), 1, "and the key was tried once only");
    // A list of another CA that happens to name the same serial number.
    let other = lists(&crl(&Ca::new("example.org").intermediate, &[&issued.serial], soon()));
    assert_eq!(bundles.with_crls(other).still_trusts(&peer), Ok(()));
}

#[test]
fn a_changed_byte_of_a_list_is_noticed() {
    let ca = Ca::new("example.org");
    let issued = ca.issue(CATALOG);
    let right = lists(&crl(&ca.intermediate, &[&issued.serial], soon()));
    let judge = |lists: Vec<Arc<RevocationList>>| {
        let bundles = TrustBundles::new(ca.bundle()).with_crls(lists);
        verify_chain(&chain(&issued), PeerRole::Client, &bundles, &[], SystemTime::now()).map(drop)
    };
    assert!(judge(right.clone()).is_err());
    let mut readable = 0;
    for position in 0..right[0].der.len() {
        let mut der = right[0].der.to_vec();
        der[position] ^= 1;
        let Ok(changed) = RevocationList::from_der("x".as_ref(), &[der]) else { continue };
        readable += 1;
        assert_eq!(judge(changed), Ok(()), "byte {position}");
    }
    assert!(readable > 50, "{readable}");
}

#[test]
fn files_in_pem_and_der_with_several_lists() {
    let (ca, directory) = (Ca::new("example.org"), TestDir::new());
    let pem = [crl(&ca.root, &[], soon()), crl(&ca.intermediate, &["01", "02"], soon())].concat();
    let path = directory.path().join("crl.pem");
    std::fs::write(&path, pem).unwrap();
    let both = RevocationList::load(&path).unwrap();
    assert_eq!(both.iter().map(|list| list.entries()).collect::<Vec<_>>(), [0, 2]);
    assert!(both[1].issuer().contains("intermediate"), "{:?}", both[1]);
    std::fs::write(&path, both[1].der()).unwrap();
    let one = RevocationList::load(&path).unwrap();
    assert_eq!((one.len(), one[0].der()), (1, both[1].der()));
    assert!(one[0].this_update() < one[0].next_update());
}

#[test]
fn errors_name_the_file_and_the_list() {
    let ca = Ca::new("example.org");
    assert_eq!(refusal(b""), "crl.pem: no PEM X509 CRL in it");
    assert_eq!(refusal(ca.root.certificate_pem().as_bytes()), "crl.pem: no PEM X509 CRL in it");
    assert_eq!(refusal(b"0"), "crl.pem: revocation list 1 cannot be used: it is malformed");
    let good = crl(&ca.root, &[], soon());
    let bad = [&good, "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"].concat();
    assert_eq!(refusal(bad.as_bytes()), "crl.pem: revocation list 2 cannot be used: it is malformed");
    let cut = good.trim_end().trim_end_matches("-----");
    assert_eq!(refusal(&cut.as_bytes()[..cut.len() - 12]), "crl.pem: not valid PEM: a section has no END line");
    let missing = RevocationList::load("/nonexistent/crl.pem".as_ref()).unwrap_err().to_string();
    assert_eq!(missing, "/nonexistent/crl.pem: No such file or directory (os error 2)");
}
