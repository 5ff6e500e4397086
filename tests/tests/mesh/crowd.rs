//! Thousands of connections on which nothing happens: what each of them costs a sidecar.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

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
