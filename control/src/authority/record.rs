//! The record of issued certificates in the Secret: the lines of a directory's `issued.jsonl`, but only those that say
//! something about who would be cut off if a root went. A Secret has room for 1 MiB.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::SystemTime;

use remora_certs::ca::rotation::SETTLED;
use remora_certs::ca::{CaError, IssuedRecord, RENEWAL_GRACE};
use serde::Deserialize;

/// The record's key.
pub(super) const RECORD: &str = "issued.jsonl";
/// The largest record in bytes; the rest of the Secret's 1 MiB is for certificates and keys.
const LARGEST: usize = 768 * 1024;

/// A line of the record.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    /// Says that a certificate has taken another's place; `remora-certs issue` writes such.
    Adopted {
        adopted: String,
        replaces: String,
    },
    Issued(IssuedRecord),
}

/// Reads the record. A last line without an end counts for nothing, as in a file.
pub(super) fn parse(content: &[u8]) -> Result<Vec<IssuedRecord>, CaError> {
    let mut records: Vec<IssuedRecord> = Vec::new();
    for (index, line) in content.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let Some(line) = line.strip_suffix(b"\n") else { break };
        let line = serde_json::from_slice(line).map_err(|error| CaError::Journal {
            path: PathBuf::from(RECORD),
            line: index + 1,
            reason: error.to_string(),
        })?;
        match line {
            Line::Issued(record) => records.push(record),
            Line::Adopted { adopted, replaces } => {
                if let Some(record) = records.iter_mut().rev().find(|record| record.serial == adopted) {
                    record.replaces = Some(replaces);
                }
            }
        }
    }
    Ok(records)
}

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

/// Not expired, not replaced, and of each known process only the last that it surely has, and those after it.
fn kept(mut records: Vec<IssuedRecord>, now: SystemTime) -> Vec<IssuedRecord> {
    let unix = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let earliest_end = unix(now.checked_sub(RENEWAL_GRACE).unwrap_or(SystemTime::UNIX_EPOCH));
    let is_settled = |record: &IssuedRecord| unix(now).abs_diff(record.issued_at) >= SETTLED.as_secs();
    records.retain(|record| record.not_after >= earliest_end);
    let replaced: HashSet<(String, String)> = records
        .iter()
        .filter(|record| is_settled(record))
        .filter_map(|record| Some((record.spiffe_id.to_string(), record.replaces.clone()?)))
        .collect();
    let process = |record: &IssuedRecord| Some((record.spiffe_id.to_string(), record.instance.clone()?));
    let mut latest = HashMap::new();
    for (index, record) in records.iter().enumerate().filter(|(_, record)| is_settled(record)) {
        if let Some(process) = process(record) {
            latest.insert(process, index);
        }
    }
    let mut index = 0..;
    records.retain(|record| {
        let index = index.next().unwrap_or(usize::MAX);
        let is_latest = process(record).and_then(|process| latest.get(&process)).is_none_or(|&last| index >= last);
        is_latest && !replaced.contains(&(record.spiffe_id.to_string(), record.serial.clone()))
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

    fn serials(records: Vec<IssuedRecord>) -> Vec<String> {
        let (lines, dropped) = lines(records, now());
        assert_eq!(dropped, 0);
        parse(&lines).unwrap().into_iter().map(|record| record.serial).collect()
    }

    #[test]
    fn of_each_process_the_last_certificate_that_it_surely_has_is_kept_and_what_came_after() {
        let records = vec![
            record("01", Some("a"), NOW - 300),
            record("02", Some("b"), NOW - 250),
            record("03", Some("a"), NOW - 200),
            record("04", None, NOW - 100),
            record("05", None, NOW - 90),
            record("06", Some("a"), NOW - 1),
        ];
        assert_eq!(serials(records), ["02", "03", "04", "05", "06"]);
    }

    #[test]
    fn what_ended_or_was_replaced_is_forgotten() {
        let mut renewed = record("03", None, NOW - 100);
        renewed.replaces = Some("02".to_owned());
        let mut unsettled = record("05", None, NOW - 1);
        unsettled.replaces = Some("04".to_owned());
        let records = vec![
            record("01", None, NOW - 4000),
            record("02", None, NOW - 200),
            renewed,
            record("04", None, NOW - 150),
            unsettled,
        ];
        assert_eq!(serials(records), ["03", "04", "05"]);
    }

    #[test]
    fn the_record_fits_into_a_secret_whatever_is_issued() {
        let records: Vec<_> = (0..5000).map(|n| record(&format!("{n:040x}"), None, NOW - 3000 + n % 100)).collect();
        let (content, dropped) = lines(records, now());
        assert!(content.len() <= LARGEST && content.len() > LARGEST - 1000, "{}", content.len());
        let kept = parse(&content).unwrap();
        assert_eq!(kept.len() + dropped, 5000);
        let first_end = kept.iter().map(|record| record.not_after).min().unwrap();
        assert!(first_end > NOW + 600, "those that end last stay: {first_end}");
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        let error = parse(b"{}\n").unwrap_err().to_string();
        assert!(error.starts_with("issued.jsonl:1: "), "{error}");
        let adopted =
            [lines(vec![record("01", None, NOW - 1)], now()).0, br#"{"adopted":"01","replaces":"00"}"#.to_vec()];
        let content = [adopted.concat(), b"\n".to_vec()].concat();
        assert_eq!(parse(&content).unwrap()[0].replaces.as_deref(), Some("00"));
    }
}
