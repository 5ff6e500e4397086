//! What a namespace holds already: the output of `iptables-save`, how it differs from a plan, and the one transaction that ends
//! the difference. Pure.
//!
//! A transaction refills every chain of ours and replaces our entries in the built-in chains in one commit per table, so a
//! packet meets either the old rules or the new ones, never a part.

mod canonical;

use std::collections::BTreeMap;
use std::fmt;

use crate::plan::{Chain, Family, PREFIX, RuleSet, Table, TableRules};
use canonical::canonical;

/// The chains of one namespace, family and backend, with their rules in `iptables-save`'s words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    tables: BTreeMap<String, BTreeMap<String, Vec<String>>>,
}

/// One way in which live rules differ from the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A rule of the plan is not there.
    Missing {
        /// The table.
        table: Table,
        /// The chain, ours or built-in.
        chain: String,
        /// The rule.
        rule: String,
        /// What it is for.
        why: &'static str,
    },
    /// A rule in a chain of ours, or an entry to one, that the plan does not have.
    Unexpected {
        /// The table.
        table: Table,
        /// The chain, ours or built-in.
        chain: String,
        /// The rule.
        rule: String,
    },
    /// The rules are there, in another order; or our entry is not the first of its built-in chain.
    Order {
        /// The table.
        table: Table,
        /// The chain, ours or built-in.
        chain: String,
    },
    /// A chain with our prefix that the plan does not have.
    Chain {
        /// The table.
        table: Table,
        /// The chain.
        chain: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { table, chain, rule, why } => {
                write!(f, "{}: missing rule `-A {chain} {rule}` ({why})", table.name())
            }
            Self::Unexpected { table, chain, rule } => {
                write!(f, "{}: unexpected rule `-A {chain} {rule}`", table.name())
            }
            Self::Order { table, chain } => write!(f, "{}: the rules of {chain} are not in order", table.name()),
            Self::Chain { table, chain } => write!(f, "{}: unexpected chain {chain}", table.name()),
        }
    }
}

