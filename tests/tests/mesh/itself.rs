//! A pod that calls itself, and what is no business of a sidecar.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use remora_test::PATIENCE;
use remora_test::mesh::Mesh;
use remora_test::metrics::Metrics;
use remora_test::netns::{run, tool};
use remora_test::pod::Pod;
use remora_test::sidecar::ask;

use crate::pair::{Pair, VIRTUAL, VIRTUAL6};
use crate::tproxy;

/// A Service's address that the sidecar has no entry for.
const UNKNOWN: &str = "10.96.0.99";
const UNKNOWN6: &str = "fd96::99";

/// What kube-proxy does on the pod's node: a Service's address leads to the pod, also when the pod itself asks.
fn kube_proxy(pod: &Pod, service: &str, own: IpAddr) {
    let bridge = pod.bridge();
    let (program, forwarding, to) = match own {
        IpAddr::V4(_) => ("iptables", "net.ipv4.ip_forward=1", format!("{own}:8080")),
        IpAddr::V6(_) => ("ip6tables", "net.ipv6.conf.all.forwarding=1", format!("[{own}]:8080")),
    };
    let own = own.to_string();
    // The bridge itself is not to see addresses, or it would send a frame back to where it came from; it knows no such families
    // where its netfilter is not loaded.
    let bridged = ["iptables", "ip6tables"].map(|family| format!("net.bridge.bridge-nf-call-{family}=0"));
    run(bridge.command(tool("sysctl")).args(["-e", "-q", "-w", forwarding]).args(bridged)).unwrap();
    // The pod and its gateway share a wire here, and a router would tell it of shorter ways.
    let deaf = |path| std::fs::write(format!("/proc/sys/net/{path}/accept_redirects"), "0").unwrap();
    pod.enter(|| ["ipv4/conf/all", "ipv4/conf/eth0", "ipv6/conf/eth0"].map(deaf));
    let nat =
        |rule: &[&str]| run(bridge.command(tool(program)).args(["-t", "nat", "-A"]).args(rule)).map(drop).unwrap();
    nat(&["PREROUTING", "-d", service, "-p", "tcp", "--dport", "8080", "-j", "DNAT", "--to-destination", &to]);
    nat(&["POSTROUTING", "-s", &own, "-d", &own, "-j", "MASQUERADE"]);
}

/// Requests that the sidecar served, outbound and inbound.
fn served(pod: &Pod) -> [f64; 2] {
    let answer = ask(pod, ([127, 0, 0, 1], 15_020).into(), "GET", "/metrics").unwrap();
    let metrics = Metrics::parse(&answer.body);
    ["outbound", "inbound"].map(|direction| metrics.sum("remora_requests_total", &[("direction", direction)]))
}

#[test]
fn a_pod_reaches_itself_by_every_name_it_has() {
    for transparent in [false, true] {
        let mesh = Mesh::new();
        let pod = mesh.pod("server");
        let _app = pod.peer("http", 8080, &[]);
        let families = [(pod.at(8080), "127.0.0.1", VIRTUAL, UNKNOWN), (pod.at6(8080), "[::1]", VIRTUAL6, UNKNOWN6)];
        let entries: String = families
            .iter()
            .zip(["four", "six"])
            .map(|((own, _, known, _), name)| {
                format!("  - {{host: \"{name}:8080\", addresses: [\"{known}\"], endpoints: [\"{own}\"]}}\n")
            })
            .collect();
        let rest = format!("inbound: {{mtls: permissive}}\noutbound:\n{entries}");
        let _sidecar = if transparent { tproxy::start(&pod, &rest) } else { pod.sidecar(&rest).into_process() };
        for (own, localhost, known, unknown) in families {
            kube_proxy(&pod, unknown, own.ip());
            let bracketed =
                |address: &str| if address.contains("::") { format!("[{address}]") } else { address.to_owned() };
            for (to, through, by_mesh) in [
                (format!("{localhost}:8080"), [0.0, 0.0], false),
                (own.to_string(), [0.0, 0.0], false),
                (format!("{}:8080", bracketed(known)), [1.0, 1.0], true),
                (format!("{}:8080", bracketed(unknown)), [1.0, 1.0], false),
            ] {
                let before = served(&pod);
                let answer = pod.curl(&["-g", &format!("http://{to}/")]);
                assert_eq!(answer.code, 200, "{to}, TPROXY {transparent}: {answer:?}");
                let after = served(&pod);
                assert_eq!([after[0] - before[0], after[1] - before[1]], through, "{to}, TPROXY {transparent}");
                let caller = answer.json()["headers"]["x-forwarded-client-cert"].to_string();
                assert_eq!(caller.contains(&pod.id()), by_mesh, "{to}, TPROXY {transparent}: {caller}");
            }
        }
    }
}

#[test]
fn datagrams_pass_untouched() {
    let pair = Pair::usual();
    // Also where TCP would be the sidecar's own.
    for port in [53, 443, 8080, 15_001, 15_006] {
        for (to, from) in
            [(pair.server.at(port), IpAddr::from(pair.client.v4())), (pair.server.at6(port), pair.client.v6().into())]
        {
            let server = pair.server.enter(|| UdpSocket::bind(to)).unwrap();
            let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
            let client = pair.client.enter(|| UdpSocket::bind(any)).unwrap();
            for socket in [&server, &client] {
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
            }
            client.send_to(b"ping", to).unwrap();
            let mut bytes = [0; 8];
            let (n, peer) = server.recv_from(&mut bytes).unwrap();
            assert_eq!((&bytes[..n], peer.ip()), (&b"ping"[..], from), "{to}");
            server.send_to(b"pong", peer).unwrap();
            let (n, peer) = client.recv_from(&mut bytes).unwrap();
            assert_eq!((&bytes[..n], peer), (&b"pong"[..], to));
        }
    }
}
