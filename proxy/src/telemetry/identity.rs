//! What is told of identity: the SVID in use and its renewal, who vouched for peers, and connections that were drained.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use remora_certs::verify::{PeerRole, verify_chain};
use remora_certs::{Fingerprint, Identity};

use super::exposition::{Family, Kind, Value, family, labels};
use super::metrics::Counter;
use super::registry::{Registry, Shard, ShardData, lock};

/// What the control thread knows of the workload's own identity.
#[derive(Debug, Default)]
pub(crate) struct IdentityMetrics {
    /// Applied, failed, the trust bundle alone.
    reloads: [AtomicU64; 3],
    /// Succeeded, failed.
    renewals: [AtomicU64; 2],
    /// Seconds since the epoch; 0: no identity.
    expiry: AtomicI64,
    /// Seconds since the epoch; 0: not ours to say.
    next_renewal: AtomicI64,
    clock_skew_ms: AtomicI64,
    /// Our own SVID's anchor and serial number.
    own: Mutex<Option<(String, String)>>,
}

/// When a peer last proved itself by one anchor, in one worker.
#[derive(Debug, Default)]
pub struct AnchorSeen(AtomicU64);

impl AnchorSeen {
    /// A peer was verified by it, or is still connected, at `now`.
    pub fn seen(&self, now: SystemTime) {
        self.0.store(seconds(now).unsigned_abs(), Ordering::Relaxed);
    }
}

/// Why a connection that still works is drained and replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DrainReason {
    /// It is older than it may become.
    Age,
    /// The root that vouched for its peer is no longer trusted.
    AnchorRemoved,
    /// A certificate of its peer's chain was revoked.
    Revoked,
}

impl DrainReason {
    pub(crate) const ALL: [Self; 3] = [Self::Age, Self::AnchorRemoved, Self::Revoked];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::AnchorRemoved => "anchor_removed",
            Self::Revoked => "revoked",
        }
    }
}

/// Peers' trust in one worker.
#[derive(Debug, Default)]
pub(crate) struct TrustMetrics {
    anchors: Mutex<BTreeMap<Fingerprint, Arc<AnchorSeen>>>,
    drained: [Counter; DrainReason::ALL.len()],
}

impl Registry {
    /// Counts a reload of the workload's identity; `ok`: it was applied.
    pub fn identity_reload(&self, ok: bool) {
        self.control.identity.reloads[usize::from(!ok)].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a change of whom we trust beside the same SVID.
    pub fn bundle_reload(&self) {
        self.control.identity.reloads[2].fetch_add(1, Ordering::Relaxed);
    }

    /// Takes over what a certificate source counts: identities it got, and attempts that failed.
    pub fn identity_renewals(&self, succeeded: u64, failed: u64) {
        for (total, value) in self.control.identity.renewals.iter().zip([succeeded, failed]) {
            total.store(value, Ordering::Relaxed);
        }
    }

    /// Notes when the source will ask for the next SVID; [`None`]: that is not ours to say.
    pub fn identity_next_renewal(&self, at: Option<SystemTime>) {
        self.control.identity.next_renewal.store(at.map_or(0, seconds), Ordering::Relaxed);
    }

    /// Notes how far the issuer's clock is ahead of ours, in milliseconds.
    pub fn clock_skew(&self, milliseconds: i64) {
        self.control.identity.clock_skew_ms.store(milliseconds, Ordering::Relaxed);
    }

    /// Notes when the current SVID expires.
    pub fn identity_expiry(&self, expiry: SystemTime) {
        self.control.identity.expiry.store(seconds(expiry), Ordering::Relaxed);
    }

    /// Notes the SVID in use: its end, and the anchor that vouches for it.
    pub fn identity(&self, identity: &Identity) {
        let svid = identity.svid();
        self.identity_expiry(svid.not_after());
        // Judged in the middle of its life: an SVID that expires keeps its anchor.
        let life = svid.not_after().duration_since(svid.not_before()).unwrap_or_default();
        let within = svid.not_before() + life / 2;
        let peer = verify_chain(svid.certificates(), PeerRole::Client, identity.bundles(), &[], within);
        // Without one the bundle does not vouch for our own chain, which the peers will tell.
        *lock(&self.control.identity.own) = peer.ok().map(|peer| (peer.anchor.to_string(), svid.serial().to_owned()));
    }
}

impl Shard {
    /// The time a peer was last vouched for by `anchor`. Takes a lock: ask once a handshake.
    pub fn anchor(&self, anchor: Fingerprint) -> Arc<AnchorSeen> {
        Arc::clone(lock(&self.data().trust.anchors).entry(anchor).or_default())
    }

