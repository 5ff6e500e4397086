//! A cluster, through its API server: the control plane, what it keeps, and the pods that it should have injected.

mod judge;
mod webhook;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use http_body_util::BodyExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::api::ListParams;
use kube::client::Body;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::clock::{self, Reading};
use super::{Check, Line, Place, judged};
use crate::cluster::{
    Access, CA_SECRET, CONTROL, ENABLED, INJECT, INJECTOR, MESH, NAMESPACE, TRUST_BUNDLE, WEBHOOK_SECRET, told,
};
use crate::install::wait;

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of reading something; what is not there is [`None`].
type Read<T> = Result<Option<T>, String>;

/// What was seen.
pub struct Cluster {
    server: Result<Info, String>,
    clock: Option<Reading>,
    deployment: Read<Deployment>,
    /// What a person would find out about its pods.
    trouble: String,
    authority: Read<Secret>,
    bundle: Read<ConfigMap>,
    mesh: Read<ConfigMap>,
    configuration: Read<MutatingWebhookConfiguration>,
    webhook: Read<Secret>,
    /// A pod that asks for injection was tried.
    injection: Result<(), String>,
    /// The labelled ones that stay.
    namespaces: Result<Vec<String>, String>,
    /// By namespace and name.
    copies: Result<BTreeMap<(String, String), ConfigMap>, String>,
    pods: Result<Vec<Pod>, String>,
    now: SystemTime,
}

/// The lines.
pub const CHECKS: [Check<Cluster>; 13] = [
    Check {
        name: "api-server",
        about: "whether the API server answers, and its version",
        otherwise: "failure: it does not answer (then this is the only line), or is older than 1.29, which has no native sidecars",
        judge: judge::server,
    },
    Check {
        name: "control-plane",
        about: "the Deployment `remora-control`",
        otherwise: "failure: it is not there, or not every replica is available; what is known of its pods",
        judge: judge::control_plane,
    },
    Check {
        name: "version",
        about: "the version of the control plane's image beside that of this program",
        otherwise: "warning: they differ",
        judge: judge::version,
    },
    Check {
        name: "authority",
        about: "the Secret `remora-ca`, and how long its roots and its signing certificate are valid",
        otherwise: "failure: it is not there or broken, or a certificate is not valid now; warning: less than a fifth of a life is left",
        judge: judge::authority,
    },
    Check {
        name: "trust-bundle",
        about: "the ConfigMap `remora-trust-bundle` beside the authority's roots",
        otherwise: "failure: it is not there, or its roots are others",
        judge: judge::trust_bundle,
    },
    Check {
        name: "mesh-configuration",
        about: "the ConfigMap `remora-mesh`, and a namespace's own, as an injected proxy reads it",
        otherwise: "failure: it is not there, or a proxy would not take it",
        judge: judge::mesh,
    },
    Check {
        name: "webhook",
        about: "the MutatingWebhookConfiguration `remora-injector`",
        otherwise: "failure: it or one of its webhooks is not there; warning: pods start without a sidecar while it is away (`failurePolicy`)",
        judge: webhook::configuration,
    },
    Check {
        name: "webhook-certificate",
        about: "whether the `caBundle` vouches for the certificate in the Secret `remora-webhook`, for its name and now",
        otherwise: "failure: it does not, or the Secret is not there",
        judge: webhook::certificate,
    },
    Check {
        name: "injection",
        about: "whether a pod that asks for a sidecar gets one: tried in `default`, not made",
        otherwise: "failure: the API server's reason",
        judge: webhook::injection,
    },
    Check {
        name: "copies",
        about: "the copies of both ConfigMaps in every labelled namespace",
        otherwise: "failure: one is missing or is not what it should be, with names",
        judge: judge::copies,
    },
    Check {
        name: "pods-without-sidecar",
        about: "the pods of labelled namespaces that neither decline nor have ended",
        otherwise: "warning: some have no sidecar, with names",
        judge: judge::without_sidecar,
    },
    Check {
        name: "sidecar-versions",
        about: "which version injected the pods that have a sidecar",
        otherwise: "warning: others than this program's, with names",
        judge: judge::sidecar_versions,
    },
    Check {
        name: "clock",
        about: "this clock beside the API server's",
        otherwise: "failure: two minutes apart or more; warning: more than 5 s, or it did not tell the time",
        judge: |seen| clock::judge(seen.clock.as_ref()),
    },
];

