//! A connection that ends before it is known what it carries: whoever had said something learns that it is lost.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use remora_test::eventually;
use remora_test::mesh::Mesh;
use remora_test::pod::Pod;
use remora_test::sidecar::Sidecar;

use crate::pair::{entry, service};
use crate::transparent::{abort, connect, expect, patient};

/// An empty SETTINGS frame of HTTP/2.
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

/// A sidecar that accepts plaintext for an application at port 7000, and a client without a sidecar.
struct World {
    inbound: Sidecar,
    listener: TcpListener,
    server: Pod,
    stranger: Pod,
}

impl World {
    fn new(rest: &str) -> Self {
        let mesh = Mesh::new();
        let (server, stranger) = (mesh.pod("server"), mesh.pod("stranger"));
        let inbound = server.sidecar(rest);
        let listener = server.enter(|| TcpListener::bind("[::]:7000")).unwrap();
        Self { inbound, listener, server, stranger }
    }

    /// Both ends of a connection whose client has said `half` a word, if anything.
    fn connection(&self, half: &[u8]) -> (TcpStream, TcpStream) {
        let mut client = connect(&self.stranger, self.server.at(7000));
        client.write_all(half).unwrap();
        let mut accepted = patient(self.listener.accept().unwrap().0);
        expect(&mut accepted, half);
        (client, accepted)
    }
}

#[track_caller]
fn is_reset(mut stream: TcpStream) {
    let error = stream.read_to_end(&mut Vec::new()).expect_err("a reset, no end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn half_a_word_keeps_its_connection_while_the_proxy_drains_and_is_reset_then() {
    let mut world = World::new("drain_timeout: 10m\nlame_duck: 0s\ninbound: {mtls: permissive}");
    let (mut client, mut accepted) = world.connection(b"GE");
    world.inbound.terminate();
    eventually("the listener closes", || (!world.server.listens(15_006)).then_some(()));
    client.write_all(b"T").unwrap();
    expect(&mut accepted, b"T");
    world.inbound.terminate();
    is_reset(client);
    is_reset(accepted);
    assert_eq!(world.inbound.wait().code(), Some(0));
    let line = world.inbound.printed("its grace is over");
    assert!(line.contains(" received=3 "), "three bytes were received: {line}");
}

#[test]
fn half_a_word_that_nothing_follows_is_reset_at_the_idle_timeout() {
    let world = World::new("inbound: {mtls: permissive, timeouts: {idle: 1s}}");
    let (client, accepted) = world.connection(b"GE");
    is_reset(client);
    is_reset(accepted);
    // Nothing is lost of one who said nothing.
    let (mut client, mut accepted) = world.connection(b"");
    assert_eq!((client.read(&mut [0]).unwrap(), accepted.read(&mut [0]).unwrap()), (0, 0));
}

#[test]
fn a_reset_during_detection_arrives_at_the_other_end() {
    let world = World::new("inbound: {mtls: permissive}");
    let mut made = 0.0;
    let mut connection = |half| {
        made += 1.0;
        let ends = world.connection(half);
        world.inbound.metric_until("remora_upstream_connections_total", &[], |n| n == made);
        ends
    };
    for half in [&b""[..], b"GE"] {
        let (client, accepted) = connection(half);
        abort(client);
        is_reset(accepted);
        let (client, accepted) = connection(half);
        abort(accepted);
        is_reset(client);
    }
    world.inbound.metric_until("remora_downstream_connections_active", &[], |n| n == 0.0);
    world.inbound.metric_until("remora_upstream_connections_active", &[], |n| n == 0.0);
}

#[test]
fn who_cannot_be_reached_is_no_server_that_has_ended() {
    let mesh = Mesh::new();
    let (server, stranger) = (mesh.pod("server"), mesh.pod("stranger"));
    let _inbound = server.sidecar("inbound: {mtls: permissive}");
    for word in [&b""[..], b"GE", b"\x01"] {
        let mut client = connect(&stranger, server.at(7000));
        client.write_all(word).unwrap();
        is_reset(client);
    }
}

#[test]
fn an_http_2_server_that_goes_before_its_client_has_spoken_is_heard_going() {
    let world = World::new("inbound: {mtls: permissive}");
    let (mut client, mut accepted) = world.connection(b"");
    accepted.write_all(SETTINGS).unwrap();
    drop(accepted);
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, SETTINGS);
    let (client, mut accepted) = world.connection(b"");
    accepted.write_all(SETTINGS).unwrap();
    abort(accepted);
    is_reset(client);
}

#[test]
fn what_the_server_was_shown_of_a_word_is_counted_as_received() {
    let world = World::new("inbound: {mtls: permissive}\naccess_log: {filter: all}");
    let (mut client, mut accepted) = world.connection(b"GE");
    accepted.write_all(b"what?").unwrap();
    expect(&mut client, b"what?");
    client.write_all(b"T me").unwrap();
    expect(&mut accepted, b"T me");
    drop((client, accepted));
    world.inbound.metric_until("remora_tcp_received_bytes_total", &[("direction", "inbound")], |n| n == 6.0);
    let line = world.inbound.printed("inbound");
    assert!(line.contains(" received=6 sent=5"), "six bytes from the client, five to it: {line}");
}

#[test]
fn a_dial_is_no_part_of_detection() {
    let mesh = Mesh::new();
    let (client, server) = (mesh.pod("client"), mesh.pod("server"));
    server.output("iptables", &["-A", "INPUT", "-p", "tcp", "-j", "DROP"]).unwrap();
    let outbound = client.sidecar(&entry(7000, &[server.at(7000)], ", mtls: false, timeouts: {connect: 10m}"));
    let detected = |count: f64| {
        let labels = [("direction", "outbound")];
        outbound.metric_until("remora_protocol_detection_duration_seconds_count", &labels, |n| n == count);
    };
    let mut talks = connect(&client, service(7000));
    talks.write_all(b"\x01").unwrap();
    detected(1.0);
    // Another thinks about it until the dial is under way.
    let mut hesitates = connect(&client, service(7000));
    outbound.metric_until("remora_upstream_attempts_total", &[], |n| n == 2.0);
    hesitates.write_all(b"\x01").unwrap();
    detected(2.0);
}
