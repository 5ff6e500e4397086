//! Watching namespaces and ConfigMaps.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt};
use tokio_stream::StreamExt;

use super::plan::{Copy, Found};
use super::{FOR_PODS, Known, Namespaces};
use crate::cluster::{ENABLED, INJECT, LABELS, MESH};

impl Namespaces {
    pub(super) async fn watch_namespaces(self: Arc<Self>) {
        let all: Api<Namespace> = Api::all(self.client.clone());
        let mut events = std::pin::pin!(watcher(all, watcher::Config::default()).default_backoff());
        let mut listing = BTreeSet::new();
        while let Some(event) = events.next().await {
            let mut known = self.known();
            match event {
                Ok(Event::Init) => listing.clear(),
                Ok(Event::InitApply(namespace)) => {
                    listing.insert(namespace.name_any());
                    known.take_namespace(&namespace);
                }
                Ok(Event::InitDone) => {
                    known.namespaces.retain(|name, _| listing.contains(name));
                    known.listed.insert("namespaces");
                }
                Ok(Event::Apply(namespace)) => known.take_namespace(&namespace),
                Ok(Event::Delete(namespace)) => {
                    let name = namespace.name_any();
                    known.namespaces.remove(&name);
                    known.asked.remove(&name);
                }
                Err(error) => tracing::warn!(%error, "namespaces cannot be watched"),
            }
            drop(known);
            self.changed.notify_one();
        }
    }

    /// Watches the ConfigMaps called `name` in all namespaces: the source and its copies.
    pub(super) async fn watch_config_maps(self: Arc<Self>, name: &'static str) {
        let all: Api<ConfigMap> = Api::all(self.client.clone());
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut events = std::pin::pin!(watcher(all, only).default_backoff());
        let mut listing = BTreeSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listing.clear(),
                Ok(Event::InitApply(found)) => {
                    listing.insert(found.namespace().unwrap_or_default());
                    self.take_config_map(name, &found);
                }
                Ok(Event::InitDone) => {
                    let mut known = self.known();
                    known.copies.retain(|(namespace, of), _| of != name || listing.contains(namespace));
                    known.listed.insert(name);
                }
                Ok(Event::Apply(found)) => self.take_config_map(name, &found),
                Ok(Event::Delete(found)) => {
                    let namespace = found.namespace().unwrap_or_default();
                    self.known().copies.remove(&(namespace, name.to_owned()));
                }
                Err(error) => tracing::warn!(%error, name, "ConfigMaps cannot be watched"),
            }
            self.changed.notify_one();
        }
    }

    fn take_config_map(&self, name: &str, found: &ConfigMap) {
        let namespace = found.namespace().unwrap_or_default();
        let data = found.data.clone().unwrap_or_default();
        let mut known = self.known();
        // The mesh's configuration is its owner's; the trust bundle comes from the authority.
        if name == MESH && namespace == self.own {
            known.sources.insert(name.to_owned(), data.clone());
        }
        let labels = found.labels();
        let copy = Copy {
            data,
            uid: found.uid(),
            is_ours: LABELS.iter().all(|(label, value)| labels.get(*label).is_some_and(|found| found == value)),
            for_pods: labels.contains_key(FOR_PODS),
        };
        known.copies.insert((namespace, name.to_owned()), copy);
    }
}

impl Known {
    fn take_namespace(&mut self, namespace: &Namespace) {
        let found = Found {
            enabled: namespace.labels().get(INJECT).is_some_and(|value| value == ENABLED),
            going: namespace.metadata.deletion_timestamp.is_some(),
            annotations: namespace.annotations().clone(),
        };
        self.namespaces.insert(namespace.name_any(), found);
    }
}
