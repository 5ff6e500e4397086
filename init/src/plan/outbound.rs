//! What leaves the pod.

use ipnet::IpNet;
use remora_model::capture::{CaptureSpec, Destinations, Interception};

use super::text::{network, of_family, own_leg, port_rules};
use super::{Chain, Family, Jump, Rule, TableRules};

/// Outbound by REDIRECT, in nat, whatever the inbound mode.
pub(super) fn outbound(spec: &CaptureSpec, family: Family, nat: &mut TableRules) {
    let mut rules = untouched(spec, family);
    rules.extend(owners(spec, family));
    rules.extend(destinations(spec, family));
    nat.chains.push(Chain { name: "REMORA_OUTPUT", rules });
    let to_proxy = format!("-p tcp -j REDIRECT --to-ports {}", spec.outbound.proxy_port);
    let to_proxy = Rule::new(to_proxy, "to the proxy's outbound listener");
    nat.chains.push(Chain { name: "REMORA_OUT_REDIRECT", rules: vec![to_proxy] });
    let why = "every TCP connection that a process of the pod opens";
    nat.jumps.push(Jump { builtin: "OUTPUT", rule: Rule::new("-p tcp -j REMORA_OUTPUT", why) });
}

/// What comes before everything else: the inbound leg, interfaces, ports.
fn untouched(spec: &CaptureSpec, family: Family) -> Vec<Rule> {
    let mut rules = own_leg(family, "-o");
    for interface in &spec.exclude_interfaces {
        rules.push(Rule::new(format!("-o {interface} -j RETURN"), "excluded interface"));
    }
    rules.extend(port_rules(&spec.outbound.exclude_ports, "RETURN", "excluded outbound ports"));
    rules
}

/// Who is exempt: the proxy, except when it calls its own pod, and excluded users.
fn owners(spec: &CaptureSpec, family: Family) -> Vec<Rule> {
    let uids = |uids: &[u32]| uids.iter().map(|uid| format!("-m owner --uid-owner {uid}")).collect::<Vec<_>>();
    let gids = |gids: &[u32]| gids.iter().map(|gid| format!("-m owner --gid-owner {gid}")).collect::<Vec<_>>();
    let proxy = [uids(&spec.proxy_uids), gids(&spec.proxy_gids)].concat();
    let others = [uids(&spec.outbound.exclude_uids), gids(&spec.outbound.exclude_gids)].concat();
    let mut rules = Vec::new();
    // With TPROXY, marks made in mangle do this: the destination must not be rewritten there.
    if spec.inbound.mode == Interception::Redirect {
        for owner in &proxy {
            rules.push(Rule::new(
                format!("! -d {} -o lo -p tcp {owner} -j REMORA_INBOUND", family.loopback()),
                "the pod's call to itself by a service address is inbound traffic",
            ));
        }
    }
    rules.extend(proxy.iter().map(|owner| Rule::new(format!("{owner} -j RETURN"), "the proxy's own connections")));
    rules.extend(others.iter().map(|owner| Rule::new(format!("{owner} -j RETURN"), "excluded user or group")));
    rules
}

/// Where to: excluded networks, loopback, then what is included.
fn destinations(spec: &CaptureSpec, family: Family) -> Vec<Rule> {
    let outbound = &spec.outbound;
    let excluded = of_family(&outbound.exclude_cidrs, family);
    let mut rules: Vec<Rule> =
        excluded.map(|net| Rule::new(format!("{}-j RETURN", network("-d", net)), "excluded networks")).collect();
    let (cidrs, ports) = match &outbound.include {
        Destinations::All => (None, &[][..]),
        Destinations::Only { cidrs, ports } => (Some(of_family(cidrs, family).collect::<Vec<_>>()), &ports[..]),
    };
    let (loopback, elsewhere): (Vec<&IpNet>, Vec<&IpNet>) =
        cidrs.iter().flatten().copied().partition(|net| net.prefix_len() > 0 && net.network().is_loopback());
    let host = if family == Family::V4 { "127.0.0.1/32" } else { "::1/128" };
    if !loopback.is_empty() {
        rules.push(Rule::new(format!("-d {host} -j RETURN"), "localhost itself is never captured"));
    }
    for net in loopback {
        rules.push(include(net));
    }
    rules.push(Rule::new("-o lo -j RETURN", "calls within the pod, by localhost or by its own address"));
    rules.extend(port_rules(ports, "REMORA_OUT_REDIRECT", "included outbound ports"));
    match cidrs {
        None => rules.push(Rule::new("-p tcp -j REMORA_OUT_REDIRECT", "every other destination is captured")),
        Some(_) => rules.extend(elsewhere.into_iter().map(include)),
    }
    rules
}

fn include(net: &IpNet) -> Rule {
    Rule::new(format!("{}-p tcp -j REMORA_OUT_REDIRECT", network("-d", net)), "included networks")
}
