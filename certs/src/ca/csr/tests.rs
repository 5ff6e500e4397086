use std::time::SystemTime;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, SanType};
use remora_model::identity::KeyKind;

use super::*;
use crate::ca::fixture::{CATALOG, Ca, PRICING, hours, id};
use crate::ca::{CaError, key};
use crate::{Error, PeerRole, pem, verify_chain};

fn request(key: &KeyPair, names: &[&str]) -> String {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.iter().map(|name| SanType::URI((*name).try_into().unwrap())).collect();
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn refusal(pem: &str) -> CsrError {
    ParsedCsr::from_pem(pem.as_bytes()).unwrap_err()
}

#[test]
fn each_kind_of_key_is_certified_and_the_chain_verifies() {
    let ca = Ca::new("example.org");
    for kind in [KeyKind::P256, KeyKind::Ed25519, KeyKind::Rsa2048] {
        let key = key::generate(kind).unwrap();
        let csr = ParsedCsr::from_pem(request(&key, &[CATALOG]).as_bytes()).unwrap();
        let now = SystemTime::now();
        let validity = ca.intermediate.leaf_validity(now, hours(24)).unwrap();
        let leaf = ca.intermediate.sign_csr(&csr, &id(CATALOG), validity).unwrap();
        assert_eq!(leaf.chain_pem.len(), 2);
        let chain = pem::certificates("chain.pem".as_ref(), leaf.chain_pem.concat().as_bytes()).unwrap();
        let peer = verify_chain(&chain, PeerRole::Client, &ca.bundle().into(), &[], now).unwrap();
        assert_eq!((peer.spiffe_id, peer.serial), (id(CATALOG), leaf.serial), "{kind:?}");
    }
}

#[test]
fn a_request_that_names_nothing_is_signed_and_one_that_names_another_is_not() {
    let ca = Ca::new("example.org");
    let key = key::generate(KeyKind::P256).unwrap();
    let sign = |names: &[&str], id_text: &str| {
        let csr = ParsedCsr::from_pem(request(&key, names).as_bytes()).unwrap();
        ca.intermediate.sign_csr(&csr, &id(id_text), ca.intermediate.validity())
    };
    assert!(sign(&[], CATALOG).is_ok());
    for names in [&[PRICING][..], &[CATALOG, PRICING], &["https://example.org/"]] {
        let error = sign(names, CATALOG).unwrap_err();
        assert!(matches!(&error, Error::Ca(CaError::Csr(CsrError::ForeignName { .. }))), "{error}");
    }
    let mut params = CertificateParams::new(["catalog.shop".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI(CATALOG.try_into().unwrap()));
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    let csr = ParsedCsr::from_pem(pem.as_bytes()).unwrap();
    assert!(matches!(csr.check_names(&id(CATALOG)), Err(CsrError::ForeignName { .. })), "a DNS name beside it");
    let foreign = sign(&[], "spiffe://other.org/x").unwrap_err();
    assert!(matches!(foreign, Error::ForeignId { .. }), "{foreign}");
}

#[test]
fn a_wrong_signature_is_refused() {
    let key = key::generate(KeyKind::P256).unwrap();
    let mut der = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    assert!(ParsedCsr::from_der(&der).is_ok());
    // Somebody else's key, of the same length, in the place of the key that signed.
    let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let (ours, theirs) = (key.public_key_raw(), other.public_key_raw());
    let at = der.windows(ours.len()).position(|window| window == ours).unwrap();
    der[at..at + theirs.len()].copy_from_slice(theirs);
    assert_eq!(ParsedCsr::from_der(&der).unwrap_err(), CsrError::Signature);
}

#[test]
fn what_is_no_request_is_refused() {
    let key = key::generate(KeyKind::P256).unwrap();
    let pem = request(&key, &[CATALOG]);
    let der = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    assert_eq!(refusal(""), CsrError::NotPem);
    assert_eq!(refusal(&key.serialize_pem()), CsrError::NotPem);
    assert_eq!(refusal(&(pem.clone() + &pem)), CsrError::NotPem);
    assert_eq!(refusal(&"x".repeat(MAX_CSR_BYTES + 1)), CsrError::TooLarge(MAX_CSR_BYTES + 1));
    assert_eq!(ParsedCsr::from_der(&vec![0x30; MAX_CSR_BYTES + 1]).unwrap_err(), CsrError::TooLarge(MAX_CSR_BYTES + 1));
    for end in 0..der.len() {
        assert!(ParsedCsr::from_der(&der[..end]).is_err(), "cut at {end}");
    }
    assert_eq!(ParsedCsr::from_der(&[&der[..], &[0]].concat()).unwrap_err(), CsrError::Malformed);
}

#[test]
fn other_kinds_of_keys_are_refused() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    assert_eq!(refusal(&request(&key, &[])), CsrError::Kind);
}
