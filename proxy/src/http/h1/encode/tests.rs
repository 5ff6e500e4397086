use http::HeaderValue;

use super::super::parse::{self, Asked, Limits};
use super::*;

fn parsed(text: &str) -> parse::ParsedRequest {
    parse::request(&mut BytesMut::from(text.as_bytes()), &Limits::default(), &mut 0).unwrap().unwrap()
}

fn encoded(text: &str) -> String {
    let parsed = parsed(text);
    let mut out = BytesMut::new();
    request(&mut out, &parsed.head, parsed.framing);
    String::from_utf8(out.to_vec()).unwrap()
}

fn answered(text: &str, asked: Asked, close: bool, downstream: Version) -> String {
    let mut buf = BytesMut::from(text.as_bytes());
    let parsed = parse::response(&mut buf, asked, &Limits::default(), &mut 0).unwrap().unwrap();
    let mut out = BytesMut::new();
    response(&mut out, &parsed.head, parsed.framing, close, downstream, asked.head);
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn a_request_passes_as_it_was() {
    for text in [
        "GET /a?b=c HTTP/1.1\r\nHost: a\r\nX-Request-ID: 1\r\nAccept: */*\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a:80\r\ncontent-length: 3\r\nx-a: 1\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.0\r\nContent-Length: 3\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: \r\n\r\n",
        "DELETE / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    ] {
        assert_eq!(encoded(text), text);
    }
}

#[test]
fn a_request_to_nobody_says_so() {
    let mut parsed = parsed("GET / HTTP/1.0\r\n\r\n");
    parsed.head.version = Version::HTTP_2;
    let mut out = BytesMut::new();
    request(&mut out, &parsed.head, parsed.framing);
    assert_eq!(out.to_ascii_lowercase(), b"get / http/1.1\r\nhost: \r\n\r\n");
}

#[test]
fn a_request_is_written_in_one_way() {
    for (text, expected) in [
        // The absolute form's authority, in Host's place.
        ("GET http://b/c HTTP/1.1\r\nX: 1\r\nHost: a\r\n\r\n", "GET http://b/c HTTP/1.1\r\nX: 1\r\nHost: b\r\n\r\n"),
        ("GET http://b HTTP/1.0\r\nX: 1\r\n\r\n", "GET http://b/ HTTP/1.0\r\nHost: b\r\nX: 1\r\n\r\n"),
        ("OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS http://b HTTP/1.1\r\nHost: b\r\n\r\n"),
        // Nothing is left of a connection, or of an upgrade that is ignored.
        (
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: te\r\n\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: te, upgrade\r\nUpgrade: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: upgrade, te\r\nUpgrade: x\r\n\r\n",
        ),
        ("POST / HTTP/1.1\r\nhost: a\r\n\r\n", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"),
    ] {
        assert_eq!(encoded(text), expected);
    }
}

#[test]
fn the_framing_is_what_is_told_and_nothing_else() {
    let mut head = parsed("GET / HTTP/1.0\r\n\r\n").head;
    for (name, value) in
        [(header::CONTENT_LENGTH, "9"), (header::TRANSFER_ENCODING, "x"), (header::CONTENT_LENGTH, "8")]
    {
        head.headers.append(name, HeaderValue::from_static(value));
    }
    for (framing, expected) in [
        (Framing::Empty, "GET / HTTP/1.0\r\ncontent-length: 0\r\n\r\n"),
        (Framing::Length(7), "GET / HTTP/1.0\r\ncontent-length: 7\r\n\r\n"),
        (Framing::Chunked, "GET / HTTP/1.1\r\nhost: \r\ntransfer-encoding: chunked\r\n\r\n"),
    ] {
        let mut out = BytesMut::new();
        request(&mut out, &head, framing);
        assert_eq!(out, expected);
    }
    head.path = http::uri::PathAndQuery::try_from("?q").unwrap();
    let mut out = BytesMut::new();
    request(&mut out, &head, Framing::Empty);
    assert!(out.starts_with(b"GET /?q "), "{out:?}");
}

#[test]
fn responses_end_where_the_client_can_see_it() {
    let (get, head) = (Asked::default(), Asked { head: true, ..Asked::default() });
    let (new, old) = (Version::HTTP_11, Version::HTTP_10);
    for (asked, close, downstream, text, expected) in [
        (
            get,
            false,
            new,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: x\r\n\r\n",
        ),
        (
            get,
            false,
            new,
            "HTTP/1.1 404 Nope\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Nope\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            get,
            true,
            new,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
        ),
        (
            get,
            false,
            new,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        ),
        (get, false, new, "HTTP/1.0 200 OK\r\nA: b\r\n\r\n", "HTTP/1.1 200 OK\r\nA: b\r\nConnection: close\r\n\r\n"),
        (
            get,
            false,
            old,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\n",
        ),
        (
            get,
            false,
            old,
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n",
            "HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\n",
        ),
        (get, false, new, "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"),
        (
            get,
            false,
            new,
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n",
        ),
        (get, true, new, "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n"),
        (
            head,
            false,
            new,
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n",
        ),
        (head, false, new, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"),
    ] {
        assert_eq!(answered(text, asked, close, downstream), expected, "{text}");
    }
    for (close, more) in [(false, ""), (true, "Connection: close\r\n")] {
        let text =
            "HTTP/1.1 426 Upgrade Required\r\nUpgrade: echo/2\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n";
        let expected =
            "HTTP/1.1 426 Upgrade Required\r\nUpgrade: echo/2\r\nContent-Length: 0\r\nConnection: upgrade\r\n";
        assert_eq!(answered(text, get, close, new), format!("{expected}{more}\r\n"));
    }
    let text = "HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n";
    let expected = "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(answered(text, get, false, new), expected);
    let upgrade = Asked { upgrade: true, ..get };
    let text = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
    assert_eq!(answered(text, upgrade, true, new), expected);
}

#[test]
fn chunks_are_read_again() {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    for len in [1, 15, 16, 255, 256, 70_000] {
        let mut out = BytesMut::new();
        chunk_head(&mut out, len);
        assert_eq!(out, format!("{len:x}\r\n"));
    }
    let mut out = BytesMut::new();
    last_chunk(&mut out, Some(&trailers));
    assert_eq!(out, "0\r\ngrpc-status: 0\r\n\r\n");
    out.clear();
    last_chunk(&mut out, None);
    assert_eq!(out, "0\r\n\r\n");
}

#[test]
fn what_trailers_carry_of_their_spelling_is_checked_and_never_written() {
    let long = format!("1.1;t{}", ",GRPC-status".repeat(5_000));
    for (hop, written) in [
        ("1.1;t", "Grpc-Status"),
        ("1.1;l,gRPC-Status", "gRPC-Status"),
        ("1.0;t;a reason", "Grpc-Status"),
        ("1.1;t,GRPC-STATUS:,x y", "Grpc-Status"),
        ("undelivered", "grpc-status"),
        ("", "grpc-status"),
        (&long, "GRPC-status"),
    ] {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.insert("x-remora-hop", HeaderValue::from_str(hop).unwrap());
        trailers.append("x-remora-hop", HeaderValue::from_static("1.1;l,GRPC-STATUS"));
        let mut out = BytesMut::new();
        last_chunk(&mut out, Some(&trailers));
        assert_eq!(out, format!("0\r\n{written}: 0\r\n\r\n"), "{hop}");
    }
}
