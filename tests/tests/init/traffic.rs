//! Who is redirected and who is not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::pod::{APP, As, BACKENDS, Landed, PROXY, Sinks, World, address, init, ready};

/// Everything that could receive a connection of the tests below.
fn sinks(world: &World, transparent: bool) -> Sinks {
    let mut sinks = Sinks::default();
    sinks.listen("outbound", &world.pod, 15001, false);
    sinks.listen("inbound", &world.pod, 15006, transparent);
    for port in [8080, 9999, 15020, 15021] {
        sinks.listen("app", &world.pod, port, false);
    }
    for port in [25, 80, 3005] {
        sinks.listen("server", &world.server, port, false);
    }
    sinks.listen("other", &world.other, 80, false);
    sinks
}

fn rules(world: &World, backend: &str, more: &[&str]) {
    let networks = format!("{},{}", world.other.v4(), world.other.v6());
    let flags = [
        &["--backend", backend, "--exclude-outbound-ports", "25,3000-3010", "--exclude-outbound-cidrs", &networks],
        &["--exclude-uids", "5000", "--exclude-gids", "5001", "--exclude-inbound-ports", "9999"],
        more,
    ]
    .concat();
    init(&world.pod, &flags).succeeded();
}

fn outbound_cases(world: &World, sinks: &Sinks, v6: bool) {
    let (server, other) = (address(&world.server, v6), address(&world.other, v6));
    for (who, to, at) in [
        (APP, (server, 80), "outbound"),
        (As(0, 0), (server, 80), "outbound"),
        (PROXY, (server, 80), "server"),
        (As(1337, 0), (server, 80), "server"),
        (As(0, 1337), (server, 80), "server"),
        (As(5000, 1000), (server, 80), "server"),
        (As(1000, 5001), (server, 80), "server"),
        (APP, (server, 25), "server"),
        (APP, (server, 3005), "server"),
        (APP, (other, 80), "other"),
    ] {
        let landed = sinks.landed(&world.pod, who, None, to.into());
        assert_eq!(landed, Landed { at: at.into(), original: to.into() }, "{who:?} to {to:?}");
    }
}

fn own_cases(world: &World, sinks: &Sinks, v6: bool) {
    let own = address(&world.pod, v6);
    let localhost: IpAddr = if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
    let leg: IpAddr = if v6 { "::6".parse().unwrap() } else { "127.0.0.6".parse().unwrap() };
    for (who, from, to, at) in [
        (APP, None, (localhost, 8080), "app"),
        (APP, None, (own, 8080), "app"),
        (PROXY, None, (localhost, 8080), "app"),
        (PROXY, None, (own, 8080), "inbound"),
        (As(0, 1337), None, (own, 8080), "inbound"),
        (PROXY, None, (own, 9999), "app"),
        (PROXY, None, (own, 15020), "app"),
        (PROXY, Some(leg), (own, 8080), "app"),
    ] {
        let landed = sinks.landed(&world.pod, who, from, to.into());
        assert_eq!(landed, Landed { at: at.into(), original: to.into() }, "{who:?} from {from:?} to {to:?}");
    }
}

fn inbound_cases(world: &World, sinks: &Sinks, v6: bool) {
    let pod = address(&world.pod, v6);
    for (port, at) in [
        (8080, "inbound"),
        (4444, "inbound"),
        (9999, "app"),
        (15020, "app"),
        (15021, "app"),
        (15006, "inbound"),
        (15001, "outbound"),
    ] {
        let landed = sinks.landed(&world.client, APP, None, (pod, port).into());
        assert_eq!(landed, Landed { at: at.into(), original: (pod, port).into() }, "to {port}");
    }
    let admin = sinks.landed(&world.client, APP, None, (pod, 15000).into());
    assert_eq!(admin.at, "connection refused", "the admin port is never captured");
}

#[test]
fn redirect_takes_what_it_should_and_nothing_else() {
    if !ready() {
        return;
    }
    for backend in BACKENDS {
        let world = World::new();
        let sinks = sinks(&world, false);
        let direct = sinks.landed(&world.pod, APP, None, (world.server.v4(), 80).into());
        assert_eq!(direct.at, "server", "before init nothing is captured");
        rules(&world, backend, &[]);
        for v6 in [false, true] {
            outbound_cases(&world, &sinks, v6);
            own_cases(&world, &sinks, v6);
            inbound_cases(&world, &sinks, v6);
        }
    }
}

