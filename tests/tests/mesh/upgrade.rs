//! Connections that leave HTTP/1.1: carried as HTTP up to the 101, as bytes after it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use remora_test::eventually;
use remora_test::mesh::Mesh;
use tokio::net::TcpStream;

use crate::pair::{Pair, Plan, service};
use crate::scripted::scripted;
use crate::wire::Wire;

/// A head that asks to leave HTTP.
const UPGRADE: [&str; 2] = ["connection: Upgrade", "upgrade: echo"];
/// What a client says of itself without proof.
const FORGED: &str = "x-forwarded-client-cert: URI=spiffe://example.org/ns/test/sa/boss";

/// Every `x-callers` line of a 101: who the application was told had called.
fn callers(head: &str) -> Vec<&str> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(name, _)| *name == "x-callers")
        .map(|two| two.1)
        .collect()
}

/// Bytes both ways at once, far more than any buffer holds, then the client's end and the application's.
fn echoes(wire: &mut Wire) {
    let sent: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut writer = wire.stream.try_clone().unwrap();
    let out = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&out).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    assert!(wire.bytes(sent.len()) == sent, "the bytes come back as they were");
    writing.join().unwrap();
    assert!(wire.rest().is_empty(), "its end comes through, and nothing before it");
}

#[test]
fn bytes_flow_both_ways_through_the_mesh() {
    let pair = Pair::usual();
    let mut wire = Wire::open(&pair.client, service(8080));
    let switched = wire.get("/upgrade", &[UPGRADE[0], UPGRADE[1], FORGED]);
    assert_eq!(switched.code, 101, "{switched:?}");
    assert_eq!(switched.header("upgrade"), Some("echo"), "{switched:?}");
    let told = callers(&switched.head);
    assert_eq!(told.len(), 1, "{switched:?}");
    assert!(told[0].contains(&pair.client.id()) && !told[0].contains("boss"), "{told:?}");
    echoes(&mut wire);
    for sidecar in [&pair.outbound, &pair.inbound] {
        assert_eq!(sidecar.metric("remora_requests_total", &[("code", "101")]), 1.0, "it was a request");
        sidecar.metric_until("remora_downstream_connections_active", &[], |n| n == 0.0);
    }
}

#[test]
fn a_reset_is_a_reset_through_a_tunnel_too() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    let _inbound = server.sidecar("inbound: {mtls: strict}");
    let _outbound = client.sidecar(&crate::pair::entry(8080, &[server.at(8080)], ""));
    let listener = server.enter(|| TcpListener::bind("[::]:8080")).unwrap();
    let app = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let mut wire = Wire::open(&client, service(8080));
    assert_eq!(wire.get("/", &UPGRADE).code, 101);
    wire.send("x");
    app.join().unwrap();
    let error = wire.stream.read_to_end(&mut Vec::new()).expect_err("the application's reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn what_the_client_says_before_the_101_is_not_lost() {
    let pair = Pair::usual();
    let mut wire = Wire::open(&pair.client, service(8080));
    wire.send("GET /upgrade HTTP/1.1\r\nhost: server:8080\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nearly");
    assert_eq!(wire.answer().code, 101);
    assert_eq!(wire.bytes(5), b"early");
}

#[test]
fn a_plaintext_client_cannot_name_itself() {
    let pair = Pair::start(Plan { inbound: "{mtls: permissive}", ..Plan::default() });
    let stranger = pair.mesh.pod("stranger");
    let mut wire = Wire::open(&stranger, pair.server.at(8080));
    let switched = wire.get("/upgrade", &[UPGRADE[0], UPGRADE[1], FORGED]);
    assert_eq!((switched.code, callers(&switched.head)), (101, vec![]), "{switched:?}");
    echoes(&mut wire);
}

