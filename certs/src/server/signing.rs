//! What signs now, and what this server shows: read from the store, read again when it changes, renewed as it ages.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::SanType;
use remora_model::identity::KeyKind;
use remora_model::{SpiffeId, TrustDomain};
use rustls::ServerConfig;
use tokio::sync::watch;

use super::error::Error;
use super::metrics::Metrics;
use super::store::{Loaded, Store};
use crate::ca::{Authority, RENEWAL_GRACE, Validity};
use crate::crl::RevocationList;
use crate::tls::server_config;
use crate::verify::PeerRole;
use crate::watch::FileWatcher;
use crate::{Fingerprint, Identity, SpiffeVerifier, Svid, TrustBundle, TrustBundles, verify_chain};

/// How long a serving certificate is valid; renewed at half of it.
const SERVING_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// How often the clock is looked at: a clock that jumps must not keep an old certificate in use.
const TICK: Duration = Duration::from_secs(30);

/// How the server presents itself.
#[derive(Clone, Debug)]
pub struct Presence {
    /// DNS names and IP addresses its certificate is valid for, besides its SPIFFE ID.
    pub names: Vec<String>,
    /// The trust domain, for signing certificates that name none.
    pub trust_domain: Option<TrustDomain>,
    /// Its SPIFFE ID; without one `spiffe://TRUST-DOMAIN/ns/remora-system/sa/remora-certs`.
    pub spiffe_id: Option<SpiffeId>,
}

/// One state of the authority, whole: signer, bundle and serving certificate belong together.
pub(crate) struct Signing {
    pub(crate) authority: Arc<Authority>,
    pub(crate) trust_domain: TrustDomain,
    /// The bundle's roots as PEM.
    pub(crate) bundle: String,
    pub(crate) bundle_version: u64,
    /// The root that what is signed now leads to.
    pub(crate) anchor: Fingerprint,
    /// Who we are, and by which bundles clients are judged.
    pub(crate) identity: Identity,
    /// For handshakes: client certificates welcome, not needed.
    pub(crate) tls: Arc<ServerConfig>,
    /// Who shows a certificate in those must show a valid one, or one that expired lately: a clock that is ahead must not prevent
    /// a renewal.
    pub(crate) verifier: Arc<SpiffeVerifier>,
}

impl Signing {
    /// Makes it of what the store has, with a serving certificate of its own.
    pub(crate) fn new(loaded: Loaded, presence: &Presence, now: SystemTime) -> Result<Self, Error> {
        let Loaded { authority, trust_domain, bundle_pem, bundle_path, crl, bundle_version } = loaded;
        let trust_domain = match (&trust_domain, &presence.trust_domain) {
            (Some(found), Some(told)) if found != told => {
                return Err(Error::OtherTrustDomain { found: found.clone(), told: told.clone() });
            }
            (Some(domain), _) | (None, Some(domain)) => domain.clone(),
            (None, None) => return Err(Error::NoTrustDomain),
        };
        let bundle = TrustBundle::parse(trust_domain.clone(), &bundle_path, &bundle_pem)?;
        let svid = serving_svid(&authority, &trust_domain, presence, now)?;
        let mut bundles = TrustBundles::new(bundle);
        if let Some((path, pem)) = crl {
            bundles = bundles.with_crls(RevocationList::parse(&path, &pem)?);
        }
        let identity = Identity::new(svid, bundles);
        let anchor = anchor(&identity, now)?;
        let verifier = SpiffeVerifier::of_clients(Arc::clone(identity.bundles()), false).tolerating(RENEWAL_GRACE);
        let verifier = Arc::new(verifier);
        let tls = server_config(&identity, vec![b"h2".to_vec()], Arc::clone(&verifier))?;
        let bundle = String::from_utf8_lossy(&bundle_pem).into_owned();
        Ok(Self { authority, trust_domain, bundle, bundle_version, anchor, identity, tls, verifier })
    }

    /// Whether the signer may sign at `now`.
    pub(crate) fn is_valid(&self, now: SystemTime) -> bool {
        let Validity { not_before, not_after } = self.authority.validity();
        (not_before..=not_after).contains(&now)
    }

    /// Whether the serving certificate has lived half of its life, or the clock went back before it.
    fn is_due(&self, now: SystemTime) -> bool {
        let svid = self.identity.svid();
        let half = svid.not_after().duration_since(svid.not_before()).unwrap_or_default() / 2;
        now < svid.not_before() || now >= svid.not_before() + half
    }
}

/// Proves that what the signer issues is trusted by the bundle, before anybody gets it.
fn anchor(identity: &Identity, now: SystemTime) -> Result<Fingerprint, Error> {
    let chain = identity.svid().certificates();
    Ok(verify_chain(chain, PeerRole::Server, identity.bundles(), &[], now)?.anchor)
}

fn serving_svid(
    authority: &Authority,
    trust_domain: &TrustDomain,
    presence: &Presence,
    now: SystemTime,
) -> Result<Svid, Error> {
    let id = match &presence.spiffe_id {
        Some(id) if id.trust_domain() != trust_domain.as_str() => {
            return Err(Error::OwnIdentity { id: id.clone(), trust_domain: trust_domain.clone() });
        }
        Some(id) => id.clone(),
        None => SpiffeId::workload(trust_domain, "remora-system", "remora-certs")
            .expect("the default namespace and account are well-formed"),
    };
    let names = presence.names.iter().map(|name| alternative_name(name)).collect::<Result<Vec<_>, _>>()?;
    let validity = authority.leaf_validity(now, SERVING_LIFE)?;
    let issued = authority.issue_as(&id, validity, KeyKind::P256, |params| params.subject_alt_names.extend(names))?;
    // Made here a moment ago: the names of files stand for where it came from.
    let (certificate, key) = (Path::new("serving certificate"), Path::new("serving key"));
    let (chain_pem, key_pem) = (issued.chain_pem.as_bytes(), issued.key_pem.as_bytes());
    Ok(Svid::parse(trust_domain, (certificate, chain_pem), (key, key_pem))?)
}

