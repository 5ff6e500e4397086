//! HTTP/1.1 to the letter: what passes between a client and a server that both write their bytes by hand, and what does not.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use remora_test::sidecar::Answer;
use remora_test::{PATIENCE, eventually};

use crate::pair::Pair;
use crate::scripted::{answering, both, open, scripted};
use crate::transparent::abort;

#[test]
fn informational_responses_pass_in_order() {
    both(|mut pair| {
        let heads = scripted(&mut pair, |_, served| {
            while let Some(head) = served.head() {
                served.say(
                    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-oDD: 1\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </b>\r\n\r\n",
                );
                if head.contains("100-continue") {
                    served.say("HTTP/1.1 100 Continue\r\n\r\n");
                    served.until("hello").unwrap();
                }
                served.say("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone");
            }
        });
        let mut wire = open(&pair);
        wire.send("POST / HTTP/1.1\r\nhost: server:8080\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
        let first = wire.answer();
        let spelt = |answer: &Answer, lines: &[&str]| lines.iter().all(|line| answer.head.contains(line));
        assert!(first.code == 103 && spelt(&first, &["\r\nLink: </a>\r\n", "\r\nX-oDD: 1\r\n"]), "{first:?}");
        let second = wire.answer();
        assert!(spelt(&second, &["\r\nlink: </b>\r\n"]), "{second:?}");
        assert_eq!(wire.answer().code, 100);
        wire.send("hello");
        let last = wire.answer();
        assert_eq!((last.code, last.body.as_str()), (200, "done"));
        assert!(heads.recv_timeout(PATIENCE).unwrap().contains("100-continue"));
        wire.send("GET / HTTP/1.0\r\nhost: server:8080\r\n\r\n");
        assert_eq!(wire.answer().code, 200, "HTTP/1.0 knows nothing of them");
        assert!(wire.rest().is_empty());
    });
}

#[test]
fn a_client_that_ends_its_side_behind_its_last_request_is_answered() {
    both(|mut pair| {
        let (answer, told) = channel();
        let told = Mutex::new(told);
        let heads = scripted(&mut pair, move |_, served| {
            while let Some(head) = served.head() {
                if head.starts_with("POST ") {
                    served.until("hello").unwrap();
                }
                if told.lock().unwrap().recv().is_err() {
                    return;
                }
                served.say("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone");
            }
        });
        let ended = |request: &str| {
            let mut wire = open(&pair);
            wire.send(request);
            wire.stream.shutdown(Shutdown::Write).unwrap();
            wire
        };
        for request in [
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: server:8080\r\nconnection: close\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: server:8080\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello",
            // May be followed by others, as far as they say; but what was asked was meant.
            "GET / HTTP/1.1\r\nhost: server:8080\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: server:8080\r\ncontent-length: 5\r\n\r\nhello",
        ] {
            let mut wire = ended(request);
            heads.recv_timeout(PATIENCE).unwrap();
            answer.send(()).unwrap();
            let got = wire.answer();
            assert_eq!((got.code, got.body.as_str()), (200, "done"), "{request}");
            assert!(wire.rest().is_empty());
        }
        let given_up = |times: f64| {
            pair.outbound.metric_until("remora_requests_total", &[("flag", "DC")], |count| count == times);
        };
        let wire = ended("GET / HTTP/1.0\r\n\r\n");
        heads.recv_timeout(PATIENCE).unwrap();
        abort(wire.stream);
        given_up(1.0);
        // Whoever waits for long says that nothing will follow.
        let mut wire = ended("GET / HTTP/1.1\r\nhost: server:8080\r\n\r\n");
        assert!(wire.rest().is_empty());
        given_up(2.0);
    });
}

#[test]
fn requests_that_wait_when_their_client_ends_its_side_are_answered() {
    // More than is read ahead of the first's answer; all of it takes longer than a client is believed to be there unasked.
    const COUNT: usize = 20;
    both(|mut pair| {
        let _heads = scripted(&mut pair, |_, served| {
            while served.head().is_some() && served.until("end").is_some() {
                std::thread::sleep(Duration::from_millis(100));
                served.say(OK);
            }
        });
        let upload = format!("POST / HTTP/1.1\r\nhost: server:8080\r\ncontent-length: 8192\r\n\r\n{:u>8192}", "end");
        let mut wire = open(&pair);
        wire.send(&upload.repeat(COUNT));
        wire.stream.shutdown(Shutdown::Write).unwrap();
        for _ in 0..COUNT {
            assert_eq!(wire.answer().code, 200);
        }
        assert!(wire.rest().is_empty());
    });
}

#[test]
fn what_a_client_asks_and_leaves_is_done() {
    const TIMES: usize = 50;
    both(|mut pair| {
        let heads = answering(&mut pair, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        for request in [
            "GET /asked HTTP/1.1\r\nhost: server:8080\r\n\r\n",
            "POST /told HTTP/1.1\r\nhost: server:8080\r\ncontent-length: 0\r\n\r\n",
        ] {
            for _ in 0..TIMES {
                open(&pair).send(request);
            }
            let path = request.split(' ').nth(1).unwrap();
            for n in 0..TIMES {
                let head = heads.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{n} of {TIMES} {path} arrived"));
                assert!(head.contains(path), "{head}");
            }
        }
    });
}

#[test]
fn a_thousand_informational_responses_are_borne_and_no_end_of_them_is_not() {
    both(|mut pair| {
        let _heads = scripted(&mut pair, |_, served| {
            while let Some(head) = served.head() {
                let times = if head.starts_with("GET /many ") { 1_000 } else { 1_000_000 };
                for _ in 0..times {
                    if served.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").is_err() {
                        return;
                    }
                }
                served.say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            }
        });
        let last = |path: &str| {
            let mut wire = open(&pair);
            let mut answer = wire.get(path, &[]);
            let mut before = 0;
            while answer.code == 100 {
                before += 1;
                answer = wire.answer();
            }
            (before, answer.code)
        };
        assert_eq!(last("/many"), (1_000, 200));
        let (before, code) = last("/endless");
        assert!(before < 10_000, "{before}");
        assert_eq!(code, 502);
    });
}

#[test]
fn an_early_answer_reaches_a_client_that_still_sends() {
    both(|mut pair| {
        let _heads = scripted(&mut pair, |_, served| {
            served.head();
            served.say("HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 4\r\n\r\nlong");
            let _ = served.stream.shutdown(Shutdown::Write);
            // The rest is never read.
            served.head();
        });
        let mut wire = open(&pair);
        wire.send("POST / HTTP/1.1\r\nhost: server:8080\r\ncontent-length: 50000000\r\n\r\n");
        let mut writer = wire.stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            let part = vec![b'u'; 100_000];
            (0..500).take_while(|_| writer.write_all(&part).is_ok()).count()
        });
        let answer = wire.answer();
        assert_eq!((answer.code, answer.body.as_str()), (413, "long"));
        assert_eq!(answer.header("connection"), Some("close"));
        writing.join().unwrap();
    });
}

