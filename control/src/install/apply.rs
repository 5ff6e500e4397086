//! Applying objects server-side.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, Client};

use super::objects::{Object, Options, objects};
use super::{Error, wait};
use crate::cluster::{self, MESH, NAMESPACE};

/// In whose name fields are set.
const MANAGER: &str = "remora";

/// Where an object lives.
pub(super) fn api(client: &Client, object: &Object) -> Api<DynamicObject> {
    match &object.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &object.resource),
        None => Api::all_with(client.clone(), &object.resource),
    }
}

/// Installs or updates everything; `said` gets one line for each step. With `wait` it returns once the webhook answers,
/// and without it as soon as the API server has everything.
///
/// # Errors
/// The API server refuses something, or the control plane does not come up within `wait`.
pub async fn install(
    client: &Client,
    options: &Options,
    wait: Option<Duration>,
    said: &mut (dyn FnMut(String) + Send),
) -> Result<(), Error> {
    let mut all = objects(options);
    let webhook = all.pop();
    for object in &all {
        apply(client, object, said).await?;
    }
    if options.mesh.is_none() {
        said(format!("ConfigMap {NAMESPACE}/{MESH} kept"));
    }
    if let Some(wait) = wait {
        wait::deployment(client, wait, said).await?;
    }
    // The last: from here on pods that should be injected wait for the webhook.
    if let Some(webhook) = webhook {
        apply(client, &webhook, said).await?;
    }
    if let Some(wait) = wait {
        wait::webhook(client, wait, said).await?;
    }
    Ok(())
}

async fn apply(client: &Client, object: &Object, said: &mut (dyn FnMut(String) + Send)) -> Result<(), Error> {
    let api = api(client, object);
    let failed = || cluster::Error::of(object.title());
    let before = api.get_metadata_opt(&object.name).await.map_err(failed())?;
    let parameters = PatchParams::apply(MANAGER).force();
    let after = api.patch(&object.name, &parameters, &Patch::Apply(&object.value)).await.map_err(failed())?;
    let what = match before {
        None => "created",
        Some(before) if before.metadata.resource_version == after.metadata.resource_version => "unchanged",
        Some(_) => "updated",
    };
    said(format!("{} {what}", object.title()));
    Ok(())
}

/// Whether the proxies' configuration is there already.
///
/// # Errors
/// The API server.
pub async fn has_mesh(client: &Client) -> Result<bool, Error> {
    let api: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let failed = cluster::Error::of(format!("ConfigMap {NAMESPACE}/{MESH}"));
    Ok(api.get_metadata_opt(MESH).await.map_err(failed)?.is_some())
}
