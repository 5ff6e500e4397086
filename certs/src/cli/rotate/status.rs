//! `remora-certs rotate status`: how far a rotation is, and who needs the old root. Its JSON is stable: fields are only
//! ever added.

mod scrape;

use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use serde::Serialize;

use self::scrape::{Scraped, scrape};
use crate::ca::rotation::{Decision, Obstacle, Step, decide};
use crate::ca::{CaDirectory, CaError, IssuedRecord, State, moment};
use crate::leaf::printable;
use crate::verify::Clock;
use crate::{Error, TrustBundle};

#[derive(Debug, Args)]
pub(in crate::cli) struct Status {
    /// The CA's directory.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// Ask these proxies too (http://HOST:PORT/metrics): which root their own certificate has, and when they last saw
    /// a peer of each.
    #[arg(long, value_name = "URL", num_args = 1..)]
    metrics: Vec<String>,
}

#[derive(Serialize)]
struct Report {
    trust_domain: String,
    phase: String,
    bundle_version: u64,
    anchors: Vec<Anchor>,
    next: Next,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    proxies: Vec<Scraped>,
}

/// A root of the trust bundle.
#[derive(Serialize)]
struct Anchor {
    /// The certificate's SHA-256.
    anchor: String,
    file: String,
    not_after: String,
    /// Whether its intermediate signs.
    signs: bool,
    /// Whether its key is in the directory.
    key_present: bool,
    /// The certificates beneath it that may be in use.
    holders: Vec<Holder>,
}

#[derive(Serialize)]
struct Holder {
    spiffe_id: String,
    instance: Option<String>,
    serial: String,
    issued_at: String,
    not_after: String,
    bundle_version: u64,
}

/// The step that comes next.
#[derive(Serialize)]
struct Next {
    step: &'static str,
    safe: bool,
    needed_by: Vec<Needed>,
    /// The proxies asked that are in its way: they hold a certificate of the old root, or could not be asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    needed_by_proxies: Vec<NeededBy>,
}

/// A proxy in the way of the next step, by its own word or for want of it.
#[derive(Serialize)]
struct NeededBy {
    url: String,
    /// `old_anchor`: its certificate leads to the old root; `not_asked`: it could not be asked.
    why: &'static str,
}

/// Who would be cut off by it.
#[derive(Serialize)]
struct Needed {
    /// `old_bundle`: may not know the new root; `old_anchor`: its certificate leads to the old one.
    why: &'static str,
    #[serde(flatten)]
    holder: Holder,
}

pub(in crate::cli) fn run(arguments: &Status, out: &mut dyn Write) -> Result<(), Error> {
    let ca = CaDirectory::open(&arguments.dir)?;
    let proxies = arguments.metrics.iter().map(|url| scrape(url)).collect();
    let report = Report::of(&ca, proxies, SystemTime::now())?;
    match arguments.json {
        true => serde_json::to_writer_pretty(&mut *out, &report).map_err(Into::into).and_then(|()| writeln!(out)),
        false => report.write(out),
    }
    .map_err(Error::Output)
}