#[test]
fn an_answer_within_an_upload_says_that_its_connection_ends_or_the_next_request_is_answered() {
    // More than all buffers on the way hold.
    const LENGTH: usize = 50_000_000;
    both(|mut pair| {
        let _heads = scripted(&mut pair, |_, served| {
            let head = served.head().unwrap_or_default();
            if head.starts_with("GET ") {
                return served.say(OK);
            }
            let status = head.split(['/', ' ']).nth(2).unwrap();
            served.say(&format!("HTTP/1.1 {status} Early\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"));
            let _ = served.stream.shutdown(Shutdown::Write);
            let _ = std::io::copy(&mut served.stream, &mut std::io::sink());
        });
        for status in [200, 303, 413] {
            let mut wire = open(&pair);
            wire.send(&format!("POST /{status} HTTP/1.1\r\nhost: server:8080\r\ncontent-length: {LENGTH}\r\n\r\n"));
            wire.send(&"u".repeat(LENGTH));
            let answer = wire.answer();
            assert_eq!((answer.code, answer.body.as_str()), (status, "ok"));
            if answer.header("connection") == Some("close") {
                assert!(wire.rest().is_empty());
            } else {
                assert_eq!(wire.get("/next", &[]).code, 200, "{status}");
            }
        }
    });
}

