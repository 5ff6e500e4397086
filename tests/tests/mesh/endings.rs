//! What is still open when a drain's time is over: nobody may take its end for a proper one.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use remora_test::mesh::Mesh;
use remora_test::pod::Pod;
use remora_test::sidecar::Sidecar;
use remora_test::{PATIENCE, client};

use crate::pair::{VIRTUAL, service};

/// A client and a server, each with a sidecar that ends a second after it is asked to; ports 7000 and 8080.
fn world() -> (Pod, Sidecar, Pod, Sidecar) {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let drain = "drain_timeout: 1s\nlame_duck: 0s";
    let inbound = server.sidecar(&format!("{drain}\ninbound: {{mtls: strict}}"));
    let entry = |port: u16| {
        format!("  - {{host: \"server:{port}\", addresses: [\"{VIRTUAL}\"], endpoints: [\"{}\"]}}\n", server.at(port))
    };
    let outbound = client.sidecar(&format!("{drain}\noutbound:\n{}{}", entry(7000), entry(8080)));
    (client, outbound, server, inbound)
}

/// A connection of bytes through both sidecars, as its client and its server hold it.
fn connection(client: &Pod, server: &Pod) -> (TcpStream, TcpStream) {
    let listener = server.enter(|| TcpListener::bind("[::]:7000")).unwrap();
    let mut stream = client.enter(|| TcpStream::connect(service(7000))).unwrap();
    stream.write_all(b"\x01").unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    for end in [&stream, &accepted] {
        end.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    accepted.read_exact(&mut [0]).unwrap();
    (stream, accepted)
}

#[test]
fn bytes_that_outlast_the_drain_are_reset_at_both_ends() {
    for (inbound_ends, signals) in [(true, 1), (false, 1), (true, 2)] {
        let (client, outbound, server, inbound) = world();
        let (mut stream, mut accepted) = connection(&client, &server);
        let mut ending = if inbound_ends { inbound } else { outbound };
        for _ in 0..signals {
            ending.terminate();
            let _ = ending.said("asked to end by SIGTERM");
        }
        for (end, whose) in [(&mut stream, "the client's"), (&mut accepted, "the server's")] {
            let error = end.read_to_end(&mut Vec::new()).expect_err(whose);
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{whose} end, {signals} signals");
        }
        assert_eq!(ending.wait().code(), Some(0));
    }
}

#[test]
fn a_call_that_outlasts_the_drain_is_unavailable_and_says_why() {
    let (client, _outbound, server, mut inbound) = world();
    // Takes what comes and answers nothing.
    let listener = server.enter(|| TcpListener::bind("[::]:8080")).unwrap();
    let (taken, waiting) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let held: Vec<_> = listener.incoming().inspect(|_| taken.send(()).unwrap()).collect();
        drop(held);
    });
    let call = std::thread::scope(|scope| {
        let call = scope.spawn(|| {
            client.block_on(|| async {
                let mut h2 = client::h2(service(8080)).await.unwrap();
                client::unary(&mut h2, "server:8080", "/test.Echo/Unary", &[]).await.unwrap()
            })
        });
        waiting.recv_timeout(PATIENCE).unwrap();
        inbound.terminate();
        call.join().unwrap()
    });
    assert_eq!((call.http, call.status), (200, Some(14)), "UNAVAILABLE: {call:?}");
    assert!(!call.message.is_empty(), "{call:?}");
    assert_eq!(inbound.wait().code(), Some(0));
}
