use std::time::Duration;

use super::*;
use crate::ca::fixture::{CATALOG, Ca, PRICING, TestDir, hours, id};
use crate::ca::{LEAF_BACKDATE, Lifetimes, Proof, SignedLeaf, Validity};

fn init(directory: &TestDir) -> CaDirectory {
    let lifetimes = Lifetimes { root: hours(2400), intermediate: hours(240) };
    CaDirectory::init(&directory.path().join("ca"), &"example.org".parse().unwrap(), lifetimes).unwrap()
}

fn record(ca: &CaDirectory, serial: &str, by: Proof) -> IssuedRecord {
    let now = SystemTime::now();
    let leaf = SignedLeaf {
        chain_pem: Vec::new(),
        serial: serial.to_owned(),
        spiffe_id: id(CATALOG),
        validity: Validity::around(now, LEAF_BACKDATE, hours(1)),
    };
    IssuedRecord::of(&leaf, ca.authority(), ca.bundle_version(), by, now).unwrap()
}

fn is_stale(result: Result<(), Error>) -> bool {
    match result {
        Ok(()) => false,
        Err(Error::Ca(CaError::Changed(_))) => true,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_state_that_was_only_loaded_leaves_the_old_one_in_use() {
    let directory = TestDir::new();
    let write = |ca: &Ca| {
        let file = |name: &str, content: &str| std::fs::write(directory.path().join(name), content).unwrap();
        file("tls.crt", ca.intermediate.certificate_pem());
        file("tls.key", &ca.intermediate.key_pem());
        file("ca.crt", ca.root.certificate_pem());
    };
    write(&Ca::new("example.org"));
    let first = CaDirectory::open(directory.path()).unwrap();
    let store = DirectoryStore::open(directory.path(), None).unwrap();
    write(&Ca::new("example.org"));
    let second = CaDirectory::open(directory.path()).unwrap();
    store.load().unwrap();
    assert!(!is_stale(store.record(&[record(&first, "01", Proof::Oidc)])));
    assert!(is_stale(store.record(&[record(&second, "02", Proof::Oidc)])));
    store.accepted();
    assert!(is_stale(store.record(&[record(&first, "03", Proof::Oidc)])));
    assert!(!is_stale(store.record(&[record(&second, "04", Proof::Oidc)])));
}

#[test]
fn each_line_of_the_record_is_looked_at_once() {
    let directory = TestDir::new();
    let ca = init(&directory);
    ca.record(&record(&ca, "01", Proof::JoinToken)).unwrap();
    ca.record(&record(&ca, "02", Proof::Oidc)).unwrap();
    let store = DirectoryStore::open(ca.path(), None).unwrap();
    let began = |serial| store.began_with_join_token(serial, &id(CATALOG));
    assert!(began("01").unwrap() && !began("02").unwrap() && !began("03").unwrap());
    assert!(!store.began_with_join_token("01", &id(PRICING)).unwrap());

    // Whoever read these lines again could not.
    let path = ca.path().join("issued.jsonl");
    let length = std::fs::metadata(&path).unwrap().len() as usize;
    let mut spoilt = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::io::Write::write_all(&mut spoilt, "x".repeat(length - 1).as_bytes()).unwrap();
    assert!(!began("03").unwrap());
    ca.record(&record(&ca, "03", Proof::Certificate)).unwrap();
    assert!(began("03").unwrap(), "recorded by another process meanwhile");

    // Compacted: another file, which is read from its beginning.
    std::fs::remove_file(&path).unwrap();
    assert!(!began("04").unwrap());
    ca.record(&record(&ca, "04", Proof::JoinToken)).unwrap();
    assert!(began("04").unwrap());
    // A torn last line is nobody's, until it is whole.
    let whole = std::fs::read_to_string(&path).unwrap();
    let torn = serde_json::to_string(&record(&ca, "05", Proof::JoinToken)).unwrap();
    std::fs::write(&path, format!("{whole}{torn}")).unwrap();
    assert!(!began("05").unwrap());
    std::fs::write(&path, format!("{whole}{torn}\n")).unwrap();
    assert!(began("05").unwrap());
}

#[test]
fn a_join_token_may_be_looked_at_without_using_it() {
    let directory = TestDir::new();
    let ca = init(&directory);
    let now = SystemTime::now();
    let token = ca.make_token(&id(CATALOG), Duration::from_secs(600), now).unwrap();
    let store = DirectoryStore::open(ca.path(), None).unwrap();
    for _ in 0..2 {
        assert_eq!(store.token_holder(&token).unwrap(), Some(id(CATALOG)));
    }
    assert_eq!(store.redeem_token(&token, now).unwrap(), id(CATALOG));
    assert_eq!(store.token_holder(&token).unwrap(), None);
    assert_eq!(store.token_holder("../../etc/passwd").unwrap(), None);
}
