//! Clients that read nothing take nothing from the others.

use std::io::Write;
use std::net::TcpStream;

use nix::sys::socket::{MsgFlags, recv};
use remora_test::client;
use remora_test::eventually;

use crate::pair::{Pair, service};

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
    settled(&pair);
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
    settled(&pair);
    for flag in ["--http1.1", "--http2-prior-knowledge"] {
        let answer = pair.client.curl(&["--max-time", "3", flag, &pair.url("/bytes/100000")]);
        assert_eq!((answer.code, answer.body.len()), (200, 100_000), "{flag}: {}", answer.head);
    }
}

/// Waits until nothing moves any more: all windows and buffers between the application and those who do not read are full.
fn settled(pair: &Pair) {
    let received = || -> u64 {
        let table = pair.client.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
        let line = table.lines().find_map(|line| line.trim().strip_prefix("eth0:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let mut last = 0;
    eventually("the unread answers stop flowing", || {
        let before = std::mem::replace(&mut last, received());
        std::thread::park_timeout(std::time::Duration::from_millis(200));
        // Acknowledgements and probes of full windows go on for ever.
        (last - before < 10_000).then_some(())
    });
}
