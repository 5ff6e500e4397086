//! Answers that have begun when the grace of what carries them is over: that it was not their server's doing is said in a way that
//! their clients know to ask again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Sender};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use remora_test::PATIENCE;
use remora_test::mesh::Mesh;
use remora_test::pod::Pod;
use remora_test::sidecar::Sidecar;
use tokio::sync::oneshot;

use crate::pair::{entry, service};
use crate::trust::with_mtls;

/// Each stream's window at the client.
const WINDOW: usize = 65_535;
/// More than the windows of a stream hold, from end to end.
const MUCH: usize = 2_000_000;
/// More than the client's window holds, less than a sidecar's.
const WHOLE: usize = 100_000;

/// A sidecar whose streams have a second to end, with more in its `mtls` part.
fn sidecar(pod: &Pod, rest: &str, mtls: &str) -> Sidecar {
    pod.identity();
    pod.redirect();
    let config = pod.config(&format!("drain_timeout: 1s\nlame_duck: 0s\n{rest}"));
    let sidecar = pod.proxy(&if mtls.is_empty() { config } else { with_mtls(&config, mtls) });
    sidecar.ready();
    sidecar
}

/// A client and a server, each with a sidecar, and more in the `mtls` parts of these.
fn world(at_client: &str, at_server: &str) -> (Pod, Sidecar, Pod, Sidecar) {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let inbound = sidecar(&server, "inbound: {mtls: strict}", at_server);
    let outbound = sidecar(&client, &entry(8080, &[server.at(8080)], ""), at_client);
    (client, outbound, server, inbound)
}

/// An HTTP/2 application. Only `/whole` is a whole answer; the others have no end after a word, or after much.
fn application(server: &Pod) {
    let listener = server.enter(|| TcpListener::bind(("0.0.0.0", 8080))).unwrap();
    let serve = async move {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        loop {
            let stream = listener.accept().await.unwrap().0;
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                let mut begun: Vec<SendStream<Bytes>> = Vec::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let mut send = respond.send_response(Response::new(()), false).unwrap();
                    let (size, end) = match request.uri().path() {
                        "/whole" => (WHOLE, true),
                        "/much" => (MUCH, false),
                        _ => (1, false),
                    };
                    send.send_data(vec![b'x'; size].into(), end).unwrap();
                    begun.push(send);
                }
            });
        }
    };
    // Ends with the process.
    std::thread::spawn(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(serve));
}

/// Reads an answer on, of which `taken` bytes were read already, to its end: what that is.
async fn end(mut body: RecvStream, mut taken: usize) -> String {
    body.flow_control().release_capacity(taken).unwrap();
    while let Some(data) = body.data().await {
        match data {
            Ok(data) => {
                taken += data.len();
                body.flow_control().release_capacity(data.len()).unwrap();
            }
            Err(error) if error.is_reset() && error.is_remote() => return format!("{:?}", error.reason().unwrap()),
            Err(error) => return error.to_string(),
        }
    }
    match body.trailers().await.unwrap() {
        Some(trailers) => ["grpc-status", "grpc-message"].map(|name| trailers[name].to_str().unwrap()).join(" "),
        None => format!("{taken} bytes"),
    }
}

