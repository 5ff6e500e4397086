//! The record of what was issued: one JSON line a certificate, appended and flushed before the certificate is handed
//! out. It tells who would be cut off if a root went.
//!
//! A crash may tear the last line; that certificate was never handed out. Anything else that cannot be read is an error.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use remora_model::SpiffeId;
use serde::{Deserialize, Serialize};

use super::state::text;
use super::{Authority, CaError, LEAF_BACKDATE, SignedLeaf};
use crate::file::{Access, Prepared, sync_directory};
use crate::{Error, Fingerprint};

/// How long after its end a certificate may still be renewed by: as far as leaves are dated back, so that a clock may be
/// that much off either way.
pub const RENEWAL_GRACE: Duration = LEAF_BACKDATE;

pub(super) const JOURNAL_FILE: &str = "issued.jsonl";

/// How the one who asked for a certificate proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// A token that Kubernetes' TokenReview accepted.
    TokenReview,
    /// A token signed by an OIDC issuer.
    Oidc,
    /// A join token.
    JoinToken,
    /// The certificate it has, which goes back to a join token.
    Certificate,
    /// It is whoever may read the CA's directory: `remora-certs issue`.
    Command,
}

impl Proof {
    /// Whether the holder may renew by showing the certificate: it has nothing else to show.
    pub fn renews_by_certificate(self) -> bool {
        matches!(self, Self::JoinToken | Self::Certificate)
    }
}

/// A certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuedRecord {
    /// Its serial number, lower-case hexadecimal.
    pub serial: String,
    /// Whom it names.
    #[serde(with = "text")]
    pub spiffe_id: SpiffeId,
    /// The SHA-256 of the root it leads to.
    #[serde(with = "text")]
    pub anchor: Fingerprint,
    /// The SHA-256 of the intermediate that signed it.
    #[serde(with = "text")]
    pub signer: Fingerprint,
    /// When it was issued, in seconds since 1970.
    pub issued_at: u64,
    /// When it ends, in seconds since 1970.
    pub not_after: u64,
    /// Which trust bundle was handed out with it; 0 for a CA whose bundle is not counted.
    pub bundle_version: u64,
    /// Which of the workload's processes has it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The serial number of the certificate it takes the place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// How its holder proved who it is.
    pub by: Proof,
    /// The serial number of the certificate that was the proof. Not on disk: it only says what must not be revoked by
    /// the time this is recorded.
    #[serde(skip)]
    pub proved_by: Option<String>,
}

impl IssuedRecord {
    /// What is to be recorded of `leaf`, issued by `authority` at `now` beside the bundle of `bundle_version`.
    ///
    /// # Errors
    /// The root above `authority` is not known.
    pub fn of(
        leaf: &SignedLeaf,
        authority: &Authority,
        bundle_version: u64,
        by: Proof,
        now: SystemTime,
    ) -> Result<Self, Error> {
        Ok(Self {
            serial: leaf.serial.clone(),
            spiffe_id: leaf.spiffe_id.clone(),
            anchor: authority.anchor().ok_or_else(|| CaError::NoAnchor(PathBuf::from("signer")))?,
            signer: authority.fingerprint(),
            issued_at: seconds(now),
            not_after: seconds(leaf.validity.not_after),
            bundle_version,
            instance: None,
            replaces: None,
            by,
            proved_by: None,
        })
    }

    /// Reads the lines of a record, in the order of issue; a torn last line was never handed out. `path` is for errors.
    ///
    /// # Errors
    /// [`CaError::Journal`] for the first line that is none.
    pub fn read_all(path: &Path, content: &[u8]) -> Result<Vec<Self>, Error> {
        parse(path, content)
    }

    /// Whether it is past its end at `now`.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.not_after < seconds(now)
    }
}

/// A line that completes an earlier one: its holder has taken it into use.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Adopted {
    /// The serial number of the certificate in use now.
    adopted: String,
    /// The one it took the place of.
    replaces: String,
}

/// Seconds since 1970; earlier counts as 1970.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The moment `seconds` after 1970 began.
pub(crate) fn moment(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A line for each record.
pub(super) fn lines(records: &[IssuedRecord]) -> io::Result<Vec<u8>> {
    let mut lines = Vec::with_capacity(records.len() * 512);
    for record in records {
        serde_json::to_writer(&mut lines, record)?;
        lines.push(b'\n');
    }
    Ok(lines)
}

/// The line that says that `serial` is in use now, instead of `replaced`.
pub(super) fn adoption(serial: &str, replaced: &str) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&Adopted { adopted: serial.to_owned(), replaces: replaced.to_owned() })?;
    line.push(b'\n');
    Ok(line)
}

