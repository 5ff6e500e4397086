//! Odd beginnings of TLS. Names that are none, a ClientHello in single bytes, another server than the expected, early
//! data: refused or served as the rules say, and the next client finds everything as it was.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use remora_test::PATIENCE;
use remora_test::mesh::issue;
use remora_test::netns::tool;
use remora_test::pod::Pod;

use crate::pair::{Pair, Plan, entry, service};
use crate::scripted::scripted;

const FAILURES: &str = "remora_tls_handshake_failures_total";

/// An identity for OpenSSL.
fn right(pair: &Pair) -> PathBuf {
    let folder = pair.mesh.folder().join("openssl");
    issue(pair.mesh.authority(), "spiffe://example.org/ns/test/sa/openssl", &folder, &[]);
    folder
}

/// A request by `openssl s_client` with the identity in `folder`.
fn s_client(pod: &Pod, to: SocketAddr, folder: &std::path::Path, more: &[&str]) -> Output {
    let mut command = pod.command(tool("openssl"));
    command.args(["s_client", "-connect", &to.to_string(), "-alpn", "istio-http/1.1", "-ign_eof", "-cert"]);
    command.arg(folder.join("cert.pem")).arg("-key").arg(folder.join("key.pem"));
    command.arg("-cert_chain").arg(folder.join("cert.pem")).args(more);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let _ = input.write_all(b"GET /name HTTP/1.1\r\nhost: server:8080\r\nconnection: close\r\n\r\n");
    let output = child.wait_with_output().unwrap();
    drop(input);
    output
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn assert_unharmed(pair: &Pair) {
    assert_eq!(pair.client.curl(&[&pair.url("/name")]).code, 200, "who is right is served");
    assert!(!pair.inbound.stderr().contains("panicked"), "{}", pair.inbound.stderr());
}

fn vector16(content: &[u8]) -> Vec<u8> {
    [&u16::try_from(content.len()).unwrap().to_be_bytes()[..], content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector16(content)].concat()
}

/// A ClientHello (RFC 8446 section 4.1.2) of the mesh that asks for `name`, whatever that is.
fn client_hello(name: &[u8]) -> Vec<u8> {
    let extensions = [
        extension(0, &vector16(&[&[0][..], &vector16(name)].concat())),
        extension(10, &vector16(&[0, 29])),
        extension(13, &vector16(&[4, 3, 8, 4])),
        extension(16, &vector16(b"\x05istio")),
        extension(43, &[2, 3, 4]),
        extension(51, &vector16(&[&[0, 29][..], &vector16(&[9; 32])].concat())),
    ]
    .concat();
    let body = [&[3, 3][..], &[7; 32], &[0], &vector16(&[0x13, 1]), &[1, 0], &vector16(&extensions)].concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    [&[22, 3, 1][..], &vector16(&message)].concat()
}

#[test]
fn names_that_are_none() {
    let pair = Pair::usual();
    let stranger = pair.mesh.pod("stranger");
    let names: [&[u8]; 6] = [b"server\0.test", b"\0", b"", &[b'a'; 300], &[b'a'; 16_000], b"\xff\xfe"];
    for (count, name) in (1..).zip(names) {
        let mut stream = stranger.enter(|| TcpStream::connect(pair.server.at(8080))).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&client_hello(name)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // A reset is as good an answer as an alert.
        let _ = stream.read_to_end(&mut answer);
        let begin = answer.first().copied();
        assert!(matches!(begin, None | Some(21 | 22)), "TLS or nothing for {name:?}: {answer:?}");
        pair.inbound.metric_until(FAILURES, &[("side", "server")], |n| n == f64::from(count));
    }
    assert_eq!(pair.inbound.metric("remora_requests_total", &[("direction", "inbound")]), 0.0);
    assert_unharmed(&pair);
}

#[test]
fn no_name_and_odd_names_do_not_matter() {
    let pair = Pair::usual();
    let (stranger, identity) = (pair.mesh.pod("stranger"), right(&pair));
    let long = "a.".repeat(100) + "test";
    for more in [&["-noservername"][..], &["-servername", "other.test"], &["-servername", &long]] {
        let output = s_client(&stranger, pair.server.at(8080), &identity, more);
        assert!(text(&output).contains("HTTP/1.1 200"), "{more:?}: {}", text(&output));
    }
    assert_unharmed(&pair);
}

/// Relays one connection to `to`; what the client says first is passed on by `first`.
fn relay(pod: &Pod, to: SocketAddr, first: fn(&mut TcpStream, &mut TcpStream)) -> SocketAddr {
    let listener = pod.enter(|| TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let _relay = pod.spawn(move || pass(listener.accept().unwrap().0, to, first));
    address
}

fn pass(mut client: TcpStream, to: SocketAddr, first: fn(&mut TcpStream, &mut TcpStream)) {
    let mut server = TcpStream::connect(to).unwrap();
    server.set_nodelay(true).unwrap();
    let (mut from, mut back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut back);
        let _ = back.shutdown(Shutdown::Write);
    });
    first(&mut client, &mut server);
    let _ = std::io::copy(&mut client, &mut server);
    let _ = server.shutdown(Shutdown::Write);
}