/// Six answers on one connection, of which each stands still before `ready` is told and until `ended`: how each ends, by what its
/// client speaks.
async fn answers(
    to: SocketAddr,
    ready: Sender<()>,
    ended: oneshot::Receiver<()>,
) -> Vec<(&'static str, &'static str, String)> {
    let stream = tokio::net::TcpStream::connect(to).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(WINDOW as u32).initial_connection_window_size(1 << 20);
    let (client, connection) = builder.handshake::<_, Bytes>(stream).await.unwrap();
    tokio::spawn(connection);
    let mut begun = Vec::new();
    for kind in ["text/plain", "application/grpc"] {
        for path in ["/some", "/much", "/whole"] {
            let request = Request::post(format!("http://server:8080{path}")).header("content-type", kind);
            let mut client = client.clone().ready().await.unwrap();
            let (answer, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
            let mut body = answer.await.unwrap().into_body();
            let (stands, mut taken) = (if path == "/some" { 1 } else { WINDOW }, 0);
            while taken < stands {
                taken += body.data().await.unwrap().unwrap().len();
            }
            begun.push((kind, path, body, taken));
        }
    }
    ready.send(()).unwrap();
    ended.await.unwrap();
    let mut ends = Vec::new();
    for (kind, path, body, taken) in begun {
        ends.push((kind, path, end(body, taken).await));
    }
    ends
}

/// Asks at `to`, and has `ends` end what is under way. `whole`: what becomes of an answer that had come whole, where it does not end early.
#[track_caller]
fn are_to_be_asked_again(client: &Pod, to: SocketAddr, whole: Option<&str>, ends: impl FnOnce()) {
    let (ready, wait) = mpsc::channel();
    let (tell, ended) = oneshot::channel();
    let answers = std::thread::scope(|scope| {
        let asking = scope.spawn(|| client.block_on(move || answers(to, ready, ended)));
        wait.recv_timeout(PATIENCE).unwrap();
        ends();
        tell.send(()).unwrap();
        asking.join().unwrap()
    });
    let unavailable = "14 UC the connection was drained, and its grace is over";
    for (kind, path, end) in answers {
        let early = if kind == "text/plain" { "CANCEL" } else { unavailable };
        assert_eq!(end, whole.filter(|_| path == "/whole").unwrap_or(early), "{kind} {path}");
    }
}

fn ended(mut sidecar: Sidecar) {
    sidecar.terminate();
    assert_eq!(sidecar.wait().code(), Some(0));
}

#[test]
fn at_the_end_of_a_sidecar() {
    let mesh = Mesh::new();
    let (stranger, server) = (mesh.pod("stranger"), mesh.pod("server"));
    application(&server);
    let inbound = sidecar(&server, "inbound: {mtls: off}", "");
    are_to_be_asked_again(&stranger, server.at(8080), None, || ended(inbound));
}

#[test]
fn at_the_end_of_either_of_two_sidecars() {
    let (client, outbound, server, _inbound) = world("", "");
    application(&server);
    are_to_be_asked_again(&client, service(8080), None, || ended(outbound));
    let (client, _outbound, server, inbound) = world("", "");
    application(&server);
    // It has come to the client's sidecar, which goes on.
    are_to_be_asked_again(&client, service(8080), Some("100000 bytes"), || ended(inbound));
}

#[test]
fn at_the_end_of_a_connection_between_sidecars_that_is_too_old() {
    // The time that there is to ask.
    let age = "max_connection_age: 3s";
    for (at_client, at_server) in [(age, ""), ("", age)] {
        let (client, outbound, server, inbound) = world(at_client, at_server);
        application(&server);
        let aged = if at_client.is_empty() { &inbound } else { &outbound };
        are_to_be_asked_again(&client, service(8080), Some("100000 bytes"), || {
            aged.metric_until("remora_connections_drained_total", &[("reason", "age")], |n| n >= 1.0);
        });
    }
}

#[test]
fn over_http1_they_are_seen_to_have_no_end() {
    for inbound_ends in [false, true] {
        let (client, outbound, server, inbound) = world("", "");
        let listener = server.enter(|| TcpListener::bind(("0.0.0.0", 8080))).unwrap();
        let mut stream = client.enter(|| TcpStream::connect(service(8080))).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: server\r\n\r\n").unwrap();
        let mut accepted = listener.accept().unwrap().0;
        accepted.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"begun\r\n") {
            let mut part = [0; 1024];
            let length = stream.read(&mut part).unwrap();
            assert_ne!(length, 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&part[..length]);
        }
        let (ends, _stays) = if inbound_ends { (inbound, outbound) } else { (outbound, inbound) };
        ended(ends);
        let mut rest = Vec::new();
        // An end of the connection or a reset: both say so.
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(String::from_utf8_lossy(&rest), "", "no last chunk");
    }
}
