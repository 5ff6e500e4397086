//! HTTP/1 that two readers would take for different messages, and what else is said between its lines.

use std::io::{Read, Write};
use std::time::Duration;

use crate::bed::{Bed, Counter, Row, beds};
use crate::origin::usual;
use crate::paths;

const VIOLATIONS: &str = "remora_protocol_violations_total";

/// Its requests have a cluster of their own, so that they alone are counted so.
const MANY: Counter = ("remora_requests_total", &[("cluster", "many")]);

pub(crate) fn rows() -> Vec<Row> {
    vec![
        Row { name: "two-framings", counter: (VIOLATIONS, &[("reason", "two_lengths")]), run: two_framings },
        Row {
            name: "bad-content-lengths",
            counter: (VIOLATIONS, &[("reason", "content_length")]),
            run: bad_content_lengths,
        },
        Row {
            name: "bad-transfer-codings",
            counter: (VIOLATIONS, &[("reason", "transfer_encoding")]),
            run: bad_transfer_codings,
        },
        Row { name: "bad-chunks", counter: (VIOLATIONS, &[("reason", "chunk_size")]), run: bad_chunks },
        Row { name: "nul-in-a-field", counter: (VIOLATIONS, &[("reason", "header_value")]), run: nul },
        Row { name: "bare-cr", counter: (VIOLATIONS, &[("reason", "header_value")]), run: bare_cr },
        Row { name: "bare-lf", counter: (VIOLATIONS, &[("reason", "line_end")]), run: bare_lf },
        Row { name: "folded-fields", counter: (VIOLATIONS, &[("reason", "header_name")]), run: folded },
        Row { name: "spaces-where-none-belong", counter: (VIOLATIONS, &[("reason", "header_name")]), run: spaces },
        Row { name: "hosts-that-are-none-or-two", counter: (VIOLATIONS, &[("reason", "several_hosts")]), run: hosts },
        Row { name: "bad-targets", counter: (VIOLATIONS, &[("reason", "target")]), run: bad_targets },
        Row { name: "http-1.0", counter: (VIOLATIONS, &[("reason", "transfer_encoding")]), run: http_1_0 },
        Row { name: "absolute-target", counter: (VIOLATIONS, &[("reason", "host_overridden")]), run: absolute_target },
        Row { name: "early-bytes-of-a-tunnel", counter: (VIOLATIONS, &[("reason", "request_line")]), run: early_bytes },
        Row { name: "hop-by-hop-names", counter: (VIOLATIONS, &[("reason", "connection_option")]), run: hop_by_hop },
        Row { name: "slow-heads", counter: (VIOLATIONS, &[("reason", "head_timeout")]), run: slow_heads },
        Row {
            name: "slow-bodies-and-readers",
            counter: ("remora_requests_total", &[("flag", "SI")]),
            run: slow_bodies_and_readers,
        },
        Row { name: "paths-in-disguise", counter: (VIOLATIONS, &[("reason", "target")]), run: paths::disguised },
        Row {
            name: "forged-proxy-headers",
            counter: (VIOLATIONS, &[("reason", "forged_headers")]),
            run: forged_headers,
        },
        Row { name: "many-names", counter: MANY, run: many_names },
    ]
}

beds! {
    gateway http1_at_a_gateway [
        "two-framings", "bad-content-lengths", "bad-transfer-codings", "bad-chunks", "nul-in-a-field", "bare-cr", "bare-lf",
        "folded-fields", "spaces-where-none-belong", "hosts-that-are-none-or-two", "bad-targets", "http-1.0",
        "absolute-target", "early-bytes-of-a-tunnel", "hop-by-hop-names", "paths-in-disguise", "forged-proxy-headers",
        "many-names",
    ] => |rows| rows.run(&mut Bed::gateway());

    chain http1_through_two_sidecars [
        "two-framings", "bad-content-lengths", "bad-transfer-codings", "bad-chunks", "nul-in-a-field", "bare-cr", "bare-lf",
        "folded-fields", "spaces-where-none-belong", "hosts-that-are-none-or-two", "bad-targets", "http-1.0",
        "absolute-target", "early-bytes-of-a-tunnel", "hop-by-hop-names", "paths-in-disguise",
        "many-names",
    ] => |rows| rows.run(&mut Bed::chain("", ""));

    chain slow_clients_of_two_sidecars ["slow-heads", "slow-bodies-and-readers"] =>
        |rows| rows.run(&mut Bed::chain("", "limits: {header_timeout: 6s, stream_idle: 2s}"));

    gateway slow_clients_of_a_gateway ["slow-heads", "slow-bodies-and-readers"] => |rows| {
        let limits = "limits: {header_timeout: 6s, stream_idle: 2s}";
        rows.run(&mut Bed::gateway_with(|_| String::new(), limits, &[]))
    };
}

