//! What HTTP/1.1 writes beyond what a message means arrives as it was written: the case of names, reason phrases, odd targets, trailers.

use remora_test::PATIENCE;

use crate::scripted::{answering, both, open, scripted};

#[test]
fn names_keep_their_case_and_statuses_their_reason() {
    both(|mut pair| {
        let heads = answering(
            &mut pair,
            "HTTP/1.1 200 Very Well\r\nX-ReSponse: 1\r\nContent-Length: 2\r\nETag: \"a\"\r\n\r\nok",
        );
        let mut wire = open(&pair);
        wire.send("GET / HTTP/1.1\r\nHost: server:8080\r\nX-CamelCase: 1\r\nX-lower: 2\r\nSHOUTED: 3\r\n\r\n");
        let answer = wire.answer();
        assert!(answer.head.starts_with("HTTP/1.1 200 Very Well\r\n"), "{}", answer.head);
        for line in ["X-ReSponse: 1", "Content-Length: 2", "ETag: \"a\""] {
            assert!(answer.head.contains(&format!("\r\n{line}\r\n")), "{line}: {}", answer.head);
        }
        assert!(!answer.head.to_lowercase().contains("x-remora-"), "{}", answer.head);
        let head = heads.recv_timeout(PATIENCE).unwrap();
        for line in ["Host: server:8080", "X-CamelCase: 1", "X-lower: 2", "SHOUTED: 3"] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
        }
        assert!(!head.to_lowercase().contains("x-remora-"), "{head}");
    });
}

#[test]
fn targets_that_no_uri_has_arrive_as_they_were_written() {
    both(|mut pair| {
        let heads = answering(&mut pair, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        let mut wire = open(&pair);
        let long = format!("/?{}", "\"".repeat(8000));
        for target in ["/a<b>`\"{}|\\^", "/;a?q=\"<;%3C>`", "/plain", "//<", &long] {
            let answer = wire.get(target, &[]);
            assert_eq!(answer.code, 200, "{target}: {answer:?}");
            let head = heads.recv_timeout(PATIENCE).unwrap();
            assert!(head.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{target}: {head}");
            assert!(!head.to_lowercase().contains("x-remora-"), "{head}");
        }
        assert_eq!(wire.get("/%3C", &["x-remora-hop: 1.1;l;/<"]).code, 200);
        let head = heads.recv_timeout(PATIENCE).unwrap();
        assert!(head.starts_with("GET /%3C HTTP/1.1\r\n"), "an application's word counts for nothing: {head}");
    });
}

const REQUIRED: &str =
    "HTTP/1.1 426 Upgrade Required\r\nUpgrade: echo/2\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nno";

#[test]
fn what_a_426_requires_reaches_clients_of_http1() {
    both(|mut pair| {
        let _heads = answering(&mut pair, REQUIRED);
        let mut wire = open(&pair);
        for _ in 0..2 {
            let answer = wire.get("/", &[]);
            let required = (answer.code, answer.header("upgrade"), answer.header("connection"));
            assert_eq!(required, (426, Some("echo/2"), Some("upgrade")), "{answer:?}");
            assert!(!answer.head.to_lowercase().contains("x-remora-"), "{answer:?}");
        }
    });
}

#[test]
fn trailers_pass_both_ways() {
    both(|mut pair| {
        let heads = scripted(&mut pair, |_, served| {
            while served.head().is_some() {
                let body = served.until("0\r\n").unwrap() + &served.until("\r\n\r\n").unwrap();
                let _ = served.heads.send(body);
                served.say("HTTP/1.1 200 OK\r\nTrailer: x-end\r\ntransfer-encoding: chunked\r\n\r\n");
                served.say("4\r\ndata\r\n0\r\nx-end: yes\r\n\r\n");
            }
        });
        let mut wire = open(&pair);
        wire.send("POST / HTTP/1.1\r\nhost: server:8080\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n");
        wire.send("3\r\nabc\r\n0\r\nx-checksum: 900150\r\n\r\n");
        let answer = String::from_utf8(wire.rest()).unwrap();
        assert!(answer.ends_with("4\r\ndata\r\n0\r\nx-end: yes\r\n\r\n"), "{answer:?}");
        assert!(answer.to_lowercase().contains("trailer: x-end\r\n"), "{answer:?}");
        heads.recv_timeout(PATIENCE).unwrap();
        assert_eq!(heads.recv_timeout(PATIENCE).unwrap(), "3\r\nabc\r\n0\r\nx-checksum: 900150\r\n\r\n");
    });
}

/// Names in every case, each in its own.
const TRAILERS: &str = "X-Check-Sum: 900150\r\nx-lower: 1\r\nALLCAPS: 2\r\nETag: \"a\"\r\n";

#[test]
fn names_of_trailers_keep_their_case() {
    both(|mut pair| {
        let told = scripted(&mut pair, |_, served| {
            while let Some(head) = served.head() {
                let end = served.until("0\r\n").unwrap() + &served.until("\r\n\r\n").unwrap();
                let _ = served.heads.send(end);
                let trailers = if head.contains("/lower ") { TRAILERS.to_lowercase() } else { TRAILERS.to_owned() };
                served.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ndata\r\n0\r\n");
                served.say(&format!("x-remora-hop: 1.1;t,X-LOWER\r\n{trailers}\r\n"));
            }
        });
        for path in ["/as-they-are", "/lower"] {
            let trailers = if path == "/lower" { TRAILERS.to_lowercase() } else { TRAILERS.to_owned() };
            let mut wire = open(&pair);
            wire.send(&format!("POST {path} HTTP/1.1\r\nHost: server:8080\r\nConnection: close\r\n"));
            wire.send("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n");
            wire.send(&format!("{trailers}X-Remora-Hop: 1.1;l,x-Check-Sum\r\n\r\n"));
            let answer = String::from_utf8(wire.rest()).unwrap();
            assert!(answer.ends_with(&format!("\r\n\r\n4\r\ndata\r\n0\r\n{trailers}\r\n")), "{answer}");
            told.recv_timeout(PATIENCE).unwrap();
            assert_eq!(told.recv_timeout(PATIENCE).unwrap(), format!("3\r\nabc\r\n0\r\n{trailers}\r\n"));
        }
    });
}

#[test]
fn a_head_as_large_as_may_be_arrives_and_is_answered_by_another() {
    both(|mut pair| {
        // 98 fields beside Host and Content-Length, and 60 KiB with the lines' ends; each name in a form of its own.
        let fields = |first: &str| {
            let mut head = String::from(first);
            for field in 0..98 {
                head += &format!("x-Field-{field:03}: {}\r\n", "v".repeat(60 * 1024 / 98 - 20));
            }
            head += &format!("x-rest: {}\r\n\r\n", "r".repeat(60 * 1024 - head.len() - 12));
            head
        };
        let answer = fields("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n");
        assert_eq!(answer.len(), 60 * 1024);
        let heads = scripted(&mut pair, move |_, served| {
            while served.head().is_some() {
                served.say(&answer);
            }
        });
        let mut wire = open(&pair);
        wire.send(&fields("GET / HTTP/1.1\r\nhost: server:8080\r\n"));
        let answer = wire.answer();
        assert_eq!(answer.code, 200, "{answer:?}");
        assert!(answer.head.contains("\r\nx-Field-097: v"), "{answer:?}");
        let head = heads.recv_timeout(PATIENCE).unwrap();
        assert!(head.contains("\r\nx-Field-097: v") && head.contains("x-rest: r"), "{head}");
    });
}
