//! Join tokens: one use each, bound to one identity, short-lived. Only their hashes are kept.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use remora_model::SpiffeId;
use serde::{Deserialize, Serialize};

use super::journal::{moment, seconds};
use super::profile::hexadecimal;
use super::state::text;
use super::{CaDirectory, CaError};
use crate::file::{Access, Prepared, sync_directory};
use crate::{Error, Fingerprint, pem};

const TOKEN_DIRECTORY: &str = "tokens";
/// What a token begins with, so that one found in a log or a repository is recognised.
const PREFIX: &str = "remora-join-";
/// A used token is remembered this much longer than it was good, to say "used before" rather than "not known".
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// What is kept of a token, in a file named by its hash.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    #[serde(with = "text")]
    spiffe_id: SpiffeId,
    /// In seconds since 1970.
    expires_at: u64,
}

impl CaDirectory {
    /// Makes a join token for `id`, good once and until `ttl` from `now`. It is told to nobody else and not kept.
    ///
    /// # Errors
    /// The CA is another trust domain's, or the directory cannot be written.
    pub fn make_token(&self, id: &SpiffeId, ttl: Duration, now: SystemTime) -> Result<String, Error> {
        self.authority().check_domain(id)?;
        let mut secret = [0; 32];
        rand::fill(&mut secret).map_err(|_| Error::Random)?;
        let token = format!("{PREFIX}{}", hexadecimal(&secret));
        let _lock = self.lock()?;
        let directory = self.path().join(TOKEN_DIRECTORY);
        let failed = |source| Error::Write { path: directory.clone(), source };
        match DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => sync_directory(&directory).map_err(failed)?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => forget_old(&directory, now),
            Err(error) => return Err(failed(error)),
        }
        let path = fresh(self.path(), &token);
        let kept = Kept { spiffe_id: id.clone(), expires_at: seconds(now + ttl) };
        let content = serde_json::to_vec(&kept).map_err(|error| failed(error.into()))?;
        Prepared::new(&path, &content, Access::Secret, None)?.create()?;
        Ok(token)
    }

    /// Whom `token` is for, where it was not used yet; this does not use it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn token_holder(&self, token: &str) -> Result<Option<SpiffeId>, Error> {
        let path = fresh(self.path(), token);
        match is_well_formed(token) && path.exists() {
            true => match read(&path) {
                Ok(kept) => Ok(Some(kept.spiffe_id)),
                // Used meanwhile.
                Err(_) if !path.exists() => Ok(None),
                Err(error) => Err(error),
            },
            false => Ok(None),
        }
    }

    /// Takes `token` and tells whom it is for. That it is used is on disk before this returns: a crash may waste a
    /// token, but never lets it be used twice.
    ///
    /// # Errors
    /// It is not known, was used before, or its time is over.
    pub fn redeem_token(&self, token: &str, now: SystemTime) -> Result<SpiffeId, Error> {
        if !is_well_formed(token) {
            return Err(CaError::UnknownToken.into());
        }
        let (path, used) = (fresh(self.path(), token), used(self.path(), token));
        // Of two at once one finds the file gone.
        match std::fs::rename(&path, &used) {
            Ok(()) => {}
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::Write { path, source: error }),
            Err(_) if used.exists() => return Err(CaError::UsedToken.into()),
            Err(_) => return Err(CaError::UnknownToken.into()),
        }
        sync_directory(&used).map_err(|source| Error::Write { path: used.clone(), source })?;
        let kept = read(&used)?;
        match now.duration_since(moment(kept.expires_at)) {
            Ok(since) if !since.is_zero() => Err(CaError::ExpiredToken(since).into()),
            _ => Ok(kept.spiffe_id),
        }
    }
}

/// Whether this could be a join token at all; cheap, and says nothing about whether there is such a one.
fn is_well_formed(token: &str) -> bool {
    token.strip_prefix(PREFIX).is_some_and(|rest| rest.len() == 64 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn fresh(ca: &Path, token: &str) -> PathBuf {
    ca.join(TOKEN_DIRECTORY).join(format!("{}.json", Fingerprint::of(token.as_bytes())))
}

fn used(ca: &Path, token: &str) -> PathBuf {
    ca.join(TOKEN_DIRECTORY).join(format!("{}.used", Fingerprint::of(token.as_bytes())))
}

fn read(path: &Path) -> Result<Kept, Error> {
    serde_json::from_slice(&pem::read(path)?)
        .map_err(|error| CaError::Corrupt { path: path.to_owned(), reason: error.to_string() }.into())
}

/// Removes what nobody will ask for any more. What cannot be read stays, for a person to look at.
fn forget_old(directory: &Path, now: SystemTime) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if read(&entry.path()).is_ok_and(|kept| moment(kept.expires_at) + REMEMBERED < now) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests;
