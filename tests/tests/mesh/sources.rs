//! Where the application sees connections come from, and that there are always enough places to come from.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use remora_model::capture::{INBOUND_SOURCE_V4, is_inbound_source};
use remora_test::PATIENCE;
use remora_test::mesh::Mesh;
use remora_test::pod::Pod;

/// More than 500 ports hold, and fewer than 500 hold from each of the reserved addresses.
const CONNECTIONS: usize = 2_000;

/// Opens connections and holds them all; each is answered by the application before the next is opened.
fn open(client: &Pod, to: SocketAddr, count: usize) -> Vec<TcpStream> {
    client.enter(|| {
        (0..count)
            .map(|n| {
                let mut stream = TcpStream::connect(to).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.write_all(b"\x01").unwrap();
                stream.read_exact(&mut [0]).unwrap_or_else(|error| panic!("connection {n} to {to}: {error}"));
                stream
            })
            .collect()
    })
}

/// Accepts connections and holds them; hands back from where they came.
fn accept(listener: &TcpListener, count: usize) -> (Vec<IpAddr>, Vec<TcpStream>) {
    (0..count)
        .map(|_| {
            let (mut stream, peer) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.read_exact(&mut [0]).unwrap();
            stream.write_all(b"\x02").unwrap();
            (peer.ip().to_canonical(), stream)
        })
        .unzip()
}

#[test]
fn few_ephemeral_ports_carry_many_connections_to_one_port() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    server.enter(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40499")).unwrap();
    let inbound = server.sidecar("inbound: {mtls: off}");
    let listener = server.enter(|| TcpListener::bind("[::]:7000")).unwrap();
    for to in [server.at(7000), server.at6(7000)] {
        let (opened, accepted) = std::thread::scope(|scope| {
            let opened = scope.spawn(|| open(&client, to, CONNECTIONS));
            let accepted = accept(&listener, CONNECTIONS);
            (opened.join().unwrap(), accepted)
        });
        let (sources, held) = accepted;
        if to.is_ipv4() {
            assert_eq!(sources[0], INBOUND_SOURCE_V4, "the first as long as it has ports");
        }
        assert!(sources.iter().all(|source| is_inbound_source(*source)), "{sources:?}");
        let used: BTreeSet<_> = sources.iter().collect();
        assert!(used.len() >= CONNECTIONS / 500, "{used:?}");
        drop((opened, held));
        inbound.metric_until("remora_downstream_connections_active", &[("direction", "inbound")], |n| n == 0.0);
    }
    assert_eq!(inbound.metric("remora_upstream_connect_failures_total", &[]), 0.0);
}
