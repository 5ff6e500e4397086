//! What a caller gets when there is nothing to give: Envoy's flags, a sentence, gRPC in gRPC's own words.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use remora_test::client::{self, Call};
use remora_test::mesh::Mesh;
use remora_test::pod::Pod;
use remora_test::sidecar::Sidecar;

use crate::pair::{Pair, Plan, VIRTUAL, entry, service};
use crate::wire::Wire;

const URL: &str = "http://10.96.0.10:8080";

fn call(pod: &Pod, path: &'static str) -> Call {
    let to: SocketAddr = service(8080);
    pod.block_on(|| async move {
        let mut h2 = client::h2(to).await.unwrap();
        client::unary(&mut h2, "server:8080", path, &[]).await.unwrap()
    })
}

/// One HTTP request and one gRPC call meet the same failure.
fn fails(client: &Pod, outbound: &Sidecar, path: &'static str, flag: &str, code: u16, grpc: u32) {
    let answer = client.curl(&[&format!("{URL}{path}")]);
    assert_eq!(answer.code, code, "{answer:?}");
    let reason = answer.header("x-remora-reason").unwrap_or_default();
    assert!(reason.starts_with(&format!("{flag} ")), "{reason:?}");
    assert!(reason.contains("server:8080"), "names the cluster: {reason:?}");

    let call = call(client, path);
    assert_eq!((call.http, call.status), (200, Some(grpc)), "{call:?}");
    assert!(!call.message.is_empty(), "{call:?}");

    let labels = [("direction", "outbound"), ("cluster", "server:8080"), ("flag", flag)];
    assert_eq!(outbound.metric_until("remora_requests_total", &labels, |n| n >= 2.0), 2.0);
    let status = [("grpc_status", &*grpc.to_string())];
    assert_eq!(outbound.metric("remora_grpc_responses_total", &status), 1.0);
    // The two requests may have met different workers, so their lines come in any order.
    let wanted = [format!(" {code} {flag} "), format!(" grpc 200 {flag} "), format!("grpc_status={grpc}")];
    remora_test::eventually("both lines in the access log", || {
        let log = outbound.stdout();
        (wanted.iter().all(|part| log.contains(part)) && log.matches(path).count() == 2).then_some(())
    });
}

#[test]
fn no_endpoint_is_uh() {
    let mesh = Mesh::new();
    let client = mesh.pod("client");
    let outbound = client.sidecar(&format!(
        "outbound:\n  - {{host: \"server:8080\", addresses: [{VIRTUAL}], dns: \"nowhere.invalid:8080\"}}"
    ));
    fails(&client, &outbound, "/a/path", "UH", 503, 14);
}

#[test]
fn a_refused_connection_is_uf() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let outbound = client.sidecar(&entry(8080, &[server.at(8080)], ", mtls: false"));
    fails(&client, &outbound, "/a/path", "UF", 503, 14);
    assert!(outbound.metric("remora_upstream_connect_failures_total", &[("cluster", "server:8080")]) >= 2.0);
}

#[test]
fn a_hesitating_client_is_told_why() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let outbound = client.sidecar(&entry(8080, &[server.at(8080)], ", mtls: false"));
    let mut stream = client.enter(|| TcpStream::connect(service(8080))).unwrap();
    stream.set_read_timeout(Some(remora_test::PATIENCE)).unwrap();
    // Meanwhile the proxy dials for a server that might speak first, and fails.
    remora_test::eventually("the proxy has dialled in vain", || {
        let failures = outbound.metric("remora_upstream_connect_failures_total", &[("cluster", "server:8080")]);
        (failures >= 1.0).then_some(())
    });
    write!(stream, "GET /name HTTP/1.1\r\nhost: server:8080\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("x-remora-reason: UF "), "{answer}");
}

#[test]
fn a_connection_that_is_never_made_is_uf() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    // Packets to it vanish: its address is known, nobody answers.
    server.output("iptables", &["-A", "INPUT", "-p", "tcp", "-j", "DROP"]).unwrap();
    let outbound = client.sidecar(&entry(8080, &[server.at(8080)], ", mtls: false, timeouts: {connect: 200ms}"));
    fails(&client, &outbound, "/a/path", "UF", 503, 14);
}

