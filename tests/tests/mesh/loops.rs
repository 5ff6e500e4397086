//! Connections that aim at the proxy itself: refused at once, counted, and nothing piles up.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use remora_test::pod::Pod;
use remora_test::sidecar::Sidecar;

use crate::pair::{Pair, Plan};

/// Connects, speaks, and asserts that nothing but the end comes back.
fn refused(pod: &Pod, to: SocketAddr) {
    let Ok(mut stream) = pod.enter(|| TcpStream::connect(to)) else { return };
    stream.set_read_timeout(Some(remora_test::PATIENCE)).unwrap();
    // Either call may find the connection reset already.
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer);
    let timed_out = end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(answer.is_empty() && !timed_out, "{to}: {:?}", String::from_utf8_lossy(&answer));
}

fn open_files(sidecar: &Sidecar) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", sidecar.pid())).unwrap().count()
}

#[test]
fn the_proxys_own_ports_are_not_served() {
    let pair = Pair::start(Plan { inbound: "{mtls: permissive}", ..Plan::default() });
    let stranger = pair.mesh.pod("stranger");
    for port in [15_001, 15_006] {
        for to in [pair.server.at(port), pair.server.at6(port)] {
            // From outside, from within, and from a meshed pod, whose own sidecar may say so in HTTP.
            refused(&stranger, to);
            refused(&pair.server, to);
            assert_ne!(pair.client.curl(&[&format!("http://{to}/name")]).code, 200, "{to}");
        }
        refused(&pair.server, ([127, 0, 0, 1], port).into());
    }
    let count = pair.inbound.metric_until("remora_connections_refused_total", &[("reason", "loop")], |n| n >= 10.0);
    assert!(count <= 40.0, "each is refused once, not again by itself: {count}");
    assert_eq!(pair.client.curl(&[&pair.url("/name")]).code, 200);
}

#[test]
fn a_flood_of_them_leaves_nothing_behind() {
    let pair = Pair::usual();
    let stranger = pair.mesh.pod("stranger");
    let flood = |count| {
        for _ in 0..count {
            refused(&stranger, pair.server.at(15_006));
            refused(&stranger, pair.server.at(15_001));
        }
    };
    // What is allocated once is there.
    flood(100);
    let (files, memory) = (open_files(&pair.inbound), pair.inbound.metric("process_resident_memory_bytes", &[]));
    flood(5_000);
    let refused =
        pair.inbound.metric_until("remora_connections_refused_total", &[("reason", "loop")], |n| n >= 10_200.0);
    assert_eq!(refused, 10_200.0, "each is refused once");
    remora_test::eventually("open files return to what they were", || {
        (open_files(&pair.inbound) <= files + 2).then_some(())
    });
    let after = pair.inbound.metric("process_resident_memory_bytes", &[]);
    assert!(after < memory + 4e6, "{memory} bytes before, {after} after");
    assert_eq!(pair.client.curl(&[&pair.url("/name")]).code, 200);
}
