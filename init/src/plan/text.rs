//! The pieces rules are written from.

use ipnet::IpNet;
use remora_model::PortRange;

use super::{Family, Rule};

/// How many ports one `multiport` match takes; a range counts as two.
const MULTIPORT: usize = 15;

/// `-d NET ` (or `-s`), nothing for the whole address space, as `iptables-save` has it.
pub(super) fn network(flag: &str, net: &IpNet) -> String {
    if net.prefix_len() == 0 { String::new() } else { format!("{flag} {} ", net.trunc()) }
}

/// The inbound leg to the application, which comes before everything else; `flag` says which side of `lo` is asked.
pub(super) fn own_leg(family: Family, flag: &str) -> Vec<Rule> {
    let rule = |net| Rule::new(format!("-s {net} {flag} lo -j RETURN"), "the proxy's own leg to the application");
    family.inbound_sources().map(rule).into()
}

/// The networks of one family.
pub(super) fn of_family(nets: &[IpNet], family: Family) -> impl Iterator<Item = &IpNet> {
    nets.iter().filter(move |net| family.holds(net))
}

/// One rule per 15 ports: `-p tcp … -j TARGET`.
pub(super) fn port_rules(ports: &[PortRange], target: &str, why: &'static str) -> Vec<Rule> {
    chunks(&merged(ports))
        .into_iter()
        .map(|chunk| Rule::new(format!("-p tcp {} -j {target}", port_match(&chunk)), why))
        .collect()
}

/// The ranges sorted, overlapping and touching ones joined, so that equal choices give equal rules.
fn merged(ports: &[PortRange]) -> Vec<(u16, u16)> {
    let mut sorted: Vec<(u16, u16)> = ports.iter().map(|range| (range.first(), range.last())).collect();
    sorted.sort_unstable();
    let mut joined: Vec<(u16, u16)> = Vec::with_capacity(sorted.len());
    for (first, last) in sorted {
        match joined.last_mut() {
            Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

fn chunks(ranges: &[(u16, u16)]) -> Vec<Vec<(u16, u16)>> {
    let mut chunks: Vec<Vec<(u16, u16)>> = Vec::new();
    let mut room = 0;
    for range in ranges {
        let cost = if range.0 == range.1 { 1 } else { 2 };
        match chunks.last_mut() {
            Some(chunk) if cost <= room => chunk.push(*range),
            _ => {
                chunks.push(vec![*range]);
                room = MULTIPORT;
            }
        }
        room -= cost;
    }
    chunks
}

/// A single port or range needs no `multiport`, which some kernels lack.
fn port_match(chunk: &[(u16, u16)]) -> String {
    let port = |(first, last): &(u16, u16)| if first == last { first.to_string() } else { format!("{first}:{last}") };
    match chunk {
        [single] => format!("-m tcp --dport {}", port(single)),
        several => format!("-m multiport --dports {}", several.iter().map(port).collect::<Vec<_>>().join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(ports: &str) -> Vec<String> {
        let ports: Vec<PortRange> = ports.split(',').map(|p| p.parse().unwrap()).collect();
        port_rules(&ports, "RETURN", "").into_iter().map(|rule| rule.spec).collect()
    }

    #[test]
    fn fifteen_ports_a_rule_and_a_range_costs_two() {
        let singles: Vec<String> = (0..16).map(|n| (100 + 2 * n).to_string()).collect();
        let made = rules(&singles.join(","));
        assert_eq!(made.len(), 2);
        assert_eq!(made[1], "-p tcp -m tcp --dport 130 -j RETURN");
        let ranges: Vec<String> = (0..8).map(|n| format!("{}-{}", 100 * n + 1, 100 * n + 9)).collect();
        let made = rules(&ranges.join(","));
        assert_eq!(made.len(), 2, "seven ranges fill fourteen places, the eighth needs two");
        assert_eq!(made[1], "-p tcp -m tcp --dport 701:709 -j RETURN");
    }

    #[test]
    fn equal_choices_give_equal_rules() {
        assert_eq!(rules("80,443,81-90,85"), rules("443,80-90"));
        assert_eq!(rules("1-65535,80"), ["-p tcp -m tcp --dport 1:65535 -j RETURN"]);
    }
}
