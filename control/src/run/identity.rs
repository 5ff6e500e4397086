//! The runs' own certificate authority, and a run's identity from it.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use remora_certs::Owner;
use remora_certs::ca::{CaDirectory, Lifetimes};
use remora_model::capture::PROXY_ID;
use remora_model::{SpiffeId, TrustDomain};

use super::{Error, State};

/// The authority's own life: /run forgets it at the next boot anyway.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Whom a run is, and how it stays so.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) id: SpiffeId,
    /// Where certificate, key and bundle go.
    pub(super) folder: PathBuf,
    /// How long each certificate lives.
    pub(super) life: Duration,
}

impl Identity {
    /// Issues the next certificate; returns when it is due to be replaced: at half of its life.
    pub(super) fn issue(&self, state: &State) -> Result<SystemTime, Error> {
        let authority = authority(state)?;
        let now = SystemTime::now();
        let validity = authority.authority().leaf_validity(now, self.life)?;
        let issued = authority.authority().issue(&self.id, validity)?;
        issued.write(&self.folder, authority.bundle_pem(), Some(Owner { uid: PROXY_ID, gid: Some(PROXY_ID) }))?;
        Ok(now + self.life / 2)
    }
}

/// Opens the authority; makes it where there is none yet.
fn authority(state: &State) -> Result<CaDirectory, Error> {
    let folder = state.authority();
    let _lock = state.lock()?;
    if folder.join("state.json").exists() {
        return Ok(CaDirectory::open(&folder)?);
    }
    let lifetimes = Lifetimes { root: AUTHORITY_LIFE, intermediate: AUTHORITY_LIFE };
    Ok(CaDirectory::init(&folder, &trust_domain(), lifetimes)?)
}

/// The trust domain of every `remora run` on this host.
pub(super) fn trust_domain() -> TrustDomain {
    "local.remora".parse().expect("a trust domain: lower-case letters and a dot")
}