/// A question is asked every 10 s, and neither its answer (`PING`) nor its acknowledgement (`TCP_USER_TIMEOUT`) is waited for longer than 30.
#[test]
fn a_sidecar_that_vanishes_is_missed_by_who_waits_for_its_answer() {
    let pair = Pair::usual();
    let mut waits = Wire::open(&pair.client, service(8080));
    waits.send("GET /silent HTTP/1.1\r\nhost: server:8080\r\n\r\n");
    pair.inbound.metric_until("remora_requests_active", &[("direction", "inbound")], |n| n == 1.0);
    pair.server.link(false).unwrap();
    let answer = waits.answer();
    assert_eq!(answer.code, 503, "{answer:?}");
    assert!(answer.header("x-remora-reason").is_some_and(|reason| reason.starts_with("UC ")), "{answer:?}");
    pair.outbound.metric_until("remora_upstream_connections_active", &[], |n| n == 0.0);
}

/// Keep-alive does not ask who has something to acknowledge, and the kernel sends it again for a quarter of an hour.
#[test]
fn who_acknowledges_nothing_is_given_up_where_that_is_bounded() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let listener = server.enter(|| TcpListener::bind(server.at(9000))).unwrap();
    let bound = "timeouts: {unacknowledged: 1s}";
    let outbound = client.sidecar(&entry(9000, &[server.at(9000)], &format!(", mtls: false, protocol: tcp, {bound}")));
    let inbound = server.plain_sidecar(&format!("inbound: {{ports: [{{port: 9000, protocol: tcp}}], {bound}}}"));
    let mut asks = client.enter(|| TcpStream::connect(service(9000))).unwrap();
    asks.write_all(b"hello").unwrap();
    let (mut answers, _) = listener.accept().unwrap();
    answers.read_exact(&mut [0; 5]).unwrap();
    for pod in [&client, &server] {
        let drop = pod.output("iptables", &["-w", "-A", "INPUT", "-i", "eth0", "-j", "DROP"]).unwrap();
        assert!(drop.status.success(), "{drop:?}");
    }
    for stream in [&mut asks, &mut answers] {
        stream.set_read_timeout(Some(remora_test::PATIENCE)).unwrap();
        stream.write_all(b"lost").unwrap();
        let end = stream.read(&mut [0]).map_err(|error| error.kind());
        assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{end:?}");
    }
    outbound.metric_until("remora_upstream_connections_active", &[], |n| n == 0.0);
    inbound.metric_until("remora_downstream_connections_active", &[("direction", "inbound")], |n| n == 0.0);
}

#[test]
fn a_connection_whose_first_word_is_lost_is_made() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let _app = server.peer("http", 8080, &[]);
    let filter = |arguments: &[&str]| {
        let output = server.output("iptables", &[&["-w"], arguments].concat()).unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    filter(&["-A", "INPUT", "-p", "tcp", "--syn", "-j", "DROP"]);
    let _outbound = client.sidecar(&entry(8080, &[server.at(8080)], ", mtls: false"));
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| client.curl(&[&format!("{URL}/name")]));
        remora_test::eventually("it is lost", || {
            let counts = filter(&["-L", "INPUT", "-v", "-x", "-n"]);
            counts.lines().any(|line| line.contains("DROP") && !line.trim_start().starts_with("0 ")).then_some(())
        });
        filter(&["-F", "INPUT"]);
        assert_eq!(asked.join().unwrap().code, 200);
    });
}

#[test]
fn a_dial_that_is_repeated_has_no_more_time() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let listener = server.enter(|| TcpListener::bind(("0.0.0.0", 8080))).unwrap();
    let _outbound = client.sidecar(&entry(8080, &[server.at(8080)], ", timeouts: {connect: 4s}"));
    // Half of the time is over when a hello is answered by what is no TLS; the next is not answered. Ends with the process.
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for (n, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            if n % 2 == 0 {
                std::thread::sleep(Duration::from_secs(2));
                let _ = (&stream).write_all(b"220 no TLS here\r\n");
            }
            silent.push(stream);
        }
    });
    let answer = client.curl(&[&format!("{URL}/name")]);
    let reason = answer.header("x-remora-reason").unwrap_or_default();
    let (told, bound) = reason.split_once("the handshake took longer than ").unwrap_or_default();
    assert!(told.starts_with("UF "), "{answer:?}");
    let seconds: f64 = bound.strip_suffix('s').and_then(|bound| bound.parse().ok()).unwrap_or_default();
    assert!(seconds <= 2.0, "the two of them had four seconds: {reason}");
}

