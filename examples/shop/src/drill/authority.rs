//! The certificate authority under drill: its directory, and the tool that takes it from one root to the next.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use shop_mesh::raised::{run, text};
use shop_mesh::state;

use crate::server;

/// How long a step waits at most until it is safe.
const PATIENCE: &str = "60s";

/// The directory that [`shop_mesh::raised::prepare`] has made.
pub(crate) fn directory() -> PathBuf {
    state::path("ca")
}

/// Writes a new certificate and key of `id` into `out`, and the bundle as it is now.
pub(crate) async fn issue(id: &str, out: &Path, ttl: &str, owner: u32) -> anyhow::Result<()> {
    let (ca, folder, owner) = (text(&directory()), text(out), format!("{owner}:{owner}"));
    let arguments = ["issue", "--ca", &ca, "--id", id, "--out", &folder, "--ttl", ttl, "--owner", &owner];
    run("remora-certs", &arguments).await.map(drop)
}

/// `remora-certs rotate ...`; what it says.
async fn rotate(what: &str, more: &[&str]) -> anyhow::Result<String> {
    let ca = text(&directory());
    run("remora-certs", &[&["rotate", what, "--dir", &ca], more].concat()).await
}

/// A new intermediate beneath the same root.
pub(crate) async fn rotate_intermediate() -> anyhow::Result<String> {
    rotate("intermediate", &[]).await
}

/// The next step from one root to the next, as soon as it is safe.
pub(crate) async fn step(step: &str) -> anyhow::Result<String> {
    let said = rotate("root", &["--step", step, "--wait", PATIENCE]).await?;
    server::publish_roots()?;
    Ok(said)
}

/// The step now, whoever is cut off by it.
pub(crate) async fn force(step: &str) -> anyhow::Result<String> {
    let said = rotate("root", &["--step", step, "--force"]).await?;
    server::publish_roots()?;
    Ok(said)
}

/// The step now, which must be refused because of `id`; the line that names it.
pub(crate) async fn refused(step: &str, id: &str) -> anyhow::Result<String> {
    match rotate("root", &["--step", step]).await {
        Ok(_) => bail!("the step {step} was done although {id} needs the old root"),
        Err(error) => {
            let said = format!("{error:#}");
            let line = said.lines().find(|line| line.contains(id));
            line.map(|line| line.trim().to_owned()).with_context(|| format!("{step} failed otherwise: {said}"))
        }
    }
}

/// What `remora-certs rotate status` says.
pub(crate) struct Status {
    pub(crate) phase: String,
    next: String,
    safe: bool,
    needed_by: BTreeSet<String>,
}

pub(crate) async fn status() -> anyhow::Result<Status> {
    let said: Value = serde_json::from_str(&rotate("status", &["--json"]).await?)?;
    let word = |value: &Value| value.as_str().map(str::to_owned).with_context(|| format!("no word in {said}"));
    let needed = said["next"]["needed_by"].as_array().context("a status without needed_by")?;
    Ok(Status {
        phase: word(&said["phase"])?,
        next: word(&said["next"]["step"])?,
        safe: said["next"]["safe"].as_bool().context("a status that does not say whether it is safe")?,
        needed_by: needed.iter().map(|one| word(&one["spiffe_id"])).collect::<anyhow::Result<_>>()?,
    })
}

impl Status {
    /// The tool must have seen that `id` is in the way of the next step.
    pub(crate) fn check_needed(&self, id: &str) -> anyhow::Result<()> {
        ensure!(!self.safe, "the status calls {} safe although {id} is in its way", self.next);
        ensure!(self.needed_by.contains(id), "the status does not name {id}: {self}");
        Ok(())
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { phase, next, safe, needed_by } = self;
        let safe = if *safe { "safe" } else { "not safe" };
        write!(f, "phase {phase}; next step: {next} ({safe})")?;
        if !needed_by.is_empty() {
            write!(f, ", needed by {}", needed_by.iter().cloned().collect::<Vec<_>>().join(" "))?;
        }
        Ok(())
    }
}

/// How many intermediates and roots the authority's record names.
pub(crate) fn recorded() -> anyhow::Result<(usize, usize, usize)> {
    let file = directory().join("issued.jsonl");
    let record = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let (mut certificates, mut signers, mut anchors) = (0, BTreeSet::new(), BTreeSet::new());
    for line in record.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if let (Some(signer), Some(anchor)) = (line["signer"].as_str(), line["anchor"].as_str()) {
            certificates += 1;
            signers.insert(signer.to_owned());
            anchors.insert(anchor.to_owned());
        }
    }
    Ok((certificates, signers.len(), anchors.len()))
}
