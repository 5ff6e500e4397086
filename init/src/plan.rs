//! Which rules redirect a pod: [`CaptureSpec`] in, a [`RuleSet`] per address family out. Pure.
//!
//! A rule set is written exactly as `iptables-save` prints it, so that what is live can be compared with what is wanted, and
//! every rule knows why it is there. Invariant: a chain of ours begins with [`PREFIX`], nothing else does.
//!
//! ```text
//! nat OUTPUT      -> REMORA_OUTPUT      -> REMORA_INBOUND (the pod's call to itself) | REMORA_OUT_REDIRECT
//! nat PREROUTING  -> REMORA_PREROUTING  -> REMORA_INBOUND -> REMORA_IN_REDIRECT
//! mangle, in their place for inbound traffic when TPROXY is chosen:
//! PREROUTING      -> REMORA_PREROUTING  -> REMORA_INBOUND -> REMORA_TPROXY
//! OUTPUT          -> REMORA_OUTPUT (marks the pod's calls to itself)
//! ```

mod inbound;
mod outbound;
mod text;

use ipnet::IpNet;
use remora_model::capture::{CaptureSpec, INBOUND_SOURCE_NETS_V4, INBOUND_SOURCE_NETS_V6, Interception};
use std::fmt;

/// What every chain of ours begins with.
pub const PREFIX: &str = "REMORA_";

/// An address family, each with rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4, `iptables`.
    V4,
    /// IPv6, `ip6tables`.
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// Whether a network belongs to this family.
    #[must_use]
    pub fn holds(self, net: &IpNet) -> bool {
        matches!((self, net), (Self::V4, IpNet::V4(_)) | (Self::V6, IpNet::V6(_)))
    }

    /// The networks from which the inbound leg dials the application.
    #[must_use]
    pub fn inbound_sources(self) -> [IpNet; 2] {
        match self {
            Self::V4 => INBOUND_SOURCE_NETS_V4.map(IpNet::V4),
            Self::V6 => INBOUND_SOURCE_NETS_V6.map(IpNet::V6),
        }
    }

    fn loopback(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.0/8",
            Self::V6 => "::1/128",
        }
    }

    fn any(self) -> &'static str {
        match self {
            Self::V4 => "0.0.0.0",
            Self::V6 => "::",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A netfilter table that holds rules of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Marks and TPROXY.
    Mangle,
    /// REDIRECT.
    Nat,
}

impl Table {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Mangle, Self::Nat];

    /// Its name to iptables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mangle => "mangle",
            Self::Nat => "nat",
        }
    }
}

/// One rule: what follows `-A CHAIN`, and the reason it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Matches and target, as `iptables-save` prints them.
    pub spec: String,
    /// Why, for people.
    pub why: &'static str,
}

impl Rule {
    fn new(spec: impl Into<String>, why: &'static str) -> Self {
        Self { spec: spec.into(), why }
    }
}

/// A chain of ours and its rules, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name, beginning with [`PREFIX`].
    pub name: &'static str,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// The first rule of a built-in chain, which leads to a chain of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    /// `PREROUTING` or `OUTPUT`.
    pub builtin: &'static str,
    /// The rule.
    pub rule: Rule,
}

/// What one table holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRules {
    /// Which table.
    pub table: Table,
    /// Our chains.
    pub chains: Vec<Chain>,
    /// Our entries in the built-in chains, at most one in each.
    pub jumps: Vec<Jump>,
}

/// All rules of one family. `Display` prints them for `iptables-restore --noflush`, with the reasons as comments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSet {
    /// The family.
    pub family: Family,
    /// The tables that hold something, mangle first.
    pub tables: Vec<TableRules>,
}

impl RuleSet {
    /// The rules of one table, if it has any.
    #[must_use]
    pub fn table(&self, table: Table) -> Option<&TableRules> {
        self.tables.iter().find(|rules| rules.table == table)
    }
}

/// The rules that give `spec` its effect on `family`.
#[must_use]
pub fn plan(spec: &CaptureSpec, family: Family) -> RuleSet {
    let mut nat = TableRules { table: Table::Nat, chains: Vec::new(), jumps: Vec::new() };
    let mut tables = Vec::new();
    match spec.inbound.mode {
        Interception::Redirect => inbound::redirect(spec, family, &mut nat),
        Interception::Tproxy { mark, .. } => {
            let mut mangle = TableRules { table: Table::Mangle, chains: Vec::new(), jumps: Vec::new() };
            inbound::tproxy(spec, family, mark, &mut mangle);
            inbound::virtual_only(spec, family, &mut nat);
            tables.push(mangle);
        }
    }
    outbound::outbound(spec, family, &mut nat);
    tables.push(nat);
    RuleSet { family, tables }
}

impl fmt::Display for RuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rules in &self.tables {
            writeln!(f, "*{}", rules.table.name())?;
            for chain in &rules.chains {
                writeln!(f, ":{} - [0:0]", chain.name)?;
            }
            for chain in &rules.chains {
                for rule in &chain.rules {
                    writeln!(f, "# {}\n-A {} {}", rule.why, chain.name, rule.spec)?;
                }
            }
            for jump in &rules.jumps {
                writeln!(f, "# {}\n-I {} 1 {}", jump.rule.why, jump.builtin, jump.rule.spec)?;
            }
            writeln!(f, "COMMIT")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use remora_model::capture::Ports;

    use super::*;

    fn position(rules: &RuleSet, table: Table, chain: &str, part: &str) -> usize {
        let chain = rules.table(table).unwrap().chains.iter().find(|c| c.name == chain).unwrap();
        chain.rules.iter().position(|rule| rule.spec.contains(part)).unwrap_or_else(|| panic!("no {part} in {chain:?}"))
    }

    #[test]
    fn excluded_ports_come_before_the_call_to_itself_and_networks_before_what_is_included() {
        let mut spec = CaptureSpec::default();
        spec.outbound.exclude_ports = vec!["25".parse().unwrap()];
        spec.outbound.exclude_cidrs = vec!["10.0.0.0/8".parse().unwrap()];
        let rules = plan(&spec, Family::V4);
        let at = |part| position(&rules, Table::Nat, "REMORA_OUTPUT", part);
        assert_eq!(at("127.0.0.6"), 0);
        let order = ["--dport 25", "-j REMORA_INBOUND", "owner --uid-owner 1337 -j RETURN", "10.0.0.0/8"];
        let places: Vec<usize> = order.into_iter().chain(["-j REMORA_OUT_REDIRECT"]).map(at).collect();
        assert!(places.is_sorted(), "{places:?}");
    }

    #[test]
    fn the_proxys_ports_return_even_when_included() {
        let mut spec = CaptureSpec::default();
        spec.inbound.include_ports = Ports::Only(vec!["15000-15100".parse().unwrap()]);
        spec.inbound.proxy_port = 15050;
        let rules = plan(&spec, Family::V6);
        assert_eq!(position(&rules, Table::Nat, "REMORA_INBOUND", "15020:15021,15050 -j RETURN"), 0);
    }

    #[test]
    fn every_chain_is_ours_and_every_jump_leads_to_one() {
        for mode in [Interception::Redirect, Interception::TPROXY] {
            let mut spec = CaptureSpec::default();
            spec.inbound.mode = mode;
            for family in Family::BOTH {
                for table in plan(&spec, family).tables {
                    assert!(table.chains.iter().all(|chain| chain.name.starts_with(PREFIX)));
                    assert!(
                        table.jumps.iter().all(|jump| table.chains.iter().any(|c| jump.rule.spec.ends_with(c.name)))
                    );
                }
            }
        }
    }
}
