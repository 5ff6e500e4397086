//! `verify` proves by connecting, and names what is missing.

use crate::pod::{World, init, iptables, ready, saved};

#[test]
fn three_connections_prove_each_family() {
    if !ready() {
        return;
    }
    for mode in ["redirect", "tproxy"] {
        let world = World::new();
        init(&world.pod, &["--inbound-mode", mode]).succeeded();
        let verified = init(&world.pod, &["verify", "--inbound-mode", mode]).succeeded();
        for family in ["IPv4", "IPv6"] {
            for what in ["outbound", "inbound", "call to itself"] {
                let start = format!("ok       {family} {what}: a connection to ");
                assert!(verified.stdout.lines().any(|line| line.starts_with(&start)), "{start}: {verified:?}");
            }
        }
        let links = world.pod.output("ip", &["-br", "link"]).unwrap();
        let links = String::from_utf8_lossy(&links.stdout).into_owned();
        assert!(!links.contains("remora"), "the neighbour is gone: {links}");
        let links = world.pod.output("ip", &["-br", "addr", "show", "lo"]).unwrap();
        assert!(String::from_utf8_lossy(&links.stdout).contains("::6/128"));
    }
}

#[test]
fn each_deleted_rule_is_named() {
    if !ready() {
        return;
    }
    for (backend, mode) in [("nft", "redirect"), ("legacy", "tproxy")] {
        let world = World::new();
        let flags = ["--backend", backend, "--inbound-mode", mode, "--exclude-outbound-ports", "25"];
        init(&world.pod, &flags).succeeded();
        let ours =
            saved(&world.pod, backend).into_iter().filter(|line| line.contains(" -A ") && line.contains("REMORA_"));
        let ours: Vec<String> = ours.collect();
        assert!(ours.len() >= 28, "{ours:?}");
        for line in ours {
            let (family, rest) = line.split_once(' ').unwrap();
            let (table, rule) = rest.split_once(' ').unwrap();
            let words: Vec<&str> = rule.split_whitespace().skip(1).collect();
            iptables(&world.pod, backend, family == "ip6tables", &[&["-t", table, "-D"], &words[..]].concat());
            let verified = init(&world.pod, &[&["verify"], &flags[..]].concat());
            assert_eq!(verified.code, Some(7), "{line}: {verified:?}");
            let family = if family == "iptables" { "IPv4" } else { "IPv6" };
            let named = format!("PROBLEM  {family} {table}: missing rule `{rule}`");
            assert!(verified.stdout.contains(&named), "{named}: {verified:?}");
            let repaired = init(&world.pod, &flags).succeeded();
            assert!(repaired.stdout.contains(&format!("{family}: 1 difference repaired")), "{line}: {repaired:?}");
        }
    }
}

#[test]
fn missing_addresses_and_routes_are_named_and_repaired() {
    if !ready() {
        return;
    }
    let world = World::new();
    let flags = ["--inbound-mode", "tproxy"];
    init(&world.pod, &flags).succeeded();
    for (command, named) in [
        ("addr del ::6/128 dev lo", "IPv6: missing address ::6/128 on lo"),
        ("rule del fwmark 1337 lookup 133", "IPv4: missing routing rule `fwmark 0x539 lookup 133`"),
        ("-6 rule del fwmark 1337 lookup 133", "IPv6: missing routing rule `fwmark 0x539 lookup 133`"),
        ("route flush table 133", "IPv4: missing route `local default dev lo table 133`"),
        ("-6 route flush table 133", "IPv6: missing route `local default dev lo table 133`"),
    ] {
        let output = world.pod.output("ip", &command.split(' ').collect::<Vec<_>>()).unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        let verified = init(&world.pod, &["verify", "--inbound-mode", "tproxy"]);
        assert_eq!(verified.code, Some(7), "{command}: {verified:?}");
        assert!(verified.stdout.contains(named), "{command}: {verified:?}");
        init(&world.pod, &flags).succeeded();
        init(&world.pod, &["verify", "--inbound-mode", "tproxy"]).succeeded();
    }
}

#[test]
fn a_connection_that_escapes_is_found_even_if_the_rules_look_right() {
    if !ready() {
        return;
    }
    let world = World::new();
    init(&world.pod, &[]).succeeded();
    // Somebody else's rule in a table that is asked earlier.
    iptables(&world.pod, "nft", false, &["-t", "raw", "-A", "OUTPUT", "-p", "tcp", "-j", "CT", "--notrack"]);
    let verified = init(&world.pod, &["verify"]);
    assert_eq!(verified.code, Some(7), "{verified:?}");
    assert!(verified.stdout.contains("ok       IPv4 rules"), "{verified:?}");
    assert!(verified.stdout.contains("PROBLEM  IPv4 outbound: a connection to 192.0.2.1:80"), "{verified:?}");
}