/// Appends whole lines and flushes them; the caller holds the directory's lock. A torn last line is taken away first.
/// Returns the file's new size.
pub(super) fn append(directory: &Path, lines: &[u8]) -> Result<u64, Error> {
    let path = directory.join(JOURNAL_FILE);
    append_to(&path, lines).map_err(|source| Error::Write { path, source })
}

fn append_to(path: &Path, lines: &[u8]) -> io::Result<u64> {
    let (mut file, new) = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => (file, false),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            (OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?, true)
        }
        Err(error) => return Err(error),
    };
    let end = whole_lines(&mut file)?;
    file.set_len(end)?;
    file.seek(SeekFrom::Start(end))?;
    if let Err(error) = file.write_all(lines).and_then(|()| file.sync_data()) {
        // Nobody may take a certificate for issued that the caller was told was not.
        let _ = file.set_len(end);
        return Err(error);
    }
    if new {
        sync_directory(path)?;
    }
    Ok(end + lines.len() as u64)
}

/// Where the last whole line ends.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    const STEP: u64 = 4096;
    let mut end = file.metadata()?.len();
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(STEP);
        block.clear();
        file.seek(SeekFrom::Start(start))?;
        file.take(end - start).read_to_end(&mut block)?;
        if let Some(newline) = block.iter().rposition(|&byte| byte == b'\n') {
            return Ok(start + newline as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Every record, in the order of issue.
pub(super) fn read(directory: &Path) -> Result<Vec<IssuedRecord>, Error> {
    let path = directory.join(JOURNAL_FILE);
    match std::fs::read(&path) {
        Ok(content) => parse(&path, &content),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(Error::Read { path, source }),
    }
}

/// How far the record was read.
#[derive(Debug, Default)]
pub struct Seen {
    // Held open, so that no other file can get its number.
    file: Option<File>,
    length: u64,
}

/// What was written since `seen`, and how far that goes; everything, where the file is another. The caller holds the
/// directory's lock, so that no write is taken back meanwhile.
pub(super) fn written_since(directory: &Path, seen: &Seen) -> Result<(Vec<u8>, Seen), Error> {
    let path = directory.join(JOURNAL_FILE);
    let failed = |source| Error::Read { path: path.clone(), source };
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Default::default()),
        Err(error) => return Err(failed(error)),
    };
    let now = file.metadata().map_err(failed)?;
    let before = seen.file.as_ref().and_then(|file| file.metadata().ok());
    let same = before.is_some_and(|before| (before.dev(), before.ino()) == (now.dev(), now.ino()));
    let from = if same && now.len() >= seen.length { seen.length } else { 0 };
    let mut content = Vec::new();
    file.seek(SeekFrom::Start(from)).and_then(|_| file.read_to_end(&mut content)).map_err(failed)?;
    // A torn last line was never handed out.
    content.truncate(content.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1));
    let length = from + content.len() as u64;
    Ok((content, Seen { file: Some(file), length }))
}

fn parse(path: &Path, content: &[u8]) -> Result<Vec<IssuedRecord>, Error> {
    let mut records: Vec<IssuedRecord> = Vec::new();
    for (index, line) in content.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let Some(line) = line.strip_suffix(b"\n") else { break };
        let wrong = |error: serde_json::Error| CaError::Journal {
            path: path.to_owned(),
            line: index + 1,
            reason: error.to_string(),
        };
        if line.starts_with(br#"{"adopted""#) {
            let line: Adopted = serde_json::from_slice(line).map_err(wrong)?;
            // What it completes may be compacted away.
            if let Some(record) = records.iter_mut().rev().find(|record| record.serial == line.adopted) {
                record.replaces = Some(line.replaces);
            }
        } else {
            records.push(serde_json::from_slice(line).map_err(wrong)?);
        }
    }
    Ok(records)
}

/// Writes the record anew without what has expired; the caller holds the directory's lock. Returns the file's size.
pub(super) fn compact(directory: &Path, now: SystemTime) -> Result<u64, Error> {
    let path = directory.join(JOURNAL_FILE);
    let mut records = read(directory)?;
    // Who renews a little late is still looked up.
    let now = now.checked_sub(RENEWAL_GRACE).unwrap_or(SystemTime::UNIX_EPOCH);
    let alive: HashSet<_> =
        records.iter().filter(|record| !record.is_expired(now)).map(|record| record.serial.clone()).collect();
    // An expired leaf that took the place of a longer-lived one is what says that nobody holds that one any more.
    records.retain(|record| {
        !record.is_expired(now) || record.replaces.as_ref().is_some_and(|replaced| alive.contains(replaced))
    });
    let content = lines(&records).map_err(|source| Error::Write { path: path.clone(), source })?;
    Prepared::new(&path, &content, Access::Secret, None)?.replace()?;
    Ok(content.len() as u64)
}

#[cfg(test)]
mod tests;
