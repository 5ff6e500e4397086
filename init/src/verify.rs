//! Proves that redirection works: by comparing what is live with the plan, rule by rule, and by connecting.
//!
//! Three connections per family: *outbound*, to an address that nobody has; *inbound*, from a neighbour on a wire made for the
//! moment, which passes PREROUTING like any client's (needs SYS_ADMIN); and the pod's *call to itself*, as the proxy's user
//! (needs SETUID or SETGID). Where the proxy does not listen yet, the probes do, and ask for the original destination. What
//! could not be tried is said, and is no proof.

mod probe;
mod target;

use std::fmt;

use remora_model::capture::CaptureSpec;

use crate::apply::delivery;
use crate::backend::{Chosen, Iptables, choose, other};
use crate::error::Problems;
use crate::netlink::{self, Ipv6Use};
use crate::plan::{Family, plan};
use crate::{Error, Ipv6, Options, lock};

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// As it should be.
    Good(String),
    /// Missing or wrong.
    Problem(String),
    /// Not looked at, and why.
    Untried(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good(text) => write!(f, "ok       {text}"),
            Self::Problem(text) => write!(f, "PROBLEM  {text}"),
            Self::Untried(text) => write!(f, "untried  {text}"),
        }
    }
}

impl Report {
    /// The findings, in order.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// An error if anything is missing or wrong.
    ///
    /// # Errors
    /// [`Error::Incomplete`].
    pub fn into_result(self) -> Result<(), Error> {
        match self.findings.iter().filter(|finding| matches!(finding, Finding::Problem(_))).count() {
            0 => Ok(()),
            count => Err(Error::Incomplete(Problems(count))),
        }
    }

    fn good(&mut self, text: impl Into<String>) {
        self.findings.push(Finding::Good(text.into()));
    }

    fn problem(&mut self, text: impl Into<String>) {
        self.findings.push(Finding::Problem(text.into()));
    }

    fn untried(&mut self, text: impl Into<String>) {
        self.findings.push(Finding::Untried(text.into()));
    }
}

/// Checks that this network namespace is redirected as `spec` says.
///
/// # Errors
/// What kept it from looking; what it found is in the report.
pub fn verify(spec: &CaptureSpec, options: &Options) -> Result<Report, Error> {
    let _lock = lock::take(options.wait)?;
    let Chosen { v4, .. } = choose(options)?;
    let backend = v4.backend();
    let mut report = Report::default();
    rules(&mut report, spec, Family::V4, &v4)?;
    let ipv6 = netlink::ipv6_use();
    let with_ipv6 = options.ipv6 != Ipv6::Off && (ipv6 != Ipv6Use::Off || options.ipv6 == Ipv6::On);
    if with_ipv6 {
        match Iptables::find(backend, Family::V6, options) {
            Ok(v6) => rules(&mut report, spec, Family::V6, &v6)?,
            Err(error) if matches!(ipv6, Ipv6Use::Reachable(_)) => report.problem(format!("IPv6: {error}")),
            Err(error) => report.untried(format!("IPv6: {error}; no address could be reached by it")),
        }
    } else {
        report.untried("IPv6: off");
    }
    for (family, iptables) in other(backend, options) {
        if iptables.save().is_ok_and(|live| live.has_ours()) {
            report.problem(format!("{family}: {} holds rules of ours too", iptables.backend()));
        }
    }
    probe::probe(&mut report, spec, Family::V4);
    if with_ipv6 && matches!(ipv6, Ipv6Use::Reachable(_)) {
        probe::probe(&mut report, spec, Family::V6);
    }
    Ok(report)
}

/// Only connects, as far as this process may, and looks at no rules: for where there is no iptables, or no right to use it.
#[must_use]
pub fn connect(spec: &CaptureSpec, options: &Options) -> Report {
    let mut report = Report::default();
    probe::probe(&mut report, spec, Family::V4);
    if options.ipv6 != Ipv6::Off && matches!(netlink::ipv6_use(), Ipv6Use::Reachable(_)) {
        probe::probe(&mut report, spec, Family::V6);
    }
    report
}

fn rules(report: &mut Report, spec: &CaptureSpec, family: Family, iptables: &Iptables) -> Result<(), Error> {
    let wanted = plan(spec, family);
    let differences = iptables.save()?.differences(&wanted);
    if differences.is_empty() {
        let count: usize = wanted.tables.iter().flat_map(|table| &table.chains).map(|chain| chain.rules.len()).sum();
        let entries: usize = wanted.tables.iter().map(|table| table.jumps.len()).sum();
        report.good(format!("{family} rules: all {} in place ({})", count + entries, iptables.backend()));
    }
    for difference in differences {
        report.problem(format!("{family} {difference}"));
    }
    if family == Family::V6 && netlink::ipv6_use() != Ipv6Use::Off {
        match netlink::missing_inbound_source()? {
            None => report.good("IPv6 addresses ::6 to ::f on lo"),
            Some(address) => {
                report
                    .problem(format!("IPv6: missing address {address}/128 on lo (the proxy's leg to the application)"));
            }
        }
    }
    routing(report, spec, family)
}

fn routing(report: &mut Report, spec: &CaptureSpec, family: Family) -> Result<(), Error> {
    let there = netlink::deliveries(family)?;
    match delivery(spec) {
        None if there == netlink::Deliveries::default() => {}
        None => report.problem(format!("{family}: routing for TPROXY is left over")),
        Some(wanted) => {
            let (mark, table) = (wanted.mark, wanted.table);
            if there.rules.contains(&wanted) {
                report.good(format!("{family} routing rule for mark {mark:#x}"));
            } else {
                report.problem(format!("{family}: missing routing rule `fwmark {mark:#x} lookup {table}`"));
            }
            if there.routes.contains(&table) {
                report.good(format!("{family} local route in table {table}"));
            } else {
                report.problem(format!("{family}: missing route `local default dev lo table {table}`"));
            }
        }
    }
    Ok(())
}
