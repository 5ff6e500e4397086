//! Injected namespaces: what they say about their pods, and the ConfigMaps that pods there mount.
//!
//! A pod can only mount what is in its own namespace, so the trust bundle and the mesh's configuration are copied into
//! each namespace labelled `remora.dev/inject=enabled`, kept up to date, and removed when the label goes. A namespace
//! without the label gets them too once a pod of its own asks to be injected. A ConfigMap of that name that is not ours is
//! left alone. [`plan`] decides, pure; the rest watches and writes.

mod plan;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use tokio::sync::Notify;

use self::plan::{Action, Copy, Found, plan};
use super::metrics::Metrics;
use crate::cluster::{self, CONTROL, MESH, TRUST_BUNDLE, TRUST_BUNDLE_KEY};
use crate::inject::annotations::Map as Annotations;

/// On a copy that is there for pods which asked themselves.
const FOR_PODS: &str = "remora.dev/for-pods";

/// What the ConfigMaps hold, by name: copied as a whole.
type Sources = BTreeMap<String, BTreeMap<String, String>>;

/// What is known about the cluster's namespaces; shared by those who watch, write and ask.
pub struct Namespaces {
    client: Client,
    own: String,
    metrics: Arc<Metrics>,
    known: Mutex<Known>,
    changed: Notify,
}

#[derive(Default)]
struct Known {
    namespaces: BTreeMap<String, Found>,
    copies: BTreeMap<(String, String), Copy>,
    sources: Sources,
    /// Namespaces whose pods asked themselves since we began.
    asked: BTreeSet<String>,
    /// Which of the watches have told all there is.
    listed: BTreeSet<&'static str>,
    /// Why copies are not as they should be.
    problem: Option<String>,
    /// Whether everything was looked at once.
    looked: bool,
}

impl Namespaces {
    /// Knows nothing yet; `own` is the control plane's namespace.
    pub fn new(client: Client, own: String, metrics: Arc<Metrics>) -> Self {
        Self { client, own, metrics, known: Mutex::default(), changed: Notify::new() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The annotations of a namespace; none where it is not known, or not yet.
    pub async fn annotations(&self, namespace: &str) -> Annotations {
        if let Some(found) = self.known().namespaces.get(namespace) {
            return found.annotations.clone();
        }
        // Made a moment ago.
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let read = namespaces.get_opt(namespace).await.ok().flatten();
        read.and_then(|namespace| namespace.metadata.annotations).unwrap_or_default()
    }

    /// A pod in `namespace` is about to mount the copies, whatever the namespace says.
    pub fn needs_copies(&self, namespace: &str) {
        if self.known().asked.insert(namespace.to_owned()) {
            self.changed.notify_one();
        }
    }

    /// Why copies are not as they should be; nothing where they are.
    pub fn problem(&self) -> Option<String> {
        let known = self.known();
        match (&known.problem, known.looked) {
            (Some(problem), _) => Some(problem.clone()),
            (None, false) => Some("the injected namespaces were not looked at yet".to_owned()),
            (None, true) => None,
        }
    }

    /// Takes the trust bundle to be `pem` from now on.
    pub fn bundle(&self, pem: String) {
        let data = BTreeMap::from([(TRUST_BUNDLE_KEY.to_owned(), pem)]);
        self.known().sources.insert(TRUST_BUNDLE.to_owned(), data);
        self.changed.notify_one();
    }

    /// Makes copies follow sources and namespaces, for ever.
    pub async fn run(self: Arc<Self>) {
        let mut watching = tokio::task::JoinSet::new();
        watching.spawn(Arc::clone(&self).watch_namespaces());
        watching.spawn(Arc::clone(&self).watch_config_maps(TRUST_BUNDLE));
        watching.spawn(Arc::clone(&self).watch_config_maps(MESH));
        loop {
            self.changed.notified().await;
            if self.known().listed.len() < 3 {
                continue;
            }
            let mut failed = self.reconcile().await;
            while failed {
                tokio::select! {
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep(std::time::Duration::from_secs(5)) => {}
                }
                failed = self.reconcile().await;
            }
        }
    }

    /// Does all that is to be done; says whether something failed.
    async fn reconcile(&self) -> bool {
        let actions = {
            let known = self.known();
            plan(&self.own, &known.namespaces, &known.asked, &known.copies, &known.sources)
        };
        let mut problem = None;
        for action in actions {
            if let Err(error) = self.act(&action).await {
                self.metrics.copies_failed.inc();
                tracing::warn!(%error, "a ConfigMap cannot be kept up to date");
                problem = Some(error.to_string());
            }
        }
        let mut known = self.known();
        let injected = known.copies.keys().filter(|(namespace, name)| *namespace != self.own && name == MESH).count();
        self.metrics.namespaces.set(i64::try_from(injected).unwrap_or(i64::MAX));
        known.looked = true;
        known.problem.clone_from(&problem);
        problem.is_some()
    }

    async fn act(&self, action: &Action) -> Result<(), cluster::Error> {
        match action {
            Action::Put { namespace, name, data, for_pods } => {
                let mut labels = cluster::labels();
                labels.extend(for_pods.then(|| (FOR_PODS.to_owned(), "true".to_owned())));
                let metadata = ObjectMeta { name: Some(name.clone()), labels: Some(labels), ..ObjectMeta::default() };
                let object = ConfigMap { metadata, data: Some(data.clone()), ..ConfigMap::default() };
                let copies: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
                let parameters = PatchParams::apply(CONTROL).force();
                match copies.patch(name, &parameters, &Patch::Apply(&object)).await {
                    Ok(_) => {
                        tracing::info!(namespace, name, "copied");
                        Ok(())
                    }
                    // The namespace went meanwhile, or is going.
                    Err(error)
                        if matches!(cluster::code(&error), Some(403 | 404)) && self.is_going(namespace).await =>
                    {
                        Ok(())
                    }
                    Err(error) => Err(cluster::Error::of(format!("ConfigMap {namespace}/{name}"))(error)),
                }
            }
            Action::Remove { namespace, name, uid } => {
                let copies: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
                let preconditions = Preconditions { uid: uid.clone(), ..Preconditions::default() };
                let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                match copies.delete(name, &parameters).await {
                    Ok(_) => {
                        tracing::info!(namespace, name, "removed");
                        Ok(())
                    }
                    Err(error) if matches!(cluster::code(&error), Some(404 | 409)) => Ok(()),
                    Err(error) => Err(cluster::Error::of(format!("ConfigMap {namespace}/{name}"))(error)),
                }
            }
        }
    }

    async fn is_going(&self, namespace: &str) -> bool {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        match namespaces.get_opt(namespace).await {
            Ok(Some(found)) => found.metadata.deletion_timestamp.is_some(),
            Ok(None) => true,
            Err(_) => false,
        }
    }
}