impl Live {
    /// Reads what `iptables-save` printed; lines that are not understood are none of ours.
    #[must_use]
    pub fn parse(saved: &str) -> Self {
        let mut tables: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
        let mut table = String::new();
        for line in saved.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('*') {
                table = name.to_owned();
                tables.entry(table.clone()).or_default();
            } else if let Some(chain) = line.strip_prefix(':') {
                let chain = chain.split_whitespace().next().unwrap_or_default();
                tables.entry(table.clone()).or_default().entry(chain.to_owned()).or_default();
            } else if let Some((chain, rule)) = rule_line(line) {
                let chains = tables.entry(table.clone()).or_default();
                chains.entry(chain.to_owned()).or_default().push(rule.to_owned());
            }
        }
        Self { tables }
    }

    /// Whether any chain of ours is there.
    #[must_use]
    pub fn has_ours(&self) -> bool {
        self.tables.values().any(|chains| chains.keys().any(|name| name.starts_with(PREFIX)))
    }

    /// Whether there is any rule at all.
    #[must_use]
    pub fn has_rules(&self) -> bool {
        self.tables.values().any(|chains| chains.values().any(|rules| !rules.is_empty()))
    }

    fn chain(&self, table: Table, chain: &str) -> Option<&Vec<String>> {
        self.tables.get(table.name())?.get(chain)
    }

    /// Our chains in a table.
    fn ours(&self, table: Table) -> impl Iterator<Item = &String> {
        self.tables.get(table.name()).into_iter().flat_map(BTreeMap::keys).filter(|name| name.starts_with(PREFIX))
    }

    /// Rules elsewhere in a table that lead to a chain of ours, with the chain they stand in.
    fn entries(&self, table: Table) -> impl Iterator<Item = (&String, &String)> {
        let foreign = self.tables.get(table.name()).into_iter().flatten().filter(|(name, _)| !name.starts_with(PREFIX));
        foreign
            .flat_map(|(name, rules)| rules.iter().map(move |rule| (name, rule)))
            .filter(|(_, rule)| leads_to_us(rule))
    }

    /// How this differs from `plan`; empty when nothing needs to change.
    #[must_use]
    pub fn differences(&self, plan: &RuleSet) -> Vec<Difference> {
        let mut found = Vec::new();
        for table in Table::BOTH {
            let empty = TableRules { table, chains: Vec::new(), jumps: Vec::new() };
            let wanted = plan.table(table).unwrap_or(&empty);
            for chain in &wanted.chains {
                self.compare_chain(table, chain, &mut found);
            }
            for name in self.ours(table).filter(|name| !wanted.chains.iter().any(|chain| chain.name == *name)) {
                found.push(Difference::Chain { table, chain: name.clone() });
            }
            self.compare_entries(wanted, &mut found);
        }
        found
    }

    fn compare_chain(&self, table: Table, wanted: &Chain, found: &mut Vec<Difference>) {
        let chain = wanted.name.to_owned();
        let rules = self.chain(table, wanted.name).map_or(&[][..], Vec::as_slice);
        let before = found.len();
        let mut rest: Vec<String> = rules.iter().map(|rule| canonical(rule)).collect();
        let same = rest.iter().eq(wanted.rules.iter().map(|rule| canonical(&rule.spec)).collect::<Vec<_>>().iter());
        for rule in &wanted.rules {
            match rest.iter().position(|live| *live == canonical(&rule.spec)) {
                Some(at) => drop(rest.remove(at)),
                None => found.push(Difference::Missing {
                    table,
                    chain: chain.clone(),
                    rule: rule.spec.clone(),
                    why: rule.why,
                }),
            }
        }
        found.extend(rest.into_iter().map(|rule| Difference::Unexpected { table, chain: chain.clone(), rule }));
        if found.len() == before && !same {
            found.push(Difference::Order { table, chain });
        }
    }

    fn compare_entries(&self, wanted: &TableRules, found: &mut Vec<Difference>) {
        let table = wanted.table;
        for jump in &wanted.jumps {
            let spec = canonical(&jump.rule.spec);
            let rules = self.chain(table, jump.builtin);
            let chain = jump.builtin.to_owned();
            if !rules.is_some_and(|rules| rules.iter().any(|rule| canonical(rule) == spec)) {
                found.push(Difference::Missing { table, chain, rule: jump.rule.spec.clone(), why: jump.rule.why });
            } else if rules.and_then(|rules| rules.first()).is_none_or(|first| canonical(first) != spec) {
                found.push(Difference::Order { table, chain });
            }
        }
        let mut seen = Vec::new();
        for (chain, rule) in self.entries(table) {
            let entry = (chain.as_str(), canonical(rule));
            let wanted =
                wanted.jumps.iter().any(|jump| jump.builtin == entry.0 && canonical(&jump.rule.spec) == entry.1);
            if !wanted || seen.contains(&entry) {
                found.push(Difference::Unexpected { table, chain: chain.clone(), rule: rule.clone() });
            }
            seen.push(entry);
        }
    }

    /// The input for `iptables-restore --noflush` that makes this namespace equal to `plan`.
    ///
    /// When mangle's part ends (TPROXY given up), nat goes first, otherwise mangle: in between, inbound traffic is captured
    /// twice rather than not at all.
    #[must_use]
    pub fn transaction(&self, plan: &RuleSet) -> String {
        let mut order = Table::BOTH;
        if plan.table(Table::Mangle).is_none() {
            order.reverse();
        }
        let mut text = String::new();
        for table in order {
            let empty = TableRules { table, chains: Vec::new(), jumps: Vec::new() };
            let wanted = plan.table(table).unwrap_or(&empty);
            self.table_transaction(wanted, &mut text);
        }
        text
    }

    /// The input that removes every chain of ours and every entry to one; empty when there is nothing.
    #[must_use]
    pub fn removal(&self, family: Family) -> String {
        self.transaction(&RuleSet { family, tables: Vec::new() })
    }

    fn table_transaction(&self, wanted: &TableRules, text: &mut String) {
        let table = wanted.table;
        let stale: Vec<&String> =
            self.ours(table).filter(|name| !wanted.chains.iter().any(|chain| chain.name == *name)).collect();
        if wanted.chains.is_empty() && stale.is_empty() && self.entries(table).next().is_none() {
            return;
        }
        let mut lines = vec![format!("*{}", table.name())];
        // Declaring a chain empties it, within the transaction.
        lines.extend(wanted.chains.iter().map(|chain| format!(":{} - [0:0]", chain.name)));
        lines.extend(self.entries(table).map(|(chain, rule)| format!("-D {chain} {rule}")));
        for chain in &wanted.chains {
            lines.extend(chain.rules.iter().map(|rule| format!("-A {} {}", chain.name, rule.spec)));
        }
        lines.extend(wanted.jumps.iter().map(|jump| format!("-I {} 1 {}", jump.builtin, jump.rule.spec)));
        lines.extend(stale.iter().map(|name| format!("-F {name}")));
        lines.extend(stale.iter().map(|name| format!("-X {name}")));
        lines.push("COMMIT".to_owned());
        text.push_str(&lines.join("\n"));
        text.push('\n');
    }
}

/// `-A CHAIN RULE`, with counters before it or not.
fn rule_line(line: &str) -> Option<(&str, &str)> {
    let line = if line.starts_with('[') { line.split_once(']')?.1.trim_start() } else { line };
    let rest = line.strip_prefix("-A ")?;
    Some(rest.split_once(' ').unwrap_or((rest, "")))
}

fn leads_to_us(rule: &str) -> bool {
    let mut words = rule.split_whitespace();
    words.any(|word| word == "-j" || word == "-g") && words.next().is_some_and(|target| target.starts_with(PREFIX))
}

#[cfg(test)]
mod tests;
