//! A whole connection of a gateway, over loopback: whatever a client sends, nothing panics, and a strict reader behind it
//! finds no message malformed. It gets just the requests that another reader finds in the client's bytes: hyper of HTTP/1, one of
//! the fuzzer's own of HTTP/2.
#![no_main]

#[path = "connection/gateway.rs"]
mod gateway;
#[path = "connection/http2_reading.rs"]
mod http2_reading;
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
const REMEMBERED: usize = 4096;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Where bytes before it did not lose their end, this one is answered, and ends the connection.
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

static GATEWAYS: LazyLock<Gateways> = LazyLock::new(Gateways::start);
/// What the other readers found in the last inputs, newest first.
static EXPECTED: Mutex<VecDeque<Vec<Request>>> = Mutex::new(VecDeque::new());

// The first byte says which version, and where the rest is cut in two.
fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    let bytes = &bytes[..bytes.len().min(MAX_INPUT)];
    let (first, second) = bytes.split_at(bytes.len().min(usize::from(kind / 2)));
    if kind % 2 == 0 {
        expect(http1(&[bytes, LAST].concat()));
        exchange(GATEWAYS.http1(), &[first, second, LAST]);
    } else {
        expect(http2_reading::requests(bytes));
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

/// What hyper reads.
fn http1(bytes: &[u8]) -> Vec<Request> {
    let reads = hyper_reading::requests(bytes).into_iter().map(|content| {
        let [method, host, path, _] = &content.line[..] else { unreachable!("four parts") };
        Request::new(method, host, path, content.body)
    });
    reads.collect()
}

/// Remembers what a client is going to send.
fn expect(reads: Vec<Request>) {
    let mut expected = EXPECTED.lock().expect("no test panics under it");
    expected.push_front(reads);
    expected.truncate(REMEMBERED);
}

/// The origin has a whole request. Nobody sent it twice.
fn arrived(request: &Request) {
    let mut expected = EXPECTED.lock().expect("no test panics under it");
    let sent = expected.iter_mut().find_map(|reads| {
        let place = reads.iter().position(|sent| request.is(sent))?;
        Some(reads.swap_remove(place))
    });
    assert!(sent.is_some(), "nobody sent {request:?}; last: {:?}", expected.front());
}