    /// `count` connections begin to drain.
    pub fn connections_drained(&self, reason: DrainReason, count: u64) {
        self.data().trust.drained[reason as usize].add(count);
    }
}

fn seconds(time: SystemTime) -> i64 {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

type Series = Vec<(&'static str, String, Value)>;

/// The families, in the order they are shown.
pub(crate) fn gather(registry: &Registry, shards: &[Arc<ShardData>], families: &mut Vec<Family>) {
    let own = &registry.control.identity;
    let results = |names: &[&str], counts: &[AtomicU64]| -> Series {
        let counts = counts.iter().map(|count| Value::Count(count.load(Ordering::Relaxed)));
        names.iter().zip(counts).map(|(result, count)| ("", labels(&[("result", result)]), count)).collect()
    };
    let known = |at: &AtomicI64| -> Series {
        let at = at.load(Ordering::Relaxed);
        if at > 0 { vec![("", String::new(), Value::Measure(at as f64))] } else { Vec::new() }
    };
    let anchor: Series = lock(&own.own)
        .iter()
        .map(|(anchor, serial)| ("", labels(&[("anchor", anchor), ("serial", serial)]), Value::Count(1)))
        .collect();
    let present = own.expiry.load(Ordering::Relaxed) > 0;
    let skew = own.clock_skew_ms.load(Ordering::Relaxed) as f64 / 1e3;
    let skew = if present { vec![("", String::new(), Value::Measure(skew))] } else { Vec::new() };
    families.extend([
        family(
            "remora_identity_reloads_total",
            "Reloads of the workload's SVID, and of the trust bundle alone.",
            Kind::Counter,
            results(&["applied", "failed", "bundle"], &own.reloads),
        ),
        family(
            "remora_identity_renewals_total",
            "Newer SVIDs that the source got, and attempts that failed.",
            Kind::Counter,
            results(&["succeeded", "failed"], &own.renewals),
        ),
        family(
            "remora_identity_expiry_timestamp_seconds",
            "When the current SVID expires.",
            Kind::Gauge,
            known(&own.expiry),
        ),
        family(
            "remora_identity_next_renewal_timestamp_seconds",
            "When the source asks for the next SVID.",
            Kind::Gauge,
            known(&own.next_renewal),
        ),
        family(
            "remora_clock_skew_seconds",
            "How far the issuer's clock is ahead of ours, as far as that is known.",
            Kind::Gauge,
            skew,
        ),
        family("remora_identity_anchor", "The root that vouches for the current SVID; always 1.", Kind::Gauge, anchor),
    ]);
    gather_peers(shards, families);
}

fn gather_peers(shards: &[Arc<ShardData>], families: &mut Vec<Family>) {
    let mut seen: BTreeMap<Fingerprint, u64> = BTreeMap::new();
    let mut drained = [0; DrainReason::ALL.len()];
    for shard in shards {
        for (anchor, at) in lock(&shard.trust.anchors).iter() {
            let latest = seen.entry(*anchor).or_default();
            *latest = (*latest).max(at.0.load(Ordering::Relaxed));
        }
        drained.iter_mut().zip(&shard.trust.drained).for_each(|(total, count)| *total += count.value());
    }
    let seen = seen.iter().map(|(anchor, at)| ("", labels(&[("anchor", &anchor.to_string())]), Value::Count(*at)));
    let drained = DrainReason::ALL.iter().zip(drained).filter(|(_, count)| *count > 0);
    let drained = drained.map(|(reason, count)| ("", labels(&[("reason", reason.as_str())]), Value::Count(count)));
    families.extend([
        family(
            "remora_tls_peer_anchor_last_seen_seconds",
            "When a peer was last connected whose chain ends in this root (SHA-256), since the epoch.",
            Kind::Gauge,
            seen.collect(),
        ),
        family(
            "remora_connections_drained_total",
            "Mesh connections that were drained to be replaced.",
            Kind::Counter,
            drained.collect(),
        ),
    ]);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_latest_sight_of_an_anchor_among_the_workers_is_shown() {
        let registry = Registry::new();
        let (first, second) = (registry.shard(), registry.shard());
        let anchor = Fingerprint::of(b"root");
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        first.anchor(anchor).seen(at(1_800_000_005));
        second.anchor(anchor).seen(at(1_800_000_003));
        second.connections_drained(DrainReason::Revoked, 1);
        let text = registry.render_prometheus();
        let sample = format!("remora_tls_peer_anchor_last_seen_seconds{{anchor=\"{anchor}\"}} 1800000005\n");
        assert!(text.contains(&sample), "{text}");
        assert!(text.contains("remora_connections_drained_total{reason=\"revoked\"} 1\n"), "{text}");
        assert!(!text.contains("reason=\"age\""), "{text}");
    }
}
