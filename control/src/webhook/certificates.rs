//! The webhook's certificate: kept in a Secret that all replicas share, renewed without restart, and known to the API
//! server before it is shown.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use json_patch::Patch as JsonPatch;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};
use tokio_stream::StreamExt;

use super::issue::{Leaf, Lives, State, Step};
use crate::cluster::{self, INJECTOR, WEBHOOK_SECRET};

/// The key of the state in the Secret.
pub(crate) const STATE_KEY: &str = "state.json";
/// For people: what the API server is told to trust.
const BUNDLE_KEY: &str = "ca.pem";
/// How often the clock is looked at, at most.
const TICK: Duration = Duration::from_secs(30);
/// How often a change is tried while others change it too.
const TRIES: usize = 16;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    /// It cannot be made.
    #[error("cannot make the webhook's certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// It cannot be used.
    #[error("the webhook's certificate cannot be used: {0}")]
    Use(#[from] rustls::Error),
    /// The Secret holds something else.
    #[error("secret {WEBHOOK_SECRET}: {0}; delete it to have a new one made")]
    Content(String),
    /// Replicas get in each other's way.
    #[error("the Secret {WEBHOOK_SECRET} changes all the time")]
    Busy,
}

/// What is shown to the API server.
#[derive(Default)]
pub struct Shown(RwLock<Option<(Leaf, Arc<CertifiedKey>)>>);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").field("is_there", &self.is_there()).finish()
    }
}

impl Shown {
    /// Whether there is a certificate.
    pub fn is_there(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Takes `leaf` into use; says whether it is another one.
    fn show(&self, leaf: &Leaf) -> Result<bool, Error> {
        if self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|(shown, _)| shown == leaf) {
            return Ok(false);
        }
        let bad = |error: rustls::pki_types::pem::Error| Error::Content(error.to_string());
        let certificate = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).map_err(bad)?;
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).map_err(bad)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let certified = Arc::new(CertifiedKey::from_der(vec![certificate], key, &provider)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some((leaf.clone(), certified));
        Ok(true)
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(_, key)| Arc::clone(key))
    }
}

/// Keeps it fresh.
pub struct Keeper {
    secrets: Api<Secret>,
    configurations: Api<MutatingWebhookConfiguration>,
    names: Vec<String>,
    lives: Lives,
    shown: Arc<Shown>,
    renewed: Box<dyn Fn() + Send + Sync>,
}

