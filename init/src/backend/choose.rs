//! Which backend this namespace uses.

use super::{Backend, Iptables};
use crate::live::Live;
use crate::plan::Family;
use crate::{Error, Options};

/// A transaction that changes nothing.
const NOTHING: &str = "*nat\nCOMMIT\n";

/// A backend that works here.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) v4: Iptables,
    /// What the namespace holds already.
    pub(crate) live: Live,
}

/// The backend asked for or, left to us: the one that holds our rules, else the only one that holds any, else nft, else legacy.
/// A backend counts only when it accepts a transaction.
pub(crate) fn choose(options: &Options) -> Result<Chosen, Error> {
    if let Some(backend) = options.backend {
        return usable(backend, options);
    }
    let nft = usable(Backend::Nft, options);
    // Looking at legacy's rules takes no lock; trying a transaction does, and is done only when it matters.
    let legacy = looked(Backend::Legacy, options);
    match (nft, legacy) {
        (Ok(nft), Ok(legacy)) if prefer_legacy(&nft.live, &legacy) => usable(Backend::Legacy, options).or(Ok(nft)),
        (Ok(nft), _) => Ok(nft),
        (Err(nft), _) => usable(Backend::Legacy, options).map_err(|legacy| worse(nft, legacy, options)),
    }
}

fn prefer_legacy(nft: &Live, legacy: &Live) -> bool {
    !nft.has_ours() && (legacy.has_ours() || (legacy.has_rules() && !nft.has_rules()))
}

/// The other backend's IPv4 and IPv6 programs where they exist, to look for rules left there.
pub(crate) fn other(backend: Backend, options: &Options) -> Vec<(Family, Iptables)> {
    let other = if backend == Backend::Nft { Backend::Legacy } else { Backend::Nft };
    let find = |family| Iptables::find(other, family, options).ok().map(|iptables| (family, iptables));
    Family::BOTH.into_iter().filter_map(find).collect()
}

fn looked(backend: Backend, options: &Options) -> Result<Live, Error> {
    Iptables::find(backend, Family::V4, options)?.save()
}

fn usable(backend: Backend, options: &Options) -> Result<Chosen, Error> {
    let v4 = Iptables::find(backend, Family::V4, options)?;
    if let Some(capability) = backend.missing_capability() {
        return Err(Error::Capability(capability));
    }
    v4.test(NOTHING)?;
    let live = v4.save()?;
    Ok(Chosen { v4, live })
}

/// Of two reasons, the one that a person can act on.
fn worse(nft: Error, legacy: Error, options: &Options) -> Error {
    match (nft, legacy) {
        (Error::Binaries { .. }, Error::Binaries { .. }) => Error::Binaries {
            what: "iptables-nft-restore or iptables-legacy-restore".to_owned(),
            searched: options.search.clone(),
        },
        (Error::Binaries { .. }, legacy) => legacy,
        (nft, _) => nft,
    }
}
