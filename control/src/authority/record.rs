//! The record of issued certificates in the Secret: the lines of a directory's `issued.jsonl`, but only those that say
//! something about who would be cut off if a root went. A Secret has room for 1 MiB.

use std::collections::HashSet;
use std::time::SystemTime;

use remora_certs::ca::rotation::replaced;
use remora_certs::ca::{IssuedRecord, RENEWAL_GRACE};

/// The record's key.
pub(super) const RECORD: &str = "issued.jsonl";
/// The largest record in bytes; the rest of the Secret's 1 MiB is for certificates and keys.
const LARGEST: usize = 768 * 1024;

/// Those of `records` that count at `now`, as lines; and how many more there would be if there were room for them.
pub(super) fn lines(records: Vec<IssuedRecord>, now: SystemTime) -> (Vec<u8>, usize) {
    let mut lines: Vec<_> = kept(records, now)
        .into_iter()
        .filter_map(|record| Some((record.not_after, serde_json::to_vec(&record).ok()?)))
        .collect();
    let mut size: usize = lines.iter().map(|(_, line)| line.len() + 1).sum();
    let mut dropped = 0;
    if size > LARGEST {
        // What ends first will be missed least.
        let mut by_end: Vec<_> =
            lines.iter().enumerate().map(|(index, (end, line))| (*end, index, line.len())).collect();
        by_end.sort_unstable();
        let mut gone = HashSet::new();
        for (_, index, length) in by_end {
            if size <= LARGEST {
                break;
            }
            size -= length + 1;
            gone.insert(index);
        }
        dropped = gone.len();
        let mut index = 0..;
        lines.retain(|_| index.next().is_some_and(|index| !gone.contains(&index)));
    }
    let mut content = Vec::with_capacity(size);
    for (_, line) in lines {
        content.extend(line);
        content.push(b'\n');
    }
    (content, dropped)
}

/// Those whose end, and the grace after it, is yet to come, and which somebody may still have.
fn kept(mut records: Vec<IssuedRecord>, now: SystemTime) -> Vec<IssuedRecord> {
    let earliest_end = now.checked_sub(RENEWAL_GRACE).unwrap_or(SystemTime::UNIX_EPOCH);
    let replaced = replaced(&records, now);
    records.retain(|record| {
        let is_gone = replaced.contains(&(record.spiffe_id.to_string(), record.serial.clone()));
        !record.is_expired(earliest_end) && !is_gone
    });
    records
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use remora_certs::ca::Proof;

    use super::*;

    const NOW: u64 = 1_000_000;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
    }

    fn record(serial: &str, instance: Option<&str>, issued_at: u64) -> IssuedRecord {
        let hash = "ab".repeat(32);
        IssuedRecord {
            serial: serial.to_owned(),
            spiffe_id: "spiffe://example.org/ns/shop/sa/cart".parse().unwrap(),
            anchor: hash.parse().unwrap(),
            signer: hash.parse().unwrap(),
            issued_at,
            not_after: issued_at + 3600,
            bundle_version: 1,
            instance: instance.map(str::to_owned),
            replaces: None,
            by: Proof::TokenReview,
            proved_by: None,
        }
    }

    fn read(lines: &[u8]) -> Vec<IssuedRecord> {
        IssuedRecord::read_all(RECORD.as_ref(), lines).unwrap()
    }

    fn serials(records: Vec<IssuedRecord>) -> Vec<String> {
        let (lines, dropped) = lines(records, now());
        assert_eq!(dropped, 0);
        read(&lines).into_iter().map(|record| record.serial).collect()
    }

    #[test]
    fn what_ended_or_was_replaced_is_forgotten() {
        let replacing = |serial, replaced: &str, age| IssuedRecord {
            replaces: Some(replaced.to_owned()),
            ..record(serial, None, NOW - age)
        };
        let records = vec![
            record("01", None, NOW - 4000),
            record("02", None, NOW - 200),
            replacing("03", "02", 100),
            record("04", None, NOW - 150),
            replacing("05", "04", 1),
        ];
        assert_eq!(serials(records), ["03", "04", "05"]);
    }

    #[test]
    fn whoever_asks_anew_with_a_certificate_still_has_it() {
        let replacing =
            |serial, age| IssuedRecord { replaces: Some("01".to_owned()), ..record(serial, Some("a"), NOW - age) };
        // The first answer was lost, long ago.
        let records = vec![record("01", Some("a"), NOW - 1000), replacing("02", 300), replacing("03", 1)];
        assert_eq!(serials(records), ["01", "02", "03"]);
    }

    #[test]
    fn the_record_fits_into_a_secret_whatever_is_issued() {
        let records: Vec<_> = (0..5000).map(|n| record(&format!("{n:040x}"), None, NOW - 3000 + n % 100)).collect();
        let (content, dropped) = lines(records, now());
        assert!(content.len() <= LARGEST && content.len() > LARGEST - 1000, "{}", content.len());
        let kept = read(&content);
        assert_eq!(kept.len() + dropped, 5000);
        let first_end = kept.iter().map(|record| record.not_after).min().unwrap();
        assert!(first_end > NOW + 600, "those that end last stay: {first_end}");
    }
}