#[test]
fn tproxy_keeps_both_addresses() {
    if !ready() {
        return;
    }
    for backend in BACKENDS {
        let world = World::new();
        let sinks = sinks(&world, true);
        rules(&world, backend, &["--inbound-mode", "tproxy"]);
        for v6 in [false, true] {
            outbound_cases(&world, &sinks, v6);
            own_cases(&world, &sinks, v6);
            inbound_cases(&world, &sinks, v6);
        }
        // And back again, which leaves nothing of TPROXY behind.
        rules(&world, backend, &[]);
        let verified = init(&world.pod, &["verify", "--backend", backend]);
        assert!(!verified.stdout.contains("mangle"), "{verified:?}");
        assert!(!verified.stdout.contains("routing"), "{verified:?}");
    }
}

#[test]
fn only_what_is_included_is_captured() {
    if !ready() {
        return;
    }
    for backend in BACKENDS {
        let world = World::new();
        let sinks = sinks(&world, false);
        let networks = format!("{},{}", world.other.v4(), world.other.v6());
        let flags = ["--include-inbound-ports", "8080,8085-8090", "--include-outbound-cidrs", &networks];
        init(&world.pod, &[&["--backend", backend, "--include-outbound-ports", "25"], &flags[..]].concat()).succeeded();
        for v6 in [false, true] {
            let (pod, server, other) = (address(&world.pod, v6), address(&world.server, v6), address(&world.other, v6));
            for (net, to, at) in [
                (&world.pod, (other, 80), "outbound"),
                (&world.pod, (server, 25), "outbound"),
                (&world.pod, (server, 80), "server"),
                (&world.client, (pod, 8080), "inbound"),
                (&world.client, (pod, 8087), "inbound"),
                (&world.client, (pod, 9999), "app"),
            ] {
                assert_eq!(sinks.landed(net, APP, None, to.into()).at, at, "{to:?}");
            }
        }
    }
}

#[test]
fn an_excluded_interface_is_left_alone_in_both_directions() {
    if !ready() {
        return;
    }
    for mode in ["redirect", "tproxy"] {
        let world = World::new();
        let sinks = sinks(&world, mode == "tproxy");
        init(&world.pod, &["--exclude-interfaces", "eth0", "--inbound-mode", mode]).succeeded();
        for v6 in [false, true] {
            let to = (address(&world.server, v6), 80);
            assert_eq!(sinks.landed(&world.pod, APP, None, to.into()).at, "server");
            let to = (address(&world.pod, v6), 8080);
            assert_eq!(sinks.landed(&world.client, APP, None, to.into()).at, "app");
        }
    }
}

#[test]
fn forty_excluded_ports_and_ranges_work() {
    if !ready() {
        return;
    }
    let world = World::new();
    let mut sinks = Sinks::default();
    sinks.listen("outbound", &world.pod, 15001, false);
    for port in [1038, 3050, 1039] {
        sinks.listen("server", &world.server, port, false);
    }
    let singles = (0..20).map(|n| (1000 + 2 * n).to_string());
    let ranges = (0..20).map(|n| format!("{}-{}", 2000 + 100 * n, 2050 + 100 * n));
    let ports: Vec<String> = singles.chain(ranges).collect();
    init(&world.pod, &["--exclude-outbound-ports", &ports.join(",")]).succeeded();
    for (port, at) in [(1038, "server"), (3050, "server"), (1039, "outbound"), (3051, "outbound")] {
        let landed = sinks.landed(&world.pod, APP, None, (world.server.v4(), port).into());
        assert_eq!(landed.at, at, "port {port}");
    }
}

#[test]
fn an_excluded_client_reaches_the_application() {
    if !ready() {
        return;
    }
    let world = World::new();
    let sinks = sinks(&world, false);
    let flags = ["--compat", "linkerd", "-p", "15006", "-o", "15001", "-u", "1337", "--subnets-to-ignore"];
    let client = format!("{}/32,{}/128", world.client.v4(), world.client.v6());
    init(&world.pod, &[&flags[..], &[&client]].concat()).succeeded();
    for v6 in [false, true] {
        let to = (address(&world.pod, v6), 8080);
        assert_eq!(sinks.landed(&world.client, APP, None, to.into()).at, "app");
        assert_eq!(sinks.landed(&world.server, APP, None, to.into()).at, "inbound");
    }
}