/// Each is answered with one of these statuses and the connection's end; nothing of it, nor of what is behind it, goes on.
pub(crate) fn refused(bed: &Bed, codes: &[&str], messages: &[&[u8]]) {
    for message in messages {
        let smuggled = b"GET /smuggled HTTP/1.1\r\nhost: server:8080\r\n\r\n";
        let answer = bed.answer_to(&[message, &smuggled[..]].concat());
        let code = answer.split(' ').nth(1).unwrap_or_default();
        assert!(codes.contains(&code), "{}: {answer:?}", message.escape_ascii());
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{}: {answer:?}", message.escape_ascii());
    }
    let seen = bed.origin.seen("/");
    assert!(seen.is_empty(), "{seen:?}");
}

fn two_framings(bed: &Bed) {
    let message = |lines: &str| format!("POST /evil HTTP/1.1\r\nhost: server:8080\r\n{lines}\r\n\r\n0\r\n\r\n");
    let both = message("content-length: 5\r\ntransfer-encoding: chunked");
    let turned = message("transfer-encoding: chunked\r\ncontent-length: 5");
    refused(bed, &["400"], &[both.as_bytes(), turned.as_bytes()]);
}

fn bad_content_lengths(bed: &Bed) {
    let lengths = [
        "18446744073709551615",
        "1\r\ncontent-length: 2",
        "1, 2",
        "+5",
        "-1",
        "0x10",
        "1_0",
        "005",
        "",
        "1 1",
        "\u{661}",
    ];
    let message = |length| format!("POST /evil HTTP/1.1\r\nhost: server:8080\r\ncontent-length: {length}\r\n\r\nhello");
    let messages = lengths.map(message);
    refused(bed, &["400"], &messages.each_ref().map(|message| message.as_bytes()));
}

fn bad_transfer_codings(bed: &Bed) {
    let codings: [&[u8]; 6] = [
        b",chunked",
        b"xchunked",
        b"chunked, identity",
        b"chunked\r\ntransfer-encoding: chunked",
        b"\xa0chunked",
        b"chunked, chunked",
    ];
    let head = b"POST /evil HTTP/1.1\r\nhost: server:8080\r\ntransfer-encoding: ";
    let messages = codings.map(|coding| [head, coding, b"\r\n\r\n0\r\n\r\n"].concat());
    refused(bed, &["400", "501"], &messages.each_ref().map(|message| &message[..]));
}

fn bad_chunks(bed: &Bed) {
    let bodies: [&[u8]; 9] = [
        b"0x2\r\nab\r\n0\r\n\r\n",
        b"+2\r\nab\r\n0\r\n\r\n",
        b"-1\r\nab\r\n0\r\n\r\n",
        b"0_2e\r\nab\r\n0\r\n\r\n",
        b"\r\nab\r\n0\r\n\r\n",
        b"1xyz\r\na\r\n0\r\n\r\n",
        b"2;a\rb\r\nab\r\n0\r\n\r\n",
        b"2\r\nabcd\r\n0\r\n\r\n",
        b"2\nab\n0\n\n",
    ];
    for body in bodies {
        let head = b"POST /evil HTTP/1.1\r\nhost: server:8080\r\ntransfer-encoding: chunked\r\n\r\n";
        let answer = bed.answer_to(&[&head[..], body, b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"].concat());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{}: {answer:?}", body.escape_ascii());
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer:?}");
    }
    // The head may have gone ahead of its body; no server takes that for a request.
    let seen = bed.origin.seen("/");
    assert!(seen.is_empty(), "{seen:?}");
}

/// A GET with this line among its fields.
fn with_line(line: &[u8]) -> Vec<u8> {
    [b"GET /evil HTTP/1.1\r\nhost: server:8080\r\n", line, b"\r\n\r\n"].concat()
}

fn with_lines(bed: &Bed, lines: &[&[u8]]) {
    let messages: Vec<_> = lines.iter().map(|line| with_line(line)).collect();
    refused(bed, &["400"], &messages.iter().map(|message| &message[..]).collect::<Vec<_>>());
}

fn nul(bed: &Bed) {
    with_lines(bed, &[b"x: a\0b", b"x\0y: a", b"x: \0"]);
}

fn bare_cr(bed: &Bed) {
    with_lines(bed, &[b"x: a\rb", b"x: a\r\r\nb: c", b"x\r: a"]);
}

fn bare_lf(bed: &Bed) {
    with_lines(bed, &[b"x: a\ny: b"]);
    refused(bed, &["400"], &[b"GET /evil HTTP/1.1\nhost: server:8080\n\n", b"GET /evil HTTP/1.1\r\nhost: a\n\r\n"]);
    // A server's are read, and passed on as they should have been.
    bed.origin.script(|_, served| served.say(b"HTTP/1.1 200 Fine\nX-A: b\ncontent-length: 2\n\nok"));
    let answer = bed.answer_to(b"GET /lf HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 Fine\r\nX-A: b\r\n") && answer.ends_with("\r\n\r\nok"), "{answer:?}");
    bed.origin.script(usual);
}

