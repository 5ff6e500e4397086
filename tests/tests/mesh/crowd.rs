//! Many connections: what thousands on which nothing happens cost a sidecar each, and what becomes of those that an application
//! has no place for.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use nix::sys::signal::Signal;
use remora_test::mesh::Mesh;
use remora_test::pod::Pod;
use remora_test::process::Process;
use remora_test::{PATIENCE, eventually};

use crate::pair::{Pair, Plan, service};

/// Opened before counting begins: what the first ones need is needed once.
const WARM: usize = 200;
const IDLE: usize = 4_000;
/// What one idle connection may hold of a sidecar's memory.
const BUDGET: usize = 20 * 1024;

/// Resident memory in bytes.
fn resident(process: &Process) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim_end_matches("kB").trim().parse::<usize>().unwrap() * 1024
}

/// Opens connections, says something on each, waits for the end of the answer, and leaves them open.
fn open(client: &Pod, to: SocketAddr, count: usize, word: &[u8], end: &[u8]) -> Vec<TcpStream> {
    client.enter(|| {
        let talk = |_| {
            let mut stream = TcpStream::connect(to).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(word).unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(end) {
                let mut bytes = [0; 512];
                let n = stream.read(&mut bytes).unwrap();
                assert_ne!(n, 0, "ended after {answer:?}");
                answer.extend_from_slice(&bytes[..n]);
            }
            stream
        };
        (0..count).map(talk).collect()
    })
}

/// The cost of an idle connection in bytes, in the client's and in the server's sidecar.
fn cost(pair: &Pair, to: SocketAddr, word: &[u8], end: &[u8]) -> [usize; 2] {
    let _warm = open(&pair.client, to, WARM, word, end);
    let before = [&pair.outbound, &pair.inbound].map(|sidecar| resident(sidecar));
    let idle = open(&pair.client, to, IDLE, word, end);
    let active = [("direction", "outbound")];
    eventually("all are open", || {
        (pair.outbound.metric("remora_downstream_connections_active", &active) >= (WARM + IDLE) as f64).then_some(())
    });
    let after = [&pair.outbound, &pair.inbound].map(|sidecar| resident(sidecar));
    drop(idle);
    [0, 1].map(|n| after[n].saturating_sub(before[n]) / IDLE)
}

#[test]
fn an_idle_connection_of_bytes_costs_little_on_either_side_of_the_mtls_hop() {
    let pair = Pair::start(Plan { app: "echo", port: 7000, ..Plan::default() });
    let costs = cost(&pair, service(7000), b"\x01idle", b"\x01idle");
    assert!(costs.iter().all(|cost| *cost <= BUDGET), "{costs:?} bytes, budget {BUDGET}");
}

#[test]
fn a_sidecar_holds_no_huge_pages() {
    let pair = Pair::start(Plan { app: "echo", port: 7000, ..Plan::default() });
    let _open = open(&pair.client, service(7000), WARM, b"\x01idle", b"\x01idle");
    for sidecar in [&pair.outbound, &pair.inbound] {
        let memory = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", sidecar.pid())).unwrap();
        let huge = memory.lines().find_map(|line| line.strip_prefix("AnonHugePages:")).unwrap();
        assert_eq!(huge.trim(), "0 kB", "{memory}");
    }
}

#[test]
fn an_idle_plaintext_connection_costs_less() {
    let pair = Pair::start(Plan { app: "echo", port: 7000, mtls: false, inbound: "{mtls: off}", ..Plan::default() });
    let costs = cost(&pair, service(7000), b"\x01idle", b"\x01idle");
    assert!(costs.iter().all(|cost| *cost <= BUDGET / 2), "{costs:?} bytes, budget {}", BUDGET / 2);
}

#[test]
fn an_idle_http1_connection_costs_little() {
    let pair = Pair::usual();
    let costs = cost(&pair, service(8080), b"GET /name HTTP/1.1\r\nhost: server:8080\r\n\r\n", b"\r\n\r\nserver");
    assert!(costs.iter().all(|cost| *cost <= BUDGET), "{costs:?} bytes, budget {BUDGET}");
}

/// Connections that found a listening socket's queue full, of all in the pod.
fn overflows(pod: &Pod) -> u64 {
    let table = pod.enter(|| std::fs::read_to_string("/proc/thread-self/net/netstat")).unwrap();
    let mut lines = table.lines().filter_map(|line| line.strip_prefix("TcpExt:")).map(str::split_whitespace);
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    names.zip(values).find(|(name, _)| *name == "ListenOverflows").unwrap().1.parse().unwrap()
}

#[test]
fn connections_that_an_application_has_no_place_for_at_once_are_made_later() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    // Its queue takes 128.
    let app = server.peer("http", 8080, &[]);
    let _inbound = server.plain_sidecar("inbound: {mtls: off}");
    for to in [server.at(8080), server.at6(8080)] {
        let before = overflows(&server);
        app.signal(Signal::SIGSTOP);
        let authority = ["-H", ":authority: server:8080"];
        let url = format!("http://{to}/name");
        let load = client.start_h2load(&[&["--h1", "-n", "2000", "-c", "200"][..], &authority, &[&*url]].concat());
        eventually("the queue is full", || (overflows(&server) > before).then_some(()));
        app.signal(Signal::SIGCONT);
        // The kernel asks again after a second, as it would for a client without a sidecar.
        load.finish().assert_clean(2_000);
    }
}
