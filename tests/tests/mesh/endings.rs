//! What is still open when a drain's time is over: nobody may take its end for a proper one.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use remora_test::mesh::Mesh;
use remora_test::pod::Pod;
use remora_test::process::Process;
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
    assert!(call.message.contains("its grace is over"), "{call:?}");
    assert_eq!(inbound.wait().code(), Some(0));
}

/// Types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// Reads an HTTP/2 frame (RFC 9113 section 4.1): its type, its stream, and what it carries.
fn frame(stream: &mut TcpStream) -> Option<(u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).ok()?;
    Some((head[3], u32::from_be_bytes(head[5..].try_into().unwrap()), payload))
}

/// The last stream that a GOAWAY promises to serve, and its code.
fn promise(payload: &[u8]) -> (u32, u32) {
    let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
    (number(0), number(4))
}

/// An application, its sidecar, which has so long to end, and a client's connections without one.
fn strangers<const COUNT: usize>(grace: &str) -> (Process, Sidecar, [TcpStream; COUNT]) {
    let mesh = Mesh::new();
    let (stranger, server) = (mesh.pod("stranger"), mesh.pod("server"));
    let app = server.peer("http", 8080, &[]);
    let inbound = server.sidecar(&format!("drain_timeout: {grace}\nlame_duck: 0s\ninbound: {{mtls: off}}"));
    let streams = std::array::from_fn(|_| {
        let stream = stranger.enter(|| TcpStream::connect(server.at(8080))).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    });
    (app, inbound, streams)
}

/// As [`strangers`], one.
fn stranger(grace: &str) -> (Process, Sidecar, TcpStream) {
    let (app, inbound, [stream]) = strangers(grace);
    (app, inbound, stream)
}

#[test]
fn http2_is_told_of_the_end_before_it_is_fixed_so_that_no_stream_is_refused() {
    // Of every worker, and more than one of each.
    let (_app, mut inbound, mut streams) = strangers::<32>("60s");
    for stream in &mut streams {
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
        // Its settings: the proxy has taken the connection.
        assert_eq!(frame(stream).unwrap().0, 4);
    }
    inbound.terminate();
    let next = |stream: &mut TcpStream, wanted: u8| {
        std::iter::from_fn(|| frame(stream)).find(|(kind, ..)| *kind == wanted).expect("a frame of this type").2
    };
    let pings = streams.each_mut().map(|stream| {
        assert_eq!(promise(&next(stream, GOAWAY)), (u32::MAX >> 1, 0), "first: whatever is under way is served");
        next(stream, PING)
    });
    // All are told; only then the first one says that it has heard.
    for (n, (stream, ping)) in streams.iter_mut().zip(pings).enumerate() {
        // A request that was on its way, and only then the answer to the ping.
        let request = b"\0\0\x0b\x01\x05\0\0\0\x01\x82\x86\x84\x41\x06server";
        let pong = [&b"\0\0\x08\x06\x01\0\0\0\0"[..], &ping].concat();
        stream.write_all(&[&request[..], &pong].concat()).unwrap();
        let (mut answered, mut last) = (false, None);
        while let Some((kind, id, payload)) = frame(stream) {
            match kind {
                // 0x88: status 200, from HPACK's static table.
                HEADERS => answered = id == 1 && payload[0] == 0x88,
                GOAWAY => last = Some(promise(&payload)),
                _ => {}
            }
        }
        assert!(answered, "connection {n}: the late request was served");
        assert_eq!(last, Some((1, 0)), "connection {n}: then: it was the last");
    }
    assert_eq!(inbound.wait().code(), Some(0));
}

#[test]
fn a_stream_that_outlasts_the_drain_is_answered() {
    let (_app, mut inbound, mut stream) = stranger("1s");
    // A POST to /work whose body never comes.
    let request = b"\0\0\x14\x01\x04\0\0\0\x01\x83\x86\x04\x05/work\x41\x06server\x5c\x015";
    stream.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", &request[..]].concat()).unwrap();
    inbound.metric_until("remora_requests_active", &[("direction", "inbound")], |n| n == 1.0);
    inbound.terminate();
    let mut frames = std::iter::from_fn(|| frame(&mut stream));
    let (_, id, fields) =
        frames.find(|(kind, ..)| *kind == HEADERS).expect("an answer, not the connection's end alone");
    // 503 in the code of RFC 7541 section 5.2.
    assert!(id == 1 && fields.windows(3).any(|bytes| bytes == b"\x6c\x0c\xff"), "{fields:x?}");
    assert_eq!(inbound.wait().code(), Some(0));
}

