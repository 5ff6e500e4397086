//! HTTP/2 that is none, and HTTP/2 that would be something else in HTTP/1.

use remora_test::eventually;

use crate::bed::{Bed, Row};
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, field,
    fields, frame, get, request,
};

const VIOLATIONS: &str = "remora_protocol_violations_total";
const RESETS: &str = "remora_http2_resets_sent_total";

/// They lie in the beds of [`crate::h2_abuse`].
pub(crate) fn rows() -> Vec<Row> {
    vec![
        Row { name: "malformed-frames", counter: (VIOLATIONS, &[("reason", "h2_frame_size")]), run: malformed_frames },
        Row { name: "malformed-fields", counter: (RESETS, &[("code", "PROTOCOL_ERROR")]), run: malformed_fields },
        Row {
            name: "malformed-pseudo-headers",
            counter: (RESETS, &[("code", "PROTOCOL_ERROR")]),
            run: malformed_pseudo_headers,
        },
        Row {
            name: "host-beside-another-authority",
            counter: (VIOLATIONS, &[("reason", "malformed")]),
            run: host_beside_another_authority,
        },
        Row {
            name: "length-without-a-body",
            counter: (RESETS, &[("code", "PROTOCOL_ERROR")]),
            run: length_without_body,
        },
    ]
}

/// Each ends the connection, whatever comes behind it.
fn malformed_frames(bed: &Bed) {
    let large = frame(DATA, 0, 1, &[0; 16_385]);
    let frames: [(&str, Vec<u8>); 17] = [
        ("SETTINGS of five bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("SETTINGS of a stream", frame(SETTINGS, 0, 1, b"")),
        ("an acknowledgement with content", frame(SETTINGS, 1, 0, &[0; 6])),
        ("a window of 2^31", frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])),
        ("PING of seven bytes", frame(PING, 0, 0, &[0; 7])),
        ("PING of a stream", frame(PING, 0, 1, &[0; 8])),
        ("WINDOW_UPDATE of three bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 3])),
        ("WINDOW_UPDATE of nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("RST_STREAM of three bytes", frame(RST_STREAM, 0, 1, &[0; 3])),
        ("RST_STREAM of no stream", frame(RST_STREAM, 0, 0, &[0; 4])),
        ("DATA of no stream", frame(DATA, 0, 0, b"data")),
        ("DATA of an idle stream", frame(DATA, 0, 9, b"data")),
        ("HEADERS of a server's stream", frame(HEADERS, END_STREAM | END_HEADERS, 2, &get("/evil"))),
        ("HEADERS that are all padding", frame(HEADERS, END_STREAM | END_HEADERS | 8, 1, &[200, 0, 0])),
        ("HEADERS of no table's entry", frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff, 0xff, 0xff, 0xff, 0x0f])),
        ("CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, &get("/evil"))),
        ("a frame above the largest size", large),
    ];
    for (what, bytes) in frames {
        let mut h2 = bed.h2();
        h2.send(&[bytes, frame(HEADERS, END_STREAM | END_HEADERS, 11, &get("/evil"))].concat());
        let outcome = h2.outcome(11);
        assert!(matches!(outcome, Outcome::Closed(_)), "{what}: {outcome:?}");
    }
    assert!(bed.origin.seen("/evil").is_empty());
}

/// Each on a connection of its own, and each counted: none may be answered, or reach the origin, were it only to be reset there.
fn refused(bed: &Bed, blocks: &[(&str, Vec<u8>)]) {
    let reset = || bed.proxy.metric("remora_requests_total", &[("flag", "UR")]);
    let counted = || bed.proxy.metric(VIOLATIONS, &[]) + bed.proxy.metric(RESETS, &[]);
    let before = reset();
    for (what, block) in blocks {
        let count = counted();
        let mut h2 = bed.h2();
        let id = h2.ask(block);
        let outcome = h2.outcome(id);
        let good = matches!(outcome, Outcome::Reset(_) | Outcome::Closed(_) | Outcome::Answer(400 | 431));
        assert!(good, "{what}: {outcome:?}");
        eventually(&format!("{what} is counted"), || (counted() > count).then_some(()));
    }
    assert_eq!(reset(), before, "the origin refused some");
    let mut seen = bed.origin.seen("");
    // Of a row before.
    seen.retain(|seen| seen.path() != "/silent");
    assert!(seen.is_empty(), "{seen:?}");
}

