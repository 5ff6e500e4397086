use super::*;
use crate::ca::fixture::{CATALOG, TestDir, id};

const NOW: u64 = 1_800_000_000;

fn record(serial: &str, not_after: u64) -> IssuedRecord {
    IssuedRecord {
        serial: serial.to_owned(),
        spiffe_id: id(CATALOG),
        anchor: Fingerprint::of(b"root"),
        signer: Fingerprint::of(b"intermediate"),
        issued_at: NOW,
        not_after,
        bundle_version: 1,
        instance: Some("pod-1".to_owned()),
        replaces: None,
        by: Proof::Oidc,
        proved_by: None,
    }
}

fn write(directory: &TestDir, records: &[IssuedRecord]) {
    append(directory.path(), &lines(records).unwrap()).unwrap();
}

fn serials(directory: &TestDir) -> Vec<String> {
    read(directory.path()).unwrap().into_iter().map(|record| record.serial).collect()
}

#[test]
fn what_was_appended_is_read_back() {
    let directory = TestDir::new();
    assert!(read(directory.path()).unwrap().is_empty());
    let records = [record("01", NOW), record("02", NOW + 1)];
    write(&directory, &records);
    write(&directory, &[record("03", NOW)]);
    append(directory.path(), &adoption("02", "01").unwrap()).unwrap();
    let read = read(directory.path()).unwrap();
    assert_eq!(read[0], records[0]);
    assert_eq!(read[1], IssuedRecord { replaces: Some("01".to_owned()), ..records[1].clone() });
    assert_eq!(read.len(), 3);
}

#[test]
fn a_line_reads_as_documented() {
    let line = String::from_utf8(lines(&[record("01", NOW)]).unwrap()).unwrap();
    let expected = format!(
        "{{\"serial\":\"01\",\"spiffe_id\":\"{CATALOG}\",\"anchor\":\"{}\",\"signer\":\"{}\",\"issued_at\":{NOW},\
         \"not_after\":{NOW},\"bundle_version\":1,\"instance\":\"pod-1\",\"by\":\"oidc\"}}\n",
        Fingerprint::of(b"root"),
        Fingerprint::of(b"intermediate")
    );
    assert_eq!(line, expected);
}

#[test]
fn a_line_torn_anywhere_is_ignored_and_then_taken_away() {
    let whole = lines(&[record("02", NOW)]).unwrap();
    for end in 0..whole.len() {
        let directory = TestDir::new();
        write(&directory, &[record("01", NOW)]);
        let path = directory.path().join(JOURNAL_FILE);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&whole[..end]).unwrap();
        assert_eq!(serials(&directory), ["01"], "torn at {end}");
        write(&directory, &[record("03", NOW)]);
        assert_eq!(serials(&directory), ["01", "03"], "torn at {end}");
    }
}

#[test]
fn a_long_tail_of_zeros_is_torn_too() {
    let directory = TestDir::new();
    write(&directory, &[record("01", NOW)]);
    let mut file = OpenOptions::new().append(true).open(directory.path().join(JOURNAL_FILE)).unwrap();
    file.write_all(&[0; 10_000]).unwrap();
    write(&directory, &[record("02", NOW)]);
    assert_eq!(serials(&directory), ["01", "02"]);
}

#[test]
fn anything_else_that_cannot_be_read_is_an_error_with_its_line() {
    let directory = TestDir::new();
    write(&directory, &[record("01", NOW)]);
    append(directory.path(), b"{\"serial\":\"02\"\n").unwrap();
    write(&directory, &[record("03", NOW)]);
    let error = read(directory.path()).unwrap_err();
    assert!(error.to_string().contains("issued.jsonl:2: not a record"), "{error}");
}

#[test]
fn compaction_drops_what_expired_but_not_what_tells_of_a_replacement() {
    let directory = TestDir::new();
    let replacing = IssuedRecord { replaces: Some("04".to_owned()), ..record("05", NOW - 1) };
    write(
        &directory,
        &[record("01", NOW - 1), record("02", NOW), record("03", NOW - 1), record("04", NOW + 9), replacing],
    );
    compact(directory.path(), moment(NOW)).unwrap();
    assert_eq!(serials(&directory), ["01", "02", "03", "04", "05"], "all may still renew");
    compact(directory.path(), moment(NOW) + RENEWAL_GRACE).unwrap();
    assert_eq!(serials(&directory), ["02", "04", "05"]);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing temporary is left");
}