fn folded(bed: &Bed) {
    with_lines(bed, &[b"x: a\r\n b", b"x: a\r\n\tb", b"x: a\r\n content-length: 5"]);
}

fn spaces(bed: &Bed) {
    with_lines(bed, &[b"x : a", b"x\t: a", b"no colon", b": a"]);
    refused(bed, &["400"], &[b"GET /evil HTTP/1.1\r\n host: server:8080\r\n\r\n"]);
}

fn hosts(bed: &Bed) {
    with_lines(bed, &[b"host: server:8080", b"host: other"]);
    for host in [&b"x: y"[..], b"host: a\0b", b"host: user@a", b"host: a:70000", b"host: a b"] {
        refused(bed, &["400"], &[&[b"GET /evil HTTP/1.1\r\n", host, b"\r\n\r\n"].concat()]);
    }
}

fn bad_targets(bed: &Bed) {
    let targets: [&[u8]; 12] = [
        b"/\xc3\xa9",
        b"/a\0b",
        b"evil",
        b"*",
        b"server:8080",
        b"/evil#x",
        b"http:///evil",
        b"http://u@a/",
        b"//\x7f",
        b"<evil>",
        b"http://a<b/evil",
        b"/evil<#>",
    ];
    for target in targets {
        refused(bed, &["400"], &[&[b"GET ", target, b" HTTP/1.1\r\nhost: server:8080\r\n\r\n"].concat()]);
    }
    // What no URI has and servers take passes as it is.
    let answer = bed.answer_to(b"GET /a\"<b>?`{ HTTP/1.1\r\nhost: server:8080\r\nconnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    assert_eq!(bed.origin.seen("/")[0].path(), "/a\"<b>?`{");
    bed.origin.forget();
}

fn http_1_0(bed: &Bed) {
    let answer = bed.answer_to(b"GET /old HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.") && answer.contains(" 200 ") && answer.ends_with("\r\n\r\nok"), "{answer:?}");
    let kept = b"GET /kept HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\nGET /last HTTP/1.0\r\n\r\n";
    let answer = bed.answer_to(kept).to_lowercase();
    assert!(answer.matches(" 200 ok\r\n").count() == 2 && answer.contains("connection: keep-alive"), "{answer:?}");
    assert_eq!(bed.origin.seen("/").len(), 3);
    bed.origin.forget();
    refused(bed, &["400"], &[b"POST /evil HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"]);
}