impl Report {
    fn of(ca: &CaDirectory, proxies: Vec<Scraped>, now: SystemTime) -> Result<Self, Error> {
        let state = ca.state().ok_or_else(|| CaError::Plugin(ca.path().to_owned()))?;
        let holders = ca.holders(now)?;
        let step = Step::after(state.phase);
        let decision = decide(step, state, &holders);
        // A proxy's own word counts as much as our record.
        let needed_by_proxies = match step {
            Step::Drop => proxies.iter().filter_map(|proxy| NeededBy::of(proxy, state)).collect(),
            Step::Start | Step::Issue => Vec::new(),
        };
        let next = Next {
            step: step.name(),
            safe: decision == Decision::Safe && needed_by_proxies.is_empty(),
            needed_by: match decision {
                Decision::Safe => Vec::new(),
                Decision::Refused(obstacles) => obstacles.iter().filter_map(Needed::of).collect(),
            },
            needed_by_proxies,
        };
        Ok(Self {
            trust_domain: state.trust_domain.to_string(),
            phase: state.phase.to_string(),
            bundle_version: state.bundle_version,
            anchors: anchors(ca, state, &holders)?,
            next,
            proxies,
        })
    }

    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let Self { trust_domain, phase, bundle_version, .. } = self;
        writeln!(out, "{trust_domain}: phase {phase}, bundle version {bundle_version}")?;
        for anchor in &self.anchors {
            let signs = if anchor.signs { ", signs" } else { "" };
            let key = if anchor.key_present { "" } else { ", key offline" };
            writeln!(out, "root {} ({}, until {}{signs}{key})", anchor.anchor, anchor.file, anchor.not_after)?;
            writeln!(out, "  {} certificates in use", anchor.holders.len())?;
        }
        for proxy in &self.proxies {
            proxy.write(out)?;
        }
        let safe = if self.next.safe { "safe" } else { "not safe" };
        writeln!(out, "next step: {} ({safe})", self.next.step)?;
        for needed in &self.next.needed_by {
            let Holder { spiffe_id, instance, serial, not_after, .. } = &needed.holder;
            let instance = instance.as_deref().map(|name| format!(" ({})", printable(name))).unwrap_or_default();
            let why = if needed.why == "old_bundle" { "may not know the new root" } else { "is of the old root" };
            writeln!(out, "  {spiffe_id}{instance} {why}: serial {serial}, until {not_after}")?;
        }
        for NeededBy { url, why } in &self.next.needed_by_proxies {
            let why = if *why == "not_asked" { "cannot be asked" } else { "has a certificate of the old root" };
            writeln!(out, "  {url} {why}")?;
        }
        Ok(())
    }
}

fn anchors(ca: &CaDirectory, state: &State, holders: &[IssuedRecord]) -> Result<Vec<Anchor>, Error> {
    let bundle = TrustBundle::parse(state.trust_domain.clone(), ca.path(), ca.bundle_pem())?;
    let of = |root: &crate::ca::CaRoot| Anchor {
        anchor: root.fingerprint.to_string(),
        file: root.certificate.clone(),
        not_after: bundle.root(root.fingerprint).map(|root| Clock(&root.not_after()).to_string()).unwrap_or_default(),
        signs: root.fingerprint == state.signer.root,
        key_present: ca.path().join(&root.key).exists(),
        holders: holders.iter().filter(|record| record.anchor == root.fingerprint).map(Holder::of).collect(),
    };
    Ok(state.roots.iter().map(of).collect())
}

impl Holder {
    fn of(record: &IssuedRecord) -> Self {
        Self {
            spiffe_id: record.spiffe_id.to_string(),
            instance: record.instance.clone(),
            serial: record.serial.clone(),
            issued_at: Clock(&moment(record.issued_at)).to_string(),
            not_after: Clock(&moment(record.not_after)).to_string(),
            bundle_version: record.bundle_version,
        }
    }
}

impl NeededBy {
    fn of(proxy: &Scraped, state: &State) -> Option<Self> {
        let mut old = state.roots.iter().filter(|root| root.fingerprint != state.signer.root);
        let why = match old.any(|root| proxy.holds(&root.fingerprint.to_string())) {
            true => "old_anchor",
            false if proxy.error.is_some() => "not_asked",
            false => return None,
        };
        Some(Self { url: proxy.url.clone(), why })
    }
}

impl Needed {
    fn of(obstacle: &Obstacle) -> Option<Self> {
        let why = match obstacle {
            Obstacle::OldBundle(_) => "old_bundle",
            Obstacle::OldAnchor(_) => "old_anchor",
            Obstacle::Order { .. } => return None,
        };
        Some(Self { why, holder: Holder::of(obstacle.record()?) })
    }
}
