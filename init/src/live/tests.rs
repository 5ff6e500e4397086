//! Live rules against plans, without a kernel: a plan's own text, turned into what `iptables-save` would print, is the start.

use remora_model::capture::{CaptureSpec, Interception};

use super::*;
use crate::plan::plan;

fn specs() -> Vec<CaptureSpec> {
    let mut tproxy = CaptureSpec::default();
    tproxy.inbound.mode = Interception::TPROXY;
    let mut ports = CaptureSpec::default();
    ports.outbound.exclude_ports = vec!["25".parse().unwrap(), "3306".parse().unwrap()];
    vec![CaptureSpec::default(), tproxy, ports]
}

/// What `iptables-save` prints after the plan was applied to a namespace with a rule of somebody else.
fn saved(plan: &RuleSet) -> Vec<String> {
    let mut lines = Vec::new();
    for rules in &plan.tables {
        lines.push(format!("*{}", rules.table.name()));
        lines.extend([":PREROUTING ACCEPT [0:0]".to_owned(), ":OUTPUT ACCEPT [12:720]".to_owned()]);
        lines.extend(rules.chains.iter().map(|chain| format!(":{} - [0:0]", chain.name)));
        lines.extend(rules.jumps.iter().map(|jump| format!("-A {} {}", jump.builtin, jump.rule.spec)));
        lines.push("-A OUTPUT -d 10.0.0.10/32 -j DNAT --to-destination 10.0.0.11".to_owned());
        for chain in &rules.chains {
            lines.extend(chain.rules.iter().map(|rule| format!("-A {} {}", chain.name, rule.spec)));
        }
        lines.push("COMMIT".to_owned());
    }
    lines
}

#[test]
fn equal_rules_need_no_change() {
    for spec in specs() {
        for family in Family::BOTH {
            let wanted = plan(&spec, family);
            let text = saved(&wanted).join("\n");
            assert_eq!(Live::parse(&text).differences(&wanted), []);
            let counted = text.replace("\n-A ", "\n[3:180] -A ");
            assert_eq!(Live::parse(&counted).differences(&wanted), [], "counters make no difference");
        }
    }
}

#[test]
fn each_rule_that_is_gone_is_named() {
    for spec in specs() {
        let wanted = plan(&spec, Family::V4);
        let lines = saved(&wanted);
        let ours = lines.iter().enumerate().filter(|(_, line)| line.contains("REMORA_") && line.starts_with("-A "));
        for (at, gone) in ours {
            let mut rest = lines.clone();
            rest.remove(at);
            let differences = Live::parse(&rest.join("\n")).differences(&wanted);
            let named =
                differences.iter().any(|difference| difference.to_string().contains(&format!("missing rule `{gone}`")));
            assert!(named, "{gone} is not named in {differences:?}");
            assert_eq!(differences.len(), 1, "{differences:?}");
        }
    }
}

#[test]
fn what_does_not_belong_is_found() {
    let wanted = plan(&CaptureSpec::default(), Family::V4);
    let found = |change: &dyn Fn(&str) -> String| {
        let text = saved(&wanted).join("\n");
        let changed = change(&text);
        assert_ne!(text, changed, "the test changes nothing");
        Live::parse(&changed).differences(&wanted)
    };
    let jump = "-A OUTPUT -p tcp -j REMORA_OUTPUT";
    let doubled = found(&|text| text.replace(jump, &format!("{jump}\n{jump}")));
    assert!(matches!(&doubled[..], [Difference::Unexpected { chain, .. }] if chain == "OUTPUT"), "{doubled:?}");
    let second = found(&|text| text.replace(jump, &format!("-A OUTPUT -p tcp -j ACCEPT\n{jump}")));
    assert!(matches!(&second[..], [Difference::Order { chain, .. }] if chain == "OUTPUT"), "{second:?}");
    let hole =
        found(&|text| text.replace("-A REMORA_OUTPUT -o lo", "-A REMORA_OUTPUT -j RETURN\n-A REMORA_OUTPUT -o lo"));
    assert!(matches!(&hole[..], [Difference::Unexpected { rule, .. }] if rule == "-j RETURN"), "{hole:?}");
    let stale = found(&|text| text.replace(":REMORA_OUTPUT", ":REMORA_OLD - [0:0]\n:REMORA_OUTPUT"));
    assert!(matches!(&stale[..], [Difference::Chain { chain, .. }] if chain == "REMORA_OLD"), "{stale:?}");
    let swapped = found(&|text| {
        text.replace("--uid-owner 1337 -j RETURN", "X")
            .replace("--gid-owner 1337 -j RETURN", "--uid-owner 1337 -j RETURN")
            .replace('X', "--gid-owner 1337 -j RETURN")
    });
    assert!(matches!(&swapped[..], [Difference::Order { chain, .. }] if chain == "REMORA_OUTPUT"), "{swapped:?}");
}

#[test]
fn a_transaction_replaces_our_entries_and_leaves_others() {
    let wanted = plan(&CaptureSpec::default(), Family::V4);
    let mut lines = saved(&wanted);
    lines.insert(3, "-A OUTPUT -p tcp -m tcp --dport 80 -j REMORA_OUTPUT".to_owned());
    let text = Live::parse(&lines.join("\n")).transaction(&wanted);
    for line in [
        "-D OUTPUT -p tcp -m tcp --dport 80 -j REMORA_OUTPUT",
        "-D OUTPUT -p tcp -j REMORA_OUTPUT",
        "-I OUTPUT 1 -p tcp -j REMORA_OUTPUT",
        ":REMORA_OUTPUT - [0:0]",
    ] {
        assert_eq!(text.lines().filter(|other| *other == line).count(), 1, "{line} in {text}");
    }
    assert!(!text.contains("DNAT"), "{text}");
    assert_eq!(text.matches("COMMIT").count(), 1, "one table, one commit");
}

#[test]
fn removal_takes_ours_and_nothing_else() {
    let mut spec = CaptureSpec::default();
    spec.inbound.mode = Interception::TPROXY;
    let wanted = plan(&spec, Family::V6);
    let removal = Live::parse(&saved(&wanted).join("\n")).removal(Family::V6);
    for rules in &wanted.tables {
        for chain in &rules.chains {
            assert!(removal.contains(&format!("-X {}\n", chain.name)), "{removal}");
        }
    }
    assert!(!removal.contains("DNAT") && !removal.contains("-A "), "{removal}");
    assert_eq!(Live::parse("*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j ACCEPT\nCOMMIT").removal(Family::V4), "");
}

#[test]
fn inbound_traffic_is_captured_twice_rather_than_not_at_all() {
    let redirect = plan(&CaptureSpec::default(), Family::V4);
    let mut spec = CaptureSpec::default();
    spec.inbound.mode = Interception::TPROXY;
    let tproxy = plan(&spec, Family::V4);
    let order = |from: &RuleSet, to: &RuleSet| {
        let text = Live::parse(&saved(from).join("\n")).transaction(to);
        text.lines().filter(|line| line.starts_with('*')).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(order(&redirect, &tproxy), ["*mangle", "*nat"], "mangle captures before nat lets go");
    assert_eq!(order(&tproxy, &redirect), ["*nat", "*mangle"], "nat captures before mangle lets go");
}