/// Looks at the cluster.
pub async fn check(access: &Access) -> Vec<Line> {
    let client = match access.client().await {
        Ok(client) => client,
        Err(error) => return unreachable(error.to_string()),
    };
    match server(&client).await {
        Ok((info, clock)) => judged(Place::Cluster, &CHECKS, &look(&client, info, clock).await),
        Err(why) => unreachable(why),
    }
}

/// Without an API server there is one line: nothing is known of all the others.
fn unreachable(why: String) -> Vec<Line> {
    let [first, ..] = &CHECKS;
    vec![Line { place: Place::Cluster, check: first.name, finding: judge::unreachable(why) }]
}

async fn look(client: &Client, info: Info, clock: Option<Reading>) -> Cluster {
    let namespaces = list::<Namespace>(Api::all(client.clone()), &format!("{INJECT}={ENABLED}")).await;
    let staying = |namespaces: Vec<Namespace>| {
        let stays = namespaces.into_iter().filter(|namespace| namespace.metadata.deletion_timestamp.is_none());
        stays.map(|namespace| namespace.name_any()).filter(|name| name != NAMESPACE).collect()
    };
    let maps = list::<ConfigMap>(Api::all(client.clone()), "").await;
    let is_copied = |map: &ConfigMap| [MESH, TRUST_BUNDLE].contains(&&*map.name_any());
    let by_name = |maps: Vec<ConfigMap>| {
        let copied = maps.into_iter().filter(is_copied);
        copied.map(|map| ((map.namespace().unwrap_or_default(), map.name_any()), map)).collect()
    };
    Cluster {
        server: Ok(info),
        clock,
        deployment: ours(client, CONTROL).await,
        trouble: wait::pods_in_trouble(client).await,
        authority: ours(client, CA_SECRET).await,
        bundle: ours(client, TRUST_BUNDLE).await,
        mesh: ours(client, MESH).await,
        configuration: read(Api::all(client.clone()), INJECTOR).await,
        webhook: ours(client, WEBHOOK_SECRET).await,
        injection: bounded(wait::answers(client)).await,
        namespaces: namespaces.map(staying),
        copies: maps.map(by_name),
        pods: list(Api::all(client.clone()), "").await,
        now: SystemTime::now(),
    }
}

async fn bounded<T>(call: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let late = |_| Err(format!("no answer within {PATIENCE:?}"));
    tokio::time::timeout(PATIENCE, call).await.unwrap_or_else(late)
}

/// Its version, and what time it is there.
async fn server(client: &Client) -> Result<(Info, Option<Reading>), String> {
    bounded(async {
        let request = http::Request::get("/version").body(Body::empty()).map_err(|error| error.to_string())?;
        let (asked, begun) = (SystemTime::now(), Instant::now());
        let (head, body) = client.send(request).await.map_err(|error| told(&error))?.into_parts();
        let took = begun.elapsed();
        let of = "the API server".to_owned();
        let reading = clock::date(&head.headers).map(|theirs| Reading { of, theirs, asked, took });
        let body = body.collect().await.map_err(|error| told(&error))?.to_bytes();
        let foreign = |error| format!("/version: {}: {error}", head.status);
        Ok((serde_json::from_slice(&body).map_err(foreign)?, reading))
    })
    .await
}

/// One of the objects in our namespace.
async fn ours<K>(client: &Client, name: &str) -> Read<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug,
{
    read(Api::namespaced(client.clone(), NAMESPACE), name).await
}

async fn read<K: DeserializeOwned + Clone + std::fmt::Debug>(api: Api<K>, name: &str) -> Read<K> {
    bounded(async { api.get_opt(name).await.map_err(|error| told(&error)) }).await
}

async fn list<K: DeserializeOwned + Clone + std::fmt::Debug>(api: Api<K>, labels: &str) -> Result<Vec<K>, String> {
    let parameters = ListParams::default().labels(labels);
    bounded(async { Ok(api.list(&parameters).await.map_err(|error| told(&error))?.items) }).await
}