#[test]
fn an_answer_that_waits_for_its_window_outlasts_the_farewell() {
    let (_app, mut inbound, mut stream) = stranger("60s");
    // A window of ten bytes (SETTINGS_INITIAL_WINDOW_SIZE) for each stream.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\x0a").unwrap();
    stream.write_all(b"\0\0\x16\x01\x05\0\0\0\x01\x82\x86\x04\x0a/bytes/100\x41\x06server").unwrap();
    let next = |stream: &mut TcpStream, wanted: u8| {
        std::iter::from_fn(|| frame(stream)).find(|(kind, ..)| *kind == wanted).expect("a frame of this type").2
    };
    assert_eq!(next(&mut stream, DATA).len(), 10);
    inbound.terminate();
    let ping = next(&mut stream, PING);
    stream.write_all(&[&b"\0\0\x08\x06\x01\0\0\0\0"[..], &ping].concat()).unwrap();
    assert_eq!(promise(&next(&mut stream, GOAWAY)), (1, 0));
    // Whoever had no stream left would be told farewell by now.
    stream.set_read_timeout(Some(Duration::from_secs(12))).unwrap();
    let silent = stream.read(&mut [0]).expect_err("it waits").kind();
    assert!(matches!(silent, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silent:?}");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"\0\0\x04\x08\0\0\0\0\x01\0\0\x01\0").unwrap();
    assert_eq!(next(&mut stream, DATA).len(), 90);
    drop(stream);
    assert_eq!(inbound.wait().code(), Some(0));
}

#[test]
fn answers_that_are_read_slowly_outlast_the_farewell() {
    /// More than the kernel's buffers hold, each less than the proxy's.
    const ANSWERS: usize = 250;
    let (_app, mut inbound, mut stream) = stranger("60s");
    setsockopt(&stream, sockopt::RcvBuf, &4096).unwrap();
    // Windows as large as there are, of streams (SETTINGS_INITIAL_WINDOW_SIZE) and of the connection.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\x7f\xff\xff\xff").unwrap();
    stream.write_all(b"\0\0\x04\x08\0\0\0\0\0\x7f\0\0\0").unwrap();
    for id in (1..).step_by(2).take(ANSWERS) {
        let block = b"\x82\x86\x04\x0c/bytes/30000\x41\x06server";
        let head = [&[0, 0, block.len() as u8, 1, 5][..], &u32::to_be_bytes(id)].concat();
        stream.write_all(&[&head, &block[..]].concat()).unwrap();
    }
    inbound.metric_until("remora_requests_total", &[("direction", "inbound")], |count| count == ANSWERS as f64);
    inbound.terminate();
    let _ = inbound.said("asked to end by SIGTERM");
    // Whoever had nothing left to be written would be told farewell by then.
    std::thread::sleep(Duration::from_secs(12));
    setsockopt(&stream, sockopt::RcvBuf, &(1 << 20)).unwrap();
    let mut read = 0;
    while read < ANSWERS * 30_000 {
        let (kind, _, payload) = frame(&mut stream).unwrap_or_else(|| panic!("the end after {read} bytes"));
        read += if kind == DATA { payload.len() } else { 0 };
    }
    drop(stream);
    assert_eq!(inbound.wait().code(), Some(0));
}

#[test]
fn an_answer_that_breaks_off_at_once_is_heard_as_far_as_it_goes() {
    let (client, _outbound, server, _inbound) = world();
    let listener = server.enter(|| TcpListener::bind("[::]:8080")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart");
        }
    });
    for n in 0..20 {
        let mut stream = client.enter(|| TcpStream::connect(service(8080))).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: server\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\npart"), "{n}: {answer}");
    }
}
