//! What a sidecar says of its identity.

use std::collections::BTreeSet;

use anyhow::Context as _;
use shop_mesh::http_client::Ask;
use shop_mesh::pods::Pod;
use shop_mesh::sidecar;

/// An identity as `/certs` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    /// The leaf's.
    pub(crate) serial: String,
    /// SHA-256 of each root of the bundle.
    pub(crate) anchors: BTreeSet<String>,
}

/// What `pod`'s sidecar uses now.
pub(crate) async fn served(pod: Pod) -> anyhow::Result<Served> {
    let page = sidecar::admin(pod, Ask::Get("/certs".to_owned())).await?;
    parse(&page).with_context(|| format!("/certs of {}: {page}", pod.name))
}

fn parse(page: &str) -> anyhow::Result<Served> {
    let page: serde_json::Value = serde_json::from_str(page)?;
    let identity = &page["identity"];
    let serial = identity["serial"].as_str().context("names no serial")?.to_owned();
    let anchors = identity["trust_anchors"].as_array().context("names no trust anchor")?;
    let anchors = anchors.iter().filter_map(|anchor| anchor["sha256"].as_str().map(str::to_owned)).collect();
    Ok(Served { serial, anchors })
}
