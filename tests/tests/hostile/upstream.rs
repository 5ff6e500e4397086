//! Servers that misbehave: clients learn of it, others do not.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::socket::{setsockopt, sockopt};
use remora_test::netns::{run, tool};
use remora_test::pod::Pod;
use remora_test::{PATIENCE, client, eventually};

use crate::bed::{Bed, Counter, Row, beds, connect};
use crate::frames::{HEADERS, Outcome, RST_STREAM, field, get, request};
use crate::origin::{Seen, Served, usual};

const fn answered(label: &'static [(&'static str, &'static str)]) -> Counter {
    ("remora_requests_total", label)
}

pub(crate) fn rows() -> Vec<Row> {
    vec![
        Row { name: "gone-before-the-head", counter: answered(&[("flag", "UC")]), run: gone_before_the_head },
        Row { name: "gone-within-the-body", counter: answered(&[("flag", "UC")]), run: gone_within_the_body },
        Row { name: "answers-that-are-none", counter: answered(&[("flag", "UPE")]), run: no_answers },
        Row {
            name: "answers-behind-an-answer",
            counter: ("remora_upstream_surplus_answers_total", &[]),
            run: behind_an_answer,
        },
        Row { name: "informational-flood", counter: answered(&[("flag", "UPE")]), run: informational_flood },
        Row { name: "unasked-101", counter: answered(&[("flag", "UPE")]), run: unasked_101 },
        Row { name: "early-413", counter: answered(&[("code", "413")]), run: early_413 },
        Row { name: "never-answers", counter: answered(&[("flag", "UT")]), run: never_answers },
        Row { name: "http2-servers-that-refuse", counter: answered(&[("flag", "UR")]), run: http2_refusals },
        Row { name: "unreachable", counter: answered(&[("flag", "UF")]), run: unreachable },
    ]
}

/// Beside the usual route: one with a time limit, one to an HTTP/2 server, and three to ports that cannot be reached.
fn routes(server: &Pod) -> String {
    let route = |path: &str, port: u16, more: &str| {
        format!("    - {{path: {path}, endpoints: [\"{}\"]{more}}}\n", server.at(port))
    };
    [
        route("/never", 8080, ", protocol: http, timeout: 2s"),
        route("/h2", 8082, ", protocol: http2, timeouts: {idle: 2s}"),
        route("/refused", 9001, ""),
        route("/dropped", 9002, ""),
        route("/rejected", 9003, ""),
    ]
    .concat()
}

beds! {
    gateway servers_that_misbehave [
        "gone-before-the-head", "gone-within-the-body", "answers-that-are-none", "answers-behind-an-answer",
        "informational-flood", "unasked-101", "early-413", "never-answers", "http2-servers-that-refuse", "unreachable",
    ] => |rows| rows.run(&mut Bed::gateway_with(routes, "", &[]));

    /// Those that need no route of their own, and nothing of a server that HTTP/2 reaches as HTTP/2.
    sidecar an_application_that_misbehaves [
        "gone-before-the-head", "answers-that-are-none", "answers-behind-an-answer", "informational-flood", "unasked-101",
        "early-413",
    ] => |rows| rows.run(&mut Bed::inbound("inbound: {ports: [{port: 8080, protocol: http}, {port: 9001, protocol: http}]}"));
}

