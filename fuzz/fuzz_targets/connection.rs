//! A whole connection of a gateway, over loopback: whatever a client sends, nothing panics, and a strict reader behind it
//! finds no message malformed. Of HTTP/1 it gets just the requests that hyper reads in the client's bytes.
#![no_main]

#[path = "connection/gateway.rs"]
mod gateway;
#[allow(dead_code, reason = "the other target reads answers, too")]
#[path = "http1/hyper_reading.rs"]
mod hyper_reading;
#[path = "connection/origin.rs"]
mod origin;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use gateway::Gateways;
use libfuzzer_sys::fuzz_target;
use origin::Request;
use socket2::SockRef;

/// Longer input says nothing more.
const MAX_INPUT: usize = 4000;
/// How long a client waits for more of its answers.
const QUIET: Duration = Duration::from_millis(10);
/// A request that is cut short reaches the origin while later inputs are tried.
const REMEMBERED: usize = 64;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Where bytes before it did not lose their end, this one is answered, and ends the connection.
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

static GATEWAYS: LazyLock<Gateways> = LazyLock::new(Gateways::start);
/// What hyper read in the last inputs of HTTP/1, newest first.
static EXPECTED: Mutex<VecDeque<Vec<Request>>> = Mutex::new(VecDeque::new());

// The first byte says which version, and where the rest is cut in two.
fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    let bytes = &bytes[..bytes.len().min(MAX_INPUT)];
    let (first, second) = bytes.split_at(bytes.len().min(usize::from(kind / 2)));
    if kind % 2 == 0 {
        expect([bytes, LAST].concat());
        exchange(GATEWAYS.http1(), &[first, second, LAST]);
    } else {
        exchange(GATEWAYS.http2(), &[PREFACE, first, second]);
    }
});

/// Sends `pieces` as one client, and hears what is answered.
fn exchange(mut stream: TcpStream, pieces: &[&[u8]]) {
    stream.set_nodelay(true).expect("a socket option");
    stream.set_read_timeout(Some(QUIET)).expect("a socket option");
    if pieces.iter().all(|piece| stream.write_all(piece).is_ok()) {
        let mut answers = [0; 4096];
        while stream.read(&mut answers).is_ok_and(|read| read > 0) {}
    }
    // A reset: an orderly end would leave a port waiting for each input.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

/// Reads by hyper what a client is going to send.
fn expect(bytes: Vec<u8>) {
    let reads = hyper_reading::requests(&bytes).into_iter().map(|content| {
        let [method, _, path, _] = &content.line[..] else { unreachable!("four parts") };
        Request::new(method, path, content.body)
    });
    let mut expected = EXPECTED.lock().expect("no test panics under it");
    expected.push_front(reads.collect());
    expected.truncate(REMEMBERED);
}

/// The origin behind HTTP/1 has a whole request. HTTP/2 is read by the very library that the proxy uses: nothing to compare with.
fn arrived(request: &Request) {
    let expected = EXPECTED.lock().expect("no test panics under it");
    assert!(
        expected.iter().any(|reads| reads.contains(request)),
        "nobody sent {request:?}; last: {:?}",
        expected.front()
    );
}
