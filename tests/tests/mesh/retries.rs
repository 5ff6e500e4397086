//! Requests that are sent again: what an endpoint may have done is done once more at most. The servers are part of the test, so that
//! they count what reaches them.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use remora_test::mesh::Mesh;
use remora_test::pod::Pod;

use crate::pair::{entry, service};
use crate::wire::Wire;

/// Serves a connection up to a request for `/kill`, which gets no answer: whether there was one.
fn serve(stream: TcpStream) -> bool {
    let mut lines = BufReader::new(stream);
    loop {
        let (mut head, mut line) = (String::new(), String::new());
        while line != "\r\n" {
            line.clear();
            if lines.read_line(&mut line).unwrap_or_default() == 0 {
                return false;
            }
            head += &line;
        }
        if head.starts_with("GET /kill ") {
            return true;
        }
        lines.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
    }
}

/// A server at port 8080 that `/kill` kills; where it is `mortal` for good, else the connection alone. Counts its deaths.
fn server(pod: &Pod, mortal: bool, deaths: &Arc<AtomicUsize>) {
    let listener = pod.enter(|| TcpListener::bind("[::]:8080")).unwrap();
    let deaths = deaths.clone();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let held = stream.try_clone().unwrap();
            if serve(stream) {
                deaths.fetch_add(1, Ordering::Relaxed);
                if mortal {
                    drop(listener);
                    return drop(held);
                }
            }
        }
    });
}

/// Three servers, each with one connection that waits for a request, get one that kills: how many die of it, where their
/// route says so much more.
fn deaths(meshed: bool, mortal: bool, more: &str) -> usize {
    let mesh = Mesh::new();
    let pods = ["a", "b", "c"].map(|name| mesh.pod(name));
    let client = mesh.pod("client");
    let deaths = Arc::default();
    pods.iter().for_each(|pod| server(pod, mortal, &deaths));
    let _inbound = pods.each_ref().map(|pod| meshed.then(|| pod.sidecar("workers: 1\ninbound: {mtls: strict}")));
    let endpoints = pods.each_ref().map(|pod| pod.at(8080));
    let routes = format!("[{{path: /, cluster: \"server:8080\"{more}}}]");
    let more = format!(", balance: round_robin, mtls: {meshed}, routes: {routes}");
    let _outbound = client.sidecar(&format!("workers: 1\n{}", entry(8080, &endpoints, &more)));
    let mut wire = Wire::open(&client, service(8080));
    for _ in &pods {
        assert_eq!(wire.get("/", &[]).body, "ok");
    }
    let answer = wire.get("/kill", &[]);
    let reason = answer.header("x-remora-reason").unwrap_or_default();
    assert!(answer.code == 503 && reason.starts_with("UC "), "{answer:?}");
    deaths.load(Ordering::Relaxed)
}

#[test]
fn a_request_that_kills_what_serves_it_is_sent_once_more_at_most_and_on_a_new_connection() {
    assert_eq!(deaths(false, false, ", retry: idempotent"), 2);
}

#[test]
fn a_request_that_kills_what_serves_it_is_sent_once_unless_its_route_says_more() {
    assert_eq!(deaths(false, false, ""), 1);
}

#[test]
fn a_request_that_killed_an_application_is_not_said_to_have_reached_none() {
    assert_eq!(deaths(true, true, ", retry: idempotent"), 1);
}
