use super::*;
use crate::http::h1::encode;

fn read(bytes: &[u8]) -> Result<Option<ParsedRequest>, InvalidHead> {
    request(&mut BytesMut::from(bytes), &Limits::default(), &mut 0)
}

fn accepted(bytes: &[u8]) -> ParsedRequest {
    let parsed = read(bytes).unwrap_or_else(|error| panic!("{}: {error}", bytes.escape_ascii()));
    parsed.unwrap_or_else(|| panic!("{}: incomplete", bytes.escape_ascii()))
}

fn refused(bytes: &[u8]) -> (u16, &'static str) {
    match read(bytes) {
        Err(error) => (error.status().as_u16(), error.reason()),
        Ok(parsed) => panic!("{}: {parsed:?}", bytes.escape_ascii()),
    }
}

/// A request whose target and Host are right, with these field lines.
fn with(lines: &[u8]) -> Vec<u8> {
    [b"POST / HTTP/1.1\r\nHost: a\r\n", lines, b"\r\n\r\n"].concat()
}

fn answer(bytes: &[u8], asked: Asked) -> Result<Option<ParsedResponse>, InvalidHead> {
    response(&mut BytesMut::from(bytes), asked, &Limits::default(), &mut 0)
}

#[test]
fn what_is_not_one_length_is_refused() {
    for (lines, expected) in [
        (&b"Content-Length: 3\r\nTransfer-Encoding: chunked"[..], (400, "two_lengths")),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 0", (400, "two_lengths")),
        (b"Content-Length: 3\r\nContent-Length: 4", (400, "content_length")),
        (b"Content-Length: 3\r\nContent-Length: 3", (400, "content_length")),
        (b"Content-Length: 1, 2", (400, "content_length")),
        (b"Content-Length: 3, 3", (400, "content_length")),
        (b"Content-Length: +5", (400, "content_length")),
        (b"Content-Length: -1", (400, "content_length")),
        (b"Content-Length: 0x10", (400, "content_length")),
        (b"Content-Length: 1_0", (400, "content_length")),
        (b"Content-Length: 010", (400, "content_length")),
        (b"Content-Length: 00", (400, "content_length")),
        (b"Content-Length: 1 0", (400, "content_length")),
        (b"Content-Length:", (400, "content_length")),
        (b"Content-Length: \xb2", (400, "content_length")),
        (b"Content-Length: 9223372036854775808", (400, "content_length")),
        (b"Content-Length: 18446744073709551616", (400, "content_length")),
        (b"Transfer-Encoding: ,chunked", (400, "transfer_encoding")),
        (b"Transfer-Encoding: chunked,", (400, "transfer_encoding")),
        (b"Transfer-Encoding: xchunked", (400, "transfer_encoding")),
        (b"Transfer-Encoding: chunked, identity", (400, "transfer_encoding")),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", (400, "transfer_encoding")),
        (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", (400, "transfer_encoding")),
        (b"Transfer-Encoding: chunked, chunked", (400, "transfer_encoding")),
        (b"Transfer-Encoding: \xa0chunked", (400, "transfer_encoding")),
        (b"Transfer-Encoding: chunked;q=1", (400, "transfer_encoding")),
        (b"Transfer-Encoding: \"chunked\"", (400, "transfer_encoding")),
        (b"Transfer-Encoding:", (400, "transfer_encoding")),
        (b"Transfer-Encoding: identity", (400, "transfer_encoding")),
        (b"Transfer-Encoding: gzip, chunked", (501, "unknown_coding")),
        (b"Transfer-Encoding: identity, chunked", (501, "unknown_coding")),
    ] {
        assert_eq!(refused(&with(lines)), expected, "{}", lines.escape_ascii());
    }
    for (lines, framing) in [
        (&b"Content-Length: 0"[..], Framing::Empty),
        (b"Content-Length: \t 9223372036854775807 ", Framing::Length(i64::MAX as u64)),
        (b"TRANSFER-ENCODING: Chunked \t", Framing::Chunked),
        (b"Content_Length: 7\r\nTransfer_Encoding: x", Framing::Empty),
    ] {
        assert_eq!(accepted(&with(lines)).framing, framing, "{}", lines.escape_ascii());
    }
}

#[test]
fn a_line_is_a_name_a_colon_and_visible_text() {
    for (lines, reason) in [
        (&b"X: a\0b"[..], "header_value"),
        (b"X\0Y: a", "header_name"),
        (b"X: va\rlue", "header_value"),
        (b"X: value\r\r", "header_value"),
        (b"X: value\nY: other", "line_end"),
        (b"X: value\r\n folded", "header_name"),
        (b"X: value\r\n\tfolded", "header_name"),
        (b"X : value", "header_name"),
        (b"no colon", "header_name"),
        (b": no name", "header_name"),
        (b"X\x80: value", "header_name"),
        (b"X(): value", "header_name"),
        (b"X: \x7f", "header_value"),
        (b"X: \x07", "header_value"),
    ] {
        assert_eq!(refused(&with(lines)), (400, reason), "{}", lines.escape_ascii());
    }
    assert_eq!(refused(b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"), (400, "header_name"), "before the first");
    assert_eq!(refused(b"GET / HTTP/1.1\nHost: a\n\n"), (400, "line_end"));
    assert_eq!(refused(b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), (400, "line_end"));
    let parsed = accepted(&with(b"X_y.z|~: \t va lue\xe9 \t \r\nEmpty:\r\nX_y.z|~: 2"));
    let values: Vec<&[u8]> = parsed.head.headers.get_all("x_y.z|~").iter().map(HeaderValue::as_bytes).collect();
    assert_eq!(values, [&b"va lue\xe9"[..], b"2"]);
    assert_eq!(parsed.head.headers["empty"], "");
}

#[test]
fn host_comes_once_and_is_one() {
    for (lines, expected) in [
        (&b""[..], (400, "no_host")),
        (b"Host: a\r\nHost: a\r\n", (400, "several_hosts")),
        (b"Host: a\r\nhost: b\r\n", (400, "several_hosts")),
        (b"Host: a\0b\r\n", (400, "header_value")),
        (b"Host: a b\r\n", (400, "host")),
        (b"Host: a/b\r\n", (400, "host")),
        (b"Host: a@b\r\n", (400, "host")),
        (b"Host: a,b\r\n", (0, "a,b")),
        (b"Host: \xe9\r\n", (400, "host")),
        (b"Host: a:b\r\n", (400, "host")),
        (b"Host: a:65536\r\n", (400, "host")),
        (b"Host: a:1:2\r\n", (400, "host")),
        (b"Host: :80\r\n", (400, "host")),
        (b"Host: [::1\r\n", (400, "host")),
        (b"Host: [::1]:8080\r\n", (0, "[::1]:8080")),
        (b"Host: a_b.c:\r\n", (0, "a_b.c:")),
        (b"Host: 0.0.0.0=5000\r\n", (0, "0.0.0.0=5000")),
        (b"Host:\r\n", (0, "")),
    ] {
        let bytes = [b"GET / HTTP/1.1\r\n", lines, b"\r\n"].concat();
        let context = lines.escape_ascii().to_string();
        if expected.0 == 0 {
            let authority = accepted(&bytes).head.authority;
            assert_eq!(authority.as_ref().map_or("", |authority| authority.as_str()), expected.1, "{context}");
        } else {
            assert_eq!(refused(&bytes), expected, "{context}");
        }
    }
    assert_eq!(refused(b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), (400, "several_hosts"));
}

#[test]
fn a_target_is_in_the_form_of_its_method() {
    for line in [
        &b"GET relative HTTP/1.1"[..],
        b"GET * HTTP/1.1",
        b"GET a:80 HTTP/1.1",
        b"GET /a#b HTTP/1.1",
        b"GET /\xc3\xa9 HTTP/1.1",
        b"GET http:///path HTTP/1.1",
        b"GET http://u@a/ HTTP/1.1",
        b"GET http://a:x/ HTTP/1.1",
        b"GET http://a/#b HTTP/1.1",
        b"GET /<a>#b HTTP/1.1",
        b"GET /<\xc3\xa9 HTTP/1.1",
        b"GET <a> HTTP/1.1",
        b"GET http://a<b/ HTTP/1.1",
        b"GET http://a`/ HTTP/1.1",
        b"GET x/y://a/ HTTP/1.1",
        b"OPTIONS *a HTTP/1.1",
        b"CONNECT / HTTP/1.1",
        b"CONNECT a HTTP/1.1",
        b"CONNECT http://a:1/ HTTP/1.1",
    ] {
        let bytes = [line, b"\r\nHost: a\r\n\r\n"].concat();
        assert_eq!(refused(&bytes), (400, "target"), "{}", line.escape_ascii());
    }
    for line in [
        &b"GET /\0 HTTP/1.1"[..],
        b"GET /\xff HTTP/1.1",
        b"GET  / HTTP/1.1",
        b"GET /  HTTP/1.1",
        b"GET\t/ HTTP/1.1",
        b"GET /\tHTTP/1.1",
        b"GET /",
        b"G(T / HTTP/1.1",
        b" GET / HTTP/1.1",
        b"GET / HTTP/11",
        b"GET / http/1.1",
    ] {
        let bytes = [line, b"\r\nHost: a\r\n\r\n"].concat();
        assert_eq!(refused(&bytes), (400, "request_line"), "{}", line.escape_ascii());
    }
    for end in ["HTTP/1.1 ", "HTTP/1.1\r", "HTTP/1.1 x"] {
        let bytes = format!("GET / {end}\r\nHost: a\r\n\r\n");
        assert_eq!(refused(bytes.as_bytes()), (400, "line_end"), "{end:?}");
    }
    for version in ["2.0", "1.2", "0.9", "3.0"] {
        let bytes = format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n");
        assert_eq!(refused(bytes.as_bytes()), (505, "version"), "{version}");
    }
}

#[test]
fn targets_are_taken_apart_and_the_absolute_form_wins() {
    for (line, authority, path) in [
        ("GET //a/../b?c=%2f", "host", "//a/../b?c=%2f"),
        ("OPTIONS *", "host", "*"),
        ("GET http://other:8080/a?b", "other:8080", "/a?b"),
        ("GET HTTP://other", "other", "/"),
        ("GET http://other?b", "other", "/?b"),
        ("OPTIONS http://other", "other", "*"),
        ("OPTIONS http://other/", "other", "/"),
        ("GET https://[::1]:1/", "[::1]:1", "/"),
        ("CONNECT other:443", "other:443", "/"),
    ] {
        let head = accepted(format!("{line} HTTP/1.1\r\nHost: host\r\n\r\n").as_bytes()).head;
        assert_eq!((head.authority.unwrap().as_str(), head.path.as_str()), (authority, path), "{line}");
    }
}

#[test]
fn a_target_that_no_uri_has_is_routed_encoded_and_kept_as_it_was_written() {
    for (target, path, written) in [
        ("/a\"<b>`", "/a\"%3Cb%3E%60", Some("/a\"<b>`")),
        ("/?q=<%3C>{}|\\^`", "/?q=%3C%3C%3E{}|\\^`", Some("/?q=<%3C>{}|\\^`")),
        ("http://other/<", "/%3C", Some("/<")),
        ("http://other?<", "/?%3C", Some("/?<")),
        ("http://other/://?u=http://a/b", "/://?u=http://a/b", None),
        ("/a?b=c%22", "/a?b=c%22", None),
    ] {
        let head = accepted(format!("GET {target} HTTP/1.1\r\nhost: host\r\n\r\n").as_bytes()).head;
        assert_eq!((head.path.as_str(), head.spelling.target()), (path, written.map(str::as_bytes)), "{target}");
        let mut out = BytesMut::new();
        encode::request(&mut out, &head, Framing::Empty);
        let line = out[..].split(|&byte| byte == b'\r').next().unwrap();
        let sent = format!("GET {} HTTP/1.1", target.replace("r?", "r/?"));
        assert_eq!(line.escape_ascii().to_string(), sent.as_bytes().escape_ascii().to_string());
    }
    let long = format!("GET /<{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(8 * 1024));
    assert_eq!(refused(long.as_bytes()), (400, "target"));
}

#[test]
fn http_1_0_works_and_knows_no_transfer_coding() {
    let parsed = accepted(b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!((parsed.head.version, parsed.head.authority, parsed.keep_alive), (Version::HTTP_10, None, false));
    let expect = b"POST / HTTP/1.0\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    let parsed = accepted(expect);
    assert_eq!((parsed.framing, parsed.keep_alive, parsed.expect_continue), (Framing::Length(2), true, false));
    let coded = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(refused(coded), (400, "transfer_encoding"));
}

#[test]
fn the_connection_is_read_and_nothing_behind_the_head() {
    for (lines, keep_alive, upgrade) in [
        (&b"X: y"[..], true, None),
        (b"Connection: x-secret, Close", false, None),
        (b"Connection: keep-alive\r\nConnection: close", false, None),
        (b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket", true, Some("websocket")),
        (b"Upgrade: websocket", true, None),
        (b"Connection: upgrade", true, None),
        (b"Connection: upgrade\r\nUpgrade:", true, None),
        (b"Connection: upgrade\r\nUpgrade: a\r\nUpgrade: b", true, None),
        (b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: H2C\r\nHTTP2-Settings: AAA", true, None),
        (b"Connection: Upgrade\r\nUpgrade: foo, h2c", true, None),
    ] {
        let parsed = accepted(&with(lines));
        let told = parsed.head.upgrade.as_ref().map(|protocol| protocol.to_str().unwrap());
        assert_eq!((parsed.keep_alive, told), (keep_alive, upgrade), "{}", lines.escape_ascii());
    }
    let old = b"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(accepted(old).head.upgrade, None);
    let mut buf = BytesMut::from(&with(b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 2")[..]);
    buf.extend_from_slice(b"xyGET /secret");
    let parsed = request(&mut buf, &Limits::default(), &mut 0).unwrap().unwrap();
    assert_eq!((parsed.framing, &buf[..]), (Framing::Length(2), &b"xyGET /secret"[..]));
    assert!(accepted(&with(b"Expect: 100-Continue\r\nContent-Length: 2")).expect_continue);
}

#[test]
fn empty_lines_before_a_request_are_few() {
    let one = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for empty in [&b"\r\n"[..], b"\r\n\r\n"] {
        assert_eq!(accepted(&[empty, one].concat()).head.path, "/");
    }
    assert_eq!(refused(&[b"\r\n\r\n\r\n", &one[..]].concat()), (400, "request_line"));
    for incomplete in [&b""[..], b"\r", b"\r\n", b"\r\n\r\n", b"\r\n\r\nGET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n\r"] {
        assert!(read(incomplete).unwrap().is_none(), "{}", incomplete.escape_ascii());
    }
}

#[test]
fn limits_are_kept_and_a_head_at_the_limit_passes() {
    let limits = Limits { head_bytes: 100, headers: 2 };
    let read = |bytes: &[u8]| {
        let read = request(&mut BytesMut::from(bytes), &limits, &mut 0);
        read.map(|parsed| parsed.is_some()).map_err(|error| (error.status().as_u16(), error.to_string()))
    };
    let rest = " HTTP/1.1\r\nHost: a\r\n\r\n";
    let full = format!("GET /{}{rest}", "a".repeat(100 - 5 - rest.len()));
    assert_eq!(read(full.as_bytes()), Ok(true));
    let over = format!("GET /{}{rest}", "a".repeat(101 - 5 - rest.len()));
    assert_eq!(read(over.as_bytes()), Err((431, "head longer than 100 bytes".to_owned())));
    assert_eq!(read(&over.as_bytes()[..100]), Ok(false));
    assert_eq!(read(&[b'A'; 101]), Err((414, "request line longer than 100 bytes".to_owned())));
    let many = b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\n\r\n";
    assert_eq!(read(many), Err((431, "more than 2 header fields".to_owned())));
    let fields = "a: b\r\n".repeat(199);
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let wide = Limits { headers: 200, ..Limits::default() };
    let parsed = request(&mut BytesMut::from(many.as_bytes()), &wide, &mut 0).unwrap().unwrap();
    assert_eq!(parsed.head.headers.len(), 200);
    assert_eq!(refused(many.as_bytes()), (431, "too_many_headers"));
}

#[test]
fn a_head_that_comes_byte_by_byte_is_looked_at_once() {
    let whole = b"\r\nPOST /a HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\nbody";
    let (mut buf, mut scanned) = (BytesMut::new(), 0);
    for (index, byte) in whole[..whole.len() - 4].iter().enumerate() {
        buf.extend_from_slice(&[*byte]);
        let parsed = request(&mut buf, &Limits::default(), &mut scanned).unwrap();
        let last = index + 5 == whole.len();
        assert_eq!(parsed.is_some(), last, "{index}");
        assert_eq!(scanned, if last { 0 } else { index + 1 });
    }
    assert!(buf.is_empty());
}

#[test]
fn names_and_reasons_come_back_as_they_were_written() {
    let parsed = accepted(&with(b"X-Request-ID: 1\r\nUser-Agent: x"));
    let mut out = BytesMut::new();
    for name in ["host", "x-request-id", "user-agent", "added-here"] {
        parsed.head.spelling.write_name(&mut out, name);
        out.extend_from_slice(b" ");
    }
    assert_eq!(out, "Host X-Request-ID User-Agent Added-Here ");
    for (line, reason) in
        [("200 OK", "OK"), ("200 Fine by me ", "Fine by me"), ("200", ""), ("200 ", ""), ("299 Odd", "Odd")]
    {
        let head = answer(format!("HTTP/1.1 {line}\r\n\r\n").as_bytes(), Asked::default()).unwrap().unwrap().head;
        assert_eq!(head.spelling.reason(head.status), reason.as_bytes(), "{line}");
    }
}

#[test]
fn a_response_that_is_none_is_refused() {
    for (bytes, reason) in [
        (&b"garbage\r\n\r\n"[..], "status_line"),
        (b"<html>hello</html>\r\n\r\n", "status_line"),
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", "status_line"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "status_line"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "status_line"),
        (b"HTTP/1.1 099 OK\r\n\r\n", "status_line"),
        (b"HTTP/1.1  200 OK\r\n\r\n", "status_line"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "status_line"),
        (b"HTTP/1.1 200 O\0K\r\n\r\n", "status_line"),
        (b"\nHTTP/1.1 200 OK\n\n", "status_line"),
        (b"HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n", "line_end"),
        (b"HTTP/1.1 200 OK\r\nA: b\n\n", "line_end"),
        (b"HTTP/1.1 200 OK\r\n\n", "line_end"),
        (b"HTTP/1.1 200 OK\nA: b\r\n\n", "line_end"),
        (b"HTTP/1.1 200 OK\nA: b\n\r\n", "line_end"),
        (b"HTTP/1.1 200 OK\n\r\n", "line_end"),
        (b"HTTP/1.1 200 OK\nA: b\rC: d\n\n", "header_value"),
        (b"HTTP/1.1 200 OK\nA: b\n c\n\n", "header_name"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n", "content_length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "content_length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "two_lengths"),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "transfer_encoding"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "transfer_encoding"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "unknown_coding"),
        (b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n", "header_value"),
        (b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", "header_name"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", "body_not_allowed"),
        (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", "body_not_allowed"),
        (b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n", "body_not_allowed"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", "unasked_101"),
    ] {
        let refused = answer(bytes, Asked::default()).expect_err(reason);
        assert_eq!(refused.reason(), reason, "{}", bytes.escape_ascii());
    }
    let spaced =
        answer(b"HTTP/1.1 200 OK\r\nContent-Length \t: 5\r\nX : a\r\n\r\n", Asked::default()).unwrap().unwrap();
    assert_eq!((spaced.framing, &spaced.head.headers["x"]), (Framing::Length(5), &HeaderValue::from_static("a")));
    let long = [b"HTTP/1.1 200 OK\r\nX: ", vec![b'a'; 200_000].as_slice(), b"\r\n\r\n"].concat();
    assert_eq!(answer(&long, Asked::default()).unwrap_err().reason(), "head_too_large");
}

#[test]
fn a_response_may_end_its_lines_with_lf_alone() {
    // Taken byte by byte: what is read of it, and how much is left.
    let read = |text: &str| -> Result<_, InvalidHead> {
        let (mut buf, mut scanned) = (BytesMut::new(), 0);
        for (index, byte) in text.bytes().enumerate() {
            buf.extend_from_slice(&[byte]);
            if let Some(parsed) = response(&mut buf, Asked::default(), &Limits::default(), &mut scanned)? {
                return Ok((parsed, text.len() - index - 1));
            }
        }
        panic!("incomplete: {text:?}");
    };
    let text = "HTTP/1.1 200 Fine by me\nX-A: b \nEmpty:\nContent-Length: 4\n\n\n\r\nx";
    let [bare, usual] = [text, &text.replacen('\n', "\r\n", 5)].map(|text| {
        let (parsed, left) = read(text).unwrap();
        assert_eq!((parsed.framing, parsed.keep_alive, left), (Framing::Length(4), true, 4), "{text:?}");
        let mut out = BytesMut::new();
        encode::response(&mut out, &parsed.head, parsed.framing, false, Version::HTTP_11, false);
        out
    });
    assert_eq!(bare, usual, "it is passed on with CRLF");
    for mixed in ["HTTP/1.1 200 OK\nX: y\r\n\r\n", "HTTP/1.1 200 OK\r\nX: y\n\n", "HTTP/1.1 200 OK\n\r\n"] {
        assert_eq!(read(mixed).unwrap_err().reason(), "line_end", "{mixed:?}");
    }
}

#[test]
fn a_response_ends_where_its_request_and_status_say() {
    let (get, head, connect, upgrade) = (
        Asked::default(),
        Asked { head: true, ..Asked::default() },
        Asked { connect: true, ..Asked::default() },
        Asked { upgrade: true, ..Asked::default() },
    );
    for (asked, text, framing, keep_alive) in [
        (get, "HTTP/1.1 200 OK\r\nContent-Length: 5", Framing::Length(5), true),
        (get, "HTTP/1.1 200 OK\r\nContent-Length: 0", Framing::Empty, true),
        (get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", Framing::Chunked, true),
        (get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close", Framing::Chunked, false),
        (get, "HTTP/1.1 200 OK", Framing::UntilClose, false),
        (get, "HTTP/1.0 200 OK\r\nContent-Length: 5", Framing::Length(5), false),
        (get, "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive", Framing::Length(5), true),
        (get, "HTTP/1.1 204 No Content", Framing::Empty, true),
        (get, "HTTP/1.1 204 No Content\r\nContent-Length: 0", Framing::Empty, true),
        (get, "HTTP/1.1 304 Not Modified", Framing::Empty, true),
        (get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5", Framing::Empty, false),
        (get, "HTTP/1.1 100 Continue", Framing::Empty, true),
        (get, "HTTP/1.1 103 Early Hints\r\nLink: </a>", Framing::Empty, true),
        (head, "HTTP/1.1 200 OK\r\nContent-Length: 5", Framing::Empty, false),
        (head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", Framing::Empty, false),
        (head, "HTTP/1.1 200 OK\r\nContent-Length: 0", Framing::Empty, true),
        (head, "HTTP/1.1 200 OK", Framing::Empty, true),
        (connect, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", Framing::Empty, false),
        (connect, "HTTP/1.1 403 Forbidden\r\nContent-Length: 5", Framing::Length(5), true),
        (upgrade, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x", Framing::Empty, false),
    ] {
        let mut buf = BytesMut::from(format!("{text}\r\n\r\nEVIL").as_bytes());
        let parsed = response(&mut buf, asked, &Limits::default(), &mut 0).unwrap().unwrap();
        assert_eq!((parsed.framing, parsed.keep_alive, &buf[..]), (framing, keep_alive, &b"EVIL"[..]), "{text}");
        let kept = parsed.head.headers.contains_key(header::CONTENT_LENGTH);
        let bodiless = parsed.head.status == 204;
        assert_eq!(kept, text.contains("Content-Length") && !bodiless, "{text}");
    }
}

#[test]
fn the_server_says_how_long_it_waits() {
    for (value, seconds) in [
        ("timeout=5, max=100", Some(5)),
        ("max=100,Timeout=75", Some(75)),
        ("timeout=-1", None),
        ("timeout=99999999999", None),
        ("timeout", None),
        ("\u{e9}imeout=55", None),
        ("", None),
    ] {
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeep-Alive: {value}\r\n\r\n");
        let parsed = answer(text.as_bytes(), Asked::default()).unwrap().unwrap();
        assert_eq!(parsed.idle_timeout, seconds.map(Duration::from_secs), "{value}");
    }
}