#[test]
fn an_answer_that_takes_too_long_is_ut() {
    let mut pair = Pair::start(Plan { entry: ", timeouts: {request: 200ms}", ..Plan::default() });
    let to = service(8080);
    let answer = pair.client.curl(&[&pair.url("/silent")]);
    assert_eq!(answer.code, 504, "{answer:?}");
    assert!(answer.header("x-remora-reason").unwrap_or_default().starts_with("UT "), "{answer:?}");
    let labels = [("direction", "outbound"), ("flag", "UT"), ("code", "504")];
    assert_eq!(pair.outbound.metric("remora_requests_total", &labels), 1.0);
    let line = pair.outbound.printed("UT");
    assert!(line.contains("504") && line.contains("/silent"), "{line}");
    // The mesh's application answers gRPC at once; a slow one stands behind the same entry.
    pair.replace_app("http", 8080, &["--delay", "60000"]);
    let call = pair.client.block_on(|| async move {
        let mut h2 = client::h2(to).await.unwrap();
        client::unary(&mut h2, "server:8080", "/test.Echo/Unary", &[]).await.unwrap()
    });
    assert_eq!((call.http, call.status), (200, Some(4)), "DEADLINE_EXCEEDED: {call:?}");
    assert_eq!(pair.client.curl(&["--max-time", "20", &pair.url("/name")]).code, 504);
}

/// What a client takes to send its request is no time of who answers it.
#[test]
fn an_answers_time_begins_with_the_end_of_its_request() {
    const TIME: Duration = Duration::from_secs(1);
    let pair = Pair::start(Plan { entry: ", timeouts: {request: 1s}", ..Plan::default() });
    for (path, code) in [("/name", 200), ("/silent", 504)] {
        let mut wire = Wire::open(&pair.client, service(8080));
        wire.send(&format!("PUT {path} HTTP/1.1\r\nhost: server:8080\r\ncontent-length: 6\r\n\r\nhal"));
        std::thread::sleep(TIME * 2);
        wire.send("ves");
        let sent = Instant::now();
        let answer = wire.answer();
        assert_eq!(answer.code, code, "{path}: {answer:?}");
        assert!(code == 200 || sent.elapsed() >= TIME, "the time was cut short: {:?}", sent.elapsed());
    }
}

#[test]
fn an_answer_that_is_cut_is_uc_or_an_abort() {
    let pair = Pair::usual();
    let answer = pair.client.curl(&[&pair.url("/abort")]);
    assert_eq!(answer.code, 503, "{answer:?}");
    let inbound = pair.inbound.metric("remora_requests_total", &[("direction", "inbound"), ("flag", "UC")]);
    assert_eq!(inbound, 1.0, "the sidecar beside the application saw it");
    assert_eq!(pair.client.curl(&[&pair.url("/name")]).code, 200, "and goes on");
}

#[test]
fn a_dead_endpoint_is_passed_over() {
    let mesh = Mesh::new();
    let (client, server, dead) = (mesh.pod("client"), mesh.pod("server"), mesh.pod("dead"));
    let _app = server.peer("http", 8080, &[]);
    let _inbound = server.sidecar("inbound: {mtls: strict}");
    let endpoints = [dead.at(8080), server.at(8080)];
    let outbound = client.sidecar(&entry(8080, &endpoints, ", balance: round_robin"));
    for _ in 0..20 {
        assert_eq!(client.curl(&[&format!("{URL}/name")]).body, "server");
    }
    let metrics = outbound.metrics();
    assert!(metrics.sum("remora_upstream_connect_failures_total", &[]) >= 1.0);
    assert_eq!(metrics.sum("remora_requests_total", &[("direction", "outbound"), ("code", "200"), ("flag", "")]), 20.0);
    // TCP moves on, too.
    let _echo = server.peer("echo", 7000, &[]);
    let endpoints = [dead.at(7000), server.at(7000)];
    outbound.configure(&client.config(&entry(7000, &endpoints, ", balance: round_robin")));
    remora_test::eventually("the new entry", || outbound.admin("/clusters").body.contains("7000").then_some(()));
    for _ in 0..4 {
        let mut stream = client.enter(|| TcpStream::connect(service(7000))).unwrap();
        stream.write_all(b"\x01ping").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "\x01pingbye from server\n");
    }
}

