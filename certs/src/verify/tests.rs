//! One test a rule: a chain that is right but for one thing, and the reason it is refused with.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CustomExtension, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyUsagePurpose,
    NameConstraints, SanType,
};

use super::*;
use crate::ca::fixture::{CATALOG, Ca, PRICING, chain, current, hours, id, impostor};
use crate::ca::{Authority, Validity};
use crate::{TrustBundle, pem};

type Chain = Vec<CertificateDer<'static>>;

fn judge(ca: &Ca, chain: &Chain) -> Result<Peer, VerifyError> {
    verify_chain(chain, PeerRole::Client, &ca.bundle().into(), &[], SystemTime::now())
}

/// The reason `chain` is refused with, the same in both roles.
fn reason(ca: &Ca, chain: &Chain) -> &'static str {
    let reason = |role| verify_chain(chain, role, &ca.bundle().into(), &[], SystemTime::now()).unwrap_err().reason();
    assert_eq!(reason(PeerRole::Client), reason(PeerRole::Server));
    reason(PeerRole::Client)
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test]
fn a_right_chain_names_its_peer() {
    let ca = Ca::new("example.org");
    let issued = ca.issue(CATALOG);
    let peer = judge(&ca, &chain(&issued)).unwrap();
    assert_eq!(peer.spiffe_id, id(CATALOG));
    assert_eq!(peer.serial, issued.serial);
    assert_eq!(peer.anchor, ca.bundle().roots()[0].fingerprint());
    assert_eq!(peer.fingerprint, Fingerprint::of(&chain(&issued)[0]));
    let difference = issued.validity.not_after.duration_since(peer.not_after).unwrap();
    assert!(difference < Duration::from_secs(1), "whole seconds: {difference:?}");
}

#[test]
fn names_beside_the_uri_do_no_harm() {
    let ca = Ca::new("example.org");
    let chain = ca.amended(|params| params.subject_alt_names.push(SanType::DnsName("catalog".try_into().unwrap())));
    assert_eq!(judge(&ca, &chain).unwrap().spiffe_id, id(CATALOG));
}

#[test]
fn a_leaf_straight_from_the_root_is_right() {
    let ca = Ca::new("example.org");
    let mut direct = chain(&ca.root.issue(&id(CATALOG), current()).unwrap());
    assert!(judge(&ca, &direct).is_ok());
    direct.truncate(1);
    assert!(judge(&ca, &direct).is_ok());
}

#[test]
fn no_certificate() {
    let ca = Ca::new("example.org");
    assert_eq!(judge(&ca, &Vec::new()), Err(VerifyError::NoCertificate));
    assert_eq!(reason(&ca, &Vec::new()), "no_certificate");
}

#[test]
fn another_ca() {
    let (ours, theirs) = (Ca::new("example.org"), Ca::new("example.org"));
    assert_eq!(reason(&ours, &chain(&theirs.issue(CATALOG))), "unknown_ca");
}

#[test]
fn another_ca_of_the_same_name() {
    let ca = Ca::new("example.org");
    let other_key = rcgen::KeyPair::generate().unwrap();
    let posing = impostor(ca.bundle().roots()[0].certificate(), other_key, "");
    assert_eq!(reason(&ca, &chain(&posing.issue(&id(CATALOG), current()).unwrap())), "unknown_ca");
}

#[test]
fn a_missing_intermediate() {
    let ca = Ca::new("example.org");
    let mut chain = chain(&ca.issue(CATALOG));
    chain.truncate(1);
    assert_eq!(reason(&ca, &chain), "unknown_ca");
}

#[test]
fn expired_prints_both_clocks() {
    let ca = Ca::new("example.org");
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let old = Validity { not_before: now - hours(3), not_after: now - hours(1) };
    let wide = Validity { not_before: now - hours(9), not_after: now + hours(9) };
    let root = Authority::root(&ca.trust_domain, wide).unwrap();
    let ca = Ca { intermediate: root.intermediate(&ca.trust_domain, wide).unwrap(), root, ..ca };
    let chain = chain(&ca.intermediate.issue(&id(CATALOG), old).unwrap());
    let error = verify_chain(&chain, PeerRole::Client, &ca.bundle().into(), &[], now).unwrap_err();
    assert_eq!(error.reason(), "expired");
    assert_eq!(
        error.to_string(),
        "the certificate expired at 2027-01-15T07:00:00Z; our clock says 2027-01-15T08:00:00Z"
    );
    let early = verify_chain(&chain, PeerRole::Client, &ca.bundle().into(), &[], now - hours(4)).unwrap_err();
    assert_eq!(early.reason(), "not_yet_valid");
    assert_eq!(
        early.to_string(),
        "the certificate is not valid before 2027-01-15T05:00:00Z; our clock says 2027-01-15T04:00:00Z"
    );
}

