//! The authority's Secret: made once, read, followed, and changed only as it was read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use remora_certs::ca::{CaDirectory, CaError, Lifetimes, State};
use remora_model::TrustDomain;
use remora_model::identity::KeyKind;
use tokio_stream::StreamExt;

use super::Error;
use super::mirror::{Files, Mirror, STATE};
use super::record::RECORD;
use crate::cluster::{self, CA_SECRET, TRUST_BUNDLE, TRUST_BUNDLE_KEY};

/// How often the age of the signing certificate is looked at.
const RENEWAL_CHECK: Duration = Duration::from_secs(3600);

/// What a new authority is to be, where there is none yet.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// What it signs for.
    pub trust_domain: TrustDomain,
    /// How long root and intermediate are valid; renewed intermediates too.
    pub lifetimes: Lifetimes,
}

/// A `Store` in the Secret `remora-ca`.
pub struct SecretStore {
    pub(super) secrets: Api<Secret>,
    pub(super) runtime: tokio::runtime::Handle,
    lifetimes: Lifetimes,
    kept: Mutex<Kept>,
}

/// The Secret as it was seen last, and its files.
struct Kept {
    secret: Secret,
    mirror: Mirror,
}

impl SecretStore {
    /// Reads the authority's Secret in `namespace`; where there is none, makes a new authority. Nothing is ever
    /// overwritten: of two that begin at once, one uses what the other made.
    ///
    /// # Errors
    /// The Secret cannot be read, made or used; [`Error::Lost`].
    pub async fn open(client: &Client, namespace: &str, fresh: &Fresh) -> Result<Self, Error> {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let secret = match read(&secrets).await? {
            Some(secret) => secret,
            None => {
                check_not_lost(client, namespace).await?;
                create(&secrets, fresh).await?
            }
        };
        let mut mirror = Mirror::new()?;
        mirror.write(files(&secret))?;
        let path = mirror.path().to_owned();
        let opened = tokio::task::block_in_place(|| CaDirectory::open(&path));
        opened.map_err(|source| Error::Content { name: CA_SECRET.to_owned(), source })?;
        let kept = Mutex::new(Kept { secret, mirror });
        Ok(Self { secrets, runtime: tokio::runtime::Handle::current(), lifetimes: fresh.lifetimes, kept })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The Secret as it was seen last.
    pub(super) fn secret(&self) -> Secret {
        self.kept().secret.clone()
    }

    /// Runs `read` on the mirror while nobody changes it.
    pub(super) fn with_mirror<T>(&self, read: impl FnOnce(&std::path::Path) -> T) -> T {
        read(self.kept().mirror.path())
    }

    /// Takes `secret`, which is newer, into the mirror, where the service notices it.
    pub(super) fn take(&self, secret: Secret) -> Result<(), Error> {
        let mut kept = self.kept();
        kept.mirror.write(files(&secret))?;
        kept.secret = secret;
        Ok(())
    }

    /// Follows what others do to the Secret, for ever.
    pub async fn follow(self: Arc<Self>) {
        let only = watcher::Config::default().fields(&format!("metadata.name={CA_SECRET}"));
        let mut events = std::pin::pin!(watcher(self.secrets.clone(), only).default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(secret) | Event::InitApply(secret)) => {
                    // Our own writes come back too, perhaps late: what is older than what we have brings nothing.
                    if is_newer(&secret, &self.secret())
                        && let Err(error) = self.take(secret)
                    {
                        tracing::error!(%error, "the authority's new state cannot be kept");
                    }
                }
                Ok(Event::Delete(_)) => tracing::error!(
                    secret = CA_SECRET,
                    "the authority's Secret was deleted: nothing is issued until it is restored"
                ),
                Ok(Event::Init | Event::InitDone) => {}
                Err(error) => tracing::warn!(%error, "the authority's Secret cannot be watched"),
            }
        }
    }

    /// Makes a new intermediate whenever the one that signs has lived two thirds of its life, for ever.
    pub async fn renew(self: Arc<Self>) {
        loop {
            if let Err(error) = self.renew_if_due(SystemTime::now()).await {
                tracing::error!(%error, "the intermediate is due, but cannot be renewed");
            }
            tokio::time::sleep(RENEWAL_CHECK).await;
        }
    }

    async fn renew_if_due(&self, now: SystemTime) -> Result<(), Error> {
        let broken = |source| Error::Content { name: CA_SECRET.to_owned(), source };
        let content = |secret: &Secret| {
            secret.data.iter().flatten().map(|(name, value)| (name.clone(), value.0.clone())).collect()
        };
        let secret = self.secret();
        let mut scratch = Mirror::new()?;
        scratch.write(content(&secret))?;
        let path = scratch.path().to_owned();
        let lifetime = self.lifetimes.intermediate;
        let renewed = tokio::task::spawn_blocking(move || {
            let opened = CaDirectory::open(&path)?;
            if !is_due(&opened, now) {
                return Ok(None);
            }
            opened.rotate_intermediate(None, lifetime, KeyKind::P256, now)?;
            Ok(Some(path))
        });
        let Some(path) = renewed.await.unwrap_or(Ok(None)).map_err(broken)? else { return Ok(()) };
        let data = Mirror::read(&path)?;
        let data = data.into_iter().map(|(name, value)| (name, ByteString(value))).collect();
        let changed = Secret { data: Some(data), ..secret };
        match self.secrets.replace(CA_SECRET, &PostParams::default(), &changed).await {
            Ok(changed) => {
                tracing::info!("a new intermediate signs from now on");
                self.take(changed)
            }
            // Somebody else did something, perhaps this: what is due then is seen next time.
            Err(error) if cluster::code(&error) == Some(409) => Ok(()),
            Err(error) => Err(cluster::Error::of("cannot write the authority's Secret")(error).into()),
        }
    }
}

