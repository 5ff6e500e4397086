//! Taking everything away: found by label, whatever version installed it.

use std::time::Duration;

use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client};

use super::objects::kinds;
use super::{Error, wait};
use crate::cluster::{self, NAMESPACE, SELECTOR};

/// Takes everything away; `said` gets one line for each object. With `wait` it returns once all is gone.
///
/// # Errors
/// The API server refuses, or something stays.
pub async fn uninstall(
    client: &Client,
    wait: Option<Duration>,
    said: &mut (dyn FnMut(String) + Send),
) -> Result<(), Error> {
    let mut namespace = None;
    for resource in kinds() {
        // What still runs would make Secrets and copies anew.
        if resource.kind == "ConfigMap"
            && let Some(wait) = wait
        {
            wait::no_pods(client, wait).await?;
        }
        for object in ours(client, &resource).await? {
            if resource.kind == "Namespace" && object.metadata.name.as_deref() == Some(NAMESPACE) {
                namespace = object.metadata.uid.clone();
            }
            delete(client, &resource, &object, said).await?;
        }
    }
    let (Some(uid), Some(wait)) = (namespace, wait) else { return Ok(()) };
    wait::no_namespace(client, &uid, wait).await?;
    said(format!("Namespace {NAMESPACE} gone"));
    left(client).await
}

/// What carries our labels.
async fn ours(client: &Client, resource: &ApiResource) -> Result<Vec<DynamicObject>, Error> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    let failed = cluster::Error::of(format!("{} cannot be listed", resource.plural));
    Ok(api.list(&ListParams::default().labels(SELECTOR)).await.map_err(failed)?.items)
}

async fn delete(
    client: &Client,
    resource: &ApiResource,
    object: &DynamicObject,
    said: &mut (dyn FnMut(String) + Send),
) -> Result<(), Error> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let (api, title): (Api<DynamicObject>, _) = match &object.metadata.namespace {
        Some(namespace) => {
            (Api::namespaced_with(client.clone(), namespace, resource), format!("{} {namespace}/{name}", resource.kind))
        }
        None => (Api::all_with(client.clone(), resource), format!("{} {name}", resource.kind)),
    };
    // What was made anew under the name meanwhile is somebody else's.
    let preconditions = Preconditions { uid: object.metadata.uid.clone(), ..Preconditions::default() };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    match api.delete(&name, &parameters).await {
        Ok(_) => said(format!("{title} removed")),
        Err(error) if cluster::code(&error) == Some(404) => {}
        Err(error) => return Err(cluster::Error::of(title)(error).into()),
    }
    Ok(())
}

/// Looks once more.
async fn left(client: &Client) -> Result<(), Error> {
    let mut left = Vec::new();
    for resource in kinds() {
        for object in ours(client, &resource).await? {
            let name = object.metadata.name.unwrap_or_default();
            let place = object.metadata.namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
            left.push(format!("{} {place}{name}", resource.kind));
        }
    }
    if left.is_empty() { Ok(()) } else { Err(Error::Left(left)) }
}