#[test]
fn validity_ends_are_inclusive() {
    let ca = Ca::new("example.org");
    let issued = ca.issue(CATALOG);
    let peer = judge(&ca, &chain(&issued)).unwrap();
    let at =
        |now| verify_chain(&chain(&issued), PeerRole::Server, &ca.bundle().into(), &[], now).map_err(|e| e.reason());
    assert!(at(peer.not_after).is_ok());
    assert_eq!(at(peer.not_after + Duration::from_secs(1)), Err("expired"));
}

#[test]
fn an_expired_intermediate() {
    let now = SystemTime::now();
    let old = Validity { not_before: now - hours(9), not_after: now - hours(1) };
    let ca = Ca::new("example.org").with_intermediate(old, |_| {});
    assert_eq!(reason(&ca, &chain(&ca.issue(CATALOG))), "expired");
}

#[test]
fn an_expired_root_vouches_for_nobody() {
    let mut ca = Ca::new("example.org");
    let now = SystemTime::now();
    let wide = Validity::around(now, hours(100), hours(100));
    for (validity, expected) in [
        (Validity { not_before: now - hours(9), not_after: now - hours(1) }, "expired"),
        (Validity { not_before: now + hours(1), not_after: now + hours(9) }, "not_yet_valid"),
    ] {
        ca.root = Authority::root(&ca.trust_domain, validity).unwrap();
        ca = ca.with_intermediate(wide, |_| {});
        assert_eq!(reason(&ca, &chain(&ca.issue(CATALOG))), expected);
    }
}

#[test]
fn another_trust_domain_even_from_our_own_ca() {
    let ca = Ca::new("example.org");
    let chain = chain(&ca.issue("spiffe://other.org/ns/shop/sa/catalog"));
    assert_eq!(reason(&ca, &chain), "wrong_trust_domain");
    let message = judge(&ca, &chain).unwrap_err().to_string();
    assert_eq!(message, "spiffe://other.org/ns/shop/sa/catalog is not in the trust domain example.org");
}

#[test]
fn a_trust_domain_whose_name_begins_with_ours() {
    let ca = Ca::new("example.org");
    assert_eq!(reason(&ca, &chain(&ca.issue("spiffe://example.org.evil/sa/x"))), "wrong_trust_domain");
    assert_eq!(reason(&ca, &chain(&ca.issue("spiffe://example.or/sa/x"))), "wrong_trust_domain");
}

#[test]
fn the_right_ca_for_another_service() {
    let ca = Ca::new("example.org");
    let chain = chain(&ca.issue(PRICING));
    let expecting = |expected: &[&str]| {
        let expected: Vec<_> = expected.iter().map(|text| id(text)).collect();
        verify_chain(&chain, PeerRole::Server, &ca.bundle().into(), &expected, SystemTime::now())
    };
    let error = expecting(&[CATALOG]).unwrap_err();
    assert_eq!(error.reason(), "wrong_identity");
    assert_eq!(error.to_string(), format!("the peer is {PRICING}, expected {CATALOG}"));
    assert!(expecting(&[CATALOG, PRICING]).is_ok());
    assert!(expecting(&[]).is_ok());
}

#[test]
fn two_uris() {
    let ca = Ca::new("example.org");
    assert_eq!(reason(&ca, &ca.amended(|p| p.subject_alt_names.push(uri(PRICING)))), "invalid_spiffe_id");
    assert_eq!(reason(&ca, &ca.amended(|p| p.subject_alt_names.push(uri("https://a/b")))), "invalid_spiffe_id");
}

#[test]
fn two_extensions_of_names() {
    let ca = Ca::new("example.org");
    let second = [0x30, 3, 0x82, 1, b'a'];
    let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], second.to_vec());
    assert_eq!(reason(&ca, &ca.amended(|p| p.custom_extensions.push(extension))), "bad_certificate");
}

#[test]
fn no_uri() {
    let ca = Ca::new("example.org");
    let dns = || SanType::DnsName("catalog.example.org".try_into().unwrap());
    assert_eq!(reason(&ca, &ca.amended(|p| p.subject_alt_names = vec![dns()])), "invalid_spiffe_id");
    let common_name = ca.amended(|p| {
        p.subject_alt_names.clear();
        p.distinguished_name.push(DnType::CommonName, CATALOG);
    });
    assert_eq!(reason(&ca, &common_name), "invalid_spiffe_id");
}

