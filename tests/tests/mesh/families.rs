//! Pods with one address family, with both, and with IPv6 switched off: what is there is redirected and served.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use remora_test::PATIENCE;
use remora_test::binaries::binary;
use remora_test::mesh::Mesh;
use remora_test::netns::run;
use remora_test::pod::Pod;

use crate::pair::{entry, service, service6};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Families {
    /// IPv6 switched off by sysctl.
    Ipv6Off,
    /// The kernel speaks IPv6, and the pod has no address of it but the link's own.
    Ipv4Only,
    Ipv6Only,
    /// Both, of which IPv4 came first, in the pod and wherever addresses are listed.
    Ipv4First,
    /// The same the other way round.
    Ipv6First,
}

impl Families {
    fn v4(self) -> bool {
        self != Self::Ipv6Only
    }

    fn v6(self) -> bool {
        !matches!(self, Self::Ipv6Off | Self::Ipv4Only)
    }

    fn leave(self, pod: &Pod) {
        let ip =
            |arguments: &[&str]| run(pod.command(remora_test::netns::tool("ip")).args(arguments)).map(drop).unwrap();
        match self {
            Self::Ipv6Off => {
                let switch = |scope| format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
                pod.enter(|| ["all", "default", "lo", "eth0"].map(|scope| std::fs::write(switch(scope), "1").unwrap()));
            }
            Self::Ipv4Only => ip(&["-6", "addr", "flush", "dev", "eth0", "scope", "global"]),
            Self::Ipv6Only => ip(&["-4", "addr", "flush", "dev", "eth0"]),
            // As pods are made.
            Self::Ipv4First => {}
            Self::Ipv6First => {
                let [a, b, c, _] = pod.v4().octets();
                ip(&["-4", "addr", "flush", "dev", "eth0"]);
                ip(&["addr", "add", &format!("{}/24", pod.v4()), "dev", "eth0"]);
                ip(&["route", "add", "default", "via", &format!("{a}.{b}.{c}.1")]);
            }
        }
    }

    /// Those of two addresses that there are, in their order.
    fn of<T>(self, v4: T, v6: T) -> Vec<T> {
        let [v4, v6] = [self.v4().then_some(v4), self.v6().then_some(v6)];
        let listed = if self == Self::Ipv6First { [v6, v4] } else { [v4, v6] };
        listed.into_iter().flatten().collect()
    }
}

fn echo(pod: &Pod, to: SocketAddr) {
    let mut stream = pod.enter(|| TcpStream::connect(to)).unwrap_or_else(|error| panic!("{to}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"\x01ping").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"\x01pingbye from server\n", "{to}");
}

fn has_rules(pod: &Pod, program: &str) -> bool {
    let output = pod.output(program, &["-t", "nat"]).unwrap();
    String::from_utf8_lossy(&output.stdout).contains("REMORA_OUTPUT")
}

#[test]
fn whatever_families_a_pod_has_are_redirected_and_served() {
    use Families::{Ipv4First, Ipv4Only, Ipv6First, Ipv6Off, Ipv6Only};
    for families in [Ipv6Off, Ipv4Only, Ipv6Only, Ipv4First, Ipv6First] {
        let mesh = Mesh::new();
        let (client, server) = (mesh.pod("client"), mesh.pod("server"));
        for pod in [&client, &server] {
            families.leave(pod);
        }
        let _app = server.peer("echo", 7000, &[]);
        let endpoints = families.of(server.at(7000), server.at6(7000));
        let inbound = server.sidecar("inbound: {mtls: permissive}");
        let outbound = client.sidecar(&entry(7000, &endpoints, ""));
        for pod in [&client, &server] {
            assert!(has_rules(pod, "iptables-save"), "{families:?}: IPv4 rules in {}", pod.name());
            let v6 = families != Ipv6Off;
            assert!(!v6 || has_rules(pod, "ip6tables-save"), "{families:?}: IPv6 rules in {}", pod.name());
        }
        // By the mesh, and as it is.
        let mesh_ways = families.of(service(7000), service6(7000));
        let ways = [mesh_ways.clone(), endpoints].concat();
        ways.iter().for_each(|to| echo(&client, *to));
        let labels = [("direction", "outbound")];
        assert_eq!(outbound.metric("remora_tcp_connections_total", &labels), ways.len() as f64, "{families:?}");
        let handshakes = inbound.metric("remora_tls_handshakes_total", &[("side", "server")]);
        assert_eq!(handshakes, mesh_ways.len() as f64, "{families:?}");
        let verified = server.command(binary("remora-init")).arg("verify").output().unwrap();
        assert!(!String::from_utf8_lossy(&verified.stdout).contains("PROBLEM  IPv6: missing"), "{verified:?}");
    }
}

/// The listening sockets take each family alone, so a mapped address can only come from the application.
#[test]
fn an_application_that_dials_mapped_addresses_is_served_as_one_that_does_not() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let _app = server.peer("echo", 7000, &[]);
    let inbound = server.sidecar("inbound: {mtls: strict}");
    let _outbound = client.sidecar(&entry(7000, &[server.at(7000)], ""));
    let SocketAddr::V4(v4) = service(7000) else { unreachable!("written so") };
    echo(&client, (v4.ip().to_ipv6_mapped(), 7000).into());
    assert_eq!(inbound.metric("remora_tls_handshakes_total", &[("side", "server")]), 1.0, "found its entry");
}