fn alternative_name(name: &str) -> Result<SanType, Error> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let bad = || Error::DnsName(name.to_owned());
    rustls_pki_types::DnsName::try_from(name).map_err(|_| bad())?;
    Ok(SanType::DnsName(name.try_into().map_err(|_| bad())?))
}

/// Keeps the state fresh.
pub(crate) struct Keeper {
    store: Arc<dyn Store>,
    presence: Presence,
    metrics: Arc<Metrics>,
    paths: Vec<PathBuf>,
    watcher: FileWatcher,
    signing: watch::Sender<Arc<Signing>>,
    problem: watch::Sender<Option<String>>,
    again: tokio::sync::mpsc::Receiver<tokio::sync::oneshot::Sender<()>>,
}

/// What a keeper keeps, for reading.
#[derive(Clone)]
pub(crate) struct Kept {
    /// The state in use.
    pub(crate) signing: watch::Receiver<Arc<Signing>>,
    /// Why a newer state is not in use.
    pub(crate) problem: watch::Receiver<Option<String>>,
    again: tokio::sync::mpsc::Sender<tokio::sync::oneshot::Sender<()>>,
}

impl Kept {
    /// Waits for a state later than `old`; has it read at once if it was not yet.
    pub(crate) async fn read_after(&self, old: &Arc<Signing>) {
        if !Arc::ptr_eq(&self.signing.borrow(), old) {
            return;
        }
        let (done, finished) = tokio::sync::oneshot::channel();
        if self.again.send(done).await.is_ok() {
            let _ = finished.await;
        }
    }
}

impl Keeper {
    /// Reads the state for the first time.
    pub(crate) fn new(store: Arc<dyn Store>, presence: Presence, metrics: Arc<Metrics>) -> Result<(Self, Kept), Error> {
        // Watched before it is read, so that no change is missed between.
        let paths = store.watch_paths();
        let watcher = FileWatcher::new(paths.clone());
        let first = Signing::new(store.load()?, &presence, SystemTime::now())?;
        store.accepted();
        note(&metrics, &first);
        let (signing, signing_out) = watch::channel(Arc::new(first));
        let (problem, problem_out) = watch::channel(None);
        let (asked, again) = tokio::sync::mpsc::channel(16);
        let kept = Kept { signing: signing_out, problem: problem_out, again: asked };
        Ok((Self { store, presence, metrics, paths, watcher, signing, problem, again }, kept))
    }

    /// Keeps it fresh until dropped.
    pub(crate) async fn run(mut self) {
        loop {
            let mut waiting = Vec::new();
            tokio::select! {
                () = self.watcher.changed() => {}
                () = tokio::time::sleep(TICK) => {
                    // A problem that went away without a change of bytes, such as a clock set right, is found so too.
                    if !self.signing.borrow().is_due(SystemTime::now()) && self.problem.borrow().is_none() {
                        continue;
                    }
                }
                asked = self.again.recv() => match asked {
                    Some(done) => waiting.push(done),
                    // Nobody is left to serve.
                    None => return,
                },
            }
            // Whoever asked by now is served by the same reading.
            while let Ok(done) = self.again.try_recv() {
                waiting.push(done);
            }
            self.reload().await;
            self.follow().await;
            for done in waiting {
                let _ = done.send(());
            }
        }
    }

    /// Watches what the new state is made of: after a rotation other files sign.
    async fn follow(&mut self) {
        let paths = self.store.watch_paths();
        if paths != self.paths {
            self.watcher = FileWatcher::new(paths.clone());
            self.paths = paths;
            // What changed before the new watch began would go unnoticed.
            self.reload().await;
        }
    }

    async fn reload(&mut self) {
        let (store, presence) = (Arc::clone(&self.store), self.presence.clone());
        let told = self.signing.borrow().trust_domain.clone();
        let loaded = tokio::task::spawn_blocking(move || {
            // A running server's trust domain does not change under its callers.
            let presence = Presence { trust_domain: Some(told), ..presence };
            let fresh = Signing::new(store.load()?, &presence, SystemTime::now())?;
            store.accepted();
            Ok::<_, Error>(fresh)
        })
        .await;
        match loaded {
            Ok(Ok(fresh)) => {
                note(&self.metrics, &fresh);
                tracing::info!(
                    anchor = %fresh.anchor,
                    bundle_version = fresh.bundle_version,
                    signer_not_after = %crate::verify::Clock(&fresh.authority.validity().not_after),
                    "the authority's state was read anew"
                );
                self.problem.send_replace(None);
                self.signing.send_replace(Arc::new(fresh));
            }
            Ok(Err(error)) => {
                self.metrics.reloads_failed.inc();
                tracing::error!(%error, "the authority's new state cannot be used; the old one stays in use");
                self.problem.send_replace(Some(error.to_string()));
            }
            Err(_) => {
                self.metrics.reloads_failed.inc();
            }
        }
    }
}

fn note(metrics: &Metrics, signing: &Signing) {
    let roots = signing.identity.bundle().roots().len();
    let serving_end = signing.identity.svid().not_after();
    metrics.signing(signing.authority.validity().not_after, serving_end, signing.bundle_version, roots);
}