/// Its requests have less time than it takes to know that it cannot be reached.
#[test]
fn a_silent_endpoint_is_passed_over() {
    let mesh = Mesh::new();
    let (client, server, silent) = (mesh.pod("client"), mesh.pod("server"), mesh.pod("silent"));
    let drop = ["-w", "-I", "INPUT", "-p", "tcp", "--dport", "8080", "-j", "DROP"];
    assert!(silent.command("iptables").args(drop).status().unwrap().success());
    let _app = server.peer("http", 8080, &[]);
    let more = ", balance: round_robin, timeouts: {request: 300ms}";
    let _outbound = client.plain_sidecar(&entry(8080, &[silent.at(8080), server.at(8080)], more));
    let mut wire = Wire::open(&client, service(8080));
    let mut in_a_row = 0;
    remora_test::eventually("ten answers in a row", || {
        in_a_row = if wire.get("/name", &[]).code == 200 { in_a_row + 1 } else { 0 };
        (in_a_row == 10).then_some(())
    });
}

#[test]
fn a_good_answer_is_not_in_the_access_log() {
    let pair = Pair::start(Plan { both: "access_log: {format: json}", ..Plan::default() });
    assert_eq!(pair.client.curl(&[&pair.url("/good")]).code, 200);
    assert_eq!(pair.client.curl(&[&pair.url("/status/500")]).code, 500);
    let line = pair.outbound.printed("/status/500");
    let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert!(entry.as_object().unwrap().values().any(|value| value == 500 || value == "500"), "{entry}");
    assert!(!pair.outbound.stdout().contains("/good"), "only failed requests: {}", pair.outbound.stdout());
}

#[test]
fn all_answers_are_in_the_access_log_when_asked_for() {
    let pair = Pair::start(Plan { both: "access_log: {format: text, filter: all}", ..Plan::default() });
    assert_eq!(pair.client.curl(&[&pair.url("/good")]).code, 200);
    for sidecar in [&pair.outbound, &pair.inbound] {
        let line = sidecar.printed("/good");
        assert!(line.contains("200") && line.contains("GET"), "{line}");
    }
}

/// The local ports of the connections from here to `to`.
fn ports(pod: &Pod, to: SocketAddr) -> Vec<String> {
    let output = pod.command("ss").args(["-Htn", "state", "established", "dst", &to.to_string()]).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| line.split_whitespace().nth(2).unwrap().rsplit_once(':').unwrap().1.to_owned()).collect()
}

#[test]
fn a_sidecar_that_falls_silent_is_given_up() {
    let pair = Pair::usual();
    let mut wire = Wire::open(&pair.client, service(8080));
    assert_eq!(wire.get("/name", &[]).code, 200);
    wire.send("GET /silent HTTP/1.1\r\nhost: server:8080\r\n\r\n");
    pair.inbound.metric_until("remora_requests_active", &[], |n| n == 1.0);
    let ports = ports(&pair.client, pair.server.at(8080));
    assert!(!ports.is_empty(), "a connection between the sidecars");
    for port in &ports {
        let drop = ["-w", "-I", "INPUT", "-p", "tcp", "--sport", port, "-j", "DROP"];
        assert!(pair.server.command("iptables").args(drop).status().unwrap().success());
    }
    // Everything that was sent is acknowledged: only a question finds that nobody is there.
    let answer = wire.answer();
    assert_eq!(answer.code, 503, "{answer:?}");
    assert_eq!(wire.get("/name", &[]).code, 200, "by another connection");
}
