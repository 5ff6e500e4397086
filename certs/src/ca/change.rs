//! Changing a CA: the steps of a rotation. Each is one new `state.json`, after the files it names and before those that
//! follow from it; a crash in between is as if the step had not begun, or had been done.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use remora_model::identity::KeyKind;

use super::directory::load_signer;
use super::lock::DirectoryLock;
use super::rotation::{Decision, Obstacle, Step, decide, holders};
use super::state::State;
use super::{Authority, CA_BACKDATE, CaDirectory, CaError, CaRoot, IssuedRecord, Phase, Signer, Validity, journal};
use crate::file::{Access, Prepared, sweep};
use crate::{Error, pem};

/// What a new root and its intermediate are to be.
#[derive(Clone, Debug)]
pub struct NewRoot {
    /// How long the root is valid, where one is made.
    pub root: Duration,
    /// How long the intermediate is; cut to the root's.
    pub intermediate: Duration,
    /// What kind of keys are made.
    pub key: KeyKind,
    /// A root made elsewhere: certificate and key, which signs the intermediate and is not kept.
    pub given: Option<(PathBuf, PathBuf)>,
}

/// A CA that nobody else changes meanwhile.
struct Locked {
    _lock: DirectoryLock,
    path: PathBuf,
    state: State,
    now: SystemTime,
}

impl CaDirectory {
    /// The certificates that may be in use at `now`; see [`holders`].
    ///
    /// # Errors
    /// The record cannot be read, or this is a CA that is rotated elsewhere.
    pub fn holders(&self, now: SystemTime) -> Result<Vec<IssuedRecord>, Error> {
        let state = self.state().ok_or_else(|| CaError::Plugin(self.path().to_owned()))?;
        Ok(holders(state, journal::read(self.path())?, now))
    }

    /// Does one step of the root's rotation, and tells what it broke: nothing, unless it was forced. A forced drop may
    /// skip the step before it.
    ///
    /// # Errors
    /// [`CaError::Refused`] where the step is not safe and not forced, or not the next; a file cannot be read or
    /// written.
    pub fn rotate_root(
        &self,
        step: Step,
        force: bool,
        new: &NewRoot,
        now: SystemTime,
    ) -> Result<(Self, Vec<Obstacle>), Error> {
        let mut locked = Locked::take(self.path(), now)?;
        if force && step == Step::Drop && locked.state.phase == Phase::Distribute {
            locked.state.use_next_signer();
        }
        let holders = holders(&locked.state, journal::read(self.path())?, now);
        let broken = match decide(step, &locked.state, &holders) {
            Decision::Safe => Vec::new(),
            Decision::Refused(obstacles) => {
                if !force || obstacles.iter().any(|obstacle| obstacle.record().is_none()) {
                    return Err(CaError::Refused { step, obstacles }.into());
                }
                obstacles
            }
        };
        match step {
            Step::Start => locked.add_root(new)?,
            Step::Issue => locked.state.use_next_signer(),
            Step::Drop => locked.state.drop_old_root(),
        }
        Ok((locked.commit()?, broken))
    }

    /// Makes a new intermediate beneath the root that signs, and signs with it from now on. `root_key` is the root's
    /// key where it is kept offline; it is not copied.
    ///
    /// # Errors
    /// The root's key is not there, or not the root's; a file cannot be read or written.
    pub fn rotate_intermediate(
        &self,
        root_key: Option<&Path>,
        lifetime: Duration,
        kind: KeyKind,
        now: SystemTime,
    ) -> Result<Self, Error> {
        let mut locked = Locked::take(self.path(), now)?;
        let root = locked.signing_root(root_key)?;
        let signer = locked.add_intermediate(&root, lifetime, kind)?;
        let old = std::mem::replace(&mut locked.state.signer, signer);
        locked.state.retired.push(old);
        locked.state.next += 1;
        locked.commit()
    }

    /// Revokes those of the unexpired certificates that `matches`, and returns them. To revoke again what is revoked
    /// writes the revocation lists again.
    ///
    /// # Errors
    /// No certificate matches, or a file cannot be read or written.
    pub fn revoke(&self, matches: impl Fn(&IssuedRecord) -> bool, now: SystemTime) -> Result<Vec<IssuedRecord>, Error> {
        let mut locked = Locked::take(self.path(), now)?;
        let mut found = journal::read(self.path())?;
        found.retain(|record| !record.is_expired(now) && matches(record));
        if found.is_empty() {
            return Err(CaError::NotIssued.into());
        }
        for record in &found {
            locked.state.revoke(record, now);
        }
        locked.commit()?;
        Ok(found)
    }
}

