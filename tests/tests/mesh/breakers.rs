//! Circuit breakers: how much of a service may be in use at once, what becomes of the rest, and that all of it is free again.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use remora_test::client;
use remora_test::mesh::Mesh;
use remora_test::pod::Pod;
use remora_test::sidecar::Sidecar;

use crate::pair::{Pair, Plan, entry, service};
use crate::wire::Wire;

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: server:7100\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const UO: &str = "UO cluster \"server:7100\" is in use to its limit: ";

/// A client with a sidecar, and a server in the test's own hands.
struct Bed {
    outbound: Sidecar,
    listener: TcpListener,
    client: Pod,
    server: SocketAddr,
    _mesh: Mesh,
}

fn config(server: SocketAddr, breakers: &str, workers: usize) -> String {
    format!("{}\nworkers: {workers}", entry(7100, &[server], &format!(", circuit_breakers: {breakers}")))
}

impl Bed {
    fn start(breakers: &str, workers: usize) -> Self {
        let mesh = Mesh::new();
        let (client, pod) = (mesh.pod("client"), mesh.pod("server"));
        let server = pod.at(7100);
        let listener = pod.enter(|| TcpListener::bind(server)).unwrap();
        let patience = TimeVal::seconds(remora_test::PATIENCE.as_secs() as i64);
        setsockopt(&listener, sockopt::ReceiveTimeout, &patience).unwrap();
        let outbound = client.plain_sidecar(&config(server, breakers, workers));
        Self { outbound, listener, client, server, _mesh: mesh }
    }

    fn configure(&self, breakers: &str, workers: usize) {
        self.outbound.configure(&format!("service: client\n{}\n", config(self.server, breakers, workers)));
        self.outbound.metric_until("remora_config_reloads_total", &[("result", "applied")], |count| count == 1.0);
    }

    /// A client's connection that says something.
    fn say(&self, text: &str) -> Wire {
        let mut wire = Wire::open(&self.client, service(7100));
        wire.send(text);
        wire
    }

    /// A request that is refused because of a bound.
    fn refused(&self, limit: &str) {
        assert_eq!(self.refusal(), UO.to_owned() + limit);
    }

    /// Why a request is refused.
    fn refusal(&self) -> String {
        let answer = self.say(REQUEST).answer();
        assert_eq!(answer.code, 503, "{answer:?}");
        answer.header("x-remora-reason").unwrap_or_default().to_owned()
    }

    /// The next connection, and what it says.
    fn accept(&self, said: &str) -> TcpStream {
        let (mut stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(remora_test::PATIENCE)).unwrap();
        hear(&mut stream, said);
        stream
    }