fn ask(bed: &Bed, method: &str, path: &str) -> String {
    bed.answer_to(
        format!("{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes(),
    )
}

fn code(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// Ends the connection with a reset.
fn reset(served: &Served) {
    let now = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&served.stream, sockopt::Linger, &now).unwrap();
}

fn gone_before_the_head(bed: &Bed) {
    bed.origin.script(|seen, served| {
        if seen.path() == "/reset" {
            reset(served);
        }
        false
    });
    for path in ["/close", "/reset"] {
        for method in ["GET", "POST"] {
            assert_eq!(code(&ask(bed, method, path)), "503", "{method} {path}");
        }
        assert_eq!(bed.origin.seen(path).len(), 2, "{path}: each once");
    }
    bed.origin.script(usual);
}

/// Begins an answer and breaks it off.
fn truncated(seen: &Seen, served: &mut Served) -> bool {
    served.say(match seen.path() {
        "/length" | "/length-reset" => b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        _ => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    });
    if seen.path().ends_with("-reset") {
        reset(served);
    }
    false
}

fn gone_within_the_body(bed: &Bed) {
    bed.origin.script(truncated);
    for path in ["/length", "/length-reset", "/chunked", "/chunked-reset"] {
        let answer = ask(bed, "GET", path);
        // A reset may overtake the head; then it is no answer at all.
        assert!(matches!(code(&answer), "200" | "503"), "{path}: {answer:?}");
        assert!(!answer.ends_with("0\r\n\r\n"), "{path}: a clean end: {answer:?}");
        let mut h2 = bed.h2();
        let id = h2.ask(&get(path));
        if h2.outcome(id) == Outcome::Answer(200) {
            assert_eq!(h2.outcome(id), Outcome::Reset(2), "{path}");
        }
        // gRPC is told in its own words.
        let grpc = [request("POST", path), field(b"content-type", b"application/grpc"), field(b"te", b"trailers")];
        let id = h2.ask(&grpc.concat());
        let trailers = loop {
            let frame = h2.frame().expect("the connection goes on");
            assert!(frame.kind != RST_STREAM || frame.stream != id, "{path}");
            if frame.kind == HEADERS && frame.stream == id && frame.flags & 1 == 1 {
                break frame.payload;
            }
        };
        assert!(!trailers.is_empty(), "{path}");
    }
    let (to, attacker) = (bed.to, &bed.attacker);
    let call = attacker.block_on(|| async move {
        let mut h2 = client::h2(to).await.unwrap();
        client::unary(&mut h2, "server:8080", "/chunked", &[]).await.unwrap()
    });
    assert_eq!(call.status, Some(14), "{call:?}");
    bed.origin.script(usual);
}

/// Answers that no strict reader takes for one, by path.
fn garbage(seen: &Seen, served: &mut Served) -> bool {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 2\r\n\r\nok", "l".repeat(200_000));
    served.say(match seen.path() {
        "/garbage" => b"\x00\x01\x02 garbage\r\n\r\n",
        "/0.9" => b"<html>EVIL</html>\r\n\r\n",
        "/two-lengths" => b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nEVIL",
        "/two-framings" => b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "/nul" => b"HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 4\r\n\r\nEVIL",
        "/split" => b"HTTP/1.1 200 OK\r\nlocation: /a\nset-cookie: evil=1\r\ncontent-length: 4\r\n\r\nEVIL",
        "/204" => b"HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\nEVIL",
        "/long" => long.as_bytes(),
        _ => return usual(seen, served),
    })
}

fn no_answers(bed: &Bed) {
    bed.origin.script(garbage);
    for path in ["/garbage", "/0.9", "/two-lengths", "/two-framings", "/nul", "/split", "/204", "/long"] {
        let answer = ask(bed, "GET", path);
        assert_eq!(code(&answer), "502", "{path}: {answer:?}");
        let next = ask(bed, "GET", "/next");
        assert!(code(&next) == "200" && next.ends_with("\r\n\r\nok"), "after {path}: {next:?}");
    }
    bed.origin.script(usual);
}

fn behind_an_answer(bed: &Bed) {
    bed.origin.script(|seen, served| match seen.path() {
        "/more" => served
            .say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL"),
        _ => usual(seen, served),
    });
    for _ in 0..20 {
        for path in ["/more", "/next"] {
            let answer = ask(bed, "GET", path);
            assert!(answer.ends_with("\r\n\r\nok"), "{path}: {answer:?}");
        }
    }
    bed.origin.script(usual);
}

fn informational_flood(bed: &Bed) {
    bed.origin.script(|seen, served| {
        let times = if seen.path() == "/many" { 1_000 } else { 1_000_000 };
        (0..times).all(|_| served.say(b"HTTP/1.1 100 Continue\r\n\r\n")) && usual(seen, served)
    });
    let many = ask(bed, "GET", "/many");
    assert!(many.ends_with("\r\n\r\nok") && many.matches(" 100 Continue").count() == 1_000, "{}", many.len());
    let endless = ask(bed, "GET", "/endless");
    assert!(endless.contains("HTTP/1.1 502 "), "{}", endless.len());
    bed.origin.script(usual);
}

fn unasked_101(bed: &Bed) {
    bed.origin.script(|_, served| {
        served.say(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nEVIL")
    });
    let answer = ask(bed, "GET", "/101");
    assert!(code(&answer) == "502" && !answer.contains("EVIL"), "{answer:?}");
    bed.origin.script(usual);
}

fn early_413(bed: &Bed) {
    // The origin reads whole bodies before its script is asked: this one answers at the first chunk by itself.
    let listener = bed.server.enter(|| TcpListener::bind(bed.server.at(9001))).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        stream
            .write_all(b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 4\r\n\r\nlong")
            .unwrap();
        let _ = stream.shutdown(std::net::Shutdown::Write);
        // The rest is never read.
        stream
    });
    // At a pod its own port leads there, at a gateway a route.
    let mut to = bed.to;
    if to.ip() == bed.server.at(9001).ip() {
        to.set_port(9001);
    }
    let mut stream = connect(&bed.attacker, to);
    stream.write_all(b"POST /refused HTTP/1.1\r\nhost: a\r\ncontent-length: 50000000\r\n\r\n").unwrap();
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        let part = vec![b'u'; 100_000];
        (0..500).take_while(|_| writer.write_all(&part).is_ok()).count()
    });
    let mut answer = Vec::new();
    // What comes behind the answer, an end or a reset, is not the question.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    assert!(code(&answer) == "413" && answer.ends_with("\r\n\r\nlong"), "{answer:?}");
    writing.join().unwrap();
    drop(server.join().unwrap());
}