#[test]
fn an_upload_goes_on_while_its_client_does_not_read_the_answer() {
    // More than all buffers on the way hold.
    const LENGTH: usize = 50_000_000;
    both(|mut pair| {
        let told = scripted(&mut pair, |_, served| {
            served.head();
            let mut stream = served.stream.try_clone().unwrap();
            let answers = std::thread::spawn(move || {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n");
                stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![b'a'; LENGTH]))
            });
            let rest = (LENGTH - served.left.len()) as u64;
            let read = std::io::copy(&mut (&served.stream).take(rest), &mut std::io::sink());
            let _ = served.heads.send(format!("{:?} are missing", read.map(|read| rest - read)));
            let _ = answers.join();
        });
        let mut wire = open(&pair);
        wire.stream.set_write_timeout(Some(PATIENCE)).unwrap();
        wire.send(&format!("POST / HTTP/1.1\r\nhost: server:8080\r\ncontent-length: {LENGTH}\r\n\r\n"));
        wire.send(&"u".repeat(LENGTH));
        told.recv_timeout(PATIENCE).unwrap();
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "Ok(0) are missing");
        let answer = wire.answer();
        assert_eq!((answer.code, answer.body.len()), (200, LENGTH));
    });
}

#[test]
fn requests_in_a_row_are_answered_in_their_order() {
    both(|pair| {
        let mut wire = open(&pair);
        let request = |path: &str, lines: &str| format!("GET {path} HTTP/1.1\r\nhost: server:8080\r\n{lines}\r\n");
        let upload = "POST / HTTP/1.1\r\nhost: server:8080\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        let last = request("/name", "connection: close\r\n");
        wire.send(&[&request("/delay/100", ""), &request("/bytes/3", ""), upload, &last].concat());
        assert_eq!(wire.answer().body, "server");
        assert_eq!(wire.answer().body, "xxx");
        assert_eq!(wire.answer().json()["body"], 3);
        let answer = wire.answer();
        assert_eq!((answer.body.as_str(), answer.header("connection")), ("server", Some("close")));
        assert!(wire.rest().is_empty());
    });
}

#[test]
fn http_1_0_keeps_a_connection_that_it_asks_to_keep() {
    both(|pair| {
        let mut wire = open(&pair);
        wire.send("GET /name HTTP/1.0\r\nhost: server:8080\r\nconnection: keep-alive\r\n\r\n");
        let kept = wire.answer();
        assert_eq!((kept.body.as_str(), kept.header("connection")), ("server", Some("keep-alive")));
        wire.send("GET / HTTP/1.0\r\n\r\n");
        let last = wire.answer();
        assert_eq!(last.json()["version"], "HTTP/1.0", "and no Host is missed: {last:?}");
        assert_eq!(last.header("connection"), Some("close"));
        assert!(wire.rest().is_empty());
    });
}

#[test]
fn a_client_that_closes_is_told_so_and_closed() {
    both(|pair| {
        let mut wire = open(&pair);
        let answer = wire.get("/name", &["connection: close"]);
        assert_eq!((answer.body.as_str(), answer.header("connection")), ("server", Some("close")));
        assert!(wire.rest().is_empty());
    });
}

/// Whoever takes its answer is there, however long it is on its way.
#[test]
fn a_client_that_has_ended_its_side_gets_all_of_a_slow_answer() {
    both(|mut pair| {
        let _heads = scripted(&mut pair, |_, served| {
            served.head();
            served.say("HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n");
            for _ in 0..5 {
                // Less than whoever takes nothing is waited for, and together more.
                std::thread::sleep(Duration::from_millis(800));
                served.say("123");
            }
        });
        let mut wire = open(&pair);
        wire.send("GET / HTTP/1.1\r\nhost: server:8080\r\n\r\n");
        wire.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(wire.answer().body, "123".repeat(5));
    });
}

/// Answers with a connection that is kept.
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[test]
fn a_connection_that_its_server_closes_costs_nobody_a_request() {
    for last in ["GET", "POST"] {
        both(|pair| met_by_closes(pair, last));
    }
}