#[test]
fn uris_that_are_no_spiffe_ids() {
    let ca = Ca::new("example.org");
    for text in [
        "spiffe://example.org/ns/shop/../sa/catalog",
        "spiffe://EXAMPLE.org/ns/shop",
        "spiffe://example.org/ns/shop?x=1",
        "spiffe://example.org:8443/ns/shop",
        "spiffe://example.org/ns/shop\0/sa/catalog",
        "spiffe://example.org\0.evil/ns/shop",
        "spiffe://example.org/",
        "SPIFFE://example.org/ns/shop",
        "https://example.org/ns/shop",
        "",
    ] {
        let chain = ca.amended(|params| params.subject_alt_names = vec![uri(text)]);
        assert_eq!(reason(&ca, &chain), "invalid_spiffe_id", "{text:?}");
        let message = judge(&ca, &chain).unwrap_err().to_string();
        assert!(!message.contains('\0'), "{message:?}");
    }
}

#[test]
fn bytes_that_are_no_text() {
    let ca = Ca::new("example.org");
    let mut content = vec![0x30, 0x17, 0x86, 0x15];
    content.extend_from_slice(b"spiffe://example.org/");
    content[24] = 0xff;
    let chain = ca.amended(|params| {
        params.subject_alt_names.clear();
        params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], content));
    });
    assert_eq!(reason(&ca, &chain), "invalid_spiffe_id");
}

#[test]
fn a_ca_as_leaf() {
    let ca = Ca::new("example.org");
    let chain = ca.amended(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(judge(&ca, &chain), Err(VerifyError::BadCertificate(Defect::CaAsLeaf)));
    let root = vec![ca.bundle().roots()[0].certificate().clone()];
    assert_eq!(judge(&ca, &root), Err(VerifyError::BadCertificate(Defect::CaAsLeaf)));
    let intermediate = pem::certificates("x".as_ref(), ca.intermediate.certificate_pem().as_bytes()).unwrap();
    assert_eq!(judge(&ca, &intermediate), Err(VerifyError::BadCertificate(Defect::CaAsLeaf)));
}

#[test]
fn an_svid_signs_nobody() {
    let ca = Ca::new("example.org");
    let issued = ca.issue(PRICING);
    let key = rcgen::KeyPair::from_pem(&issued.key_pem).unwrap();
    let posing = impostor(&chain(&issued)[0], key, &issued.chain_pem);
    let forged = chain(&posing.issue(&id(CATALOG), current()).unwrap());
    assert_eq!(forged.len(), 3);
    assert_eq!(reason(&ca, &forged), "bad_certificate");
}

#[test]
fn key_usages() {
    let ca = Ca::new("example.org");
    let with = |usages: Vec<KeyUsagePurpose>| judge(&ca, &ca.amended(|params| params.key_usages = usages));
    let both = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    assert_eq!(with(both), Err(VerifyError::BadCertificate(Defect::LeafMaySign)));
    let lists = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
    assert_eq!(with(lists), Err(VerifyError::BadCertificate(Defect::LeafMaySign)));
    let other = vec![KeyUsagePurpose::KeyAgreement];
    assert_eq!(with(other), Err(VerifyError::BadCertificate(Defect::NoDigitalSignature)));
    assert!(with(vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyAgreement]).is_ok());
    assert!(with(Vec::new()).is_ok());
}

#[test]
fn extended_key_usages_fit_the_role() {
    let ca = Ca::new("example.org");
    let with = |usages: Vec<ExtendedKeyUsagePurpose>, role| {
        let chain = ca.amended(|params| params.extended_key_usages = usages);
        verify_chain(&chain, role, &ca.bundle().into(), &[], SystemTime::now())
    };
    let (client, server) = (ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth);
    assert!(with(vec![client.clone()], PeerRole::Client).is_ok());
    assert!(with(vec![server.clone()], PeerRole::Server).is_ok());
    for (usages, role) in [
        (vec![client], PeerRole::Server),
        (vec![server], PeerRole::Client),
        (vec![ExtendedKeyUsagePurpose::CodeSigning], PeerRole::Client),
        (Vec::new(), PeerRole::Client),
        (Vec::new(), PeerRole::Server),
    ] {
        assert_eq!(with(usages, role), Err(VerifyError::BadCertificate(Defect::ExtendedKeyUsage(role))));
    }
}

