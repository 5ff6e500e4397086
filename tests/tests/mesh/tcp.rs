//! TCP as it is: both directions end on their own, whoever speaks first is heard, bytes arrive whole.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use remora_test::eventually;
use remora_test::mesh::Mesh;
use remora_test::netns::tool;
use remora_test::pod::Pod;

use crate::pair::{Pair, Plan, VIRTUAL, service, service6};

/// Bytes that begin no protocol the proxy knows.
const OPAQUE: &[u8] = b"\x01\x02\x03opaque\xff\xfe";

fn connect(pod: &Pod, to: SocketAddr) -> TcpStream {
    let stream = pod.enter(|| TcpStream::connect(to)).unwrap_or_else(|error| panic!("{to}: {error}"));
    stream.set_read_timeout(Some(remora_test::PATIENCE)).unwrap();
    stream
}

fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn the_client_may_end_first() {
    let pair = Pair::start(Plan { app: "echo", port: 7000, ..Plan::default() });
    for to in [service(7000), service6(7000)] {
        let mut stream = connect(&pair.client, to);
        stream.write_all(OPAQUE).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // The application sends more after it has read the end: it got the end, and the connection still carried its words.
        assert_eq!(rest(&mut stream), [OPAQUE, b"bye from server\n"].concat(), "{to}");
    }
    assert_eq!(pair.inbound.metric("remora_tls_handshakes_total", &[("side", "server")]), 2.0);
}

#[test]
fn the_server_may_end_first() {
    let pair = Pair::start(Plan { app: "closer", port: 7000, ..Plan::default() });
    let mut stream = connect(&pair.client, service(7000));
    stream.write_all(OPAQUE).unwrap();
    assert_eq!(rest(&mut stream), b"half from server\n");
    let megabyte = vec![7; 1 << 20];
    stream.write_all(&megabyte).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(pair.app.printed("read"), format!("read {}", OPAQUE.len() + megabyte.len()));
    // Both directions ended: nothing is held any longer.
    pair.outbound.metric_until("remora_downstream_connections_active", &[("direction", "outbound")], |n| n == 0.0);
    pair.inbound.metric_until("remora_downstream_connections_active", &[("direction", "inbound")], |n| n == 0.0);
}

#[test]
fn a_server_that_speaks_first_is_heard_at_once() {
    let pair = Pair::start(Plan { app: "greeter", port: 3306, ..Plan::default() });
    for to in [service(3306), service6(3306)] {
        let begin = Instant::now();
        let mut stream = connect(&pair.client, to);
        let mut hello = [0; 18];
        stream.read_exact(&mut hello).unwrap();
        assert_eq!(&hello, b"hello from server\n");
        // Ten times what is promised (direct, one round trip and 50 ms).
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        stream.write_all(b"and back").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(&mut stream), b"and back");
    }
}

#[test]
fn a_client_that_hesitates_may_still_speak_http() {
    let pair = Pair::usual();
    let mut stream = connect(&pair.client, service(8080));
    eventually("the proxy has dialled as if the server would speak first", || {
        (pair.outbound.metric("remora_upstream_connections_total", &[]) >= 1.0).then_some(())
    });
    write!(stream, "GET /name HTTP/1.1\r\nhost: server:8080\r\nconnection: close\r\n\r\n").unwrap();
    let answer = String::from_utf8(rest(&mut stream)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("server"), "{answer}");
    let http = pair.outbound.metric("remora_requests_total", &[("direction", "outbound"), ("protocol", "http1")]);
    assert_eq!(http, 1.0, "it was taken for HTTP");
}

#[test]
fn bytes_arrive_whole_and_in_order() {
    let pair = Pair::start(Plan { app: "echo", port: 7000, ..Plan::default() });
    let sent: Vec<u8> = (0..8_000_000_u32).flat_map(|n| (n ^ 0x8000_0001).to_be_bytes()).collect();
    let mut stream = connect(&pair.client, service(7000));
    let mut writer = stream.try_clone().unwrap();
    let received = std::thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        rest(&mut stream)
    });
    let echoed = received.strip_suffix(b"bye from server\n").unwrap();
    assert!(echoed == sent, "{} of {} bytes came back as they were", echoed.len(), sent.len());
}

#[test]
fn bulk_flows_in_both_directions() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let _app = server.app(5201, server.user(tool("iperf3")).args(["-s", "-p", "5201"]));
    let _inbound = server.sidecar("inbound: {mtls: strict}");
    let outbound = client.sidecar(&crate::pair::entry(5201, &[server.at(5201)], ""));
    const BYTES: u64 = 64 << 20;
    // iperf3 counts what was read when the sender has handed over its last byte: what is still on its way is missing.
    const READ: u64 = BYTES / 2;
    for direction in ["--forceflush", "--reverse"] {
        let output = client.run("iperf3", &["-c", VIRTUAL, "-p", "5201", "-n", &BYTES.to_string(), "-J", direction]);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let received = json["end"]["sum_received"]["bytes"].as_u64().unwrap_or_default();
        assert!(received >= READ, "{direction}: {received} of {BYTES}; {}", json["error"]);
    }
    let sent = outbound.metric_until("remora_tcp_sent_bytes_total", &[("direction", "outbound")], |n| n >= READ as f64);
    let received = outbound.metric("remora_tcp_received_bytes_total", &[("direction", "outbound")]);
    assert!(sent >= READ as f64 && received >= READ as f64, "sent {sent}, received {received}");
}

#[test]
fn a_reset_comes_through_though_the_server_reads_nothing() {
    for mtls in [true, false] {
        let mesh = Mesh::new();
        let (client, server) = (mesh.pod("client"), mesh.pod("server"));
        let listener = server.enter(|| TcpListener::bind("[::]:7000")).unwrap();
        let inbound = server.sidecar(&format!("inbound: {{mtls: {}}}", if mtls { "strict" } else { "off" }));
        let outbound = client.sidecar(&crate::pair::entry(7000, &[server.at(7000)], &format!(", mtls: {mtls}")));
        let mut stream = connect(&client, service(7000));
        // Until there is no room anywhere.
        stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        while stream.write_all(&[1; 65_536]).is_ok() {}
        let (mut accepted, _) = listener.accept().unwrap();
        crate::transparent::abort(stream);
        for sidecar in [&outbound, &inbound] {
            sidecar.metric_until("remora_downstream_connections_active", &[], |n| n == 0.0);
        }
        let error = accepted.read_to_end(&mut Vec::new()).expect_err("a reset, no end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn what_no_entry_names_passes_through() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let _http = server.peer("http", 8080, &[]);
    let _greeter = server.peer("greeter", 3306, &[]);
    let outbound = client.sidecar("");
    for to in [server.at(8080), server.at6(8080)] {
        let answer = client.curl(&[&format!("http://{to}/")]);
        assert_eq!(answer.code, 200, "{answer:?}");
        let peer = answer.json()["peer"].as_str().unwrap().to_owned();
        let own = if to.is_ipv4() { client.v4().to_string() } else { client.v6().to_string() };
        assert_eq!(peer, own, "from the pod's own address");
    }
    let mut stream = connect(&client, server.at(3306));
    let mut hello = [0; 18];
    stream.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello from server\n");
    let labels = [("direction", "outbound"), ("cluster", "passthrough")];
    assert_eq!(outbound.metric("remora_requests_total", &labels), 2.0);
    assert_eq!(outbound.metric("remora_tcp_connections_total", &labels), 1.0);
}