    fn no_other_connection(&self) {
        self.listener.set_nonblocking(true).unwrap();
        assert_eq!(self.listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        self.listener.set_nonblocking(false).unwrap();
    }

    fn overflows(&self, limit: &str, count: f64) {
        self.outbound.metric_until("remora_upstream_overflows_total", &[("limit", limit)], |value| value == count);
    }

    fn in_use(&self, limit: &str, count: f64) {
        in_use(&self.outbound, limit, count);
    }
}

fn in_use(sidecar: &Sidecar, limit: &str, count: f64) {
    sidecar.metric_until("remora_upstream_in_use", &[("limit", limit)], |value| value == count);
}

/// That nothing of the cluster is in use.
fn all_free(sidecar: &Sidecar) {
    let limits = ["max_connections", "max_pending_requests", "max_requests", "max_retries"];
    limits.into_iter().for_each(|limit| in_use(sidecar, limit, 0.0));
    assert_eq!(sidecar.metrics().matching("remora_upstream_in_use", &[]).count(), limits.len());
}

/// Reads to the end of a head that begins so.
fn hear(stream: &mut TcpStream, begins: &str) {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    assert!(bytes.starts_with(begins.as_bytes()), "{}", bytes.escape_ascii());
}

fn serve(stream: &mut TcpStream, client: &mut Wire) {
    stream.write_all(ANSWER.as_bytes()).unwrap();
    assert_eq!(client.answer().code, 200);
}

#[test]
fn one_request_waits_for_the_only_connection_and_the_next_is_refused() {
    let bed = Bed::start("{max_connections: 1, max_pending_requests: 1}", 1);
    let mut first = bed.say(REQUEST);
    let mut server = bed.accept("GET / ");
    let gone = bed.say(REQUEST);
    bed.overflows("max_connections", 1.0);
    bed.refused("max_pending_requests 1");
    bed.overflows("max_pending_requests", 1.0);
    // A client that waits no longer makes room for another.
    drop(gone);
    bed.in_use("max_pending_requests", 0.0);
    let mut second = bed.say(REQUEST);
    bed.overflows("max_connections", 2.0);
    serve(&mut server, &mut first);
    hear(&mut server, "GET / ");
    serve(&mut server, &mut second);
    bed.no_other_connection();
    assert_eq!(bed.outbound.metric("remora_requests_total", &[("code", "503"), ("flag", "UO")]), 1.0);
    assert_eq!(bed.outbound.metric("remora_requests_total", &[("code", "200")]), 2.0);
    drop(server);
    all_free(&bed.outbound);
}

#[test]
fn an_upload_that_waits_is_whole_though_its_client_has_ended_its_side() {
    let bed = Bed::start("{max_connections: 1}", 1);
    let mut first = bed.say(REQUEST);
    let mut server = bed.accept("GET / ");
    let body = "u".repeat(40_000);
    let mut second = bed.say(&format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
    second.stream.shutdown(Shutdown::Write).unwrap();
    bed.in_use("max_pending_requests", 1.0);
    // Nothing is read of it meanwhile, and its client is asked whether it is there.
    std::thread::sleep(Duration::from_secs(3));
    serve(&mut server, &mut first);
    hear(&mut server, "POST / ");
    server.read_exact(&mut vec![0; body.len()]).unwrap();
    serve(&mut server, &mut second);
}

#[test]
fn a_request_that_waits_gets_a_connection_of_its_own_when_the_one_it_waits_for_ends() {
    let bed = Bed::start("{max_connections: 1}", 1);
    let first = bed.say(REQUEST);
    let server = bed.accept("GET / ");
    let mut waiting = [bed.say(REQUEST), bed.say(REQUEST)];
    bed.in_use("max_pending_requests", 2.0);
    drop((first, server));
    let mut server = bed.accept("GET / ");
    bed.in_use("max_pending_requests", 1.0);
    let [second, third] = &mut waiting;
    serve(&mut server, second);
    hear(&mut server, "GET / ");
    serve(&mut server, third);
}

#[test]
fn requests_are_bounded_over_all_workers_and_across_a_reload() {
    let bed = Bed::start("{max_requests: 2}", 2);
    let mut served: Vec<_> = (0..2).map(|_| (bed.say(REQUEST), bed.accept("GET / "))).collect();
    for refused in 1..=4 {
        bed.refused("max_requests 2");
        bed.overflows("max_requests", f64::from(refused));
    }
    bed.configure("{max_requests: 1}", 2);
    // Until a worker knows. What was in use before still is.
    let deadline = Instant::now() + remora_test::PATIENCE;
    while bed.refusal() != UO.to_owned() + "max_requests 1" {
        assert!(Instant::now() < deadline, "{}", bed.refusal());
    }
    for (client, server) in &mut served {
        serve(server, client);
    }
    bed.in_use("max_requests", 0.0);
}

#[test]
fn who_waits_is_not_forgotten_by_a_reload() {
    let bed = Bed::start("{max_connections: 1}", 1);
    let mut first = bed.say(REQUEST);
    let mut server = bed.accept("GET / ");
    let mut waiting = [bed.say(REQUEST), bed.say(REQUEST)];
    bed.in_use("max_pending_requests", 2.0);
    bed.configure("{max_connections: 1, max_retries: 3}", 1);
    // The pools are new, and so has to be their connection.
    let mut again = bed.accept("GET / ");
    let [second, third] = &mut waiting;
    serve(&mut again, second);
    hear(&mut again, "GET / ");
    serve(&mut again, third);
    serve(&mut server, &mut first);
    drop((server, again));
    all_free(&bed.outbound);
}

#[test]
fn what_cannot_be_reached_is_not_tried_again_beyond_the_limit() {
    for (limit, attempts) in [(0, 1.0), (1, 2.0)] {
        let mesh = Mesh::new();
        let (client, server) = (mesh.pod("client"), mesh.pod("server"));
        // No endpoint is dialled on the suspicion that it speaks first.
        let more = format!(", protocol: http, circuit_breakers: {{max_retries: {limit}}}");
        let entry = entry(7100, &[server.at(1), server.at(2)], &more);
        let outbound = client.plain_sidecar(&entry);
        let mut wire = Wire::open(&client, service(7100));
        let answer = wire.get("/", &[]);
        assert!(answer.code == 503 && answer.header("x-remora-reason").unwrap().starts_with("UF "), "{answer:?}");
        assert_eq!(outbound.metric("remora_upstream_attempts_total", &[]), attempts);
        let overflows = outbound.metric("remora_upstream_overflows_total", &[("limit", "max_retries")]);
        assert_eq!(overflows, 2.0 - attempts);
        all_free(&outbound);
    }
}

#[test]
fn a_connection_of_bytes_beyond_the_limit_is_ended_and_told_of() {
    let bed = Bed::start("{max_connections: 1}, protocol: tcp", 2);
    let said = "\x01bytes\r\n\r\n";
    let mut first = bed.say(said);
    let mut server = bed.accept(said);
    let mut second = Wire::open(&bed.client, service(7100));
    // By an end or a reset, without a word.
    let mut heard = Vec::new();
    let end = second.stream.read_to_end(&mut heard);
    assert!(heard.is_empty() && !end.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
    bed.overflows("max_connections", 1.0);
    let line = bed.outbound.printed("UO");
    assert!(line.contains("max_connections 1"), "{line}");
    server.write_all(b"whole").unwrap();
    assert_eq!(first.bytes(5), b"whole");
    bed.no_other_connection();
    drop((first, server));
    bed.in_use("max_connections", 0.0);
    let _first = bed.say(said);
    bed.accept(said);
}

#[test]
fn clients_that_are_silent_before_they_speak_http_hold_no_place() {
    let bed = Bed::start("{max_connections: 1}", 1);
    let open = || {
        let wire = Wire::open(&bed.client, service(7100));
        // On the suspicion that its server speaks first.
        (wire, bed.listener.accept().unwrap().0)
    };
    let (mut clients, _dialled): (Vec<_>, Vec<_>) = (0..3).map(|_| open()).unzip();
    clients[0].send(REQUEST);
    let mut server = bed.accept("GET / ");
    serve(&mut server, &mut clients[0]);
    for client in &mut clients[1..] {
        client.send(REQUEST);
        hear(&mut server, "GET / ");
        serve(&mut server, client);
    }
    bed.overflows("max_connections", 0.0);
    // But who turns out to say bytes needs one.
    let (mut bytes, _dialled) = open();
    bytes.send("\x01bytes");
    let end = bytes.stream.read_to_end(&mut Vec::new());
    assert!(!end.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
    bed.overflows("max_connections", 1.0);
}

#[test]
fn a_call_beyond_the_limit_is_unavailable() {
    let bed = Bed::start("{max_requests: 1}", 1);
    let mut first = bed.say(REQUEST);
    let mut server = bed.accept("GET / ");
    let call = bed.client.block_on(|| async {
        let mut client = client::h2(service(7100)).await.unwrap();
        client::unary(&mut client, "server:7100", "/a.B/C", &[]).await.unwrap()
    });
    assert_eq!((call.http, call.status), (200, Some(14)), "{call:?}");
    assert!(call.message.contains("max_requests 1"), "{call:?}");
    serve(&mut server, &mut first);
}

#[test]
fn what_left_http_is_in_use_until_it_ends() {
    let active = |outbound: &Sidecar, count: u32| {
        let wanted = format!(" active {count}\n");
        remora_test::eventually("the endpoint's requests", || {
            outbound.admin("/clusters").body.contains(&wanted).then_some(())
        });
    };
    let pair = Pair::start(Plan { entry: ", circuit_breakers: {max_requests: 1}", ..Plan::default() });
    let upgrade = "GET /upgrade HTTP/1.1\r\nhost: server:8080\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    let mut tunnel = Wire::open(&pair.client, service(8080));
    tunnel.send(&format!("{upgrade}word"));
    assert_eq!((tunnel.answer().code, tunnel.bytes(4)), (101, b"word".to_vec()));
    in_use(&pair.outbound, "max_requests", 1.0);
    active(&pair.outbound, 1);
    let refused = Wire::open(&pair.client, service(8080)).get("/name", &[]);
    assert!(refused.code == 503 && refused.body.contains("max_requests 1"), "{refused:?}");
    drop(tunnel);
    in_use(&pair.outbound, "max_requests", 0.0);
    active(&pair.outbound, 0);
    // And a stream of HTTP/2.
    pair.client.block_on(|| async {
        let (answer, send) = crate::upgrade::stream(&mut crate::upgrade::http2().await, "/upgrade").await;
        assert_eq!(answer.status(), 200);
        in_use(&pair.outbound, "max_requests", 1.0);
        active(&pair.outbound, 1);
        drop((answer, send));
    });
    in_use(&pair.outbound, "max_requests", 0.0);
    active(&pair.outbound, 0);
}

/// How many connections there ever were to the cluster.
fn connections(sidecar: &Sidecar) -> f64 {
    sidecar.metric("remora_upstream_connections_total", &[("cluster", "server:8080")])
}

#[test]
fn streams_wait_for_room_on_the_only_connection() {
    let entry = ", circuit_breakers: {max_connections: 1}";
    let inbound = "{mtls: strict}\nlimits: {streams: 4}";
    let pair = Pair::start(Plan { entry, inbound, ..Plan::default() });
    // By one worker, which hears of the four streams first.
    let url = pair.url("/delay/5");
    pair.client.h2load(&["-n", "1", "-c", "1", &url]).assert_clean(1);
    pair.client.h2load(&["-n", "300", "-c", "1", "-m", "60", &url]).assert_clean(300);
    let waited = pair.outbound.metric("remora_upstream_overflows_total", &[("limit", "max_connections")]);
    assert!(waited >= 56.0, "{waited} waits");
    assert!(connections(&pair.outbound) <= 2.0, "one for each worker: {}", connections(&pair.outbound));
    in_use(&pair.outbound, "max_requests", 0.0);
    in_use(&pair.outbound, "max_pending_requests", 0.0);
}

#[test]
fn after_a_load_beyond_every_limit_nothing_is_in_use() {
    let entry = ", circuit_breakers: {max_connections: 3, max_pending_requests: 5, max_requests: 8, max_retries: 1}";
    let mut pair = Pair::start(Plan { entry, ..Plan::default() });
    let url = pair.url("/delay/10");
    let loads = [["--h1", "-t1", "-c20", "-m1"], ["--h1", "-t1", "-c20", "-m1"], ["-t1", "-c8", "-m20", "-w16"]];
    let mut running: Vec<_> =
        loads.iter().map(|kind| pair.client.start_h2load(&[&kind[..], &["-D", "60", &url]].concat())).collect();
    for limit in ["max_pending_requests", "max_requests"] {
        let name = "remora_upstream_overflows_total";
        pair.outbound.metric_until(name, &[("limit", limit)], |count| count >= 50.0);
    }
    // A client that leaves within its requests, a server that does, and one that is there again.
    running.pop().unwrap().stop();
    pair.replace_app("http", 8080, &[]);
    let served = pair.outbound.metric("remora_requests_total", &[("code", "200")]);
    pair.outbound.metric_until("remora_requests_total", &[("code", "200")], |count| count >= served + 100.0);
    running.into_iter().for_each(|load| load.stop());
    for limit in ["max_pending_requests", "max_requests", "max_retries"] {
        in_use(&pair.outbound, limit, 0.0);
    }
    assert_eq!(pair.client.curl(&[&pair.url("/name")]).code, 200);
    drop(pair.inbound);
    all_free(&pair.outbound);
}