fn never_answers(bed: &Bed) {
    bed.origin.script(|_, served| served.until(b"never").is_some());
    assert_eq!(code(&ask(bed, "GET", "/never")), "504");
    let mut h2 = bed.h2();
    let id = h2.ask(&get("/never"));
    assert!(matches!(h2.outcome(id), Outcome::Answer(504 | 0)));
    bed.origin.script(usual);
}

/// HTTP/2 that first refuses streams, then leaves in the midst of one, then takes one stream at a time, then floods with resets.
fn refusing(listener: TcpListener, refused: &'static AtomicUsize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                let Ok(mut connection) = builder.max_concurrent_streams(1).handshake::<_, bytes::Bytes>(stream).await
                else {
                    return;
                };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let answer = || http::Response::new(());
                    match request.uri().path() {
                        "/h2/refuse" => {
                            refused.fetch_add(1, Ordering::Relaxed);
                            respond.send_reset(h2::Reason::REFUSED_STREAM);
                        }
                        "/h2/leave" => {
                            let mut body = respond.send_response(answer(), false).unwrap();
                            connection.graceful_shutdown();
                            body.send_data("left".into(), true).unwrap();
                        }
                        "/h2/reset" => respond.send_reset(h2::Reason::INTERNAL_ERROR),
                        _ => drop(respond.send_response(answer(), true)),
                    }
                }
            });
        }
    });
}

fn http2_refusals(bed: &Bed) {
    static REFUSED: AtomicUsize = AtomicUsize::new(0);
    let listener = bed.server.enter(|| TcpListener::bind(bed.server.at(8082))).unwrap();
    // Ends with the process.
    std::thread::spawn(move || refusing(listener, &REFUSED));
    let refuse = ask(bed, "POST", "/h2/refuse");
    assert_eq!(code(&refuse), "503", "{refuse:?}");
    assert_eq!(REFUSED.load(Ordering::Relaxed), 2, "asked twice and no more");
    for _ in 0..10 {
        let leave = ask(bed, "GET", "/h2/leave");
        assert!(code(&leave) == "200" && leave.contains("left"), "what was under way finishes: {leave:?}");
    }
    // One stream a connection, and many at once: they wait, or get connections of their own.
    let many: Vec<String> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..30).map(|_| scope.spawn(|| ask(bed, "GET", "/h2/one"))).collect();
        asking.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let bad: Vec<_> = many.iter().filter(|answer| code(answer) != "200").collect();
    assert!(bad.is_empty(), "{bad:?}");
    for _ in 0..300 {
        let reset = ask(bed, "GET", "/h2/reset");
        assert!(matches!(code(&reset), "502" | "503"), "{reset:?}");
    }
    assert_eq!(code(&ask(bed, "GET", "/h2/one")), "200", "and it serves on");
}

fn unreachable(bed: &Bed) {
    let rule = |action: &str, port: &str, target: &[&str]| {
        let mut command = bed.server.command(tool("iptables"));
        run(command.args(["-w", action, "INPUT", "-p", "tcp", "--dport", port, "-j"]).args(target)).unwrap();
    };
    rule("-A", "9002", &["DROP"]);
    rule("-A", "9003", &["REJECT", "--reject-with", "tcp-reset"]);
    for path in ["/refused", "/dropped", "/rejected"] {
        for _ in 0..5 {
            let answer = ask(bed, "GET", path);
            assert!(code(&answer) == "503" && answer.contains("\r\nx-remora-reason: U"), "{path}: {answer:?}");
        }
        assert!(bed.proxy.admin("/clusters").body.contains("unhealthy"), "it is passed over");
    }
    rule("-D", "9002", &["DROP"]);
    let listener = bed.server.enter(|| TcpListener::bind(bed.server.at(9002))).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.set_read_timeout(Some(PATIENCE));
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    eventually("what can be reached again is", || (code(&ask(bed, "GET", "/dropped")) == "200").then_some(()));
}