fn met_by_closes(mut pair: Pair, last: &str) {
    // Each connection serves one request. It is closed idle, or, for /race, when the next request has come.
    let heads = scripted(&mut pair, |_, served| {
        let race = served.head().is_some_and(|head| head.starts_with("GET /race "));
        served.say(OK);
        if race {
            served.until("\r\n\r\n");
        }
    });
    let mut wire = open(&pair);
    let mut ask = |method: &str, path: &str| {
        wire.send(&format!("{method} {path} HTTP/1.1\r\nhost: server:8080\r\ncontent-length: 0\r\n\r\n"));
        wire.answer()
    };
    for method in ["GET", "POST"] {
        let answer = ask(method, "/");
        assert_eq!(answer.code, 200, "{method}: {answer:?}");
        // What comes to its system before it closes is reset.
        eventually("the connection is closed idle", || {
            let table = ["-Htn", "state", "established", "sport", "=", ":8080"];
            pair.server.command("ss").args(table).output().unwrap().stdout.is_empty().then_some(())
        });
    }
    let mut races = 0;
    let answer = eventually("it is known that this server keeps no connection", || {
        let answer = ask("GET", "/race");
        assert_eq!(answer.code, 200, "{answer:?}");
        races += 1;
        Some(ask(last, "/once")).filter(|answer| answer.code != 503)
    });
    assert_eq!(answer.code, 200, "{answer:?}");
    assert!(races > 1, "none met a close");
    let told: Vec<String> = heads.try_iter().map(|head| head.lines().next().unwrap().to_owned()).collect();
    // Those that were lost may have been done: nobody did them twice.
    let wanted = [("GET /", 1), ("POST /", 1), ("GET /race", races), (&*format!("{last} /once"), 1)];
    let wanted: Vec<_> = wanted.iter().flat_map(|(line, times)| vec![format!("{line} HTTP/1.1"); *times]).collect();
    assert_eq!(told, wanted);
}

/// A server that knows a connection's user from the first request that says it.
#[test]
fn nobody_is_taken_for_another_who_logged_a_connection_in() {
    both(|mut pair| {
        let _heads = scripted(&mut pair, |connection, served| {
            while served.head().is_some() {
                served.say(&format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{connection}"));
            }
        });
        let mut wire = open(&pair);
        let mut served_by = |credentials: &str| wire.get("/", &[credentials]).body;
        for credentials in
            ["authorization: NTLM TlRM", "Authorization: negotiate YII=", "proxy-authorization: ntlm TlRM"]
        {
            let logged_in = served_by(credentials);
            assert_ne!(served_by("x: 1"), logged_in, "{credentials}");
        }
    });
}

#[test]
fn nothing_passes_that_is_no_answer() {
    both(|mut pair| {
        let _heads = scripted(&mut pair, |_, served| {
            while let Some(head) = served.head() {
                served.say(match head.split(' ').nth(1).unwrap() {
                    "/101" => "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nEVIL",
                    "/0.9" => "<html>EVIL</html>\r\n\r\n",
                    "/both" => "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
                    "/two" => "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nEVIL",
                    "/nul" => "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 4\r\n\r\nEVIL",
                    "/more" => {
                        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL"
                    }
                    _ => OK,
                });
            }
        });
        let mut wire = open(&pair);
        for (path, code) in [("/101", 502), ("/0.9", 502), ("/both", 502), ("/two", 502), ("/nul", 502), ("/more", 200)]
        {
            let answer = wire.get(path, &[]);
            assert_eq!(answer.code, code, "{path}: {answer:?}");
            let next = wire.get("/next", &[]);
            assert_eq!((next.code, next.body.as_str()), (200, "ok"), "after {path}: {next:?}");
        }
        let mut wire = open(&pair);
        wire.send(
            "POST / HTTP/1.1\r\nhost: server:8080\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        );
        let refused = wire.answer();
        assert_eq!((refused.code, refused.header("connection")), (400, Some("close")));
        assert!(wire.rest().is_empty());
    });
}