/// The first record: its header and its content.
fn record(client: &mut TcpStream) -> ([u8; 5], Vec<u8>) {
    let mut header = [0; 5];
    client.read_exact(&mut header).unwrap();
    let mut content = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
    client.read_exact(&mut content).unwrap();
    (header, content)
}

/// Each byte in a segment of its own.
fn in_segments(client: &mut TcpStream, server: &mut TcpStream) {
    let (header, content) = record(client);
    for byte in header.iter().chain(&content) {
        server.write_all(&[*byte]).unwrap();
        // So that each is read by itself too.
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Each byte in a record of its own (RFC 8446 section 5.1 allows that).
fn in_records(client: &mut TcpStream, server: &mut TcpStream) {
    let (_, content) = record(client);
    let records: Vec<u8> = content.iter().flat_map(|byte| [22, 3, 1, 0, 1, *byte]).collect();
    server.write_all(&records).unwrap();
}

fn served_through(first: fn(&mut TcpStream, &mut TcpStream)) {
    for inbound in ["{mtls: strict}", "{mtls: permissive}"] {
        let pair = Pair::start(Plan { inbound, ..Plan::default() });
        let (stranger, identity) = (pair.mesh.pod("stranger"), right(&pair));
        let to = relay(&stranger, pair.server.at(8080), first);
        let output = s_client(&stranger, to, &identity, &[]);
        assert!(text(&output).contains("HTTP/1.1 200"), "{inbound}: {}", text(&output));
        // Terminated by the sidecar, not passed on as the application's own TLS.
        assert_eq!(pair.inbound.metric("remora_tls_handshakes_total", &[("side", "server")]), 1.0, "{inbound}");
        assert_unharmed(&pair);
    }
}

#[test]
fn a_client_hello_in_single_bytes() {
    served_through(in_segments);
}

#[test]
fn a_client_hello_in_records_of_one_byte() {
    served_through(in_records);
}

#[test]
fn a_sidecars_hello_behind_the_servers_first_word_does_not_reach_it() {
    let mut pair = Pair::start(Plan { inbound: "{mtls: permissive}", ..Plan::default() });
    let (tell, told) = mpsc::channel();
    let _heads = scripted(&mut pair, move |_, served| {
        served.say("220 hello\r\n");
        let mut heard = [0; 4096];
        let read = served.stream.read(&mut heard).unwrap_or_default();
        tell.send(heard[..read].to_vec()).unwrap();
    });
    let stranger = pair.mesh.pod("stranger");
    let heard = |parts: &[&[u8]]| {
        let mut stream = stranger.enter(|| TcpStream::connect(pair.server.at(8080))).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.read_exact(&mut [0; 11]).unwrap();
        for part in parts {
            stream.write_all(part).unwrap();
            // So that each is read by itself.
            std::thread::park_timeout(Duration::from_millis(5));
        }
        // Fails where it is reset by now.
        let _ = stream.shutdown(Shutdown::Write);
        told.recv_timeout(PATIENCE).unwrap()
    };
    let late = client_hello(b"server");
    assert_eq!(heard(&[&late[..10], &late[10..]]), b"");
    let line = pair.inbound.printed("DPE");
    assert!(line.contains("a sidecar, whose hello came behind"), "{line}");
    // Of a TLS of its own, and of others.
    let own = client_hello(b"server").iter().map(|byte| if *byte == b'o' { b'a' } else { *byte }).collect::<Vec<_>>();
    for parts in [&[&own[..10], &own[10..]][..], &[b"EHLO a\r\n"], &[&late[..10]]] {
        assert_eq!(heard(parts), parts.concat());
    }
}

/// As of a permissive peer that thought a hello would not come.
#[test]
fn a_server_that_speaks_first_is_asked_again_for_tls() {
    let pair = Pair::usual();
    let (stranger, client) = (pair.mesh.pod("stranger"), pair.mesh.pod("other"));
    let listener = stranger.enter(|| TcpListener::bind(stranger.at(8080))).unwrap();
    let to = pair.server.at(8080);
    let _relay = stranger.spawn(move || {
        for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            if number < 3 {
                let _ = (&stream).write_all(b"220 no TLS here\r\n");
            } else {
                pass(stream, to, |_, _| {});
            }
        }
    });
    let server = ", identity: [\"spiffe://example.org/ns/test/sa/server\"]";
    let _outbound = client.sidecar(&entry(8080, &[stranger.at(8080)], server));
    let answer = client.curl(&[&pair.url("/name")]);
    assert_eq!((answer.code, answer.body.as_str()), (200, "server"), "{answer:?}");
}

#[test]
fn another_server_than_the_expected_ends_a_tcp_connection() {
    let other = ", protocol: tcp, identity: [\"spiffe://example.org/ns/test/sa/somebody-else\"]";
    let pair = Pair::start(Plan { app: "echo", entry: other, ..Plan::default() });
    let mut stream = pair.client.enter(|| TcpStream::connect(service(8080))).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(b"secret");
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
    assert!(answer.is_empty(), "{answer:?}");
    let labels = [("side", "client"), ("reason", "wrong_identity")];
    assert!(pair.outbound.metric_until(FAILURES, &labels, |n| n >= 1.0) >= 1.0);
    assert!(!pair.outbound.stderr().contains("panicked"));
}

#[test]
fn sessions_are_resumed_but_early_data_is_not_taken() {
    // Each worker has ticket keys of its own.
    let pair = Pair::start(Plan { both: "workers: 1", ..Plan::default() });
    let (stranger, identity) = (pair.mesh.pod("stranger"), right(&pair));
    let (session, early) = (pair.mesh.folder().join("session"), pair.mesh.folder().join("early"));
    std::fs::write(&early, "GET /name HTTP/1.1\r\nhost: server:8080\r\n\r\n").unwrap();
    let (session, early) = (session.to_str().unwrap(), early.to_str().unwrap());
    let ask = |more: &[&str]| text(&s_client(&stranger, pair.server.at(8080), &identity, more));
    let first = ask(&["-sess_out", session]);
    assert!(first.contains("HTTP/1.1 200") && first.contains("Max Early Data: 0"), "{first}");
    // OpenSSL 3.0 knows no post-quantum group; it is served with the best that both have.
    assert!(first.contains("Server Temp Key: X25519") || first.contains("X25519MLKEM768"), "{first}");
    let second = ask(&["-sess_in", session, "-early_data", early]);
    assert!(second.contains("Reused, TLSv1.3") && second.contains("HTTP/1.1 200"), "{second}");
    assert!(second.contains("Early data was not sent"), "{second}");
    assert_eq!(pair.inbound.metric("remora_requests_total", &[("direction", "inbound")]), 2.0);
}
