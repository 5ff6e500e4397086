use remora_model::TrustDomain;

use super::*;
use crate::ca::fixture::{CATALOG, PRICING, TestDir, chain, hours, id};
use crate::ca::{Issued, Lifetimes, Proof, SignedLeaf};
use crate::{PeerRole, TrustBundle, VerifyError, verify_chain};

fn domain() -> TrustDomain {
    "example.org".parse().unwrap()
}

fn init(directory: &TestDir) -> CaDirectory {
    let lifetimes = Lifetimes { root: hours(2400), intermediate: hours(240) };
    CaDirectory::init(&directory.path().join("ca"), &domain(), lifetimes).unwrap()
}

fn new() -> NewRoot {
    NewRoot { root: hours(2400), intermediate: hours(240), key: KeyKind::P256, given: None }
}

/// Issues and records as a server does.
fn issue(ca: &CaDirectory, to: &str, replaces: Option<&str>) -> (Issued, IssuedRecord) {
    let now = SystemTime::now();
    let issued = ca.authority().issue(&id(to), ca.authority().leaf_validity(now, hours(1)).unwrap()).unwrap();
    let leaf = SignedLeaf {
        chain_pem: Vec::new(),
        serial: issued.serial.clone(),
        spiffe_id: id(to),
        validity: issued.validity,
    };
    let mut record = IssuedRecord::of(&leaf, ca.authority(), ca.bundle_version(), Proof::Command, now).unwrap();
    record.replaces = replaces.map(str::to_owned);
    ca.record(&record).unwrap();
    (issued, record)
}

fn step(ca: &CaDirectory, step: Step) -> Result<CaDirectory, Error> {
    ca.rotate_root(step, false, &new(), SystemTime::now()).map(|(ca, broken)| {
        assert_eq!(broken, []);
        assert_eq!(std::fs::read(ca.path().join("bundle.pem")).unwrap(), ca.bundle_pem());
        ca
    })
}

fn judge(issued: &Issued, bundle: &[u8]) -> Result<(), VerifyError> {
    let bundle = TrustBundle::parse(domain(), Path::new("bundle.pem"), bundle).unwrap();
    verify_chain(&chain(issued), PeerRole::Server, &bundle.into(), &[], SystemTime::now()).map(drop)
}

