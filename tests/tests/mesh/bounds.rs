//! What a client of a gateway may take, in bytes, in fields and in time; and what it costs an upstream that it takes more.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use nix::sys::signal::Signal;
use remora_test::client;
use remora_test::mesh::Mesh;
use remora_test::pod::Pod;
use remora_test::sidecar::Sidecar;
use tokio::runtime::Runtime;

use crate::wire::Wire;

mod empties;
mod hop;
mod trailers;

/// A gateway before a server that a test plays.
struct Gate {
    gateway: Sidecar,
    caller: Pod,
    pod: Pod,
    _server: Pod,
    _mesh: Mesh,
}

/// A gateway with more `gateway` and `cluster` fields, in YAML's flow style with a leading comma, and a route with `timeout`. `serve` has
/// each connection to the server.
fn gate(gateway: &str, cluster: &str, timeout: &str, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Gate {
    let mesh = Mesh::new();
    let (pod, server, caller) = (mesh.pod("gateway"), mesh.pod("server"), mesh.pod("caller"));
    let listener = server.enter(|| TcpListener::bind(server.at(8080))).unwrap();
    let serve = std::sync::Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, serve) = (stream.unwrap(), serve.clone());
            std::thread::spawn(move || serve(stream));
        }
    });
    let config = format!(
        "service: gateway\ngateway: {{listen: \"0.0.0.0:8080\", routes: [{{path: /, cluster: app, timeout: {timeout}}}]{gateway}}}\n\
         clusters:\n  app: {{endpoints: [\"{}\"]{cluster}}}\n",
        server.at(8080)
    );
    let gateway = pod.proxy(&config);
    gateway.ready();
    Gate { gateway, caller, pod, _server: server, _mesh: mesh }
}

impl Gate {
    fn open(&self) -> Wire {
        Wire::open(&self.caller, self.pod.at(8080))
    }

    /// An HTTP/2 connection, driven as long as the runtime lives.
    fn open2(&self, runtime: &Runtime) -> client::H2 {
        let to = self.pod.at(8080);
        self.caller.enter(|| runtime.block_on(client::h2(to))).unwrap()
    }

    fn flagged(&self, flag: &str, times: f64) {
        let labels = [("direction", "gateway"), ("flag", flag)];
        self.gateway.metric_until("remora_requests_total", &labels, |n| n == times);
    }

    fn upstreams(&self, open: f64) {
        self.gateway.metric_until("remora_upstream_connections_active", &[("cluster", "app")], |n| n == open);
    }
}

/// One whose threads go on while the test waits for something else.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Reads to the end of a head.
fn head(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return false,
        }
    }
    true
}

/// Answers without an end.
fn endless(mut stream: TcpStream) {
    let part = [b'x'; 16_384];
    let begun = head(&mut stream) && stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").is_ok();
    while begun && stream.write_all(&part).is_ok() {}
}

/// Reads a head, nothing behind it, and never ends.
fn deaf(mut stream: TcpStream) {
    head(&mut stream);
    loop {
        std::thread::park();
    }
}

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// Two clients, one of each version, that take nothing of an endless answer.
fn unread(gate: &Gate, flag: &str) {
    let mut wire = gate.open();
    wire.send(GET);
    gate.flagged(flag, 1.0);
    gate.upstreams(0.0);
    let runtime = runtime();
    let mut h2 = gate.open2(&runtime);
    let answer = runtime.block_on(h2.send_request(client::get2("a", "/"))).unwrap();
    gate.flagged(flag, 2.0);
    gate.upstreams(0.0);
    drop(answer);
}

#[test]
fn an_answer_that_nobody_reads_ends() {
    unread(&gate(", limits: {stream_idle: 1s}", "", "0", endless), "SI");
}

#[test]
fn an_answer_that_nobody_reads_is_kept_while_its_client_sends() {
    const IDLE: Duration = Duration::from_secs(2);
    let (received, receives) = std::sync::mpsc::channel();
    let gate = gate(", limits: {stream_idle: 2s}", "", "0", move |mut stream| {
        assert!(head(&mut stream));
        let (mut upload, received) = (stream.try_clone().unwrap(), received.clone());
        std::thread::spawn(move || while upload.read_exact(&mut [0]).is_ok() && received.send(()).is_ok() {});
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        while stream.write_all(&[b'x'; 16_384]).is_ok() {}
    });
    let mut wire = gate.open();
    wire.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 500000000\r\n\r\n");
    let begun = std::time::Instant::now();
    while begun.elapsed() < 5 * IDLE {
        wire.send("u");
        receives.recv_timeout(remora_test::PATIENCE).expect("the upload goes on");
        std::thread::sleep(IDLE / 10);
    }
    gate.flagged("SI", 1.0);
    gate.upstreams(0.0);
}

#[test]
fn a_requests_timeout_ends_an_answer_that_nobody_reads() {
    unread(&gate("", "", "1s", endless), "UT");
}

#[test]
fn a_body_that_stands_still_is_waited_for_no_longer() {
    let gate = gate(", limits: {stream_idle: 1s}", "", "0", deaf);
    let mut wire = gate.open();
    wire.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc");
    let answer = wire.answer();
    assert_eq!((answer.code, answer.header("connection")), (408, Some("close")), "{answer:?}");
    assert!(answer.body.contains("SI idle for 1s"), "{answer:?}");
    assert!(wire.rest().is_empty());
    gate.flagged("SI", 1.0);
    gate.upstreams(0.0);
}