fn absolute_target(bed: &Bed) {
    let answer = bed.answer_to(b"GET http://named:81/absolute?q HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    let seen = bed.origin.seen("/");
    assert_eq!((seen[0].path(), seen[0].values("host")), ("/absolute?q", vec!["named:81"]), "{seen:?}");
}

fn early_bytes(bed: &Bed) {
    bed.origin.script(|seen, served| {
        if seen.path() != "/tunnel" {
            return usual(seen, served);
        }
        // Nothing comes before the 101.
        served.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let early = served.stream.read(&mut [0; 64]);
        let waits = early.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        served.stream.set_read_timeout(None).unwrap();
        served.say(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n");
        served.say(if waits { b"nothing came early;" } else { b"something came early;" });
        let told = served.until(b"early").map_or(&b"no"[..], |_| b"and then it did");
        served.say(told);
        false
    });
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n");
    let answer = bed.answer_to(format!("{}early", ask("/tunnel")).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer:?}");
    assert!(answer.ends_with("nothing came early;and then it did"), "{answer:?}");
    let answer = bed.answer_to(format!("{}\x01\x02 tunnel\r\n\r\n", ask("/stays-http")).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("HTTP/1.1 400 "), "{answer:?}");
    assert_eq!(bed.origin.seen("/stays-http").len(), 1);
    // A body that comes with the question is its own, not the tunnel's.
    let message = ask("/stays-http").replace("\r\n\r\n", "\r\ncontent-length: 4\r\n\r\nbody");
    let answer =
        bed.answer_to(format!("{message}GET /next HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes());
    let codes = answer.matches("HTTP/1.1 200 ").count();
    assert!(codes == 2 || answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
    bed.origin.script(usual);
}

fn hop_by_hop(bed: &Bed) {
    let lines = "connection: close, x-secret, content-length, host, transfer-encoding\r\nx-secret: 1\r\n\
                 keep-alive: timeout=9\r\nproxy-connection: close\r\nte: gzip\r\nx-kept: 1\r\ncontent-length: 4";
    let answer = bed.answer_to(format!("POST /hop HTTP/1.1\r\nhost: server:8080\r\n{lines}\r\n\r\nbody").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    let seen = &bed.origin.seen("/hop")[0];
    for gone in ["x-secret", "keep-alive", "proxy-connection", "te"] {
        assert!(seen.values(gone).is_empty(), "{gone}: {seen:?}");
    }
    assert_eq!((seen.values("x-kept"), &seen.body[..]), (vec!["1"], &b"body"[..]), "{seen:?}");
    assert_eq!(seen.values("host"), ["server:8080"]);
}

fn slow_heads(bed: &Bed) {
    let mut slow: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = bed.connect();
            stream.write_all(b"GET /evil HTTP/1.1\r\nhost: server:8080\r\n").unwrap();
            stream
        })
        .collect();
    // A field every two seconds, until the proxy has had enough of the first.
    let mut fields = 0;
    loop {
        let hurried = bed.proxy.metric(VIOLATIONS, &[("reason", "head_timeout")]);
        if hurried >= 200.0 {
            break;
        }
        fields += 1;
        assert!(fields < 60, "only {hurried} are hurried");
        for stream in &mut slow {
            let _ = stream.write_all(b"x-slow: 1\r\n");
        }
        // Slow is what it is.
        std::thread::sleep(Duration::from_secs(2));
    }
    for stream in &mut slow {
        let mut answer = [0; 13];
        // Where the client still wrote, a reset may have taken the answer from it.
        if stream.read_exact(&mut answer).is_ok() {
            assert_eq!(&answer, b"HTTP/1.1 408 ");
        }
    }
    assert!(bed.origin.seen("/evil").is_empty());
}

fn slow_bodies_and_readers(bed: &Bed) {
    let before = bed.memory();
    let slow: Vec<_> = (0..10)
        .flat_map(|_| {
            let (mut body, mut reader) = (bed.connect(), bed.connect());
            body.write_all(b"POST /evil HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nsome").unwrap();
            reader.write_all(b"GET /big/50000000 HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
            [body, reader]
        })
        .collect();
    bed.proxy.metric_until("remora_requests_total", &[("flag", "SI")], |count| count >= 20.0);
    assert!(bed.memory() < before + 64e6, "{before} bytes before, {} meanwhile", bed.memory());
    drop(slow);
    assert!(bed.origin.seen("/evil").is_empty());
}

fn forged_headers(bed: &Bed) {
    let names = [
        "x-forwarded-client-cert",
        "X_Forwarded_Client_Cert",
        "x-envoy-original-path",
        "X-Envoy-Internal",
        "x-envoy-decorator-operation",
        "l5d-dst-override",
        "x-remora-hop",
    ];
    let lines: String = names.iter().map(|name| format!("{name}: forged\r\n")).collect();
    let message = format!("GET /forged HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{lines}x-mine: 1\r\n\r\n");
    let answer = bed.answer_to(message.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    let seen = &bed.origin.seen("/forged")[0];
    assert!(!seen.head.contains("forged\r\n"), "{seen:?}");
    assert_eq!(seen.values("x-mine"), ["1"]);
    // Nor behind the head, where some applications look as well.
    let message =
        "POST /late HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n";
    let answer = bed.answer_to(format!("{message}{lines}x-mine: 1\r\n\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    let late = bed.origin.seen("/late").remove(0).trailers;
    assert!(late.contains("x-mine: 1\r\n") && !late.contains("forged"), "{late:?}");
}

fn many_names(bed: &Bed) {
    let series = || bed.proxy.ask("GET", 15_020, "/metrics").unwrap().body.lines().count();
    // From here on the cluster has its series.
    assert!(bed.answer_to(b"GET /many HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").starts_with("HTTP/1.1 200 "));
    let (metric, labels) = MANY;
    let counted = bed.proxy.metric_until(metric, labels, |count| count > 0.0);
    let before = series();
    let mut stream = bed.connect();
    let mut buffer = vec![0; 64 * 1024];
    // In parts that the answers' buffers can hold.
    for part in 0..500 {
        let name = |n| format!("GET /many/{part}/{n} HTTP/1.1\r\nhost: host-{part}-{n}.example\r\n\r\n");
        let messages: String = (0..200).map(name).collect();
        stream.write_all(messages.as_bytes()).unwrap();
        let mut answers = Vec::new();
        while answers.windows(6).filter(|six| *six == b"\r\n\r\nok").count() < 200 {
            let read = stream.read(&mut buffer).unwrap();
            assert_ne!(read, 0);
            answers.extend_from_slice(&buffer[..read]);
        }
        bed.origin.forget();
    }
    let counts = bed.proxy.metric_until(metric, labels, |count| count >= counted + 100_000.0);
    assert_eq!(counts, counted + 100_000.0, "each is counted once");
    let after = series();
    assert!(after <= before + 10, "{before} lines before, {after} after");
}