impl Locked {
    fn take(path: &Path, now: SystemTime) -> Result<Self, Error> {
        let lock = DirectoryLock::exclusive(path)?;
        // Nobody else writes here now, so what is half written was written by somebody who died.
        sweep(path);
        let opened = CaDirectory::read(path)?;
        let state = opened.state().ok_or_else(|| CaError::Plugin(path.to_owned()))?.clone();
        Ok(Self { _lock: lock, path: path.to_owned(), state, now })
    }

    /// Makes the new state the truth, and what follows from it after.
    fn commit(mut self) -> Result<CaDirectory, Error> {
        let records = journal::read(&self.path)?;
        let forgotten = self.state.forget_expired(&records, self.now);
        self.state.write(&self.path)?;
        for name in forgotten.iter().flat_map(|signer| [&signer.certificate, &signer.key]) {
            // Nothing it signed is valid any more.
            let _ = std::fs::remove_file(self.path.join(name));
        }
        journal::compact(&self.path, self.now)?;
        let changed = CaDirectory::read(&self.path)?;
        changed.write_bundle()?;
        changed.write_crls(self.now)?;
        Ok(changed)
    }

    fn add_root(&mut self, new: &NewRoot) -> Result<(), Error> {
        let domain = self.state.trust_domain.clone();
        let root = match &new.given {
            Some((certificate, key)) => given_root(certificate, key)?,
            None => {
                let validity = Validity::around(self.now, CA_BACKDATE, new.root);
                Authority::root_of_kind(&domain, validity, new.key)?
            }
        };
        if let Some(named) = root.trust_domain().filter(|&named| *named != domain) {
            let id = format!("spiffe://{named}").parse().map_err(|_| CaError::NotIssued)?;
            return Err(Error::ForeignId { id, trust_domain: domain });
        }
        let next = self.state.next;
        let added = CaRoot {
            certificate: format!("root-{next}.pem"),
            key: format!("root-{next}-key.pem"),
            fingerprint: root.fingerprint(),
        };
        if self.state.roots.iter().any(|old| old.fingerprint == added.fingerprint) {
            return Err(CaError::SameRoot.into());
        }
        if new.given.is_none() {
            self.write(&added.key, &root.key_pem(), Access::Secret)?;
        }
        self.write(&added.certificate, root.certificate_pem(), Access::Public)?;
        let signer = self.add_intermediate(&root, new.intermediate, new.key)?;
        self.state.distribute(added, signer);
        Ok(())
    }

    fn add_intermediate(&self, root: &Authority, lifetime: Duration, kind: KeyKind) -> Result<Signer, Error> {
        let validity = Validity::around(self.now, CA_BACKDATE, lifetime);
        let made = root.intermediate_of_kind(&self.state.trust_domain, validity, kind)?;
        let next = self.state.next;
        let signer = Signer {
            certificate: format!("intermediate-{next}.pem"),
            key: format!("intermediate-{next}-key.pem"),
            fingerprint: made.fingerprint(),
            root: root.fingerprint(),
        };
        self.write(&signer.key, &made.key_pem(), Access::Secret)?;
        self.write(&signer.certificate, made.certificate_pem(), Access::Public)?;
        // What cannot be read back must not become the truth.
        let roots = pem::certificates(Path::new(&signer.certificate), root.certificate_pem().as_bytes())?;
        load_signer(&self.path, &signer, &roots)?;
        Ok(signer)
    }

    fn signing_root(&self, key: Option<&Path>) -> Result<Authority, Error> {
        let root = self.state.signing_root().ok_or_else(|| CaError::NoAnchor(self.path.clone()))?;
        let kept = self.path.join(&root.key);
        if key.is_none() && !kept.exists() {
            return Err(CaError::RootKeyOffline(kept).into());
        }
        given_root(&self.path.join(&root.certificate), key.unwrap_or(&kept))
    }

    /// Over what an interrupted attempt left under that name; the state names nothing that was not finished.
    fn write(&self, name: &str, content: &str, access: Access) -> Result<(), Error> {
        Prepared::new(&self.path.join(name), content.as_bytes(), access, None)?.replace()
    }
}

/// A root with its key.
fn given_root(certificate: &Path, key: &Path) -> Result<Authority, Error> {
    let roots = pem::certificates(certificate, &pem::read(certificate)?)?;
    let root = Authority::load(certificate, key)?.beneath(certificate, &roots[..1])?;
    match root.anchor() == Some(root.fingerprint()) {
        true => Ok(root),
        false => Err(CaError::NoAnchor(certificate.to_owned()).into()),
    }
}

#[cfg(test)]
mod tests;
