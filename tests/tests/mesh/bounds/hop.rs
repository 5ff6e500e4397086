//! Heads that are too large for a connection which carries the requests of others end for themselves.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, RwLock};

use remora_test::mesh::Mesh;
use remora_test::pod::Pod;
use remora_test::sidecar::Sidecar;

use super::{gate, head};
use crate::pair::{entry, service};
use crate::wire::Wire;

const LARGE: &str = "limits: {header_bytes: 262144}";
/// HPACK takes 28 bits for each: within the bounds of a head they are a block that is far beyond (RFC 7541 appendix B).
const COSTLY: u8 = 0xf9;

/// Of the requests under way it tells, and answers them when nothing is `held` any more; the others at once.
fn serve(mut stream: TcpStream, held: &RwLock<()>, asked: &Sender<()>) {
    let mut path = [0; 6];
    while stream.read_exact(&mut path).is_ok() && head(&mut stream) {
        let mut say = |text: &[u8]| stream.write_all(text).unwrap();
        match &path {
            b"GET /s" => {
                say(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello");
                asked.send(()).unwrap();
                drop(held.read());
                say(b"world");
            }
            b"POST /" => {
                asked.send(()).unwrap();
                drop(held.read());
                say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            }
            b"GET /a" => {
                let head = [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-large: ", &[COSTLY; 55_000][..], b"\r\n\r\n"];
                say(&head.concat());
            }
            // To the end of the trailers.
            b"PUT /t" if !head(&mut stream) => return,
            _ => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap(),
        }
    }
}

/// An application in this pod, which is a `mesh` peer with the default limits; what it tells, and its sidecar.
fn application(pod: &Pod, held: Arc<RwLock<()>>) -> (Receiver<()>, Sidecar) {
    let listener = pod.enter(|| TcpListener::bind(pod.at(8080))).unwrap();
    let (asked, tells) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, held, asked) = (stream.unwrap(), held.clone(), asked.clone());
            std::thread::spawn(move || serve(stream, &held, &asked));
        }
    });
    (tells, pod.sidecar("workers: 1\ninbound: {mtls: strict}"))
}

/// The whole answer to a request of this beginning, with so many of these bytes in a field, and this end.
fn ask(client: &Pod, to: SocketAddr, (begin, byte, count, end): (&str, u8, usize, &str)) -> String {
    let mut wire = Wire::open(client, to);
    let begin = begin.replace('|', " HTTP/1.1\r\nhost: server:8080\r\nconnection: close\r\n");
    wire.stream.write_all(&[begin.as_bytes(), &vec![byte; count], end.as_bytes()].concat()).unwrap();
    String::from_utf8_lossy(&wire.rest()).chars().filter(char::is_ascii).collect()
}

/// A client of a proxy with larger limits asks for what the other end of the hop has no room for, beside others.
fn undisturbed(client: &Pod, to: SocketAddr, held: &RwLock<()>, (tells, inbound): &(Receiver<()>, Sidecar)) {
    let far = ("GET /|x-large: ", b'q', 250_000, "\r\n\r\n");
    let beyond = |answer: String| {
        let why = answer.starts_with("HTTP/1.1 431 ") && answer.contains("DPE bad request: head of 25");
        assert!(why && answer.contains("SETTINGS_MAX_HEADER_LIST_SIZE"), "{answer}");
    };
    // Also as the first on a connection.
    beyond(ask(client, to, far));
    let holding = held.write().unwrap();
    let mut slow = [("GET /slow", "world"), ("POST /", "ok")].map(|(line, end)| {
        let mut wire = Wire::open(client, to);
        wire.send(&format!("{line} HTTP/1.1\r\nhost: server:8080\r\nconnection: close\r\n\r\n"));
        tells.recv_timeout(remora_test::PATIENCE).unwrap();
        (wire, end)
    });
    beyond(ask(client, to, far));
    for (request, code) in [
        (("GET /|x-large: ", b'q', 140_000, "\r\n\r\n"), 431),
        (("GET /|x-large: ", COSTLY, 110_000, "\r\n\r\n"), 431),
        (("GET /|x-large: ", COSTLY, 55_000, "\r\n\r\n"), 200),
        (("PUT /t|transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-large: ", COSTLY, 55_000, "\r\n\r\n"), 200),
        (("PUT /t|transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-large: ", COSTLY, 250_000, "\r\n\r\n"), 400),
        (("GET /a|x: ", b'q', 1, "\r\n\r\n"), 200),
    ] {
        let answer = ask(client, to, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{request:?}: {answer}");
    }
    drop(holding);
    for (wire, end) in &mut slow {
        let answer = String::from_utf8(wire.rest()).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(*end), "{answer}");
    }
    assert_eq!(inbound.metric("remora_protocol_violations_total", &[("reason", "h2_calm")]), 0.0);
}

#[test]
fn a_head_too_large_for_the_next_sidecar_leaves_a_gateways_hop_alone() {
    let mesh = Mesh::new();
    let (gateway, server, caller) = (mesh.pod("gateway"), mesh.pod("server"), mesh.pod("caller"));
    let held = Arc::default();
    let application = application(&server, Arc::clone(&held));
    gateway.identity();
    let proxy = gateway.proxy(&gateway.config(&format!(
        "workers: 1\ngateway:\n  listen: 0.0.0.0:8080\n  {LARGE}\n  routes:\n    - {{path: /, endpoints: [\"{}\"], mtls: true}}",
        server.at(8080)
    )));
    proxy.ready();
    undisturbed(&caller, gateway.at(8080), &held, &application);
    let labels = [("direction", "gateway"), ("reason", "head_too_large")];
    assert_eq!(proxy.metric("remora_protocol_violations_total", &labels), 3.0);
}

#[test]
fn a_head_too_large_for_the_next_sidecar_leaves_the_hop_between_sidecars_alone() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let held = Arc::default();
    let application = application(&server, Arc::clone(&held));
    let _outbound =
        client.sidecar(&format!("workers: 1\n{LARGE}\n{}", entry(8080, &[server.at(8080)], ", mtls: true")));
    undisturbed(&client, service(8080), &held, &application);
}

/// Ends the connection with ENHANCE_YOUR_CALM for the first request, which is not processed; whether there was one.
fn enraged(mut stream: TcpStream) -> bool {
    let mut frame = [0; 9];
    // SETTINGS, without any.
    let begun = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).is_ok() && stream.read_exact(&mut [0; 24]).is_ok();
    while begun && stream.read_exact(&mut frame).is_ok() {
        let [a, b, c, kind, ..] = frame;
        let size = u32::from_be_bytes([0, a, b, c]) as usize;
        if stream.read_exact(&mut vec![0; size]).is_err() {
            return false;
        }
        if kind == 1 {
            return stream.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11]).is_ok();
        }
    }
    false
}

#[test]
fn a_request_that_ends_its_connection_is_sent_once_more_at_most() {
    let ends = Arc::new(AtomicUsize::new(0));
    let counts = ends.clone();
    let gate = gate("", ", protocol: http2", "0", move |stream| {
        counts.fetch_add(usize::from(enraged(stream)), Ordering::Relaxed);
    });
    let mut wire = gate.open();
    let answer = wire.get("/", &[]);
    assert!(answer.code == 503 && answer.body.starts_with("UC "), "{answer:?}");
    assert_eq!(ends.load(Ordering::Relaxed), 2);
}
