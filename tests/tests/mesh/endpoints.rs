//! Endpoints that come, go, stay silent or carry only so much. The servers are part of the test, so that they see their connections.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use remora_test::mesh::Mesh;
use remora_test::netns::{run, tool};
use remora_test::pod::Pod;
use remora_test::{PATIENCE, eventually};

use crate::pair::{VIRTUAL, entry, service};
use crate::wire::Wire;

/// An HTTP/1.1 server of one connection: says that a request came, answers with its name when it is told to, and
/// tells of the connection's end.
struct Server {
    tell: Sender<()>,
    events: Receiver<&'static str>,
}

impl Server {
    fn start(pod: &Pod) -> Self {
        let listener = pod.enter(|| TcpListener::bind("[::]:8080")).unwrap();
        let ((tell, told), (say, events)) = (channel(), channel());
        let name = pod.name().to_owned();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while let Ok(1) = stream.read(&mut byte) {
                head.push(byte[0]);
                if head.ends_with(b"\r\n\r\n") {
                    head.clear();
                    say.send("request").unwrap();
                    told.recv_timeout(PATIENCE).unwrap();
                    let length = name.len();
                    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{name}").unwrap();
                }
            }
            say.send("end").unwrap();
        });
        Self { tell, events }
    }

    fn answer(&self) {
        self.tell.send(()).unwrap();
    }

    fn says(&self, what: &str) {
        assert_eq!(self.events.recv_timeout(PATIENCE), Ok(what));
    }
}

#[test]
fn an_endpoint_that_is_removed_finishes_what_it_has_and_gets_no_more() {
    let mesh = Mesh::new();
    let (client, old, new) = (mesh.pod("client"), mesh.pod("old"), mesh.pod("new"));
    let (at_old, at_new) = (Server::start(&old), Server::start(&new));
    // One worker, so one pool: a server here takes one connection.
    let endpoints = |pod: &Pod| format!("workers: 1\n{}", entry(8080, &[pod.at(8080)], ", mtls: false"));
    let outbound = client.sidecar(&endpoints(&old));
    let mut under_way = Wire::open(&client, service(8080));
    under_way.send("GET / HTTP/1.1\r\nhost: server\r\n\r\n");
    at_old.says("request");
    outbound.configure(&client.config(&endpoints(&new)));
    let address = new.at(8080).to_string();
    eventually("the new endpoint", || outbound.admin("/clusters").body.contains(&address).then_some(()));
    at_new.answer();
    assert_eq!(client.curl(&[&format!("http://{VIRTUAL}:8080/")]).body, "new");
    at_new.says("request");
    at_old.answer();
    let answer = under_way.answer();
    assert_eq!((answer.code, answer.body.as_str()), (200, "old"), "what was under way");
    // It would have been kept for the next request otherwise.
    at_old.says("end");
    at_new.answer();
    assert_eq!(under_way.get("/", &[]).body, "new", "the client's own connection goes on");
}

#[test]
fn a_connection_that_nobody_uses_is_closed() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let at_server = Server::start(&server);
    let outbound = client.sidecar(&entry(8080, &[server.at(8080)], ", mtls: false, timeouts: {idle: 2s}"));
    let mut wire = Wire::open(&client, service(8080));
    at_server.answer();
    assert_eq!(wire.get("/", &[]).body, "server");
    at_server.says("request");
    let open = outbound.metric("remora_upstream_connections_active", &[("cluster", "server:8080")]);
    assert_eq!(open, 1.0, "kept for the next");
    at_server.says("end");
    outbound.metric_until("remora_upstream_connections_active", &[("cluster", "server:8080")], |n| n == 0.0);
    assert_eq!(wire.rest(), b"", "and the client's own too");
}

/// Ten times the head start that one family has (RFC 8305: 250 ms).
const PROMPT: Duration = Duration::from_millis(2_500);

#[test]
fn a_name_whose_ipv6_address_is_a_black_hole_is_reached_by_ipv4_at_once() {
    let mesh = Mesh::new();
    let (client, server, hole) = (mesh.pod("client"), mesh.pod("server"), mesh.pod("hole"));
    run(hole.command(tool("ip6tables")).args(["-A", "INPUT", "-p", "tcp", "-j", "DROP"])).unwrap();
    client.hosts(&[(hole.v6().to_string(), "dual.example"), (server.v4().to_string(), "dual.example")]).unwrap();
    let _app = server.peer("echo", 7000, &[]);
    let outbound = client.sidecar(&format!(
        "outbound:\n  - {{host: \"dual.example:7000\", addresses: [\"{VIRTUAL}\"], mtls: false, timeouts: {{connect: 60s}}}}"
    ));
    let failures = || outbound.metric("remora_upstream_connect_failures_total", &[]);
    // One of two is asked first, by chance.
    for _ in 0..64 {
        let begin = Instant::now();
        let mut stream = client.enter(|| TcpStream::connect(service(7000))).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"\x01").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        assert!(begin.elapsed() < PROMPT, "{:?}", begin.elapsed());
        if failures() >= 1.0 {
            break;
        }
    }
    assert!(failures() >= 1.0, "the black hole was never asked");
}
