use super::super::encode;
use super::*;
use crate::http::trailers;

/// Data, trailers, and what is left behind the body.
type Decoded = (Vec<u8>, HeaderMap, Vec<u8>);

/// What a body decodes to, fed in pieces of `step` bytes.
fn decode(body: &[u8], step: usize) -> Result<Option<Decoded>, InvalidBody> {
    let mut decoder = Decoder::new(Limits { head_bytes: 200, headers: 3 });
    let (mut buf, mut data, mut trailers) = (BytesMut::new(), Vec::new(), HeaderMap::new());
    let mut pieces = body.chunks(step);
    loop {
        match decoder.decode(&mut buf)? {
            Some(Chunk::Data(piece)) => {
                assert!(!piece.is_empty());
                data.extend_from_slice(&piece);
            }
            Some(Chunk::Trailers(fields)) => trailers = fields,
            Some(Chunk::End) => {
                pieces.for_each(|piece| buf.extend_from_slice(piece));
                return Ok(Some((data, trailers, buf.to_vec())));
            }
            None => match pieces.next() {
                Some(piece) => buf.extend_from_slice(piece),
                None => return Ok(None),
            },
        }
    }
}

fn at_every_step(body: &[u8]) -> Result<Option<Decoded>, InvalidBody> {
    let whole = decode(body, usize::MAX);
    for step in 1..body.len() {
        assert_eq!(decode(body, step), whole, "{} in pieces of {step}", body.escape_ascii());
    }
    whole
}

