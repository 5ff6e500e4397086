//! Waiting, within bounds, until the control plane is there, or gone.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, Namespace, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};

use super::Error;
use super::objects::APP;
use crate::cluster::{self, CONTROL, INJECT, NAMESPACE};
use crate::inject::annotations::INJECTED;

/// How often the webhook is tried: the API server takes a moment to know its configuration, and tells nobody when.
const RETRY: Duration = Duration::from_millis(500);

/// Until every replica is the new one and available.
pub(super) async fn deployment(
    client: &Client,
    within: Duration,
    said: &mut (dyn FnMut(String) + Send),
) -> Result<(), Error> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let available =
        await_condition(deployments, CONTROL, |deployment: Option<&Deployment>| deployment.is_some_and(is_available));
    match tokio::time::timeout(within, available).await {
        Ok(Ok(_)) => {
            said(format!("Deployment {NAMESPACE}/{CONTROL} available"));
            Ok(())
        }
        Ok(Err(error)) => {
            let what = format!("Deployment {NAMESPACE}/{CONTROL} cannot be watched: {error}");
            Err(cluster::Error::Access(what).into())
        }
        Err(_) => {
            let what = "the control plane is not available";
            Err(Error::TimedOut { what, within, why: pods_in_trouble(client).await })
        }
    }
}

/// Whether every replica is the newest and available.
pub(crate) fn is_available(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let Some(status) = &deployment.status else { return false };
    status.observed_generation >= deployment.metadata.generation
        && status.updated_replicas.unwrap_or(0) >= wanted
        && status.available_replicas.unwrap_or(0) >= wanted
        && status.replicas.unwrap_or(0) == wanted
}

/// What a person would look for with `kubectl describe`.
pub(crate) async fn pods_in_trouble(client: &Client) -> String {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let Ok(found) = pods.list(&ListParams::default().labels(&format!("{}={}", APP.0, APP.1))).await else {
        return "its pods cannot be listed".to_owned();
    };
    let mut told = Vec::new();
    for pod in &found.items {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let status = pod.status.as_ref();
        for container in status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten() {
            if let Some(waiting) = container.state.as_ref().and_then(|state| state.waiting.as_ref()) {
                let text = [waiting.reason.as_deref(), waiting.message.as_deref()].into_iter().flatten();
                told.push(format!("pod {name} waits: {}", text.collect::<Vec<_>>().join(": ")));
            } else if !container.ready {
                told.push(format!("pod {name} is not ready (kubectl -n {NAMESPACE} logs {name})"));
            }
        }
        for condition in status.and_then(|status| status.conditions.as_ref()).into_iter().flatten() {
            if condition.type_ == "PodScheduled" && condition.status == "False" {
                told.push(format!("pod {name}: {}", condition.message.as_deref().unwrap_or("not scheduled")));
            }
        }
    }
    match told.is_empty() {
        true => format!("{} of its pods are there", found.items.len()),
        false => told.join("; "),
    }
}

/// Until the API server gets an answer from the webhook: a pod that asks for injection is tried, but not made.
pub(super) async fn webhook(
    client: &Client,
    within: Duration,
    said: &mut (dyn FnMut(String) + Send),
) -> Result<(), Error> {
    let deadline = tokio::time::Instant::now() + within;
    loop {
        let Err(why) = answers(client).await else {
            said("Webhook answers".to_owned());
            return Ok(());
        };
        if tokio::time::Instant::now() + RETRY > deadline {
            return Err(Error::TimedOut { what: "the webhook does not answer", within, why });
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Whether the webhook injects a pod that asks for it; the pod is tried, but not made.
///
/// # Errors
/// Why not.
pub(crate) async fn answers(client: &Client) -> Result<(), String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let parameters = PostParams { dry_run: true, ..PostParams::default() };
    match pods.create(&parameters, &trial()).await {
        Ok(pod) if pod.metadata.annotations.iter().flatten().any(|(name, _)| name == INJECTED) => Ok(()),
        Ok(_) => Err("the API server does not ask it".to_owned()),
        Err(error) => Err(cluster::told(&error)),
    }
}

fn trial() -> Pod {
    let labels = [(INJECT.to_owned(), "true".to_owned())].into();
    let metadata = ObjectMeta { name: Some("remora-trial".to_owned()), labels: Some(labels), ..ObjectMeta::default() };
    let container = Container { name: "trial".to_owned(), image: Some("trial".to_owned()), ..Container::default() };
    let spec = PodSpec { containers: vec![container], ..PodSpec::default() };
    Pod { metadata, spec: Some(spec), ..Pod::default() }
}

/// Until no pod of the control plane is left: nobody makes anew what is taken away then.
pub(super) async fn no_pods(client: &Client, within: Duration) -> Result<(), Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let ours = ListParams::default().labels(&format!("{}={}", APP.0, APP.1));
    let gone = async {
        let listed = pods.list(&ours).await.map_err(cluster::Error::of("the control plane's pods cannot be listed"))?;
        for pod in listed {
            let name = pod.metadata.name.unwrap_or_default();
            let uid = pod.metadata.uid.unwrap_or_default();
            let waited = await_condition(pods.clone(), &name, kube::runtime::conditions::is_deleted(&uid)).await;
            waited.map_err(|error| cluster::Error::Access(format!("pod {name} cannot be watched: {error}")))?;
        }
        Ok(())
    };
    match tokio::time::timeout(within, gone).await {
        Ok(done) => done,
        Err(_) => {
            let why = pods_in_trouble(client).await;
            Err(Error::TimedOut { what: "the control plane's pods do not end", within, why })
        }
    }
}

/// Until the namespace is gone with all that was in it.
pub(super) async fn no_namespace(client: &Client, uid: &str, within: Duration) -> Result<(), Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let gone = await_condition(namespaces, NAMESPACE, kube::runtime::conditions::is_deleted(uid));
    match tokio::time::timeout(within, gone).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(cluster::Error::Access(format!("the namespace cannot be watched: {error}")).into()),
        Err(_) => {
            let why = format!("kubectl get namespace {NAMESPACE} -o yaml says why");
            Err(Error::TimedOut { what: "the namespace is not gone", within, why })
        }
    }
}
