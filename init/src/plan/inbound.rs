//! What comes to the pod.

use remora_model::PortRange;
use remora_model::capture::{CaptureSpec, Destinations, OWN_PORTS, Ports, TPROXY_LEG_MARK};

use super::text::{network, of_family, own_leg, port_rules};
use super::{Chain, Family, Jump, Rule, TableRules};

/// Inbound by REDIRECT, in nat.
pub(super) fn redirect(spec: &CaptureSpec, family: Family, nat: &mut TableRules) {
    let mut entry = exempt(spec, family);
    entry.extend(virtual_rules(spec, family));
    entry.push(Rule::new("-j REMORA_INBOUND", "everything else is inbound traffic"));
    nat.chains.push(Chain { name: "REMORA_PREROUTING", rules: entry });
    nat.chains.push(ports(spec, "REMORA_IN_REDIRECT"));
    let to_proxy = format!("-p tcp -j REDIRECT --to-ports {}", spec.inbound.proxy_port);
    let to_proxy = Rule::new(to_proxy, "to the proxy's inbound listener");
    nat.chains.push(Chain { name: "REMORA_IN_REDIRECT", rules: vec![to_proxy] });
    nat.jumps.push(prerouting());
}

/// Inbound by TPROXY, in mangle.
pub(super) fn tproxy(spec: &CaptureSpec, family: Family, mark: u32, mangle: &mut TableRules) {
    let own_call = mark.wrapping_add(1);
    let mut entry = own_leg(family, "-i");
    entry.extend([
        Rule::new(
            format!("-i lo -m mark ! --mark {own_call:#x} -j RETURN"),
            "on loopback, only calls to the pod itself that the proxy made",
        ),
        Rule::new("-m conntrack --ctdir REPLY -j RETURN", "answers to connections that the pod opened"),
    ]);
    entry.extend(exempt(spec, family));
    for interface in &spec.virtual_interfaces {
        entry.push(Rule::new(format!("-i {interface} -j RETURN"), "traffic of a virtual machine is outbound, in nat"));
    }
    entry.push(Rule::new("-j REMORA_INBOUND", "everything else is inbound traffic"));
    let assign = format!(
        "-p tcp -j TPROXY --on-port {} --on-ip {} --tproxy-mark {mark:#x}/0xffffffff",
        spec.inbound.proxy_port,
        family.any()
    );
    mangle.chains.push(Chain { name: "REMORA_PREROUTING", rules: entry });
    mangle.chains.push(ports(spec, "REMORA_TPROXY"));
    let assign = Rule::new(assign, "to the proxy's inbound listener, the addresses as they are");
    mangle.chains.push(Chain { name: "REMORA_TPROXY", rules: vec![assign] });
    let mut output = own_leg(family, "-o");
    output.extend(own_leg_as_client(mark));
    output.extend(mark_own_calls(spec, family, own_call));
    mangle.chains.push(Chain { name: "REMORA_OUTPUT", rules: output });
    mangle.jumps.push(prerouting());
    let why = "every TCP packet that leaves a process of the pod";
    mangle.jumps.push(Jump { builtin: "OUTPUT", rule: Rule::new("-p tcp -j REMORA_OUTPUT", why) });
}

/// With TPROXY, nat's PREROUTING serves virtual machines only.
pub(super) fn virtual_only(spec: &CaptureSpec, family: Family, nat: &mut TableRules) {
    let rules = virtual_rules(spec, family);
    if !rules.is_empty() {
        nat.chains.push(Chain { name: "REMORA_PREROUTING", rules });
        nat.jumps.push(prerouting());
    }
}

fn prerouting() -> Jump {
    let why = "every TCP packet that comes to the pod";
    Jump { builtin: "PREROUTING", rule: Rule::new("-p tcp -j REMORA_PREROUTING", why) }
}

fn exempt(spec: &CaptureSpec, family: Family) -> Vec<Rule> {
    let interfaces = spec.exclude_interfaces.iter();
    let interfaces = interfaces.map(|name| Rule::new(format!("-i {name} -j RETURN"), "excluded interface"));
    let sources = of_family(&spec.inbound.exclude_sources, family);
    let sources = sources.map(|net| Rule::new(format!("{}-j RETURN", network("-s", net)), "excluded clients"));
    interfaces.chain(sources).collect()
}

/// What a virtual machine sends is outbound traffic that passes PREROUTING.
fn virtual_rules(spec: &CaptureSpec, family: Family) -> Vec<Rule> {
    let mut rules = Vec::new();
    for interface in &spec.virtual_interfaces {
        let mut capture = |destination: &str| {
            let why = "a virtual machine's traffic is outbound";
            rules.push(Rule::new(format!("{destination}-i {interface} -p tcp -j REMORA_OUT_REDIRECT"), why));
        };
        match &spec.outbound.include {
            Destinations::All => capture(""),
            Destinations::Only { cidrs, .. } => {
                of_family(cidrs, family).for_each(|net| capture(&network("-d", net)));
            }
        }
        rules.push(Rule::new(format!("-i {interface} -j RETURN"), "a virtual machine's traffic is never inbound"));
    }
    rules
}

/// Which ports are captured; also asked for the pod's calls to itself.
fn ports(spec: &CaptureSpec, target: &'static str) -> Chain {
    let own = OWN_PORTS.into_iter().chain([spec.inbound.proxy_port, spec.outbound.proxy_port]);
    let own: Vec<PortRange> = own.filter_map(|port| PortRange::new(port, port).ok()).collect();
    let mut rules = port_rules(&own, "RETURN", "the proxy's own ports are never captured");
    rules.extend(port_rules(&spec.inbound.exclude_ports, "RETURN", "excluded inbound ports"));
    match &spec.inbound.include_ports {
        Ports::All => rules.push(Rule::new(format!("-p tcp -j {target}"), "every other port is captured")),
        Ports::Only(ports) => rules.extend(port_rules(ports, target, "included inbound ports")),
    }
    Chain { name: "REMORA_INBOUND", rules }
}

/// The proxy's leg to the application under the client's address: what answers it would leave for the client otherwise.
fn own_leg_as_client(mark: u32) -> [Rule; 3] {
    let leg = format!("{TPROXY_LEG_MARK:#x}");
    [
        Rule::new(
            format!("-o lo -m mark --mark {leg} -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff"),
            "the proxy's own leg to the application, under the client's address",
        ),
        Rule::new(format!("-o lo -m mark --mark {leg} -j RETURN"), "it passes"),
        Rule::new(
            format!("-m connmark --mark {leg} -j MARK --set-xmark {mark:#x}/0xffffffff"),
            "what the application answers to it comes back to the proxy",
        ),
    ]
}

/// The proxy's calls to an address of its own pod travel over loopback; marked, they are inbound there.
fn mark_own_calls(spec: &CaptureSpec, family: Family, mark: u32) -> Vec<Rule> {
    let mut rules = port_rules(&spec.outbound.exclude_ports, "RETURN", "excluded outbound ports");
    let owners = spec.proxy_uids.iter().map(|uid| format!("--uid-owner {uid}"));
    for owner in owners.chain(spec.proxy_gids.iter().map(|gid| format!("--gid-owner {gid}"))) {
        rules.push(Rule::new(
            format!(
                "! -d {} -o lo -p tcp -m owner {owner} -m conntrack --ctdir ORIGINAL -j MARK --set-xmark {mark:#x}/0xffffffff",
                family.loopback()
            ),
            "the pod's call to itself by a service address is inbound traffic",
        ));
    }
    rules
}