#[test]
fn an_application_that_stays_with_http_sees_every_request_filtered() {
    let pair = Pair::start(Plan { inbound: "{mtls: permissive}", ..Plan::default() });
    let stranger = pair.mesh.pod("stranger");
    let mut direct = Wire::open(&stranger, pair.server.at(8080));
    let mut meshed = Wire::open(&pair.client, service(8080));
    for lines in [&[UPGRADE[0], UPGRADE[1], FORGED][..], &[FORGED], &["connection: x-forwarded-client-cert", FORGED]] {
        let seen = direct.get("/", lines).json();
        assert!(seen["headers"]["x-forwarded-client-cert"].is_null(), "{lines:?}: {seen}");
        let seen = meshed.get("/", lines).json();
        let told = seen["headers"]["x-forwarded-client-cert"].as_array().unwrap();
        assert_eq!(told.len(), 1, "{lines:?}: {seen}");
        let told = told[0].as_str().unwrap();
        assert!(told.contains(&pair.client.id()) && !told.contains("boss"), "{lines:?}: {told}");
    }
    let inbound = [("direction", "inbound"), ("code", "200")];
    assert_eq!(pair.inbound.metric("remora_requests_total", &inbound), 6.0, "each was a request");
}

#[test]
fn a_gateway_carries_upgrades_and_answers_what_is_none() {
    let mesh = Mesh::new();
    let (gateway, server, caller) = (mesh.pod("gateway"), mesh.pod("server"), mesh.pod("caller"));
    let _app = server.peer("http", 8080, &[]);
    let proxy = gateway.proxy(&format!(
        "gateway:\n  listen: 0.0.0.0:8080\n  routes:\n    - {{path: /, to: \"{}\"}}\n",
        server.at(8080)
    ));
    proxy.ready();
    let mut wire = Wire::open(&caller, gateway.at(8080));
    for _ in 0..2 {
        let answer = wire.get("/name", &["connection: upgrade", "upgrade: websocket"]);
        assert_eq!((answer.code, answer.body.as_str()), (200, "server"), "{answer:?}");
    }
    assert_eq!(wire.get("/upgrade", &UPGRADE).code, 101);
    echoes(&mut wire);
    let mut wire = Wire::open(&caller, gateway.at(8080));
    wire.send("CONNECT elsewhere.example:443 HTTP/1.1\r\nhost: elsewhere.example:443\r\n\r\n");
    assert_eq!(wire.answer().code, 400, "nobody's forward proxy");
}