/// Whether two thirds of the signer's life are over.
fn is_due(opened: &CaDirectory, now: SystemTime) -> bool {
    let validity = opened.authority().validity();
    let life = validity.not_after.duration_since(validity.not_before).unwrap_or_default();
    now >= validity.not_before + life * 2 / 3
}

/// Whether `one` was written after `other`. A Secret that was deleted and made anew has a higher version too.
fn is_newer(one: &Secret, other: &Secret) -> bool {
    let version =
        |secret: &Secret| secret.metadata.resource_version.as_deref().and_then(|text| text.parse::<u64>().ok());
    match (version(one), version(other)) {
        (Some(one), Some(other)) => one > other,
        _ => one.metadata.resource_version != other.metadata.resource_version,
    }
}

/// The state that a Secret holds.
pub(crate) fn state(secret: &Secret) -> Result<State, CaError> {
    let corrupt = |reason: String| CaError::Corrupt { path: CA_SECRET.into(), reason };
    let data = secret.data.as_ref().and_then(|data| data.get(STATE));
    let content = data.ok_or_else(|| corrupt(format!("it has no {STATE}")))?;
    serde_json::from_slice(&content.0).map_err(|error| corrupt(error.to_string()))
}

/// What of the Secret belongs into the mirror: all but the record, which nobody reads there.
fn files(secret: &Secret) -> Files {
    let is_file = |name: &str| name != RECORD && !name.starts_with('.');
    let data = secret.data.iter().flatten().filter(|(name, _)| is_file(name));
    data.map(|(name, value)| (name.clone(), value.0.clone())).collect()
}

async fn read(secrets: &Api<Secret>) -> Result<Option<Secret>, Error> {
    Ok(secrets.get_opt(CA_SECRET).await.map_err(cluster::Error::of("cannot read the authority's Secret"))?)
}

/// A bundle without the authority that made it means that the Secret was lost, not that there never was one.
async fn check_not_lost(client: &Client, namespace: &str) -> Result<(), Error> {
    let bundles: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let found = bundles.get_opt(TRUST_BUNDLE).await.map_err(cluster::Error::of("cannot read the trust bundle"))?;
    let has_roots =
        found.and_then(|found| found.data?.remove(TRUST_BUNDLE_KEY)).is_some_and(|pem| !pem.trim().is_empty());
    match has_roots {
        true => Err(Error::Lost { namespace: namespace.to_owned(), name: CA_SECRET.to_owned(), bundle: TRUST_BUNDLE }),
        false => Ok(()),
    }
}

async fn create(secrets: &Api<Secret>, fresh: &Fresh) -> Result<Secret, Error> {
    let scratch = Mirror::new()?;
    let path = scratch.path().join("ca");
    let Fresh { trust_domain, lifetimes } = fresh;
    tokio::task::block_in_place(|| CaDirectory::init(&path, trust_domain, *lifetimes))
        .map_err(|source| Error::Content { name: CA_SECRET.to_owned(), source })?;
    let data = Mirror::read(&path)?.into_iter().map(|(name, content)| (name, ByteString(content))).collect();
    let metadata =
        ObjectMeta { name: Some(CA_SECRET.to_owned()), labels: Some(cluster::labels()), ..ObjectMeta::default() };
    let secret = Secret { metadata, type_: Some("Opaque".to_owned()), data: Some(data), ..Secret::default() };
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(made) => {
            tracing::info!(%trust_domain, secret = CA_SECRET, "a new certificate authority was made");
            Ok(made)
        }
        Err(error) if cluster::code(&error) == Some(409) => {
            let gone = || Error::Cluster(cluster::Error::Access("the authority's Secret came and went".to_owned()));
            read(secrets).await?.ok_or_else(gone)
        }
        Err(error) => Err(cluster::Error::of("cannot make the authority's Secret")(error).into()),
    }
}