#[test]
fn bodies_are_read_however_they_come() {
    for (body, data, left) in [
        (&b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nGET"[..], &b"hello world"[..], &b"GET"[..]),
        (b"0\r\n\r\n", b"", b""),
        (b"000A\r\n0123456789\r\n000\r\n\r\n", b"0123456789", b""),
        (b"2;name=value;other=\"quoted; too\"\r\nab\r\n0;last\r\n\r\n", b"ab", b""),
        (b"2 ; x\r\nab\r\n0\t\r\n\r\n\r\n", b"ab", b"\r\n"),
    ] {
        let read = at_every_step(body).unwrap().expect("a whole body");
        assert_eq!((&read.0[..], read.1.is_empty(), &read.2[..]), (data, true, left), "{}", body.escape_ascii());
    }
}

#[test]
fn anything_else_than_a_size_and_its_data_is_refused() {
    for (body, error) in [
        (&b"0x2\r\nab\r\n0\r\n\r\n"[..], InvalidBody::Size),
        (b"+2\r\nab\r\n0\r\n\r\n", InvalidBody::Size),
        (b"-1\r\nab\r\n0\r\n\r\n", InvalidBody::Size),
        (b"0_2e\r\nab\r\n0\r\n\r\n", InvalidBody::Size),
        (b"\r\nab\r\n0\r\n\r\n", InvalidBody::Size),
        (b";x\r\n\r\n", InvalidBody::Size),
        (b"1xyz\r\na\r\n0\r\n\r\n", InvalidBody::Size),
        (b"1 2\r\na\r\n0\r\n\r\n", InvalidBody::Size),
        (b" 1\r\na\r\n0\r\n\r\n", InvalidBody::Size),
        (b"10000000000000000\r\na", InvalidBody::Size),
        (b"00000000000000001\r\na", InvalidBody::Size),
        (b"2\nab\r\n0\r\n\r\n", InvalidBody::Line),
        (b"2;x\ry\r\nab\r\n0\r\n\r\n", InvalidBody::Line),
        (b"2;x\0\r\nab\r\n0\r\n\r\n", InvalidBody::Line),
        (b"2;x\ny\r\nab\r\n0\r\n\r\n", InvalidBody::Line),
        (b"2\r\nabc\r\n0\r\n\r\n", InvalidBody::End),
        (b"2\r\nab0\r\n\r\n", InvalidBody::End),
        (b"2\r\nab\n0\r\n\r\n", InvalidBody::End),
        (b"2\r\nab\rx0\r\n\r\n", InvalidBody::End),
        (b"0\r\nno colon\r\n\r\n", InvalidBody::Trailers(InvalidHead::FieldName)),
        (b"0\r\nx: a\0b\r\n\r\n", InvalidBody::Trailers(InvalidHead::FieldValue)),
        (b"0\r\nx: a\r\n b\r\n\r\n", InvalidBody::Trailers(InvalidHead::FieldName)),
        (b"0\r\nx: a\n\r\n", InvalidBody::Trailers(InvalidHead::LineEnd)),
        (b"0\r\n\n", InvalidBody::Trailers(InvalidHead::LineEnd)),
        (b"0\r\na: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\n\r\n", InvalidBody::Trailers(InvalidHead::TooManyFields(3))),
    ] {
        assert_eq!(at_every_step(body), Err(error), "{}", body.escape_ascii());
    }
    let endless = [b"1;", vec![b'x'; MAX_SIZE_LINE].as_slice()].concat();
    assert_eq!(decode(&endless, 7), Err(InvalidBody::Line));
    let long = [b"0\r\nx: ", vec![b'x'; 200].as_slice()].concat();
    assert_eq!(decode(&long, 7), Err(InvalidBody::Trailers(InvalidHead::TooLarge(200))));
}

#[test]
fn trailers_come_with_the_same_rules_and_without_what_belongs_in_a_head() {
    let body = b"1\r\na\r\n0\r\nGrpc-Status: 0\r\nContent-Length: 5\r\nHost: evil\r\n\r\nrest";
    let (data, trailers, rest) = at_every_step(body).unwrap().unwrap();
    assert_eq!((&data[..], trailers::fields(&trailers).count(), &rest[..]), (&b"a"[..], 1, &b"rest"[..]));
    assert_eq!(trailers["grpc-status"], "0");
}

#[test]
fn names_of_trailers_are_written_as_they_came_and_the_usual_ones_are_not_noted() {
    for (lines, noted) in [
        ("X-Check-Sum: 1\r\nx-lower: 2\r\nALLCAPS: 3\r\n", true),
        ("X-A: 1\r\nX-B: 2\r\n", true),
        ("x-a: 1\r\nx-b: 2\r\n", false),
    ] {
        let (_, trailers, _) = at_every_step(format!("0\r\n{lines}\r\n").as_bytes()).unwrap().unwrap();
        assert_eq!(trailers.contains_key("x-remora-hop"), noted, "{lines}");
        let mut out = BytesMut::new();
        encode::last_chunk(&mut out, Some(&trailers));
        assert_eq!(out, format!("0\r\n{lines}\r\n"));
    }
}

#[test]
fn a_peer_of_http_1_says_nothing_of_the_spelling() {
    let body = b"0\r\nx-a: 1\r\nx-remora-hop: 1.1;t,X-a\r\nX-Remora-Hop: 1.1;t\r\n\r\n";
    let (_, trailers, _) = at_every_step(body).unwrap().unwrap();
    assert_eq!((trailers.len(), &trailers["x-a"]), (1, &http::HeaderValue::from_static("1")));
}

#[test]
fn an_incomplete_body_is_no_end() {
    let whole = b"2\r\nab\r\n0\r\nx: y\r\n\r\n";
    for end in 0..whole.len() {
        assert_eq!(decode(&whole[..end], usize::MAX), Ok(None), "{end}");
    }
}

#[test]
fn data_shares_the_buffer_it_came_in() {
    let mut buf = BytesMut::from(&b"5\r\nhello"[..]);
    let begin = buf.as_ptr() as usize;
    let Ok(Some(Chunk::Data(data))) = Decoder::new(Limits::default()).decode(&mut buf) else { panic!("no data") };
    assert_eq!((&data[..], data.as_ptr() as usize), (&b"hello"[..], begin + 3));
}