/// An HTTP/2 connection to the service.
pub(crate) async fn http2() -> SendRequest<Bytes> {
    let stream = TcpStream::connect(service(8080)).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Asks that a stream leaves HTTP (RFC 8441).
pub(crate) async fn stream(client: &mut SendRequest<Bytes>, path: &str) -> (Response<RecvStream>, SendStream<Bytes>) {
    let mut request = Request::connect(format!("http://server:8080{path}")).body(()).unwrap();
    request.extensions_mut().insert(Protocol::from_static("echo"));
    let mut client = client.clone().ready().await.unwrap();
    let (response, send) = client.send_request(request, false).unwrap();
    (tokio::time::timeout(remora_test::PATIENCE, response).await.expect("an answer").unwrap(), send)
}

/// An application that took it up would speak HTTP/2 behind proxies that read HTTP/1.1. RFC 9110 section 7.8 lets a server ignore it.
#[test]
fn an_upgrade_to_http_2_is_answered_as_http_1_and_no_application_hears_of_it() {
    const SETTINGS: &str = "http2-settings: AAMAAABkAAQAAP__";
    for (inbound, mtls) in [("{mtls: permissive}", true), ("{}", false)] {
        let mut pair = Pair::start(Plan { inbound, mtls, ..Plan::default() });
        let heads = scripted(&mut pair, |_, served| {
            while let Some(head) = served.head() {
                if head.starts_with("POST ") {
                    served.until("body").unwrap();
                }
                served.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            }
        });
        let stranger = pair.mesh.pod("stranger");
        // Through one sidecar, and through two.
        for (pod, to) in [(&stranger, pair.server.at(8080)), (&pair.client, service(8080))] {
            let mut wire = Wire::open(pod, to);
            for lines in [
                &["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"][..],
                &["connection: upgrade, http2-settings, x-secret", "upgrade: H2C", SETTINGS, "x-secret: 1"],
                &["connection: upgrade", "connection: http2-settings", "upgrade: echo, h2c", SETTINGS],
                &["connection: upgrade", "upgrade: h2c", SETTINGS],
                &["upgrade: h2c", SETTINGS],
                &[SETTINGS],
            ] {
                let answer = wire.get("/name", lines);
                assert_eq!(
                    (answer.code, answer.body.as_str(), answer.header("upgrade")),
                    (200, "ok", None),
                    "{lines:?}"
                );
                let head = heads.recv_timeout(remora_test::PATIENCE).unwrap().to_lowercase();
                assert!(head.starts_with("get /name http/1.1\r\n"), "{head}");
                for word in ["upgrade", "h2c", "http2-settings", "x-secret"] {
                    assert!(!head.contains(word), "{word} of {lines:?}: {head}");
                }
            }
            // A body is a body, and what stands behind it is read as the next request, not as HTTP/2.
            wire.send(&format!("POST /body HTTP/1.1\r\nhost: server:8080\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n{SETTINGS}\r\ncontent-length: 4\r\n\r\nbody"));
            assert_eq!(wire.answer().code, 200);
            let head = heads.recv_timeout(remora_test::PATIENCE).unwrap().to_lowercase();
            assert!(!head.contains("h2c") && !head.contains("http2-settings"), "{head}");
            wire.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
            assert_eq!(wire.answer().code, 505, "a preface in the midst of HTTP/1.1");
            assert!(heads.try_recv().is_err(), "and nothing of it goes on");
        }
    }
}

#[test]
fn a_stream_of_http_2_leaves_http_alone() {
    let pair = Pair::usual();
    let echoed = pair.client.block_on(|| async {
        let mut client = http2().await;
        // Settings are there with the first answer.
        let (refused, _) = stream(&mut client, "/status/404").await;
        assert_eq!(refused.status(), 404);
        let (response, mut send) = stream(&mut client, "/upgrade").await;
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        let mut echoed = Vec::new();
        for word in ["one", "two"] {
            send.send_data(word.into(), false).unwrap();
            echoed.extend_from_slice(&body.data().await.unwrap().unwrap());
        }
        send.send_data("end".into(), true).unwrap();
        while let Some(data) = body.data().await {
            echoed.extend_from_slice(&data.unwrap());
        }
        assert!(client.is_extended_connect_protocol_enabled());
        echoed
    });
    assert_eq!(echoed, b"onetwoend");
}

#[test]
fn a_tunnel_goes_on_while_its_sidecar_drains_and_its_end_is_the_sidecars() {
    let mut pair = Pair::start(Plan { both: "lame_duck: 0\ndrain_timeout: 10m", ..Plan::default() });
    let mut wire = Wire::open(&pair.client, service(8080));
    assert_eq!(wire.get("/upgrade", &UPGRADE).code, 101);
    let (inbound, tunnel) = (&pair.inbound, &mut wire);
    pair.client.block_on(|| async move {
        let mut client = http2().await;
        assert_eq!(stream(&mut client, "/status/404").await.0.status(), 404);
        let (response, mut send) = stream(&mut client, "/upgrade").await;
        let mut body = response.into_body();
        inbound.terminate();
        eventually("readiness is withdrawn", || (!inbound.is_ready()).then_some(()));
        for word in ["one", "two", "six"] {
            tunnel.send(word);
            assert_eq!(tunnel.bytes(3), word.as_bytes());
            send.send_data(word.into(), false).unwrap();
            assert_eq!(body.data().await.unwrap().unwrap(), word);
        }
        send.send_data("end".into(), true).unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), "end");
        assert!(body.data().await.is_none(), "no reset");
    });
    // The stream is over, and the tunnel, no request any more, is left.
    pair.inbound.metric_until("remora_requests_active", &[("direction", "inbound")], |n| n == 0.0);
    wire.send("end");
    assert_eq!(wire.bytes(3), b"end");
    wire.stream.shutdown(Shutdown::Write).unwrap();
    assert!(wire.rest().is_empty(), "its end, and no reset");
    assert_eq!(pair.inbound.wait().code(), Some(0), "long before the drain's timeout");
}

#[test]
fn a_port_declared_http_carries_upgrades() {
    let inbound = "{mtls: strict, ports: [{port: 8080, protocol: http}]}";
    let pair = Pair::start(Plan { inbound, entry: ", protocol: http", ..Plan::default() });
    let mut wire = Wire::open(&pair.client, service(8080));
    assert_eq!(wire.get("/upgrade", &UPGRADE).code, 101);
    echoes(&mut wire);
}
