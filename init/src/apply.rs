//! Brings a namespace to what a plan says, and leaves it alone when it is there already.

use std::fmt;

use remora_model::capture::{CaptureSpec, Interception};

use crate::backend::{Backend, Chosen, Iptables, choose, other};
use crate::netlink::{self, Delivery, Ipv6Use};
use crate::plan::{Family, RuleSet, plan};
use crate::{Error, Ipv6, Options, lock};

/// What was done.
#[derive(Debug)]
pub struct Report {
    /// The backend that holds the rules.
    pub backend: Backend,
    /// What happened, family by family.
    pub families: Vec<(Family, Outcome)>,
    /// Rules of ours were removed from the other backend.
    pub moved: bool,
}

/// What happened to one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The rules were there.
    Unchanged,
    /// There were none; now there are.
    Installed,
    /// They differed in this many places; now they do not.
    Repaired(usize),
    /// There are no rules for this family, for this reason.
    Skipped(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchanged => f.write_str("rules in place, nothing changed"),
            Self::Installed => f.write_str("rules installed"),
            Self::Repaired(1) => f.write_str("1 difference repaired"),
            Self::Repaired(count) => write!(f, "{count} differences repaired"),
            Self::Skipped(reason) => write!(f, "no rules: {reason}"),
        }
    }
}

/// Redirects this network namespace as `spec` says.
///
/// # Errors
/// See [`Error`]. After an error the old rules stand, family by family.
pub fn apply(spec: &CaptureSpec, options: &Options) -> Result<Report, Error> {
    let _lock = lock::take(options.wait)?;
    let Chosen { v4, .. } = choose(options)?;
    let backend = v4.backend();
    let mut families = vec![(Family::V4, bring(&v4, Family::V4, spec)?)];
    families.push((Family::V6, bring_ipv6(backend, spec, options)?));
    // Only now: as long as the new rules are not in force, the old ones must be.
    let mut moved = false;
    for (family, iptables) in other(backend, options) {
        moved |= remove_rules(&iptables, family).unwrap_or(false);
    }
    Ok(Report { backend, families, moved })
}

/// IPv6 of the same backend, if there is any IPv6 to speak of.
fn bring_ipv6(backend: Backend, spec: &CaptureSpec, options: &Options) -> Result<Outcome, Error> {
    if options.ipv6 == Ipv6::Off {
        return Ok(Outcome::Skipped("IPv6 is left alone (--ipv6 off)".to_owned()));
    }
    let attempt = Iptables::find(backend, Family::V6, options).and_then(|v6| bring(&v6, Family::V6, spec));
    match (attempt, options.ipv6, netlink::ipv6_use()) {
        (Ok(outcome), ..) => Ok(outcome),
        (Err(Error::Locked { what, seconds }), ..) => Err(Error::Locked { what, seconds }),
        (Err(error), Ipv6::On, _) => Err(error),
        (Err(error), _, Ipv6Use::Reachable(address)) => Err(Error::Ipv6Escapes { address, reason: Box::new(error) }),
        (Err(error), _, Ipv6Use::Local) => Ok(Outcome::Skipped(format!("no IPv6 address to protect; {error}"))),
        (Err(error), _, Ipv6Use::Off) => Ok(Outcome::Skipped(format!("IPv6 is off in this namespace; {error}"))),
    }
}

/// Addresses and routes first, so that no rule ever leads nowhere; those no longer wanted last.
fn bring(iptables: &Iptables, family: Family, spec: &CaptureSpec) -> Result<Outcome, Error> {
    let delivery = delivery(spec);
    let mut before = match family {
        Family::V6 if netlink::ipv6_use() != Ipv6Use::Off => netlink::add_inbound_sources()?,
        _ => 0,
    };
    if delivery.is_some() {
        before += usize::from(netlink::deliver(family, delivery)?);
    }
    let wanted = plan(spec, family);
    let live = iptables.save()?;
    let differences = live.differences(&wanted);
    if !differences.is_empty() {
        iptables.restore(&live.transaction(&wanted))?;
        check(iptables, &wanted)?;
    }
    if delivery.is_none() {
        before += usize::from(netlink::deliver(family, None)?);
    }
    Ok(match differences.len() + before {
        0 => Outcome::Unchanged,
        _ if !live.has_ours() => Outcome::Installed,
        count => Outcome::Repaired(count),
    })
}

fn check(iptables: &Iptables, wanted: &RuleSet) -> Result<(), Error> {
    match iptables.save()?.differences(wanted).first() {
        None => Ok(()),
        Some(difference) => Err(Error::NotApplied(iptables.backend(), difference.to_string())),
    }
}

pub(crate) fn delivery(spec: &CaptureSpec) -> Option<Delivery> {
    match spec.inbound.mode {
        Interception::Redirect => None,
        Interception::Tproxy { mark, table } => Some(Delivery { mark, table }),
    }
}

/// Removes our rules of one backend and family; whether there were any.
pub(crate) fn remove_rules(iptables: &Iptables, family: Family) -> Result<bool, Error> {
    let removal = iptables.save()?.removal(family);
    if removal.is_empty() {
        return Ok(false);
    }
    iptables.restore(&removal)?;
    Ok(true)
}