fn malformed_fields(bed: &Bed) {
    let names: [&[u8]; 15] = [
        b"x\r",
        b"x\n",
        b"x\0y",
        b"x\x7f",
        b"x:y",
        b"x y",
        b"",
        b":x",
        b"x\r\ny",
        // Upper case at the beginning, at the end, and of a name that HPACK's table has.
        b"X-Upper",
        b"x-uppeR",
        b"Cookie",
        // Not ASCII: UTF-8, a byte that is none, and what ends in Latin-1.
        "x-\u{e9}".as_bytes(),
        b"x-\xff",
        b"\xe9",
    ];
    let values: [&[u8]; 5] = [b"a\rb", b"a\nb", b"a\0b", b"a\x7fb", b"a\r\nx-evil: 1"];
    let hop = ["connection", "keep-alive", "upgrade", "proxy-connection", "transfer-encoding"];
    let mut blocks: Vec<(&str, Vec<u8>)> = Vec::new();
    blocks.extend(names.map(|name| ("a name", [get("/evil"), field(name, b"1")].concat())));
    blocks.extend(values.map(|value| ("a value", [get("/evil"), field(b"x", value)].concat())));
    blocks.extend(hop.map(|name| (name, [get("/evil"), field(name.as_bytes(), b"close")].concat())));
    blocks.push(("te", [get("/evil"), field(b"te", b"gzip")].concat()));
    for (what, lengths) in [
        ("two lengths", &["1", "2"][..]),
        ("a length twice", &["0", "0"]),
        ("00", &["00"]),
        ("+5", &["+5"]),
        ("-1", &["-1"]),
        ("one too many", &["5"]),
    ] {
        let lengths: Vec<u8> = lengths.iter().flat_map(|length| field(b"content-length", length.as_bytes())).collect();
        blocks.push((what, [request("POST", "/evil"), lengths].concat()));
    }
    refused(bed, &blocks);
    // A length that the data does not keep to.
    for (length, data) in [("2", &b"data"[..]), ("9", b"data")] {
        let mut h2 = bed.h2();
        let id = h2.stream_id();
        let block = [request("POST", "/evil"), field(b"content-length", length.as_bytes())].concat();
        h2.send(&[frame(HEADERS, END_HEADERS, id, &block), frame(DATA, END_STREAM, id, data)].concat());
        let outcome = h2.outcome(id);
        assert!(!matches!(outcome, Outcome::Answer(200)), "{length}: {outcome:?}");
    }
    assert!(bed.origin.seen("/evil").is_empty(), "no whole request reached the origin");
}

fn malformed_pseudo_headers(bed: &Bed) {
    let usual = [(":method", "GET"), (":scheme", "http"), (":authority", "server:8080"), (":path", "/evil")];
    let without = |name: &str| fields(&usual.iter().filter(|field| field.0 != name).copied().collect::<Vec<_>>());
    let with = |name: &'static str, value: &[u8]| [without(name), field(name.as_bytes(), value)].concat();
    let mut blocks = vec![
        ("no method", without(":method")),
        ("no path", without(":path")),
        ("no path, and Host", fields(&[(":method", "GET"), (":scheme", "http"), ("host", "server:8080")])),
        ("no scheme", without(":scheme")),
        ("unknown", [get("/evil"), field(b":evil", b"1")].concat()),
        ("behind another field", [field(b"x", b"1"), get("/evil")].concat()),
        ("a status", [get("/evil"), field(b":status", b"200")].concat()),
        ("method with a space", with(":method", b"GET /evil")),
    ];
    // Twice, whether it says the same again or something else, and wherever the second one stands.
    for (name, values) in [
        (":method", ["GET", "POST"]),
        (":scheme", ["http", "https"]),
        (":authority", ["server:8080", "other:8080"]),
        (":path", ["/evil", "/other"]),
    ] {
        for value in values {
            let second = field(name.as_bytes(), value.as_bytes());
            blocks.push((name, [&get("/evil")[..], &second].concat()));
            blocks.push((name, [&second[..], &get("/evil")].concat()));
        }
    }
    let connect = fields(&[(":protocol", "echo"), (":protocol", "echo")]);
    blocks.push((":protocol", [request("CONNECT", "/evil"), connect].concat()));
    blocks.push((":protocol of a GET", [get("/evil"), field(b":protocol", b"echo")].concat()));
    for path in [&b"/evil x"[..], b"/evil\r\nx: y", b"/evil\0", b"", b"evil", b"*", "/evil/\u{e9}".as_bytes()] {
        blocks.push(("path", with(":path", path)));
    }
    for name in [&b"\xff"[..], b"a b", b"a/b", b"user@server:8080", b"server\r\nx: y", b"server:70000", b""] {
        blocks.push(("authority", with(":authority", name)));
    }
    refused(bed, &blocks);
    // No fragment is passed on, and what scheme is named does not matter.
    for (block, path) in [(with(":path", b"/good-one#frag"), "/good-one"), (with(":scheme", b"gopher"), "/evil")] {
        let mut h2 = bed.h2();
        let id = h2.ask(&block);
        assert_eq!(h2.outcome(id), Outcome::Answer(200), "{path}");
        assert_eq!(bed.origin.seen(path)[0].path(), path);
    }
}

fn host_beside_another_authority(bed: &Bed) {
    refused(bed, &[("host", [get("/evil"), field(b"host", b"other:8080")].concat())]);
}

fn length_without_body(bed: &Bed) {
    refused(bed, &[("length", [request("POST", "/evil"), field(b"content-length", b"5")].concat())]);
}
