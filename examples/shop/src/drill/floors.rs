//! What every sidecar has to show for it: handshakes and identities, counted from its own pages. A drill in which nothing
//! happened has no failures either.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;
use shop_mesh::pods::{self, DRILLED, Pod};
use shop_mesh::screen::Screen;
use shop_mesh::sidecar;

use crate::certs;

const HANDSHAKES: &str = "remora_tls_handshakes_total";
const FAILURES: &str = "remora_tls_handshake_failures_total";
/// Between two looks at the sidecars' identities.
const PAUSE: Duration = Duration::from_millis(500);

/// What was seen of one sidecar.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Of the certificates it served.
    pub(crate) serials: BTreeSet<String>,
    /// Of the bundles it judged by.
    pub(crate) anchors: BTreeSet<String>,
    /// Anchors that certificates of its peers led to.
    pub(crate) peer_anchors: usize,
    pub(crate) handshakes: u64,
    pub(crate) resumed: u64,
    /// Failed handshakes, but those that a client left.
    pub(crate) failures: u64,
}

pub(crate) type ByPod = BTreeMap<&'static str, Seen>;

/// Looks at every sidecar again and again until `stop`.
pub(crate) async fn watch(stop: Arc<AtomicBool>) -> anyhow::Result<ByPod> {
    let mut seen = ByPod::new();
    while !stop.load(Ordering::Relaxed) {
        for pod in pods::sidecars(&DRILLED) {
            let served = certs::served(pod).await?;
            let of_pod = seen.entry(pod.name).or_default();
            of_pod.serials.insert(served.serial);
            of_pod.anchors.extend(served.anchors);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(seen)
}

/// Adds what the metrics say at the end.
pub(crate) async fn count(seen: &mut ByPod) -> anyhow::Result<()> {
    for pod in pods::sidecars(&DRILLED) {
        let page = sidecar::metrics(pod).await?;
        let of_pod = seen.entry(pod.name).or_default();
        of_pod.handshakes = sidecar::sum(&page, HANDSHAKES, &[]);
        of_pod.resumed = sidecar::sum(&page, HANDSHAKES, &[("resumed", "true")]);
        of_pod.failures = failures(&page);
        of_pod.peer_anchors = peer_anchors(&page);
    }
    Ok(())
}

/// The handshakes that failed on `pod`'s side for another reason than that the peer hung up.
pub(crate) fn failures(page: &str) -> u64 {
    sidecar::sum(page, FAILURES, &[]) - sidecar::sum(page, FAILURES, &[("reason", "closed")])
}

fn peer_anchors(page: &str) -> usize {
    page.lines().filter(|line| line.starts_with("remora_tls_peer_anchor_last_seen_seconds{")).count()
}

pub(crate) fn print(screen: &Screen, seen: &ByPod) {
    let rows = pods::sidecars(&DRILLED).filter_map(|pod| Some((pod, seen.get(pod.name)?))).map(|(pod, seen)| {
        vec![
            pod.name.to_owned(),
            seen.handshakes.to_string(),
            seen.resumed.to_string(),
            seen.failures.to_string(),
            seen.serials.len().to_string(),
            seen.anchors.len().to_string(),
            seen.peer_anchors.to_string(),
        ]
    });
    let heading = ["sidecar", "handshakes", "resumed", "failed", "serials served", "anchors trusted", "peers' anchors"];
    screen.table(&heading, &rows.collect::<Vec<_>>());
}

/// What must have been seen at least.
pub(crate) struct Floor {
    pub(crate) serials: usize,
    pub(crate) anchors: usize,
    pub(crate) handshakes: u64,
}

impl Floor {
    pub(crate) fn check(&self, pod: Pod, seen: &Seen) -> anyhow::Result<()> {
        let name = pod.name;
        let (serials, anchors, handshakes) = (seen.serials.len(), seen.anchors.len(), seen.handshakes);
        ensure!(serials >= self.serials, "{name} served {serials} serials, not {} or more", self.serials);
        ensure!(anchors >= self.anchors, "{name} trusted {anchors} anchors in all, not {}", self.anchors);
        ensure!(handshakes >= self.handshakes, "{name} made {handshakes} handshakes, not {} or more", self.handshakes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_hangs_up_is_no_failure() {
        let page = format!(
            "{FAILURES}{{side=\"server\",reason=\"closed\"}} 3\n{FAILURES}{{side=\"client\",reason=\"unknown_ca\"}} 2\n"
        );
        assert_eq!(failures(&page), 2);
    }
}
