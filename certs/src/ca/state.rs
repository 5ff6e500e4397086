//! The truth about a CA: which roots there are, who signs, and how far a rotation has come.

use std::path::Path;
use std::time::SystemTime;

use remora_model::TrustDomain;
use serde::{Deserialize, Serialize};

use super::journal::moment;
use super::{CaError, IssuedRecord};
use crate::file::{Access, Prepared};
use crate::{Error, Fingerprint, pem};

pub(super) const STATE_FILE: &str = "state.json";
const VERSION: u32 = 1;

/// What `state.json` holds. Changing it is the commit point of every change: the files it names are complete by then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Of this format: 1.
    version: u32,
    /// What the CA signs for.
    #[serde(with = "text")]
    pub trust_domain: TrustDomain,
    /// How far a rotation of the root has come.
    pub phase: Phase,
    /// Counts the trust bundles there have been; every change of the bundle adds one.
    pub bundle_version: u64,
    /// The number that the next root's or intermediate's files get.
    pub(super) next: u32,
    /// The roots in the bundle, oldest first.
    pub roots: Vec<CaRoot>,
    /// What signs.
    pub signer: Signer,
    /// What will sign when a rotation of the root goes on; only in [`Phase::Distribute`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_signer: Option<Signer>,
    /// What signed once, whose leaves may still be valid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<Signer>,
    /// Leaves that are not to be trusted any more, until they expire.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<Revoked>,
}

/// How far a rotation of the root has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// One root, which signs.
    Stable,
    /// Two roots in the bundle; the old one's intermediate signs until everybody has the bundle.
    Distribute,
    /// Two roots in the bundle; the new one's intermediate signs, and the old one's leaves are waited out.
    Issue,
}

/// A root of the trust bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaRoot {
    /// Its file in the directory.
    pub certificate: String,
    /// Where its key is, while it is there: it may be taken offline.
    pub key: String,
    /// The certificate's SHA-256.
    #[serde(with = "text")]
    pub fingerprint: Fingerprint,
}

/// An intermediate that signs, will sign or has signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signer {
    /// Its file in the directory.
    pub certificate: String,
    /// Its key's file.
    pub key: String,
    /// The certificate's SHA-256.
    #[serde(with = "text")]
    pub fingerprint: Fingerprint,
    /// The SHA-256 of the root above it.
    #[serde(with = "text")]
    pub root: Fingerprint,
}

/// A leaf that is not to be trusted any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoked {
    /// Its serial number, lower-case hexadecimal.
    pub serial: String,
    /// The SHA-256 of the intermediate that signed it.
    #[serde(with = "text")]
    pub signer: Fingerprint,
    /// When it was revoked, in seconds since 1970.
    pub at: u64,
    /// When it ends by itself, in seconds since 1970.
    pub not_after: u64,
}

impl State {
    /// Of a new CA with one root and one intermediate.
    pub(super) fn new(trust_domain: TrustDomain, root: CaRoot, signer: Signer) -> Self {
        Self {
            version: VERSION,
            trust_domain,
            phase: Phase::Stable,
            bundle_version: 1,
            next: 2,
            roots: vec![root],
            signer,
            next_signer: None,
            retired: Vec::new(),
            revoked: Vec::new(),
        }
    }

    /// Reads the state of `directory`; [`None`] where there is none.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, Error> {
        let path = directory.join(STATE_FILE);
        let content = match pem::read(&path) {
            Ok(content) => content,
            Err(Error::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let corrupt = |reason: String| CaError::Corrupt { path: path.clone(), reason };
        let state: Self = serde_json::from_slice(&content).map_err(|error| corrupt(error.to_string()))?;
        state.check().map_err(corrupt)?;
        Ok(Some(state))
    }

    /// Puts it in place of the old one.
    pub(super) fn write(&self, directory: &Path) -> Result<(), Error> {
        let path = directory.join(STATE_FILE);
        let mut content = serde_json::to_vec_pretty(self)
            .map_err(|error| CaError::Corrupt { path: path.clone(), reason: error.to_string() })?;
        content.push(b'\n');
        Prepared::new(&path, &content, Access::Secret, None)?.replace()
    }

    /// The root above what signs.
    pub fn signing_root(&self) -> Option<&CaRoot> {
        self.roots.iter().find(|root| root.fingerprint == self.signer.root)
    }

    /// A new root is in the bundle; its intermediate will sign next.
    pub(super) fn distribute(&mut self, root: CaRoot, signer: Signer) {
        self.roots.push(root);
        self.next_signer = Some(signer);
        self.phase = Phase::Distribute;
        self.bundle_version += 1;
        self.next += 1;
    }

    /// The new root's intermediate signs.
    pub(super) fn use_next_signer(&mut self) {
        if let Some(next) = self.next_signer.take() {
            self.retired.push(std::mem::replace(&mut self.signer, next));
            self.phase = Phase::Issue;
        }
    }

    /// Only the root above what signs is left.
    pub(super) fn drop_old_root(&mut self) {
        let root = self.signer.root;
        self.roots.retain(|kept| kept.fingerprint == root);
        self.phase = Phase::Stable;
        self.bundle_version += 1;
    }

    /// Marks a certificate as revoked, once.
    pub(super) fn revoke(&mut self, record: &IssuedRecord, now: SystemTime) {
        if !self.has_revoked(&record.serial) {
            self.revoked.push(Revoked::new(record, now));
        }
    }

    /// Whether the certificate with this serial number is not to be trusted any more.
    pub(super) fn has_revoked(&self, serial: &str) -> bool {
        self.revoked.iter().any(|known| known.serial == serial)
    }

    /// Forgets revocations of what has expired, and intermediates of which nothing valid is left; returns those.
    pub(super) fn forget_expired(&mut self, records: &[IssuedRecord], now: SystemTime) -> Vec<Signer> {
        self.revoked.retain(|revoked| moment(revoked.not_after) >= now);
        let roots = &self.roots;
        let needed = |signer: &Signer| {
            roots.iter().any(|root| root.fingerprint == signer.root)
                && records.iter().any(|record| record.signer == signer.fingerprint && !record.is_expired(now))
        };
        let (kept, forgotten) = std::mem::take(&mut self.retired).into_iter().partition(needed);
        self.retired = kept;
        forgotten
    }

    fn check(&self) -> Result<(), String> {
        if self.version != VERSION {
            return Err(format!("version {} is not known; this program writes version {VERSION}", self.version));
        }
        let roots = match self.phase {
            Phase::Stable => 1,
            Phase::Distribute | Phase::Issue => 2,
        };
        if self.roots.len() != roots || self.next_signer.is_some() != (self.phase == Phase::Distribute) {
            return Err("its roots and signers do not fit its phase".to_owned());
        }
        if self.signing_root().is_none() {
            return Err("the root of its signer is not among its roots".to_owned());
        }
        let names = self.roots.iter().flat_map(|root| [&root.certificate, &root.key]);
        let signers = std::iter::once(&self.signer).chain(&self.next_signer).chain(&self.retired);
        let mut names = names.chain(signers.flat_map(|signer| [&signer.certificate, &signer.key]));
        match names.find(|name| name.is_empty() || name.starts_with('.') || name.contains('/')) {
            Some(name) => Err(format!("{name:?} is not the name of a file in the directory")),
            None => Ok(()),
        }
    }
}

/// Values written as they are displayed and read by parsing.
pub(super) mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(in crate::ca) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(in crate::ca) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