#[test]
fn a_client_that_leaves_is_seen_though_nothing_is_read_from_it() {
    let gate = gate("", "", "0", deaf);
    let mut wire = gate.open();
    wire.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 500000000\r\n\r\n");
    // Until there is no room anywhere.
    wire.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    while wire.stream.write_all(&[b'u'; 65_536]).is_ok() {}
    gate.upstreams(1.0);
    socket2::SockRef::from(&wire.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(wire);
    gate.flagged("DC", 1.0);
    gate.upstreams(0.0);
}

#[test]
fn what_ends_with_its_connection_is_never_complete_by_a_proxys_end() {
    let mut gate = gate("", "", "0", |mut stream| {
        head(&mut stream);
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhalf").unwrap();
        head(&mut stream);
    });
    let mut wire = gate.open();
    wire.send("GET / HTTP/1.0\r\nhost: a\r\n\r\n");
    let mut read = Vec::new();
    while !read.ends_with(b"half") {
        let mut byte = [0];
        wire.stream.read_exact(&mut byte).unwrap();
        read.push(byte[0]);
    }
    gate.gateway.signal(Signal::SIGKILL);
    gate.gateway.wait();
    let error = wire.stream.read(&mut [0]).expect_err("an end would say that it was complete");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn heads_are_bounded_as_configured() {
    let limits = ", limits: {header_bytes: 4096, headers: 16, header_timeout: 1s, streams: 7}";
    let gate = gate(limits, "", "0", |mut stream| {
        while head(&mut stream) {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        }
    });
    let fields = |count| (0..count).map(|n| format!("x-{n}: 1\r\n")).collect::<String>();
    for (text, code, why) in [
        (format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(5000)), 431, "head longer than 4096 bytes"),
        (format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(5000)), 414, "request line longer than 4096 bytes"),
        (format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", fields(16)), 431, "more than 16 header fields"),
        ("GET / HTTP/1.1\r\nhost: a\r\n".to_owned(), 408, "its head did not come within 1s"),
    ] {
        let mut wire = gate.open();
        wire.send(&text);
        let answer = wire.answer();
        assert_eq!(answer.code, code, "{answer:?}");
        assert!(answer.body.contains(&format!("DPE bad request: {why}")), "{answer:?}");
    }
    let mut wire = gate.open();
    wire.send(&format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", fields(15)));
    assert_eq!(wire.answer().code, 200);

    let runtime = runtime();
    let mut h2 = gate.open2(&runtime);
    for (count, code) in [(16, 200), (17, 431), (16, 200)] {
        let mut request = client::get2("a", "/");
        let text: Vec<String> = (0..count).map(|n| format!("x-{n}")).collect();
        request
            .headers_mut()
            .extend(text.iter().map(|name| (name.parse::<http::HeaderName>().unwrap(), "1".parse().unwrap())));
        let (got, _, text) = runtime.block_on(async {
            let answer = h2.send_request(request).await.unwrap();
            client::text(answer).await.unwrap()
        });
        assert_eq!(got, code, "{text}");
        assert_eq!(text.contains("more than 16 header fields"), code == 431, "{text}");
    }
    gate.flagged("DPE", 5.0);
    let most = gate.caller.enter(|| {
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(gate.pod.at(8080)).await.unwrap();
            let (sender, mut connection) = h2::client::handshake(stream).await.unwrap();
            // The first PONG comes behind the settings.
            let mut pings = connection.ping_pong().unwrap();
            tokio::spawn(connection);
            pings.ping(h2::Ping::opaque()).await.unwrap();
            sender.current_max_send_streams()
        })
    });
    assert_eq!(most, 7);
}

/// Answers by HTTP/2 with a length, and says that it was all only later.
fn ends_later(stream: TcpStream) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        stream.set_nonblocking(true).unwrap();
        let mut h2 = h2::server::handshake(tokio::net::TcpStream::from_std(stream).unwrap()).await.unwrap();
        while let Some(Ok((request, mut respond))) = h2.accept().await {
            let path = request.uri().path();
            let mut head = Response::builder().header("content-length", 5);
            if path == "/twice" {
                head = head.header("content-length", 5);
            }
            if path == "/announced" {
                head = head.header("trailer", "x-end");
            }
            let mut body = respond.send_response(head.body(()).unwrap(), false).unwrap();
            if request.method() != Method::HEAD {
                body.send_data(Bytes::from_static(b"hello"), false).unwrap();
            }
            let trailers = HeaderMap::from_iter([("x-end".parse().unwrap(), "1".parse().unwrap())]);
            match path {
                "/" | "/twice" => body.send_data(Bytes::new(), true),
                _ => body.send_trailers(trailers),
            }
            .unwrap();
        }
    });
}

#[test]
fn an_answer_whose_end_comes_behind_its_last_byte_is_whole() {
    let gate = gate("", ", protocol: http2", "0", ends_later);
    let mut wire = gate.open();
    for path in ["/", "/trailers", "/"] {
        let answer = wire.get(path, &[]);
        assert_eq!((answer.code, answer.body.as_str()), (200, "hello"), "{path}");
    }
    let mut trailed = gate.open();
    trailed.send("GET /announced HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let answer = String::from_utf8(trailed.rest()).unwrap();
    assert!(answer.ends_with("\r\n\r\n5\r\nhello\r\n0\r\nx-end: 1\r\n\r\n"), "{answer:?}");
    let twice = gate.open().get("/twice", &[]);
    assert!(twice.code == 502 && twice.body.contains("UPE ") && twice.body.contains("content-length"), "{twice:?}");
    wire.send("HEAD / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let head = String::from_utf8(wire.rest()).unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    let labels = [("direction", "gateway"), ("code", "200"), ("flag", "")];
    gate.gateway.metric_until("remora_requests_total", &labels, |n| n == 5.0);
}
