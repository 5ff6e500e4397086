use super::*;
use crate::ca::fixture::{CATALOG, Ca, chain, crl, hours, id, impostor};
use crate::{Identity, PeerRole, verify_chain};

const ABROAD: &str = "spiffe://abroad.org/ns/shop/sa/catalog";

/// Two domains that trust each other, each judged from the first one's side.
fn federation() -> (Ca, Ca, TrustBundles) {
    let (home, abroad) = (Ca::new("example.org"), Ca::new("abroad.org"));
    let bundles = TrustBundles::new(home.bundle()).with_federated(abroad.bundle());
    (home, abroad, bundles)
}

fn judge(ca: &Ca, text: &str, role: PeerRole, bundles: &TrustBundles, expected: &[&str]) -> Result<Peer, VerifyError> {
    let expected: Vec<_> = expected.iter().map(|text| id(text)).collect();
    verify_chain(&chain(&ca.issue(text)), role, bundles, &expected, SystemTime::now())
}

#[test]
fn a_client_of_a_federated_domain_is_welcome() {
    let (home, abroad, bundles) = federation();
    let peer = judge(&abroad, ABROAD, PeerRole::Client, &bundles, &[]).unwrap();
    assert_eq!((peer.spiffe_id, peer.anchor), (id(ABROAD), abroad.bundle().roots()[0].fingerprint()));
    assert!(judge(&home, CATALOG, PeerRole::Client, &bundles, &[]).is_ok());
    let third = judge(&Ca::new("third.org"), "spiffe://third.org/x", PeerRole::Client, &bundles, &[]).unwrap_err();
    assert_eq!(third.reason(), "wrong_trust_domain");
    assert_eq!(third.to_string(), "spiffe://third.org/x is not in the trust domain example.org or abroad.org");
}

#[test]
fn a_server_of_a_federated_domain_must_be_expected() {
    let (home, abroad, bundles) = federation();
    assert!(judge(&abroad, ABROAD, PeerRole::Server, &bundles, &[CATALOG, ABROAD]).is_ok());
    let anybody = judge(&abroad, ABROAD, PeerRole::Server, &bundles, &[]).unwrap_err();
    assert_eq!(anybody.to_string(), format!("{ABROAD} is not in the trust domain example.org"));
    let other = judge(&abroad, ABROAD, PeerRole::Server, &bundles, &[CATALOG]).unwrap_err();
    assert_eq!(other.reason(), "wrong_identity");
    assert!(judge(&home, CATALOG, PeerRole::Server, &bundles, &[]).is_ok());
}

#[test]
fn the_roots_of_one_domain_do_not_vouch_for_another() {
    let (home, abroad, bundles) = federation();
    for role in [PeerRole::Client, PeerRole::Server] {
        // Both are trusted, each for its own: the signature is good, the authority is not.
        let forged = judge(&abroad, CATALOG, role, &bundles, &[CATALOG]).unwrap_err();
        assert_eq!(forged.reason(), "unknown_ca");
        let forged = judge(&home, ABROAD, role, &bundles, &[ABROAD]).unwrap_err();
        assert_eq!(forged.reason(), "unknown_ca");
    }
}

/// SPIRE calls the roots of every domain the same.
#[test]
fn roots_do_not_vouch_for_another_domain_even_under_the_same_name() {
    let (home, abroad, _) = federation();
    let key = rcgen::KeyPair::generate().unwrap();
    let name = home.bundle().roots()[0].certificate().clone();
    let namesake = impostor(&name, key, "");
    let own = TrustBundle::from_der(home.trust_domain.clone(), "x".as_ref(), vec![name]).unwrap();
    let bundles = TrustBundles::new(own).with_federated(abroad.bundle());
    let forged = chain(&namesake.issue(&id(CATALOG), crate::ca::fixture::current()).unwrap());
    let judged = verify_chain(&forged, PeerRole::Client, &bundles, &[], SystemTime::now());
    assert_eq!(judged.unwrap_err().reason(), "unknown_ca");
}

#[test]
fn a_federated_bundle_of_our_own_domain_is_left_out() {
    let (home, posing) = (Ca::new("example.org"), Ca::new("example.org"));
    let bundles = TrustBundles::new(home.bundle()).with_federated(posing.bundle());
    assert!(bundles.federated().is_empty());
    assert_eq!(judge(&posing, CATALOG, PeerRole::Client, &bundles, &[]).unwrap_err().reason(), "unknown_ca");
}

#[test]
fn a_later_bundle_of_a_domain_replaces_the_earlier() {
    let (_, old, bundles) = federation();
    let new = Ca::new("abroad.org");
    let bundles = bundles.with_federated(new.bundle());
    assert_eq!(bundles.federated().len(), 1);
    assert!(judge(&new, ABROAD, PeerRole::Client, &bundles, &[]).is_ok());
    assert_eq!(judge(&old, ABROAD, PeerRole::Client, &bundles, &[]).unwrap_err().reason(), "unknown_ca");
}

#[test]
fn a_live_peer_loses_trust_with_its_root() {
    let (home, abroad, bundles) = federation();
    let peer = judge(&abroad, ABROAD, PeerRole::Client, &bundles, &[]).unwrap();
    assert_eq!(bundles.still_trusts(&peer), Ok(()));
    let alone = TrustBundles::new(home.bundle());
    assert_eq!(alone.still_trusts(&peer).unwrap_err().reason(), "wrong_trust_domain");
    let replaced = bundles.clone().with_federated(Ca::new("abroad.org").bundle());
    assert_eq!(replaced.still_trusts(&peer), Err(VerifyError::UnknownCa));
    // Its root among our own roots would not help it.
    let roots = vec![abroad.bundle().roots()[0].certificate().clone()];
    let mixed = TrustBundle::from_der(home.trust_domain.clone(), "x".as_ref(), roots).unwrap();
    assert!(TrustBundles::new(mixed).still_trusts(&peer).is_err());
}

#[test]
fn every_part_counts_when_identities_are_compared() {
    let (home, abroad, bundles) = federation();
    let svid = home.identity(CATALOG).svid().clone();
    let identity = |bundles: &TrustBundles| Identity::new(svid.clone(), bundles.clone());
    assert!(identity(&bundles).same_certificates(&identity(&bundles)));
    let list = crl(&home.root, &[], SystemTime::now() + hours(1));
    let list = RevocationList::parse("crl.pem".as_ref(), list.as_bytes()).unwrap();
    for other in [
        TrustBundles::new(home.bundle()),
        TrustBundles::new(home.bundle()).with_federated(Ca::new("abroad.org").bundle()),
        TrustBundles::new(Ca::new("example.org").bundle()).with_federated(abroad.bundle()),
        bundles.clone().with_crls(list),
    ] {
        assert!(!identity(&bundles).same_certificates(&identity(&other)), "{other:?}");
    }
}

#[test]
fn an_empty_bundle_is_an_error() {
    let error = TrustBundle::from_der("a".parse().unwrap(), "the agent".as_ref(), Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "the agent: no certificate in the bundle");
}
