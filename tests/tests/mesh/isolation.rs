//! Clients that read nothing take nothing from the others.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};
use remora_test::client;
use remora_test::eventually;
use remora_test::pod::Pod;

use crate::pair::{Pair, Plan, service};
use crate::scripted::scripted;

#[test]
fn a_65th_client_is_answered_while_64_read_nothing() {
    let pair = Pair::usual();
    let stuck: Vec<TcpStream> = (0..64)
        .map(|_| {
            let mut stream = pair.client.enter(|| TcpStream::connect(service(8080))).unwrap();
            write!(stream, "GET /endless HTTP/1.1\r\nhost: server:8080\r\n\r\n").unwrap();
            stream
        })
        .collect();
    eventually("all 64 get bytes that they do not read", || {
        use std::os::fd::AsRawFd;
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let got = |stream: &TcpStream| recv(stream.as_raw_fd(), &mut [0; 1], flags).is_ok_and(|read| read == 1);
        stuck.iter().all(got).then_some(())
    });
    settled(&pair.client, "eth0");
    for _ in 0..5 {
        let answer = pair.client.curl(&["--max-time", "3", &pair.url("/bytes/100000")]);
        assert_eq!((answer.code, answer.body.len()), (200, 100_000), "{}", answer.head);
    }
    drop(stuck);
    pair.inbound.metric_until("remora_requests_active", &[("direction", "inbound")], |n| n == 0.0);
}

#[test]
fn streams_that_nobody_reads_do_not_stop_their_connection() {
    let pair = Pair::usual();
    let to = service(8080);
    let held = pair.client.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let responses = runtime.block_on(async move {
            let mut h2 = client::h2(to).await.unwrap();
            let mut responses = Vec::new();
            for _ in 0..64 {
                h2.ready().await.unwrap();
                responses.push(h2.send_request(client::get2("server:8080", "/endless")).await.unwrap());
            }
            responses
        });
        (runtime, responses)
    });
    let (_runtime, responses) = held.join().unwrap();
    assert!(responses.iter().all(|response| response.status() == 200) && responses.len() == 64);
    settled(&pair.client, "eth0");
    for flag in ["--http1.1", "--http2-prior-knowledge"] {
        let answer = pair.client.curl(&["--max-time", "3", flag, &pair.url("/bytes/100000")]);
        assert_eq!((answer.code, answer.body.len()), (200, 100_000), "{flag}: {}", answer.head);
    }
}

/// One hop between sidecars, with windows and buffers that are full soon.
fn narrow() -> Pair {
    let pair = Pair::start(Plan { both: "workers: 1\nlimits: {stream_window: 65535}", ..Plan::default() });
    for pod in [&pair.client, &pair.server] {
        pod.enter(|| {
            for kind in ["rmem", "wmem"] {
                std::fs::write(format!("/proc/sys/net/ipv4/tcp_{kind}"), "4096 32768 65536").unwrap();
            }
        });
    }
    pair
}

/// Asserts that the others are served beside so many requests that stand still, and that these still stand.
fn stand(pair: &Pair, requests: usize, versions: &[&str]) {
    for flag in versions {
        let answer = pair.client.curl(&["--max-time", "30", flag, &pair.url("/name")]);
        assert_eq!(answer.code, 200, "{flag}: {}", answer.head);
    }
    for (sidecar, direction) in [(&pair.outbound, "outbound"), (&pair.inbound, "inbound")] {
        sidecar.metric_until("remora_requests_active", &[("direction", direction)], |count| count <= requests as f64);
        assert_eq!(
            sidecar.metric("remora_requests_active", &[("direction", direction)]),
            requests as f64,
            "{direction}"
        );
    }
}

/// What else is asked.
const BOTH: [&str; 2] = ["--http1.1", "--http2-prior-knowledge"];
/// The size of the parts that these answers come in.
const TINY: [usize; 8] = [1, 1, 20, 20, 20, 20, 20, 20];

#[test]
fn streams_of_tiny_frames_that_nobody_reads_leave_their_connection_to_others() {
    let pair = narrow();
    let to = service(8080);
    let held = pair.client.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let bodies = runtime.block_on(async move {
            let stream = tokio::net::TcpStream::connect(to).await.unwrap();
            let (mut h2, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let mut bodies = Vec::new();
            for size in TINY {
                let request = http::Request::get(format!("http://server:8080/endless/{size}")).body(()).unwrap();
                bodies.push(h2.send_request(request, true).unwrap().0.await.unwrap().into_body());
            }
            bodies
        });
        (runtime, bodies)
    });
    let (_runtime, bodies) = held.join().unwrap();
    settled(&pair.server, "lo");
    stand(&pair, bodies.len(), &BOTH);
}

#[test]
fn uploads_in_tiny_parts_that_nobody_reads_leave_their_connection_to_others() {
    let mut pair = narrow();
    let _heads = scripted(&mut pair, |_, served| {
        while let Some(head) = served.head() {
            while head.starts_with("POST") {
                // It reads nothing more, as long as the test runs.
                std::thread::park();
            }
            served.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    let stuck = [(); 2].map(|()| {
        let mut stream = pair.client.enter(|| TcpStream::connect(service(8080))).unwrap();
        write!(stream, "POST / HTTP/1.1\r\nhost: server:8080\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    });
    let (chunks, mut sent) = (b"1\r\nx\r\n".repeat(1_000), [0; 2]);
    eventually("no more is taken", || {
        let before = sent;
        for (mut stream, sent) in stuck.iter().zip(&mut sent) {
            while let Ok(written) = stream.write(&chunks[*sent % chunks.len()..]) {
                *sent += written;
            }
        }
        std::thread::park_timeout(Duration::from_millis(200));
        (sent == before).then_some(())
    });
    stand(&pair, stuck.len(), &["--http1.1"]);
}

/// Waits until nothing moves any more: all windows and buffers between the application and those who do not read are full.
fn settled(pod: &Pod, device: &str) {
    let received = || -> u64 {
        let table = pod.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
        let line = table.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':')).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let mut last = 0;
    eventually("the unread answers stop flowing", || {
        let before = std::mem::replace(&mut last, received());
        std::thread::park_timeout(Duration::from_millis(200));
        // Acknowledgements and probes of full windows go on for ever.
        (last - before < 10_000).then_some(())
    });
}
