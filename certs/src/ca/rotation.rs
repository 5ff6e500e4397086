//! Whether a step of a root's rotation is safe: pure, from the state, the record and the time.
//!
//! The order is: put the new root into the bundle beside the old one; when everybody has that bundle, issue from the
//! new one; when the last leaf of the old one is replaced or has expired, take the old one out. At each step everybody
//! trusts whoever may appear.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::{Duration, SystemTime};

use super::journal::{moment, seconds};
use super::{IssuedRecord, Phase, Proof, State};
use crate::leaf::printable;
use crate::verify::Clock;

/// How long after it was signed a certificate counts as in use where its holder does not say so. It may not have got the
/// answer: then it gives up after ten seconds at most, waits a minute at most, tries twice for ten seconds each (with its
/// token, and without), and that attempt is on record again with the old certificate still in its hand.
pub const SETTLED: Duration = Duration::from_secs(90);

/// A step of a root's rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Put a new root into the trust bundle.
    Start,
    /// Sign with the new root's intermediate.
    Issue,
    /// Take the old root out of the trust bundle.
    Drop,
}

/// Why a step would break something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The step is not the one that comes next.
    Order {
        /// How far the rotation has come.
        phase: Phase,
    },
    /// The certificate was handed out beside an older bundle: its holder may not know the new root, and would refuse
    /// whoever is issued from it.
    OldBundle(IssuedRecord),
    /// The certificate leads to the old root: its holder would be refused by everybody.
    OldAnchor(IssuedRecord),
}

/// Whether a step can be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing breaks.
    Safe,
    /// Something would, for each of these reasons; at least one.
    Refused(Vec<Obstacle>),
}

impl Step {
    /// The step that comes next in `phase`.
    pub fn after(phase: Phase) -> Self {
        match phase {
            Phase::Stable => Self::Start,
            Phase::Distribute => Self::Issue,
            Phase::Issue => Self::Drop,
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Issue => "issue",
            Self::Drop => "drop",
        }
    }
}

/// Those of `records`, in the order of issue, whose certificates may be in use at `now`: not expired, not revoked, and
/// not replaced.
pub fn holders(state: &State, records: Vec<IssuedRecord>, now: SystemTime) -> Vec<IssuedRecord> {
    let mut gone = replaced(&records, now);
    gone.extend(state.revoked.iter().filter_map(|revoked| {
        let record = records.iter().find(|record| record.serial == revoked.serial)?;
        Some((record.spiffe_id.to_string(), revoked.serial.clone()))
    }));
    let in_use = |record: &IssuedRecord| {
        !record.is_expired(now) && !gone.contains(&(record.spiffe_id.to_string(), record.serial.clone()))
    };
    records.into_iter().filter(in_use).collect()
}

/// The identities and serial numbers of the certificates that, by `records` in the order of issue, nobody has any more: a
/// later one of the same identity says that it takes their place, and is in use itself.
pub fn replaced(records: &[IssuedRecord], now: SystemTime) -> HashSet<(String, String)> {
    // Whoever asks anew with the same certificate in its hand still has it, so the latest counts.
    let latest: HashMap<(String, &str), &IssuedRecord> = records
        .iter()
        .filter_map(|record| Some(((record.spiffe_id.to_string(), record.replaces.as_deref()?), record)))
        .collect();
    let confirmed = |record: &IssuedRecord| latest.contains_key(&(record.spiffe_id.to_string(), &*record.serial));
    let gone = latest.iter().filter(|(_, record)| confirmed(record) || is_settled(record, now));
    gone.map(|((id, replaced), _)| (id.clone(), (*replaced).to_owned())).collect()
}

/// `remora-certs issue` says that a certificate is in use when it is, others when they renew by it; until then time must
/// tell. A certificate from the future was signed by a clock that was wrong: it is old, whatever it says.
fn is_settled(record: &IssuedRecord, now: SystemTime) -> bool {
    record.by == Proof::Command || seconds(now).abs_diff(record.issued_at) >= SETTLED.as_secs()
}

/// Whether `step` is safe while `holders` have their certificates in use.
pub fn decide(step: Step, state: &State, holders: &[IssuedRecord]) -> Decision {
    if step != Step::after(state.phase) {
        return Decision::Refused(vec![Obstacle::Order { phase: state.phase }]);
    }
    let obstacles: Vec<_> = match step {
        Step::Start => Vec::new(),
        Step::Issue => {
            let behind = holders.iter().filter(|record| record.bundle_version < state.bundle_version);
            behind.cloned().map(Obstacle::OldBundle).collect()
        }
        Step::Drop => {
            let old = holders.iter().filter(|record| record.anchor != state.signer.root);
            old.cloned().map(Obstacle::OldAnchor).collect()
        }
    };
    if obstacles.is_empty() { Decision::Safe } else { Decision::Refused(obstacles) }
}

impl Obstacle {
    /// The certificate in the way, where it is one.
    pub fn record(&self) -> Option<&IssuedRecord> {
        match self {
            Self::Order { .. } => None,
            Self::OldBundle(record) | Self::OldAnchor(record) => Some(record),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stable => "stable",
            Self::Distribute => "distribute",
            Self::Issue => "issue",
        })
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (record, why) = match self {
            Self::Order { phase } => {
                return write!(f, "the phase is {phase}: the next step is {}", Step::after(*phase));
            }
            Self::OldBundle(record) => (record, "may not know the new root yet"),
            Self::OldAnchor(record) => (record, "holds a certificate of the old root"),
        };
        // What a workload calls itself comes from the network.
        let instance = record.instance.as_deref().map(|name| format!(" ({})", printable(name))).unwrap_or_default();
        let (id, serial, end) = (&record.spiffe_id, printable(&record.serial), moment(record.not_after));
        write!(f, "{id}{instance} {why}: serial {serial}, until {}", Clock(&end))
    }
}

#[cfg(test)]
mod tests;