fn refused(result: Result<CaDirectory, Error>) -> Vec<Obstacle> {
    match result {
        Err(Error::Ca(CaError::Refused { obstacles, .. })) => obstacles,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_root_is_replaced_in_the_safe_order_and_in_no_other() {
    let directory = TestDir::new();
    let first = init(&directory);
    let (old, held) = issue(&first, CATALOG, None);

    let both = step(&first, Step::Start).unwrap();
    assert_eq!((both.bundle_version(), both.state().unwrap().phase), (2, Phase::Distribute));
    assert_eq!(both.authority().fingerprint(), first.authority().fingerprint(), "the old one signs");
    assert_eq!(refused(step(&both, Step::Issue)), [Obstacle::OldBundle(held.clone())]);
    let (renewed, record) = issue(&both, CATALOG, Some(&held.serial));

    let issuing = step(&both, Step::Issue).unwrap();
    assert_eq!((issuing.bundle_version(), issuing.bundle_pem()), (2, both.bundle_pem()));
    assert_ne!(issuing.authority().anchor(), both.authority().anchor());
    assert_eq!(refused(step(&issuing, Step::Drop)), [Obstacle::OldAnchor(record.clone())]);
    let (new, _) = issue(&issuing, CATALOG, Some(&record.serial));

    let stable = step(&issuing, Step::Drop).unwrap();
    assert_eq!((stable.bundle_version(), stable.state().unwrap().phase), (3, Phase::Stable));
    for (leaf, first_trusts, last_trusts) in [(&old, true, false), (&renewed, true, false), (&new, false, true)] {
        assert_eq!(judge(leaf, first.bundle_pem()).is_ok(), first_trusts);
        assert!(judge(leaf, issuing.bundle_pem()).is_ok(), "while both are there everybody is trusted");
        assert_eq!(judge(leaf, stable.bundle_pem()).is_ok(), last_trusts);
    }
    let again = step(&step(&stable, Step::Start).unwrap(), Step::Issue);
    assert_eq!(refused(again).len(), 1, "the next rotation begins like the first");
}

#[test]
fn force_does_it_and_tells_what_broke() {
    let directory = TestDir::new();
    let ca = init(&directory);
    let (_, record) = issue(&ca, CATALOG, None);
    let now = SystemTime::now();
    let wrong = ca.rotate_root(Step::Drop, true, &new(), now);
    assert!(matches!(wrong, Err(Error::Ca(CaError::Refused { .. }))), "there is nothing to drop");
    let ca = step(&ca, Step::Start).unwrap();
    let (ca, broken) = ca.rotate_root(Step::Drop, true, &new(), now).unwrap();
    assert_eq!(broken, [Obstacle::OldAnchor(record)]);
    let state = ca.state().unwrap();
    assert_eq!((state.phase, state.roots.len(), state.signer.root), (Phase::Stable, 1, state.roots[0].fingerprint));
}

#[test]
fn a_root_made_elsewhere_is_used_and_its_key_not_kept() {
    let (directory, other) = (TestDir::new(), TestDir::new());
    let (ca, elsewhere) = (init(&directory), init(&other));
    let given = Some((elsewhere.path().join("root.pem"), elsewhere.path().join("root-key.pem")));
    let started = ca.rotate_root(Step::Start, false, &NewRoot { given, ..new() }, SystemTime::now()).unwrap().0;
    let (issued, _) = issue(&step(&started, Step::Issue).unwrap(), CATALOG, None);
    assert!(judge(&issued, elsewhere.bundle_pem()).is_ok());
    assert!(!ca.path().join("root-2-key.pem").exists());
    let given = Some((elsewhere.path().join("intermediate.pem"), elsewhere.path().join("intermediate-key.pem")));
    let no_root = ca.rotate_root(Step::Start, true, &NewRoot { given, ..new() }, SystemTime::now());
    assert!(no_root.is_err());
}

#[test]
fn an_intermediate_is_replaced_while_the_roots_key_is_offline_but_for_one_moment() {
    let directory = TestDir::new();
    let ca = init(&directory);
    let away = directory.path().join("safe.pem");
    std::fs::rename(ca.path().join("root-key.pem"), &away).unwrap();
    let rotate = |key: Option<&Path>| ca.rotate_intermediate(key, hours(24), KeyKind::Ed25519, SystemTime::now());
    let refused = rotate(None).unwrap_err();
    assert!(matches!(refused, Error::Ca(CaError::RootKeyOffline(_))), "{refused}");
    let (before, _) = issue(&CaDirectory::open(ca.path()).unwrap(), CATALOG, None);
    let wrong = ca.path().join("intermediate-key.pem");
    assert!(matches!(rotate(Some(&wrong)), Err(Error::KeyMismatch { .. })));
    let rotated = rotate(Some(&away)).unwrap();
    assert!(!ca.path().join("root-key.pem").exists(), "it is not copied");
    assert_eq!(rotated.bundle_version(), ca.bundle_version());
    let (after, _) = issue(&rotated, PRICING, None);
    assert!(judge(&before, rotated.bundle_pem()).is_ok() && judge(&after, rotated.bundle_pem()).is_ok());
    assert_ne!(rotated.authority().fingerprint(), ca.authority().fingerprint());
}

#[test]
fn a_retired_intermediate_goes_when_nothing_it_signed_is_left() {
    let directory = TestDir::new();
    let ca = init(&directory);
    issue(&ca, CATALOG, None);
    let rotate = |now| ca.rotate_intermediate(None, hours(24), KeyKind::P256, now).unwrap();
    let kept = rotate(SystemTime::now());
    assert_eq!(kept.state().unwrap().retired.len(), 1);
    let gone = rotate(SystemTime::now() + hours(2));
    assert_eq!(gone.state().unwrap().retired, []);
    assert!(!ca.path().join("intermediate-key.pem").exists());
}

#[test]
fn what_is_revoked_is_on_the_list_of_whoever_signed_it() {
    let directory = TestDir::new();
    let first = init(&directory);
    let (old, record) = issue(&first, CATALOG, None);
    let ca = first.rotate_intermediate(None, hours(24), KeyKind::P256, SystemTime::now()).unwrap();
    let (new, _) = issue(&ca, PRICING, None);
    let now = SystemTime::now();
    assert_eq!(ca.crl_pem().unwrap(), None);
    assert_eq!(ca.revoke(|found| found.serial == record.serial, now).unwrap(), std::slice::from_ref(&record));
    assert!(matches!(ca.revoke(|_| false, now), Err(Error::Ca(CaError::NotIssued))));
    let judge = |issued: &Issued| {
        let pem = ca.crl_pem().unwrap().unwrap();
        let bundle = TrustBundle::parse(domain(), Path::new("bundle.pem"), ca.bundle_pem()).unwrap();
        let bundles = crate::TrustBundles::from(bundle)
            .with_crls(crate::crl::RevocationList::parse(Path::new("crl.pem"), &pem).unwrap());
        verify_chain(&chain(issued), PeerRole::Server, &bundles, &[], SystemTime::now()).map(drop)
    };
    assert_eq!(judge(&old).unwrap_err().reason(), "revoked");
    judge(&new).unwrap();
    ca.revoke(|found| found.spiffe_id == id(PRICING), now).unwrap();
    assert_eq!(judge(&new).unwrap_err().reason(), "revoked");
    let later = ca.rotate_intermediate(None, hours(24), KeyKind::P256, now + hours(2)).unwrap();
    assert_eq!(later.state().unwrap().revoked, [], "what has expired needs no list");
}

#[test]
fn what_was_half_written_is_swept_away() {
    let directory = TestDir::new();
    let ca = init(&directory);
    let left = ca.path().join(".intermediate-2-key.pem.0123456789abcdef");
    std::fs::write(&left, "half a key").unwrap();
    let other = ca.path().join(".hidden");
    std::fs::write(&other, "somebody's").unwrap();
    step(&ca, Step::Start).unwrap();
    assert!(!left.exists() && other.exists());
}
