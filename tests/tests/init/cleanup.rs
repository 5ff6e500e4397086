//! `cleanup` takes what is ours and leaves what is not.

use remora_test::netns::Netns;

use crate::pod::{BACKENDS, World, init, iptables, ready, saved};

/// Routing rules, routes and addresses of both families.
fn routing(pod: &Netns) -> Vec<String> {
    let commands = ["rule", "-6 rule", "route show table all", "-6 route show table all", "-br addr"];
    let ask = |command: &str| {
        let output = pod.output("ip", &command.split(' ').collect::<Vec<_>>()).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    commands.into_iter().map(ask).collect()
}

fn foreign_things(pod: &Netns, backend: &str) {
    for v6 in [false, true] {
        let address = if v6 { "2001:db8::1" } else { "192.0.2.1" };
        for rule in [
            "-t nat -N NOT_REMORA",
            "-t nat -A NOT_REMORA -j RETURN",
            "-t nat -A OUTPUT -p tcp --dport 15001 -j NOT_REMORA",
            "-t nat -A PREROUTING -p tcp --dport 15006 -j ACCEPT",
            "-t mangle -A PREROUTING -m mark --mark 0x539 -j RETURN",
            "-t filter -A INPUT -p tcp --dport 1337 -j ACCEPT",
        ] {
            iptables(pod, backend, v6, &rule.split(' ').collect::<Vec<_>>());
        }
        iptables(pod, backend, v6, &["-t", "nat", "-A", "OUTPUT", "-d", address, "-j", "ACCEPT"]);
        let family = if v6 { "-6" } else { "-4" };
        for command in ["rule add fwmark 1338 lookup 134", "route add local default dev lo table 134"] {
            let words: Vec<&str> = std::iter::once(family).chain(command.split(' ')).collect();
            assert!(pod.output("ip", &words).unwrap().status.success(), "{command}");
        }
    }
}

#[test]
fn cleanup_leaves_what_others_made() {
    if !ready() {
        return;
    }
    for backend in BACKENDS {
        for mode in ["redirect", "tproxy"] {
            let world = World::new();
            foreign_things(&world.pod, backend);
            let (rules, routes) = (saved(&world.pod, backend), routing(&world.pod));
            init(&world.pod, &["--backend", backend, "--inbound-mode", mode]).succeeded();
            assert!(saved(&world.pod, backend).len() > rules.len() + 20);
            let cleaned = init(&world.pod, &["cleanup"]).succeeded();
            assert!(cleaned.stdout.contains(&format!("removed: IPv6 rules of iptables-{backend}")), "{cleaned:?}");
            assert_eq!(saved(&world.pod, backend), rules);
            assert_eq!(routing(&world.pod), routes);
            let nothing = init(&world.pod, &["cleanup"]).succeeded();
            assert_eq!(nothing.stdout, "nothing to remove\n");
        }
    }
}

#[test]
fn the_backend_that_holds_rules_is_chosen_and_rules_can_move() {
    if !ready() {
        return;
    }
    let world = World::new();
    let ours = |backend: &str| saved(&world.pod, backend).iter().filter(|line| line.contains("REMORA_")).count();
    init(&world.pod, &["--backend", "legacy"]).succeeded();
    let again = init(&world.pod, &[]).succeeded();
    assert_eq!(again.stdout.matches("nothing changed (iptables-legacy)").count(), 2, "{again:?}");
    assert_eq!(ours("nft"), 0);
    let moved = init(&world.pod, &["--backend", "nft"]).succeeded();
    assert!(moved.stdout.contains("rules of the other backend removed"), "{moved:?}");
    assert_eq!(ours("legacy"), 0);
    assert!(ours("nft") > 20);
    init(&world.pod, &["verify"]).succeeded();

    let foreign = World::new();
    iptables(&foreign.pod, "legacy", false, &["-t", "nat", "-A", "OUTPUT", "-p", "udp", "-j", "ACCEPT"]);
    let chosen = init(&foreign.pod, &[]).succeeded();
    assert!(chosen.stdout.contains("iptables-legacy"), "where others' rules are, ours go too: {chosen:?}");
}