#[test]
fn name_constraints_that_do_not_cover_the_leaf() {
    let constrained = |permitted: &str| {
        let constraints = NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(permitted.to_owned())],
            excluded_subtrees: Vec::new(),
        };
        Ca::new("example.org").with_intermediate(current(), |params| params.name_constraints = Some(constraints))
    };
    let ca = constrained("example.org");
    let named =
        |name: &str| ca.amended(|params| params.subject_alt_names.push(SanType::DnsName(name.try_into().unwrap())));
    assert!(judge(&ca, &named("a.example.org")).is_ok());
    assert_eq!(judge(&ca, &named("a.other.org")), Err(VerifyError::BadCertificate(Defect::NameConstraints)));
}

#[test]
fn uri_name_constraints_that_do_not_cover_the_leaf() {
    // permittedSubtrees [0] { GeneralSubtree { uniformResourceIdentifier [6] "other.org" } }
    let mut content = vec![0x30, 0x0f, 0xa0, 0x0d, 0x30, 0x0b, 0x86, 0x09];
    content.extend_from_slice(b"other.org");
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
    extension.set_criticality(true);
    let ca = Ca::new("example.org").with_intermediate(current(), |params| params.custom_extensions.push(extension));
    assert_eq!(judge(&ca, &chain(&ca.issue(CATALOG))), Err(VerifyError::BadCertificate(Defect::NameConstraints)));
}

#[test]
fn several_roots_vouch_side_by_side() {
    let (old, new) = (Ca::new("example.org"), Ca::new("example.org"));
    let pem = [new.root.certificate_pem(), old.root.certificate_pem(), new.root.certificate_pem()].concat();
    let both = TrustBundle::parse(old.trust_domain.clone(), "bundle.pem".as_ref(), pem.as_bytes()).unwrap();
    assert_eq!(both.roots().len(), 2, "a root listed twice counts once");
    for ca in [&old, &new] {
        let peer =
            verify_chain(&chain(&ca.issue(CATALOG)), PeerRole::Client, &both.clone().into(), &[], SystemTime::now());
        assert_eq!(peer.unwrap().anchor, ca.bundle().roots()[0].fingerprint());
    }
}

#[test]
fn a_changed_byte_anywhere_is_refused() {
    let ca = Ca::new("example.org");
    let right = chain(&ca.issue(CATALOG));
    assert!(judge(&ca, &right).is_ok());
    for position in 0..right[0].len() {
        let mut bytes = right[0].to_vec();
        bytes[position] ^= 1;
        let changed = vec![bytes.into(), right[1].clone()];
        assert!(judge(&ca, &changed).is_err(), "byte {position}");
    }
}

#[test]
fn cut_or_lengthened_certificates_are_malformed() {
    let ca = Ca::new("example.org");
    let right = chain(&ca.issue(CATALOG));
    for length in 0..right[0].len() {
        let cut = vec![CertificateDer::from(right[0][..length].to_vec()), right[1].clone()];
        assert_eq!(judge(&ca, &cut), Err(VerifyError::BadCertificate(Defect::Malformed)), "{length} bytes");
    }
    let longer = vec![[right[0].as_ref(), &[0]].concat().into(), right[1].clone()];
    assert_eq!(judge(&ca, &longer), Err(VerifyError::BadCertificate(Defect::Malformed)));
}

#[test]
fn reasons_survive_the_tls_library() {
    let (ours, theirs) = (Ca::new("example.org"), Ca::new("example.org"));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let errors = [
        VerifyError::NoCertificate,
        judge(&ours, &chain(&theirs.issue(CATALOG))).unwrap_err(),
        VerifyError::Expired { not_after: now - hours(1), now },
        VerifyError::NotYetValid { not_before: now + hours(1), now },
        judge(&ours, &chain(&ours.issue("spiffe://other.org/x"))).unwrap_err(),
        VerifyError::WrongIdentity { found: id(CATALOG), expected: vec![id(PRICING)] },
        VerifyError::InvalidSpiffeId(SanDefect::SeveralUris),
        VerifyError::Revoked { serial: None },
        VerifyError::BadCertificate(Defect::Malformed),
        VerifyError::BadCertificate(Defect::LeafMaySign),
    ];
    let mut reasons: Vec<_> = errors.iter().map(VerifyError::reason).collect();
    for error in errors {
        let tls = error.clone().into_tls();
        assert_eq!(verify_error(&tls), Some(error.clone()));
        assert_eq!(verify_error_in(&std::io::Error::other(tls)), Some(error));
    }
    reasons.dedup();
    assert_eq!(reasons.len(), 9, "every word of the list once: {reasons:?}");
    assert_eq!(verify_error(&rustls::Error::DecryptError), None);
}
