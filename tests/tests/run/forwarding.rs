//! A host that forwards for its runs does so for nobody else.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use remora_test::eventually;
use remora_test::netns::run;
use remora_test::pod::Pod;
use remora_test::process::Process;

use crate::host::{Host, path, printed};

/// An address that is reached by way of the host alone.
const BEHIND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const PORT: u16 = 8080;

struct World {
    host: Host,
    caller: Pod,
    server: Pod,
    _serving: Process,
}

impl World {
    fn new(forwarding: &str) -> Self {
        let host = Host::new();
        let (caller, server) = (host.mesh.pod("caller"), host.mesh.pod("server"));
        let ip = |pod: &Pod, words: &str| {
            let words: Vec<_> = words.split(' ').collect();
            run(pod.command("ip").args(words)).unwrap();
        };
        ip(&server, &format!("addr add {BEHIND}/32 dev lo"));
        ip(&host.pod, &format!("route add {BEHIND} via {}", server.v4()));
        ip(&caller, &format!("route add {BEHIND} via {}", host.pod.v4()));
        let serving = server.peer("http", PORT, &[]);
        let world = Self { host, caller, server, _serving: serving };
        // It would tell the caller of a shorter way.
        world.set("conf/all/send_redirects", "0");
        world.set("conf/eth0/send_redirects", "0");
        world.set("ip_forward", forwarding);
        world
    }

    fn set(&self, switch: &str, value: &str) {
        let path = format!("/proc/sys/net/ipv4/{switch}");
        self.host.pod.enter(|| std::fs::write(&path, value)).unwrap();
    }

    /// Whether the host forwards what neither comes from its runs nor goes to them.
    fn forwards(&self) -> bool {
        let to = SocketAddr::from((BEHIND, PORT));
        self.caller.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok())
    }

    /// How many packets our rule has dropped; none where there is no such rule.
    fn dropped(&self) -> Option<u64> {
        let listed = printed(&self.host.pod.output("iptables", &["-nvxL", "FORWARD"]).unwrap());
        let rule = listed.lines().find(|line| line.contains("DROP") && line.contains("remora run"))?;
        rule.split_whitespace().next()?.parse().ok()
    }
}

#[test]
fn where_it_was_off_only_runs_are_forwarded_and_whoever_switches_it_on_keeps_it() {
    let world = World::new("0");
    let web = world.host.serve("web", &[]);
    assert_eq!(world.dropped(), Some(0));
    assert!(!world.forwards());
    assert!(world.dropped().unwrap() > 0, "it was the rule, not the way");
    let url = format!("http://{}:{PORT}/name", world.server.v4());
    assert_eq!(printed(&world.host.run(&[], &[&path("curl"), "-sS", "--fail", &url])), "server");
    // Somebody comes to need it, and finds it off.
    assert_eq!(printed(&world.host.pod.output("cat", &["/proc/sys/net/ipv4/ip_forward"]).unwrap()), "0\n");
    world.set("ip_forward", "1");
    world.host.end(web);
    assert_eq!(world.dropped(), None);
    eventually("what was switched on meanwhile goes on", || world.forwards().then_some(()));
}

#[test]
fn where_it_was_on_nothing_changes() {
    let world = World::new("1");
    let before = world.host.left();
    assert!(world.forwards());
    let web = world.host.serve("web", &[]);
    assert_eq!(world.dropped(), None);
    assert!(world.forwards());
    world.host.end(web);
    assert_eq!(world.host.left(), before);
}

#[test]
fn an_interface_that_forwards_by_itself_is_left_as_it_is() {
    let world = World::new("0");
    world.set("conf/eth0/forwarding", "1");
    let before = world.host.left();
    assert_eq!(world.host.run(&[], &["true"]).status.code(), Some(0));
    assert_eq!(world.host.left(), before);
}