impl Keeper {
    /// Keeps `shown` fresh, for `names`; calls `renewed` whenever another certificate is shown.
    pub fn new(
        client: &Client,
        namespace: &str,
        names: Vec<String>,
        lives: Lives,
        shown: Arc<Shown>,
        renewed: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            configurations: Api::all(client.clone()),
            names,
            lives,
            shown,
            renewed: Box::new(renewed),
        }
    }

    /// Makes the first certificate, or takes the one that is there.
    ///
    /// # Errors
    /// There is none, and none can be made.
    pub async fn begin(&self) -> Result<(), Error> {
        self.reconcile().await
    }

    /// Keeps it fresh for ever.
    pub async fn run(self) {
        let by_name = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut secrets = std::pin::pin!(watcher(self.secrets.clone(), by_name(WEBHOOK_SECRET)).default_backoff());
        let configurations = watcher(self.configurations.clone(), by_name(INJECTOR)).default_backoff();
        let mut configurations = std::pin::pin!(configurations);
        let tick = (self.lives.leaf / 20).clamp(Duration::from_millis(100), TICK);
        loop {
            // What happened matters less than that something did.
            tokio::select! {
                Some(_) = secrets.next() => {}
                Some(_) = configurations.next() => {}
                () = tokio::time::sleep(tick) => {}
            }
            if let Err(error) = self.reconcile().await {
                tracing::error!(%error, "the webhook's certificate cannot be looked after");
            }
        }
    }

    /// Does all that is to be done now.
    async fn reconcile(&self) -> Result<(), Error> {
        for _ in 0..TRIES {
            let Some((secret, state)) = self.read().await? else {
                let state = State::make(&self.names, self.lives, SystemTime::now())?;
                self.create(&state).await?;
                continue;
            };
            let trusted = self.make_known(&state).await?;
            if self.shown.show(state.leaf())? {
                tracing::info!("the webhook shows a new certificate");
                (self.renewed)();
            }
            let now = SystemTime::now();
            let Some(step) = state.next(&self.names, self.lives, trusted.as_deref(), now) else { return Ok(()) };
            let next = state.after(step, &self.names, self.lives, now)?;
            self.replace(secret, &next, step).await?;
        }
        Err(Error::Busy)
    }

    async fn read(&self) -> Result<Option<(Secret, State)>, Error> {
        let read = self.secrets.get_opt(WEBHOOK_SECRET).await;
        let Some(secret) = read.map_err(cluster::Error::of("cannot read the webhook's Secret"))? else {
            return Ok(None);
        };
        let content = secret.data.as_ref().and_then(|data| data.get(STATE_KEY));
        let content = content.ok_or_else(|| Error::Content(format!("it has no {STATE_KEY}")))?;
        let state = serde_json::from_slice(&content.0).map_err(|error| Error::Content(error.to_string()))?;
        Ok(Some((secret, state)))
    }

    /// Another replica may be quicker: then its certificate counts.
    async fn create(&self, state: &State) -> Result<(), Error> {
        let metadata = ObjectMeta {
            name: Some(WEBHOOK_SECRET.to_owned()),
            labels: Some(cluster::labels()),
            ..ObjectMeta::default()
        };
        let secret = Secret { metadata, data: Some(data(state)), ..Secret::default() };
        unless_conflict(self.secrets.create(&PostParams::default(), &secret).await, "cannot make the webhook's Secret")
    }

    async fn replace(&self, secret: Secret, state: &State, step: Step) -> Result<(), Error> {
        tracing::info!(?step, "the webhook's certificate is looked after");
        let secret = Secret { data: Some(data(state)), ..secret };
        let answer = self.secrets.replace(WEBHOOK_SECRET, &PostParams::default(), &secret).await;
        unless_conflict(answer, "cannot write the webhook's Secret")
    }

    /// Brings the bundle into the webhook's configuration; returns what the API server trusts then, where there is one.
    async fn make_known(&self, state: &State) -> Result<Option<String>, Error> {
        let what = "cannot read the webhook's configuration";
        let found = self.configurations.get_opt(INJECTOR).await.map_err(cluster::Error::of(what))?;
        let Some(configuration) = found else { return Ok(None) };
        let bundle = state.bundle();
        let Some(patch) = bundle_patch(&configuration, &bundle) else { return Ok(Some(bundle)) };
        let patch: Patch<()> = Patch::Json(patch);
        let parameters = PatchParams { field_manager: Some(cluster::CONTROL.to_owned()), ..PatchParams::default() };
        let answer = self.configurations.patch(INJECTOR, &parameters, &patch).await;
        answer.map_err(cluster::Error::of("cannot write the webhook's configuration"))?;
        tracing::info!("the API server knows the webhook's authority");
        Ok(Some(bundle))
    }
}

fn unless_conflict<T>(answer: kube::Result<T>, what: &str) -> Result<(), Error> {
    match answer {
        Ok(_) => Ok(()),
        // Somebody else was quicker: what is to be done is found anew.
        Err(error) if cluster::code(&error) == Some(409) => Ok(()),
        Err(error) => Err(cluster::Error::of(what)(error).into()),
    }
}

fn data(state: &State) -> std::collections::BTreeMap<String, ByteString> {
    let content = serde_json::to_vec(state).unwrap_or_default();
    let bundle = state.bundle().into_bytes();
    [(STATE_KEY, content), (BUNDLE_KEY, bundle)].map(|(name, value)| (name.to_owned(), ByteString(value))).into()
}

/// What makes every webhook of the configuration trust `bundle`; [`None`] where they do.
fn bundle_patch(configuration: &MutatingWebhookConfiguration, bundle: &str) -> Option<JsonPatch> {
    let mut operations = Vec::new();
    for (index, webhook) in configuration.webhooks.iter().flatten().enumerate() {
        if webhook.client_config.ca_bundle.as_ref().is_some_and(|there| there.0 == bundle.as_bytes()) {
            continue;
        }
        let path = format!("/webhooks/{index}");
        operations.push(json!({"op": "test", "path": format!("{path}/name"), "value": webhook.name}));
        let value = ByteString(bundle.as_bytes().to_vec());
        operations.push(json!({"op": "add", "path": format!("{path}/clientConfig/caBundle"), "value": value}));
    }
    if operations.is_empty() {
        return None;
    }
    serde_json::from_value(Value::Array(operations)).ok()
}
