//! Removes what was made here, and nothing else.

use crate::apply::remove_rules;
use crate::backend::{Backend, Iptables};
use crate::plan::Family;
use crate::{Error, Options, lock, netlink};

/// Removes every rule of ours from both backends, families and tables, then routing and the address; names what it removed.
///
/// # Errors
/// See [`Error`]; the first one, after everything else was tried.
pub fn cleanup(options: &Options) -> Result<Vec<String>, Error> {
    let _lock = lock::take(options.wait)?;
    let mut removed = Vec::new();
    let mut failed = None;
    let mut note = |outcome: Result<bool, Error>, what: String| match outcome {
        Ok(true) => removed.push(what),
        Ok(false) => {}
        Err(error) => failed = failed.take().or(Some(error)),
    };
    let (mut found, mut missing) = (false, None);
    for backend in Backend::BOTH.into_iter().filter(|backend| options.backend.is_none_or(|only| only == *backend)) {
        for family in Family::BOTH {
            match Iptables::find(backend, family, options) {
                Ok(iptables) => {
                    found = true;
                    note(remove_unless_absent(&iptables, family), format!("{family} rules of {backend}"));
                }
                Err(error) => missing = missing.or(Some(error)),
            }
        }
    }
    for family in Family::BOTH {
        if family == Family::V6 && netlink::ipv6_use() == netlink::Ipv6Use::Off {
            continue;
        }
        note(netlink::deliver(family, None), format!("{family} routing for TPROXY"));
        if family == Family::V6 {
            note(netlink::remove_inbound_sources(), "::6 to ::f on lo".to_owned());
        }
    }
    match failed.or(missing.filter(|_| !found)) {
        Some(error) => Err(error),
        None => Ok(removed),
    }
}

/// A kernel without this backend holds no rules of it.
fn remove_unless_absent(iptables: &Iptables, family: Family) -> Result<bool, Error> {
    match remove_rules(iptables, family) {
        Err(Error::Rules { .. }) if iptables.save().is_err() => Ok(false),
        outcome => outcome,
    }
}
